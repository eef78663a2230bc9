"""What ``audio-api serve`` adds: to the first sound, to many requests at once, and to its memory over many requests.

    python benchmarks/server.py [--rounds N] [--requests N] [--many N] [--latency S]

The emulator and the server run in processes of their own. The baselines are ``stream_audio`` in this process, plain
posts to the emulator, as many at once as the server gets, and ``bare_server.py``: the least that FastAPI takes to pass
the samples of such a call on. openai-edge-tts and Kokoro-FastAPI are in no registry, and bring engines of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import aiohttp
from load import TEXT, server
from measuring import machine

from audio_api import AudioConfig, AudioRequest, TTSService

FIRST_BYTE_GOAL_MS, WALL_GOAL, GROWTH_GOAL = 10.0, 1.3, 1.1
MODEL = "gemini-3.8-flash-tts"
_numbers = count()


@contextmanager
def serving(gemini: str, folder: str, *, bare: bool = False, **settings: object) -> Iterator[tuple[str, int]]:
    """The address and the process of a server, ours or the bare one.

    Raises:
        ChildProcessError: It ended before it served; the text is what it said.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    variables = {name.upper(): str(value) for name, value in settings.items()}
    environment = os.environ | {"GEMINI_API_KEY": "any", "GEMINI_BASE_URL": gemini, "OUTPUT_DIR": folder} | variables
    command = [sys.executable, "-m", "audio_api", "serve", "--port", str(port)]
    if bare:
        command = [sys.executable, str(Path(__file__).with_name("bare_server.py")), str(port), gemini]
    with (
        TemporaryFile("w+") as said,
        subprocess.Popen(command, env=environment, cwd=folder, stdout=said, stderr=said) as process,
    ):
        try:
            while True:
                if process.poll() is not None:
                    said.seek(0)
                    raise ChildProcessError(f"the server has ended with {process.returncode}: {said.read()[-2000:]}")
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()


def new_text() -> str:
    """Five seconds that were not spoken before."""
    return f"{TEXT[:-2]} {next(_numbers)}."


async def ask(client: aiohttp.ClientSession, url: str, text: str, sound_format: str) -> float:
    """Ask for speech, read all of it, and return the seconds to its first byte."""
    started_s = time.perf_counter()
    body = {"input": text, "response_format": sound_format}
    async with client.post(f"{url}/v1/audio/speech", json=body) as answer:
        answer.raise_for_status()
        await answer.content.readany()
        first_s = time.perf_counter() - started_s
        await answer.read()
    return first_s


async def streamed(service: TTSService, text: str) -> float:
    """The same from ``stream_audio``."""
    started_s, first_s = time.perf_counter(), 0.0
    async for _ in service.stream_audio(AudioRequest(text=text)):
        first_s = first_s or time.perf_counter() - started_s
    return first_s


async def post(client: aiohttp.ClientSession, gemini: str, text: str) -> None:
    """A plain post to the emulator."""
    voice = {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}}}
    body = {
        "contents": [{"role": "user", "parts": [{"text": text}]}],
        "generationConfig": {"responseModalities": ["AUDIO"], "speechConfig": voice},
    }
    url = f"{gemini}/v1beta/models/{MODEL}:generateContent"
    async with client.post(url, json=body, headers={"x-goog-api-key": "any"}) as answer:
        answer.raise_for_status()
        await answer.read()


async def wall_s(call: Callable[[], Awaitable[object]], requests: int) -> float:
    """The seconds that so many calls at once take."""
    started_s = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(requests)))
    return time.perf_counter() - started_s


def p95(values: list[float]) -> float:
    """The value that one in twenty exceeds."""
    return quantiles(values, n=20)[-1] if len(values) > 1 else values[0]


def verdict(value: float, goal: float) -> str:
    """Whether a goal is met."""
    return f"≤ {goal:g} {'met' if value <= goal else 'MISSED'}"


