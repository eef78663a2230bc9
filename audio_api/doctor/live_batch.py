"""A batch of one item: whether it is made within minutes, as what, and what it says that it billed."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from audio_api.doctor.live_calls import BATCH_CALL, Reply, error_text
from audio_api.errors import TTSAPIError, TTSUnavailableError
from audio_api.retry import Clock

if TYPE_CHECKING:
    import httpx2

# Others saw 2 to 5 minutes; the promise is a day.
WAITS_S = (1.0, 2.0, 4.0, 8.0, *[15.0] * 19)
"""Seconds between two looks at the job."""


async def one_item_batch(client: httpx2.AsyncClient, clock: Clock) -> Reply:
    """Create the job, wait for its end, and delete it; one that takes longer is cancelled.

    Args:
        client: Calls the API with its key.
        clock: Waits between two looks.

    Raises:
        TTSAPIError: There is no answer to read; the text says why.
    """
    item = {"request": BATCH_CALL.body, "metadata": {"key": "one"}}
    name = f"audio-api doctor {secrets.token_hex(4)}"
    created = {"batch": {"displayName": name, "inputConfig": {"requests": {"requests": [item]}}}}
    job = await _asked(client, "POST", BATCH_CALL.path, created)
    path = f"/v1beta/{job.get('name')}"
    try:
        for wait_s in WAITS_S:
            job = await _asked(client, "GET", path)
            if job.get("done") is True:
                return _reply(job)
            await clock.sleep(wait_s)
        await _asked(client, "POST", f"{path}:cancel", {})
        raise TTSUnavailableError(f"not made within {sum(WAITS_S):.0f} s; it was cancelled")
    finally:
        await _asked(client, "DELETE", path)


async def _asked(client: httpx2.AsyncClient, method: str, path: str, body: Any = None) -> Mapping[str, Any]:
    import httpx2

    try:
        async with asyncio.timeout(client.timeout.read):
            answer = await client.request(method, path, json=body)
        document = answer.json() if answer.is_success else None
    except (httpx2.HTTPError, TimeoutError, ValueError) as error:
        raise TTSUnavailableError(f"no reply ({type(error).__name__})", retryable=False) from None
    if not isinstance(document, Mapping):
        raise TTSUnavailableError(error_text(answer), retryable=False)
    return document


def _reply(job: Mapping[str, Any]) -> Reply:
    """The answer to the one item of a job that has ended."""
    try:
        if "error" in job:
            raise TTSAPIError(f"the job failed: {str(job['error'].get('message'))[:120]}")
        (item,) = job["response"]["inlinedResponses"]["inlinedResponses"]
        return Reply.of_document(BATCH_CALL, item["response"], tier="batch")
    except (LookupError, ValueError, TypeError, AttributeError):
        raise TTSAPIError("the job ended without a readable answer") from None
