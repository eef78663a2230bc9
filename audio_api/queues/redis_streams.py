"""Jobs that wait in Redis: streams with a consumer group, on any number of machines.

Redis 6.2 or newer, or Valkey. The user that the URL names needs no more than ``redis_client.ACCESS``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import inf
from typing import Any, TypeVar

from audio_api.errors import (
    ConfigurationError,
    QueueServiceError,
    QueueUnavailableError,
    TaskNotFoundError,
)
from audio_api.queues import scripts
from audio_api.queues.base import (
    DEFAULT_RESULT_TTL_S,
    BatchStatus,
    DeadLetter,
    Job,
    JobState,
    JobStatus,
    Lease,
    QueueBackend,
    QueueStats,
    check_id,
    check_jobs,
    check_size,
    conflict,
    encode_progress,
    full,
)
from audio_api.queues.limits import CallLimits, RedisLimits
from audio_api.queues.redis_client import ANSWER_LIMIT_S, Script, Server, answer_limit_s, as_text, backoff

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")
_Status = TypeVar("_Status", JobStatus, BatchStatus)

# Most steps of one kind that share a round trip; other steps need not wait for them longer than a few milliseconds.
_MOST_TOGETHER = 100
# Longest blocking read. Shorter than any timeout of a proxy in between, and still a third of a command per second.
_LONGEST_BLOCK_S = 4.0
# A step with so many jobs holds the server for some 20 ms.
_MOST_IN_A_STEP, _BYTES_IN_A_STEP = 200, 1_000_000
# How often a handle looks after a queue whose keys do not fit together.
_HEAL_EVERY_S = 10.0


class _News:
    """Wakes those who wait for a job or a batch to end; one subscription for all of them, while there are any."""

    def __init__(self, server: Server, channel: str) -> None:
        self._server = server
        self._channel = channel
        self._bells: dict[str, set[asyncio.Event]] = {}
        self._listener: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def about(self, topic: str) -> AsyncIterator[asyncio.Event]:
        bell = asyncio.Event()
        self._bells.setdefault(topic, set()).add(bell)
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listen())
        try:
            yield bell
        finally:
            self._bells[topic].discard(bell)
            if not self._bells[topic]:
                del self._bells[topic]

    async def _listen(self) -> None:
        pauses = backoff()
        while self._bells:
            try:
                async with aclosing(self._server.subscribe(self._channel)) as topics:
                    async for topic in topics:
                        pauses = backoff()
                        self._ring(topic)
                        if not self._bells:
                            break
            except (QueueServiceError, ConfigurationError):
                # Without news, who waits must look for themselves, at this pace.
                self._ring("")
                await self._server.pause(next(pauses))

    def _ring(self, topic: str) -> None:
        """Wake who waits for this; for the empty topic everybody, as something may have been missed."""
        for name in [topic] if topic else list(self._bells):
            for bell in self._bells.get(name, ()):
                bell.set()

    async def close(self) -> None:
        self._ring("")
        while self._listener and not self._listener.done():
            self._listener.cancel()
            # The client may lose a cancellation while it connects anew.
            await asyncio.wait([self._listener], timeout=1)
        if self._listener and not self._listener.cancelled():
            self._listener.exception()


class _Together:
    """Calls of one kind that share round trips: while one trip is under way, the calls for the next one gather.

    Args:
        run: Makes some calls in one trip, and returns their answers.
    """

    def __init__(self, run: Callable[[Sequence[Sequence[Any]]], Awaitable[Sequence[Any]]]) -> None:
        self._run = run
        self._under_way = asyncio.Lock()
        self._calls: list[Sequence[Any]] = []
        self._next: asyncio.Task[list[Any]] | None = None

    async def call(self, *args: Any) -> Any:
        """Make one call. When this is cancelled, it may be made all the same."""
        if self._next is None:
            self._next = asyncio.create_task(self._make())
        trip, place = self._next, len(self._calls)
        self._calls.append(args)
        return (await asyncio.shield(trip))[place]

    async def _make(self) -> list[Any]:
        async with self._under_way:
            calls, self._calls, self._next = self._calls, [], None
            answers: list[Any] = []
            for start in range(0, len(calls), _MOST_TOGETHER):
                answers += await self._run(calls[start : start + _MOST_TOGETHER])
            return answers


class RedisBackend(QueueBackend):
    """A queue in Redis. Handles of one name share it, in any number of processes on any number of machines.

    Args:
        url: As ``REDIS_URL``: ``redis://``, ``rediss://`` or ``unix://``, for a cluster with some of its nodes,
            comma-separated; or ``redis+sentinel://host:port,host:port/service/database``.
        queue: The queue's name.
        pool_size: Connections for commands; two more wait for jobs and for results.
        max_size: How many jobs may wait, delayed ones included; ``None``: any number.
        result_ttl_s: Seconds results are kept, from completion on, as this handle's calls decide.

    Raises:
        ConfigurationError: The URL is wrong or the extra is missing.
    """

    durable = True

    def __init__(
        self,
        url: str,
        queue: str = "audio",
        *,
        pool_size: int = 10,
        max_size: int | None = None,
        result_ttl_s: float = DEFAULT_RESULT_TTL_S,
    ) -> None:
        self._server = Server(url, pool_size)
        self._key = f"audio_api:{{{check_id(queue)}}}"
        self._news = _News(self._server, f"{self._key}:done")
        self._scripts = {name: Script.of(scripts.script(body, queue)) for name, body in scripts.STEPS.items()}
        self._together = {step: _Together(partial(self._run_all, step)) for step in ("finish", "release", "bury")}
        self._limits = RedisLimits(self._run_limit)
        self._max_size = max_size
        self._ttl_ms = _ms(result_ttl_s)
        self._name = secrets.token_hex(8)
        self._unanswered: list[str] = []
        self._inspected = False
        self._healed_at = -inf

    async def enqueue(self, jobs: Sequence[Job], batch_id: str | None = None) -> None:
        check_jobs(jobs, batch_id)
        steps = [jobs] if batch_id else list(_steps(jobs))
        if len(steps) > 1:
            await self._enqueue_in_steps(steps, len(jobs))
        else:
            await self._accept("enqueue", batch_id or "", self._most, jobs=jobs)

    async def _enqueue_in_steps(self, steps: Sequence[Sequence[Job]], total: int) -> None:
        """Accept all or none although no single step takes them: they are staged, and accepted together."""
        stage, start = secrets.token_hex(8), 0
        try:
            for jobs in steps:
                await self._accept("stage", stage, start, total, self._most, jobs=jobs)
                start += len(jobs)
            await self._accept("accept", stage, total, self._most)
        except QueueServiceError:
            with suppress(QueueServiceError):  # then the queue itself takes them back, in time
                while await self._run("unstage", stage, read=int):
                    pass
            raise
        while await self._run("arrive", read=int):
            pass

    @property
    def _most(self) -> str | int:
        return "" if self._max_size is None else self._max_size

    async def _accept(self, step: str, *args: Any, jobs: Sequence[Job] = ()) -> None:
        fields: list[Any] = []
        for job in jobs:
            fields += (job.id, job.payload, job.priority, "" if job.not_before is None else _ms(job.not_before))
        limit_s = answer_limit_s(len(jobs), sum(len(job.payload) for job in jobs))
        answer, details = await self._run(step, *args, *fields, limit_s=limit_s, read=_verdict)
        if answer == "full":
            raise full(int(details[0]), int(details[1]), self._max_size or 0)
        if answer == "batch":
            raise conflict(f"batch {args[0]} is known with other jobs")
        if answer == "job":
            raise conflict(f"job {as_text(details[0])} is known with another payload or in another batch")
        if answer == "gone":
            raise QueueUnavailableError("the queue lost jobs that were being handed over; hand them over again")

    async def _run(
        self,
        step: str,
        *args: Any,
        read: Callable[[Any], _T],
        if_unknown: Sequence[Any] | None = None,
        limit_s: float = ANSWER_LIMIT_S,
    ) -> _T:
        """Run a step, and understand its answer with ``read``."""
        if not self._inspected:
            self._inspected = await self._server.inspect()
        script = self._scripts[step]
        answer = await self._server.run(script, self._key, args, if_unknown=if_unknown or args, limit_s=limit_s)
        with self._server.understood():
            return read(answer)

    async def _run_limit(self, step: str, *args: Any) -> Any:
        return await self._run(step, *args, read=_turn if step == "take" else int)

    async def lease(
        self, max_jobs: int, lease_s: float, wait_s: float = 0.0, *, spare_last: bool = False
    ) -> list[Lease]:
        clock = asyncio.get_running_loop().time
        give_up = clock() + wait_s
        pauses = backoff()
        while True:
            last = clock() >= give_up
            try:
                leases, due_s = await self._take_or_give_back(max_jobs, lease_s, spare_last)
                if leases or last:
                    return leases
                # Half a lease, because one that is given out in the meantime may also run out in the meantime.
                await self._server.pop(
                    f"{self._key}:wake", min(give_up - clock(), due_s, lease_s / 2, _LONGEST_BLOCK_S)
                )
                pauses = backoff()
            except QueueUnavailableError:
                if last:
                    raise
                await self._server.pause(max(0.0, min(next(pauses), give_up - clock())))

    async def _take_or_give_back(self, max_jobs: int, lease_s: float, spare_last: bool) -> tuple[list[Lease], float]:
        """As ``_take``; a caller that is cancelled meanwhile hears of no job, and so none may stay with it."""
        taking = asyncio.create_task(self._take(max_jobs, lease_s, spare_last))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            with suppress(QueueServiceError, ConfigurationError):
                leases, _ = await taking
                calls = [(each.job_id, each.token, secrets.token_hex(8), 0, 0) for each in leases]
                if calls:
                    await self._run_all("release", calls)
            raise

    async def _take(self, max_jobs: int, lease_s: float, spare_last: bool) -> tuple[list[Lease], float]:
        """The jobs that can be had now, and the seconds until one may appear by itself."""
        call = self._unanswered.pop() if self._unanswered else secrets.token_hex(8)
        try:
            taken = await self._ask(max_jobs, lease_s, call, spare_last)
            if taken is None:
                await self._run("reclaim", self._ttl_ms, read=int)
                taken = await self._ask(max_jobs, lease_s, call, spare_last, reclaim="done")
            if taken and not taken.whole and await self._heal():
                taken = await self._ask(max_jobs, lease_s, call, spare_last, reclaim="done")
        except BaseException:
            # Also when cancelled: the server may have given jobs to this call, and the next one asks for them.
            self._unanswered.append(call)
            raise
        return (taken.leases, taken.due_s) if taken else ([], 0.0)

    async def _heal(self) -> bool:
        """Put jobs back in line whose line was lost, unless that was tried just now; whether it was tried."""
        clock = asyncio.get_running_loop().time
        if clock() < self._healed_at + _HEAL_EVERY_S:
            return False
        self._healed_at = clock()
        _logger.warning("keys of the queue are missing, or a stranger's: it is put in order")
        start = 0
        while start >= 0:
            start = await self._run("heal", start, self._ttl_ms, read=int)
        return True

    async def _ask(
        self, max_jobs: int, lease_s: float, call: str, spare_last: bool, *, reclaim: str = "first"
    ) -> _Taken | None:
        """What can be had now; ``None``: leases have run out, and must be reclaimed first."""
        # A server that was frozen, read-only or away comes back with every lease run out, before those who hold them
        # could renew: they get the time.
        if asyncio.get_running_loop().time() - self._server.failed_at < lease_s:
            reclaim = "never"
        args = (max_jobs, _ms(lease_s), self._name, call, reclaim, self._ttl_ms, int(spare_last))
        return await self._run("lease", *args, 0, if_unknown=(*args, 1), read=partial(_taken, lease_s))

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        if not leases:
            return []
        args = [arg for lease in leases for arg in (lease.job_id, lease.token, _ms(lease.lease_s))]
        kept = await self._run("renew", *args, read=_tokens)
        return [lease for lease in leases if lease.token in kept]

    async def _insist(self, step: str, lease: Lease, *args: Any) -> bool:
        """Run a step until the server answers. It is told which call this is, so that a lost reply does not matter."""
        this_call, pauses = secrets.token_hex(8), backoff()
        while True:
            try:
                return bool(await self._together[step].call(lease.job_id, lease.token, this_call, *args))
            except QueueUnavailableError as error:
                pause_s = next(pauses)
                _logger.warning("%s of job %s waits %.1f s: %s", step, lease.job_id, pause_s, error)
                await self._server.pause(pause_s)

    async def _run_all(self, step: str, calls: Sequence[Sequence[Any]]) -> Sequence[Any]:
        args = list(chain.from_iterable(calls))
        limit_s = answer_limit_s(len(calls), sum(len(arg) for arg in args if isinstance(arg, bytes)))
        return await self._run(step, self._ttl_ms, *args, limit_s=limit_s, read=partial(_answers, len(calls)))

    async def finish(self, lease: Lease, result: bytes, *, success: bool) -> bool:
        check_size(result, f"result of job {lease.job_id}")
        return await self._insist("finish", lease, (JobState.SUCCEEDED if success else JobState.FAILED).value, result)

    async def release(self, lease: Lease, delay_s: float = 0.0, *, count_delivery: bool = False) -> bool:
        return await self._insist("release", lease, _ms(delay_s), int(count_delivery))

    async def bury(self, lease: Lease, reason: str) -> bool:
        return await self._insist("bury", lease, reason)

    async def progress(self, lease: Lease, progress: Mapping[str, Any]) -> bool:
        return bool(await self._run("progress", lease.job_id, lease.token, encode_progress(progress), read=int))

    async def cancel(self, job_id: str) -> bool:
        return bool(await self._run("cancel", job_id, self._ttl_ms, read=int))

    async def status(self, job_id: str) -> JobStatus | None:
        found = await self._run("status", job_id, read=_statuses)
        return found[0] if found else None

    async def wait_result(self, job_id: str, timeout_s: float | None = None) -> JobStatus:
        async def look() -> JobStatus:
            if status := await self.status(job_id):
                return status
            raise TaskNotFoundError(f"there is no job {job_id}, or its result has expired")

        return await self._until(f"job {job_id}", look, lambda status: status.state.final, timeout_s)

    async def batch_status(self, batch_id: str) -> BatchStatus | None:
        return await self._run("batch_status", batch_id, read=partial(_batch_status, batch_id))

    async def batch_jobs(self, batch_id: str) -> list[JobStatus]:
        return await self._run("batch_jobs", batch_id, read=_statuses)

    async def wait_batch(
        self, batch_id: str, timeout_s: float | None = None, more_than: int | None = None
    ) -> BatchStatus:
        async def look() -> BatchStatus:
            if status := await self.batch_status(batch_id):
                return status
            raise TaskNotFoundError(f"there is no batch {batch_id}, or it has expired")

        def enough(status: BatchStatus) -> bool:
            return status.complete or (more_than is not None and status.finished > more_than)

        return await self._until(f"batch {batch_id}", look, enough, timeout_s)

    async def _until(
        self,
        topic: str,
        look: Callable[[], Awaitable[_Status]],
        enough: Callable[[_Status], bool],
        timeout_s: float | None,
    ) -> _Status:
        clock = asyncio.get_running_loop().time
        give_up = inf if timeout_s is None else clock() + timeout_s
        status = await look()
        if enough(status) or clock() >= give_up:
            return status
        async with self._news.about(topic) as bell:
            while not enough(status) and clock() < give_up:
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if give_up == inf else give_up - clock()):
                        await bell.wait()
                bell.clear()
                status = await self._patiently(look, give_up)
        return status

    async def _patiently(self, look: Callable[[], Awaitable[_Status]], give_up: float) -> _Status:
        clock, pauses = asyncio.get_running_loop().time, backoff()
        while True:
            try:
                return await look()
            except QueueUnavailableError:
                if clock() >= give_up:
                    raise
                await self._server.pause(max(0.0, min(next(pauses), give_up - clock())))

    async def stats(self) -> QueueStats:
        return await self._run("stats", read=_stats)

    async def list_dead(self, limit: int = 100, offset: int = 0) -> list[DeadLetter]:
        letters: list[DeadLetter] = []
        while len(letters) < limit:
            page = await self._run("list_dead", offset + len(letters), offset + limit - 1, read=_dead_letters)
            if not page:
                break
            letters += page
        return letters

    async def retry_dead(self, job_id: str) -> bool:
        return bool(await self._run("retry_dead", job_id, read=int))

    async def cleanup_expired(self) -> int:
        self._server.refuse_if_closed()
        return 0

    @property
    def limits(self) -> CallLimits:
        return self._limits

    async def health(self) -> str:
        # A write: a server that is full or read-only answers every question, but takes no job.
        await self._run("check", read=int)
        return await self._server.introduce()

    async def close(self) -> None:
        self._server.closing.set()
        await self._news.close()
        await self._server.close()


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _steps(jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
    """The jobs in so many parts that the server has done with each at once."""
    start = size_bytes = 0
    for end, job in enumerate(jobs):
        size_bytes += len(job.payload)
        if end > start and (end - start >= _MOST_IN_A_STEP or size_bytes > _BYTES_IN_A_STEP):
            yield jobs[start:end]
            start, size_bytes = end, len(job.payload)
    yield jobs[start:]


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a lease call took, when to ask again, and whether the keys of the queue fit together."""

    leases: list[Lease]
    due_s: float
    whole: bool


