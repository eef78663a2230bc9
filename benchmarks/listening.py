"""What listening finds, what it flags of clean sound, and what it costs.

    python benchmarks/listening.py MODEL [--voices neural offline] [--takes 1000] [--damaged 100] [--requests 50]

MODEL is what ``LISTEN_MODEL`` takes. Texts are paragraphs of English, of the half on which no limit was fitted. The
neural voice is hibari-tts, if it is installed; the offline voices are those of eSpeak NG. Every verdict is that of
``LISTEN=always``: of a take that the other checks accept. The last part makes requests of an engine of which 40 % of
the calls fail, most often by a take that ends early, with ``LISTEN=off`` and ``doubtful``, and measures every file
that came out.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import resource
import sys
import time
import wave
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soxr
from measuring import machine
from numpy.typing import NDArray

from audio_api import AudioConfig, AudioRequest, TokenUsage, TTSService, TTSUnavailableError, VoiceName
from audio_api.audio.checks import Verdict
from audio_api.engines.base import SpeechAudio, SpeechEngine, Turn, Utterance
from audio_api.engines.offline import OfflineEngine
from audio_api.models.audio_request import VoiceConfig
from audio_api.speech.listening import Ear, Listener, Whisper

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from corpus import samples

RATE = 24_000
Samples = NDArray[np.int16]
GOALS = {"cut 1.5 s": 0.75, "cut 3 s": 0.99, "garbled 1.5 s": 0.99, "garbled 3 s": 0.99, "repeated 5 s": 0.99}
MOST_FLAGGED = 0.005


def texts(seed: int) -> Iterator[str]:
    """Paragraphs of 25 words or more, about 15 to 30 s long, without an end."""
    while True:
        for sample in samples(seed, each=60, languages=("en-US",)):
            if sample.kind == "paragraph" and 25 <= len(sample.text.split()) <= 80:
                yield re.sub(r"[^\x20-\x7e‘’“”–—…]", " ", sample.text)
        seed += 2


def neural_voice() -> Callable[[str], Samples]:
    """The voice that comes with hibari-tts, at three speeds in turn."""
    import hibari

    voice, speeds = hibari.Hibari(), cycle((0.9, 1.0, 1.15))

    def speak(text: str) -> Samples:
        sound = soxr.resample(np.asarray(voice(text, speed=next(speeds)), np.float64), voice.sample_rate, RATE)
        return np.rint(np.clip(sound, -1, 1) * 32_767).astype("<i2")

    return speak


def offline_voice() -> Callable[[str], Samples]:
    """The voices of eSpeak NG, in turn."""
    engine, voices = OfflineEngine(), cycle(VoiceName)

    def speak(text: str) -> Samples:
        spoken = Utterance((Turn(text, VoiceConfig(voice_name=next(voices))),), "any", "en-US")
        return np.frombuffer(asyncio.run(engine.synthesize(spoken)).pcm, "<i2")

    return speak


def cut(sound: Samples, start: int, size: int, _: Random) -> Samples:
    """Without a part in its midst."""
    return np.concatenate([sound[:start], sound[start + size :]])


def garbled(sound: Samples, start: int, size: int, _: Random) -> Samples:
    """With a part that runs backwards: it sounds like speech, and has no words."""
    return np.concatenate([sound[:start], sound[start : start + size][::-1], sound[start + size :]])


def repeated(sound: Samples, start: int, size: int, _: Random) -> Samples:
    """With a part that is said twice."""
    return np.concatenate([sound[: start + size], sound[start:]])


DAMAGES = {
    "cut 0.7 s": (cut, 0.7),
    "cut 1.5 s": (cut, 1.5),
    "cut 3 s": (cut, 3.0),
    "garbled 1.5 s": (garbled, 1.5),
    "garbled 3 s": (garbled, 3.0),
    "repeated 5 s": (repeated, 5.0),
}


async def flagged(listener: Listener, text: str, sound: Samples) -> str:
    """What ``LISTEN=always`` says of a take that the other checks accept."""
    spoken = Utterance((Turn(text, VoiceConfig()),), "any", "en-US")
    take = SpeechAudio(sound.tobytes(), RATE, "any")
    _, verdict = await Ear(listener, spoken, repeatable=True).judge(take, Verdict("accept"))
    return verdict.outcome


def detection(listener: Listener, name: str, speak: Callable[[str], Samples], takes: int, damaged: int) -> None:
    """Print how much of clean and of damaged sound is flagged, and the time that listening takes."""
    outcomes: dict[str, list[str]] = defaultdict(list)
    rng, cpu_s, audio_s = Random(name), 0.0, 0.0
    for number, text in enumerate(islice(texts(4), takes)):
        sound = speak(text)
        before_s = time.process_time()
        outcomes["clean"].append(asyncio.run(flagged(listener, text, sound)))
        cpu_s += time.process_time() - before_s
        audio_s += sound.size / RATE
        for kind, (damage, seconds) in DAMAGES.items() if number < damaged else ():
            size = round(seconds * RATE)
            if sound.size > size + 3 * RATE:
                start = rng.randrange(RATE, sound.size - size - RATE)
                outcomes[kind].append(asyncio.run(flagged(listener, text, damage(sound, start, size, rng))))
    print(f"\n{name} voice, {audio_s / 60:.0f} minutes, {cpu_s / audio_s * 60:.1f} CPU-s per audio minute")
    print(f"{'':<16}{'takes':>6}{'flagged':>9}{'rejected':>10}  goal")
    for kind, told in outcomes.items():
        share = 1 - told.count("accept") / len(told)
        goal, met = f"≥ {GOALS.get(kind, 0):.0%}", share >= GOALS.get(kind, 0)
        if kind == "clean":
            goal, met = f"≤ {MOST_FLAGGED:.1%}", share <= MOST_FLAGGED
        verdict = "" if kind == "cut 0.7 s" else f"{goal} {'met' if met else 'MISSED'}"
        print(f"{kind:<16}{len(told):>6}{share:>9.1%}{told.count('reject') / len(told):>10.1%}  {verdict}", flush=True)


class Faulty(SpeechEngine):
    """Speaks with a voice; of its calls 40 % fail: a take that ends early, silence, or a 503.

    Args:
        speak: The voice.
        seed: Decides which calls fail, and how.
    """

    name = "faulty"

    def __init__(self, speak: Callable[[str], Samples], seed: int) -> None:
        self._speak = speak
        self._rng = Random(seed)
        self.whole: dict[str, int] = {}
        self.ended_early = 0

    def preflight(self, utterance: Utterance) -> None:
        """Every text can be spoken."""

    async def synthesize(self, utterance: Utterance) -> SpeechAudio:
        """The next take."""
        sound = await asyncio.to_thread(self._speak, utterance.text)
        self.whole[utterance.text] = sound.size
        fault = self._rng.random()
        if fault < 0.1:
            raise TTSUnavailableError("503")
        if fault < 0.15:
            sound = np.zeros_like(sound)
        elif fault < 0.4:
            self.ended_early += 1
            end = round(sound.size * self._rng.uniform(0.4, 0.8))
            fade = np.linspace(1, 0, RATE // 50)
            sound = np.concatenate([sound[:end], (sound[end : end + fade.size] * fade).astype("<i2")])
        usage = TokenUsage(input_tokens=10, output_tokens=10, audio_tokens=10)
        return SpeechAudio(sound.tobytes(), RATE, utterance.model, usage=usage)

    async def health_check(self, model: str) -> None:
        """It is there."""

    async def close(self) -> None:
        """Nothing is open."""


async def load(model: str, listen: str, speak: Callable[[str], Samples], requests: int) -> None:
    """Print what becomes of requests while two calls of five fail."""
    engine, shorter, marked, failed, calls = Faulty(speak, 11), 0, 0, 0, 0
    with TemporaryDirectory() as folder:
        settings: dict[str, Any] = {"listen": listen, "retry_min_wait": 0, "retry_max_wait": 0, "_env_file": None}
        config = AudioConfig(output_dir=Path(folder), listen_model=model, max_concurrency=2, **settings)
        async with TTSService(config, engine=engine) as tts:
            asked = list(islice(texts(5), requests))
            batch = await tts.generate_batch([AudioRequest(text=text, cache=False) for text in asked])
        for text, response in zip(asked, batch.results, strict=True):
            calls += response.attempts
            if response.file_path is None:
                failed += 1
                continue
            with wave.open(response.file_path) as file:
                is_short = file.getnframes() < 0.85 * engine.whole.get(text, 0)
            shorter += is_short and not response.doubtful
            marked += is_short and bool(response.doubtful)
    print(
        f"LISTEN={listen}: {requests} requests, {calls} calls, {engine.ended_early} takes ended early; of the files "
        f"{shorter} are cut and unmarked, {marked} cut and marked; {failed} requests failed",
        flush=True,
    )


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--voices", nargs="*", default=["neural", "offline"], choices=["neural", "offline"])
    parser.add_argument("--takes", type=int, default=1_000)
    parser.add_argument("--damaged", type=int, default=100)
    parser.add_argument("--requests", type=int, default=50)
    options = parser.parse_args()
    print(machine())
    listener = Listener("", Whisper(options.model), all_takes=True)
    for name in options.voices:
        speak = neural_voice() if name == "neural" else offline_voice()
        detection(listener, name, speak, options.takes, options.damaged)
        for listen in ("off", "doubtful") if options.requests else ():
            asyncio.run(load(options.model, listen, speak, options.requests))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
