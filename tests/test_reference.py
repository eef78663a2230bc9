"""Programs written for the published original: what docs/migrating.md calls the same works as it did there."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import secrets
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from pydantic import ValidationError

import audio_api
from audio_api import AudioConfig, AudioRequest, AudioResponse, BatchAudioRequest, TTSService
from audio_api.emulator import Emulator
from audio_api.errors import ConfigurationError
from audio_api.logging_config import log_error_with_context, log_performance
from audio_api.models.audio_request import VoiceConfig
from audio_api.services.queue_service import QueueService
from audio_api.services.worker_service import WorkerManager, WorkerService

PAGE = Path(__file__).parents[1] / "docs" / "migrating.md"
HELLO = AudioRequest(text="Hello there, my friend.")
DONE = AudioResponse(success=True, message="1.00 s of speech", file_path="/srv/a.wav", duration=1.0)


@pytest.fixture
def config(gemini_emulator: Emulator) -> AudioConfig:
    """Settings with a queue of its own in memory, and the emulator as the API."""
    return AudioConfig(
        gemini_api_key="any", gemini_base_url=gemini_emulator.url, queue_name=f"test-{secrets.token_hex(6)}"
    )


def test_every_row_that_says_same_has_its_test() -> None:
    """The page names, for each row that says "same", a test that exists here."""
    rows = re.findall(r"^\| .* \| same \| `(\w+)` \|$", PAGE.read_text(), re.MULTILINE)
    assert rows
    assert sorted(set(rows)) == sorted(rows)
    assert set(rows) == {
        name for name in globals() if name.startswith("test_") and name != "test_every_row_that_says_same_has_its_test"
    }


def test_packages_export_their_public_names() -> None:
    """``audio_api.models`` and ``audio_api.services`` give the objects that the package itself gives."""
    for package in (import_module("audio_api.models"), import_module("audio_api.services")):
        assert package.__all__ == sorted(package.__all__) == dir(package)
        for name in package.__all__:
            assert getattr(package, name) is getattr(audio_api, name)
        with pytest.raises(AttributeError, match=rf"'{package.__name__}' has no attribute 'TTSServize'"):
            _ = package.TTSServize
    code = "import sys, audio_api.models, audio_api.services as s; print(*(m for m in sys.modules if 'audio_api' in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["audio_api", "audio_api.models", "audio_api.services"]


def test_names_import_from_the_modules_of_the_original() -> None:
    """The errors import from the modules of the services, ``VoiceModel`` from that of the requests."""
    homes = {
        "audio_api.services.tts_service": [name for name in audio_api.__all__ if re.fullmatch("TTS.*Error", name)],
        "audio_api.services.queue_service": ["QueueServiceError"],
        "audio_api.services.worker_service": ["WorkerServiceError"],
        "audio_api.models.audio_request": ["VoiceModel", "Language", "VoiceName"],
    }
    assert len(homes["audio_api.services.tts_service"]) == 12
    for module, names in homes.items():
        for name in names:
            assert getattr(import_module(module), name) is getattr(audio_api, name)


async def test_a_task_answers_like_a_dictionary(queue: QueueService) -> None:
    """What ``dequeue_task`` gives answers by key and with ``get``; an unknown key is a ``KeyError`` or the default."""
    await queue.enqueue_batch_tasks(BatchAudioRequest(requests=[HELLO], batch_id="b"))
    task = await queue.dequeue_task()
    assert task
    assert (task["task_id"], task.get("request"), task.get("batch_id")) == ("b-0", HELLO, "b")
    assert dict(task) == {"task_id": "b-0", "request": HELLO, "batch_id": "b", "deliveries": 1}
    assert "task_id" in task
    assert task.get("keys") is task.get("nothing") is None
    with pytest.raises(KeyError, match="keys"):
        task["keys"]
    assert task == dataclasses.replace(task)
    assert task != dataclasses.replace(task, deliveries=2)


async def test_the_status_of_workers_can_be_awaited(config: AudioConfig) -> None:
    """``await`` gives the counts and the details; without ``await`` it is every worker by its name."""
    config = config.model_copy(update={"num_workers": 2})
    manager = WorkerManager(config=config)
    assert await manager.get_worker_status() == {"total_workers": 0, "running_workers": 0, "worker_details": []}
    async with manager:
        assert list(manager.get_worker_status()) == ["worker-1", "worker-2"]
        status = await manager.get_worker_status()
        assert (status["total_workers"], status["running_workers"]) == (2, 2)
        assert [
            (each["worker_id"], each["running"], each["tasks_processed"], each["state"])
            for each in status["worker_details"]
        ] == [("worker-1", True, 0, "idle"), ("worker-2", True, 0, "idle")]
    status = await manager.get_worker_status()
    assert (status["total_workers"], status["running_workers"]) == (2, 0)
    assert not any(each["running"] for each in status["worker_details"])


async def test_services_show_their_parts(config: AudioConfig) -> None:
    """The services show settings, parts and counters, and none of them can be set."""
    manager = WorkerManager(config=config)
    assert (manager.config, manager.num_workers, manager.running) == (config, 3, False)
    async with TTSService(config) as tts, QueueService(config=config) as queue:
        assert tts.config is queue.config is config
        assert not queue.use_redis
        assert QueueService(use_redis=True, config=config).use_redis
        worker = WorkerService(config, queue, tts)
        assert (worker.config, worker.queue_service, worker.tts_service) == (config, queue, tts)
        assert (worker.running, worker.tasks_processed) == (False, 0)
        task_id = await queue.enqueue_single_task(HELLO)
        await worker.start_worker()
        assert worker.running
        assert (await queue.wait_for_result(task_id, timeout=60)).success
        await worker.stop_worker()
        assert (worker.running, worker.tasks_processed) == (False, 1)
        for service, names in (
            (manager, ("config", "num_workers", "running")),
            (tts, ("config",)),
            (queue, ("config", "use_redis")),
            (worker, ("config", "queue_service", "tts_service", "running", "tasks_processed")),
        ):
            for name in names:
                with pytest.raises(AttributeError):
                    setattr(service, name, None)
    lone = WorkerService(config)
    assert lone.queue_service is lone.tts_service is None
    await lone.start_worker()
    assert lone.queue_service
    assert lone.tts_service
    await lone.stop_worker()


def test_settings_show_the_format_and_the_model() -> None:
    """The defaults of the original can be read and not be set."""
    config = AudioConfig(default_tts_model="gemini-2.5-flash-preview-tts")
    assert config.default_model == "gemini-2.5-flash-preview-tts"
    assert (config.default_sample_rate, config.default_bit_depth, config.default_channels) == (24_000, 16, 1)
    for name in ("default_model", "default_sample_rate", "default_bit_depth", "default_channels"):
        with pytest.raises((AttributeError, ValidationError)):
            setattr(config, name, 1)
    assert AudioConfig().default_model == "gemini-3.8-flash-tts"


async def test_the_keywords_of_the_original_are_taken(queue: QueueService) -> None:
    """``batch_request=`` and ``result=`` mean what ``batch=`` and ``response=`` mean; both or neither is refused."""
    batch = BatchAudioRequest(requests=[HELLO], batch_id="b")
    assert await queue.enqueue_batch_tasks(batch_request=batch) == "b"
    assert await queue.enqueue_batch_tasks(batch=batch) == "b"
    assert await queue.dequeue_task()
    assert await queue.update_task_result(task_id="b-0", result=DONE)
    found = await queue.get_task_result("b-0")
    assert found
    assert found.success
    assert not await queue.update_task_result("b-0", response=DONE)
    with pytest.raises(TypeError, match="exactly one of batch and batch_request; 0 given"):
        await queue.enqueue_batch_tasks()
    with pytest.raises(TypeError, match="exactly one of batch and batch_request; 2 given"):
        await queue.enqueue_batch_tasks(batch, batch_request=batch)
    with pytest.raises(TypeError, match="exactly one of response and result; 0 given"):
        await queue.update_task_result("b-0")


@pytest.mark.parametrize("by_name", [True, False])
def test_a_measured_duration_is_logged_at_once(caplog: pytest.LogCaptureFixture, by_name: bool) -> None:
    """``log_performance`` with a duration logs one event then; a call without a name is refused."""
    logger = logging.getLogger("audio_api.test")
    with caplog.at_level("INFO"):
        if by_name:
            log_performance(logger, operation="spoken", duration=1.5, model="m", name="n")
        else:
            log_performance(logger, "spoken", 1.5, model="m", name="n")
    (record,) = caplog.records
    assert (record.message, record.levelname) == ("spoken", "INFO")
    assert vars(record) | {"duration_s": 1.5, "model": "m", "name_": "n"} == vars(record)
    with pytest.raises(TypeError, match="needs the name of the event"):
        log_performance(logger, duration=1.5)  # type: ignore[call-overload]


def test_the_context_of_an_error_may_be_a_dictionary(caplog: pytest.LogCaptureFixture) -> None:
    """The dictionary's entries become fields of the event, beside those given as keywords."""
    logger = logging.getLogger("audio_api.test")
    log_error_with_context(logger, ValueError("plain"), {"task_id": "t", "chapter": 3}, chapter=4)
    log_error_with_context(logger=logger, error=ValueError("plain"), context={"task_id": "u"})
    first, second = caplog.records
    assert vars(first) | {"task_id": "t", "chapter": 4, "error": "plain"} == vars(first)
    assert vars(second) | {"task_id": "u", "error_type": "ValueError"} == vars(second)


