"""The cache of pieces: what comes out is what went in, or nothing, whatever happens to the folder."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own_time import block_until
from pydantic import ValidationError

from audio_api.audio.file_threads import in_file_thread
from audio_api.audio.large_sounds import SoundBudget
from audio_api.models.usage import TokenUsage
from audio_api.speech import piece_cache as cache_module
from audio_api.speech.piece_cache import CachedPiece, PieceCache

KEY, OTHER_KEY = "0f" * 32, "1e" * 32
MADE_AT = datetime(2026, 11, 22, 17, tzinfo=UTC)
PLENTY_BYTES = 10**9


def made(pcm: bytes = b"\1\2" * 5_000) -> CachedPiece:
    """A piece with every note filled in."""
    return CachedPiece(
        pcm=pcm,
        model="gemini-3.8-flash-tts",
        finish_reason="STOP",
        usage=TokenUsage(input_tokens=12, output_tokens=340, audio_tokens=330),
        warnings=("the best of 3 doubtful takes: …",),
        made_at=MADE_AT,
    )


def same(one: CachedPiece | None, other: CachedPiece) -> bool:
    """Whether two pieces are equal; pytest's own comparison would print the sound."""
    return one == other


def key_of(number: int) -> str:
    """A key for each number."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def file_of(folder: Path, key: str = KEY) -> Path:
    """Where the piece of a key lies."""
    return folder / f"{key}.piece.wav"


def stored_bytes(folder: Path) -> int:
    """The size of everything in the folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The reasons that were logged."""
    return [str(getattr(record, "reason", record.message)) for record in caplog.records]


# --- one process, a healthy folder


@given(st.binary(max_size=3_000).map(lambda raw: raw[: len(raw) & ~1]), st.text(max_size=20))
def test_a_piece_comes_back_as_it_was_stored(pcm: bytes, note: str) -> None:
    """Sound and notes survive, whatever they are."""
    note = note.encode(errors="replace").decode()
    piece = made(pcm).model_copy(update={"warnings": (note,), "finish_reason": None})
    with TemporaryDirectory() as folder:
        assert asyncio.run(PieceCache(Path(folder), PLENTY_BYTES).put(KEY, piece))
        assert same(asyncio.run(PieceCache(Path(folder), PLENTY_BYTES).get(KEY)), piece)


async def test_a_piece_is_a_wav_that_any_player_plays(tmp_path: Path) -> None:
    """The standard library reads the file, and hears only the sound."""
    await PieceCache(tmp_path, PLENTY_BYTES).put(KEY, made())
    with wave.open(str(file_of(tmp_path))) as file:
        assert file.getparams()[:4] == (1, 2, 24_000, 5_000)
        assert file.readframes(5_000) == made().pcm
    data = file_of(tmp_path).read_bytes()
    assert int.from_bytes(data[4:8], "little") == len(data) - 8


async def test_the_file_holds_nothing_but_sound_and_known_notes(tmp_path: Path) -> None:
    """The text, its speakers and its style have no place in it."""
    await PieceCache(tmp_path, PLENTY_BYTES).put(KEY, made())
    notes = json.loads(file_of(tmp_path).read_bytes()[44 + 10_000 + 8 : -32])
    assert set(notes) == {"model", "finish_reason", "usage", "warnings", "doubtful", "made_at"}
    with pytest.raises(ValidationError):
        CachedPiece.model_validate({**made().model_dump(), "pcm": b"", "text": "secret"})


async def test_what_was_never_stored_is_missing(tmp_path: Path) -> None:
    """An absent folder is an empty one; looking does not make it."""
    assert await PieceCache(tmp_path / "absent", PLENTY_BYTES).get(KEY) is None
    assert not (tmp_path / "absent").exists()


async def test_the_folder_belongs_to_its_user_alone(tmp_path: Path) -> None:
    """Speech is as private as its text."""
    await PieceCache(tmp_path / "output" / "cache", PLENTY_BYTES).put(KEY, made())
    assert (tmp_path / "output" / "cache").stat().st_mode & 0o777 == 0o700


async def test_a_relative_folder_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that changes its working folder keeps its cache."""
    monkeypatch.chdir(tmp_path)
    cache = PieceCache(Path("cache"), PLENTY_BYTES)
    await cache.put(KEY, made())
    monkeypatch.chdir("/")
    assert same(await cache.get(KEY), made())


