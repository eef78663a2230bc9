"""Where the files of an audiobook stand: all chapters in one file, or each in its own. Everything here blocks."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from audio_api.audio.durable import taken
from audio_api.audio.wav import SAMPLE_RATE
from audio_api.books.audiobook import BookFormat
from audio_api.books.book import Book
from audio_api.books.book_files import (
    OUTPUT_FORMATS,
    SpokenChapter,
    check_output,
    file_name,
    write_bytes,
    write_chapter,
    write_m4b,
)
from audio_api.books.kept_chapters import ChapterSound, KeptChapters
from audio_api.books.podcast import FEED_NAME, Episode, check_base_url, feed
from audio_api.books.script import ChapterScript
from audio_api.models.sound_formats import MEDIA_TYPES

_LIST_NAME = "book.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class BookTarget:
    """Where an audiobook goes.

    Attributes:
        book_format: ``"m4b"``: one file with chapters, a cover and tags. Any other: a file for each chapter.
        path: The one file, or the folder of the chapters' files.
        overwrite: Whether existing files may be replaced.
        rss_base_url: Where the folder will be published; then a feed, ``podcast.xml``, is written beside the files.
            ``None``: no feed.
    """

    book_format: BookFormat
    path: Path
    overwrite: bool = False
    rss_base_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Where a chapter is in the finished files.

    Attributes:
        file_path: Its own file; ``None``: it is in the one file.
        start_s: Where its first word begins in its file, in seconds.
    """

    file_path: Path | None
    start_s: float


@dataclass(frozen=True, slots=True)
class Finished:
    """The finished files.

    Attributes:
        places: Where the chapters are, by their numbers; empty: nothing was written.
        seconds: How long all files are together.
    """

    places: Mapping[int, Placed]
    seconds: float


class Shelf(ABC):
    """Takes finished chapters.

    Args:
        book: The book.
        target: Where it goes.
        kept: Holds the sound of finished chapters until it is in a file.
    """

    def __init__(self, book: Book, target: BookTarget, kept: KeptChapters) -> None:
        self._book = book
        self._target = target
        self._kept = kept

    @abstractmethod
    def check(self, scripts: Sequence[tuple[ChapterScript, str]]) -> None:
        """Refuse, before anything is paid for, what could not be written.

        Args:
            scripts: The chapters, each with the key it is kept under.

        Raises:
            AudioAPIError: As ``check_output``; or a chapter's file exists, and holds something else.
        """

    def find(self, script: ChapterScript, key: str) -> ChapterSound | None:
        """A chapter that an earlier run finished; ``None``: it must be spoken."""
        return self._kept.find(key)

    @abstractmethod
    def put(self, chapter: SpokenChapter) -> None:
        """Take a chapter that was just spoken, or found."""

    @abstractmethod
    def finish(self, on_chapter: Callable[[int], None], *, is_whole: bool) -> Finished:
        """Write what is not written yet.

        Args:
            on_chapter: Told of each chapter that is written, by its place among them.
            is_whole: Whether every chapter that was wanted is there.

        Raises:
            TTSOutputError: A file could not be written.
        """


class OneFile(Shelf):
    """An m4b.

    Args:
        book: As ``Shelf``.
        target: As ``Shelf``.
        kept: As ``Shelf``.
        pause_s: Silence between two chapters.
    """

    def __init__(self, book: Book, target: BookTarget, kept: KeptChapters, pause_s: float) -> None:
        super().__init__(book, target, kept)
        self._pause_s = pause_s
        self._chapters: dict[int, SpokenChapter] = {}

    def check(self, scripts: Sequence[tuple[ChapterScript, str]]) -> None:
        """The file."""
        check_output(self._target.path, "m4b", overwrite=self._target.overwrite)

    def put(self, chapter: SpokenChapter) -> None:
        """Nothing but remember it."""
        self._chapters[chapter.number] = chapter

    def finish(self, on_chapter: Callable[[int], None], *, is_whole: bool) -> Finished:
        """The one file, if no chapter is missing."""
        if not is_whole:
            return Finished({}, 0.0)
        chapters = [self._chapters[number] for number in sorted(self._chapters)]
        starts, samples = write_m4b(
            self._target.path,
            self._book,
            chapters,
            self._pause_s,
            overwrite=self._target.overwrite,
            on_chapter=on_chapter,
        )
        self._kept.remove(chapter.key for chapter in chapters)
        places = {
            chapter.number: Placed(file_path=None, start_s=start / SAMPLE_RATE)
            for chapter, start in zip(chapters, starts, strict=True)
        }
        return Finished(places, samples / SAMPLE_RATE)


