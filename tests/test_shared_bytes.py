"""A single piece is written once: its file and the cache share the bytes, and neither can spoil the other."""

from __future__ import annotations

import os
import wave
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from books import MODEL, kept_pieces, settings, visible_files
from kit import CLOCK
from scripted import USAGE, ScriptedEngine, speech

from audio_api.audio.durable import DurableFile
from audio_api.config import AudioConfig
from audio_api.models.audio_request import AudioRequest, AudioResponse
from audio_api.services.tts_service import TTSService

TEXT = "The bridge was gone, and so was the river."


@pytest.fixture
def config(tmp_path: Path) -> AudioConfig:
    """The default settings."""
    return settings("http://127.0.0.1:1", tmp_path / "out", default_tts_model=MODEL)


@pytest.fixture
def engine() -> ScriptedEngine:
    """An engine that is paid."""
    return ScriptedEngine([lambda utterance: speech(utterance, usage=USAGE)] * 9)


@pytest.fixture
async def tts(config: AudioConfig, engine: ScriptedEngine) -> AsyncIterator[TTSService]:
    """A service of that engine."""
    async with TTSService(config, engine=engine, clock=CLOCK) as service:
        yield service


async def spoken(tts: TTSService, name: str, **fields: Any) -> Path:
    """The file of one request."""
    response: AudioResponse = await tts.generate_audio(AudioRequest(text=TEXT, output_filename=name, **fields))
    return Path(response.raise_for_error().file_path or "")


def kept_file(config: AudioConfig) -> Path:
    """The only piece in the cache."""
    (path,) = (config.output_dir / ".cache").glob("*.piece.wav")
    return path


def samples(path: Path) -> bytes:
    """What a player hears."""
    with wave.open(str(path), "rb") as file:
        return file.readframes(file.getnframes())


async def test_a_file_and_the_cache_share_their_bytes(tts: TTSService, config: AudioConfig) -> None:
    """One inode with two names; both are whole, and no draft is left."""
    path = await spoken(tts, "one")
    assert path.samefile(kept_file(config))
    assert path.stat().st_nlink == 2
    assert visible_files(config.output_dir) == ["one.wav"]
    assert len(samples(path)) > 10_000


async def test_two_files_of_one_text_are_apart(tts: TTSService, config: AudioConfig, engine: ScriptedEngine) -> None:
    """The second one comes from the cache, and is a file of its own: editing one does not change the other."""
    one, two = await spoken(tts, "one"), await spoken(tts, "two")
    assert len(engine.asked) == 1
    assert not one.samefile(two)
    assert samples(one) == samples(two)
    before = samples(two)
    with one.open("r+b") as file:
        file.truncate(100)
    assert samples(two) == before


EDITS: dict[str, Callable[[Path], object]] = {
    "appended": lambda path: path.open("ab").write(b"LIST"),
    "truncated": lambda path: os.truncate(path, 1_000),
    "a sample changed": lambda path: os.pwrite(os.open(path, os.O_WRONLY), b"\1", 5_000),
    "replaced by its editor in place": lambda path: path.write_bytes(b"RIFF" + bytes(5_000)),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_file_that_its_user_edits_is_not_taken_from_the_cache(
    edit: str, tts: TTSService, engine: ScriptedEngine
) -> None:
    """The digest tells: the piece is made again, and the user's file stays as the user wants it."""
    path = await spoken(tts, "one")
    whole = samples(path)
    EDITS[edit](path)
    mine = path.read_bytes()
    again = await spoken(tts, "two")
    assert len(engine.asked) == 2
    assert samples(again) == whole
    assert path.read_bytes() == mine
    assert samples(await spoken(tts, "three")) == whole
    assert len(engine.asked) == 2


async def test_a_file_keeps_its_time_when_its_piece_is_used_again(tts: TTSService) -> None:
    """A worker knows a file by its inode, size and time: using the cache changes none of them."""
    path = await spoken(tts, "one")
    before = path.stat()
    await spoken(tts, "two")
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)


async def test_an_evicted_piece_leaves_the_file(tts: TTSService, config: AudioConfig) -> None:
    """Removing the one name does not touch the other; and the reverse."""
    path = await spoken(tts, "one")
    whole = samples(path)
    kept_file(config).unlink()
    assert samples(path) == whole
    again = await spoken(tts, "two")
    again.unlink()
    assert kept_pieces(config.output_dir) == 1


@pytest.mark.parametrize("why", ["no hard links", "replaced meanwhile"])
async def test_without_hard_links_the_sound_is_written_again(
    why: str, tts: TTSService, config: AudioConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on FAT, on another disk than the cache, or when another process has replaced the piece since."""
    link = os.link

    def refuse(*args: object, **options: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    def replace_and_link(path: Path, *args: Any, **options: Any) -> None:
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        link(path, *args, **options)

    monkeypatch.setattr(os, "link", refuse if why == "no hard links" else replace_and_link)
    path = await spoken(tts, "one", overwrite=True)
    assert not path.samefile(kept_file(config))
    assert samples(path) == samples(kept_file(config))
    assert visible_files(config.output_dir) == ["one.wav"]
    assert len(list((config.output_dir / ".cache").glob("*.piece.wav"))) == 1


async def test_a_file_on_another_disk_than_the_cache_is_its_own(
    engine: ScriptedEngine, config: AudioConfig, mount: Callable[..., Path]
) -> None:
    """``CACHE_DIR`` may be anywhere."""
    apart = config.model_copy(update={"cache_dir": mount("size=10m")})
    async with TTSService(apart, engine=engine, clock=CLOCK) as tts:
        path = await spoken(tts, "one")
    assert path.stat().st_nlink == 1
    assert len(samples(path)) > 10_000


async def test_the_sound_is_written_once(tts: TTSService, config: AudioConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the cache, which is not synced; the file is synced once."""
    written: list[int] = []
    synced: list[int] = []
    write, fsync = DurableFile.write, os.fsync
    monkeypatch.setattr(
        DurableFile, "write", lambda file, content: (written.append(len(content)), write(file, content))[1]
    )
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), fsync(fd))[1])
    path = await spoken(tts, "one")
    assert sum(written) == path.stat().st_size
    assert synced == [path.stat().st_ino, path.parent.stat().st_ino]
