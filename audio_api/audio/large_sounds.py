"""What keeps sounds of minutes from filling the memory: few at a time, and one thread for all of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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


class Permit:
    """One of a few permits that several tasks share; one task has it, and may take it again after giving it back."""

    def __init__(self, permits: asyncio.Semaphore) -> None:
        self._permits = permits
        self._is_held = False
        self._is_closed = False

    async def take(self) -> None:
        """Wait for the permit; at once when it is held already, or was closed."""
        if not (self._is_held or self._is_closed):
            await self._permits.acquire()
            self._is_held = True

    def give_back(self) -> None:
        """Let another task have it."""
        if self._is_held:
            self._is_held = False
            self._permits.release()

    def close(self) -> None:
        """Give it back for good: work that outlives its request waits for no permit any more."""
        self.give_back()
        self._is_closed = True


class SoundBudget:
    """How many sounds of long texts may be in memory at a time.

    Args:
        sounds: The most.
    """

    def __init__(self, sounds: int) -> None:
        self._permits = asyncio.Semaphore(sounds)

    @contextmanager
    def permit(self) -> Iterator[Permit]:
        """A permit to have one sound in memory; it is not taken yet, and given back at the end."""
        permit = Permit(self._permits)
        try:
            yield permit
        finally:
            permit.close()


def _renew() -> None:
    global _executor
    _executor = ThreadPoolExecutor(1, "large-sounds")


# The thread does not live on in a child process.
os.register_at_fork(after_in_child=_renew)
