"""``audio-api say``: texts as people type them, names, dialogues, pipes, players, terminals, and Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
import unicodedata
import wave
from pathlib import Path

import pytest
from books import kept_pieces
from decoded import decoded
from hypothesis import given
from hypothesis import strategies as st
from terminals import AUDIO_API, on_terminal

from audio_api.cli import main
from audio_api.cli.players import PLAYERS
from audio_api.cli.saying import readable_name
from audio_api.config import AudioConfig
from audio_api.emulator import Emulator, Fault
from audio_api.models.audio_request import AudioRequest
from audio_api.models.filenames import safe_filename

pytestmark = pytest.mark.usefixtures("emulator_in_environment")

Captured = pytest.CaptureFixture[str]
TALK = "Alice: Hello there, Bob.\nBob: Good morning to you."
LONG = " ".join(f"This is sentence number {number} of a text that takes several calls." for number in range(120))
CONFIG = AudioConfig(_env_file=None)


def say(capfd: Captured, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``say``."""
    return main(["say", *arguments]), *capfd.readouterr()


def seconds(wav: bytes) -> float:
    """The length of a WAV, read by the standard library."""
    with wave.open(io.BytesIO(wav)) as file:
        return file.getnframes() / file.getframerate()


# --- texts and names -------------------------------------------------------------------------------------------------


def test_a_text_needs_no_quotes(capfd: Captured, gemini_emulator: Emulator) -> None:
    """Words are joined, wherever options stand between them; behind ``--`` they may begin with a hyphen."""
    assert say(capfd, "Hello", "there,", "--voice", "puck", "my", "friend.")[0] == 0
    assert say(capfd, "--", "-5", "degrees")[0] == 0
    assert [call.text for call in gemini_emulator.calls] == ["Hello there, my friend.", "-5 degrees"]


@pytest.mark.parametrize("words", [["notes.txt"], ["my", "notes.txt"], ["my notes.txt"]])
def test_the_name_of_a_file_is_spoken_with_a_hint(words: list[str], capfd: Captured, gemini_emulator: Emulator) -> None:
    """The hint is the option that speaks what is in the file."""
    Path("notes.txt").touch()
    Path("my notes.txt").touch()
    code, _, err = say(capfd, *words)
    (call,) = gemini_emulator.calls
    assert (code, call.text) == (0, " ".join(words))
    name = words[0] if len(words) == 1 and " " not in words[0] else "'my notes.txt'"
    assert err == f"audio-api: hint: {' '.join(words)!r} is a file, and its name is spoken; its text: --file {name}\n"


def test_a_folder_and_a_missing_file_are_no_reason_for_a_hint(capfd: Captured) -> None:
    """Their names are words."""
    Path("output").mkdir()
    for word in ("output", "missing.txt", "x" * 5_000):
        assert "hint" not in say(capfd, word, "--offline")[2]


def test_a_file_is_called_by_its_first_words_and_found_again(capfd: Captured, gemini_emulator: Emulator) -> None:
    """The same request has the same name, and pays nothing; what sounds otherwise has another."""
    first, again, other = (
        say(capfd, "Hello there, my friend.", *voice)[1].split("  ")[0] for voice in ([], [], ["--voice", "puck"])
    )
    assert re.fullmatch(r"Hello-there-my-friend-[0-9a-f]{8}\.wav", Path(first).name)
    assert first == again != other
    assert len(gemini_emulator.calls) == 2


