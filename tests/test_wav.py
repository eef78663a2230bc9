"""WAV bytes in and out, and a file that appears whole or not at all."""

from __future__ import annotations

import asyncio
import io
import mmap
import multiprocessing
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from audio_api.audio import durable, left_behind
from audio_api.audio.durable import check_target
from audio_api.audio.wav import (
    MAX_DATA_BYTES,
    SoundFormat,
    UnknownCodecError,
    WavData,
    decode_wav,
    encode_wav,
    wav_header,
)
from audio_api.audio.wav_file import WavWriter, save_wav, write_wav
from audio_api.errors import ErrorCode, TTSOutputError, TTSValidationError

EXTENSIBLE_PCM = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 24_000, 48_000, 2, 16, 22, 16, 4) + bytes.fromhex(
    "0100000000001000800000aa00389b71"
)
PLAIN_PCM = struct.pack("<HHIIHH", 1, 1, 24_000, 48_000, 2, 16)
SOUND = bytes(range(256)) * 20


def chunk(chunk_id: bytes, body: bytes, size: int | None = None) -> bytes:
    """A RIFF chunk with its padding; ``size`` is what the size field claims when it lies."""
    claimed = len(body) if size is None else size
    return chunk_id + struct.pack("<I", claimed) + body + b"\0" * (len(body) % 2)


def riff(*chunks: bytes) -> bytes:
    """A WAV made of these chunks."""
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def frames(path: Path) -> bytes:
    """What the standard library reads from a WAV, whose header must describe the file exactly."""
    size = path.stat().st_size
    header = path.read_bytes()[:44]
    assert struct.unpack_from("<I", header, 4)[0] == size - 8
    assert struct.unpack_from("<I", header, 40)[0] == size - 44
    with wave.open(str(path)) as file:
        assert file.getparams()[:3] == (1, 2, 24_000)
        found: bytes = file.readframes(file.getnframes())
        return found


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


# --- bytes


