"""What ``audio-api book`` does: a book is listed, sampled, or spoken into an audiobook."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Literal

from audio_api.books.audiobook import Audiobook, BookFormat, BookProgress
from audio_api.books.book import Book
from audio_api.books.book_files import file_name
from audio_api.books.estimate import ChapterEstimate, estimate
from audio_api.books.lexicon import read_lexicon
from audio_api.books.narration import Speaker, made_chapters, narrate, target_for
from audio_api.books.narrator import Narrator, Pauses
from audio_api.books.reading import read_book
from audio_api.books.script import ChapterScript, write_scripts
from audio_api.books.shelves import BookTarget
from audio_api.cli.exit_codes import DONE, FAILED, TRY_LATER
from audio_api.cli.options import pairs
from audio_api.cli.terminal import complain, progress_bar
from audio_api.cli.wording import dollars, hours, in_words
from audio_api.config import AudioConfig
from audio_api.errors import ConfigurationError, TTSValidationError
from audio_api.models.audio_request import Markup, SpeakerConfig, VoiceConfig

_RANGE = re.compile(r"(\d{1,5})?(?:\s*(-|–|\.\.)\s*(\d{1,5})?)?")
# A sample tells how the voice sounds, which a title page does not.
_SAMPLE_CHARS = 1_000
_ALL_WORKERS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class BookOrder:
    """What the command was given, as ``audio_api.cli.book`` declares it; ``None``: the option was left out."""

    file: str
    list_only: bool
    chapters: str | None
    sample: bool
    output: str | None
    book_format: BookFormat | None
    rss: str | None
    voice: str
    cast: Sequence[str] | None
    language: str | None
    style: str | None
    speed: float | None
    pitch: float | None
    model: str | None
    lexicon: str | None
    pause: Sequence[str] | None
    no_titles: bool
    markup: Markup | None
    keep: Sequence[Literal["code", "tables"]] | None
    queue: bool
    overwrite: bool
    as_json: bool


def run(order: BookOrder, config: AudioConfig) -> int:
    """Do what the command was given.

    Returns:
        The exit code: 0 done; 1 a chapter is missing; 3 a chapter is missing, and trying again later may help.

    Raises:
        AudioAPIError: Nothing was spoken, or no file could be written.
        KeyboardInterrupt: The user ended it; what is kept was printed.
    """
    source = sys.stdin.buffer if order.file == "-" and sys.stdin else order.file
    book = read_book(source, markup=order.markup, keep=order.keep or ())
    narrator = _narrator(order)
    wanted = chosen(order.chapters, len(book.chapters))
    scripts = write_scripts(book, narrator, wanted)
    if order.sample:
        scripts = [next((script for script in scripts if script.characters >= _SAMPLE_CHARS), scripts[0])]
    output = order.output
    if order.sample and not output and (order.book_format or "m4b") == "m4b" and not order.rss:
        output = str(config.output_dir / file_name(f"{book.title} (sample)", ".m4b"))
    target = target_for(
        book,
        config,
        output,
        book_format=order.book_format,
        overwrite=order.overwrite,
        rss_base_url=order.rss,
    )
    made = made_chapters(book, scripts, config, target)
    estimates = estimate(scripts, config, datetime.now(UTC).date(), made)
    if order.list_only:
        _print_list(book, estimates, as_json=order.as_json)
        return DONE
    return _speak(order, config, book, narrator, scripts, target)


def chosen(ranges: str | None, count: int) -> list[int]:
    """The numbers that ``3-5`` or ``1,4,7-`` mean, of so many chapters; ``None``: all.

    Raises:
        TTSValidationError: It means none, or chapters that are not there.
    """
    if ranges is None:
        return list(range(1, count + 1))
    numbers: set[int] = set()
    for part in ranges.split(","):
        found = _RANGE.fullmatch(part.strip())
        if not found or not (found[1] or found[3]):
            raise TTSValidationError(f"--chapters: {part.strip()[:40]!r} is no chapter; write 3, 3-5 or 1,4,7-")
        first = int(found[1] or 1)
        last = int(found[3] or count) if found[2] else first
        if not 1 <= first <= last <= count:
            raise TTSValidationError(f"--chapters: {part.strip()[:40]!r} is not within 1-{count}; --list shows them")
        numbers.update(range(first, last + 1))
    return sorted(numbers)


def _narrator(order: BookOrder) -> Narrator:
    voice = VoiceConfig(voice_name=order.voice, speed=order.speed, pitch=order.pitch)
    seconds = {}
    for name, value in pairs("--pause", order.pause or (), "heading=1.2"):
        try:
            seconds[name] = float(value.removesuffix("s"))
        except ValueError:
            raise TTSValidationError(f"--pause: {name}={value[:20]} is no number of seconds") from None
    if unknown := seconds.keys() - {rule.name for rule in fields(Pauses)}:
        raise TTSValidationError(
            f"--pause: {min(unknown)!r} is no rule; {', '.join(rule.name for rule in fields(Pauses))} are"
        )
    return Narrator(
        voice_config=voice,
        cast=tuple(
            SpeakerConfig.model_validate({"speaker_name": name, "voice_name": value})
            for name, value in pairs("--cast", order.cast or (), "Alice=leda")
        ),
        language=order.language,
        model=order.model,
        style=order.style,
        lexicon=read_lexicon(order.lexicon) if order.lexicon else {},
        pauses=Pauses(**seconds),
        titles=not order.no_titles,
    )


def _print_list(book: Book, estimates: Sequence[ChapterEstimate], *, as_json: bool) -> None:
    if as_json:
        chapters = [asdict(each) for each in estimates]
        told = {"title": book.title, "authors": book.authors, "language": book.language, "warnings": book.warnings}
        print(json.dumps({**told, "chapters": chapters}, ensure_ascii=False))
        return
    print(" — ".join(filter(None, [book.title, ", ".join(book.authors)])))
    width = min(44, max(len(each.title) for each in estimates))
    print(f"{'':>4}  {'':<{width}}  {'characters':>10}  {'time':>8}  {'at most':>9}")
    for each in estimates:
        title = each.title if len(each.title) <= width else f"{each.title[: width - 1]}…"
        cost = "made" if each.is_made else dollars(each.cost_usd)
        print(f"{each.number:>4}  {title:<{width}}  {each.characters:>10,}  {hours(each.seconds):>8}  {cost:>9}")
    characters, seconds = sum(each.characters for each in estimates), sum(each.seconds for each in estimates)
    known = [each.cost_usd for each in estimates if each.cost_usd is not None]
    cost = dollars(sum(known) if len(known) == len(estimates) else None)
    print(f"{'':>4}  {'in all':<{width}}  {characters:>10,}  {hours(seconds):>8}  {cost:>9}")
    _warn(book.warnings)


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        complain(f"warning: {warning}")


def _speak(
    order: BookOrder,
    config: AudioConfig,
    book: Book,
    narrator: Narrator,
    scripts: Sequence[ChapterScript],
    target: BookTarget,
) -> int:
    numbers = [script.number for script in scripts]
    try:
        result = asyncio.run(_narrated(order, config, book, narrator, numbers, target))
    except KeyboardInterrupt:
        made = len(made_chapters(book, scripts, config, target))
        complain(
            f"interrupted; {made} of {len(scripts)} chapters and all finished pieces are kept: the same "
            "command goes on from there"
        )
        raise
    _print_result(result, as_json=order.as_json)
    if result.success:
        return DONE
    return TRY_LATER if all(chapter.retryable for chapter in result.failed) else FAILED


async def _narrated(
    order: BookOrder,
    config: AudioConfig,
    book: Book,
    narrator: Narrator,
    numbers: Sequence[int],
    target: BookTarget,
) -> Audiobook:
    with progress_bar() as show:

        def on_progress(progress: BookProgress) -> None:
            is_speaking = progress.stage == "speaking"
            show(
                progress.stage,
                progress.characters_done if is_speaking else progress.chapters_done,
                progress.characters_total if is_speaking else progress.chapters_total,
                f"{progress.characters_done:,} of {progress.characters_total:,} characters, "
                f"{hours(progress.seconds)}, {dollars(progress.cost_usd)}",
            )

        async with _speaker(config, queued=order.queue) as speaker:
            return await narrate(
                book,
                speaker,
                config,
                narrator,
                target,
                chapters=numbers,
                at_once=_ALL_WORKERS if order.queue else None,
                on_progress=on_progress,
            )


@asynccontextmanager
async def _speaker(config: AudioConfig, *, queued: bool) -> AsyncIterator[Speaker]:
    if not queued:
        from audio_api.services.tts_service import TTSService

        # The passages are joined on this machine, wherever the sound of requests goes.
        async with TTSService(config.model_copy(update={"output_url": None})) as service:
            yield service
        return
    from audio_api.services.queue_service import QueueService
    from audio_api.services.queued_speech import QueuedSpeech

    if not config.use_redis:
        raise ConfigurationError("--queue needs workers in other processes: set USE_REDIS=true and REDIS_URL")
    async with QueueService(config=config) as queue:
        yield QueuedSpeech(queue)


def _print_result(result: Audiobook, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(result), ensure_ascii=False))
        return
    if result.file_path:
        print(f"{result.file_path}  {hours(result.duration_s)}  {dollars(result.cost_usd)}")
    if result.feed_path:
        print(result.feed_path)
    if result.replaced:
        words = ", ".join(f"{word} {count}" for word, count in sorted(result.replaced.items()))
        complain(f"replaced: {words}")
    _warn(result.warnings)
    for chapter in result.chapters:
        _warn([f"chapter {chapter.number} ({chapter.title[:40]}): {warning}" for warning in chapter.warnings])
    if not result.success:
        for chapter in result.failed:
            complain(f"chapter {chapter.number} ({chapter.title[:40]}): {in_words(chapter.error or '')}")
        complain(
            f"{len(result.failed)} of {len(result.chapters)} chapters are missing; the others are kept: the "
            "same command makes only those"
        )
