"""What a queue in this process knows about its jobs, and what each step changes."""

from __future__ import annotations

import asyncio
import heapq
import json
import threading
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any
from weakref import WeakSet, WeakValueDictionary

from audio_api.queues.base import (
    DEFAULT_RESULT_TTL_S,
    FAIR_TURN,
    MAX_DELIVERIES,
    MOST_RECENT,
    NEVER_FINISHED,
    SuspectFirstError,
)
from audio_api.queues.jobs import BatchStatus, DeadLetter, Job, JobState, JobStatus, Lease, QueueStats, conflict, full
from audio_api.queues.limits import MemoryLimits

_UNSTARTED = time.time() - time.monotonic()
# The line of the jobs that were handed back; every other line is that of a priority.
_RETURNED = 101


def steady_unix_time() -> float:
    """The wall clock as it was when the process began: it never jumps, so that no lease ends early."""
    return _UNSTARTED + time.monotonic()


@dataclass(slots=True, eq=False)
class Entry:
    """All that is known about a job.

    Attributes:
        line: The line in which it waits, if it waits.
        number: Its place there: entries with lower ones were there before.
        due: When its lease ends, or its delay.
        expires_at: When it is forgotten.
    """

    job: Job
    batch_id: str | None
    enqueued_at: float
    state: JobState = JobState.QUEUED
    line: int = 0
    number: int = 0
    due: float = 0.0
    deliveries: int = 0
    token: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    result: bytes | None = None
    progress: bytes | None = None
    reason: str | None = None
    worker: str | None = None
    expires_at: float = inf

    def noted(self) -> Mapping[str, Any] | None:
        return None if self.progress is None else json.loads(self.progress)

    def status(self) -> JobStatus:
        who = (self.job.id, self.state, self.job.priority, self.batch_id, self.deliveries)
        times = (self.enqueued_at, self.started_at, self.finished_at)
        return JobStatus(*who, *times, self.result, self.noted(), self.reason, self.worker)

    def letter(self) -> DeadLetter:
        reason, buried_at = self.reason or "", self.finished_at or 0.0
        return DeadLetter(self.job.id, self.job.payload, reason, self.deliveries, self.batch_id, buried_at)


@dataclass(slots=True, eq=False)
class _Batch:
    job_ids: list[str]
    started: bool = False
    ended: Counter[JobState] = field(default_factory=Counter)
    expires_at: float = inf