def _taken(lease_s: float, answer: Any) -> _Taken | None:
    if answer[0] == b"expired":
        return None
    _, taken, due_ms, *odd = answer
    return _Taken([_lease(each, lease_s) for each in taken], inf if due_ms < 0 else due_ms / 1000, odd != [1])


def _verdict(answer: Any) -> tuple[str, Sequence[Any]]:
    verdict, *details = answer
    return {b"ok": "ok", b"full": "full", b"batch": "batch", b"job": "job", b"gone": "gone"}[verdict], details


def _turn(answer: Any) -> tuple[bytes, float, bytes]:
    verdict, value, probe = answer
    return bytes(verdict), float(value), bytes(probe)


def _tokens(answer: Any) -> set[int]:
    return {int(token) for token in answer}


def _answers(count: int, answer: Any) -> list[bool]:
    answers = [bool(int(each)) for each in answer]
    if len(answers) != count:
        raise ValueError(f"{len(answers)} answers to {count} calls")
    return answers


def _whole(value: bytes | None) -> int:
    """A count or a moment; 0 for one that is missing, or that a stranger has overwritten."""
    return int(value) if value and re.fullmatch(rb"-?\d{1,16}", value) else 0


def _seconds(value: bytes | None) -> float | None:
    return None if value is None else _whole(value) / 1000


