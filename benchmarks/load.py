"""What a request costs beyond its call: wall time and CPU time beside plain HTTP posts and the bare SDK.

The server is the emulator in a process of its own. Each request has a text of its own, and each client sends the same
body for it; the service also checks the sound, caches it and writes it durably. Its settings are the defaults, but for
``MAX_CONCURRENCY``, which lets all requests call at once.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
from google.genai import Client, types
from measuring import heading, interleaved, row

from audio_api import AudioConfig, AudioRequest, TTSService
from audio_api.audio.wav import decode_wav, encode_wav
from audio_api.engines.base import Utterance
from audio_api.engines.gemini_request import Manner, build_request

# Five seconds at the emulator's pace.
TEXT = "The quick brown fox jumps over the lazy dog till 000000."
MODEL = "gemini-3.8-flash-tts"
KEY = "benchmark"
AUDIO_BYTES = 150_000
"""Of each reply at least."""
WALL_GOAL, CPU_GOAL = 1.3, 1.5


@dataclass(frozen=True)
class Cost:
    """What a number of requests took: time, and CPU time of this process with all its threads."""

    wall_s: float
    cpu_s: float


@contextmanager
def server(latency_s: float) -> Iterator[str]:
    """The address of an emulator in a process of its own."""
    command = [sys.executable, "-m", "audio_api.emulator", "--latency", str(latency_s), "--speech", "computed"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def unlimited_http() -> httpx2.AsyncClient:
    """An HTTP client that queues nothing."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx2.AsyncClient(limits=limits, timeout=60)


@dataclass
class Clients:
    """The ways to make one request; all send what the service sends."""

    url: str
    folder: Path
    concurrency: int
    http: httpx2.AsyncClient = field(default_factory=unlimited_http)

    def __post_init__(self) -> None:
        """Open the clients."""
        self._numbers = count()
        utterance = Utterance.from_request(AudioRequest(text=TEXT), MODEL)
        contents, config = build_request(utterance, Manner("verbatim", names_language=True, store=False))
        self._arguments: dict[str, Any] = {"model": MODEL, "contents": contents, "config": config}
        options = types.HttpOptions(base_url=self.url, api_version="v1beta", httpx_async_client=unlimited_http())
        self._sdk = Client(api_key=KEY, http_options=options)
        settings: dict[str, Any] = {"gemini_base_url": self.url, "_env_file": None}
        self._service = TTSService(
            AudioConfig(
                gemini_api_key=KEY, output_dir=self.folder / "output", max_concurrency=self.concurrency, **settings
            )
        )

    def _text(self) -> str:
        """A text that was not spoken yet, as long as every other."""
        return TEXT.replace("000000", f"{next(self._numbers):06}")

    async def learn_body(self) -> float:
        """See what the service sends, make sure that the SDK sends the same, and return the seconds of the reply."""
        response = (await self._service.generate_audio(AudioRequest(text=TEXT))).raise_for_error()
        await self._sdk.aio.models.generate_content(**self._arguments)
        ours, theirs = (await self.http.get(f"{self.url}/emulator/calls")).json()["calls"]
        assert ours["body"] == theirs["body"], "the service and the SDK are asked for different things"
        self._path, self._body = ours["path"], json.dumps(ours["body"])
        assert response.duration is not None
        return response.duration

    async def post(self) -> None:
        """Plain HTTP without the SDK: the reply is parsed and its sound decoded."""
        headers = {"x-goog-api-key": KEY, "content-type": "application/json"}
        body = self._body.replace(TEXT, self._text())
        reply = await self.http.post(self.url + self._path, content=body, headers=headers)
        content = reply.raise_for_status().json()["candidates"][0]["content"]
        assert len(base64.b64decode(content["parts"][0]["inlineData"]["data"])) > AUDIO_BYTES

    async def sdk(self) -> Any:
        """The bare SDK: the reply is parsed, and that is all."""
        contents = {"role": "user", "parts": [{"text": self._text()}]}
        return await self._sdk.aio.models.generate_content(**{**self._arguments, "contents": contents})

    async def by_hand(self) -> None:
        """The SDK, and the least that makes its reply a durable file, unchecked and with nothing that could fail."""
        reply = await self.sdk()
        sound = decode_wav(reply.candidates[0].content.parts[0].inline_data.data).pcm
        await asyncio.to_thread(write_by_hand, self.folder / f"{next(self._numbers)}.wav", sound)

    async def service(self) -> None:
        """This library, checks and durable file included."""
        (await self._service.generate_audio(AudioRequest(text=self._text()))).raise_for_error()

    async def close(self) -> None:
        """Close what can be closed."""
        await self.http.aclose()
        await self._sdk.aio.aclose()
        await self._service.close()


