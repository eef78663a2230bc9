"""Time as an event loop lives it: the result of a test depends neither on a busy machine nor on a quick one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from inspect import isawaitable

_TICK_S = 0.01
# What a test waits for comes at once on an idle machine; a busy one has been seen to take ten seconds.
PATIENCE_S = 60.0


async def until(condition: Callable[[], object], limit_s: float = PATIENCE_S) -> None:
    """Wait for a condition, a function or a coroutine function, that another task, thread or process brings about."""
    async with asyncio.timeout(limit_s):
        while True:
            found = condition()
            if await found if isawaitable(found) else found:
                return
            await asyncio.sleep(0.005)


def block_until(condition: Callable[[], object]) -> None:
    """Wait, without an event loop, for a condition that another thread or process brings about."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


@dataclass
class _Ahead:
    """The clock of an event loop that is ahead of the world's."""

    by_s: float = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.by_s


def pass_time(seconds: float) -> None:
    """Let this event loop's clock jump: its time limits that end within so many seconds end now.

    A call whose limit is long, and passes only when the server has got the call, ends alike on every machine.
    """
    loop = asyncio.get_running_loop()
    clock = loop.time if isinstance(loop.time, _Ahead) else _Ahead()
    clock.by_s += seconds
    loop.time = clock  # type: ignore[method-assign]


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
