"""The programs at the top do what they say, run as users run them: in a folder of their own, without a key."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from environments import install, make_environment
from project import PROJECT, ROOT, part_of_lock, program, variables_without
from sound import RATE, assert_audible

from audio_api import AudioConfig
from audio_api.emulator import Emulator

setup = program("setup")


def run(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program in the current folder and let it end by itself."""
    return subprocess.run(
        [sys.executable, ROOT / name, *arguments],
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def files_in_table(output: str) -> dict[str, tuple[float, float]]:
    """Seconds and kB of each file in the table that a program printed."""
    rows = re.findall(r"^(output/\S+\.wav) +([\d.]+) +([\d.]+) ", output, re.MULTILINE)
    return {name: (float(seconds), float(size_kb)) for name, seconds, size_kb in rows}


def assert_files_are_as_said(output: str) -> None:
    """Assert that each file of the table is there, audible, and as long and large as the table says."""
    for name, (seconds, size_kb) in files_in_table(output).items():
        assert len(assert_audible(name)) / RATE == pytest.approx(seconds, abs=0.01)
        assert Path(name).stat().st_size / 1000 == pytest.approx(size_kb, abs=0.1)


def test_main_speaks_without_a_key_and_says_how() -> None:
    """Without a key the offline engine makes every example, said aloud; the table is true; twice works as well."""
    for _ in range(2):
        done = run("main.py")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "OFFLINE" in done.stdout
        assert len(files_in_table(done.stdout)) == 13
        assert {path.name for path in Path("output").iterdir()} == {
            name.removeprefix("output/") for name in files_in_table(done.stdout)
        }
        assert_files_are_as_said(done.stdout)


def test_main_speaks_with_gemini_when_there_is_a_key(gemini_emulator: Emulator) -> None:
    """With a key every example is a call to the API, with the default model; the key is in no output."""
    done = run("main.py", GEMINI_API_KEY="a-very-secret-key", GEMINI_BASE_URL=gemini_emulator.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Gemini speaks" in done.stdout
    assert "OFFLINE" not in done.stdout
    assert [call.model for call in gemini_emulator.calls] == ["gemini-3.8-flash-tts"] * 13
    assert {call.headers["x-goog-api-key"] for call in gemini_emulator.calls} == {"a-very-secret-key"}
    assert "a-very-secret-key" not in done.stdout + done.stderr
    assert len(files_in_table(done.stdout)) == 13
    assert_files_are_as_said(done.stdout)


def test_main_fails_loudly(tmp_path: Path) -> None:
    """When files cannot be written, each example says so and the exit code is not 0."""
    (tmp_path / "file").touch()
    done = run("main.py", OUTPUT_DIR=str(tmp_path / "file" / "below"))
    assert done.returncode == 1
    assert done.stdout.count("FAILED (output_failed)") == 13


@pytest.mark.parametrize("name", ["main.py", "example_improved_usage.py"])
def test_a_wrong_setting_is_one_sentence(name: str) -> None:
    """It names the variable, its value and what is allowed, without a traceback; nothing is written."""
    done = run(name, TTS_ENGINE="loud")
    assert done.returncode == 1
    assert re.fullmatch(r"A setting .* is wrong\. TTS_ENGINE='loud': .*'gemini' or 'offline'.*\n", done.stderr)
    assert not Path("output").exists()


def test_the_example_shows_every_feature() -> None:
    """It ends well, without a key; each file it names is audible and as long as it says; it ends with its figures."""
    done = run("example_improved_usage.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "OFFLINE" in done.stdout
    assert "5 attempts" in done.stdout
    assert "quota_exhausted" in done.stdout
    assert "requests that succeeded" in done.stdout.partition("Measured in this run")[2]
    spoken = {name: float(seconds) for seconds, name in re.findall(r"([\d.]+) s of speech in (\S+)", done.stdout)}
    files = {path.name: path for path in Path("output").rglob("*.wav") if ".cache" not in path.parts}
    assert set(files) == set(spoken) | {f"batch-{number}.wav" for number in range(1, 13)}
    for name, path in files.items():
        seconds = len(assert_audible(path)) / RATE
        assert seconds == pytest.approx(spoken.get(name, seconds), abs=0.01)
    assert '"event": "attempt failed, trying again"' in done.stderr


def test_setup_writes_env_for_its_owner_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``.env`` is a copy of the example with mode 600, whatever the umask."""
    shutil.copy(ROOT / ".env.example", tmp_path)
    umask = os.umask(0)
    try:
        setup.write_env(tmp_path)
    finally:
        os.umask(umask)
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / ".env").read_bytes() == (ROOT / ".env.example").read_bytes()
    assert "GEMINI_API_KEY" in capsys.readouterr().out


def test_setup_never_touches_an_env_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An existing ``.env`` keeps its content; when others can read it, that is said."""
    env = tmp_path / ".env"
    env.write_text("GEMINI_API_KEY=mine\n")
    env.chmod(0o600)
    setup.write_env(tmp_path)
    assert "chmod" not in capsys.readouterr().out
    env.chmod(0o644)
    setup.write_env(tmp_path)
    assert "chmod 600" in capsys.readouterr().out
    assert env.read_text() == "GEMINI_API_KEY=mine\n"


def test_setup_stops_at_a_folder_that_is_called_env(tmp_path: Path) -> None:
    """A container makes one when it mounts a file that is not there; a virtual environment may be called so."""
    (tmp_path / ".env").mkdir(mode=0o755)
    with pytest.raises(SystemExit, match=r"^\.env is a folder"):
        setup.write_env(tmp_path)
    (tmp_path / ".env" / "pyvenv.cfg").touch()
    setup.write_env(tmp_path)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / ".env").symlink_to("nowhere")
    setup.write_env(tmp_path / "link")


@pytest.mark.slow
@pytest.mark.parametrize("uv", sorted({shutil.which("uv"), None}, key=bool), ids=lambda uv: "uv" if uv else "pip")
def test_setup_installs_once(
    uv: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first run installs what the lock pins, with uv or pip; the second finds it done; a new lock redoes it."""
    monkeypatch.setattr(setup, "UV", uv)
    for name in ("README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    # One package that it needs stands for all: the checkout itself was set up with the whole lock.
    needs = 'dependencies = ["aiofiles>=24.1"]'
    metadata = (ROOT / "pyproject.toml").read_text("utf-8")
    metadata, changes = re.subn(r"^dependencies = \[.*?^\]", needs, metadata, flags=re.MULTILINE | re.DOTALL)
    assert changes == 1
    (tmp_path / "pyproject.toml").write_text(metadata, "utf-8")
    shutil.copytree(ROOT / "audio_api", tmp_path / "audio_api")
    lock = tmp_path / "requirements.lock"
    lock.write_text(part_of_lock("hatchling", "editables", "aiofiles"))
    python = setup.prepare(tmp_path)
    where = subprocess.run(
        [python, "-c", "import aiofiles, audio_api; print(audio_api.__file__)"],
        env=variables_without("COVERAGE_"),
        check=True,
        capture_output=True,
        text=True,
    )
    assert Path(where.stdout.strip()) == tmp_path / "audio_api" / "__init__.py"
    capsys.readouterr()
    setup.prepare(tmp_path)
    assert capsys.readouterr().out == "Packages: up to date\n"
    lock.write_text(lock.read_text() + "# changed\n")
    setup.prepare(tmp_path)
    assert "installing" in capsys.readouterr().out


def python_with_pip(folder: Path, version: str = "23.2.1") -> Path:
    """The Python of an environment that has this pip, and nothing else; Python's own way to it takes much longer."""
    python = make_environment(folder)
    install(python, f"pip=={version}")
    return python


def tiny_wheel(index: Path, name: str, version: str, needs: str = "") -> str:
    """Put a wheel without any code into an index folder; return its line for a lock."""
    folder = index / name
    folder.mkdir(parents=True, exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nProvides-Extra: more\n{needs}"
    files = {"METADATA": metadata, "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, content in (*files.items(), ("RECORD", "")):
            archive.writestr(f"{name}-{version}.dist-info/{file}", content)
    links = "".join(f'<a href="{path.name}">{path.name}</a>' for path in sorted(folder.glob("*.whl")))
    (folder / "index.html").write_text(links)
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


@pytest.mark.parametrize("pip", ["22.3.1", "23.2.1"])
def test_setup_installs_the_pin_with_any_pip_when_a_newer_release_is_out(
    pip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that another one needs with an extra stays at its pin, even with a pip that looks for a newer one."""
    if pip == "22.3.1" and sys.version_info >= (3, 12):
        pytest.skip("pip 22.3.1 needs pkgutil.ImpImporter, which Python 3.12 removed")
    monkeypatch.setattr(setup, "UV", None)
    python = python_with_pip(tmp_path / "venv", pip)
    index = tmp_path / "index"
    pins = [
        tiny_wheel(index, "needing", "1.0", "Requires-Dist: pinned[more]>=1\n"),
        tiny_wheel(index, "pinned", "1.0", 'Requires-Dist: extra; extra == "more"\n'),
        tiny_wheel(index, "extra", "1.0"),
    ]
    tiny_wheel(index, "pinned", "2.0", 'Requires-Dist: extra; extra == "more"\n')
    (tmp_path / "lock").write_text("".join(pins))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", index.as_uri())
    setup.install(python, "--require-hashes", "-r", str(tmp_path / "lock"))
    setup.run_pip(python, "check")
    listed = subprocess.run([python, "-m", "pip", "--version"], check=True, capture_output=True, text=True)
    assert listed.stdout.startswith(f"pip {pip} ")
    shown = subprocess.run([python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True)
    assert shown.stdout.split() == ["extra==1.0", "needing==1.0", "pinned==1.0"]


def test_setup_refuses_an_incomplete_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a package lacks one that it needs, the check behind the installation fails."""
    monkeypatch.setattr(setup, "UV", None)
    python = python_with_pip(tmp_path / "venv")
    tiny_wheel(tmp_path, "needing", "1.0", "Requires-Dist: missing\n")
    setup.install(python, str(tmp_path / "needing" / "needing-1.0-py3-none-any.whl"))
    with pytest.raises(subprocess.CalledProcessError):
        setup.run_pip(python, "check")


def test_setup_refuses_a_wrong_hash(tmp_path: Path) -> None:
    """A package whose content is not the pinned one is not installed, and the exit says which command failed."""
    python_with_pip(tmp_path / ".venv")
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "requirements.lock").write_text(
        re.sub(r"sha256:[0-9a-f]{8}", "sha256:00000000", part_of_lock("editables"))
    )
    with pytest.raises(SystemExit, match="--require-hashes"):
        setup.prepare(tmp_path)


def test_setup_says_which_python_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old Python is told so in one sentence, before anything is made."""
    monkeypatch.setattr(sys, "version_info", (3, 8, 18))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer"):
        setup.prepare(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_setup_says_where_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows lacks what durable files need: that is said in one sentence, before anything is made."""
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit, match="needs a POSIX system"):
        setup.prepare(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_example_settings_are_the_defaults(tmp_path: Path) -> None:
    """``.env.example`` shows every setting with its default; as it is, it changes nothing."""
    example = (ROOT / ".env.example").read_text("utf-8")
    shown = re.sub(r"^#(?=[A-Z_]+=)", "", example, flags=re.MULTILINE)
    names = set(re.findall(r"^([A-Z_]+)=", shown, re.MULTILINE))
    assert names == {name.upper() for name in AudioConfig.model_fields}
    for text in (example, shown):
        (tmp_path / "settings").write_text(text, "utf-8")
        assert AudioConfig(_env_file=tmp_path / "settings") == AudioConfig()


def test_run_all_tests_reports_each_step_and_pytest_last(capfd: pytest.CaptureFixture[str]) -> None:
    """A step's output is shown, its failure is noticed, and pytest's own line is recognised in any style."""
    runner = program("run_all_tests")
    step = runner.run("try", Path(sys.executable), "timeit", "-n1", "-r1")
    assert step.passed
    assert step.output in capfd.readouterr().out
    assert not runner.run("fail", Path(sys.executable), "no_such_module").passed
    for line in (
        "====== 12 passed, 1 skipped in 3.45s ======",
        "12 passed in 73.45s (0:01:13)",
        "\x1b[31m=== \x1b[1m1 failed\x1b[0m, \x1b[32m3 passed\x1b[0m\x1b[31m in 0.10s\x1b[0m\x1b[31m ===\x1b[0m",
        "=== no tests ran in 0.01s ===",
    ):
        assert runner.PYTEST_SUMMARY.findall(f"noise\n{line}\n") == [line]


TINY_PROJECT = {
    "pyproject.toml": "[tool.coverage.run]\nparallel = true\npatch = ['subprocess']\nsource = ['tiny']\n",
    "tiny.py": "def double(number):\n    return 2 * number\n",
    "test_one.py": (
        "import os, pytest, tiny\n"
        "@pytest.mark.parametrize('name', {'a', 'b', 'c', 'd', 'e', 'f'})\n"
        "def test_names(name):\n    print(os.environ['PYTEST_XDIST_WORKER'])\n"
    ),
    "test_two.py": (
        "import hypothesis, hypothesis.strategies as st, tiny\n"
        "@hypothesis.given(st.integers())\n"
        "def test_double(number):\n    assert tiny.double(number) == number + number\n"
    ),
}


def test_run_all_tests_runs_several_processes_from_one_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Processes share a printed seed, so that sets have one order; what all of them ran counts as covered.

    With arguments for pytest there is one process, so that a debugger works.
    """
    runner = program("run_all_tests")
    for name, content in TINY_PROJECT.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    monkeypatch.setattr(runner, "GATES", {})
    monkeypatch.setattr(runner, "prepare", lambda _: Path(sys.executable))
    for name in [name for name in os.environ if name.startswith(("COVERAGE_", "PYTEST_", "PYTHONHASHSEED"))]:
        monkeypatch.delenv(name)
    assert runner.main([]) == 0
    output = capfd.readouterr().out
    assert re.search(r"--- tests: .* --hypothesis-seed=\d+ ", output)
    assert re.search(r"[2-9] workers \[7 items\]", output)
    assert re.search(r"^TOTAL +2 +0 +100%$", output, re.MULTILINE)
    assert re.match(r"=* ?7 passed in [\d.]+s", output.splitlines()[-1])
    assert runner.main(["-k", "double"]) == 0
    output = capfd.readouterr().out
    assert "workers" not in output
    assert re.match(r"=* ?1 passed, 6 deselected in [\d.]+s", output.splitlines()[-1])


@pytest.mark.parametrize("name", ["example", "languages", "voice_options", "multi_speaker", "tts_service"])
def test_the_users_tests_run_as_scripts(name: str) -> None:
    """Python runs each of them without pytest on the command line, from any folder; arguments go to pytest."""
    done = run(f"tests/test_{name}.py", "--collect-only", "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"test_{name}.py::" in done.stdout


def test_ci_runs_the_command_of_the_readme() -> None:
    """``.ci/run`` is executable and ends with what a person would type."""
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text("utf-8").rstrip().endswith("python3 run_all_tests.py")
    assert PROJECT["project"]["requires-python"] == ">=3.11"