def _note(value: bytes | None) -> Mapping[str, Any] | None:
    try:
        note = json.loads(value) if value else None
    except ValueError:
        return None
    return note if isinstance(note, dict) else None


def _lease(values: Sequence[Any], lease_s: float) -> Lease:
    job_id, payload, priority, batch_id, token, deliveries, progress = values
    return Lease(
        job_id=as_text(job_id),
        payload=bytes(payload),
        priority=int(priority),
        batch_id=as_text(batch_id) or None,
        token=int(token),
        deliveries=int(deliveries),
        lease_s=lease_s,
        progress=_note(progress),
    )


def _statuses(answer: Any) -> list[JobStatus]:
    return [_status(*each) for each in answer]


def _status(job_id: bytes, values: Sequence[Any]) -> JobStatus:
    state, priority, batch_id, deliveries, enqueued, started, finished, result, progress, reason = values
    return JobStatus(
        job_id=as_text(job_id),
        state=JobState(as_text(state)),
        priority=_whole(priority),
        batch_id=as_text(batch_id) if batch_id else None,
        deliveries=_whole(deliveries),
        enqueued_at=_whole(enqueued) / 1000,
        started_at=_seconds(started),
        finished_at=_seconds(finished),
        result=result,
        progress=_note(progress),
        reason=as_text(reason) if reason else None,
    )


