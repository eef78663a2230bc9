"""livekit-plugins-google speaks a text with each model; what it hears is written as samples, a file a model."""

import asyncio
import os
import sys
from pathlib import Path

from livekit.plugins.google.beta.gemini_tts import TTS


async def main(url: str, folder: str, text: str, *models: str) -> None:
    """Speak with the plugin's own defaults, and name the server in the one way it offers."""
    os.environ["GOOGLE_GEMINI_BASE_URL"] = url
    for model in models:
        tts = TTS(model=model, api_key="any")
        async with tts.synthesize(text) as stream:
            sound = [event.frame.data.tobytes() async for event in stream]
        await tts.aclose()
        Path(folder, model).write_bytes(b"".join(sound))


asyncio.run(main(*sys.argv[1:]))
