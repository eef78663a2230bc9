"""Jobs that wait in Redis, on any number of machines: what is done in Lua is in ``lua/``, atomically.

Redis 6.2 or newer, or Valkey. The user that the URL names needs no more than ``redis_connection.ACCESS``.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from math import inf
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from audio_api.errors import ConfigurationError, QueueServiceError, QueueUnavailableError
from audio_api.queues import redis_answers as answers
from audio_api.queues.base import DEFAULT_RESULT_TTL_S, WORKERS_WINDOW_S, QueueBackend, SuspectFirstError, backoff
from audio_api.queues.jobs import (
    BatchStatus,
    DeadLetter,
    Job,
    JobState,
    JobStatus,
    Lease,
    QueueStats,
    check_id,
    check_jobs,
    check_size,
    conflict,
    encode_progress,
    full,
)
from audio_api.queues.limits import CallLimits, RedisLimits
from audio_api.queues.lua import scripts
from audio_api.queues.redis_connection import ANSWER_LIMIT_S, RedisConnection, answer_limit_s

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")

# Longest blocking read. Shorter than any timeout of a proxy in between, and still a third of a command per second.
_LONGEST_BLOCK_S = 4.0
# A step with so many jobs holds the server for some 20 ms.
_MOST_IN_A_STEP, _BYTES_IN_A_STEP = 200, 1_000_000
# How often a handle looks after a queue whose keys do not fit together.
_HEAL_EVERY_S = 10.0


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
        self._server = RedisConnection(url, pool_size)
        self._key = f"audio_api:{{{check_id(queue)}}}"
        self._scripts = scripts(queue)
        self._limits = RedisLimits(self._run_limit)
        self._max_size = max_size
        self._ttl_ms = _ms(result_ttl_s)
        self._bells: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self._listener: asyncio.Task[None] | None = None
        self._unanswered: list[str] = []
        self._inspected = False
        self._healed_at = -inf

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
            # The calls that begin meanwhile do not look as well.
            self._inspected = True
            try:
                self._inspected = await self._server.inspect()
            except BaseException:
                self._inspected = False
                raise
        script = self._scripts[step]
        answer = await self._server.run(script, self._key, args, if_unknown=if_unknown or args, limit_s=limit_s)
        with self._server.understood():
            return read(answer)

    async def _run_limit(self, step: str, *args: Any) -> Any:
        return await self._run(step, *args, read=answers.admission if step == "take" else int)

    async def enqueue(self, jobs: Sequence[Job], batch_id: str | None = None) -> None:
        check_jobs(jobs, batch_id)
        stage, before, most = secrets.token_hex(8), 0, "" if self._max_size is None else self._max_size
        for some in [jobs] if batch_id else _steps(jobs):
            fields: list[Any] = []
            for job in some:
                due = "" if job.not_before is None else _ms(job.not_before)
                fields += (job.id, job.payload, job.priority, due, job.trace or "")
            limit_s = answer_limit_s(len(some), sum(len(job.payload) for job in some))
            args = (batch_id or "", stage, before, len(jobs), most, *fields)
            answer, details = await self._run("enqueue", *args, limit_s=limit_s, read=answers.verdict)
            if answer == "full":
                raise full(int(details[0]), int(details[1]), self._max_size)
            if answer == "batch":
                raise conflict(f"batch {batch_id} is known with other jobs")
            if answer == "job":
                raise conflict(f"job {answers.as_text(details[0])} is known with another payload or in another batch")
            if answer == "gone":
                raise QueueUnavailableError("the queue lost jobs that were being handed over; hand them over again")
            before += len(some)
        calls = int(len(some) < len(jobs))
        while calls:
            calls = await self._run("arrive", read=int)

    async def lease(
        self, max_jobs: int, lease_s: float, wait_s: float = 0.0, *, suspects: bool = True, worker: str = ""
    ) -> list[Lease]:
        clock, pauses = asyncio.get_running_loop().time, backoff()
        give_up = clock() + wait_s
        while True:
            last = clock() >= give_up
            try:
                leases, due_s = await self._take_or_give_back(max_jobs, lease_s, suspects, worker)
                if leases or last:
                    return leases
                # Half a lease, because one that is given out in the meantime may also run out in the meantime.
                wait_s = min(give_up - clock(), due_s, lease_s / 2, _LONGEST_BLOCK_S)
                await self._server.pop(f"{self._key}:wake", wait_s)
                pauses = backoff()
            except QueueUnavailableError:
                if last:
                    raise
                await self._server.pause(min(next(pauses), give_up - clock()))

    async def _take_or_give_back(
        self, max_jobs: int, lease_s: float, suspects: bool, worker: str
    ) -> tuple[list[Lease], float]:
        """As ``_take``; a caller that is cancelled meanwhile hears of no job, and so none may stay with it."""
        taking = asyncio.create_task(self._take(max_jobs, lease_s, suspects, worker))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            with suppress(QueueServiceError, ConfigurationError, SuspectFirstError):
                for lease in (await taking)[0]:
                    await self._end("release", lease, secrets.token_hex(8), 0, 0)
            raise

    async def _take(self, max_jobs: int, lease_s: float, suspects: bool, worker: str) -> tuple[list[Lease], float]:
        """The jobs that can be had now, and the seconds until one may appear by itself."""
        clock = asyncio.get_running_loop().time
        call = self._unanswered.pop() if self._unanswered else secrets.token_hex(8)
        ask = partial(self._ask, max_jobs, lease_s, call, suspects, worker)
        # A server that was frozen, read-only or away comes back with every lease run out, before their holders could
        # renew them: they get the time.
        reclaims = "never" if clock() - self._server.failed_at < lease_s else "ask"
        try:
            leases, due_s, fits = await ask(reclaims)
            if due_s is None:
                leases, due_s, fits = await ask("now")
            if not fits and clock() >= self._healed_at + _HEAL_EVERY_S:
                self._healed_at = clock()
                _logger.warning("keys of the queue are missing, or are those of another program: it is put in order")
                start = 0
                while start >= 0:
                    start = await self._run("heal", start, self._ttl_ms, read=int)
                leases, due_s, _ = await ask("never")
        except BaseException:
            # Also when cancelled: the server may have given jobs to this call, and the next one asks for them.
            self._unanswered.append(call)
            raise
        return leases, inf if due_s is None else due_s

    async def _ask(
        self, max_jobs: int, lease_s: float, call: str, suspects: bool, worker: str, reclaims: str
    ) -> tuple[list[Lease], float | None, bool]:
        args = (max_jobs, _ms(lease_s), call, reclaims, self._ttl_ms, int(suspects), worker)
        return await self._run("lease", *args, 0, if_unknown=(*args, 1), read=partial(answers.taken, lease_s))

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        args = [arg for lease in leases for arg in (lease.job_id, lease.token, _ms(lease.lease_s))]
        kept = await self._run("renew", *args, read=lambda answer: {int(token) for token in answer}) if args else set()
        return [lease for lease in leases if lease.token in kept]

    async def _insist(self, step: str, lease: Lease, *args: Any) -> bool:
        """End a lease as soon as the server answers. It is told which call this is: a lost reply does not matter."""
        this_call, pauses = secrets.token_hex(8), backoff()
        while True:
            try:
                return await self._end(step, lease, this_call, *args)
            except QueueUnavailableError as error:
                pause_s = next(pauses)
                _logger.warning("%s of job %s waits %.1f s: %s", step, lease.job_id, pause_s, error)
                await self._server.pause(pause_s)

    async def _end(self, step: str, lease: Lease, this_call: str, *args: Any) -> bool:
        limit_s = answer_limit_s(1, sum(len(arg) for arg in args if isinstance(arg, bytes)))
        args = (lease.job_id, lease.token, this_call, self._ttl_ms, *args)
        return bool(await self._run(step, *args, limit_s=limit_s, read=int))

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
        found = await self._run("status", job_id, read=answers.statuses)
        return found[0] if found else None

    async def payload(self, job_id: str) -> bytes | None:
        return await self._run("payload", job_id, read=lambda answer: answer[0] and bytes(answer[0]))

    async def batch_status(self, batch_id: str) -> BatchStatus | None:
        return await self._run("batch_status", batch_id, read=partial(answers.batch_status, batch_id))

    async def batch_jobs(self, batch_id: str) -> list[JobStatus]:
        return await self._run("batch_jobs", batch_id, read=answers.statuses)

    def _bell(self, topic: str) -> asyncio.Event:
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listen())
        return self._bells.setdefault(topic, asyncio.Event())

    async def _listen(self) -> None:
        """Ring the bells, as long as a caller waits; one subscription serves all of them."""
        pauses = backoff()
        while self._bells:
            try:
                async with aclosing(self._server.subscribe(f"{self._key}:done")) as topics:
                    async for topic in topics:
                        pauses = backoff()
                        self._ring([topic] if topic else list(self._bells))
                        if not self._bells:
                            break
            except (QueueServiceError, ConfigurationError):
                # Without news, callers must look for themselves, at this pace.
                self._ring(list(self._bells))
                await self._server.pause(next(pauses))

    def _ring(self, topics: Sequence[str]) -> None:
        for topic in topics:
            if bell := self._bells.pop(topic, None):
                bell.set()

    async def stats(self) -> QueueStats:
        return await self._run("stats", read=answers.stats)

    async def list_dead(self, limit: int = 100, offset: int = 0) -> list[DeadLetter]:
        letters: list[DeadLetter] = []
        while len(letters) < limit:
            page = await self._run("list_dead", offset + len(letters), offset + limit - 1, read=answers.dead_letters)
            if not page:
                break
            letters += page
        return letters

    async def list_jobs(self, state: JobState, limit: int = 100, offset: int = 0) -> list[JobStatus]:
        return await self._run("list_jobs", state.value, offset, offset + limit - 1, read=answers.statuses)

    async def retry_dead(self, job_id: str, note: Mapping[str, Any] | None = None) -> bool:
        return bool(await self._run("retry_dead", job_id, *([] if note is None else [encode_progress(note)]), read=int))

    async def cleanup_expired(self) -> int:
        self._server.refuse_if_closed()
        return 0

    async def workers(self, here: Iterable[str] = (), gone: Iterable[str] = ()) -> dict[str, float]:
        told = [word for names, state in ((here, "here"), (gone, "gone")) for name in names for word in (name, state)]
        return await self._run("workers", _ms(WORKERS_WINDOW_S), *told, read=answers.workers)

    async def count(self, amounts: Mapping[str, int]) -> None:
        if amounts:
            await self._run("count", *(word for amount in amounts.items() for word in amount), read=int)

    async def counts(self, *, today: bool = False) -> dict[str, int]:
        return await self._run("counts", int(today), read=answers.counts)

    @property
    def limits(self) -> CallLimits:
        return self._limits

    async def health(self) -> str:
        # A write: a server that is full or read-only answers every question, but takes no job.
        await self._run("check", read=int)
        return await self._server.introduce()

    async def close(self) -> None:
        self._server.closing.set()
        self._ring(list(self._bells))
        while self._listener and not self._listener.done():
            self._listener.cancel()
            # The client may lose a cancellation while it connects again.
            await asyncio.wait([self._listener], timeout=1)
        if self._listener and not self._listener.cancelled():
            self._listener.exception()
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
