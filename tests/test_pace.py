"""How long a text takes to speak, from its letters alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_api.text.pace import expected_seconds, least_seconds, most_seconds

ENGLISH = "It was a bright cold day in April, and the clocks were striking thirteen. "


def test_english_takes_as_long_as_gemini_was_measured_to_take() -> None:
    """3.8 speaks 16.8 to 17.5 characters a second."""
    assert len(ENGLISH) / expected_seconds(ENGLISH, "en-US") == pytest.approx(17.1, abs=0.7)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 0), ("... — !", 0), ("漢字" * 23, 12.0), ("가나" * 27, 12.0), ("1984", 1.7), ("https://abcd", 2.4)],
    ids=ascii,
)
def test_scripts_numbers_and_addresses_have_their_own_pace(text: str, seconds: float) -> None:
    """Punctuation takes no time; numbers and addresses lie between their shortest and their longest reading."""
    assert expected_seconds(text) == pytest.approx(seconds, abs=0.1)


def test_the_language_names_the_pace_of_an_alphabet() -> None:
    """Any variant of it; an unknown one counts as English."""
    assert expected_seconds(ENGLISH, "tr-TR") > expected_seconds(ENGLISH, "xx") == expected_seconds(ENGLISH, "en")


def test_tags_and_stretched_words_are_certainly_no_more_than_a_sound() -> None:
    """Read aloud they may be."""
    assert least_seconds("No <laugh> [sighs] |mhm|") == least_seconds("No")
    assert least_seconds("Nooooooo") == least_seconds("Noo")
    assert most_seconds("No <laugh>") > most_seconds("No")


@given(st.text(), st.sampled_from(["", "en-US", "ja", "tr"]))
def test_what_is_certain_is_never_more_than_what_is_possible(text: str, language: str) -> None:
    """And what is expected lies between them, at Gemini's pace."""
    least, most = least_seconds(text, language), most_seconds(text, language)
    assert 0 <= least <= most + 1e-9
    assert least <= expected_seconds(text, language) * 0.85 + 1e-9 <= most + 1e-6
