"""Threads for work on files, which a slow disk may hold up for long.

They are not those of ``asyncio.to_thread``: the event loop looks host names up in those, and a look-up that waited for
a disk would cut the process off from Redis and from the API.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


def _new_executor() -> ThreadPoolExecutor:
    # As many as asyncio takes for its own.
    return ThreadPoolExecutor(min(32, (os.cpu_count() or 1) + 4), "audio-api-files")


_executor = _new_executor()


def _renew() -> None:
    global _executor
    _executor = _new_executor()


# The threads do not live on in a child process.
os.register_at_fork(after_in_child=_renew)


def file_threads() -> ThreadPoolExecutor:
    """The threads themselves, in which aiofiles works when it is told so."""
    return _executor


def run_in_file_thread(work: Callable[..., _T], *args: object) -> asyncio.Future[_T]:
    """Begin blocking work on files in a thread; it must not wait for the event loop.

    Args:
        work: The work.
        *args: Its arguments.

    Returns:
        Its outcome. Cancelling it does not stop work that has begun.
    """
    return asyncio.get_running_loop().run_in_executor(_executor, work, *args)


async def in_file_thread(work: Callable[..., _T], *args: object) -> _T:
    """Do blocking work on files in a thread, and return what it returns.

    Args:
        work: The work.
        *args: Its arguments.
    """
    return await run_in_file_thread(work, *args)
