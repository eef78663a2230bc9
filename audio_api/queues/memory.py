"""Jobs that wait in this process. Not durable: they end with it."""

from __future__ import annotations

import asyncio
import heapq
import json
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from types import TracebackType
from typing import Any, Self, TypeVar

from audio_api.errors import QueueClosedError, TaskNotFoundError
from audio_api.queues.base import (
    DEFAULT_RESULT_TTL_S,
    FAIR_TURN,
    MAX_DELIVERIES,
    NEVER_FINISHED,
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
from audio_api.queues.limits import CallLimits, MemoryLimits

_Status = TypeVar("_Status", JobStatus, BatchStatus)

_UNSTARTED = time.time() - time.monotonic()


def _steady_unix_time() -> float:
    # The wall clock as it was when the process began: it never jumps, so that no lease ends early.
    return _UNSTARTED + time.monotonic()


@dataclass(slots=True, eq=False)
class _Entry:
    """All that is known about a job. ``place`` tells its current place in a line from stale ones."""

    job: Job
    batch_id: str | None
    enqueued_at: float
    state: JobState = JobState.QUEUED
    place: int = 0
    deliveries: int = 0
    spared: bool = False
    token: int = 0
    lease_until: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    result: bytes | None = None
    progress: bytes | None = None
    reason: str | None = None
    expires_at: float = inf

    def noted(self) -> Mapping[str, Any] | None:
        return None if self.progress is None else json.loads(self.progress)

    def status(self) -> JobStatus:
        return JobStatus(
            job_id=self.job.id,
            state=self.state,
            priority=self.job.priority,
            batch_id=self.batch_id,
            deliveries=self.deliveries,
            enqueued_at=self.enqueued_at,
            started_at=self.started_at,
            finished_at=self.finished_at,
            result=self.result,
            progress=self.noted(),
            reason=self.reason,
        )


@dataclass(slots=True)
class _Batch:
    job_ids: list[str]
    started: bool = False
    ended: Counter[JobState] = field(default_factory=Counter)
    expires_at: float = inf

    def status(self, batch_id: str) -> BatchStatus:
        return BatchStatus(
            batch_id=batch_id,
            total=len(self.job_ids),
            succeeded=self.ended[JobState.SUCCEEDED],
            failed=self.ended[JobState.FAILED],
            cancelled=self.ended[JobState.CANCELLED],
            dead=self.ended[JobState.DEAD],
            started=self.started,
        )


class _Bell:
    """Wakes one waiting call, from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()
        self.passed_on = True

    def ring(self) -> bool:
        try:
            self._loop.call_soon_threadsafe(self._rung.set)
        except RuntimeError:  # that loop has ended, and its waiters with it
            return False
        return True

    async def heard(self, limit_s: float) -> None:
        """Wait for a ring, but no longer than this; who is cancelled leaves ``passed_on`` to be answered for."""
        self.passed_on = False
        with suppress(TimeoutError):
            async with asyncio.timeout(None if limit_s == inf else limit_s):
                await self._rung.wait()
        self.passed_on = True


_Line = deque[tuple[int, _Entry]]


class _Broker:
    """One queue, locked by ``with``. Every method is quick and is called with that lock held, from any thread.

    Lines and heaps keep stale items, which are recognised and dropped when they come up: an entry is where its state
    and its ``place`` or ``lease_until`` say.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._lock = threading.Lock()
        self.clock = clock
        self.limits = MemoryLimits(clock)
        self.entries: dict[str, _Entry] = {}
        self.batches: dict[str, _Batch] = {}
        self.lines: dict[int, _Line] = defaultdict(deque)
        self.returned: _Line = deque()
        self.delayed: list[tuple[float, str, int]] = []
        self.leases: list[tuple[float, str, int]] = []
        self.dead: dict[str, _Entry] = {}
        self.expiring: list[tuple[float, int, str, _Entry | _Batch]] = []
        self.ttl_s = DEFAULT_RESULT_TTL_S
        self.population: Counter[JobState] = Counter()
        self.totals: Counter[JobState] = Counter()
        self.places = 0
        self.turns = 0
        self.idle: deque[_Bell] = deque()
        self.watchers: dict[str, set[_Bell]] = defaultdict(set)

    def __enter__(self) -> Self:
        self._lock.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def accept(self, jobs: Sequence[Job], batch_id: str | None, max_size: int | None) -> None:
        self.forget_expired()
        fresh = self._unknown_of(jobs, batch_id)
        waiting = self.population[JobState.QUEUED] + self.population[JobState.DELAYED]
        if max_size is not None and fresh and waiting + len(fresh) > max_size:
            raise full(waiting, len(fresh), max_size)
        now = self.clock()
        for job in fresh:
            entry = self.entries[job.id] = _Entry(job, batch_id, now)
            self.population[JobState.QUEUED] += 1
            self._queue(entry, job.not_before, now)
        if batch_id is not None:
            self.batches.setdefault(batch_id, _Batch([job.id for job in jobs]))
        self._ring_idle(len(fresh))

    def _unknown_of(self, jobs: Sequence[Job], batch_id: str | None) -> list[Job]:
        batch = self.batches.get(batch_id) if batch_id is not None else None
        if batch and batch.job_ids != [job.id for job in jobs]:
            raise conflict(f"batch {batch_id} is known with other jobs")
        fresh = []
        for job in jobs:
            known = self.entries.get(job.id)
            if known is None:
                fresh.append(job)
            elif known.job.payload != job.payload or known.batch_id != batch_id:
                raise conflict(f"job {job.id} is known with another payload or in another batch")
        return fresh

    def _move(self, entry: _Entry, state: JobState) -> None:
        self.population[entry.state] -= 1
        self.population[state] += 1
        entry.state = state

    def _queue(self, entry: _Entry, not_before: float | None, now: float) -> None:
        self.places += 1
        entry.place = self.places
        if not_before is not None and not_before > now:
            self._move(entry, JobState.DELAYED)
            heapq.heappush(self.delayed, (not_before, entry.job.id, entry.place))
        else:
            self._move(entry, JobState.QUEUED)
            self.lines[entry.job.priority].append((entry.place, entry))

    def lease(self, max_jobs: int, lease_s: float, spare_last: bool) -> list[Lease]:
        now = self.clock()
        self._promote(now)
        self._reclaim(now)
        taken: list[Lease] = []
        while len(taken) < max_jobs and (entry := self._next()):
            taken.append(self._grant(entry, now, lease_s, spare_last))
        if any(map(self._head, self.lines.values())) or self._head(self.returned):
            self._ring_idle(1)
        return taken

    def _promote(self, now: float) -> None:
        while self.delayed and self.delayed[0][0] <= now:
            _, job_id, place = heapq.heappop(self.delayed)
            entry = self.entries.get(job_id)
            if entry and entry.state is JobState.DELAYED and entry.place == place:
                self._queue(entry, None, now)

    def _reclaim(self, now: float) -> None:
        while self.leases and self.leases[0][0] <= now:
            _, job_id, token = heapq.heappop(self.leases)
            entry = self.held(job_id, token)
            if entry and entry.lease_until > now:
                heapq.heappush(self.leases, (entry.lease_until, job_id, token))
            elif entry:
                entry.deliveries -= entry.spared
                self._hand_back(entry)

    def _hand_back(self, entry: _Entry) -> None:
        if entry.deliveries >= MAX_DELIVERIES:
            self._end(entry, JobState.DEAD, NEVER_FINISHED % entry.deliveries)
        else:
            self.places += 1
            entry.place = self.places
            self._move(entry, JobState.QUEUED)
            self.returned.append((entry.place, entry))

    @staticmethod
    def _head(line: _Line) -> _Entry | None:
        """The first in a line, after dropping who has left it."""
        while line:
            place, entry = line[0]
            if entry.state is JobState.QUEUED and entry.place == place:
                return entry
            line.popleft()
        return None

    def _next(self) -> _Entry | None:
        if self._head(self.returned):
            return self.returned.popleft()[1]
        heads = {priority: entry for priority, line in self.lines.items() if (entry := self._head(line))}
        if not heads:
            return None
        if len(heads) == 1:
            priority = next(iter(heads))
        else:
            self.turns += 1
            fair = self.turns % FAIR_TURN == 0
            priority = min(heads, key=lambda each: heads[each].place) if fair else max(heads)
        return self.lines[priority].popleft()[1]

    def _grant(self, entry: _Entry, now: float, lease_s: float, spare_last: bool) -> Lease:
        self.places += 1
        entry.token = self.places
        entry.deliveries += 1
        entry.spared = spare_last and entry.deliveries >= MAX_DELIVERIES
        entry.started_at, entry.lease_until = now, now + lease_s
        self._move(entry, JobState.LEASED)
        self._remember(entry)
        if batch := self._batch_of(entry):
            batch.started = True
        return Lease(
            job_id=entry.job.id,
            payload=entry.job.payload,
            priority=entry.job.priority,
            batch_id=entry.batch_id,
            token=entry.token,
            deliveries=entry.deliveries,
            lease_s=lease_s,
            progress=entry.noted(),
        )

    def _remember(self, entry: _Entry) -> None:
        if len(self.leases) > 2 * self.population[JobState.LEASED] + 1_000:
            # Most jobs finish long before their lease ends; their items would fill the memory until then.
            self.leases = [item for item in self.leases if self.held(item[1], item[2])]
            heapq.heapify(self.leases)
        heapq.heappush(self.leases, (entry.lease_until, entry.job.id, entry.token))

    def next_due(self) -> float:
        """When something happens by itself, by the clock; infinity when nothing will."""
        return min((heap[0][0] for heap in (self.delayed, self.leases) if heap), default=float("inf"))

    def status(self, job_id: str) -> JobStatus | None:
        self.forget_expired()
        entry = self.entries.get(job_id)
        return entry.status() if entry else None

    def batch_status(self, batch_id: str) -> BatchStatus | None:
        self.forget_expired()
        batch = self.batches.get(batch_id)
        return batch.status(batch_id) if batch else None

    def held(self, job_id: str, token: int) -> _Entry | None:
        entry = self.entries.get(job_id)
        return entry if entry and entry.state is JobState.LEASED and entry.token == token else None

    def renew(self, lease: Lease) -> bool:
        if entry := self.held(lease.job_id, lease.token):
            entry.lease_until = self.clock() + lease.lease_s
        return entry is not None

    def finish(self, lease: Lease, result: bytes, state: JobState) -> bool:
        if entry := self.held(lease.job_id, lease.token):
            entry.result = result
            self._end(entry, state)
        return entry is not None

    def release(self, lease: Lease, delay_s: float, *, count_delivery: bool) -> bool:
        entry = self.held(lease.job_id, lease.token)
        if not entry:
            return False
        now = self.clock()
        if not count_delivery:
            entry.deliveries -= 1
        if delay_s > 0 and entry.deliveries < MAX_DELIVERIES:
            self._queue(entry, now + delay_s, now)
        else:
            self._hand_back(entry)
        self._ring_idle(1)
        return True

    def bury(self, lease: Lease, reason: str) -> bool:
        if entry := self.held(lease.job_id, lease.token):
            self._end(entry, JobState.DEAD, reason)
        return entry is not None

    def cancel(self, job_id: str) -> bool:
        entry = self.entries.get(job_id)
        if not entry or (entry.state.final and entry.state is not JobState.DEAD):
            return False
        self._exhume(entry)
        self._end(entry, JobState.CANCELLED)
        return True

    def retry_dead(self, job_id: str) -> bool:
        entry = self.dead.get(job_id)
        if not entry:
            return False
        self._exhume(entry)
        entry.deliveries = 0
        self._queue(entry, None, self.clock())
        self._ring_idle(1)
        return True

    def _exhume(self, entry: _Entry) -> None:
        if not self.dead.pop(entry.job.id, None):
            return
        entry.finished_at = entry.reason = None
        if batch := self._batch_of(entry):
            batch.ended[JobState.DEAD] -= 1
            self._expire(batch, entry.batch_id or "", inf)

    def _batch_of(self, entry: _Entry) -> _Batch | None:
        return None if entry.batch_id is None else self.batches.get(entry.batch_id)

    def _end(self, entry: _Entry, state: JobState, reason: str | None = None) -> None:
        self._move(entry, state)
        self.totals[state] += 1
        entry.finished_at, entry.reason = self.clock(), reason
        if state is JobState.DEAD:
            self.dead[entry.job.id] = entry
        if batch := self._batch_of(entry):
            batch.ended[state] += 1
            if batch.ended.total() == len(batch.job_ids):
                self._expire(batch, entry.batch_id or "", entry.finished_at + self.ttl_s)
        else:
            self._expire_at(entry.finished_at + self.ttl_s, entry.job.id, entry)
        if self.watchers:
            self._ring_watchers(f"job {entry.job.id}", f"batch {entry.batch_id}")

    def _expire(self, batch: _Batch, batch_id: str, moment: float) -> None:
        """Let a batch and all its results end at the same moment; infinity takes that back."""
        self._expire_at(moment, batch_id, batch)
        for job_id in batch.job_ids:
            if entry := self.entries.get(job_id):
                self._expire_at(moment, job_id, entry)

    def _expire_at(self, moment: float, name: str, what: _Entry | _Batch) -> None:
        what.expires_at = moment
        self.places += 1
        heapq.heappush(self.expiring, (moment, self.places, name, what))

    def forget_expired(self) -> int:
        forgotten, now = 0, self.clock()
        while self.expiring and self.expiring[0][0] <= now:
            moment, _, name, what = heapq.heappop(self.expiring)
            if what.expires_at != moment:
                continue
            if isinstance(what, _Batch):
                del self.batches[name]
            elif what.state is not JobState.DEAD:
                self.population[what.state] -= 1
                del self.entries[name]
                forgotten += 1
        return forgotten

    def stats(self) -> QueueStats:
        now = self.clock()
        waiting = Counter(entry.job.priority for entry in self._waiting())
        heads = [entry for line in (self.returned, *self.lines.values()) if (entry := self._head(line))]
        return QueueStats(
            waiting=dict(waiting),
            delayed=self.population[JobState.DELAYED],
            leased=self.population[JobState.LEASED],
            dead=len(self.dead),
            succeeded=self.totals[JobState.SUCCEEDED],
            failed=self.totals[JobState.FAILED],
            cancelled=self.totals[JobState.CANCELLED],
            oldest_age_s=now - min(entry.enqueued_at for entry in heads) if heads else None,
        )

    def _waiting(self) -> Iterator[_Entry]:
        for line in (self.returned, *self.lines.values()):
            yield from (entry for place, entry in line if entry.state is JobState.QUEUED and entry.place == place)

    def letters(self) -> list[DeadLetter]:
        return [
            DeadLetter(
                job_id=entry.job.id,
                payload=entry.job.payload,
                reason=entry.reason or "",
                deliveries=entry.deliveries,
                batch_id=entry.batch_id,
                buried_at=entry.finished_at or 0.0,
            )
            for entry in reversed(self.dead.values())
        ]

    def watch(self, topic: str) -> _Bell:
        bell = _Bell()
        self.watchers[topic].add(bell)
        return bell

    def unwatch(self, topic: str, bell: _Bell) -> None:
        if bells := self.watchers.get(topic):
            bells.discard(bell)
            if not bells:
                del self.watchers[topic]

    def _ring_watchers(self, *topics: str) -> None:
        for topic in topics:
            for bell in self.watchers.pop(topic, ()):
                bell.ring()

    def wait_idle(self) -> _Bell:
        bell = _Bell()
        self.idle.append(bell)
        return bell

    def leave_idle(self, bell: _Bell) -> None:
        if bell in self.idle:
            self.idle.remove(bell)
        elif not bell.passed_on:
            self._ring_idle(1)

    def _ring_idle(self, count: int) -> None:
        while count and self.idle:
            count -= self.idle.popleft().ring()


_brokers: dict[str, _Broker] = {}
_brokers_lock = threading.Lock()


def _broker(queue: str, clock: Callable[[], float]) -> _Broker:
    with _brokers_lock:
        if queue not in _brokers:
            _brokers[queue] = _Broker(clock)
        return _brokers[queue]


class MemoryBackend(QueueBackend):
    """A queue in this process. Handles of one name share it, also across threads and event loops. Not durable.

    Args:
        queue: The queue's name.
        max_size: How many jobs may wait, delayed ones included; ``None``: any number.
        result_ttl_s: Seconds results are kept, from completion on; the latest handle's value holds for the queue.
        clock: Unix time in seconds that never goes back; only the first handle of a name chooses it.
    """

    durable = False

    def __init__(
        self,
        queue: str = "audio",
        *,
        max_size: int | None = None,
        result_ttl_s: float = DEFAULT_RESULT_TTL_S,
        clock: Callable[[], float] = _steady_unix_time,
    ) -> None:
        self._shared = _broker(check_id(queue), clock)
        self._shared.ttl_s = result_ttl_s
        self._max_size = max_size
        self._closed = False
        self._bells: set[_Bell] = set()

    @property
    def _broker(self) -> _Broker:
        if self._closed:
            raise QueueClosedError("this queue was closed; make another MemoryBackend")
        return self._shared

    async def enqueue(self, jobs: Sequence[Job], batch_id: str | None = None) -> None:
        check_jobs(jobs, batch_id)
        with self._broker as broker:
            broker.accept(jobs, batch_id, self._max_size)

    async def lease(
        self, max_jobs: int, lease_s: float, wait_s: float = 0.0, *, spare_last: bool = False
    ) -> list[Lease]:
        give_up = time.monotonic() + wait_s
        while True:
            with self._broker as broker:
                leases = broker.lease(max_jobs, lease_s, spare_last)
                left_s = give_up - time.monotonic()
                if leases or left_s <= 0:
                    return leases
                bell = broker.wait_idle()
                pause_s = min(left_s, broker.next_due() - broker.clock())
            try:
                await self._heard(bell, pause_s)
            finally:
                with self._shared:
                    self._shared.leave_idle(bell)

    async def _heard(self, bell: _Bell, limit_s: float) -> None:
        self._bells.add(bell)
        try:
            await bell.heard(limit_s)
        finally:
            self._bells.discard(bell)

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        with self._broker as broker:
            return [lease for lease in leases if broker.renew(lease)]

    async def finish(self, lease: Lease, result: bytes, *, success: bool) -> bool:
        check_size(result, f"result of job {lease.job_id}")
        with self._broker as broker:
            return broker.finish(lease, result, JobState.SUCCEEDED if success else JobState.FAILED)

    async def release(self, lease: Lease, delay_s: float = 0.0, *, count_delivery: bool = False) -> bool:
        with self._broker as broker:
            return broker.release(lease, delay_s, count_delivery=count_delivery)

    async def bury(self, lease: Lease, reason: str) -> bool:
        with self._broker as broker:
            return broker.bury(lease, reason)

    async def progress(self, lease: Lease, progress: Mapping[str, Any]) -> bool:
        note = encode_progress(progress)
        with self._broker as broker:
            if entry := broker.held(lease.job_id, lease.token):
                entry.progress = note
            return entry is not None

    async def cancel(self, job_id: str) -> bool:
        with self._broker as broker:
            return broker.cancel(job_id)

    async def status(self, job_id: str) -> JobStatus | None:
        with self._broker as broker:
            return broker.status(job_id)

    async def wait_result(self, job_id: str, timeout_s: float | None = None) -> JobStatus:
        def known() -> JobStatus:
            if status := self._shared.status(job_id):
                return status
            raise TaskNotFoundError(f"there is no job {job_id}, or its result has expired")

        return await self._until(f"job {job_id}", known, lambda status: status.state.final, timeout_s)

    async def batch_status(self, batch_id: str) -> BatchStatus | None:
        with self._broker as broker:
            return broker.batch_status(batch_id)

    async def batch_jobs(self, batch_id: str) -> list[JobStatus]:
        with self._broker as broker:
            broker.forget_expired()
            batch = broker.batches.get(batch_id)
            return [broker.entries[job_id].status() for job_id in batch.job_ids] if batch else []

    async def wait_batch(
        self, batch_id: str, timeout_s: float | None = None, more_than: int | None = None
    ) -> BatchStatus:
        def known() -> BatchStatus:
            if status := self._shared.batch_status(batch_id):
                return status
            raise TaskNotFoundError(f"there is no batch {batch_id}, or it has expired")

        def enough(status: BatchStatus) -> bool:
            return status.complete or (more_than is not None and status.finished > more_than)

        return await self._until(f"batch {batch_id}", known, enough, timeout_s)

    async def _until(
        self, topic: str, look: Callable[[], _Status], enough: Callable[[_Status], bool], timeout_s: float | None
    ) -> _Status:
        give_up = inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            with self._broker as broker:
                status = look()
                left_s = give_up - time.monotonic()
                if enough(status) or left_s <= 0:
                    return status
                bell = broker.watch(topic)
            try:
                await self._heard(bell, left_s)
            finally:
                with self._shared:
                    self._shared.unwatch(topic, bell)

    async def stats(self) -> QueueStats:
        with self._broker as broker:
            return broker.stats()

    async def list_dead(self, limit: int = 100, offset: int = 0) -> list[DeadLetter]:
        with self._broker as broker:
            return broker.letters()[offset : offset + limit]

    async def retry_dead(self, job_id: str) -> bool:
        with self._broker as broker:
            return broker.retry_dead(job_id)

    async def cleanup_expired(self) -> int:
        with self._broker as broker:
            return broker.forget_expired()

    @property
    def limits(self) -> CallLimits:
        return self._shared.limits

    async def health(self) -> str:
        with self._broker:
            return "memory of this process (not durable)"

    async def close(self) -> None:
        self._closed = True
        for bell in self._bells:
            bell.ring()
