"""Whether a store takes sounds, keeps them from being replaced, gives them back and deletes them."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from audio_api.doctor.checks import Check, Level
from audio_api.errors import AudioAPIError, ErrorCode, TTSOutputError
from audio_api.stores.base import SoundLabel, Store
from audio_api.stores.by_url import store_at

_CONTENT = b"audio_api doctor"


class _StepError(Exception):
    """A step came to its end, but not to the right one; the text says to which."""


async def check_store(title: str, url: str, timeout_s: float) -> Check:
    """Put an object, try to replace it, read it back, delete it; the text names the first step that fails.

    Args:
        title: The setting that names the store.
        url: The store.
        timeout_s: The most that one request may take, in seconds.
    """
    try:
        store = store_at(url, timeout_s)
    except AudioAPIError as error:
        return Check("fail", title, str(error))
    key = f".audio-api-doctor-{secrets.token_hex(8)}"
    steps: list[tuple[str, Callable[[Store, str], Coroutine[Any, Any, None]]]] = [
        ("write", _write),
        ("refuse to replace", _refuse),
        ("read back", _read),
        ("delete", _delete),
    ]
    for name, step in steps:
        try:
            await step(store, key)
        except (AudioAPIError, _StepError) as error:
            # Only pieces that turn out to be wrong are ever deleted.
            level: Level = "warn" if step is _delete else "fail"
            return Check(level, title, f"{url}: cannot {name}: {error}")
    if not await store.is_conditional():
        return Check(
            "warn",
            title,
            f"{url} works, but ignores If-None-Match: of two programs that write one name at the same moment the later "
            "one wins",
        )
    return Check("ok", title, f"{url} writes, refuses to replace, reads back and deletes")


async def _write(store: Store, key: str) -> None:
    await _put(store, key)


async def _put(store: Store, key: str) -> None:
    label = SoundLabel("text/plain", "", "", 0.0, "doctor", hashlib.sha256(_CONTENT).hexdigest())
    with TemporaryDirectory() as folder:
        file = Path(folder, "marker")
        await asyncio.to_thread(file.write_bytes, _CONTENT)
        await store.put_sound(key, file, label, overwrite=False)


async def _refuse(store: Store, key: str) -> None:
    try:
        await _put(store, key)
    except TTSOutputError as error:
        if error.code is not ErrorCode.OUTPUT_EXISTS:
            raise
    else:
        raise _StepError("a second object took the place of the first one")


async def _read(store: Store, key: str) -> None:
    content = b"".join([block async for block in store.open(key)])
    if content != _CONTENT:
        raise _StepError(f"{len(content)} other bytes came back")


async def _delete(store: Store, key: str) -> None:
    await store.delete(key)
    if await store.find(key):
        raise _StepError("the object is still there")
