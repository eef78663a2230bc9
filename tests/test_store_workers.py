"""Workers that share nothing but a queue and a store: one sound for each task, whatever dies or is away."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from own_time import PATIENCE_S, until
from store_servers import BUCKET, Loss, LossyProxy, StoreServer, enter, lossy_proxy
from worker_parts import READY, Site, site

from audio_api.config import AudioConfig
from audio_api.emulator import Emulator
from audio_api.errors import ConfigurationError
from audio_api.models.audio_request import AudioRequest
from audio_api.queues.jobs import JobState
from audio_api.services.queue_service import QueueService
from audio_api.services.worker_service import WorkerService, WorkerState


@pytest.fixture
def settings(gemini_emulator: Emulator, prefix: str, tmp_path: Path) -> dict[str, Any]:
    """Settings of workers that put into the bucket."""
    return {
        "gemini_api_key": "any",
        "gemini_base_url": gemini_emulator.url,
        "queue_name": f"test-{secrets.token_hex(6)}",
        "output_dir": tmp_path / "work",
        "output_url": f"s3://{BUCKET}/{prefix}",
        "store_timeout": 10,
        "worker_grace": PATIENCE_S,
        "worker_concurrency": 2,
    }


@pytest.fixture
async def queue(settings: dict[str, Any]) -> AsyncIterator[QueueService]:
    """A queue in memory, as its producer sees it."""
    async with QueueService(config=AudioConfig(**settings)) as service:
        yield service


@pytest.fixture
async def worker(queue: QueueService) -> AsyncIterator[WorkerService]:
    """A worker that was not started yet."""
    made = WorkerService(queue.config, queue)
    yield made
    await made.stop_worker(0)


def texts(emulator: Emulator) -> list[str]:
    """What was spoken, a call each."""
    return sorted(call.text for call in emulator.calls if call.text)


async def test_a_client_elsewhere_gets_the_sound(
    queue: QueueService, worker: WorkerService, ministack: StoreServer, prefix: str, proxy: LossyProxy
) -> None:
    """The result names the object, which says whose it is; its bytes come without a common disk."""
    await worker.start_worker()
    task_id = await queue.enqueue_single_task(AudioRequest(text="Hello.", output_filename="hello"))
    result = (await queue.wait_for_result(task_id, PATIENCE_S)).raise_for_error()
    assert (result.url, result.file_path) == (f"s3://{BUCKET}/{prefix}/hello.wav", None)
    assert ministack.labels(f"{prefix}/hello.wav")["task"] == task_id
    content = b"".join([block async for block in queue.open_result(task_id)])
    assert content == ministack.content(f"{prefix}/hello.wav")


async def test_what_was_paid_for_waits_for_the_store(
    queue: QueueService, worker: WorkerService, proxy: LossyProxy, gemini_emulator: Emulator
) -> None:
    """While the store is down a worker keeps its sounds and takes no further tasks; then it delivers without a call."""
    await worker.start_worker()
    down = asyncio.Event()
    proxy.plan = lambda method, _: Loss.UNAVAILABLE if method == "PUT" and down.is_set() else None
    first = await queue.enqueue_single_task(AudioRequest(text="Number 0."))
    await queue.wait_for_result(first, PATIENCE_S)
    down.set()
    ids = await queue.enqueue_many([AudioRequest(text=f"Number {number}.") for number in range(1, 3)])
    await until(lambda: worker.get_status().state is WorkerState.BLOCKED)
    ids += await queue.enqueue_many([AudioRequest(text=f"Number {number}.") for number in range(3, 6)])
    assert "503" in (worker.get_status().problem or "")
    await until(lambda: len(texts(gemini_emulator)) == 3)
    proxy.seen.clear()
    await until(lambda: proxy.methods("PUT", "marker") >= 3)
    assert len(texts(gemini_emulator)) == 3
    assert (await queue.get_queue_stats()).leased == 2
    down.clear()
    results = [await queue.wait_for_result(task_id, PATIENCE_S) for task_id in ids]
    assert all(result.success and result.url for result in results)
    assert texts(gemini_emulator) == [f"Number {number}." for number in range(6)]
    assert worker.get_status().problem is None


async def test_a_store_that_is_down_at_first_costs_no_call(
    queue: QueueService, worker: WorkerService, proxy: LossyProxy, gemini_emulator: Emulator
) -> None:
    """A worker asks its store before it takes the first task."""
    proxy.plan = lambda *_: Loss.CUT
    await worker.start_worker()
    task_id = await queue.enqueue_single_task(AudioRequest(text="Hello."))
    await until(lambda: worker.get_status().state is WorkerState.BLOCKED)
    assert (await queue.get_task_result(task_id)).state is JobState.QUEUED  # type: ignore[union-attr]
    assert texts(gemini_emulator) == []
    proxy.plan = lambda *_: None
    assert (await queue.wait_for_result(task_id, PATIENCE_S)).success


async def test_a_worker_that_stops_while_the_store_is_down_hands_back(
    queue: QueueService, worker: WorkerService, proxy: LossyProxy, gemini_emulator: Emulator
) -> None:
    """Its sound is in the cache of this machine, and the next worker here delivers it without a call."""
    await worker.start_worker()
    await queue.wait_for_result(await queue.enqueue_single_task(AudioRequest(text="First.")), PATIENCE_S)
    proxy.plan = lambda method, path: Loss.UNAVAILABLE if method == "PUT" else None
    task_id = await queue.enqueue_single_task(AudioRequest(text="Hello."))
    await until(lambda: worker.get_status().state is WorkerState.BLOCKED)
    await worker.stop_worker(0)
    assert (await queue.get_task_result(task_id)).state is JobState.QUEUED  # type: ignore[union-attr]
    proxy.plan = lambda *_: None
    another = WorkerService(queue.config, queue)
    await another.start_worker()
    result = await queue.wait_for_result(task_id, PATIENCE_S)
    await another.stop_worker(0)
    assert (result.success, result.attempts, result.cached_pieces) == (True, 0, 1)
    assert texts(gemini_emulator) == ["First.", "Hello."]


async def test_a_sound_that_the_store_does_not_want_blocks_no_other(
    queue: QueueService, worker: WorkerService, proxy: LossyProxy, gemini_emulator: Emulator
) -> None:
    """After three refusals by a store that takes its marker the job is put back, and the others go on."""
    proxy.plan = lambda method, path: Loss.FORBIDDEN if method == "PUT" and "unwanted" in path else None
    await worker.start_worker()
    unwanted = await queue.enqueue_single_task(AudioRequest(text="Unwanted.", output_filename="unwanted"))
    await until(lambda: proxy.methods("PUT", "unwanted") == 3)
    good = await queue.enqueue_single_task(AudioRequest(text="Good."))
    assert (await queue.wait_for_result(good, PATIENCE_S)).success
    assert (await queue.get_task_result(unwanted)).state is not JobState.SUCCEEDED  # type: ignore[union-attr]
    assert texts(gemini_emulator) == ["Good.", "Unwanted."]


async def test_a_cancelled_task_is_not_put(
    queue: QueueService, worker: WorkerService, proxy: LossyProxy, ministack: StoreServer, prefix: str
) -> None:
    """A task that is cancelled before its sound is put leaves nothing in the store."""
    await worker.start_worker()
    first = await queue.enqueue_single_task(AudioRequest(text="Hello."))
    await queue.wait_for_result(first, PATIENCE_S)
    proxy.plan = lambda method, path: Loss.UNAVAILABLE if method == "PUT" else None
    task_id = await queue.enqueue_single_task(AudioRequest(text="Unwanted.", output_filename="unwanted"))
    await until(lambda: worker.get_status().state is WorkerState.BLOCKED)
    assert await queue.cancel_task(task_id)
    proxy.plan = lambda *_: None
    await until(lambda: worker.get_status().current_tasks == ())
    assert f"{prefix}/unwanted.wav" not in ministack.keys(prefix)


async def test_a_worker_without_the_extra_does_not_start(
    queue: QueueService, worker: WorkerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waiting does not mend is told at the start."""
    import sys

    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ConfigurationError, match=r"audio-api\[store\]"):
        await worker.start_worker()


