"""The body of a reply while it comes in: a large one waits on disk, and its sound never passes through JSON."""

from __future__ import annotations

import binascii
import mmap
import os
import re
import tempfile
import threading
from dataclasses import dataclass, field
from io import FileIO

from audio_api.audio.file_threads import in_file_thread
from audio_api.audio.large_sounds import Permit, in_sound_thread
from audio_api.engines.gemini_json import MOST_JSON_BYTES, sound_of, too_much

# Many may come in at once. 8 seconds of speech are less, and take a third of a millisecond. A multiple of four, as
# base64 is.
_STEP_BYTES = 2**19
# Hundreds of parts of a tenth of a second are sound, too.
_SOUND_FROM_BYTES = 2**10
# In a quotation of JSON, a backslash stands before the first mark; to begin with that would slow the search down.
_DATA = re.compile(rb'"(?<!\\")data"\s*:\s*"')


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
    """Grows part by part; its maker closes it."""

    def __init__(self) -> None:
        self._tail = bytearray()
        self._file: FileIO | None = None
        self._has_room = True
        self._is_closed = False
        # A thread goes on when who waits for it is cancelled.
        self._in_use = threading.Lock()

    async def add(self, part: bytes) -> None:
        """Append the next part."""
        self._tail += part
        if self._has_room and len(self._tail) >= _STEP_BYTES:
            await in_file_thread(self._set_aside)

    async def read(self) -> bytes:
        """The whole of it, as it came."""
        return bytes(self._tail) if self._file is None else await in_file_thread(self._read, self._file)

    async def unpack(self, permit: Permit | None = None) -> Unpacked:
        """The whole of it, with large sounds apart from the rest.

        Args:
            permit: Taken before a large sound is loaded; ``None``: none is needed.

        Raises:
            TTSAudioError: There is far more in it than sound.
            ValueError: A large sound is no base64.
        """
        if self._file is None and len(self._tail) < _STEP_BYTES:
            return unpacked(self._tail)
        if permit:
            await permit.take()
        return await in_sound_thread(self._unpack)

    def close(self) -> None:
        """Forget it; waits the few milliseconds for a thread that a cancelled call has left behind."""
        with self._in_use:
            self._is_closed = True
            if self._file is not None:
                self._file.close()

    def _set_aside(self) -> None:
        with self._in_use:
            if self._is_closed:
                return
            try:
                if self._file is None:
                    self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by close()
                while self._tail:
                    del self._tail[: self._file.write(self._tail)]
            except OSError:
                # Without room on disk it stays in memory.
                self._has_room = False

    def _read(self, file: FileIO) -> bytes:
        with self._in_use:
            file.seek(0)
            return file.readall() + self._tail

    def _unpack(self) -> Unpacked:
        self._set_aside()
        if self._file is None:
            return unpacked(self._tail)
        if self._tail:
            return unpacked(self._read(self._file))
        with self._in_use:
            with mmap.mmap(self._file.fileno(), 0) as body:
                json, extents = _decoded_in_place(body)
            sounds = {mark: os.pread(self._file.fileno(), size, start) for mark, (start, size) in extents.items()}
        return Unpacked(json, sounds)


async def unpacked_event(event: bytearray) -> Unpacked:
    """What ``unpacked`` makes of an event of a stream, in a thread if it is large."""
    return await in_sound_thread(unpacked, event) if len(event) >= _STEP_BYTES else unpacked(event)


def unpacked(content: bytes | bytearray) -> Unpacked:
    """What is in memory, with large sounds apart from the rest; half a megabyte or more is for a thread.

    Raises:
        TTSAudioError: As from ``Body.unpack``.
        ValueError: As from ``Body.unpack``.
    """
    if len(content) >= _STEP_BYTES:
        with mmap.mmap(-1, len(content)) as body:
            body.write(content)
            json, extents = _decoded_in_place(body)
            return Unpacked(json, {mark: body[start : start + size] for mark, (start, size) in extents.items()})
    sounds: dict[bytes, bytes] = {}
    rest = bytearray()
    copied = seen = 0
    while (found := _DATA.search(content, seen)) and (seen := content.find(b'"', start := found.end())) >= 0:
        if seen - start >= _SOUND_FROM_BYTES:
            mark = b"sound %d" % len(sounds)
            sounds[mark] = sound_of(content[start - 1 : seen + 1])
            rest += content[copied:start] + binascii.b2a_base64(mark, newline=False)
            copied = seen
    return Unpacked(bytes(rest + content[copied:]), sounds)


def _decoded_in_place(body: mmap.mmap) -> tuple[bytes, dict[bytes, tuple[int, int]]]:
    """The JSON with marks for sounds, and by its mark where each sound begins now and how long it is."""
    extents: dict[bytes, tuple[int, int]] = {}
    json = bytearray()
    copied = seen = 0
    # A search in the whole would keep the interpreter from everything else for too long.
    while found := _DATA.search(body, seen, copied + MOST_JSON_BYTES - len(json)):
        start = seen = found.end()
        if body.find(b'"', start, start + _SOUND_FROM_BYTES) < 0:
            # The sound takes the place of its base64.
            written = start
            while encoded := body[seen : seen + _STEP_BYTES].partition(b'"')[0]:
                sound = sound_of(b'"%b"' % encoded)
                body[written : written + len(sound)] = sound
                # What lies behind is in the file, and needs no memory.
                body.madvise(mmap.MADV_DONTNEED)
                written += len(sound)
                seen += len(encoded)
            mark = b"sound %d" % len(extents)
            extents[mark] = start, written - start
            json += body[copied:start] + binascii.b2a_base64(mark, newline=False)
            copied = seen
    if len(json) + len(body) - copied > MOST_JSON_BYTES:
        raise too_much()
    return bytes(json + body[copied:]), extents
