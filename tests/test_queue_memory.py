"""What only a queue in memory does: threads and event loops of one process meet in it."""

from __future__ import annotations

import asyncio
import threading
from uuid import uuid4

from audio_api.queues.base import Job, JobState
from audio_api.queues.memory import MemoryBackend

LONG_S = 30.0


async def test_threads_with_loops_of_their_own_share_a_queue() -> None:
    """A worker in another thread is woken by this one, and its result wakes this one."""
    name = uuid4().hex
    producer = MemoryBackend(name)

    async def work() -> None:
        worker = MemoryBackend(name)
        for _ in range(50):
            (lease,) = await worker.lease(1, LONG_S, 10)
            assert await worker.finish(lease, lease.payload, success=True)

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    for n in range(50):
        await producer.enqueue([Job(f"j{n}", str(n).encode())])
        status = await producer.wait_result(f"j{n}", 10)
        assert (status.state, status.result) == (JobState.SUCCEEDED, str(n).encode())
    await asyncio.to_thread(thread.join)


async def test_a_lease_can_be_renewed_from_another_thread() -> None:
    """A heartbeat in a thread of its own keeps the lease while this loop is blocked."""
    name = uuid4().hex
    queue = MemoryBackend(name)
    await queue.enqueue([Job("a", b"{}")])
    (lease,) = await queue.lease(1, LONG_S)
    renewed: list[object] = []
    thread = threading.Thread(target=lambda: renewed.append(asyncio.run(MemoryBackend(name).renew([lease]))))
    thread.start()
    thread.join()
    assert renewed == [[lease]]


async def test_a_loop_that_ended_while_it_waited_is_passed_over() -> None:
    """A worker whose loop is gone takes no wake-up away from one that is there."""
    name = uuid4().hex
    queue = MemoryBackend(name)
    ended = asyncio.new_event_loop()
    waiting = ended.create_task(MemoryBackend(name).lease(1, LONG_S, 10))
    await asyncio.to_thread(_run_once, ended)
    ended.close()
    alive = asyncio.create_task(queue.lease(1, LONG_S, 10))
    await asyncio.wait([alive], timeout=0.05)
    await queue.enqueue([Job("a", b"{}")])
    async with asyncio.timeout(2):
        assert [lease.job_id for lease in await alive] == ["a"]
    waiting.get_coro().close()


def _run_once(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_later(0.05, loop.stop)
    loop.run_forever()


async def test_jobs_come_back_in_the_order_in_which_their_leases_ran_out() -> None:
    """That of the last renewal counts, also when nobody asked in between."""
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
    """What is remembered about leases grows with the jobs at work, not with those done within a lease."""
    name = uuid4().hex
    queue = MemoryBackend(name)
    await queue.enqueue([Job(f"j{n}", b"{}") for n in range(5_000)])
    (kept,) = await queue.lease(1, LONG_S)
    while leases := await queue.lease(50, LONG_S):
        for lease in leases:
            await queue.finish(lease, b"{}", success=True)
    assert len(queue._shared.leases) <= 1_200
    assert await queue.renew([kept]) == [kept]
