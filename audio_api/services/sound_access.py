"""The way from a response to its sound, on this machine or in the store that all machines reach."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import aiofiles

from audio_api.audio.file_threads import file_threads, in_file_thread
from audio_api.config import AudioConfig
from audio_api.errors import ConfigurationError, ErrorCode, StoreError
from audio_api.models.audio_request import AudioResponse
from audio_api.models.sound_formats import SubtitleKind
from audio_api.stores.base import BLOCK_BYTES, Store
from audio_api.stores.by_url import store_at


class SoundAccess:
    """Reads sounds, and signs links to them, in the store of one configuration.

    A response may come from a stranger, who writes into the queue. So nothing is read but what is in ``OUTPUT_URL`` or
    in ``OUTPUT_DIR``.

    Args:
        config: The settings.
    """

    def __init__(self, config: AudioConfig) -> None:
        self._config = config
        self._store: Store | None = None
        self._reading: set[AsyncExitStack] = set()

    async def open(self, response: AudioResponse, opened: AsyncExitStack) -> AsyncGenerator[bytes, None]:
        """The sound of a response, block by block, until the stack is closed.

        Raises:
            AudioAPIError: The response is a failure; as its ``raise_for_error()``.
            StoreError: The sound is not there, or the store does not give it; also while it is read.
            ConfigurationError: The sound is not in ``OUTPUT_URL``.
        """
        response.raise_for_error()
        # As ``SpeechService`` holds what its streams have open.
        self._reading.add(opened)
        opened.callback(self._reading.discard, opened)
        if response.url:
            store, key = self._place(response.url)
            blocks = store.open(key)
        else:
            blocks = self._from_disk(response.file_path)
        return await opened.enter_async_context(aclosing(blocks))

    async def link(self, response: AudioResponse, expires_s: float, subtitles: SubtitleKind | None = None) -> str:
        """A URL with which anyone may read the sound of a response, or its subtitles, until it expires.

        Raises:
            AudioAPIError: The response is a failure; as its ``raise_for_error()``.
            StoreError: The store's credentials cannot sign.
            ConfigurationError: The sound is not in ``OUTPUT_URL``.
            ValueError: ``expires_s`` is not from 1 second to 7 days; or the sound has no such subtitles.
        """
        response.raise_for_error()
        if response.url is None:
            raise ConfigurationError("only a sound in a store has a link: set OUTPUT_URL where the sound is made")
        store, key = self._place(response.url)
        if subtitles:
            if not any(path.endswith(f".{subtitles}") for path in response.subtitle_paths):
                raise ValueError(f"the sound has no {subtitles} subtitles: its request must ask for them")
            key = str(Path(key).with_suffix(f".{subtitles}"))
        return await store.link(key, expires_s)

    def _place(self, url: str) -> tuple[Store, str]:
        ours = self._config.output_url
        if self._store is None and ours:
            self._store = store_at(ours, self._config.store_timeout)
        key = self._store.url.key_of(url) if self._store else None
        if self._store is None or key is None:
            raise ConfigurationError(
                f"the sound is {url}, which is not in OUTPUT_URL={ours}: set OUTPUT_URL as the workers have it"
            )
        return self._store, key

    async def _from_disk(self, file_path: str | None) -> AsyncGenerator[bytes, None]:
        path = Path(file_path or "")
        folder = await in_file_thread(lambda: self._config.output_dir.resolve())
        try:
            if await in_file_thread(path.parent.resolve) != folder:
                raise StoreError(
                    f"{file_path} is not in OUTPUT_DIR={folder}: the file is on the worker's own disk; set OUTPUT_URL, "
                    "which all machines reach",
                    code=ErrorCode.STORE_OBJECT_MISSING,
                    retryable=False,
                )
            async with aiofiles.open(path, "rb", opener=_open_sound, executor=file_threads()) as file:
                while block := await file.read(BLOCK_BYTES):
                    yield block
        except OSError as error:
            problem = f"cannot read {file_path}: {error.strerror}"
        else:
            return
        raise StoreError(
            f"{problem}; if it is on the disk of another machine, set OUTPUT_URL, which all machines reach",
            code=ErrorCode.STORE_OBJECT_MISSING,
            retryable=False,
        )


def _open_sound(path: str, flags: int) -> int:
    # Neither a link nor a pipe.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
