"""The calls of the live check: raw JSON, without the SDK and the engine, which hide some of what is said."""

from __future__ import annotations

import asyncio
import json
import re
import textwrap
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Base64Bytes, BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from audio_api.audio.wav import decode_wav
from audio_api.config import AudioConfig
from audio_api.doctor.checks import NotObservableError
from audio_api.errors import (
    AudioAPIError,
    TTSAuthenticationError,
    TTSQuotaError,
    TTSRateLimitError,
    TTSUnavailableError,
)
from audio_api.models.service_tiers import PRICE_FACTORS, served_tier
from audio_api.models.speech_models import DEFAULT_MODEL, VoiceModel, model_spec
from audio_api.retry import Clock, RetryPolicy, call_with_retry

if TYPE_CHECKING:
    import httpx2

_SENTENCE = "The quick brown fox jumps over the lazy dog near the river."
_TURN = "Good morning to you, and welcome."
# About 70 s at the 17 characters a second that 3.8 was measured at: streams of older models were cut at 60 s.
_LONG = " ".join(
    f"The {colour} {animal} walked slowly down to the river and drank."
    for colour in ("brown", "white", "little", "hungry", "sleepy")
    for animal in ("horse", "donkey", "fox", "rabbit")
)
# Without the pauses 15 s at that speed; sound of such texts was cut after a third of them.
_PAUSES = " <long pause> ".join(
    f"The {animal} walked slowly down to the river, drank, and went home again."
    for animal in ("horse", "donkey", "fox", "dog")
)
LONG_PAUSES_S = len(_PAUSES.replace(" <long pause>", "")) / 17
"""The least length of a text with three long pauses: that of its words at the speed of 3.8."""
_LIBRARY_VOICE = "ar-eg-advisor-11"
_LEGACY_PROMPT = "Read the following transcript aloud:\n"
# For estimates: the slowest English measured, and the most tokens.
_CHARACTERS_PER_S, _MOST_TOKENS_PER_S = 15, 32
_KEY_HEADER = "x-goog-api-key"
_TIER_HEADER = "x-gemini-service-tier"
_LIMIT_HEADER = re.compile(r"quota|rate-?limit", re.IGNORECASE)
_SHOWN_CHARACTERS = 120


