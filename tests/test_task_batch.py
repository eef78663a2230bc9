"""Queued tasks of the tier batch: one job at Google's for all tasks of a batch, on whichever machines."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from own_time import until
from sound import assert_audible
from test_gemini_batch import TEXTS, Setting, requests_of, tokens

from audio_api import (
    AudioConfig,
    AudioRequest,
    BatchAudioRequest,
    BatchAudioResponse,
    ErrorCode,
    QueueService,
    TTSService,
    WorkerService,
)
from audio_api.emulator import Emulator, Fault
from audio_api.emulator.batches import BatchRules
from audio_api.emulator.control import ReceivedCall
from audio_api.errors import WorkerServiceError
from audio_api.queues.jobs import Lease
from audio_api.retry import Clock
from audio_api.services import batch_jobs, job_run, task_batch
from audio_api.services.batch_results import BatchResults
from audio_api.services.task_batch import TaskBatch

LIMIT_S = 60.0


@pytest.fixture
def setting(gemini_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    """Tasks look at their jobs again at once."""
    monkeypatch.setattr(task_batch, "_LEAST_WAIT_S", 0.05)
    monkeypatch.setattr(task_batch, "_MOST_WAIT_S", 0.05)
    monkeypatch.setattr(job_run, "_LOOK_AGAIN_S", 0.05)
    return Setting(gemini_emulator, tmp_path)


def machine(setting: Setting, number: int, queue_name: str, **changes: object) -> AudioConfig:
    """The settings of a machine with a folder of its own."""
    return setting.config(queue_name=queue_name, output_dir=setting.folder / f"machine-{number}", **changes)


@asynccontextmanager
async def working(*machines: AudioConfig, clock: Clock | None = None) -> AsyncIterator[None]:
    """A worker on each machine."""
    async with AsyncExitStack() as stack:
        for config in machines:
            handle = await stack.enter_async_context(QueueService(config=config))
            tts = await stack.enter_async_context(TTSService(config, clock=clock)) if clock else None
            worker = WorkerService(config, handle, tts)
            await worker.start_worker()
            stack.push_async_callback(worker.stop_worker)
        yield


async def made(
    setting: Setting, requests: list[AudioRequest], machines: int = 1, clock: Clock | None = None, **changes: object
) -> BatchAudioResponse:
    """What becomes of a queued batch."""
    name = f"test-{uuid4().hex}"
    configs = [machine(setting, number, name, **changes) for number in range(machines)]
    async with QueueService(config=configs[0]) as queue, working(*configs, clock=clock):
        batch_id = await queue.enqueue_batch_tasks(BatchAudioRequest(requests=tuple(requests)), tier="batch")
        return await queue.wait_for_batch(batch_id, timeout=LIMIT_S)


@asynccontextmanager
async def taken(
    setting: Setting, queue: QueueService, config: AudioConfig, **options: object
) -> AsyncIterator[TaskBatch]:
    """The next task of a queue, in the hands of a worker that the test plays."""
    [lease] = await queue.backend.lease(1, LIMIT_S)
    async with TTSService(config, clock=setting.clock) as tts, tts.means.calls() as (engine, calls):
        yield TaskBatch(queue.backend, config.queue_name, lease, tts.means, engine, calls)
    await queue.backend.release(lease)


async def test_the_tasks_of_a_batch_are_one_job_and_other_tasks_are_made_meanwhile(setting: Setting) -> None:
    """Each task ends for itself, at half the price; the bill is that of the job."""
    config = machine(setting, 0, f"test-{uuid4().hex}", num_workers=1, worker_concurrency=1)
    setting.emulator.batch = BatchRules(running_s=0.5)
    async with QueueService(config=config) as queue:
        requests = [*requests_of(TEXTS[:3]), AudioRequest(text=TEXTS[0], output_filename="again")]
        batch_id = await queue.enqueue_batch_tasks(BatchAudioRequest(requests=tuple(requests)), tier="batch")
        other = await queue.enqueue_single_task(AudioRequest(text=TEXTS[3]))
        async with working(config):
            assert (await queue.wait_for_result(other, timeout=LIMIT_S)).service_tier == "standard"
            finished: list[int] = []
            done = await queue.wait_for_batch(batch_id, LIMIT_S, lambda count, _: finished.append(count))
    assert finished[-1] == done.completed == 4
    assert [Path(each.file_path or "").name for each in done.results] == ["n0.wav", "n1.wav", "n2.wav", "again.wav"]
    for response in done.results:
        assert_audible(response.file_path)
    assert [response.service_tier for response in done.results[:3]] == ["batch"] * 3
    assert tokens(done.results) == setting.billed
    assert setting.spoken == [TEXTS[3]]
    assert (setting.creates, len(setting.emulator.batches.jobs)) == (1, 1)


async def test_machines_share_the_job_of_a_batch(setting: Setting) -> None:
    """Only one creates it; each brings the results to its own folder, and no token is counted twice."""
    setting.emulator.batch = BatchRules(running_s=0.3)
    done = await made(setting, requests_of([*TEXTS, *TEXTS[:3]]), machines=3, worker_concurrency=1)
    assert done.completed == 8
    assert (setting.creates, setting.spoken) == (1, [])
    assert tokens(done.results) == setting.billed
    assert len({Path(response.file_path or "").parent for response in done.results}) > 1


async def test_each_model_of_a_batch_is_a_job(setting: Setting) -> None:
    """Since a job speaks with one model."""
    requests = [AudioRequest(text=TEXTS[0]), AudioRequest(text=TEXTS[0], model="gemini-3.8-flash-lite-tts")]
    done = await made(setting, requests)
    assert [response.model for response in done.results] == ["gemini-3.8-flash-tts", "gemini-3.8-flash-lite-tts"]
    assert setting.creates == 2


async def test_a_single_task_is_a_batch_of_its_own(setting: Setting) -> None:
    """As is each of two that are enqueued one after the other."""
    config = machine(setting, 0, f"test-{uuid4().hex}")
    async with QueueService(config=config) as queue:
        request = AudioRequest(text=TEXTS[0], service_tier="batch", output_filename="a")
        tasks = [await queue.enqueue_single_task(request)]
        other = request.model_copy(update={"text": TEXTS[1], "output_filename": "b"})
        tasks.append(await queue.enqueue_single_task(other))
        async with working(config):
            results = [await queue.wait_for_result(task, timeout=LIMIT_S) for task in tasks]
    assert [result.service_tier for result in results] == ["batch"] * 2
    assert setting.creates == 2


async def test_a_task_that_cannot_be_fulfilled_fails_alone(setting: Setting) -> None:
    """It is no item of the job; those of another tier are none, either."""
    (setting.folder / "machine-0").mkdir()
    (setting.folder / "machine-0" / "taken.wav").touch()
    config = machine(setting, 0, f"test-{uuid4().hex}")
    requests = (
        AudioRequest(text=TEXTS[0], output_filename="taken", service_tier="batch"),
        AudioRequest(text=TEXTS[1], service_tier="standard"),
        AudioRequest(text=TEXTS[2], service_tier="batch"),
    )
    async with QueueService(config=config) as queue:
        batch_id = await queue.enqueue_batch_tasks(BatchAudioRequest(requests=requests))
        async with working(config):
            done = await queue.wait_for_batch(batch_id, timeout=LIMIT_S)
    assert done.results[0].error_code is ErrorCode.OUTPUT_EXISTS
    assert [response.service_tier for response in done.results[1:]] == ["standard", "batch"]
    assert [item.text for job in setting.emulator.batches.jobs for item in job.items] == [TEXTS[2]]


async def test_a_bad_item_costs_its_own_task_an_ordinary_call(setting: Setting) -> None:
    """Or fails that one task, when there is to be none."""
    setting.emulator.batch = BatchRules(faults=lambda _, text: Fault.BAD_ARGUMENT if text == TEXTS[1] else None)
    done = await made(setting, requests_of(TEXTS[:3]))
    assert [response.service_tier for response in done.results] == ["batch", "standard", "batch"]
    again = await made(setting, requests_of(TEXTS[1:3], cache=False, overwrite=True), batch_fallback=False)
    assert [response.success for response in again.results] == [False, True]
    assert again.results[0].error_code is ErrorCode.API_ERROR
    assert setting.spoken == [TEXTS[1]]


async def test_a_job_that_hangs_leaves_its_tasks_to_ordinary_calls(setting: Setting) -> None:
    """It is cancelled at the deadline."""
    setting.emulator.batch = BatchRules(end="STUCK")
    making = asyncio.create_task(made(setting, requests_of(TEXTS[:2]), clock=setting.clock))
    # From its first look at the job on, the worker knows when that was created.
    await until(lambda: any(call.path.startswith("/v1beta/batches/") for call in setting.emulator.calls))
    setting.now_s += AudioConfig().batch_deadline + 1
    done = await making
    assert done.completed == 2
    assert setting.emulator.batches.jobs[0].cancelled
    assert sorted(setting.spoken) == TEXTS[:2]


async def test_a_job_that_is_never_taken_leaves_its_tasks_to_ordinary_calls(setting: Setting) -> None:
    """The account's limit is reached, until the deadline has passed."""
    setting.emulator.batch = BatchRules(most_jobs=0)
    done = await made(setting, requests_of(TEXTS[:2]), batch_deadline=0.2)
    assert done.completed == 2
    assert setting.emulator.batches.jobs == []