async def test_a_newer_piece_replaces_an_older_one(tmp_path: Path) -> None:
    """The same key stored again names the new piece."""
    cache = PieceCache(tmp_path, PLENTY_BYTES)
    await cache.put(KEY, made())
    await cache.put(KEY, made(b"\7\7" * 99))
    assert same(await cache.get(KEY), made(b"\7\7" * 99))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("key", ["", "0f" * 31, "0F" * 32, "../" + "0f" * 32, "0f" * 32 + "\n", "0g" * 32])
async def test_what_is_no_key_is_refused(tmp_path: Path, key: str) -> None:
    """A key can name no file elsewhere."""
    for work in (PieceCache(tmp_path, PLENTY_BYTES).get(key), PieceCache(tmp_path, PLENTY_BYTES).put(key, made())):
        with pytest.raises(ValueError, match="64 hexadecimal digits"):
            await work


async def test_half_a_sample_is_refused(tmp_path: Path) -> None:
    """What is no sound is a mistake of the caller, not of the disk."""
    with pytest.raises(ValueError, match="16-bit samples"):
        await PieceCache(tmp_path, PLENTY_BYTES).put(KEY, made(b"abc"))
    assert not list(tmp_path.iterdir())


async def test_a_piece_is_kept_although_its_request_was_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was paid for: cancelling between the call and the disk does not throw it away."""
    loop, begun = asyncio.get_running_loop(), asyncio.Event()
    save = cache_module.save_wav

    def save_later(*args: Any, **options: Any) -> Path:
        loop.call_soon_threadsafe(begun.set)
        cancelled.result()
        return save(*args, **options)

    cancelled: Future[None] = Future()
    monkeypatch.setattr(cache_module, "save_wav", save_later)
    cache = PieceCache(tmp_path, PLENTY_BYTES)
    storing = asyncio.create_task(cache.put(KEY, made()))
    await begun.wait()
    storing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await storing
    cancelled.set_result(None)
    await in_file_thread(block_until, file_of(tmp_path).exists)
    assert same(await cache.get(KEY), made())


# --- damage


@settings(max_examples=100)
@given(st.data())
def test_a_damaged_file_is_missing_and_removed(data: st.DataObject) -> None:
    """Any byte changed, cut off, added or repeated makes the piece missing; another can take its place."""
    piece = made(b"\1\2" * 60)
    with TemporaryDirectory() as folder:
        cache, path = PieceCache(Path(folder), PLENTY_BYTES), file_of(Path(folder))
        asyncio.run(cache.put(KEY, piece))
        whole = path.read_bytes()
        at = data.draw(st.integers(0, len(whole) - 1))
        until = data.draw(st.integers(at, len(whole)))
        path.write_bytes(whole[:at] + data.draw(st.binary(max_size=8)) + whole[until:])
        intact = path.read_bytes() == whole
        assert same(asyncio.run(cache.get(KEY)), piece) == intact
        assert path.exists() == intact
        assert asyncio.run(cache.put(KEY, piece))
        assert same(asyncio.run(cache.get(KEY)), piece)


@settings(max_examples=100)
@given(st.binary(max_size=300))
def test_a_foreign_file_is_missing_and_removed(content: bytes) -> None:
    """Whatever stands at the name of a piece, it is none."""
    with TemporaryDirectory() as folder:
        file_of(Path(folder)).write_bytes(content)
        assert asyncio.run(PieceCache(Path(folder), PLENTY_BYTES).get(KEY)) is None
        assert not list(Path(folder).iterdir())


async def test_a_piece_under_another_key_is_none(tmp_path: Path) -> None:
    """A file renamed by accident never speaks another text."""
    cache = PieceCache(tmp_path, PLENTY_BYTES)
    await cache.put(KEY, made())
    file_of(tmp_path).rename(file_of(tmp_path, OTHER_KEY))
    assert await cache.get(OTHER_KEY) is None
    assert not list(tmp_path.iterdir())


async def test_notes_of_another_version_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece whose format has changed is made again rather than misread."""
    cache = PieceCache(tmp_path, PLENTY_BYTES)
    await cache.put(KEY, made())
    monkeypatch.setattr(cache_module, "_FORMAT", b"audio_api piece 2\0")
    assert await cache.get(KEY) is None


