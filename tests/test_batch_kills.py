"""A batch is killed at a step of its life; the next process ends it: one job, nothing lost or billed twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from batch_kills import STEPS, live

from audio_api.emulator import Emulator


@pytest.mark.parametrize("step", ["after the create", "checking"])
def test_a_killed_batch_is_ended_by_the_next_process(gemini_emulator: Emulator, tmp_path: Path, step: str) -> None:
    """Whatever it was doing; ``benchmarks/chaos.py batch`` does so at all steps, many times."""
    assert step in STEPS
    # A process that the machine runs before this one may have ended when it is killed.
    for number in range(9):
        gemini_emulator.reset()
        life = live(gemini_emulator, tmp_path / str(number), step)
        assert life.is_good, life
        if life.killed:
            return
    pytest.fail("no process was killed before its end")


def test_the_tasks_of_a_killed_worker_are_ended_by_that_of_another_machine(
    gemini_emulator: Emulator, tmp_path: Path, redis_url: str
) -> None:
    """It finds the job that the first one created for all of them."""
    life = live(gemini_emulator, tmp_path, "after the create", redis_url=redis_url)
    assert life.is_good, life
    assert life.killed
