"""Finished chapters become files that people play. Everything here blocks."""

from __future__ import annotations

import os
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from audio_api.audio.durable import DurableFile, check_folder, explained, folder_at, real_folder, taken
from audio_api.audio.encoding import FileEncoder, require_encoder, write_audiobook
from audio_api.audio.wav import SAMPLE_RATE, wav_header
from audio_api.books.audiobook import BookFormat
from audio_api.books.book import Book
from audio_api.books.kept_chapters import ChapterSound, pure_silence_s
from audio_api.errors import TTSOutputError, TTSValidationError
from audio_api.models.sound_formats import OutputFormat

if TYPE_CHECKING:
    from audio_api.audio.aac import ChapterMark

_BLOCK_BYTES = 480_000
_BEFORE_FIRST_WORD = 360  # samples: 15 ms
_MOST_SPARED = 1_440  # a longer silence was asked for
_MOST_NAME_BYTES = 150
_NEVER_IN_NAMES = frozenset('/\\:*?"<>|')
OUTPUT_FORMATS: Mapping[BookFormat, OutputFormat] = MappingProxyType(
    {"m4b": "m4a", "m4a": "m4a", "mp3": "mp3", "opus": "opus", "flac": "flac", "wav": "wav"}
)
"""What the files of each format hold."""


@dataclass(frozen=True, slots=True)
class SpokenChapter:
    """A finished chapter.

    Attributes:
        number: Its place in the book.
        title: Its title.
        key: What it is kept under.
        samples_path: The file of its samples.
        sound: What that file holds.
    """

    number: int
    title: str
    key: str
    samples_path: Path
    sound: ChapterSound


def check_output(path: Path, book_format: BookFormat, *, overwrite: bool) -> None:
    """Find out, before anything is paid for, whether the files can be written.

    Args:
        path: The one file of an m4b, or the folder of the chapters' files.
        book_format: The format.
        overwrite: Whether existing files may be replaced.

    Raises:
        ConfigurationError: The format needs an extra that is not installed.
        TTSValidationError: There is no such format, or the file's name ends with another one's.
        TTSOutputError: The folder takes no files, or the file exists.
    """
    if book_format not in OUTPUT_FORMATS:
        raise TTSValidationError(f"{book_format!r} is no format: {', '.join(OUTPUT_FORMATS)} are")
    require_encoder(OUTPUT_FORMATS[book_format])
    if book_format != "m4b":
        check_folder(path, 0)
        return
    if path.suffix.lower() != ".m4b":
        raise TTSValidationError(f"{path.name!r} must end with .m4b; with another format each chapter is a file")
    check_folder(path.parent, 0)
    if path.is_dir():
        raise TTSOutputError(f"{str(path)!r} is a folder: name a file in it")
    if os.path.lexists(path) and not overwrite:
        raise taken(path)


