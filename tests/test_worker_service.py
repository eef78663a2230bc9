"""Workers in one process: what they do with good tasks, bad ones, hanging ones, and with their own end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import time
import weakref
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from own_time import PATIENCE_S, pass_time, until
from scripted import USAGE, ScriptedEngine, speech

from audio_api.config import AudioConfig
from audio_api.emulator import Emulator, Fault
from audio_api.engines.base import SpeechAudio, SpeechEngine, Utterance
from audio_api.errors import (
    AudioAPIError,
    ConfigurationError,
    ErrorCode,
    QueueUnavailableError,
    TTSAPIError,
    TTSAuthenticationError,
    TTSContentBlockedError,
    TTSQuotaError,
    TTSRateLimitError,
    TTSUnavailableError,
    WorkerServiceError,
)
from audio_api.models.audio_request import AudioRequest, BatchAudioRequest
from audio_api.models.usage import TokenUsage
from audio_api.queues.jobs import Job, JobState, Lease
from audio_api.services import heartbeat
from audio_api.services.circuit_breaker import FAILURES_TO_OPEN, CircuitBreaker
from audio_api.services.job_run import JobRun
from audio_api.services.pacing import PacedEngine, Pacer
from audio_api.services.queue_service import QueueService
from audio_api.services.tts_service import TTSService
from audio_api.services.worker_service import WorkerManager, WorkerService, WorkerState
from audio_api.services.worker_status import Ending

HELLO = AudioRequest(text="Hello there, my friend.")


@pytest.fixture
def config(tmp_path: Path) -> AudioConfig:
    """Quick settings for a queue in memory of its own."""
    return AudioConfig(
        gemini_api_key="any",
        queue_name=f"test-{secrets.token_hex(6)}",
        output_dir=tmp_path / "out",
        worker_grace=5,
        cache_max_bytes=0,
        retry_min_wait=0,
        retry_max_wait=0,
    )


@pytest.fixture
def brief(config: AudioConfig) -> AudioConfig:
    """The same, with leases that are renewed several times a second."""
    return config.model_copy(update={"lease_time": 1.0})


class HangingEngine(ScriptedEngine):
    """Begins to speak and never ends, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.calls = self.cancelled = 0

    async def synthesize(self, utterance: Utterance) -> SpeechAudio:
        """Wait for ``go_on``."""
        self.calls += 1
        self.begun.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await super().synthesize(utterance)


def worker_with(engine: ScriptedEngine, config: AudioConfig, queue: QueueService) -> WorkerService:
    """A worker that speaks with this engine."""
    return WorkerService(config, queue, TTSService(config, engine=engine))


async def state_of(queue: QueueService, task_id: str) -> JobState:
    """Where a task is."""
    result = await queue.get_task_result(task_id)
    assert result
    return result.state


async def run_one(engine: SpeechEngine, config: AudioConfig, queue: QueueService, lease: Lease) -> Ending:
    """Work on one lease."""
    return await asyncio.create_task(JobRun(lease, queue, TTSService(config, engine=engine), lambda: config).run())


@pytest.mark.parametrize("place", ["memory", "redis"])
async def test_a_manager_beside_a_queue_serves_a_batch(
    place: str, config: AudioConfig, gemini_emulator: Emulator, request: pytest.FixtureRequest
) -> None:
    """Made apart from the same settings they meet; results are in order, each call is made once, the end is prompt."""
    changes: dict[str, object] = {"gemini_base_url": gemini_emulator.url}
    if place == "redis":
        changes |= {"use_redis": True, "redis_url": request.getfixturevalue("redis_url")}
    changes["worker_grace"] = PATIENCE_S
    config = AudioConfig(**{**config.model_dump(exclude_unset=True), "gemini_api_key": "any", **changes})
    texts = [f"This is sentence {n} of the batch." for n in range(12)]
    async with QueueService(config=config) as queue:
        manager = WorkerManager(config=config)
        await manager.start_workers()
        batch_id = await queue.enqueue_batch_tasks(BatchAudioRequest(requests=[AudioRequest(text=t) for t in texts]))
        batch = await queue.wait_for_batch(batch_id, timeout=PATIENCE_S)
        assert (batch.status, batch.completed) == ("completed", 12)
        assert sorted(call.text for call in gemini_emulator.calls if call.text) == sorted(texts)
        assert all(Path(result.file_path or "").is_file() for result in batch.results)
        # A result is visible a moment before its worker hears that it was stored.
        await until(lambda: sum(each.processed for each in manager.get_worker_status().values()) == 12)
        status = manager.get_worker_status()
        assert list(status) == ["worker-1", "worker-2", "worker-3"]
        assert {each.state for each in status.values()} == {WorkerState.IDLE}
        assert all(each.uptime_s > 0 and each.tasks_per_minute == each.processed for each in status.values())
        started = time.monotonic()
        await manager.stop_workers()
        assert time.monotonic() - started < PATIENCE_S / 2
        assert {each.state for each in manager.get_worker_status().values()} == {WorkerState.STOPPED}


async def test_a_worker_has_several_tasks_at_hand(config: AudioConfig, queue: QueueService) -> None:
    """As many as the setting says, and no more; its status names them."""
    engine = HangingEngine()
    worker = worker_with(engine, config, queue)
    ids = await queue.enqueue_many([AudioRequest(text=f"Number {n} of five.") for n in range(5)])
    await worker.start_worker("anna")
    await until(lambda: len(worker.get_status().current_tasks) == 3)
    status = worker.get_status()
    assert (status.worker_id, status.state, status.current_tasks) == ("anna", WorkerState.WORKING, tuple(ids[:3]))
    engine.go_on.set()
    for task_id in ids:
        assert (await queue.wait_for_result(task_id, PATIENCE_S)).success
    await worker.stop_worker()
    assert worker.get_status().processed == 5


