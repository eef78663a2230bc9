"""What a batch has cost: every attempt that was billed counts, also those that failed."""

import asyncio

from audio_api import AudioRequest, TTSService

REQUESTS = [AudioRequest(text=f"This is announcement number {number}.", overwrite=True) for number in range(1, 4)]


async def main() -> None:
    """Speak three announcements, and print one line about each."""
    async with TTSService() as tts:
        batch = await tts.generate_batch(REQUESTS)
    for response in batch.results:
        print(f"{response.cost_usd} USD, {response.attempts} calls, {response.cached_pieces} from the cache")


asyncio.run(main())
