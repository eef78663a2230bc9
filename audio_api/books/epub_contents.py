"""The table of contents of an EPUB: the navigation document of EPUB 3, else the NCX of EPUB 2."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from audio_api.books.archive import Archive
from audio_api.books.epub_package import MOST_DOCUMENT_BYTES, Package
from audio_api.books.xml_events import parse

# Of a book with an entry for each page.
_MOST_ENTRIES = 10_000


class ContentsEntry(NamedTuple):
    """One entry.

    Attributes:
        title: Its words.
        path: The document it leads to.
        fragment: The anchor in that document; ``""``: its beginning.
        level: 1 for those that are in no other.
    """

    title: str
    path: str
    fragment: str
    level: int


def read_contents(archive: Archive, package: Package) -> list[ContentsEntry]:
    """The entries in their order; none when the book has no table of contents."""
    readers: list[tuple[str, Callable[[], _ContentsReader]]] = [
        *((path, _NavigationReader) for path in package.navigation),
        *((path, _NcxReader) for path in package.ncx),
    ]
    for path, reader in readers:
        if path in archive:
            listener, _ = parse(archive.read(path, MOST_DOCUMENT_BYTES), reader, f"{path!r} in the book")
            entries = []
            for title, href, level in listener.found[:_MOST_ENTRIES]:
                document, _, fragment = href.partition("#")
                if href and "://" not in href:
                    place = archive.resolve(document, path) if document else path
                    entries.append(ContentsEntry(" ".join(title.split()), place, fragment, level))
            if entries:
                return entries
    return []


class _ContentsReader(ABC):
    """What both kinds have in common: entries, each with its words and where it leads."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str, int]] = []
        self._level = 0
        self._words: list[str] = []
        self._reading = False

    @abstractmethod
    def start(self, tag: str, attributes: dict[str, str]) -> None: ...

    @abstractmethod
    def end(self, tag: str) -> None: ...

    def data(self, text: str) -> None:
        if self._reading:
            self._words.append(text)


class _NavigationReader(_ContentsReader):
    """``<nav epub:type="toc">``, whose lists lie in each other; a ``nav`` without a type will do."""

    def __init__(self) -> None:
        super().__init__()
        self._inside = 0
        self._href = ""

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "nav":
            kind = next((value for key, value in attributes.items() if key.endswith(":type")), "toc")
            kind = attributes.get("role", "").removeprefix("doc-") or kind
            self._inside = int("toc" in kind.split())
        elif self._inside and tag == "ol":
            self._level += 1
        elif self._inside and tag == "a":
            self._href, self._words, self._reading = attributes.get("href", ""), [], True
        elif self._reading and tag == "img":
            self._words.append(attributes.get("alt", ""))

    def end(self, tag: str) -> None:
        if tag == "nav":
            self._inside = self._level = 0
        elif self._inside and tag == "ol":
            self._level -= 1
        elif self._reading and tag == "a":
            self.found.append(("".join(self._words), self._href, max(1, self._level)))
            self._reading = False


class _NcxReader(_ContentsReader):
    """``<navMap>``, whose points lie in each other."""

    def __init__(self) -> None:
        super().__init__()
        self._in_map = False

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "navmap":
            self._in_map = True
        elif self._in_map and tag == "navpoint":
            self._level += 1
            self._words = []
        elif self._in_map and tag == "text":
            self._reading = True
        elif self._in_map and tag == "content":
            self.found.append(("".join(self._words), attributes.get("src", ""), max(1, self._level)))

    def end(self, tag: str) -> None:
        if tag == "navmap":
            self._in_map = False
        elif tag == "navpoint":
            self._level -= 1
        elif tag == "text":
            self._reading = False