async def test_when_the_first_task_is_cancelled_the_next_one_creates_the_job(setting: Setting) -> None:
    """Nothing waits for a task that will not come."""
    config = machine(setting, 0, f"test-{uuid4().hex}")
    async with QueueService(config=config) as queue:
        batch = BatchAudioRequest(requests=tuple(requests_of(TEXTS[:3])))
        batch_id = await queue.enqueue_batch_tasks(batch, tier="batch")
        assert await queue.cancel_task(f"{batch_id}-0")
        async with working(config):
            done = await queue.wait_for_batch(batch_id, timeout=LIMIT_S)
    assert (done.completed, done.failed, setting.creates, setting.spoken) == (2, 1, 1, [])
    assert [item.text for item in setting.emulator.batches.jobs[0].items] == TEXTS[1:3]


@pytest.mark.parametrize("arrived", [True, False])
async def test_another_machine_that_takes_over_creates_nothing_twice(setting: Setting, arrived: bool) -> None:
    """The queue knows that a creation was asked for: the job is looked for, and asked for again after a minute."""
    fault = Fault.RESET_BEFORE_BODY if arrived else Fault.UNAVAILABLE_503

    def lost(call: ReceivedCall) -> Fault | None:
        return fault if call.action == "batchGenerateContent" else None

    name = f"test-{uuid4().hex}"
    here, there = machine(setting, 0, name), machine(setting, 1, name)
    async with QueueService(config=here) as queue:
        batch = BatchAudioRequest(requests=tuple(requests_of(TEXTS[:2])))
        await queue.enqueue_batch_tasks(batch, tier="batch")
        setting.emulator.faults = lost
        async with taken(setting, queue, here) as first:
            assert isinstance(await first.look(), float)
        setting.emulator.faults = None
        began_s = setting.now_s
        async with taken(setting, queue, there) as second:
            while isinstance(results := await second.look(), float):
                await setting.clock.sleep(1.0)
    assert isinstance(results, BatchResults)
    assert len(setting.emulator.batches.jobs) == 1
    assert setting.creates == (1 if arrived else 2)
    assert (setting.now_s - began_s >= 60) is not arrived


