"""Two voices in one file. ``python tests/test_multi_speaker.py`` runs it alone."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError
from sound import assert_audible, spectrum_db, split_at_longest_pause

from audio_api import (
    AudioConfig,
    AudioRequest,
    ErrorCode,
    MultiSpeakerConfig,
    SpeakerConfig,
    SpeakerMode,
    TTSService,
    VoiceConfig,
    VoiceName,
)

ALICE = SpeakerConfig(speaker_name="Alice", voice_name=VoiceName.LEDA)
BOB = SpeakerConfig(speaker_name="Bob", voice_name=VoiceName.CHARON)
SENTENCE = "I walked along the river until the sun went down over the hills"


def dialogue(text: str, *speakers: SpeakerConfig, name: str = "dialogue") -> AudioRequest:
    """A request in multiple mode."""
    return AudioRequest(
        text=text,
        speaker_mode=SpeakerMode.MULTIPLE,
        multi_speaker_config=MultiSpeakerConfig(speakers=speakers or (ALICE, BOB)),
        output_filename=name,
    )


async def test_each_turn_has_its_own_voice(offline_config: AudioConfig) -> None:
    """A sentence said by both is as long as both alone; its first half sounds like Alice, its second like Bob."""
    async with TTSService(config=offline_config) as tts:
        both = await tts.generate_audio(dialogue(f"Alice: {SENTENCE}. Bob: {SENTENCE}."))
        alone = [
            await tts.generate_audio(
                AudioRequest(
                    text=f"{SENTENCE}.",
                    voice_config=VoiceConfig(voice_name=speaker.voice_name),
                    output_filename=speaker.speaker_name,
                )
            )
            for speaker in (ALICE, BOB)
        ]
    samples = assert_audible(both.raise_for_error().file_path)
    alice, bob = (assert_audible(response.file_path) for response in alone)
    assert len(samples) == pytest.approx(len(alice) + len(bob), rel=0.15)
    first, second = (spectrum_db(part) for part in split_at_longest_pause(samples))
    for part, own, other in ((first, alice, bob), (second, bob, alice)):
        assert np.abs(part - spectrum_db(own)).mean() < np.abs(part - spectrum_db(other)).mean()


async def test_names_are_not_spoken(offline_config: AudioConfig) -> None:
    """Speakers with long names take no longer than speakers with short ones."""
    long_names = (
        SpeakerConfig(speaker_name="Professor Alexandra Montgomery", voice_name=VoiceName.LEDA),
        SpeakerConfig(speaker_name="The Honourable Bartholomew", voice_name=VoiceName.CHARON),
    )
    text = f"{{}}: {SENTENCE}. {{}}: {SENTENCE}."
    async with TTSService(config=offline_config) as tts:
        short = await tts.generate_audio(dialogue(text.format("Alice", "Bob"), name="short"))
        long = await tts.generate_audio(
            dialogue(text.format(*(speaker.speaker_name for speaker in long_names)), *long_names, name="long")
        )
    assert len(assert_audible(long.file_path)) == pytest.approx(len(assert_audible(short.file_path)), rel=0.05)


async def test_a_speaker_who_never_speaks_is_refused(offline_config: AudioConfig) -> None:
    """A dialogue in which one of the two says nothing is an error that names the silent one."""
    async with TTSService(config=offline_config) as tts:
        response = await tts.generate_audio(dialogue("Alice: Is anybody there?"))
    assert response.error_code is ErrorCode.INVALID_REQUEST
    assert "Bob never speaks" in (response.error or "")


def test_a_dialogue_has_two_speakers() -> None:
    """One speaker, or three, are refused; so are two of the same name."""
    carol = SpeakerConfig(speaker_name="Carol", voice_name=VoiceName.PUCK)
    for speakers in ([ALICE], [ALICE, BOB, carol], [ALICE, ALICE]):
        with pytest.raises(ValidationError, match="two speakers"):
            MultiSpeakerConfig(speakers=tuple(speakers))


def test_mode_and_speakers_must_agree() -> None:
    """Multiple mode without speakers is refused, and so are speakers in single mode."""
    with pytest.raises(ValidationError, match="needs a multi_speaker_config"):
        AudioRequest(text="Alice: Hello!", speaker_mode=SpeakerMode.MULTIPLE)
    with pytest.raises(ValidationError, match="goes with speaker_mode MULTIPLE"):
        AudioRequest(text="Alice: Hello!", multi_speaker_config=MultiSpeakerConfig(speakers=(ALICE, BOB)))


if __name__ == "__main__":
    sys.exit(subprocess.call([sys.executable, "-m", "pytest", __file__, *sys.argv[1:]]))
