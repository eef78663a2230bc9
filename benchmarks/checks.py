"""What checking costs: time per second of audio and peak memory, beside the least that any check could do.

    python benchmarks/checks.py

The baseline reads the samples and computes one RMS. Both run on the same clips in the same process; a figure is the
best of several runs, the one the rest of the machine disturbed least.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from audio_api.audio.checks import Take, judge

RATE = 24_000
CLIPS_S = (5, 60, 600)
GOAL_MS = 0.3
RUNS = 7


def speech_like(seconds: int) -> bytes:
    """A buzz of 120 Hz under four syllables a second, which every check must look at to the end."""
    t = np.arange(seconds * RATE) / RATE
    syllables = np.abs(np.sin(2 * np.pi * 2 * t)) ** 2 * (t < seconds - 0.25)
    buzz = sum(np.sin(2 * np.pi * 120 * harmonic * t) / harmonic for harmonic in range(1, 20))
    return np.rint(6_000 * syllables * buzz).astype("<i2").tobytes()


def words(seconds: int) -> str:
    """Text that takes that long at 0.8 times the reference rate."""
    return "speech of some words " * round(seconds * 15.7 * 0.8 / 17)


def rms(pcm: bytes) -> float:
    """The baseline: loudness alone."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float32)
    return float(np.sqrt(np.dot(samples, samples) / samples.size))


def best_ms(work: Callable[[], object]) -> float:
    """The shortest of several runs, in milliseconds."""

    def once() -> float:
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1_000

    return min(once() for _ in range(RUNS))


def peak_mb(work: Callable[[], object]) -> float:
    """The most memory that was allocated at one time, in megabytes."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def main() -> None:
    """Print one line per length."""
    print(f"{'clip':>6} {'checks ms/s':>12} {'RMS ms/s':>9} {'ratio':>6} {'checks MB':>10} {'RMS MB':>7} {'PCM MB':>7}")
    for seconds in CLIPS_S:
        pcm, text = speech_like(seconds), words(seconds)

        def check(pcm: bytes = pcm, text: str = text) -> None:
            verdict = judge(Take(pcm, RATE, text=text, language="en-US"))
            assert verdict.outcome == "accept", verdict

        def baseline(pcm: bytes = pcm) -> float:
            return rms(pcm)

        ours, least = best_ms(check) / seconds, best_ms(baseline) / seconds
        memory = f"{peak_mb(check):10.1f} {peak_mb(baseline):7.1f} {len(pcm) / 1e6:7.1f}"
        print(f"{seconds:>4} s {ours:12.4f} {least:9.4f} {ours / least:6.1f} {memory}")
    print(f"goal: below {GOAL_MS} ms per second of audio, memory below a tenth of the PCM of a long clip")


if __name__ == "__main__":
    main()
