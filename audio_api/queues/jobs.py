"""Jobs, batches and what is known about them: plain values, the same for every queue."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite
from typing import Any

from audio_api.errors import ErrorCode, QueueFullError, QueueServiceError
from audio_api.models.audio_request import ID_PATTERN

MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
"""Largest payload or result: a text of a million characters, of which JSON writes each with six bytes at most."""
MAX_PROGRESS_BYTES = 4 * 1024
"""Largest progress note, as JSON."""
PRIORITIES = range(-100, 101)
"""As ``AudioRequest.priority``: higher first, 0 normal."""


class JobState(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    DELAYED = "delayed"
    LEASED = "leased"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD = "dead"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen by itself; a dead job can still be retried by hand."""
        return self not in {JobState.QUEUED, JobState.DELAYED, JobState.LEASED}


def check_id(value: str) -> str:
    """Return an id of a job or a batch, or raise ``QueueServiceError``: ids become parts of key names."""
    if not re.fullmatch(ID_PATTERN, value):
        raise QueueServiceError(f"the id {value[:80]!r} must be 1 to 64 letters, digits, '_' or '-'")
    return value


def check_size(content: bytes, what: str, most_bytes: int = MAX_PAYLOAD_BYTES) -> bytes:
    """Return the content, or raise ``QueueServiceError``: it is larger than ``most_bytes``. The text never shows it."""
    if len(content) > most_bytes:
        raise QueueServiceError(f"the {what} has {len(content):,} bytes; {most_bytes:,} are allowed")
    return content


def check_jobs(jobs: Sequence[Job], batch_id: str | None) -> None:
    """Raise ``QueueServiceError`` when there are no jobs, two have the same id, or the batch's id is not one."""
    if not jobs:
        raise QueueServiceError("there are no jobs to enqueue; pass at least one")
    if len({job.id for job in jobs}) < len(jobs):
        raise QueueServiceError("two of the jobs have the same id; each needs its own")
    if batch_id is not None:
        check_id(batch_id)


def conflict(what: str) -> QueueServiceError:
    """The error for an id that is taken, such as ``"job 7 is known with another payload"``."""
    return QueueServiceError(f"{what}; choose another id", code=ErrorCode.TASK_CONFLICT)


def full(waiting: int, new: int, max_size: int | None) -> QueueFullError:
    """The error for more jobs than may wait."""
    return QueueFullError(f"{waiting:,} jobs wait and {new:,} more would exceed QUEUE_MAX_SIZE={max_size:,}")


def encode_progress(progress: Mapping[str, Any]) -> bytes:
    """A progress note as JSON; raises ``QueueServiceError`` when it is larger than ``MAX_PROGRESS_BYTES``."""
    return check_size(json.dumps(progress).encode(), "progress note", MAX_PROGRESS_BYTES)


