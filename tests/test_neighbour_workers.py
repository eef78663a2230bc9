"""A worker whose files are on its own disk warns when other machines work on the same queue, once."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from audio_api.config import AudioConfig
from audio_api.queues.redis_queue import RedisBackend
from audio_api.services import neighbours
from audio_api.services.neighbours import Neighbours


@pytest.fixture
async def backend(redis_url: str) -> AsyncIterator[RedisBackend]:
    """A queue in Redis."""
    queue = RedisBackend(redis_url, secrets.token_hex(6))
    yield queue
    await queue.close()


async def warnings(
    backend: RedisBackend, caplog: pytest.LogCaptureFixture, config: AudioConfig, *others: str, looks: int = 1
) -> int:
    """How many warnings a worker of the machine "here" logs while others work."""
    here = Neighbours("here")
    async with AsyncExitStack() as working:
        for neighbour in (here, *map(Neighbours, others)):
            await working.enter_async_context(neighbour.worker(backend, "worker-1"))
            if neighbour is not here:
                await neighbour.look(backend, config)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            for _ in range(looks):
                await here.look(backend, config)
        assert {name.partition("/")[0] for name in await backend.workers()} == {"here", *others}
    assert await backend.workers() == {}
    return caplog.text.count("other machines work on the same queue")


async def test_other_machines_are_warned_of_once(
    backend: RedisBackend, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it looks."""
    monkeypatch.setattr(neighbours, "_EVERY_S", 0.0)
    assert await warnings(backend, caplog, AudioConfig(), "there", looks=3) == 1
    assert "OUTPUT_URL" in caplog.text


async def test_workers_of_one_machine_need_no_warning(backend: RedisBackend, caplog: pytest.LogCaptureFixture) -> None:
    """They have a disk in common."""
    assert await warnings(backend, caplog, AudioConfig(), "here", "here") == 0


async def test_workers_with_a_store_need_no_warning(
    backend: RedisBackend, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Their sounds are where all machines reach them; to the others they are neighbours all the same."""
    stored = AudioConfig(output_url=(tmp_path / "store").as_uri())
    assert await warnings(backend, caplog, stored, "there") == 0


async def test_a_queue_that_does_not_answer_stops_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    """The look fails without a word; the queue itself is missed soon enough."""
    from redis_server import free_port

    queue = RedisBackend(f"redis://127.0.0.1:{free_port()}/0", secrets.token_hex(6))
    await Neighbours("here").look(queue, AudioConfig())
    await queue.close()
    assert caplog.text.count("other machines") == 0
