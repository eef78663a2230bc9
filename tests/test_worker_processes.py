"""Worker processes that are killed, stopped, frozen and starved: nothing is lost, and every result is visible once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from own_time import PATIENCE_S, until
from redis_server import RedisServer, free_port
from worker_parts import READY, Site, site

from audio_api.cli import main
from audio_api.emulator import Emulator, Fault
from audio_api.emulator.control import ReceivedCall
from audio_api.models.audio_request import AudioRequest
from audio_api.queues.base import MAX_DELIVERIES
from audio_api.queues.jobs import JobState
from audio_api.services.job_codec import TaskResult
from audio_api.services.queue_service import QueueService

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path, redis_url: str, gemini_emulator: Emulator, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A queue, an API and a folder; no worker yet."""
    with site(tmp_path, redis_url, gemini_emulator, **getattr(request, "param", {})) as made:
        yield made


# Where no process dies, a busy machine must not lose a lease.
short_leases = pytest.mark.parametrize("place", [{"lease_time": 4.0}], indirect=True, ids=["short leases"])


def check_files(results: list[TaskResult]) -> None:
    """Every result names a whole file of its own, of the length that it tells."""
    assert all(result.success for result in results), [result.error for result in results if not result.success]
    paths = {Path(result.file_path or "") for result in results}
    assert len(paths) == len(results)
    (folder,) = {path.parent for path in paths}
    assert {path.name for path in folder.glob("*.wav")} == {path.name for path in paths}
    for result in results:
        with wave.open(result.file_path or "") as file:
            assert file.getnframes() / file.getframerate() == result.duration


@short_leases
async def test_kill_9_loses_nothing(place: Site) -> None:
    """Random processes die in mid-call; each task is done, and no more calls are made again than were in hand."""
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    place.emulator.latency_s = 0.15
    place.start(2)
    ids = await place.enqueue(60)
    kills = 0
    waiting = asyncio.create_task(place.results(ids))
    # A task that loses its process at each of its deliveries is buried.
    while not waiting.done() and kills < MAX_DELIVERIES - 1:
        before = len(place.emulator.calls)
        await until(lambda: waiting.done() or len(place.emulator.calls) > before + 6)  # noqa: B023
        running = [process for process in place.processes if process.poll() is None]
        chance.choice(running).kill()
        kills += 1
        place.start(1)
    check_files(await waiting)
    assert set(place.texts()) == {f"Sentence number {n} of many." for n in range(60)}
    assert sum(place.texts().values()) - 60 <= kills * place.config.worker_concurrency


async def test_sigterm_repeats_no_call(place: Site) -> None:
    """Processes that are asked to stop finish what they have, exit with 0, and others do the rest."""
    place.emulator.latency_s = 0.15
    place.start(2)
    await until(lambda: place.logs().count(READY) == 2)
    ids = []
    for number in range(2):
        before = len(place.emulator.calls)
        ids += await place.enqueue(20, f"Round-{number}")
        await until(lambda: len(place.emulator.calls) > before + 5)  # noqa: B023
        old = next(process for process in place.processes if process.poll() is None)
        place.start(1)
        old.send_signal(signal.SIGTERM)
        await until(lambda: old.poll() is not None)  # noqa: B023
    check_files(await place.results(ids))
    assert set(place.texts().values()) == {1}
    await until(lambda: place.logs().count(READY) == 4)
    assert set(place.stop()) == {0}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_hands_the_task_back(number: signal.Signals, place: Site) -> None:
    """The process ends at once with 0, and the next one gets the task without waiting for its lease."""
    (process,) = place.start()
    await until(lambda: READY in place.logs())
    place.emulator.latency_s = 2 * PATIENCE_S
    (task_id,) = await place.enqueue(1)
    await until(lambda: any(call.text for call in place.emulator.calls))
    started = time.monotonic()
    process.send_signal(number)
    await until(lambda: "finishing the tasks" in place.logs())
    process.send_signal(number)
    await until(lambda: process.poll() is not None)
    assert process.returncode == 0
    assert time.monotonic() - started < place.config.worker_grace
    async with QueueService(config=place.config) as queue:
        (lease,) = await queue.backend.lease(1, 30)
    assert (lease.job_id, lease.deliveries) == (task_id, 1)


