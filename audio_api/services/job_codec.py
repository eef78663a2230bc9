"""Tasks: as jobs of the queue, as workers take them, and as callers see what became of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from audio_api.errors import ErrorCode, QueueServiceError
from audio_api.models.audio_request import (
    AudioRequest,
    AudioResponse,
    BatchAudioRequest,
    BatchAudioResponse,
    SpeechProgress,
)
from audio_api.models.service_tiers import ServedTier
from audio_api.queues.jobs import BatchStatus, Job, JobState, JobStatus
from audio_api.telemetry import traceparent


class _Versioned(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    v: Literal[1]


class _Payload(_Versioned):
    request: AudioRequest


class _Result(_Versioned):
    response: AudioResponse


_Document = TypeVar("_Document", bound=_Versioned)


def _encode(document: _Versioned) -> bytes:
    # Without defaults, so that a worker of an earlier version can read what uses no field that is new to it. A default
    # may therefore only change together with the version.
    return document.model_dump_json(exclude_defaults=True).encode()


def decode_request(payload: bytes) -> AudioRequest:
    """The request in a job's payload, checked as if a stranger had written it.

    Raises:
        QueueServiceError: It is none of this version; the text names the place and the rule, never the content.
    """
    return _decode(_Payload, payload, "payload").request


def encode_result(response: AudioResponse) -> bytes:
    """The response as a job's result."""
    return _encode(_Result(v=1, response=response))


def _decode(kind: type[_Document], content: bytes, what: str) -> _Document:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        # The name of an unknown field may be private text, too.
        place = first["loc"][:-1] if first["type"] == "extra_forbidden" else first["loc"]
        where = ".".join(str(part)[:40] for part in place[:3]) or "as a whole"
        raise QueueServiceError(f"the {what} is not valid: {where}: {first['type']}") from None


class TaskResult(AudioResponse):
    """What is known about a task: its response, once there is one, and where it is.

    Until then ``success`` is false and ``error_code`` is ``task_pending``.

    Attributes:
        task_id: The task.
        state: Where it is; ``state.final`` tells whether the response is there to stay.
        batch_id: The batch it belongs to; ``None``: it stands alone.
        priority: As asked for.
        deliveries: How often a worker took it up.
        enqueued_at: When it was accepted, in Unix seconds by the queue's clock.
        started_at: When a worker last took it up; ``None``: never.
        worker: Which one, as ``HOST/PROCESS/WORKER``; ``None``: none, or one that gave no name.
        finished_at: When it was finished; ``None``: not yet.
        progress: How far a long text is; ``None``: not begun, or a single piece.
    """

    task_id: str
    state: JobState
    batch_id: str | None = None
    priority: int = 0
    deliveries: int = 0
    enqueued_at: float
    started_at: float | None = None
    worker: str | None = None
    finished_at: float | None = None
    progress: SpeechProgress | None = None

    @property
    def done(self) -> bool:
        """Whether nothing more will happen to it by itself."""
        return self.state.final


@dataclass(frozen=True, slots=True)
class Task(Mapping[str, Any]):
    """A task that ``dequeue_task`` handed out; ``task["task_id"]`` and ``task.get("request")`` work, too.

    Attributes:
        task_id: The task.
        request: What to speak.
        batch_id: The batch it belongs to; ``None``: it stands alone.
        deliveries: How often it was handed out, this time included.
    """

    task_id: str
    request: AudioRequest
    batch_id: str | None
    deliveries: int

    def __getitem__(self, name: str) -> Any:
        """The field of this name."""
        if name not in self.__dataclass_fields__:
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        """The names of the fields."""
        return iter(self.__dataclass_fields__)

    def __len__(self) -> int:
        """The number of fields."""
        return len(self.__dataclass_fields__)


