"""The place where a worker's files go: whether it takes any, and the sound that waits for it."""

from __future__ import annotations

import asyncio
import logging
import time
from math import inf
from pathlib import Path

from audio_api.audio.durable import check_folder
from audio_api.audio.file_threads import in_file_thread
from audio_api.errors import TTSOutputError
from audio_api.models.audio_request import AudioResponse

logger = logging.getLogger(__name__)

# A worker that takes a task a hundred times a second need not look as often.
FRESH_S = 1.0
# What a file needs whose size is not known, and the most that a look at the place writes.
_UNKNOWN_BYTES, _MOST_BYTES = 1_000_000, 64_000_000
# Twenty minutes of speech: more than all slots of a process have in hand, but for very long texts.
_UNSAVED_BYTES = 64_000_000


class OutputPlace:
    """Whether files can be written, as far as this process knows, and what it keeps until they can.

    Attributes:
        problem: Why none can be written; ``None``: they can.
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

    async def check(self, folder: Path) -> str | None:
        """Look whether the place takes a file, unless this was looked up within a second; return the problem.

        Args:
            folder: The output folder; it may be missing if it can be made.
        """
        async with self._looking:
            if time.monotonic() >= self.fresh_until_s:
                await self._look(folder)
            return self.problem

    async def check_again(self, folder: Path, failed: AudioResponse) -> str | None:
        """Look at once whether the place takes a file of the size that it just refused; return the problem.

        Args:
            folder: The output folder.
            failed: The response that tells of the refusal.
        """
        async with self._looking:
            size_bytes = len(failed.unsaved_audio) if failed.unsaved_audio else _UNKNOWN_BYTES
            self._need_bytes = min(max(self._need_bytes, size_bytes), _MOST_BYTES)
            await self._look(folder)
            return self.problem

    async def _look(self, folder: Path) -> None:
        try:
            await in_file_thread(check_folder, folder, self._need_bytes)
        except TTSOutputError as error:
            if self.problem is None:
                logger.warning("this process takes no tasks: it cannot write", extra={"problem": str(error)})
            self.problem = str(error)
        else:
            if self.problem is not None:
                logger.warning("this process can write again")
            self.problem, self._need_bytes = None, 0
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
