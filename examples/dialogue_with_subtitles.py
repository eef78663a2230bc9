"""Two voices in one file, with subtitles beside it."""

import asyncio

from audio_api import AudioRequest, MultiSpeakerConfig, SpeakerConfig, SpeakerMode, TTSService

REQUEST = AudioRequest(
    text="Alice: Did you bring the map?\nBob: I thought you had it!\nAlice: Then we ask the owl.",
    speaker_mode=SpeakerMode.MULTIPLE,
    multi_speaker_config=MultiSpeakerConfig(
        speakers=[
            SpeakerConfig(speaker_name="Alice", voice_name="leda"),
            SpeakerConfig(speaker_name="Bob", voice_name="puck", style="a little ashamed"),
        ]
    ),
    subtitles=["srt", "vtt"],
    output_filename="map",
    overwrite=True,
)


async def main() -> None:
    """Speak the dialogue and say where its files are."""
    async with TTSService() as tts:
        response = await tts.generate_audio(REQUEST)
    response.raise_for_error()
    print(response.file_path, *response.subtitle_paths)


asyncio.run(main())