async def test_a_link_a_pipe_and_a_folder_are_no_pieces(tmp_path: Path) -> None:
    """Neither is followed, waited for or an error; what a link leads to stays."""
    cache = PieceCache(tmp_path, PLENTY_BYTES)
    await cache.put(OTHER_KEY, made())
    file_of(tmp_path).symlink_to(file_of(tmp_path, OTHER_KEY))
    assert await cache.get(KEY) is None
    os.mkfifo(file_of(tmp_path))
    assert await cache.get(KEY) is None
    file_of(tmp_path).mkdir()
    assert await cache.get(KEY) is None
    assert not await cache.put(KEY, made())
    assert same(await cache.get(OTHER_KEY), made())


async def test_a_file_larger_than_the_cache_is_not_even_read(tmp_path: Path) -> None:
    """A foreign file cannot fill the memory."""
    with file_of(tmp_path).open("wb") as file:
        file.truncate(10**12)
    assert await PieceCache(tmp_path, PLENTY_BYTES).get(KEY) is None
    assert not list(tmp_path.iterdir())


async def test_a_piece_that_replaced_a_damaged_one_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading damage and removing it another process may have stored the piece again."""
    cache = PieceCache(tmp_path, PLENTY_BYTES)
    file_of(tmp_path).write_bytes(b"damaged")
    decode = cache_module.decode_piece

    def replace_and_decode(key: str, content: bytes) -> CachedPiece | None:
        monkeypatch.undo()
        PieceCache(tmp_path, PLENTY_BYTES)._write(KEY, file_of(tmp_path), made())
        return decode(key, content)

    monkeypatch.setattr(cache_module, "decode_piece", replace_and_decode)
    assert await cache.get(KEY) is None
    assert same(await cache.get(KEY), made())


# --- the bound


async def test_the_least_recently_used_pieces_go_first(tmp_path: Path) -> None:
    """A piece that was read lately outlives one that was only stored later."""
    cache = PieceCache(tmp_path, 50_000)
    for number in range(4):
        await cache.put(key_of(number), made())
        os.utime(file_of(tmp_path, key_of(number)), (1_000 + number, 1_000 + number))
    assert await cache.get(key_of(0))
    await cache.put(key_of(4), made())
    kept = [number for number in range(5) if file_of(tmp_path, key_of(number)).exists()]
    assert kept == [0, 2, 3, 4]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 6_000)), max_size=40), st.integers(1_000, 30_000))
def test_the_bound_is_never_passed(stored: list[tuple[int, int]], max_bytes: int) -> None:
    """After every single ``put`` all files together are within the bound."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        cache = PieceCache(folder, max_bytes)
        for number, samples in stored:
            asyncio.run(cache.put(key_of(number), made(b"\0\0" * samples)))
            assert stored_bytes(folder) <= max_bytes


async def test_a_bound_that_shrank_is_kept_from_the_first_piece_on(tmp_path: Path) -> None:
    """What an earlier run left behind counts, too."""
    generous = PieceCache(tmp_path, PLENTY_BYTES)
    for number in range(30):
        await generous.put(key_of(number), made())
    await PieceCache(tmp_path, 100_000).put(KEY, made())
    assert stored_bytes(tmp_path) <= 100_000
    assert file_of(tmp_path).exists()


