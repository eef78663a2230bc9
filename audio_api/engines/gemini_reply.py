"""What a Gemini speech reply holds: sound, tokens billed, or the reason why there is none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from audio_api.audio.large_sounds import Permit
from audio_api.audio.wav import SAMPLE_RATE
from audio_api.engines.base import SpeechAudio
from audio_api.engines.gemini_errors import Objection
from audio_api.engines.gemini_sound import Unwrapper, audio_parts
from audio_api.errors import AudioAPIError, TTSAPIError, TTSAudioError, TTSContentBlockedError
from audio_api.models.service_tiers import ServedTier, served_tier
from audio_api.models.speech_models import model_spec
from audio_api.models.usage import TokenUsage

# Reasons for which the same words are refused again.
_REFUSALS = {"SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "RECITATION", "MODEL_ARMOR"}
# The copyright filter says OTHER, like a failed generation, and tells itself apart only by this sentence.
_COPYRIGHT = "generated content was filtered"

# 10 s, whose conversion takes up to 20 ms.
_MUCH_BYTES = 480_000
# Ten times the largest context; a larger count is a mistake of the server.
_MOST_TOKENS = 10_000_000

# The header that says what a call is priced by, which may be less than was asked for.
_TIER = "x-gemini-service-tier"
# What a server may put into our texts and logs.
_IDENTIFIER = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(slots=True)
class Wire:
    """What only the transport knows of a call.

    Attributes:
        finish_message: The API's words on why the reply ended, which the SDK drops.
        sounds: Sounds that the SDK never saw, each by the mark that the SDK found in its place.
        marks: How many marks were given.
        status: Of HTTP; 0 before it is known.
        objection: What the API refuses in the way the call was put; ``None``: nothing.
        permit: Taken before a large sound is loaded; ``None``: none is needed.
        call: Ends the call when it is closed: of a stream whose event it cannot read, the SDK forgets the connection.
    """

    finish_message: str = ""
    status: int = 0
    objection: Objection | None = None
    sounds: dict[bytes, bytes] = field(default_factory=dict)
    marks: int = 0
    permit: Permit | None = None
    call: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def holds_much(self) -> bool:
        """Whether unwrapping its sounds would hold up the event loop."""
        return sum(map(len, self.sounds.values())) > _MUCH_BYTES


current_wire: ContextVar[Wire] = ContextVar("current_wire")
"""The wire of the call that is being started."""


class IncomingReply:
    """A reply while it comes in, in one piece or in the events of a stream.

    Args:
        asked_model: The id of the model that was called.
        wire: What the transport knows of the call.

    Attributes:
        finish_reason: The last one named; ``None`` before.
        wire: As given.
    """

    def __init__(self, asked_model: str, wire: Wire) -> None:
        self.finish_reason: str | None = None
        self.wire = wire
        self._asked_model = asked_model
        self._model = asked_model
        self._sound = Unwrapper()
        self._is_audible = False
        self._usage = TokenUsage()
        self._tier: ServedTier | None = None
        self._blocked: str | None = None
        self._has_candidate = False
        self._has_text = False

    def take(self, reply: Any) -> SpeechAudio | None:
        """Unwrap the next piece; ``None`` when it completes no sample.

        Args:
            reply: Shaped like ``google.genai.types.GenerateContentResponse``.

        Raises:
            TTSContentBlockedError: The API refuses to speak this text.
            TTSAudioError: The sound is in no format that this library reads.
        """
        # Usage is a running total.
        usage = _read_usage(reply)
        self._usage = self._usage if usage is None else usage
        headers = getattr(getattr(reply, "sdk_http_response", None), "headers", None)
        if isinstance(headers, Mapping):
            self._tier = served_tier({str(name).lower(): value for name, value in headers.items()}.get(_TIER))
        name = _name(getattr(reply, "model_version", None)) or ""
        self._model = _identifier(name.removeprefix("models/")) or self._model
        self._blocked = _name(getattr(getattr(reply, "prompt_feedback", None), "block_reason", None)) or self._blocked
        candidate = next(iter(getattr(reply, "candidates", None) or ()), None)
        if candidate is None:
            return None
        self._has_candidate = True
        # The SDK's replies always have the attribute; a stand-in that knows no finish reasons has nothing to report.
        reason = getattr(candidate, "finish_reason", "STOP")
        if reason is not None:
            stated = _name(reason)
            self.finish_reason = "STOP" if stated is None else _identifier(stated) or "UNKNOWN"
        parts = list(getattr(getattr(candidate, "content", None), "parts", None) or ())
        self._has_text |= any(_name(getattr(part, "text", None)) for part in parts)
        if self.finish_reason in _REFUSALS:
            raise self._why_no_audio()
        pcm = b"".join(self._sound.feed(mime, data) for mime, data in audio_parts(parts, self.wire.sounds))
        self._is_audible |= bool(pcm)
        return SpeechAudio(pcm, SAMPLE_RATE, self._model, finish_reason=None) if pcm else None

    def end(self) -> SpeechAudio:
        """The end of the sound, and all that there is to say about the whole.

        Returns:
            Its ``finish_reason`` may be one that means "incomplete".

        Raises:
            TTSContentBlockedError: The API refuses to speak this text.
            TTSAudioError: There was no audio, or damaged audio.
            TTSAPIError: The model does not speak the language.
        """
        if not self._sound.has_begun:
            raise self._why_no_audio()
        pcm = self._sound.end()
        if not (pcm or self._is_audible):
            raise TTSAudioError("the API answered with an empty sound")
        asked, spoke, warnings = self._asked_model, self._model, tuple(self._sound.warnings)
        if not spoke.removesuffix("-preview").startswith(asked.removesuffix("-preview")):
            other_family = model_spec(asked).family != model_spec(spoke).family
            risk = "; its prompts are built differently, so directions may have been read aloud" if other_family else ""
            warnings = (f"{asked} was asked for, but {spoke} spoke{risk}", *warnings)
        return SpeechAudio(pcm, SAMPLE_RATE, self._model, self.finish_reason, self._usage, warnings, tier=self._tier)

    @contextmanager
    def billing(self) -> Iterator[None]:
        """Let an error that passes carry the tokens billed so far."""
        try:
            yield
        except AudioAPIError as error:
            if error.usage is None and self._usage != TokenUsage():
                error.usage, error.tier = self._usage, self._tier
            raise

    def _why_no_audio(self) -> AudioAPIError:
        reason = self.finish_reason
        if self._blocked or reason in _REFUSALS:
            why = _identifier(self._blocked) if self._blocked else reason
            return TTSContentBlockedError(f"the API refuses to speak this text ({why})")
        if reason == "LANGUAGE":
            return TTSAPIError("the model does not speak this language; choose another language or model")
        if reason == "OTHER" and _COPYRIGHT in self.wire.finish_message:
            return TTSContentBlockedError(
                "the API refuses to speak this text because it resembles copyrighted works; rephrase or shorten it"
            )
        if not self._has_candidate:
            return TTSAudioError("the API answered without a candidate")
        # The text itself may quote the user's; it stays out of the message.
        kind = "text" if self._has_text else "nothing"
        return TTSAudioError(f"the API answered with {kind} instead of audio (finish reason {reason})")


def read_reply(reply: Any, *, asked_model: str, wire: Wire) -> SpeechAudio:
    """Join and unwrap the audio of a reply that came in one piece.

    Args:
        reply: Shaped like ``google.genai.types.GenerateContentResponse``.
        asked_model: The id of the model that was called.
        wire: What the transport knows of the call.

    Returns:
        Every audio part in order, at 24 kHz; its ``finish_reason`` may be one that means "incomplete".

    Raises:
        TTSContentBlockedError: The API refuses to speak this text.
        TTSAudioError: There is no audio, or none in a format that this library reads.
        TTSAPIError: The model does not speak the language.
    """
    incoming = IncomingReply(asked_model, wire)
    with incoming.billing():
        sound = incoming.take(reply)
        whole = incoming.end()
    return replace(whole, pcm=sound.pcm + whole.pcm) if sound else whole


def _read_usage(reply: Any) -> TokenUsage | None:
    """The tokens that a reply says were billed: none if a count of it cannot be one; ``None``: it says nothing."""
    metadata = getattr(reply, "usage_metadata", None)
    details = getattr(metadata, "candidates_tokens_details", None)
    audio = [
        getattr(detail, "token_count", None)
        for detail in (details if isinstance(details, list) else ())
        if _name(getattr(detail, "modality", None)) == "AUDIO"
    ]
    prompt, spoken = (getattr(metadata, name, None) for name in ("prompt_token_count", "candidates_token_count"))
    counts = [count for count in (prompt, spoken, *audio) if count is not None]
    if not any(counts):
        return None
    if not all(type(count) is int and 0 <= count <= _MOST_TOKENS for count in counts):
        return TokenUsage()
    audio_tokens = sum(count or 0 for count in audio)
    return TokenUsage(input_tokens=prompt or 0, output_tokens=spoken or audio_tokens, audio_tokens=audio_tokens)


def _name(value: Any) -> str | None:
    """An enumeration's member, or a plain string, by its name in the API."""
    value = getattr(value, "value", value)
    return value if isinstance(value, str) else None


def _identifier(name: str) -> str | None:
    return name if _IDENTIFIER.fullmatch(name) else None
