"""The real API. Costs a few cents; without GEMINI_API_KEY, in the environment or in .env, everything is skipped."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest

from audio_api import (
    AudioConfig,
    AudioRequest,
    ErrorCode,
    MultiSpeakerConfig,
    SpeakerConfig,
    SpeakerMode,
    TTSService,
    VoiceName,
)
from audio_api.doctor.live_facts import check_live

pytestmark = pytest.mark.live


@pytest.fixture
def config(tmp_path: Path) -> AudioConfig:
    """The developer's settings, with files in a folder of the test's own."""
    config = AudioConfig(output_dir=tmp_path, tts_engine="gemini")
    if config.gemini_api_key is None:
        pytest.skip("needs GEMINI_API_KEY")
    return config


def seconds(path: str | None) -> float:
    """The length of a WAV, read by the standard library."""
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (24_000, 2, 1)
        return file.getnframes() / file.getframerate()


async def test_one_speaker(config: AudioConfig) -> None:
    """A sentence becomes a few seconds of speech, and the bill is known."""
    async with TTSService(config) as service:
        response = await service.generate_audio(
            AudioRequest(text="The weather will be fine today, with a light wind from the west.", style="calm")
        )
    response.raise_for_error()
    assert 2 < seconds(response.file_path) < 12
    assert response.usage.output_tokens > 0
    assert response.cost_usd is None or 0 < response.cost_usd < 0.02


async def test_a_dialogue(config: AudioConfig) -> None:
    """Two speakers share one file."""
    speakers = (
        SpeakerConfig(speaker_name="Alice", voice_name=VoiceName.KORE),
        SpeakerConfig(speaker_name="Bob", voice_name=VoiceName.PUCK),
    )
    request = AudioRequest(
        text="Alice: Good morning, how are you today? Bob: Very well, thank you. Shall we begin?",
        speaker_mode=SpeakerMode.MULTIPLE,
        multi_speaker_config=MultiSpeakerConfig(speakers=speakers),
    )
    async with TTSService(config) as service:
        response = (await service.generate_audio(request)).raise_for_error()
    assert 2 < seconds(response.file_path) < 15


async def test_a_bad_key(config: AudioConfig, tmp_path: Path) -> None:
    """A key that Google does not know is refused at once, and leaves no file."""
    bad = AudioConfig(gemini_api_key="AIza" + "0" * 35, output_dir=tmp_path, tts_engine="gemini")
    async with TTSService(bad) as service:
        response = await service.generate_audio(AudioRequest(text="Hello there."))
    assert response.error_code is ErrorCode.AUTHENTICATION
    assert response.attempts == 1
    assert not list(tmp_path.iterdir())


async def test_what_is_believed_about_the_api(config: AudioConfig) -> None:
    """Facts hold, and none differs; the report is in the message when one does."""
    report = await check_live(config)
    assert report.cost_usd < 0.10
    verdicts = {finding.verdict for finding in report.findings}
    assert verdicts == {"holds", "not observable"}, "\n".join(map(str, report.findings))
