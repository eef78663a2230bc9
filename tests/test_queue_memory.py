"""What only a queue in memory does: it belongs to one thread, and outlives event loops."""

from __future__ import annotations

import asyncio
import threading
from uuid import uuid4

import pytest
from own_time import PATIENCE_S

from audio_api.errors import QueueServiceError
from audio_api.queues.jobs import Job, JobState
from audio_api.queues.memory import MemoryBackend

LONG_S = 30.0


async def test_a_queue_in_memory_belongs_to_one_thread() -> None:
    """A call from another thread, which would need locks, is refused in words; the queue goes on."""
    queue = MemoryBackend(uuid4().hex)
    await queue.enqueue([Job("a", b"{}")])
    with pytest.raises(QueueServiceError, match="belongs to the thread that made it: use Redis"):
        await asyncio.to_thread(lambda: asyncio.run(queue.lease(1, LONG_S)))
    assert len(await queue.lease(1, LONG_S)) == 1


def test_a_queue_goes_on_in_another_thread_after_its_handles_are_closed_or_their_thread_ended() -> None:
    """A program may serve in one thread, stop, and serve in the next: the jobs are still there."""
    name = uuid4().hex

    async def enqueue(job_id: str, *, close: bool) -> None:
        queue = MemoryBackend(name)
        await queue.enqueue([Job(job_id, b"{}")])
        if close:
            await queue.close()
        else:
            left_open.append(queue)

    left_open: list[MemoryBackend] = []
    asyncio.run(enqueue("a", close=True))
    thread = threading.Thread(target=lambda: asyncio.run(enqueue("b", close=False)))
    thread.start()
    thread.join()
    assert [lease.job_id for lease in asyncio.run(MemoryBackend(name).lease(2, LONG_S))] == ["a", "b"]


def test_jobs_wait_for_a_later_event_loop() -> None:
    """A program may enqueue in one loop, work in the next, and ask for the result in a third."""
    name = uuid4().hex

    async def enqueue() -> None:
        await MemoryBackend(name).enqueue([Job("a", b"{}")])

    async def work() -> None:
        queue = MemoryBackend(name)
        (lease,) = await queue.lease(1, LONG_S)
        await queue.finish(lease, b"done", success=True)

    asyncio.run(enqueue())
    asyncio.run(work())
    assert asyncio.run(MemoryBackend(name).wait_result("a", 10)).state is JobState.SUCCEEDED


def test_a_loop_that_ended_while_it_waited_is_passed_over() -> None:
    """A worker whose loop is gone takes no wake-up away from one that is there."""
    name = uuid4().hex
    ended = asyncio.new_event_loop()
    waiting = ended.create_task(MemoryBackend(name).lease(1, LONG_S, 10))
    ended.call_later(0.05, ended.stop)
    ended.run_forever()
    ended.close()

    async def work() -> list[str]:
        queue = MemoryBackend(name)
        alive = asyncio.create_task(queue.lease(1, LONG_S, PATIENCE_S))
        await asyncio.wait([alive], timeout=0.05)
        await queue.enqueue([Job("a", b"{}")])
        async with asyncio.timeout(PATIENCE_S):
            return [lease.job_id for lease in await alive]

    assert asyncio.run(work()) == ["a"]
    waiting.get_coro().close()  # type: ignore[union-attr]


async def test_jobs_come_back_in_the_order_in_which_their_leases_ran_out() -> None:
    """That of the last renewal counts, also when no worker asked in between."""
    now = [0.0]
    queue = MemoryBackend(uuid4().hex, clock=lambda: now[0])
    await queue.enqueue([Job("renewed", b"{}"), Job("other", b"{}")])
    (lease,) = await queue.lease(1, 2)
    await queue.lease(1, 3)
    now[0] = 1.5
    await queue.renew([lease])
    now[0] = 9
    assert [lease.job_id for lease in await queue.lease(2, LONG_S)] == ["other", "renewed"]


async def test_finished_leases_do_not_pile_up() -> None:
    """What is remembered about leases are the jobs at work, not those done within a lease."""
    name = uuid4().hex
    queue = MemoryBackend(name)
    await queue.enqueue([Job(f"j{n}", b"{}") for n in range(5_000)])
    (kept,) = await queue.lease(1, LONG_S)
    while leases := await queue.lease(50, LONG_S):
        for lease in leases:
            await queue.finish(lease, b"{}", success=True)
    assert len(queue._shared.leased) == 1
    assert await queue.renew([kept]) == [kept]
