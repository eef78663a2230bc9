"""Workers of other machines at the same queue, to whom files on this machine's disk are of no use."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from math import inf

from audio_api.config import AudioConfig
from audio_api.errors import QueueServiceError
from audio_api.queues.base import QueueBackend

logger = logging.getLogger(__name__)

_EVERY_S = 60.0


class Neighbours:
    """Tells the queue which workers this process has, and warns once when other machines have some and no store is set.

    Args:
        host: The name of this machine; ``None``: as the system has it. Containers have names, and disks, of their own.

    Attributes:
        next_look_s: When to look again, in monotonic seconds.
    """

    def __init__(self, host: str | None = None) -> None:
        self._host = host or socket.gethostname()
        self.next_look_s = -inf
        self._here: set[str] = set()
        self._has_warned = False

    @asynccontextmanager
    async def worker(self, queue: QueueBackend, worker_id: str) -> AsyncIterator[str]:
        """Say that a worker of this process is at the queue, until it has ended.

        Args:
            queue: The queue.
            worker_id: Its name in this process.

        Yields:
            Its name among all workers of the queue.
        """
        name = f"{self._host}/{os.getpid()}/{worker_id}"
        self._here.add(name)
        self.next_look_s = -inf
        try:
            yield name
        finally:
            self._here.discard(name)
            with suppress(QueueServiceError):
                await queue.workers(gone=[name])

    async def look(self, queue: QueueBackend, config: AudioConfig) -> None:
        """Look now, and again in a minute. A queue that does not answer is asked the next time.

        Args:
            queue: The queue.
            config: The settings.
        """
        self.next_look_s = time.monotonic() + _EVERY_S
        with suppress(QueueServiceError):
            others = {name.partition("/")[0] for name in await queue.workers(self._here)} - {self._host}
            if others and config.output_url is None and not self._has_warned:
                self._has_warned = True
                logger.warning(
                    "other machines work on the same queue, and the files of this one are on its own disk: set "
                    "OUTPUT_URL to a store that all of them reach, or let OUTPUT_DIR be a common disk",
                    extra={"queue": config.queue_name, "host": self._host, "others": sorted(others)[:5]},
                )