@given(st.binary(max_size=2000).map(lambda raw: raw[: len(raw) & ~1]), st.integers(1, 2**31 - 1))
def test_the_header_says_what_the_standard_library_says(pcm: bytes, sample_rate: int) -> None:
    """Byte for byte the file that stdlib ``wave`` writes."""
    expected = io.BytesIO()
    with wave.open(expected, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(pcm)
    assert encode_wav(pcm, sample_rate) == expected.getvalue()
    assert wav_header(len(pcm), sample_rate) == expected.getvalue()[:44]
    assert decode_wav(expected.getvalue()) == WavData(pcm, SoundFormat(sample_rate))


@pytest.mark.parametrize(
    ("data_bytes", "sample_rate", "complaint"),
    [
        (2**32 - 44, 24_000, "4 GiB"),
        (2**40, 24_000, "4 GiB"),
        (-2, 24_000, "4 GiB"),
        (3, 24_000, "whole number of 16-bit samples"),
        (4, 0, "sample rate"),
        (4, 2**31, "sample rate"),
    ],
)
def test_an_impossible_header_is_refused(data_bytes: int, sample_rate: int, complaint: str) -> None:
    """Sizes that no 32-bit field holds, half samples and impossible rates get a sentence, not a wrong header."""
    with pytest.raises(ValueError, match=complaint):
        wav_header(data_bytes, sample_rate)


def test_the_largest_header_fits_its_fields() -> None:
    """The largest size that is allowed is written unchanged."""
    assert struct.unpack_from("<I", wav_header(MAX_DATA_BYTES), 40)[0] == MAX_DATA_BYTES == 2**32 - 46


other_chunks = st.lists(
    st.tuples(st.binary(min_size=4, max_size=4).filter(lambda name: name not in {b"fmt ", b"data"}), st.binary()),
    max_size=4,
).map(lambda pairs: [chunk(name, body) for name, body in pairs])


@given(other_chunks, st.binary(), st.sampled_from([PLAIN_PCM, EXTENSIBLE_PCM]), st.randoms(use_true_random=False))
def test_chunks_come_in_any_order(others: list[bytes], pcm: bytes, fmt: bytes, order: Random) -> None:
    """Whatever chunks stand around, sound and format are found, padding bytes honoured."""
    sound = [chunk(b"data", pcm)] if pcm else [chunk(b"data", b"\1\0")]
    chunks = [*others, chunk(b"fmt ", fmt), *sound]
    order.shuffle(chunks)
    assert decode_wav(riff(*chunks)) == WavData(pcm or b"\1\0", SoundFormat(24_000))


@pytest.mark.parametrize("size", [0, 0xFFFF_FFFF, len(SOUND) + 1, len(SOUND) + 100_000])
def test_a_wrong_data_size_yields_what_is_there(size: int) -> None:
    """Writers that stream leave the size at 0, at its maximum, or too large; all the sound is taken."""
    data = riff(chunk(b"fmt ", PLAIN_PCM), chunk(b"data", SOUND, size))
    assert decode_wav(data).pcm == SOUND


@pytest.mark.parametrize("before", [0, 1, 3000])
def test_the_6114_extra_bytes_of_gemini_3_8_are_no_sound(before: int) -> None:
    """A reply of Gemini 3.8 carries 6,114 bytes that are no sound; before or behind it, they are left out."""
    extra = 6_114 - 44 - 2 * 8
    chunks = [chunk(b"fmt ", PLAIN_PCM), chunk(b"LIST", bytes(before)), chunk(b"data", SOUND)]
    data = riff(*chunks, chunk(b"C2PA", b"\xff" * (extra - before - before % 2)))
    assert len(data) - len(SOUND) == 6_114
    assert decode_wav(data).pcm == SOUND


@pytest.mark.parametrize("behind", [b"", chunk(b"LIST", b"INFO!"), chunk(b"LIST", b"x") + chunk(b"C2PA", b"\xff" * 99)])
def test_an_empty_sound_stays_empty(behind: bytes) -> None:
    """Metadata behind an empty ``data`` chunk is never taken for sound."""
    assert decode_wav(riff(chunk(b"fmt ", PLAIN_PCM), chunk(b"data", b"") + behind)).pcm == b""


@pytest.mark.parametrize("behind", [b"\xff\xfe" * 8, b"abcd\x01\0\0\0", b"\0\0\0\0\0\0\0\0"])
def test_sound_that_resembles_chunks_is_still_sound(behind: bytes) -> None:
    """Behind a ``data`` size of 0, bytes that do not parse as chunks to the very end are the sound."""
    assert decode_wav(riff(chunk(b"fmt ", PLAIN_PCM), chunk(b"data", behind, 0))).pcm == behind


@pytest.mark.parametrize(("channels", "bits"), [(2, 16), (1, 8), (6, 24), (1, 32)])
def test_other_pcm_is_read_as_it_is_labelled(channels: int, bits: int) -> None:
    """Channels and bits are reported; whether they will do is for the caller to say."""
    frame = channels * bits // 8
    fmt = struct.pack("<HHIIHH", 1, channels, 8_000, 8_000 * frame, frame, bits)
    assert decode_wav(riff(chunk(b"fmt ", fmt), chunk(b"data", SOUND))) == WavData(
        SOUND, SoundFormat(8_000, channels, bits)
    )


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "begins with b''"),
        (b"ID3\4mp3", "no WAV"),
        (b"RIFF\0\0\0\0AVI ", "no WAV"),
        (b"RIFX\0\0\0\0WAVE", "no WAV"),
        (riff(), "without a 'fmt ' chunk"),
        (riff(chunk(b"data", SOUND)), "without a 'fmt ' chunk"),
        (riff(chunk(b"fmt ", PLAIN_PCM)), "without a 'data' chunk"),
        (riff(chunk(b"fmt ", PLAIN_PCM[:14]), chunk(b"data", SOUND)), "14 bytes instead of 16"),
        (riff(chunk(b"fmt ", b"\x55\0" + PLAIN_PCM[2:]), chunk(b"data", SOUND)), "format 0x0055, not PCM"),
        (riff(chunk(b"fmt ", EXTENSIBLE_PCM[:24] + b"\x55" + EXTENSIBLE_PCM[25:]), chunk(b"data", b"")), "0x0055"),
        (riff(chunk(b"fmt ", EXTENSIBLE_PCM[:16]), chunk(b"data", SOUND)), "0xfffe"),
        (riff(chunk(b"fmt ", PLAIN_PCM[:2] + bytes(14)), chunk(b"data", SOUND)), "nothing can play"),
    ],
)
def test_what_is_no_pcm_wav_is_named(data: bytes, complaint: str) -> None:
    """The error says what the bytes are instead."""
    with pytest.raises(ValueError, match=complaint):
        decode_wav(data)


