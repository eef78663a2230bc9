"""Queued tasks of the tier batch: each is a batch of its own, and no worker waits for it."""

from __future__ import annotations

import hashlib
import time

from audio_api.errors import AudioAPIError, TTSOutputError
from audio_api.models.audio_request import AudioRequest, AudioResponse
from audio_api.services.report import failure_of
from audio_api.services.tts_service import TTSService

# Until a task's next look at its job: a quarter of its age, within these.
_LEAST_WAIT_S, _MOST_WAIT_S = 5.0, 60.0


async def step_of(tts: TTSService, request: AudioRequest, queue_name: str, task_id: str) -> AudioResponse | float:
    """Submit a task's batch, or look at it, or make its file.

    A batch is found again by its task, on another machine by the name of its job: it is not created twice.

    Args:
        tts: Speaks, and knows the settings.
        request: What to speak.
        queue_name: The queue.
        task_id: The task.

    Returns:
        Its response; or the seconds until the next look.
    """
    name = f"task-{hashlib.sha256(f'{queue_name}/{task_id}'.encode()).hexdigest()[:32]}"
    try:
        batch = await tts.submit_batch([request], name=name)
        status = await batch.refresh()
        if status.state not in {"ended", "collected"}:
            age_s = time.time() - batch.created_at
            return min(max(_LEAST_WAIT_S, age_s / 4), _MOST_WAIT_S)
        return (await batch.collect()).results[0]
    except AudioAPIError as error:
        if isinstance(error, TTSOutputError) and error.retryable:
            return _LEAST_WAIT_S
        return failure_of(error)
