"""WAV: the header, a reader that forgives what servers get wrong, and a file that appears whole or not at all."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import re
import stat
import struct
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar

from audio_api.audio.durable import (
    FOLDER_FLAGS,
    absolute,
    claim_durably,
    draft_name,
    explained,
    open_folder,
    real_folder,
    replace_durably,
    taken,
    write_all,
)
from audio_api.audio.file_threads import in_file_thread, run_in_file_thread
from audio_api.errors import ErrorCode, TTSOutputError, TTSValidationError
from audio_api.models.filenames import safe_filename

SAMPLE_RATE = 24_000
"""Samples per second of everything Gemini speaks."""

HEADER_BYTES = 44
MAX_DATA_BYTES = 2**32 - HEADER_BYTES - 2
"""The most sound a WAV holds: its size fields have 32 bits, and a sample has two bytes. A day of 24-kHz mono."""

MOST_UNSAVED_BYTES = 64 * 2**20
"""The most sound, of 23 minutes, that is handed over in memory when its file could not be written."""

_BYTES_PER_SAMPLE = 2
_PCM, _EXTENSIBLE = 0x0001, 0xFFFE
Encoding = Literal["pcm", "float", "a-law", "mu-law"]
_ENCODINGS: dict[int, Encoding] = {_PCM: "pcm", 0x0003: "float", 0x0006: "a-law", 0x0007: "mu-law"}
_DEPTHS = {"pcm": {8, 16, 24, 32}, "float": {32, 64}, "a-law": {8}, "mu-law": {8}}
# How KSDATAFORMAT_SUBTYPE_PCM and its like end, the sub-formats of WAVE_FORMAT_EXTENSIBLE (Microsoft, ksmedia.h).
_SUBTYPE = bytes.fromhex("000000001000800000aa00389b71")
# Recorders write a handful, editors some dozens.
_MOST_CHUNKS = 10_000

Pcm = bytes | bytearray | memoryview
_GROWING = ".part.wav"
_UNKNOWN_SIZE = b"\xff" * 4
_T = TypeVar("_T")


class TooLateError(Exception):
    """A finished file did not get its name, because the moment before which it might have it is over."""


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


def _endless_header(sample_rate: int) -> bytes:
    """The header of a file that still grows; both sizes are the one that players take for "until it ends"."""
    header = wav_header(0, sample_rate)
    return header[:4] + _UNKNOWN_SIZE + header[8:-4] + _UNKNOWN_SIZE


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
    offset = 12
    for _ in range(_MOST_CHUNKS):
        if len(found) == len(_WANTED) or offset + 8 > len(data):
            break
        chunk_id, size = struct.unpack_from("<4sI", data, offset)
        start = offset + 8
        if chunk_id in _WANTED and chunk_id not in found:
            if chunk_id == b"data" and size == 0 and not _only_chunks_follow(data, start):
                size = len(data) - start
            found[chunk_id] = slice(start, min(start + size, len(data)))
        # A chunk of odd size is followed by one byte of padding.
        offset = start + size + size % 2
    if missing := [name.decode() for name in _WANTED if name not in found]:
        raise ValueError(
            f"a WAV of {len(data):,} bytes without a {missing[0]!r} chunk among its first {_MOST_CHUNKS:,}"
        )
    return WavData(data[found[b"data"]], _parse_format(data[found[b"fmt "]]))


_WANTED = (b"fmt ", b"data")


def _only_chunks_follow(data: bytes, offset: int) -> bool:
    """Whether well-formed chunks fill ``data`` to its very end, as no sound does: then an empty chunk is meant so."""
    for _ in range(_MOST_CHUNKS):
        if offset + 8 > len(data):
            return offset == len(data)
        chunk_id, size = struct.unpack_from("<4sI", data, offset)
        if not (chunk_id.isascii() and chunk_id.decode().isprintable()):
            return False
        offset += 8 + size + size % 2
    return False


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


async def check_target(directory: Path, name: str, *, overwrite: bool) -> Path:
    """Find out, before anything is paid for, whether a file could be written. Leaves nothing behind.

    Args:
        directory: The output folder; it may be missing if it can be made.
        name: The file's name, as ``safe_filename`` takes it.
        overwrite: Whether an existing file may be replaced.

    Returns:
        Where the folder is, after all links.

    Raises:
        TTSValidationError: The name is no safe file name.
        TTSOutputError: The folder takes no files, or the name is taken (code ``OUTPUT_EXISTS``).
    """
    return await in_file_thread(_check_target, directory, _checked(name), overwrite)


def _check_target(directory: Path, name: str, overwrite: bool) -> Path:
    with explained(directory / name):
        real = real_folder(directory)
        path = absolute(directory) / name
        folder = next(folder for folder in path.parents if os.path.lexists(folder))
        os.close(os.open(folder, FOLDER_FLAGS))
        # Making a file, which tells the reason of a refusal, takes a hundred times the CPU of asking for one.
        if not (os.access(folder, os.W_OK | os.X_OK, effective_ids=True) and os.statvfs(folder).f_favail):
            with tempfile.TemporaryFile(dir=folder):
                pass
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            _refuse_look_alike(path)
            return real
        if not overwrite:
            raise taken(path)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return real


def check_folder(directory: Path, size_bytes: int) -> None:
    """Find out, blocking, whether a folder takes a file of this size. Leaves nothing behind.

    Args:
        directory: The folder; it may be missing if it can be made.
        size_bytes: The size of the file; it is written.

    Raises:
        TTSOutputError: It does not; the text says why.
    """
    with explained(directory):
        path = absolute(directory)
        folder = next(each for each in (path, *path.parents) if os.path.lexists(each))
        os.close(os.open(folder, FOLDER_FLAGS))
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(max(1, size_bytes)))
            file.flush()
            if size_bytes:
                os.fsync(file.fileno())


async def write_wav(
    directory: Path, name: str, pcm: Pcm, *, sample_rate: int = SAMPLE_RATE, overwrite: bool = False
) -> Path:
    """Write a WAV that is in memory, whole and durably, in one trip to a thread. Returns its absolute path.

    Cancelled, it leaves no file, or the complete one when it was already there; never a part. A link that stands at
    the name is replaced, never followed.

    Args:
        directory: The output folder; made with mode 0700 when missing.
        name: The file's name, as ``safe_filename`` takes it.
        pcm: Signed 16-bit little-endian samples of one channel.
        sample_rate: Samples per second.
        overwrite: Whether an existing file may be replaced.

    Raises:
        TTSValidationError: The name is no safe file name.
        TTSOutputError: As ``WavWriter.commit``.
        ValueError: The sound ends inside a sample, or no WAV has this sample rate.
    """
    draft = _Draft(directory, name, sample_rate, overwrite)
    return await draft.in_thread(draft.save, pcm)


def save_wav(
    directory: Path,
    name: str,
    pcm: Pcm,
    *,
    sample_rate: int = SAMPLE_RATE,
    overwrite: bool = False,
    trailer: bytes = b"",
    real: Path | None = None,
) -> Path:
    """Do what ``write_wav`` does, blocking, for work that runs in a thread anyway.

    Args:
        directory: As ``write_wav``.
        name: As ``write_wav``.
        pcm: As ``write_wav``.
        sample_rate: As ``write_wav``.
        overwrite: As ``write_wav``.
        trailer: Chunks that follow the sound, complete with ids, sizes and padding; players ignore unknown ones.
        real: As ``WavWriter``.

    Raises:
        TTSValidationError: As ``write_wav``.
        TTSOutputError: As ``write_wav``.
        ValueError: As ``write_wav``.
    """
    return _Draft(directory, name, sample_rate, overwrite, real=real).save(pcm, trailer)


class WavWriter:
    """A WAV file that grows piece by piece and appears under its name only when it is complete and on disk.

    Use it as ``async with WavWriter(folder, "book.wav") as writer``; leaving without ``commit()``, for whatever
    reason, removes every trace. Calls are made one after the other.

    Args:
        directory: The output folder; made with mode 0700 when missing.
        name: The file's name, as ``safe_filename`` takes it.
        sample_rate: Samples per second.
        overwrite: Whether ``commit`` may replace an existing file.
        growing: Whether players may open the file before it is complete, as ``NAME.part.wav`` beside it: its header
            then says that the size is not known, and ``commit`` renames it.
        real: What ``check_target`` returned: if a link has taken its place since, nothing is written. ``None``: where
            the folder is when the file is opened.

    Raises:
        TTSValidationError: The name is no safe file name.
        ValueError: No WAV has this sample rate.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        sample_rate: int = SAMPLE_RATE,
        overwrite: bool = False,
        growing: bool = False,
        real: Path | None = None,
    ) -> None:
        self._draft = _Draft(directory, name, sample_rate, overwrite, growing=growing, real=real)

    async def __aenter__(self) -> Self:
        try:
            await self._draft.in_thread(self._draft.__enter__)
        except asyncio.CancelledError:
            await self._draft.in_thread(self._draft.discard)
            raise
        return self

    async def write(self, pcm: Pcm) -> None:
        """Append sound. A write that fails or is cancelled ends the file: it cannot be committed any more.

        Args:
            pcm: Signed 16-bit little-endian samples of one channel; a sample may be split over two writes.

        Raises:
            TTSOutputError: As ``commit``.
            RuntimeError: The file was committed, discarded, or never opened with ``async with``.
        """
        await self._draft.in_thread(self._draft.write, pcm)

    async def prepare(self, pcm: Pcm = b"") -> os.stat_result:
        """Append the end of the sound, and complete the file on disk; only its name is still missing.

        Args:
            pcm: As ``write``.

        Returns:
            What the file is. The name that it gets changes neither its inode nor its size nor its time.

        Raises:
            TTSOutputError: As ``commit``.
            ValueError: The sound ends inside a sample.
            RuntimeError: The file was committed, discarded, or never opened with ``async with``.
        """
        return await self._draft.in_thread(self._draft.prepare, pcm)

    @property
    def unsaved(self) -> bytes | None:
        """What was written before the file was given up; ``None``: above ``MOST_UNSAVED_BYTES``, or unreadable."""
        return self._draft.unsaved

    async def commit(self, before: float = inf) -> Path:
        """Give the complete file its name, on disk before this returns. Returns its absolute path.

        A link that stands at the name is replaced, never followed. Cancelled, the file is there wholly or not at all.
        Where the file system has no hard links, a name that must not be overwritten is first reserved by an empty
        file; a reader may see that for a moment.

        Args:
            before: The moment, in seconds of ``time.monotonic``, from which on the file may not get its name any more.

        Raises:
            TooLateError: That moment is over; the file may be committed again with a later one.
            TTSOutputError: The name is taken (code ``OUTPUT_EXISTS``), or the system said no; the text names the file
                and the reason. An older file is untouched, unless replacing it worked and only syncing the folder
                failed: then the new file is complete, but might not survive a power failure.
            ValueError: The sound ends inside a sample.
            RuntimeError: The file was committed, discarded, or never opened with ``async with``.
        """
        return await self._draft.in_thread(self._draft.publish, before)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._draft.is_open:
            await self._draft.in_thread(self._draft.discard)


