"""What a large batch takes of the memory: its requests, its upload, its results and their checks.

    python benchmarks/batch.py                      # 2,000 requests, and results of eight hours of speech
    python benchmarks/batch.py --requests 200

The emulator is a process of its own; the figures are this process's own (VmHWM, less what it has after its imports).
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import audio_api.audio.checks
import audio_api.engines.gemini_transport
import audio_api.services.gemini_batch  # noqa: F401 - what is imported is no memory of a batch
from audio_api import AudioConfig, AudioRequest, TTSService

MOST_MB = 100
WORDS = "and the river was high, and the bridge was gone, so we waited there. "


def peak_mb() -> float:
    """The most memory that this process has had."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


async def run(url: str, folder: Path, count: int, sentences: int) -> None:
    """Submit a batch, collect it, and print what that took."""
    config = AudioConfig(
        gemini_api_key="any", gemini_base_url=url, output_dir=folder, cache_max_bytes=2**35, _env_file=None
    )
    requests = [AudioRequest(text=f"Line {number} says this, {WORDS * sentences}") for number in range(count)]
    async with TTSService(config) as tts:
        await tts.warm_up()
        before_mb, began_s = peak_mb(), time.monotonic()
        batch = await tts.submit_batch(requests, name="large")
        submitted_s = time.monotonic() - began_s
        downloaded_mb: list[float] = []
        done = await batch.collect(lambda now: downloaded_mb.append(peak_mb()) if now.collected < 2 else None)
    results = sum(path.stat().st_size for path in (folder / ".batches" / "large").glob("*.results"))
    hours = sum(response.duration or 0 for response in done.results) / 3600
    print(f"{count:,} requests, {hours:.2f} h of speech, results of {results / 1e6:,.0f} MB")
    print(f"succeeded {done.completed:,}; submitted in {submitted_s:.1f} s, all in {time.monotonic() - began_s:.0f} s")
    all_mb = peak_mb() - before_mb
    print(f"memory: +{downloaded_mb[-1] - before_mb:.0f} MB until it was downloaded, +{all_mb:.0f} in all")
    print(f"goal: ≤ {MOST_MB} MB {'met' if all_mb <= MOST_MB else 'MISSED'}")


def main() -> None:
    """Run one batch against an emulator of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=2_000, metavar="N")
    parser.add_argument("--sentences", type=int, default=3, metavar="N", help="so long is each: about 5 s a sentence")
    options = parser.parse_args()
    command = [sys.executable, "-m", "audio_api.emulator", "--port", "0", "--speech", "computed"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as emulator, tempfile.TemporaryDirectory() as to:
        assert emulator.stdout
        url = next(word for word in emulator.stdout.readline().split() if word.startswith("http"))
        try:
            asyncio.run(run(url.rstrip(".,"), Path(to), options.requests, options.sentences))
        finally:
            emulator.terminate()


if __name__ == "__main__":
    main()
