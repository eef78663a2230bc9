"""The body of a reply while it comes in: a large one waits on disk, and its sound never passes through JSON."""

from __future__ import annotations

import asyncio
import binascii
import mmap
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import FileIO

from audio_api.audio.sound_thread import in_sound_thread

# Parsing takes four times the size of a body in memory, and many may come in at once. 8 seconds of speech are less.
_IN_MEMORY_BYTES = 2**19
_STEP_BYTES = 2**18
_SOUND_FROM_BYTES = 2**16
_DATA = re.compile(rb'"data" *: *"')


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A body and the large sounds that were in it.

    Attributes:
        json: The body; in the place of each of these sounds there is the mark that stands for it, in base64.
        sounds: The sounds by their marks.
    """

    json: bytes
    sounds: dict[bytes, bytes] = field(default_factory=dict)


class Body:
    """Grows part by part; whoever made it closes it."""

    def __init__(self) -> None:
        self._tail = bytearray()
        self._file: FileIO | None = None
        self._has_room = True

    async def add(self, part: bytes) -> None:
        """Append the next part."""
        self._tail += part
        if self._has_room and len(self._tail) >= (_STEP_BYTES if self._file else _IN_MEMORY_BYTES):
            await asyncio.to_thread(self._set_aside)

    async def unpack(self) -> Unpacked:
        """The whole of it; blocks a thread for about a millisecond per second of speech when it is large."""
        if self._file is None:
            return Unpacked(bytes(self._tail))
        return await in_sound_thread(self._unpack, self._file)

    def close(self) -> None:
        """Forget it."""
        if self._file is not None:
            self._file.close()

    def _set_aside(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by close()
            while self._tail:
                del self._tail[: self._file.write(self._tail)]
        except OSError:
            # Without room on disk it stays in memory.
            self._has_room = False

    def _unpack(self, file: FileIO) -> Unpacked:
        self._set_aside()
        if self._tail:
            file.seek(0)
            return Unpacked(file.readall() + self._tail)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as body:
            return _without_sounds(body)


def _without_sounds(body: mmap.mmap) -> Unpacked:
    sounds: dict[bytes, bytes] = {}
    json = bytearray()
    copied = 0
    for start, end in _sounds(body):
        try:
            with memoryview(body) as view, view[start:end] as encoded:
                sound = binascii.a2b_base64(encoded, strict_mode=True)
        except binascii.Error:
            # The parser has the say on what is wrong with it.
            continue
        mark = b"sound %d" % len(sounds)
        sounds[mark] = sound
        json += body[copied:start] + binascii.b2a_base64(mark, newline=False)
        copied = end
    return Unpacked(bytes(json + body[copied:]), sounds)


def _sounds(body: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Where the base64 of every large sound begins and ends."""
    found = _DATA.search(body)
    while found and (end := body.find(b'"', found.end())) >= 0:
        if end - found.end() >= _SOUND_FROM_BYTES:
            yield found.span()[1], end
        found = _DATA.search(body, end)
