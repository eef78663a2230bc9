"""The page of the command line: its commands run as they stand, and its pictures show what the program says."""

from __future__ import annotations

import html
import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from cli_pages import DOCS, WRONG
from project import variables_without

from audio_api.cli import main
from audio_api.emulator import Emulator

PAGE = (DOCS / "cli.md").read_text("utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_commands_of_the_page_run(block: str, gemini_emulator: Emulator, redis_url: str, tmp_path: Path) -> None:
    """A shell runs each block to its end; a player stands in for a loudspeaker, and a folder for the home."""
    Path("letter.txt").write_text("Dear friend. I write to you from far away.\n\nYours.\n")
    Path("notes.md").write_text("# Notes\n\n* **One**\n* Two\n")
    Path("talk.txt").write_text("Alice: Hello, Bob.\nBob: Good morning.\n")
    Path("river.md").write_text("# The River\n\n## One\n\nIt rained.\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    player = programs / "ffplay"
    player.write_text("#!/bin/sh\nexec cat > /dev/null\n")
    player.chmod(player.stat().st_mode | stat.S_IXUSR)
    done = subprocess.run(
        ["bash", "-ec", f"{block}\ntrue"],
        env={
            **variables_without("XDG_", "ZDOTDIR"),
            "PATH": os.pathsep.join((str(programs), str(Path(sys.executable).parent), os.environ["PATH"])),
            "HOME": str(tmp_path),
            "GEMINI_API_KEY": "key-of-the-tests",
            "GEMINI_BASE_URL": gemini_emulator.url,
            "USE_REDIS": "true",
            "REDIS_URL": redis_url,
            "QUEUE_NAME": uuid4().hex,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def shown(picture: str) -> str:
    """The words of a picture, without white space, which a terminal breaks lines at."""
    words = re.sub(r"<[^>]+>", "", "".join(re.findall(r"<text .*?</text>", picture)))
    return re.sub(r"\s", "", html.unescape(words))


@pytest.mark.parametrize("name", ["cli-say", "cli-book", "cli-wrong"])
def test_a_picture_is_on_the_page_and_loads_nothing(name: str) -> None:
    """Neither a font nor a script from elsewhere, and nothing of the machine that drew it but a temporary folder."""
    picture = (DOCS / "img" / f"{name}.svg").read_text("utf-8")
    assert f"img/{name}.svg" in PAGE
    assert not re.search(r"""url\(["']?http|href=["']http|<script|@font-face""", picture)
    assert shown(picture).count("$audio-api") >= 2


@pytest.mark.parametrize("command", WRONG)
def test_the_picture_of_errors_shows_what_is_said(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    """``python tests/cli_pages.py --pictures`` draws it again."""
    assert main(shlex.split(command)[1:]) == 2
    told = re.sub(r"\s", "", f"${command} {capfd.readouterr().err}")
    assert told in shown((DOCS / "img" / "cli-wrong.svg").read_text("utf-8"))
