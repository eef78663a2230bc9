"""One thread of a process for work that takes memory by the megabyte."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")

_executor = ThreadPoolExecutor(1, "large-sounds")


async def in_sound_thread(work: Callable[..., _T], *args: object) -> _T:
    """Do what ``asyncio.to_thread`` does, but one work after the other, always in the same thread.

    The C library's allocator (glibc's malloc, M_TRIM_THRESHOLD) keeps of what a thread has freed up to twice the size
    of the largest block, for that thread alone: spread over a pool, sounds of two minutes leave 10 MB in each thread.

    Args:
        work: Takes milliseconds, because others wait.
        *args: Its arguments.
    """
    return await asyncio.get_running_loop().run_in_executor(_executor, work, *args)


def _renew() -> None:
    global _executor
    _executor = ThreadPoolExecutor(1, "large-sounds")


# The thread does not live on in a child process.
os.register_at_fork(after_in_child=_renew)
