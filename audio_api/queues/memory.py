"""Jobs that wait in this process. Not durable: they end with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any, TypeVar

from audio_api.errors import QueueClosedError, TaskNotFoundError
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
    encode_progress,
)
from audio_api.queues.broker import Bell, Broker, broker_of, steady_unix_time
from audio_api.queues.limits import CallLimits

_Status = TypeVar("_Status", JobStatus, BatchStatus)


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
        clock: Callable[[], float] = steady_unix_time,
    ) -> None:
        self._shared = broker_of(check_id(queue), clock)
        self._shared.ttl_s = result_ttl_s
        self._max_size = max_size
        self._closed = False
        self._bells: set[Bell] = set()

    @property
    def _broker(self) -> Broker:
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

    async def _heard(self, bell: Bell, limit_s: float) -> None:
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
            return broker.progress(lease, note)

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
            return broker.batch_jobs(batch_id)

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