@short_leases
async def test_a_frozen_worker_changes_nothing_any_more(place: Site) -> None:
    """It wakes after another one has finished its task: neither the result nor the file is touched."""
    place.emulator.latency_s = 3.0
    (frozen,) = place.start()
    ids = await place.enqueue(2)
    await until(lambda: len([call for call in place.emulator.calls if call.text]) == 2)
    frozen.send_signal(signal.SIGSTOP)
    place.emulator.latency_s = 0
    place.start(1)
    results = await place.results(ids)
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in place.config.output_dir.iterdir()}
    frozen.send_signal(signal.SIGCONT)
    (again,) = await place.enqueue(1, "Another")
    place.processes[1].send_signal(signal.SIGTERM)
    await place.results([again])
    after = {path: (path.stat().st_ino, path.read_bytes()) for path in before}
    assert [path.name for path in before if before[path] != after[path]] == []
    assert all(result.deliveries == 2 for result in results)
    check_files([*results, *await place.results([again])])
    assert [each.finished_at for each in await place.results(ids)] == [each.finished_at for each in results]


@short_leases
async def test_a_poison_task_is_buried_and_the_others_pass(place: Site) -> None:
    """It kills its process at each of three deliveries; supervisors start new ones; good tasks are all done."""
    program = place.folder / "poisoned.py"
    program.write_text(
        "import os, sys\n"
        "from audio_api.cli import main\n"
        "from audio_api.services.tts_service import TTSService\n"
        "prepare = TTSService.prepare\n"
        "def prepare_or_die(self, request, on_progress, **options):\n"
        "    if 'Poison' in request.text:\n"
        "        os._exit(9)\n"
        "    return prepare(self, request)\n"
        "TTSService.prepare = prepare_or_die\n"
        "sys.exit(main(['worker']))\n"
    )
    (poison,) = await place.enqueue(1, "Poison")
    ids = await place.enqueue(20)
    waiting = asyncio.create_task(place.results([poison, *ids]))
    deaths = 0
    place.start(1, [str(program)])
    async with asyncio.timeout(2 * PATIENCE_S):
        while not waiting.done():
            if place.processes[-1].poll() is not None:
                assert place.processes[-1].returncode == 9
                deaths += 1
                place.start(1, [str(program)])
            await asyncio.sleep(0.02)
    dead, *good = await waiting
    assert (dead.state, dead.deliveries, deaths) == (JobState.DEAD, 3, 3)
    check_files(good)
    async with QueueService(config=place.config) as queue:
        (letter,) = await queue.list_dead_letters()
    assert letter.reason == "delivered 3 times and never finished"


PACED = """
import asyncio, signal, sys
from audio_api.services import pacing
pacing.Pacer.__init__.__kwdefaults__["window_s"] = 5.0
from audio_api.cli import main
sys.exit(main(["worker"]))
"""


async def test_a_quota_is_kept_by_three_processes(tmp_path: Path, redis_url: str, gemini_emulator: Emulator) -> None:
    """Ten calls in any five seconds: none fails, hardly any is refused, and the quota is used."""
    gemini_emulator.set_quota(per_minute=10, window_s=5)
    with site(tmp_path, redis_url, gemini_emulator, rate_limit_rpm=10) as place:
        (tmp_path / "paced.py").write_text(PACED)
        place.start(3, ["paced.py"])
        await until(lambda: place.logs().count(READY) == 3)
        ids = await place.enqueue(40)
        check_files(await place.results(ids))
        calls = [call for call in gemini_emulator.calls if call.status in {200, 429} and call.action]
    refused = [call for call in calls if call.status == 429]
    assert len(calls) - len(refused) == 40
    # None on an idle machine, see benchmarks/chaos.py; on a busy one a call is late, and a window may be lost.
    assert len(refused) <= 6
    # Forty calls need three whole windows after the first ten.
    used = 15 / (calls[-1].time_s - calls[0].time_s)
    print(f"{len(refused)} refused, {used:.1%} of the quota used")
    assert used >= 0.5


async def test_without_the_setting_a_429_is_heard_by_all(
    tmp_path: Path, redis_url: str, gemini_emulator: Emulator
) -> None:
    """No task fails, and no worker runs against the wall again and again."""
    gemini_emulator.set_quota(per_minute=5, window_s=2)
    with site(tmp_path, redis_url, gemini_emulator, rate_limit_retry_min_wait=0) as place:
        place.start(2)
        await until(lambda: place.logs().count(READY) == 2)
        ids = await place.enqueue(15)
        check_files(await place.results(ids))
    refused = [call for call in gemini_emulator.calls if call.status == 429]
    assert len(refused) <= 15


