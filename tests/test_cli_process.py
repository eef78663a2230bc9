"""The command line as a process of its own: closed streams, deleted folders, signals, hostile names of files."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import unicodedata
from contextlib import nullcontext
from pathlib import Path

import pytest
from own_time import block_until
from project import variables_without

import audio_api
from audio_api import TTSOutputError, TTSValidationError, say
from audio_api.cli import main
from audio_api.config import AudioConfig
from audio_api.emulator import Emulator, Fault

pytestmark = pytest.mark.measured

AUDIO_API = f"{shlex.quote(sys.executable)} -m audio_api"
OFFLINE = AudioConfig(tts_engine="offline", _env_file=None)


def shell(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell in which ``$A`` is the command line."""
    return subprocess.run(
        ["sh", "-c", script], env=os.environ | {"A": AUDIO_API} | variables, capture_output=True, text=True, timeout=600
    )


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The only line on standard error, without the command's name."""
    assert re.fullmatch(r"audio-api: .+\n", done.stderr), done.stderr
    return done.stderr.removeprefix("audio-api: ").rstrip()


def test_the_version_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    """``--version`` names the package and its version."""
    assert main(["--version"]) == 0
    assert capfd.readouterr().out == f"audio-api {audio_api.__version__}\n"


@pytest.mark.parametrize("text", ["-", "--file -"])
def test_a_closed_standard_input_is_one_sentence(text: str) -> None:
    """There is nothing to read."""
    done = shell(f"$A say {text} --offline <&-")
    assert (done.returncode, one_sentence(done)) == (2, "standard input is closed")


