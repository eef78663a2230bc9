"""Books become audiobooks: files, marks and silences to the sample, and nothing is paid for twice."""

from __future__ import annotations

import asyncio
import io
import signal
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import av
import epubs
import numpy as np
import pytest
from books import MODEL, book, kept_pieces, settings, visible_files
from kit import CLOCK

from audio_api.audio.levels import measure
from audio_api.books import Block, Book, Chapter, Cover, read_book
from audio_api.books.audiobook import Audiobook, BookProgress
from audio_api.books.book_files import SpokenChapter, write_m4b
from audio_api.books.kept_chapters import ChapterSound
from audio_api.books.narration import made_chapters, narrate, target_for
from audio_api.books.narrator import Narrator, Pauses
from audio_api.books.script import write_scripts
from audio_api.config import AudioConfig
from audio_api.emulator import Emulator, Fault
from audio_api.emulator.speech import synthesize
from audio_api.errors import (
    ConfigurationError,
    ErrorCode,
    TTSContentBlockedError,
    TTSOutputError,
    TTSValidationError,
)
from audio_api.services.tts_service import TTSService

pytestmark = pytest.mark.measured

RATE = 24_000


@pytest.fixture
def config(gemini_emulator: Emulator, folder: Path) -> AudioConfig:
    """The default settings, aimed at the emulator."""
    return settings(gemini_emulator, folder, default_tts_model=MODEL)


def made(chapters: int = 3, chars: int = 300, **fields: Any) -> Book:
    """A book whose sentences are all different."""
    return Book(
        title="The River",
        authors=("Ann Writer",),
        language="en-GB",
        chapters=tuple(
            Chapter(
                f"Chapter {number}",
                (
                    Block("heading", f"Chapter {number}", 1),
                    *(Block("paragraph", text) for text in book(chars, f"river {number}").split("\n\n")),
                ),
            )
            for number in range(1, chapters + 1)
        ),
        **fields,
    )


async def spoken(
    book: Book,
    config: AudioConfig,
    narrator: Narrator | None = None,
    target: dict[str, Any] | None = None,
    **options: Any,
) -> Audiobook:
    """Narrate a book as a user does."""
    async with TTSService(config, clock=CLOCK) as tts:
        return await narrate(
            book, tts, config, narrator or Narrator(), target_for(book, config, **(target or {})), **options
        )


