"""One contract for every place where jobs wait: in this process and in a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import uuid4

import pytest
from kit import one, state
from own_time import PATIENCE_S, until

from audio_api.errors import (
    ErrorCode,
    QueueClosedError,
    QueueFullError,
    QueueServiceError,
    TaskNotFoundError,
)
from audio_api.queues.base import FAIR_TURN, MAX_DELIVERIES, QueueBackend, SuspectFirstError
from audio_api.queues.jobs import MAX_PAYLOAD_BYTES, MAX_PROGRESS_BYTES, Job, JobState, JobStatus, Lease
from audio_api.queues.memory import MemoryBackend
from audio_api.queues.redis_queue import RedisBackend

OpenQueue = Callable[..., QueueBackend]
SHORT_S = 0.15
"""A lease to wait out."""
LIFETIME_S = 3.0
"""How long a result is kept: to be waited out, but not before it was looked at."""
LONG_S = 30.0
"""Longer than any test on an idle machine."""


@pytest.fixture(params=["memory", "redis"])
async def open_queue(request: pytest.FixtureRequest) -> AsyncIterator[OpenQueue]:
    """Makes handles of one queue that no other test uses."""
    name = uuid4().hex
    opened: list[QueueBackend] = []
    url = request.getfixturevalue("redis_url") if request.param == "redis" else ""

    def open_one(**options: object) -> QueueBackend:
        opened.append(RedisBackend(url, name, **options) if url else MemoryBackend(name, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield open_one
    for backend in opened:
        await backend.close()


@pytest.fixture
async def queue(open_queue: OpenQueue) -> QueueBackend:
    """A handle of an empty queue."""
    return open_queue()


def job(name: str, **values: object) -> Job:
    """A job with a payload of its own."""
    return Job(name, f'{{"v":1,"job":"{name}"}}'.encode(), **values)  # type: ignore[arg-type]


def jobs(*names: str) -> list[Job]:
    """A job for each name."""
    return [job(name) for name in names]


def ids(leases: list[Lease]) -> list[str]:
    """Which jobs these leases are for."""
    return [lease.job_id for lease in leases]


async def take(queue: QueueBackend, count: int = 1, lease_s: float = LONG_S, wait_s: float = 0.0) -> list[str]:
    """Lease jobs and name them."""
    return ids(await queue.lease(count, lease_s, wait_s))


async def known(queue: QueueBackend, job_id: str) -> JobStatus:
    """The status of a job that must be known."""
    status = await queue.status(job_id)
    assert status, f"{job_id} is unknown"
    return status


async def until_gone(look: Callable[[str], Awaitable[object]], name: str) -> None:
    """Wait until a job or a batch is forgotten."""

    async def gone() -> bool:
        return await look(name) is None

    await until(gone)


@asynccontextmanager
async def meanwhile(call: object) -> AsyncIterator[asyncio.Task[object]]:
    """Have a call run until it can only wait; it must still be waiting then."""
    task: asyncio.Task[object] = asyncio.ensure_future(call)  # type: ignore[arg-type]
    done, _ = await asyncio.wait([task], timeout=0.1)
    assert not done, task.result()
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_job_from_acceptance_to_result(queue: QueueBackend) -> None:
    """What was enqueued is handed out as it was, and what finished it can be read byte for byte."""
    before = time.time()
    await queue.enqueue([Job("a", b"\xff\x00 any bytes", priority=7)])
    waiting = await known(queue, "a")
    assert (waiting.state, waiting.priority, waiting.deliveries, waiting.batch_id) == (JobState.QUEUED, 7, 0, None)
    assert before - 1 < waiting.enqueued_at < time.time() + 1
    assert waiting.started_at is waiting.finished_at is waiting.result is None

    lease = await one(queue, LONG_S)
    assert (lease.job_id, lease.payload, lease.priority) == ("a", b"\xff\x00 any bytes", 7)
    assert (lease.batch_id, lease.deliveries, lease.lease_s, lease.progress) == (None, 1, LONG_S, None)
    running = await known(queue, "a")
    assert (running.state, running.deliveries) == (JobState.LEASED, 1)
    assert running.started_at is not None

    assert await queue.finish(lease, b'{"path":"\xc3\xa9.wav"}', success=True)
    done = await known(queue, "a")
    assert (done.state, done.result, done.reason) == (JobState.SUCCEEDED, b'{"path":"\xc3\xa9.wav"}', None)
    assert done.finished_at is not None
    assert done.finished_at >= done.enqueued_at
    assert await take(queue) == []


async def test_nothing_private_in_a_repr(queue: QueueBackend) -> None:
    """Payloads and results hold text and never show up where objects are printed."""
    await queue.enqueue([Job("a", b"SECRET")])
    lease = await one(queue)
    await queue.finish(lease, b"SECRET", success=True)
    assert "SECRET" not in repr([Job("a", b"SECRET"), lease, await known(queue, "a")])


async def test_a_failed_job_keeps_its_result(queue: QueueBackend) -> None:
    """A job that was worked on and failed has a result too."""
    await queue.enqueue(jobs("a"))
    assert await queue.finish(await one(queue), b'{"error":1}', success=False)
    assert (await known(queue, "a")).state is JobState.FAILED
    assert (await known(queue, "a")).result == b'{"error":1}'


async def test_all_jobs_or_none(queue: QueueBackend) -> None:
    """One job that cannot be accepted keeps all of them out."""
    await queue.enqueue(jobs("taken"))
    with pytest.raises(QueueServiceError) as caught:
        await queue.enqueue([*jobs("new"), Job("taken", b"another")])
    assert caught.value.code is ErrorCode.TASK_CONFLICT
    assert await state(queue, "new") is None
    assert await take(queue, 5) == ["taken"]


async def test_enqueueing_again_changes_nothing_in_any_state(queue: QueueBackend) -> None:
    """The same id with the same payload is the same job; with another payload it is an error, even when finished."""
    await queue.enqueue(jobs("a", "b", "c", "d", "e"))
    leases = {lease.job_id: lease for lease in await queue.lease(4, LONG_S)}
    await queue.finish(leases["a"], b"{}", success=True)
    await queue.finish(leases["b"], b"{}", success=False)
    await queue.bury(leases["c"], "why not")
    await queue.cancel("e")
    before = [await known(queue, name) for name in "abcde"]
    await queue.enqueue(jobs("a", "b", "c", "d", "e"))
    assert [await known(queue, name) for name in "abcde"] == before
    assert await take(queue) == []
    for name in "abcde":
        with pytest.raises(QueueServiceError, match=f"job {name} is known") as caught:
            await queue.enqueue([Job(name, b"another")])
        assert caught.value.code is ErrorCode.TASK_CONFLICT


async def test_a_batch_keeps_its_jobs(queue: QueueBackend) -> None:
    """The same batch again changes nothing; other jobs, another order or a foreign job are errors."""
    await queue.enqueue(jobs("a", "b"), "batch")
    await queue.enqueue(jobs("a", "b"), "batch")
    for other, batch_id in [(("b", "a"), "batch"), (("a",), "batch"), (("a",), "other"), (("a",), None)]:
        with pytest.raises(QueueServiceError) as caught:
            await queue.enqueue(jobs(*other), batch_id)
        assert caught.value.code is ErrorCode.TASK_CONFLICT
    status = await queue.batch_status("batch")
    assert status
    assert (status.total, status.started, status.finished) == (2, False, 0)
    assert await take(queue, 5) == ["a", "b"]
    assert (await known(queue, "a")).batch_id == "batch"


@pytest.mark.parametrize("name", ["", "a" * 65, "a b", "a:b", "ä", "a\n", "a\0", "{a}", "../a", "*"])
def test_ids_become_parts_of_keys(name: str) -> None:
    """An id that could reach another key, or fill a log, is refused before anything is sent."""
    with pytest.raises(QueueServiceError, match="must be 1 to 64 letters"):
        Job(name, b"{}")


def test_jobs_outside_the_limits() -> None:
    """Size, priority and time are limited, exactly."""
    assert Job("a", b"x" * MAX_PAYLOAD_BYTES, priority=-100)
    assert Job("a" * 64, b"", priority=100)
    with pytest.raises(QueueServiceError, match="8,388,609 bytes; 8,388,608 are allowed"):
        Job("a", b"x" * (MAX_PAYLOAD_BYTES + 1))
    for priority in (-101, 101):
        with pytest.raises(QueueServiceError, match=f"priority {priority}"):
            Job("a", b"", priority=priority)
    for moment in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(QueueServiceError, match=f"not_before={moment} must be a Unix time"):
            Job("a", b"", not_before=moment)


async def test_enqueueing_nonsense(queue: QueueBackend) -> None:
    """No jobs, the same id twice, and a wrong batch id are refused."""
    with pytest.raises(QueueServiceError, match="no jobs"):
        await queue.enqueue([])
    with pytest.raises(QueueServiceError, match="same id"):
        await queue.enqueue(jobs("a", "b", "a"))
    with pytest.raises(QueueServiceError, match="'x y'"):
        await queue.enqueue(jobs("a"), "x y")
    assert await state(queue, "a") is None


async def test_a_full_queue_refuses_and_recovers(open_queue: OpenQueue) -> None:
    """Waiting and delayed jobs count against the bound, jobs at work do not, and known jobs need no room."""
    queue = open_queue(max_size=3)
    await queue.enqueue([job("a"), job("b"), job("later", not_before=time.time() + LONG_S)])
    with pytest.raises(QueueFullError, match="3 jobs wait and 2 more would exceed QUEUE_MAX_SIZE=3"):
        await queue.enqueue(jobs("c", "d"))
    assert await state(queue, "c") is None
    await queue.enqueue(jobs("a", "b"))
    assert await take(queue, 2) == ["a", "b"]
    await queue.enqueue(jobs("c", "d"))
    with pytest.raises(QueueFullError):
        await queue.enqueue(jobs("e"))
    await queue.cancel("later")
    await queue.enqueue(jobs("e"))


async def test_higher_priority_first_then_first_come(queue: QueueBackend) -> None:
    """Within a priority the order is that of acceptance, across calls too."""
    await queue.enqueue([job("low", priority=-1), job("a"), job("high", priority=100)])
    await queue.enqueue([job("b"), job("high2", priority=100)])
    assert await take(queue, 5) == ["high", "high2", "a", "b", "low"]


async def test_no_priority_starves(queue: QueueBackend) -> None:
    """While higher ones keep coming, every eighth job handed out is the oldest of all."""
    await queue.enqueue([job("old", priority=-100), job("older2", priority=0)])
    await queue.enqueue([job(f"new{n}", priority=50) for n in range(30)])
    order = [(await take(queue))[0] for _ in range(2 * FAIR_TURN)]
    assert order.index("old") == FAIR_TURN - 1
    assert order.index("older2") == 2 * FAIR_TURN - 1


async def test_a_job_waits_for_its_time(queue: QueueBackend) -> None:
    """A job with ``not_before`` is delayed, wakes a waiting worker when it is due, and not earlier."""
    now = time.time()
    await queue.enqueue([job("later", not_before=now + 3_600), job("past", not_before=now - 1_000)])
    assert await take(queue, 5) == ["past"]
    assert await state(queue, "later") is JobState.DELAYED
    due = time.time() + 0.5
    await queue.enqueue([job("soon", not_before=due)])
    assert (await one(queue)).job_id == "soon"
    assert due - 0.01 < time.time() < due + PATIENCE_S / 2


async def test_a_waiting_worker_is_woken_by_another_handle(open_queue: OpenQueue) -> None:
    """Who waits for a job gets it as soon as it is there."""
    worker, producer = open_queue(), open_queue()
    async with meanwhile(worker.lease(3, LONG_S, 2 * PATIENCE_S)) as waiting:
        await producer.enqueue(jobs("a", "b"))
        async with asyncio.timeout(PATIENCE_S):
            leases = await waiting
    assert set(ids(leases)) <= {"a", "b"}  # type: ignore[arg-type]


async def test_each_waiting_worker_gets_a_job(open_queue: OpenQueue) -> None:
    """As many workers start as there are jobs, whatever handle they wait at."""
    handles = [open_queue(), open_queue()]
    waiting = [asyncio.create_task(handles[n % 2].lease(1, LONG_S, 2 * PATIENCE_S)) for n in range(6)]
    await asyncio.wait(waiting, timeout=0.1)
    await handles[0].enqueue([job(f"j{n}") for n in range(6)])
    async with asyncio.timeout(PATIENCE_S):
        taken = [lease.job_id for leases in await asyncio.gather(*waiting) for lease in leases]
    assert sorted(taken) == [f"j{n}" for n in range(6)]


async def test_waiting_in_vain(queue: QueueBackend) -> None:
    """Without a job the wait ends on time, with nothing."""
    start = time.monotonic()
    assert await queue.lease(1, LONG_S, 0.2) == []
    assert 0.15 < time.monotonic() - start < PATIENCE_S


async def test_a_cancelled_wait_takes_no_job(open_queue: OpenQueue) -> None:
    """A worker that stopped waiting is given nothing, and the next one gets the job."""
    worker, other = open_queue(), open_queue()
    async with meanwhile(worker.lease(1, LONG_S, 2 * PATIENCE_S)):
        pass
    await worker.enqueue(jobs("a"))
    assert (await one(other)).job_id == "a"


async def test_a_wait_cancelled_while_the_job_comes_passes_it_on(open_queue: OpenQueue) -> None:
    """A wake-up that reaches a cancelled worker is not lost for the others."""
    worker, other = open_queue(), open_queue()
    first = asyncio.create_task(worker.lease(1, LONG_S, 2 * PATIENCE_S))
    await asyncio.wait([first], timeout=0.05)
    second = asyncio.create_task(other.lease(1, LONG_S, 2 * PATIENCE_S))
    await asyncio.wait([second], timeout=0.05)
    await worker.enqueue(jobs("a"))
    first.cancel()
    done, _ = await asyncio.wait([first, second], timeout=PATIENCE_S, return_when=asyncio.ALL_COMPLETED)
    taken = [lease for task in done if not task.cancelled() for lease in task.result()]
    second.cancel()
    assert ids(taken) == ["a"]


async def test_an_expired_lease_is_given_to_another_worker(queue: QueueBackend) -> None:
    """The next holder has a higher token, and the first can change nothing any more."""
    await queue.enqueue(jobs("a"), "batch")
    stale = await one(queue, SHORT_S)
    start = time.monotonic()
    current = await one(queue)
    assert time.monotonic() - start < PATIENCE_S / 2
    assert (current.job_id, current.deliveries) == ("a", 2)
    assert current.token > stale.token
    before = await known(queue, "a")
    assert await queue.renew([stale]) == []
    assert not await queue.finish(stale, b"stale", success=True)
    assert not await queue.release(stale)
    assert not await queue.release(stale, 5, count_delivery=True)
    assert not await queue.bury(stale, "stale")
    assert not await queue.progress(stale, {"part": 9})
    assert await known(queue, "a") == before
    assert await queue.finish(current, b"current", success=True)
    assert (await known(queue, "a")).result == b"current"


async def test_a_renewed_lease_lasts(queue: QueueBackend) -> None:
    """Only leases that are not renewed run out; another handle's renewal counts; the reply names those still held."""
    await queue.enqueue(jobs("kept", "dropped"))
    kept, dropped = await queue.lease(2, 0.5)
    # The time of one renewal is long enough for the slowest machine.
    long = replace(kept, lease_s=LONG_S)
    assert await queue.renew([long]) == [long]
    assert await take(queue, 2, LONG_S, PATIENCE_S) == ["dropped"]
    assert await queue.renew([kept, dropped]) == [kept]
    assert await queue.renew([]) == []


