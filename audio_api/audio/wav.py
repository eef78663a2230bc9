"""WAV: its header, and a reader that forgives what servers get wrong."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

SAMPLE_RATE = 24_000
"""Samples per second of everything Gemini speaks."""

HEADER_BYTES = 44
MAX_DATA_BYTES = 2**32 - HEADER_BYTES - 2
"""The most sound a WAV holds: its size fields have 32 bits, and a sample has two bytes. A day of 24-kHz mono."""

FIRST_CHUNK = 12
"""Where the first chunk begins: behind the file's own id, size and type."""

_CHUNK_HEAD = struct.Struct("<4sI")
_BYTES_PER_SAMPLE = 2
_PCM, _EXTENSIBLE = 0x0001, 0xFFFE
Encoding = Literal["pcm", "float", "a-law", "mu-law"]
_ENCODINGS: dict[int, Encoding] = {_PCM: "pcm", 0x0003: "float", 0x0006: "a-law", 0x0007: "mu-law"}
_DEPTHS = {"pcm": {8, 16, 24, 32}, "float": {32, 64}, "a-law": {8}, "mu-law": {8}}
# How KSDATAFORMAT_SUBTYPE_PCM and its like end, the sub-formats of WAVE_FORMAT_EXTENSIBLE (Microsoft, ksmedia.h).
_SUBTYPE = bytes.fromhex("000000001000800000aa00389b71")
# Recorders write a handful, editors some dozens.
_MOST_CHUNKS = 10_000
_UNKNOWN_SIZE = b"\xff" * 4


def wav_header(data_bytes: int, sample_rate: int = SAMPLE_RATE, *, trailer_bytes: int = 0) -> bytes:
    """The 44 bytes before ``data_bytes`` bytes of signed 16-bit little-endian samples of one channel.

    Args:
        data_bytes: Size of the sound; even, and below 4 GiB with everything else in the file.
        sample_rate: Samples per second.
        trailer_bytes: Size of the chunks that follow the sound; even.

    Raises:
        ValueError: No WAV can hold that much, half a sample, or that rate.
    """
    if not 0 <= data_bytes <= MAX_DATA_BYTES - trailer_bytes:
        raise ValueError(f"a WAV holds 0 to {MAX_DATA_BYTES:,} bytes of sound (4 GiB), not {data_bytes:,}")
    if data_bytes % _BYTES_PER_SAMPLE:
        raise ValueError(f"{data_bytes:,} bytes are no whole number of 16-bit samples")
    if not 0 < sample_rate < 2**31:
        raise ValueError(f"a sample rate lies between 1 and {2**31 - 1:,} Hz, not {sample_rate:,}")
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", HEADER_BYTES - 8 + data_bytes + trailer_bytes, b"WAVE"),
        *(b"fmt ", 16, _PCM, 1, sample_rate, sample_rate * _BYTES_PER_SAMPLE, _BYTES_PER_SAMPLE, 16),
        *(b"data", data_bytes),
    )


def growing_header(sample_rate: int = SAMPLE_RATE) -> bytes:
    """The header of a file that still grows; both sizes are the one that players take for "until it ends".

    Args:
        sample_rate: Samples per second.

    Raises:
        ValueError: No WAV has that rate.
    """
    header = wav_header(0, sample_rate)
    return header[:4] + _UNKNOWN_SIZE + header[8:-4] + _UNKNOWN_SIZE


def is_growing_header(header: bytes) -> bool:
    """Whether these 44 bytes, or fewer, are the beginning of a ``growing_header`` of any rate."""
    growing = growing_header()
    if len(header) < HEADER_BYTES:
        return growing.startswith(header)
    # In between is the rate.
    return header[:8] == growing[:8] and header[-8:] == growing[-8:]


def encode_wav(pcm: bytes, sample_rate: int = SAMPLE_RATE) -> bytes:
    """A complete WAV in memory.

    Args:
        pcm: Signed 16-bit little-endian samples of one channel.
        sample_rate: Samples per second.

    Raises:
        ValueError: As ``wav_header``.
    """
    return wav_header(len(pcm), sample_rate) + pcm


@dataclass(frozen=True, slots=True)
class SoundFormat:
    """How samples are written down.

    Attributes:
        sample_rate: Samples per second.
        channels: Samples per moment.
        bits: Bits per sample.
        encoding: What they mean; ``"pcm"``: numbers, unsigned in 8 bits and else signed.
    """

    sample_rate: int
    channels: int = 1
    bits: int = 16
    encoding: Encoding = "pcm"

    @property
    def frame_bytes(self) -> int:
        """Bytes per moment."""
        return self.channels * self.bits // 8

    def __str__(self) -> str:
        encoding = "" if self.encoding == "pcm" else f" ({self.encoding})"
        plural = "" if self.channels == 1 else "s"
        return f"{self.sample_rate:,} Hz, {self.bits} bits{encoding} and {self.channels} channel{plural}"


