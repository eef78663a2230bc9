"""Markdown as blocks, and what its front matter says of the book."""

from __future__ import annotations

import re
from collections.abc import Collection

from audio_api.books.book import Block, Keepable
from audio_api.models.user_text import has_words
from audio_api.text.markdown import marked_blocks

_FRONT_MATTER = re.compile(r"\A-{3,}[^\S\n]*\n(.*?)\n(?:-{3,}|\.{3})[^\S\n]*(?:\n|\Z)", re.DOTALL)
_FIELD = re.compile(r"^([A-Za-z][\w-]{0,40}):[^\S\n]+(.+)$", re.MULTILINE)
_SAME_FIELD = {"authors": "author", "lang": "language", "creator": "author"}


def blocks_of_markdown(text: str, keep: Collection[Keepable] = ()) -> tuple[list[Block], tuple[str, ...]]:
    """Divide Markdown into headings, paragraphs and scene breaks; and a sentence that counts what was left out.

    Raises:
        ValueError: It is nested too deep.
    """
    found, warnings = marked_blocks(text, keep)
    blocks = []
    for block in found:
        if block.is_rule or not has_words(block.text):
            blocks.append(Block("scene"))
        elif block.heading:
            blocks.append(Block("heading", block.text, block.heading))
        else:
            blocks.append(Block("paragraph", block.text))
    return blocks, warnings


def front_matter(text: str) -> dict[str, str]:
    """The plain fields between the rules at the beginning, such as ``title`` and ``author``."""
    found = _FRONT_MATTER.match(text[:20_000])
    if found is None:
        return {}
    fields = {name.lower(): value.strip().strip("\"'") for name, value in _FIELD.findall(found[1])}
    return {_SAME_FIELD.get(name, name): value for name, value in fields.items() if has_words(value)}
