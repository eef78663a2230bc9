"""Speech by the workers of a queue, as if they were a service in this process."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

from audio_api.audio.file_threads import in_file_thread
from audio_api.errors import TTSOutputError
from audio_api.models.audio_request import AudioRequest, AudioResponse, SpeechProgress
from audio_api.services.queue_service import QueueService


class QueuedSpeech:
    """Hands requests to the workers, waits for each, and fetches its file if that is not on this machine.

    Args:
        queue: The queue; its opener closes it.
    """

    def __init__(self, queue: QueueService) -> None:
        self._queue = queue

    async def generate_audio(
        self, request: AudioRequest, on_progress: Callable[[SpeechProgress], Awaitable[None] | None] | None = None
    ) -> AudioResponse:
        """Have one request spoken.

        The same request has the same task: asked for again, a task that waits is waited for, and one that is done
        gives its result, as long as the queue keeps that.

        Args:
            request: What to speak.
            on_progress: Not called: workers tell their progress to the queue.

        Returns:
            The response, whose ``file_path`` is on this machine.

        Raises:
            QueueServiceError: The queue does not take the task, or does not answer.
            TTSOutputError: The file cannot be fetched.
        """
        content = request.model_dump_json(exclude={"cache", "priority"})
        task_id = f"book-{hashlib.sha256(content.encode()).hexdigest()[:40]}"
        known = await self._queue.get_task_result(task_id)
        if known and known.done and not (known.success and (known.url or await in_file_thread(_is_here, known))):
            # It is finished without a file that can be had.
            task_id = f"{task_id}-{os.urandom(8).hex()}"
        await self._queue.enqueue_single_task(request, task_id=task_id)
        result = await self._queue.wait_for_result(task_id)
        if not result.success or await in_file_thread(_is_here, result):
            return result
        folder = self._queue.config.output_dir
        try:
            descriptor, name = await in_file_thread(_temporary, folder)
            with os.fdopen(descriptor, "wb") as file:
                async with aclosing(self._queue.open_result(task_id)) as blocks:
                    async for block in blocks:
                        await in_file_thread(file.write, block)
        except OSError as error:
            raise TTSOutputError(f"cannot write to {str(folder)!r}: {error.strerror}") from None
        return result.model_copy(update={"file_path": name})


def _temporary(folder: Path) -> tuple[int, str]:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return tempfile.mkstemp(".wav", ".book-", folder)


def _is_here(response: AudioResponse) -> bool:
    return response.file_path is not None and Path(response.file_path).is_file()
