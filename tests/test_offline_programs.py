"""The offline engine in programs that are not one plain Python process: forked, frozen, zipped, embedded."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from environments import environment
from project import ROOT, variables_without
from sound import assert_audible

from audio_api import AudioConfig, AudioRequest, ConfigurationError, TTSService, say
from audio_api.emulator import Emulator
from audio_api.engines.base import Turn, Utterance
from audio_api.engines.offline import OfflineEngine
from audio_api.models.audio_request import VoiceConfig

OFFLINE = AudioConfig(tts_engine="offline", cache_max_bytes=0, _env_file=None)
CANARY = "CANARY-0123456789"
# Ten times what speech takes here.
LIMIT_S = 600


def speak(service: TTSService, name: str) -> None:
    """Speak into a file, in an event loop of its own."""
    request = AudioRequest(text=f"This is the file {name}.", output_filename=name)
    asyncio.run(service.generate_audio(request)).raise_for_error()


def in_fork(work: Callable[[], object]) -> int:
    """Do something in a fork of this process; return its exit code, or the number of the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(LIMIT_S)
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_forks_speak_after_their_parent_did() -> None:
    """A server that forks its workers may have spoken before; each of them, and the server itself, goes on speaking."""
    service = TTSService(OFFLINE)
    speak(service, "before.wav")
    for name in ("first.wav", "second.wav"):
        assert in_fork(lambda name=name: speak(service, name)) == 0
    speak(service, "after.wav")
    asyncio.run(service.close())
    for path in Path("output").iterdir():
        assert_audible(path)
    assert len(list(Path("output").iterdir())) == 4


def test_a_fork_within_a_running_loop_speaks() -> None:
    """The copy of the loop, in which the service was used, never runs in the fork."""

    async def fork() -> int:
        async with service:
            await service.generate_audio(AudioRequest(text="Before the fork.", output_filename="before.wav"))
            return await asyncio.to_thread(in_fork, lambda: speak(service, "fork.wav"))

    service = TTSService(OFFLINE)
    assert asyncio.run(fork()) == 0
    assert_audible("output/fork.wav")


def test_forks_call_the_api_by_connections_of_their_own(gemini_emulator: Emulator) -> None:
    """Also when the service is closed there: what its parent opened is not its own."""

    async def fork() -> int:
        async with service:
            await service.generate_audio(AudioRequest(text="Before the fork.", output_filename="before.wav"))
            code = await asyncio.to_thread(in_fork, speak_and_close)
            after = await service.generate_audio(AudioRequest(text="Behind it.", output_filename="after.wav"))
            after.raise_for_error()
            return code

    def speak_and_close() -> None:
        speak(service, "fork.wav")
        asyncio.run(service.close())

    service = TTSService(AudioConfig(gemini_api_key="key", gemini_base_url=gemini_emulator.url, _env_file=None))
    assert asyncio.run(fork()) == 0
    assert len(gemini_emulator.calls) == 3


def say_offline(name: str) -> None:
    """Speak in another process."""
    say("Another process speaks.", name, config=OFFLINE)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_multiprocessing_speak(method: str) -> None:
    """By whatever method they begin, although their parent has spoken."""
    say_offline("parent.wav")
    process = multiprocessing.get_context(method).Process(target=say_offline, args=("child.wav",), daemon=True)
    process.start()
    process.join(LIMIT_S)
    assert process.exitcode == 0
    assert_audible("child.wav")


async def test_the_process_of_the_library_knows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """It speaks a stranger's text by a library in C: the environment it gets holds what Python needs, and no more."""
    for name in ("GEMINI_API_KEY", "google_api_key", "REDIS_URL", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, CANARY)
    engine = OfflineEngine()
    try:
        await engine.synthesize(Utterance((Turn("Hello.", VoiceConfig()),), "espeak-ng", "en-US"))
        children = await asyncio.to_thread(children_of_this_process)
        environments = [Path(f"/proc/{pid}/environ").read_bytes() for pid in children]
    finally:
        await engine.close()
    assert environments
    assert all(CANARY.encode() not in environment for environment in environments)
    assert any(b"PATH=" in environment for environment in environments)


