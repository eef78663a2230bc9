"""The client reads the sound of a task wherever it is, and nothing else."""

from __future__ import annotations

import asyncio
import gc
import os
import urllib.request
from asyncio import to_thread
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from kit import read
from own_time import until
from store_servers import BUCKET, StoreServer, enter

from audio_api.config import AudioConfig
from audio_api.errors import ConfigurationError, ErrorCode, QueueServiceError, StoreError, TaskNotFoundError
from audio_api.models.audio_request import AudioRequest, AudioResponse
from audio_api.services.queue_service import QueueService
from audio_api.stores.by_url import store_at

SOUND = os.urandom(2_500_000)


async def finished(queue: QueueService, **response: Any) -> str:
    """The id of a task that has ended so."""
    task_id = await queue.enqueue_single_task(AudioRequest(text="Hello."))
    assert await queue.dequeue_task()
    assert await queue.update_task_result(task_id, AudioResponse(message="", **{"success": True, **response}))
    return task_id


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[QueueService]:
    """A queue whose files are on this machine."""
    config = AudioConfig(queue_name=os.urandom(6).hex(), output_dir=tmp_path / "out")
    async with QueueService(config=config) as service:
        yield service


async def test_a_sound_in_a_bucket_is_read_by_any_client(
    ministack: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client needs the same ``OUTPUT_URL``; it gets the sound, and links to it."""
    enter(ministack, monkeypatch)
    url = f"s3://{BUCKET}/{os.urandom(6).hex()}"
    store = store_at(url, 5)
    await store.put("hello.wav", SOUND, "audio/wav")
    config = AudioConfig(queue_name=os.urandom(6).hex(), output_url=url)
    async with QueueService(config=config) as queue:
        task_id = await finished(queue, url=store.url.of("hello.wav"))
        assert await read(queue.open_result(task_id)) == SOUND
        with await to_thread(urllib.request.urlopen, await queue.audio_url(task_id, 60)) as answer:
            assert answer.read() == SOUND
        with pytest.raises(ValueError, match="has no srt subtitles"):
            await queue.audio_url(task_id, 60, "srt")
        await store.delete("hello.wav")
        with pytest.raises(StoreError, match="deleted") as caught:
            await read(queue.open_result(task_id))
    assert caught.value.code is ErrorCode.STORE_OBJECT_MISSING


async def test_a_sound_on_this_machine_is_read(queue: QueueService, tmp_path: Path) -> None:
    """Without a store the file itself is read; a link to it there is none."""
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "hello.wav"
    path.write_bytes(SOUND)
    task_id = await finished(queue, file_path=str(path))
    assert await read(queue.open_result(task_id)) == SOUND
    with pytest.raises(ConfigurationError, match="OUTPUT_URL"):
        await queue.audio_url(task_id)


async def test_a_sound_on_another_machine_is_told(queue: QueueService, tmp_path: Path) -> None:
    """The error names the path and the setting that helps."""
    task_id = await finished(queue, file_path=str(tmp_path / "out" / "hello.wav"))
    with pytest.raises(StoreError, match="OUTPUT_URL") as caught:
        await read(queue.open_result(task_id))
    assert str(tmp_path / "out" / "hello.wav") in str(caught.value)
    assert caught.value.code is ErrorCode.STORE_OBJECT_MISSING


@pytest.mark.parametrize(
    "response",
    [
        {"url": "s3://elsewhere/hello.wav"},
        {"url": "file:///etc/hostname"},
        {"file_path": "/etc/hostname"},
        {"file_path": "out/../../secret"},
        {"file_path": "{out}/link"},
        {"file_path": ""},
        {},
    ],
)
async def test_a_result_that_a_stranger_wrote_leads_nowhere_else(
    queue: QueueService, tmp_path: Path, response: dict[str, str]
) -> None:
    """Only what is in ``OUTPUT_URL`` or ``OUTPUT_DIR`` is read, whatever a result in Redis says."""
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "secret").write_text("secret")
    (out / "link").symlink_to(tmp_path / "secret")
    task_id = await finished(queue, **{name: value.format(out=out) for name, value in response.items()})
    with pytest.raises((StoreError, ConfigurationError)):
        await read(queue.open_result(task_id))


async def test_a_task_without_a_sound_is_told(queue: QueueService) -> None:
    """Unknown, unfinished and failed tasks raise what they are."""
    with pytest.raises(TaskNotFoundError):
        await read(queue.open_result("unknown"))
    failed = await finished(queue, success=False, error="no speech", error_code=ErrorCode.CONTENT_BLOCKED)
    with pytest.raises(Exception, match="no speech") as caught:
        await read(queue.open_result(failed))
    assert getattr(caught.value, "code", None) is ErrorCode.CONTENT_BLOCKED
    task_id = await queue.enqueue_single_task(AudioRequest(text="Hello."))
    with pytest.raises(QueueServiceError) as pending:
        await read(queue.open_result(task_id))
    assert pending.value.code is ErrorCode.TASK_PENDING


async def test_a_sound_that_is_left_to_the_garbage_collector_is_closed_in_silence(
    queue: QueueService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that is part of a circle: the collector, in any thread, closes each part once, and the file is free."""
    complaints: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", complaints.append)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    path = queue.config.output_dir / "hello.wav"
    path.parent.mkdir()
    path.write_bytes(SOUND)
    task_id = await finished(queue, file_path=str(path))

    async def leave() -> None:
        left: list[object] = [blocks := queue.open_result(task_id)]
        assert len(await anext(blocks)) < len(SOUND)
        left.append(left)

    def is_open() -> bool:
        return str(path) in map(os.path.realpath, Path("/proc/self/fd").iterdir())

    for _ in range(5):
        await leave()
        await to_thread(gc.collect)
        await until(lambda: not is_open())
    assert complaints == []