async def test_a_late_holder_may_finish_what_no_other_took_over(queue: QueueBackend) -> None:
    """A lease that ran out stays the holder's until another worker asks for work."""
    await queue.enqueue(jobs("a"))
    lease = await one(queue, 0.001)
    await asyncio.wait([asyncio.create_task(asyncio.sleep(0.01))])
    assert await queue.finish(lease, b"{}", success=True)
    assert await take(queue) == []


async def test_a_second_finish_changes_nothing(queue: QueueBackend) -> None:
    """The first result stays, and the counters count once."""
    await queue.enqueue(jobs("a", "b"), "batch")
    lease = await one(queue)
    assert await queue.finish(lease, b"first", success=True)
    assert not await queue.finish(lease, b"second", success=False)
    assert (await known(queue, "a")).result == b"first"
    status = await queue.batch_status("batch")
    assert status
    assert (status.succeeded, status.failed) == (1, 0)


async def test_results_have_a_limit(queue: QueueBackend) -> None:
    """A result that is too large is refused, and the lease is still held."""
    await queue.enqueue(jobs("a"))
    lease = await one(queue)
    with pytest.raises(QueueServiceError, match="result of job a has"):
        await queue.finish(lease, b"x" * (MAX_PAYLOAD_BYTES + 1), success=True)
    assert await queue.finish(lease, b"x" * MAX_PAYLOAD_BYTES, success=True)


