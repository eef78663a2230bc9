"""What a Gemini speech reply holds: sound, tokens billed, or the reason why there is none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from audio_api.audio.wav import decode_wav
from audio_api.engines.base import SpeechAudio
from audio_api.errors import AudioAPIError, ErrorCode, TTSAPIError, TTSAudioError, TTSContentBlockedError
from audio_api.models.audio_request import TokenUsage
from audio_api.models.speech_models import model_spec

# Reasons for which the same words are refused again.
_REFUSALS = {"SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "RECITATION", "MODEL_ARMOR"}
# The copyright filter says OTHER, like a failed generation, and tells itself apart only by this sentence.
_COPYRIGHT = "generated content was filtered"

_WAV_TYPES = {"audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave"}
# Despite RFC 3551, Gemini's L16 is little-endian.
_PCM_TYPES = {"audio/l16", "audio/pcm"}
_DEFAULT_RATE = 24_000

# What a server may put into our texts and logs.
_IDENTIFIER = re.compile(r"[A-Za-z0-9._-]{1,100}")

last_small_body: ContextVar[bytes] = ContextVar("last_small_body", default=b"")
"""The JSON of this task's last reply when it was too small to hold speech: the SDK drops the finish message in it."""


def read_reply(reply: Any, *, asked_model: str, body: bytes = b"") -> SpeechAudio:
    """Join and unwrap the audio of a reply.

    Args:
        reply: Shaped like ``google.genai.types.GenerateContentResponse``.
        asked_model: The id of the model that was called.
        body: The reply's JSON when it is small and at hand; may be empty.

    Returns:
        Every audio part in order, in its own sample rate; its ``finish_reason`` may be one that means "incomplete".

    Raises:
        TTSContentBlockedError: The API refuses to speak this text.
        TTSAudioError: There is no audio, or none in a format that this library reads.
        TTSAPIError: The model does not speak the language.
    """
    usage = read_usage(reply)
    billed = None if usage == TokenUsage() else usage
    candidate = next(iter(getattr(reply, "candidates", None) or ()), None)
    reason = _finish_reason(candidate)
    streams = _audio_streams(candidate)
    if reason in _REFUSALS or not streams:
        raise _why_no_audio(reply, candidate, reason, billed, body)
    sounds = [_decode(stream, billed) for stream in streams]
    if len({sound.rate for sound in sounds}) > 1:
        raise _bad_format(f"parts of {' and '.join(str(sound.rate) for sound in sounds)} Hz", billed)
    # A sound's last half sample would shift every sample of the next one.
    pcm = b"".join(sound.pcm[: len(sound.pcm) & ~1] for sound in sounds)
    if not pcm:
        raise TTSAudioError("the API answered with an empty sound", usage=billed)
    model = _spoken_model(reply) or asked_model
    warnings = list(_reroute_warnings(asked_model, model))
    if any(len(sound.pcm) % 2 for sound in sounds):
        warnings.append("the sound ended with half a sample, which was cut off")
    return SpeechAudio(pcm, sounds[0].rate, model, reason, usage, tuple(warnings))


def read_usage(reply: Any) -> TokenUsage:
    """The tokens that a reply says were billed; zero where it says nothing."""
    metadata = getattr(reply, "usage_metadata", None)
    details = getattr(metadata, "candidates_tokens_details", None)
    audio = [
        _count(detail, "token_count")
        for detail in (details if isinstance(details, list) else ())
        if _name(getattr(detail, "modality", None)) == "AUDIO"
    ]
    return TokenUsage(
        input_tokens=_count(metadata, "prompt_token_count"),
        output_tokens=_count(metadata, "candidates_token_count") or sum(audio),
        audio_tokens=sum(audio),
    )


def _count(holder: Any, name: str) -> int:
    value = getattr(holder, name, None)
    return value if isinstance(value, int) and value > 0 else 0


def _name(value: Any) -> str | None:
    """An enumeration's member, or a plain string, by its name in the API."""
    value = getattr(value, "value", value)
    return value if isinstance(value, str) else None


def _identifier(name: str) -> str | None:
    return name if _IDENTIFIER.fullmatch(name) else None


def _finish_reason(candidate: Any) -> str | None:
    # The SDK's replies always have the attribute; a stand-in that knows no finish reasons has nothing to report.
    reason = getattr(candidate, "finish_reason", "STOP")
    name = _name(reason)
    if name is None:
        return None if reason is None else "STOP"
    return _identifier(name) or "UNKNOWN"


@dataclass(slots=True)
class _Stream:
    """Consecutive audio parts of one type, which together are one file or one run of samples."""

    mime: str
    data: bytearray


@dataclass(frozen=True, slots=True)
class _Sound:
    pcm: bytes
    rate: int


def _parts(candidate: Any) -> list[Any]:
    return list(getattr(getattr(candidate, "content", None), "parts", None) or ())


