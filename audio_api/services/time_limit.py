"""How long a job may run: waiting for others does not count."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class TimeLimit:
    """A clock that stands still while the job waits for its turn, for its next attempt, or for a server that is away.

    Args:
        limit: What it moves; ``None``: nothing, it only tells those who follow.
    """

    def __init__(self, limit: asyncio.Timeout | None = None) -> None:
        self._limit = limit
        self._followers: set[TimeLimit] = set()
        self._waits = 0
        self._left_s = 0.0

    def restart(self, limit_s: float) -> None:
        """Count anew, from zero."""
        self._left_s = limit_s
        if not self._waits:
            self._go_on()

    def end(self) -> None:
        """The job is over: whatever of it still waits moves nothing any more."""
        self._limit = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time within. Several parts of a job may wait at the same time."""
        self._pause()
        try:
            yield
        finally:
            self._resume()

    @contextmanager
    def followed_by(self, other: TimeLimit) -> Iterator[None]:
        """Let another clock stand still whenever this one does, while its job waits for what this one's job makes."""
        self._followers.add(other)
        if self._waits:
            other._pause()
        try:
            yield
        finally:
            self._followers.discard(other)
            if self._waits:
                other._resume()

    def _pause(self) -> None:
        self._waits += 1
        if self._waits > 1:
            return
        if self._limit and not self._limit.expired():
            self._left_s = (self._limit.when() or 0.0) - asyncio.get_running_loop().time()
            self._limit.reschedule(None)
        for follower in self._followers:
            follower._pause()

    def _resume(self) -> None:
        self._waits -= 1
        if self._waits:
            return
        self._go_on()
        for follower in self._followers:
            follower._resume()

    def _go_on(self) -> None:
        if self._limit and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + self._left_s)


time_limit: ContextVar[TimeLimit | None] = ContextVar("time_limit", default=None)
"""That of the job which is being worked on; ``None``: it has none."""


@contextmanager
def uncounted() -> Iterator[None]:
    """Do not count the time within against the job that is being worked on."""
    limit = time_limit.get()
    if limit is None:
        yield
        return
    with limit.paused():
        yield
