"""A book becomes an audiobook: EPUB, Markdown or text → chapters → one m4b, or one file a chapter."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audio_api.books.audiobook import Audiobook, BookProgress, NarratedChapter
    from audio_api.books.book import Block, Book, Chapter, Cover
    from audio_api.books.narrator import Narrator, Pauses
    from audio_api.books.reading import read_book

_MODULE_OF = {
    "Audiobook": "audiobook",
    "Block": "book",
    "Book": "book",
    "BookProgress": "audiobook",
    "Chapter": "book",
    "Cover": "book",
    "NarratedChapter": "audiobook",
    "Narrator": "narrator",
    "Pauses": "narrator",
    "read_book": "reading",
}

__all__ = [
    "Audiobook",
    "Block",
    "Book",
    "BookProgress",
    "Chapter",
    "Cover",
    "NarratedChapter",
    "Narrator",
    "Pauses",
    "read_book",
]


def __getattr__(name: str) -> Any:
    """Load a name's module on first use (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'audio_api.books' has no attribute {name!r}")
    value = getattr(import_module(f"audio_api.books.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value