class _Draft:
    """A WAV under a temporary name. Its methods block; they run in threads, one at a time."""

    def __init__(
        self,
        directory: Path,
        name: str,
        sample_rate: int,
        overwrite: bool,
        *,
        growing: bool = False,
        real: Path | None = None,
    ) -> None:
        wav_header(0, sample_rate)
        self._real = real
        self._name = _checked(name)
        self._path = directory / self._name
        self._temp_name = _checked(f"{self._name.removesuffix('.wav')}{_GROWING}") if growing else ""
        self._growing = growing
        self._sample_rate = sample_rate
        self._overwrite = overwrite
        self._data_bytes = 0
        self.unsaved: bytes | None = None
        self._fd = -1
        self._folder_fd = -1
        self._prepared = False
        self._cancelled = False
        self._undo = ExitStack()

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    async def in_thread(self, work: Callable[..., _T], *args: object) -> _T:
        """Run blocking work. A thread cannot be stopped: when cancelled, tell it, and wait until it is done."""
        # A plain future: unlike a task it is not cancelled, and so lost sight of, when the loop shuts down.
        running = run_in_file_thread(work, *args)
        cancellation: asyncio.CancelledError | None = None
        while not running.done():
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError as error:
                self._cancelled = True
                cancellation = error
        if cancellation is None:
            return running.result()
        running.exception()
        raise cancellation

    def __enter__(self) -> Self:
        # Here, in the thread: the system's chance is a call, too.
        self._temp_name = self._temp_name or draft_name(self._name)
        with explained(self._path), ExitStack() as undo:
            self._path = absolute(self._path)
            self._folder_fd = open_folder(self._real or real_folder(self._path.parent))
            undo.callback(os.close, self._folder_fd)
            _remove_stale_drafts(self._folder_fd)
            if self._growing:
                self._remove_part_of_the_dead()
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            self._fd = os.open(self._temp_name, flags, 0o666, dir_fd=self._folder_fd)
            undo.callback(self._remove)
            if self._growing:
                # Another process may look for a moment whether the file was left behind.
                fcntl.flock(self._fd, fcntl.LOCK_EX)
                write_all(self._fd, memoryview(_endless_header(self._sample_rate)))
            os.lseek(self._fd, HEADER_BYTES, os.SEEK_SET)
            self._undo = undo.pop_all()
        return self

    def _remove_part_of_the_dead(self) -> None:
        """Take the name of a growing file whose writer was killed: its lock ended with it."""
        try:
            fd = os.open(self._temp_name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=self._folder_fd)
        except FileNotFoundError:
            return
        try:
            if not _is_left_behind(fd, begun=False):
                raise TTSOutputError(
                    f"{str(self._path.with_name(self._temp_name))!r} is still being written, or a file of its own: "
                    "choose another name",
                    code=ErrorCode.OUTPUT_EXISTS,
                )
            os.unlink(self._temp_name, dir_fd=self._folder_fd)
        finally:
            os.close(fd)

    def save(self, pcm: Pcm, trailer: bytes = b"") -> Path:
        with self:
            self.prepare(pcm, trailer)
            return self.publish()

    def write(self, pcm: Pcm) -> None:
        with self._writing():
            view = memoryview(pcm).cast("B")
            if self._data_bytes + len(view) > MAX_DATA_BYTES:
                raise OSError(errno.EFBIG, "a WAV holds less than 4 GiB")
            write_all(self._fd, view)
            self._data_bytes += len(view)

    def prepare(self, pcm: Pcm = b"", trailer: bytes = b"") -> os.stat_result:
        self.write(pcm)
        with self._writing():
            header = wav_header(self._data_bytes, self._sample_rate, trailer_bytes=len(trailer))
            write_all(self._fd, memoryview(trailer))
            os.lseek(self._fd, 0, os.SEEK_SET)
            write_all(self._fd, memoryview(header))
            os.fsync(self._fd)
            self._prepared = True
            return os.fstat(self._fd)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._require_open()
        try:
            with explained(self._path):
                yield
        except (TTSOutputError, ValueError):
            self._read_back(self._fd)
            self.discard()
            raise

    def _read_back(self, fd: int) -> None:
        with suppress(OSError):
            if self._data_bytes <= MOST_UNSAVED_BYTES:
                self.unsaved = b"".join(_content(fd, self._data_bytes))

    def publish(self, before: float = inf) -> Path:
        if not self._prepared:
            self.prepare()
        self._require_open()
        # Here, in the thread: it may have waited, or been frozen, since it was told to publish.
        if time.monotonic() >= before:
            raise TooLateError
        with explained(self._path), self._undo, self._reading_back():
            self._close()
            # The path must still lead here, or a success would name a file that is elsewhere.
            if not os.path.samestat(os.fstat(self._folder_fd), self._path.parent.stat()):
                raise OSError(errno.ESTALE, "its folder was replaced while it was written")
            if self._cancelled:
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            give_name = replace_durably if self._overwrite else claim_durably
            try:
                give_name(self._folder_fd, self._temp_name, self._name)
            except FileExistsError:
                raise taken(self._path) from None
        return self._path

    @contextmanager
    def _reading_back(self) -> Iterator[None]:
        fd = os.dup(self._fd)
        try:
            yield
        except (OSError, TTSOutputError):
            self._read_back(fd)
            raise
        finally:
            os.close(fd)

    def discard(self) -> None:
        self._undo.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def _require_open(self) -> None:
        if not self.is_open or self._cancelled:
            raise RuntimeError(f"{str(self._path)!r} is not open for writing: it was committed, discarded or cancelled")

    def _close(self) -> None:
        # Forgotten first: after a failed close the number may already belong to another file.
        fd, self._fd = self._fd, -1
        os.close(fd)

    def _remove(self) -> None:
        with suppress(OSError):
            if self.is_open:
                self._close()
        with suppress(OSError):
            os.unlink(self._temp_name, dir_fd=self._folder_fd)