async def test_poison_is_buried_and_others_pass(queue: QueueBackend) -> None:
    """A job that never finishes is delivered three times, then it is a dead letter with its reason."""
    await queue.enqueue(jobs("poison"))
    deliveries = [(await one(queue, 0.02)).deliveries for _ in range(MAX_DELIVERIES)]
    assert deliveries == [1, 2, 3]
    await queue.enqueue(jobs("healthy"), "batch")
    taken: list[Lease] = []
    async with asyncio.timeout(PATIENCE_S):
        while await state(queue, "poison") is not JobState.DEAD:
            taken += await queue.lease(1, LONG_S, 0.05)
    taken += await queue.lease(1, LONG_S)
    assert ids(taken) == ["healthy"]
    assert (await known(queue, "poison")).reason == "delivered 3 times and never finished"


async def test_a_job_takes_its_trace_along(queue: QueueBackend) -> None:
    """It comes with every lease, and the same job may be enqueued again from another trace; the first one stays."""
    await queue.enqueue([job("a", trace="00-aa-bb-01"), job("b")])
    await queue.enqueue([job("a", trace="00-cc-dd-01"), job("b", trace="00-cc-dd-01")])
    traces = {lease.job_id: lease.trace for lease in await queue.lease(2, LONG_S)}
    assert traces == {"a": "00-aa-bb-01", "b": None}


