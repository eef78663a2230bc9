"""Casts of 1 to 30 speakers: what a request accepts, what it refuses, and how it becomes turns."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from audio_api.engines.base import Utterance
from audio_api.errors import TTSValidationError
from audio_api.models.audio_request import AudioRequest, MultiSpeakerConfig, SpeakerConfig, SpeakerMode
from audio_api.models.voices import VoiceName


def speaker(name: str, voice: str = "kore", **values: Any) -> SpeakerConfig:
    """A speaker of any voice."""
    return SpeakerConfig(speaker_name=name, voice_name=voice, **values)


ALICE, BOB, CAROL = (speaker(name) for name in ("Alice", "Bob", "Carol"))
TWO = MultiSpeakerConfig(speakers=(ALICE, BOB))


def request(text: str, *cast: SpeakerConfig, **values: Any) -> AudioRequest:
    """A request with a cast."""
    return AudioRequest(text=text, speaker_mode=SpeakerMode.MULTIPLE, cast=cast, **values)


@pytest.mark.parametrize("size", [1, 2, 3, 30])
def test_a_cast_has_up_to_thirty_speakers(size: int) -> None:
    """Each with one of the voices, in the order in which they are given."""
    cast = [speaker(f"Speaker {number}", voice) for number, voice in enumerate(VoiceName)][:size]
    made = request("\n".join(f"{one.speaker_name}: Hello!" for one in cast), *cast)
    assert made.speakers == made.cast == tuple(cast)
    utterance = Utterance.from_request(made, "m")
    assert [(turn.speaker, turn.voice) for turn in utterance.turns] == [(one.speaker_name, one) for one in cast]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"cast": ()}, "a cast has 1 to 30 speakers; 0 given"),
        ({"cast": [speaker(f"S{number}") for number in range(31)]}, "a cast has 1 to 30 speakers; 31 given"),
        ({"cast": [ALICE, BOB, speaker("ALICE")]}, "the speakers of a cast must have distinct names; two are 'Alice'"),
        ({"cast": [speaker("Strauß"), speaker("STRAUSS")]}, "must have distinct names; two are 'Strauß'"),
        ({}, "MULTIPLE needs a multi_speaker_config with two speakers, or a cast of 1 to 30"),
        ({"cast": None}, "MULTIPLE needs a multi_speaker_config with two speakers, or a cast of 1 to 30"),
        ({"cast": [CAROL], "multi_speaker_config": TWO}, "exclude each other: put every speaker into the cast"),
        ({"cast": [CAROL], "speaker_mode": "single"}, "cast goes with speaker_mode MULTIPLE; single mode uses voice"),
        (
            {"cast": [CAROL], "multi_speaker_config": TWO, "speaker_mode": "single"},
            "multi_speaker_config goes with speaker_mode MULTIPLE; single mode uses voice_config",
        ),
    ],
)
def test_a_wrong_cast_is_refused_in_one_sentence(values: dict[str, Any], sentence: str) -> None:
    """It says what is wrong and what would be right."""
    with pytest.raises(ValidationError) as caught:
        AudioRequest.model_validate({"text": "Carol: Hello!", "speaker_mode": "multiple", **values})
    assert sentence in str(caught.value)


def test_other_numbers_of_speakers_are_sent_to_the_cast() -> None:
    """A multi_speaker_config stays exactly two, and its error says where three go."""
    with pytest.raises(ValidationError, match="exactly two speakers; 3 given: any other number is a cast"):
        MultiSpeakerConfig(speakers=(ALICE, BOB, CAROL))


def test_the_speakers_of_a_request_come_from_wherever_they_are_given() -> None:
    """From the config of two, from the cast, or there are none."""
    two = AudioRequest(text="Alice: a. Bob: b.", speaker_mode=SpeakerMode.MULTIPLE, multi_speaker_config=TWO)
    assert two.speakers == (ALICE, BOB)
    assert AudioRequest(text="Alice: a.").speakers == ()


def test_a_cast_survives_json() -> None:
    """Custom voices included, so that it can wait in a queue."""
    made = request("Alice: a. Eve: b.", ALICE, speaker("Eve", "voice_abc", speed=0.5, style="calm"))
    assert AudioRequest.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("Alice: a. Bob: b.", "Carol never speaks"),
        ("Alice: a. Bob: b. Carol: c.\nDave: d.", "line 2 begins like a turn of 'Dave'"),
        ("Hello! Alice: a. Bob: b. Carol: c.", "must begin with a speaker's name and a colon: Alice: or Bob: or Carol"),
        (f"Alice [{'calm ' * 101}]: a. Bob: b. Carol: c.", "a style of Alice has 504 characters; 500 are allowed"),
    ],
)
def test_a_text_that_does_not_fit_its_cast_is_a_wrong_request(text: str, error: str) -> None:
    """Found before any call."""
    with pytest.raises(TTSValidationError, match=error):
        Utterance.from_request(request(text, ALICE, BOB, CAROL), "m")


NAMES = st.lists(
    st.text(st.characters(categories=["L"]), min_size=1, max_size=8).map(lambda name: f"S{name}"),
    min_size=1,
    max_size=30,
    # Two names that a pattern without case cannot tell apart are one name.
    unique_by=lambda name: (
        unicodedata.normalize("NFKD", name.upper()).casefold().replace("ı", "i").replace("\u0307", "")
    ),
)
STYLES = st.none() | st.sampled_from(["calm", "very loud, angry"])


@given(st.data())
def test_turns_of_any_cast_survive_being_written_and_read(data: st.DataObject) -> None:
    """Speakers, words and styles come back in their order, with the voice of their speaker."""
    cast = [speaker(name, style=data.draw(STYLES)) for name in data.draw(NAMES)]
    styles = {one.speaker_name: one.style for one in cast}
    order = [*styles, *data.draw(st.lists(st.sampled_from([*styles]), max_size=5))]
    turns = [(name, f"I am {number}.", data.draw(STYLES)) for number, name in enumerate(order)]
    text = "\n".join(f"{name}{f' [{style}]' if style else ''}: {said}" for name, said, style in turns)
    utterance = Utterance.from_request(request(text, *cast, style="plain"), "m")
    assert [(turn.speaker, turn.text, turn.style) for turn in utterance.turns] == [
        (name, said, style or styles[name] or "plain") for name, said, style in turns
    ]
