"""Finished pieces of speech, kept under their content key, so that nothing is paid for twice.

A piece is one WAV that any player plays; a chunk behind its sound holds what the API said about it, and a sha256 of
key, sound and notes. What does not match that sum is no piece, whatever wrote or damaged it: a power failure, or a user
who edits an output file that shares its bytes with the cache. So nothing is synced here. A file appears whole before
``put`` returns, and survives a killed process.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import stat
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path

import aiofiles
import aiofiles.os
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from audio_api.audio.conversion import STANDARD
from audio_api.audio.durable import real_folder
from audio_api.audio.file_threads import file_threads, in_file_thread
from audio_api.audio.large_sounds import Permit
from audio_api.audio.wav import HEADER_BYTES, decode_wav, wav_header
from audio_api.audio.wav_file import SavedWav, save_wav
from audio_api.errors import ErrorCode, TTSOutputError
from audio_api.models.usage import TokenUsage

logger = logging.getLogger(__name__)

_KEY = re.compile("[0-9a-f]{64}")
# Not just ".wav": outputs are named by their key, too, and no output may be evicted when both share a folder.
_SUFFIX = ".piece.wav"
_CHUNK_ID = b"aapi"
_CHUNK_HEAD_BYTES = 8
_DIGEST_BYTES = 32
# Part of every digest: raise it when the notes change, and older pieces are made again.
_FORMAT = b"audio_api piece 1\0"
# The folder is listed once per 1/64 of its bound that a process stored, and emptied to 7/8 of it: eight processes,
# none of which sees what the others stored meanwhile, stay within the bound.
_FILL = 7 / 8
_LISTED_EVERY = 1 / 64


class CachedPiece(BaseModel):
    """A piece of speech that passed its checks, and what the API said about it. Never holds the text.

    Attributes:
        pcm: 24 kHz, signed 16-bit little-endian samples of one channel, whole samples only.
        model: The id of the model that spoke.
        finish_reason: The API's reason for stopping; ``None`` when it named none.
        usage: Tokens billed when the piece was made.
        warnings: What was noticed then.
        doubtful: Why it may not be the whole text; ``None`` when it was kept by a version that did not say so.
        heard: As ``SpeechAudio.heard``.
        made_at: When it was made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pcm: bytes = Field(repr=False, exclude=True)
    model: str
    finish_reason: str | None
    usage: TokenUsage
    warnings: tuple[str, ...] = ()
    doubtful: tuple[ErrorCode, ...] | None = None
    heard: float | None = None
    made_at: AwareDatetime


