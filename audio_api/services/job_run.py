"""One job in a worker's hands: from the payload to a result that becomes visible exactly once."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import ClassVar
from weakref import WeakKeyDictionary

from audio_api.audio.wav_file import TooLateError
from audio_api.config import AudioConfig
from audio_api.errors import (
    AudioAPIError,
    ErrorCode,
    QueueServiceError,
    QueueUnavailableError,
    WorkerServiceError,
)
from audio_api.models.audio_request import AudioRequest, AudioResponse, SpeechProgress
from audio_api.queues.base import MAX_DELIVERIES
from audio_api.queues.jobs import Lease
from audio_api.services.circuit_breaker import CircuitBreaker
from audio_api.services.drafts import SpeechDraft
from audio_api.services.earlier_sound import earlier_sound
from audio_api.services.heartbeat import HeldLease
from audio_api.services.job_codec import decode_request, encode_result
from audio_api.services.neighbours import Neighbours
from audio_api.services.output_place import OutputPlace
from audio_api.services.pacing import lane_of
from audio_api.services.queue_service import QueueService
from audio_api.services.recovery import History, put_back
from audio_api.services.report import failure_of
from audio_api.services.speech_service import SpeechService
from audio_api.services.tally import of_delivery
from audio_api.services.task_batch import NOTES, TaskBatch
from audio_api.services.tts_service import TTSService
from audio_api.services.worker_status import Ending
from audio_api.telemetry import task_of

logger = logging.getLogger(__name__)

# Jobs that were put back together come back spread over this time.
_SPREAD_S = 5.0
# Putting a job back must not hold a shutdown up; its lease runs out by itself.
_HAND_BACK_S = 2.0
# How long a worker waits before it asks a queue again that did not answer.
_PAUSE_S = 0.5
# With these the store takes no sound at all, or not yet.
_STORE_AWAY = {ErrorCode.STORE_UNAVAILABLE, ErrorCode.STORE_REFUSED}
# After what passes, a task looks at its batch again.
_LOOK_AGAIN_S = 5.0
# After so many refusals by a folder that takes other files the job itself is to blame.
_MOST_WRITES = 3


class JobsInHand:
    """The jobs of one queue that this process works on, of all its workers.

    Attributes:
        runs: By job.
        asking: What the workers ask the queue, until they have begun the jobs that they got.
        alone: Held by a worker whose job must run alone: no other run may begin.
        empty: Set while there are no runs, and no questions.
        place: Where their files go.
        neighbours: Workers of other machines.
    """

    _known: ClassVar[WeakKeyDictionary[QueueService, JobsInHand]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self.runs: dict[str, JobRun] = {}
        self.asking: set[asyncio.Task[list[Lease]]] = set()
        self.alone = asyncio.Lock()
        self.empty = asyncio.Event()
        self.note_change()
        self.place = OutputPlace()
        self.neighbours = Neighbours()

    @classmethod
    def of(cls, queue: QueueService) -> JobsInHand:
        """Those of a queue."""
        if queue not in cls._known:
            cls._known[queue] = cls()
        return cls._known[queue]

    def enter(self, run: JobRun) -> JobRun | None:
        """Register a run; returns another one of the same job that has lost its lease and has not ended yet."""
        older, self.runs[run.lease.job_id] = self.runs.get(run.lease.job_id), run
        self.note_change()
        return older

    def leave(self, run: JobRun) -> None:
        """A run has ended."""
        if self.runs.get(run.lease.job_id) is run:
            del self.runs[run.lease.job_id]
        self.note_change()

    def note_change(self) -> None:
        """Set or clear ``empty``."""
        if self.runs or self.asking:
            self.empty.clear()
        else:
            self.empty.set()


class JobRun:
    """The work on one lease.

    Calls may be repeated by another worker after this one died, was frozen or cut off; what can be seen may not:
    the result is stored with the lease's token, and the file gets its name only while the lease is held. Just before,
    this worker tells the queue which file it will be, so that a next worker knows it for the task's own.

    Args:
        lease: The lease.
        queue: Where it comes from.
        tts: Who speaks.
        settings: The settings now.
    """

    def __init__(self, lease: Lease, queue: QueueService, tts: TTSService, settings: Callable[[], AudioConfig]) -> None:
        self.lease = lease
        self._queue = queue
        self._tts = tts
        self._settings = settings
        self._task: asyncio.Task[Ending] | None = None
        self._cancelled_as: Ending | None = None
        self._settling = False
        self._unsure_calls = 0
        self._spoken: tuple[AudioRequest, AudioResponse] | None = None
        told = lease.progress or {}
        self._note: dict[str, object] = {name: told[name] for name in NOTES & told.keys()}
        self._note |= asdict(History.from_note(told))
        self._in_hand = JobsInHand.of(queue)
        self._older = self._in_hand.enter(self)

    async def run(self) -> Ending:
        """Work until the task is finished, handed back or lost; runs in an asyncio task of its own."""
        self._task = asyncio.current_task()
        began_s = time.monotonic()
        held = HeldLease.hold(self._queue.backend, self.lease, inf, self._lose)
        try:
            older, self._older = self._older, None
            if older is not None and older._task is not None:
                # It lost its lease in this very process, and leaves its file first.
                older._lose()
                await asyncio.wait([older._task])
            ending = await self._work()
        except asyncio.CancelledError:
            if self._cancelled_as is None:
                raise
            if self._cancelled_as is Ending.RETURNED:
                await hand_back(self._queue, self.lease)
            ending = self._cancelled_as
        except WorkerServiceError:
            ending = Ending.LOST
        except Exception as error:  # a mistake in the code must cost one task, not the worker
            ending = await self._give_up(error)
        finally:
            held.let_go()
            self._in_hand.leave(self)
        with suppress(QueueServiceError):
            counted = of_delivery(self.lease, ending, time.monotonic() - began_s, self._spoken)
            await self._queue.backend.count(counted)
        return ending

    def hand_back(self) -> None:
        """Stop, and let another worker begin at once."""
        self._cancel(Ending.RETURNED)

    def _lose(self) -> None:
        # A task that the queue was told to end may be found gone before the answer comes, which tells whose end it was.
        if not self._settling:
            self._cancel(Ending.LOST)

    def _cancel(self, ending: Ending) -> None:
        if self._cancelled_as is None and self._task is not None:
            self._cancelled_as = ending
            self._task.cancel()

    async def _work(self) -> Ending:
        try:
            request = decode_request(self.lease.payload)
        except QueueServiceError as error:
            logger.warning("task is not valid", extra={"task_id": self.lease.job_id, "error": str(error)})
            return await self._settle(Ending.BURIED, self._queue.backend.bury(self.lease, str(error)))
        earlier = None
        if note := self.lease.progress:
            config = self._settings()
            earlier = await earlier_sound(request, note, config, self._in_hand.place.store(config))
        if earlier and earlier.success and len(earlier.subtitle_paths) < len(set(request.subtitles)):
            # The sound is the task's own; only its subtitles are not all there.
            request, earlier = request.model_copy(update={"overwrite": True}), None
        with task_of(self.lease.trace, self.lease.job_id):
            if request.service_tier == "batch" and not earlier:
                step = await self._speak_batch(request.model_copy(update={"service_tier": None}))
            else:
                step = earlier or await self._speak_and_write(request, self._tts)
        if isinstance(step, AudioResponse) and not earlier:
            self._spoken = request, step
        if isinstance(step, float):
            return await self._settle(Ending.DEFERRED, self._queue.backend.release(self.lease, step))
        response = step
        if not response.success and (ending := await self._put_back(response, lane_of(request, self._settings()))):
            return ending
        done = self._queue.backend.finish(self.lease, encode_result(response), success=response.success)
        return await self._settle(Ending.SUCCEEDED if response.success else Ending.FAILED, done)

    async def _settle(self, ending: Ending, done: Awaitable[bool]) -> Ending:
        self._settling = True
        return ending if await done else Ending.LOST

    async def _speak_batch(self, request: AudioRequest) -> AudioResponse | float:
        """Speak what the task's batch has brought; or the seconds until the next look at that."""
        try:
            means = self._tts.means
            async with means.calls() as (engine, calls):
                batch = TaskBatch(self._queue.backend, self._settings().queue_name, self.lease, means, engine, calls)
                try:
                    results = await batch.look()
                finally:
                    self._note |= batch.notes
                if isinstance(results, float):
                    return results
                async with SpeechService(
                    means.config, engine=results, recogniser=means.recogniser, clock=means.clock
                ) as tts:
                    response = await self._speak_and_write(request, tts)
                return await results.charged(response, batch.index, means.config, means.clock.now().date())
        except WorkerServiceError:
            raise
        except AudioAPIError as error:
            if error.retryable:
                return _LOOK_AGAIN_S
            return failure_of(error)

    async def _speak_and_write(self, request: AudioRequest, tts: SpeechService) -> AudioResponse:
        """Speak; write again what its place refused, but takes now: another file may have filled it for a moment."""
        task_id, place = self.lease.job_id, self._in_hand.place
        for _ in range(_MOST_WRITES):
            async with tts.prepare(
                request,
                self._heard,
                unsaved=place.unsaved.get(task_id),
                attempt_limit_s=self._settings().task_timeout,
                task=task_id,
            ) as draft:
                self._unsure_calls = draft.unsure_calls
                response = await self._publish(draft)
            if response.unsaved_audio or task_id in place.unsaved:
                place.keep(task_id, response)
            if response.error_code is not ErrorCode.OUTPUT_FAILED or await place.check_again(
                self._settings(), response
            ):
                break
        return response

    async def _publish(self, draft: SpeechDraft) -> AudioResponse:
        """Let a sound have its name while the lease is certainly held; what was paid for waits for the store."""
        if draft.note is None:
            return await draft.publish()
        place, refusals = self._in_hand.place, 0
        while True:
            # This process may have been frozen since it was told; then it asks again: the task may be another's.
            with suppress(TooLateError):
                response = await draft.publish(await self._announce(draft.note))
                refusals += 1
                if response.error_code not in _STORE_AWAY or refusals >= _MOST_WRITES:
                    return response
                place.doubt_store()
                while await place.check(self._settings()):
                    # It is the store that is away, not this sound that it does not want.
                    refusals = 0
                    await asyncio.sleep(_PAUSE_S)

    async def _heard(self, progress: SpeechProgress) -> None:
        """Tell the queue how far a long text is."""
        if progress.pieces_total == 1:
            return
        self._note |= progress.model_dump()
        # The queue may be away for a while; what was heard is kept, and the next piece tells it again.
        with suppress(QueueUnavailableError):
            if not await self._queue.backend.progress(self.lease, self._note):
                self._lose()

    async def _put_back(self, failure: AudioResponse, lane: str) -> Ending | None:
        """Put the job back if the table says so; ``None``: it fails."""
        circuit_open = False
        with suppress(QueueServiceError):
            circuit_open = await CircuitBreaker(self._queue.backend.limits).is_open(lane)
        history = History.from_note(self._note)
        back = put_back(
            failure,
            history,
            now_s=time.time(),
            max_age_s=self._settings().task_max_age,
            circuit_open=circuit_open,
            can_write=self._in_hand.place.problem is None,
            unsure_calls=self._unsure_calls,
        )
        if back is None:
            return None
        wait_s = back.delay_s + random.random() * min(_SPREAD_S, back.delay_s)  # noqa: S311 - spreads load, hides nothing
        logger.warning(
            "job is put back",
            extra={
                "task_id": self.lease.job_id,
                "error_code": failure.error_code,
                "tries": back.history.tries,
                "wait_s": round(wait_s, 1),
            },
        )
        if back.history != history:
            await self._note_down(self._note | asdict(back.history))
        return await self._settle(Ending.DEFERRED, self._queue.backend.release(self.lease, wait_s))

    async def _give_up(self, error: Exception) -> Ending:
        """Try a task that met a mistake in the code twice more; then bury it. Its text stays out of log and reason."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}"
        logger.error("task met a mistake in the code", extra={"task_id": self.lease.job_id, "reason": reason})
        if self.lease.deliveries < MAX_DELIVERIES:
            await self._queue.backend.release(self.lease, count_delivery=True)
            return Ending.RETURNED
        reason = f"{reason}, in {self.lease.deliveries} deliveries"
        return await self._settle(Ending.BURIED, self._queue.backend.bury(self.lease, reason))

    async def _announce(self, sound: dict[str, object]) -> float:
        """Tell the queue which file comes; returns until when, in monotonic seconds, no other worker can have the job.

        Raises:
            WorkerServiceError: Another worker may have the job by now.
        """
        note = self._note | sound
        while True:
            await self._note_down(note)
            asked_at = time.monotonic()
            with suppress(QueueUnavailableError):
                if not await self._queue.backend.renew([self.lease]):
                    raise _lost(self.lease)
                return asked_at + self.lease.lease_s

    async def _note_down(self, note: dict[str, object]) -> None:
        """Keep a note with the job; what was paid for waits for the queue, however long that takes.

        Raises:
            WorkerServiceError: Another worker may have the job by now.
        """
        while True:
            try:
                held = await self._queue.backend.progress(self.lease, note)
            except QueueUnavailableError:
                await asyncio.sleep(_PAUSE_S)
                continue
            if not held:
                raise _lost(self.lease)
            return


async def hand_back(queue: QueueService, lease: Lease) -> None:
    """Let another worker begin at once; when the queue does not answer, as soon as the lease has run out."""
    try:
        async with asyncio.timeout(_HAND_BACK_S):
            await queue.backend.release(lease)
    except (TimeoutError, QueueServiceError) as error:
        logger.warning("task goes back when its lease ends", extra={"task_id": lease.job_id, "why": str(error)})


def _lost(lease: Lease) -> WorkerServiceError:
    return WorkerServiceError(
        f"task {lease.job_id} belongs to another worker, or was cancelled", code=ErrorCode.LEASE_LOST
    )
