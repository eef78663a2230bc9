"""Files of every format appear whole or not at all, as WAV does; some can be played while they grow."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sound import RATE, by_ffmpeg, tags_of, voice
from test_wav_faults import as_root

from audio_api.audio.wav_file import WavWriter
from audio_api.errors import ErrorCode, TTSOutputError, TTSValidationError
from audio_api.models.sound_formats import OutputFormat

PCM = voice(2.5)
FORMATS: list[OutputFormat] = ["mp3", "opus", "flac", "m4a"]
GROWING: list[OutputFormat] = ["mp3", "opus", "flac"]


@pytest.mark.parametrize("output_format", FORMATS)
async def test_a_file_appears_whole_under_its_name(output_format: OutputFormat, tmp_path: Path) -> None:
    """Until ``commit`` nothing has the name; then the file is complete, with its tags, and nothing is beside it."""
    async with WavWriter(tmp_path, "book", output_format=output_format) as writer:
        writer.describe({"title": "The book"})
        await writer.write(PCM[:50_001])
        await writer.write(PCM[50_001:])
        identity = await writer.prepare()
        assert [path.name[0] for path in tmp_path.iterdir()] == ["."]
        path = await writer.commit()
    assert path == tmp_path / f"book.{output_format}"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert os.path.samestat(path.stat(), identity)
    assert abs(by_ffmpeg(path.read_bytes()).size - len(PCM) // 2) <= RATE // 1000
    assert tags_of(path)["title"] == "The book"


@pytest.mark.parametrize("output_format", FORMATS)
async def test_an_older_file_is_replaced_only_when_that_is_allowed(output_format: OutputFormat, tmp_path: Path) -> None:
    """Without ``overwrite`` the older file stays, and the draft goes; with it the new one takes its place."""
    old = tmp_path / f"a.{output_format}"
    old.write_bytes(b"old")
    async with WavWriter(tmp_path, old.name, output_format=output_format) as writer:
        await writer.write(PCM)
        with pytest.raises(TTSOutputError) as caught:
            await writer.commit()
    assert caught.value.code is ErrorCode.OUTPUT_EXISTS
    assert writer.unsaved == PCM
    assert old.read_bytes() == b"old"
    async with WavWriter(tmp_path, old.name, output_format=output_format, overwrite=True) as writer:
        await writer.write(PCM)
        await writer.commit()
    assert by_ffmpeg(old.read_bytes()).size > RATE
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize("output_format", FORMATS)
async def test_what_is_not_finished_leaves_nothing(output_format: OutputFormat, tmp_path: Path) -> None:
    """Leaving without ``commit``, or cancelled in the middle of a write, removes every trace."""
    async with WavWriter(tmp_path, "a", output_format=output_format) as writer:
        await writer.write(PCM)
    assert list(tmp_path.iterdir()) == []

    begun = asyncio.Event()

    async def write_for_long() -> None:
        async with WavWriter(tmp_path, "a", output_format=output_format) as writer:
            while True:
                await writer.write(PCM * 10)
                begun.set()

    writing = asyncio.create_task(write_for_long())
    await begun.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert list(tmp_path.iterdir()) == []


@as_root
@pytest.mark.parametrize("output_format", FORMATS)
async def test_a_full_disk_is_named_and_the_sound_is_kept(
    output_format: OutputFormat, mount: Callable[[str], Path]
) -> None:
    """The error has the system's reason, the older file stays, and what was written before is there as samples."""
    folder = mount("size=64k")
    old = folder / f"a.{output_format}"
    old.write_bytes(b"old")
    async with WavWriter(folder, old.name, output_format=output_format, overwrite=True) as writer:
        with pytest.raises(TTSOutputError, match=rf"cannot write '.*a\.{output_format}': .* \(ENOSPC\)"):
            await write_often(writer)
    assert writer.unsaved is not None
    assert writer.unsaved == PCM * (len(writer.unsaved) // len(PCM))
    assert list(folder.iterdir()) == [old]
    assert old.read_bytes() == b"old"


async def write_often(writer: WavWriter) -> None:
    """Write more than the disk takes."""
    for _ in range(100):
        await writer.write(PCM)


async def test_a_long_sound_is_not_kept_in_memory(tmp_path: Path) -> None:
    """Above 16 MiB, six minutes, a sound that cannot be written is only in the cache of its pieces."""
    minute = bytes(2 * 60 * RATE)
    (tmp_path / "a.flac").touch()
    async with WavWriter(tmp_path, "a.flac", output_format="flac") as writer:
        for _ in range(6):
            await writer.write(minute)
        with pytest.raises(TTSOutputError):
            await writer.commit()
    assert writer.unsaved is None


@pytest.mark.parametrize("output_format", GROWING)
async def test_a_growing_file_can_be_played(output_format: OutputFormat, tmp_path: Path) -> None:
    """Most of what was written can be decoded before the file is complete; in the end it is exact."""
    part = tmp_path / f"live.part.{output_format}"
    async with WavWriter(tmp_path, f"live.{output_format}", output_format=output_format, growing=True) as writer:
        await writer.write(PCM)
        heard = by_ffmpeg(part.read_bytes()).size
        assert 0.4 * len(PCM) // 2 < heard <= len(PCM) // 2 + 2 * RATE // 10
        await writer.write(PCM)
        path = await writer.commit()
    assert by_ffmpeg(path.read_bytes()).size == pytest.approx(len(PCM), abs=RATE // 1000)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert not path.stat().st_mode & stat.S_ISVTX


def test_an_m4a_does_not_grow(tmp_path: Path) -> None:
    """It begins with an index of all of it; the refusal comes before anything is written, and tells what would do."""
    with pytest.raises(TTSValidationError, match=r"generate_audio.*\.wav, \.mp3, \.opus or \.flac"):
        WavWriter(tmp_path, "a.m4a", output_format="m4a", growing=True)


KILLED = """
import asyncio, os, sys, signal
from pathlib import Path
from audio_api.audio.wav_file import WavWriter
async def main():
    name = sys.argv[2]
    async with WavWriter(Path(sys.argv[1]), name, output_format=name.rpartition(".")[2], growing=True) as writer:
        await writer.write(Path(sys.argv[3]).read_bytes())
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


@pytest.mark.parametrize("output_format", GROWING)
async def test_the_part_of_a_killed_writer_is_taken_over(output_format: OutputFormat, tmp_path: Path) -> None:
    """What a dead process left behind does not keep the name from growing again."""
    out, sound = tmp_path / "out", tmp_path / "sound"
    sound.write_bytes(PCM)
    name = f"live.{output_format}"
    command = [sys.executable, "-c", KILLED, out, name, sound]
    done = await asyncio.to_thread(subprocess.run, command, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [each.name for each in out.iterdir()] == [f"live.part.{output_format}"]
    async with WavWriter(out, name, output_format=output_format, growing=True) as writer:
        await writer.write(PCM)
        await writer.commit()
    assert [each.name for each in out.iterdir()] == [name]


@pytest.mark.parametrize("output_format", GROWING)
async def test_a_complete_file_with_the_name_of_a_part_is_not_taken(
    output_format: OutputFormat, tmp_path: Path
) -> None:
    """The user's own ``live.part.mp3`` is in the way of a growing ``live.mp3``, and stays as it is."""
    own = tmp_path / f"live.part.{output_format}"
    async with WavWriter(tmp_path, own.name, output_format=output_format) as writer:
        await writer.write(PCM)
        await writer.commit()
    content = own.read_bytes()
    with pytest.raises(TTSOutputError, match=re.escape(own.name)) as caught:
        await WavWriter(tmp_path, f"live.{output_format}", output_format=output_format, growing=True).__aenter__()
    assert caught.value.code is ErrorCode.OUTPUT_EXISTS
    assert own.read_bytes() == content


@pytest.mark.parametrize("output_format", FORMATS)
async def test_a_wrong_ending_is_refused(output_format: OutputFormat, tmp_path: Path) -> None:
    """No file is named for a format that it does not have."""
    with pytest.raises(TTSValidationError, match=rf"must end with \.{output_format}"):
        WavWriter(tmp_path, "a.wav", output_format=output_format)
    assert list(tmp_path.iterdir()) == []
