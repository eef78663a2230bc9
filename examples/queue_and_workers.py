"""Many jobs, two workers, every result. In memory; ``USE_REDIS=true`` and ``REDIS_URL`` make it a service."""

import asyncio

from audio_api import AudioRequest, BatchAudioRequest, QueueService, WorkerManager

BATCH = BatchAudioRequest(requests=[AudioRequest(text=f"This is message {n}.", overwrite=True) for n in range(1, 5)])


async def main() -> None:
    """Enqueue a batch, wait for it, and print each result."""
    async with QueueService() as queue, WorkerManager():
        batch_id = await queue.enqueue_batch_tasks(BATCH)
        status = await queue.wait_for_batch(batch_id, timeout=120)
        print(status.completed, "of", status.total_requests)


asyncio.run(main())
