"""A text of any length, piece by piece: made a few at a time, handed over in order."""

from __future__ import annotations

import asyncio
import tempfile
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Self, cast

from audio_api.audio.large_sounds import few_at_once, in_sound_thread
from audio_api.engines.base import SpeechAudio
from audio_api.errors import AudioAPIError
from audio_api.services.planning import PlannedPiece

# Between the end of its call and its turn to be heard a piece is checked and kept, which takes far less than a call.
_MOST_IN_MEMORY = 2

Speak = Callable[[PlannedPiece, Callable[[], None]], Awaitable[SpeechAudio]]
"""Makes the verified sound of a piece, and says with the second argument when its calls are over."""


@dataclass(frozen=True, slots=True)
class Narrated:
    """A finished piece.

    Attributes:
        piece: What was spoken.
        audio: Its verified sound.
    """

    piece: PlannedPiece
    audio: SpeechAudio


class _Aside:
    """A finished piece that waits for an earlier one, with its sound on disk: memory is for what is in progress."""

    def __init__(self, narrated: Narrated) -> None:
        self._silent = replace(narrated, audio=replace(narrated.audio, pcm=b""))
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object, whoever drops it
        weakref.finalize(self, self._file.close)
        self._file.write(narrated.audio.pcm)

    def take(self) -> Narrated:
        self._file.seek(0)
        return replace(self._silent, audio=replace(self._silent.audio, pcm=self._file.read()))


class Narration:
    """The pieces of one text on their way.

    Use it as ``async with``: leaving with an ``AudioAPIError`` lets the calls in progress finish, since they are paid
    for and kept; leaving in any other way, a cancellation included, ends them.

    Args:
        pieces: In the order in which they are heard.
        speak: Makes the verified sound of one piece. While that is kept, another piece may be called for.
        at_once: The most pieces that are called for at a time; as many others may be kept or wait for an earlier one.
        done: Pieces of the same text that were heard before these.

    Attributes:
        total: Pieces in all.
        done: Pieces handed over.
    """

    def __init__(self, pieces: Sequence[PlannedPiece], speak: Speak, *, at_once: int, done: int = 0) -> None:
        self.total = done + len(pieces)
        self.done = done
        self._waiting = iter(pieces)
        self._speak = speak
        self._at_once = at_once
        self._permits = asyncio.Semaphore(_MOST_IN_MEMORY)
        self._begun: deque[asyncio.Task[Narrated | _Aside]] = deque()
        self._called_for: set[asyncio.Task[Narrated | _Aside]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting = iter(())
        if not isinstance(error, AudioAPIError):
            for task in self._begun:
                task.cancel()
        await self._settle()

    def begin(self) -> None:
        """Start as many pieces as may be called for; ``in_order`` does so by itself."""
        most = min(self._at_once - len(self._called_for), 2 * self._at_once - len(self._begun))
        for piece in islice(self._waiting, most):
            task = asyncio.create_task(self._make(piece))
            task.add_done_callback(self._end)
            self._begun.append(task)
            self._called_for.add(task)

    def _end(self, ended: asyncio.Task[Narrated | _Aside]) -> None:
        if ended.cancelled() or ended.exception():
            self._waiting = iter(())
        self._go_on(ended)

    def _go_on(self, spoken: asyncio.Task[Narrated | _Aside]) -> None:
        self._called_for.discard(spoken)
        self.begin()

    async def in_order(self) -> AsyncGenerator[Narrated, None]:
        """Hand over every piece.

        Raises:
            AudioAPIError: A piece could not be spoken. The text says which one, and how many are finished.
        """
        self.begin()
        while self._begun:
            yield await self._next()

    async def _next(self) -> Narrated:
        try:
            made = await self._begun[0]
        except AudioAPIError as error:
            finished = self.done + sum(not isinstance(result, BaseException) for result in await self._settle())
            if self.total > 1:
                error.args = (f"piece {self.done + 1} of {self.total}: {error}; finished pieces: {finished}",)
            raise
        self._begun.popleft()
        self.done += 1
        self.begin()
        return made if isinstance(made, Narrated) else await in_sound_thread(made.take)

    async def _make(self, piece: PlannedPiece) -> Narrated | _Aside:
        this = cast("asyncio.Task[Narrated | _Aside]", asyncio.current_task())
        with few_at_once(self._permits):
            narrated = Narrated(piece, await self._speak(piece, partial(self._go_on, this)))
            if self._begun[0] is not this:
                # Without room on disk it stays in memory.
                with suppress(OSError):
                    return await in_sound_thread(_Aside, narrated)
            return narrated

    async def _settle(self) -> list[Narrated | _Aside | BaseException]:
        return await asyncio.gather(*self._begun, return_exceptions=True)