@dataclass(frozen=True, slots=True)
class WavData:
    """What a WAV holds.

    Attributes:
        pcm: The samples, little-endian, channels interleaved; may end inside a sample when the file was cut.
        format: How they are written down.
    """

    pcm: bytes
    format: SoundFormat


class UnknownCodecError(ValueError):
    """A WAV that is well-formed, as far as that can be told, and whose sound is in a format that cannot be read."""


class RiffChunk(NamedTuple):
    """A part of a RIFF file.

    Attributes:
        name: Its four bytes of name.
        start: Where its content begins.
        size: Bytes of its content, as the file says; they may not be there.
    """

    name: bytes
    start: int
    size: int

    @property
    def end(self) -> int:
        """Where the next chunk begins; a chunk of odd size is followed by one byte of padding."""
        return self.start + self.size + self.size % 2


def riff_chunks(data: bytes | bytearray, start: int = FIRST_CHUNK) -> Iterator[RiffChunk]:
    """Every chunk whose name and size are there, in order; the caller limits how many it looks at.

    Args:
        data: A RIFF file from its first byte, or the beginning of one.
        start: Where a chunk begins.
    """
    while start + _CHUNK_HEAD.size <= len(data):
        name, size = _CHUNK_HEAD.unpack_from(data, start)
        chunk = RiffChunk(name, start + _CHUNK_HEAD.size, size)
        yield chunk
        start = chunk.end


def decode_wav(data: bytes) -> WavData:
    """Unwrap a WAV whose chunks may stand in any order and whose size fields may be wrong.

    A ``data`` chunk whose size is 0, 0xFFFFFFFF or beyond the end holds what is there: writers that stream cannot
    know the size in advance.

    Args:
        data: The file from its first byte.

    Raises:
        UnknownCodecError: Its sound is neither PCM nor float, A-law or mu-law, or in a depth that these do not have.
        ValueError: It is no WAV; the text says what it is instead.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise ValueError(f"no WAV: it begins with {data[:12]!r} rather than b'RIFF' and b'WAVE'")
    found: dict[bytes, slice] = {}
    for chunk in islice(riff_chunks(data), _MOST_CHUNKS):
        if chunk.name not in _WANTED or chunk.name in found:
            continue
        goes_on = chunk.name == b"data" and chunk.size == 0 and not _only_chunks_follow(data, chunk.start)
        found[chunk.name] = slice(chunk.start, None if goes_on else chunk.start + chunk.size)
        if goes_on or len(found) == len(_WANTED):
            break
    if missing := [name.decode() for name in _WANTED if name not in found]:
        raise ValueError(
            f"a WAV of {len(data):,} bytes without a {missing[0]!r} chunk among its first {_MOST_CHUNKS:,}"
        )
    return WavData(data[found[b"data"]], _parse_format(data[found[b"fmt "]]))


_WANTED = (b"fmt ", b"data")


def _only_chunks_follow(data: bytes, offset: int) -> bool:
    """Whether well-formed chunks fill ``data`` to its very end, as no sound does: then an empty chunk is meant so."""
    for chunk in islice(riff_chunks(data, offset), _MOST_CHUNKS):
        if not (chunk.name.isascii() and chunk.name.decode().isprintable()):
            return False
        offset = chunk.end
    return offset == len(data)


def _parse_format(body: bytes) -> SoundFormat:
    """What a ``fmt`` chunk says."""
    if len(body) < 16:
        raise ValueError(f"a WAV whose 'fmt ' chunk has {len(body)} bytes instead of 16 or more")
    code, channels, sample_rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
    if code == _EXTENSIBLE and body[26:40] == _SUBTYPE:
        code = int.from_bytes(body[24:26], "little")
    encoding = _ENCODINGS.get(code)
    if encoding is None:
        raise UnknownCodecError(f"a WAV of format {code:#06x}, not PCM ({_PCM:#06x})")
    if not channels or not sample_rate or bits not in _DEPTHS[encoding]:
        raise UnknownCodecError(
            f"a WAV of {sample_rate:,} Hz, {channels} channels and {bits} bits ({encoding}), which nothing can play"
        )
    return SoundFormat(sample_rate, channels, bits, encoding)