async def first_bytes(url: str, bare: str, gemini: str, rounds: int) -> None:
    """Time to the first byte, by turns."""
    settings: dict[str, Any] = {"gemini_base_url": gemini, "_env_file": None}
    config = AudioConfig(gemini_api_key="any", cache_max_bytes=0, **settings)
    async with aiohttp.ClientSession() as client, TTSService(config) as service:
        for sound_format in ("pcm", "mp3"):
            waits_ms: dict[str, list[float]] = {"ours": [], "stream_audio": [], "bare": []}
            for number in range(rounds + 5):
                text = new_text()
                for name, wait_s in (
                    ("ours", await ask(client, url, text, sound_format)),
                    ("stream_audio", await streamed(service, text)),
                    ("bare", await ask(client, bare, text, "pcm")),
                ):
                    if number >= 5:
                        waits_ms[name].append(wait_s * 1000)
            over = p95(waits_ms["ours"]) - p95(waits_ms["stream_audio"])
            told = ", ".join(f"{name} {median(waits):.1f} / {p95(waits):.1f}" for name, waits in waits_ms.items())
            print(
                f"first byte, {sound_format:<4} median / p95 ms: {told}; p95 over stream_audio {over:6.1f} ms  "
                f"{verdict(over, FIRST_BYTE_GOAL_MS)}",
                flush=True,
            )


async def many_at_once(url: str, bare: str, gemini: str, requests: int, formats: tuple[str, ...]) -> None:
    """The wall time of many requests at once, beside plain posts and the bare server."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as client:
        for sound_format in formats:
            rounds = []
            for number in range(4):
                posts = await wall_s(lambda: post(client, gemini, new_text()), requests)
                ours = await wall_s(lambda form=sound_format: ask(client, url, new_text(), form), requests)
                least = await wall_s(lambda: ask(client, bare, new_text(), "pcm"), requests)
                if number:
                    rounds.append((ours / posts, ours / least, ours, posts, least))
            ratio, to_bare, *walls = (median(each) for each in zip(*rounds, strict=True))
            print(
                f"{requests} at once, {sound_format:<4} ours {walls[0]:5.2f} s, posts {walls[1]:5.2f} s, bare server "
                f"{walls[2]:5.2f} s; ours / bare {to_bare:5.2f}, ours / posts {ratio:5.2f}  "
                f"{verdict(ratio, WALL_GOAL)}",
                flush=True,
            )


async def memory(url: str, pid: int, requests: int) -> None:
    """The server's memory after a tenth of the requests, and after all."""
    text = new_text()
    async with aiohttp.ClientSession() as client:

        async def some(number: int) -> float:
            waiting = iter(range(number))

            async def work() -> None:
                for _ in waiting:
                    await ask(client, url, text, "pcm")

            await asyncio.gather(*(work() for _ in range(10)))
            status = await asyncio.to_thread(Path(f"/proc/{pid}/status").read_text)
            return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024

        early, late = await some(max(1, requests // 10)), await some(requests - requests // 10)
    growth = late / early
    print(
        f"memory after {requests // 10:,} and {requests:,} requests {early:.0f} and {late:.0f} MB  ratio {growth:.2f}  "
        f"{verdict(growth, GROWTH_GOAL)}"
    )


def main() -> None:
    """Measure, and print a row for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--many", type=int, default=10_000)
    parser.add_argument("--latency", type=float, default=1.0)
    options = parser.parse_args()
    print(machine(), flush=True)
    with TemporaryDirectory() as folder:
        plain = {"cache_max_bytes": 0}
        with (
            server(0.05) as gemini,
            serving(gemini, folder, **plain) as (url, _),
            serving(gemini, folder, bare=True) as (bare, _),
        ):
            asyncio.run(first_bytes(url, bare, gemini, options.rounds))
        with (
            server(options.latency) as gemini,
            serving(gemini, folder, **plain, max_concurrency=options.requests) as (url, _),
            serving(gemini, folder, bare=True) as (bare, _),
        ):
            asyncio.run(many_at_once(url, bare, gemini, options.requests, ("pcm", "wav", "mp3")))
        with server(0.0) as gemini, serving(gemini, folder) as (url, pid):
            asyncio.run(memory(url, pid, options.many))


if __name__ == "__main__":
    main()
