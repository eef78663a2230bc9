"""What a book is, once it is read: chapters of blocks, and what belongs on its cover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from audio_api.models.user_text import has_words

BlockKind = Literal["heading", "paragraph", "scene"]
"""``"scene"`` is a break between two scenes: a rule or an ornament, which is heard as a pause."""

Markup = Literal["plain", "markdown"]
"""How a text that is no EPUB is written."""

Keepable = Literal["code", "tables"]
"""What is left out of a book unless it is asked for."""

# Behind so many characters of a chapter's own text its sections are no chapters.
_LEAST_OWN_CHARS = 100
# A title that is made of the first words of a chapter.
_TITLE_CHARS = 40


@dataclass(frozen=True, slots=True)
class Block:
    """One heading, paragraph, verse or item of a list; or the break between two scenes.

    Attributes:
        kind: What it is.
        text: Its words, in lines where the book has lines; empty for a scene break.
        level: Of a heading: 1 is the highest. 0 for everything else.
    """

    kind: BlockKind
    text: str = ""
    level: int = 0


@dataclass(frozen=True, slots=True)
class Chapter:
    """A part of a book that has an entry in its table of contents.

    Attributes:
        title: As the table of contents has it, else as its heading or its first words.
        blocks: What is read, in order.
    """

    title: str
    blocks: tuple[Block, ...]

    @property
    def text(self) -> str:
        """All words, with a blank line between the blocks."""
        return "\n\n".join(block.text for block in self.blocks if block.text)


@dataclass(frozen=True, slots=True)
class Cover:
    """The picture of a book.

    Attributes:
        data: The file.
        media_type: What the file is, by its first bytes.
    """

    data: bytes = field(repr=False)
    media_type: Literal["image/jpeg", "image/png"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """A book that was read.

    Attributes:
        title: Its title, else the name of its file.
        chapters: In reading order, at least one.
        authors: As the book names them.
        language: The BCP-47 code that the book states; ``None``: none that can be understood.
        metadata: What else the book says of itself, such as ``publisher``, ``date``, ``description`` or ``rights``.
        cover: Its picture; ``None``: there is none that an audiobook can hold.
        warnings: What was left out, and what had to be guessed, a sentence each.
    """

    title: str
    chapters: tuple[Chapter, ...]
    authors: tuple[str, ...] = ()
    language: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    cover: Cover | None = None
    warnings: tuple[str, ...] = ()


def chapters_by_headings(blocks: Sequence[Block]) -> list[Chapter]:
    """Divide blocks where a chapter's heading begins.

    These are the headings of the highest level that occurs more than once and that has text of its own; above it there
    are the title and the parts of the book, which are read with the chapter behind them.

    Returns:
        The chapters, at least one; no block is lost.
    """
    levels = sorted({block.level for block in blocks if block.kind == "heading"})
    level = levels[-1] if levels else 0
    for candidate in levels:
        places = [at for at, block in enumerate(blocks) if block.kind == "heading" and block.level == candidate]
        alone = [at for at in places if at + 1 < len(blocks) and blocks[at + 1].level > candidate]
        if len(places) > 1 and len(alone) < len(places):
            level = candidate
            break
    starts = [at for at, block in enumerate(blocks) if block.kind == "heading" and block.level <= level]
    # A run of headings belongs together: "Part One", then "Chapter 1".
    starts = [at for at in starts if at == 0 or at - 1 not in starts or blocks[at - 1].kind != "heading"]
    edges = [0, *[at for at in starts if at], len(blocks)]
    parts = [blocks[start:end] for start, end in pairwise(edges)]
    return [Chapter(title_of(part, level), tuple(part)) for part in parts if any(block.text for block in part)] or [
        Chapter(title_of(blocks), tuple(blocks))
    ]


def title_of(blocks: Sequence[Block], level: int = 0) -> str:
    """The heading that begins these blocks, else their first words; of several headings the last down to a level."""
    title = ""
    for block in blocks:
        if block.kind != "heading":
            break
        if not title or block.level <= level:
            title = block.text
    title = " ".join((title or next((block.text for block in blocks if has_words(block.text)), "")).split())
    if len(title) <= 2 * _TITLE_CHARS:
        return title
    return f"{title[:_TITLE_CHARS].rpartition(' ')[0] or title[:_TITLE_CHARS]}…"


def is_parts_page(blocks: Sequence[Block]) -> bool:
    """Whether so little stands here that what follows under it are chapters of their own, rather than its sections."""
    return sum(len(block.text) for block in blocks) <= _LEAST_OWN_CHARS