@pytest.mark.parametrize("count", [1, 2])
async def test_an_outage_fails_no_task(count: int, tmp_path: Path, redis_url: str, gemini_emulator: Emulator) -> None:
    """Every call is refused for a while: few are made, none of the tasks fails, and afterwards all are done.

    So it is with one process that has a single task in hand, which uses up its attempts, and with two of two each.
    """
    down = True

    def fault(_: ReceivedCall) -> Fault | None:
        return Fault.UNAVAILABLE_503 if down else None

    gemini_emulator.faults = fault
    with site(tmp_path, redis_url, gemini_emulator, worker_concurrency=count) as place:
        place.start(count)
        ids = await place.enqueue(40)
        await until(lambda: "circuit opens" in place.logs())
        failed = len([call for call in gemini_emulator.calls if call.status == 503])
        await asyncio.sleep(3)  # the outage lasts
        probes = len([call for call in gemini_emulator.calls if call.status == 503]) - failed
        down = False
        results = await place.results(ids)
    check_files(results)
    # Ten in a row each, what was in flight then, and a probe every now and then.
    assert failed <= count * (10 + count)
    assert probes <= count * 10 + 2
    assert {result.deliveries for result in results} == {1}


async def test_sighup_reloads_the_settings(place: Site) -> None:
    """A new file of settings takes effect with the next task; a bad one changes nothing."""
    environment = place.folder / ".env"
    environment.touch(mode=0o600)
    environment.write_text("DEFAULT_TTS_MODEL=gemini-3.8-flash-tts\n")
    (process,) = place.start()
    await place.results(await place.enqueue(1, "Before"))
    for text, word in (
        ("DEFAULT_TTS_MODEL=gemini-3.8-flash-lite-tts\n", "settings reloaded"),
        ("LOG_LEVEL=x\n", "stay"),
    ):
        environment.write_text(text)
        process.send_signal(signal.SIGHUP)
        await until(lambda: word in place.logs())  # noqa: B023
        await place.results(await place.enqueue(1, word.split()[0]))
    models = [call.model for call in place.emulator.calls if call.text]
    assert models == ["gemini-3.8-flash-tts", "gemini-3.8-flash-lite-tts", "gemini-3.8-flash-lite-tts"]
    assert place.stop() == [0]