def write_by_hand(path: Path, pcm: bytes) -> None:
    """A file that is on disk before it gets its name."""
    draft = path.with_suffix(".tmp")
    with draft.open("wb") as file:
        file.write(encode_wav(pcm))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


async def cost(call: Callable[[], Awaitable[object]], requests: int, concurrency: int) -> Cost:
    """Make a number of requests, so many at a time."""
    waiting = iter(range(requests))

    async def work() -> None:
        for _ in waiting:
            await call()

    wall_s, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return Cost(time.perf_counter() - wall_s, time.process_time() - cpu_s)


def costs(
    names: tuple[str, ...], *, requests: int, concurrency: int, latency_s: float, rounds: int, folder: Path | None
) -> tuple[float, dict[str, list[Cost]]]:
    """The seconds of audio of a reply, and the costs of each client, interleaved."""
    with ExitStack() as stack:
        output = Path(stack.enter_context(TemporaryDirectory(dir=folder)))
        url = stack.enter_context(server(latency_s))
        runner = stack.enter_context(asyncio.Runner())

        async def connect() -> Clients:
            return Clients(url, output, concurrency)

        clients = runner.run(connect())
        audio_s = runner.run(clients.learn_body())

        def measure(name: str) -> Cost:
            result = runner.run(cost(getattr(clients, name), requests, concurrency))
            rmtree(output)
            output.mkdir()
            return result

        results = interleaved({name: partial(measure, name) for name in names}, rounds)
        runner.run(clients.close())
    return audio_s, results


def wall_s(costs_of_rounds: list[Cost]) -> list[float]:
    """Seconds of each round."""
    return [each.wall_s for each in costs_of_rounds]


def cpu_ms(costs_of_rounds: list[Cost], requests: int) -> list[float]:
    """Milliseconds of CPU per request, of each round."""
    return [each.cpu_s / requests * 1000 for each in costs_of_rounds]


def main(requests: int = 200, latency_s: float = 1.0, rounds: int = 5, folder: Path | None = None) -> None:
    """Print the table.

    Args:
        requests: Requests per round and client.
        latency_s: Seconds that the server takes for each of the concurrent requests.
        rounds: Rounds of each measurement.
        folder: Where files are written; ``None``: the system's folder for temporary files.
    """
    names = ("post", "sdk", "by_hand", "service")
    audio_s, at_once = costs(
        names, requests=requests, concurrency=requests, latency_s=latency_s, rounds=rounds, folder=folder
    )
    heading(f"{requests} concurrent requests of {audio_s:.1f} s, server {latency_s} s")
    posts = wall_s(at_once["post"])
    row("wall time: TTSService / httpx2 posts", wall_s(at_once["service"]), posts, "s", WALL_GOAL)
    row("wall time: bare SDK / httpx2 posts", wall_s(at_once["sdk"]), posts, "s")
    bare = cpu_ms(at_once["sdk"], requests)
    plain = cpu_ms(at_once["post"], requests)
    row("CPU per request: TTSService / httpx2 posts", cpu_ms(at_once["service"], requests), plain, "ms", CPU_GOAL)
    row("CPU per request: bare SDK / httpx2 posts", bare, plain, "ms")
    row("CPU per request: TTSService / bare SDK", cpu_ms(at_once["service"], requests), bare, "ms")
    row("CPU per request: SDK + durable file by hand / bare SDK", cpu_ms(at_once["by_hand"], requests), bare, "ms")

    _, one_by_one = costs(names, requests=requests, concurrency=1, latency_s=0.0, rounds=rounds, folder=folder)
    heading(f"{requests} requests of {audio_s:.1f} s one after the other, server 0 s")
    # No goal: a call that waits for no other is cheap, and the durable file alone costs half as much again.
    bare = cpu_ms(one_by_one["sdk"], requests)
    row("CPU per request: TTSService / bare SDK", cpu_ms(one_by_one["service"], requests), bare, "ms")
    row("CPU per request: SDK + durable file by hand / bare SDK", cpu_ms(one_by_one["by_hand"], requests), bare, "ms")
    row("CPU per request: httpx2 post / bare SDK", cpu_ms(one_by_one["post"], requests), bare, "ms")
    row("wall time: TTSService / bare SDK", wall_s(one_by_one["service"]), wall_s(one_by_one["sdk"]), "s")


if __name__ == "__main__":
    main()
