"""pipecat's Gemini service speaks a text in a pipeline with each model; its frames are written as samples."""

import asyncio
import sys
from pathlib import Path

from google.genai.types import HttpOptions
from pipecat.frames.frames import ErrorFrame, TTSAudioRawFrame, TTSSpeakFrame
from pipecat.pipeline.worker import PipelineParams
from pipecat.services.google.tts import GeminiTTSService
from pipecat.tests.utils import run_test


async def main(url: str, folder: str, text: str, *models: str) -> None:
    """Speak with a style and a language; 3.8 takes the style beside the text."""
    for model in models:
        settings = GeminiTTSService.Settings(model=model, voice="Kore", language="en-US", prompt="calm")
        service = GeminiTTSService(api_key="any", settings=settings, http_options=HttpOptions(base_url=url))
        heard, errors = await run_test(
            service,
            frames_to_send=[TTSSpeakFrame(text)],
            pipeline_params=PipelineParams(audio_out_sample_rate=24_000),
            start_timeout=60,
        )
        for frame in errors:
            if isinstance(frame, ErrorFrame):
                sys.exit(frame.error)
        sound = [frame.audio for frame in heard if isinstance(frame, TTSAudioRawFrame)]
        Path(folder, model).write_bytes(b"".join(sound))


asyncio.run(main(*sys.argv[1:]))
