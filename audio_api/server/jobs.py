"""Jobs over HTTP: what takes long is queued, watched, fetched and taken back."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query
from fastapi.responses import FileResponse, RedirectResponse, Response, StreamingResponse
from pydantic import BaseModel, Discriminator, Field, Tag

from audio_api.audio.wav import HEADER_BYTES
from audio_api.errors import TaskNotFoundError
from audio_api.models.audio_request import BatchAudioRequest
from audio_api.models.sound_formats import MEDIA_TYPES, StreamFormat, SubtitleKind
from audio_api.models.store_url import parse_store_url
from audio_api.queues.jobs import JobState
from audio_api.server.access import ShownKey
from audio_api.server.problems import AnswerError
from audio_api.server.sound import SoundResponse, Speech, events
from audio_api.server.speech import SpeechBody, refuse_unknown_format
from audio_api.server.state import ServerState, State
from audio_api.services.job_codec import TaskResult
from audio_api.services.tally import cost_usd

# How often a listener is told what has changed. The end of a job is pushed.
_LOOK_S = 1.0
_MOST_LISTED = 100
_LINK_S = 3_600.0

router = APIRouter(tags=["jobs"])
IdempotencyKey = Annotated[str | None, Header(alias="idempotency-key", max_length=256)]


class JobBody(SpeechBody):
    """What to speak later.

    Attributes:
        response_format: What the file of the sound is; ``None``: OUTPUT_FORMAT.
        priority: -100 to 100, higher first.
    """

    response_format: Literal["wav", "mp3", "opus", "flac"] | None = None
    priority: int = Field(default=0, ge=-100, le=100)


class BatchBody(BaseModel):
    """Up to a hundred jobs that belong together."""

    requests: list[JobBody] = Field(min_length=1, max_length=100)


def _kind(body: object) -> str:
    return "batch" if isinstance(body, dict) and "requests" in body else "job"


OneOrMany = Annotated[Annotated[BatchBody, Tag("batch")] | Annotated[JobBody, Tag("job")], Discriminator(_kind)]


@router.post("/audio/jobs", status_code=202)
async def enqueue(
    body: OneOrMany, server: State, key: ShownKey, idempotency_key: IdempotencyKey = None
) -> dict[str, Any]:
    """Queue a text, or a batch of them. The same idempotency key queues the same body once."""
    bodies = body.requests if isinstance(body, BatchBody) else [body]
    for each in bodies:
        refuse_unknown_format(each.response_format or "wav")
    requests = [
        each.request(
            server,
            subtitles=each.subtitles,
            priority=each.priority,
            output_format=each.response_format,
            overwrite=False,
        )
        for each in bodies
    ]
    name = f"{key.name if key else ''}:{idempotency_key}"
    chosen = hashlib.sha256(name.encode()).hexdigest()[:32] if idempotency_key else None
    known = chosen and (await server.queue.get_task_result(chosen) or await server.queue.get_batch_status(chosen))
    if not known:
        await server.charge(key, sum(len(request.text) for request in requests))
    if isinstance(body, BatchBody):
        batch = BatchAudioRequest(requests=tuple(requests), batch_id=chosen)
        return await _batch(server, await server.queue.enqueue_batch_tasks(batch))
    return await _job(server, await server.queue.enqueue_single_task(requests[0], task_id=chosen))


@router.get("/audio/jobs")
async def list_jobs(
    server: State,
    _: ShownKey,
    state: JobState = JobState.QUEUED,
    limit: Annotated[int, Query(ge=1, le=_MOST_LISTED)] = 20,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> dict[str, Any]:
    """Jobs in a state, a page at a time."""
    found = await server.queue.list_tasks(state, limit + 1, offset)
    return {"object": "list", "data": [_shown(task) for task in found[:limit]], "has_more": len(found) > limit}


@router.post("/audio/jobs/retry-dead")
async def retry_all(server: State, _: ShownKey) -> dict[str, int]:
    """Queue every dead job again."""
    return {"retried": await server.queue.retry_all_dead_letters()}


@router.get("/audio/batches/{batch_id}")
async def show_batch(batch_id: str, server: State, _: ShownKey) -> dict[str, Any]:
    """How far a batch is."""
    return await _batch(server, batch_id)


@router.get("/audio/jobs/{job_id}")
async def show_job(job_id: str, server: State, _: ShownKey) -> dict[str, Any]:
    """How far a job is, and what became of it."""
    return await _job(server, job_id)


@router.get("/audio/jobs/{job_id}/events")
async def follow_job(job_id: str, server: State, _: ShownKey) -> StreamingResponse:
    """The same as server-sent events, whenever it changes, until the job is finished."""
    await _task(server, job_id)
    return event_stream(_states(server, job_id))


@router.get("/audio/jobs/{job_id}/audio", response_class=Response)
async def fetch_audio(job_id: str, server: State, _: ShownKey, response_format: StreamFormat | None = None) -> Response:
    """The sound of a finished job: its file, of which parts may be asked for; a link to a store; or another format."""
    task = (await _task(server, job_id)).raise_for_error()
    kept = task.output_format or "wav"
    if response_format and response_format != kept:
        if kept != "wav":
            raise AnswerError(
                400,
                f"the sound of job {job_id} is kept as {kept}, and only WAV is made into other formats",
                "response_format",
                "unsupported_format",
            )
        refuse_unknown_format(response_format)
        return SoundResponse(_pcm(server, job_id), response_format, whole=response_format == "flac")
    if task.url and not task.file_path:
        return RedirectResponse(await server.queue.audio_url(job_id, _LINK_S), 302)
    return FileResponse(await _file(server, task.file_path), media_type=MEDIA_TYPES[kept])


@router.get("/audio/jobs/{job_id}/subtitles.{kind}", response_class=Response)
async def fetch_subtitles(job_id: str, kind: SubtitleKind, server: State, _: ShownKey) -> Response:
    """The subtitles of a finished job that asked for them; or a link to a store."""
    task = (await _task(server, job_id)).raise_for_error()
    for path in task.subtitle_paths:
        if path.endswith(f".{kind}"):
            if task.url and not task.file_path:
                return RedirectResponse(await server.queue.audio_url(job_id, _LINK_S, kind), 302)
            return FileResponse(await _file(server, path), media_type="text/vtt" if kind == "vtt" else "text/plain")
    raise AnswerError(404, f"job {job_id} was asked for no {kind} subtitles", "subtitles", "not_found")


@router.post("/audio/jobs/{job_id}/retry")
async def retry_job(job_id: str, server: State, _: ShownKey) -> dict[str, Any]:
    """Queue a dead job again."""
    if not await server.queue.retry_dead_letter(job_id):
        raise AnswerError(409, f"job {job_id[:80]} is not among the dead ones", code="task_conflict")
    return await _job(server, job_id)


@router.delete("/audio/jobs/{job_id}")
async def cancel_job(job_id: str, server: State, _: ShownKey) -> dict[str, Any]:
    """Take a job out; a worker that is at it stops."""
    if not await server.queue.cancel_task(job_id):
        task = await _task(server, job_id)
        raise AnswerError(409, f"job {job_id} has {task.state} already", code="task_conflict")
    return {"id": job_id, "object": "audio.job", "deleted": True}


@router.get("/audio/queue")
async def show_queue(server: State, _: ShownKey) -> dict[str, Any]:
    """The queue in numbers, and what its workers and servers spent today (UTC)."""
    return await queue_numbers(server)


@router.get("/audio/queue/events")
async def follow_queue(server: State, _: ShownKey) -> StreamingResponse:
    """The same as server-sent events, once a second."""
    return event_stream(_numbers(server))


async def queue_numbers(server: ServerState) -> dict[str, Any]:
    """The queue in numbers, and what its workers and servers spent today (UTC)."""
    stats = await server.queue.get_queue_stats()
    return {
        "object": "audio.queue",
        "waiting": {str(priority): waiting for priority, waiting in sorted(stats.waiting.items(), reverse=True)},
        "delayed": stats.delayed,
        "leased": stats.leased,
        "dead": stats.dead,
        "succeeded": stats.succeeded,
        "failed": stats.failed,
        "cancelled": stats.cancelled,
        "oldest_age_s": stats.oldest_age_s,
        "speaking": server.in_progress,
        "cost_today_usd": cost_usd(await server.queue.backend.counts(today=True)),
    }


def event_stream(values: AsyncGenerator[dict[str, Any], None]) -> StreamingResponse:
    """Values as an answer of server-sent events."""
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(events(values), media_type="text/event-stream", headers=headers)


async def _numbers(server: ServerState) -> AsyncGenerator[dict[str, Any], None]:
    while not server.stopping.is_set():
        yield await queue_numbers(server)
        await _pause(server)


async def _states(server: ServerState, job_id: str) -> AsyncGenerator[dict[str, Any], None]:
    told: dict[str, Any] = {}
    while not server.stopping.is_set():
        task = await _task(server, job_id)
        if (shown := _shown(task)) != told:
            told = shown
            yield shown
        if task.done:
            return
        ended = asyncio.create_task(server.queue.backend.wait_result(job_id, _LOOK_S))
        stopping = asyncio.create_task(server.stopping.wait())
        try:
            await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            stopping.cancel()
            await asyncio.gather(ended, stopping, return_exceptions=True)


async def _pause(server: ServerState) -> None:
    try:
        await asyncio.wait_for(server.stopping.wait(), _LOOK_S)
    except TimeoutError:
        return


async def _task(server: ServerState, job_id: str) -> TaskResult:
    task = await server.queue.get_task_result(job_id)
    if task is None:
        raise TaskNotFoundError(f"there is no job {job_id}, or its result has expired")
    return task


async def _job(server: ServerState, job_id: str) -> dict[str, Any]:
    return _shown(await _task(server, job_id))


async def _batch(server: ServerState, batch_id: str) -> dict[str, Any]:
    status = await server.queue.get_batch_status(batch_id)
    if status is None:
        raise TaskNotFoundError(f"there is no batch {batch_id}, or it has expired")
    jobs = await server.queue.backend.batch_jobs(batch_id)
    return {
        "id": batch_id,
        "object": "audio.batch",
        "status": status.status,
        "total": status.total_requests,
        "completed": status.completed,
        "failed": status.failed,
        "jobs": [job.job_id for job in jobs],
    }


def _shown(task: TaskResult) -> dict[str, Any]:
    error = {"message": task.error, "code": task.error_code} if task.done and not task.success else None
    return {
        "id": task.task_id,
        "object": "audio.job",
        "status": task.state.value,
        "batch_id": task.batch_id,
        "priority": task.priority,
        "attempts": task.attempts,
        "deliveries": task.deliveries,
        "created_at": task.enqueued_at,
        "started_at": task.started_at,
        "worker": task.worker,
        "finished_at": task.finished_at,
        "progress": task.progress.model_dump() if task.progress else None,
        "duration": task.duration,
        "model": task.model,
        "cost_usd": task.cost_usd if task.success else None,
        "usage": task.usage.model_dump() if task.success else None,
        "warnings": list(task.warnings),
        "doubtful": [code.value for code in task.doubtful],
        "error": error,
        "response_format": task.output_format,
        "audio": f"/v1/audio/jobs/{task.task_id}/audio" if task.success else None,
        "subtitles": [
            f"/v1/audio/jobs/{task.task_id}/subtitles.{path.rpartition('.')[2]}" for path in task.subtitle_paths
        ],
    }


async def _file(server: ServerState, file_path: str | None) -> Path:
    """A file of a job, which must be where ours are: who writes into the queue may be a stranger."""
    store = parse_store_url(server.config.output_url) if server.config.output_url else None
    name, ours = "OUTPUT_DIR", server.config.output_dir
    if store and store.scheme == "file":
        name, ours = "OUTPUT_URL", Path(store.prefix)
    path = await asyncio.to_thread(Path(file_path or "").resolve)
    folder = await asyncio.to_thread(ours.resolve)
    if not path.is_relative_to(folder) or not await asyncio.to_thread(path.is_file):
        raise AnswerError(
            404,
            f"{path.name!r} is not in {name} on this machine: set OUTPUT_URL to a place that all machines reach",
            code="not_found",
        )
    return path


async def _pcm(server: ServerState, job_id: str) -> Speech:
    """The samples of a job's WAV file."""
    left = HEADER_BYTES
    async with aclosing(server.queue.open_result(job_id)) as blocks:
        async for block in blocks:
            yield block[left:]
            left = max(0, left - len(block))
