"""Files that appear whole, on disk, and where they were meant to be, or not at all. Most of it blocks; for threads."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import tempfile
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

from audio_api.audio.file_threads import in_file_thread
from audio_api.errors import ErrorCode, TTSOutputError, TTSValidationError
from audio_api.models.filenames import MAX_NAME_BYTES, safe_filename
from audio_api.models.sound_formats import OutputFormat

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY
# Enough for a folder that one may enter, but not list; not every system has it.
_PASS_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY
_REPLACED = "a link took the place of its folder"
# Silence after which the draft of a dead process counts as forgotten. A process of another container may look dead,
# so this is longer than any pause between two pieces of a book.
_FORGOTTEN_AFTER_S = 3600
_DRAFT_NAME = re.compile(r"\..+\.([1-9][0-9]{0,6})\.[0-9a-f]{16}\.tmp", re.DOTALL)
# What neither a further name nor a rename changes.
_IDENTITY = ("st_dev", "st_ino", "st_size", "st_mtime_ns")
# What linkat(2) answers on FAT, exFAT and some network and FUSE file systems.
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the system's refusal into an error that names the file and the reason."""
    try:
        yield
    except OSError as error:
        kind = errno.errorcode.get(error.errno or 0, type(error).__name__)
        raise TTSOutputError(f"cannot write {str(path)!r}: {error.strerror or error} ({kind})") from error


def checked_name(name: str, output_format: OutputFormat | None = None) -> str:
    """A file's name, as ``safe_filename`` makes it of these arguments.

    Raises:
        TTSValidationError: It is no safe file name.
    """
    try:
        return safe_filename(name, output_format)
    except ValueError as error:
        raise TTSValidationError(str(error)) from None


def taken(path: Path) -> TTSOutputError:
    """The error that says that a file is there."""
    return TTSOutputError(
        f"{str(path)!r} exists already: choose another name, or set overwrite=True", code=ErrorCode.OUTPUT_EXISTS
    )


def absolute(path: Path) -> Path:
    """The path from the root on.

    Raises:
        FileNotFoundError: The working folder was deleted.
    """
    try:
        return path.absolute()
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "the working folder was deleted") from None


def real_folder(folder: Path) -> Path:
    """Where a folder is, or would be, after all links on the way to it.

    Raises:
        OSError: The working folder was deleted, or a link leads nowhere.
    """
    folder = absolute(folder)
    there = next(each for each in chain((folder,), folder.parents) if os.path.lexists(each))
    return there.resolve(strict=True) / folder.relative_to(there)


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
    return await in_file_thread(_check_target, directory, checked_name(name), overwrite)


def _check_target(directory: Path, name: str, overwrite: bool) -> Path:
    with explained(directory / name):
        real = real_folder(directory)
        path = absolute(directory) / name
        folder = next(folder for folder in path.parents if os.path.lexists(folder))
        os.close(os.open(folder, _FOLDER_FLAGS))
        # Making a file, which tells the reason of a refusal, takes a hundred times the CPU of asking for one.
        if not (os.access(folder, os.W_OK | os.X_OK, effective_ids=True) and os.statvfs(folder).f_favail):
            with tempfile.TemporaryFile(dir=folder):
                pass
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            # Both names would look the same.
            if os.path.lexists(path.with_name(unicodedata.normalize("NFD", path.name))):
                raise TTSOutputError(
                    f"{str(path)!r} exists already, with decomposed accents in its name (Unicode NFD): rename or "
                    "remove that file, or choose another name",
                    code=ErrorCode.OUTPUT_EXISTS,
                ) from None
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
        os.close(os.open(folder, _FOLDER_FLAGS))
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(max(1, size_bytes)))
            file.flush()
            if size_bytes:
                os.fsync(file.fileno())