def with_usable_cover(book: Book, book_format: BookFormat) -> Book:
    """The book, without its cover if that is damaged: its files would be refused when everything is paid for.

    Raises:
        ConfigurationError: The format needs an extra that is not installed.
    """
    if book.cover is None or OUTPUT_FORMATS.get(book_format) != "m4a":
        return book
    try:
        with tempfile.TemporaryFile() as file:
            write_audiobook(file.fileno(), [bytes(_BLOCK_BYTES // 10)], tags={}, cover=book.cover.data)
    except (ValueError, TTSOutputError, OSError):
        return replace(book, cover=None, warnings=(*book.warnings, "the cover is left out: the picture is damaged"))
    return book


def file_name(title: str, ending: str = "") -> str:
    """A name for a file that every system takes, as near to the title as that allows."""
    composed = unicodedata.normalize("NFC", title)
    plain = "".join(char if char.isprintable() and char not in _NEVER_IN_NAMES else " " for char in composed)
    short = " ".join(plain.split()).encode()[:_MOST_NAME_BYTES].decode(errors="ignore").strip(" .~-")
    return f"{short or 'Book'}{ending}"


def write_m4b(
    path: Path,
    book: Book,
    chapters: Sequence[SpokenChapter],
    pause_s: float,
    *,
    overwrite: bool,
    on_chapter: Callable[[int], None],
) -> tuple[list[int], int]:
    """Write all chapters into one file, with marks at their first words, the cover and tags.

    Args:
        path: The file.
        book: Names and cover.
        chapters: In order.
        pause_s: Silence between two of them.
        overwrite: Whether an existing file may be replaced.
        on_chapter: Told of each chapter, by its index, when its sound is in the file.

    Returns:
        The sample at which the first word of each chapter begins, and how many samples there are.

    Raises:
        TTSOutputError: The file could not be written, or is not as long as its sound.
    """
    from audio_api.audio.aac import ChapterMark

    pause = bytes(2 * round(pure_silence_s(pause_s) * SAMPLE_RATE))
    # Players begin the first chapter with the file, so its first word must be there.
    spared = max(0, chapters[0].sound.first_word - _BEFORE_FIRST_WORD)
    spared = spared if spared <= _MOST_SPARED else 0
    starts, at = [], -spared
    for chapter in chapters:
        starts.append(at + chapter.sound.first_word)
        at += chapter.sound.samples + len(pause) // 2
    ends = [*starts[1:], at - len(pause) // 2]
    marks: list[ChapterMark] = [
        ChapterMark(chapter.title, start, end) for chapter, start, end in zip(chapters, starts, ends, strict=True)
    ]
    with _new_file(path, overwrite=overwrite) as file:
        samples = write_audiobook(
            file.fileno(),
            _sound(chapters, spared, pause, on_chapter),
            tags=_tags(book, book.title),
            chapters=marks,
            cover=book.cover.data if book.cover else None,
        )
    return starts, samples


def _sound(
    chapters: Sequence[SpokenChapter], spared: int, pause: bytes, on_chapter: Callable[[int], None]
) -> Iterator[bytes]:
    for index, chapter in enumerate(chapters):
        if index:
            yield pause
        yield from _blocks(chapter, 0 if index else spared)
        on_chapter(index)


def _blocks(chapter: SpokenChapter, skipped: int = 0) -> Iterator[bytes]:
    with chapter.samples_path.open("rb") as file:
        file.seek(2 * skipped)
        while block := file.read(_BLOCK_BYTES):
            yield block


def write_chapter(path: Path, book: Book, chapter: SpokenChapter, book_format: BookFormat, *, overwrite: bool) -> None:
    """Write one chapter into a file of its own.

    Raises:
        TTSOutputError: The file could not be written, or is not as long as its sound.
    """
    output_format = OUTPUT_FORMATS[book_format]
    with _new_file(path, overwrite=overwrite) as file:
        if output_format == "wav":
            file.write(wav_header(2 * chapter.sound.samples))
            for block in _blocks(chapter):
                file.write(block)
        elif output_format == "m4a":
            tags = _tags(book, chapter.title) | {"track": str(chapter.number)}
            cover = book.cover.data if book.cover else None
            write_audiobook(file.fileno(), _blocks(chapter), container="m4a", tags=tags, cover=cover)
        else:
            tags = {"title": chapter.title, "artist": ", ".join(book.authors), "comment": book.title}
            encoder = FileEncoder(file.fileno(), output_format, {name: text for name, text in tags.items() if text})
            try:
                for block in _blocks(chapter):
                    encoder.write(block)
                encoder.finish()
            finally:
                encoder.abandon()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file beside the chapters, in the place of an older one.

    Raises:
        TTSOutputError: It could not be written.
    """
    with _new_file(path, overwrite=True) as file:
        file.write(content)


@contextmanager
def _new_file(path: Path, *, overwrite: bool) -> Iterator[DurableFile]:
    """A file that gets its name, on disk and whole, when the block ends without an error."""
    with (
        explained(path),
        folder_at(real_folder(path.parent)) as folder_fd,
        DurableFile(folder_fd, path, overwrite=overwrite) as file,
    ):
        yield file
        os.fsync(file.fileno())
        file.publish()


def _tags(book: Book, title: str) -> dict[str, str]:
    """What players show."""
    authors = ", ".join(book.authors)
    tags = {
        "title": title,
        "album": book.title,
        "artist": authors,
        "album_artist": authors,
        "genre": "Audiobook",
        "date": book.metadata.get("date", "")[:10],
        "comment": book.metadata.get("description", "")[:1_000],
        "copyright": book.metadata.get("rights", "")[:500],
    }
    return {name: text for name, text in tags.items() if text}
