"""A line of a list, a poem or a heading stands on its own; wrapped prose does not, however wide it is."""

from __future__ import annotations

import textwrap
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripts import any_text
from sentences import SENTENCES

from audio_api.text.line_ends import own_lines


def flat(text: str) -> list[str]:
    """The parts, each on one line."""
    return [" ".join(part.split()) for part in own_lines(text)]


@pytest.mark.parametrize(
    "lines",
    [
        ["Chapter One", "", "It was a dark night. The rain fell on the roofs."],
        ["- Milk", "- Eggs and a loaf of bread", "- Tea"],
        ["Shopping:", "1. Milk", "2) Eggs", "(3) Tea", "• Bread", "– Salt", "a) Oil", "[x] Done"],
        ["Roses are red,", "Violets are blue,", "Sugar is sweet,", "And so are you."],
        ["Shall I compare thee to a summer’s day?", "Thou art more lovely and more temperate:",
         "Rough winds do shake the darling buds of May,", "And summer’s lease hath all too short a date;"],
        ["so much depends", "upon", "a red wheel", "barrow"],
        ["床前明月光，", "疑是地上霜。", "举头望明月，", "低头思故乡。"],
        ["Dear Sir,", "thank you."],
        ["— Bonjour, dit-il à la dame qui attendait là depuis longtemps.", "— Bonsoir, dit-elle sans lever les yeux."],
        ["The weather in the mountains was very bad on that Sunday.", "The weather in the valleys was good all days."],
        ["Out of the cradle endlessly rocking, out of the mocking-bird’s throat,",
         "Over the sterile sands and the fields beyond, where the child went,",
         "Down from the showered halo, up from the mystic play of shadows there"],
        ["Name: Ann", "Age: 30"],
        ["Ten.", "Nine.", "Eight."],
        ["Mrs Dalloway’s Garden", "It began to rain, and she had left the window of the small room above the stairs,"],
    ],
    ids=lambda lines: lines[0],
)  # fmt: skip
def test_lines_of_lists_verse_and_headings_stand_alone(lines: list[str]) -> None:
    """Each is a part of its own, whatever ends the lines."""
    for separator in ("\n", "\r\n"):
        assert flat(separator.join(lines)) == list(filter(None, lines))


def prose(language: str, sentences: int) -> str:
    """A paragraph."""
    return " ".join((SENTENCES[language] * 2)[:sentences])


@pytest.mark.parametrize("language", [code for code in SENTENCES if code != "ja-JP"])
@pytest.mark.parametrize("width", [60, 66, 72, 78])
def test_wrapped_prose_is_one_part(language: str, width: int) -> None:
    """In every language and at every usual width, alone and between other paragraphs."""
    paragraphs = [prose(language, 5), prose(language, 4)]
    wrapped = "\n\n".join(textwrap.fill(paragraph, width) for paragraph in paragraphs)
    assert flat(wrapped) == paragraphs


@pytest.mark.parametrize("width", [36, 42, 50])
def test_narrow_prose_goes_on_with_small_letters(width: int) -> None:
    """What a telephone wraps is prose where a line begins with a small letter."""
    text = textwrap.fill(SENTENCES["en-US"][3] + " " + SENTENCES["en-US"][4], width)
    ends = [following[0].islower() for _, following in pairwise(text.splitlines())]
    assert len(flat(text)) == 1 + ends.count(False)


def test_a_wrapped_item_is_one_part() -> None:
    """The lines that an item goes on with belong to it."""
    items = [f"- {first} {second}" for first, second in pairwise(SENTENCES["en-US"])]
    assert flat("\n".join(textwrap.fill(item, 66, subsequent_indent="  ") for item in items)) == items


def test_wrapped_chinese_is_one_part() -> None:
    """Its lines are full to the last character or two."""
    text = "我们明天再见面吧，因为今天下雨，路上很滑，车也开得很慢。" * 4
    lines = [text[at : at + 35] for at in range(0, len(text), 35)]
    assert list(own_lines("\n".join(lines))) == ["\n".join(lines)]


@given(any_text())
def test_parts_hold_every_letter(text: str) -> None:
    """Whatever the text, no letter is lost, and no part is blank."""
    parts = list(own_lines(text))
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(map(str.strip, parts))


@given(
    st.lists(st.sampled_from(["Milk", "eggs and bread", "- tea", "", "A longer line, of many words, that goes on."]))
)
def test_a_paragraph_always_ends_a_part(lines: list[str]) -> None:
    """No part reaches over a blank line."""
    assert flat("\n\n".join(lines)) == [line for line in lines if line]