# Processes on machines of their own


@pytest.fixture
def machines(
    tmp_path: Path, redis_url: str, gemini_emulator: Emulator, proxy: LossyProxy, prefix: str
) -> Iterator[Site]:
    """Worker processes that reach the store through the proxy; each call to ``start_machine`` gives one a disk."""
    stores = {"output_url": f"s3://{BUCKET}/{prefix}", "store_timeout": PATIENCE_S}
    with site(tmp_path, redis_url, gemini_emulator, lease_time=3.0, worker_concurrency=1, **stores) as made:
        yield made


async def start_machine(machines: Site) -> Any:
    """A worker process with a disk of its own, ready for tasks."""
    number = len(machines.processes)
    disk = machines.folder / f"disk-{number}"
    code = f"import os; os.environ['OUTPUT_DIR'] = {str(disk)!r}\nfrom audio_api.cli import main\nmain(['worker'])"
    (process,) = machines.start(1, ["-c", code])
    await until(lambda: READY in (machines.folder / f"worker-{number}.log").read_text())
    return process


REQUEST = AudioRequest(text="Hello from a machine.", output_filename="hello", subtitles=())


async def test_the_next_worker_takes_over_what_a_killed_one_has_put(
    machines: Site, proxy: LossyProxy, gemini_emulator: Emulator, ministack: StoreServer, prefix: str
) -> None:
    """A worker dies between the store's answer and the queue's: another one tells the result, without a call."""
    proxy.plan = lambda method, path: Loss.HELD_ANSWER if method == "PUT" and "hello" in path else None
    first = await start_machine(machines)
    async with QueueService(config=machines.config) as queue:
        task_id = await queue.enqueue_single_task(REQUEST)
        await until(proxy.waiting.is_set)
        first.kill()
        first.wait()
        content = ministack.content(f"{prefix}/hello.wav")
        proxy.plan = lambda *_: None
        proxy.held.set()
        await start_machine(machines)
        result = (await queue.wait_for_result(task_id, PATIENCE_S)).raise_for_error()
    assert (result.url, result.deliveries) == (f"s3://{BUCKET}/{prefix}/hello.wav", 2)
    assert "earlier worker" in result.warnings[0]
    assert texts(gemini_emulator) == [REQUEST.text]
    assert ministack.content(f"{prefix}/hello.wav") == content
    assert [key for key in ministack.keys(prefix) if "marker" not in key] == [f"{prefix}/hello.wav"]


