"""What a good answer looks like, family by family."""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from audio_api.emulator.speech import BYTES_PER_S, SAMPLE_RATE, to_a_law, to_mu_law

JSON = "application/json; charset=UTF-8"
EVENTS = "text/event-stream"
_NEXT_IN_LIST = b"\n,\r\n"
_END_OF_LIST = b"\n]"
WAV = "audio/wav"
# How each family spells raw samples.
_PCM = {
    "2.5": "audio/L16;codec=pcm;rate=24000",
    "3.1": "audio/l16; rate=24000; channels=1",
    "3.8": "audio/l16; rate=24000; channels=1",
}
# What the API calls them is not known: the names are those of its other API, spelled as it spells raw samples.
_TELEPHONY = {
    "AUDIO_MULAW": ("audio/mulaw; rate=8000; channels=1", to_mu_law),
    "AUDIO_ALAW": ("audio/alaw; rate=8000; channels=1", to_a_law),
}
# A 2.5 stream is one piece.
_PIECE_S = {"3.1": 0.5, "3.8": 0.08}
# A real 3.8 file carries 6,114 bytes besides its samples; what the 6,070 that are no plain header hold is not known.
_EXTRA_BYTES = 6_114 - 44


@dataclass(frozen=True)
class Sound:
    """Sound in the wrapping in which it is sent.

    Attributes:
        mime: Its type.
        data: Its bytes.
        piece_bytes: The size of a stream's pieces.
    """

    mime: str
    data: bytes
    piece_bytes: int

    @classmethod
    def of(cls, pcm: bytes, family: str, audio_format: str | None, *, stream: bool) -> Sound:
        """Wrap samples as a family does.

        Args:
            pcm: 24,000 Hz, 16-bit, mono.
            family: ``"2.5"``, ``"3.1"`` or ``"3.8"``.
            audio_format: Such as ``"AUDIO_L16"``; ``None``: the family's own.
            stream: Whether it is sent in pieces, which are never WAV files.
        """
        piece_s = _PIECE_S.get(family)
        if audio_format in _TELEPHONY:
            mime, encode = _TELEPHONY[audio_format]
            return cls(mime, encode(pcm), round(piece_s * 8_000) if piece_s else len(pcm))
        size = round(piece_s * BYTES_PER_S) if piece_s else len(pcm)
        if family == "3.8" and not stream and audio_format != "AUDIO_L16":
            return cls(WAV, wav(pcm), size)
        return cls(_PCM[family], pcm, size)

    def part(self) -> dict[str, Any]:
        """All of it in one part of a reply."""
        return audio_part(self.mime, self.data)


@dataclass
class Answer:
    """An HTTP response.

    Attributes:
        status: The HTTP status.
        content_type: Of the body.
        chunks: The body; one that has several is sent chunk by chunk, without a length.
        headers: More headers.
    """

    status: int
    content_type: str
    chunks: Sequence[bytes]
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(cls, document: dict[str, Any], headers: dict[str, str] | None = None) -> Answer:
        """A document, answered at once."""
        return cls(200, JSON, [json.dumps(document).encode()], headers or {})

    @classmethod
    def of_events(cls, documents: list[dict[str, Any]], headers: dict[str, str]) -> Answer:
        """Documents, streamed as server-sent events."""
        return cls(200, EVENTS, [_event(document) for document in documents], headers)

    @classmethod
    def of_list(cls, documents: list[dict[str, Any]], headers: dict[str, str]) -> Answer:
        """Documents, streamed as one JSON list."""
        first, *others = [json.dumps(document).encode() for document in documents]
        chunks = [b"[" + first, *[_NEXT_IN_LIST + other for other in others]]
        chunks[-1] += _END_OF_LIST
        return cls(200, JSON, chunks, headers)

    def last_chunk(self, document: dict[str, Any]) -> bytes:
        """A document that ends this stream before its time."""
        if self.content_type == EVENTS:
            return _event(document)
        return _NEXT_IN_LIST + json.dumps(document).encode() + _END_OF_LIST


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\r\n\r\n"


def audio_part(mime: str, data: bytes) -> dict[str, Any]:
    """One part of a reply that holds sound."""
    return {"inlineData": {"mimeType": mime, "data": b64encode(data).decode()}}


def wav(pcm: bytes, size: int | None = None, *, tail: bytes = b"") -> bytes:
    """A WAV file as 3.8 sends it.

    Args:
        pcm: The samples.
        size: What the size fields of the file and its data say; ``None``: the truth.
        tail: Chunks after the data.
    """
    fmt = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)
    junk = b"JUNK" + struct.pack("<I", _EXTRA_BYTES - 8) + bytes(_EXTRA_BYTES - 8)
    data = b"data" + struct.pack("<I", len(pcm) if size is None else size) + pcm + bytes(len(pcm) % 2)
    body = b"WAVE" + fmt + junk + data + tail
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def usage(prompt_tokens: int, output_tokens: int, modality: str = "AUDIO") -> dict[str, Any]:
    """What a call is billed."""
    return {
        "promptTokenCount": prompt_tokens,
        "candidatesTokenCount": output_tokens,
        "totalTokenCount": prompt_tokens + output_tokens,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt_tokens}],
        "candidatesTokensDetails": [{"modality": modality, "tokenCount": output_tokens}],
    }


def document(
    parts: list[dict[str, Any]], finish_reason: str | None, billed: dict[str, Any], model: str
) -> dict[str, Any]:
    """A GenerateContentResponse. No parts make an empty content; ``finish_reason=None`` leaves it out."""
    content = {"parts": parts, "role": "model"} if parts else {}
    finish = {"finishReason": finish_reason} if finish_reason else {}
    return {
        "candidates": [{"content": content, **finish, "index": 0}],
        "usageMetadata": billed,
        "modelVersion": model,
    }