@given(st.text(min_size=1).filter(lambda text: any(map(str.isalnum, text))))
def test_every_text_gives_a_name_that_a_file_can_have(text: str) -> None:
    """Whatever the words are, the name is short, safe on every system, and the same again."""
    try:
        request = AudioRequest(text=text)
    except ValueError:
        return
    name = readable_name(request, CONFIG)
    assert name == safe_filename(name) == readable_name(request, CONFIG)
    assert re.search(r"-[0-9a-f]{8}\.wav$", name)
    assert len(name) <= 40 + len("-12345678.wav")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("../../etc/passwd", "etc-passwd"),
        ("日本語のテキスト", "日本語のテキスト"),
        ("Ame\u0301lie dit: «oui»", "Amélie-dit-oui"),
        ("नमस्ते दुनिया", "नमस्ते-दुनिया"),
        ("# A title\n\n* item", "A-title-item"),
        ("a" * 300, "a" * 40),
        ("The rain in Spain falls mainly on the plain", "The-rain-in-Spain-falls-mainly-on-the"),
    ],
)
def test_names_are_made_of_words(text: str, name: str) -> None:
    """Letters, marks and digits stay; as many whole words as fit into forty characters."""
    assert readable_name(AudioRequest(text=text), CONFIG).rpartition("-")[0] == unicodedata.normalize("NFC", name)


def test_a_name_that_not_every_system_takes_is_refused_with_one_that_does(
    capfd: Captured, gemini_emulator: Emulator
) -> None:
    """Before any call."""
    code, _, err = say(capfd, "Hello.", "-o", "Chapter 1: The Start.wav")
    assert (code, gemini_emulator.calls) == (2, [])
    assert "without ':', which not every system takes; such as 'Chapter 1 The Start.wav'\n" in err
    assert say(capfd, "Hello.", "-o", "Chapter 1 The Start.wav")[0] == 0


