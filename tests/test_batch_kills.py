"""A batch is killed at a step of its life; the next process ends it: one job, nothing lost or billed twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from batch_kills import STEPS, live

from audio_api.emulator import Emulator


@pytest.mark.parametrize("step", ["before the create", "after the create", "downloading", "checking"])
def test_a_killed_batch_is_ended_by_the_next_process(gemini_emulator: Emulator, tmp_path: Path, step: str) -> None:
    """Whatever it was doing; ``benchmarks/chaos.py batch`` does so at all steps, many times."""
    life = live(gemini_emulator, tmp_path, step)
    assert life.is_good, life
    assert life.killed
    assert step in STEPS