def _audio_streams(candidate: Any) -> list[_Stream]:
    streams: list[_Stream] = []
    for mime, data in _audio_parts(candidate):
        # Samples may be cut anywhere, even inside one; a further WAV file begins with its own header.
        if not streams or streams[-1].mime != mime or data.startswith(b"RIFF"):
            streams.append(_Stream(mime, bytearray()))
        streams[-1].data += data
    return streams


def _audio_parts(candidate: Any) -> Iterator[tuple[str, bytes]]:
    for part in _parts(candidate):
        blob = getattr(part, "inline_data", None)
        data = getattr(blob, "data", None)
        mime = (_name(getattr(blob, "mime_type", None)) or "").strip().lower()
        if isinstance(data, bytes) and data and (not mime or mime.startswith("audio/")):
            yield mime, data


def _decode(stream: _Stream, usage: TokenUsage | None) -> _Sound:
    """``audio/l16;codec=pcm;rate=24000``, ``audio/l16; rate=24000; channels=1`` or any WAV; a header beats the type."""
    kind, *pairs = (piece.strip() for piece in stream.mime.split(";"))
    parameters = dict(re.findall(r'(\w+) *= *"?([^"\n]+)', "\n".join(pairs)))
    if stream.data.startswith(b"RIFF") or kind in _WAV_TYPES:
        return _decode_wav(bytes(stream.data), usage)
    rate = parameters.get("rate", str(_DEFAULT_RATE))
    is_pcm = (kind in _PCM_TYPES or not kind) and parameters.get("codec", "pcm") == "pcm"
    if not is_pcm or parameters.get("channels", "1") != "1" or not re.fullmatch(r"[1-9]\d{3,5}", rate):
        raise _bad_format(repr(stream.mime[:60]), usage)
    return _Sound(bytes(stream.data), int(rate))


def _decode_wav(data: bytes, usage: TokenUsage | None) -> _Sound:
    try:
        wav = decode_wav(data)
    except ValueError as error:
        reason = str(error)
    else:
        if (wav.channels, wav.bits) != (1, 16) or not 1_000 <= wav.sample_rate < 1_000_000:
            found = f"a WAV of {wav.sample_rate} Hz, {wav.bits} bits and {wav.channels} channel(s)"
            raise _bad_format(found, usage)
        return _Sound(wav.pcm, wav.sample_rate)
    # Damage, unlike another codec, differs from answer to answer.
    raise TTSAudioError(f"the API answered with a damaged WAV: {reason}", code=ErrorCode.AUDIO_FORMAT, usage=usage)


def _bad_format(found: str, usage: TokenUsage | None) -> TTSAudioError:
    return TTSAudioError(
        f"the API answered with {found}; this library reads 16-bit PCM or WAV of one channel",
        code=ErrorCode.AUDIO_FORMAT,
        retryable=False,
        usage=usage,
    )


def _why_no_audio(
    reply: Any, candidate: Any, reason: str | None, usage: TokenUsage | None, body: bytes
) -> AudioAPIError:
    blocked = _name(getattr(getattr(reply, "prompt_feedback", None), "block_reason", None))
    if blocked or reason in _REFUSALS:
        why = _identifier(blocked) if blocked else reason
        return TTSContentBlockedError(f"the API refuses to speak this text ({why})", usage=usage)
    if reason == "LANGUAGE":
        return TTSAPIError("the model does not speak this language; choose another language or model", usage=usage)
    if reason == "OTHER" and _COPYRIGHT in _finish_message(body):
        return TTSContentBlockedError(
            "the API refuses to speak this text because it resembles copyrighted works; rephrase or shorten it",
            usage=usage,
        )
    if candidate is None:
        return TTSAudioError("the API answered without a candidate", usage=usage)
    # The text itself may quote the user's; it stays out of the message.
    kind = "text" if any(_name(getattr(part, "text", None)) for part in _parts(candidate)) else "nothing"
    return TTSAudioError(f"the API answered with {kind} instead of audio (finish reason {reason})", usage=usage)


def _finish_message(body: bytes) -> str:
    try:
        return str(json.loads(body)["candidates"][0]["finishMessage"])
    except (ValueError, LookupError, TypeError):
        return ""


def _spoken_model(reply: Any) -> str | None:
    name = _name(getattr(reply, "model_version", None)) or ""
    return _identifier(name.removeprefix("models/"))


def _reroute_warnings(asked: str, spoken: str) -> Iterator[str]:
    if spoken.removesuffix("-preview").startswith(asked.removesuffix("-preview")):
        return
    other_family = model_spec(asked).family != model_spec(spoken).family
    risk = "; its prompts are built differently, so directions may have been read aloud" if other_family else ""
    yield f"{asked} was asked for, but {spoken} spoke{risk}"
