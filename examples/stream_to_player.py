"""Sound that can be played while it is made: ``python examples/stream_to_player.py | aplay -r 24000 -f S16_LE``."""

import asyncio
import sys
from contextlib import aclosing

from audio_api import AudioRequest, TTSService

REQUEST = AudioRequest(
    text="The first words are heard at once. The others are made meanwhile, and follow without a gap."
)


async def main() -> None:
    """Write samples to standard output as they come."""
    async with TTSService() as tts, aclosing(tts.stream_audio(REQUEST)) as blocks:
        async for block in blocks:
            sys.stdout.buffer.write(block)
            sys.stdout.buffer.flush()


asyncio.run(main())