async def test_a_piece_larger_than_the_cache_is_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It would push out all others and itself."""
    assert not await PieceCache(tmp_path, 9_000).put(KEY, made())
    assert warnings_in(caplog) == ["a piece has 10,304 bytes; all pieces together may have 9,000"]


async def test_only_files_of_the_cache_are_evicted(tmp_path: Path) -> None:
    """Outputs, also named by their key, and files of others in the same folder are neither counted nor removed."""
    others = [tmp_path / f"{KEY}.wav", tmp_path / "song.piece.wav", tmp_path / "notes.txt"]
    for other in others:
        other.write_bytes(bytes(100_000))
    cache = PieceCache(tmp_path, 30_000)
    for number in range(10):
        assert await cache.put(key_of(number), made())
    assert all(other.stat().st_size == 100_000 for other in others)
    assert stored_bytes(tmp_path) <= 330_000


async def test_a_piece_used_while_room_is_made_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process read or stored since the folder was listed is not the least recently used any more."""
    await PieceCache(tmp_path, PLENTY_BYTES).put(KEY, made())
    await PieceCache(tmp_path, PLENTY_BYTES).put(OTHER_KEY, made())
    os.utime(file_of(tmp_path), (1_000, 1_000))
    os.utime(file_of(tmp_path, OTHER_KEY), (2_000, 2_000))
    listed = cache_module.pieces_in(tmp_path)
    await PieceCache(tmp_path, PLENTY_BYTES).get(KEY)
    file_of(tmp_path, key_of(7)).mkdir()
    monkeypatch.setattr(cache_module, "pieces_in", lambda _: listed)
    PieceCache(tmp_path, 12_500)._make_room(0)
    assert file_of(tmp_path).exists()
    assert not file_of(tmp_path, OTHER_KEY).exists()


def test_what_another_process_removed_is_gone(tmp_path: Path) -> None:
    """Two that make room at the same time do not disturb each other."""
    path = tmp_path / "a"
    path.touch()
    seen = path.lstat()
    path.unlink()
    assert cache_module.remove_piece(path, seen)
    assert not cache_module.remove_piece(tmp_path, tmp_path.lstat()), "a folder stays"


# --- folders that refuse


async def test_a_folder_that_cannot_be_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is cached, nothing fails, and one warning names the folder and the reason."""
    (tmp_path / "file").touch()
    cache = PieceCache(tmp_path / "file", PLENTY_BYTES)
    for _ in range(3):
        assert await cache.get(KEY) is None
        assert not await cache.put(KEY, made())
    assert len(caplog.records) == 1
    assert str(tmp_path / "file") in warnings_in(caplog)[0]
    assert "Not a directory" in warnings_in(caplog)[0]


async def test_a_folder_that_cannot_be_listed_keeps_its_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Making room may fail; the piece is stored all the same."""

    def refuse(_: Path) -> Iterator[None]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache_module, "pieces_in", refuse)
    cache = PieceCache(tmp_path, PLENTY_BYTES)
    assert await cache.put(KEY, made())
    assert same(await cache.get(KEY), made())
    assert "cannot list" in warnings_in(caplog)[0]


