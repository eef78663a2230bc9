"""Files that appear whole, on disk, and where they were meant to be, or not at all. Blocking; for threads."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from audio_api.errors import ErrorCode, TTSOutputError
from audio_api.models.filenames import MAX_NAME_BYTES

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY
# Enough for a folder that one may enter, but not list; not every system has it.
_PASS_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY
_REPLACED = "a link took the place of its folder"
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
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    return there.resolve(strict=True) / folder.relative_to(there)


def open_folder(real: Path) -> int:
    """Open a folder by its real path and follow no link on the way; make it, and what it lies in, when missing.

    What was made is for its owner alone (mode 0700).

    Raises:
        OSError: The system says no, or a link took the place of a folder since the path was found out.
    """
    try:
        descriptor = os.open(real, FOLDER_FLAGS | os.O_NOFOLLOW)
    except FileNotFoundError:
        return _make_folder(real)
    except OSError:
        if real.is_symlink():
            raise OSError(errno.ESTALE, _REPLACED) from None
        raise
    if real.resolve() == real and os.path.samestat(os.fstat(descriptor), real.lstat()):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.ESTALE, _REPLACED)


def _make_folder(real: Path) -> int:
    descriptor = os.open("/", _PASS_FLAGS)
    for part in real.parts[1:]:
        try:
            with suppress(FileExistsError):
                os.mkdir(part, 0o700, dir_fd=descriptor)
            flags = FOLDER_FLAGS if part is real.parts[-1] else _PASS_FLAGS
            below = os.open(part, flags | os.O_NOFOLLOW, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def draft_name(name: str) -> str:
    """A hidden name of at most 255 bytes that tells whose it is."""
    tail = f".{os.getpid()}.{secrets.token_hex(8)}.tmp"
    return f".{name.encode()[: MAX_NAME_BYTES - 1 - len(tail)].decode(errors='ignore')}{tail}"


def write_all(descriptor: int, view: memoryview) -> None:
    """Write every byte."""
    while view:
        view = view[os.write(descriptor, view) :]


def sync_folder(folder_fd: int) -> None:
    """Put the names of a folder's files on disk."""
    try:
        os.fsync(folder_fd)
    except OSError as error:
        # Some network file systems cannot sync a folder, and say so with EINVAL; they need no such step.
        if error.errno != errno.EINVAL:
            raise


def replace_durably(folder_fd: int, draft: str, name: str) -> None:
    """Give a draft, which is on disk, its name, whatever has it now."""
    os.rename(draft, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    sync_folder(folder_fd)


def claim_durably(folder_fd: int, draft: str, name: str) -> None:
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
        sync_folder(folder_fd)


@contextmanager
def _given_back(folder_fd: int, name: str) -> Iterator[None]:
    try:
        yield
    except OSError:
        with suppress(OSError):
            os.unlink(name, dir_fd=folder_fd)
        raise