def decoded(path: str | Path) -> np.ndarray[Any, np.dtype[np.int16]]:
    """The samples of any file."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("s16", "mono", RATE)
        frames = [frame for each in container.decode(audio=0) for frame in resampler.resample(each)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def first_sound(samples: np.ndarray[Any, np.dtype[np.int16]], after: int) -> int:
    """The sample at which something is heard."""
    return after + int((np.abs(samples[after:].astype(np.int32)) > 400).argmax())


async def test_one_file_with_chapters_cover_and_tags(config: AudioConfig, folder: Path) -> None:
    """Chapters begin within 20 ms of their first words, and the length is exact; nothing else is left behind."""
    result = await spoken(made(4, cover=Cover(epubs.PNG, "image/png"), metadata={"rights": "Free"}), config)
    assert result.success
    assert visible_files(folder) == ["The River.m4b"]
    samples = decoded(result.file_path or "")
    with av.open(result.file_path) as container:
        marks = container.chapters()
        tags = container.metadata
        assert container.streams.video[0].codec_context.name == "png"
        assert container.duration / 1e6 == pytest.approx(result.duration_s, abs=0.001)
    sounds_s = sum(chapter.duration_s or 0 for chapter in result.chapters)
    assert result.duration_s == pytest.approx(sounds_s + 3 * Pauses().chapter, abs=0.3)
    # The last frame of AAC is padded, which players leave out.
    assert samples.size / RATE == pytest.approx(result.duration_s, abs=0.043)
    assert [mark["metadata"]["title"] for mark in marks] == [f"Chapter {number}" for number in range(1, 5)]
    for mark, chapter in zip(marks, result.chapters, strict=True):
        begins_s = float(mark["start"] * mark["time_base"])
        heard_s = first_sound(samples, max(0, round((begins_s - 1) * RATE))) / RATE
        assert begins_s == pytest.approx(heard_s, abs=0.02)
        assert chapter.start_s == pytest.approx(heard_s, abs=0.02)
    assert (tags["title"], tags["artist"], tags["album"], tags["genre"], tags["copyright"]) == (
        ("The River", "Ann Writer", "The River", "Audiobook", "Free")
    )


@pytest.mark.parametrize(
    "data", [epubs.JPEG, epubs.PNG[:40], b"\xff\xd8\xff" + bytes(5_000)], ids=["jpeg", "png", "zeros"]
)
async def test_a_damaged_cover_is_left_out(data: bytes, config: AudioConfig) -> None:
    """And said, before anything is paid: the book is whole without it."""
    result = await spoken(made(1, cover=Cover(data, "image/jpeg")), config)
    assert result.success
    assert result.warnings == ("the cover is left out: the picture is damaged",)
    with av.open(result.file_path) as container:
        assert not container.streams.video


async def test_a_service_narrates(config: AudioConfig, folder: Path) -> None:
    """The same by the method of the service, with its names."""
    async with TTSService(config, clock=CLOCK) as tts:
        path = folder / "one.m4b"
        whole = await tts.narrate(made(2), path, narrator=Narrator(titles=False), chapters=[2])
        again = await tts.narrate(made(2), path, narrator=Narrator(titles=False), chapters=[2], overwrite=True)
    assert whole.raise_for_error() is whole
    assert (whole.file_path, [chapter.number for chapter in whole.chapters]) == (str(path), [2])
    assert again.cost_usd == 0


@pytest.mark.parametrize("maker", epubs.MAKERS)
async def test_every_paragraph_of_every_maker_is_spoken(
    maker: str, config: AudioConfig, gemini_emulator: Emulator
) -> None:
    """Text in is text spoken: each block reaches the API once, whatever its script."""
    gemini_emulator.synthesize = short
    text = read_book(io.BytesIO(epubs.packed(epubs.MAKERS[maker]().files)))
    result = await spoken(text, config.model_copy(update={"audio_checks": "off"}), target={"book_format": "wav"})
    assert result.success
    said = "\n\n".join(call.text for call in gemini_emulator.calls if call.text)
    blocks = [block.text for chapter in text.chapters for block in chapter.blocks if block.text]
    assert Counter(said.split("\n\n")) == Counter(blocks)


async def test_silence_in_the_text_is_exact(config: AudioConfig, folder: Path) -> None:
    """Between the words, as the checks tell speech from silence."""
    text = Book(title="B", chapters=(Chapter("C", (Block("paragraph", "One by one. [pause 1.5s] Two by two."),)),))
    await spoken(text, config, Narrator(titles=False), {"book_format": "wav"})
    samples = decoded(folder / "B" / "01 C.wav")
    assert measure(samples.tobytes(), RATE).gap_s == pytest.approx(1.5, abs=0.021)


async def test_a_file_for_each_chapter_and_a_feed(config: AudioConfig, gemini_emulator: Emulator, folder: Path) -> None:
    """Each is the whole chapter; a second run calls nothing, writes nothing again, and says what is there."""
    text = made(cover=Cover(epubs.JPEG, "image/jpeg"))
    target = {"book_format": "mp3", "rss_base_url": "https://example.org/the river/"}
    first = await spoken(text, config, target=target)
    calls = len(gemini_emulator.calls)
    names = ["01 Chapter 1.mp3", "02 Chapter 2.mp3", "03 Chapter 3.mp3"]
    assert visible_files(folder / "The River") == sorted([*names, "book.json", "cover.jpg", "podcast.xml"])
    stamps = [(folder / "The River" / name).stat().st_mtime_ns for name in names]
    again = await spoken(text, config, target=target)
    assert len(gemini_emulator.calls) == calls
    assert [(folder / "The River" / name).stat().st_mtime_ns for name in names] == stamps
    assert all(chapter.is_kept and chapter.cost_usd == 0 for chapter in again.chapters)
    assert [chapter.file_path for chapter in again.chapters] == [chapter.file_path for chapter in first.chapters]
    for chapter in again.chapters:
        assert decoded(chapter.file_path or "").size / RATE == pytest.approx(chapter.duration_s, abs=0.001)
    check_feed(Path(again.feed_path or ""), names)


def check_feed(path: Path, names: list[str]) -> None:
    """A podcast program finds every file, its length and its type, in order."""
    channel = ElementTree.parse(path).getroot()[0]
    assert channel.findtext("title") == "The River"
    assert channel.findtext("language") == "en-GB"
    itunes = "{http://www.itunes.com/dtds/podcast-1.0.dtd}"
    assert channel.find(f"{itunes}image").get("href") == "https://example.org/the river/cover.jpg"
    items = channel.findall("item")
    for name, item in zip(names, items, strict=True):
        enclosure = item.find("enclosure")
        assert enclosure.get("url") == f"https://example.org/the river/{name.replace(' ', '%20')}"
        assert int(enclosure.get("length") or 0) == (path.parent / name).stat().st_size
        assert enclosure.get("type") == "audio/mpeg"
    assert len({item.findtext("guid") for item in items}) == len({item.findtext("pubDate") for item in items}) == 3


async def test_a_changed_chapter_is_not_written_over_unasked(config: AudioConfig, folder: Path) -> None:
    """Refused before any call; with overwrite only that chapter is made again, and only its changed pieces are paid."""
    text, target = made(), {"book_format": "wav"}
    await spoken(text, config, target=target)
    changed = Chapter("Chapter 2", (*text.chapters[1].blocks, Block("paragraph", "A new end.")))
    edited = made()
    edited = Book(title=edited.title, chapters=(edited.chapters[0], changed, edited.chapters[2]), language="en-GB")
    with pytest.raises(TTSOutputError, match=r"02 Chapter 2\.wav' exists already"):
        await spoken(edited, config, target=target)
    result = await spoken(edited, config, target={**target, "overwrite": True})
    assert [(chapter.is_kept, chapter.attempts) for chapter in result.chapters] == [(True, 0), (False, 1), (True, 0)]


async def test_one_failed_chapter_does_not_stop_the_others(
    config: AudioConfig, gemini_emulator: Emulator, folder: Path
) -> None:
    """The report names it, no file pretends to be whole, and the next run buys that chapter alone."""
    gemini_emulator.faults = lambda call: Fault.SAFETY if "river 2" in call.text else None
    first = await spoken(made(), config)
    assert [chapter.success for chapter in first.chapters] == [True, False, True]
    assert first.file_path is None
    assert visible_files(folder) == [".books"]
    assert "1 of 3 chapters are missing: chapter 2 (Chapter 2): " in first.message
    assert first.failed[0].error_code is ErrorCode.CONTENT_BLOCKED
    with pytest.raises(TTSContentBlockedError, match="chapter 2"):
        first.raise_for_error()
    gemini_emulator.reset()
    second = await spoken(made(), config)
    assert second.success
    assert {("river 1" in call.text, "river 3" in call.text) for call in gemini_emulator.calls} == {(False, False)}
    assert [chapter.is_kept for chapter in second.chapters] == [True, False, True]
    assert visible_files(folder) == ["The River.m4b"]


async def test_good_chapters_have_their_files_though_another_failed(
    config: AudioConfig, gemini_emulator: Emulator, folder: Path
) -> None:
    """Each is of use by itself."""
    gemini_emulator.faults = lambda call: Fault.SAFETY if "river 2" in call.text else None
    result = await spoken(made(), config, target={"book_format": "flac"})
    assert not result.success
    names = ["01 Chapter 1.flac", "03 Chapter 3.flac", "book.json"]
    assert visible_files(folder / "The River") == names
    assert result.file_path == str(folder / "The River")


async def test_what_would_fail_every_chapter_stops_the_book(config: AudioConfig, gemini_emulator: Emulator) -> None:
    """A wrong key is asked once for each chapter in progress, and not for the forty others."""
    gemini_emulator.faults = lambda _: Fault.API_KEY_INVALID
    result = await spoken(made(20), config, at_once=2)
    assert not any(chapter.success for chapter in result.chapters)
    assert len(gemini_emulator.calls) <= 2
    assert str(result.chapters[19].error).startswith("not tried: ")
    assert {chapter.error_code for chapter in result.chapters} == {ErrorCode.AUTHENTICATION}


async def test_an_existing_file_is_refused_before_anything_is_paid(
    config: AudioConfig, gemini_emulator: Emulator, folder: Path
) -> None:
    """Replaced when that is wanted, at no further cost."""
    first = await spoken(made(), config)
    calls = len(gemini_emulator.calls)
    with pytest.raises(TTSOutputError, match="exists already"):
        await spoken(made(), config)
    again = await spoken(made(), config, target={"overwrite": True})
    assert len(gemini_emulator.calls) == calls
    assert again.cost_usd == 0
    assert first.cost_usd
    assert first.cost_usd > 0


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"path": "book.mp3"}, "must end with .m4b"),
        ({"book_format": "ogg"}, "'ogg' is no format"),
        ({"book_format": "m4b", "rss_base_url": "https://example.org"}, "one file a chapter"),
        ({"rss_base_url": "example.org/book"}, "must be where the files will be"),
    ],
)
async def test_a_target_that_is_none(
    target: dict[str, Any], words: str, config: AudioConfig, gemini_emulator: Emulator
) -> None:
    """Is refused in words, before any call."""
    with pytest.raises(TTSValidationError, match=words):
        await spoken(made(), config, target=target)
    assert gemini_emulator.calls == []


async def test_a_missing_extra_is_named_before_anything_is_paid(
    config: AudioConfig, gemini_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else is written under the name that was asked for."""
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigurationError, match=r"audio-api\[audiobook\]"):
        await spoken(made(), config)
    assert gemini_emulator.calls == []