async def test_a_suspect_is_not_handed_to_a_process_that_is_busy(queue: QueueBackend) -> None:
    """A job that was delivered and not finished waits for a call that takes such jobs; the order stays as it is."""
    await queue.enqueue(jobs("suspect"))
    assert await queue.release(await one(queue), 0.02, count_delivery=True)
    # It is not first among those that were handed back, but among those of its priority.
    with pytest.raises(SuspectFirstError):
        await queue.lease(3, LONG_S, 5, suspects=False)
    assert (await known(queue, "suspect")).deliveries == 1
    await queue.enqueue([job("later"), job("sooner", priority=1)])
    assert ids(await queue.lease(3, LONG_S, 5, suspects=False)) == ["sooner"]
    with pytest.raises(SuspectFirstError):
        await queue.lease(3, LONG_S, 5, suspects=False)
    assert [(lease.job_id, lease.deliveries) for lease in await queue.lease(3, LONG_S)] == [
        ("suspect", 2),
        ("later", 1),
    ]


async def test_who_may_not_take_a_suspect_lets_others_know_of_it(queue: QueueBackend) -> None:
    """A call that waits ends when one comes next, and a later call that takes such jobs has it at once."""
    await queue.enqueue(jobs("suspect"))
    lease = await one(queue)
    async with meanwhile(queue.lease(1, LONG_S, 10, suspects=False)) as busy, meanwhile(one(queue, LONG_S, 10)) as idle:
        assert await queue.release(lease, count_delivery=True)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(SuspectFirstError):
                await busy
            assert (await idle).deliveries == 2


