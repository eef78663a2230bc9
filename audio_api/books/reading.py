"""One way in: a file or a stream of any kind becomes a book."""

from __future__ import annotations

import io
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from audio_api.books.book import Book, Keepable, Markup, chapters_by_headings
from audio_api.books.epub import read_epub
from audio_api.books.language import book_language
from audio_api.books.markdown_text import blocks_of_markdown, front_matter
from audio_api.books.plain_text import blocks_of_text
from audio_api.errors import TTSValidationError
from audio_api.models.user_text import has_words, uniform

_MOST_FILE_BYTES = 1_000_000_000
_MOST_TEXT_BYTES = 64_000_000
_MARKDOWN = {".md", ".markdown"}
_ZIP = b"PK\x03\x04"
_OTHERS = {
    b"%PDF": "a PDF",
    b"{\\rtf": "an RTF document",
    b"\xd0\xcf\x11\xe0": "a Word document of the old kind",
    b"TPZ": "a Kindle book",
    b"\x1f\x8b": "a gzip archive",
}
_KINDLE = (b"BOOKMOBI", b"TEXtREAd")


def read_book(
    source: str | Path | BinaryIO,
    *,
    markup: Markup | None = None,
    keep: Collection[Keepable] = (),
) -> Book:
    """Read an EPUB 2 or 3, Markdown, or plain text with headings.

    Footnotes, their marks, page numbers, tables of contents, tables, code blocks and pictures are left out by rule;
    ``Book.warnings`` counts them. No other word is lost or changed. What the file is, its first bytes say. Nothing is
    unpacked to disk or loaded from elsewhere; 16 MB of a document, 64 MB of text and 1 GB of a file are the most.

    Args:
        source: A path, or a binary file such as ``sys.stdin.buffer``.
        markup: What a text is; ``None``: Markdown if its name ends with ``.md`` or ``.markdown``, else plain.
        keep: ``"code"`` and ``"tables"`` keep what else is left out.

    Raises:
        TTSValidationError: It cannot be read, is no book, is protected or damaged, or holds no words.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        try:
            with path.expanduser().open("rb") as file:
                by_name: Markup = "markdown" if path.suffix.lower() in _MARKDOWN else "plain"
                return _read(file, path.name, path.stem, markup or by_name, keep)
        except (OSError, ValueError, RuntimeError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise TTSValidationError(f"cannot read {str(source)[:200]!r}: {reason}") from None
    content = source.read(_MOST_FILE_BYTES + 1)
    if len(content) > _MOST_FILE_BYTES:
        raise TTSValidationError("standard input holds more than 1 GB; that is no book")
    return _read(io.BytesIO(content), "standard input", "", markup or "plain", keep)


def _read(file: BinaryIO, name: str, stem: str, markup: Markup, keep: Collection[Keepable]) -> Book:
    beginning = file.read(80)
    file.seek(0)
    if beginning.startswith(_ZIP):
        return read_epub(file, name, keep)
    for magic, kind in _OTHERS.items():
        if beginning.startswith(magic) or beginning[60:68] in _KINDLE:
            kind = "a Kindle book" if beginning[60:68] in _KINDLE else kind
            raise TTSValidationError(f"{name} is {kind}: make an EPUB of it first, as Calibre's ebook-convert does")
    content = file.read(_MOST_TEXT_BYTES + 1)
    if len(content) > _MOST_TEXT_BYTES:
        raise TTSValidationError(f"{name} holds more than {_MOST_TEXT_BYTES:,} bytes of text; that is no single book")
    try:
        text = content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    # UTF-16 without its mark, and many a binary file, is UTF-8 by its letter.
    if "\0" in text:
        raise TTSValidationError(f"{name} is neither an EPUB nor UTF-8 text")
    text = uniform(text)
    stated: dict[str, str] = {}
    warnings: tuple[str, ...] = ()
    if markup == "markdown":
        stated = front_matter(text)
        blocks, warnings = blocks_of_markdown(text, keep)
    else:
        blocks = blocks_of_text(text)
    if not any(has_words(block.text) for block in blocks):
        raise TTSValidationError(f"{name} holds no words to read aloud")
    chapters = chapters_by_headings(blocks)
    # The heading above all chapters is the book's, if it is no chapter's own.
    highest = [block for block in blocks if block.kind == "heading" and block.level == 1]
    is_above = len(highest) == 1 and blocks[0] == highest[0] and highest[0].text != chapters[0].title
    title = " ".join(highest[0].text.split()) if is_above else ""
    language, language_warnings = book_language(stated.pop("language", ""))
    return Book(
        title=stated.pop("title", "") or title or stem or "Book",
        chapters=tuple(chapters),
        authors=tuple(filter(None, [stated.pop("author", "")])),
        language=language,
        metadata=stated,
        warnings=(*warnings, *language_warnings),
    )
