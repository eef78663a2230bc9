"""The contract of every queue: what may be lost (nothing), what may happen twice (a call, never a visible result)."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import Any, ClassVar, TypeVar

from audio_api.errors import QueueUnavailableError, TaskNotFoundError
from audio_api.queues.jobs import BatchStatus, DeadLetter, Job, JobState, JobStatus, Lease, QueueStats
from audio_api.queues.limits import CallLimits

DEFAULT_RESULT_TTL_S = 86_400.0
"""How long results are kept, from completion on: long enough for a client that comes back the next day."""
MAX_DELIVERIES = 3
"""A job that was handed out this often and never finished kills its workers; it goes to the dead letters."""
MOST_RECENT = 1_000
"""How many finished jobs a queue lists."""
NEVER_FINISHED = "delivered %d times and never finished"
"""Why a job that ran out of leases too often is dead."""
FAIR_TURN = 8
"""While several priorities wait, every eighth job handed out is the oldest of them all, so that none starves."""
WORKERS_WINDOW_S = 150.0
"""So long a worker counts as one that is at the queue; each says so every minute."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


def backoff() -> Iterator[float]:
    """Seconds to wait for a place that does not answer, ever longer."""
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


async def heard(bell: asyncio.Event, limit_s: float) -> None:
    """Wait for a bell, but no longer than so many seconds, which may be infinite."""
    with suppress(TimeoutError):
        async with asyncio.timeout(None if limit_s == inf else limit_s):
            await bell.wait()


_Status = TypeVar("_Status", JobStatus, BatchStatus)


class SuspectFirstError(Exception):
    """The job that comes next was delivered before and never finished: it may have killed its worker."""


