"""What encoding costs: CPU per minute of sound, beside the bare encoder in the same blocks, and memory over an hour.

    python benchmarks/formats.py [--seconds 60] [--rounds 5] [--hour 60] [--folder DIR]

The sound is a voice made of harmonics. CPU is that of the whole process. Both write files a second at a time, streams
100 ms at a time, and into the same folder; the bare encoder writes no tags. "Checked" is what a file of the library
costs: it is decoded once more. The longest step of the event loop is CPU time of its thread, while a text of half
that hour becomes a file and a stream.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import av
import numpy as np
import soundfile
from load import server
from measuring import heading, interleaved, machine, row

from audio_api import AudioConfig, AudioRequest, TTSService
from audio_api.audio import encoding
from audio_api.models.sound_formats import OutputFormat, StreamFormat

RATE = 24_000
SECOND_BYTES = 2 * RATE
GOAL = 1.15
GOAL_MB = 40
GOAL_MS = 5
SENTENCE = "The quick brown fox jumps over the lazy dog, and then it sleeps."
FILES: tuple[OutputFormat, ...] = ("mp3", "opus", "flac", "m4a")
STREAMS: tuple[StreamFormat, ...] = ("mp3", "opus", "flac", "aac")
MP3 = {"format": "MP3", "subtype": "MPEG_LAYER_III"}
BARE = {
    "mp3": {**MP3, "bitrate_mode": "VARIABLE", "compression_level": 0.5},
    "constant mp3": {**MP3, "bitrate_mode": "CONSTANT", "compression_level": 0.6},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "flac": {"format": "FLAC", "subtype": "PCM_16"},
}


def minute() -> bytes:
    """A minute of voice: syllables of twenty harmonics, some breath, and pauses."""
    noise = np.random.default_rng(7)
    at_s = np.arange(60 * RATE) / RATE
    phase = 2 * np.pi * (140 * at_s + 4 * np.sin(2 * np.pi * 0.9 * at_s))
    voice = sum(np.sin(n * phase) / n for n in range(1, 20)) * (0.55 - 0.45 * np.cos(2 * np.pi * 4.1 * at_s))
    talks = (at_s % 3) < 2.6
    return np.rint(5_000 * voice * talks + noise.normal(0, 60, at_s.size)).astype("<i2").tobytes()


def blocks(pcm: bytes, size: int) -> Iterable[bytes]:
    """The sound in blocks of this many bytes."""
    return (pcm[at : at + size] for at in range(0, len(pcm), size))


def cpu_s(work: Callable[[], object]) -> float:
    """The CPU time that one call takes, in all threads, system time included."""
    start = time.process_time()
    work()
    return time.process_time() - start


def bare(pcm: bytes, sound_format: str, path: Path, size: int = SECOND_BYTES) -> None:
    """The encoder alone."""
    if sound_format in ("m4a", "aac"):
        bare_aac(pcm, path, "mp4" if sound_format == "m4a" else "adts", size)
        return
    with soundfile.SoundFile(path, "w", RATE, channels=1, **BARE[sound_format]) as file:
        for block in blocks(pcm, size):
            file.buffer_write(block, "int16")


def bare_aac(pcm: bytes, path: Path, container: str, size: int) -> None:
    """PyAV alone."""
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream("aac", rate=RATE, bit_rate=64_000, layout="mono")
        samples = 0
        for block in blocks(pcm, size):
            frame = av.AudioFrame("s16", "mono", len(block) // 2)
            frame.planes[0].update(block)
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), samples
            samples += frame.samples
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def whole(pcm: bytes, output_format: OutputFormat, path: Path, *, checked: bool) -> None:
    """A file of this library."""
    compare_length = encoding._compare if checked else mock.Mock()
    with path.open("w+b") as file, mock.patch.object(encoding, "_compare", compare_length):
        encoder = encoding.FileEncoder(file.fileno(), output_format, {"title": "a title", "artist": "kore"})
        for block in blocks(pcm, SECOND_BYTES):
            encoder.write(block)
        encoder.finish()


def streamed(pcm: bytes, stream_format: StreamFormat, path: Path) -> None:
    """A stream of this library, written into a file as a server sends it."""
    encoder = encoding.StreamEncoder(stream_format)
    with path.open("wb") as file:
        for block in blocks(pcm, SECOND_BYTES // 10):
            file.write(encoder.encode(block))
        file.write(encoder.finish())


def compare(what: str, arms: dict[str, Callable[[], object]], rounds: int, minutes: float, goal: float | None) -> None:
    """Print a row of CPU seconds per minute of sound."""
    found = interleaved({name: partial(cpu_s, arm) for name, arm in arms.items()}, rounds)
    ours, baseline = ([value / minutes for value in found[name]] for name in ("ours", "bare"))
    row(what, ours, baseline, "s/min", goal)


def growth_mb(output_format: str, minutes: float, folder: Path) -> float:
    """How many MB a process of its own grows by over a sound of this length, its check included."""
    command = [sys.executable, __file__, "--grow", output_format, "--hour", str(minutes), "--folder", str(folder)]
    return float(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def grow(output_format: OutputFormat, minutes: float, folder: Path) -> None:
    """Print how many MB this process has grown by at most, from the first second of sound to the end."""
    pcm = minute()
    with (folder / f"long.{output_format}").open("w+b") as file:
        encoder = encoding.FileEncoder(file.fileno(), output_format, {})
        encoder.write(pcm[:SECOND_BYTES])
        before = rss_mb()
        most = before
        for second in range(0, round(60 * minutes), 60):
            encoder.write(pcm[: round(60 * minutes - second) * SECOND_BYTES])
            most = max(most, rss_mb())
        encoder.finish()
        print(json.dumps(max(most, rss_mb()) - before))


async def longest_steps_ms(url: str, sound_format: str, sentences: int, folder: Path) -> list[float]:
    """The milliseconds of CPU that the event loop's longest step takes, for a whole file and for a stream."""
    settings: dict[str, Any] = {"gemini_base_url": url, "output_dir": folder, "_env_file": None}
    async with TTSService(AudioConfig(gemini_api_key="benchmark", **settings)) as service:

        async def whole_file(text: str) -> None:
            (await service.generate_audio(AudioRequest(text=text, output_format=sound_format))).raise_for_error()

        async def stream(text: str) -> None:
            async for _ in service.stream_audio(AudioRequest(text=text), format=sound_format):
                pass

        found = []
        for work in (whole_file, stream) if sound_format in STREAMS else (whole_file,):
            await work("The first request pays for imports.")
            watch = asyncio.create_task(watch_steps(steps := [0.0]))
            await work(" ".join(f"{SENTENCE} It is {sound_format} {number}." for number in range(sentences)))
            watch.cancel()
            found.append(1000 * max(steps))
    return found


