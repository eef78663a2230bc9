"""What tests of many files need: settings, a clock, and what an engine or a service said."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from own_time import PATIENCE_S

from audio_api.config import AudioConfig
from audio_api.emulator import Emulator
from audio_api.errors import AudioAPIError
from audio_api.queues.base import QueueBackend
from audio_api.queues.jobs import JobState, Lease
from audio_api.retry import Clock

Block = TypeVar("Block")
KEY = "key-of-the-tests"


async def _no_wait(_: float) -> None:
    await asyncio.sleep(0)


CLOCK = Clock(sleep=_no_wait, now=lambda: datetime(2026, 11, 22, tzinfo=UTC))
"""A day on which every model is there; attempts do not wait for each other."""


def settings(server: Emulator | str, folder: Path, **changes: object) -> AudioConfig:
    """The default settings, aimed at a server on this machine, whatever the environment says."""
    url = server if isinstance(server, str) else server.url
    fields = {"gemini_api_key": KEY, "gemini_base_url": url, "output_dir": folder, **changes}
    return AudioConfig(**fields, _env_file=None)  # type: ignore[arg-type]


async def listen(stream: AsyncIterator[Block]) -> tuple[list[Block], Any]:
    """The blocks of a stream, and the error that ended it or ``None``."""
    blocks: list[Block] = []
    try:
        async for block in stream:
            blocks.append(block)  # noqa: PERF401 - those before an error count
    except AudioAPIError as error:
        return blocks, error
    return blocks, None


async def read(blocks: AsyncIterator[bytes]) -> bytes:
    """All that a stream of bytes holds."""
    return b"".join([block async for block in blocks])


def sound_part(pcm: bytes, mime: str = "audio/L16") -> dict[str, Any]:
    """A part of a reply of the API, with sound."""
    return {"inlineData": {"mimeType": mime, "data": b64encode(pcm).decode()}}


async def one(queue: QueueBackend, lease_s: float = 60.0, wait_s: float = PATIENCE_S) -> Lease:
    """The next job, which must come."""
    (lease,) = await queue.lease(1, lease_s, wait_s)
    return lease


async def state(queue: QueueBackend, job_id: str) -> JobState | None:
    """Where a job is; ``None``: nowhere."""
    status = await queue.status(job_id)
    return status and status.state
