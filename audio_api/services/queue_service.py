"""Requests that wait for a worker: handed over durably, answered exactly once."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import cached_property
from types import TracebackType
from typing import Self, TypeVar

from audio_api.config import AudioConfig, get_config
from audio_api.errors import AudioAPIError, QueueClosedError, QueueServiceError, TaskNotFoundError
from audio_api.models.audio_request import AudioRequest, AudioResponse, BatchAudioRequest, BatchAudioResponse
from audio_api.models.service_tiers import ServedTier
from audio_api.models.sound_formats import SubtitleKind
from audio_api.queues.base import QueueBackend
from audio_api.queues.from_settings import make_backend
from audio_api.queues.jobs import DeadLetter, JobState, QueueStats, check_id
from audio_api.services import dead_letters
from audio_api.services.health import QueueHealth
from audio_api.services.heartbeat import HeldLease
from audio_api.services.job_codec import (
    Task,
    TaskResult,
    batch_response,
    decode_request,
    encode_result,
    job_of,
    jobs_of_batch,
    task_result,
)
from audio_api.services.sound_access import SoundAccess
from audio_api.speech.assembly import tell

BatchProgressCallback = Callable[[int, int], Awaitable[None] | None]
"""Called with how many requests of a batch are finished, and how many there are."""

_Given = TypeVar("_Given")


def _only(call: str, **names: _Given | None) -> _Given:
    """The value of an argument that has two names."""
    given = [value for value in names.values() if value is not None]
    if len(given) != 1:
        raise TypeError(f"{call}() takes exactly one of {' and '.join(names)}; {len(given)} given")
    return given[0]


class QueueService:
    """Takes requests for workers, and gives back what became of them. Belongs to one event loop.

    Services and workers of one queue name meet: in one process when the queue is in memory, anywhere when it is in
    Redis. Calls to the API are made at least once for each task; its result becomes visible exactly once.

    Every call that asks the queue raises ``QueueUnavailableError`` when that does not answer: nothing is known then.

    Args:
        use_redis: Whether tasks wait in Redis; ``None``: as the settings say.
        config: The settings; ``None``: ``get_config()`` at the first call.
    """

    def __init__(self, use_redis: bool | None = None, config: AudioConfig | None = None) -> None:
        self._use_redis = use_redis
        self._config = config
        self._backend: QueueBackend | None = None
        self._taken: dict[str, HeldLease] = {}
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def config(self) -> AudioConfig:
        """The settings of this queue, read at the first use of the service."""
        self._config = self._config or get_config()
        return self._config

    @property
    def use_redis(self) -> bool:
        """Whether the tasks wait in Redis rather than in this process."""
        return self.config.use_redis if self._use_redis is None else self._use_redis

    async def enqueue_single_task(
        self, request: AudioRequest, *, task_id: str | None = None, not_before: float | None = None
    ) -> str:
        """Hand over one request; it is stored when this returns.

        Args:
            request: What to speak. Its ``priority`` decides who is first.
            task_id: 1 to 64 letters, digits, ``_`` or ``-``. The same id with the same request may be enqueued again
                and again, and is done once. ``None``: a new one.
            not_before: Unix time in seconds before which no worker begins; ``None``: at once.

        Returns:
            The task's id.

        Raises:
            QueueServiceError: The id is wrong, or known with another request (code ``task_conflict``), or the request
                is too large, or ``not_before`` is no moment.
            QueueFullError: As many tasks wait as ``QUEUE_MAX_SIZE`` allows.
            QueueUnavailableError: The queue does not answer. It may have the task all the same: enqueue it again with
                the same ``task_id``.
        """
        task_id = uuid.uuid4().hex if task_id is None else task_id
        await self.backend.enqueue([job_of(task_id, request, not_before)])
        return task_id

    async def enqueue_many(self, requests: Sequence[AudioRequest]) -> list[str]:
        """Hand over any number of requests at once, all or none; much faster than one by one.

        Returns:
            Their ids, in the same order.

        Raises:
            QueueServiceError: As ``enqueue_single_task``; also when there are no requests.
        """
        jobs = [job_of(uuid.uuid4().hex, request) for request in requests]
        await self.backend.enqueue(jobs)
        return [job.id for job in jobs]

    async def enqueue_batch_tasks(
        self,
        batch: BatchAudioRequest | None = None,
        *,
        batch_request: BatchAudioRequest | None = None,
        tier: ServedTier | None = None,
    ) -> str:
        """Hand over a batch, all or none. The same batch with the same id may be enqueued again; it is done once.

        Args:
            batch: The batch; ``None``: it is given as ``batch_request``.
            batch_request: Another name for ``batch``.
            tier: The service tier of all requests: ``"batch"`` is Gemini's Batch API. ``None``: each request's own.

        Returns:
            The batch's id. Its tasks are called ``<batch id>-0`` and so on.

        Raises:
            QueueServiceError: As ``enqueue_single_task``.
            TypeError: What is given is not exactly one batch.
        """
        batch = _only("enqueue_batch_tasks", batch=batch, batch_request=batch_request)
        if not isinstance(batch, BatchAudioRequest):
            raise TypeError(f"a batch is a BatchAudioRequest(requests=[…]), not a {type(batch).__name__}")
        batch_id = batch.batch_id or uuid.uuid4().hex
        await self.backend.enqueue(jobs_of_batch(batch, batch_id, tier), batch_id)
        return batch_id

    async def dequeue_task(self) -> Task | None:
        """Take the next task yourself, rather than let a worker do it; ``None``: nothing waits.

        It is yours until ``update_task_result``, for ``TASK_TIMEOUT`` at the most, and goes to another worker when
        this process dies. A task that cannot be read goes to the dead letters.
        """
        while leases := await self.backend.lease(1, self.config.lease_time):
            (lease,) = leases
            try:
                request = decode_request(lease.payload)
            except QueueServiceError as error:
                await self.backend.bury(lease, str(error))
                continue
            task_id, end_s = lease.job_id, time.monotonic() + self.config.task_timeout
            lost = lambda: self._forget(task_id)  # noqa: B023, E731 - this round of the loop is the last
            self._taken[task_id] = HeldLease.hold(self.backend, lease, end_s, lost)
            return Task(task_id, request, lease.batch_id, lease.deliveries)
        return None

    async def update_task_result(
        self, task_id: str, response: AudioResponse | None = None, *, result: AudioResponse | None = None
    ) -> bool:
        """Finish a task that ``dequeue_task`` of this object handed out: its result, its batch's counters, one step.

        Args:
            task_id: The task.
            response: What became of it; ``None``: it is given as ``result``.
            result: Another name for ``response``.

        Returns:
            Whether this call did it. ``False``: the task is not taken by this object, was cancelled, or was given to
            another worker in the meantime; nothing changed.

        Raises:
            TypeError: Neither ``response`` nor ``result`` is given, or both are.
        """
        response = _only("update_task_result", response=response, result=result)
        if (held := self._taken.get(task_id)) is None:
            return False
        done = await self.backend.finish(held.lease, encode_result(response), success=response.success)
        self._forget(task_id)
        return done

    async def update_batch_progress(self, batch_id: str, task_id: str, success: bool) -> None:
        """Do nothing: ``update_task_result`` counted the task in its batch, in the same step as it stored its result.

        The call is here for programs that make it after each result. It changes no counter, whatever it is given.
        """

    async def get_task_result(self, task_id: str) -> TaskResult | None:
        """What is known about a task now.

        Returns:
            The result, or where the task is; ``None`` only for an id that is unknown or whose result has expired.
        """
        status = await self.backend.status(check_id(task_id))
        return None if status is None else task_result(status)

    async def get_batch_status(self, batch_id: str) -> BatchAudioResponse | None:
        """What is known about a batch now; cancelled and dead tasks count as failed.

        Returns:
            The counters, and the results of finished tasks in the order of the requests; ``None`` only for an id that
            is unknown or has expired.
        """
        status = await self.backend.batch_status(check_id(batch_id))
        return None if status is None else batch_response(status, await self.backend.batch_jobs(batch_id))

    async def wait_for_result(self, task_id: str, timeout: float | None = None) -> TaskResult:  # noqa: ASYNC109 - waiting is pushed by the queue
        """Wait for a task to be finished; nothing is polled.

        Args:
            task_id: The task.
            timeout: The longest wait in seconds; ``None``: as long as it takes.

        Returns:
            The result; a failure, too, is one: ``raise_for_error()`` makes an exception of it.

        Raises:
            TaskNotFoundError: There is no such task.
            TimeoutError: It is not finished yet. The task goes on.
        """
        status = await self.backend.wait_result(check_id(task_id), timeout)
        if not status.state.final:
            raise TimeoutError(f"after {timeout:g} s task {task_id} is still {status.state}")
        return task_result(status)

    async def wait_for_batch(
        self,
        batch_id: str,
        timeout: float | None = None,  # noqa: ASYNC109 - waiting is pushed by the queue
        on_progress: BatchProgressCallback | None = None,
    ) -> BatchAudioResponse:
        """Wait for all tasks of a batch to be finished; nothing is polled.

        Args:
            batch_id: The batch.
            timeout: The longest wait in seconds; ``None``: as long as it takes.
            on_progress: Called whenever more tasks are finished than before; a coroutine function is awaited.

        Returns:
            All results, in the order of the requests.

        Raises:
            TaskNotFoundError: There is no such batch.
            TimeoutError: It is not finished yet. Its tasks go on.
        """
        give_up = None if timeout is None else time.monotonic() + timeout
        told = 0
        while True:
            left_s = None if give_up is None else max(0.0, give_up - time.monotonic())
            status = await self.backend.wait_batch(
                check_id(batch_id), left_s, more_than=told if on_progress is not None else None
            )
            if status.finished > told:
                told = status.finished
                await tell(on_progress, told, status.total)
            if status.complete:
                return batch_response(status, await self.backend.batch_jobs(batch_id))
            if left_s == 0:
                raise TimeoutError(
                    f"after {timeout:g} s {status.finished} of {status.total} tasks of batch {batch_id} are finished"
                )

    async def open_result(self, task_id: str) -> AsyncGenerator[bytes, None]:
        """Read the sound of a finished task, wherever it is: in the store of ``OUTPUT_URL``, or on this machine.

        Args:
            task_id: The task.

        Yields:
            The bytes of its file, in blocks of up to a megabyte.

        Raises:
            TaskNotFoundError: There is no such task.
            AudioAPIError: It is not finished (code ``task_pending``), or has failed, with the error of its result.
            StoreError: Its sound is gone, on the disk of another machine, or the store does not give it.
            ConfigurationError: Its sound is in a store that is not ``OUTPUT_URL``.
        """
        async with AsyncExitStack() as opened:
            async for block in await self._sounds.open(await self._result(task_id), opened):
                yield block

    async def audio_url(self, task_id: str, expires_s: float = 3_600.0, subtitles: SubtitleKind | None = None) -> str:
        """A link with which anyone may read the sound of a finished task for a while.

        Args:
            task_id: The task.
            expires_s: How long it is valid, in seconds: up to 7 days.
            subtitles: The kind of the subtitles that the link is to lead to; ``None``: it leads to the sound.

        Raises:
            TaskNotFoundError: There is no such task.
            AudioAPIError: As ``open_result``.
            ConfigurationError: Its sound is in no store, or in one that is not ``OUTPUT_URL``.
            ValueError: The time is none of these, or the sound has no such subtitles.
        """
        return await self._sounds.link(await self._result(task_id), expires_s, subtitles)

    async def _result(self, task_id: str) -> TaskResult:
        if (result := await self.get_task_result(task_id)) is None:
            raise TaskNotFoundError(f"there is no task {task_id}, or its result has expired")
        return result

    @cached_property
    def _sounds(self) -> SoundAccess:
        return SoundAccess(self.config)

    async def cancel_task(self, task_id: str) -> bool:
        """Take a task out, wherever it is; a worker that is at it stops, and writes nothing. Discards a dead letter.

        Returns:
            Whether this call did it. ``False``: it is unknown, finished or already cancelled.
        """
        return await self.backend.cancel(check_id(task_id))

    async def get_queue_stats(self) -> QueueStats:
        """How many tasks wait (by priority), are delayed, leased, dead and done, and the age of the oldest."""
        return await self.backend.stats()

    async def list_dead_letters(self, limit: int = 100, offset: int = 0) -> list[DeadLetter]:
        """Tasks that were given up, with the reason, the latest first; they stay until retried or cancelled."""
        return await self.backend.list_dead(limit, offset)

    async def retry_dead_letter(self, task_id: str) -> bool:
        """Queue a dead task again, as if it had never been taken up: its failures so far do not count any more.

        Returns:
            Whether this call did it. ``False``: it is not among the dead letters, or is not a task of ours.
        """
        return await dead_letters.retry(self.backend, check_id(task_id))

    async def retry_all_dead_letters(self) -> int:
        """Queue every dead task again, once each, and return how many; entries that are no tasks of ours stay."""
        return await dead_letters.retry_all(self.backend)

    async def list_tasks(self, state: JobState, limit: int = 100, offset: int = 0) -> list[TaskResult]:
        """Tasks in a state: waiting ones in their order, leased ones by their lease, finished ones the latest first.

        Args:
            state: Where they are. Of finished tasks the latest thousand are listed; dead ones are all listed.
            limit: The most.
            offset: How many of the first are left out.
        """
        return [task_result(status) for status in await self.backend.list_jobs(state, limit, offset)]

    async def cleanup_expired_tasks(self) -> int:
        """Forget results older than ``RESULT_TTL``, and return how many; 0 with Redis, which forgets by itself."""
        return await self.backend.cleanup_expired()

    async def health_check(self) -> QueueHealth:
        """Ask whether the queue takes tasks now; never raises an ``AudioAPIError``."""
        try:
            return QueueHealth(healthy=True, backend=await self.backend.health())
        except AudioAPIError as error:
            return QueueHealth(healthy=False, error=str(error), error_code=error.code)

    async def close(self) -> None:
        """End every wait with ``QueueClosedError``, and the connections. May be called twice.

        Tasks taken with ``dequeue_task`` and not finished go to another worker when their lease has run out.
        """
        self._closed = True
        for task_id in list(self._taken):
            self._forget(task_id)
        if self._backend:
            await self._backend.close()

    @property
    def backend(self) -> QueueBackend:
        """Where the tasks are; for workers.

        Raises:
            ConfigurationError: Redis is asked for without its extra, or its URL is wrong.
            QueueClosedError: This service was closed before its first use.
        """
        if self._backend is None:
            if self._closed:
                raise QueueClosedError("this QueueService is closed; make another one")
            self._backend = make_backend(self.config, use_redis=self.use_redis)
        return self._backend

    def _forget(self, task_id: str) -> None:
        if held := self._taken.pop(task_id, None):
            held.let_go()
