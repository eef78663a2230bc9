"""Leases are renewed in time, by a thread that is asleep until the first of them needs it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from functools import partial
from math import inf

import pytest

from audio_api.errors import AudioAPIError, ConfigurationError, QueueUnavailableError
from audio_api.queues.base import Job, Lease
from audio_api.queues.memory import MemoryBackend
from audio_api.services.heartbeat import Heartbeat, HeldLease


class Counted(MemoryBackend):
    """Counts renewals, and refuses the first of some jobs."""

    refusal: AudioAPIError = QueueUnavailableError("not now")

    def __init__(self, queue: str, renewed: list[str]) -> None:
        super().__init__(queue)
        self._renewed = renewed

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        """As the backend, and counted."""
        self._renewed.extend(lease.job_id for lease in leases)
        if self._renewed == ["refused"]:
            raise self.refusal
        return await super().renew(leases)


@pytest.fixture
def renewed() -> list[str]:
    """The jobs whose leases were renewed, in order."""
    return []


@pytest.fixture
def queue() -> str:
    """A queue of this test's own."""
    return f"heartbeat-{uuid.uuid4().hex}"


@pytest.fixture
async def heartbeat(queue: str, renewed: list[str]) -> AsyncIterator[Heartbeat]:
    """One that is stopped at the end."""
    made = Heartbeat(partial(Counted, queue, renewed))
    yield made
    await made.stop()


async def take(queue: str, job_id: str, lease_s: float) -> HeldLease:
    """A lease of a new job."""
    backend = MemoryBackend(queue)
    await backend.enqueue([Job(job_id, b"{}")])
    (lease,) = await backend.lease(1, lease_s)
    return HeldLease(lease, lambda: inf, lambda: None)


async def test_short_work_is_never_renewed(queue: str, heartbeat: Heartbeat, renewed: list[str]) -> None:
    """A job that ends within a third of its lease costs no renewal."""
    for number in range(100):
        held = await take(queue, f"short-{number}", 30)
        heartbeat.hold(held)
        heartbeat.let_go(held)
    await heartbeat.stop()
    assert renewed == []


async def test_unused_one_stops_at_once(heartbeat: Heartbeat) -> None:
    """Without a lease there is no thread to wait for."""
    await heartbeat.stop()


async def until_renewed(renewed: list[str], job_id: str, times: int) -> None:
    """Wait for so many renewals."""
    async with asyncio.timeout(20):
        while renewed.count(job_id) < times:  # noqa: ASYNC110 - counted in another thread
            await asyncio.sleep(0.01)


async def test_shorter_lease_is_renewed_in_time(queue: str, heartbeat: Heartbeat, renewed: list[str]) -> None:
    """A lease of a second is kept although the thread had gone to sleep for one of an hour."""
    heartbeat.hold(await take(queue, "long", 3_600))
    brief = await take(queue, "brief", 1)
    heartbeat.hold(brief)
    await until_renewed(renewed, "brief", 4)
    assert await MemoryBackend(queue).lease(1, 1) == []
    heartbeat.let_go(brief)


@pytest.mark.parametrize("refusal", [QueueUnavailableError("not now"), ConfigurationError("not you")])
async def test_renewal_that_failed_is_tried_again_soon(
    refusal: AudioAPIError, queue: str, heartbeat: Heartbeat, renewed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that did not answer, or refused, is asked again after a second, long before the lease runs out."""
    monkeypatch.setattr(Counted, "refusal", refusal)
    held = await take(queue, "refused", 9)
    heartbeat.hold(held)
    await until_renewed(renewed, "refused", 2)
    assert await MemoryBackend(queue).lease(1, 1) == []
    heartbeat.let_go(held)