async def test_a_returned_job_comes_first(queue: QueueBackend) -> None:
    """A job handed back at once goes to the front, wakes who waits, and its delivery does not count."""
    await queue.enqueue([job("a"), job("urgent", priority=9)])
    await take(queue)
    lease = await one(queue)
    await queue.enqueue(jobs("b"))
    assert await queue.release(lease)
    assert (await known(queue, "a")).state is JobState.QUEUED
    again = await one(queue)
    assert (again.job_id, again.deliveries) == ("a", 1)
    assert again.token > lease.token
    assert await take(queue) == ["b"]
    async with meanwhile(queue.lease(1, LONG_S, 2 * PATIENCE_S)) as waiting:
        await queue.release(again)
        async with asyncio.timeout(PATIENCE_S):
            assert ids(await waiting) == ["a"]  # type: ignore[arg-type]


async def test_a_deferred_job_waits_for_its_priority(queue: QueueBackend) -> None:
    """A job handed back with a delay is delayed, and then one of many; it is never used up by that."""
    await queue.enqueue(jobs("a"))
    for _ in range(MAX_DELIVERIES + 2):
        assert await queue.release(await one(queue), 0.02)
        assert await state(queue, "a") is JobState.DELAYED
    assert await queue.release(await one(queue), LONG_S)
    assert await take(queue, 1) == []
    assert (await known(queue, "a")).deliveries == 0


@pytest.mark.parametrize("delay_s", [0.0, 0.01])
async def test_a_counted_release_uses_a_job_up(queue: QueueBackend, delay_s: float) -> None:
    """Where the job is to blame, a release counts as a delivery."""
    await queue.enqueue(jobs("a"))
    for _ in range(MAX_DELIVERIES):
        assert await queue.release(await one(queue), delay_s, count_delivery=True)
    assert (await known(queue, "a")).state is JobState.DEAD
    assert await take(queue, 1, wait_s=0.05) == []


async def test_jobs_are_listed_by_state(queue: QueueBackend) -> None:
    """Waiting jobs come in the order in which they are handed out, finished ones the latest first, page by page."""

    async def listed(state: JobState, limit: int = 100, offset: int = 0) -> list[str]:
        return [status.job_id for status in await queue.list_jobs(state, limit, offset)]

    await queue.enqueue(jobs("a", "b", "c", "d", "e"))
    await queue.enqueue([job("high", priority=5), job("later", not_before=time.time() + LONG_S)])
    assert await listed(JobState.QUEUED) == ["high", "a", "b", "c", "d", "e"]
    assert await listed(JobState.QUEUED, 2, 1) == ["a", "b"]
    assert await listed(JobState.DELAYED) == ["later"]
    assert await listed(JobState.SUCCEEDED) == []
    leases = {lease.job_id: lease for lease in await queue.lease(4, LONG_S)}
    assert sorted(await listed(JobState.LEASED)) == sorted(leases)
    for job_id, success in (("high", True), ("a", False), ("b", True)):
        assert await queue.finish(leases[job_id], b"{}", success=success)
        await asyncio.sleep(0.002)  # so that the moments differ
    assert await queue.bury(leases["c"], "bad")
    assert await queue.cancel("d")
    assert await listed(JobState.SUCCEEDED) == ["b", "high"]
    assert await listed(JobState.SUCCEEDED, 1, 1) == ["high"]
    assert await listed(JobState.FAILED) == ["a"]
    assert await listed(JobState.DEAD) == ["c"]
    assert await listed(JobState.CANCELLED) == ["d"]
    assert (await queue.list_jobs(JobState.SUCCEEDED))[0].result == b"{}"
    assert await queue.retry_dead("c")
    assert await listed(JobState.DEAD) == []
    assert await listed(JobState.QUEUED) == ["e", "c"]


async def test_dead_letters(queue: QueueBackend) -> None:
    """The latest comes first, with payload and reason; it can be retried as new, or discarded."""
    await queue.enqueue(jobs("a", "b"), "batch")
    await queue.enqueue(jobs("c"))
    for lease in await queue.lease(3, LONG_S):
        assert await queue.bury(lease, f"{lease.job_id} is bad")
        await asyncio.sleep(0.002)  # so that the moments differ
    letters = await queue.list_dead()
    assert [letter.job_id for letter in letters] == ["c", "b", "a"]
    assert (letters[2].payload, letters[2].reason) == (job("a").payload, "a is bad")
    assert (letters[2].deliveries, letters[2].batch_id, letters[0].batch_id) == (1, "batch", None)
    assert [letter.job_id for letter in await queue.list_dead(1, 1)] == ["b"]
    assert await queue.list_dead(0) == []

    status = await queue.batch_status("batch")
    assert status
    assert (status.dead, status.complete) == (2, True)
    assert await queue.retry_dead("a")
    assert not await queue.retry_dead("a")
    assert not await queue.retry_dead("unknown")
    assert await queue.cancel("b")
    status = await queue.batch_status("batch")
    assert status
    assert (status.dead, status.cancelled, status.complete) == (0, 1, False)
    lease = await one(queue)
    assert (lease.job_id, lease.deliveries) == ("a", 1)
    assert await queue.finish(lease, b"{}", success=True)
    assert (await known(queue, "a")).reason is None
    assert [letter.job_id for letter in await queue.list_dead()] == ["c"]


