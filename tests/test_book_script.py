"""A chapter becomes passages and exact silences: every word is spoken, by the right voice, by the lexicon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_api.books import Block, Book, Chapter
from audio_api.books.lexicon import Lexicon, read_lexicon
from audio_api.books.narrator import Narrator, Pauses
from audio_api.books.plain_text import blocks_of_text
from audio_api.books.script import ChapterScript, write_scripts
from audio_api.errors import TTSValidationError
from audio_api.models.audio_request import SpeakerConfig

CAST = (
    SpeakerConfig(speaker_name="Alice", voice_name="leda"),
    SpeakerConfig(speaker_name="Bob", voice_name="puck"),
)


def script_of(text: str, title: str = "", **fields: Any) -> ChapterScript:
    """The script of a chapter of plain text."""
    chapter = Chapter(title, tuple(blocks_of_text(text)))
    (script,) = write_scripts(Book(title="B", chapters=(chapter,), language="en-GB"), Narrator(**fields), [1])
    return script


def heard(script: ChapterScript) -> list[str | float]:
    """Texts, and the silences between them."""
    parts: list[str | float] = [script.silence_s] if script.silence_s else []
    for passage in script.passages:
        parts += [passage.request.text, passage.silence_s]
    return parts[:-1] if not script.passages[-1].silence_s else parts


def test_silence_is_exact_where_it_is_asked_for_and_by_rule_elsewhere() -> None:
    """A pause in the text takes the place of that by rule beside it; several add up."""
    text = "Chapter 1\n\nOne. [pause 1.5s] Two.\n\nThree.\n\n***\n\nFour.\n\n[pause 250ms]\n\n***\n\n[PAUSE 2]\n\nFive."
    assert heard(script_of(text)) == ["Chapter 1", 1.2, "One.", 1.5, "Two.\n\nThree.", 1.5, "Four.", 2.25, "Five."]


def test_pauses_by_rule_can_be_set() -> None:
    """To nothing, too."""
    text = "Chapter 1\n\nOne.\n\n***\n\nTwo."
    script = script_of(text, pauses=Pauses(heading=0, scene=3))
    assert heard(script) == ["Chapter 1", 0, "One.", 3, "Two."]


def test_silence_at_the_edges_of_a_chapter() -> None:
    """Only what the text asks for: ornaments there are heard as the pause between chapters."""
    assert heard(script_of("***\n\n[pause 2s]One.[pause 3s]\n\n***")) == [2, "One.", 3]


def test_headings_in_a_row_are_spoken_together() -> None:
    """With the pause behind the last, and one before a heading inside the chapter."""
    script = script_of("Part 1\n\nChapter 1\n\nOne.\n\nChapter 2\n\nTwo.")
    assert heard(script) == ["Part 1\n\nChapter 1", 1.2, "One.", 0.6, "Chapter 2", 1.2, "Two."]


@pytest.mark.parametrize(
    ("text", "titles", "spoken"),
    [
        ("Chapter 1\n\nOne.", True, ["Chapter 1", 1.2, "One."]),
        ("Chapter 1\n\nOne.", False, ["One."]),
        ("One.", True, ["Rain", 1.2, "One."]),
        ("One.", False, ["One."]),
        ("Rain fell. One.", True, ["Rain fell. One."]),
    ],
)
def test_titles_are_spoken_or_not(text: str, titles: bool, spoken: list[Any]) -> None:
    """The headings of the text, or the title from the contents where the text has none; never twice."""
    assert heard(script_of(text, "Rain", titles=titles)) == spoken


def test_a_chapter_that_is_nothing_but_its_title() -> None:
    """Is spoken with titles, and left out without."""
    book = Book(
        title="B", chapters=(Chapter("P", (Block("heading", "P", 1),)), Chapter("A", (Block("paragraph", "A."),)))
    )
    assert [script.number for script in write_scripts(book, Narrator(), [1, 2])] == [1, 2]
    assert [script.number for script in write_scripts(book, Narrator(titles=False), [1, 2])] == [2]


def test_the_language_is_that_of_the_book_unless_told_otherwise() -> None:
    """Every passage has it."""
    assert {str(passage.request.language) for passage in script_of("One.").passages} == {"en-GB"}
    assert {str(passage.request.language) for passage in script_of("One.", language="de-DE").passages} == {"de-DE"}


def test_a_cast_speaks_what_is_theirs_and_the_narrator_the_rest() -> None:
    """A speaker goes on until another name, a heading or a scene break; names in the narrator's text are words."""
    text = (
        "Chapter 1\n\nIt was late, and he met Bob: his friend.\n\nAlice: Hello. Bob [calm]: Hi!\n\nStill Bob.\n\n"
        "[pause 1s]\n\nBob again.\n\n***\n\nThe narrator.\n\nAlice: Bye."
    )
    script = script_of(text, cast=CAST)
    requests = [passage.request for passage in script.passages]
    assert [(request.text, [each.speaker_name for each in request.speakers]) for request in requests] == [
        ("Chapter 1", []),
        ("It was late, and he met Bob: his friend.", []),
        ("Alice: Hello.\n\nBob [calm]: Hi!\n\nBob: Still Bob.", ["Alice", "Bob"]),
        ("Bob: Bob again.", ["Bob"]),
        ("The narrator.", []),
        ("Alice: Bye.", ["Alice"]),
    ]


