"""A piece that several requests want at the same moment is made, and paid for, once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from copy import copy
from typing import Any

from audio_api.engines.base import SpeechAudio
from audio_api.errors import AudioAPIError
from audio_api.services.synthesis import Bill
from audio_api.services.time_limit import TimeLimit, time_limit

Make = Callable[[Bill], Coroutine[Any, Any, SpeechAudio]]


class _Making:
    """A piece in progress, and those who wait for it."""

    def __init__(self, make: Make, bill: Bill) -> None:
        self.time_limit = TimeLimit()
        self.task = asyncio.create_task(self._run(make, bill))
        self.waiting = 0
        self._bill = bill
        self._is_charged = False

    async def _run(self, make: Make, bill: Bill) -> SpeechAudio:
        time_limit.set(self.time_limit)
        return await make(bill)

    def charge(self, bill: Bill) -> None:
        """Hand all that was billed to the first who asks; for the others it was finished before."""
        if not self._is_charged:
            self._is_charged = True
            bill.add(self._bill)
            return
        bill.note(self._bill)
        bill.cached_pieces += not self.task.exception()


class Sharing:
    """Pieces in progress, by their content keys."""

    def __init__(self) -> None:
        self._in_progress: dict[str, _Making] = {}

    async def speak(self, key: str, make: Make, bill: Bill) -> SpeechAudio:
        """Make a piece, or wait for the one that somebody else has begun to make.

        Whoever is cancelled leaves the others their piece; when the last one is, its call ends.

        Args:
            key: Equal for equal pieces.
            make: Makes the piece, and charges the bill that it is given.
            bill: Of this request. One of those who wait gets the whole bill; for the others the piece is a cached one.

        Raises:
            AudioAPIError: What ``make`` raises, a copy for each.
        """
        making = self._in_progress.get(key)
        if making is None:
            making = self._in_progress[key] = _Making(make, bill.fresh())
            making.task.add_done_callback(lambda _: self._forget(key, making))
        making.waiting += 1
        try:
            with making.time_limit.followed_by(time_limit.get() or TimeLimit()):
                return await asyncio.shield(making.task)
        except AudioAPIError as error:
            # Each request writes into its error which of its pieces failed.
            raise copy(error).with_traceback(error.__traceback__) from None
        finally:
            making.waiting -= 1
            if making.task.done():
                making.charge(bill)
            elif not making.waiting:
                # At once: who comes now must not wait for a piece that will never be finished.
                self._forget(key, making)
                making.task.cancel()
                await asyncio.wait([making.task])
                making.charge(bill)

    def _forget(self, key: str, making: _Making) -> None:
        if self._in_progress.get(key) is making:
            del self._in_progress[key]
