"""Time as an event loop lives it: when the whole machine is late, that is not the fault of who is measured."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_TICK_S = 0.01


@asynccontextmanager
async def own_time() -> AsyncIterator[Callable[[], float]]:
    """Tells how many seconds of its own this event loop had since the block began; a stall counts as one tick."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(_TICK_S)
            ticks += 1

    ticking = asyncio.create_task(tick())
    try:
        yield lambda: ticks * _TICK_S
    finally:
        ticking.cancel()