@contextmanager
def folder_at(real: Path) -> Iterator[int]:
    """Open a folder by its real path and follow no link on the way; make it, and what it lies in, when missing.

    What was made is for its owner alone (mode 0700).

    Args:
        real: As ``real_folder`` gives it.

    Yields:
        Its file descriptor.

    Raises:
        OSError: The system says no, or a link took the place of a folder since the path was found out.
    """
    try:
        descriptor = os.open(real, _FOLDER_FLAGS | os.O_NOFOLLOW)
    except FileNotFoundError:
        descriptor = _make_folder(real)
    except OSError:
        if real.is_symlink():
            raise OSError(errno.ESTALE, _REPLACED) from None
        raise
    else:
        if os.path.realpath(real) != str(real) or not os.path.samestat(os.fstat(descriptor), real.lstat()):
            os.close(descriptor)
            raise OSError(errno.ESTALE, _REPLACED)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _make_folder(real: Path) -> int:
    descriptor = os.open("/", _PASS_FLAGS)
    for part in real.parts[1:]:
        try:
            with suppress(FileExistsError):
                os.mkdir(part, 0o700, dir_fd=descriptor)
            flags = _FOLDER_FLAGS if part is real.parts[-1] else _PASS_FLAGS
            below = os.open(part, flags | os.O_NOFOLLOW, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


class DurableFile:
    """A file that gets its name only when it is whole and on disk. Its methods block; they run one after the other.

    Use it as a context manager; leaving it before ``publish`` has succeeded removes every trace. Where the system says
    no, every method raises ``OSError``.

    Args:
        folder_fd: Its folder, as ``folder_at`` opens it.
        path: Its path.
        overwrite: Whether it may replace an existing file.
        draft: Its name until it is published, in ``draft_path``; ``None``: a hidden one that tells whose it is.
        synced: Whether its name is on disk before ``publish`` returns.
        twin: The path of a complete file, and what that is. If it still is that, and the file system has hard links,
            this file is a further name of it, instead of an empty file. ``None``: there is none.

    Attributes:
        is_twin: Whether it is a further name of that file.
    """

    def __init__(
        self,
        folder_fd: int,
        path: Path,
        *,
        overwrite: bool,
        draft: str | None = None,
        synced: bool = True,
        twin: tuple[Path, os.stat_result] | None = None,
    ) -> None:
        self._folder_fd = folder_fd
        self._path = path
        self._overwrite = overwrite
        self._synced = synced
        self.draft_path = path.with_name(draft or draft_name(path.name))
        self._fd = -1
        self._is_draft = False
        self._twin = twin
        self.is_twin = False

    def __enter__(self) -> Self:
        if self._twin:
            with suppress(OSError):
                os.link(self._twin[0], self.draft_path.name, dst_dir_fd=self._folder_fd, follow_symlinks=False)
                self._is_draft = True
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
                self._fd = os.open(self.draft_path.name, flags, dir_fd=self._folder_fd)
                found = os.fstat(self._fd)
                self.is_twin = all(getattr(found, name) == getattr(self._twin[1], name) for name in _IDENTITY)
        if not self.is_twin:
            # What was linked may have been replaced.
            self._remove()
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            self._fd = os.open(self.draft_path.name, flags, 0o666, dir_fd=self._folder_fd)
            self._is_draft = True
        return self

    @property
    def is_open(self) -> bool:
        """Whether it can be written."""
        return self._fd >= 0

    def fileno(self) -> int:
        """Its file descriptor; -1 when it is not open."""
        return self._fd

    def write(self, content: bytes | bytearray | memoryview) -> None:
        """Write every byte, from where the descriptor stands."""
        size_bytes, at = memoryview(content).nbytes, 0
        while at < size_bytes:
            # No view has a name here: Python before 3.11.9 and 3.12.3 crashes when it collects one with the frame, and
            # the traceback, of an error that is part of a circle (gh-77894).
            at += os.write(self._fd, memoryview(content).cast("B")[at:])

    def close(self) -> None:
        """Close it; it keeps its draft's name until it is published."""
        # Forget the number first: after a failed close it may already belong to another file.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def publish(self) -> None:
        """Give it its name. Its content must be on disk.

        A link that stands at the name is replaced, never followed. Where the file system has no hard links, a name that
        must not be overwritten is first reserved by an empty file.

        Raises:
            TTSOutputError: The name is taken (code ``OUTPUT_EXISTS``).
            OSError: The system says no, or the folder is not where its path leads any more.
        """
        self.close()
        # The path must still lead here, or a success would name a file that is elsewhere.
        if not os.path.samestat(os.fstat(self._folder_fd), self._path.parent.stat()):
            raise OSError(errno.ESTALE, "its folder was replaced while it was written")
        give_name = _replace if self._overwrite else _claim
        try:
            give_name(self._folder_fd, self.draft_path.name, self._path.name, self._synced)
        except FileExistsError:
            raise taken(self._path) from None
        self._is_draft = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        with suppress(OSError):
            self.close()
        if self._is_draft:
            self._is_draft = False
            with suppress(OSError):
                os.unlink(self.draft_path.name, dir_fd=self._folder_fd)


def draft_name(name: str) -> str:
    """A hidden name of at most 255 bytes that tells whose it is."""
    tail = f".{os.getpid()}.{secrets.token_hex(8)}.tmp"
    return f".{name.encode()[: MAX_NAME_BYTES - 1 - len(tail)].decode(errors='ignore')}{tail}"


def _sync_folder(folder_fd: int) -> None:
    """Put the names of a folder's files on disk."""
    try:
        os.fsync(folder_fd)
    except OSError as error:
        # Some network file systems cannot sync a folder, and say so with EINVAL; they need no such step.
        if error.errno != errno.EINVAL:
            raise


def _replace(folder_fd: int, draft: str, name: str, synced: bool) -> None:
    """Give a draft, which is on disk, its name, whatever has it now."""
    os.rename(draft, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    if synced:
        _sync_folder(folder_fd)


def _claim(folder_fd: int, draft: str, name: str, synced: bool) -> None:
    """Give a draft, which is on disk, its name if that is free, and take it back if that cannot be made durable.

    Raises:
        FileExistsError: The name is taken.
        OSError: The system said no.
    """
    try:
        os.link(draft, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder_fd))
        with _given_back(folder_fd, name):
            os.rename(draft, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    with _given_back(folder_fd, name):
        with suppress(OSError):
            os.unlink(draft, dir_fd=folder_fd)
        if synced:
            _sync_folder(folder_fd)


@contextmanager
def _given_back(folder_fd: int, name: str) -> Iterator[None]:
    try:
        yield
    except OSError:
        with suppress(OSError):
            os.unlink(name, dir_fd=folder_fd)
        raise


def is_forgotten(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a draft that a process left behind when it died."""
    match = _DRAFT_NAME.fullmatch(entry.name)
    if match is None or not entry.is_file(follow_symlinks=False):
        return False
    silent_s = time.time() - entry.stat(follow_symlinks=False).st_mtime
    if silent_s <= _FORGOTTEN_AFTER_S:
        return False
    pid = int(match[1])
    # A container's first process has the same number in every life: an old draft with our own number is not ours.
    if pid == os.getpid():
        return True
    try:
        # PermissionError: the process of another user, and alive.
        with suppress(PermissionError):
            os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
