"""How well whole speech is told from damaged speech, and what checking costs.

    python benchmarks/checks.py [texts of each kind and language, 6 if not given]

The first tables count verdicts on texts that the pace was not fitted on, spoken by the offline voice, and by simulated
Gemini voices: each with a pace of its own, and with takes that spread as recorded ones do (the same 83 characters in
4.93 to 6.33 s). "unmarked" takes would be successes without doubt. The last table holds the time per second of audio
and the peak memory beside the least that any check could do: reading the samples and computing one RMS. Both run on the
same clips in the same process; a figure is the best of several runs, the one the rest of the machine disturbed least.
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
import time
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from audio_api.audio.checks import OwnPace, Take, judge
from audio_api.engines.base import Turn, Utterance
from audio_api.engines.offline import OfflineEngine
from audio_api.models.audio_request import VoiceConfig
from audio_api.models.voices import VoiceName
from audio_api.speech.attempts import AGREEMENT

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from corpus import Sample, samples

RATE = 24_000
CLIPS_S = (5, 60, 600)
GOAL_MS = 0.3
RUNS = 7


def speech_like(seconds: int) -> bytes:
    """A buzz of 120 Hz under four syllables a second, which every check must look at to the end."""
    t = np.arange(RATE) / RATE
    syllables = np.abs(np.sin(2 * np.pi * 2 * t)) ** 2
    buzz = sum(np.sin(2 * np.pi * 120 * harmonic * t) / harmonic for harmonic in range(1, 20))
    sound = np.tile(np.rint(6_000 * syllables * buzz).astype("<i2"), seconds)
    sound[-RATE // 4 :] = 0
    return sound.tobytes()


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


SHARES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
LONG_CHARS = 60
SEED = 7
# 45 takes of one text lay between 4.93 and 6.33 s: a spread of 5.7 % around their mean. English comes at 14.2 to 17.5
# characters a second by different models and voices, which is a spread of about 8 %.
TAKE_SPREAD, VOICE_SPREAD = 0.057, 0.08
RATED_TAKES = 20


def faded(pcm: bytes, share: float) -> bytes:
    """The first part of a sound, and a quarter of a second of silence."""
    return pcm[: int(len(pcm) / 2 * share) * 2] + bytes(RATE // 2)


def stretched(pcm: bytes, factor: float) -> bytes:
    """A sound that takes this many times as long."""
    sound = np.frombuffer(pcm, "<i2").astype(np.float32)
    at = np.arange(int(sound.size * factor)) / factor
    return np.interp(at, np.arange(sound.size), sound).astype("<i2").tobytes()


def shuffled(pcm: bytes, rng: random.Random) -> bytes:
    """Static in place of a third of the sound, as in garbled replies."""
    start = len(pcm) // 3 // 2 * 2
    return pcm[:start] + rng.randbytes(start) + pcm[2 * start :]


def takes(
    sample: Sample, pcm: bytes, own: OwnPace, rng: random.Random, *, repeatable: bool = True
) -> Iterator[tuple[str, str]]:
    """The verdict on a whole sound and on each kind of damage to it."""

    def outcome(sound: bytes) -> str:
        take = Take(sound, RATE, sample.text, sample.language, own_pace=own, repeatable=repeatable)
        return judge(take).outcome

    yield "whole", outcome(pcm)
    if len(sample.text) >= LONG_CHARS:
        for share in SHARES:
            yield f"cut at {share:.0%}", outcome(faded(pcm, share))
        yield "said twice", outcome(pcm + pcm)
        yield "garbled", outcome(shuffled(pcm, rng))


def settled(sample: Sample, pcm: bytes, pace: float, own: OwnPace, rng: random.Random) -> str:
    """What a service ends with that asks again, up to three takes, for what is doubtful."""
    plausible: list[float] = []
    for _ in range(3):
        take = stretched(pcm, pace * math.exp(rng.gauss(0, TAKE_SPREAD)))
        verdict = judge(Take(take, RATE, sample.text, sample.language, own_pace=own))
        if verdict.outcome == "accept":
            return "accept"
        if verdict.plausible:
            if any(abs(verdict.speech_s / other - 1) <= AGREEMENT for other in plausible):
                return "accept"
            plausible.append(verdict.speech_s)
    return verdict.outcome


def print_counts(title: str, counts: dict[str, Counter[str]]) -> None:
    """A line for each kind of damage."""
    print(f"\n{title:<34}{'takes':>7}{'unmarked':>10}{'doubtful':>10}{'refused':>9}")
    for kind, outcomes in counts.items():
        shares = (outcomes[outcome] / outcomes.total() for outcome in ("accept", "suspect", "reject"))
        print(f"{kind:<34}{outcomes.total():>7}" + "".join(f"{share:>9.1%} " for share in shares))


async def learned_paces(engine: OfflineEngine) -> dict[str, float]:
    """The pace of the offline voice in each language, as twenty takes of other texts than the judged ones teach it."""
    logs: dict[str, list[float]] = defaultdict(list)
    for sample in samples(SEED + 2, each=3):
        audio = await engine.synthesize(Utterance((Turn(sample.text, VoiceConfig()),), "any", sample.language))
        pace = judge(Take(audio.pcm, RATE, sample.text, sample.language)).pace
        if pace and len(logs[sample.language]) < RATED_TAKES:
            logs[sample.language].append(math.log(pace))
    return {language: math.exp(sum(paces) / len(paces)) for language, paces in logs.items()}


async def count_verdicts(each: int) -> None:
    """Print the tables of verdicts."""
    engine, rng = OfflineEngine(), random.Random(SEED)
    offline: dict[str, Counter[str]] = defaultdict(Counter)
    offline_known: dict[str, Counter[str]] = defaultdict(Counter)
    unknown: dict[str, Counter[str]] = defaultdict(Counter)
    known: dict[str, Counter[str]] = defaultdict(Counter)
    lengths: dict[str, Counter[str]] = defaultdict(Counter)
    languages: dict[str, Counter[str]] = defaultdict(Counter)
    learned = await learned_paces(engine)
    voices = {voice: math.exp(rng.gauss(0, VOICE_SPREAD)) for voice in VoiceName}
    for sample in samples(SEED, each=each):
        voice = rng.choice(list(VoiceName))
        turn = Turn(sample.text, VoiceConfig(voice_name=voice))
        audio = await engine.synthesize(Utterance((turn,), "any", sample.language))
        for kind, outcome in takes(sample, audio.pcm, OwnPace(), rng, repeatable=False):
            offline[kind][outcome] += 1
            if kind in {"whole", "cut at 70%"}:
                size = next(most for most in (60, 200, 1_000, 10**9) if len(sample.text) < most)
                lengths[f"{kind}, {'' if size == 10**9 else f'below {size:,} characters'}"][outcome] += 1
                languages[f"{kind}, {sample.language}"][outcome] += 1
        take = stretched(audio.pcm, voices[voice] * math.exp(rng.gauss(0, TAKE_SPREAD)))
        for kind, outcome in takes(sample, take, OwnPace(), rng):
            unknown[kind][outcome] += 1
        own = OwnPace(voices[voice] * learned[sample.language], RATED_TAKES)
        for kind, outcome in takes(sample, take, own, rng):
            known[kind][outcome] += 1
        unknown["whole, once it is settled"][settled(sample, audio.pcm, voices[voice], OwnPace(), rng)] += 1
        known["whole, once it is settled"][settled(sample, audio.pcm, voices[voice], own, rng)] += 1
        for kind, outcome in takes(
            sample, audio.pcm, OwnPace(learned[sample.language], RATED_TAKES), rng, repeatable=False
        ):
            offline_known[kind][outcome] += 1
    await engine.close()
    print_counts("offline voice, first take", offline)
    print_counts(f"offline voice, after {RATED_TAKES} takes", offline_known)
    print_counts("simulated Gemini, first take", unknown)
    print_counts(f"simulated Gemini, after {RATED_TAKES} takes", known)
    print_counts("offline voice, by length", dict(sorted(lengths.items())))
    print_counts("offline voice, by language", dict(sorted(languages.items())))


def main() -> None:
    """Print one line of costs per length."""
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
    asyncio.run(count_verdicts(int(sys.argv[1]) if len(sys.argv) > 1 else 6))
    main()