@dataclass(frozen=True, slots=True)
class Job:
    """Something to do.

    Attributes:
        id: 1 to 64 letters, digits, ``_`` or ``-``.
        payload: Versioned JSON, opaque to the queue, at most ``MAX_PAYLOAD_BYTES``. Never in a repr: it holds text.
        priority: -100 to 100, higher first, 0 normal.
        not_before: Unix time in seconds before which no worker gets it; ``None``: at once.
        trace: The trace that asked for it first, as ``telemetry.traceparent`` gives it; ``None``: none. It is no part
            of what tells jobs apart.

    Raises:
        QueueServiceError: A value is outside these limits.
    """

    id: str
    payload: bytes = field(repr=False)
    priority: int = 0
    not_before: float | None = None
    trace: str | None = None

    def __post_init__(self) -> None:
        check_id(self.id)
        check_size(self.payload, f"payload of job {self.id}")
        if self.priority not in PRIORITIES:
            raise QueueServiceError(f"job {self.id}: the priority {self.priority} must be -100 to 100")
        if self.not_before is not None and not isfinite(self.not_before):
            raise QueueServiceError(f"job {self.id}: not_before={self.not_before} must be a Unix time in seconds")


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a job, for a time. It can be renewed, and another handle of the same queue may do that.

    Attributes:
        job_id: The job.
        payload, priority: As enqueued.
        batch_id: The batch it belongs to; ``None``: it stands alone.
        token: The fencing token. Each lease's is higher than every earlier one's in this queue; the holder of an
            older one can change nothing any more.
        deliveries: How often this job was handed out, this time included; releases that do not count left out. A
            job with more than one may have killed its worker, or have been next to one that did.
        lease_s: Seconds the lease lasts from now, and from each renewal.
        progress: What the last holder noted with ``progress``; ``None``: nothing.
        trace: As enqueued; a stranger may have written it.
        waited_s: Seconds since the job was accepted.
    """

    job_id: str
    payload: bytes = field(repr=False)
    priority: int
    batch_id: str | None
    token: int
    deliveries: int
    lease_s: float
    progress: Mapping[str, Any] | None = None
    trace: str | None = None
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What is known about a job. Times are Unix seconds by the queue's clock.

    Attributes:
        job_id: The job.
        state: Where it is.
        priority: As enqueued.
        batch_id: The batch it belongs to; ``None``: it stands alone.
        deliveries: How often it was handed out.
        enqueued_at: When it was accepted.
        started_at: When it was last handed out; ``None``: never.
        finished_at: When it reached a final state; ``None``: not yet.
        result: What ``finish`` was given, byte for byte; ``None`` in every other state.
        progress: What its last holder noted; ``None``: nothing.
        reason: Why it is dead; ``None`` otherwise.
        worker: Who took it last, as ``lease`` was told; ``None``: no worker that gave a name.
    """

    job_id: str
    state: JobState
    priority: int
    batch_id: str | None
    deliveries: int
    enqueued_at: float
    started_at: float | None = None
    finished_at: float | None = None
    result: bytes | None = field(default=None, repr=False)
    progress: Mapping[str, Any] | None = None
    reason: str | None = None
    worker: str | None = None


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """The counters of a batch; they change in the same step as the jobs they count.

    Attributes:
        batch_id: The batch.
        total: Jobs in it.
        succeeded, failed: Jobs finished with success, and without.
        cancelled, dead: Jobs cancelled, and among the dead letters.
        started: Whether any job of it was ever handed out.
    """

    batch_id: str
    total: int
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    dead: int = 0
    started: bool = False

    @property
    def finished(self) -> int:
        """Jobs in a final state."""
        return self.succeeded + self.failed + self.cancelled + self.dead

    @property
    def complete(self) -> bool:
        """Whether every job is in a final state."""
        return self.finished == self.total


@dataclass(frozen=True, slots=True)
class QueueStats:
    """A snapshot.

    Attributes:
        waiting: Jobs that could be handed out now, by priority; priorities without any are left out.
        delayed: Jobs that wait for their time.
        leased, dead: Jobs handed out and not finished; dead letters.
        succeeded, failed, cancelled, buried: Jobs that ended so since the queue exists.
        oldest_age_s: Seconds since the job that has been in the queue longest, of those at the head of their priority,
            was accepted; ``None``: nothing waits.
    """

    waiting: Mapping[int, int]
    delayed: int
    leased: int
    dead: int
    succeeded: int
    failed: int
    cancelled: int
    buried: int
    oldest_age_s: float | None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that no worker is given again, unless ``retry_dead`` says so.

    Attributes:
        job_id: The job; for an entry that is not one of ours, a name made from its place.
        payload: What was enqueued.
        reason: Why it is here.
        deliveries: How often it was handed out.
        batch_id: The batch it belongs to; ``None``: it stood alone.
        buried_at: When, in Unix seconds.
    """

    job_id: str
    payload: bytes = field(repr=False)
    reason: str
    deliveries: int
    batch_id: str | None
    buried_at: float
