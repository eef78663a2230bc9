"""What a queue in this process knows about its jobs, and about those who wait for them."""

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
from typing import Any, Self

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
    QueueStats,
    conflict,
    full,
)
from audio_api.queues.limits import MemoryLimits

_UNSTARTED = time.time() - time.monotonic()


def steady_unix_time() -> float:
    """The wall clock as it was when the process began: it never jumps, so that no lease ends early."""
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


class Bell:
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


class Broker:
    """One queue, locked by ``with``. Every method is quick and is called with that lock held, from any thread.

    Lines and heaps keep stale items, which are recognised and dropped when they come up: an entry is where its state
    and its ``place`` or ``lease_until`` say.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._lock = threading.Lock()
        self.clock = clock
        self.limits = MemoryLimits(clock)
        self._entries: dict[str, _Entry] = {}
        self._batches: dict[str, _Batch] = {}
        self._lines: dict[int, _Line] = defaultdict(deque)
        self._returned: _Line = deque()
        self.delayed: list[tuple[float, str, int]] = []
        self.leases: list[tuple[float, str, int]] = []
        self._dead: dict[str, _Entry] = {}
        self._expiring: list[tuple[float, int, str, _Entry | _Batch]] = []
        self.ttl_s = DEFAULT_RESULT_TTL_S
        self._population: Counter[JobState] = Counter()
        self._totals: Counter[JobState] = Counter()
        self._places = 0
        self._turns = 0
        self._idle: deque[Bell] = deque()
        self._watchers: dict[str, set[Bell]] = defaultdict(set)

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
        waiting = self._population[JobState.QUEUED] + self._population[JobState.DELAYED]
        if max_size is not None and fresh and waiting + len(fresh) > max_size:
            raise full(waiting, len(fresh), max_size)
        now = self.clock()
        for job in fresh:
            entry = self._entries[job.id] = _Entry(job, batch_id, now)
            self._population[JobState.QUEUED] += 1
            self._queue(entry, job.not_before, now)
        if batch_id is not None:
            self._batches.setdefault(batch_id, _Batch([job.id for job in jobs]))
        self._ring_idle(len(fresh))

    def _unknown_of(self, jobs: Sequence[Job], batch_id: str | None) -> list[Job]:
        batch = self._batches.get(batch_id) if batch_id is not None else None
        if batch and batch.job_ids != [job.id for job in jobs]:
            raise conflict(f"batch {batch_id} is known with other jobs")
        fresh = []
        for job in jobs:
            known = self._entries.get(job.id)
            if known is None:
                fresh.append(job)
            elif known.job.payload != job.payload or known.batch_id != batch_id:
                raise conflict(f"job {job.id} is known with another payload or in another batch")
        return fresh

    def _move(self, entry: _Entry, state: JobState) -> None:
        self._population[entry.state] -= 1
        self._population[state] += 1
        entry.state = state

    def _queue(self, entry: _Entry, not_before: float | None, now: float) -> None:
        self._places += 1
        entry.place = self._places
        if not_before is not None and not_before > now:
            self._move(entry, JobState.DELAYED)
            heapq.heappush(self.delayed, (not_before, entry.job.id, entry.place))
        else:
            self._move(entry, JobState.QUEUED)
            self._lines[entry.job.priority].append((entry.place, entry))

    def lease(self, max_jobs: int, lease_s: float, spare_last: bool) -> list[Lease]:
        now = self.clock()
        self._promote(now)
        self._reclaim(now)
        taken: list[Lease] = []
        while len(taken) < max_jobs and (entry := self._next()):
            taken.append(self._grant(entry, now, lease_s, spare_last))
        if any(map(self._head, self._lines.values())) or self._head(self._returned):
            self._ring_idle(1)
        return taken

    def _promote(self, now: float) -> None:
        while self.delayed and self.delayed[0][0] <= now:
            _, job_id, place = heapq.heappop(self.delayed)
            entry = self._entries.get(job_id)
            if entry and entry.state is JobState.DELAYED and entry.place == place:
                self._queue(entry, None, now)

    def _reclaim(self, now: float) -> None:
        while self.leases and self.leases[0][0] <= now:
            known_end, job_id, token = heapq.heappop(self.leases)
            entry = self._held(job_id, token)
            if entry and entry.lease_until > known_end:
                heapq.heappush(self.leases, (entry.lease_until, job_id, token))
            elif entry:
                entry.deliveries -= entry.spared
                self._hand_back(entry)

    def _hand_back(self, entry: _Entry) -> None:
        if entry.deliveries >= MAX_DELIVERIES:
            self._end(entry, JobState.DEAD, NEVER_FINISHED % entry.deliveries)
        else:
            self._places += 1
            entry.place = self._places
            self._move(entry, JobState.QUEUED)
            self._returned.append((entry.place, entry))

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
        if self._head(self._returned):
            return self._returned.popleft()[1]
        heads = {priority: entry for priority, line in self._lines.items() if (entry := self._head(line))}
        if not heads:
            return None
        if len(heads) == 1:
            priority = next(iter(heads))
        else:
            self._turns += 1
            fair = self._turns % FAIR_TURN == 0
            priority = min(heads, key=lambda each: heads[each].place) if fair else max(heads)
        return self._lines[priority].popleft()[1]

    def _grant(self, entry: _Entry, now: float, lease_s: float, spare_last: bool) -> Lease:
        self._places += 1
        entry.token = self._places
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
        if len(self.leases) > 2 * self._population[JobState.LEASED] + 1_000:
            # Most jobs finish long before their lease ends; their items would fill the memory until then.
            self.leases = [item for item in self.leases if self._held(item[1], item[2])]
            heapq.heapify(self.leases)
        heapq.heappush(self.leases, (entry.lease_until, entry.job.id, entry.token))

    def next_due(self) -> float:
        """When something happens by itself, by the clock; infinity when nothing will."""
        return min((heap[0][0] for heap in (self.delayed, self.leases) if heap), default=float("inf"))

    def status(self, job_id: str) -> JobStatus | None:
        self.forget_expired()
        entry = self._entries.get(job_id)
        return entry.status() if entry else None

    def batch_status(self, batch_id: str) -> BatchStatus | None:
        self.forget_expired()
        batch = self._batches.get(batch_id)
        return batch.status(batch_id) if batch else None

    def batch_jobs(self, batch_id: str) -> list[JobStatus]:
        self.forget_expired()
        batch = self._batches.get(batch_id)
        return [self._entries[job_id].status() for job_id in batch.job_ids] if batch else []

    def _held(self, job_id: str, token: int) -> _Entry | None:
        entry = self._entries.get(job_id)
        return entry if entry and entry.state is JobState.LEASED and entry.token == token else None

    def renew(self, lease: Lease) -> bool:
        if entry := self._held(lease.job_id, lease.token):
            entry.lease_until = self.clock() + lease.lease_s
        return entry is not None

    def finish(self, lease: Lease, result: bytes, state: JobState) -> bool:
        if entry := self._held(lease.job_id, lease.token):
            entry.result = result
            self._end(entry, state)
        return entry is not None

    def release(self, lease: Lease, delay_s: float, *, count_delivery: bool) -> bool:
        entry = self._held(lease.job_id, lease.token)
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
        if entry := self._held(lease.job_id, lease.token):
            self._end(entry, JobState.DEAD, reason)
        return entry is not None

    def progress(self, lease: Lease, note: bytes) -> bool:
        if entry := self._held(lease.job_id, lease.token):
            entry.progress = note
        return entry is not None

    def cancel(self, job_id: str) -> bool:
        entry = self._entries.get(job_id)
        if not entry or (entry.state.final and entry.state is not JobState.DEAD):
            return False
        self._exhume(entry)
        self._end(entry, JobState.CANCELLED)
        return True

    def retry_dead(self, job_id: str) -> bool:
        entry = self._dead.get(job_id)
        if not entry:
            return False
        self._exhume(entry)
        entry.deliveries = 0
        self._queue(entry, None, self.clock())
        self._ring_idle(1)
        return True

    def _exhume(self, entry: _Entry) -> None:
        if not self._dead.pop(entry.job.id, None):
            return
        entry.finished_at = entry.reason = None
        if batch := self._batch_of(entry):
            batch.ended[JobState.DEAD] -= 1
            self._expire(batch, entry.batch_id or "", inf)

    def _batch_of(self, entry: _Entry) -> _Batch | None:
        return None if entry.batch_id is None else self._batches.get(entry.batch_id)

    def _end(self, entry: _Entry, state: JobState, reason: str | None = None) -> None:
        self._move(entry, state)
        self._totals[state] += 1
        entry.finished_at, entry.reason = self.clock(), reason
        if state is JobState.DEAD:
            self._dead[entry.job.id] = entry
        if batch := self._batch_of(entry):
            batch.ended[state] += 1
            if batch.ended.total() == len(batch.job_ids):
                self._expire(batch, entry.batch_id or "", entry.finished_at + self.ttl_s)
        else:
            self._expire_at(entry.finished_at + self.ttl_s, entry.job.id, entry)
        if self._watchers:
            self._ring_watchers(f"job {entry.job.id}", f"batch {entry.batch_id}")

    def _expire(self, batch: _Batch, batch_id: str, moment: float) -> None:
        """Let a batch and all its results end at the same moment; infinity takes that back."""
        self._expire_at(moment, batch_id, batch)
        for job_id in batch.job_ids:
            if entry := self._entries.get(job_id):
                self._expire_at(moment, job_id, entry)

    def _expire_at(self, moment: float, name: str, what: _Entry | _Batch) -> None:
        what.expires_at = moment
        self._places += 1
        heapq.heappush(self._expiring, (moment, self._places, name, what))

    def forget_expired(self) -> int:
        forgotten, now = 0, self.clock()
        while self._expiring and self._expiring[0][0] <= now:
            moment, _, name, what = heapq.heappop(self._expiring)
            if what.expires_at != moment:
                continue
            if isinstance(what, _Batch):
                del self._batches[name]
            elif what.state is not JobState.DEAD:
                self._population[what.state] -= 1
                del self._entries[name]
                forgotten += 1
        return forgotten

    def stats(self) -> QueueStats:
        now = self.clock()
        waiting = Counter(entry.job.priority for entry in self._waiting())
        heads = [entry for line in (self._returned, *self._lines.values()) if (entry := self._head(line))]
        return QueueStats(
            waiting=dict(waiting),
            delayed=self._population[JobState.DELAYED],
            leased=self._population[JobState.LEASED],
            dead=len(self._dead),
            succeeded=self._totals[JobState.SUCCEEDED],
            failed=self._totals[JobState.FAILED],
            cancelled=self._totals[JobState.CANCELLED],
            oldest_age_s=now - min(entry.enqueued_at for entry in heads) if heads else None,
        )

    def _waiting(self) -> Iterator[_Entry]:
        for line in (self._returned, *self._lines.values()):
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
            for entry in reversed(self._dead.values())
        ]

    def watch(self, topic: str) -> Bell:
        bell = Bell()
        self._watchers[topic].add(bell)
        return bell

    def unwatch(self, topic: str, bell: Bell) -> None:
        if bells := self._watchers.get(topic):
            bells.discard(bell)
            if not bells:
                del self._watchers[topic]

    def _ring_watchers(self, *topics: str) -> None:
        for topic in topics:
            for bell in self._watchers.pop(topic, ()):
                bell.ring()

    def wait_idle(self) -> Bell:
        bell = Bell()
        self._idle.append(bell)
        return bell

    def leave_idle(self, bell: Bell) -> None:
        if bell in self._idle:
            self._idle.remove(bell)
        elif not bell.passed_on:
            self._ring_idle(1)

    def _ring_idle(self, count: int) -> None:
        while count and self._idle:
            count -= self._idle.popleft().ring()


_brokers: dict[str, Broker] = {}
_brokers_lock = threading.Lock()


def broker_of(queue: str, clock: Callable[[], float]) -> Broker:
    """The one broker of a queue in this process; the first who asks for it chooses its clock."""
    with _brokers_lock:
        if queue not in _brokers:
            _brokers[queue] = Broker(clock)
        return _brokers[queue]
