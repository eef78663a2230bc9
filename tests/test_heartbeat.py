"""Leases are renewed in time, by the event loop of their holder; one that is blocked publishes nothing twice."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Sequence
from math import inf

import pytest
from own_time import PATIENCE_S, pass_time, until

from audio_api.errors import AudioAPIError, ConfigurationError, QueueUnavailableError
from audio_api.queues.jobs import Job, JobState, Lease
from audio_api.queues.memory import MemoryBackend
from audio_api.queues.redis_queue import RedisBackend
from audio_api.services.heartbeat import HeldLease


class Counted(MemoryBackend):
    """Counts renewals, and refuses the first of some jobs."""

    refusal: AudioAPIError = QueueUnavailableError("not now")

    def __init__(self) -> None:
        super().__init__(f"heartbeat-{uuid.uuid4().hex}", clock=lambda: asyncio.get_running_loop().time())
        self.renewed: list[str] = []

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        """As the backend, and counted."""
        self.renewed.extend(lease.job_id for lease in leases)
        if self.renewed == ["refused"]:
            raise self.refusal
        return await super().renew(leases)

    async def hold(self, job_id: str, lease_s: float, until: float = inf) -> HeldLease:
        """Hold a lease of a new job."""
        await self.enqueue([Job(job_id, b"{}")])
        (lease,) = await self.lease(1, lease_s)
        self.lost = asyncio.Event()
        held = HeldLease.hold(self, lease, until, self.lost.set)
        await asyncio.sleep(0)  # now it waits for the first renewal
        return held

    async def until_renewed(self, job_id: str, times: int) -> None:
        """Wait for so many renewals."""
        await until(lambda: self.renewed.count(job_id) >= times)


async def test_short_work_is_never_renewed() -> None:
    """A job that ends within a third of its lease costs no renewal."""
    queue = Counted()
    for number in range(100):
        (await queue.hold(f"short-{number}", 30)).let_go()
    await asyncio.sleep(0)
    assert queue.renewed == []


async def test_each_lease_is_renewed_in_its_own_time() -> None:
    """A lease of minutes is kept beside one of a day."""
    queue = Counted()
    long, brief = await queue.hold("long", 86_400), await queue.hold("brief", 300)
    for times in range(1, 5):
        pass_time(100)
        await queue.until_renewed("brief", times)
    assert await queue.lease(1, 1) == []
    assert "long" not in queue.renewed
    for held in (long, brief):
        held.let_go()


async def test_a_lease_is_not_renewed_when_its_work_should_have_ended() -> None:
    """Work that hangs for ever does not keep its job for ever."""
    queue = Counted()
    await queue.hold("hangs", 0.3, until=time.monotonic() + 0.3)
    (again,) = await queue.lease(1, 30, PATIENCE_S)
    assert (again.job_id, again.deliveries) == ("hangs", 2)


async def test_a_lost_lease_is_told() -> None:
    """The job was cancelled: the holder hears of it at the next renewal, and the lease is renewed no more."""
    queue = Counted()
    held = await queue.hold("cancelled", 0.3)
    await queue.cancel("cancelled")
    async with asyncio.timeout(PATIENCE_S):
        await queue.lost.wait()
    assert queue.renewed == ["cancelled"]
    held.let_go()


@pytest.mark.parametrize("refusal", [QueueUnavailableError("not now"), ConfigurationError("not you")])
async def test_renewal_that_failed_is_tried_again_soon(refusal: AudioAPIError, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that did not answer, or refused, is asked again after a second, long before the lease runs out."""
    monkeypatch.setattr(Counted, "refusal", refusal)
    queue = Counted()
    held = await queue.hold("refused", 900)
    pass_time(300)
    await queue.until_renewed("refused", 1)
    pass_time(1)
    await queue.until_renewed("refused", 2)
    assert await queue.lease(1, 1) == []
    held.let_go()


async def test_renewal_ends_with_the_queue() -> None:
    """A queue that was closed is not asked for ever."""
    queue = Counted()
    held = await queue.hold("closed", 0.3)
    await queue.close()
    await asyncio.wait([held.renewing], timeout=PATIENCE_S)
    assert held.renewing.done()
    assert held.renewing.exception() is None


async def test_a_blocked_loop_repeats_a_call_and_publishes_nothing_twice(redis_url: str) -> None:
    """It stands still for longer than its lease: another worker has the job, and only that one's result counts."""
    name = f"heartbeat-{uuid.uuid4().hex}"
    blocked, go_on = threading.Event(), threading.Event()
    published: list[bool] = []

    async def block() -> bool:
        queue = RedisBackend(redis_url, name)
        (lease,) = await queue.lease(1, 0.5, PATIENCE_S)
        lost = asyncio.Event()
        held = HeldLease.hold(queue, lease, inf, lost.set)
        blocked.set()
        go_on.wait()
        published.append(await queue.progress(lease, {"file": "mine.wav"}))
        published.append(await queue.finish(lease, b"late", success=True))
        async with asyncio.timeout(PATIENCE_S):
            await lost.wait()
        await queue.close()
        return held.renewing.done()

    queue = RedisBackend(redis_url, name)
    await queue.enqueue([Job("a", b"{}")], "batch")
    other = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(block())))
    await asyncio.to_thread(blocked.wait)
    (lease,) = await queue.lease(1, 30, PATIENCE_S)
    assert (lease.job_id, lease.deliveries) == ("a", 2)
    go_on.set()
    assert await other
    assert published == [False, False]
    assert await queue.finish(lease, b"in time", success=True)
    status = await queue.status("a")
    assert status
    assert (status.state, status.result) == (JobState.SUCCEEDED, b"in time")
    batch = await queue.batch_status("batch")
    assert batch
    assert batch.succeeded == 1
    await queue.close()