def test_a_line_of_an_unknown_speaker_is_an_error_before_anything_is_paid() -> None:
    """It names the chapter and the speaker."""
    with pytest.raises(TTSValidationError, match=r"chapter 1 \(Rain\): .*'Carol'"):
        script_of("Alice: Hello.\nCarol: Hi.", "Rain", cast=CAST)


@pytest.mark.parametrize(
    ("numbers", "words"), [([3], "there is no chapter 3: the book has 2"), ([2], "hold nothing to speak")]
)
def test_chapters_that_cannot_be_spoken(numbers: list[int], words: str) -> None:
    """Are refused in words."""
    book = Book(title="B", chapters=(Chapter("A", (Block("paragraph", "A."),)), Chapter("P", (Block("scene"),))))
    with pytest.raises(TTSValidationError, match=words):
        write_scripts(book, Narrator(titles=False), numbers)


def test_a_pause_that_is_too_long_is_refused() -> None:
    """In the text and by rule."""
    with pytest.raises(TTSValidationError, match=r"chapter 1 .*'\[pause 3600s\]' is longer than 60 seconds"):
        script_of("One. [pause 3600s] Two.")
    with pytest.raises(TTSValidationError, match="the pause chapter takes 0 to 60 seconds, not 61"):
        Pauses(chapter=61)


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="[]:：", exclude_categories=["C", "Z"]), min_size=1)
BLOCKS = st.builds(
    Block,
    st.sampled_from(["paragraph", "paragraph", "heading", "scene"]),
    st.lists(WORDS, min_size=1, max_size=40).map(" ".join),
)


@given(st.lists(BLOCKS, min_size=1, max_size=12), st.integers(1, 40))
def test_every_word_is_spoken_once_in_its_order(blocks: list[Block], times: int) -> None:
    """Text in is text spoken, however long: joined, the passages are the words of the chapter."""
    from unicodedata import normalize

    long = [Block(block.kind, " ".join([block.text] * times) if block.kind != "scene" else "", 1) for block in blocks]
    words = [block.text for block in long if any(map(str.isalnum, block.text))]
    if not words:
        return
    chapter = Chapter("", tuple(long))
    (script,) = write_scripts(Book(title="B", chapters=(chapter,)), Narrator(), [1])
    spoken = "".join("".join(passage.request.text.split()) for passage in script.passages)
    assert normalize("NFC", spoken) == normalize("NFC", "".join("".join(text.split()) for text in words))
    assert all(len(passage.request.text) <= 6_000 for passage in script.passages)


# --- words that are replaced -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "text", "spoken"),
    [
        ({"cat": "dog"}, "Cat catch cat. concat cat's cat’ll CAT", "dog catch dog. concat dog's cat’ll dog"),
        ({"US": "U S"}, "US us USA", "U S us USA"),
        ({"New York": "the city", "York": "Jorvik"}, "New York, York", "the city, Jorvik"),
        ({"a": "b", "b": "a"}, "a b", "b a"),
        ({"naïve": "x"}, "nai\u0308ve naïves", "x naïves"),
        ({"東京": "とうきょう"}, "東京都", "とうきょう都"),
        ({"कि": "x"}, "कि किस", "x किस"),
        ({"C++": "see plus plus"}, "C++ and C++20", "see plus plus and see plus plus20"),
        ({"don": "Don"}, "don't don", "don't Don"),
        ({"um": ""}, "Well, um, yes", "Well, , yes"),
    ],
)
def test_whole_words_are_replaced(words: dict[str, str], text: str, spoken: str) -> None:
    """In any case if the entry is in small letters; the longest entry counts, and nothing is replaced twice."""
    from audio_api.models.user_text import uniform

    assert Lexicon(words).apply(uniform(text)) == spoken


def test_what_was_replaced_is_counted() -> None:
    """Also in headings; a speaker's name before the colon is no word."""
    script = script_of("Chapter 1\n\nBob: Bob is here, said Bob.", lexicon={"Bob": "Rob", "chapter": "part"}, cast=CAST)
    assert [passage.request.text for passage in script.passages] == ["part 1", "Bob: Rob is here, said Rob."]
    assert script.replaced == {"Bob": 2, "chapter": 1}


def test_the_file_of_a_lexicon(tmp_path: Path) -> None:
    """Equals sign, tab or arrow; comments and blank lines."""
    path = tmp_path / "words.txt"
    path.write_text("\ufeff# names\nHermione = Her-my-oh-nee\nDr.\tDoctor\n\nGIF → jif\n", "utf-8")
    assert read_lexicon(path) == {"Hermione": "Her-my-oh-nee", "Dr.": "Doctor", "GIF": "jif"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"one two", "line 1 of the lexicon is 'one two'"),
        (b"= x", "line 1"),
        (b"\xff", "not UTF-8 text"),
        (None, "No such file"),
    ],
)
def test_a_lexicon_that_is_none(content: bytes | None, words: str, tmp_path: Path) -> None:
    """Is refused; the text names the line."""
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TTSValidationError, match=words):
        read_lexicon(path)
