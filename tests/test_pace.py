"""How long a text takes to speak: letters, words, pauses, and what voices read as they like."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_api.text.pace import alphabet_pace, spoken_length, spoken_s

ENGLISH = "It was a bright cold day in April, and the clocks were striking thirteen. "


def test_english_takes_as_long_as_gemini_was_measured_to_take() -> None:
    """3.8 speaks 16.8 to 17.5 characters a second; at the limit of a piece, too slow is better than too fast."""
    assert len(ENGLISH) / spoken_s(ENGLISH) == pytest.approx(16.8, abs=0.7)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 0), (" \n", 0), ("... — !", 0.5), ("漢字" * 23, 9.7), ("가나" * 27, 8.8), ("1984", 1.4)],
    ids=ascii,
)
def test_scripts_numbers_and_pauses_have_their_own_pace(text: str, seconds: float) -> None:
    """Each mark is a short pause; numbers lie between their shortest and their longest reading."""
    assert spoken_s(text) == pytest.approx(seconds, abs=0.1)


def test_the_language_names_the_pace_of_an_alphabet() -> None:
    """Any variant of it; an unknown one counts as English."""
    assert alphabet_pace("tr-TR") < alphabet_pace("xx") == alphabet_pace("en") == 1
    assert spoken_length(ENGLISH, "tr").usual_s > spoken_length(ENGLISH, "en-IN").usual_s


def test_the_length_agrees_with_recorded_takes_of_gemini() -> None:
    """83 characters of English were spoken in 4.93 to 6.33 s, and 3.8 speaks 16.8 to 17.5 characters a second."""
    sentence = (ENGLISH + "It was a")[:83]
    assert 4.93 < spoken_length(sentence, "en-US").usual_s < 6.33
    assert spoken_length(ENGLISH, "en-US").usual_s * 0.8 < len(ENGLISH) / 17.5


@pytest.mark.parametrize(
    ("more", "seconds"),
    [
        ("One. Two. Three. Four.", 4 * 0.3 + 3 * 0.4),
        ("one, two, three, four", 4 * 0.3 + 3 * 0.28),
        ("One\n\nTwo\r\n \r\nThree", 3 * 0.3 + 2 * 0.85),
        ("One\nTwo\nThree\nFour", 4 * 0.3 + 3 * 0.05),
        ("你好。世界！", 4 * 0.23 + 0.4),
    ],
    ids=ascii,
)
def test_every_pause_takes_time(more: str, seconds: float) -> None:
    """Sentences, commas, lines and paragraphs, whatever their line ends."""
    assert spoken_length(more, "en").usual_s == pytest.approx(seconds, abs=0.35)


@pytest.mark.parametrize("text", ["1984", "* # %", "https://a.example/b", "USA", "<laugh>", "[sighs]", "Nooooooo"])
def test_what_voices_read_as_they_like_has_a_wide_range(text: str) -> None:
    """Numbers, symbols, spelled tokens, tags and stretched words."""
    length = spoken_length(text, "en")
    assert length.least_s < length.usual_s < length.most_s
    assert length.most_s > 1.4 * length.least_s


def test_letters_of_other_alphabets_count_as_the_letters_they_stand_for() -> None:
    """Mathematical, full-width and composed letters, with any number of accents."""
    usual_s = spoken_length("Hello world", "en").usual_s
    for text in ("𝓗𝓮𝓵𝓵𝓸 𝔀𝓸𝓻𝓵𝓭", "Ｈｅｌｌｏ ｗｏｒｌｄ", "He\u0301\u0302\u0303llo world"):
        assert spoken_length(text, "en").usual_s == pytest.approx(usual_s)


@given(st.text(), st.sampled_from(["", "en-US", "ja", "tr"]))
def test_the_least_is_never_more_than_the_most(text: str, language: str) -> None:
    """In any script."""
    length = spoken_length(text, language)
    assert 0 <= length.least_s <= length.usual_s + 1e-9 <= length.most_s + 2e-9


@pytest.mark.parametrize(
    "alphabet", ["a", "\u0301", ".", ". ", "\n", " ", "<", "[a", "|", "1", "@", "好", "\u1100", "A ", "😀"]
)
def test_the_estimate_grows_with_the_text_and_no_faster(alphabet: str) -> None:
    """A million characters of anything take seconds at the most; what grows with their square takes an hour."""

    def cpu_s(size: int) -> float:
        text = (alphabet * size)[:size]
        begin = time.process_time()
        spoken_length(text)
        return time.process_time() - begin

    cpu_s(1_000)
    assert cpu_s(1_000_000) < 5


@given(st.text(), st.text())
def test_parts_take_as_long_as_the_whole(first: str, second: str) -> None:
    """So a text can be cut by its duration."""
    assert spoken_s(first) + spoken_s(second) == pytest.approx(spoken_s(first + second))
