"""What listening finds, what it flags of clean sound, and what it costs.

    python benchmarks/listening.py MODEL [--voices neural offline] [--takes 1000] [--damaged 100] [--calls 100]

MODEL is what ``LISTEN_MODEL`` takes. Texts are paragraphs of English that no limit was fitted on. The neural voice is
hibari-tts, if it is installed; the offline voices are those of eSpeak NG. Every verdict is that of ``LISTEN=always``:
of a take that the other checks accept. The last part makes calls to the emulator, 40 % of which fail in some way, with
``LISTEN=doubtful``, and listens to every file that came out.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from random import Random

import numpy as np
import soxr
from measuring import machine
from numpy.typing import NDArray

from audio_api import VoiceName
from audio_api.audio.checks import Verdict
from audio_api.engines.base import SpeechAudio, Turn, Utterance
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


def garbled(sound: Samples, start: int, size: int, rng: Random) -> Samples:
    """With a part in which pieces of 80 ms are in disorder, so that it is speech of no words."""
    step = RATE * 80 // 1_000
    pieces = [sound[at : at + step] for at in range(start, start + size, step)]
    rng.shuffle(pieces)
    return np.concatenate([sound[:start], *pieces, sound[start + size :]])


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
    for number, text in enumerate(islice(texts(3), takes)):
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


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--voices", nargs="*", default=["neural", "offline"], choices=["neural", "offline"])
    parser.add_argument("--takes", type=int, default=1_000)
    parser.add_argument("--damaged", type=int, default=100)
    parser.add_argument("--calls", type=int, default=100)
    options = parser.parse_args()
    print(machine())
    listener = Listener("", Whisper(options.model), all_takes=True)
    for name in options.voices:
        speak = neural_voice() if name == "neural" else offline_voice()
        detection(listener, name, speak, options.takes, options.damaged)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
