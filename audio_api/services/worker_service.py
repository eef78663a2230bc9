"""Workers: they take tasks from the queue, a few at a time, and end in good order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Any, Self

from audio_api.config import AudioConfig, get_config
from audio_api.errors import ErrorCode, QueueClosedError, QueueUnavailableError, WorkerServiceError
from audio_api.queues.base import SuspectFirstError
from audio_api.queues.jobs import Lease
from audio_api.services.job_run import JobRun, JobsInHand, hand_back
from audio_api.services.pacing import make_tts
from audio_api.services.queue_service import QueueService
from audio_api.services.tts_service import TTSService
from audio_api.services.worker_status import Ending, Tally, WorkersStatus, WorkerState, WorkerStatus

__all__ = ["WorkerManager", "WorkerService", "WorkerState", "WorkerStatus", "WorkersStatus", "make_tts"]

logger = logging.getLogger(__name__)

# The queue pushes; this only bounds how long an unreachable one goes unmentioned.
_WAIT_S = 30.0
# A worker whose code failed begins again after a second, then ever later.
_FIRST_RESTART_S, _LAST_RESTART_S = 1.0, 30.0
# How often a worker that cannot write looks whether it can.
_LOOK_S = 1.0


def _runs_already(message: str) -> WorkerServiceError:
    return WorkerServiceError(message, code=ErrorCode.WORKER_RUNNING, retryable=False)


class WorkerService:
    """One worker. Belongs to one event loop.

    Args:
        config: The settings; ``None``: ``get_config()`` at every step, so that ``reload_config()`` takes effect.
        queue_service: Where tasks come from, not closed here; ``None``: one is made from the settings.
        tts_service: Who speaks, not closed here, and at its own pace; ``None``: one is made from the settings, which
            keeps to the pace of all workers of the queue.
    """

    def __init__(
        self,
        config: AudioConfig | None = None,
        queue_service: QueueService | None = None,
        tts_service: TTSService | None = None,
    ) -> None:
        self._config = config
        self._makes_queue, self._makes_tts = queue_service is None, tts_service is None
        if queue_service is not None:
            self._queue = queue_service
        if tts_service is not None:
            self._tts = tts_service
        self._own = AsyncExitStack()
        self._starting = asyncio.Lock()
        self._worker_id = self._name = ""
        self._loop_task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._runs: dict[asyncio.Task[Ending], JobRun] = {}
        self._tally = Tally()
        self._started_at, self._restarting = 0.0, False

    async def start_worker(self, worker_id: str = "worker-1") -> None:
        """Begin to take tasks, and return; ``stop_worker`` ends it.

        Args:
            worker_id: Its name, in logs and in its status.

        Raises:
            WorkerServiceError: It runs already.
            ConfigurationError: The queue or the engine cannot be made from the settings.
            TTSAuthenticationError: The API refuses the key.
        """
        async with self._starting:
            if self.running:
                raise _runs_already(f"{self._worker_id} runs already; make another WorkerService")
            async with AsyncExitStack() as own:
                if self._makes_queue:
                    self._queue = await own.enter_async_context(QueueService(config=self._config))
                if self._makes_tts:
                    self._tts = await own.enter_async_context(make_tts(self._config, self._queue))
                    (await self._queue.health_check()).refuse_lasting()
                    (await self._tts.health_check()).refuse_lasting()
                self._own = own.pop_all()
            try:
                # A call that leaves long after its turn may arrive in a later minute, next to that minute's own calls.
                await self._tts.warm_up()
            except Exception as error:  # whatever it is, the first task will tell, and the others may do without
                logger.warning("the first calls will be late", extra={"error": type(error).__name__})
            self._in_hand = JobsInHand.of(self._queue)
            here = self._in_hand.neighbours.worker(self._queue.backend, worker_id)
            self._name = await self._own.enter_async_context(here)
            self._worker_id, self._started_at = worker_id, time.monotonic()
            self._stopping, self._hurry = asyncio.Event(), asyncio.Event()
            self._loop_task = asyncio.create_task(self._supervise(), name=worker_id)
            logger.info("worker begins", extra={"worker_id": worker_id})

    async def stop_worker(self, grace_s: float | None = None) -> None:
        """Take no more tasks, finish those at hand, and hand back what is not finished in time. May be called twice.

        Args:
            grace_s: How many seconds the tasks at hand may take; ``None``: the setting ``WORKER_GRACE``. A second call
                with 0 ends the grace of the first.
        """
        async with self._starting:
            pass  # what is about to begin would not be ended
        if self._loop_task is None:
            return
        if grace_s == 0:
            self._hurry.set()
        self._stopping.set()
        await self._loop_task
        if runs := dict(self._runs):
            all_done = asyncio.ensure_future(asyncio.wait(runs))
            hurry = asyncio.create_task(self._hurry.wait())
            grace_s = self.config.worker_grace if grace_s is None else grace_s
            await asyncio.wait({all_done, hurry}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
            for task, run in runs.items():
                if not task.done():
                    run.hand_back()
            await all_done
            hurry.cancel()
        await self._own.aclose()
        if self._loop_task is not None:
            self._loop_task = None
            logger.info("worker has ended", extra={"worker_id": self._worker_id, **self._tally.endings})

    @property
    def config(self) -> AudioConfig:
        """The settings in force now."""
        return self._config or get_config()

    @property
    def queue_service(self) -> QueueService | None:
        """Where the tasks come from; ``None``: ``start_worker`` will make it."""
        return getattr(self, "_queue", None)

    @property
    def tts_service(self) -> TTSService | None:
        """What speaks; ``None``: ``start_worker`` will make it."""
        return getattr(self, "_tts", None)

    @property
    def running(self) -> bool:
        """Whether the worker was started and not stopped since."""
        return self._loop_task is not None

    @property
    def tasks_processed(self) -> int:
        """Tasks that the worker finished, with success or without."""
        return self.get_status().processed

    def get_status(self) -> WorkerStatus:
        """What it does now, and what it did."""
        problem = self._in_hand.place.problem if self.running else None
        if not self.running:
            state = WorkerState.STOPPED
        elif self._stopping.is_set():
            state = WorkerState.STOPPING
        elif self._restarting:
            state = WorkerState.RESTARTING
        elif problem:
            state = WorkerState.BLOCKED
        else:
            state = WorkerState.WORKING if self._runs else WorkerState.IDLE
        current_tasks = tuple(run.lease.job_id for run in self._runs.values())
        uptime_s = time.monotonic() - self._started_at if self.running else 0.0
        return self._tally.status(self._worker_id, state, current_tasks, uptime_s, problem)

    async def _supervise(self) -> None:
        """Begin again whenever the loop below fails, after a pause that grows."""
        named, pause_s = {"worker_id": self._worker_id}, _FIRST_RESTART_S
        while not self._stopping.is_set():
            try:
                await self._take_tasks()
            except QueueClosedError:
                logger.warning("the queue was closed under its worker", extra=named)
                return
            except asyncio.CancelledError:
                if not self._stopping.is_set():
                    logger.warning("the event loop ends under a running worker: await stop_worker() first", extra=named)
                raise
            except Exception:  # whatever it is, the queue must not be left without workers
                logger.exception("worker begins again", extra={**named, "pause_s": pause_s})
                self._tally.restarts += 1
                self._restarting = True
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._stopping.wait()
                self._restarting = False
                pause_s = min(2 * pause_s, _LAST_RESTART_S)

    async def _take_tasks(self) -> None:
        stop = asyncio.create_task(self._stopping.wait())
        try:
            while not self._stopping.is_set():
                free = self.config.worker_concurrency - len(self._runs)
                if free <= 0:
                    await asyncio.wait({stop, *self._runs}, return_when=asyncio.FIRST_COMPLETED)
                elif not await self._can_write():
                    await asyncio.wait({stop}, timeout=_LOOK_S)
                elif self._in_hand.alone.locked():
                    if await self._or_stop(self._in_hand.alone.acquire(), stop):
                        self._in_hand.alone.release()
                else:
                    if time.monotonic() >= self._in_hand.neighbours.next_look_s:
                        await self._in_hand.neighbours.look(self._queue.backend, self.config)
                    try:
                        await self._take(free, stop)
                    except SuspectFirstError:
                        await self._run_alone(stop)
        finally:
            stop.cancel()

    async def _can_write(self) -> bool:
        """Look at the place for the files before a task is begun, whose call would be paid for in vain."""
        place = self._in_hand.place
        if time.monotonic() >= place.fresh_until_s:
            await place.check(self.config)
        return place.problem is None

    async def _take(self, free: int, stop: asyncio.Task[bool]) -> None:
        """Wait for tasks, and begin them, unless this process may not any more.

        Raises:
            SuspectFirstError: The next one may be what killed its last worker.
        """
        in_hand, lease_s = self._in_hand, self.config.lease_time
        if in_hand.alone.locked():
            return
        taking = self._queue.backend.lease(free, lease_s, _WAIT_S, suspects=False, worker=self._name)
        asking = asyncio.create_task(taking)
        in_hand.asking.add(asking)
        in_hand.note_change()
        try:
            await asyncio.wait({asking, stop}, return_when=asyncio.FIRST_COMPLETED)
            asking.cancel()
            leases = await asking
            may_begin = await self._can_write() and not self._stopping.is_set() and not in_hand.alone.locked()
            for lease in leases:
                if may_begin:
                    self._begin(lease)
                else:
                    await hand_back(self._queue, lease)
        except QueueUnavailableError as error:
            logger.warning("the queue does not answer", extra={"worker_id": self._worker_id, "error": str(error)})
        except asyncio.CancelledError:
            # Unless it is this worker that was cancelled, the question was: by a stop, or by a task that must be alone.
            if (this := asyncio.current_task()) is None or this.cancelling():
                raise
        finally:
            asking.cancel()
            in_hand.asking.discard(asking)
            in_hand.note_change()

    async def _run_alone(self, stop: asyncio.Task[bool]) -> None:
        """Take suspected tasks, one after the other, while this process does nothing else.

        A task that was lost may have killed its process, or have been next to one that did. If it kills this one, too,
        no other task is lost.
        """
        in_hand = self._in_hand
        if not await self._or_stop(in_hand.alone.acquire(), stop):
            return
        try:
            for asking in in_hand.asking:
                asking.cancel()
            suspected = True
            while suspected and await self._or_stop(in_hand.empty.wait(), stop) and await self._can_write():
                leases = await self._queue.backend.lease(1, self.config.lease_time, worker=self._name)
                for lease in leases:
                    self._begin(lease)
                suspected = any(lease.deliveries > 1 for lease in leases)
        finally:
            in_hand.alone.release()

    @staticmethod
    async def _or_stop(waiting: Coroutine[Any, Any, bool], stop: asyncio.Task[bool]) -> bool:
        """Wait, but not beyond a stop; whether it came to its end."""
        task = asyncio.create_task(waiting)
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        await asyncio.wait([task])
        return not task.cancelled()

    def _begin(self, lease: Lease) -> None:
        run = JobRun(lease, self._queue, self._tts, lambda: self.config)
        task = asyncio.create_task(run.run(), name=f"{self._worker_id} {lease.job_id}")
        self._runs[task] = run
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[Ending]) -> None:
        del self._runs[task]
        if task.cancelled():
            return
        if error := task.exception():
            logger.error("task could not be settled", extra={"worker_id": self._worker_id, "error": str(error)})
        else:
            self._tally.add(task.result())


class WorkerManager:
    """The workers of one process: they share one queue service and one speech service. Belongs to one event loop.

    Args:
        config: The settings; ``None``: ``get_config()`` at every step, so that ``reload_config()`` takes effect for
            everything but the number of workers and the place of the queue.
        queue_service_factory: Makes the queue service, which is closed with the workers; ``None``: from the settings.
    """

    def __init__(
        self,
        config: AudioConfig | None = None,
        queue_service_factory: Callable[[], QueueService] | None = None,
    ) -> None:
        self._config = config
        self._make_queue = queue_service_factory or (lambda: QueueService(config=config))
        self._own = AsyncExitStack()
        self._starting = asyncio.Lock()
        self._workers: dict[str, WorkerService] = {}

    async def __aenter__(self) -> Self:
        """Start the workers."""
        await self.start_workers()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop them."""
        await self.stop_workers()

    async def start_workers(self) -> None:
        """Start ``NUM_WORKERS`` workers, and return when they take tasks.

        An API or a Redis that is down does not keep them from it; they wait.

        Raises:
            WorkerServiceError: They run already.
            ConfigurationError: The queue or the engine cannot be made from the settings.
            TTSAuthenticationError: The API refuses the key.
        """
        async with self._starting:
            if self.running:
                raise _runs_already("the workers run already; stop_workers() first")
            self._workers.clear()
            async with AsyncExitStack() as own:
                queue = await own.enter_async_context(self._make_queue())
                tts = await own.enter_async_context(make_tts(self._config, queue))
                (await queue.health_check()).refuse_lasting()
                (await tts.health_check()).refuse_lasting()
                self._own = own.pop_all()
            for number in range(1, self.num_workers + 1):
                worker = self._workers[f"worker-{number}"] = WorkerService(self._config, queue, tts)
                await worker.start_worker(f"worker-{number}")

    async def stop_workers(self, grace_s: float | None = None) -> None:
        """Take no more tasks, finish those at hand, hand back what is not finished in time. May be called twice.

        Args:
            grace_s: As ``WorkerService.stop_worker``.
        """
        async with self._starting:
            pass  # as a worker does
        await asyncio.gather(*(worker.stop_worker(grace_s) for worker in self._workers.values()))
        await self._own.aclose()

    def get_worker_status(self) -> WorkersStatus:
        """Every worker, by its name; ``await`` gives ``total_workers``, ``running_workers`` and ``worker_details``."""
        return WorkersStatus({worker_id: worker.get_status() for worker_id, worker in self._workers.items()})

    @property
    def config(self) -> AudioConfig:
        """The settings in force now."""
        return self._config or get_config()

    @property
    def num_workers(self) -> int:
        """How many workers ``start_workers`` starts with the settings in force now."""
        return self.config.num_workers

    @property
    def running(self) -> bool:
        """Whether a worker runs."""
        return any(worker.running for worker in self._workers.values())
