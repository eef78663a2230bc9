"""Batches at half the price, alone and as queued tasks, whose process is killed at every step of their lives."""

from __future__ import annotations

import asyncio
from collections import Counter

from batch_kills import STEPS, Life, live
from chaos_stage import Figure, Stage, new_folder

from audio_api.emulator import Emulator

LIVES = 100


async def batch(stage: Stage) -> list[Figure]:
    """A batch is killed at every step of its life; the next process ends it, that of a queue on another machine."""
    lives: list[Life] = []
    killed: Counter[bool] = Counter()
    steps = list(STEPS)
    for number in range(stage.limits.times(LIVES)):
        with Emulator() as emulator:
            folder = new_folder(stage.site.folder, f"life-{number}")
            queue = stage.server.url if number % 2 else None
            step = steps[number // 2 % len(steps)]
            lives.append(await asyncio.to_thread(live, emulator, folder, step, chance=stage.chance, redis_url=queue))
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
