"""Subtitles beside the file they belong to: when the words are heard, who says them, and whole files or none."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from books import book, pieces_of, settings, sound_of, visible_files
from kit import CLOCK
from sound import RATE, read_wav

from audio_api.emulator import Emulator
from audio_api.errors import ErrorCode
from audio_api.models.audio_request import AudioRequest, SpeakerConfig, SpeakerMode
from audio_api.services.tts_service import TTSService

TEXT = book(2_500)
REQUEST = AudioRequest(text=TEXT, output_filename="book", subtitles=("srt", "vtt"))
CAST = tuple(SpeakerConfig(speaker_name=name, voice_name="kore") for name in ("Alice", "Bob", "Carol"))


@pytest.fixture
async def tts(gemini_emulator: Emulator, folder: Path) -> AsyncIterator[TTSService]:
    """A service that does not wait between attempts."""
    async with TTSService(settings(gemini_emulator, folder), clock=CLOCK) as service:
        yield service


def cues(path: str | Path) -> list[tuple[float, float, str]]:
    """Start and end in seconds, and the lines, of every cue of either format, as a player reads them."""
    content = Path(path).read_text("utf-8")
    found = re.findall(r"(\d\d):(\d\d):([\d.,]+) --> (\d\d):(\d\d):([\d.,]+)\n(.+?)\n\n", content, re.DOTALL)
    return [(_seconds(*fields[:3]), _seconds(*fields[3:6]), fields[6]) for fields in found]


def _seconds(hours: str, minutes: str, seconds: str) -> float:
    return int(hours) * 3_600 + int(minutes) * 60 + float(seconds.replace(",", "."))


def words(shown: list[tuple[float, float, str]]) -> list[str]:
    """All that is shown, without speakers."""
    return re.sub(r"<v [^>]+>|\b(?:Alice|Bob|Carol): ", "", " ".join(lines for _, _, lines in shown)).split()


@pytest.mark.parametrize("speak", ["generate_audio", "stream_to_file"])
async def test_subtitles_show_every_word_until_the_end_of_the_sound(tts: TTSService, folder: Path, speak: str) -> None:
    """In both formats, in order, without overlap; the last cue ends within 50 ms of the audio."""
    response = (await getattr(tts, speak)(REQUEST)).raise_for_error()
    assert response.subtitle_paths == tuple(str(folder.resolve() / f"book.{kind}") for kind in ("srt", "vtt"))
    assert visible_files(folder) == ["book.srt", "book.vtt", "book.wav"]
    length_s = len(read_wav(response.file_path)) / RATE
    for path in response.subtitle_paths:
        shown = cues(path)
        assert words(shown) == TEXT.split()
        assert all(start < end for start, end, _ in shown)
        assert all(before[1] <= after[0] for before, after in pairwise(shown))
        assert length_s - 0.05 <= shown[-1][1] <= length_s + 0.001


async def test_subtitles_stand_beside_a_name_in_capitals(tts: TTSService, folder: Path) -> None:
    """An ending is one in any case: ``TALK.WAV`` is the file, and its subtitles have its rights."""
    folder.mkdir()
    request = AudioRequest(text="Hello there, my friend.", output_filename="TALK.WAV", subtitles=("srt",))
    (await tts.generate_audio(request)).raise_for_error()
    assert visible_files(folder) == ["TALK.WAV", "TALK.srt"]
    assert (folder / "TALK.srt").stat().st_mode == (folder / "TALK.WAV").stat().st_mode


async def test_a_piece_is_shown_when_it_is_heard(tts: TTSService) -> None:
    """The first words of a piece are shown within a frame of where its sound lies in the file."""
    response = (await tts.generate_audio(REQUEST)).raise_for_error()
    pieces = pieces_of(REQUEST)
    starts = [start for start, _, _ in cues(response.subtitle_paths[0])]
    for span in sound_of(pieces)[1]:
        assert min(abs(start - span.start / RATE) for start in starts) < 0.02


async def test_measured_words_are_placed_in_the_joined_sound(folder: Path) -> None:
    """The offline engine knows its words: every cue of a long text begins and ends with one, to the very end."""
    config = settings("http://127.0.0.1:1", folder, tts_engine="offline", audio_checks="off")
    async with TTSService(config, clock=CLOCK) as tts:
        response = (await tts.generate_audio(REQUEST)).raise_for_error()
    srt, vtt = response.subtitle_paths
    assert "estimated" not in Path(vtt).read_text("utf-8")
    shown = cues(srt)
    assert words(shown) == TEXT.split()
    assert all(before[1] <= after[0] for before, after in pairwise(shown))
    assert abs(shown[-1][1] - len(read_wav(response.file_path)) / RATE) <= 0.05
    samples = read_wav(response.file_path)
    # Something is heard at the beginning of each cue.
    assert all(abs(samples[int(start * RATE) : int((start + 0.3) * RATE)]).max() > 0.01 for start, _, _ in shown)


async def test_subtitles_name_the_speakers(tts: TTSService) -> None:
    """Every turn of a dialogue in which three speak; estimated inside a piece, and SRT and VTT say who."""
    names = ("Alice", "Bob", "Carol")
    turns = [(names[n % 3], f"This is what I say as number {n} of all of us.") for n in range(9)]
    request = AudioRequest(
        text="\n".join(f"{name}: {said}" for name, said in turns),
        speaker_mode=SpeakerMode.MULTIPLE,
        cast=CAST,
        subtitles=("vtt", "srt", "vtt"),
    )
    response = (await tts.generate_audio(request)).raise_for_error()
    vtt, srt = response.subtitle_paths
    assert (Path(vtt).suffix, Path(srt).suffix) == (".vtt", ".srt")
    assert [re.match("<v (.*?)>", lines)[1] for _, _, lines in cues(vtt)] == [name for name, _ in turns]  # type: ignore[index]
    assert [lines.partition(": ")[0] for _, _, lines in cues(srt)] == [name for name, _ in turns]
    assert words(cues(vtt)) == words(cues(srt)) == " ".join(said for _, said in turns).split()
    assert "estimated" in Path(vtt).read_text("utf-8")


@pytest.mark.parametrize("kind", ["srt", "vtt"])
async def test_a_taken_name_is_refused_before_any_call(
    tts: TTSService, gemini_emulator: Emulator, folder: Path, kind: str
) -> None:
    """Unless it may be overwritten, which a name made from the content always may."""
    folder.mkdir()
    (folder / f"book.{kind}").write_text("old")
    refused = await tts.generate_audio(REQUEST)
    assert (refused.error_code, gemini_emulator.calls) == (ErrorCode.OUTPUT_EXISTS, [])
    assert f"book.{kind}" in str(refused.error)
    assert (folder / f"book.{kind}").read_text() == "old"
    assert (await tts.generate_audio(REQUEST.model_copy(update={"overwrite": True}))).success
    unnamed = REQUEST.model_copy(update={"output_filename": None})
    assert [(await tts.generate_audio(unnamed)).success for _ in range(2)] == [True, True]


async def test_a_folder_in_the_way_is_found_before_any_call(
    tts: TTSService, gemini_emulator: Emulator, folder: Path
) -> None:
    """It cannot be overwritten; a link to one can."""
    (folder / "book.vtt").mkdir(parents=True)
    request = REQUEST.model_copy(update={"overwrite": True})
    refused = await tts.generate_audio(request)
    assert (refused.error_code, gemini_emulator.calls) == (ErrorCode.OUTPUT_FAILED, [])
    assert refused.error == "book.vtt is a folder; choose another name"
    (folder / "book.vtt").rename(folder / "elsewhere")
    (folder / "book.vtt").symlink_to(folder / "elsewhere")
    assert (await tts.generate_audio(request)).success
    assert (folder / "book.vtt").is_file()
    assert list((folder / "elsewhere").iterdir()) == []


async def test_subtitles_have_the_rights_of_the_sound(tts: TTSService) -> None:
    """They are as private as the file beside them."""
    response = (await tts.generate_audio(REQUEST)).raise_for_error()
    modes = {Path(path).stat().st_mode for path in (str(response.file_path), *response.subtitle_paths)}
    assert len(modes) == 1


async def test_subtitles_that_cannot_be_written_do_not_lose_the_sound(
    gemini_emulator: Emulator, tmp_path: Path, mount: Callable[..., Path]
) -> None:
    """It stays where the error says; nothing half written does, and the next try pays nothing."""
    # For the folder itself and one file in it.
    folder = mount("nr_inodes=2")
    changes: dict[str, Any] = {"cache_dir": tmp_path / "pieces"}
    request = REQUEST.model_copy(update={"overwrite": True})
    async with TTSService(settings(gemini_emulator, folder, **changes), clock=CLOCK) as tts:
        response = await tts.generate_audio(request)
        assert response.error_code is ErrorCode.OUTPUT_FAILED
        assert str(response.error).endswith("No space left on device (ENOSPC); the sound is complete in book.wav")
        assert visible_files(folder) == ["book.wav"]
        assert len(read_wav(folder / "book.wav")) == sound_of(pieces_of(REQUEST))[1][-1].end
        (folder / "book.wav").unlink()
        again = await tts.generate_audio(request)
    assert (again.attempts, again.cached_pieces) == (0, len(pieces_of(REQUEST)))


async def test_a_broken_write_leaves_no_draft(tts: TTSService, folder: Path) -> None:
    """A folder comes to stand at the name: the other format is there, and nothing unfinished."""
    response = await tts.generate_audio(REQUEST, lambda _: (folder / "book.vtt").mkdir(exist_ok=True))
    assert response.error_code is ErrorCode.OUTPUT_FAILED
    assert visible_files(folder) == ["book.srt", "book.vtt", "book.wav"]
