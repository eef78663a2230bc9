"""What dies, and what is lost: real worker processes, a real Redis and the emulator, in every trouble we know.

    python benchmarks/chaos.py                        # everything, in a quarter of an hour
    python benchmarks/chaos.py kill cuts --seed 7     # some scenarios, with the victims of an earlier run
    python benchmarks/chaos.py --jobs 50 --seconds 2 --times 2

Figures come from Redis, from the emulator and from the files, never from the library. Exit code 1: a goal was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from chaos_stage import Figure, Limits, Scenario, Stage, new_folder, sound_of
from measuring import machine

import chaos_scenes as scenes  # isort: skip - needs the path that chaos_stage adds
import chaos_batch  # isort: skip - needs the path that chaos_stage adds
import chaos_store  # isort: skip - needs the path that chaos_stage adds
from redis_server import RedisServer  # isort: skip - as above
from audio_api.emulator import Emulator

DURABLE = ("appendonly yes", "appendfsync always")
SCENARIOS: dict[str, Scenario] = {
    scene.__name__: scene
    for scene in (
        scenes.kill,
        scenes.stop,
        scenes.freeze,
        scenes.restarts,
        scenes.memory,
        scenes.readonly,
        scenes.loading,
        scenes.frost,
        scenes.cuts,
        scenes.poison,
        scenes.batches,
        scenes.malformed,
        scenes.quota,
        scenes.outage,
        chaos_store.store,
        chaos_batch.batch,
    )
}
# Options and settings of the workers in single scenarios.
OPTIONS = {"quota": [str(scenes.WINDOW_S)]}
SETTINGS: dict[str, dict[str, Any]] = {
    "quota": {"rate_limit_rpm": scenes.QUOTA},
}


async def play(name: str, limits: Limits, seed: int, parent: Path) -> list[Figure]:
    """One scenario with a server, an API and a folder of its own."""
    folder = new_folder(parent, name)
    server = RedisServer(folder, *DURABLE)
    server.start()
    try:
        with Emulator(sound_of) as emulator:
            chance = random.Random(f"{seed} {name}")
            stage = Stage(folder, server, emulator, chance, limits, *OPTIONS.get(name, []), **SETTINGS.get(name, {}))
            try:
                return await SCENARIOS[name](stage)
            finally:
                await stage.close()
    finally:
        server.stop()


def show(name: str, figures: list[Figure], took_s: float) -> bool:
    """Print a scenario's rows, and tell whether all goals are met."""
    print(f"\n{name}: {SCENARIOS[name].__doc__} ({took_s:.0f} s)")
    for figure in figures:
        goal = "" if figure.limit is None else f"{'≥' if figure.least else '≤'} {figure.limit:<8,g}"
        verdict = "" if figure.limit is None else "met" if figure.met else "MISSED"
        print(f"{name:<10} {figure.what:<56} {figure.value:>9,.6g}  {goal:<10} {verdict}".rstrip(), flush=True)
    return all(figure.met for figure in figures)


def main() -> int:
    """Play the scenarios one after the other."""
    parser = argparse.ArgumentParser(description="Let everything die, and count what is lost.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)} (default: all)")
    parser.add_argument("--jobs", type=float, default=inf, metavar="N", help="at most so many jobs in a scenario")
    parser.add_argument("--seconds", type=float, default=inf, metavar="S", help="at most so long an outage or freeze")
    parser.add_argument("--times", type=float, default=inf, metavar="N", help="at most so many restarts or cuts")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), metavar="N", help="who is hit, and when")
    parser.add_argument("--folder", type=Path, metavar="PATH", help="keep files and logs in there")
    options = parser.parse_args()
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"unknown scenarios {sorted(unknown)}; there are {', '.join(SCENARIOS)}")
    print(f"{machine()}; seed {options.seed}", flush=True)
    limits = Limits(options.jobs, options.seconds, options.times)
    all_met = True
    with TemporaryDirectory() as temporary:
        for name in options.scenarios or SCENARIOS:
            started = time.monotonic()
            figures = asyncio.run(play(name, limits, options.seed, options.folder or Path(temporary)))
            all_met &= show(name, figures, time.monotonic() - started)
    print("\nall goals are met" if all_met else "\nsome goals are MISSED")
    return 0 if all_met else 1


if __name__ == "__main__":
    sys.exit(main())
