"""The help of every command, completion, and how quickly both are there."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from cli_pages import REFERENCE, every_command, reference
from terminals import AUDIO_API, on_terminal

from audio_api.cli import main


@pytest.mark.parametrize("command", every_command(), ids=" ".join)
def test_help_fits_a_small_terminal(
    command: tuple[str, ...], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 columns and 40 lines, the prompt included; each option says what it does."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*command, "--help"]) == 0
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert (err, lines[0].startswith(f"Usage: {' '.join(['audio-api', *command])} ")) == ("", True)
    assert len(lines) < 40
    assert max(map(len, lines)) <= 80
    assert not re.findall(r"^  -\S+(?: [A-Z=]+)?$\n(?! {6})", out, re.MULTILINE)
    assert main([*command, "-h"]) == 0
    assert capfd.readouterr().out == out


def test_the_reference_is_what_help_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    """``python tests/cli_pages.py`` writes the page again."""
    monkeypatch.setenv("COLUMNS", "80")
    assert REFERENCE.read_text("utf-8") == reference()


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["xterm", "NO_COLOR", "dumb"])
def test_help_is_plain_text_everywhere(variables: dict[str, str]) -> None:
    """In a pipe and on any terminal the same words, without a code that moves or colours."""
    seen = on_terminal("book", "--help", **variables)
    environment = {**os.environ, "COLUMNS": "80", **variables}
    piped = subprocess.run([*AUDIO_API, "book", "--help"], capture_output=True, text=True, check=True, env=environment)
    assert seen.code == 0
    assert seen.shown.replace("\r\n", "\n") == piped.stdout
    assert "\x1b" not in piped.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shells_get_their_scripts(shell: str) -> None:
    """``--show-completion`` and ``--install-completion`` print and install them; bash finds no fault in its own."""
    variables = {**os.environ, "_AUDIO_API_COMPLETE": f"source_{shell}"}
    done = subprocess.run([*AUDIO_API], capture_output=True, text=True, check=True, env=variables)
    assert "_AUDIO_API_COMPLETE=complete_" + shell in done.stdout
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)


def completed(*words: str) -> list[str]:
    """What bash is offered behind these words, the last of which is begun."""
    variables = {
        **os.environ,
        "_AUDIO_API_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("audio-api", *words)),
        "COMP_CWORD": str(len(words)),
    }
    return subprocess.run([*AUDIO_API], capture_output=True, text=True, check=True, env=variables).stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["sa"], ["say"]),
        (["queue", "re"], ["retry"]),
        (["say", "--sub"], ["--subtitles"]),
        (["say", "--voice", "ze"], ["zephyr"]),
        (["say", "--language", "de"], ["de-DE"]),
        (["book", "--format", "m4"], ["m4b", "m4a"]),
        (["say", "--model", "gemini-3.8-flash-t"], ["gemini-3.8-flash-tts"]),
    ],
)
def test_words_are_completed(words: list[str], offered: list[str]) -> None:
    """Commands, options, voices, languages, models and kinds."""
    assert completed(*words) == offered


_LOADED = "import sys; from audio_api.cli import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"


@pytest.mark.parametrize("arguments", [["--help"], ["say", "--help"], ["book", "--help"], ["--version"]], ids=" ".join)
def test_help_loads_nothing_that_only_speech_needs(arguments: list[str]) -> None:
    """Neither settings nor event loop, numpy, SDK or rich; pydantic, which typer uses, only behind a command."""
    done = subprocess.run([sys.executable, "-c", _LOADED, *arguments], capture_output=True, text=True, check=True)
    heavy = {"pydantic_settings", "asyncio", "numpy", "google.genai", "rich", "redis", "httpx2", "aiofiles"}
    if len(arguments) == 1:
        heavy.add("pydantic")
    assert not heavy & set(done.stderr.split())
