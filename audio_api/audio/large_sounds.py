"""What keeps sounds of minutes from filling the memory: few at a time, and one thread for all of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
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


class _Permit:
    """Leave to have a sound in memory; one of a few that several tasks share."""

    def __init__(self, permits: asyncio.Semaphore) -> None:
        self._permits = permits
        self._is_held = False

    async def take(self) -> None:
        if not self._is_held:
            await self._permits.acquire()
            self._is_held = True

    def give_back(self) -> None:
        if self._is_held:
            self._is_held = False
            self._permits.release()


_permit: ContextVar[_Permit | None] = ContextVar("sound_permit", default=None)


@contextmanager
def few_at_once(permits: asyncio.Semaphore) -> Iterator[None]:
    """Let this task have a sound in memory only with one of these permits; give it back at the end."""
    permit = _Permit(permits)
    token = _permit.set(permit)
    try:
        yield
    finally:
        _permit.reset(token)
        permit.give_back()


async def take_permit() -> None:
    """Wait, before a sound is loaded, until there may be one more; at once when this task may have one already."""
    if permit := _permit.get():
        await permit.take()


def give_permit_back() -> None:
    """Let another task have it: this one dropped its sound, and does something else."""
    if permit := _permit.get():
        permit.give_back()


def _renew() -> None:
    global _executor
    _executor = ThreadPoolExecutor(1, "large-sounds")


# The thread does not live on in a child process.
os.register_at_fork(after_in_child=_renew)
