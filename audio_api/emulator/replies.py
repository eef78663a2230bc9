"""What a good answer looks like, family by family."""

from __future__ import annotations

import json
import secrets
import struct
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any

from audio_api.emulator.speech import SAMPLE_RATE

JSON = "application/json; charset=UTF-8"
L16 = "audio/L16;codec=pcm;rate=24000"
WAV = "audio/wav"
STREAM_CHUNK_BYTES = SAMPLE_RATE
"""Half a second."""

# A real 3.8 file carries 6,114 bytes besides its samples; what the 6,070 that are no plain header hold is not known.
_EXTRA_BYTES = 6_114 - 44
_UNARY_MIME = {"2.5": L16, "3.1": "audio/l16; rate=24000; channels=1", "3.8": WAV}
STREAM_MIME = {**_UNARY_MIME, "3.8": L16}


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
    chunks: list[bytes]
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(cls, document: dict[str, Any]) -> Answer:
        """A document, answered at once."""
        return cls(200, JSON, [json.dumps(document).encode()], {"X-Gemini-Service-Tier": "standard"})

    @classmethod
    def of_events(cls, documents: list[dict[str, Any]]) -> Answer:
        """Documents, streamed as server-sent events."""
        events = [b"data: " + json.dumps(document).encode() + b"\r\n\r\n" for document in documents]
        return cls(200, "text/event-stream", events)


def audio_part(mime: str, data: bytes) -> dict[str, Any]:
    """One part of a reply that holds sound."""
    return {"inlineData": {"mimeType": mime, "data": b64encode(data).decode()}}


def unary_part(family: str, pcm: bytes) -> dict[str, Any]:
    """All of the sound, in the family's wrapping."""
    mime = _UNARY_MIME[family]
    return audio_part(mime, wav(pcm) if mime == WAV else pcm)


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
        "serviceTier": "standard",
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
        "responseId": secrets.token_urlsafe(16),
    }