async def test_a_full_disk_keeps_nothing_and_fails_nothing(
    mount: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    """What fitted stays readable, what did not leaves no trace."""
    folder = mount("size=64k")
    cache = PieceCache(folder, PLENTY_BYTES)
    kept = [bool(await cache.put(key_of(number), made())) for number in range(10)]
    assert kept[0]
    assert not kept[-1]
    for number, was_kept in enumerate(kept):
        assert same(await cache.get(key_of(number)), made()) == was_kept
    assert len(list(folder.iterdir())) == sum(kept)
    assert [("ENOSPC" in reason) for reason in warnings_in(caplog)] == [True]


def test_a_read_only_folder_is_still_read(mount: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    """Pieces that are there are used; damaged ones are missing although they cannot be removed."""
    folder = mount("size=1m")
    asyncio.run(PieceCache(folder, PLENTY_BYTES).put(KEY, made()))
    file_of(folder, OTHER_KEY).write_bytes(b"damaged")
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    cache = PieceCache(folder, PLENTY_BYTES)
    assert same(asyncio.run(cache.get(KEY)), made())
    assert asyncio.run(cache.get(OTHER_KEY)) is None
    for number in (1, 2):
        assert not asyncio.run(cache.put(key_of(number), made()))
    assert [("EROFS" in reason) for reason in warnings_in(caplog)] == [True]


# --- many processes

# Gets and puts until told otherwise; every piece holds its own key's sound and no other. Prints what it stored.
CHILD = """
import asyncio, hashlib, random, sys
from datetime import datetime, UTC
from pathlib import Path
from audio_api.speech.piece_cache import CachedPiece, PieceCache
from audio_api.audio.file_threads import in_file_thread
from audio_api.models.usage import TokenUsage

folder, max_bytes, seed, rounds, keys, repeats = sys.argv[1], *map(int, sys.argv[2:])

async def main():
    cache, chance = PieceCache(Path(folder), max_bytes), random.Random(seed)
    for _ in range(rounds):
        key = hashlib.sha256(str(chance.randrange(keys)).encode()).hexdigest()
        pcm = bytes.fromhex(key) * repeats
        found = await cache.get(key)
        assert found is None or found.pcm == pcm
        if found is None or chance.random() < 0.3:
            piece = CachedPiece(pcm=pcm, model="m", finish_reason="STOP", usage=TokenUsage(),
                                made_at=datetime.now(UTC))
            assert await cache.put(key, piece)
            print(key, flush=True)

asyncio.run(main())
"""


def start(folder: Path, max_bytes: int, *, seed: int, rounds: int, keys: int, repeats: int) -> subprocess.Popen[str]:
    """Start a process that uses the cache; each piece has 32 bytes times ``repeats``."""
    numbers = [str(number) for number in (max_bytes, seed, rounds, keys, repeats)]
    return subprocess.Popen(
        [sys.executable, "-B", "-c", CHILD, str(folder), *numbers],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_share_one_folder(tmp_path: Path) -> None:
    """Six processes read, store and make room at once: no wrong sound, no error, no leftovers, always in the bound."""
    max_bytes = 1_000_000
    children = [start(tmp_path, max_bytes, seed=seed, rounds=150, keys=200, repeats=300) for seed in range(6)]
    while any(child.poll() is None for child in children):
        assert sum(status.st_size for _, status in cache_module.pieces_in(tmp_path)) <= max_bytes
    for child in children:
        _, errors = child.communicate(timeout=600)
        assert (child.returncode, errors) == (0, "")
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".wav"]
    assert max_bytes / 2 < stored_bytes(tmp_path) <= max_bytes


def test_a_killed_process_keeps_what_it_stored(tmp_path: Path) -> None:
    """Shot in the midst of a ``put``: every piece said to be kept is whole, and the torn one is not there."""
    for seed in range(8):
        folder = tmp_path / str(seed)
        child = start(folder, PLENTY_BYTES, seed=seed, rounds=10**6, keys=10**6, repeats=60_000)
        assert child.stdout is not None
        kept = {child.stdout.readline().strip() for _ in range(2)}
        stop_in_the_midst(child, folder)
        child.send_signal(signal.SIGKILL)
        rest, errors = child.communicate(timeout=600)
        assert (child.returncode, errors) == (-signal.SIGKILL, "")
        assert torn_drafts(folder)
        cache = PieceCache(folder, PLENTY_BYTES)
        found = {path.name[:64] for path in folder.glob("*.piece.wav")}
        assert kept | set(rest.split()) <= found
        for key in found:
            piece = asyncio.run(cache.get(key))
            assert piece is not None
            assert (piece.pcm == bytes.fromhex(key) * 60_000) is True


def stop_in_the_midst(child: subprocess.Popen[str], folder: Path) -> None:
    """Stop a process while it writes a piece."""
    while child.poll() is None:
        if not torn_drafts(folder):
            continue
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if torn_drafts(folder):
            return
        child.send_signal(signal.SIGCONT)


def torn_drafts(folder: Path) -> list[Path]:
    """Files being written, or left behind."""
    with suppress(FileNotFoundError):
        return list(folder.glob(".*.tmp"))
    return []


async def test_a_piece_is_loaded_only_with_a_permit(tmp_path: Path) -> None:
    """One that is not here needs none: a request learns at once that there is nothing."""
    cache, budget = PieceCache(tmp_path, PLENTY_BYTES), SoundBudget(1)
    await cache.put(KEY, made())
    with budget.permit() as other, budget.permit() as permit:
        await other.take()
        assert await cache.get(OTHER_KEY, permit) is None
        loading = asyncio.create_task(cache.get(KEY, permit))
        await asyncio.wait([loading], timeout=0.1)
        assert not loading.done()
        other.give_back()
        assert same(await loading, made())
