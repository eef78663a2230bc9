"""How soon a stream is heard: from the call to the first block, beside the server's own first byte.

    python benchmarks/first_sound.py

The emulator runs in a process of its own and answers 50 ms after a call. The baseline is a bare socket that sends the
same call and waits for the first byte of the body. The offline engine has no server: its figure is the whole wait.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from urllib.parse import urlsplit

from measuring import machine

from audio_api.engines.base import SpeechEngine, Turn, Utterance
from audio_api.engines.gemini import GeminiEngine
from audio_api.engines.offline import OfflineEngine
from audio_api.models.audio_request import VoiceConfig

ROUNDS = 100
LATENCY_S = 0.05
GOAL_MS = 50
SENTENCE = "The quick brown fox jumps over the lazy dog, and then it rests in the shade of an old tree. "
MODEL = "gemini-3.8-flash-tts"
# The emulator keeps the sound of texts below 300 characters, so that computing it adds no noise.
TEXTS = {"1 sentence": SENTENCE, "3 sentences": SENTENCE * 3}
OFFLINE_TEXTS = TEXTS | {"20 sentences": SENTENCE * 20}


def utterance(text: str) -> Utterance:
    """A single voice."""
    return Utterance((Turn(text, VoiceConfig()),), MODEL, "en-US")


async def first_block_ms(engine: SpeechEngine, text: str) -> float:
    """The wait for the first block that is not silence; the rest is heard, too, but not counted."""
    start = time.perf_counter()
    waited_ms = 0.0
    async for block in engine.stream(utterance(text)):
        if not waited_ms and any(block.pcm):
            waited_ms = (time.perf_counter() - start) * 1_000
    return waited_ms


async def first_byte_ms(url: str, text: str) -> float:
    """The wait for the first byte of the body on a bare socket."""
    start = time.perf_counter()
    address = urlsplit(url)
    assert address.port is not None
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    speech = {"voice_config": {"prebuilt_voice_config": {"voice_name": "Kore"}}, "language_code": "en-US"}
    contents = [{"role": "user", "parts": [{"text": text}]}]
    config = {"responseModalities": ["AUDIO"], "speechConfig": speech}
    body = json.dumps({"contents": contents, "generationConfig": config}).encode()
    head = f"POST /v1beta/models/{MODEL}:streamGenerateContent?alt=sse HTTP/1.1\r\nHost: x\r\nx-goog-api-key: k\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(1)
    waited_ms = (time.perf_counter() - start) * 1_000
    writer.close()
    return waited_ms


def report(what: str, waits_ms: list[float], goal: str = "") -> None:
    """Print the median and the 95th percentile."""
    waits_ms = sorted(waits_ms)
    median_ms, slow_ms = (waits_ms[len(waits_ms) * percent // 100] for percent in (50, 95))
    print(f"{what:<50} p50 {median_ms:6.1f} ms  p95 {slow_ms:6.1f} ms{goal}")


async def measure_gemini(url: str) -> None:
    """The engine and the bare socket by turns."""
    engine = GeminiEngine("k", base_url=url, timeout_s=60, max_connections=4)
    for name, text in TEXTS.items():
        await first_block_ms(engine, text)
        pairs = [(await first_byte_ms(url, text), await first_block_ms(engine, text)) for _ in range(ROUNDS)]
        report(f"Gemini, {name}: the server's first byte", [byte for byte, _ in pairs])
        report(f"Gemini, {name}: first block", [block for _, block in pairs])
        added = [block - byte for byte, block in pairs]
        report(f"Gemini, {name}: the difference", added, f"  (goal: p95 <= {GOAL_MS} ms)")
    await engine.close()


async def measure_offline() -> None:
    """The whole wait, once the process runs."""
    engine = OfflineEngine()
    await engine.health_check("any")
    for name, text in OFFLINE_TEXTS.items():
        report(f"offline, {name}: first sound", [await first_block_ms(engine, text) for _ in range(ROUNDS)])
    await engine.close()


async def main() -> None:
    """Start an emulator, measure, and end it."""
    print(machine())
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "audio_api.emulator", "--speech", "computed", "--latency", str(LATENCY_S)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert server.stdout is not None
    while not (url := re.search(r"http://[\d.:]+", (await server.stdout.readline()).decode())):
        pass
    try:
        await measure_gemini(url[0])
    finally:
        server.terminate()
        await server.wait()
    await measure_offline()


if __name__ == "__main__":
    asyncio.run(main())