async def test_a_health_check_equals_true(config: AudioConfig, queue: QueueService) -> None:
    """A finding equals ``True`` when the service works, ``False`` when not, and another with the same fields."""
    async with TTSService(config) as tts, TTSService(config.model_copy(update={"gemini_api_key": None})) as keyless:
        well, ill = await tts.health_check(), await keyless.health_check()
        assert well == True  # noqa: E712 - this is what programs write
        assert ill == False  # noqa: E712
        assert well not in (False, ill, 1.5, await queue.health_check())
        assert hash(well) == hash(True)
        assert well == await tts.health_check()
        assert dataclasses.replace(well, engine="other") != well
    assert await queue.health_check() == True  # noqa: E712


def test_no_voice_is_the_default_voice() -> None:
    """``voice_config=None`` is as good as leaving it out, also in JSON; nothing else that is empty is."""
    assert AudioRequest(text="Hello", voice_config=None).voice_config == VoiceConfig()
    assert AudioRequest.model_validate_json('{"text": "Hello", "voice_config": null}') == AudioRequest(text="Hello")
    for empty in ("", 0, False, ()):
        with pytest.raises(ValidationError):
            AudioRequest(text="Hello", voice_config=empty)


async def test_an_empty_redis_url_goes_without_redis(queue: QueueService) -> None:
    """An empty URL is accepted as long as no queue is in Redis, and refused as soon as one should be."""
    config = AudioConfig(redis_url=" ", queue_name=queue.config.queue_name)
    assert json.loads(config.model_dump_json())["redis_url"] == ""
    async with QueueService(config=config) as other:
        task_id = await other.enqueue_single_task(HELLO)
    assert await queue.get_task_result(task_id)
    with pytest.raises(ConfigurationError, match="REDIS_URL: must begin with redis://"):
        AudioConfig(redis_url="", use_redis=True)
    async with QueueService(use_redis=True, config=config) as asked:
        health = await asked.health_check()
        assert not health
        assert "REDIS_URL" in str(health.error)
