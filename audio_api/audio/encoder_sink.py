"""What encoders have in common: samples go in, and the bytes of a format come out into a sink."""

from __future__ import annotations

import io
import os
from typing import BinaryIO, Protocol

Pcm = bytes | bytearray | memoryview


class Encoder(Protocol):
    """Turns samples into the bytes of a format, which it writes into its sink."""

    def write(self, pcm: Pcm, /) -> object:
        """Encode samples, whole ones, of a second at most."""

    def close(self) -> None:
        """Encode what is left, and complete the format; does nothing the second time."""


class Sink:
    """The binary file that an encoder believes to have: a file from some byte on, or memory.

    To its encoder it never fails, because a C library could not tell the reason; ``check`` raises it.

    Args:
        fd: The file; ``None``: a stream, whose bytes ``take`` hands over.
        begin: The byte of the file at which the encoder begins.
    """

    def __init__(self, fd: int | None = None, begin: int = 0) -> None:
        self._fd = fd
        self._begin = begin
        self._is_stream = fd is None
        self._at = self._end = 0
        self._sendable = bytearray()
        self._problem: tuple[int | None, str | None] | None = None

    def write(self, data: Pcm, /) -> int:
        """Take bytes; a stream drops those with which an encoder patches what is on its way already."""
        data = bytes(data)
        if self._is_stream:
            if self._at == self._end:
                self._sendable += data
        elif self._fd is not None and self._problem is None:
            at, left = self._begin + self._at, data
            try:
                while left:
                    written = os.pwrite(self._fd, left, at)
                    at, left = at + written, left[written:]
            except OSError as error:
                self._problem = error.errno, error.strerror
        self._at += len(data)
        self._end = max(self._end, self._at)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go elsewhere, as in any file."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._end}[whence]
        return self._at

    def tell(self) -> int:
        """Where the next byte goes."""
        return self._at

    def check(self) -> None:
        """Raise the error that writing the file met, if any."""
        if self._problem is not None:
            # A new error each time: the traceback of a kept one would keep this sink and its encoder alive.
            raise OSError(*self._problem)

    def take(self) -> bytes:
        """What a stream was given since the last time."""
        taken, self._sendable = bytes(self._sendable), bytearray()
        return taken

    def read_again(self) -> BinaryIO:
        """The file that was written until now, from its first byte on; empty, if there is none any more."""
        if self._fd is None:
            return io.BytesIO()
        file = os.fdopen(os.dup(self._fd), "rb", buffering=0)
        file.seek(self._begin)
        return file

    def let_go(self) -> None:
        """Write nothing into the file any more: it may be closed."""
        self._fd = None

    def close(self) -> None:
        """Do nothing: the file is closed by its owner."""