def children_of_this_process() -> list[str]:
    """The numbers of the processes that this one started."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        # A thread may end while they are listed.
        with suppress(FileNotFoundError, ProcessLookupError):
            found += (task / "children").read_text().split()
    return found


def executable(path: Path, script: str) -> str:
    """Write a program of the shell, which says that it was started; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho started >> {path.parent}/starts\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("marked", [True, False])
async def test_a_program_of_its_own_never_starts_itself(
    marked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen by a tool that says so, or by one that does not: it is told at once, and once."""
    own = executable(tmp_path / "bin" / ("python3" if marked else "our-program"), "exit 1")
    monkeypatch.setattr(sys, "frozen", marked, raising=False)
    monkeypatch.setattr(sys, "executable", own)
    monkeypatch.setattr(sys, "exec_prefix", str(tmp_path / "nothing"))
    async with TTSService(OFFLINE) as service:
        response = await service.generate_audio(AudioRequest(text="Hello."))
    with pytest.raises(ConfigurationError, match="came without one, as PyInstaller makes them"):
        response.raise_for_error()
    assert response.attempts <= 1
    assert not (tmp_path / "bin" / "starts").exists()


def test_a_server_that_embeds_python_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The executable of such a server is the server; Python is in the environment beside it."""
    own = executable(tmp_path / "bin" / "uwsgi", "exit 1")
    monkeypatch.setattr(sys, "executable", own)
    say("The server speaks.", "spoken.wav", config=OFFLINE)
    assert_audible("spoken.wav")
    assert not (tmp_path / "bin" / "starts").exists()


def test_a_zip_file_speaks(tmp_path: Path) -> None:
    """The package is in the zip, and what it needs is where the program itself put it on the path."""
    with zipfile.ZipFile(tmp_path / "app.pyz", "w") as archive:
        for path in (ROOT / "audio_api").rglob("*.py"):
            archive.write(path, path.relative_to(ROOT))
        site_packages = next(path for path in sys.path if path.endswith("site-packages"))
        main = f"""
            import sys
            sys.path.append({site_packages!r})
            import audio_api
            print(audio_api.__file__)
            audio_api.say("The zip speaks.", "zip.wav")
            """
        archive.writestr("__main__.py", textwrap.dedent(main))
    done = subprocess.run(
        [sys.executable, "-I", "-S", "app.pyz"],
        env={"PATH": os.environ["PATH"], "TTS_ENGINE": "offline"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    assert "app.pyz" in done.stdout
    assert_audible("zip.wav")


FROZEN = """
import sys
with open("starts", "a") as starts:
    starts.write("start\\n")
from audio_api.errors import ConfigurationError
from audio_api.services.one_liner import say
try:
    say("A frozen program speaks.", "frozen.wav")
except ConfigurationError as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.slow
def test_a_program_of_pyinstaller_is_told_at_once() -> None:
    """It starts once, and ends with the reason."""
    python = environment("pyinstaller") / "python"
    Path("frozen.py").write_text(FROZEN)
    site_packages = next(path for path in sys.path if path.endswith("site-packages"))
    paths = "--paths", str(ROOT), "--paths", site_packages
    variables = variables_without("COVERAGE_")
    # What the program says needs none of these, and to follow their imports takes most of the time.
    unused = (
        "anyio av charset_normalizer cryptography django email_validator fastapi google httpx2 hypothesis jinja2 "
        "markdown_it mypy numpy obstore opentelemetry pkg_resources pytest redis rich setuptools soundfile soxr typer "
        "uvicorn yaml"
    )
    left_out = [f"--exclude-module={name}" for name in unused.split()]
    command = [python, "-m", "PyInstaller", "frozen.py", *left_out, *paths]
    subprocess.run(command, check=True, capture_output=True, env=variables)
    done = subprocess.run(
        ["dist/frozen/frozen"],
        env=variables | {"TTS_ENGINE": "offline"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 7, done.stderr
    assert "came without one, as PyInstaller makes them" in done.stdout
    assert Path("starts").read_text() == "start\n"