@dataclass(frozen=True, slots=True)
class LiveCall:
    """One call to the API, in its own words."""

    body: dict[str, Any]
    model: str = DEFAULT_MODEL.value
    version: str = "v1beta"
    stream: bool = False
    method: str = "generateContent"

    @property
    def path(self) -> str:
        """The address below the base URL."""
        method = "streamGenerateContent?alt=sse" if self.stream else self.method
        return f"/{self.version}/models/{self.model}:{method}"

    def estimated_cost_usd(self, day: date) -> float:
        """An upper estimate at the day's list price, as if the call were answered with speech."""
        characters = sum(len(part["text"]) for content in self.body["contents"] for part in content["parts"])
        price = model_spec(self.model).price(day)
        tokens = round(characters / _CHARACTERS_PER_S * _MOST_TOKENS_PER_S)
        return price.cost_usd(characters // 3, tokens) if price else 0.0


def _body(parts: list[dict[str, Any]], speech: dict[str, Any], **generation: Any) -> dict[str, Any]:
    return {
        "contents": [{"role": "user", "parts": parts}],
        "generationConfig": {"responseModalities": ["AUDIO"], "speechConfig": speech, **generation},
    }


def _voice(name: str) -> dict[str, Any]:
    return {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": name}}}


def _spoken(text: str = _SENTENCE, voice: str = "Kore", **generation: Any) -> dict[str, Any]:
    return _body([{"text": text}], _voice(voice), **generation)


def _spoken_in(language: str) -> dict[str, Any]:
    return _body([{"text": _SENTENCE}], {**_voice("Kore"), "languageCode": language})


def _by_id(voice: str) -> dict[str, Any]:
    return {"voiceConfig": {"voice": voice}}


def _dialogue(*names: str, first: Mapping[str, Any] | None = None) -> dict[str, Any]:
    speakers = [{"speaker": name, **_voice("Kore")} for name in names]
    speakers[0] |= first or {}
    parts = [{"text": _TURN, "speechMetadata": {"speaker": name}} for name in names]
    return _body(parts, {"multiSpeakerVoiceConfig": {"speakerVoiceConfigs": speakers}})


CALLS: Mapping[str, LiveCall] = {
    "v1": LiveCall(_spoken(), version="v1"),
    "v1beta": LiveCall(_spoken()),
    "unknown voice": LiveCall(_spoken(voice="Unheard")),
    "lower-case voice": LiveCall(_spoken(voice="kore")),
    "temperature": LiveCall(_spoken(temperature=0.7)),
    "one speaker": LiveCall(_dialogue("Joe")),
    "three speakers": LiveCall(_dialogue("Joe", "Jane", "Jim")),
    "long stream": LiveCall(_spoken(_LONG), stream=True),
    "2.5 flash": LiveCall(_spoken(_LEGACY_PROMPT + _SENTENCE), VoiceModel.GEMINI_TTS_FLASH.value),
    "3.1 flash": LiveCall(_spoken(_LEGACY_PROMPT + _SENTENCE), VoiceModel.GEMINI_3_1_FLASH_TTS.value),
    "de-DE": LiveCall(_spoken_in("de-DE")),
    "klingon": LiveCall(_spoken_in("klingon")),
    "library voice": LiveCall(_body([{"text": _TURN}], _by_id(_LIBRARY_VOICE))),
    "library voice in en-US": LiveCall(_body([{"text": _TURN}], {**_by_id(_LIBRARY_VOICE), "languageCode": "en-US"})),
    "library voice in a dialogue": LiveCall(_dialogue("Joe", "Jane", first=_by_id(_LIBRARY_VOICE))),
    "foreign voice": LiveCall(_body([{"text": _TURN}], _by_id("voice_x"))),
    "store": LiveCall({**_spoken(_TURN), "store": False}),
    "flex": LiveCall({**_spoken(_TURN), "serviceTier": "flex"}),
    "count": LiveCall({"contents": _spoken()["contents"]}, method="countTokens"),
    "long pauses": LiveCall(_spoken(_PAUSES), VoiceModel.GEMINI_3_8_FLASH_LITE_TTS.value),
}


# The item of a batch, as it would be called by itself, and the path that takes batches.
BATCH_CALL = LiveCall(_spoken(_TURN), method="batchGenerateContent")


def estimated_cost_usd(day: date) -> float:
    """What all the calls cost at most, at the day's list prices, when each is answered with speech."""
    batch = PRICE_FACTORS["batch"] * BATCH_CALL.estimated_cost_usd(day)
    return sum((call.estimated_cost_usd(day) for call in CALLS.values()), batch)


class _ApiModel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, frozen=True)


class _Blob(_ApiModel):
    mime_type: str = ""
    data: Base64Bytes = b""

    @property
    def seconds(self) -> float:
        if self.data[:4] == b"RIFF":
            wav = decode_wav(self.data)
            return len(wav.pcm) / wav.format.frame_bytes / wav.format.sample_rate
        rate = re.search(r"rate=([1-9]\d*)", self.mime_type)
        return len(self.data) / 2 / (int(rate[1]) if rate else 24_000)


class _ReplyPart(_ApiModel):
    inline_data: _Blob | None = None


class _Content(_ApiModel):
    parts: tuple[_ReplyPart, ...] = ()


class _Candidate(_ApiModel):
    content: _Content = _Content()
    finish_reason: str | None = None


class _Usage(_ApiModel):
    prompt_token_count: int = 0
    candidates_token_count: int = 0


class _QuotaViolation(_ApiModel):
    quota_id: str = ""
    quota_value: str = "0"


class _Detail(_ApiModel):
    reason: str = ""
    retry_delay: str = ""
    violations: tuple[_QuotaViolation, ...] = ()


class _Error(_ApiModel):
    status: str = ""
    message: str = ""
    details: tuple[_Detail, ...] = ()


class _Chunk(_ApiModel):
    candidates: tuple[_Candidate, ...] = ()
    usage_metadata: _Usage | None = None
    total_tokens: int = 0
    error: _Error | None = None

    @property
    def blobs(self) -> list[_Blob]:
        parts = [part for candidate in self.candidates for part in candidate.content.parts]
        return [part.inline_data for part in parts if part.inline_data and part.inline_data.data]

    @property
    def finish_reason(self) -> str | None:
        return next((candidate.finish_reason for candidate in self.candidates if candidate.finish_reason), None)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the API answered to one call: one chunk, or those of a stream.

    Attributes:
        call: What was asked.
        status: The HTTP status.
        chunks: At least one.
        seconds: Length of the sound.
        tier: The service tier that the header names; empty when it names none.
    """

    call: LiveCall
    status: int
    chunks: tuple[_Chunk, ...]
    seconds: float
    tier: str

    @classmethod
    def read(cls, call: LiveCall, response: httpx2.Response) -> Reply:
        """Raise ValueError when the body is not what the protocol says."""
        body = _without_key(response.text, response)
        if call.stream and response.is_success:
            documents = [json.loads(line[5:]) for line in body.split("\n") if line.startswith("data:")]
        else:
            document = json.loads(body)
            documents = document if isinstance(document, list) else [document]
        chunks = tuple(_Chunk.model_validate(document) for document in documents)
        if not chunks:
            raise ValueError("an empty reply")
        seconds = sum(blob.seconds for chunk in chunks for blob in chunk.blobs)
        return cls(call, response.status_code, chunks, seconds, response.headers.get(_TIER_HEADER, ""))

    @classmethod
    def of_document(cls, call: LiveCall, document: Any, tier: str) -> Reply:
        """A reply that came in another one. Raise ValueError when it is none."""
        chunks = (_Chunk.model_validate(document),)
        return cls(call, 200, chunks, sum(blob.seconds for blob in chunks[0].blobs), tier)

    @property
    def error(self) -> _Error | None:
        """What the API complained about; in a stream, perhaps at its end."""
        return self.chunks[-1].error

    @property
    def finish_reason(self) -> str | None:
        """Why the model stopped."""
        return next((chunk.finish_reason for chunk in reversed(self.chunks) if chunk.finish_reason), None)

    @property
    def usage(self) -> _Usage:
        """Tokens billed; in a stream the last chunk that names them holds the total."""
        return next((chunk.usage_metadata for chunk in reversed(self.chunks) if chunk.usage_metadata), _Usage())

    @property
    def spoke(self) -> bool:
        """Whether there is any sound."""
        return self.seconds > 0

    def cost_usd(self, day: date) -> float:
        """What it costs at the day's list price and its tier, by the tokens that the API says it billed."""
        price = model_spec(self.call.model).price(day)
        part = PRICE_FACTORS[served_tier(self.tier) or "standard"]
        return part * price.cost_usd(self.usage.prompt_token_count, self.usage.candidates_token_count) if price else 0.0

    def __str__(self) -> str:
        """The reply in a few words."""
        if self.error:
            message = textwrap.shorten(self.error.message, _SHOWN_CHARACTERS, placeholder=" …")
            return f"HTTP {self.status} {self.error.status}: {message}"
        if self.chunks[-1].total_tokens:
            return f"HTTP {self.status}, {self.chunks[-1].total_tokens} tokens"
        return f"HTTP {self.status}, {self.seconds:.1f} s of sound, {self.finish_reason}"


def _without_key(text: str, response: httpx2.Response) -> str:
    return text.replace(response.request.headers[_KEY_HEADER], "…")


class Session:
    """The calls in progress: their replies, what prevented the others, and every word about limits."""

    def __init__(self, client: httpx2.AsyncClient, timeout_s: float, clock: Clock) -> None:
        self.day = clock.now().date()
        self.replies: dict[str, Reply] = {}
        self.calls = 0
        self.limits: list[str] = []
        self._failures: dict[str, str] = {}
        self._client = client
        self._timeout_s = timeout_s
        self._clock = clock

    async def ask(self, name: str) -> None:
        """Make one call. A 429 of the minute and a 503 bill nothing, and are tried once more."""
        policy = RetryPolicy(
            attempts=2,
            min_wait_s=1.0,
            max_wait_s=2.0,
            rate_limit_attempts=2,
            rate_limit_min_wait_s=10.0,
            rate_limit_max_wait_s=60.0,
            deadline_s=self._timeout_s + 60.0,
        )
        await self.keep(name, call_with_retry(partial(self._attempt, CALLS[name]), policy, self._clock))

    async def keep(self, name: str, reply: Awaitable[Reply]) -> None:
        """Keep a reply that was asked for, or the reason why there is none."""
        try:
            self.replies[name] = await reply
        except AudioAPIError as error:
            self._failures[name] = str(error)

    def answers(self, *names: str) -> list[Reply]:
        """The replies to these calls."""
        if silent := [f"{name}: {self._failures[name]}" for name in names if name in self._failures]:
            raise NotObservableError("; ".join(silent))
        return [self.replies[name] for name in names]

    async def _attempt(self, call: LiveCall) -> Reply:
        import httpx2

        self.calls += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._client.post(call.path, json=call.body)
        except (httpx2.HTTPError, TimeoutError) as error:
            raise TTSUnavailableError(f"no reply ({type(error).__name__})", retryable=False) from None
        headers = [f"{name}: {value}" for name, value in response.headers.items() if _LIMIT_HEADER.search(name)]
        self.limits += [_without_key(header, response) for header in headers]
        try:
            reply = Reply.read(call, response)
        except ValueError:
            raise TTSUnavailableError(error_text(response), retryable=response.status_code == 503) from None
        self.limits += [f"{each.quota_id}={each.quota_value}" for each in _violations(reply)]
        if refusal := _refusal(reply):
            raise refusal
        return reply


def _violations(reply: Reply) -> list[_QuotaViolation]:
    return [violation for detail in reply.error.details for violation in detail.violations] if reply.error else []


def _refusal(reply: Reply) -> AudioAPIError | None:
    """The error of a reply that has nothing to do with what was asked; None when it says something about that."""
    error = reply.error or _Error()
    details = error.details
    # A failed precondition is a country that is not served, or an account without billing.
    is_account = reply.status in {401, 403} or error.status == "FAILED_PRECONDITION"
    if is_account or any(detail.reason == "API_KEY_INVALID" for detail in details):
        return TTSAuthenticationError(str(reply))
    if reply.status == 429:
        if any("PerDay" in violation.quota_id for violation in _violations(reply)):
            return TTSQuotaError(str(reply))
        delays = [re.fullmatch(r"(\d+(?:\.\d+)?)s", detail.retry_delay) for detail in details]
        return TTSRateLimitError(str(reply), retry_after_s=next((float(delay[1]) for delay in delays if delay), None))
    if reply.status >= 500 or 300 <= reply.status < 400:
        return TTSUnavailableError(str(reply), retryable=reply.status == 503)
    return None


def api_client(config: AudioConfig) -> httpx2.AsyncClient:
    """A client for the API at the configured address: the key in a header, no redirects, bounded replies.

    Raises:
        ConfigurationError: There is no key, or the environment's proxy cannot be used.
    """
    from audio_api.engines.gemini_transport import open_http_client

    key = config.require_api_key()
    client = open_http_client(config.gemini_base_url, max_connections=1)
    client.base_url = config.gemini_base_url
    client.headers[_KEY_HEADER] = key
    client.timeout = config.request_timeout
    return client


def error_text(response: httpx2.Response) -> str:
    """What an answer that is no success complains about, in a few words."""
    try:
        return str(Reply.read(LiveCall({}), response))
    except ValueError:
        return f"HTTP {response.status_code} without a readable body"
