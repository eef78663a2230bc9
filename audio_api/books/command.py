"""``audio-api book``: a book is listed, sampled, or spoken into an audiobook."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime

from audio_api.books.audiobook import Audiobook, BookProgress, BookProgressCallback
from audio_api.books.book import Book
from audio_api.books.book_files import file_name
from audio_api.books.estimate import ChapterEstimate, estimate
from audio_api.books.lexicon import read_lexicon
from audio_api.books.narration import Speaker, made_chapters, narrate, target_for
from audio_api.books.narrator import Narrator, Pauses
from audio_api.books.reading import read_book
from audio_api.books.script import ChapterScript, write_scripts
from audio_api.books.shelves import BookTarget
from audio_api.config import AudioConfig
from audio_api.errors import ConfigurationError, TTSValidationError
from audio_api.models.audio_request import SpeakerConfig, VoiceConfig

DONE, FAILED, TRY_LATER = 0, 1, 3
_RANGE = re.compile(r"(\d{1,5})?(?:\s*(-|–|\.\.)\s*(\d{1,5})?)?")
# A sample tells how the voice sounds, which a title page does not.
_SAMPLE_CHARS = 1_000
_ALL_WORKERS = 100


def run(arguments: Namespace, config: AudioConfig) -> int:
    """Do what the arguments of ``add_options`` say.

    Returns:
        The exit code: 0 done; 1 a chapter is missing; 3 a chapter is missing, and trying again later may help.

    Raises:
        AudioAPIError: Nothing was spoken, or no file could be written.
        KeyboardInterrupt: The user ended it; what is kept was printed.
    """
    source = sys.stdin.buffer if arguments.file == "-" and sys.stdin else arguments.file
    book = read_book(source, markup=arguments.markup, keep=arguments.keep)
    narrator = _narrator(arguments)
    wanted = chosen(arguments.chapters, len(book.chapters))
    scripts = write_scripts(book, narrator, wanted)
    if arguments.sample:
        scripts = [next((script for script in scripts if script.characters >= _SAMPLE_CHARS), scripts[0])]
    target = target_for(
        book,
        config,
        arguments.output or _sample_path(arguments, book, config),
        book_format=arguments.format,
        overwrite=arguments.overwrite,
        rss_base_url=arguments.rss,
    )
    made = made_chapters(book, scripts, config, target)
    estimates = estimate(scripts, config, datetime.now(UTC).date(), made)
    if arguments.list:
        _print_list(book, estimates, as_json=arguments.json)
        return DONE
    return _speak(arguments, config, book, narrator, scripts, target)


def _sample_path(arguments: Namespace, book: Book, config: AudioConfig) -> str | None:
    if not arguments.sample or (arguments.format or "m4b") != "m4b" or arguments.rss:
        return None
    return str(config.output_dir / file_name(f"{book.title} (sample)", ".m4b"))


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


def _narrator(arguments: Namespace) -> Narrator:
    voice = VoiceConfig(voice_name=arguments.voice, speed=arguments.speed, pitch=arguments.pitch)
    seconds = {name: _seconds(name, value) for name, value in _pairs("--pause", arguments.pause, "heading=1.2")}
    if unknown := seconds.keys() - {rule.name for rule in fields(Pauses)}:
        raise TTSValidationError(
            f"--pause: {min(unknown)!r} is no rule; {', '.join(rule.name for rule in fields(Pauses))} are"
        )
    return Narrator(
        voice_config=voice,
        cast=tuple(
            SpeakerConfig.model_validate({"speaker_name": name, "voice_name": value})
            for name, value in _pairs("--cast", arguments.cast, "Alice=leda")
        ),
        language=arguments.language,
        model=arguments.model,
        style=arguments.style,
        lexicon=read_lexicon(arguments.lexicon) if arguments.lexicon else {},
        pauses=Pauses(**seconds),
        titles=not arguments.no_titles,
    )


def _pairs(option: str, given: Sequence[str], example: str) -> Iterator[tuple[str, str]]:
    for pair in given:
        name, sign, value = pair.partition("=")
        if not (name.strip() and sign and value.strip()):
            raise TTSValidationError(f"{option}: {pair[:40]!r} must be written like {example}")
        yield name.strip(), value.strip()


def _seconds(name: str, value: str) -> float:
    try:
        return float(value.removesuffix("s"))
    except ValueError:
        raise TTSValidationError(f"--pause: {name}={value[:20]} is no number of seconds") from None


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
        cost = "made" if each.is_made else _dollars(each.cost_usd)
        print(f"{each.number:>4}  {title:<{width}}  {each.characters:>10,}  {_time(each.seconds):>8}  {cost:>9}")
    characters, seconds = sum(each.characters for each in estimates), sum(each.seconds for each in estimates)
    known = [each.cost_usd for each in estimates if each.cost_usd is not None]
    cost = _dollars(sum(known) if len(known) == len(estimates) else None)
    print(f"{'':>4}  {'in all':<{width}}  {characters:>10,}  {_time(seconds):>8}  {cost:>9}")
    _warn(book.warnings)


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _dollars(cost_usd: float | None) -> str:
    return "unknown" if cost_usd is None else f"${cost_usd:.4f}" if cost_usd < 1 else f"${cost_usd:.2f}"


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        print(f"audio-api: warning: {warning}", file=sys.stderr)


def _speak(
    arguments: Namespace,
    config: AudioConfig,
    book: Book,
    narrator: Narrator,
    scripts: Sequence[ChapterScript],
    target: BookTarget,
) -> int:
    numbers = [script.number for script in scripts]
    try:
        result = asyncio.run(_narrated(arguments, config, book, narrator, numbers, target))
    except KeyboardInterrupt:
        made = len(made_chapters(book, scripts, config, target))
        print(
            f"audio-api: interrupted; {made} of {len(scripts)} chapters and all finished pieces are kept: the same "
            "command goes on from there",
            file=sys.stderr,
        )
        raise
    _print_result(result, as_json=arguments.json)
    if result.success:
        return DONE
    return TRY_LATER if all(chapter.retryable for chapter in result.failed) else FAILED


async def _narrated(
    arguments: Namespace,
    config: AudioConfig,
    book: Book,
    narrator: Narrator,
    numbers: Sequence[int],
    target: BookTarget,
) -> Audiobook:
    with _progress_bar() as on_progress:
        async with _speaker(config, queued=arguments.queue) as speaker:
            return await narrate(
                book,
                speaker,
                config,
                narrator,
                target,
                chapters=numbers,
                at_once=_ALL_WORKERS if arguments.queue else None,
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


@contextmanager
def _progress_bar() -> Iterator[BookProgressCallback | None]:
    """Characters, minutes, cost so far and time left; only on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("speaking", total=None, told="")

        def show(progress: BookProgress) -> None:
            is_speaking = progress.stage == "speaking"
            done = progress.characters_done if is_speaking else progress.chapters_done
            total = progress.characters_total if is_speaking else progress.chapters_total
            told = (
                f"{progress.characters_done:,} of {progress.characters_total:,} characters, "
                f"{_time(progress.seconds)}, {_dollars(progress.cost_usd)}"
            )
            bar.update(task, description=progress.stage, completed=done, total=total, told=told)

        yield show


def _print_result(result: Audiobook, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(result), ensure_ascii=False))
        return
    if result.file_path:
        print(f"{result.file_path}  {_time(result.duration_s)}  {_dollars(result.cost_usd)}")
    if result.feed_path:
        print(result.feed_path)
    if result.replaced:
        words = ", ".join(f"{word} {count}" for word, count in sorted(result.replaced.items()))
        print(f"audio-api: replaced: {words}", file=sys.stderr)
    _warn(result.warnings)
    for chapter in result.chapters:
        _warn([f"chapter {chapter.number} ({chapter.title[:40]}): {warning}" for warning in chapter.warnings])
    if not result.success:
        for chapter in result.failed:
            print(f"audio-api: chapter {chapter.number} ({chapter.title[:40]}): {chapter.error}", file=sys.stderr)
        print(
            f"audio-api: {len(result.failed)} of {len(result.chapters)} chapters are missing; the others are kept: the "
            "same command makes only those",
            file=sys.stderr,
        )