async def test_a_job_can_be_cancelled_wherever_it_is(queue: QueueBackend) -> None:
    """Waiting, delayed, handed back, leased or dead: it is not handed out again, and its holder learns it."""
    await queue.enqueue([*jobs("leased", "returned", "dead"), job("delayed", not_before=time.time() + LONG_S)], "batch")
    leased, returned, dead = await queue.lease(3, LONG_S)
    await queue.release(returned)
    await queue.bury(dead, "x")
    await queue.enqueue(jobs("waiting"))
    for name in ("leased", "returned", "dead", "delayed", "waiting"):
        assert await queue.cancel(name)
        assert not await queue.cancel(name)
        assert (await known(queue, name)).state is JobState.CANCELLED
    assert not await queue.cancel("unknown")
    assert await queue.renew([leased]) == []
    assert not await queue.finish(leased, b"{}", success=True)
    assert await take(queue, 5) == []
    assert await queue.list_dead() == []
    status = await queue.batch_status("batch")
    assert status
    assert (status.cancelled, status.dead, status.complete) == (4, 0, True)
    stats = await queue.stats()
    assert (stats.waiting, stats.delayed, stats.leased, stats.dead, stats.cancelled) == ({}, 0, 0, 0, 5)


async def test_a_finished_job_cannot_be_cancelled(queue: QueueBackend) -> None:
    """What is done stays done."""
    await queue.enqueue(jobs("a"))
    await queue.finish(await one(queue), b"{}", success=False)
    assert not await queue.cancel("a")
    assert await state(queue, "a") is JobState.FAILED


async def test_progress_is_seen_by_all_and_survives_the_worker(queue: QueueBackend) -> None:
    """The status shows the last note, and so does the next lease; notes are small."""
    await queue.enqueue(jobs("a"))
    lease = await one(queue)
    assert await queue.progress(lease, {"done": 1, "of": 12})
    assert await queue.progress(lease, {"done": 2, "of": 12})
    assert (await known(queue, "a")).progress == {"done": 2, "of": 12}
    await queue.release(lease)
    lease = await one(queue)
    assert lease.progress == {"done": 2, "of": 12}
    with pytest.raises(QueueServiceError, match="progress note"):
        await queue.progress(lease, {"x": "y" * MAX_PROGRESS_BYTES})


async def test_a_payload_is_read_until_the_job_is_over(queue: QueueBackend) -> None:
    """Also by those who do not hold its lease; a dead job can be retried, and keeps it."""
    await queue.enqueue(jobs("a", "b", "c"))
    payload = jobs("a")[0].payload
    assert await queue.payload("a") == payload
    lease = await one(queue)
    assert await queue.payload("a") == payload
    await queue.finish(lease, b"{}", success=True)
    await queue.bury(await one(queue), "for a test")
    await queue.cancel("c")
    assert [await queue.payload(job_id) for job_id in ("a", "c", "unknown")] == [None, None, None]
    assert await queue.payload("b") == jobs("b")[0].payload


async def test_a_result_is_pushed_to_who_waits(open_queue: OpenQueue) -> None:
    """A caller that waits for a job hears of its end at once, at any handle, and later callers need not wait."""
    producer, worker = open_queue(), open_queue()
    await producer.enqueue(jobs("a", "b"))
    lease = await one(worker)
    async with meanwhile(producer.wait_result("a")) as first, meanwhile(worker.wait_result("a", 20)) as second:
        await worker.finish(lease, b"{}", success=True)
        async with asyncio.timeout(PATIENCE_S):
            results = [await first, await second, await producer.wait_result("a", 20)]
    assert [result.state for result in results] == [JobState.SUCCEEDED] * 3  # type: ignore[attr-defined]
    async with meanwhile(producer.wait_result("b", 20)) as waiting:
        await worker.cancel("b")
        async with asyncio.timeout(PATIENCE_S):
            assert (await waiting).state is JobState.CANCELLED  # type: ignore[attr-defined]


async def test_waiting_for_a_result_ends(queue: QueueBackend) -> None:
    """After its time the wait answers with what is known; an unknown job is an error at once."""
    await queue.enqueue(jobs("a"))
    assert (await queue.wait_result("a", 0)).state is JobState.QUEUED
    assert (await queue.wait_result("a", 0.05)).state is JobState.QUEUED
    with pytest.raises(TaskNotFoundError, match="no job nobody"):
        await queue.wait_result("nobody", 20)
    with pytest.raises(TaskNotFoundError, match="no batch nobody"):
        await queue.wait_batch("nobody", 20)
    assert await queue.status("nobody") is None
    assert await queue.batch_status("nobody") is None
    assert await queue.batch_jobs("nobody") == []


