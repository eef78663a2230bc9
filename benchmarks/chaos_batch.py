"""A batch at half the price whose process is killed at every step of its life, fifty times."""

from __future__ import annotations

from collections import Counter

from batch_kills import STEPS, Life, live
from chaos_stage import Figure, Stage, new_folder

from audio_api.emulator import Emulator

LIVES = 50


async def batch(stage: Stage) -> list[Figure]:
    """A batch is killed at every step of its life, and the next process ends it."""
    lives: list[Life] = []
    killed: Counter[bool] = Counter()
    steps = list(STEPS)
    for number in range(stage.limits.times(LIVES)):
        with Emulator() as emulator:
            folder = new_folder(stage.site.folder, f"life-{number}")
            lives.append(live(emulator, folder, steps[number % len(steps)], chance=stage.chance))
        killed[lives[-1].killed] += 1
    return [
        Figure("batches", len(lives)),
        Figure("killed before they had ended", killed[True]),
        Figure("jobs created twice", sum(life.jobs - 1 for life in lives), 0),
        Figure("requests lost", sum(life.lost for life in lives), 0),
        Figure("calls at the full price", sum(life.ordinary for life in lives), 0),
        Figure("tokens billed that the API did not bill", sum(life.overcharged for life in lives), 0),
        Figure("tokens that the API billed and no response counts", sum(life.uncharged for life in lives), 0),
    ]
