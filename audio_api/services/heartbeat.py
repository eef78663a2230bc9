"""Leases that are renewed while their work goes on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from audio_api.errors import AudioAPIError, QueueClosedError
from audio_api.queues.base import QueueBackend
from audio_api.queues.jobs import Lease

logger = logging.getLogger(__name__)

# Three chances before a lease runs out.
_BEATS_PER_LEASE = 3
# A server that did not answer is asked again this soon.
_RETRY_S = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class HeldLease:
    """A lease that is renewed until it is let go, lost, or its work should long have ended.

    Attributes:
        lease: The lease.
        renewing: Renews it.
    """

    lease: Lease
    renewing: asyncio.Task[None]

    @classmethod
    def hold(cls, backend: QueueBackend, lease: Lease, until: float, lost: Callable[[], None]) -> HeldLease:
        """Renew a lease at a third of its length, in the event loop of its holder.

        A loop that is blocked for longer than the lease loses it: another worker repeats the call, and the fencing
        token keeps this one from publishing.

        Args:
            backend: The queue.
            lease: The lease.
            until: The moment, in monotonic seconds, after which it is not renewed any more.
            lost: Called when the job was cancelled or given to another worker.
        """
        return cls(lease, asyncio.create_task(_renew(backend, lease, until, lost)))

    def let_go(self) -> None:
        """Renew the lease no more."""
        self.renewing.cancel()


async def _renew(backend: QueueBackend, lease: Lease, until: float, lost: Callable[[], None]) -> None:
    pause_s = lease.lease_s / _BEATS_PER_LEASE
    next_s = pause_s
    while until > time.monotonic():
        await asyncio.sleep(next_s)
        try:
            held = await backend.renew([lease])
        except QueueClosedError:
            return
        except AudioAPIError as error:  # also a user who is refused: that may pass before the lease runs out
            logger.warning("lease could not be renewed", extra={"job_id": lease.job_id, "error": str(error)})
            next_s = min(_RETRY_S, pause_s)
            continue
        if not held:
            lost()
            return
        next_s = pause_s