async def test_chosen_chapters_and_their_estimate(config: AudioConfig, folder: Path) -> None:
    """In the book's order, each once, and known afterwards as made."""
    result = await spoken(made(5), config, target={"book_format": "wav"}, chapters=[4, 2, 4])
    assert [chapter.number for chapter in result.chapters] == [2, 4]
    scripts = write_scripts(made(5), Narrator(), range(1, 6))
    assert made_chapters(made(5), scripts, config, target_for(made(5), config, book_format="wav")) == [2, 4]


async def test_progress_tells_characters_minutes_and_cost(config: AudioConfig) -> None:
    """It only ever grows, and ends with everything."""
    told: list[BookProgress] = []
    result = await spoken(made(), config, on_progress=told.append)
    for earlier, later in pairwise(told):
        assert later.characters_done >= earlier.characters_done
        assert (later.cost_usd or 0) >= (earlier.cost_usd or 0)
    last = told[-1]
    assert (last.stage, last.characters_done, last.chapters_done) == ("writing", last.characters_total, 3)
    assert last.cost_usd == pytest.approx(result.cost_usd)
    assert last.seconds == pytest.approx(sum(chapter.duration_s or 0 for chapter in result.chapters))


def test_four_hundred_chapters_are_all_listed(tmp_path: Path) -> None:
    """Beyond the 255 of the old list: players read the track of chapter titles."""
    tone = short("Yes", "kore", "en-GB")[:4_800]
    (tmp_path / "samples").write_bytes(tone)
    sound = ChapterSound(samples=len(tone) // 2, first_word=100, model=None, doubtful=(), warnings=())
    chapters = [SpokenChapter(n, f"Number {n}", str(n), tmp_path / "samples", sound) for n in range(1, 401)]
    told: list[int] = []
    starts, samples = write_m4b(tmp_path / "a.m4b", made(), chapters, 0.1, overwrite=False, on_chapter=told.append)
    with av.open(tmp_path / "a.m4b") as container:
        marks = container.chapters()
        assert container.duration / 1e6 == pytest.approx(samples / RATE, abs=0.001)
    assert [mark["metadata"]["title"] for mark in marks] == [chapter.title for chapter in chapters]
    for mark, start in zip(marks[1:], starts[1:], strict=True):
        assert float(mark["start"] * mark["time_base"]) == pytest.approx(start / RATE, abs=0.001)
    assert told == list(range(400))


def short(text: str, voice: str, language: str) -> bytes:
    """A sound of a tenth of a second, for texts whose number matters and not their sound."""
    return synthesize("Yes", voice, language)[: RATE // 2]


# --- a long book, and processes -------------------------------------------------------------------------------------

CHAPTERS, CHARS = 60, 5_000
PROGRAM = """
import asyncio, sys
from itertools import pairwise
from pathlib import Path
from books import MODEL, settings
from test_audiobooks import CHAPTERS, CHARS, made
from audio_api.books.narration import narrate, target_for
from audio_api.books.narrator import Narrator
from audio_api.services.tts_service import TTSService

async def main(url, folder):
    config = settings(url, Path(folder), default_tts_model=MODEL, audio_checks="off")
    book = made(CHAPTERS, CHARS)
    async with TTSService(config) as tts:
        await narrate(book, tts, config, Narrator(), target_for(book, config))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_two_runs_at_once_do_not_meet(config: AudioConfig, gemini_emulator: Emulator, folder: Path) -> None:
    """The second of one target is refused before any call; into another target both are whole."""
    config = config.model_copy(update={"audio_checks": "off"})
    gemini_emulator.synthesize = short
    first = asyncio.create_task(spoken(made(6), config, target={"path": folder / "one.m4b"}))
    while not gemini_emulator.calls:  # noqa: ASYNC110 - a thread's doing, not this loop's
        await asyncio.sleep(0.002)
    with pytest.raises(TTSOutputError, match=r"one\.m4b' is being made by another run"):
        await spoken(made(6), config, target={"path": folder / "one.m4b"})
    second = await spoken(made(6), config, target={"book_format": "wav"})
    assert (await first).success
    assert second.success
    assert visible_files(folder) == ["The River", "one.m4b"]


@pytest.mark.slow
async def test_a_book_that_was_killed_goes_on_where_it_was(gemini_emulator: Emulator, folder: Path) -> None:
    """300,000 characters, killed in the middle: the next run buys no piece that the first one had."""
    gemini_emulator.synthesize = short
    config = settings(gemini_emulator, folder, default_tts_model=MODEL, audio_checks="off")
    text = made(CHAPTERS, CHARS)
    assert sum(len(chapter.text) for chapter in text.chapters) > 290_000
    half = 120
    gemini_emulator.faults = lambda call: Fault.NEVER_ANSWERS if call.number > half else None
    victim = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, gemini_emulator.url, str(folder)), cwd=Path(__file__).parent
    )
    async with asyncio.timeout(600):
        while not kept_pieces(folder) == half < len(gemini_emulator.calls):  # noqa: ASYNC110 - another process's doing
            await asyncio.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    await victim.wait()
    bought = {call.text for call in gemini_emulator.calls[:half]}
    assert kept_pieces(folder) == len(bought) == half
    gemini_emulator.reset()
    gemini_emulator.synthesize = short
    result = await spoken(text, config)
    assert result.success
    assert any(chapter.is_kept for chapter in result.chapters)
    texts = [call.text for call in gemini_emulator.calls]
    assert not bought & set(texts)
    assert len(texts) == len(set(texts)) > half
    # Drafts of a process that was killed are hidden, and collected an hour later.
    assert [name for name in visible_files(folder) if not name.startswith(".")] == ["The River.m4b"]
    with av.open(result.file_path) as container:
        assert len(container.chapters()) == CHAPTERS
