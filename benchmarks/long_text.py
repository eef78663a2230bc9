"""What a long text costs beyond its calls: time, memory, a crash in the middle, and the wait for the first sound.

    python benchmarks/long_text.py [speed] [memory] [resume] [sound]

The server is the emulator in a process of its own, which takes a second for each call; eight calls are made at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
from first_sound import GOAL_MS, SENTENCE, first_byte_ms, report
from load import KEY, MODEL, server, unlimited_http
from measuring import heading, interleaved, machine, row, timed_s

from audio_api import AudioConfig, AudioRequest, TTSService

PARTS = ("speed", "memory", "resume", "sound")
AT_ONCE = 8
SPEED_GOAL = 1.15
MEMORY_GOAL_MB = 40.0
# Long enough for the server to forget the calls that the last stream gave up.
REST_S = 0.4


def book(chars: int) -> str:
    """Numbered sentences in paragraphs, so that no two pieces are alike."""
    text = ""
    for number in count(1):
        sentence = f"This is sentence number {number}, and it says that the river was high and the bridge was gone."
        if len(text) + len(sentence) > chars:
            return text.rstrip()
        text += sentence + ("\n\n" if number % 6 == 0 else " ")
    raise AssertionError


def settings(url: str, folder: Path, **changes: Any) -> AudioConfig:
    """Eight calls at once; everything else as it is by default."""
    fields: dict[str, Any] = {
        "gemini_api_key": KEY,
        "gemini_base_url": url,
        "default_tts_model": MODEL,
        "output_dir": folder,
        "max_concurrency": AT_ONCE,
        "piece_concurrency": AT_ONCE,
        "max_text_length": 10_000_000,
        **changes,
    }
    return AudioConfig(**fields, _env_file=None)


async def speak(config: AudioConfig, text: str, *, cache: bool = True) -> tuple[int, int]:
    """Make a file; returns the calls that it took and the pieces that were there before."""
    async with TTSService(config) as tts:
        request = AudioRequest(text=text, output_filename="book", overwrite=True, cache=cache)
        response = (await tts.generate_audio(request)).raise_for_error()
    return response.attempts, response.cached_pieces


# --- speed ---------------------------------------------------------------------------------------------------------


async def post_all(url: str, calls: list[dict[str, Any]]) -> None:
    """The same bodies by plain HTTP, as many at once, with nothing read but the bytes."""
    waiting = iter(calls)

    async def work(http: httpx2.AsyncClient) -> None:
        for call in waiting:
            reply = await http.post(url + call["path"], json=call["body"], headers={"x-goog-api-key": KEY})
            reply.raise_for_status()

    async with unlimited_http() as http:
        await asyncio.gather(*(work(http) for _ in range(AT_ONCE)))


def calls_seen(url: str) -> list[dict[str, Any]]:
    """Every call that the server has received."""
    calls: list[dict[str, Any]] = httpx2.get(f"{url}/emulator/calls", timeout=60).json()["calls"]
    return calls


def measure_speed(chars: int, latency_s: float, rounds: int, folder: Path) -> None:
    """Wall time of one long text, every piece made again and kept, beside plain posts of its pieces."""
    text = book(chars)
    with server(latency_s) as url:
        config = settings(url, folder)
        asyncio.run(speak(config, text))
        calls = calls_seen(url)
        arms: dict[str, Callable[[], float]] = {
            "ours": partial(timed_s, lambda: asyncio.run(speak(config, text, cache=False))),
            "posts": partial(timed_s, lambda: asyncio.run(post_all(url, calls))),
        }
        walls_s = interleaved(arms, rounds)
    heading(f"{len(text):,} characters in {len(calls)} calls, {AT_ONCE} at once, server {latency_s} s")
    row("wall time: generate_audio / httpx2 posts of the pieces", walls_s["ours"], walls_s["posts"], "s", SPEED_GOAL)
    if latency_s:
        ideal_s = -(-len(calls) // AT_ONCE) * latency_s
        row("wall time: generate_audio / a server without work", walls_s["ours"], [ideal_s] * rounds, "s")


# --- memory --------------------------------------------------------------------------------------------------------


def resident_mb() -> float:
    """Memory of this process that is in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Peak:
    """The most memory while it is watched."""

    def __init__(self) -> None:
        self.mb = 0.0
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look)

    def __enter__(self) -> Peak:
        """Begin."""
        self._watch.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End."""
        self._ended.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._ended.wait(0.002):
            self.mb = max(self.mb, resident_mb())


async def growth_mb(url: str, folder: Path, chars: int) -> float:
    """How much more memory a long text takes than a sentence, which has loaded all modules."""
    text = book(chars)
    async with TTSService(settings(url, folder)) as tts:
        (await tts.generate_audio(AudioRequest(text=SENTENCE))).raise_for_error()
        before_mb = resident_mb()
        with Peak() as peak:
            (await tts.generate_audio(AudioRequest(text=text))).raise_for_error()
    return max(0.0, peak.mb - before_mb)


def measure_memory(lengths: list[int], latency_s: float, folder: Path) -> None:
    """Peak growth of a fresh process for each length."""
    heading(f"peak memory beyond that of a sentence, {AT_ONCE} at once", "growth", "allowed")
    for chars in lengths:
        with server(latency_s) as url, TemporaryDirectory(dir=folder) as output:
            grown = float(child("growth", url, output, str(chars)).communicate()[0])
        row(f"{chars:,} characters", [grown], [MEMORY_GOAL_MB], "MiB", 1.0)


# --- resume --------------------------------------------------------------------------------------------------------


def measure_resume(chars: int, latency_s: float, folder: Path) -> None:
    """Calls after a process was killed in the middle, and after one that finished."""
    with server(latency_s) as url, TemporaryDirectory(dir=folder) as output:
        config = settings(url, Path(output))
        total = len(list_pieces(config, chars))
        victim = child("speak", url, output, str(chars))
        while kept(Path(output)) < total / 2 and victim.poll() is None:
            time.sleep(0.005)
        victim.kill()
        victim.communicate()
        finished = kept(Path(output))
        runs = [json.loads(child("speak", url, output, str(chars)).communicate()[0]) for _ in range(2)]
    heading(f"{chars:,} characters in {total} pieces, killed when {finished} were finished", "calls", "unfinished")
    # A text of a few pieces may be finished before it is killed.
    row("the next run", [runs[0][0]], [max(1, total - finished)], "calls", 1.0)
    row("the run after that (beside all pieces)", [runs[1][0]], [total], "calls", 0.0)


def list_pieces(config: AudioConfig, chars: int) -> list[object]:
    """The pieces of a text."""
    from audio_api.engines.base import Utterance
    from audio_api.models.speech_models import model_spec
    from audio_api.speech.planning import plan_pieces

    utterance = Utterance.from_request(AudioRequest(text=book(chars)), MODEL)
    return list(plan_pieces(utterance, model_spec(MODEL).piece_chars))


def kept(folder: Path) -> int:
    """Finished pieces on disk."""
    return len(list(folder.glob(".cache/*.piece.wav")))


def child(*arguments: str) -> subprocess.Popen[str]:
    """This program in a fresh process, doing one thing."""
    return subprocess.Popen([sys.executable, __file__, "--child", *arguments], stdout=subprocess.PIPE, text=True)


def run_child(task: str, url: str, folder: str, chars: str) -> None:
    """What a fresh process does: print one figure."""
    if task == "growth":
        print(asyncio.run(growth_mb(url, Path(folder), int(chars))))
    else:
        print(json.dumps(asyncio.run(speak(settings(url, Path(folder)), book(int(chars))))))


# --- the first sound -----------------------------------------------------------------------------------------------


async def first_audio_ms(stream: AsyncGenerator[bytes, None]) -> float:
    """The wait for the first block that is not silence."""
    start = time.perf_counter()
    async with aclosing(stream):
        async for block in stream:
            if any(block):
                return (time.perf_counter() - start) * 1_000
    raise AssertionError("a stream without sound")


async def waits_ms(url: str, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Each wait, by turns."""
    sentence, text = AudioRequest(text=book(5_000).partition(". ")[0] + "."), AudioRequest(text=book(5_000))
    waits: dict[str, list[float]] = {"byte": [], "sentence": [], "text": []}
    async with TTSService(settings(url, folder, cache_max_bytes=0)) as tts:
        await first_audio_ms(tts.stream_audio(sentence))
        for _ in range(rounds):
            waits["byte"].append(await first_byte_ms(url, sentence.text))
            for name, request in (("sentence", sentence), ("text", text)):
                waits[name].append(await first_audio_ms(tts.stream_audio(request)))
                await asyncio.sleep(REST_S)
    return waits