async def test_a_worker_starts_once_and_stops_as_often_as_one_likes(config: AudioConfig, queue: QueueService) -> None:
    """A second start is an error; after its end it may start again; a manager behaves the same."""
    worker = worker_with(ScriptedEngine(), config, queue)
    for _ in range(2):
        await worker.start_worker()
        with pytest.raises(WorkerServiceError, match="worker-1 runs already") as caught:
            await worker.start_worker()
        assert caught.value.code is ErrorCode.WORKER_RUNNING
        task_id = await queue.enqueue_single_task(HELLO)
        assert (await queue.wait_for_result(task_id, PATIENCE_S)).success
        await worker.stop_worker()
        await worker.stop_worker()
    async with WorkerManager(config) as manager:
        with pytest.raises(WorkerServiceError, match="run already") as caught:
            await manager.start_workers()
        assert caught.value.code is ErrorCode.WORKER_RUNNING


async def test_a_worker_of_its_own_makes_what_it_needs(config: AudioConfig, gemini_emulator: Emulator) -> None:
    """Without services it makes them from the settings, and closes them."""
    config = config.model_copy(update={"gemini_base_url": gemini_emulator.url})
    worker = WorkerService(config)
    await worker.start_worker()
    async with QueueService(config=config) as queue:
        assert (await queue.wait_for_result(await queue.enqueue_single_task(HELLO), PATIENCE_S)).success
    await worker.stop_worker()


@pytest.mark.parametrize("make", [WorkerService, WorkerManager])
@pytest.mark.parametrize(("key", "error"), [(None, ConfigurationError), ("another", TTSAuthenticationError)])
async def test_what_waiting_does_not_mend_keeps_workers_from_starting(
    make: type[WorkerService | WorkerManager],
    key: str | None,
    error: type[AudioAPIError],
    config: AudioConfig,
    gemini_emulator: Emulator,
) -> None:
    """Without a key, or with one that the API refuses, no task is taken; mended, the same object starts."""
    gemini_emulator.api_key = "right"
    settings = config.model_dump(exclude={"gemini_api_key"}) | {"gemini_base_url": gemini_emulator.url}
    workers = make(AudioConfig(**settings, **({"gemini_api_key": key} if key else {})))
    start, stop = (
        (workers.start_worker, workers.stop_worker)
        if isinstance(workers, WorkerService)
        else (workers.start_workers, workers.stop_workers)
    )
    with pytest.raises(error):
        await start()
    if key:
        gemini_emulator.api_key = key
        await start()
    await stop()