async def test_another_machine_that_takes_over_makes_the_same_halves(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that is too large is split by its content: no item is asked for twice."""
    monkeypatch.setattr(batch_jobs, "_LEAST_SPLIT_BYTES", 2_000)
    texts = [f"{number}. {TEXTS[0]}" for number in range(16)]
    setting.emulator.batch = BatchRules(most_tokens=300, running_s=1.0)
    name = f"test-{uuid4().hex}"
    here, there = machine(setting, 0, name), machine(setting, 1, name)
    async with QueueService(config=here) as queue:
        await queue.enqueue_batch_tasks(BatchAudioRequest(requests=tuple(requests_of(texts))), tier="batch")
        async with taken(setting, queue, here) as first:
            while not setting.emulator.batches.jobs:
                await first.look()
                await setting.clock.sleep(61.0)
        async with taken(setting, queue, there) as second:
            while isinstance(await second.look(), float):
                await setting.clock.sleep(61.0)
    items = [item.text for job in setting.emulator.batches.jobs for item in job.items]
    assert len(setting.emulator.batches.jobs) >= 2
    assert sorted(items) == sorted(texts)


def stop_after_its_note(
    queue: QueueService, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[Lease], Awaitable[None]]
) -> None:
    """Let a worker stand still once, between its note that a job is asked for and the creation."""
    tell = queue.backend.progress

    async def told_and_stopped(lease: Lease, progress: Mapping[str, Any]) -> bool:
        is_told = await tell(lease, progress)
        if progress.get("batch_asked_at"):
            monkeypatch.setattr(queue.backend, "progress", tell)
            await meanwhile(lease)
        return is_told

    monkeypatch.setattr(queue.backend, "progress", told_and_stopped)


async def test_a_worker_that_stood_still_creates_no_second_job(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped between its note and the creation, until another machine has taken over and created the job."""
    name = f"test-{uuid4().hex}"
    here, there = machine(setting, 0, name), machine(setting, 1, name)
    async with QueueService(config=here) as queue:
        batch = BatchAudioRequest(requests=tuple(requests_of(TEXTS[:2])))
        await queue.enqueue_batch_tasks(batch, tier="batch")

        async def another_takes_over(lease: Lease) -> None:
            # The lease runs out.
            await queue.backend.release(lease)
            async with taken(setting, queue, there) as second:
                while not setting.emulator.batches.jobs:
                    await second.look()
                    await setting.clock.sleep(5.0)

        async with taken(setting, queue, here) as first:
            stop_after_its_note(queue, monkeypatch, another_takes_over)
            with pytest.raises(WorkerServiceError):
                await first.look()
    assert (setting.creates, len(setting.emulator.batches.jobs)) == (1, 1)


async def test_a_worker_that_stood_still_alone_creates_its_job_at_a_later_look(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It still has its lease, looks for the job, and creates it a minute after its note."""
    config = machine(setting, 0, f"test-{uuid4().hex}")
    async with QueueService(config=config) as queue:
        batch = BatchAudioRequest(requests=tuple(requests_of(TEXTS[:2])))
        await queue.enqueue_batch_tasks(batch, tier="batch")

        async def time_passes(_: Lease) -> None:
            setting.now_s += 11.0

        async with taken(setting, queue, config) as task:
            stop_after_its_note(queue, monkeypatch, time_passes)
            began_s = setting.now_s
            assert isinstance(await task.look(), float)
            assert setting.creates == 0
            while not setting.emulator.batches.jobs:
                await setting.clock.sleep(1.0)
                await task.look()
    assert setting.now_s - began_s >= 60
    assert setting.creates == 1


async def test_who_lost_the_lease_creates_no_job(setting: Setting) -> None:
    """The queue is told before the creation, and says no."""
    config = machine(setting, 0, f"test-{uuid4().hex}")
    async with QueueService(config=config) as queue:
        batch = BatchAudioRequest(requests=tuple(requests_of(TEXTS[:2])))
        batch_id = await queue.enqueue_batch_tasks(batch, tier="batch")
        async with taken(setting, queue, config) as first:
            await queue.cancel_task(f"{batch_id}-0")
            with pytest.raises(WorkerServiceError):
                await first.look()
    assert setting.creates == 0


async def test_results_of_long_ago_are_removed(setting: Setting) -> None:
    """A machine keeps those that tasks have looked at in the last days."""
    old = setting.folder / "machine-0" / ".batches" / ".tasks" / "old"
    old.mkdir(parents=True)
    for name in ("batch.json", "part-0.results"):
        (old / name).touch()
    os.utime(old / "batch.json", (1_000, 1_000))
    assert (await made(setting, requests_of(TEXTS[:1]))).completed == 1
    assert not old.exists()
    assert len(list(old.parent.iterdir())) == 1
