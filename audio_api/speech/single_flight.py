"""A piece that several requests want at the same moment is made, and paid for, once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from copy import copy
from dataclasses import replace
from typing import Any

from audio_api.errors import AudioAPIError
from audio_api.speech.cost import Call, as_kept
from audio_api.speech.planning import SpokenPiece


class Flight:
    """A piece in progress, and the requests that wait for it.

    Args:
        work: Makes the piece.
        calls: The calls so far; the work adds each one as it begins.
    """

    def __init__(self, work: Coroutine[Any, Any, SpokenPiece], calls: list[Call]) -> None:
        self.task = asyncio.create_task(work)
        self.waiting = 0
        self._calls = calls
        self._is_paid = False

    async def join(self) -> SpokenPiece:
        """Wait for the piece. A request that is cancelled leaves the others their piece; the last one ends the work.

        Returns:
            The piece. Its calls are all that were made for the first request that gets it; for the others it was
            finished before.

        Raises:
            AudioAPIError: What the work raised, a copy for each request, with the calls as its ``calls``.
            CancelledError: With the calls as its arguments.
        """
        self.waiting += 1
        try:
            spoken = await asyncio.shield(self.task)
        except AudioAPIError as error:
            mine = copy(error).with_traceback(error.__traceback__)
            mine.calls = self._pay(finished=False)
            raise mine from None
        except asyncio.CancelledError:
            if self.waiting == 1 and not self.task.done():
                self.task.cancel()
                await asyncio.wait([self.task])
            raise asyncio.CancelledError(*(self._pay(finished=False) if self.task.done() else ())) from None
        finally:
            self.waiting -= 1
        return replace(spoken, calls=self._pay(finished=True))

    def _pay(self, *, finished: bool) -> tuple[Call, ...]:
        if self._is_paid:
            return as_kept(self._calls, finished=finished)
        self._is_paid = True
        return tuple(self._calls)


class SingleFlight:
    """The pieces in progress, by their content keys."""

    def __init__(self) -> None:
        self._flights: dict[str, Flight] = {}

    def get(self, key: str) -> Flight | None:
        """The flight of a piece that others may still join; ``None``: there is none."""
        flight = self._flights.get(key)
        # A piece that was given up will never be finished.
        return None if flight is None or flight.task.cancelling() else flight

    def add(self, key: str, flight: Flight) -> None:
        """Let others join a flight until it has ended."""
        self._flights[key] = flight
        flight.task.add_done_callback(lambda _: self._forget(key, flight))

    def _forget(self, key: str, flight: Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