class QueueBackend(ABC):
    """A place where jobs wait. A handle belongs to one event loop; any number of handles may share a queue.

    After ``close`` every call raises ``QueueClosedError``. When the place does not answer, every call raises
    ``QueueUnavailableError`` within a second; ``lease``, ``finish``, ``release`` and ``bury`` wait for it first
    (see there). A call that failed so may still have taken effect; each can be repeated safely, with the same ids.
    Where a call returns whether it did it, ``False`` means that the lease is stale or the job is not there: nothing
    changed.
    """

    durable: ClassVar[bool]
    """Whether accepted jobs survive the end of this process."""

    @abstractmethod
    async def enqueue(self, jobs: Sequence[Job], batch_id: str | None = None) -> None:
        """Accept all these jobs or none; they are stored when this returns.

        A job whose id is known with the same payload is left as it is, whatever its state: enqueueing again is safe.

        Args:
            jobs: At least one, with distinct ids.
            batch_id: Makes them a batch, in this order; ``None``: they stand alone. A known batch id with the same
                job ids in the same order changes nothing.

        Raises:
            QueueServiceError: Code ``task_conflict``: an id is known with another payload or in another batch, or the
                batch id with other jobs. Nothing was accepted.
            QueueFullError: The jobs waiting and delayed would be more than the queue's bound. Nothing was accepted.
        """

    @abstractmethod
    async def lease(
        self, max_jobs: int, lease_s: float, wait_s: float = 0.0, *, suspects: bool = True, worker: str = ""
    ) -> list[Lease]:
        """Take up to ``max_jobs`` jobs; no other worker gets them until ``lease_s`` has passed without a renewal.

        First come jobs that were handed back or whose lease ran out, then the highest priority, the oldest first
        (see ``FAIR_TURN``). A job that ran out of leases ``MAX_DELIVERIES`` times is buried instead.
        Waits, without polling, until there is at least one job. While the place does not answer it tries again
        after 0.1 s, then ever longer up to 5 s. A job that is given to a call as it is cancelled is handed back.

        Args:
            max_jobs: How many slots are free; at least 1.
            lease_s: How long each lease lasts, in seconds; renew it at a third of that.
            wait_s: The longest wait in seconds; 0 asks once.
            suspects: Whether jobs may be among them that were delivered before and never finished.
            worker: Who takes them, for people who look at the queue; empty: it is not told.

        Returns:
            The leases; none when the wait was in vain.

        Raises:
            SuspectFirstError: Such a job comes next, and ``suspects`` is false. It was not taken.
            QueueUnavailableError: The place did not answer at the end of the wait.
        """

    @abstractmethod
    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        """Let these leases last their ``lease_s`` from now, and return those that are still held.

        The others are lost: the job was cancelled, or it was given to another worker. A lease that ran out and was
        not yet given to another worker is held.
        """

    @abstractmethod
    async def finish(self, lease: Lease, result: bytes, *, success: bool) -> bool:
        """Store the result, count the job in its batch, and end the lease, in one step; then wake who waits for it.

        Waits for a place that does not answer, with the backoff of ``lease``, as long as it takes: paid work is not
        given up. Cancel it to give up.

        Args:
            lease: The current lease.
            result: JSON, at most ``MAX_PAYLOAD_BYTES``; kept for the queue's result TTL from now on, and in a batch
                from its completion on.
            success: Whether the job counts as succeeded or as failed.
        """

    @abstractmethod
    async def release(self, lease: Lease, delay_s: float = 0.0, *, count_delivery: bool = False) -> bool:
        """Hand a job back: at once to the front, or after a delay to its priority. Waits for the place like ``finish``.

        Args:
            lease: The current lease.
            delay_s: Seconds before any worker gets it; 0: at once.
            count_delivery: Whether this delivery counts towards ``MAX_DELIVERIES``; a job that has used them up is
                buried. Not counted when the job is innocent: a shutdown, a used-up quota.
        """

    @abstractmethod
    async def bury(self, lease: Lease, reason: str) -> bool:
        """Put a job among the dead letters, counted as dead in its batch. Waits for the place like ``finish``."""

    @abstractmethod
    async def progress(self, lease: Lease, progress: Mapping[str, Any]) -> bool:
        """Note how far a long job is; ``status`` and a next holder see it.

        Args:
            lease: The current lease.
            progress: At most ``MAX_PROGRESS_BYTES`` as JSON; replaces the last note.
        """

    @abstractmethod
    async def cancel(self, job_id: str) -> bool:
        """Take a job out, wherever it waits; a leased job's holder finds its lease lost. It discards a dead letter."""

    @abstractmethod
    async def status(self, job_id: str) -> JobStatus | None:
        """What is known about a job; ``None``: unknown, or its result has expired."""

    @abstractmethod
    async def payload(self, job_id: str) -> bytes | None:
        """What a job was enqueued with; ``None``: it is unknown, succeeded, failed or cancelled."""

    async def wait_result(self, job_id: str, timeout_s: float | None = None) -> JobStatus:
        """Wait, without polling, until a job is in a final state.

        Args:
            job_id: The job.
            timeout_s: The longest wait in seconds; ``None``: as long as it takes.

        Returns:
            Its status; after a timeout, one that is not final.

        Raises:
            TaskNotFoundError: There is no such job.
        """

        async def look() -> JobStatus:
            if status := await self.status(job_id):
                return status
            raise TaskNotFoundError(f"there is no job {job_id}, or its result has expired")

        return await self._until(f"job {job_id}", look, lambda status: status.state.final, timeout_s)

    @abstractmethod
    async def batch_status(self, batch_id: str) -> BatchStatus | None:
        """The counters of a batch; ``None``: unknown, or expired."""

    @abstractmethod
    async def batch_jobs(self, batch_id: str) -> list[JobStatus]:
        """Every job of a batch, in the order of its requests; empty when the batch is unknown."""

    async def wait_batch(
        self, batch_id: str, timeout_s: float | None = None, more_than: int | None = None
    ) -> BatchStatus:
        """Wait, without polling, until a batch is complete.

        Args:
            batch_id: The batch.
            timeout_s: The longest wait in seconds; ``None``: as long as it takes.
            more_than: Return also as soon as more jobs than this are finished, to show progress; ``None``: do not.

        Returns:
            Its status; after a timeout, one that is not complete.

        Raises:
            TaskNotFoundError: There is no such batch.
        """

        async def look() -> BatchStatus:
            if status := await self.batch_status(batch_id):
                return status
            raise TaskNotFoundError(f"there is no batch {batch_id}, or it has expired")

        def enough(status: BatchStatus) -> bool:
            return status.complete or (more_than is not None and status.finished > more_than)

        return await self._until(f"batch {batch_id}", look, enough, timeout_s)

    @abstractmethod
    def _bell(self, topic: str) -> asyncio.Event:
        """An event that is set when the topic, ``"job <id>"`` or ``"batch <id>"``, has news, and by ``close``."""

    async def _until(
        self,
        topic: str,
        look: Callable[[], Awaitable[_Status]],
        enough: Callable[[_Status], bool],
        timeout_s: float | None,
    ) -> _Status:
        clock, pauses = asyncio.get_running_loop().time, backoff()
        give_up = inf if timeout_s is None else clock() + timeout_s
        status, bell, look_at = await look(), None, give_up
        while not enough(status) and clock() < give_up:
            if bell:
                await heard(bell, look_at - clock())
            # A bell is rung once. The next one is there before the look, so that no news falls between them.
            bell, look_at = self._bell(topic), give_up
            try:
                status = await look()
                pauses = backoff()
            except QueueUnavailableError:
                if clock() >= give_up:
                    raise
                look_at = min(give_up, clock() + next(pauses))
        return status

    @abstractmethod
    async def stats(self) -> QueueStats:
        """A snapshot of the queue."""

    @abstractmethod
    async def list_dead(self, limit: int = 100, offset: int = 0) -> list[DeadLetter]:
        """Dead letters, the latest first. They stay until they are retried or cancelled."""

    @abstractmethod
    async def list_jobs(self, state: JobState, limit: int = 100, offset: int = 0) -> list[JobStatus]:
        """Jobs in a state: waiting ones roughly in their order, the others by time; finished ones the latest first.

        Of the finished ones, which are ``succeeded``, ``failed``, ``cancelled`` and ``dead`` together, the latest
        ``MOST_RECENT`` are known here; dead ones are all known.
        """

    @abstractmethod
    async def retry_dead(self, job_id: str, note: Mapping[str, Any] | None = None) -> bool:
        """Queue a dead job again, as if it had never been delivered; an entry that is not a job of ours is not.

        Args:
            job_id: The job.
            note: Replaces what its last holder noted with ``progress``; ``None``: that stays.
        """

    @abstractmethod
    async def cleanup_expired(self) -> int:
        """Forget results older than their TTL, and return how many; 0 where the place does that by itself."""

    @abstractmethod
    async def workers(self, here: Iterable[str] = (), gone: Iterable[str] = ()) -> dict[str, float]:
        """Note which workers are at the queue, and tell which are.

        Args:
            here: Names of workers that are at it.
            gone: Names of workers that have ended.

        Returns:
            How many seconds ago each said so, of those within ``WORKERS_WINDOW_S``.
        """

    @abstractmethod
    async def count(self, amounts: Mapping[str, int]) -> None:
        """Add to counters that all handles of the queue share, of all time and of today (UTC).

        They are for people who watch: when the answer of a call is lost, it may count twice. They are forgotten when
        nothing is counted for a month.

        Args:
            amounts: How much is added to each; of few names.
        """

    @abstractmethod
    async def counts(self, *, today: bool = False) -> dict[str, int]:
        """The counters of ``count``, of all time or of today."""

    @abstractmethod
    async def health(self) -> str:
        """Ask the place who it is, such as ``"valkey 9.1.2"``.

        Raises:
            QueueUnavailableError: It does not answer, or takes no jobs now; the text says why.
        """

    @property
    @abstractmethod
    def limits(self) -> CallLimits:
        """What all handles of this queue share about the limits of the API that its jobs call."""

    @abstractmethod
    async def close(self) -> None:
        """End every wait with ``QueueClosedError`` and close connections; leases run out by themselves."""
