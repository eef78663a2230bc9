"""Five examples: one sentence, many languages, a voice of your choice, a dialogue, a batch. ``python main.py``.

Gemini speaks when ``GEMINI_API_KEY`` is set, in the environment or in ``.env``; otherwise the offline engine does, and
says so. The files are in ``output/``.
"""

import asyncio
import sys
from pathlib import Path

from audio_api import (
    AudioConfig,
    AudioRequest,
    AudioResponse,
    ConfigurationError,
    Language,
    MultiSpeakerConfig,
    SpeakerConfig,
    SpeakerMode,
    TTSService,
    VoiceConfig,
    VoiceName,
)

SIMPLE = AudioRequest(
    text="Hello! This is the simplest example: one sentence in the default voice.",
    output_filename="simple",
    overwrite=True,
)

LANGUAGES = [
    AudioRequest(text=text, language=language, output_filename=f"language-{language}", overwrite=True)
    for language, text in {
        Language.SPANISH: "Hola, encantado de conocerte. ¿Qué tal el día?",
        Language.FRENCH: "Bonjour, enchanté de vous rencontrer. Comment allez-vous ?",
        Language.GERMAN: "Guten Tag, schön, Sie kennenzulernen. Wie geht es Ihnen?",
        Language.HINDI_INDIA: "नमस्ते, आपसे मिलकर अच्छा लगा। आप कैसे हैं?",
        Language.JAPANESE: "こんにちは、おあいできてうれしいです。おげんきですか。",
    }.items()
]

VOICE = AudioRequest(
    text="The same words sound different in another voice: warm, slower, and a little lower.",
    voice_config=VoiceConfig(voice_name=VoiceName.SULAFAT, speed=0.8, pitch=0.9),
    style="calm and friendly",
    output_filename="voice",
    overwrite=True,
)

DIALOGUE = AudioRequest(
    text="Alice: Did you hear that? Bob: What do you mean? Alice: We are two voices in a single file!",
    speaker_mode=SpeakerMode.MULTIPLE,
    multi_speaker_config=MultiSpeakerConfig(
        speakers=(
            SpeakerConfig(speaker_name="Alice", voice_name=VoiceName.LEDA),
            SpeakerConfig(speaker_name="Bob", voice_name=VoiceName.CHARON),
        )
    ),
    output_filename="dialogue",
    overwrite=True,
)

BATCH = [
    AudioRequest(text=f"Welcome to chapter {number} of the book.", output_filename=f"chapter-{number}", overwrite=True)
    for number in range(1, 6)
]


def settings() -> AudioConfig:
    """The settings of the environment and ``.env``; without an API key, those of the offline engine."""
    config = AudioConfig()
    if config.tts_engine == "gemini" and config.gemini_api_key:
        print("Gemini speaks: the API key is set.")
    elif config.tts_engine == "gemini":
        print("No GEMINI_API_KEY is set, so the OFFLINE engine speaks: real words in a robotic voice, not Gemini.")
        print("For Gemini's voices put a key into .env and run this again.")
        config = AudioConfig(tts_engine="offline")
    else:
        print("The OFFLINE engine speaks, as TTS_ENGINE says: real words in a robotic voice, not Gemini.")
    return config


async def main() -> int:
    """Speak every example, show what was made, and return 0 when nothing failed."""
    one_by_one = [SIMPLE, *LANGUAGES, VOICE, DIALOGUE]
    async with TTSService(config=settings()) as tts:
        responses = [await tts.generate_audio(request) for request in one_by_one]
        batch = await tts.generate_batch(BATCH, max_concurrency=3)
    show([*one_by_one, *BATCH], [*responses, *batch.results])
    return 0 if all(response.success for response in [*responses, *batch.results]) else 1


def show(requests: list[AudioRequest], responses: list[AudioResponse]) -> None:
    """Print one line for each file, and one for each failure."""
    print(f"\n{'file':<34}{'seconds':>8}{'kB':>8}  {'voice':<20}model")
    for request, response in zip(requests, responses, strict=True):
        if response.file_path is None:
            print(f"{request.output_filename} FAILED ({response.error_code}): {response.error}")
            continue
        path = Path(response.file_path)
        size_kb = path.stat().st_size / 1000
        shown = f"{path.parent.name}/{path.name}"
        print(f"{shown:<34}{response.duration:>8.2f}{size_kb:>8.1f}  {voices(request):<20}{response.model}")


def voices(request: AudioRequest) -> str:
    """The voice of a request, or the two of a dialogue."""
    speakers = request.multi_speaker_config.speakers if request.multi_speaker_config else [request.voice_config]
    return " + ".join(str(speaker.voice_name) for speaker in speakers)


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except ConfigurationError as error:
        sys.exit(f"A setting in the environment or in .env is wrong. {error}")