def _content(fd: int, data_bytes: int) -> Iterator[bytes]:
    """The sound of a file that has a header."""
    at, end = HEADER_BYTES, HEADER_BYTES + data_bytes
    while at < end and (block := os.pread(fd, end - at, at)):
        yield block
        at += len(block)


# Silence after which the draft of a dead process counts as forgotten. A process of another container may look dead,
# so this is longer than any pause between two pieces of a book.
_FORGOTTEN_AFTER_S = 3600
_TEMP_NAME = re.compile(r"\..+\.([1-9][0-9]{0,6})\.[0-9a-f]{16}\.tmp", re.DOTALL)
_tidied: set[tuple[int, int]] = set()


def _checked(name: str) -> str:
    try:
        return safe_filename(name)
    except ValueError as error:
        raise TTSValidationError(str(error)) from None


def _refuse_look_alike(path: Path) -> None:
    """Refuse a name of which a file exists whose accents are characters of their own: both would look the same."""
    if os.path.lexists(path.with_name(unicodedata.normalize("NFD", path.name))):
        raise TTSOutputError(
            f"{str(path)!r} exists already, with decomposed accents in its name (Unicode NFD): rename or remove that "
            "file, or choose another name",
            code=ErrorCode.OUTPUT_EXISTS,
        )