async def test_a_batch_counts_exactly_and_keeps_its_order(open_queue: OpenQueue) -> None:
    """Counters change with each job, who waits sees every step, and results come in the order of the requests."""
    queue, worker = open_queue(), open_queue()
    names = [f"j{n}" for n in range(6)]
    await queue.enqueue([job(name, priority=n) for n, name in enumerate(names)], "batch")
    assert (await queue.wait_batch("batch", 0)).finished == 0
    assert not (await queue.wait_batch("batch", 0.05)).started
    for count in range(6):
        async with meanwhile(queue.wait_batch("batch", 20, more_than=count)) as waiting:
            lease = await one(worker)
            await worker.finish(lease, lease.job_id.encode(), success=count != 2)
            async with asyncio.timeout(PATIENCE_S):
                status = await waiting
        assert status.finished == count + 1  # type: ignore[attr-defined]
        assert status.started  # type: ignore[attr-defined]
    status = await queue.wait_batch("batch", 20)
    assert (status.total, status.succeeded, status.failed, status.complete) == (6, 5, 1, True)
    found = await queue.batch_jobs("batch")
    assert [(each.job_id, each.result) for each in found] == [(name, name.encode()) for name in names]


async def test_results_expire_from_completion_on(open_queue: OpenQueue) -> None:
    """A job that waited longer than the lifetime of results has its result for that long, and then is forgotten."""
    queue = open_queue(result_ttl_s=0.05)
    await queue.enqueue(jobs("a", "dead", "cancelled"))
    assert await queue.lease(1, LONG_S, 0) != []
    (dead,) = await queue.lease(1, LONG_S)
    await queue.bury(dead, "x")
    await queue.cancel("cancelled")
    await until_gone(queue.status, "cancelled")
    assert await state(queue, "a") is JobState.LEASED
    lease = (await queue.renew([Lease("a", b"", 0, None, dead.token - 1, 1, LONG_S)]))[0]
    queue = open_queue(result_ttl_s=LIFETIME_S)
    await queue.finish(lease, b"{}", success=True)
    assert (await known(queue, "a")).result == b"{}"
    await until_gone(queue.status, "a")
    assert await state(queue, "dead") is JobState.DEAD
    await queue.cleanup_expired()
    await queue.enqueue([Job("a", b"another")])
    assert (await one(queue)).payload == b"another"


async def test_a_batch_keeps_its_results_until_it_is_complete(open_queue: OpenQueue) -> None:
    """The first results of a slow batch are still there when the last one comes; then all expire together."""
    queue = open_queue(result_ttl_s=0.05)
    await queue.enqueue(jobs("alone"))
    await queue.enqueue(jobs("a", "b"), "batch")
    alone, first, second = await queue.lease(3, LONG_S)
    await queue.finish(first, b"first", success=True)
    await queue.finish(alone, b"{}", success=True)
    await until_gone(queue.status, "alone")
    await queue.bury(second, "x")
    assert [each.result for each in await queue.batch_jobs("batch")] == [b"first", None]
    assert await queue.retry_dead("b")
    await queue.enqueue(jobs("alone"))
    leases = {lease.job_id: lease for lease in await queue.lease(2, LONG_S)}
    await queue.finish(leases["alone"], b"{}", success=True)
    await until_gone(queue.status, "alone")
    queue = open_queue(result_ttl_s=LIFETIME_S)
    await queue.finish(leases["b"], b"second", success=True)
    assert [each.result for each in await queue.batch_jobs("batch")] == [b"first", b"second"]
    await until_gone(queue.status, "a")
    await until_gone(queue.batch_status, "batch")
    assert await state(queue, "b") is None


async def test_statistics(queue: QueueBackend) -> None:
    """Every job is counted where it is."""
    empty = await queue.stats()
    assert (empty.waiting, empty.oldest_age_s, empty.leased) == ({}, None, 0)
    await queue.enqueue([job("a", priority=5), job("b"), job("c"), job("d", not_before=time.time() + LONG_S)])
    await queue.enqueue(jobs("e", "f", "g", "h"))
    leases = await queue.lease(5, LONG_S)
    assert ids(leases) == ["a", "b", "c", "e", "f"]
    await queue.finish(leases[0], b"{}", success=True)
    await queue.finish(leases[1], b"{}", success=False)
    await queue.bury(leases[2], "x")
    await queue.release(leases[3])
    await queue.cancel("h")
    stats = await queue.stats()
    assert stats.waiting == {0: 2}
    assert (stats.delayed, stats.leased, stats.dead) == (1, 1, 1)
    assert (stats.succeeded, stats.failed, stats.cancelled) == (1, 1, 1)
    assert stats.oldest_age_s is not None
    assert 0 <= stats.oldest_age_s < PATIENCE_S


