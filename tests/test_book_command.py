"""``audio-api book``: what it lists, prints, keeps and refuses; in a pipe, on a terminal and through workers."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from books import kept_pieces
from epubs import MAKERS, packed
from own_time import block_until
from project import ROOT
from test_epub import simple
from worker_parts import site

from audio_api.cli import main
from audio_api.cli.audiobook import chosen
from audio_api.emulator import Emulator, Fault
from audio_api.errors import TTSValidationError

pytestmark = pytest.mark.measured

Captured = pytest.CaptureFixture[str]
TEXT = (
    "# The River\n\n## One\n\nIt rained on Hermione.\n\n## Two\n\nIt stopped. [pause 2s] Then it rained.\n\n|a|\n|-|\n"
)


@pytest.fixture(autouse=True)
def _book(emulator_in_environment: None) -> None:
    """The emulator as the configured API, and a book in the working folder."""
    Path("river.md").write_text(TEXT)


def run(capfd: Captured, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    try:
        code = main(["book", *arguments])
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    return code, *capfd.readouterr()


def test_the_list_tells_characters_minutes_and_cost(gemini_emulator: Emulator, capfd: Captured) -> None:
    """Before anything is paid; in all, too, and as JSON."""
    code, out, err = run(capfd, "river.md", "--list")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "The River"
    assert lines[1].split() == ["characters", "time", "at", "most"]
    assert [line.split()[:3] for line in lines[2:]] == [["1", "One", "36"], ["2", "Two", "29"], ["in", "all", "65"]]
    assert all(line.split()[-1].startswith("$0.0") for line in lines[2:])
    assert "left out of the Markdown: 1 table" in err
    listed = json.loads(run(capfd, "river.md", "--list", "--json")[1])
    assert [chapter["characters"] for chapter in listed["chapters"]] == [36, 29]
    assert gemini_emulator.calls == []


def test_a_book_becomes_an_m4b(capfd: Captured, gemini_emulator: Emulator) -> None:
    """One line tells its path, length and cost; the next run is told that it is there."""
    code, out, err = run(capfd, "river.md", "--pause", "heading=0.5", "chapter=1", "--voice", "puck", "--style", "calm")
    assert code == 0
    path, length, cost = out.strip().rsplit("  ", 2)
    assert path == str(Path("output/The River.m4b").absolute())
    assert length.startswith("0:00:")
    assert cost.startswith("$0.00")
    assert "1 table" in err
    assert "\r" not in err
    assert {"Puck" in str(call.body) and "calm" in str(call.body) for call in gemini_emulator.calls} == {True}
    code, _, err = run(capfd, "river.md")
    assert code == 1
    assert "The River.m4b' exists already: choose another name, or use --overwrite" in err


def test_an_epub_from_standard_input(capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hyphen stands for it."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(packed(MAKERS["sigil"]().files))))
    code, out, _ = run(capfd, "-", "--list")
    assert code == 0
    assert "Chapter II" in out


def test_words_of_a_lexicon_are_replaced_and_listed(capfd: Captured, gemini_emulator: Emulator) -> None:
    """Whole words only."""
    Path("words").write_text("Hermione = Her-my-oh-nee\nrain = x\n")
    code, _, err = run(capfd, "river.md", "--lexicon", "words", "--chapters", "1")
    assert code == 0
    assert "It rained on Her-my-oh-nee." in {call.text for call in gemini_emulator.calls}
    assert "replaced: Hermione 1\n" in err


def test_a_sample_is_one_chapter(capfd: Captured, gemini_emulator: Emulator) -> None:
    """In a file of its own, so that the book can still be made."""
    code, out, _ = run(capfd, "river.md", "--sample")
    assert code == 0
    assert "The River (sample).m4b" in out
    assert not any("stopped" in call.text for call in gemini_emulator.calls)


def test_a_cast_speaks(capfd: Captured, gemini_emulator: Emulator) -> None:
    """Each in the voice that the command names."""
    Path("talk.txt").write_text("Alice: Hello there.\n\nBob: Good morning.\n")
    code, _, _ = run(capfd, "talk.txt", "--cast", "Alice=leda", "Bob=puck", "--no-titles")
    assert code == 0
    assert {name in str(gemini_emulator.calls[0].body) for name in ("Leda", "Puck")} == {True}


def test_files_of_chapters_and_a_feed(capfd: Captured) -> None:
    """``--rss`` implies mp3; a second run finds all of it."""
    for _ in range(2):
        code, out, _ = run(capfd, "river.md", "--rss", "https://example.org/river")
        assert code == 0
        assert out.splitlines()[1].endswith("output/The River/podcast.xml")
    assert sorted(path.name for path in Path("output/The River").iterdir()) == [
        "01 One.mp3",
        "02 Two.mp3",
        "book.json",
        "podcast.xml",
    ]
    assert "made" in run(capfd, "river.md", "--format", "mp3", "--list")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.epub"], "cannot read 'missing.epub': No such file"),
        (["river.md", "--chapters", "3"], "'3' is not within 1-2; --list shows them"),
        (["river.md", "--chapters", "x"], "'x' is no chapter; write 3, 3-5 or 1,4,7-"),
        (["river.md", "--pause", "heading"], "'heading' must be written like heading=1.2"),
        (["river.md", "--pause", "page=1"], "'page' is no rule; heading, chapter, scene are"),
        (["river.md", "--pause", "scene=long"], "scene=long is no number of seconds"),
        (["river.md", "--pause", "scene=-1"], "the pause scene takes 0 to 60 seconds, not -1.0"),
        (["river.md", "--cast", "Alice"], "'Alice' must be written like Alice=leda"),
        (["river.md", "--cast", "Alice=kora"], "kora"),
        (["river.md", "--lexicon", "none"], "cannot read the lexicon 'none'"),
        (["river.md", "--rss", "ftp://x", "--format", "mp3"], "must be where the files will be"),
        (["river.md", "-o", "a.mp3"], "must end with .m4b"),
        (["river.md", "--language", "German"], "did you mean de-DE?"),
        (["river.md", "--queue"], "set USE_REDIS=true and REDIS_URL"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], words: str, capfd: Captured, gemini_emulator: Emulator
) -> None:
    """Exit code 2, in the command's own words, before any call."""
    code, out, err = run(capfd, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert gemini_emulator.calls == []


def test_a_missing_chapter_is_named(capfd: Captured, gemini_emulator: Emulator) -> None:
    """Exit code 1; the same command makes only that one."""
    gemini_emulator.faults = lambda call: Fault.SAFETY if "stopped" in call.text else None
    code, out, err = run(capfd, "river.md")
    assert (code, out) == (1, "")
    assert "audio-api: chapter 2 (Two): " in err
    assert "1 of 2 chapters are missing; the others are kept: the same command makes only those" in err
    gemini_emulator.reset()
    assert run(capfd, "river.md")[0] == 0
    assert not any("Hermione" in call.text for call in gemini_emulator.calls)


def test_a_chapter_that_may_succeed_later(
    capfd: Captured, gemini_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 3."""
    monkeypatch.setenv("RETRY_ATTEMPTS", "1")
    gemini_emulator.faults = lambda call: Fault.UNAVAILABLE_503 if "stopped" in call.text else None
    assert run(capfd, "river.md")[0] == 3


@pytest.mark.parametrize(
    ("ranges", "numbers"),
    [(None, [1, 2, 3, 4, 5]), ("2", [2]), ("2-4", [2, 3, 4]), ("4-", [4, 5]), ("-2", [1, 2]), ("1, 3–4,3", [1, 3, 4])],
)
def test_ranges_of_chapters(ranges: str | None, numbers: list[int]) -> None:
    """Single ones, ranges, open ones."""
    assert chosen(ranges, 5) == numbers


@pytest.mark.parametrize("ranges", ["", "0", "6", "4-2", "a-b", "1;2", "-", "1--2"])
def test_ranges_that_are_none(ranges: str) -> None:
    """Are refused in words."""
    with pytest.raises(TTSValidationError, match="--chapters: "):
        chosen(ranges, 5)


COMMANDS = re.findall(
    r"^(?:cat play.txt \| )?audio-api (book .+?)(?:  +#.*)?$", (ROOT / "docs/books.md").read_text(), re.MULTILINE
)


@pytest.mark.parametrize("command", [command for command in COMMANDS if "--queue" not in command])
def test_the_commands_of_the_docs_work(command: str, capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as it stands."""
    Path("river.epub").write_bytes(packed(simple(*(f"<h1>Chapter {n}</h1><p>It rained.</p>" for n in range(1, 6)))))
    Path("notes.md").write_text(TEXT)
    Path("names.txt").write_text("Hermione = Her-my-oh-nee\n")
    play = b"Alice: Hello, Hermione.\n\nBob: Good morning.\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(play)))
    assert main(shlex.split(command)) == 0
    assert capfd.readouterr().out


# --- processes -------------------------------------------------------------------------------------------------------


def test_a_progress_bar_on_a_terminal(gemini_emulator: Emulator) -> None:
    """Characters, time and cost so far, once it takes over a second; the result goes to standard output."""
    gemini_emulator.latency_s = 2.0
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "audio_api", "book", "river.md"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=follower, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 65_536)
        except OSError:
            break
        if not part:
            break
        shown += part
    out, _ = process.communicate()
    assert process.returncode == 0
    assert b"of 65 characters" in shown
    assert b"speaking" in shown
    assert b"$0.00" in shown
    assert out.count(b"\n") == 1


def test_ctrl_c_says_what_is_kept(gemini_emulator: Emulator) -> None:
    """And that the same command goes on; it does, at no further cost for what is finished."""
    gemini_emulator.faults = lambda call: Fault.NEVER_ANSWERS if "stopped" in call.text else None
    command = [sys.executable, "-m", "audio_api", "book", "river.md"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    # The first chapter is whole when its two pieces are kept, and joined soon after.
    block_until(lambda: list(Path("output/.books").glob("*.json")) and kept_pieces(Path("output")) == 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert b"interrupted; 1 of 2 chapters and all finished pieces are kept: the same command goes on" in err
    calls = len(gemini_emulator.calls)
    gemini_emulator.faults = None
    subprocess.run(command, check=True, capture_output=True)
    assert [call.text for call in gemini_emulator.calls[calls:]] == ["It stopped.", "Then it rained."]


@pytest.mark.slow
def test_workers_speak_a_book(tmp_path: Path, redis_url: str, gemini_emulator: Emulator, capfd: Captured) -> None:
    """``--queue``: this process makes no call, and the file is whole."""
    with site(tmp_path, redis_url, gemini_emulator) as place:
        place.start(1)
        environment = {**os.environ, **place.environment}
        done = subprocess.run(
            [sys.executable, "-m", "audio_api", "book", "river.md", "--queue"],
            env=environment, capture_output=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.decode().rsplit("  ", 2)[0])
    assert path.stat().st_size > 10_000
    assert sum(place.texts().values()) == 5