async def test_an_engine_is_warm_before_the_first_task(
    config: AudioConfig, queue: QueueService, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls keep their turns from the first one on; an engine that cannot be made ready is only late."""
    engine = ScriptedEngine()
    engine.refusal = TTSUnavailableError("not yet")
    worker = worker_with(engine, config, queue)
    await worker.start_worker()
    assert engine.warm
    assert "the first calls will be late" in caplog.text
    engine.refusal = None
    assert (await queue.wait_for_result(await queue.enqueue_single_task(HELLO), PATIENCE_S)).success
    await worker.stop_worker()


async def test_what_is_told_to_stop_while_it_begins_stops(
    config: AudioConfig, queue: QueueService, gemini_emulator: Emulator
) -> None:
    """A worker and a manager, between their start and their first task: neither is left running on closed services."""

    class Cold(ScriptedEngine):
        """Takes its time."""

        go_on = asyncio.Event()

        async def warm_up(self, model: str) -> None:
            """Wait to be told."""
            await self.go_on.wait()

    worker = worker_with(engine := Cold(), config, queue)
    starting = asyncio.create_task(worker.start_worker())
    stopping = asyncio.create_task(worker.stop_worker())
    await asyncio.wait([stopping], timeout=0.1)
    engine.go_on.set()
    await asyncio.gather(starting, stopping)
    assert worker.get_status().state is WorkerState.STOPPED
    manager = WorkerManager(config.model_copy(update={"gemini_base_url": gemini_emulator.url}))
    starting = asyncio.create_task(manager.start_workers())
    await until(lambda: bool(gemini_emulator.calls))
    await manager.stop_workers()
    assert starting.done()
    assert {status.state for status in manager.get_worker_status().values()} == {WorkerState.STOPPED}


async def test_stopping_finishes_what_runs(config: AudioConfig, queue: QueueService) -> None:
    """Nothing new is taken, the task at hand is finished, the next one still waits."""
    engine = HangingEngine()
    config = config.model_copy(update={"worker_concurrency": 1})
    worker = worker_with(engine, config, queue)
    first, second = await queue.enqueue_many([HELLO, AudioRequest(text="And another one.")])
    await worker.start_worker()
    await engine.begun.wait()
    stopping = asyncio.create_task(worker.stop_worker())
    await until(lambda: worker.get_status().state is WorkerState.STOPPING)
    engine.go_on.set()
    await stopping
    assert await state_of(queue, first) is JobState.SUCCEEDED
    assert await state_of(queue, second) is JobState.QUEUED


@pytest.mark.parametrize("second_call", [False, True])
async def test_stopping_hands_back_what_takes_too_long(
    second_call: bool, config: AudioConfig, queue: QueueService
) -> None:
    """At the end of the grace, or at once when asked again: the task is free for others, its delivery not counted."""
    engine = HangingEngine()
    worker = worker_with(engine, config, queue)
    task_id = await queue.enqueue_single_task(HELLO)
    await worker.start_worker()
    await engine.begun.wait()
    if second_call:
        stopping = asyncio.create_task(worker.stop_worker(grace_s=3600))
        await until(lambda: worker.get_status().state is WorkerState.STOPPING)
        await worker.stop_worker(grace_s=0)
        await stopping
    else:
        await worker.stop_worker(grace_s=0.05)
    assert engine.cancelled == 1
    (lease,) = await queue.backend.lease(1, 30)
    assert (lease.job_id, lease.deliveries) == (task_id, 1)


async def test_a_task_that_hangs_is_cancelled(config: AudioConfig, queue: QueueService) -> None:
    """After TASK_TIMEOUT its call has ended, its result says so, and healthy tasks behind it are served."""
    engine = HangingEngine()
    changes = {"task_timeout": PATIENCE_S, "worker_concurrency": 2, "task_max_age": 0.1, "retry_attempts": 1}
    config = config.model_copy(update=changes)
    worker = worker_with(engine, config, queue)
    hung = await queue.enqueue_many([HELLO] * 4)
    await worker.start_worker()
    for calls in range(2, 10, 2):  # two at once, and each is tried again once
        await until(lambda calls=calls: engine.calls == calls)
        pass_time(PATIENCE_S)
        await until(lambda calls=calls: engine.cancelled == calls)
    for task_id in hung:
        result = await queue.wait_for_result(task_id, PATIENCE_S)
        assert (result.error_code, result.retryable) == (ErrorCode.TASK_TIMEOUT, True)
    assert engine.cancelled == engine.calls == 8
    engine.go_on.set()
    assert (await queue.wait_for_result(await queue.enqueue_single_task(HELLO), PATIENCE_S)).success
    await worker.stop_worker()
    assert worker.get_status().failed == 4


@pytest.mark.parametrize(
    ("texts", "changes", "failures"),
    [
        (["Equal.", "Equal.", "Equal."], {"rate_limit_rpm": 1}, []),
        (["One.", "Two."], {"rate_limit_rpm": 1, "max_concurrency": 1}, []),
        (["One."], {}, [TTSRateLimitError("a minute's quota is used up", retry_after_s=1.5)]),
    ],
    ids=["for another's call", "for a slot", "for the next attempt"],
)
async def test_waiting_is_not_held_against_a_task(
    texts: list[str],
    changes: dict[str, object],
    failures: list[Exception],
    config: AudioConfig,
    queue: QueueService,
) -> None:
    """A task may wait longer than TASK_TIMEOUT for its turn, also for one that another task waits for."""
    config = config.model_copy(update={"task_timeout": 1.5, "cache_max_bytes": 2**20, **changes})
    pacer = Pacer(queue.backend.limits, lambda: config, window_s=2.5)
    engine = ScriptedEngine(failures)
    async with pacer.call(str(config.default_tts_model)):
        pass  # uses the place in the window up
    worker = WorkerService(config, queue, TTSService(config, engine=PacedEngine(engine, pacer)))
    await worker.start_worker()
    ids = await queue.enqueue_many([AudioRequest(text=text) for text in texts])
    results = [await queue.wait_for_result(task_id, PATIENCE_S) for task_id in ids]
    await worker.stop_worker()
    assert [result.error for result in results] == [None] * len(texts)
    assert len(engine.asked) == len(set(texts)) + len(failures)


async def test_a_permanent_failure_is_a_result(config: AudioConfig, queue: QueueService) -> None:
    """It is not tried again, and raises the class that belongs to it."""
    engine = ScriptedEngine([TTSContentBlockedError("not this text")])
    worker = worker_with(engine, config, queue)
    await worker.start_worker()
    result = await queue.wait_for_result(await queue.enqueue_single_task(HELLO), PATIENCE_S)
    with pytest.raises(TTSContentBlockedError):
        result.raise_for_error()
    await worker.stop_worker()
    assert worker.get_status().failed == 1


DEFERRED: list[tuple[AudioAPIError, float]] = [
    (TTSRateLimitError("minute", retry_after_s=100), 100),
    (TTSRateLimitError("minute", retryable=False), 60),
    (TTSQuotaError("the day is over"), 7_200),
    (TTSQuotaError("credit", code=ErrorCode.CREDIT_EXHAUSTED), 300),
    (TTSUnavailableError("refused", code=ErrorCode.CONNECTION_FAILED, retryable=False), 5),
]


@pytest.mark.parametrize(("error", "wait_s"), DEFERRED, ids=[f"{e.code}-{s:g}" for e, s in DEFERRED])
async def test_what_is_not_the_tasks_fault_defers_it(
    error: AudioAPIError, wait_s: float, config: AudioConfig, queue: QueueService
) -> None:
    """A quota, the credit, a server that is not there: the task waits for its time, and no delivery is counted."""
    task_id = await queue.enqueue_single_task(HELLO)
    (lease,) = await queue.backend.lease(1, 30)
    before_s = time.time()
    if isinstance(error, TTSQuotaError) and error.code is ErrorCode.QUOTA_EXHAUSTED:
        error.reset_at = datetime.now(UTC) + timedelta(seconds=wait_s)
    assert await run_one(ScriptedEngine([error] * 9), config, queue, lease) is Ending.DEFERRED
    status = await queue.backend.status(task_id)
    assert status
    assert (status.state, status.deliveries) == (JobState.DELAYED, 0)
    (entry,) = queue.backend._shared.delayed.values()  # type: ignore[attr-defined]
    assert before_s + wait_s - 2 <= entry.due <= time.time() + wait_s + 10


REFUSED = TTSUnavailableError("503", retryable=False)


async def test_a_failing_job_goes_back_until_it_is_too_old(config: AudioConfig, queue: QueueService) -> None:
    """Its delay grows from try to try, no delivery is counted, and it fails with its last error."""
    config = config.model_copy(update={"task_max_age": 0.3})
    task_id = await queue.enqueue_single_task(HELLO)
    tries, last = 0, TTSUnavailableError("still 503", retryable=False)
    (lease,) = await queue.backend.lease(1, 30)
    while await run_one(ScriptedEngine([REFUSED if not tries else last]), config, queue, lease) is Ending.DEFERRED:
        tries += 1
        status = await queue.backend.status(task_id)
        assert status
        assert status.progress
        assert (status.deliveries, status.progress["tries"]) == (0, tries)
        (lease,) = await queue.backend.lease(1, 30, wait_s=PATIENCE_S)
    result = await queue.get_task_result(task_id)
    assert result
    assert (result.state, result.error_code, result.error) == (JobState.FAILED, ErrorCode.UNAVAILABLE, "still 503")
    assert tries >= 1


async def test_the_delay_of_a_failing_job_doubles(config: AudioConfig, queue: QueueService) -> None:
    """After its third failure it waits four times as long as after its first; whichever worker has it."""
    await queue.enqueue_single_task(HELLO)
    (lease,) = await queue.backend.lease(1, 30)
    await queue.backend.progress(lease, {"tries": 2, "failing_since": time.time() - 30, "billed_calls": 0})
    await queue.backend.release(lease)
    (lease,) = await queue.backend.lease(1, 30)
    before_s = time.time()
    assert await run_one(ScriptedEngine([REFUSED]), config, queue, lease) is Ending.DEFERRED
    (entry,) = queue.backend._shared.delayed.values()  # type: ignore[attr-defined]
    assert before_s + 20 <= entry.due <= time.time() + 26


async def test_an_open_circuit_counts_no_try(config: AudioConfig, queue: QueueService) -> None:
    """A failure that opens the circuit, or finds it open, is not the job's own; nor is a call that was not made."""
    pacer = Pacer(queue.backend.limits, lambda: config)
    model = str(config.default_tts_model)
    for _ in range(FAILURES_TO_OPEN - 1):
        await CircuitBreaker(queue.backend.limits).note_failure(model, answered=False)
    engine = ScriptedEngine([TTSUnavailableError("503")] * 9)
    task_id = await queue.enqueue_single_task(HELLO)
    (lease,) = await queue.backend.lease(1, 30)
    assert await run_one(PacedEngine(engine, pacer), config, queue, lease) is Ending.DEFERRED
    assert len(engine.asked) == 1
    status = await queue.backend.status(task_id)
    assert status
    assert (status.state, status.deliveries, (status.progress or {}).get("tries", 0)) == (JobState.DELAYED, 0, 0)


@pytest.mark.parametrize(
    "error",
    [TTSAuthenticationError("revoked"), ConfigurationError("no key"), TTSUnavailableError("503", retryable=False)],
    ids=["key", "setting", "503"],
)
async def test_what_a_person_mends_does_not_fail_the_queue(
    error: AudioAPIError, config: AudioConfig, queue: QueueService
) -> None:
    """A leaked key, a wrong setting and an API that is down put a job back, though the same call cannot succeed now."""
    await queue.enqueue_single_task(HELLO)
    (lease,) = await queue.backend.lease(1, 30)
    assert await run_one(ScriptedEngine([error]), config, queue, lease) is Ending.DEFERRED


@pytest.mark.parametrize(
    "code", [ErrorCode.TIMEOUT, ErrorCode.CONNECTION_BROKEN, ErrorCode.UNREADABLE_REPLY, ErrorCode.TASK_TIMEOUT]
)
async def test_a_call_that_may_have_been_billed_is_repeated_three_times(
    code: ErrorCode, config: AudioConfig, queue: QueueService
) -> None:
    """Over all tries of a job, whichever worker makes them; then it fails with its error."""
    hangs = code is ErrorCode.TASK_TIMEOUT
    config = config.model_copy(update={"task_timeout": PATIENCE_S, "retry_attempts": 1})
    task_id = await queue.enqueue_single_task(HELLO)
    (lease,) = await queue.backend.lease(1, 30)
    calls = 0
    while True:
        engine = HangingEngine() if hangs else ScriptedEngine([TTSUnavailableError("no answer", code=code)])
        running = asyncio.create_task(run_one(engine, config, queue, lease))
        if isinstance(engine, HangingEngine):
            await engine.begun.wait()
            pass_time(PATIENCE_S)
        ending = await running
        calls += engine.cancelled if isinstance(engine, HangingEngine) else len(engine.asked)
        if ending is not Ending.DEFERRED:
            break
        queue.backend._shared.delayed[task_id].due = 0  # type: ignore[attr-defined]
        (lease,) = await queue.backend.lease(1, 30)
    result = await queue.get_task_result(task_id)
    assert result
    assert (calls, ending, result.error_code) == (4, Ending.FAILED, code)


async def test_a_failure_of_its_own_is_final(config: AudioConfig, queue: QueueService) -> None:
    """A quota without an end, or a refusal of this request, is a result."""
    for error in (TTSQuotaError("not granted", code=ErrorCode.QUOTA_NOT_GRANTED), TTSAPIError("refused")):
        await queue.enqueue_single_task(HELLO)
        (lease,) = await queue.backend.lease(1, 30)
        assert await run_one(ScriptedEngine([error]), config, queue, lease) is Ending.FAILED


@pytest.mark.parametrize("mistake", [MemoryError("SECRET"), TypeError("SECRET")], ids=["memory", "bug"])
async def test_a_task_that_meets_a_bug_is_buried_after_three_deliveries(
    mistake: Exception, config: AudioConfig, queue: QueueService, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker goes on, others are served, and neither reason nor log holds what the exception said."""

    class Poisoned(ScriptedEngine):
        async def synthesize(self, utterance: Utterance) -> SpeechAudio:
            if "poison" in utterance.text:
                self.asked.append(utterance)
                raise mistake
            return await super().synthesize(utterance)

    engine = Poisoned()
    worker = worker_with(engine, config, queue)
    poison, good = await queue.enqueue_many([AudioRequest(text="SECRET poison."), HELLO])
    await worker.start_worker()
    assert (await queue.wait_for_result(good, PATIENCE_S)).success
    result = await queue.wait_for_result(poison, PATIENCE_S)
    assert result.error_code is ErrorCode.TASK_DEAD
    assert len([each for each in engine.asked if "poison" in each.text]) == 3
    (letter,) = await queue.list_dead_letters()
    assert letter.reason == f"{type(mistake).__name__} in test_worker_service.py:{letter.reason.split(':')[1]}"
    assert letter.reason.endswith("in 3 deliveries")
    await worker.stop_worker()
    assert "SECRET" not in caplog.text + letter.reason


async def test_an_unreadable_task_is_buried(config: AudioConfig, queue: QueueService) -> None:
    """At its first delivery, with the reason."""
    await queue.backend.enqueue([Job("bad", b"{}")])
    (lease,) = await queue.backend.lease(1, 30)
    assert await run_one(ScriptedEngine(), config, queue, lease) is Ending.BURIED
    (letter,) = await queue.list_dead_letters()
    assert letter.reason == "the payload is not valid: v: missing"


async def test_a_blocked_event_loop_repeats_a_call_and_publishes_nothing(
    brief: AudioConfig, queue: QueueService
) -> None:
    """While its loop stands still for three leases, another worker gets the task; only that one's result is seen."""
    others: list[Lease] = []

    class Blocking(ScriptedEngine):
        async def synthesize(self, utterance: Utterance) -> SpeechAudio:
            time.sleep(3 * brief.lease_time)  # noqa: ASYNC251 -- to block is the point
            # The other worker asks as soon as it can.
            others.extend(await queue.backend.lease(1, 30))
            return await super().synthesize(utterance)

    task_id = await queue.enqueue_single_task(HELLO)
    (lease,) = await queue.backend.lease(1, brief.lease_time)
    assert await run_one(Blocking(), brief, queue, lease) is Ending.LOST
    assert not list(brief.output_dir.glob("*.wav"))
    (other,) = others
    assert (other.job_id, other.deliveries) == (task_id, 2)
    assert await state_of(queue, task_id) is JobState.LEASED
    assert await queue.backend.finish(other, b"the other's", success=True)
    status = await queue.backend.status(task_id)
    assert status
    assert (status.state, status.result) == (JobState.SUCCEEDED, b"the other's")


async def test_a_result_on_its_way_is_not_a_lost_task(
    brief: AudioConfig, queue: QueueService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When leases are renewed between the end of a task in the queue and the answer, the task is gone, but done."""
    finish = queue.backend.finish

    async def answer_late(lease: Lease, result: bytes, *, success: bool) -> bool:
        done = await finish(lease, result, success=success)
        await asyncio.wait([asyncio.create_task(asyncio.sleep(brief.lease_time))])
        return done

    monkeypatch.setattr(queue.backend, "finish", answer_late)
    await queue.enqueue_single_task(HELLO)
    (lease,) = await queue.backend.lease(1, brief.lease_time)
    assert await run_one(ScriptedEngine(), brief, queue, lease) is Ending.SUCCEEDED


async def test_a_cancelled_task_stops_and_writes_nothing(brief: AudioConfig, queue: QueueService) -> None:
    """Its worker notices at the next renewal, ends the call, and takes other tasks."""
    engine = HangingEngine()
    worker = worker_with(engine, brief, queue)
    task_id = await queue.enqueue_single_task(HELLO)
    await worker.start_worker()
    await engine.begun.wait()
    assert await queue.cancel_task(task_id)
    await until(lambda: engine.cancelled == 1)
    await until(lambda: worker.get_status().state is WorkerState.IDLE)
    assert list(brief.output_dir.glob("*")) == []
    assert worker.get_status().processed == 0
    await worker.stop_worker()


async def test_a_finished_task_leaves_no_work_to_the_garbage_collector(
    config: AudioConfig, queue: QueueService
) -> None:
    """Nothing of it stays until the garbage collector comes: that would cost a fifth of a quick worker's time."""
    await queue.enqueue_single_task(HELLO)
    (lease,) = await queue.backend.lease(1, 30)
    run = JobRun(lease, queue, TTSService(config, engine=ScriptedEngine()), lambda: config)
    known = weakref.ref(run)
    gc.disable()
    try:
        assert await asyncio.create_task(run.run()) is Ending.SUCCEEDED
        del run
        await until(lambda: known() is None)  # the thread that wrote its file may need a moment
    finally:
        gc.enable()


NAMED = AudioRequest(text="Hello there, my friend.", output_filename="greeting")
REPLACING = NAMED.model_copy(update={"overwrite": True})


class Usurped(ScriptedEngine):
    """While this worker speaks, another one gets the task and finishes it."""

    def __init__(self, config: AudioConfig, rival: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._rival = rival

    async def synthesize(self, utterance: Utterance) -> SpeechAudio:
        """Speak when the rival has finished."""
        await self._rival()
        return speech(utterance)


@pytest.mark.parametrize(
    "request_", [NAMED, NAMED.model_copy(update={"overwrite": True}), HELLO], ids=["named", "replacing", "unnamed"]
)
async def test_a_worker_without_its_lease_writes_nothing(
    request_: AudioRequest, config: AudioConfig, queue: QueueService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the name and however late, the file and the result are those of the worker that has the task now."""
    await queue.enqueue_single_task(request_)
    (stale,) = await queue.backend.lease(1, 0.01)
    written: list[bytes] = []

    async def rival() -> None:
        (lease,) = await queue.backend.lease(1, 30, wait_s=PATIENCE_S)
        assert await run_one(ScriptedEngine(), config, queue, lease) is Ending.SUCCEEDED
        written.extend(path.read_bytes() for path in config.output_dir.glob("*.wav"))

    # No lease is renewed here, as if the process of the late one were frozen; that of its rival is long.
    monkeypatch.setattr(heartbeat, "_renew", lambda *_: asyncio.Event().wait())
    queue_of_the_frozen = QueueService(config=config)
    late = JobRun(stale, queue_of_the_frozen, TTSService(config, engine=Usurped(config, rival)), lambda: config)
    assert await asyncio.create_task(late.run()) is Ending.LOST
    (path,) = config.output_dir.iterdir()
    assert [path.read_bytes()] == written
    await queue_of_the_frozen.close()


@pytest.mark.parametrize(
    "request_", [NAMED, NAMED.model_copy(update={"overwrite": True}), HELLO], ids=["named", "replacing", "unnamed"]
)
async def test_a_file_of_a_worker_that_died_is_the_tasks_own(
    request_: AudioRequest, config: AudioConfig, queue: QueueService
) -> None:
    """It wrote the file and died before it could tell: the next worker takes it over, and makes no call."""
    task_id = await queue.enqueue_single_task(request_)
    (lease,) = await queue.backend.lease(1, 30)
    died = JobRun(lease, queue, TTSService(config, engine=ScriptedEngine()), lambda: config)

    async def die(*_: object, **__: object) -> bool:
        raise asyncio.CancelledError

    finish, queue.backend.finish = queue.backend.finish, die  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(died.run())
    queue.backend.finish = finish  # type: ignore[method-assign]
    await queue.backend.release(lease)
    (path,) = config.output_dir.iterdir()
    engine = ScriptedEngine()
    (lease,) = await queue.backend.lease(1, 30)
    assert await run_one(engine, config, queue, lease) is Ending.SUCCEEDED
    result = await queue.get_task_result(task_id)
    assert result
    assert (result.success, result.file_path) == (True, str(path))
    assert result.duration == pytest.approx(speech_s(path))
    assert engine.asked == []
    assert "earlier worker" in result.warnings[0]


@pytest.mark.parametrize("left", ["recording", "first", "older", "all"])
@pytest.mark.parametrize("name", ["talk", None])
async def test_a_worker_that_died_among_its_subtitles(
    name: str | None, left: str, config: AudioConfig, queue: QueueService
) -> None:
    """The next worker's result names the recording and all subtitles of this take, and each of them is there."""
    request = AudioRequest(text="Hello there, my friend.", output_filename=name, subtitles=("srt", "vtt"))
    task_id = await queue.enqueue_single_task(request)
    (lease,) = await queue.backend.lease(1, 30)

    async def die(*_: object, **__: object) -> bool:
        raise asyncio.CancelledError

    finish, queue.backend.finish = queue.backend.finish, die  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await run_one(ScriptedEngine(), config, queue, lease)
    queue.backend.finish = finish  # type: ignore[method-assign]
    await queue.backend.release(lease)
    (recording,) = config.output_dir.glob("*.wav")
    for kind in {"recording": ("srt", "vtt"), "first": ("vtt",)}.get(left, ()):
        recording.with_suffix(f".{kind}").unlink()
    if left == "older":
        os.utime(recording.with_suffix(".vtt"), (1, 1))
    engine = ScriptedEngine()
    (lease,) = await queue.backend.lease(1, 30)
    assert await run_one(engine, config, queue, lease) is Ending.SUCCEEDED
    result = await queue.get_task_result(task_id)
    assert result
    assert (result.success, result.file_path) == (True, str(recording))
    assert result.subtitle_paths == tuple(str(recording.with_suffix(f".{kind}")) for kind in ("srt", "vtt"))
    for path in result.subtitle_paths:
        assert "Hello there, my friend." in Path(path).read_text()
        assert Path(path).stat().st_mtime_ns >= recording.stat().st_mtime_ns
    assert len(engine.asked) == (left != "all")


async def test_waiting_for_a_frozen_queue_is_not_held_against_a_task(
    config: AudioConfig, queue: QueueService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the tries, each of which lasts until the queue is given up, nor the pauses between them."""
    config = config.model_copy(update={"task_timeout": PATIENCE_S})
    task_id = await queue.enqueue_single_task(HELLO)
    (lease,) = await queue.backend.lease(1, 30)
    progress, tries = queue.backend.progress, 0

    async def frozen_at_first(*args: Any) -> bool:
        nonlocal tries
        tries += 1
        if tries <= 2:
            pass_time(PATIENCE_S)
            await asyncio.sleep(0)
            raise QueueUnavailableError("the server does not answer")
        return await progress(*args)

    monkeypatch.setattr(queue.backend, "progress", frozen_at_first)
    assert await run_one(ScriptedEngine(), config, queue, lease) is Ending.SUCCEEDED
    result = await queue.get_task_result(task_id)
    assert result
    assert (result.success, tries) == (True, 3)


def speech_s(path: Path) -> float:
    """Seconds of sound in a file without any trailer."""
    return (path.stat().st_size - 44) / 48_000


async def test_a_file_of_another_program_is_not_the_tasks_own(config: AudioConfig, queue: QueueService) -> None:
    """A note about another file, or about none that could be safe, is worth nothing: the name stays taken."""
    config.output_dir.mkdir()
    (config.output_dir / "greeting.wav").write_bytes(b"mine")
    notes: list[dict[str, object]] = [
        {"file": "greeting.wav", "st_ino": 1, "st_size": 4, "st_mtime_ns": 1},
        {"file": "../greeting.wav", "st_ino": 1, "st_size": 4, "st_mtime_ns": 1},
        {"file": "another.wav"},
        {"file": "greeting.wav"},
    ]
    for note in notes:
        await queue.enqueue_single_task(NAMED)
        (lease,) = await queue.backend.lease(1, 30)
        await queue.backend.progress(lease, note)
        await queue.backend.release(lease)
        (lease,) = await queue.backend.lease(1, 30)
        assert await run_one(ScriptedEngine(), config, queue, lease) is Ending.FAILED
        status = await queue.backend.status(lease.job_id)
        assert status
        assert status.result
        assert b"output_exists" in status.result
    assert (config.output_dir / "greeting.wav").read_bytes() == b"mine"


async def test_paid_audio_waits_for_the_queue(
    config: AudioConfig, queue: QueueService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the queue does not answer nothing is written and nothing lost; when it is back, the task succeeds."""
    task_id = await queue.enqueue_single_task(NAMED)
    (lease,) = await queue.backend.lease(1, 30)
    progress, answers = queue.backend.progress, [False, False, True]

    async def sometimes(*args: object) -> bool:
        if not answers.pop(0):
            assert not (config.output_dir / "greeting.wav").exists()
            raise QueueUnavailableError("down")
        return await progress(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(queue.backend, "progress", sometimes)
    monkeypatch.setattr("audio_api.services.job_run._PAUSE_S", 0.01)
    assert await run_one(ScriptedEngine(), config, queue, lease) is Ending.SUCCEEDED
    assert await state_of(queue, task_id) is JobState.SUCCEEDED


async def test_a_renewal_that_was_late_is_asked_for_again(
    config: AudioConfig, queue: QueueService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that comes after the lease it speaks of shows nothing; while the task is held, nothing is given up."""
    task_id = await queue.enqueue_single_task(NAMED)
    (lease,) = await queue.backend.lease(1, 0.3)
    renew, delays_s = queue.backend.renew, [0.4]

    async def renew_late(leases: list[Lease]) -> list[Lease]:
        kept = await renew(leases)
        await asyncio.wait([asyncio.create_task(asyncio.sleep(delays_s.pop() if delays_s else 0))])
        return kept

    monkeypatch.setattr(queue.backend, "renew", renew_late)
    assert await run_one(ScriptedEngine(), config, queue, lease) is Ending.SUCCEEDED
    assert delays_s == []
    assert await state_of(queue, task_id) is JobState.SUCCEEDED


@pytest.mark.parametrize("cache_max_bytes", [0, 10**8])
async def test_paid_audio_waits_for_a_person_who_mends_the_folder(
    cache_max_bytes: int,
    config: AudioConfig,
    queue: QueueService,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The task goes back uncounted, its worker says why it takes none, and the sound is kept, with or without cache."""
    config = config.model_copy(update={"cache_dir": tmp_path / "cache", "cache_max_bytes": cache_max_bytes})
    request = AudioRequest(text="A sentence of some length, so that nobody doubts that all of it was spoken.")

    def and_then_the_folder_is_gone(utterance: Utterance) -> SpeechAudio:
        config.output_dir.write_bytes(b"a file in its place")
        return speech(utterance, usage=USAGE)

    engine = ScriptedEngine([and_then_the_folder_is_gone])
    worker = worker_with(engine, config, queue)
    await worker.start_worker()
    task_id = await queue.enqueue_single_task(request)
    await until(lambda: worker.get_status().state is WorkerState.BLOCKED)
    assert "Not a directory" in (worker.get_status().problem or "")
    assert "takes no tasks: it cannot write" in caplog.text
    await until(lambda: not worker.get_status().current_tasks)
    assert await state_of(queue, task_id) is JobState.DELAYED
    config.output_dir.unlink()
    result = await queue.wait_for_result(task_id, PATIENCE_S)
    assert (result.success, result.deliveries, result.attempts, len(engine.asked)) == (True, 1, 1, 1)
    await until(lambda: worker.get_status().state is WorkerState.IDLE)
    assert worker.get_status().problem is None
    await worker.stop_worker()


async def test_a_task_whose_own_name_is_refused_fails(config: AudioConfig, queue: QueueService) -> None:
    """Where other files can be written, a folder in the place of its file is the task's own trouble: others go on."""
    (config.output_dir / "taken.wav").mkdir(parents=True)
    worker = worker_with(ScriptedEngine(), config, queue)
    await worker.start_worker()
    bad = await queue.enqueue_single_task(AudioRequest(text="Hello.", output_filename="taken", overwrite=True))
    good = await queue.enqueue_single_task(HELLO)
    result = await queue.wait_for_result(bad, PATIENCE_S)
    assert (result.state, result.error_code) == (JobState.FAILED, ErrorCode.OUTPUT_FAILED)
    assert (await queue.wait_for_result(good, PATIENCE_S)).success
    await worker.stop_worker()


async def test_a_crashed_loop_begins_again(
    config: AudioConfig, queue: QueueService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake in taking tasks costs a pause, not the worker; a queue that does not answer costs not even that."""
    # Long enough to be seen.
    monkeypatch.setattr("audio_api.services.worker_service._FIRST_RESTART_S", 2 * PATIENCE_S)
    lease, failures = queue.backend.lease, [TypeError("a bug"), QueueUnavailableError("down")]

    async def failing(*args: object, **options: object) -> list[Lease]:
        if failures:
            raise failures.pop(0)
        return await lease(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(queue.backend, "lease", failing)
    worker = worker_with(ScriptedEngine(), config, queue)
    await worker.start_worker()
    await until(lambda: worker.get_status().state is WorkerState.RESTARTING)
    pass_time(2 * PATIENCE_S)
    assert (await queue.wait_for_result(await queue.enqueue_single_task(HELLO), PATIENCE_S)).success
    assert worker.get_status().restarts == 1
    await worker.stop_worker()
    assert "worker begins again" in caplog.text
    assert "the queue does not answer" in caplog.text


async def test_a_worker_ends_with_its_queue(config: AudioConfig, caplog: pytest.LogCaptureFixture) -> None:
    """A queue service that is closed under a worker ends it, and says so."""
    caplog.set_level(logging.WARNING)
    queue = QueueService(config=config)
    worker = worker_with(ScriptedEngine(), config, queue)
    await queue.health_check()
    await worker.start_worker()
    await asyncio.sleep(0)
    await queue.close()
    await until(lambda: "closed under its worker" in caplog.text)
    await worker.stop_worker()


async def test_a_task_taken_at_the_last_moment_is_handed_back(
    config: AudioConfig, queue: QueueService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue answers just as the worker is told to stop: the task is free at once."""
    worker = worker_with(ScriptedEngine(), config, queue)
    lease = queue.backend.lease

    async def late(*args: object) -> list[Lease]:
        worker._stopping.set()
        return await lease(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(queue.backend, "lease", late)
    await queue.enqueue_single_task(HELLO)
    await worker.start_worker()
    await worker.stop_worker()
    monkeypatch.undo()
    (again,) = await queue.backend.lease(1, 30)
    assert again.deliveries == 1


async def test_handing_back_does_not_wait_for_a_dead_queue(
    brief: AudioConfig, queue: QueueService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release that gets no answer is given up; the lease runs out by itself."""

    async def never(*_: object) -> bool:
        await asyncio.Event().wait()
        return False

    monkeypatch.setattr("audio_api.services.job_run._HAND_BACK_S", 0.05)
    monkeypatch.setattr(queue.backend, "release", never)
    engine = HangingEngine()
    worker = worker_with(engine, brief, queue)
    task_id = await queue.enqueue_single_task(HELLO)
    await worker.start_worker()
    await engine.begun.wait()
    await worker.stop_worker(grace_s=0)
    monkeypatch.undo()
    assert (await queue.backend.lease(1, 30, wait_s=PATIENCE_S))[0].job_id == task_id


async def test_a_redelivered_task_waits_for_its_older_run(config: AudioConfig, queue: QueueService) -> None:
    """Two runs of one task in one process never meet at its file name: the older one ends first."""
    engine = HangingEngine()
    tts = TTSService(config, engine=engine)
    await queue.enqueue_single_task(NAMED)
    (first,) = await queue.backend.lease(1, 30)
    older = asyncio.create_task(JobRun(first, queue, tts, lambda: config).run())
    await engine.begun.wait()
    await queue.backend.release(first)
    (second,) = await queue.backend.lease(1, 30)
    younger = asyncio.create_task(JobRun(second, queue, tts, lambda: config).run())
    assert await older is Ending.LOST
    engine.go_on.set()
    assert await younger is Ending.SUCCEEDED


async def test_faults_of_the_api_are_no_business_of_the_queue(
    config: AudioConfig, queue: QueueService, gemini_emulator: Emulator
) -> None:
    """What the speech service mends is mended: one delivery, several calls."""
    config = config.model_copy(update={"gemini_base_url": gemini_emulator.url, "num_workers": 1})
    async with WorkerManager(config, lambda: QueueService(config=config)):
        gemini_emulator.fail_next(Fault.UNAVAILABLE_503, Fault.SILENT)
        result = await queue.wait_for_result(await queue.enqueue_single_task(HELLO), PATIENCE_S)
    assert (result.success, result.attempts, result.deliveries) == (True, 3, 1)


BOOK = AudioRequest(text=" ".join(f"This is sentence number {n} of a long book." for n in range(120)))


class PagedEngine(ScriptedEngine):
    """Speaks one piece each time it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = asyncio.Semaphore(0)
        self.calls = 0

    async def synthesize(self, utterance: Utterance) -> SpeechAudio:
        """Wait for the next page."""
        self.calls += 1
        await self.pages.acquire()
        return speech(utterance, usage=TokenUsage(input_tokens=1, output_tokens=1))


async def test_a_long_task_tells_how_far_it_is_and_is_not_cut_off(config: AudioConfig, queue: QueueService) -> None:
    """Each piece is seen in the task's state, and gives the task its whole time again: together they pass its limit."""
    config = config.model_copy(update={"task_timeout": 3 * PATIENCE_S, "piece_concurrency": 1})
    engine = PagedEngine()
    task_id = await queue.enqueue_single_task(BOOK)
    worker = worker_with(engine, config, queue)
    await worker.start_worker()
    for done in (1, 2, 3):
        await until(lambda done=done: engine.calls == done)
        pass_time(2 * PATIENCE_S)  # three of these pass the limit of one call
        engine.pages.release()
        await until(lambda done=done: has_done(queue, task_id, done))
    engine.pages.release()
    result = await queue.wait_for_result(task_id, PATIENCE_S)
    await worker.stop_worker()
    assert (result.success, result.deliveries) == (True, 1)


async def has_done(queue: QueueService, task_id: str, pieces: int) -> bool:
    """Whether the task's state tells of so many pieces."""
    result = await queue.get_task_result(task_id)
    progress = result.progress if result else None
    return progress is not None and progress.pieces_done >= pieces and progress.pieces_total == 4


async def test_a_redelivered_long_task_pays_for_no_piece_twice(config: AudioConfig, queue: QueueService) -> None:
    """A book that is handed back half way goes on from its finished pieces with the next worker."""
    # One piece at a time, or else the pages might be given to others than the first two.
    changes = {"gemini_api_key": "any", "cache_max_bytes": 2**30, "piece_concurrency": 1}
    config = AudioConfig(**{**config.model_dump(exclude_unset=True), **changes})
    engine = PagedEngine()
    task_id = await queue.enqueue_single_task(BOOK)
    first = worker_with(engine, config, queue)
    await first.start_worker()
    for _ in range(2):
        engine.pages.release()
    await until(lambda: has_done(queue, task_id, 2))
    await first.stop_worker(grace_s=0)
    for _ in range(9):
        engine.pages.release()
    second = worker_with(engine, config, queue)
    await second.start_worker()
    result = await queue.wait_for_result(task_id, PATIENCE_S)
    await second.stop_worker()
    assert (result.success, result.attempts, result.cached_pieces) == (True, 2, 2)


def test_a_loop_that_ends_under_a_running_worker_is_warned_about(
    config: AudioConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """A program that ends without ``stop_worker`` leaves one warning a worker; one that stops it leaves none."""

    async def work(*, stop: bool) -> None:
        worker = WorkerService(config, QueueService(config=config), TTSService(config, engine=ScriptedEngine()))
        await worker.start_worker("worker-7")
        if stop:
            await worker.stop_worker()

    asyncio.run(work(stop=True))
    assert "event loop" not in caplog.text
    asyncio.run(work(stop=False))
    (warning,) = [record for record in caplog.records if "the event loop ends" in record.message]
    assert (warning.levelname, vars(warning)["worker_id"]) == ("WARNING", "worker-7")
