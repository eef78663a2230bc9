"""Where files go: never through a link that took a folder's place, never over a file that the library did not make."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from audio_api import AudioConfig, AudioRequest, ErrorCode, TTSService
from audio_api.audio import left_behind, wav_file
from audio_api.audio.durable import check_target
from audio_api.audio.wav import encode_wav
from audio_api.audio.wav_file import WavWriter
from audio_api.emulator import Emulator
from audio_api.errors import TTSOutputError
from audio_api.speech import assembly

LONG = "This is one of the sentences of a long text. " * 60


@pytest.fixture
def settings(gemini_emulator: Emulator, tmp_path: Path) -> AudioConfig:
    """Two folders: out is ours, elsewhere is not."""
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.wav").write_text("theirs")
    return AudioConfig(
        gemini_api_key="key", gemini_base_url=gemini_emulator.url, output_dir=tmp_path / "out", _env_file=None
    )


def swap(folder: Path, target: Path) -> None:
    """Put a link in a folder's place."""
    folder.rename(folder.with_name("moved"))
    folder.symlink_to(target)


def during_the_call(emulator: Emulator, act: Callable[[], None]) -> None:
    """Do something once, while the first call is answered."""
    done: list[bool] = []

    def fault(_: object) -> None:
        if not done:
            done.append(True)
            act()

    emulator.faults = fault


@pytest.mark.parametrize("text", ["Hello.", LONG], ids=["short", "long"])
@pytest.mark.parametrize("parent", [False, True], ids=["the folder", "its parent"])
async def test_nothing_is_written_through_a_link_that_took_the_place_of_the_folder(
    settings: AudioConfig, gemini_emulator: Emulator, tmp_path: Path, text: str, parent: bool
) -> None:
    """Neither the sound nor its finished pieces; the file that is there stays, and the sound is handed over."""
    folder = tmp_path / "out" / "deep" if parent else tmp_path / "out"
    folder.mkdir(exist_ok=True)
    (tmp_path / "elsewhere" / "deep").mkdir()
    before = sorted((tmp_path / "elsewhere").rglob("*"))
    during_the_call(gemini_emulator, lambda: swap(tmp_path / "out", tmp_path / "elsewhere"))
    async with TTSService(settings.model_copy(update={"output_dir": folder})) as service:
        request = AudioRequest(text=text, output_filename="a.wav", overwrite=True, subtitles=("srt",))
        response = await service.generate_audio(request)
    assert gemini_emulator.calls
    assert response.error_code is ErrorCode.OUTPUT_FAILED
    assert sorted((tmp_path / "elsewhere").rglob("*")) == before
    assert (tmp_path / "elsewhere" / "a.wav").read_text() == "theirs"


async def test_a_folder_that_was_missing_is_not_a_link_later(tmp_path: Path) -> None:
    """What was found missing before the call is made, and only if nothing has come in its place."""
    real = await check_target(tmp_path / "out" / "deep", "a", overwrite=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TTSOutputError):
        async with WavWriter(tmp_path / "out" / "deep", "a", overwrite=True, real=real):
            pass
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("kind", ["srt", "vtt"])
async def test_subtitles_that_another_program_made_meanwhile_are_kept(
    settings: AudioConfig, gemini_emulator: Emulator, kind: str
) -> None:
    """Without overwrite=True the error says what is there, and where the sound is; with it they are replaced."""
    theirs = settings.output_dir / f"a.{kind}"
    during_the_call(gemini_emulator, lambda: theirs.write_text("theirs") and None)
    request = AudioRequest(text="Hello.", output_filename="a.wav", subtitles=(kind,))
    async with TTSService(settings) as service:
        response = await service.generate_audio(request)
        assert response.error_code is ErrorCode.OUTPUT_EXISTS
        assert f"a.{kind}" in str(response.error)
        assert str(response.error).endswith("the sound is complete in a.wav")
        assert theirs.read_text() == "theirs"
        again = await service.generate_audio(request.model_copy(update={"overwrite": True}))
    assert again.success
    assert "Hello" in theirs.read_text()
    assert {path.name for path in settings.output_dir.iterdir()} == {".cache", "a.wav", f"a.{kind}"}