def batch_response(status: BatchStatus, tasks: Sequence[JobStatus]) -> BatchAudioResponse:
    """What a caller sees of a batch.

    Args:
        status: The batch.
        tasks: Its jobs, in the order of its requests.

    Raises:
        QueueServiceError: What is stored as a result is none of this version.
    """
    results = tuple(task_result(task) for task in tasks if task.state.final)
    succeeded = sum(result.success for result in results)
    state: Literal["pending", "processing", "completed", "failed"] = "completed" if succeeded else "failed"
    if len(results) < status.total:
        state = "processing" if status.started or results else "pending"
    return BatchAudioResponse(
        batch_id=status.batch_id,
        total_requests=status.total,
        completed=succeeded,
        failed=len(results) - succeeded,
        results=results,
        status=state,
    )


def job_of(task_id: str, request: AudioRequest, not_before: float | None = None) -> Job:
    """The job that asks for this; it belongs to the current trace.

    Raises:
        QueueServiceError: The id is wrong or the request too large.
        TypeError: It is no request.
    """
    # The likeliest slip without a type checker: enqueue_single_task("Hello").
    if not isinstance(request, AudioRequest):
        raise TypeError(f"a task is an AudioRequest(text=…), not a {type(request).__name__}")
    return Job(task_id, _encode(_Payload(v=1, request=request)), request.priority, not_before, traceparent())


def id_in_batch(batch_id: str, index: int) -> str:
    """The id of a batch's task."""
    # Ids have 64 characters at most, and a batch 100 requests.
    stem = batch_id if len(batch_id) <= 61 else hashlib.sha256(batch_id.encode()).hexdigest()[:32]
    return f"{stem}-{index}"


def jobs_of_batch(batch: BatchAudioRequest, batch_id: str, tier: ServedTier | None) -> list[Job]:
    """The jobs that ask for a batch.

    Args:
        batch: The batch.
        batch_id: Its id.
        tier: The service tier of all requests; ``None``: each request's own.

    Raises:
        QueueServiceError: There is no such tier, the id is wrong, or a request too large.
    """
    if tier not in (None, *get_args(ServedTier)):
        raise QueueServiceError(f"tier {tier!r} is none of {', '.join(get_args(ServedTier))}")
    requests = [each.model_copy(update={"service_tier": tier}) if tier else each for each in batch.requests]
    return [job_of(id_in_batch(batch_id, index), request) for index, request in enumerate(requests)]


_UNFINISHED: dict[JobState, tuple[ErrorCode, str]] = {
    JobState.QUEUED: (ErrorCode.TASK_PENDING, "waits for a worker"),
    JobState.DELAYED: (ErrorCode.TASK_PENDING, "waits for its time"),
    JobState.LEASED: (ErrorCode.TASK_PENDING, "is being worked on"),
    JobState.CANCELLED: (ErrorCode.TASK_CANCELLED, "was cancelled"),
    JobState.DEAD: (ErrorCode.TASK_DEAD, "is among the dead letters"),
}


def task_result(status: JobStatus) -> TaskResult:
    """What a caller sees of a job.

    Raises:
        QueueServiceError: What is stored as its result is none of this version.
    """
    if status.result is not None:
        response = _decode(_Result, status.result, f"result of task {status.job_id}").response
    else:
        code, text = _UNFINISHED[status.state]
        error = f"task {status.job_id} {text}{f': {status.reason}' if status.reason else ''}"
        pending = code is ErrorCode.TASK_PENDING
        response = AudioResponse(success=False, message=error, error=error, error_code=code, retryable=pending)
    progress = None
    with suppress(KeyError, ValidationError):
        note = status.progress or {}
        progress = SpeechProgress.model_validate({name: note[name] for name in SpeechProgress.model_fields})
    return TaskResult(
        task_id=status.job_id,
        state=status.state,
        batch_id=status.batch_id,
        priority=status.priority,
        deliveries=status.deliveries,
        enqueued_at=status.enqueued_at,
        started_at=status.started_at,
        worker=status.worker,
        finished_at=status.finished_at,
        progress=progress,
        **dict(response),
    )
