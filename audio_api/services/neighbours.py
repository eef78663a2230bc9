"""Workers of other machines at the same queue, to whom files on this machine's disk are of no use."""

from __future__ import annotations

import logging
import socket
import time
from contextlib import suppress
from math import inf

from audio_api.config import AudioConfig
from audio_api.errors import QueueServiceError
from audio_api.queues.base import QueueBackend

logger = logging.getLogger(__name__)

_EVERY_S = 60.0


class Neighbours:
    """Tells the queue that this machine has workers, and warns once when others have some and no store is set.

    Args:
        host: The name of this machine; ``None``: as the system has it. Containers have names, and disks, of their own.

    Attributes:
        next_look_s: When to look again, in monotonic seconds.
    """

    def __init__(self, host: str | None = None) -> None:
        self._host = host or socket.gethostname()
        self.next_look_s = -inf
        self._has_warned = False

    async def look(self, queue: QueueBackend, config: AudioConfig) -> None:
        """Look now, and again in a minute. A queue that does not answer is asked the next time.

        Args:
            queue: The queue.
            config: The settings.
        """
        self.next_look_s = time.monotonic() + _EVERY_S
        with suppress(QueueServiceError):
            others = await queue.hosts(self._host) - {self._host}
            if others and config.output_url is None and not self._has_warned:
                self._has_warned = True
                logger.warning(
                    "other machines work on the same queue, and the files of this one are on its own disk: set "
                    "OUTPUT_URL to a store that all of them reach, or let OUTPUT_DIR be a common disk",
                    extra={"queue": config.queue_name, "host": self._host, "others": sorted(others)[:5]},
                )
