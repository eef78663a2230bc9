"""Each benchmark runs to its end and prints its rows. What they measure is read by people: no test knows a time."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT, variables_without
from redis_server import binary

ROWS = {
    "imports": 3,
    "load": 10,
    "writing": 6,
}
SMALL = ["--requests=2", "--latency=0", "--rounds=1", "--size-mb=1"]


def run(*arguments: str, program: str = "core.py") -> subprocess.CompletedProcess[str]:
    """Run a benchmark as users do, without the measurement of coverage, which slows it down."""
    command = [sys.executable, ROOT / "benchmarks" / program, *arguments]
    return subprocess.run(command, env=variables_without("COVERAGE_"), capture_output=True, text=True)


@pytest.mark.parametrize("part", ROWS)
def test_part_prints_a_ratio_in_every_row(part: str, tmp_path: Path) -> None:
    """A part says where it was measured, prints all of its rows with a ratio, and leaves no file behind."""
    done = run(part, f"--folder={tmp_path}", *SMALL)
    assert done.returncode == 0, done.stderr
    assert re.match(r"\d+ × .*; Python 3\.\d+\.\d+, google-genai 3", done.stdout)
    assert len(re.findall(r" \d+\.\d\d  \d+\.\d\d–\d+\.\d\d ", done.stdout)) == ROWS[part], done.stdout
    assert list(tmp_path.iterdir()) == []


def test_checks_print_a_row_per_length() -> None:
    """The benchmark of the checks is run with the others."""
    done = run("checks")
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^ +\d+ s( +[\d.]+){6}$", done.stdout, re.MULTILINE)) == 3, done.stdout


def test_queue_benchmark_prints_every_system_and_goal() -> None:
    """Systems that are not installed are left out; ours, and the goals that need no other library, are always there."""
    binary()
    tiny = ["--jobs=40", "--waits=3", "--idle=0.1", "--rounds=1", "--lease=1"]
    done = run(*tiny, program="queues.py")
    assert done.returncode == 0, done.stderr
    for system in ("bare loop", "bare loops", "backend", "service"):
        assert re.search(rf"^{system} +[\d,]+ +[\d,]+ +[\d,]+ +\d+% ", done.stdout, re.MULTILINE), done.stdout
    assert len(re.findall(r" (?:met|MISSED)$", done.stdout, re.MULTILINE)) >= 17, done.stdout


def test_clients_benchmark_counts_what_each_client_kept() -> None:
    """Each text of each client is right, wrong or an error, and without faults all are right."""
    done = run("--texts=4", "--rate=0", program="clients.py")
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(\S+) +(\d+) +(\d+) +(\d+) +(\d+) +[\d.]+$", done.stdout, re.MULTILINE)
    assert rows == [("audio_api", "4", "0", "0", "4"), ("google-genai", "4", "0", "0", "4")]


def test_server_benchmark_prints_every_goal() -> None:
    """The first byte, many requests at once, and memory, each with its goal."""
    tiny = ["--rounds=2", "--requests=3", "--many=20", "--latency=0.1"]
    done = run(*tiny, program="server.py")
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r" (?:met|MISSED)$", done.stdout, re.MULTILINE)) == 6, done.stdout


def test_long_text_benchmark_prints_every_goal(tmp_path: Path) -> None:
    """Speed, memory, resumption and the first sound, the latter beside the server's own; no file stays behind."""
    tiny = ["--chars=6000", "--lengths", "200", "400", "--latency=0.2", "--rounds=1", "--streams=2"]
    done = run(f"--folder={tmp_path}", *tiny, program="long_text.py")
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r" -?\d+\.\d\d  -?\d+\.\d\d–-?\d+\.\d\d ", done.stdout)) == 8, done.stdout
    assert len(re.findall(r" (?:met|MISSED)$", done.stdout, re.MULTILINE)) == 7, done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_chaos_loses_nothing_at_a_tiny_size(tmp_path: Path) -> None:
    """Workers killed, a server in every trouble, payloads that are none: nothing is lost; the seed is printed."""
    binary()  # without a server there is nothing to break
    troubles = ["kill", "cuts", "restarts", "memory", "readonly", "loading", "frost", "store"]
    tiny = ["--jobs=12", "--seconds=0.5", "--times=2", "--seed=7", f"--folder={tmp_path}"]
    done = run(*troubles, "malformed", *tiny, program="chaos.py")
    assert "; seed 7" in done.stdout, done.stderr
    lost = re.findall(r"^(\w+) +not done in the end +0 +≤ 0 +met$", done.stdout, re.MULTILINE)
    assert lost == [*troubles, "malformed"], done.stdout
    unharmed = re.findall(r"^(\w+) +recorded as failed +0 +≤ 0 +met$", done.stdout, re.MULTILINE)
    assert unharmed == troubles, done.stdout
    assert "with a reason                         0  ≤ 0        met" in done.stdout, done.stdout


def test_unknown_scenario_is_refused() -> None:
    """A misspelt scenario is named beside the right ones, before anything runs."""
    done = run("kil", program="chaos.py")
    assert done.returncode == 2
    assert "['kil']; there are kill, stop, freeze" in done.stderr


def test_unknown_part_is_refused() -> None:
    """A misspelt part is named beside the right ones, before anything runs."""
    done = run("cheks")
    assert done.returncode == 2
    assert "cheks" in done.stderr
    assert "imports, load, checks, writing" in done.stderr


def test_format_benchmark_prints_every_format(tmp_path: Path) -> None:
    """Files, with and without their check, and streams, beside the bare encoder; then memory and the event loop."""
    done = run(f"--folder={tmp_path}", "--seconds=1", "--rounds=1", "--hour=0.2", program="formats.py")
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r" \d+\.\d\d  \d+\.\d\d–\d+\.\d\d ", done.stdout)) == 12, done.stdout
    assert len(re.findall(r"^\w+ +-?\d+\.\d MB  ≤ 40 met$", done.stdout, re.MULTILINE)) == 4, done.stdout
    assert len(re.findall(r"^\w+ +[\d.]+(?:, [\d.]+)? ms  ≤ 5 (?:met|MISSED)$", done.stdout, re.MULTILINE)) == 5
    assert list(tmp_path.iterdir()) == []