class MemoryState:
    """One queue, for one thread. Every step is done when it returns."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.thread = threading.current_thread()
        self._handles: WeakSet[object] = WeakSet()
        self.limits = MemoryLimits(clock)
        self.bells: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self.ttl_s = DEFAULT_RESULT_TTL_S
        self._loop: asyncio.AbstractEventLoop | None = None
        self._entries: dict[str, Entry] = {}
        self._batches: dict[str, _Batch] = {}
        # Ordered dictionaries find and drop their first item at once, and any other one, too.
        self._lines: defaultdict[int, OrderedDict[str, Entry]] = defaultdict(OrderedDict)
        self.delayed: dict[str, Entry] = {}
        self.leased: dict[str, Entry] = {}
        self._dead: dict[str, Entry] = {}
        self._recent: OrderedDict[str, Entry] = OrderedDict()
        self._expiring: list[tuple[float, int, str, Entry | _Batch]] = []
        self._totals: Counter[JobState] = Counter()
        self._numbers = 0
        self._turns = 0
        # When each worker was last here, and what was counted in all (0) and on each day.
        self.workers: dict[str, float] = {}
        self.counts: defaultdict[float, Counter[str]] = defaultdict(Counter)

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def open(self, handle: object) -> None:
        """Add a handle. A queue whose handles are all closed, or whose thread ended, belongs to this thread."""
        if not self._handles or not self.thread.is_alive():
            self.thread = threading.current_thread()
        self._handles.add(handle)

    def close(self, handle: object) -> None:
        """Take a handle away, and wake those who wait."""
        self._handles.discard(handle)
        self.ring(*self.bells)

    def bell(self, topic: str) -> asyncio.Event:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # Those who waited in a loop that has ended wait no more.
            self._loop = loop
            self.bells.clear()
        return self.bells.setdefault(topic, asyncio.Event())

    def ring(self, *topics: str) -> None:
        for topic in topics:
            if bell := self.bells.pop(topic, None):
                bell.set()

    def accept(self, jobs: Sequence[Job], batch_id: str | None, max_size: int | None) -> None:
        self.forget_expired()
        batch = self._batches.get(batch_id or "")
        if batch and batch.job_ids != [job.id for job in jobs]:
            raise conflict(f"batch {batch_id} is known with other jobs")
        for job in jobs:
            known = self._entries.get(job.id)
            if known and (known.job.payload != job.payload or known.batch_id != batch_id):
                raise conflict(f"job {job.id} is known with another payload or in another batch")
        fresh = [job for job in jobs if job.id not in self._entries]
        waiting = len(self.delayed) + sum(map(len, self._lines.values()))
        if max_size is not None and fresh and waiting + len(fresh) > max_size:
            raise full(waiting, len(fresh), max_size)
        now = self.clock()
        for job in fresh:
            self._entries[job.id] = Entry(job, batch_id, now)
            self._place(self._entries[job.id], job.not_before)
        if batch_id is not None:
            self._batches.setdefault(batch_id, _Batch([job.id for job in jobs]))

    def _place(self, entry: Entry, due: float | None = None) -> None:
        """Let a job wait behind those of its priority, or for its time."""
        if due is None or due <= self.clock():
            self._wait(entry, entry.job.priority)
        else:
            entry.state, entry.due = JobState.DELAYED, due
            self.delayed[entry.job.id] = entry
            self.ring("jobs")

    def _wait(self, entry: Entry, line: int) -> None:
        entry.state, entry.line, entry.number = JobState.QUEUED, line, self._number()
        self._lines[line][entry.job.id] = entry
        self.ring("jobs")

    def _leave(self, entry: Entry) -> None:
        """Take a job out of wherever it is."""
        for place in (self.delayed, self.leased, self._lines[entry.line]):
            place.pop(entry.job.id, None)
        if not self._lines[entry.line]:
            del self._lines[entry.line]

    def lease(self, max_jobs: int, lease_s: float, *, suspects: bool, worker: str) -> list[Lease]:
        now = self.clock()
        for entry in _over(self.delayed, now):
            self._leave(entry)
            self._wait(entry, entry.job.priority)
        for entry in _over(self.leased, now):
            self._hand_back(entry)
        taken: list[Lease] = []
        suspect = False
        while len(taken) < max_jobs and self._lines and not suspect:
            first = max(self._lines)
            if first != _RETURNED and len(self._lines) > 1:
                self._turns += 1
                if self._turns % FAIR_TURN == 0:
                    first = min(self._lines, key=lambda line: next(iter(self._lines[line].values())).number)
            entry = next(iter(self._lines[first].values()))
            suspect = entry.deliveries > 0 and not suspects
            if not suspect:
                entry.worker = worker or None
                taken.append(self._grant(entry, now, lease_s))
        if self._lines:
            self.ring("jobs")
        if suspect and not taken:
            raise SuspectFirstError
        return taken

    def _hand_back(self, entry: Entry) -> None:
        if entry.deliveries >= MAX_DELIVERIES:
            self._end(entry, JobState.DEAD, NEVER_FINISHED % entry.deliveries)
        else:
            self._leave(entry)
            self._wait(entry, _RETURNED)

    def _grant(self, entry: Entry, now: float, lease_s: float) -> Lease:
        self._leave(entry)
        entry.state, entry.token, entry.started_at, entry.due = JobState.LEASED, self._number(), now, now + lease_s
        entry.deliveries += 1
        self.leased[entry.job.id] = entry
        if batch := self._batches.get(entry.batch_id or ""):
            batch.started = True
        who = (entry.job.id, entry.job.payload, entry.job.priority, entry.batch_id)
        return Lease(
            *who, entry.token, entry.deliveries, lease_s, entry.noted(), entry.job.trace, now - entry.enqueued_at
        )

    def due_in_s(self) -> float:
        """Seconds until a job may appear by itself; infinity when none will."""
        dues = [entry.due for entries in (self.delayed, self.leased) for entry in entries.values()]
        return min(dues, default=inf) - self.clock()

    def held(self, lease: Lease) -> Entry | None:
        entry = self.leased.get(lease.job_id)
        return entry if entry and entry.token == lease.token else None

    def finish(self, lease: Lease, result: bytes, state: JobState) -> bool:
        if entry := self.held(lease):
            entry.result = result
            self._end(entry, state)
        return entry is not None

    def release(self, lease: Lease, delay_s: float, *, count_delivery: bool) -> bool:
        if entry := self.held(lease):
            entry.deliveries -= not count_delivery
            if delay_s > 0 and entry.deliveries < MAX_DELIVERIES:
                self._leave(entry)
                self._place(entry, self.clock() + delay_s)
            else:
                self._hand_back(entry)
        return entry is not None

    def bury(self, lease: Lease, reason: str) -> bool:
        if entry := self.held(lease):
            self._end(entry, JobState.DEAD, reason)
        return entry is not None

    def cancel(self, job_id: str) -> bool:
        entry = self._entries.get(job_id)
        if not entry or (entry.state.final and entry.state is not JobState.DEAD):
            return False
        self._exhume(entry)
        self._end(entry, JobState.CANCELLED)
        return True

    def retry_dead(self, job_id: str, note: bytes | None) -> bool:
        entry = self._dead.get(job_id)
        if entry:
            self._exhume(entry)
            entry.deliveries, entry.progress = 0, entry.progress if note is None else note
            self._place(entry)
        return entry is not None

    def _exhume(self, entry: Entry) -> None:
        if self._dead.pop(entry.job.id, None):
            self._recent.pop(entry.job.id, None)
            entry.finished_at = entry.reason = None
            if batch := self._batches.get(entry.batch_id or ""):
                batch.ended[JobState.DEAD] -= 1
                self._expire_batch(batch, entry.batch_id or "", inf)

    def _end(self, entry: Entry, state: JobState, reason: str | None = None) -> None:
        self._leave(entry)
        entry.state, entry.finished_at, entry.reason = state, self.clock(), reason
        self._totals[state] += 1
        self._recent[entry.job.id] = entry
        if len(self._recent) > MOST_RECENT:
            self._recent.popitem(last=False)
        if state is JobState.DEAD:
            self._dead[entry.job.id] = entry
        if batch := self._batches.get(entry.batch_id or ""):
            batch.ended[state] += 1
            if batch.ended.total() == len(batch.job_ids):
                self._expire_batch(batch, entry.batch_id or "", entry.finished_at + self.ttl_s)
        else:
            self._expire(entry, entry.job.id, entry.finished_at + self.ttl_s)
        self.ring(f"job {entry.job.id}", f"batch {entry.batch_id}")

    def _expire_batch(self, batch: _Batch, batch_id: str, moment: float) -> None:
        """Let a batch and all its results end at the same moment; infinity takes that back."""
        self._expire(batch, batch_id, moment)
        for job_id in batch.job_ids:
            if entry := self._entries.get(job_id):
                self._expire(entry, job_id, moment)

    def _expire(self, what: Entry | _Batch, name: str, moment: float) -> None:
        what.expires_at = moment
        heapq.heappush(self._expiring, (moment, self._number(), name, what))

    def forget_expired(self) -> int:
        forgotten, now = 0, self.clock()
        while self._expiring and self._expiring[0][0] <= now:
            moment, _, name, what = heapq.heappop(self._expiring)
            if what.expires_at != moment:
                continue
            if isinstance(what, _Batch):
                del self._batches[name]
            elif what.state is not JobState.DEAD:
                del self._entries[name]
                self._recent.pop(name, None)
                forgotten += 1
        return forgotten

    def status(self, job_id: str) -> JobStatus | None:
        self.forget_expired()
        entry = self._entries.get(job_id)
        return entry.status() if entry else None

    def payload(self, job_id: str) -> bytes | None:
        entry = self._entries.get(job_id)
        is_kept = entry is not None and (not entry.state.final or entry.state is JobState.DEAD)
        return entry.job.payload if entry and is_kept else None

    def batch_status(self, batch_id: str) -> BatchStatus | None:
        self.forget_expired()
        batch = self._batches.get(batch_id)
        if not batch:
            return None
        return BatchStatus(
            batch_id=batch_id,
            total=len(batch.job_ids),
            succeeded=batch.ended[JobState.SUCCEEDED],
            failed=batch.ended[JobState.FAILED],
            cancelled=batch.ended[JobState.CANCELLED],
            dead=batch.ended[JobState.DEAD],
            started=batch.started,
        )

    def batch_jobs(self, batch_id: str) -> list[JobStatus]:
        self.forget_expired()
        batch = self._batches.get(batch_id)
        return [self._entries[job_id].status() for job_id in batch.job_ids] if batch else []

    def stats(self) -> QueueStats:
        waiting = [entry for line in self._lines.values() for entry in line.values()]
        heads = [next(iter(line.values())).enqueued_at for line in self._lines.values()]
        return QueueStats(
            waiting=Counter(entry.job.priority for entry in waiting),
            delayed=len(self.delayed),
            leased=len(self.leased),
            dead=len(self._dead),
            succeeded=self._totals[JobState.SUCCEEDED],
            failed=self._totals[JobState.FAILED],
            cancelled=self._totals[JobState.CANCELLED],
            buried=self._totals[JobState.DEAD],
            oldest_age_s=self.clock() - min(heads) if heads else None,
        )

    def list_jobs(self, state: JobState) -> list[JobStatus]:
        self.forget_expired()
        if state is JobState.QUEUED:
            found = [entry for line in sorted(self._lines, reverse=True) for entry in self._lines[line].values()]
        elif not state.final:
            entries = self.delayed if state is JobState.DELAYED else self.leased
            found = sorted(entries.values(), key=lambda entry: entry.due)
        else:
            ended = self._dead if state is JobState.DEAD else self._recent
            found = [entry for entry in reversed(ended.values()) if entry.state is state]
        return [entry.status() for entry in found]

    def letters(self) -> list[DeadLetter]:
        return [entry.letter() for entry in reversed(self._dead.values())]


def _over(entries: Mapping[str, Entry], now: float) -> list[Entry]:
    """Those whose time is over, in the order of their times."""
    return sorted(
        (entry for entry in entries.values() if entry.due <= now), key=lambda entry: (entry.due, entry.job.id)
    )


_states: dict[str, MemoryState] = {}


def state_of(queue: str, clock: Callable[[], float]) -> MemoryState:
    """The one state of a queue in this process; the first who asks for it chooses its clock."""
    return _states.setdefault(queue, MemoryState(clock))