@pytest.mark.parametrize(
    "data",
    [
        riff(chunk(b"JUNK", b"") * 4_000_000),
        riff(chunk(b"data", b"") * 1_000_000),
        riff(chunk(b"fmt ", PLAIN_PCM), chunk(b"data", b"") * 4_000_000),
        riff(chunk(b"fmt ", PLAIN_PCM) * 1_000_000, chunk(b"data", SOUND)),
    ],
    ids=["junk", "data", "empty data, then chunks", "fmt"],
)
def test_millions_of_chunks_are_read_in_no_time(data: bytes) -> None:
    """A WAV has a few chunks; who sends millions gets an answer after thousands."""
    began_s = time.thread_time()
    with suppress(ValueError):
        decode_wav(data)
    assert time.thread_time() - began_s < 0.1


def test_a_codec_is_told_apart_from_damage() -> None:
    """Asking again helps against the one, and not against the other."""
    with pytest.raises(UnknownCodecError):
        decode_wav(riff(chunk(b"fmt ", b"\x55\0" + PLAIN_PCM[2:]), chunk(b"data", SOUND)))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its class, not its words
        decode_wav(riff(chunk(b"fmt ", PLAIN_PCM)))
    assert type(caught.value) is ValueError


@settings(max_examples=300)
@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: b"RIFF\0\0\0\0WAVE" + tail))
@example(riff(chunk(b"fmt ", PLAIN_PCM), b"data\xff"))
def test_arbitrary_bytes_only_ever_raise_value_error(data: bytes) -> None:
    """No input makes the reader loop, or raise anything but ``ValueError``."""
    with suppress(ValueError):
        assert len(decode_wav(data).pcm) <= len(data)


@given(st.lists(st.binary(max_size=40).map(lambda body: chunk(body[:4].ljust(4), body[4:])), max_size=6), st.data())
def test_damaged_files_only_ever_raise_value_error(chunks: list[bytes], data: st.DataObject) -> None:
    """Neither does a real WAV cut or overwritten at any place."""
    whole = riff(*chunks, chunk(b"fmt ", PLAIN_PCM), chunk(b"data", SOUND[:64]))
    cut = data.draw(st.integers(0, len(whole)))
    damaged = whole[:cut] + data.draw(st.binary(max_size=4))
    with suppress(ValueError):
        decode_wav(damaged)


# --- the file


async def test_a_file_is_written_in_one_go(tmp_path: Path) -> None:
    """The path that comes back is absolute, and holds exactly the sound; nothing else is in the folder."""
    path = await write_wav(tmp_path / "new" / "deep", "a", SOUND, sample_rate=24_000, overwrite=False)
    assert path == tmp_path / "new" / "deep" / "a.wav"
    assert frames(path) == SOUND
    assert names(path.parent) == ["a.wav"]


def test_chunks_may_follow_the_sound(tmp_path: Path) -> None:
    """A trailer is stored as it is, counted in the header, and not heard by any reader."""
    trailer = chunk(b"note", b"made by hand")
    path, _ = save_wav(tmp_path, "a", SOUND, sample_rate=8_000, trailer=trailer)
    data = path.read_bytes()
    assert data == wav_header(len(SOUND), 8_000, trailer_bytes=len(trailer)) + SOUND + trailer
    assert struct.unpack_from("<I", data, 4)[0] == len(data) - 8
    assert decode_wav(data) == WavData(SOUND, SoundFormat(8_000))
    with wave.open(str(path)) as file:
        assert file.readframes(file.getnframes()) == SOUND
    with pytest.raises(ValueError, match="4 GiB"):
        wav_header(MAX_DATA_BYTES, trailer_bytes=2)


