"""What processes that died left in a folder: drafts, and growing files whose lock ended with their writer. Blocking."""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

from audio_api.audio.durable import is_forgotten
from audio_api.audio.wav import HEADER_BYTES, is_growing_header
from audio_api.errors import ErrorCode, TTSOutputError
from audio_api.models.sound_formats import ENDINGS

# What stands between the stem and the ending of a name while its file grows.
_GROWING = ".part."

_tidied: set[tuple[int, int]] = set()


def growing_name(name: str) -> str:
    """The name of a file while it grows: ``live.part.mp3`` for ``live.mp3``."""
    stem, _, ending = name.rpartition(".")
    return f"{stem}{_GROWING}{ending}"


def mark_growing(fd: int, growing: bool) -> None:
    """Mark a file that grows, or unmark it, by its sticky bit, which means nothing for a file.

    A WAV needs none: its header tells. Where there is no such bit, a file of the dead stays.
    """
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    with suppress(OSError):
        os.fchmod(fd, mode | stat.S_ISVTX if growing else mode & ~stat.S_ISVTX)


def remove_stale_drafts(folder_fd: int) -> None:
    """Remove what crashed processes left behind; once per folder and process, because it lists the whole folder."""
    folder = os.fstat(folder_fd)
    if (folder.st_dev, folder.st_ino) in _tidied:
        return
    _tidied.add((folder.st_dev, folder.st_ino))
    with os.scandir(folder_fd) as entries:
        for entry in entries:
            with suppress(OSError):
                if is_forgotten(entry) or _is_part_of_the_dead(entry, folder_fd):
                    os.unlink(entry.name, dir_fd=folder_fd)


def _is_part_of_the_dead(entry: os.DirEntry[str], folder_fd: int) -> bool:
    stem, _, ending = entry.name.rpartition(".")
    if not (f"{stem}.".endswith(_GROWING) and ending.lower() in ENDINGS and entry.is_file(follow_symlinks=False)):
        return False
    fd = os.open(entry.name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=folder_fd)
    try:
        return _is_left_behind(fd, begun=True)
    finally:
        os.close(fd)


def remove_part_of_the_dead(part: Path, folder_fd: int) -> None:
    """Take the name of a growing file whose writer was killed: its lock ended with it."""
    try:
        fd = os.open(part.name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=folder_fd)
    except FileNotFoundError:
        return
    try:
        if not _is_left_behind(fd, begun=False):
            raise TTSOutputError(
                f"{str(part)!r} is still being written, or a file of its own: choose another name",
                code=ErrorCode.OUTPUT_EXISTS,
            )
        os.unlink(part.name, dir_fd=folder_fd)
    finally:
        os.close(fd)


def _is_left_behind(fd: int, *, begun: bool) -> bool:
    """Whether no process writes a file any more that says that it grows; a complete file is the user's own.

    Args:
        fd: The file.
        begun: Whether the file must say so; else one that is nearly empty will do.
    """
    with suppress(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_mode & stat.S_ISVTX:
            return True
        header = os.pread(fd, HEADER_BYTES, 0)
        return is_growing_header(header) and not (begun and len(header) < HEADER_BYTES)
    return False
