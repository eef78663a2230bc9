"""Voices, speed, pitch and style can be heard. ``python tests/test_voice_options.py`` runs it alone."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from pydantic import ValidationError
from sound import Samples, assert_audible, spectrum_db

from audio_api import AudioRequest, TTSService, VoiceConfig, VoiceName

TEXT = "The quick brown fox jumps over the lazy dog, and then it rests in the shade of an old tree."


async def spoken(offline_tts: TTSService, name: str, voice: VoiceConfig, style: str | None = None) -> Samples:
    """The samples of the text in a voice."""
    request = AudioRequest(text=TEXT, voice_config=voice, style=style, output_filename=name)
    return assert_audible((await offline_tts.generate_audio(request)).raise_for_error().file_path)


async def test_thirty_voices_sound_different(offline_tts: TTSService) -> None:
    """Any two of the thirty voices differ more than two recordings of the same voice do."""

    async def take(number: int) -> list[Samples]:
        return [
            spectrum_db(await spoken(offline_tts, f"{voice}-{number}", VoiceConfig(voice_name=voice)))
            for voice in VoiceName
        ]

    first, second = await take(1), await take(2)
    assert len(first) == 30
    same = max(float(np.abs(one - other).mean()) for one, other in zip(first, second, strict=True))
    different = min(float(np.abs(one - other).mean()) for one, other in combinations(first, 2))
    assert different > same


async def test_speed_changes_the_length(offline_tts: TTSService) -> None:
    """Slower takes longer, faster takes less."""
    lengths = [len(await spoken(offline_tts, f"speed-{speed}", VoiceConfig(speed=speed))) for speed in (0.5, 1.0, 2.0)]
    assert lengths[0] > 1.3 * lengths[1]
    assert lengths[1] > 1.3 * lengths[2]


async def test_pitch_changes_the_voice(offline_tts: TTSService) -> None:
    """A low and a high pitch of the same voice have spectra apart."""
    low = spectrum_db(await spoken(offline_tts, "low", VoiceConfig(pitch=0.5)))
    high = spectrum_db(await spoken(offline_tts, "high", VoiceConfig(pitch=1.8)))
    assert float(np.abs(low - high).mean()) > 1


async def test_a_style_is_heard_but_never_spoken(offline_tts: TTSService) -> None:
    """A slow style makes the same words longer, by far less than its own words would take."""
    plain = len(await spoken(offline_tts, "plain", VoiceConfig()))
    slow = len(await spoken(offline_tts, "slow", VoiceConfig(), style="slow"))
    long_style = len(
        await spoken(offline_tts, "long", VoiceConfig(), style="like a person who reads the news on the radio")
    )
    assert plain < slow < 2 * plain
    assert long_style == pytest.approx(plain, rel=0.3)


@pytest.mark.parametrize("name", ["Kore", "KORE", " kore "])
def test_a_voice_in_any_case(name: str) -> None:
    """A voice's name may be written in any case."""
    assert VoiceConfig(voice_name=name).voice_name is VoiceName.KORE


def test_a_misspelt_voice_is_named_with_the_right_one() -> None:
    """A typing error says which voices are close."""
    with pytest.raises(ValidationError, match=r"calliroe.*callirrhoe"):
        VoiceConfig(voice_name="calliroe")


@pytest.mark.parametrize("wrong", [{"speed": 0.05}, {"speed": 3.1}, {"pitch": 0.05}, {"pitch": 2.1}])
def test_speed_and_pitch_have_bounds(wrong: dict[str, float]) -> None:
    """A speed outside 0.1 to 3.0, or a pitch outside 0.1 to 2.0, is refused."""
    with pytest.raises(ValidationError, match=r"speed|pitch"):
        VoiceConfig(**wrong)


if __name__ == "__main__":
    sys.exit(subprocess.call([sys.executable, "-m", "pytest", __file__, *sys.argv[1:]]))
