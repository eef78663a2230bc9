"""Answers of status 200 that are not what they should be: the sound, its wrapping, or the reply around it."""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from audio_api.emulator.faults import Fault
from audio_api.emulator.replies import audio_part, usage, wav
from audio_api.emulator.speech import SAMPLE_RATE

_MINIMUM_BYTES = 2
_L16 = "audio/L16;codec=pcm;rate=24000"
TEXT = {"text": "Sure! Here is a recording of the text you asked for."}
"""A part that is no sound."""


def _whole(byte_count: float) -> int:
    """A number of bytes that ends with a sample."""
    return max(_MINIMUM_BYTES, int(byte_count) // 2 * 2)


def _keep(fraction: float) -> Callable[[bytes], bytes]:
    return lambda pcm: pcm[: _whole(len(pcm) * fraction)]


def _noise(pcm: bytes) -> bytes:
    return np.random.default_rng(len(pcm)).bytes(len(pcm))


def _near_silent(pcm: bytes) -> bytes:
    return np.random.default_rng(len(pcm)).integers(-3, 4, len(pcm) // 2).astype("<i2").tobytes()


def _half_silent(pcm: bytes) -> bytes:
    kept = pcm[: _whole(len(pcm) / 2)]
    return kept + bytes(len(pcm) - len(kept))


def _mp3(pcm: bytes) -> bytes:
    """Frames with the header of 128 kbit/s, 44.1 kHz, joint stereo; as many bytes as the sound has."""
    frame = b"\xff\xfb\x90\x64" + np.random.default_rng(len(pcm)).bytes(413)
    return (frame * (len(pcm) // len(frame) + 1))[: len(pcm)]


SOUND: dict[Fault, Callable[[bytes], bytes]] = {
    Fault.SILENT: lambda pcm: bytes(len(pcm)),
    Fault.NEAR_SILENT: _near_silent,
    Fault.DC_OFFSET: lambda pcm: struct.pack("<h", 8_000) * (len(pcm) // 2),
    Fault.HALF_SILENT: _half_silent,
    Fault.GARBAGE: _noise,
    Fault.BYTES_SWAPPED: lambda pcm: np.frombuffer(pcm, "<i2").astype(">i2").tobytes(),
    Fault.BYTES_SHIFTED: lambda pcm: pcm[1:] + pcm[:1],
    Fault.MP3_AS_PCM: _mp3,
    Fault.ODD_BYTES: lambda pcm: pcm[:-1],
    Fault.TOO_SHORT: lambda pcm: pcm[: SAMPLE_RATE // 10 * 2],
    # Users report 13 to 46 percent of the text.
    Fault.TRUNCATED: _keep(0.35),
    Fault.TRUNCATED_BILLED: _keep(0.7),
    Fault.MAX_TOKENS: _keep(0.6),
    Fault.FINISH_OTHER: _keep(0.5),
    Fault.RUNAWAY: lambda pcm: pcm * 6,
}
"""What happens to the sound, in its usual wrapping."""

BILLED_IN_FULL = {Fault.TRUNCATED_BILLED}
"""Faults that bill the sound as it was before it was damaged."""

FINISH: dict[Fault, str | None] = {
    Fault.MAX_TOKENS: "MAX_TOKENS",
    Fault.FINISH_OTHER: "OTHER",
    Fault.FINISH_MISSING: None,
    Fault.FINISH_UNKNOWN: "SPEECH_BOREDOM",
}
"""Reasons for stopping other than ``STOP``."""


def _split(pcm: bytes, _: object) -> list[dict[str, Any]]:
    third = _whole(len(pcm) / 3)
    return [audio_part(_L16, piece) for piece in (pcm[:third], pcm[third : 2 * third], pcm[2 * third :])]


# What FFmpeg writes behind the samples.
_INFO = b"LIST" + struct.pack("<I", 18) + b"INFOISFT" + struct.pack("<I", 6) + b"Lavf61"


def _at_16000(pcm: bytes) -> bytes:
    samples = np.frombuffer(pcm, "<i2")
    at = np.arange(len(samples) * 2 // 3) * 1.5
    slower: npt.NDArray[np.int16] = np.interp(at, np.arange(len(samples)), samples).astype("<i2")
    return slower.tobytes()


WRAPPING: dict[Fault, Callable[[bytes, dict[str, Any]], list[dict[str, Any]]]] = {
    Fault.TEXT_THEN_AUDIO: lambda _, usual: [TEXT, usual],
    Fault.AUDIO_SPLIT: _split,
    Fault.WAV_CHUNK_AFTER_DATA: lambda pcm, _: [audio_part("audio/wav", wav(pcm, tail=_INFO))],
    Fault.WAV_SIZE_ZERO: lambda pcm, _: [audio_part("audio/wav", wav(pcm, 0))],
    Fault.WAV_SIZE_UNKNOWN: lambda pcm, _: [audio_part("audio/wav", wav(pcm, 0xFFFFFFFF))],
    Fault.RATE_16000: lambda pcm, _: [audio_part("audio/L16;codec=pcm;rate=16000", _at_16000(pcm))],
    Fault.MP3: lambda pcm, _: [audio_part("audio/mpeg", _mp3(pcm[: len(pcm) // 12]))],
    Fault.MIME_UNKNOWN: lambda pcm, _: [audio_part("audio/x-unheard-of", pcm)],
}
"""The parts of the reply, from the sound and the one part that is usual."""


def _candidate(document: dict[str, Any], **fields: Any) -> None:
    document["candidates"] = [{**fields, "index": 0}]


def _text_only(document: dict[str, Any]) -> None:
    _candidate(document, content={"parts": [TEXT], "role": "model"}, finishReason="STOP")
    document["usageMetadata"] = usage(document["usageMetadata"]["promptTokenCount"], 14, "TEXT")


def _prompt_blocked(document: dict[str, Any]) -> None:
    del document["candidates"]
    tokens = document["usageMetadata"]["promptTokenCount"]
    document["promptFeedback"] = {"blockReason": "PROHIBITED_CONTENT"}
    document["usageMetadata"] = {"promptTokenCount": tokens, "totalTokenCount": tokens}


def _inline_data(change: Callable[[str], str]) -> Callable[[dict[str, Any]], None]:
    def apply(document: dict[str, Any]) -> None:
        data = document["candidates"][0]["content"]["parts"][0]["inlineData"]
        data["data"] = change(data["data"])

    return apply


def _other_model(document: dict[str, Any]) -> None:
    lite = "gemini-3.8-flash-lite-tts"
    document["modelVersion"] = "gemini-3.8-flash-tts" if document["modelVersion"] == lite else lite


_COPYRIGHT = (
    "The generated content was filtered because it may contain material that resembles existing copyrighted works."
)

DOCUMENT: dict[Fault, Callable[[dict[str, Any]], None]] = {
    Fault.CANDIDATES_EMPTY: lambda document: document.update(candidates=[]),
    Fault.CANDIDATES_MISSING: lambda document: document.pop("candidates"),
    Fault.CONTENT_EMPTY: lambda document: _candidate(document, content={}, finishReason="OTHER"),
    Fault.CONTENT_MISSING: lambda document: _candidate(document, finishReason="OTHER"),
    Fault.COPYRIGHT: lambda document: _candidate(document, finishReason="OTHER", finishMessage=_COPYRIGHT),
    Fault.SAFETY: lambda document: _candidate(document, finishReason="SAFETY"),
    Fault.PROHIBITED_CONTENT: lambda document: _candidate(document, finishReason="PROHIBITED_CONTENT"),
    Fault.PROMPT_BLOCKED: _prompt_blocked,
    Fault.TEXT_ONLY: _text_only,
    Fault.INLINE_DATA_EMPTY: _inline_data(lambda _: ""),
    Fault.BASE64_INVALID: _inline_data(lambda data: "!" + data[:-2]),
    Fault.BASE64_TWICE: _inline_data(lambda data: b64encode(data.encode()).decode()),
    Fault.OTHER_MODEL: _other_model,
}
"""What happens to the reply as a whole."""
