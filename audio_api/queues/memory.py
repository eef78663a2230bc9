"""Jobs that wait in this process. Not durable: they end with it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from audio_api.errors import QueueClosedError, QueueServiceError
from audio_api.queues.base import DEFAULT_RESULT_TTL_S, WORKERS_WINDOW_S, QueueBackend, heard
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
    encode_progress,
)
from audio_api.queues.limits import CallLimits
from audio_api.queues.memory_state import MemoryState, state_of, steady_unix_time

_DAY_S = 86_400


class MemoryBackend(QueueBackend):
    """A queue in this process. Handles of one name share it. Not durable.

    The open handles of one name belong to the thread of the first; in another thread every call raises
    ``QueueServiceError``. After they are closed, or their thread has ended, the queue may go on in another thread.

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
        clock: Callable[[], float] = steady_unix_time,
    ) -> None:
        self._shared = state_of(check_id(queue), clock)
        self._shared.open(self)
        self._shared.ttl_s = result_ttl_s
        self._max_size = max_size
        self._closed = False

    @property
    def _state(self) -> MemoryState:
        if self._closed:
            raise QueueClosedError("this queue was closed; make another MemoryBackend")
        if self._shared.thread is not threading.current_thread():
            raise QueueServiceError("a queue in memory belongs to the thread that made it: use Redis")
        return self._shared

    async def enqueue(self, jobs: Sequence[Job], batch_id: str | None = None) -> None:
        check_jobs(jobs, batch_id)
        self._state.accept(jobs, batch_id, self._max_size)

    async def lease(
        self, max_jobs: int, lease_s: float, wait_s: float = 0.0, *, suspects: bool = True, worker: str = ""
    ) -> list[Lease]:
        clock = asyncio.get_running_loop().time
        give_up = clock() + wait_s
        while True:
            leases = self._state.lease(max_jobs, lease_s, suspects=suspects, worker=worker)
            left_s = give_up - clock()
            if leases or left_s <= 0:
                return leases
            await heard(self._bell("jobs"), min(left_s, self._state.due_in_s()))

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        state = self._state
        kept = [(lease, entry) for lease in leases if (entry := state.held(lease))]
        for lease, entry in kept:
            entry.due = state.clock() + lease.lease_s
        return [lease for lease, _ in kept]

    async def finish(self, lease: Lease, result: bytes, *, success: bool) -> bool:
        check_size(result, f"result of job {lease.job_id}")
        return self._state.finish(lease, result, JobState.SUCCEEDED if success else JobState.FAILED)

    async def release(self, lease: Lease, delay_s: float = 0.0, *, count_delivery: bool = False) -> bool:
        return self._state.release(lease, delay_s, count_delivery=count_delivery)

    async def bury(self, lease: Lease, reason: str) -> bool:
        return self._state.bury(lease, reason)

    async def progress(self, lease: Lease, progress: Mapping[str, Any]) -> bool:
        note = encode_progress(progress)
        if entry := self._state.held(lease):
            entry.progress = note
        return entry is not None

    async def cancel(self, job_id: str) -> bool:
        return self._state.cancel(job_id)

    async def status(self, job_id: str) -> JobStatus | None:
        return self._state.status(job_id)

    async def payload(self, job_id: str) -> bytes | None:
        return self._state.payload(job_id)

    async def batch_status(self, batch_id: str) -> BatchStatus | None:
        return self._state.batch_status(batch_id)

    async def batch_jobs(self, batch_id: str) -> list[JobStatus]:
        return self._state.batch_jobs(batch_id)

    def _bell(self, topic: str) -> asyncio.Event:
        return self._state.bell(topic)

    async def stats(self) -> QueueStats:
        return self._state.stats()

    async def list_dead(self, limit: int = 100, offset: int = 0) -> list[DeadLetter]:
        return self._state.letters()[offset : offset + limit]

    async def list_jobs(self, state: JobState, limit: int = 100, offset: int = 0) -> list[JobStatus]:
        return self._state.list_jobs(state)[offset : offset + limit]

    async def retry_dead(self, job_id: str, note: Mapping[str, Any] | None = None) -> bool:
        return self._state.retry_dead(job_id, None if note is None else encode_progress(note))

    async def cleanup_expired(self) -> int:
        return self._state.forget_expired()

    async def workers(self, here: Iterable[str] = (), gone: Iterable[str] = ()) -> dict[str, float]:
        state, now = self._state, self._state.clock()
        state.workers |= dict.fromkeys(here, now)
        for name in {*gone} | {name for name, seen in state.workers.items() if seen <= now - WORKERS_WINDOW_S}:
            state.workers.pop(name, None)
        return {name: now - seen for name, seen in state.workers.items()}

    async def count(self, amounts: Mapping[str, int]) -> None:
        for day in (0, self._state.clock() // _DAY_S):
            self._state.counts[day].update(amounts)

    async def counts(self, *, today: bool = False) -> dict[str, int]:
        return dict(self._state.counts[self._state.clock() // _DAY_S if today else 0])

    @property
    def limits(self) -> CallLimits:
        return self._shared.limits

    async def health(self) -> str:
        _ = self._state
        return "memory of this process (not durable)"

    async def close(self) -> None:
        self._closed = True
        self._shared.close(self)
