"""The sound in a Gemini reply, unwrapped while it comes in: bare samples or WAV files, cut anywhere."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

from audio_api.audio.conversion import STANDARD, Converter
from audio_api.audio.wav import FIRST_CHUNK, SAMPLE_RATE, SoundFormat, UnknownCodecError, decode_wav, riff_chunks
from audio_api.errors import ErrorCode, TTSAudioError

_WAV_TYPES = {"audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave"}
_UNKNOWN_TYPE = "application/octet-stream"
# Despite RFC 3551, Gemini's L16 is little-endian.
_PCM_TYPES = {"audio/l16", "audio/pcm"}
# Longer ones are no type that this library reads.
_MOST_MIME_CHARS = 200
_AROUND_VALUES = '" \t\r\n'
_NUMBER = re.compile("[1-9][0-9]{0,5}")
# Those of Gemini have 6 KB.
_HEAD_STEP_BYTES = 2**13
_MOST_HEAD_BYTES = 2**20
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
    """Takes audio parts in order and gives back whole samples: 24 kHz, signed, 16-bit, little-endian, one channel.

    Attributes:
        has_begun: Whether there was any part.
    """

    def __init__(self) -> None:
        self.has_begun = False
        self._converter = Converter()
        self._format = STANDARD
        self._mime: str | None = None
        self._head: bytearray | None = None
        self._next_chunk = FIRST_CHUNK
        self._left_bytes = sys.maxsize

    @property
    def warnings(self) -> Iterator[str]:
        """What was converted, and what was lost."""
        yield from self._converter.warnings
        if self._converter.has_lost_part:
            yield "the sound ended with half a sample, which was cut off"

    def feed(self, mime: str, data: bytes) -> bytes:
        """Take the next part.

        Raises:
            TTSAudioError: It is damaged, or in no format that this library reads.
        """
        # Samples may be cut anywhere, even inside one; a further WAV file begins with its own header.
        if mime != self._mime or data.startswith(b"RIFF"):
            self._check_head()
            # Half a sample would shift every sample that follows.
            self._converter.cut()
            self.has_begun = True
            self._mime = mime
            self._left_bytes = sys.maxsize
            # A header beats the type.
            if data.startswith(b"RIFF") or mime.partition(";")[0].strip() in _WAV_TYPES:
                self._head, self._next_chunk = bytearray(), FIRST_CHUNK
            else:
                self._format = _pcm_format(mime)
        if self._head is not None:
            data = self._after_head(self._head, data)
        sound = data[: self._left_bytes]
        self._left_bytes -= len(sound)
        try:
            return self._converter.feed(sound, self._format) if sound else b""
        except ValueError as error:
            problem = str(error)
        raise _bad_format(problem)

    def end(self) -> bytes:
        """The samples that are still missing; no part follows.

        Raises:
            TTSAudioError: The last part was a WAV without sound.
        """
        self._check_head()
        return self._converter.finish()

    def _check_head(self) -> None:
        if self._head is not None:
            _wav_format(bytes(self._head))

    def _after_head(self, head: bytearray, data: bytes) -> bytes:
        """The sound behind a WAV's header; nothing as long as the header is not complete."""
        for at in range(0, len(data), _HEAD_STEP_BYTES):
            known = len(head) - at
            head += data[at : at + _HEAD_STEP_BYTES]
            for chunk in riff_chunks(head, self._next_chunk):
                if chunk.name == b"data":
                    self._format = _wav_format(bytes(head[: chunk.start]))
                    self._left_bytes = sys.maxsize if chunk.size in _UNKNOWN_SIZES else chunk.size
                    self._head = None
                    return data[chunk.start - known :]
                self._next_chunk = chunk.end
            if len(head) >= _MOST_HEAD_BYTES:
                raise _damaged(f"no sound within its first {_MOST_HEAD_BYTES:,} bytes")
        return b""


def _pcm_format(mime: str) -> SoundFormat:
    """Of ``audio/l16;codec=pcm;rate=24000`` or ``audio/l16; rate=24000; channels=1``."""
    kind, *pairs = (piece.strip() for piece in mime[:_MOST_MIME_CHARS].split(";"))
    named = (pair.partition("=") for pair in pairs)
    parameters = {name.strip(): value.strip(_AROUND_VALUES) for name, _, value in named}
    rate, channels = parameters.get("rate", str(SAMPLE_RATE)), parameters.get("channels", "1")
    is_pcm = (kind in _PCM_TYPES or not kind) and parameters.get("codec", "pcm") == "pcm"
    if not (is_pcm and _NUMBER.fullmatch(rate) and _NUMBER.fullmatch(channels)):
        raise _bad_format(repr(mime[:60]))
    return SoundFormat(int(rate), int(channels))


def _wav_format(head: bytes) -> SoundFormat:
    try:
        return decode_wav(head).format
    except UnknownCodecError as error:
        failure = _bad_format(str(error))
    except ValueError as error:
        failure = _damaged(str(error))
    raise failure


def _damaged(reason: str) -> TTSAudioError:
    """Damage, unlike another codec, differs from answer to answer."""
    return TTSAudioError(f"the API answered with a damaged WAV: {reason}", code=ErrorCode.AUDIO_FORMAT)


def _bad_format(found: str) -> TTSAudioError:
    return TTSAudioError(
        f"the API answered with {found}; this library reads 16-bit PCM, and WAV without compression",
        code=ErrorCode.AUDIO_FORMAT,
        retryable=False,
    )
