"""What a durable, atomic WAV costs beside the standard library's ``wave``, with and without fsync, and its memory."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
import wave
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from measuring import heading, interleaved, row, timed_s

from audio_api.audio.wav_file import WavWriter, write_wav

RATE = 24_000
CLIP = os.urandom(5 * 2 * RATE)
PIECE = os.urandom(1_000_000)
# A clip takes a millisecond, of which one is like no other.
CLIP_ROUNDS = 10


def sound(size_mb: int) -> Iterator[bytes]:
    """A sound, piece by piece, never in memory as a whole."""
    for _ in range(size_mb):
        yield PIECE


def with_wave(path: Path, pieces: Iterable[bytes], *, sync: bool = False) -> None:
    """The baseline: the standard library, under the file's final name."""
    with path.open("wb") as file:
        with wave.open(file, "wb") as target:
            target.setparams((1, 2, RATE, 0, "NONE", ""))
            for piece in pieces:
                target.writeframesraw(piece)
        if sync:
            file.flush()
            os.fsync(file.fileno())


async def streamed(path: Path, pieces: Iterable[bytes]) -> None:
    """This library, piece by piece."""
    async with WavWriter(path.parent, path.name, overwrite=True) as writer:
        for piece in pieces:
            await writer.write(piece)
        await writer.commit()


async def at_once(path: Path, pieces: Iterable[bytes]) -> None:
    """This library, with the whole sound in memory."""
    await write_wav(path.parent, path.name, b"".join(pieces), overwrite=True)


def wave_at_once(path: Path, pieces: Iterable[bytes]) -> None:
    """The standard library, with the whole sound in memory."""
    with_wave(path, [b"".join(pieces)])


def without_fsync_s(work: Callable[[], object]) -> float:
    """The seconds of one call if nothing were made durable, for which the library has no switch."""
    with mock.patch("os.fsync"):
        return timed_s(work)


def peak_mb(work: Callable[[], object]) -> float:
    """The most memory that was allocated at one time, in megabytes."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def compare(
    what: str, ours: Callable[[], object], baseline: Callable[..., object], rounds: int, size_mb: float | None = None
) -> None:
    """Print the speed with and without fsync, in milliseconds or, for a size, in MB/s."""
    arms = {
        "ours": partial(timed_s, ours),
        "wave": partial(timed_s, partial(baseline, sync=True)),
        "ours without fsync": partial(without_fsync_s, ours),
        "wave without fsync": partial(timed_s, baseline),
    }
    figures = {
        name: [size_mb / seconds if size_mb else seconds * 1000 for seconds in times]
        for name, times in interleaved(arms, rounds).items()
    }
    unit = "MB/s" if size_mb else "ms"
    row(f"{what}, fsync in both", figures["ours"], figures["wave"], unit)
    row(f"{what}, no fsync", figures["ours without fsync"], figures["wave without fsync"], unit)


def main(size_mb: int = 100, rounds: int = 5, folder: Path | None = None) -> None:
    """Print the tables.

    Args:
        size_mb: Millions of bytes of the long sound.
        rounds: Rounds of each measurement.
        folder: Where files are written; ``None``: the system's folder for temporary files.
    """
    with TemporaryDirectory(dir=folder) as output, asyncio.Runner() as runner:
        path = Path(output) / "sound.wav"

        def run(write: Callable[[Path, Iterable[bytes]], Coroutine[None, None, None]], pieces: Iterable[bytes]) -> None:
            runner.run(write(path, pieces))

        def stream_long() -> None:
            run(streamed, sound(size_mb))

        def wave_long(*, sync: bool = False) -> None:
            with_wave(path, sound(size_mb), sync=sync)

        heading("writing WAV / stdlib wave; for MB/s more is better")
        compare(f"{size_mb} MB streamed", stream_long, wave_long, rounds, size_mb)
        compare("5 s clip", partial(run, at_once, [CLIP]), partial(with_wave, path, [CLIP]), rounds * CLIP_ROUNDS)
        heading(f"peak memory of {size_mb} MB of sound / stdlib wave")
        row("streamed", [peak_mb(stream_long)], [peak_mb(wave_long)], "MB")
        in_memory, wave_in_memory = (
            peak_mb(lambda: run(at_once, sound(size_mb))),
            peak_mb(lambda: wave_at_once(path, sound(size_mb))),
        )
        row("at once", [in_memory], [wave_in_memory], "MB")


if __name__ == "__main__":
    main()
