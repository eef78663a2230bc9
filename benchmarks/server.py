"""What ``audio-api serve`` adds: to the first sound, to many requests at once, and to its memory over many requests.

    python benchmarks/server.py [--rounds N] [--requests N] [--many N] [--latency S]

The emulator and the server run in processes of their own. The baselines are ``stream_audio`` in this process, and plain
posts to the emulator, as many at once as the server gets.
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
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from load import TEXT, server
from measuring import machine

from audio_api import AudioConfig, AudioRequest, TTSService

FIRST_BYTE_GOAL_MS, WALL_GOAL, GROWTH_GOAL = 10.0, 1.3, 1.1
MODEL = "gemini-3.8-flash-tts"
_numbers = count()


@contextmanager
def serving(gemini: str, folder: str, **settings: object) -> Iterator[tuple[str, int]]:
    """The address and the process of a server."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    variables = {name.upper(): str(value) for name, value in settings.items()}
    environment = os.environ | {"GEMINI_API_KEY": "any", "GEMINI_BASE_URL": gemini, "OUTPUT_DIR": folder} | variables
    command = [sys.executable, "-m", "audio_api", "serve", "--port", str(port)]
    with subprocess.Popen(command, env=environment, cwd=folder, stderr=subprocess.DEVNULL) as process:
        try:
            while True:
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


async def first_bytes(url: str, gemini: str, rounds: int) -> None:
    """Time to the first byte, by turns."""
    settings: dict[str, Any] = {"gemini_base_url": gemini, "_env_file": None}
    config = AudioConfig(gemini_api_key="any", cache_max_bytes=0, **settings)
    async with aiohttp.ClientSession() as client, TTSService(config) as service:
        for sound_format in ("pcm", "mp3"):
            ours, theirs = [], []
            for number in range(rounds + 5):
                text = new_text()
                http, bare = await ask(client, url, text, sound_format), await streamed(service, text)
                if number >= 5:
                    ours.append(http * 1000)
                    theirs.append(bare * 1000)
            over = p95(ours) - p95(theirs)
            print(
                f"first byte, {sound_format:<4} median {median(ours):7.1f} / {median(theirs):7.1f} ms, "
                f"p95 {p95(ours):7.1f} / {p95(theirs):7.1f} ms, "
                f"p95 over stream_audio {over:6.1f} ms  {verdict(over, FIRST_BYTE_GOAL_MS)}"
            )


async def many_at_once(url: str, gemini: str, requests: int, label: str, formats: tuple[str, ...]) -> None:
    """The wall time of many requests at once, beside plain posts."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as client:
        for sound_format in formats:
            ratios, walls = [], []
            for number in range(3):
                posts = await wall_s(lambda: post(client, gemini, new_text()), requests)
                ours = await wall_s(lambda form=sound_format: ask(client, url, new_text(), form), requests)
                if number:
                    ratios.append(ours / posts)
                    walls.append((ours, posts))
            ours, posts = walls[-1]
            print(
                f"{requests} at once, {label}, {sound_format:<4} {ours:6.2f} / {posts:6.2f} s  "
                f"ratio {median(ratios):5.2f}  {verdict(median(ratios), WALL_GOAL)}"
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
        with server(0.05) as gemini, serving(gemini, folder, cache_max_bytes=0) as (url, _):
            asyncio.run(first_bytes(url, gemini, options.rounds))
        with server(options.latency) as gemini:
            wide = {"cache_max_bytes": 0, "max_concurrency": options.requests}
            with serving(gemini, folder, **wide) as (url, _):
                label = f"MAX_CONCURRENCY={options.requests}"
                asyncio.run(many_at_once(url, gemini, options.requests, label, ("pcm", "wav", "mp3")))
        with server(0.0) as gemini, serving(gemini, folder) as (url, pid):
            asyncio.run(memory(url, pid, options.many))


if __name__ == "__main__":
    main()
