"""A folder, which may be one that several machines mount."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import BufferedReader
from math import inf
from pathlib import Path
from typing import TypeVar

import aiofiles

from audio_api.audio.durable import DurableFile, folder_at, is_forgotten, real_folder
from audio_api.audio.file_threads import file_threads, in_file_thread
from audio_api.errors import ErrorCode, StoreError, TooLateError
from audio_api.models.store_url import StoreURL
from audio_api.stores.base import (
    BLOCK_BYTES,
    SoundLabel,
    Store,
    StoredSound,
    checked_expiry,
    checked_key,
    missing,
)

_T = TypeVar("_T")

# A person must put these right. Every other answer of the system may pass, such as a full disk or a file server that
# is away.
_REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}


class FolderStore(Store):
    """A folder, made when the first sound comes.

    It keeps no labels: a sound in it is told by its digest.

    Args:
        url: Where it is.
    """

    def __init__(self, url: StoreURL) -> None:
        self.url = url
        self._folder = Path(url.prefix)
        self._is_tidy = False

    def __repr__(self) -> str:
        """The place."""
        return f"FolderStore({str(self.url)!r})"

    async def put_sound(  # noqa: D102 - the contract stands in base.py
        self, key: str, file: Path, label: SoundLabel, *, overwrite: bool, before: float = inf
    ) -> SoundLabel:
        await self._do("put a sound into", self._put_file, checked_key(key), file, overwrite, before)
        return label

    def _put_file(self, key: str, file: Path, overwrite: bool, before: float) -> None:
        with file.open("rb") as sound:
            self._write(key, iter(partial(sound.read, BLOCK_BYTES), b""), overwrite, before)

    def _write(self, key: str, blocks: Iterable[bytes], overwrite: bool, before: float = inf) -> None:
        """Write a file that appears whole, and on disk, or not at all."""
        path = self._folder / key
        with folder_at(real_folder(path.parent)) as folder_fd:
            if not self._is_tidy:
                # Remove what killed processes left behind.
                self._is_tidy = True
                with suppress(OSError), os.scandir(folder_fd) as entries:
                    for entry in filter(is_forgotten, entries):
                        os.unlink(entry.name, dir_fd=folder_fd)
            with DurableFile(folder_fd, path, overwrite=overwrite) as copy:
                for block in blocks:
                    copy.write(block)
                os.fsync(copy.fileno())
                if time.monotonic() >= before:
                    raise TooLateError
                copy.publish()

    async def find(self, key: str) -> StoredSound | None:  # noqa: D102 - as above
        return await self._do("look into", self._find, checked_key(key))

    def _find(self, key: str) -> StoredSound | None:
        try:
            with _opened(self._folder / key) as file:
                size_bytes = os.fstat(file.fileno()).st_size
                return StoredSound(size_bytes, hashlib.file_digest(file, "sha256").hexdigest(), None)
        except FileNotFoundError:
            return None

    async def open(self, key: str) -> AsyncGenerator[bytes, None]:  # noqa: D102 - as above
        path = self._folder / checked_key(key)
        with self._explained("read from"):
            try:
                async with aiofiles.open(path, "rb", opener=_open_file, executor=file_threads()) as file:
                    while block := await file.read(BLOCK_BYTES):
                        yield block
            except FileNotFoundError:
                raise missing(self.url.of(key)) from None

    async def put(self, key: str, content: bytes, content_type: str) -> None:  # noqa: D102 - as above
        await self._do("put an object into", self._write, checked_key(key), (content,), True)

    async def get(self, key: str, most_bytes: int) -> bytes | None:  # noqa: D102 - as above
        return await self._do("read from", self._get, checked_key(key), most_bytes)

    def _get(self, key: str, most_bytes: int) -> bytes | None:
        try:
            with _opened(self._folder / key) as file:
                content = file.read(most_bytes + 1)
        except FileNotFoundError:
            return None
        return content if len(content) <= most_bytes else None

    async def delete(self, key: str) -> None:  # noqa: D102 - as above
        path = self._folder / checked_key(key)
        await self._do("delete in", path.unlink, True)

    async def link(self, key: str, expires_s: float) -> str:  # noqa: D102 - as above
        checked_expiry(expires_s)
        return self.url.of(checked_key(key))

    def path_of(self, key: str) -> Path | None:  # noqa: D102 - as above
        return self._folder / checked_key(key)

    async def is_conditional(self) -> bool:  # noqa: D102 - as above
        return True

    async def check(self) -> None:  # noqa: D102 - as above
        await self._do("write into", self._write, ".audio-api-marker", (), True)

    async def _do(self, doing: str, work: Callable[..., _T], *args: object) -> _T:
        with self._explained(doing):
            return await in_file_thread(work, *args)

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = errno.errorcode.get(error.errno or 0, type(error).__name__)
            refused = error.errno in _REFUSALS
            raise StoreError(
                f"cannot {doing} {self.url}: {error.strerror or error} ({kind})",
                code=ErrorCode.STORE_REFUSED if refused else ErrorCode.STORE_UNAVAILABLE,
                retryable=not refused,
            ) from error


def _open_file(path: str | Path, flags: int = os.O_RDONLY) -> int:
    # Neither a link, which may lead out of the folder, nor a pipe.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _opened(path: Path) -> BufferedReader:
    return os.fdopen(_open_file(path), "rb")
