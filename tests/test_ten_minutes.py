"""The page of a new user's first ten minutes: each command is copied and run, in the order of the page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import av
import pytest
from project import ROOT
from redis_server import free_port

STEPS = re.findall(
    r"^## ([^\n]+) \(\d+ s\)\n\n```bash\n(.*?)^```$",
    (ROOT / "docs/ten-minutes.md").read_text("utf-8"),
    re.MULTILINE | re.DOTALL,
)


@pytest.mark.slow
def test_the_first_ten_minutes_go_as_the_page_says(tmp_path: Path) -> None:
    """Every step but the installation leaves the files that it names; the book has its chapters."""
    titles, scripts = zip(*STEPS, strict=True)
    assert titles[0] == "Install"
    assert len(scripts) == 6
    script = "\n".join(scripts[1:]).replace("8880", str(free_port()))
    place = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{place}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-euc", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("hello.mp3", "notes.wav", "map.wav", "river.m4b", "served.mp3"):
        assert (tmp_path / name).stat().st_size > 1_000, name
    assert "I thought you had it!" in (tmp_path / "map.srt").read_text()
    with av.open(str(tmp_path / "river.m4b")) as book:
        assert [chapter["metadata"]["title"] for chapter in book.chapters()] == ["The ferry", "The other bank"]