def measure_sound(latency_s: float, rounds: int, folder: Path) -> None:
    """The wait for the first sound of a stream."""
    with server(latency_s) as url:
        waits = asyncio.run(waits_ms(url, folder, rounds))
    print(f"\nthe first sound of stream_audio, {rounds} rounds, server {latency_s} s")
    report("the server's first byte", waits["byte"])
    report("one sentence", waits["sentence"])
    report("5,000 characters", waits["text"])
    heading("95th percentile of what is added", "added", "allowed")
    added = {
        "one sentence - the server's first byte": ("sentence", "byte"),
        "5,000 characters - one sentence": ("text", "sentence"),
    }
    for what, (ours, theirs) in added.items():
        differences = sorted(mine - other for mine, other in zip(waits[ours], waits[theirs], strict=True))
        row(what, [differences[len(differences) * 95 // 100]], [GOAL_MS], "ms", 1.0)


def main() -> None:
    """Run the parts that the command line names, or all."""
    parser = argparse.ArgumentParser(description="Measure long texts beside their baselines.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--chars", type=int, default=100_000, metavar="N", help="of the text (default: %(default)s)")
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], metavar="N", help="of texts for memory"
    )
    parser.add_argument(
        "--latency", type=float, default=1.0, metavar="S", help="seconds the server takes (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="rounds of the speed (%(default)s)")
    parser.add_argument("--streams", type=int, default=100, metavar="N", help="rounds of the sound (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where to write files (default: the system's temporary folder)")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(*options.child)
        return
    parts = options.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    print(machine())
    with TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        if "speed" in parts:
            measure_speed(options.chars, options.latency, options.rounds, folder)
        if "memory" in parts:
            measure_memory(options.lengths, options.latency, folder)
        if "resume" in parts:
            measure_resume(options.chars, options.latency, folder)
        if "sound" in parts:
            measure_sound(min(options.latency, 0.05), options.streams, folder)


if __name__ == "__main__":
    main()
