"""What joining costs: time per second of audio and peak memory, beside gluing the same pieces together unheard.

    python benchmarks/joining.py

Pieces are as long as one call makes them, and either all equally loud or each 6 dB off. A figure is the best of several
runs, the one the rest of the machine disturbed least.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from audio_api.audio.joining import Joiner

RATE = 24_000
PIECE_S = 60
PIECES = 10
RUNS = 5
GOAL_MS = 0.5


def piece(gain_db: float) -> bytes:
    """A buzz of 120 Hz under four syllables a second, with quiet at both ends."""
    t = np.arange(PIECE_S * RATE) / RATE
    syllables = np.abs(np.sin(2 * np.pi * 2 * t)) ** 2 * ((t > 0.25) & (t < PIECE_S - 0.25))
    buzz = sum(np.sin(2 * np.pi * 120 * harmonic * t) / harmonic for harmonic in range(1, 20))
    return np.rint(4_000 * 10 ** (gain_db / 20) * syllables * buzz).astype("<i2").tobytes()


def joined(pieces: list[bytes]) -> int:
    """Join, dropping what was joined, as one who streams does; returns the samples handed out."""
    joiner = Joiner()
    handed_out = sum(len(joiner.add(each, 0.25)) for each in pieces) + len(joiner.finish())
    assert handed_out // 2 == joiner.spans[-1].end
    assert all(after.start - before.end == RATE // 4 for before, after in pairwise(joiner.spans))
    return handed_out // 2


def best_s(work: Callable[[], object]) -> float:
    """The shortest of several runs."""

    def once() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return min(once() for _ in range(RUNS))


def peak_mb(work: Callable[[], object]) -> float:
    """The most memory that was allocated at one time, in megabytes, beside the pieces."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def main() -> None:
    """Print one line per kind of pieces, and one for gluing."""
    level, uneven = piece(0), [piece(gain_db) for gain_db in (6, -6)]
    kinds: tuple[tuple[str, list[bytes], Callable[[list[bytes]], object]], ...] = (
        ("glued, not joined", [level] * PIECES, b"".join),
        ("joined, one loudness", [level] * PIECES, joined),
        ("joined, each 6 dB off", [level, *uneven * PIECES][:PIECES], joined),
    )
    print(f"{PIECES} pieces of {PIECE_S} s, {len(level) / 1e6:.1f} MB each")
    print(f"{'':>22} {'ms per s':>9} {'ms per piece':>13} {'peak MB':>8}")
    for name, pieces, work in kinds:
        took_ms = best_s(lambda pieces=pieces, work=work: work(pieces)) * 1_000
        memory_mb = peak_mb(lambda pieces=pieces, work=work: work(pieces))
        print(f"{name:>22} {took_ms / PIECES / PIECE_S:9.4f} {took_ms / PIECES:13.1f} {memory_mb:8.1f}")
    print(f"goal: below {GOAL_MS} ms per second of audio, memory below four pieces whatever their number")


if __name__ == "__main__":
    main()