async def test_a_worker_that_was_frozen_changes_nothing(
    machines: Site,
    proxy: LossyProxy,
    gemini_emulator: Emulator,
    ministack: StoreServer,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A request that reaches the store when another worker has the task, or has done it, finds its place taken."""
    held: list[str] = []

    def hold_first(method: str, path: str) -> Loss | None:
        if method == "PUT" and "hello" in path and not held:
            held.append(path)
            proxy.held.clear()
        return None

    proxy.plan = hold_first
    first = await start_machine(machines)
    async with QueueService(config=machines.config) as queue:
        task_id = await queue.enqueue_single_task(REQUEST)
        await until(proxy.waiting.is_set)
        first.send_signal(signal.SIGSTOP)
        with lossy_proxy(ministack.port) as other_way:
            enter(ministack, monkeypatch, other_way.port)
            await start_machine(machines)
            result = (await queue.wait_for_result(task_id, PATIENCE_S)).raise_for_error()
        content = ministack.content(f"{prefix}/hello.wav")
        proxy.held.set()
        first.send_signal(signal.SIGCONT)
        await until(lambda: any("hello" in path for method, path in proxy.answered if method == "PUT"))
        again = await queue.get_task_result(task_id)
    assert again == result
    assert ministack.content(f"{prefix}/hello.wav") == content
    assert len(texts(gemini_emulator)) == 2
