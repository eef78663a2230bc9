"""Tags, back-channels and emphasis inside a text reach the API as they were written, whole, and are never cut."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from kit import settings

from audio_api import AudioRequest, SpeakerConfig, SpeakerMode, TTSService
from audio_api.emulator import Emulator

SOUNDS = ["laugh", "sigh", "cough", "gasp", "whisper", "yawn", "throat-clearing", "sob", "cheer", "breath"]
PAUSES = ["short pause", "long pause"]
NEWER, OLDER = "gemini-3.8-flash-tts", "gemini-3.1-flash-tts-preview"
TEXTS = {
    **{f"<{tag}>": f"I did not expect that <{tag}> at all, my friend." for tag in (*SOUNDS, *PAUSES)},
    "back-channel": "And then I opened the door |oh hmm| and there it was.",
    "capitals": "This is REALLY important, do you hear?",
    "dots": "Well... I am not so sure about that one.",
    "dashes": "I was going to -- never mind, my friend.",
    "several": "<gasp> You came! <short pause> |mhm| I KNEW it... <laugh>",
}


@pytest.fixture
async def tts(gemini_emulator: Emulator, tmp_path: Path) -> AsyncIterator[TTSService]:
    """A service that talks to the emulator."""
    async with TTSService(settings(gemini_emulator, tmp_path, cache_max_bytes=0)) as service:
        yield service


def sent(server: Emulator) -> list[str]:
    """The text of every part of every call."""
    return [part["text"] for call in server.calls for part in call.body["contents"][0]["parts"]]


@pytest.mark.parametrize("name", TEXTS)
async def test_a_tag_reaches_the_api_as_it_was_written(name: str, tts: TTSService, gemini_emulator: Emulator) -> None:
    """In a file as in a stream: not a character of the text is changed, and the sound is a success."""
    response = await tts.generate_audio(AudioRequest(text=TEXTS[name], model=NEWER))
    assert response.success, response.error
    assert b"".join([block async for block in tts.stream_audio(AudioRequest(text=TEXTS[name], model=NEWER))])
    assert sent(gemini_emulator) == [TEXTS[name]] * 2


async def test_a_square_bracket_tag_reaches_an_older_model(tts: TTSService, gemini_emulator: Emulator) -> None:
    """3.1 performs ``[sigh]``: it stands in the transcript of its prompt, as it was written."""
    text = "I did not expect that [sigh] at all, my friend."
    assert (await tts.generate_audio(AudioRequest(text=text, model=OLDER))).success
    assert sent(gemini_emulator)[0].endswith(f"### TRANSCRIPT\n{text}")


async def test_a_back_channel_stays_in_the_turn_of_its_speaker(tts: TTSService, gemini_emulator: Emulator) -> None:
    """In a dialogue the words between bars are part of the turn in which they are heard."""
    text = "Ann: So I opened it |oh hmm| and looked inside <gasp>.\nBob: What was there <long pause> inside of it?"
    cast = [SpeakerConfig(speaker_name="Ann", voice_name="leda"), SpeakerConfig(speaker_name="Bob", voice_name="puck")]
    request = AudioRequest(text=text, speaker_mode=SpeakerMode.MULTIPLE, cast=cast, model=NEWER)
    assert (await tts.generate_audio(request)).success
    assert sent(gemini_emulator) == [
        "So I opened it |oh hmm| and looked inside <gasp>.",
        "What was there <long pause> inside of it?",
    ]


async def test_tags_survive_markdown(tts: TTSService, gemini_emulator: Emulator) -> None:
    """The marks of Markdown go, the tags stay."""
    text = "**Hello** there <laugh> and welcome <short pause> to *us* all."
    assert (await tts.generate_audio(AudioRequest(text=text, markup="markdown", model=NEWER))).success
    assert sent(gemini_emulator) == ["Hello there <laugh> and welcome <short pause> to us all."]


async def test_no_tag_of_a_long_text_is_cut(tts: TTSService, gemini_emulator: Emulator) -> None:
    """However many pieces there are, each tag is whole in one of them."""
    text = " ".join(f"word{number} <long pause> |oh hmm|" for number in range(400))
    response = await tts.generate_audio(AudioRequest(text=text, model=NEWER))
    assert response.success, response.error
    pieces = sent(gemini_emulator)
    assert len(pieces) > 3
    for tag, count in (("<long pause>", 400), (r"\|oh hmm\|", 400)):
        assert sum(len(re.findall(tag, piece)) for piece in pieces) == count