def _batch_status(batch_id: str, answer: Any) -> BatchStatus | None:
    total, started, succeeded, failed, cancelled, dead = answer
    if total is None:
        return None
    return BatchStatus(
        batch_id=batch_id,
        total=int(total),
        succeeded=_whole(succeeded),
        failed=_whole(failed),
        cancelled=_whole(cancelled),
        dead=_whole(dead),
        started=bool(started),
    )


def _stats(answer: Any) -> QueueStats:
    waiting, delayed, leased, dead, (succeeded, failed, cancelled), oldest_ms = answer
    return QueueStats(
        waiting={int(priority): int(count) for priority, count in waiting},
        delayed=int(delayed),
        leased=int(leased),
        dead=int(dead),
        succeeded=_whole(succeeded),
        failed=_whole(failed),
        cancelled=_whole(cancelled),
        oldest_age_s=None if oldest_ms < 0 else oldest_ms / 1000,
    )


def _dead_letters(answer: Any) -> list[DeadLetter]:
    return [_dead_letter(*each) for each in answer]


def _dead_letter(job_id: bytes, values: Sequence[Any]) -> DeadLetter:
    payload, reason, deliveries, batch_id, buried = values
    return DeadLetter(
        job_id=as_text(job_id),
        payload=payload or b"",
        reason=as_text(reason) if reason else "it is not known why",
        deliveries=_whole(deliveries),
        batch_id=as_text(batch_id) if batch_id else None,
        buried_at=_whole(buried) / 1000,
    )
