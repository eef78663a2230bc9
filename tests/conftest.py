"""What every test gets: a folder of its own, none of the developer's settings, logging as it was, and time."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from google_credentials import service_account
from hypothesis import HealthCheck, settings
from kit import KEY
from own_time import PATIENCE_S
from redis_server import ENV_URL, RedisServer, limit_answers
from store_servers import AzuriteServer, LossyProxy, StoreServer, enter, lossy_proxy, running

from audio_api.config import AudioConfig
from audio_api.emulator import Emulator
from audio_api.engines.offline import OfflineEngine
from audio_api.services.queue_service import QueueService
from audio_api.services.tts_service import TTSService

# How long an example takes says more about the machine than about the library: benchmarks measure time.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("untimed")


def pytest_configure() -> None:
    """Heed the signals that a shell or nohup lets a background job ignore: programs that tests start inherit that."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold slow tests, so that several processes end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _no_settings_of_the_developer(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work in an empty folder (no ``.env``, no ``output/``) without variables of ours; ``live`` tests keep theirs."""
    monkeypatch.setattr("audio_api.config._current", None)
    if request.node.get_closest_marker("live"):
        return
    monkeypatch.chdir(tmp_path)
    for name in AudioConfig.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(autouse=True)
def _unmeasured_programs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start programs without coverage, which nearly doubles the time until they are ready, but for ``measured`` tests.

    Nearly all of the library's code also runs in the process of the tests, which is always measured.
    """
    if not request.node.get_closest_marker("measured"):
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


@pytest.fixture(autouse=True)
def _slow_tests_unmeasured(request: pytest.FixtureRequest) -> Iterator[None]:
    """Measure no coverage of the event loop in ``slow`` tests: it doubles its time, and faster tests run the same code.

    Other threads are measured: later tests use those that begin here, too.
    """
    tracer = sys.gettrace()
    if request.node.get_closest_marker("slow"):
        sys.settrace(None)
    yield
    sys.settrace(tracer)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undo what ``setup_logging`` did to the library's logger, which would hide the events of later tests."""
    logger = logging.getLogger("audio_api")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers, logger.level, logger.propagate = handlers, level, propagate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The output folder, which is not there yet."""
    return tmp_path / "output"


@pytest.fixture
def emulator_in_environment(gemini_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator as the configured API, for commands and for ``get_config``."""
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("GEMINI_BASE_URL", gemini_emulator.url)


@pytest.fixture
def offline_config(tmp_path: Path) -> AudioConfig:
    """Settings of the offline engine, with an output folder of its own."""
    return AudioConfig(tts_engine="offline", output_dir=tmp_path)


@pytest.fixture
async def offline_tts(offline_config: AudioConfig) -> AsyncIterator[TTSService]:
    """A service that speaks offline."""
    async with TTSService(config=offline_config) as service:
        yield service


@pytest.fixture(scope="module")
def offline_engine() -> Iterator[OfflineEngine]:
    """One engine for all tests of a file: a test has an event loop of its own, which the engine must bear."""
    engine = OfflineEngine()
    yield engine
    asyncio.run(engine.close())


@pytest.fixture
async def queue(config: AudioConfig) -> AsyncIterator[QueueService]:
    """The queue of the settings that a file's own fixture ``config`` makes."""
    async with QueueService(config=config) as service:
        yield service


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a small file system in memory; unmounted at the end."""
    mounted: list[Path] = []

    def do(options: str) -> Path:
        folder = tmp_path / f"mount{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"mounting is not allowed here: {done.stderr.decode().strip()}")
        mounted.append(folder)
        return folder

    yield do
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def google_credentials(gemini_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials in the environment, whose access tokens the emulator gives out."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(service_account(gemini_emulator.url, tmp_path)))


@pytest.fixture
def patient_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the library wait long for an answer of Redis: on a busy machine a second may pass without one.

    ``test_redis_queue.py`` tests the limit itself.
    """
    limit_answers(monkeypatch, PATIENCE_S)


@pytest.fixture
def redis_url(_redis_server: str, patient_redis: None) -> str:
    """A real Redis that may be slow, as a user who may do only what the queue needs."""
    return _redis_server


@pytest.fixture(scope="session")
def _redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Redis; AUDIO_API_TEST_REDIS_URL names another one."""
    if url := os.environ.get(ENV_URL):
        yield url
        return
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server.url
    server.stop()


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """A server of S3 that knows conditions, and checks who signed a link."""
    with running(StoreServer(tmp_path_factory.mktemp("ministack"), "ministack")) as server:
        yield server


@pytest.fixture
def proxy(ministack: StoreServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[LossyProxy]:
    """The way to ``ministack``, which the environment names."""
    with lossy_proxy(ministack.port) as way:
        enter(ministack, monkeypatch, way.port)
        yield way


@pytest.fixture
def prefix() -> str:
    """A place in the bucket that is empty."""
    return os.urandom(6).hex()


@pytest.fixture(scope="session")
def nanio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """A server of S3 that ignores conditions, and checks every signature."""
    with running(StoreServer(tmp_path_factory.mktemp("nanio"), "nanio")) as server:
        yield server


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """Azure's emulator, where its program is found."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite-blob is not on the PATH: npm install azurite")
    with running(AzuriteServer(tmp_path_factory.mktemp("azurite"), program)) as server:
        yield server