class ChapterFiles(Shelf):
    """A folder with a file for each chapter, and a list, ``book.json``, that tells which file holds what."""

    def __init__(self, book: Book, target: BookTarget, kept: KeptChapters) -> None:
        super().__init__(book, target, kept)
        self._lock = threading.Lock()
        self._listed: dict[str, Any]
        self._published, self._listed = datetime.now(UTC).replace(microsecond=0).isoformat(), {}
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            told = json.loads((target.path / _LIST_NAME).read_bytes())
            datetime.fromisoformat(told["published"])
            for listed in told["chapters"].values():
                _ = Path(listed["file"]).name, listed["bytes"], listed["key"], ChapterSound.from_dict(listed["sound"])
            self._published, self._listed = told["published"], told["chapters"]

    def check(self, scripts: Sequence[tuple[ChapterScript, str]]) -> None:
        """The folder, and each chapter's file."""
        if self._target.rss_base_url is not None:
            check_base_url(self._target.rss_base_url)
        check_output(self._target.path, self._target.book_format, overwrite=self._target.overwrite)
        for script, key in scripts:
            path = self._path(script.number, script.title)
            if path.exists() and not self._target.overwrite and not self._is_there(script.number, key):
                raise taken(path)

    def find(self, script: ChapterScript, key: str) -> ChapterSound | None:
        """In its file, else among those that are kept."""
        if self._is_there(script.number, key):
            return ChapterSound.from_dict(self._listed[str(script.number)]["sound"])
        return super().find(script, key)

    def put(self, chapter: SpokenChapter) -> None:
        """Write its file, and its entry in the list."""
        if not chapter.samples_path.exists() and self._is_there(chapter.number, chapter.key):
            return
        path = self._path(chapter.number, chapter.title)
        write_chapter(path, self._book, chapter, self._target.book_format, overwrite=True)
        with self._lock:
            self._listed[str(chapter.number)] = {
                "title": chapter.title,
                "file": path.name,
                "bytes": path.stat().st_size,
                "key": chapter.key,
                "sound": asdict(chapter.sound),
            }
            told = {
                "title": self._book.title,
                "authors": list(self._book.authors),
                "published": self._published,
                "chapters": {number: self._listed[number] for number in sorted(self._listed, key=int)},
            }
            content = json.dumps(told, ensure_ascii=False, indent=2).encode() + b"\n"
            write_bytes(self._target.path / _LIST_NAME, content)
        self._kept.remove([chapter.key])

    def finish(self, on_chapter: Callable[[int], None], *, is_whole: bool) -> Finished:
        """The cover, and the feed of all chapters that are there."""
        there = {int(number): told for number, told in self._listed.items() if self._is_there(int(number), told["key"])}
        cover_name, cover = None, self._book.cover
        if there and cover:
            cover_name = "cover.png" if cover.media_type == "image/png" else "cover.jpg"
            write_bytes(self._target.path / cover_name, cover.data)
        if self._target.rss_base_url is not None and there:
            episodes = [
                Episode(
                    number=number,
                    title=listed["title"],
                    file_name=listed["file"],
                    size_bytes=listed["bytes"],
                    media_type=MEDIA_TYPES[OUTPUT_FORMATS[self._target.book_format]],
                    seconds=listed["sound"]["samples"] / SAMPLE_RATE,
                    guid=listed["key"],
                )
                for number, listed in sorted(there.items())
            ]
            content = feed(
                self._book,
                check_base_url(self._target.rss_base_url),
                episodes,
                datetime.fromisoformat(self._published),
                cover_name,
            )
            write_bytes(self._target.path / FEED_NAME, content)
        places = {
            number: Placed(
                file_path=self._target.path / listed["file"], start_s=listed["sound"]["first_word"] / SAMPLE_RATE
            )
            for number, listed in there.items()
        }
        return Finished(places, sum(listed["sound"]["samples"] for listed in there.values()) / SAMPLE_RATE)

    def _path(self, number: int, title: str) -> Path:
        digits = max(2, len(str(len(self._book.chapters))))
        ending = f".{self._target.book_format}"
        return self._target.path / file_name(f"{number:0{digits}} {title}", ending)

    def _is_there(self, number: int, key: str) -> bool:
        listed = self._listed.get(str(number))
        if listed is None or listed["key"] != key or not listed["file"].endswith(f".{self._target.book_format}"):
            return False
        path = self._target.path / listed["file"]
        return path.is_file() and bool(path.stat().st_size == listed["bytes"])
