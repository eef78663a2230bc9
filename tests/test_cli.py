"""The command line: what each command prints, and the exit code of every kind of failure."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import wave
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from project import variables_without

from audio_api.cli import main
from audio_api.emulator import Emulator, Fault
from audio_api.models.languages import Language
from audio_api.models.speech_models import VoiceModel
from audio_api.models.voices import VoiceName
from audio_api.retry import Clock

pytestmark = pytest.mark.measured

KEY = "canary-key-never-shown"
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Take back what setup_logging changes."""
    logger = logging.getLogger("audio_api")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def _key_in_no_output(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever a test left unread of the output holds no key; ``run`` looks at the rest."""
    yield
    assert KEY not in "".join(capfd.readouterr())


@pytest.fixture
def api(gemini_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The emulator as the configured API, on a day before any model's announced end."""
    before_any_end = Clock(now=lambda: datetime(2026, 11, 22, tzinfo=UTC))
    monkeypatch.setattr("audio_api.doctor.live_facts.Clock", lambda: before_any_end)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("GEMINI_BASE_URL", gemini_emulator.url)
    return gemini_emulator


@pytest.mark.parametrize(
    ("options", "name", "mark"),
    [
        (["-o", "hello.mp3"], "hello.mp3", b"ID3"),
        (["-o", "hello", "--format", "opus"], "hello.opus", b"OggS"),
        (["-o", "hello.m4a"], "hello.m4a", b"\0\0\0\x1cftypM4A"),
    ],
)
def test_say_writes_the_format_asked_for(
    options: list[str], name: str, mark: bytes, api: Emulator, tmp_path: Path, capfd: Captured
) -> None:
    """By the ending of FILE, or by ``--format``; the file's path is printed."""
    code, out, err = run(capfd, "say", "Hello there, my friend.", *options)
    assert (code, err) == (0, "")
    assert out.startswith(str(tmp_path / name))
    assert (tmp_path / name).read_bytes().startswith(mark)


def test_say_refuses_a_format_that_the_name_denies(api: Emulator, capfd: Captured) -> None:
    """Exit code 2, one sentence that says which ending would do, and no call."""
    code, out, err = run(capfd, "say", "Hello.", "-o", "hello.wav", "--format", "mp3")
    assert (code, out) == (2, "")
    assert "must end with .mp3" in err
    assert api.calls == []


def run(capfd: Captured, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command; neither holds the key."""
    try:
        code = main(arguments)
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    out, err = capfd.readouterr()
    assert KEY not in out + err
    return code, out, err


def seconds(path: Path) -> float:
    """The length of a WAV, read by the standard library."""
    with wave.open(str(path)) as file:
        return file.getnframes() / file.getframerate()


def test_say_prints_path_seconds_and_cost(api: Emulator, capfd: Captured, tmp_path: Path) -> None:
    """One line on standard output, and nothing else."""
    code, out, err = run(capfd, "say", "Hello there, my friend.", "-o", "hello.wav")
    assert (code, err) == (0, "")
    path, length, cost = out.strip().split("  ")
    assert Path(path) == tmp_path / "hello.wav"
    assert float(length.removesuffix(" s")) == pytest.approx(seconds(Path(path)), abs=0.01)
    assert 0 < float(cost.removeprefix("$")) < 0.01


def test_say_passes_every_option_on(api: Emulator, capfd: Captured) -> None:
    """Voice, language, style, speed, pitch and model reach the API; the file is in OUTPUT_DIR under its own name."""
    options = ["--voice", "Puck", "--language", "de-DE", "--style", "calm", "--speed", "0.8", "--pitch", "1.2"]
    code, out, err = run(capfd, "say", "Guten Tag zusammen.", *options, "--model", "gemini-3.8-flash-lite-tts")
    assert (code, err) == (0, "")
    assert Path(out.split("  ")[0]).parent == Path("output").absolute()
    (call,) = api.calls
    assert call.model == "gemini-3.8-flash-lite-tts"
    assert call.text == "Guten Tag zusammen."
    for word in ("Puck", "de-DE", "calm", "slow"):
        assert word in str(call.body)


def test_say_reads_standard_input(api: Emulator, capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single hyphen stands for it, also as the name of a file."""
    for arguments in (["-"], ["--file", "-"]):
        monkeypatch.setattr(sys, "stdin", standard_input(b"From a pipe, with love.\n"))
        code, _, _ = run(capfd, "say", *arguments, "-o", f"pipe{len(arguments)}.wav")
        assert code == 0
    assert {call.text.strip() for call in api.calls} == {"From a pipe, with love."}


def standard_input(content: bytes) -> io.TextIOWrapper:
    """Standard input as Python opens it without a locale: what it cannot decode becomes halves of surrogate pairs."""
    return io.TextIOWrapper(io.BytesIO(content), "utf-8", errors="surrogateescape")


def test_say_reads_a_file(api: Emulator, capfd: Captured) -> None:
    """A byte order mark, as editors write it, is not sent."""
    Path("notes.txt").write_bytes("\ufeffZwölf Boxkämpfer.\n".encode())
    code, _, _ = run(capfd, "say", "--file", "notes.txt")
    assert code == 0
    assert api.calls[0].text.strip() == "Zwölf Boxkämpfer."


@pytest.mark.parametrize(
    ("name", "options", "spoken"),
    [
        ("notes.md", [], "Hello you."),
        ("NOTES.MARKDOWN", ["--keep", "tables", "--keep", "code"], "Hello you.\n\ncode"),
        ("notes.txt", [], "Hello **you**.\n\n    code"),
        ("notes.txt", ["--markup", "markdown"], "Hello you."),
        ("notes.md", ["--markup", "plain"], "Hello **you**.\n\n    code"),
    ],
)
def test_the_name_of_a_file_or_an_option_says_what_its_marks_mean(
    api: Emulator, capfd: Captured, name: str, options: list[str], spoken: str
) -> None:
    """Markdown is read without its marks; what is left out is told on standard error."""
    Path(name).write_text("Hello **you**.\n\n    code\n")
    code, _, err = run(capfd, "say", "--file", name, *options)
    assert code == 0
    assert api.calls[0].text.strip() == spoken
    assert ("left out of the Markdown: 1 code block" in err) == ("code" not in spoken)


def test_a_setting_says_what_marks_mean(api: Emulator, capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every text that does not say so itself."""
    monkeypatch.setenv("MARKUP", "Markdown")
    assert run(capfd, "say", "Hello **you**.")[0] == 0
    assert run(capfd, "say", "--markup", "plain", "Hello **me**.")[0] == 0
    assert [call.text.strip() for call in api.calls] == ["Hello you.", "Hello **me**."]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["Hello", "--keep", "code"], "--keep goes with --markup markdown"),
        (["--file", "gone.txt"], "audio-api: cannot read 'gone.txt': No such file or directory\n"),
        (["--file", "."], "audio-api: cannot read '.': Is a directory\n"),
        (["Hello", "--file", "gone.txt"], "TEXT and --file exclude each other"),
        ([], "there is nothing to speak: give a TEXT, --file PATH, or - for standard input"),
    ],
)
def test_a_text_comes_from_one_place_that_can_be_read(capfd: Captured, arguments: list[str], problem: str) -> None:
    """A file that cannot be read, two texts, and none are wrong commands."""
    code, out, err = run(capfd, "say", *arguments, "--offline")
    assert (code, out) == (2, "")
    assert problem in err


def test_say_keeps_an_existing_file(api: Emulator, capfd: Captured) -> None:
    """Without --overwrite nothing is sent and nothing lost; with it the file is replaced."""
    file = Path("hello.wav")
    file.write_text("mine")
    code, out, err = run(capfd, "say", "Hello there.", "-o", "hello.wav")
    assert (code, out, api.calls) == (1, "", [])
    assert err.count("\n") == 1
    assert file.read_text() == "mine"
    code, _, _ = run(capfd, "say", "Hello there.", "-o", "hello.wav", "--overwrite")
    assert code == 0
    assert seconds(file) > 0.5


def test_say_offline_tells_that_it_is_a_robot(capfd: Captured) -> None:
    """No key and no network; the cost is nothing, and a line on standard error says who spoke."""
    code, out, err = run(capfd, "say", "Hello there.", "--offline", "-o", "robot.wav")
    assert code == 0
    assert out.rstrip().endswith("$0.0000")
    assert "warning" in err
    assert "robotic" in err
    assert seconds(Path("robot.wav")) > 0.5


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["say", "Hello."], "GEMINI_API_KEY"),
        (["say", "Hello.", "--voice", "nobody"], "unknown voice 'nobody'"),
        (["say", "Hello.", "--speed", "9"], "--speed: must be less than or equal to 3"),
        (["say", "..."], "nothing to speak"),
        (["say", "Hello.", "-o", "hello.wma"], "must end with .wav, .mp3"),
        (["say", "สวัสดี", "--language", "th-TH", "--offline"], "th-TH"),
        (["say", "Hello.", "--speed", "fast"], "--speed: must be a valid number"),
        (["say"], "TEXT"),
        (["sing"], "no such command 'sing': to speak a text, audio-api say TEXT"),
        ([], "name a command, such as say"),
        (["doctor", "--live"], "GEMINI_API_KEY"),
    ],
)
def test_what_is_wrong_exits_with_2(capfd: Captured, arguments: list[str], expected: str) -> None:
    """The command, a setting or the text is to be corrected; the reason is on standard error."""
    code, out, err = run(capfd, *arguments)
    assert (code, out) == (2, "")
    assert expected in err


def zipped(name: str, content: str) -> bytes:
    """An archive of one uncompressed file, as an EPUB begins."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr(name, content)
    return archive.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        "Zwölf Boxkämpfer".encode("latin-1"),
        "Hello".encode("utf-16"),
        "Hello".encode("utf-16-le"),
        "Hello".encode("utf-32"),
        "日本語".encode("shift-jis"),
        zipped("mimetype", "application/epub+zip"),
        b"RIFF\x24\0\0\0WAVEfmt ",
    ],
    ids=["Latin-1", "UTF-16", "UTF-16 without mark", "UTF-32", "Shift JIS", "an EPUB", "a WAV"],
)
def test_what_is_no_text_exits_with_2(capfd: Captured, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Bytes that are no UTF-8 are no text to speak, wherever they come from, and whatever the locale."""
    monkeypatch.setattr(sys, "stdin", standard_input(content))
    assert run(capfd, "say", "-", "--offline") == (2, "", "audio-api: standard input is not UTF-8 text\n")
    Path("file.txt").write_bytes(content)
    assert run(capfd, "say", "--file", "file.txt", "--offline") == (2, "", "audio-api: file.txt is not UTF-8 text\n")


@pytest.mark.parametrize("locale", [{}, {"LC_ALL": "C"}, {"LC_ALL": "C.UTF-8"}, {"PYTHONUTF8": "0", "LC_ALL": "C"}])
def test_the_locale_does_not_matter(locale: dict[str, str]) -> None:
    """A real process says the same of Latin-1, on standard input and as an argument, with LANG unset or not."""
    variables = variables_without("LANG", "LC_", "PYTHONUTF8", "PYTHONIOENCODING") | locale
    latin, offline = "Zwölf".encode("latin-1"), ["--offline", "-o", "latin.wav"]
    for text, source in ((b"-", "standard input"), (latin, "the argument")):
        command = [sys.executable, "-m", "audio_api", "say", text, *offline]
        done = subprocess.run(command, input=latin, capture_output=True, env=variables, check=False)
        assert (done.returncode, done.stderr.decode()) == (2, f"audio-api: {source} is not UTF-8 text\n")


@pytest.mark.parametrize(("fault", "expected"), [(Fault.API_KEY_INVALID, 1), (Fault.UNAVAILABLE_503, 3)])
def test_a_failure_is_one_line(
    api: Emulator, capfd: Captured, monkeypatch: pytest.MonkeyPatch, fault: Fault, expected: int
) -> None:
    """Exit code 1 when it failed for good, 3 when trying again later may help; one line says why."""
    monkeypatch.setenv("RETRY_ATTEMPTS", "1")
    api.fail_next(fault)
    code, out, err = run(capfd, "say", "Hello there.")
    assert (code, out) == (expected, "")
    assert err.startswith("audio-api: ")
    assert err.count("\n") == 1


def test_log_level_shows_the_events(api: Emulator, capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal belongs to the results, until LOG_LEVEL asks for more; the text is in no event."""
    monkeypatch.setenv("LOG_LEVEL", "INFO")
    code, _, err = run(capfd, "say", "A secret sentence.")
    assert code == 0
    assert "speech made" in err
    assert "secret sentence" not in err


def test_an_unknown_price_is_said(api: Emulator, capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """No price is made up."""
    monkeypatch.setattr("audio_api.models.speech_models.ModelSpec.price", lambda *_: None)
    code, out, _ = run(capfd, "say", "Hello there.")
    assert code == 0
    assert out.rstrip().endswith("cost unknown")


def test_ctrl_c_exits_with_130(capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted is neither failed nor done, and no traceback."""

    class Interrupted(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Interrupted()))
    assert run(capfd, "say", "-", "--offline") == (130, "", "")


def test_voices_are_listed(capfd: Captured) -> None:
    """Each with its character."""
    code, out, _ = run(capfd, "voices")
    assert code == 0
    assert [tuple(line.split()) for line in out.splitlines()] == [(str(v), v.character) for v in VoiceName]


def test_languages_are_listed(capfd: Captured) -> None:
    """Each with its code."""
    code, out, _ = run(capfd, "languages")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [str(language) for language in Language]
    assert "German (Germany)" in out


def test_models_are_listed(capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with its price, its end and its successor; the default is marked."""
    code, out, _ = run(capfd, "models")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert list(lines) == [str(model) for model in VoiceModel]
    assert "default" in lines["gemini-3.8-flash-tts"]
    assert "20.00" in lines["gemini-3.1-flash-tts-preview"]
    assert "then gemini-3.8-flash-lite-tts" in lines["gemini-3.1-flash-tts-preview"]
    monkeypatch.setattr("audio_api.models.speech_models.ModelSpec.price", lambda *_: None)
    assert "price unknown" in run(capfd, "models")[1]


def test_doctor_prints_a_line_for_each_check(api: Emulator, capfd: Captured) -> None:
    """Exit code 0 when nothing fails."""
    code, out, err = run(capfd, "doctor")
    assert (code, err) == (0, "")
    assert all(line.split()[0] in {"ok", "warn"} for line in out.splitlines())
    assert "ok    Gemini API: knows gemini-3.8-flash-tts" in out


def test_doctor_fails_when_a_check_does(capfd: Captured) -> None:
    """Exit code 1, and what to do."""
    code, out, _ = run(capfd, "doctor")
    assert code == 1
    assert "fail  API key: no Gemini API key: set GEMINI_API_KEY" in out


def live_lines(out: str) -> list[str]:
    """The lines of the facts: between the estimate and the total."""
    first, *facts, last = out.splitlines()
    assert first.startswith("20 short calls and a batch, which takes minutes: at most $0.0")
    assert "by the tokens they were billed" in last
    return facts


def test_doctor_live_prints_every_fact(api: Emulator, capfd: Captured) -> None:
    """The estimate comes first, the measured cost last; progress is on standard error."""
    code, out, err = run(capfd, "doctor", "--live", "--yes")
    facts = live_lines(out)
    assert code == 0
    assert [int(line.split()[0]) for line in facts] == list(range(1, 22))
    assert "temperature: assumed 3.8 refuses it, so it is never sent; observed 0.7: HTTP 400" in facts[2]
    assert err.splitlines()[0] == "asking: v1"
    calls = [call for call in api.calls if "/batches/" not in call.path]
    assert len(calls) == len(err.splitlines()) == 21


@pytest.mark.parametrize("fault", [Fault.API_KEY_INVALID, Fault.CONTENT_EMPTY])
def test_doctor_live_fails_when_a_fact_differs_or_none_holds(api: Emulator, capfd: Captured, fault: Fault) -> None:
    """A report that confirms nothing, or refutes something, is no success."""
    api.faults = lambda _: fault
    if fault is Fault.API_KEY_INVALID:
        api.api_key = "another-key"
    code, out, _ = run(capfd, "doctor", "--live")
    assert code == 1
    assert len(live_lines(out)) == 21


class Terminal(io.StringIO):
    """A person at a keyboard."""

    def isatty(self) -> bool:
        """Yes."""
        return True


@pytest.mark.parametrize(("answer", "code", "calls"), [("y\n", 0, 21), ("\n", 1, 0), ("no\n", 1, 0), ("", 130, 0)])
def test_doctor_live_asks_before_it_spends(
    api: Emulator, capfd: Captured, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, calls: int
) -> None:
    """On a terminal only a yes starts the calls, and the estimate was shown before; the end of input is a no."""
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    exit_code, out, _ = run(capfd, "doctor", "--live")
    made = [call for call in api.calls if "/batches/" not in call.path]
    assert (exit_code, len(made)) == (code, calls)
    assert out.index("at most $0.0") < out.index("Go on?")


@pytest.mark.parametrize(
    "command", [[sys.executable, "-m", "audio_api"], [str(Path(sys.executable).parent / "audio-api")]]
)
def test_both_names_of_the_program(command: list[str]) -> None:
    """``python -m audio_api`` and ``audio-api`` are the same; the exit code reaches the shell."""
    done = subprocess.run([*command, "voices"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("zephyr")
    done = subprocess.run([*command, "say", "..."], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_output_without_a_reader_is_told_in_a_line_or_not_at_all() -> None:
    """A full disk is said; a reader that has seen enough, such as ``head``, is no reason to complain."""
    voices = [sys.executable, "-m", "audio_api", "voices"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(voices, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "audio-api: cannot print: No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as left:
        done = subprocess.run(voices, stdout=left, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_name_that_the_terminal_cannot_show_is_no_failure(tmp_path: Path) -> None:
    """The speech is there, and its path is printed as well as it can be."""
    done = subprocess.run(
        [sys.executable, "-m", "audio_api", "say", "Hello there.", "--offline", "-o", str(tmp_path / "grün.wav")],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(rf"{tmp_path}/gr\xfcn.wav  ")
    assert (tmp_path / "grün.wav").exists()


@pytest.mark.parametrize("has_room", [True, False])
def test_sound_that_could_not_be_saved_is_put_where_there_is_room(
    tmp_path: Path, mount: Callable[..., Path], has_room: bool
) -> None:
    """A disk that fills up costs the name, not the sound; where there is no room either, that is said."""
    full = mount("size=8k")
    rescue = tmp_path if has_room else full
    done = subprocess.run(
        [sys.executable, "-m", "audio_api", "say", "Hello there.", "--offline", "-o", str(full / "robot.wav")],
        env={**os.environ, "TMPDIR": str(rescue)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    error, rescued = done.stderr.splitlines()
    assert "robot.wav': No space left on device" in error
    assert not (full / "robot.wav").exists()
    if not has_room:
        assert rescued == "audio-api: nor can it be written to the temporary folder: No space left on device"
        assert list(full.iterdir()) == []
        return
    (file,) = tmp_path.glob("audio-api-*.wav")
    assert rescued == f"audio-api: the sound is complete in {str(file)!r}"
    with wave.open(str(file)) as sound:
        assert sound.getnframes() > 10_000
