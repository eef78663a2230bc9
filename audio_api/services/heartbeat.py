"""Leases renewed from a thread of its own, so that a blocked event loop costs no job."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf

from audio_api.errors import AudioAPIError
from audio_api.queues.base import Lease, QueueBackend

logger = logging.getLogger(__name__)

# Three chances before a lease runs out.
_BEATS_PER_LEASE = 3
# A server that did not answer is asked again this soon.
_RETRY_S = 1.0


@dataclass(eq=False)
class HeldLease:
    """A lease that is renewed until it is let go, lost, or its work should long have ended.

    Attributes:
        lease: The lease.
        until: Tells the moment, in monotonic seconds, after which it is not renewed any more; called in a thread.
        lost: Called in the holder's event loop when the job was cancelled or given to somebody else.
    """

    lease: Lease
    until: Callable[[], float]
    lost: Callable[[], None]
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)


class Heartbeat:
    """Renews leases at a third of their length. Its thread starts with the first one.

    Args:
        make_backend: Makes a handle of the queue for the thread's own event loop.
    """

    def __init__(self, make_backend: Callable[[], QueueBackend]) -> None:
        self._make_backend = make_backend
        self._held: dict[int, HeldLease] = {}
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._pause_s = inf
        self._ready = threading.Event()
        self._stopping = False

    def hold(self, held: HeldLease) -> None:
        """Begin to renew a lease."""
        self._held[held.lease.token] = held
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="audio-api-heartbeat", daemon=True)
            self._thread.start()
            self._ready.wait()
        elif held.lease.lease_s / _BEATS_PER_LEASE < self._pause_s:
            self._wake()

    def let_go(self, held: HeldLease) -> None:
        """Renew a lease no more."""
        self._held.pop(held.lease.token, None)

    async def stop(self) -> None:
        """End the thread. May be called twice."""
        if self._thread is None:
            return
        if not self._stopping:
            self._stopping = True
            self._wake()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def _wake(self) -> None:
        assert self._loop is not None  # noqa: S101 - set before the thread says that it is ready
        self._loop.call_soon_threadsafe(self._changed.set)

    def _run(self) -> None:
        asyncio.run(self._beat())

    async def _beat(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready.set()
        backend, retry_s = self._make_backend(), inf
        try:
            while not self._stopping:
                # Who holds a lease from here on, and finds no pause short enough for it, ends the wait below.
                self._pause_s = inf
                self._pause_s = min(retry_s, _pause_of(list(self._held.values())))
                try:
                    async with asyncio.timeout(None if self._pause_s == inf else self._pause_s):
                        await self._changed.wait()
                    self._changed.clear()
                except TimeoutError:
                    retry_s = await self._renew_all(backend)
        finally:
            await backend.close()

    async def _renew_all(self, backend: QueueBackend) -> float:
        """Renew what is held; returns seconds after which to try again what could not be done."""
        now = time.monotonic()
        held = [each for each in list(self._held.values()) if each.until() > now]
        try:
            kept = {lease.token for lease in await backend.renew([each.lease for each in held])}
        except AudioAPIError as error:  # also a user who is refused: the thread must outlive it
            logger.warning("leases could not be renewed", extra={"leases": len(held), "error": str(error)})
            return _RETRY_S
        for each in held:
            if each.lease.token not in kept and self._held.pop(each.lease.token, None) is not None:
                each.loop.call_soon_threadsafe(each.lost)
        return inf


def _pause_of(held: Sequence[HeldLease]) -> float:
    """Seconds after which these must have been renewed; infinity for none."""
    return min((each.lease.lease_s for each in held), default=inf) / _BEATS_PER_LEASE
