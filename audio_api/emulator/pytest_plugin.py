"""The fixture ``gemini_emulator`` for tests of code that uses Gemini's speech.

pytest loads this module in every run of every project that has the package installed: it imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from audio_api.emulator import Emulator


@pytest.fixture(scope="session")
def _gemini_emulator_server() -> Iterator[Emulator]:
    from audio_api.emulator import Emulator

    with Emulator() as server:
        yield server


@pytest.fixture
def gemini_emulator(_gemini_emulator_server: Emulator) -> Iterator[Emulator]:
    """A running Gemini emulator, as it is at the start: no faults, no quotas, no calls."""
    yield _gemini_emulator_server
    _gemini_emulator_server.settle()
    _gemini_emulator_server.reset()
