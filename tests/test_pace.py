"""How long a text takes to speak, from its letters alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_api.text.pace import alphabet_pace, least_seconds, most_seconds, spoken_s

ENGLISH = "It was a bright cold day in April, and the clocks were striking thirteen. "


def test_english_takes_as_long_as_gemini_was_measured_to_take() -> None:
    """3.8 speaks 16.8 to 17.5 characters a second; at the limit of a piece, too slow is better than too fast."""
    assert len(ENGLISH) / spoken_s(ENGLISH) == pytest.approx(16.8, abs=0.7)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 0), (" \n", 0), ("... — !", 0.5), ("漢字" * 23, 12.0), ("가나" * 27, 12.0), ("1984", 1.7)],
    ids=ascii,
)
def test_scripts_numbers_and_pauses_have_their_own_pace(text: str, seconds: float) -> None:
    """Each mark is a short pause; numbers lie between their shortest and their longest reading."""
    assert spoken_s(text) == pytest.approx(seconds, abs=0.1)


def test_the_language_names_the_pace_of_an_alphabet() -> None:
    """Any variant of it; an unknown one counts as English."""
    assert alphabet_pace("tr-TR") < alphabet_pace("xx") == alphabet_pace("en") == 1
    assert most_seconds(ENGLISH, "tr") > most_seconds(ENGLISH, "xx") == most_seconds(ENGLISH)


def test_tags_and_stretched_words_are_certainly_no_more_than_a_sound() -> None:
    """Read aloud they may be."""
    assert least_seconds("No <laugh> [sighs] |mhm|") == least_seconds("No")
    assert least_seconds("Nooooooo") == least_seconds("Noo")
    assert most_seconds("No <laugh>") > most_seconds("No")


@given(st.text(), st.sampled_from(["", "en-US", "ja", "tr"]))
def test_what_is_certain_is_never_more_than_what_is_possible(text: str, language: str) -> None:
    """In any script."""
    assert 0 <= least_seconds(text, language) <= most_seconds(text, language) + 1e-9


@given(st.text(), st.text())
def test_parts_take_as_long_as_the_whole(first: str, second: str) -> None:
    """So a text can be cut by its duration."""
    assert spoken_s(first) + spoken_s(second) == pytest.approx(spoken_s(first + second))
