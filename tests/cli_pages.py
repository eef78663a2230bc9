"""Writes the reference of the command line: ``python tests/cli_pages.py``. With ``--pictures`` its pictures, too."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, redirect_stdout
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text
from typer.core import TyperGroup
from typer.main import get_command

from audio_api.cli import main
from audio_api.cli.app import app
from audio_api.emulator import Emulator

DOCS = Path(__file__).parents[1] / "docs"
REFERENCE = DOCS / "reference" / "command-line.md"
# In which rows are no wider than a terminal of usual size.
_COLUMNS, _ROWS = 100, 17
_LETTER = " ".join(
    f"This is sentence number {number} of a letter that takes several calls to speak." for number in range(150)
)
_BOOK = "# The River\n\n" + "".join(
    f"## {title}\n\n" + "It rained all day, and the river rose until the meadows were a lake. " * 60 + "\n\n"
    for title in ("The Source", "The Mill", "The Sea")
)
_SHELL = {
    "TERM": "xterm-256color",
    "GEMINI_API_KEY": "key-of-the-pictures",
    "OUTPUT_DIR": "output",
    "RATE_LIMIT_RPM": "10",
    "PIECE_CONCURRENCY": "1",
}


def commands(group: TyperGroup, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command and group."""
    yield before
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, (*before, name))
        else:
            yield (*before, name)


def every_command() -> list[tuple[str, ...]]:
    """The words of every command and group of ``audio-api``, itself first."""
    root = get_command(app)
    assert isinstance(root, TyperGroup)
    return list(commands(root))


def help_of(command: Sequence[str]) -> str:
    """What ``--help`` prints in 80 columns."""
    os.environ["COLUMNS"] = "80"
    with redirect_stdout(io.StringIO()) as out:
        main([*command, "--help"])
    return out.getvalue()


def reference() -> str:
    """The page."""
    parts = [
        "# Command line\n\nEvery command with its options, as `--help` prints them; [how to use them](../cli.md).\n",
        *(
            f"## `{' '.join(('audio-api', *each))}`\n\n```text\n{help_of(each).rstrip()}\n```\n"
            for each in every_command()
        ),
    ]
    return "\n".join(parts)


class Screen:
    """A terminal under tmux, in which a person's shell runs."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        folder.mkdir()
        (folder / "letter.txt").write_text(_LETTER)
        (folder / "river.md").write_text(_BOOK)
        self._tmux = ["tmux", "-f", "/dev/null", "-S", str(folder / "tmux")]
        size = ["-x", str(_COLUMNS), "-y", str(_ROWS)]
        environment = [part for name, value in variables.items() for part in ("-e", f"{name}={value}")]
        (folder / ".bashrc").write_text(f"PS1='$ '; PATH={variables['PATH']}\n")
        shell = f"exec bash --rcfile {folder}/.bashrc"
        self._run("new-session", "-d", "-s", "s", *size, *environment, "-c", str(folder), shell)
        self.until(lambda text: text.startswith("$"))

    def _run(self, *words: str) -> str:
        return subprocess.run([*self._tmux, *words], check=True, capture_output=True, text=True).stdout

    def until(self, seen: object) -> str:
        """Wait until the screen shows something, and return what it shows, colours included."""
        end = time.monotonic() + 300
        while not seen(self._run("capture-pane", "-p", "-t", "s")):  # type: ignore[operator]
            assert time.monotonic() < end, self._run("capture-pane", "-p", "-t", "s")
            time.sleep(0.05)
        return self._run("capture-pane", "-e", "-p", "-t", "s")

    def type(self, line: str) -> None:
        """Type a line."""
        self._run("send-keys", "-t", "s", "-l", line)
        self._run("send-keys", "-t", "s", "Enter")

    def run(self, line: str) -> None:
        """Type a line, and wait for the next prompt."""
        before = self._run("capture-pane", "-p", "-t", "s").count("\n$") + 1
        self.type(line)
        self.until(lambda text: text.rstrip().endswith("\n$") and f"\n{text}".count("\n$") > before)

    def close(self) -> None:
        """End the shell and its terminal."""
        self._run("kill-server")


def draw(name: str, title: str, screen: str) -> None:
    """Write what a terminal showed as a picture that loads nothing from elsewhere."""
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(screen.rstrip("\n")))
    svg = console.export_svg(title=title, theme=MONOKAI, unique_id=name)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).replace("Fira Code", "ui-monospace")
    (DOCS / "img" / f"{name}.svg").write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")


WRONG = (
    "audio-api say Hello --voice kora",
    "audio-api say Hello --language German",
    "audio-api say Hello --ouput hello.wav",
    "audio-api say Hello -o 'Chapter 1: The Start.wav'",
    "audio-api sya Hello",
)


def pictures() -> None:
    """Type real commands into a real terminal, with the emulator as the API, and draw what it shows."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory(prefix="audio-") as name, Emulator(latency_s=2.0) as api:
        variables = {**_SHELL, "PATH": path, "GEMINI_BASE_URL": api.url}
        with closing(Screen(Path(name) / "letters", variables)) as screen:
            screen.run("audio-api say Hello there, my friend.")
            screen.run("audio-api estimate --file letter.txt")
            screen.type("audio-api say --file letter.txt -o letter.mp3 --subtitles srt")
            draw("cli-say", "audio-api say", screen.until(lambda text: "2 of " in text))
        with closing(Screen(Path(name) / "books", variables)) as screen:
            screen.run("audio-api book river.md --list")
            screen.type("audio-api book river.md --voice sulafat")
            speaking = screen.until(lambda text: re.search(r"\d,\d{3} of [\d,]+ char", text))
            draw("cli-book", "audio-api book", speaking)
        with closing(Screen(Path(name) / "wrong", variables)) as screen:
            for line in WRONG:
                screen.run(line)
            draw("cli-wrong", "audio-api", screen.until(lambda text: "did you mean 'say'" in text))


if __name__ == "__main__":
    REFERENCE.write_text(reference(), "utf-8")
    if "--pictures" in sys.argv:
        pictures()
