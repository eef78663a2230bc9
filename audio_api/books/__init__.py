"""A book becomes an audiobook: EPUB, Markdown or text → chapters → one m4b, or one file a chapter."""

from __future__ import annotations

from audio_api.books.book import Block, Book, Chapter, Cover
from audio_api.books.reading import read_book

__all__ = ["Block", "Book", "Chapter", "Cover", "read_book"]