def test_closed_streams_do_not_meet_the_file() -> None:
    """The numbers of closed streams are not given to the WAV, whose bytes a message would destroy."""
    done = shell("$A say 'Hello there.' --offline -o spoken.wav <&- >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert Path("spoken.wav").read_bytes()[:4] == b"RIFF"


@pytest.mark.parametrize("redirection", [">/dev/full", "2>/dev/full", ">/dev/full 2>/dev/full", "2>&-"])
def test_an_output_that_takes_nothing_is_no_traceback(redirection: str) -> None:
    """What cannot be printed is at most a sentence; a complaint that cannot be shown changes no exit code."""
    done = shell(f"$A voices {redirection}; echo $?; $A say hi --voice nobody {redirection}; echo $?")
    codes = re.findall(r"^\d+$", done.stdout, re.MULTILINE)
    assert codes == ["1" if redirection.startswith(">") else "0", "2"]
    assert "Traceback" not in done.stderr + done.stdout
    assert "Exception ignored" not in done.stderr


def in_deleted_folder(command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a working folder that was deleted."""
    return shell(f"mkdir gone && cd gone && rmdir ../gone && $A {command}", **variables)


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        ("say Hello. --offline", 1, "the working folder was deleted"),
        ("say Hello. --offline -o hello.wav", 1, "the working folder was deleted"),
        ("say --file hello.txt --offline", 2, "cannot read 'hello.txt'"),
        ("worker", 2, "OUTPUT_DIR='output' takes no files"),
    ],
)
def test_a_deleted_working_folder_is_one_sentence(command: str, code: int, told: str) -> None:
    """What needs the folder says so."""
    done = in_deleted_folder(command, TTS_ENGINE="offline", USE_REDIS="true")
    assert done.returncode == code
    assert told in one_sentence(done)


def test_what_needs_no_working_folder_goes_on_without_it(tmp_path: Path) -> None:
    """Lists are printed, a file elsewhere is written, and the doctor comes to its end."""
    assert in_deleted_folder("models").returncode == 0
    spoken = in_deleted_folder(f"say Hello. --offline -o {tmp_path}/elsewhere.wav")
    assert spoken.returncode == 0, spoken.stderr
    assert (tmp_path / "elsewhere.wav").exists()
    found = in_deleted_folder("doctor", TTS_ENGINE="offline")
    assert found.stderr == ""
    assert "none in the working folder, which was deleted" in found.stdout
    assert "fail  output folder" in found.stdout
    assert found.stdout.splitlines()[-1].startswith("ok    Gemini API")


@pytest.mark.parametrize(
    ("language", "meant"),
    [("en_US", "en-US"), ("de_AT.UTF-8", "de-AT"), ("German", "de-DE"), ("english", "en-US"), ("Portugese", "pt-BR"),
     ("zh_hant_tw", "zh-Hant-TW"), ("Klingon", None), ("\N{SNOWMAN}", None)],
)  # fmt: skip
def test_a_language_that_is_none_is_answered_with_a_proposal(
    language: str, meant: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the words of the command line."""
    assert main(["say", "Hello.", "--offline", "--language", language]) == 2
    told = capfd.readouterr().err
    assert told.startswith(f"audio-api: --language: {language!r} is no language code; ")
    assert (f"did you mean {meant}?" in told) == (meant is not None)
    assert "Language." not in told


def test_a_taken_name_is_told_in_the_words_of_the_command_line(capfd: pytest.CaptureFixture[str]) -> None:
    """The option is ``--overwrite``; ``overwrite=True`` is Python."""
    Path("taken.wav").touch()
    assert main(["say", "Hello.", "--offline", "-o", "taken.wav"]) == 1
    told = capfd.readouterr().err
    assert "use --overwrite" in told
    assert "overwrite=True" not in told


UNWRITABLE = ["a" * 300 + ".wav", "a\0b.wav", "\0/b.wav", "~no-such-user/x.wav", "\ud800/x.wav", "\udcff.wav",
              "a/" * 3000 + "x.wav", "a" * 300 + "/x.wav", "/proc/x.wav", "/dev/null/x.wav", "..", "."]  # fmt: skip


@pytest.mark.parametrize("path", UNWRITABLE, ids=range(len(UNWRITABLE)))
def test_a_path_that_cannot_be_written_is_told_before_any_call(
    path: str, gemini_emulator: Emulator, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever is wrong with it, it is an error of the library; on the command line it is one sentence."""
    monkeypatch.setenv("GEMINI_API_KEY", "key")
    monkeypatch.setenv("GEMINI_BASE_URL", gemini_emulator.url)
    for subtitles in ((), ("srt",)):
        with pytest.raises((TTSOutputError, TTSValidationError)):
            say("Hello.", path, subtitles=subtitles)
    assert main(["say", "Hello.", "-o", path]) in {1, 2}
    assert re.fullmatch(r"audio-api: (cannot write .+|.+ is a folder: .+)\n", capfd.readouterr().err)
    assert gemini_emulator.calls == []


def test_a_folder_that_one_may_not_enter_is_told_before_any_call(tmp_path: Path) -> None:
    """A real user without rights is told so, at both doors."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o700)
    (tmp_path / "open").mkdir()
    for folder in (tmp_path, tmp_path.parent, tmp_path.parents[1]):
        folder.chmod(folder.stat().st_mode | 0o011)
    (tmp_path / "open").chmod(0o777)
    as_another_user = (
        "import os, sys\nfrom audio_api import cli, say, TTSOutputError\n"
        "say('This imports everything, which a user without rights might not.', 'warm.wav')\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try:\n    say('Hello.', sys.argv[1])\nexcept TTSOutputError as error:\n    print(error)\n"
        "sys.exit(cli.main(['say', 'Hello.', '-o', sys.argv[1]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", as_another_user, str(locked / "x.wav")],
        cwd=tmp_path / "open",
        # Coverage writes where this user may not.
        env=variables_without("COVERAGE_") | {"TTS_ENGINE": "offline", "HOME": str(tmp_path / "open")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    told = f"cannot write '{locked / 'x.wav'}': Permission denied (EACCES)"
    assert (done.stdout, done.stderr.splitlines()[-1]) == (f"{told}\n", f"audio-api: {told}")


@pytest.mark.parametrize("there", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
def test_no_second_file_looks_the_same(there: str, asked: str) -> None:
    """A name is composed; a file whose name is not stays the only one of its looks, and is told."""
    name = "Amélie.wav"
    normal = unicodedata.normalize
    Path(normal(there, name)).write_text("older")
    told = pytest.raises(TTSOutputError, match="decomposed accents") if there == "NFD" else nullcontext()
    with told:
        say("Hello.", normal(asked, name), config=OFFLINE, overwrite=True)
    files = [each.name for each in Path().glob("*.wav")]
    assert files == [normal(there, name)]
    assert (Path(files[0]).read_bytes()[:4] == b"RIFF") == (there == "NFC")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("before", ["", "trap '' INT; "], ids=["", "Ctrl-C ignored"])
def test_a_signal_leaves_no_draft(number: signal.Signals, before: str, gemini_emulator: Emulator) -> None:
    """A process that is told to end removes what it has begun, and dies of the signal; it may ignore Ctrl-C."""
    text = "This sentence is spoken first. " * 200
    gemini_emulator.fail_next(Fault.NEVER_ANSWERS)
    process = subprocess.Popen(
        ["sh", "-c", f"{before}exec {AUDIO_API} say '{text}' -o long.wav"],
        env=os.environ | {"GEMINI_API_KEY": "key", "GEMINI_BASE_URL": gemini_emulator.url, "PIECE_CONCURRENCY": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    block_until(lambda: list(Path().glob(".long*.tmp")))
    if before:
        process.send_signal(signal.SIGINT)
    process.send_signal(number)
    _, told = process.communicate(timeout=600)
    assert (process.returncode, told) == (-number, b"")
    assert not [path for path in Path().iterdir() if path.name.startswith(".long")]


INTERRUPTED_IMPORT = """
import os, runpy, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "pydantic":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
runpy.run_module("audio_api", run_name="__main__")
"""


def test_an_interrupted_import_is_no_traceback() -> None:
    """Ctrl-C ends the command quietly also before it has begun."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_IMPORT, "voices"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
