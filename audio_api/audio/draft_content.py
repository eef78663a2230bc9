"""What a draft of a sound file holds: a WAV, or what an encoder makes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Protocol

from audio_api.audio.durable import DurableFile
from audio_api.audio.encoder_sink import Pcm
from audio_api.audio.encoding import FileEncoder
from audio_api.audio.left_behind import mark_growing
from audio_api.audio.wav import (
    HEADER_BYTES,
    MAX_DATA_BYTES,
    growing_header,
    wav_header,
)
from audio_api.errors import TTSValidationError
from audio_api.models.sound_formats import OutputFormat

MOST_UNSAVED_BYTES = 64 * 2**20
"""The most sound, of 23 minutes, that is handed over in memory when its file could not be written."""

# Of a sound in another format than WAV, six minutes, because it is kept in memory; of a WAV it is read from the disk.
_MOST_KEPT_BYTES = 16 * 2**20


class DraftContent(Protocol):
    """What a draft holds; the methods are in the order of their calls.

    They raise ``OSError`` where the system says no, and ``ValueError`` when the sound ends inside a sample.
    """

    def begin(self, file: DurableFile) -> None:
        """Put what comes before the sound into the empty file."""

    def describe(self, tags: Mapping[str, str]) -> None:
        """Take what the file says about itself, before the first write."""

    def write(self, pcm: Pcm) -> None:
        """Append sound."""

    def finish(self, trailer: bytes) -> None:
        """Complete the file; ``trailer`` follows the sound of a WAV."""

    def sound(self, fd: int) -> bytes | None:
        """The samples of all writes that succeeded; ``None``: too many, or not known any more."""

    def let_go(self) -> None:
        """Write no more: the file may be closed."""


class WavContent:
    """A header, which is put there at the end, and the samples: ``data_bytes`` of them so far. A twin has them all."""

    def __init__(self, sample_rate: int, *, growing: bool = False) -> None:
        wav_header(0, sample_rate)
        self._sample_rate = sample_rate
        self._growing = growing
        self.data_bytes = 0
        self._file: DurableFile

    def begin(self, file: DurableFile) -> None:
        self._file = file
        if self._growing:
            file.write(growing_header(self._sample_rate))
        os.lseek(file.fileno(), HEADER_BYTES, os.SEEK_SET)

    def describe(self, tags: Mapping[str, str]) -> None:
        pass

    def write(self, pcm: Pcm) -> None:
        size_bytes = memoryview(pcm).nbytes
        if self.data_bytes + size_bytes > MAX_DATA_BYTES:
            raise OSError(errno.EFBIG, "a WAV holds less than 4 GiB")
        if not self._file.is_twin:
            self._file.write(pcm)
        self.data_bytes += size_bytes

    def finish(self, trailer: bytes) -> None:
        if self._file.is_twin:
            return
        header = wav_header(self.data_bytes, self._sample_rate, trailer_bytes=len(trailer))
        self._file.write(trailer)
        os.lseek(self._file.fileno(), 0, os.SEEK_SET)
        self._file.write(header)

    def sound(self, fd: int) -> bytes | None:
        with suppress(OSError):
            if self.data_bytes <= MOST_UNSAVED_BYTES:
                return b"".join(_content(fd, self.data_bytes))
        return None

    def let_go(self) -> None:
        pass


class EncodedContent:
    """What an encoder makes of the samples, and these themselves as long as they are few."""

    def __init__(self, output_format: OutputFormat, *, growing: bool) -> None:
        if growing and output_format == "m4a":
            raise TTSValidationError(
                "an m4a file cannot be played before it is complete: make it with generate_audio, or stream to a file "
                "that ends with .wav, .mp3, .opus or .flac"
            )
        self._format = output_format
        self._tags: Mapping[str, str] = {}
        self._growing = growing
        self._kept: list[Pcm] | None = []
        self._kept_bytes = 0
        self._file: DurableFile
        self._encoder: FileEncoder | None = None

    def begin(self, file: DurableFile) -> None:
        self._file = file
        if self._growing:
            mark_growing(file.fileno(), True)

    def describe(self, tags: Mapping[str, str]) -> None:
        self._tags = tags

    def write(self, pcm: Pcm) -> None:
        if self._encoder is None:
            self._encoder = FileEncoder(self._file.fileno(), self._format, self._tags)
        self._encoder.write(pcm)
        self._kept_bytes += len(pcm)
        if self._kept_bytes > _MOST_KEPT_BYTES:
            self._kept = None
        elif self._kept is not None:
            self._kept.append(pcm)

    def finish(self, trailer: bytes) -> None:
        assert self._encoder  # noqa: S101 - a draft writes before it finishes
        self._encoder.finish()
        if self._growing:
            mark_growing(self._file.fileno(), False)

    def sound(self, fd: int) -> bytes | None:
        return None if self._kept is None else b"".join(self._kept)

    def let_go(self) -> None:
        if self._encoder:
            self._encoder.abandon()


def _content(fd: int, data_bytes: int) -> Iterator[bytes]:
    """The sound of a file that has a header."""
    at, end = HEADER_BYTES, HEADER_BYTES + data_bytes
    while at < end and (block := os.pread(fd, end - at, at)):
        yield block
        at += len(block)
