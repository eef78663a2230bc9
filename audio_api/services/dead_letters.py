"""Dead letters become tasks again."""

from __future__ import annotations

from audio_api.queues.base import QueueBackend
from audio_api.services.recovery import FAILURES


async def retry(backend: QueueBackend, task_id: str) -> bool:
    """Queue a dead task again; its failures so far do not count any more.

    Args:
        backend: The queue.
        task_id: The task.

    Returns:
        Whether this call did it.
    """
    status = await backend.status(task_id)
    # What is not of its failures may tell of a sound that its last worker had published.
    note = {name: value for name, value in ((status and status.progress) or {}).items() if name not in FAILURES}
    return await backend.retry_dead(task_id, note)


async def retry_all(backend: QueueBackend) -> int:
    """Queue every dead task again, once each, and return how many."""
    seen: set[str] = set()
    retried = kept = 0
    while letters := await backend.list_dead(100, kept):
        for letter in letters:
            # One that died again meanwhile comes first in the list.
            again = letter.job_id not in seen and await retry(backend, letter.job_id)
            seen.add(letter.job_id)
            retried, kept = retried + again, kept + (not again)
    return retried
