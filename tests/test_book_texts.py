"""Markdown and plain text become books, from a file or a stream; what is no book is refused in words."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_api.books import Book, read_book
from audio_api.books.plain_text import blocks_of_text
from audio_api.errors import TTSValidationError

MARKDOWN = """---
title: "The River"
author: Ann Writer
lang: en-GB
year: 1920
---

# Part One

## Chapter 1

It was **dark**.[^1]

[^1]: A note.

***

And wet. [pause 2s] Very.

### A section

- One
- Two

## Chapter 2

| a | b |
|---|---|
| 1 | 2 |

The end.

# Part Two

## Chapter 3

After it.
"""

TEXT = """THE RIVER

by Ann Writer

CHAPTER I.
Rain

It was dark,
and it was wet.

* * *

“Help!” SHE CRIED. “HELP!”

Chapter 2

The end.

III

12 of them came.
"""


def book(content: str | bytes, name: str = "river.md") -> Book:
    """The book in a file of this name."""
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_book(name)


def titles(found: Book) -> list[str]:
    """Of the chapters."""
    return [chapter.title for chapter in found.chapters]


def test_markdown() -> None:
    """Chapters are the headings that have text of their own; the parts above them are read with their first chapter."""
    found = book(MARKDOWN)
    assert (found.title, found.authors, found.language) == ("The River", ("Ann Writer",), "en-GB")
    assert found.metadata["year"] == "1920"
    assert titles(found) == ["Chapter 1", "Chapter 2", "Chapter 3"]
    assert [chapter.blocks[0].text for chapter in found.chapters] == ["Part One", "Chapter 2", "Part Two"]
    assert [block.kind for block in found.chapters[0].blocks] == (
        ["heading", "heading", "paragraph", "scene", "paragraph", "heading", "paragraph", "paragraph"]
    )
    assert found.chapters[1].text == "Chapter 2\n\nThe end."
    assert found.warnings == ("left out of the Markdown: 1 footnote, 1 front matter, 1 table",)


def test_the_only_highest_heading_is_the_title() -> None:
    """It is read with the first chapter."""
    found = book("# The River\n\n## One\n\nA.\n\n## Two\n\nB.\n")
    assert (found.title, titles(found)) == ("The River", ["One", "Two"])
    assert found.chapters[0].text == "The River\n\nOne\n\nA."


def test_plain_text() -> None:
    """Headings count chapters, are in capitals or are a number, and stand alone; a shout is none."""
    found = book(TEXT, "river.txt")
    assert titles(found) == ["THE RIVER", "CHAPTER I. Rain", "Chapter 2", "III"]
    assert found.chapters[1].text == "CHAPTER I.\nRain\n\nIt was dark,\nand it was wet.\n\n“Help!” SHE CRIED. “HELP!”"


@pytest.mark.parametrize(
    "heading",
    ["Chapter 1", "CHAPTER XII", "Kapitel 3", "Глава 4", "Chapitre II", "Capítulo 5", "第三章　雨", "Prologue", "IV.",
     "7", "Chapter Twenty-One", "The Start\n=========", "The Start\n---", "THE LONG WAY HOME", "제 3 장"],
)  # fmt: skip
def test_headings_of_plain_text(heading: str) -> None:
    """As writers set them, in many languages."""
    blocks = blocks_of_text(f"{heading}\n\nThen it rained.\n\nAnd stopped.")
    assert [block.kind for block in blocks] == ["heading", "paragraph", "paragraph"]
    assert blocks[0].text == heading.split("\n")[0]


@pytest.mark.parametrize(
    "line",
    ["Part of it was gone.", "Chapter and verse.", "He said no.", "USA", "1984 was a year.", "“NO!”", "Book a table"],
)
def test_lines_that_are_no_headings(line: str) -> None:
    """Though they begin like one."""
    assert [block.kind for block in blocks_of_text(f"{line}\n\nThen it rained.")] == ["paragraph", "paragraph"]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1), min_size=1))
def test_no_word_of_a_plain_text_is_lost(words: list[str]) -> None:
    """Whatever they are: what holds a letter or digit is in a block, in its order."""
    blocks = blocks_of_text("\n\n".join(words))
    spoken = [word for word in words if any(map(str.isalnum, word))]
    assert [block.text for block in blocks if block.text] == spoken


def test_a_text_without_headings_is_one_chapter() -> None:
    """Called by its first words, in a book called by its file."""
    found = book("The rain fell.\n\nIt stopped.", "notes.txt")
    assert (found.title, titles(found)) == ("notes", ["The rain fell."])


def test_a_stream() -> None:
    """Plain text unless told otherwise; an EPUB by its first bytes."""
    assert titles(read_book(io.BytesIO(b"# One\n\nA.\n"))) == ["# One"]
    assert titles(read_book(io.BytesIO(b"# One\n\nA.\n"), markup="markdown")) == ["One"]


def test_a_mark_of_the_byte_order_is_no_character() -> None:
    """In UTF-8 and in UTF-16."""
    for encoding in ("utf-8-sig", "utf-16"):
        assert book("Chapter 1\n\nÄpfel.".encode(encoding), "a.txt").chapters[0].text == "Chapter 1\n\nÄpfel."


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"%PDF-1.7 ...", "is a PDF: make an EPUB of it first"),
        (b"\0" * 60 + b"BOOKMOBI", "is a Kindle book"),
        (b"\xd0\xcf\x11\xe0", "a Word document of the old kind"),
        (b"caf\xe9", "neither an EPUB nor UTF-8 text"),
        (b"a\0b\0", "neither an EPUB nor UTF-8 text"),
        (b"", "no words to read aloud"),
        (b"***", "no words to read aloud"),
    ],
)
def test_what_is_no_book(content: bytes, words: str) -> None:
    """Is refused, and the text says what it is."""
    with pytest.raises(TTSValidationError, match=words):
        book(content, "x.txt")


@pytest.mark.parametrize("name", ["missing.epub", ".", "a\0b", "~no-such-user/x"])
def test_what_cannot_be_read(name: str) -> None:
    """A missing file, a folder, a name that is none."""
    with pytest.raises(TTSValidationError, match="cannot read"):
        read_book(name)
