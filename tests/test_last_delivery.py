"""A task that was lost before has its process to itself: if it kills it, it takes no other task along."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from own_time import PATIENCE_S
from scripted import ScriptedEngine

from audio_api.config import AudioConfig
from audio_api.engines.base import SpeechAudio, Utterance
from audio_api.errors import QueueServiceError
from audio_api.models.audio_request import AudioRequest
from audio_api.queues.jobs import JobState
from audio_api.services.job_run import JobsInHand
from audio_api.services.queue_service import QueueService
from audio_api.services.tts_service import TTSService
from audio_api.services.worker_service import WorkerService


class Stage(ScriptedEngine):
    """Speaks a text when it is told to, and knows which ones are being spoken."""

    def __init__(self) -> None:
        super().__init__()
        self.speaking: set[str] = set()
        self.go: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def synthesize(self, utterance: Utterance) -> SpeechAudio:
        """Wait to be told."""
        self.speaking.add(utterance.text)
        try:
            await self.go[utterance.text].wait()
        finally:
            self.speaking.discard(utterance.text)
        return await super().synthesize(utterance)

    async def until(self, *texts: str) -> None:
        """Wait until exactly these are being spoken."""
        async with asyncio.timeout(PATIENCE_S):
            while self.speaking != set(texts):  # noqa: ASYNC110 -- workers do not announce it
                await asyncio.sleep(0.005)


@pytest.fixture
def config(tmp_path: Path) -> AudioConfig:
    """A queue of its own, without a cache."""
    name = f"test-{secrets.token_hex(6)}"
    return AudioConfig(gemini_api_key="any", queue_name=name, output_dir=tmp_path / "out", cache_max_bytes=0)


@pytest.fixture
async def crew(config: AudioConfig, queue: QueueService) -> AsyncIterator[tuple[Stage, list[WorkerService]]]:
    """Two workers of one process, and what they speak with."""
    stage = Stage()
    tts = TTSService(config, engine=stage)
    workers = [WorkerService(config, queue, tts) for _ in range(2)]
    yield stage, workers
    for worker in workers:
        await worker.stop_worker(grace_s=0)


Crew = tuple[Stage, list[WorkerService]]
LAST = "The last chance of one."
FIRST, SECOND = "The first of them all.", "Another one behind."


async def lose(queue: QueueService, times: int = 2) -> str:
    """A task that was delivered so many times and never finished."""
    task_id = await queue.enqueue_single_task(AudioRequest(text=LAST, priority=9))
    for _ in range(times):
        (lease,) = await queue.backend.lease(1, 30)
        await queue.backend.release(lease, count_delivery=True)
    return task_id


@pytest.mark.parametrize("times", [1, 2])
async def test_it_waits_for_the_others_and_they_for_it(times: int, queue: QueueService, crew: Crew) -> None:
    """What runs is finished first, what comes waits, and no busy process ever holds it."""
    stage, workers = crew
    await queue.enqueue_single_task(AudioRequest(text=FIRST))
    await workers[0].start_worker("one")
    await stage.until(FIRST)
    last = await lose(queue, times)
    await workers[1].start_worker("two")
    behind = await queue.enqueue_single_task(AudioRequest(text=SECOND))
    lost_at = (await queue.get_task_result(last)).started_at
    async with asyncio.timeout(PATIENCE_S):
        while not JobsInHand.of(queue).alone.locked():  # noqa: ASYNC110 -- nothing announces who waits
            await asyncio.sleep(0.005)
    assert stage.speaking == {FIRST}
    status = await queue.get_task_result(last)
    assert (status.state, status.started_at) == (JobState.QUEUED, lost_at)
    stage.go[FIRST].set()
    await stage.until(LAST)
    assert (await queue.get_queue_stats()).waiting == {0: 1}
    stage.go[LAST].set()
    stage.go[SECOND].set()
    results = [await queue.wait_for_result(task_id, PATIENCE_S) for task_id in (last, behind)]
    assert [(result.success, result.deliveries) for result in results] == [(True, times + 1), (True, 1)]


async def test_its_process_asks_for_no_other_task(queue: QueueService, crew: Crew) -> None:
    """A worker that waits for tasks as another one of its process turns to it asks again only afterwards."""
    stage, workers = crew
    for number, worker in enumerate(workers):
        await worker.start_worker(str(number))
    in_hand = JobsInHand.of(queue)
    async with asyncio.timeout(PATIENCE_S):
        while len(in_hand.asking) < 2:  # noqa: ASYNC110 -- nothing announces a question
            await asyncio.sleep(0.005)
    last = await lose(queue)
    await stage.until(LAST)
    assert not in_hand.asking
    behind = await queue.enqueue_single_task(AudioRequest(text=SECOND))
    stage.go[LAST].set()
    stage.go[SECOND].set()
    results = [await queue.wait_for_result(task_id, PATIENCE_S) for task_id in (last, behind)]
    assert [(result.success, result.deliveries) for result in results] == [(True, 3), (True, 1)]


@pytest.mark.parametrize("when", ["before", "during"])
async def test_stopping_does_not_wait_for_its_turn(when: str, queue: QueueService, crew: Crew) -> None:
    """Workers that are told to stop, while the task waits to be alone or is alone, hand everything back."""
    stage, workers = crew
    await queue.enqueue_single_task(AudioRequest(text=FIRST))
    await workers[0].start_worker("one")
    await stage.until(FIRST)
    last = await lose(queue)
    await workers[1].start_worker("two")
    if when == "during":
        stage.go[FIRST].set()
        await stage.until(LAST)
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(worker.stop_worker(grace_s=0) for worker in workers))
    result = await queue.get_task_result(last)
    assert result
    assert (result.state, result.deliveries) == (JobState.QUEUED, 2)


async def test_a_stop_does_not_wait_for_a_queue_that_is_away(
    queue: QueueService, crew: Crew, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It went away while the task ran: the worker ends, the lease runs out by itself."""
    stage, (worker, _) = crew
    begun = asyncio.Event()

    async def never(*_: object, **__: object) -> bool:
        begun.set()
        await asyncio.Event().wait()
        return False

    await queue.enqueue_single_task(AudioRequest(text=FIRST))
    for _ in range(2):
        (lease,) = await queue.backend.lease(1, 30)
        await queue.backend.release(lease, count_delivery=True)
    monkeypatch.setattr("audio_api.services.job_run._HAND_BACK_S", 0.05)
    monkeypatch.setattr(queue.backend, "release", never)
    await worker.start_worker()
    await stage.until(FIRST)
    async with asyncio.timeout(PATIENCE_S):
        await worker.stop_worker(grace_s=0)
    assert begun.is_set()
    assert "goes back when its lease ends" in caplog.text


async def test_a_task_that_cannot_be_settled_costs_only_itself(
    queue: QueueService, crew: Crew, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The queue refuses whatever is said about it: the worker says so and goes on."""
    caplog.set_level(logging.ERROR)
    stage, (worker, _) = crew

    async def refuse(*_: object, **__: object) -> bool:
        raise QueueServiceError("no")

    with monkeypatch.context() as patch:
        patch.setattr(queue.backend, "finish", refuse)
        patch.setattr(queue.backend, "release", refuse)
        stage.go[FIRST].set()
        await queue.enqueue_single_task(AudioRequest(text=FIRST))
        await worker.start_worker()
        async with asyncio.timeout(PATIENCE_S):
            while "could not be settled" not in caplog.text:  # noqa: ASYNC110 -- a log announces nothing
                await asyncio.sleep(0.005)
    stage.go[SECOND].set()
    assert (await queue.wait_for_result(await queue.enqueue_single_task(AudioRequest(text=SECOND)), PATIENCE_S)).success
