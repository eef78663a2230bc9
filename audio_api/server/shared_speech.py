"""Speech that is made once for all listeners who ask for the same at the same time."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from audio_api.errors import TTSUnavailableError
from audio_api.models.audio_request import AudioRequest, AudioResponse
from audio_api.services.tts_service import TTSService

# How much sound is held for the slowest listener, and how long another one may join: nearly three minutes.
_MOST_HELD_BYTES = 8_000_000
# What a listener takes at once of what has come meanwhile: a second, which an encoder makes in some 10 ms.
_MOST_TAKEN_BYTES = 48_000


@dataclass(eq=False)
class _SpeechInProgress:
    """One speech that is being made.

    Attributes:
        blocks: The sound that not every listener has heard; with all before it, as long as others may join.
        dropped: Blocks that every listener has heard, and that are no longer held.
        held_bytes: Of the blocks.
        places: The next block of each listener.
        changed: Set, and made new, whenever there is something new to hear, or room for more.
    """

    blocks: deque[bytes] = field(default_factory=deque)
    dropped: int = 0
    held_bytes: int = 0
    places: dict[object, int] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    response: AudioResponse | None = None
    error: Exception | None = None
    is_over: bool = False
    is_open: bool = True
    making: asyncio.Task[None] | None = None

    def tell(self) -> None:
        """Wake every listener, and the maker."""
        self.changed.set()
        self.changed = asyncio.Event()

    def forget_heard(self) -> None:
        """Let go of what every listener has heard, once none can join any more."""
        heard = min(self.places.values(), default=0)
        while not self.is_open and self.dropped < heard:
            self.held_bytes -= len(self.blocks.popleft())
            self.dropped += 1


class SharedSpeech:
    """Makes speech for listeners; requests that are equal share it while its beginning is held.

    Args:
        service: Makes the sound.
        on_done: Called once for each speech that was made, however it ended.
    """

    def __init__(self, service: TTSService, on_done: Callable[[AudioRequest, AudioResponse], Awaitable[None]]) -> None:
        self._service = service
        self._on_done = on_done
        self._speeches: dict[tuple[AudioRequest, bool], _SpeechInProgress] = {}
        # A speech is told of after its listeners have left.
        self._makers: set[asyncio.Task[None]] = set()

    @property
    def being_made(self) -> int:
        """How many speeches are being made."""
        return len(self._speeches)

    async def listen(
        self, request: AudioRequest, *, verified: bool = False
    ) -> AsyncGenerator[bytes | AudioResponse, None]:
        """Hear a speech from its beginning. Its calls end when its last listener has left.

        Args:
            request: What to speak.
            verified: Whether each piece is handed over only when it was checked, rather than the first one at once.

        Yields:
            Blocks of sound as ``TTSService.stream_audio``; at last what it cost.

        Raises:
            AudioAPIError: As ``TTSService.stream_audio``; also when the server stops in the middle.
        """
        key = request, verified
        speech = self._speeches.get(key)
        if speech is None or not speech.is_open:
            speech = self._speeches[key] = _SpeechInProgress()
            speech.making = asyncio.create_task(self._make(key, speech))
            self._makers.add(speech.making)
            speech.making.add_done_callback(self._makers.discard)
        listener, place = object(), 0
        speech.places[listener] = 0
        try:
            while True:
                sound, size = [], 0
                while place < speech.dropped + len(speech.blocks) and size < _MOST_TAKEN_BYTES:
                    sound.append(speech.blocks[place - speech.dropped])
                    size += len(sound[-1])
                    place += 1
                if sound:
                    speech.places[listener] = place
                    if not speech.is_open:
                        speech.tell()
                    yield b"".join(sound)
                elif speech.is_over:
                    break
                else:
                    await speech.changed.wait()
        finally:
            del speech.places[listener]
            speech.tell()
            if not (speech.places or speech.is_over):
                await self._end(key, speech)
        if speech.error:
            # Each listener gets a traceback of its own.
            raise copy.copy(speech.error)
        if speech.response is None or not speech.response.success:
            raise TTSUnavailableError("the speech was ended before its end")
        yield speech.response

    async def _end(self, key: tuple[AudioRequest, bool], speech: _SpeechInProgress) -> None:
        if self._speeches.get(key) is speech:
            del self._speeches[key]
        if speech.making:
            speech.making.cancel()
            await asyncio.gather(speech.making, return_exceptions=True)

    async def _make(self, key: tuple[AudioRequest, bool], speech: _SpeechInProgress) -> None:
        request, verified = key
        made_bytes = 0

        def note(response: AudioResponse) -> None:
            speech.response = response

        try:
            async with aclosing(self._service.stream_audio(request, note, verified=verified)) as blocks:
                async for block in blocks:
                    speech.blocks.append(block)
                    speech.held_bytes += len(block)
                    made_bytes += len(block)
                    speech.is_open = made_bytes <= _MOST_HELD_BYTES
                    speech.forget_heard()
                    speech.tell()
                    while speech.held_bytes > _MOST_HELD_BYTES:
                        await speech.changed.wait()
                        speech.forget_heard()
        except Exception as error:  # whatever it is, each listener raises it
            speech.error = error
        finally:
            speech.is_over, speech.is_open = True, False
            if self._speeches.get(key) is speech:
                del self._speeches[key]
            speech.tell()
            if speech.response:
                await self._on_done(request, speech.response)
