"""What tests of many files need: settings, a clock, and what an engine or a service said."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from audio_api.config import AudioConfig
from audio_api.emulator import Emulator
from audio_api.retry import Clock

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