async def test_closing_ends_every_wait(open_queue: OpenQueue) -> None:
    """Waiting calls end with an error that says so, every later call too, and the jobs stay."""
    queue, other = open_queue(), open_queue()
    await queue.enqueue(jobs("a"), "batch")
    lease = await one(queue)
    waits = [queue.lease(1, LONG_S, 2 * PATIENCE_S), queue.wait_result("a"), queue.wait_batch("batch", 20)]
    tasks = [asyncio.ensure_future(wait) for wait in waits]  # type: ignore[var-annotated]
    await asyncio.wait(tasks, timeout=0.1)
    await queue.close()
    async with asyncio.timeout(PATIENCE_S):
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in ended] == [QueueClosedError] * 3
    for call in (
        queue.enqueue(jobs("b")),
        queue.lease(1, LONG_S),
        queue.renew([lease]),
        queue.finish(lease, b"{}", success=True),
        queue.release(lease),
        queue.bury(lease, "x"),
        queue.progress(lease, {}),
        queue.cancel("a"),
        queue.status("a"),
        queue.wait_result("a"),
        queue.batch_status("batch"),
        queue.batch_jobs("batch"),
        queue.payload("a"),
        queue.wait_batch("batch"),
        queue.stats(),
        queue.list_dead(),
        queue.retry_dead("a"),
        queue.cleanup_expired(),
        queue.health(),
    ):
        with pytest.raises(QueueClosedError):
            await call
    await queue.close()
    assert await other.finish(lease, b"{}", success=True)


async def test_the_place_says_who_it_is(queue: QueueBackend) -> None:
    """Health names the place, and the class says whether jobs survive the process."""
    answer = await queue.health()
    assert ("not durable" in answer) is not queue.durable


async def test_many_workers_share_the_jobs(open_queue: OpenQueue) -> None:
    """However many take at once, every job is handed out once, with a token of its own, and the counters are exact."""
    handles = [open_queue() for _ in range(3)]
    for batch in range(5):
        await handles[0].enqueue([job(f"b{batch}-{n}") for n in range(60)], f"batch{batch}")
    tokens: list[int] = []
    taken: list[str] = []

    async def work(queue: QueueBackend, slots: int) -> None:
        while leases := await queue.lease(slots, LONG_S):
            for lease in leases:
                tokens.append(lease.token)
                taken.append(lease.job_id)
                assert await queue.finish(lease, b"{}", success=len(taken) % 2 == 0)

    await asyncio.gather(*(work(handles[n % 3], 1 + n) for n in range(9)))
    assert len(set(taken)) == len(taken) == 300
    assert len(set(tokens)) == 300
    counts = [await handles[1].wait_batch(f"batch{batch}", 0) for batch in range(5)]
    assert [(each.complete, each.total) for each in counts] == [(True, 60)] * 5
    assert sum(each.succeeded for each in counts) == 150


async def test_workers_are_known_until_they_leave(open_queue: OpenQueue) -> None:
    """Each handle is told of all that are at the queue; asking alone makes none."""
    first, second = open_queue(), open_queue()
    assert await first.workers() == {}
    assert set(await first.workers(["one", "other"])) == {"one", "other"}
    assert set(await second.workers(["two"])) == {"one", "other", "two"}
    assert set(await first.workers(gone=["other"])) == {"one", "two"}
    assert all(0 <= age_s < LONG_S for age_s in (await second.workers()).values())


async def test_a_job_names_its_worker_and_how_long_it_waited(queue: QueueBackend) -> None:
    """While it is leased, and when it is finished; one that was taken without a name has none."""
    await queue.enqueue(jobs("a", "b"))
    (lease,) = await queue.lease(1, LONG_S, worker="host/1/worker-1")
    assert 0 <= lease.waited_s < LONG_S
    assert [status.worker for status in await queue.list_jobs(JobState.LEASED)] == ["host/1/worker-1"]
    await queue.finish(lease, b"{}", success=True)
    assert (await known(queue, "a")).worker == "host/1/worker-1"
    assert (await known(queue, "b")).worker is None
    await queue.release((await queue.lease(1, LONG_S, worker="host/1/worker-1"))[0])
    await one(queue)
    assert (await known(queue, "b")).worker is None


async def test_counters_are_shared(open_queue: OpenQueue) -> None:
    """What each handle adds is added up, for all time and for today."""
    first, second = open_queue(), open_queue()
    assert await first.counts() == await first.counts(today=True) == {}
    await first.count({"calls ok": 2, "cost": 40_000_000_000})
    await second.count({"calls ok": 1, "calls failed": 1})
    await second.count({})
    expected = {"calls ok": 3, "calls failed": 1, "cost": 40_000_000_000}
    assert await first.counts() == await second.counts(today=True) == expected


async def test_the_dead_are_counted_for_good(queue: QueueBackend) -> None:
    """A dead job that is retried was buried all the same."""
    await queue.enqueue(jobs("a"))
    await queue.bury(await one(queue), "x")
    await queue.retry_dead("a")
    stats = await queue.stats()
    assert (stats.dead, stats.buried) == (0, 1)
