"""A text of many pieces: made a few at a time, handed over in order."""

from __future__ import annotations

import asyncio
import tempfile
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from types import TracebackType
from typing import Self

from audio_api.audio.large_sounds import Permit, in_sound_thread
from audio_api.errors import AudioAPIError, FailedPiece
from audio_api.speech.cost import Call, calls_of
from audio_api.speech.planning import PlannedPiece, SpokenPiece
from audio_api.speech.speaker import PieceSpeaker, SpeakOptions


class _Aside:
    """A finished piece that waits for an earlier one, with its sound on disk: memory is for what is in progress."""

    def __init__(self, spoken: SpokenPiece) -> None:
        self.calls = spoken.calls
        self._silent = replace(spoken, audio=replace(spoken.audio, pcm=b""))
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object
        weakref.finalize(self, self._file.close)
        self._file.write(spoken.audio.pcm)

    def take(self) -> SpokenPiece:
        self._file.seek(0)
        return replace(self._silent, audio=replace(self._silent.audio, pcm=self._file.read()))


class OrderedPieces:
    """The pieces of one text on their way.

    Use it as ``async with``: leaving with an ``AudioAPIError`` lets the calls in progress finish, since they are paid
    for and kept; leaving in any other way, a cancellation included, ends them.

    Args:
        pieces: In the order in which they are heard.
        speaker: Makes the verified sound of each.
        options: How they are spoken.
        done: Pieces of the same text that were heard before these.

    Attributes:
        total: Pieces in all.
        done: Pieces handed over.
        calls: Of the pieces handed over; of all pieces when it was left.
    """

    def __init__(
        self, pieces: Sequence[PlannedPiece], speaker: PieceSpeaker, options: SpeakOptions, *, done: int = 0
    ) -> None:
        self.total = done + len(pieces)
        self.done = done
        self.calls: list[Call] = []
        self._waiting = iter(pieces)
        self._speaker = speaker
        self._manner = options
        self._at_once = speaker.config.piece_concurrency
        self._turns = asyncio.Semaphore(self._at_once)
        self._begun: deque[asyncio.Task[SpokenPiece | _Aside | None]] = deque()
        self._is_over = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        if not isinstance(error, AudioAPIError):
            for task in self._begun:
                task.cancel()
        await self._settle()

    def begin(self) -> None:
        """Start as many pieces as may be in progress; ``in_order`` does so by itself.

        As many are called for as the setting ``piece_concurrency`` allows. As many others may be kept, or wait for an
        earlier one.
        """
        for piece in islice(self._waiting, 2 * self._at_once - len(self._begun)):
            self._begun.append(asyncio.create_task(self._make(piece)))

    async def in_order(self) -> AsyncGenerator[SpokenPiece, None]:
        """Hand over every piece.

        Raises:
            AudioAPIError: A piece could not be spoken. Its ``piece`` says which one, and how many are finished; its
                ``calls`` are those of all pieces.
        """
        self.begin()
        while self._begun:
            # A local variable would hold the sound while the next piece is made.
            yield await self._next()

    async def _next(self) -> SpokenPiece:
        try:
            made = await self._begun[0]
        except AudioAPIError as error:
            finished = sum(isinstance(each, SpokenPiece | _Aside) for each in await self._settle())
            if self.total > 1:
                error.piece = FailedPiece(self.done + 1, self.total, self.done + finished)
            error.calls = tuple(self.calls)
            raise
        assert made is not None  # noqa: S101 - only what follows a failure is not made
        self._begun.popleft()
        self.done += 1
        self.calls += made.calls
        self.begin()
        return made if isinstance(made, SpokenPiece) else await in_sound_thread(made.take)

    async def _make(self, piece: PlannedPiece) -> SpokenPiece | _Aside | None:
        this = asyncio.current_task()
        turn = Permit(self._turns)
        await turn.take()
        with self._speaker.budget.permit() as permit:
            try:
                if self._is_over:
                    return None
                spoken = await self._speaker.speak(piece, replace(self._manner, turn=turn, permit=permit))
            except Exception:
                self._is_over = True
                raise
            except asyncio.CancelledError as ended:
                # A task does not tell what its cancellation carries.
                self.calls += calls_of(ended)
                raise
            finally:
                turn.close()
            if self._begun[0] is not this:
                # Without room on disk it stays in memory.
                with suppress(OSError):
                    return await in_sound_thread(_Aside, spoken)
            return spoken

    async def _settle(self) -> list[SpokenPiece | _Aside | BaseException | None]:
        """Wait until every piece in progress has ended, and take over its calls."""
        ended = await asyncio.gather(*self._begun, return_exceptions=True)
        self._begun.clear()
        for each in ended:
            self.calls += each.calls if isinstance(each, SpokenPiece | _Aside) else calls_of(each) if each else ()
        return ended
