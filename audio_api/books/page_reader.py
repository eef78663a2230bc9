"""One XHTML document of a book as blocks: what a reader would read aloud, and where its anchors lie."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from audio_api.books.book import Block, Keepable
from audio_api.models.user_text import has_words

_BLOCK_NAMES = """
address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption figure footer
form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu nav ol optgroup option p pre search section summary
table tbody td tfoot th thead tr ul
"""
_BLOCKS = frozenset(_BLOCK_NAMES.split())
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_NEVER_IN_HEADINGS = _HEADINGS | {"p", "ul", "ol", "table", "blockquote", "section"}
# Ruby's readings repeat its words; fallbacks repeat what they stand for.
_UNSPOKEN_NAMES = """
audio button canvas iframe image img input link meta noscript object rp rt rtc script select style svg template textarea
video
"""
_UNSPOKEN = frozenset(_UNSPOKEN_NAMES.split())
_NOTE_TYPES = frozenset({"footnote", "endnote", "rearnote", "note", "doc-footnote", "doc-endnote"})
_NOTES_TYPES = frozenset({"footnotes", "endnotes", "rearnotes", "doc-endnotes"})
_REFERENCE_TYPES = frozenset({"noteref", "doc-noteref", "backlink", "doc-backlink"})
_PAGE_TYPES = frozenset({"pagebreak", "doc-pagebreak"})
_LIST_TYPES = frozenset({"toc", "landmarks", "page-list", "loi", "lot", "loa", "lov", "doc-toc", "doc-pagelist"})
# Paragraphs that are headings in all but name, as converters of Word and InDesign write them.
_HEADING_CLASS = re.compile(
    r"(?:^|[\s_-])(?:mso)?(?:heading[\s_-]?(?P<level>[1-6])?|chapter[\s_-]?(?:title|heading|number|name)|title)(?:$|\s)",
    re.IGNORECASE,
)
_MOST_HEADING_CHARS = 200
_PAGE_CLASS = re.compile(r"page[\s_-]?(?:num|no\b)|(?:^|\s)(?:pb|page|folio)(?:$|\s)", re.IGNORECASE)
_PAGE_NUMBER = re.compile(r"[\s\[({|]*(?:p(?:age|g|\.)?\.?\s*)?(?:\d{1,5}|[ivxlcdm]{1,10})[\s\])}|]*", re.IGNORECASE)
_NOTE_MARK = re.compile(r"[\s\[({]*(?:\d{1,4}|[*†‡§¶#※]{1,4}|[ivxl]{1,6}|[a-z])[\s\])}.]*", re.IGNORECASE)
_IN_BRACKETS = re.compile(r"\s*[\[({].*[\])}]\s*", re.DOTALL)
_NOTE_FRAGMENT = re.compile(r"(?!.*(?:ref|back)).*(?:note|fn|ftn|edn)[\w:.-]*\d", re.IGNORECASE)
_NOTE_CLASS = re.compile(r"note|(?:^|[\s_-])fn", re.IGNORECASE)
_ARROW = re.compile(r"[\s↩↑^⏎⤴⬆\ufe0e\ufe0f]+")
_VERSE = re.compile(r"verse|poem|poetry|song|lyric", re.IGNORECASE)
_HIDDEN = re.compile(r"display\s*:\s*none", re.IGNORECASE)
_WHITE = re.compile(r"[ \t\r\n\f]+")
_LINE_END = "\x1e"  # cannot come from a document: such characters are left out of it before
_WIDE = frozenset("WF")
# What is longer is no note.
_MOST_NOTE_BLOCKS = 30
# Longer names of classes and anchors are no maker's.
_MOST_NAME_CHARS = 500
# Browsers nest no deeper. Of deeper elements the reader takes the text alone.
_MOST_NESTED = 500


@dataclass(slots=True)
class Page:
    """What one document holds.

    Attributes:
        blocks: In order; ``None`` where something was left out.
        title: Of the document itself.
        ids: The blocks that each anchor stands for: from the first index to before the last.
        note_references: Where marks of notes lead to: a reference to a file, perhaps none, a fragment, and the mark.
        left_out: How many things of each kind were left out.
    """

    blocks: list[Block | None] = field(default_factory=list)
    title: str = ""
    ids: dict[str, tuple[int, int]] = field(default_factory=dict)
    note_references: set[tuple[str, str, str]] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)

    def remove_note(self, fragment: str, mark: str) -> None:
        """Leave out what the mark of a note leads to, if that looks like a note: by its name, or as the mark begins it.

        Args:
            fragment: The anchor.
            mark: The mark in the text, such as ``"1"`` or ``"*"``.
        """
        first, last = self.ids.get(fragment, (0, 0))
        if last - first > 2 * _MOST_NOTE_BLOCKS:
            return
        note = [block for block in self.blocks[first:last] if block]
        if not note or len(note) > _MOST_NOTE_BLOCKS or any(block.kind == "heading" for block in note):
            return
        if _NOTE_FRAGMENT.fullmatch(fragment) or note[0].text.lstrip(" [({").startswith(mark):
            self.blocks[first:last] = [None] * (min(last, len(self.blocks)) - first)
            self.left_out["footnotes"] += 1


@dataclass(slots=True)
class _Element:
    """An element that has begun.

    Attributes:
        mark: Where its text begins in the block's text so far.
        first: The number of its first block.
        most_cells: Of a table: cells in its longest row.
        cells: Of a table: cells in its present row.
        is_raised: Whether a part of it is superscript.
        follows_words: Whether words of the same block stand before it.
    """

    tag: str
    attributes: dict[str, str]
    types: frozenset[str]
    mark: int
    first: int
    heading: int = 0
    most_cells: int = 0
    cells: int = 0
    is_raised: bool = False
    follows_words: bool = False


class PageReader:
    """Listens to the events of one document.

    Args:
        keep: ``"code"`` keeps code blocks, ``"tables"`` tables.
    """

    def __init__(self, keep: Collection[Keepable] = ()) -> None:
        self.page = Page()
        self._keep = keep
        self._open: list[_Element] = []
        self._count: Counter[str] = Counter()
        self._text: list[str] = []
        self._has_words = False
        self._skipping = 0
        self._in_notes = False
        self._headings: list[int] = []
        self._tables: list[_Element] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        # What the book says that an element is, by ``epub:type`` and ``role``.
        stated = (
            value for key, value in attributes.items() if key == "role" or (key != "type" and key.endswith(":type"))
        )
        types = frozenset(" ".join(stated).lower().split())
        if self._skipping:
            self._skipping += 1
            self.page.left_out["footnotes"] += self._in_notes and (tag == "li" or bool(types & _NOTE_TYPES))
            return
        if tag in _BLOCKS:
            innermost = self._open[-1].tag if self._open else ""
            # A paragraph or heading holds no other paragraph: its end is missing.
            if innermost == "p" or (innermost in _HEADINGS and tag in _NEVER_IN_HEADINGS):
                self.end(innermost)
            self._flush()
        if self._is_unspoken(tag, attributes, types):
            self._remember(attributes, len(self.page.blocks), 0)
            self._skipping = 1
            self._in_notes = bool(types & _NOTES_TYPES)
            return
        if len(self._open) == _MOST_NESTED:
            return
        element = _Element(tag, attributes, types, len(self._text), len(self.page.blocks), _heading(tag, attributes))
        element.follows_words = self._has_words
        self._open.append(element)
        self._count[tag] += 1
        if element.heading:
            self._headings.append(element.heading)
        self._start_special(element)

    def _start_special(self, element: _Element) -> None:
        match element.tag:
            case "br":
                self._text.append(_LINE_END)
            case "hr":
                self.page.blocks.append(Block("scene"))
            case "head":
                self._text.clear()
            case "sup":
                for around in self._open[-4:]:
                    around.is_raised = True
            case "table":
                self._tables.append(element)
            case "tr" if self._tables:
                self._tables[-1].cells = 0
            case "td" | "th" if self._tables:
                table = self._tables[-1]
                table.cells += 1
                table.most_cells = max(table.most_cells, table.cells)

    def data(self, text: str) -> None:
        """Text of the innermost element."""
        if not self._skipping:
            self._text.append(text)
            self._has_words = self._has_words or has_words(text)

    def end(self, tag: str) -> None:
        """An element ends; of those left open inside it, their ends are missing."""
        if self._skipping:
            self._skipping -= 1
            return
        if not self._count[tag]:
            return
        while self._open:
            element = self._open.pop()
            self._close(element)
            self._count[element.tag] -= 1
            if element.tag == tag:
                return

    def finished(self) -> Page:
        """The page, after the last event."""
        while self._open:
            self._close(self._open.pop())
        self._flush()
        return self.page

    def _close(self, element: _Element) -> None:
        if element.tag in {"title", "head"}:
            self.page.title = self.page.title or " ".join("".join(self._text).split())
            self._text.clear()
        self._judge(element)
        if element.tag in _BLOCKS:
            self._flush()
        if element.heading:
            self._headings.pop()
        if element.tag == "table":
            self._tables.pop()
            inside = self.page.blocks[element.first :]
            has_headings = any(block and block.kind == "heading" for block in inside)
            # A table with one column, or with headings in it, only puts text in its place.
            is_layout = element.most_cells <= 1 or element.attributes.get("role") in {"presentation", "none"}
            if "tables" not in self._keep and not is_layout and not has_headings:
                self._leave_out(element.first, "tables")
        if element.tag == "pre" and "code" not in self._keep and not _VERSE.search(_class(element.attributes)):
            self._leave_out(element.first, "code blocks")
        last = len(self.page.blocks)
        self._remember(element.attributes, element.first, last if element.tag in _BLOCKS else element.first + 1)

    def _remember(self, attributes: dict[str, str], first: int, last: int) -> None:
        for key in ("id", "name", "xml:id"):
            if value := attributes.get(key):
                self.page.ids.setdefault(value, (first, max(first, last)))

    def _is_unspoken(self, tag: str, attributes: dict[str, str], types: frozenset[str]) -> bool:
        if types & (_NOTE_TYPES | _NOTES_TYPES):
            self.page.left_out["footnotes"] += bool(types & _NOTE_TYPES)
            return True
        if types & _REFERENCE_TYPES:
            return True
        if tag == "math":
            self._text.append(f" {attributes.get('alttext', '')} ")
            self.page.left_out["formulas"] += not attributes.get("alttext")
            return True
        if tag in {"img", "image"}:
            # An image may be the initial of a word, or a heading. Other images are looked at, not read.
            alt = attributes.get("alt", "").strip()
            is_all_of_it = self._headings and not "".join(self._text).strip()
            self._text.append(alt if (len(alt) == 1 and alt.isalpha()) or is_all_of_it else "")
        is_list = tag in {"nav", "section", "div", "ol", "body"} and types & _LIST_TYPES
        is_hidden = "hidden" in attributes or _HIDDEN.search(attributes.get("style", ""))
        return bool(tag in _UNSPOKEN or types & _PAGE_TYPES or is_list or is_hidden)

    def _judge(self, element: _Element) -> None:
        """Take back the mark of a note, or the number of a page."""
        is_link, name = element.tag == "a", _class(element.attributes)
        is_page = _PAGE_CLASS.search(name) is not None
        if not (0 < len(self._text) - element.mark <= 8 and (is_link or is_page)):
            return
        text = "".join(self._text[element.mark :])
        path, _, fragment = element.attributes.get("href", "").partition("#")
        # At the beginning of a block it is the number of the note itself, and leads back.
        may_be_mark = is_link and element.follows_words and 0 < len(fragment) <= _MOST_NAME_CHARS
        is_mark = (
            may_be_mark
            and _NOTE_MARK.fullmatch(text)
            and (
                element.is_raised
                or self._count["sup"]
                or _IN_BRACKETS.fullmatch(text)
                or _NOTE_FRAGMENT.fullmatch(fragment)
                or _NOTE_CLASS.search(name)
            )
        )
        if is_mark:
            self.page.note_references.add((path, fragment, text.strip(" \t\r\n[](){}.")))
        is_page_number = is_page and not element.heading and _PAGE_NUMBER.fullmatch(text)
        if is_mark or is_page_number or (is_link and _ARROW.fullmatch(text)):
            del self._text[element.mark :]

    def _leave_out(self, first: int, what: str) -> None:
        if any(self.page.blocks[first:]):
            self.page.left_out[what] += 1
        self.page.blocks[first:] = [None] * (len(self.page.blocks) - first)

    def _flush(self) -> None:
        text, self._text, self._has_words = "".join(self._text), [], False
        if not text or text.isspace():
            return
        text = text if self._count["pre"] else _WHITE.sub(_space, text)
        text = "\n".join(line.strip() for line in text.split(_LINE_END)).replace("\u00ad", "").strip()
        if not has_words(text):
            # An ornament; blank paragraphs only make room.
            self.page.blocks.extend([Block("scene")] if text.strip("\u200b") else [])
            return
        level = self._headings[-1] if self._headings and len(text) <= _MOST_HEADING_CHARS else 0
        self.page.blocks.append(Block("heading", text, level) if level else Block("paragraph", text))


def _class(attributes: dict[str, str]) -> str:
    return attributes.get("class", "")[:_MOST_NAME_CHARS]


def _heading(tag: str, attributes: dict[str, str]) -> int:
    if len(tag) == 2 and tag[0] == "h" and tag[1] in "123456":
        return int(tag[1])
    if attributes.get("role") == "heading":
        level = attributes.get("aria-level", "2")
        return int(level) if level in set("123456") else 2
    found = _HEADING_CLASS.search(_class(attributes)) if tag in {"p", "div"} else None
    return int(found["level"] or 2) if found else 0


def _space(white: re.Match[str]) -> str:
    """What HTML makes of white space: a space, but nothing between lines of a script that writes no spaces."""
    text = white.string
    around = text[max(0, white.start() - 1) : white.start()], text[white.end() : white.end() + 1]
    return "" if "\n" in white[0] and all(map(_is_wide, around)) else " "


def _is_wide(char: str) -> bool:
    # Korean, whose letters are wide, too, has spaces between its words.
    return bool(char) and unicodedata.east_asian_width(char) in _WIDE and not "\uac00" <= char <= "\ud7af"