def test_a_bucket_has_the_same_names(capfd: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``OUTPUT_URL`` names gets the file, again and again."""
    monkeypatch.setenv("OUTPUT_URL", f"file://{tmp_path}/bucket")
    outs = {say(capfd, "Hello there, my friend.")[1].split("  ")[0] for _ in range(2)}
    (place,) = outs
    assert place.startswith(f"{tmp_path}/bucket/Hello-there-my-friend-")


# --- dialogues and subtitles -----------------------------------------------------------------------------------------


def test_a_dialogue_has_a_voice_for_each_speaker(capfd: Captured, gemini_emulator: Emulator) -> None:
    """``--speaker`` may be repeated; names are not spoken."""
    code, _, err = say(capfd, TALK, "--speaker", "Alice=leda", "--speaker", "Bob=puck", "-o", "talk.wav")
    assert (code, err) == (0, "")
    assert {name in str(gemini_emulator.calls[0].body) for name in ("Leda", "Puck", "Alice", "Bob")} == {True}


@pytest.mark.parametrize(
    ("speakers", "words"),
    [
        (["Alice"], "--speaker: 'Alice' must be written like Alice=leda"),
        (["Alice=kora"], "did you mean 'kore'"),
        (["Alice=kore", "alice=puck"], "distinct names"),
        (["Alice=kore"], "'Bob'"),
    ],
)
def test_a_wrong_cast_is_told_in_a_line(
    speakers: list[str], words: str, capfd: Captured, gemini_emulator: Emulator
) -> None:
    """Exit code 2, before any call."""
    code, out, err = say(capfd, TALK, *(part for each in speakers for part in ("--speaker", each)))
    assert (code, out, err.count("\n"), gemini_emulator.calls) == (2, "", 1, [])
    assert words in err


def test_subtitles_are_written_and_their_paths_printed(capfd: Captured, tmp_path: Path) -> None:
    """Each kind once, beside the sound."""
    kinds = ["--subtitles", "srt", "--subtitles", "vtt", "--subtitles", "srt"]
    code, out, _ = say(capfd, "Hello there. And goodbye.", "-o", "hello.wav", *kinds)
    assert code == 0
    assert out.splitlines()[1:] == [str(tmp_path / "hello.srt"), str(tmp_path / "hello.vtt")]
    assert "Hello there." in Path("hello.srt").read_text()
    assert Path("hello.vtt").read_text().startswith("WEBVTT")


# --- JSON and pipes --------------------------------------------------------------------------------------------------


def test_json_tells_all_of_a_success(capfd: Captured) -> None:
    """One object on standard output."""
    code, out, err = say(capfd, "Hello there.", "--json", "-o", "hello.wav")
    told = json.loads(out)
    assert (code, err, told["success"]) == (0, "", True)
    assert told["duration"] == pytest.approx(seconds(Path(told["file_path"]).read_bytes()), abs=1e-4)


def test_json_tells_all_of_a_failure(
    capfd: Captured, gemini_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object has the code of the error; people find the sentence on standard error."""
    monkeypatch.setenv("RETRY_ATTEMPTS", "1")
    gemini_emulator.fail_next(Fault.UNAVAILABLE_503)
    code, out, err = say(capfd, "Hello there.", "--json")
    told = json.loads(out)
    assert (code, told["success"], told["error_code"], told["retryable"]) == (3, False, "unavailable", True)
    assert err.count("\n") == 1


def piped(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """``say`` as a process whose standard output is a pipe."""
    return subprocess.run([*AUDIO_API, "say", *arguments], capture_output=True, check=False)


@pytest.mark.parametrize("options", [[], ["--format", "mp3"], ["--stream"], ["--stream", "--format", "mp3"]])
def test_standard_output_takes_the_sound_alone(options: list[str]) -> None:
    """Whole or while it is made, in any format; nothing is left in a folder but finished pieces."""
    done = piped("Hello there, my friend.", "-o", "-", *options)
    assert (done.returncode, done.stderr) == (0, b"")
    kind = options[-1] if "--format" in options else "wav"
    samples = decoded(done.stdout, kind)
    assert len(samples) > 24_000
    assert [path.name for path in Path().iterdir()] == ["output"]
    assert [path.name for path in Path("output").iterdir()] == [".cache"]


def test_a_failure_leaves_standard_output_empty(gemini_emulator: Emulator) -> None:
    """A pipe gets whole sound or none."""
    gemini_emulator.faults = lambda _: Fault.SAFETY
    done = piped("Hello there.", "-o", "-")
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1)


def test_a_reader_that_leaves_is_no_complaint() -> None:
    """As ``head`` does."""
    script = f"{sys.executable} -m audio_api say {'Hello there. ' * 60!r} --stream -o - | head -c 100 | wc -c"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("100", "")


def test_a_stream_into_a_file_is_the_whole_file(capfd: Captured) -> None:
    """Its path is printed as without ``--stream``."""
    code, out, _ = say(capfd, "Hello there, my friend.", "--stream", "-o", "hello.wav")
    assert code == 0
    assert f"  {seconds(Path('hello.wav').read_bytes()):.2f} s  $" in out


def test_sound_is_nothing_for_a_terminal(gemini_emulator: Emulator) -> None:
    """It is refused before any call, with what to do."""
    seen = on_terminal("say", "Hello.", "-o", "-")
    assert seen.code == 2
    assert "redirect standard output" in seen.shown
    assert gemini_emulator.calls == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-o", "-", "--json"], "leave out --json"),
        (["-o", "-", "--play", "--subtitles", "srt"], "leave out --play and --subtitles"),
        (["--stream", "-o", "-", "--format", "m4a"], "--stream cannot give out m4a"),
        (["--stream", "-o", "x.m4a"], "leave out --stream"),
        (["--stream", "--play", "-o", "x.wav"], "leave out --stream"),
        (["--format", "mp4"], "--format: 'mp4' is not one of 'wav'"),
        (["--subtitles", "ass"], "--subtitles: 'ass' is not one of 'srt'"),
        (["--speed", "9"], "--speed: must be less than or equal to 3"),
        (["--keep", "code"], "--keep goes with --markup markdown"),
        (["--model", "gemini-2.5-flash-preview-tts", "--voice", "ar-eg-advisor-11"], "those of the command voices"),
        (["--style", "!"], "style must hold at least one word"),
        (["--ouput", "x"], "no such option --ouput: did you mean --output?"),
        (["--voice"], "--voice needs a value"),
        (["-5"], "a text that begins with - stands behind --"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_words_of_the_command_line(
    options: list[str], words: str, gemini_emulator: Emulator
) -> None:
    """One line, exit code 2, no call, and no name of Python."""
    done = piped("Hello there.", *options)
    err = done.stderr.decode()
    assert (done.returncode, done.stdout, err.count("\n"), gemini_emulator.calls) == (2, b"", 1, [])
    assert words in err
    assert not re.search(r"[a-z]_[a-z]|=(True|False|None)|\b[A-Z][a-z]+[A-Z]\w+|\(\)", err)


def test_a_text_that_is_too_long_is_told_what_to_do(capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting may be raised, and a book has no such limit."""
    monkeypatch.setenv("MAX_TEXT_LENGTH", "10")
    code, _, err = say(capfd, "Hello there, my friend.")
    assert code == 2
    assert "MAX_TEXT_LENGTH allows 10: raise that setting, or make a book of it: audio-api book --help" in err


# --- players ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that programs are looked for in."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def put_player(folder: Path, name: str, code: int = 0) -> None:
    """A program that notes its arguments and its input, as machines for tests have no loudspeaker."""
    program = folder / name
    program.write_text(
        f"#!{sys.executable}\nimport sys\nopen('played', 'w').write(' '.join(sys.argv[1:]))\n"
        f"open('heard', 'wb').write(sys.stdin.buffer.read())\nsys.exit({code})\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_the_first_player_that_can_plays_the_file(capfd: Captured, folder: Path) -> None:
    """``ffplay`` before the others; the path is printed before it begins."""
    put_player(folder, "ffplay")
    put_player(folder, "aplay")
    code, out, _ = say(capfd, "Hello there.", "--play", "--format", "mp3")
    path = out.split("  ")[0]
    assert code == 0
    assert path.endswith(".mp3")
    assert Path("played").read_text() == f"-nodisp -autoexit -loglevel error -i {path}"


def test_a_player_is_chosen_by_what_it_plays(capfd: Captured, folder: Path, gemini_emulator: Emulator) -> None:
    """``aplay`` plays WAV alone: what needs another is refused before any call, with the names of those."""
    put_player(folder, "aplay")
    code, _, err = say(capfd, "Hello there.", "--play", "--format", "mp3")
    assert (code, gemini_emulator.calls) == (2, [])
    assert "--play finds no program that plays mp3: install ffplay or afplay" in err
    assert say(capfd, "Hello there.", "--play", "-o", "hello.wav")[0] == 0
    assert Path("played").read_text() == f"-q {Path('hello.wav').absolute()}"


def test_a_player_that_fails_costs_no_sound(capfd: Captured, folder: Path) -> None:
    """Exit code 1; the file is there, and was told."""
    put_player(folder, "aplay", code=7)
    code, out, err = say(capfd, "Hello there.", "--play", "-o", "hello.wav")
    assert (code, err) == (1, "audio-api: the sound could not be played: aplay ended with 7\n")
    assert out.startswith(str(Path("hello.wav").absolute()))
    assert Path("hello.wav").exists()


@pytest.mark.parametrize("name", ["ffplay", "aplay"])
def test_a_stream_is_heard_while_it_is_made(name: str, capfd: Captured, folder: Path) -> None:
    """The player's standard input is a WAV; no file is kept."""
    put_player(folder, name)
    code, out, _ = say(capfd, "Hello there, my friend.", "--play", "--stream")
    assert code == 0
    assert re.fullmatch(r"[\d.]+ s  \$0\.\d{4}\n", out)
    assert len(decoded(Path("heard").read_bytes(), "wav")) == pytest.approx(24_000 * float(out.split()[0]), abs=240)
    assert not list(Path("output").glob("*.wav"))


def test_a_player_of_files_plays_no_stream(capfd: Captured, folder: Path, gemini_emulator: Emulator) -> None:
    """It is told before any call which ones do."""
    put_player(folder, "afplay")
    code, _, err = say(capfd, "Hello there.", "--play", "--stream")
    assert (code, gemini_emulator.calls) == (2, [])
    assert "plays a stream: install ffplay or aplay or sounddevice" in err


def test_sounddevice_plays_where_no_program_is(
    capfd: Captured, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package stands in for a program; this one notes what it gets, as machines for tests have no device."""
    stand_in = (
        "class PortAudioError(Exception): ...\nclass RawOutputStream:\n"
        "    def __init__(self, **options): open('opened', 'w').write(str(options)); self.file = open('heard', 'wb')\n"
        "    def __enter__(self): return self\n    def __exit__(self, *_): self.file.close()\n"
        "    def write(self, frames): self.file.write(frames)\n"
    )
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "sounddevice.py").write_text(stand_in)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    assert say(capfd, "Hello there.", "--play", "-o", "hello.wav")[0] == 0
    assert Path("heard").read_bytes() == Path("hello.wav").read_bytes()[44 : 44 + Path("heard").stat().st_size]
    assert Path("heard").stat().st_size == 2 * round(24_000 * seconds(Path("hello.wav").read_bytes()))
    assert Path("opened").read_text() == "{'samplerate': 24000, 'channels': 1, 'dtype': 'int16'}"
    assert say(capfd, "Hello there.", "--play", "--stream")[0] == 0
    assert Path("heard").stat().st_size > 24_000


def test_the_players_are_tried_in_this_order() -> None:
    """As the docs say."""
    assert [player.name for player in PLAYERS] == ["ffplay", "afplay", "aplay", "sounddevice"]


# --- terminals -------------------------------------------------------------------------------------------------------


def test_progress_is_shown_when_it_takes_more_than_a_second(gemini_emulator: Emulator) -> None:
    """On a terminal, on standard error, and gone at the end; the result stays."""
    gemini_emulator.latency_s = 1.5
    seen = on_terminal("say", LONG, "-o", "long.wav", piped=True)
    assert seen.code == 0
    assert "speaking" in seen.shown
    assert re.search(r"[\d,]+ characters|\d of \d pieces", seen.shown)
    assert seen.out.startswith(str(Path("long.wav").absolute()).encode())
    assert b"\x1b" not in seen.out


QUICK = "import sys; from audio_api.cli import main, terminal; terminal._SHOWN_AFTER_S = 3_600; sys.exit(main())"


@pytest.mark.parametrize(
    ("program", "variables"),
    [(AUDIO_API, {"TERM": "dumb"}), ((sys.executable, "-c", QUICK), {})],
    ids=["dumb", "quick"],
)
def test_no_progress_where_it_would_disturb(
    program: tuple[str, ...], variables: dict[str, str], gemini_emulator: Emulator
) -> None:
    """A terminal that cannot move back, and what is done before a bar would appear, show the result alone."""
    gemini_emulator.latency_s = 1.5
    seen = on_terminal("say", "Hello there.", "-o", "long.wav", program=program, **variables)
    assert seen.code == 0
    assert re.fullmatch(r"\S+long\.wav  [\d.]+ s  \$\d\.\d{4}\r\n", seen.shown)


def interrupted(number: signal.Signals = signal.SIGINT, **variables: str) -> tuple[int, str]:
    """The exit code and standard error of a long text that is ended when a piece of it is kept."""
    process = subprocess.Popen(
        [*AUDIO_API, "say", LONG, "-o", "long.wav"],
        env={**os.environ, "PIECE_CONCURRENCY": "1", **variables},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 600
    while not kept_pieces(Path("output")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate()
    return process.returncode, err


def test_ctrl_c_tells_what_is_kept_and_what_goes_on(gemini_emulator: Emulator, capfd: Captured) -> None:
    """The same command pays only for the rest."""
    gemini_emulator.faults = lambda call: Fault.NEVER_ANSWERS if "sentence number 0 " not in call.text else None
    code, err = interrupted()
    assert code == 130
    assert re.fullmatch(
        r"audio-api: interrupted; (1 of \d+|finished) pieces are kept: the same command goes on from there\n", err
    )
    assert not Path("long.wav").exists()
    calls = len(gemini_emulator.calls)
    gemini_emulator.faults = None
    assert say(capfd, LONG, "-o", "long.wav")[0] == 0
    assert not any("sentence number 0 " in call.text for call in gemini_emulator.calls[calls:])


def test_another_signal_is_told_nothing(gemini_emulator: Emulator) -> None:
    """The one who sends SIGTERM reads no advice."""
    gemini_emulator.faults = lambda call: Fault.NEVER_ANSWERS if "sentence number 0 " not in call.text else None
    assert interrupted(signal.SIGTERM) == (-signal.SIGTERM, "")


# --- estimates -------------------------------------------------------------------------------------------------------


def estimate(capfd: Captured, *arguments: str) -> dict[str, str]:
    """The rows that ``estimate`` prints."""
    assert main(["estimate", *arguments]) == 0
    return {line[:15].strip(): line[15:].strip() for line in capfd.readouterr().out.splitlines()}


def test_an_estimate_costs_nothing(capfd: Captured, gemini_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Characters, time, calls, cost and the time at the quota; what is kept is not counted."""
    monkeypatch.setenv("RATE_LIMIT_RPM", "1")
    rows = estimate(capfd, LONG)
    calls = int(rows["calls"])
    # White space between pieces is not spoken.
    assert len(LONG) - calls <= int(rows["characters"].replace(",", "")) <= len(LONG)
    assert calls > 1
    assert rows["waits at quota"] == f"0:{calls - 1:02}:00 (RATE_LIMIT_RPM=1)"
    assert re.fullmatch(r"\$0\.\d{4} \(batch \$0\.\d{4}, flex .*", rows["cost at most"])
    assert rows["time to hear"].startswith("0:0")
    assert {call.action for call in gemini_emulator.calls} <= {"countTokens"}
    assert say(capfd, LONG)[0] == 0
    assert rows["calls"] != estimate(capfd, LONG)["calls"]


def test_an_estimate_without_a_quota_says_how_to_have_one(capfd: Captured) -> None:
    """As JSON, too."""
    assert "set RATE_LIMIT_RPM and RATE_LIMIT_RPD" in estimate(capfd, "Hello there.")["waits at quota"]
    assert main(["estimate", "Hello there.", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["calls"], told["quota_wait_s"], told["characters"]) == (1, None, 12)


# --- the cache -------------------------------------------------------------------------------------------------------


def test_the_cache_is_measured_and_cleared(capfd: Captured, gemini_emulator: Emulator) -> None:
    """What is removed is paid for again; other files of the folder stay."""
    assert main(["cache", "size"]) == 0
    assert capfd.readouterr().out.startswith("0 pieces, 0.0 MB of 1,073.7 MB at most, in output/.cache")
    say(capfd, "Hello there, my friend.")
    Path("output/.cache/mine.txt").touch()
    assert main(["cache", "size", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    (piece,) = Path("output/.cache").glob("*.piece.wav")
    assert (told["pieces"], told["bytes"]) == (1, piece.stat().st_size)
    assert main(["cache", "clear", "--yes"]) == 0
    assert capfd.readouterr().out.startswith("removed 1 pieces")
    assert not piece.exists()
    assert Path("output/.cache/mine.txt").exists()
    say(capfd, "Hello there, my friend.")
    assert len(gemini_emulator.calls) == 2


@pytest.mark.parametrize(("typed", "code", "kept"), [("n\n", 1, 1), ("\n", 1, 1), ("y\n", 0, 0)])
def test_a_person_is_asked_before_the_cache_is_cleared(typed: str, code: int, kept: int, capfd: Captured) -> None:
    """Only a yes removes what was paid for."""
    say(capfd, "Hello there, my friend.")
    seen = on_terminal("cache", "clear", typed=typed)
    assert "Remove 1 pieces" in seen.shown
    assert (seen.code, kept_pieces(Path("output"))) == (code, kept)


def test_a_text_may_be_typed(capfd: Captured, gemini_emulator: Emulator) -> None:
    """A terminal as standard input is told how the text ends."""
    seen = on_terminal("say", "-", "-o", "typed.wav", typed="Hello there.\n\x04")
    assert seen.code == 0
    assert "reading standard input; Ctrl-D ends the text" in seen.shown
    assert [call.text.strip() for call in gemini_emulator.calls] == ["Hello there."]
