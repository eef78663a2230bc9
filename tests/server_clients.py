"""Programs of other people that speak OpenAI's speech API, each in the environment that its packages need.

    python server_clients.py litellm|pipecat|livekit URL TEXT FILE

writes what the program hears into the file: mp3 of LiteLLM, samples (24 kHz, 16-bit, mono) of the two others.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path


def by_litellm(url: str, text: str) -> bytes:
    """LiteLLM's own client of OpenAI-like servers."""
    import litellm

    answer = litellm.speech(
        model="openai/tts-1", input=text, voice="nova", api_key="any", api_base=url, response_format="mp3"
    )
    return answer.content


async def by_pipecat(url: str, text: str) -> bytes:
    """Pipecat's OpenAI voice, in a pipeline of pipecat's own kind for tests."""
    from pipecat.frames.frames import TTSAudioRawFrame, TTSSpeakFrame
    from pipecat.services.openai.tts import OpenAITTSService
    from pipecat.tests.utils import run_test

    service = OpenAITTSService(api_key="any", base_url=url, settings=OpenAITTSService.Settings(voice="nova"))
    heard, _ = await run_test(service, frames_to_send=[TTSSpeakFrame(text)], start_timeout=60.0)
    return b"".join(frame.audio for frame in heard if isinstance(frame, TTSAudioRawFrame))


async def by_livekit(url: str, text: str) -> bytes:
    """LiveKit's OpenAI voice, which decodes mp3 while it comes."""
    from livekit.plugins import openai

    voice = openai.TTS(model="tts-1", voice="nova", base_url=url, api_key="any")
    async with voice.synthesize(text) as stream:
        sound = b"".join([bytes(event.frame.data) async for event in stream])
    await voice.aclose()
    return sound


if __name__ == "__main__":
    client, address, spoken, file = sys.argv[1:]
    if client == "litellm":
        heard = by_litellm(address, spoken)
    else:
        heard = asyncio.run({"pipecat": by_pipecat, "livekit": by_livekit}[client](address, spoken))
    Path(file).write_bytes(heard)
