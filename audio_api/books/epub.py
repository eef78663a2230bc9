"""EPUB 2 and 3: container → package → spine → table of contents → chapters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import BinaryIO

from audio_api.books.archive import Archive
from audio_api.books.book import Block, Book, Chapter, Keepable, chapters_by_headings, is_parts_page, title_of
from audio_api.books.epub_contents import ContentsEntry, read_contents
from audio_api.books.epub_package import MOST_DOCUMENT_BYTES, read_cover, read_package
from audio_api.books.page_reader import Page, PageReader
from audio_api.books.xml_events import parse
from audio_api.models.user_text import has_words

# The Bible has 5 MB; with the marks of a careless converter, five times as much.
_MOST_TEXT_BYTES = 64_000_000
_MOST_TITLE_CHARS = 200
_NAMES = {
    "code blocks": "code block",
    "tables": "table",
    "footnotes": "footnote",
    "formulas": "formula",
}


def read_epub(file: BinaryIO, name: str, keep: Collection[Keepable] = ()) -> Book:
    """Read an EPUB.

    Args:
        file: The EPUB.
        name: What errors and an untitled book are called.
        keep: As ``read_book``.

    Raises:
        TTSValidationError: It is no EPUB, is protected, is damaged, has no text, or is made to do harm.
    """
    archive = Archive(file, name)
    package = read_package(archive)
    # The documents in reading order, each once.
    paths = list(dict.fromkeys(found for path in package.spine if (found := archive.find(path))))
    if not paths:
        archive.refuse("names no document to read: its spine is empty, or its files are missing")
    if sum(map(archive.size, paths)) > _MOST_TEXT_BYTES:
        archive.refuse(f"holds more than {_MOST_TEXT_BYTES:,} bytes of text; that is no single book")
    pages: dict[str, Page] = {}
    repaired: list[str] = []
    for path in paths:
        content = archive.read(path, MOST_DOCUMENT_BYTES)
        reader, is_well_formed = parse(content, partial(PageReader, keep), f"{path!r} in the book")
        pages[path] = reader.finished()
        repaired += [] if is_well_formed else [path]
    book = _Spine(pages, archive)
    book.remove_notes()
    chapters = book.chapters(read_contents(archive, package))
    if not any(has_words(chapter.text) for chapter in chapters):
        archive.refuse("holds no text that can be read aloud: its pages may be pictures")
    cover, cover_warnings = read_cover(archive, package)
    warnings = [*package.warnings, *cover_warnings, *book.warnings]
    if repaired:
        warnings.append(f"read as well as possible, since it is not well-formed: {', '.join(repaired[:3])}")
    return Book(
        title=package.title or name,
        chapters=tuple(chapters),
        authors=package.authors,
        language=package.language,
        metadata=package.metadata,
        cover=cover,
        warnings=tuple(warnings),
    )


@dataclass(frozen=True, slots=True)
class _Start:
    """Where a chapter begins: the title, the depth in the table of contents, the page and the block."""

    title: str
    level: int
    page: int
    block: int


class _Spine:
    """All pages in reading order."""

    def __init__(self, pages: dict[str, Page], archive: Archive) -> None:
        self._paths = list(pages)
        self._pages = list(pages.values())
        self._number = {path: number for number, path in enumerate(self._paths)}
        self._archive = archive
        self.warnings: list[str] = []

    def remove_notes(self) -> None:
        """Leave out the notes that are known only by the marks that lead to them."""
        for path, page in zip(self._paths, self._pages, strict=True):
            for reference, fragment, mark in page.note_references:
                if "://" in reference or reference.startswith("mailto:"):
                    continue
                target = self._archive.find(self._archive.resolve(reference, path)) if reference else path
                if target in self._number:
                    self._pages[self._number[target]].remove_note(fragment, mark)
        left_out: Counter[str] = sum((page.left_out for page in self._pages), Counter())
        counts = [f"{count} {_NAMES[kind] if count == 1 else kind}" for kind, count in sorted(left_out.items())]
        self.warnings += [f"left out of the book: {', '.join(counts)}"] if counts else []

    def chapters(self, entries: Iterable[ContentsEntry]) -> list[Chapter]:
        """Divide the pages as the table of contents does, else by their headings."""
        starts = self._starts(entries)
        by_headings = self._by_headings()
        if len(starts) < 2 and len(by_headings) > 1:
            self.warnings.append("the book has no table of contents that can be used; its headings divide it")
            return by_headings
        edges = [_Start("", 1, 0, 0), *starts, _Start("", 1, len(self._pages), 0)]
        chapters = []
        for start, end in pairwise(edges):
            blocks = self._between(start, end)
            if any(has_words(block.text) for block in blocks):
                chapters.append(Chapter(start.title or title_of(blocks), tuple(blocks)))
        return chapters

    def _starts(self, entries: Iterable[ContentsEntry]) -> list[_Start]:
        """The entries that lead to a place in the spine, in the order of their places, one for each place.

        Left out are entries for sections of a chapter: deeper ones in its document, if it has text of its own.
        """
        found: dict[tuple[int, int], _Start] = {}
        for entry in entries:
            number = self._number.get(self._archive.find(entry.path) or "")
            if number is None:
                continue
            block = self._pages[number].ids.get(entry.fragment, (0, 0))[0]
            place = number, block
            # A part and its first chapter begin at the same place.
            outer = found[place].title if place in found else ""
            title = f"{outer}: {entry.title}" if 0 < len(outer) <= _MOST_TITLE_CHARS else outer or entry.title
            # A title of an m4b has 65,535 bytes at most.
            found[place] = _Start(title[: 2 * _MOST_TITLE_CHARS], entry.level, number, block)
        starts = [found[place] for place in sorted(found)]
        chapters: list[_Start] = []
        around: list[tuple[_Start, bool]] = []
        for start, following in pairwise([*starts, _Start("", 1, len(self._pages), 0)]):
            while around and around[-1][0].level >= start.level:
                around.pop()
            is_section = bool(around) and around[-1][0].page == start.page and not around[-1][1]
            if not is_section:
                chapters.append(start)
            holds_chapters = not is_section and is_parts_page(self._between(start, following))
            around.append((start, holds_chapters))
        return chapters

    def _between(self, start: _Start, end: _Start) -> list[Block]:
        blocks: list[Block] = []
        for number in range(start.page, min(end.page + 1, len(self._pages))):
            first = start.block if number == start.page else 0
            last = end.block if number == end.page else None
            blocks += [block for block in self._pages[number].blocks[first:last] if block]
        return blocks

    def _by_headings(self) -> list[Chapter]:
        pages = [[block for block in page.blocks if block] for page in self._pages]
        blocks = [block for page in pages for block in page]
        if any(block.kind == "heading" for block in blocks):
            return chapters_by_headings(blocks)
        titles = [page.title for page in self._pages]
        return [
            Chapter(title if title and titles.count(title) == 1 else title_of(page), tuple(page))
            for title, page in zip(titles, pages, strict=True)
            if any(has_words(block.text) for block in page)
        ]