async def test_a_worker_waits_for_a_redis_that_is_down(tmp_path: Path, gemini_emulator: Emulator) -> None:
    """It says so, stays, and ends when it is told to."""
    with site(tmp_path, f"redis://127.0.0.1:{free_port()}/0", gemini_emulator) as place:
        place.start()
        await until(lambda: "waiting for what is down" in place.logs() and READY in place.logs())
        assert place.stop() == [0]


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **variables: str) -> tuple[int, str]:
    """Exit code and words of a worker that does not start."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("audio_api.config._current", None)
    return main(["worker"]), capsys.readouterr().err


def test_what_cannot_start_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gemini_emulator: Emulator, redis_url: str
) -> None:
    """Exit code 2 for settings, 1 for a key that is refused; one sentence each, without secrets."""
    code, text = refused(monkeypatch, capsys)
    assert (code, "GEMINI_API_KEY" in text) == (2, True)
    code, text = refused(monkeypatch, capsys, GEMINI_API_KEY="CANARY-key", GEMINI_BASE_URL=gemini_emulator.url)
    assert (code, "USE_REDIS=true" in text) == (2, True)
    wrong = redis_url.replace("CANARY-redis-password", "CANARY-wrong")
    code, text = refused(monkeypatch, capsys, USE_REDIS="true", REDIS_URL=wrong)
    assert (code, "refuses REDIS_URL" in text) == (2, True)
    assert "CANARY" not in text
    code, text = refused(monkeypatch, capsys, REDIS_URL=redis_url.removesuffix("/0") + "/99")
    assert (code, "no database" in text) == (2, True)
    gemini_emulator.api_key = "another"
    code, text = refused(monkeypatch, capsys, REDIS_URL=redis_url)
    assert (code, "refused the key" in text) == (1, True)
    assert "CANARY" not in text


def test_a_worker_in_this_process_stops_at_a_signal(
    monkeypatch: pytest.MonkeyPatch, gemini_emulator: Emulator, redis_url: str
) -> None:
    """The command returns 0 after SIGTERM, once the settings were read again by SIGHUP, good ones and bad ones."""
    for name, value in {
        "GEMINI_API_KEY": "any",
        "GEMINI_BASE_URL": gemini_emulator.url,
        "USE_REDIS": "true",
        "REDIS_URL": redis_url,
        "QUEUE_NAME": f"test-{os.urandom(6).hex()}",
    }.items():
        monkeypatch.setenv(name, value)
    from audio_api.services.worker_service import WorkerManager

    start = WorkerManager.start_workers

    async def start_and_be_told(self: WorkerManager) -> None:
        await start(self)
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0)
        monkeypatch.setenv("LOG_LEVEL", "nonsense")
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(WorkerManager, "start_workers", start_and_be_told)
    assert main(["worker"]) == 0


async def test_a_task_of_another_process_is_waited_for(place: Site) -> None:
    """A program that only enqueues sees the result of a worker process, pushed rather than polled."""
    place.start()
    async with QueueService(config=place.config) as queue:
        result = await queue.wait_for_result(
            await queue.enqueue_single_task(AudioRequest(text="Far away.")), PATIENCE_S
        )
    assert result.success


@pytest.mark.parametrize("trouble", ["killed", "frozen"])
async def test_a_redis_that_is_named_by_host_name_comes_back(
    trouble: str, tmp_path: Path, gemini_emulator: Emulator
) -> None:
    """More finished files wait for it than asyncio has threads: looking up its name needs none of theirs."""
    server = RedisServer(tmp_path, "appendonly yes", "appendfsync always")
    server.start()
    slots = (os.cpu_count() or 1) + 5
    gemini_emulator.latency_s = 1.0
    url = server.url.replace("127.0.0.1", "localhost")
    sizes = {"num_workers": 1, "worker_concurrency": slots, "max_concurrency": slots}
    try:
        with site(tmp_path, url, gemini_emulator, **sizes) as place:
            place.start(1)
            await until(lambda: READY in place.logs())
            ids = await place.enqueue(2 * slots)
            await until(lambda: sum(bool(call.text) for call in gemini_emulator.calls) >= slots)
            if trouble == "killed":
                server.stop(signal.SIGKILL)
            else:
                server.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(4)  # an outage has a length; calls end within one second of it
            well_at = time.time()
            if trouble == "killed":
                await asyncio.to_thread(server.start)
            else:
                server.process.send_signal(signal.SIGCONT)
            results = await place.results(ids)
            check_files(results)
            assert set(place.texts().values()) == {1}
            assert min(each.finished_at or 0 for each in results) - well_at < PATIENCE_S / 2
    finally:
        server.stop()


async def remount(disk: Path, options: str) -> None:
    """Change a mounted file system, as soon as no file of it is open for writing."""
    command = ["mount", "-o", f"remount,{options}", str(disk)]
    await until(lambda: subprocess.run(command, capture_output=True).returncode == 0)


@pytest.mark.parametrize(("trouble", "cache_max_bytes"), [("full", 0), ("read-only", 10**9)])
async def test_a_disk_that_takes_no_files_costs_no_money(
    trouble: str,
    cache_max_bytes: int,
    tmp_path: Path,
    redis_url: str,
    gemini_emulator: Emulator,
    mount: Callable[..., Path],
) -> None:
    """A worker stops taking tasks, keeps what it paid for, hands back the rest, and goes on when the disk is well."""
    disk, jobs, slots = mount("size=4m"), 60, 3
    settings = {"output_dir": disk / "out", "cache_max_bytes": cache_max_bytes, "worker_concurrency": slots}
    with site(tmp_path, redis_url, gemini_emulator, **settings) as place:
        gemini_emulator.latency_s = 0.05
        place.start(1)
        ids = await place.enqueue(jobs)
        if trouble == "read-only":
            await until(lambda: len(gemini_emulator.calls) > 10)
            await remount(disk, "ro")
        await until(lambda: "takes no tasks: it cannot write" in place.logs())
        async with QueueService(config=place.config) as queue:
            async with asyncio.timeout(PATIENCE_S):
                while (await queue.get_queue_stats()).leased:  # noqa: ASYNC110 - nothing announces it
                    await asyncio.sleep(0.02)
            stats = await queue.get_queue_stats()
        assert (stats.failed, stats.dead) == (0, 0)
        assert stats.succeeded < jobs
        calls = len(place.texts())
        await asyncio.sleep(2)  # a worker that went on calling would be seen
        assert len(place.texts()) == calls
        await remount(disk, "rw,size=64m")
        results = await place.results(ids)
        check_files(results)
        assert {result.deliveries for result in results} == {1}
        assert sum(place.texts().values()) == jobs
        assert all(result.cost_usd for result in results)
        assert "can write again" in place.logs()