def _is_left_behind(fd: int, *, begun: bool) -> bool:
    """Whether no process writes a file any more whose header says that it grows: a complete one is somebody's.

    Args:
        fd: The file.
        begun: Whether its header must be there.
    """
    with suppress(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        header, growing = os.pread(fd, HEADER_BYTES, 0), _endless_header(SAMPLE_RATE)
        if len(header) < HEADER_BYTES:
            return not begun and growing.startswith(header)
        # In between is the rate, which may be another.
        return header[:8] == growing[:8] and header[-8:] == growing[-8:]
    return False


def _remove_stale_drafts(folder_fd: int) -> None:
    """Remove what crashed processes left behind; once per folder and process, because it lists the whole folder."""
    folder = os.fstat(folder_fd)
    if (folder.st_dev, folder.st_ino) in _tidied:
        return
    _tidied.add((folder.st_dev, folder.st_ino))
    with os.scandir(folder_fd) as entries:
        for entry in entries:
            with suppress(OSError):
                if _is_forgotten(entry) or _is_part_of_the_dead(entry, folder_fd):
                    os.unlink(entry.name, dir_fd=folder_fd)


def _is_forgotten(entry: os.DirEntry[str]) -> bool:
    match = _TEMP_NAME.fullmatch(entry.name)
    if match is None or not entry.is_file(follow_symlinks=False):
        return False
    silent_s = time.time() - entry.stat(follow_symlinks=False).st_mtime
    return silent_s > _FORGOTTEN_AFTER_S and not _is_another_process(int(match[1]))


def _is_part_of_the_dead(entry: os.DirEntry[str], folder_fd: int) -> bool:
    if not (entry.name.endswith(_GROWING) and entry.is_file(follow_symlinks=False)):
        return False
    fd = os.open(entry.name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=folder_fd)
    try:
        return _is_left_behind(fd, begun=True)
    finally:
        os.close(fd)


def _is_another_process(pid: int) -> bool:
    # A container's first process has the same number in every life: an old draft with our own number is not ours.
    if pid == os.getpid():
        return False
    try:
        # PermissionError: somebody else's, but alive.
        with suppress(PermissionError):
            os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
