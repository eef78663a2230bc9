"""A text of any length, piece by piece: made a few at a time, handed over in order, halved where that helps."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from audio_api.engines.base import SpeechAudio, Utterance
from audio_api.errors import AudioAPIError, ErrorCode, TTSAudioError
from audio_api.services.planning import PlannedPiece, halve

Speak = Callable[[Utterance], Awaitable[SpeechAudio]]

# What a smaller piece may mend: the model stopped early, or left words out.
_TOO_MUCH_AT_ONCE = {ErrorCode.AUDIO_INCOMPLETE, ErrorCode.AUDIO_TOO_SHORT}
# A quarter of a piece is a few sentences; what cannot speak those will not speak a single one.
_MOST_HALVINGS = 2


@dataclass(frozen=True, slots=True)
class Narrated:
    """A finished piece.

    Attributes:
        piece: What was spoken.
        audio: Its verified sound.
    """

    piece: PlannedPiece
    audio: SpeechAudio


class Narration:
    """The pieces of one text on their way.

    Args:
        pieces: In the order in which they are heard.
        speak: Makes the verified sound of one piece.
        at_once: Pieces in progress at once; as many finished ones may wait for an earlier piece.

    Attributes:
        total: Pieces in all.
        done: Pieces handed over.
    """

    def __init__(self, pieces: Iterable[PlannedPiece], speak: Speak, *, at_once: int) -> None:
        pieces = tuple(pieces)
        self.total = len(pieces)
        self.done = 0
        self._waiting = iter(pieces)
        self._speak = speak
        self._in_progress: deque[asyncio.Task[list[Narrated]]] = deque()
        self._begin(at_once)

    def _begin(self, count: int) -> None:
        for piece in islice(self._waiting, count):
            self._in_progress.append(asyncio.create_task(self._make(piece, _MOST_HALVINGS)))

    async def in_order(self) -> AsyncGenerator[Narrated, None]:
        """Hand over every piece in order; a halved one comes as its parts.

        When a piece fails for good, the calls in progress are let finish, since they are paid for and kept; when the
        caller is cancelled or goes away, they are cancelled.

        Raises:
            AudioAPIError: A piece could not be spoken. The text says which one, and how many are done.
        """
        try:
            while self._in_progress:
                for narrated in await self._in_progress[0]:
                    yield narrated
                self._in_progress.popleft()
                self.done += 1
                self._begin(1)
        except AudioAPIError as error:
            finished = await asyncio.gather(*self._in_progress, return_exceptions=True)
            if self.total > 1:
                kept = self.done + sum(isinstance(result, list) for result in finished)
                error.args = (f"piece {self.done + 1} of {self.total}: {error}; {kept} pieces are finished",)
            raise
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Cancel what is in progress. May be called twice."""
        tasks = list(self._in_progress)
        self._in_progress.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _make(self, piece: PlannedPiece, halvings: int) -> list[Narrated]:
        try:
            return [Narrated(piece, await self._speak(piece.utterance))]
        except TTSAudioError as error:
            halves = halve(piece) if halvings and error.code in _TOO_MUCH_AT_ONCE else None
            if halves is None:
                raise
        return [narrated for half in halves for narrated in await self._make(half, halvings - 1)]
