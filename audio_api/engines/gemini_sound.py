"""The sound in a Gemini reply, unwrapped while it comes in: bare samples or WAV files, cut anywhere."""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Iterator
from typing import Any

from audio_api.audio.wav import decode_wav
from audio_api.errors import ErrorCode, TTSAudioError

_WAV_TYPES = {"audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave"}
_UNKNOWN_TYPE = "application/octet-stream"
# Despite RFC 3551, Gemini's L16 is little-endian.
_PCM_TYPES = {"audio/l16", "audio/pcm"}
_DEFAULT_RATE = 24_000
# Sizes that writers put into a header before they know better.
_UNKNOWN_SIZES = {0, 0xFFFFFFFF}


def audio_parts(parts: list[Any], aside: dict[bytes, bytes]) -> Iterator[tuple[str, bytes]]:
    """The lower-case type, which may be empty, and the bytes of every part that holds sound.

    Args:
        parts: Shaped like ``google.genai.types.Part``.
        aside: Sounds by the marks that stand in their parts; each is taken out.
    """
    for part in parts:
        blob = getattr(part, "inline_data", None)
        data, mime = getattr(blob, "data", None), getattr(blob, "mime_type", None)
        mime = mime.strip().lower() if isinstance(mime, str) else ""
        if not (isinstance(data, bytes) and data):
            continue
        data = aside.pop(data, data)
        # A gateway that does not know what it passes on.
        if mime.startswith(_UNKNOWN_TYPE) and data.startswith(b"RIFF"):
            mime = "audio/wav"
        if not mime or mime.startswith("audio/"):
            yield mime, data


class Unwrapper:
    """Takes audio parts in order and gives back whole samples: signed, 16-bit, little-endian, one channel.

    Attributes:
        rate: Samples per second; 0 before it is known.
        has_begun: Whether there was any part.
        has_lost_half: Whether a sound ended with half a sample, which was cut off.
    """

    def __init__(self) -> None:
        self.rate = 0
        self.has_begun = False
        self.has_lost_half = False
        self._mime: str | None = None
        self._head: bytes | None = None
        self._left_bytes = sys.maxsize
        self._half = b""

    def feed(self, mime: str, data: bytes) -> bytes:
        """Take the next part.

        Raises:
            TTSAudioError: It is damaged, or in no format that this library reads.
        """
        # Samples may be cut anywhere, even inside one; a further WAV file begins with its own header.
        if mime != self._mime or data.startswith(b"RIFF"):
            self.end()
            self._begin(mime, data)
        if self._head is not None:
            data = self._after_head(self._head + data)
        sound = data[: self._left_bytes]
        self._left_bytes -= len(sound)
        sound = self._half + sound
        self._half = sound[len(sound) & ~1 :]
        return sound[: len(sound) & ~1]

    def end(self) -> None:
        """No part follows that continues the last one.

        Raises:
            TTSAudioError: The last one was a WAV without sound.
        """
        if self._head is not None:
            _wav_rate(self._head)
        # It would shift every sample that follows.
        self.has_lost_half |= bool(self._half)
        self._half = b""

    def _begin(self, mime: str, data: bytes) -> None:
        self.has_begun = True
        self._mime = mime
        self._left_bytes = sys.maxsize
        # A header beats the type.
        if data.startswith(b"RIFF") or mime.partition(";")[0].strip() in _WAV_TYPES:
            self._head = b""
        else:
            self._set_rate(_pcm_rate(mime))

    def _after_head(self, head: bytes) -> bytes:
        """The sound behind a WAV's header; nothing as long as the header is not complete."""
        found = _find_sound(head)
        if found is None:
            self._head = head
            return b""
        start, size = found
        self._set_rate(_wav_rate(head[:start]))
        self._left_bytes = sys.maxsize if size in _UNKNOWN_SIZES else size
        self._head = None
        return head[start:]

    def _set_rate(self, rate: int) -> None:
        if self.rate not in {0, rate}:
            raise _bad_format(f"parts of {self.rate} and {rate} Hz")
        self.rate = rate


def _find_sound(head: bytes) -> tuple[int, int] | None:
    """Where the sound of a WAV begins, and its size in bytes as the header says."""
    offset = 12
    while offset + 8 <= len(head):
        chunk_id, size = struct.unpack_from("<4sI", head, offset)
        offset += 8
        if chunk_id == b"data":
            return offset, size
        # A chunk of odd size is followed by one byte of padding.
        offset += size + size % 2
    return None


def _pcm_rate(mime: str) -> int:
    """Of ``audio/l16;codec=pcm;rate=24000`` or ``audio/l16; rate=24000; channels=1``."""
    kind, *pairs = (piece.strip() for piece in mime.split(";"))
    parameters = dict(re.findall(r'(\w+) *= *"?([^"\n]+)', "\n".join(pairs)))
    rate = parameters.get("rate", str(_DEFAULT_RATE))
    is_pcm = (kind in _PCM_TYPES or not kind) and parameters.get("codec", "pcm") == "pcm"
    if not is_pcm or parameters.get("channels", "1") != "1" or not re.fullmatch(r"[1-9]\d{3,5}", rate):
        raise _bad_format(repr(mime[:60]))
    return int(rate)


def _wav_rate(head: bytes) -> int:
    try:
        wav = decode_wav(head)
    except ValueError as error:
        reason = str(error)
    else:
        if (wav.channels, wav.bits) != (1, 16) or not 1_000 <= wav.sample_rate < 1_000_000:
            raise _bad_format(f"a WAV of {wav.sample_rate} Hz, {wav.bits} bits and {wav.channels} channel(s)")
        return wav.sample_rate
    # Damage, unlike another codec, differs from answer to answer.
    raise TTSAudioError(f"the API answered with a damaged WAV: {reason}", code=ErrorCode.AUDIO_FORMAT)


def _bad_format(found: str) -> TTSAudioError:
    return TTSAudioError(
        f"the API answered with {found}; this library reads 16-bit PCM or WAV of one channel",
        code=ErrorCode.AUDIO_FORMAT,
        retryable=False,
    )
