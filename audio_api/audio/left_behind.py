"""What processes that died left in a folder: drafts, and growing files whose lock ended with their writer. Blocking."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from audio_api.audio.durable import is_forgotten
from audio_api.audio.wav import HEADER_BYTES, is_growing_header
from audio_api.errors import ErrorCode, TTSOutputError

GROWING = ".part.wav"
"""How the name of a file ends while it grows."""

_tidied: set[tuple[int, int]] = set()


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
    if not (entry.name.endswith(GROWING) and entry.is_file(follow_symlinks=False)):
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
    """Whether no process writes a file any more whose header says that it grows; a complete file is the user's own.

    Args:
        fd: The file.
        begun: Whether its header must be there.
    """
    with suppress(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        header = os.pread(fd, HEADER_BYTES, 0)
        return is_growing_header(header) and not (begun and len(header) < HEADER_BYTES)
    return False
