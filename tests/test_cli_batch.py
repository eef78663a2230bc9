"""``audio-api batch`` and ``say --tier``: half the price from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audio_api.cli import main
from audio_api.emulator import Emulator
from audio_api.emulator.batches import BatchRules

Captured = pytest.CaptureFixture[str]
LINES = [
    {"text": "The first of many sentences.", "output_filename": "one"},
    {"text": "The second of many sentences.", "output_filename": "two", "voice_config": {"voice_name": "puck"}},
]


@pytest.fixture(autouse=True)
def _lines(emulator_in_environment: None) -> None:
    """Settings that lead to the emulator, and a file of requests."""
    Path("lines.jsonl").write_text("\n\n".join(map(json.dumps, LINES)))


def run(capfd: Captured, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    code = main(arguments)
    return (code, *capfd.readouterr())


def test_a_batch_from_its_submission_to_its_files(gemini_emulator: Emulator, capfd: Captured) -> None:
    """Each command names the batch; the last prints each file, its seconds and its cost."""
    code, out, err = run(capfd, "batch", "submit", "lines.jsonl", "--name", "mine")
    assert (code, err, out.split()[:2]) == (0, "", ["mine", "running"])
    code, out, err = run(capfd, "batch", "status", "mine", "--json")
    assert (code, err, json.loads(out)["requests"]) == (0, "", 2)
    code, out, err = run(capfd, "batch", "collect", "mine")
    assert (code, err) == (0, "")
    assert [Path(line.split("  ")[0]).name for line in out.splitlines()] == ["one.wav", "two.wav"]
    assert all("$0.00" in line for line in out.splitlines())
    assert len(gemini_emulator.batches.jobs) == 1
    code, out, _ = run(capfd, "batch", "status", "mine")
    assert (code, "2 of 2 collected" in out) == (0, True)


def test_a_cancelled_batch_fails(gemini_emulator: Emulator, capfd: Captured) -> None:
    """Exit code 1, and a line for each request that has no file."""
    gemini_emulator.batch = BatchRules(end="STUCK")
    run(capfd, "batch", "submit", "lines.jsonl", "--name", "mine")
    assert run(capfd, "batch", "cancel", "mine")[0] == 0
    code, out, err = run(capfd, "batch", "collect", "mine")
    assert (code, out, len(err.splitlines())) == (1, "", 2)
    assert "request 1: " in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status", "unknown"], "there is no batch 'unknown'"),
        (["submit", "missing.jsonl"], "missing.jsonl"),
        (["submit", "wrong.jsonl"], "line 2 of wrong.jsonl"),
        (["submit", "empty.jsonl"], "needs at least one request"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    gemini_emulator: Emulator, capfd: Captured, arguments: list[str], words: str
) -> None:
    """Exit code 2, and nothing is sent."""
    Path("wrong.jsonl").write_text('{"text": "Good."}\n{"text": ""}\n')
    Path("empty.jsonl").write_text("\n")
    code, out, err = run(capfd, "batch", *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert words in err
    assert gemini_emulator.calls == []


def test_say_asks_for_a_tier(gemini_emulator: Emulator, capfd: Captured) -> None:
    """``--tier flex`` reaches the API, makes no other name, and an unknown tier is refused."""
    code, out, _ = run(capfd, "say", "Hello there, my friend.", "--tier", "flex")
    assert (code, gemini_emulator.calls[0].body["serviceTier"]) == (0, "flex")
    assert run(capfd, "say", "Hello there, my friend.", "--tier", "priority")[1].split("  ")[0] == out.split("  ")[0]
    assert len(gemini_emulator.calls) == 1
    code, _, err = run(capfd, "say", "Hello.", "--tier", "cheap")
    assert (code, "--tier" in err) == (2, True)
