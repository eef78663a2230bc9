"""The place where a worker's files go: whether it takes any, and the sound that waits for it."""

from __future__ import annotations

import asyncio
import logging
import time
from math import inf

from audio_api.audio.durable import check_folder
from audio_api.audio.file_threads import in_file_thread
from audio_api.config import AudioConfig
from audio_api.errors import TTSOutputError
from audio_api.models.audio_request import AudioResponse
from audio_api.stores.base import Store
from audio_api.stores.by_url import store_at

logger = logging.getLogger(__name__)

# A worker that takes a task a hundred times a second need not look as often.
FRESH_S = 1.0
# What a file needs whose size is not known, and the most that a look at the place writes.
_UNKNOWN_BYTES, _MOST_BYTES = 1_000_000, 64_000_000
# Twenty minutes of speech: more than all slots of a process have in hand, but for very long texts.
_UNSAVED_BYTES = 64_000_000
# A look at the store must not hold up a worker that is told to stop.
_STORE_LOOK_S = 5.0


class OutputPlace:
    """Whether files can be written, as far as this process knows, and what it keeps until they can.

    Attributes:
        problem: Why none can be written, or put into the store; ``None``: they can.
        fresh_until_s: Until when, in monotonic seconds, that need not be looked up again.
        unsaved: The responses whose sound is kept until it can be written, by task.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        self._need_bytes = 0
        self.fresh_until_s = -inf
        # One look at a time: what one writes would be room that another one misses.
        self._looking = asyncio.Lock()
        self.unsaved: dict[str, AudioResponse] = {}
        self._store: Store | None = None
        self._store_of: AudioConfig | None = None
        # At first it is not known what the store does.
        self._doubts_store = True

    def store(self, config: AudioConfig) -> Store | None:
        """The store of these settings; ``None``: sounds stay in the output folder.

        Raises:
            ConfigurationError: The store cannot be used.
        """
        if self._store_of is not config:
            url = config.output_url
            self._store = store_at(url, config.store_timeout) if url else None
            self._store_of, self._doubts_store = config, True
        return self._store

    def doubt_store(self) -> None:
        """The store did not take a sound: have the next look ask it, at once."""
        self._doubts_store, self.fresh_until_s = True, -inf

    async def check(self, config: AudioConfig) -> str | None:
        """Look whether the place takes a file, unless this was looked up within a second; return the problem.

        The store is asked at first, and from when it has not taken a sound until it takes one again.

        Args:
            config: The settings. Their output folder may be missing if it can be made.
        """
        async with self._looking:
            if time.monotonic() >= self.fresh_until_s:
                await self._look(config)
            return self.problem

    async def check_again(self, config: AudioConfig, failed: AudioResponse) -> str | None:
        """Look at once whether the place takes a file of the size that it just refused; return the problem.

        Args:
            config: The settings.
            failed: The response that tells of the refusal.
        """
        async with self._looking:
            size_bytes = len(failed.unsaved_audio) if failed.unsaved_audio else _UNKNOWN_BYTES
            self._need_bytes = min(max(self._need_bytes, size_bytes), _MOST_BYTES)
            await self._look(config)
            return self.problem

    async def _look(self, config: AudioConfig) -> None:
        problem = None
        try:
            await in_file_thread(check_folder, config.output_dir, self._need_bytes)
            self._need_bytes = 0
            store = self.store(config)
            if store and self._doubts_store:
                async with asyncio.timeout(_STORE_LOOK_S):
                    await store.check()
                self._doubts_store = False
        except TTSOutputError as error:
            problem = str(error)
        except TimeoutError:
            problem = f"{config.output_url} does not answer within {_STORE_LOOK_S:g} s"
        if problem and self.problem is None:
            logger.warning("this process takes no tasks: it cannot write", extra={"problem": problem})
        if self.problem and problem is None:
            logger.warning("this process can write again")
        self.problem = problem
        self.fresh_until_s = time.monotonic() + FRESH_S

    def keep(self, task_id: str, response: AudioResponse) -> None:
        """Keep the sound that could not be written, for the next time this process has the task.

        The oldest sounds go when all of them have more than 64 MB.

        Args:
            task_id: The task.
            response: What became of it now; without ``unsaved_audio`` nothing of it is kept.
        """
        self.unsaved.pop(task_id, None)
        if response.unsaved_audio:
            self.unsaved[task_id] = response
        while sum(len(each.unsaved_audio or b"") for each in self.unsaved.values()) > _UNSAVED_BYTES:
            del self.unsaved[next(iter(self.unsaved))]
