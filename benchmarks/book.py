"""A book through the emulator: how long it takes, what memory it needs, and what a kill in the middle costs.

``python benchmarks/book.py [characters]``; 300,000 take about ten minutes of CPU.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import av
from measuring import machine

from audio_api.books import Block, Book, Chapter, Narrator
from audio_api.books.audiobook import Audiobook
from audio_api.books.narration import narrate, target_for
from audio_api.config import AudioConfig
from audio_api.emulator import Emulator, Fault
from audio_api.services.tts_service import TTSService

CHAPTER_CHARS = 10_000


def made(chars: int) -> Book:
    """Numbered sentences, no two alike, in paragraphs and chapters."""
    chapters: list[Chapter] = []
    blocks: list[Block] = []
    for number in count(1):
        sentences = [f"This is sentence number {number}.{n}, and it says that the bridge was gone." for n in range(8)]
        blocks.append(Block("paragraph", " ".join(sentences)))
        if sum(len(block.text) for block in blocks) >= min(CHAPTER_CHARS, chars):
            title = f"Chapter {len(chapters) + 1}"
            chapters.append(Chapter(title, (Block("heading", title, 1), *blocks)))
            blocks = []
        if len(chapters) * CHAPTER_CHARS >= chars:
            return Book(title="The Bridge", chapters=tuple(chapters), authors=("A. Writer",), language="en-US")
    raise AssertionError


async def speak(url: str, folder: Path, chars: int) -> Audiobook:
    """Narrate a book as a user does."""
    config = AudioConfig(gemini_api_key="any", gemini_base_url=url, output_dir=folder, _env_file=None)
    book = made(chars)
    async with TTSService(config) as tts:
        return await narrate(book, tts, config, Narrator(), target_for(book, config))


def main_of_child(url: str, folder: str, chars: str) -> None:
    """Speak, and print the seconds of sound, the chapters that were kept, and the most memory in MB."""
    result = asyncio.run(speak(url, Path(folder), int(chars)))
    kept = sum(chapter.is_kept for chapter in result.chapters)
    # The kernel's other count, ru_maxrss, begins with the memory of the process that started this one.
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(result.success, result.duration_s, kept, int(peak.split()[1]) // 1024)


def told(what: str, figures: str) -> None:
    """Print a row."""
    print(f"{what:<46} {figures}", flush=True)


def child(emulator: Emulator, folder: Path, chars: int) -> subprocess.Popen[str]:
    """A process of its own that speaks."""
    command = [sys.executable, __file__, "--child", emulator.url, str(folder), str(chars)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def measured(emulator: Emulator, folder: Path, chars: int, name: str) -> None:
    """Speak a book from beginning to end."""
    started_s = time.monotonic()
    out, _ = child(emulator, folder, chars).communicate()
    success, seconds, kept, memory_mb = out.split()
    assert success == "True"
    told(
        name,
        f"{float(seconds) / 3600:.2f} h of sound, {time.monotonic() - started_s:.0f} s, {memory_mb} MB, kept {kept}",
    )


def killed(emulator: Emulator, folder: Path, chars: int, half: int) -> Counter[str]:
    """Speak half a book, and be killed; what was bought and how often."""
    emulator.faults = lambda call: Fault.NEVER_ANSWERS if call.number > half else None
    victim = child(emulator, folder, chars)
    cache = folder / ".cache"
    while len(list(cache.glob("*.piece.wav"))) < half or len(emulator.calls) <= half:
        time.sleep(0.2)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    bought = Counter(call.text for call in emulator.calls[:half])
    emulator.reset()
    return bought


def check(path: Path, chars: int) -> None:
    """Compare the file with the book."""
    with av.open(str(path)) as container:
        marks = container.chapters()
        assert len(marks) == len(made(chars).chapters)
        told(
            "m4b",
            f"{len(marks)} chapters, {path.stat().st_size / 1e6:.0f} MB, {(container.duration or 0) / 3.6e9:.2f} h",
        )


def main(chars: int) -> None:
    """Print every figure."""
    print(machine())
    with Emulator() as emulator, TemporaryDirectory() as folder:
        measured(emulator, Path(folder) / "tenth", chars // 10, f"{chars // 10:,} characters")
        calls = len(emulator.calls) * 10
        emulator.reset()
        half = max(1, calls // 2)
        bought = killed(emulator, Path(folder) / "whole", chars, half)
        measured(emulator, Path(folder) / "whole", chars, f"{chars:,} characters, after a kill at {half} calls")
        twice = sum((bought & Counter(call.text for call in emulator.calls)).values())
        told("pieces bought twice", str(twice))
        check(Path(folder) / "whole" / "The Bridge.m4b", chars)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        main_of_child(*sys.argv[2:])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 300_000)
