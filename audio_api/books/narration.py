"""A book is spoken chapter by chapter, kept on the way, and written when it is whole."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from audio_api.audio.durable import absolute, explained
from audio_api.audio.file_threads import in_file_thread
from audio_api.audio.large_sounds import in_sound_thread
from audio_api.books.audiobook import (
    Audiobook,
    BookFormat,
    BookProgress,
    BookProgressCallback,
    NarratedChapter,
    Stage,
    sum_usd,
)
from audio_api.books.book import Book
from audio_api.books.book_files import SpokenChapter, file_name, with_usable_cover
from audio_api.books.kept_chapters import ChapterSound, KeptChapters, chapter_key
from audio_api.books.narrator import Narrator
from audio_api.books.podcast import FEED_NAME
from audio_api.books.script import ChapterScript, Passage, write_scripts
from audio_api.books.shelves import BookTarget, ChapterFiles, Finished, OneFile, Placed, Shelf
from audio_api.config import AudioConfig
from audio_api.errors import (
    AudioAPIError,
    ConfigurationError,
    TTSAuthenticationError,
    TTSModelNotFoundError,
    TTSOutputError,
    TTSQuotaError,
    TTSValidationError,
)
from audio_api.models.audio_request import AudioRequest, AudioResponse, SpeechProgress

_FOLDER = ".books"
# Every further chapter would end the same way.
_HOPELESS = (ConfigurationError, TTSAuthenticationError, TTSModelNotFoundError, TTSOutputError, TTSQuotaError)
_T = TypeVar("_T")


class Speaker(Protocol):
    """What speaks the passages of a book: ``TTSService``, or the workers of a queue."""

    async def generate_audio(
        self, request: AudioRequest, on_progress: Callable[[SpeechProgress], Awaitable[None] | None] | None = None
    ) -> AudioResponse:
        """As ``TTSService.generate_audio``."""


def target_for(
    book: Book,
    config: AudioConfig,
    path: str | Path | None = None,
    *,
    book_format: BookFormat | None = None,
    overwrite: bool = False,
    rss_base_url: str | None = None,
) -> BookTarget:
    """Choose what was not chosen: the format by the feed, and the path by the book's title.

    Args:
        book: The book.
        config: Names the output folder.
        path: The file of an m4b, or the folder of the chapters; ``None``: the book's title in the output folder.
        book_format: The format; ``None``: mp3 with a feed, else m4b.
        overwrite: As ``BookTarget``.
        rss_base_url: As ``BookTarget``.

    Raises:
        TTSValidationError: A feed lists one file a chapter, and an m4b is asked for.
    """
    chosen = book_format or ("m4b" if rss_base_url is None else "mp3")
    if chosen == "m4b" and rss_base_url is not None:
        raise TTSValidationError("a feed lists one file a chapter: choose another format than m4b, such as mp3")
    name = file_name(book.title, ".m4b" if chosen == "m4b" else "")
    where = Path(path) if path is not None else config.output_dir / name
    with explained(where):
        where = absolute(where.expanduser())
    return BookTarget(book_format=chosen, path=where, overwrite=overwrite, rss_base_url=rss_base_url)


def made_chapters(book: Book, scripts: Sequence[ChapterScript], config: AudioConfig, target: BookTarget) -> list[int]:
    """The numbers of the chapters that an earlier run finished; blocking."""
    shelf = _shelf(book, target, KeptChapters(config.output_dir / _FOLDER), 0.0)
    return [script.number for script in scripts if shelf.find(script, chapter_key(script, config, target.path))]


def _shelf(book: Book, target: BookTarget, kept: KeptChapters, pause_s: float) -> Shelf:
    if target.book_format == "m4b":
        return OneFile(book, target, kept, pause_s)
    return ChapterFiles(book, target, kept)


async def narrate(
    book: Book,
    speaker: Speaker,
    config: AudioConfig,
    narrator: Narrator,
    target: BookTarget,
    *,
    chapters: Sequence[int] | None = None,
    at_once: int | None = None,
    on_progress: BookProgressCallback | None = None,
) -> Audiobook:
    """Speak a book, and write its files.

    Finished chapters are kept until they are in a file, and finished pieces in the cache: another run of the same book,
    after a failure or a kill, pays for neither. A chapter that fails does not stop the others, unless every other would
    fail alike. The one file of all chapters is written only when none is missing.

    Args:
        book: The book.
        speaker: Speaks it.
        config: The settings of the speaker.
        narrator: How it is read.
        target: Where it goes.
        chapters: Numbers of the chapters, from 1 on; ``None``: all.
        at_once: Chapters in progress at a time; ``None``: as many as ``PIECE_CONCURRENCY``.
        on_progress: Told how far the book is; a coroutine function is awaited. ``None``: no progress is told.

    Raises:
        TTSValidationError: Something about the book or the target is wrong; nothing was spoken.
        TTSOutputError: The files could not be written, and finished chapters are kept; or another process makes them.
        ConfigurationError: The format needs an extra that is not installed; nothing was spoken.
        ExceptionGroup: ``on_progress`` raised; the chapters in progress are ended.
    """
    numbers = chapters or range(1, len(book.chapters) + 1)
    scripts = await asyncio.to_thread(write_scripts, book, narrator, sorted(set(numbers)))
    kept = KeptChapters(config.output_dir / _FOLDER)
    book = await in_file_thread(with_usable_cover, book, target.book_format)
    shelf = await in_file_thread(_shelf, book, target, kept, narrator.pauses.chapter)
    keyed = [(script, chapter_key(script, config, target.path)) for script in scripts]
    await in_file_thread(shelf.check, keyed)
    progress = _Progress(scripts, on_progress)
    narration = _BookNarration(speaker, kept, shelf, progress, use_kept=narrator.cache)
    async with _in_threads(kept.claimed(target.path)):
        results = await narration.run(keyed, at_once or config.piece_concurrency)
        finished = await _written(shelf, results, progress)
    told = tuple(_narrated(result, finished.places.get(result.script.number)) for result in results)
    missing = [chapter for chapter in told if not chapter.success]
    if missing:
        named = (f"chapter {chapter.number} ({chapter.title[:40]}): {chapter.error}" for chapter in missing[:3])
        others = f"; and {len(missing) - 3} more" if len(missing) > 3 else ""
        message = f"{len(missing)} of {len(told)} chapters are missing: {'; '.join(named)}{others}"
    else:
        count = "1 chapter" if len(told) == 1 else f"{len(told)} chapters"
        message = f"{count} of {book.title}, {finished.seconds / 60:.1f} minutes"
    is_written = bool(finished.places)
    return Audiobook(
        success=not missing,
        message=message,
        title=book.title,
        file_path=str(target.path) if is_written else None,
        feed_path=str(target.path / FEED_NAME) if is_written and target.rss_base_url is not None else None,
        chapters=told,
        duration_s=finished.seconds,
        cost_usd=sum_usd([chapter.cost_usd for chapter in told]),
        replaced=dict(sum((Counter(result.script.replaced) for result in results), Counter[str]())),
        warnings=book.warnings,
    )


class _Progress:
    """How far a book is, and who is told."""

    def __init__(self, scripts: Sequence[ChapterScript], on_progress: BookProgressCallback | None) -> None:
        self._on_progress = on_progress
        self._total = sum(script.characters for script in scripts)
        self._chapters = len(scripts)
        self._characters: dict[int, float] = {}
        self._seconds: dict[int, float] = {}
        self._costs: list[float | None] = []
        self._done = 0

    async def add(self, number: int, characters: float, seconds: float) -> None:
        """So many characters of a chapter are spoken, and so many seconds."""
        self._characters[number], self._seconds[number] = characters, seconds
        await self.tell("speaking")

    async def end(self, cost_usd: float | None) -> None:
        """A chapter has ended."""
        self._done += 1
        self._costs.append(cost_usd)
        await self.tell("speaking")

    async def tell(self, stage: Stage, chapters_done: int | None = None) -> None:
        """Tell how far the book is."""
        if self._on_progress is None:
            return
        told = self._on_progress(
            BookProgress(
                stage=stage,
                characters_done=round(sum(self._characters.values())),
                characters_total=self._total,
                chapters_done=self._done if chapters_done is None else chapters_done,
                chapters_total=self._chapters,
                seconds=sum(self._seconds.values()),
                cost_usd=sum_usd(self._costs),
            )
        )
        if inspect.isawaitable(told):
            await told


@dataclass(slots=True)
class _ChapterResult:
    """What became of a chapter: its sound or its error, and what the calls for it were."""

    script: ChapterScript
    sound: ChapterSound | None = None
    error: AudioAPIError | None = None
    is_kept: bool = False
    attempts: int = 0
    cached_pieces: int = 0
    costs: list[float | None] = field(default_factory=list)
    warnings: dict[str, None] = field(default_factory=dict)
    doubtful: dict[str, None] = field(default_factory=dict)
    model: str | None = None

    def note(self, response: AudioResponse) -> None:
        """Add the calls for a passage."""
        self.attempts += response.attempts
        self.cached_pieces += response.cached_pieces
        self.costs.append(response.cost_usd)
        self.warnings.update(dict.fromkeys(response.warnings))
        self.doubtful.update(dict.fromkeys(code.value for code in response.doubtful))
        self.model = response.model or self.model


class _BookNarration:
    """Speaks chapters, a few at a time."""

    def __init__(
        self, speaker: Speaker, kept: KeptChapters, shelf: Shelf, progress: _Progress, *, use_kept: bool
    ) -> None:
        self._speaker = speaker
        self._kept = kept
        self._shelf = shelf
        self._progress = progress
        self._use_kept = use_kept
        self._hopeless: AudioAPIError | None = None

    async def run(self, chapters: Sequence[tuple[ChapterScript, str]], at_once: int) -> list[_ChapterResult]:
        """Speak every chapter that is not kept; the results are in the order of the chapters."""
        results = [_ChapterResult(script) for script, _ in chapters]
        waiting = iter(zip(results, (key for _, key in chapters), strict=True))

        async def work() -> None:
            for result, key in waiting:
                script = result.script
                try:
                    found = await in_file_thread(self._shelf.find, script, key) if self._use_kept else None
                    result.is_kept = found is not None
                    result.sound = found or await self._spoken(result, key)
                    spoken = SpokenChapter(script.number, script.title, key, self._kept.path(key), result.sound)
                    await asyncio.to_thread(self._shelf.put, spoken)
                    await self._progress.add(script.number, script.characters, result.sound.seconds)
                except AudioAPIError as error:
                    result.sound, result.error = None, error
                    self._hopeless = self._hopeless or (error if isinstance(error, _HOPELESS) else None)
                await self._progress.end(sum_usd(result.costs))

        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(results))):
                group.create_task(work())
        return results

    async def _spoken(self, result: _ChapterResult, key: str) -> ChapterSound:
        if self._hopeless:
            raise type(self._hopeless)(
                f"not tried: {self._hopeless}", code=self._hopeless.code, retryable=self._hopeless.retryable
            )
        script, done, seconds = result.script, 0, 0.0
        async with _in_threads(self._kept.writer(key, script.silence_s)) as writer:
            for number, passage in enumerate(script.passages, 1):
                response = await self._passage(script.number, passage, f"book-{key[:32]}-{number:04}", done, seconds)
                result.note(response)
                path = response.raise_for_error().file_path
                await in_sound_thread(writer.add, Path(path or ""), passage.silence_s)
                done, seconds = done + len(passage.request.text), seconds + (response.duration or 0.0)
                await self._progress.add(script.number, done, seconds)
            return await in_sound_thread(writer.finish, result.model, tuple(result.doubtful), tuple(result.warnings))

    async def _passage(self, number: int, passage: Passage, name: str, done: int, seconds: float) -> AudioResponse:
        characters = len(passage.request.text)

        async def on_piece(progress: SpeechProgress) -> None:
            share = progress.pieces_done / progress.pieces_total
            await self._progress.add(number, done + characters * share, seconds + progress.seconds)

        request = passage.request.model_copy(update={"output_filename": f"{name}.wav"})
        return await self._speaker.generate_audio(request, on_piece)


@asynccontextmanager
async def _in_threads(context: AbstractContextManager[_T]) -> AsyncIterator[_T]:
    """A context whose beginning and end block."""
    value = await in_sound_thread(context.__enter__)
    try:
        yield value
    except BaseException as error:
        if not await in_sound_thread(context.__exit__, type(error), error, error.__traceback__):
            raise
    else:
        await in_sound_thread(context.__exit__, None, None, None)


async def _written(shelf: Shelf, results: Sequence[_ChapterResult], progress: _Progress) -> Finished:
    """Write the files in a thread, and tell how far that is."""
    loop = asyncio.get_running_loop()
    written: asyncio.Queue[int | None] = asyncio.Queue()

    def on_chapter(index: int | None) -> None:
        loop.call_soon_threadsafe(written.put_nowait, index)

    def write() -> Finished:
        try:
            return shelf.finish(on_chapter, is_whole=all(result.sound for result in results))
        finally:
            on_chapter(None)

    writing = asyncio.create_task(asyncio.to_thread(write))
    while (index := await written.get()) is not None:
        await progress.tell("writing", index + 1)
    return await writing


def _narrated(result: _ChapterResult, placed: Placed | None) -> NarratedChapter:
    error, sound = result.error, result.sound
    return NarratedChapter(
        number=result.script.number,
        title=result.script.title,
        success=sound is not None,
        file_path=str(placed.file_path) if sound and placed and placed.file_path else None,
        start_s=placed.start_s if sound and placed else None,
        duration_s=sound.seconds if sound else None,
        error=str(error) if error else None,
        error_code=error.code if error else None,
        retryable=bool(error and error.retryable),
        attempts=result.attempts,
        cached_pieces=result.cached_pieces,
        is_kept=result.is_kept,
        cost_usd=sum_usd(result.costs),
        doubtful=sound.doubtful if sound else tuple(result.doubtful),
        warnings=sound.warnings if sound else tuple(result.warnings),
    )