async def test_a_relative_folder_gives_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that changes its folder later still finds the file."""
    monkeypatch.chdir(tmp_path)
    async with WavWriter(Path("out"), "a.wav") as writer:
        await writer.write(SOUND)
        path = await writer.commit()
    assert path == tmp_path / "out" / "a.wav"
    assert frames(path) == SOUND


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=200), max_size=8))
def test_pieces_of_any_size_are_joined(tmp_path: Path, pieces: list[bytes]) -> None:
    """Samples may be split over two writes; only the end must be a whole one, else nothing appears."""
    whole = b"".join(pieces)

    async def write_pieces() -> Path:
        async with WavWriter(tmp_path, "a", overwrite=True) as writer:
            for piece in pieces:
                await writer.write(memoryview(piece))
            return await writer.commit()

    if len(whole) % 2:
        before = names(tmp_path)
        with pytest.raises(ValueError, match="16-bit samples"):
            asyncio.run(write_pieces())
        assert names(tmp_path) == before
    else:
        assert frames(asyncio.run(write_pieces())) == whole


async def test_an_impossible_rate_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """The writer cannot even be made."""
    with pytest.raises(ValueError, match="sample rate"):
        WavWriter(tmp_path / "out", "a", sample_rate=0)


async def test_leaving_without_commit_leaves_nothing(tmp_path: Path) -> None:
    """An error in the block, or no commit at all, removes the draft; an older file stays as it was."""
    old = await write_wav(tmp_path, "a", b"\1\0" * 10)
    async with WavWriter(tmp_path, "a", overwrite=True) as writer:
        await writer.write(SOUND)
        assert len(names(tmp_path)) == 2
    with suppress(ZeroDivisionError):
        async with WavWriter(tmp_path, "a", overwrite=True) as writer:
            await writer.write(SOUND)
            raise ZeroDivisionError
    assert names(tmp_path) == ["a.wav"]
    assert frames(old) == b"\1\0" * 10


async def test_a_closed_writer_says_so(tmp_path: Path) -> None:
    """Writing before the block, after commit or after the block is a mistake with a name."""
    writer = WavWriter(tmp_path, "a")
    with pytest.raises(RuntimeError, match="not open"):
        await writer.write(SOUND)
    async with writer:
        await writer.commit()
        with pytest.raises(RuntimeError, match="not open"):
            await writer.commit()
    with pytest.raises(RuntimeError, match="not open"):
        await writer.write(SOUND)
    assert frames(tmp_path / "a.wav") == b""


async def test_a_taken_name_is_an_error_unless_overwriting_is_asked_for(tmp_path: Path) -> None:
    """Without ``overwrite`` the older file wins, and the code says why; with it the newer one does."""
    path = await write_wav(tmp_path, "a", b"\1\0" * 10)
    with pytest.raises(TTSOutputError, match="exists already") as caught:
        await write_wav(tmp_path, "a", SOUND)
    assert caught.value.code is ErrorCode.OUTPUT_EXISTS
    assert not caught.value.retryable
    assert frames(path) == b"\1\0" * 10
    assert await write_wav(tmp_path, "a", SOUND, overwrite=True) == path
    assert frames(path) == SOUND
    assert names(tmp_path) == ["a.wav"]


async def test_modes_follow_the_umask(tmp_path: Path) -> None:
    """A folder that is made is private; a file gets what the umask leaves."""
    old = os.umask(0o027)
    try:
        path = await write_wav(tmp_path / "out", "a", SOUND)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_the_draft_of_the_longest_name_fits(tmp_path: Path) -> None:
    """A name of 255 bytes, cut inside a character, still has a draft whose name the system takes."""
    name = "ä" * 125 + "b.wav"
    assert len(name.encode()) == 255
    async with WavWriter(tmp_path, name) as writer:
        (draft,) = names(tmp_path)
        assert len(draft.encode()) <= 255
        assert draft.startswith(".ä")
        await writer.commit()
    assert names(tmp_path) == [name]


# --- names and links


@pytest.mark.parametrize("name", ["../escape.wav", "/tmp/escape.wav", "a\nb.wav", "CON", "..", "a" * 300])
async def test_the_writer_does_not_trust_the_name(tmp_path: Path, name: str) -> None:
    """A name from a queue is checked again, by every entry, before anything is touched."""
    for entry in (
        lambda: write_wav(tmp_path / "out", name, SOUND),
        lambda: check_target(tmp_path / "out", name, overwrite=True),
    ):
        with pytest.raises(TTSValidationError, match="file name"):
            await entry()
    with pytest.raises(TTSValidationError, match="file name"):
        WavWriter(tmp_path / "out", name)
    assert names(tmp_path) == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=40) | st.text("./\\~ a:", max_size=10))
def test_no_text_writes_outside_the_folder(tmp_path: Path, name: str) -> None:
    """For every text the file lies inside the folder, or nothing at all is written."""
    out = tmp_path / "out"
    try:
        path = asyncio.run(write_wav(out, name, b"\0\0", overwrite=True))
    except TTSValidationError:
        pass
    else:
        assert path.resolve().is_relative_to(out.resolve())
        assert path.parent == out
        assert frames(path) == b"\0\0"
    assert set(names(tmp_path)) <= {"out"}


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A precious file outside the output folder; it must survive unchanged."""
    path = tmp_path / "outside" / "victim"
    path.parent.mkdir()
    path.write_bytes(b"precious")
    yield path
    assert path.read_bytes() == b"precious"
    assert names(path.parent) == ["victim"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("target", ["victim", ".", "missing"])
async def test_a_planted_link_is_never_followed(tmp_path: Path, victim: Path, target: str, overwrite: bool) -> None:
    """A link to a file, a folder or nothing that stands at the name is replaced, or reported as taken."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.wav").symlink_to(victim.parent / target)
    if overwrite:
        await check_target(out, "a.wav", overwrite=True)
        path = await write_wav(out, "a", SOUND, overwrite=True)
        assert not path.is_symlink()
        assert frames(path) == SOUND
    else:
        for entry in (lambda: check_target(out, "a.wav", overwrite=False), lambda: write_wav(out, "a", SOUND)):
            with pytest.raises(TTSOutputError) as caught:
                await entry()
            assert caught.value.code is ErrorCode.OUTPUT_EXISTS
        assert (out / "a.wav").is_symlink()


async def test_links_swapped_in_during_the_write_are_not_followed(tmp_path: Path, victim: Path) -> None:
    """While another program keeps planting links to a file and to a folder at the name, nothing lands outside."""
    out = tmp_path / "out"
    out.mkdir()
    stop = threading.Event()

    def plant() -> None:
        while not stop.is_set():
            for target in (victim, victim.parent):
                (out / "link").symlink_to(target)
                (out / "link").rename(out / "a.wav")

    planter = threading.Thread(target=plant)
    planter.start()
    try:
        for _ in range(100):
            await write_wav(out, "a", SOUND, overwrite=True)
    finally:
        stop.set()
        planter.join()


async def test_a_folder_swapped_for_a_link_during_the_write_is_noticed(tmp_path: Path, victim: Path) -> None:
    """The folder is opened once: what takes its place meanwhile gets no file, and the caller no wrong path."""
    out = tmp_path / "out"
    async with WavWriter(out, "a") as writer:
        await writer.write(SOUND)
        out.rename(tmp_path / "moved")
        out.symlink_to(victim.parent)
        with pytest.raises(TTSOutputError, match="its folder was replaced"):
            await writer.commit()
    assert names(tmp_path / "moved") == []


async def test_a_folder_removed_during_the_write_is_an_output_error(tmp_path: Path) -> None:
    """``rm -r`` of the output folder ends in an error, not in a success without a file."""
    out = tmp_path / "out"
    async with WavWriter(out, "a") as writer:
        shutil.rmtree(out)
        with pytest.raises(TTSOutputError, match="ENOENT"):
            await writer.commit()


async def test_an_output_folder_may_be_a_link(tmp_path: Path) -> None:
    """A folder that the user linked to another disk is used as any other."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    await check_target(tmp_path / "out", "a.wav", overwrite=False)
    path = await write_wav(tmp_path / "out", "a", SOUND)
    assert path == tmp_path / "out" / "a.wav"
    assert names(tmp_path / "disk") == ["a.wav"]


# --- the check before the call


async def test_the_check_leaves_no_trace(tmp_path: Path) -> None:
    """Neither the folder nor a file is made, and the folder's times do not even change."""
    tmp_path.joinpath("old.wav").write_bytes(b"x")
    before = tmp_path.stat().st_mtime_ns
    await check_target(tmp_path / "deep" / "out", "a.wav", overwrite=False)
    await check_target(tmp_path, "a.wav", overwrite=False)
    await check_target(tmp_path, "old.wav", overwrite=True)
    assert names(tmp_path) == ["old.wav"]
    assert tmp_path.stat().st_mtime_ns == before


async def test_the_check_finds_a_taken_name_and_a_folder_in_its_place(tmp_path: Path) -> None:
    """A file is in the way unless it may be replaced; a folder always is."""
    (tmp_path / "old.wav").write_bytes(b"x")
    (tmp_path / "dir.wav").mkdir()
    for name, overwrite, code in (
        ("old.wav", False, ErrorCode.OUTPUT_EXISTS),
        ("dir.wav", False, ErrorCode.OUTPUT_EXISTS),
        ("dir.wav", True, ErrorCode.OUTPUT_FAILED),
    ):
        with pytest.raises(TTSOutputError) as caught:
            await check_target(tmp_path, name, overwrite=overwrite)
        assert caught.value.code is code
        with pytest.raises(TTSOutputError) as caught:
            await write_wav(tmp_path, name, SOUND, overwrite=overwrite)
        assert caught.value.code is code
    assert names(tmp_path) == ["dir.wav", "old.wav"]


@pytest.mark.parametrize(
    "entry",
    [lambda folder: check_target(folder, "a.wav", overwrite=False), lambda folder: write_wav(folder, "a", SOUND)],
    ids=["check", "write"],
)
@pytest.mark.parametrize("folder", ["file", "file/below", "dangling"])
async def test_a_folder_that_is_none_is_found(
    tmp_path: Path, folder: str, entry: Callable[[Path], Awaitable[object]]
) -> None:
    """A file, a path below a file, or a link to nowhere is no output folder, and the reason is named."""
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(TTSOutputError, match=r"cannot write .*a\.wav.*(ENOTDIR|ENOENT|EEXIST)") as caught:
        await entry(tmp_path / folder)
    assert caught.value.code is ErrorCode.OUTPUT_FAILED
    assert names(tmp_path) == ["dangling", "file"]


# --- cancellation


async def test_a_cancelled_write_removes_its_draft(tmp_path: Path) -> None:
    """Cancelled in mid-write, however often, the block ends only when thread and draft are gone."""
    started = asyncio.Event()

    async def write_for_ever() -> None:
        async with WavWriter(tmp_path, "a") as writer:
            while True:
                await writer.write(bytes(1 << 20))
                started.set()

    for _ in range(5):
        started.clear()
        task = asyncio.create_task(write_for_ever())
        await started.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert names(tmp_path) == []


async def block_the_thread_pool() -> threading.Event:
    """Occupy every thread of the default pool until the event is set."""
    release = threading.Event()
    busy = threading.Barrier(65)
    loop = asyncio.get_running_loop()

    def occupy() -> None:
        busy.wait()
        release.wait()

    loop.set_default_executor(ThreadPoolExecutor(64))
    for _ in range(64):
        loop.run_in_executor(None, occupy)
    busy.wait()
    return release


@pytest.mark.parametrize("entry", ["enter", "write_wav"])
async def test_cancelled_before_its_thread_began_it_leaves_nothing(tmp_path: Path, entry: str) -> None:
    """A write that waits for a free thread when it is cancelled is never carried out."""
    release = await block_the_thread_pool()

    async def enter() -> None:
        async with WavWriter(tmp_path, "a"):
            pytest.fail("the block must not begin")

    task = asyncio.create_task(enter() if entry == "enter" else write_wav(tmp_path, "a", SOUND))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert names(tmp_path) == []


async def test_a_file_cancelled_while_it_is_synced_does_not_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last moment to be cancelled is just before the name is taken."""
    syncing, release = threading.Event(), threading.Event()

    def slow_fsync(fd: int) -> None:
        syncing.set()
        release.wait()

    monkeypatch.setattr(os, "fsync", slow_fsync)
    task = asyncio.create_task(write_wav(tmp_path, "a", SOUND))
    await asyncio.to_thread(syncing.wait)
    task.cancel()
    await asyncio.sleep(0)
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert names(tmp_path) == []


async def test_a_cancelled_piece_cannot_be_committed(tmp_path: Path) -> None:
    """What a cancelled write has left in the file is not known, so it cannot become one."""
    async with WavWriter(tmp_path, "a") as writer:
        write = asyncio.create_task(writer.write(bytes(64 << 20)))
        await asyncio.sleep(0)
        write.cancel()
        with pytest.raises(asyncio.CancelledError):
            await write
        with pytest.raises(RuntimeError, match="cancelled"):
            await writer.write(SOUND)
        with pytest.raises(RuntimeError, match="cancelled"):
            await writer.commit()
    assert names(tmp_path) == []


# --- several at once, and crashes


def _write_constant(folder: str, value: int, overwrite: bool, start: threading.Barrier) -> ErrorCode | None:
    start.wait()
    try:
        asyncio.run(write_wav(Path(folder), "same", struct.pack("<h", value) * 500_000, overwrite=overwrite))
    except TTSOutputError as error:
        return error.code
    return None


@pytest.mark.parametrize("overwrite", [False, True])
def test_four_processes_with_one_name(tmp_path: Path, overwrite: bool) -> None:
    """The file is exactly one process's sound; without ``overwrite`` exactly one of them succeeds."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(4) as pool:
        start = manager.Barrier(4)
        jobs = [(str(tmp_path), value, overwrite, start) for value in range(1, 5)]
        outcomes = pool.starmap(_write_constant, jobs)
    assert outcomes.count(None) == (4 if overwrite else 1)
    assert set(outcomes) <= {None, ErrorCode.OUTPUT_EXISTS}
    assert names(tmp_path) == ["same.wav"]
    found = frames(tmp_path / "same.wav")
    (value,) = set(struct.unpack(f"<{len(found) // 2}h", found))
    assert len(found) == 1_000_000
    assert outcomes[value - 1] is None


async def test_many_tasks_with_one_name(tmp_path: Path) -> None:
    """In one process too, one wins and all others are told."""
    results = await asyncio.gather(
        *(write_wav(tmp_path, "same", struct.pack("<h", value) * 1000) for value in range(20)), return_exceptions=True
    )
    assert sum(isinstance(result, Path) for result in results) == 1
    assert sum(isinstance(result, TTSOutputError) for result in results) == 19
    assert len(set(frames(tmp_path / "same.wav"))) <= 2
    assert names(tmp_path) == ["same.wav"]


async def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    """A reader that looks at the name at any moment finds the old file or the new one, whole."""
    path = await write_wav(tmp_path, "a", b"\1\0" * 1000)
    seen: set[bytes] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for value in range(2, 8):
            async with WavWriter(tmp_path, "a", overwrite=True) as writer:
                for _ in range(20):
                    await writer.write(bytes([value, 0]) * 2000)
                await writer.commit()
    finally:
        stop.set()
        reader.join()
    assert seen <= {
        encode_wav(b"\1\0" * 1000),
        *(encode_wav(bytes([value, 0]) * 40_000) for value in range(2, 8)),
    }


CHILD = """
import asyncio, resource, sys
from pathlib import Path
from audio_api.audio.wav_file import WavWriter

async def main(folder, megabytes):
    async with WavWriter(Path(folder), "book", overwrite=True) as writer:
        await writer.write(bytes(1 << 20))
        print("writing", flush=True)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(megabytes):
            await writer.write(bytes(1 << 20))
        await writer.commit()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def child(folder: Path, megabytes: int) -> subprocess.Popen[str]:
    """A process that streams silence into ``book.wav``; returned when it has begun."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(megabytes)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def test_a_killed_process_leaves_the_old_file_and_its_draft_is_collected(tmp_path: Path) -> None:
    """After ``kill -9`` the older file is whole; the draft goes when it is old and its process dead, not before."""
    old = asyncio.run(write_wav(tmp_path, "book", SOUND))
    with child(tmp_path, 10_000) as process:
        (draft,) = set(names(tmp_path)) - {"book.wav"}
        assert str(process.pid) in draft
        process.send_signal(signal.SIGKILL)
    assert frames(old) == SOUND
    long_ago = time.time() - 2 * durable._FORGOTTEN_AFTER_S
    strange = [
        tmp_path / ".book.wav.notapid.0123456789abcdef.tmp",
        tmp_path / f".alive.{os.getppid()}.0123456789abcdef.tmp",
    ]
    for path in strange:
        path.write_bytes(b"x")
        os.utime(path, (long_ago, long_ago))
    own_number = tmp_path / f".earlier-life.{os.getpid()}.0123456789abcdef.tmp"
    own_number.write_bytes(b"x")
    os.utime(own_number, (long_ago, long_ago))
    tmp_path.joinpath(f".folder.{process.pid}.0123456789abcdef.tmp").mkdir()

    left_behind._tidied.clear()
    asyncio.run(write_wav(tmp_path, "young", SOUND))
    assert draft in names(tmp_path)

    os.utime(tmp_path / draft, (long_ago, long_ago))
    asyncio.run(write_wav(tmp_path, "again", SOUND))
    assert draft in names(tmp_path), "the folder is listed once per process"

    left_behind._tidied.clear()
    asyncio.run(write_wav(tmp_path, "old", SOUND))
    assert draft not in names(tmp_path)
    assert not own_number.exists()
    assert all(path.exists() for path in strange)


def test_memory_stays_flat_while_100_megabytes_are_streamed(tmp_path: Path) -> None:
    """The writer keeps nothing: 100 MB more of sound cost less than 8 MB more of memory."""
    with child(tmp_path, 100) as process:
        grown_kib = int(process.communicate()[0])
    assert process.returncode == 0
    assert tmp_path.joinpath("book.wav").stat().st_size == 44 + (101 << 20)
    assert grown_kib < 8 * 1024


async def test_more_than_4_gib_is_refused_and_the_file_ended(tmp_path: Path) -> None:
    """The size fields have 32 bits: rather than a wrong header there is an error, and no file."""
    huge = tmp_path / "huge"
    with huge.open("wb+") as file:
        file.truncate(2**32 - 44)
        sound = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    async with WavWriter(tmp_path, "a") as writer:
        with pytest.raises(TTSOutputError, match="less than 4 GiB"):
            await writer.write(sound)
        with pytest.raises(RuntimeError, match="not open"):
            await writer.commit()
    assert names(tmp_path) == ["huge"]


async def test_a_growing_file_can_be_opened_before_it_is_complete(tmp_path: Path) -> None:
    """While it grows it is a readable WAV of what is there; then it is a correct one under its own name."""
    part = tmp_path / "live.part.wav"
    sound = bytes(range(200))
    async with WavWriter(tmp_path, "live.wav", growing=True) as writer:
        assert decode_wav(part.read_bytes()).pcm == b""
        await writer.write(sound)
        assert decode_wav(part.read_bytes()).pcm == sound
        await writer.write(sound)
        await writer.commit()
    with wave.open(str(tmp_path / "live.wav")) as file:
        assert file.readframes(file.getnframes()) == sound * 2
    assert [path.name for path in tmp_path.iterdir()] == ["live.wav"]


async def test_a_growing_file_that_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    """Leaving without ``commit`` removes the part."""
    async with WavWriter(tmp_path, "live.wav", growing=True) as writer:
        await writer.write(bytes(100))
    assert list(tmp_path.iterdir()) == []


async def test_two_files_of_one_name_do_not_grow_at_once(tmp_path: Path) -> None:
    """While one grows, a second one of its name is refused and the first is not harmed."""
    async with WavWriter(tmp_path, "live.wav", growing=True) as writer:
        await writer.write(bytes(100))
        with pytest.raises(TTSOutputError) as caught:
            await WavWriter(tmp_path, "live.wav", growing=True).__aenter__()
        assert caught.value.code is ErrorCode.OUTPUT_EXISTS
        assert decode_wav((await writer.commit()).read_bytes()).pcm == bytes(100)


@pytest.mark.parametrize("size", [0, 44, 144])
async def test_the_part_of_a_killed_writer_is_taken_over(tmp_path: Path, size: int) -> None:
    """What a dead process left behind does not keep the name from growing again."""
    whole = encode_wav(bytes(100))
    part = whole[:4] + b"\xff" * 4 + whole[8:40] + b"\xff" * 4 + bytes(100)
    (tmp_path / "live.part.wav").write_bytes(part[:size])
    async with WavWriter(tmp_path, "live.wav", growing=True) as writer:
        await writer.write(bytes(100))
        await writer.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["live.wav"]


@pytest.mark.parametrize("content", [encode_wav(bytes(100)), b"notes"], ids=["wav", "text"])
async def test_a_file_that_only_has_the_name_of_a_part_is_not_taken(tmp_path: Path, content: bytes) -> None:
    """Speech that a user named ``live.part.wav`` is in the way of a growing ``live.wav``, and stays as it is."""
    (tmp_path / "live.part.wav").write_bytes(content)
    with pytest.raises(TTSOutputError, match=r"live\.part\.wav.*: choose another name") as caught:
        await WavWriter(tmp_path, "live.wav", growing=True, overwrite=True).__aenter__()
    assert caught.value.code is ErrorCode.OUTPUT_EXISTS
    assert (tmp_path / "live.part.wav").read_bytes() == content
