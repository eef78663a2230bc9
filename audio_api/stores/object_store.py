"""Buckets of S3, Google Cloud Storage and Azure, through obstore.

obstore is called from threads, never by its ``…_async`` functions: those let Rust's threads hand their results to
Python, and a process that ends at that moment is aborted (4 of 12 processes that ended right after a call; see
pyo3-async-runtimes issue 40). obstore retries nothing here: its retries know nothing of the moment from which on a
sound may not be put any more. It reads credentials from the environment, or gets them from the cloud, by itself, so
that no Python object holds any.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from audio_api.errors import ErrorCode, StoreError, TooLateError
from audio_api.models.store_url import StoreURL
from audio_api.retry import Clock, RetryPolicy, call_with_retry
from audio_api.stores.base import (
    BLOCK_BYTES,
    SoundLabel,
    Store,
    StoredSound,
    checked_expiry,
    checked_key,
    missing,
    taken,
)
from audio_api.stores.object_client import explained, make_client

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_P = ParamSpec("_P")

MOST_AT_ONCE_BYTES = 64 * 2**20
"""The largest sound, of 23 minutes as WAV, that goes up in one conditional request. Larger ones go up in parts."""
_PART_BYTES = 8 * 2**20
# More at once would go up behind the last look at the name.
_PARTS_AT_ONCE = 1
# Of a part, which nothing sees, so that one that is lost does not begin a long upload again.
_PART_RETRIES = 3
_ATTEMPTS, _FIRST_WAIT_S, _LAST_WAIT_S = 4, 0.2, 2.0
_MARKER = ".audio-api-marker"
# What a URL holds as it is. obstore 0.12 signs the encoded name for Azure, which compares with the decoded one.
_AZURE_SIGNS = re.compile(r"[A-Za-z0-9/!$&'()*+,\-.:;=@\[\]^_|~]*")

# Threads of their own: work that waits for a store must not delay work on files.
_threads = ThreadPoolExecutor(16, "audio-api-store")
# A call within a call of obstore needs another thread.
_looks = ThreadPoolExecutor(2, "audio-api-store-look")

# The threads that carry obstore's connections do not live on in a child process: its calls would never end there.
_used_by: int | None = None


class _TakenError(Exception):
    """Something came under the key while a sound went up in parts."""


class ObjectStore(Store):
    """A bucket, or a prefix in one.

    Args:
        url: Where it is.
        timeout_s: The most that one request may take.
        clock: Time and chance.

    Raises:
        ConfigurationError: The extra is not installed, or the environment lacks what the store needs.
    """

    def __init__(self, url: StoreURL, timeout_s: float, clock: Clock | None = None) -> None:
        self.url = url
        self._client = make_client(url, timeout_s, 0)
        self._timeout_s = timeout_s
        self._clock = clock or Clock()
        self._policy = RetryPolicy(_ATTEMPTS, _FIRST_WAIT_S, _LAST_WAIT_S, 1, 0, 0, deadline_s=2 * timeout_s)
        self._refuses_twice: bool | None = None
        self._probing = asyncio.Lock()

    def __repr__(self) -> str:
        """The place, and nothing of how one gets in."""
        return f"ObjectStore({str(self.url)!r})"

    def __reduce__(self) -> tuple[type[ObjectStore], tuple[StoreURL, float]]:
        """Pickle the place; the process that loads it reads its own environment."""
        return type(self), (self.url, self._timeout_s)

    async def put_sound(  # noqa: D102 - the contract stands in base.py
        self, key: str, file: Path, label: SoundLabel, *, overwrite: bool, before: float = inf
    ) -> SoundLabel:
        checked_key(key)
        size_bytes = (await self._in_thread(file.stat)).st_size
        at_once = size_bytes <= MOST_AT_ONCE_BYTES
        create = not overwrite and at_once and await self.is_conditional()
        if not overwrite and not create and (found := await self.find(key)):
            return self._taken_over(key, label, found)
        put = self._put_whole if at_once else self._put_in_parts
        if await self._ask(f"put {key!r} into", put, key, file, label, create, overwrite, before):
            return label
        # The answer to an earlier attempt may have been lost.
        if found := await self.find(key):
            return self._taken_over(key, label, found)
        raise StoreError(f"{self.url.of(key)} is being written or deleted by another program")

    def _taken_over(self, key: str, label: SoundLabel, found: StoredSound) -> SoundLabel:
        if found.label and found.label.is_of_the_same_act(label):
            return found.label
        raise taken(self.url.of(key))

    def _put_whole(
        self, key: str, file: Path, label: SoundLabel, create: bool, _overwrite: bool, before: float
    ) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        attributes: Any = {"Content-Type": label.content_type, **label.metadata()}
        mode: Any = "create" if create else "overwrite"
        # The thread looks at the clock, because it may have waited or been frozen since the call.
        if time.monotonic() >= before:
            raise TooLateError
        try:
            obstore.put(self._client, key, file, attributes=attributes, mode=mode, use_multipart=False)
        except AlreadyExistsError:
            return False
        return True

    def _put_in_parts(
        self, key: str, file: Path, label: SoundLabel, _create: bool, overwrite: bool, before: float
    ) -> bool:
        import obstore

        attributes: Any = {"Content-Type": label.content_type, **label.metadata()}
        sizes: Any = {"chunk_size": _PART_BYTES, "max_concurrency": _PARTS_AT_ONCE}
        parts = self._parts(key, file, overwrite, before)
        client = make_client(self.url, self._timeout_s, _PART_RETRIES)
        try:
            obstore.put(client, key, parts, attributes=attributes, use_multipart=True, **sizes)
        except _TakenError:
            return False
        return True

    def _parts(self, key: str, file: Path, overwrite: bool, before: float) -> Iterator[bytes]:
        """The parts of a file. It appears with the last one, before which its name must still be free."""
        with file.open("rb") as sound:
            part = sound.read(_PART_BYTES)
            while following := sound.read(_PART_BYTES):
                yield part
                part = following
            # No request has a condition here: https://github.com/apache/arrow-rs-object-store/issues/289.
            if not overwrite and _looks.submit(self._head, key).result():
                raise _TakenError
            if time.monotonic() >= before:
                raise TooLateError
            yield part

    def path_of(self, key: str) -> Path | None:  # noqa: D102 - as above
        return None

    async def is_conditional(self) -> bool:  # noqa: D102 - as above
        async with self._probing:
            if self._refuses_twice is None:
                # The second time it is there, if an earlier process has not put it before.
                self._refuses_twice = await self._refuses_marker() or await self._refuses_marker()
                if not self._refuses_twice:
                    logger.warning(
                        "the store ignores If-None-Match: two programs that write one name at the same moment both "
                        "succeed, and the later one stays",
                        extra={"store": str(self.url)},
                    )
            return self._refuses_twice

    async def _refuses_marker(self) -> bool:
        from obstore.exceptions import AlreadyExistsError

        try:
            await self._ask("write into", self._put_bytes, _MARKER, b"", "text/plain", "create")
        except AlreadyExistsError:
            return True
        return False

    async def find(self, key: str) -> StoredSound | None:  # noqa: D102 - as above
        found = await self._ask(f"look for {key!r} in", self._head, checked_key(key))
        if found is None:
            return None
        size_bytes, attributes = found
        label = SoundLabel.from_metadata(attributes.pop("Content-Type", ""), attributes)
        return StoredSound(size_bytes, label.sha256 if label else None, label)

    def _head(self, key: str) -> tuple[int, dict[str, str]] | None:
        import obstore

        try:
            # obstore.head() leaves the metadata out.
            found = obstore.get(self._client, key, options={"head": True})
        except FileNotFoundError:
            return None
        return found.meta["size"], dict(found.attributes)

    async def open(self, key: str) -> AsyncGenerator[bytes, None]:  # noqa: D102 - as above
        whole = await self._ask(f"look for {key!r} in", self._version, checked_key(key))
        if whole is None:
            raise missing(self.url.of(key))
        # Ranges, because the limit of a request's time must not count the time that the reader takes.
        for start in range(0, whole[0], BLOCK_BYTES):
            block = await self._ask(f"read {key!r} from", self._range, key, start, whole)
            if block is None:
                raise StoreError(f"{self.url.of(key)} was replaced or deleted while it was read")
            yield block

    def _version(self, key: str) -> tuple[int, str | None] | None:
        import obstore

        try:
            meta = obstore.head(self._client, key)
        except FileNotFoundError:
            return None
        return meta["size"], meta["e_tag"]

    def _range(self, key: str, start: int, whole: tuple[int, str | None]) -> bytes | None:
        import obstore
        from obstore.exceptions import PreconditionError

        size_bytes, e_tag = whole
        end = min(start + BLOCK_BYTES, size_bytes)
        try:
            found = obstore.get(self._client, key, options={"range": (start, end), "if_match": e_tag})
            # Some servers ignore If-Match.
            same = (found.meta["size"], found.meta["e_tag"]) == whole
            return bytes(found.bytes()) if same else None
        except (FileNotFoundError, PreconditionError):
            return None

    async def put(self, key: str, content: bytes, content_type: str) -> None:  # noqa: D102 - as above
        await self._ask(f"put {key!r} into", self._put_bytes, checked_key(key), content, content_type, "overwrite")

    def _put_bytes(self, key: str, content: bytes, content_type: str, mode: Any) -> None:
        import obstore

        attributes: Any = {"Content-Type": content_type}
        obstore.put(self._client, key, content, attributes=attributes, mode=mode, use_multipart=False)

    async def get(self, key: str, most_bytes: int) -> bytes | None:  # noqa: D102 - as above
        return await self._ask(f"read {key!r} from", self._get, checked_key(key), most_bytes)

    def _get(self, key: str, most_bytes: int) -> bytes | None:
        import obstore

        try:
            found = obstore.get(self._client, key)
        except FileNotFoundError:
            return None
        if found.meta["size"] > most_bytes:
            return None
        content = bytearray()
        for block in found.stream(BLOCK_BYTES):
            content += block
            # The size in the header need not be true.
            if len(content) > most_bytes:
                return None
        return bytes(content)

    async def delete(self, key: str) -> None:  # noqa: D102 - as above
        await self._ask(f"delete {key!r} in", self._delete, checked_key(key))

    def _delete(self, key: str) -> None:
        import obstore

        try:
            obstore.delete(self._client, key)
        except FileNotFoundError:
            return

    async def link(self, key: str, expires_s: float) -> str:  # noqa: D102 - as above
        import obstore

        client: Any = self._client
        expires = timedelta(seconds=checked_expiry(expires_s))
        sign = partial(obstore.sign, client, "GET", checked_key(key), expires)
        if self.url.scheme == "az" and not _AZURE_SIGNS.fullmatch(f"{self.url.prefix}/{key}"):
            raise StoreError(
                f"cannot sign a link of {self.url.of(key)}: for Azure, a name must consist of ASCII letters, digits "
                "and marks that need no % in a URL; a space needs one",
                code=ErrorCode.STORE_REFUSED,
                retryable=False,
            )
        return await self._ask("sign a link into", sign)

    async def check(self) -> None:  # noqa: D102 - as above
        await self._ask("write into", self._put_bytes, _MARKER, b"", "text/plain", "overwrite")

    async def _ask(self, doing: str, call: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> _T:
        """Make a call, a few times if need be; what it raises tells what the store could not do."""
        return await call_with_retry(
            partial(self._once, doing, partial(call, *args, **options)), self._policy, self._clock
        )

    async def _once(self, doing: str, call: Callable[[], _T]) -> _T:
        from obstore.exceptions import AlreadyExistsError, BaseError

        global _used_by
        _used_by = _used_by or os.getpid()
        if os.getpid() != _used_by:
            raise StoreError("a store was used before this process was forked: use the first one after the fork")
        try:
            return await self._in_thread(call)
        except AlreadyExistsError:
            raise
        except (BaseError, FileNotFoundError, TimeoutError) as error:
            problem = explained(error, f"cannot {doing} {self.url}", self.url.scheme, self._timeout_s)
        # Outside: obstore's own error holds whatever the server wrote, the access key's id for instance.
        raise problem

    @staticmethod
    async def _in_thread(call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(_threads, call)