class PieceCache:
    """A folder of pieces, bounded in size, shared by any number of processes.

    It never fails a request: what cannot be read is missing, what cannot be stored is not kept, and the first reason is
    logged as a warning. Only files that it named itself are ever counted or removed.

    Args:
        folder: Where the pieces are; made with mode 0700 when the first one is stored.
        max_bytes: The size of all pieces together. The least recently used ones go first, when the folder is about
            seven eighths full. It is exceeded only while several processes store pieces of more than 1/64 of it.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        # Of a working folder that was deleted nothing can be kept; that is told when the first piece is stored.
        with suppress(FileNotFoundError):
            folder = folder.absolute()
        self._folder = folder
        self._real: Path | None = None
        self._max_bytes = max_bytes
        # At first: an earlier process may have left more than is allowed now.
        self._unlisted_bytes = max_bytes
        self._listing = threading.Lock()
        self._complained = False

    async def get(self, key: str, permit: Permit | None = None) -> CachedPiece | None:
        """Find a piece, and mark it as used. A damaged or foreign file in its place is removed.

        Args:
            key: 64 hexadecimal digits, in lower case, that stand for everything audible.
            permit: Taken before a piece is loaded; ``None``: none is needed.

        Returns:
            The piece as it was stored; ``None`` when it is not here.

        Raises:
            ValueError: The key is none.
        """
        path = self._path(key)
        if self._real is None:
            await in_file_thread(self._real_folder)
        try:
            status = await aiofiles.os.stat(path, follow_symlinks=False, executor=file_threads())
            content = b""
            # What cannot be a piece is not loaded.
            if stat.S_ISREG(status.st_mode) and status.st_size <= self._max_bytes:
                if permit:
                    await permit.take()
                async with aiofiles.open(path, "rb", opener=_open_piece, executor=file_threads()) as file:
                    content = bytes(await file.read())
        except FileNotFoundError:
            return None
        except OSError as error:
            self._complain(f"cannot read {str(path)!r}: {error.strerror}")
            return None
        return await in_file_thread(_recognised, key, content, path, status)

    def _real_folder(self) -> Path | None:
        """Where the folder was at first; nothing is written through a link that takes its place later."""
        if self._real is None:
            with suppress(OSError):
                self._real = real_folder(self._folder)
        return self._real

    async def put(self, key: str, piece: CachedPiece) -> SavedWav | None:
        """Keep a piece, replacing an older one. Cancelled, the piece, being paid for, is kept nevertheless.

        Args:
            key: As ``get``.
            piece: What is kept.

        Returns:
            Its file; ``None`` when it is not kept: the disk refuses, or it is larger than all pieces may be.

        Raises:
            ValueError: The key is none, or the sound no WAV can hold.
        """
        return await in_file_thread(self._write, key, self._path(key), piece)

    async def forget(self, key: str) -> None:
        """Remove a piece, so that it is made again the next time.

        Args:
            key: As ``get``.

        Raises:
            ValueError: The key is none.
        """
        path = self._path(key)
        with suppress(OSError):
            await in_file_thread(path.unlink)

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError("a content key has 64 hexadecimal digits in lower case")
        return self._folder / f"{key}{_SUFFIX}"

    def _write(self, key: str, path: Path, piece: CachedPiece) -> SavedWav | None:
        trailer = _trailer(key, piece)
        size_bytes = HEADER_BYTES + len(piece.pcm) + len(trailer)
        if size_bytes > self._max_bytes * _FILL:
            self._complain(f"a piece has {size_bytes:,} bytes; all pieces together may have {self._max_bytes:,}")
            return None
        real = self._real_folder()
        try:
            saved = save_wav(
                path.parent, path.name, piece.pcm, overwrite=True, trailer=trailer, real=real, synced=False
            )
        except TTSOutputError as error:
            self._complain(str(error))
            return None
        try:
            self._make_room(size_bytes)
        except OSError as error:
            self._complain(f"cannot list {str(self._folder)!r}: {error.strerror}")
        return saved

    def _make_room(self, stored_bytes: int) -> None:
        with self._listing:
            self._unlisted_bytes += stored_bytes
            if self._unlisted_bytes < self._max_bytes * _LISTED_EVERY:
                return
            self._unlisted_bytes = 0
            pieces = pieces_in(self._folder)
            excess_bytes = sum(status.st_size for _, status in pieces) - self._max_bytes * _FILL
            for path, status in sorted(pieces, key=lambda piece: piece[1].st_atime_ns):
                if excess_bytes <= 0:
                    break
                if not _was_used_since(path, status) and remove_piece(path, status):
                    excess_bytes -= status.st_size

    def _complain(self, reason: str) -> None:
        if not self._complained:
            self._complained = True
            logger.warning("pieces are not cached", extra={"reason": reason})


def _trailer(key: str, piece: CachedPiece) -> bytes:
    """The chunk behind the sound: notes, and the digest of everything before it."""
    # An earlier version reads what was not listened to.
    notes = piece.model_dump_json(exclude={"heard"} if piece.heard is None else None).encode()
    notes += b" " * (len(notes) % 2)
    chunk = struct.pack("<4sI", _CHUNK_ID, len(notes) + _DIGEST_BYTES) + notes
    header = wav_header(len(piece.pcm), trailer_bytes=len(chunk) + _DIGEST_BYTES)
    return chunk + _digest(key, header, piece.pcm, chunk)


def encode_piece(key: str, piece: CachedPiece) -> bytes:
    """The whole file of a piece; blocking.

    Args:
        key: As ``PieceCache.get``.
        piece: What is kept.

    Raises:
        ValueError: The sound is one that no WAV can hold.
    """
    trailer = _trailer(key, piece)
    return wav_header(len(piece.pcm), trailer_bytes=len(trailer)) + piece.pcm + trailer


def decode_piece(key: str, content: bytes) -> CachedPiece | None:
    """The piece in a file; ``None`` unless every byte is what was stored under this key. Blocking."""
    if _digest(key, memoryview(content)[:-_DIGEST_BYTES]) != content[-_DIGEST_BYTES:]:
        return None
    # A sum that fits may be made by others, too.
    try:
        wav = decode_wav(content)
        notes = json.loads(content[HEADER_BYTES + len(wav.pcm) + _CHUNK_HEAD_BYTES : -_DIGEST_BYTES])
        piece = CachedPiece.model_validate({**notes, "pcm": wav.pcm})
    except (ValueError, TypeError, RecursionError):
        return None
    return piece if wav.format == STANDARD else None


def _digest(key: str, *parts: bytes | memoryview) -> bytes:
    # With the key: a piece renamed to another key is none.
    digest = hashlib.sha256(_FORMAT + key.encode())
    for part in parts:
        digest.update(part)
    return digest.digest()


def _open_piece(path: str, flags: int) -> int:
    # Neither a link nor a pipe that was put in its place since it was looked at.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _recognised(key: str, content: bytes, path: Path, status: os.stat_result) -> CachedPiece | None:
    """The piece in a file, which counts as used now; what is none is removed."""
    piece = decode_piece(key, content)
    if piece is None:
        remove_piece(path, status)
        return None
    with suppress(OSError):
        fd = _open_piece(str(path), os.O_RDONLY)
        try:
            now = os.fstat(fd)
            if os.path.samestat(now, status):
                # The last access alone: an output that shares the file keeps the time at which it was made.
                os.utime(fd, ns=(time.time_ns(), now.st_mtime_ns))
        finally:
            os.close(fd)
    return piece


def _was_used_since(path: Path, seen: os.stat_result) -> bool:
    try:
        return path.lstat().st_atime_ns != seen.st_atime_ns
    except OSError:
        return False


def pieces_in(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """Every piece in a folder, with its status. Blocking; raises what listing the folder does."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(_SUFFIX) and _KEY.fullmatch(entry.name.removesuffix(_SUFFIX)):
                # Gone since it was listed: another process makes room, too.
                with suppress(FileNotFoundError):
                    found.append((Path(entry.path), entry.stat(follow_symlinks=False)))
    return found


def remove_piece(path: Path, seen: os.stat_result) -> bool:
    """Remove a piece unless it was replaced since it was seen. Returns whether it is gone."""
    try:
        now = path.lstat()
        if (now.st_ino, now.st_mtime_ns) != (seen.st_ino, seen.st_mtime_ns):
            return False
        path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