async def watch_steps(longest: list[float]) -> None:
    """Note the CPU seconds of the loop's thread between two turns of this task; a turn comes after each round."""
    while True:
        before = time.thread_time()
        await asyncio.sleep(0)
        longest[0] = max(longest[0], time.thread_time() - before)


def rss_mb() -> float:
    """What this process has in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description="Measure the encoders beside what they are made of.")
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="length of the sound (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds of each (default: %(default)s)")
    parser.add_argument("--hour", type=float, default=60, metavar="N", help="minutes of the long sound (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where to write files (default: the system's temporary folder)")
    parser.add_argument("--grow", choices=FILES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.grow:
        grow(options.grow, options.hour, options.folder)
        return
    pcm = (minute() * (options.seconds // 60 + 1))[: options.seconds * SECOND_BYTES]
    minutes = options.seconds / 60
    print(machine())
    with TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        heading("CPU per minute of sound", baseline="bare")
        for each in FILES:
            arms = {"bare": partial(bare, pcm, each, folder / f"bare.{each}")}
            ours = folder / f"ours.{each}"
            arms["ours"] = partial(whole, pcm, each, ours, checked=False)
            compare(f"{each} file", arms, options.rounds, minutes, GOAL)
            arms["ours"] = partial(whole, pcm, each, ours, checked=True)
            compare(f"{each} file, checked", arms, options.rounds, minutes, None)
        for stream in STREAMS:
            encoder = "constant mp3" if stream == "mp3" else stream
            arms = {"bare": partial(bare, pcm, encoder, folder / f"bare.{stream}", SECOND_BYTES // 10)}
            arms["ours"] = partial(streamed, pcm, stream, folder / f"ours.{stream}")
            compare(f"{stream} stream", arms, options.rounds, minutes, GOAL)
        print(f"\nGrowth of memory over {options.hour:g} minutes of sound, check included")
        for each in FILES:
            grown = growth_mb(each, options.hour, folder)
            print(f"{each:<5} {grown:6.1f} MB  ≤ {GOAL_MB} {'met' if grown <= GOAL_MB else 'MISSED'}", flush=True)
        print("\nLongest step of the event loop: whole file, stream")
        with server(0.0) as url:
            for form in ("wav", *FILES):
                steps = asyncio.run(longest_steps_ms(url, form, math.ceil(5 * options.hour), folder / f"{form}s"))
                shown = ", ".join(f"{step:.1f}" for step in steps)
                print(f"{form:<5} {shown} ms  ≤ {GOAL_MS} {'met' if max(steps) <= GOAL_MS else 'MISSED'}", flush=True)


if __name__ == "__main__":
    main()