@pytest.fixture
def open_umask() -> Iterator[None]:
    """No right is taken away."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
@pytest.mark.parametrize("first", ["cache", "output", "settings"])
async def test_folders_that_are_made_are_for_their_owner_alone(
    settings: AudioConfig, tmp_path: Path, first: str
) -> None:
    """Whatever makes them first, parents included; files are as the umask says."""
    folder = tmp_path / "new" / "deep"
    config = settings.model_copy(update={"output_dir": folder, "cache_max_bytes": 2**20 if first == "cache" else 0})
    if first == "settings":
        config.validate_config()
    async with TTSService(config) as service:
        response = await service.generate_audio(AudioRequest(text="Hello.", output_filename="a", subtitles=("srt",)))
    assert response.success
    folders = [folder.parent, folder, *(path for path in folder.iterdir() if path.is_dir())]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o666}


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from audio_api.audio.wav_file import WavWriter

async def main():
    async with WavWriter(Path("out"), sys.argv[1], growing=True) as writer:
        await writer.write(bytes(20_000))
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_growing_files_of_killed_processes_are_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the next process that writes there; those that grow on, those that are whole and others' files stay."""
    for number in range(5):
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", KILLED, f"book-{number}"], check=False)
    folder = Path("out")
    assert len(list(folder.iterdir())) == 1  # each process has collected its predecessor's
    (folder / "mine.part.wav").write_bytes(encode_wav(bytes(100)))
    (folder / "notes.part.wav").write_text("RIFF of my own")
    (folder / "empty.part.wav").touch()
    async with WavWriter(folder, "live", growing=True):
        monkeypatch.setattr(left_behind, "_tidied", set())
        await wav_file.write_wav(folder, "next", bytes(100))
        assert {path.name for path in folder.iterdir()} == {
            "mine.part.wav", "notes.part.wav", "empty.part.wav", "live.part.wav", "next.wav",
        }  # fmt: skip


@pytest.mark.parametrize("growing", [False, True], ids=["generate_audio", "stream_to_file"])
@pytest.mark.parametrize("fault", ["full at first", "full in the middle", "name taken"])
async def test_a_long_sound_that_cannot_be_written_is_handed_over_whole(
    settings: AudioConfig, tmp_path: Path, mount: Callable[..., Path], growing: bool, fault: str
) -> None:
    """As that of a short text: what is written already and what is still to be made, in one WAV."""
    folder = mount({"full at first": "size=4k", "full in the middle": "size=4m", "name taken": "size=40m"}[fault])
    config = settings.model_copy(update={"output_dir": folder, "cache_dir": tmp_path / "pieces"})
    request = AudioRequest(text=LONG * 3, output_filename="a.wav")

    def take_the_name(_: object) -> None:
        if fault == "name taken":
            (folder / "a.wav").write_text("theirs")

    async with TTSService(config) as service:
        make = service.stream_to_file if growing else service.generate_audio
        response = await make(request, take_the_name)
    assert response.error_code in {ErrorCode.OUTPUT_FAILED, ErrorCode.OUTPUT_EXISTS}
    assert response.unsaved_audio
    elsewhere = settings.model_copy(update={"cache_dir": tmp_path / "pieces"})
    async with TTSService(elsewhere) as service:
        make = service.stream_to_file if growing else service.generate_audio
        written = await make(request)
    assert written.file_path
    assert response.unsaved_audio == Path(written.file_path).read_bytes()
    assert len(response.unsaved_audio) > 4 * 2**20


async def test_a_sound_too_long_for_the_memory_is_not_made_to_its_end(
    settings: AudioConfig, gemini_emulator: Emulator, mount: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not handed over, and what cannot be is not paid for."""
    monkeypatch.setattr(assembly, "MOST_UNSAVED_BYTES", 2**20)
    config = settings.model_copy(update={"output_dir": mount("size=4k"), "piece_concurrency": 1})
    async with TTSService(config) as service:
        response = await service.generate_audio(AudioRequest(text=LONG * 10, output_filename="a.wav"))
    assert (response.error_code, response.unsaved_audio) == (ErrorCode.OUTPUT_FAILED, None)
    assert len(gemini_emulator.calls) <= 3
