"""Equal pieces that several requests want at the same moment: made and paid for once, and no request loses its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from books import book, pieces_of, same, settings
from kit import CLOCK
from own_time import until
from scripted import ScriptedEngine, speech

from audio_api.emulator import Emulator, Fault
from audio_api.engines.base import SpeechAudio, Utterance
from audio_api.errors import ErrorCode, TTSContentBlockedError
from audio_api.models.audio_request import AudioRequest, AudioResponse
from audio_api.models.usage import TokenUsage
from audio_api.services.tts_service import TTSService

TEXT = book(2_000)
TOTAL = len(pieces_of(AudioRequest(text=TEXT)))
USAGE = TokenUsage(input_tokens=10, output_tokens=30, audio_tokens=30)


class Gate(ScriptedEngine):
    """Answers no call before a test lets it; remembers how many were ended."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = asyncio.Event()
        self.error: TTSContentBlockedError | None = None
        self.cancelled = 0

    async def synthesize(self, utterance: Utterance) -> SpeechAudio:
        """A good take, or the error."""
        self.asked.append(utterance)
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        return speech(utterance, usage=USAGE, warnings=("half a sample was cut off",))


@pytest.fixture
async def gate() -> Gate:
    """An engine whose calls wait."""
    return Gate()


@pytest.fixture
async def tts(gate: Gate, tmp_path: Path) -> AsyncIterator[TTSService]:
    """A service of that engine."""
    async with TTSService(settings("http://127.0.0.1:1", tmp_path), engine=gate, clock=CLOCK) as service:
        yield service


def request(name: str, text: str = "The bridge was gone.", **fields: bool) -> AudioRequest:
    """A text that others ask for, too, in a file of its own."""
    return AudioRequest(text=text, output_filename=name, **fields)


async def start(tts: TTSService, gate: Gate, *requests: AudioRequest) -> list[asyncio.Task[AudioResponse]]:
    """Begin requests one after the other, and wait until nothing more can happen before the gate opens."""
    tasks = []
    for number, request in enumerate(requests, start=1):
        tasks.append(asyncio.create_task(tts.generate_audio(request)))
        await until(lambda number=number: bool(gate.asked) and waiting(tts) == number)
    return tasks


def waiting(tts: TTSService) -> int:
    """How many requests wait for a piece in progress."""
    (speaker,) = tts._drafting.speakers
    return sum(flight.waiting for flight in speaker._flights._flights.values())


async def test_equal_books_at_the_same_moment_are_paid_for_once(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """One of two requests pays for each piece; for the other it is a cached one. Both get their file."""
    async with TTSService(settings(gemini_emulator, tmp_path), clock=CLOCK) as tts:
        first, second = await asyncio.gather(*(tts.generate_audio(request(name, TEXT)) for name in ("a", "b")))
    assert len(gemini_emulator.calls) == TOTAL
    assert first.attempts + second.attempts == TOTAL
    assert first.cached_pieces + second.cached_pieces == TOTAL
    assert (first.attempts, second.attempts) == (second.cached_pieces, first.cached_pieces)
    assert same((tmp_path / "a.wav").read_bytes(), (tmp_path / "b.wav").read_bytes())


@pytest.mark.parametrize("gone", [0, 1])
async def test_who_leaves_takes_nothing_away(tts: TTSService, gate: Gate, gone: int) -> None:
    """Whichever of two is cancelled, the other gets the piece of the one call, and the bill."""
    tasks = await start(tts, gate, request("a"), request("b"))
    tasks[gone].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[gone]
    gate.opened.set()
    response = (await tasks[1 - gone]).raise_for_error()
    assert (len(gate.asked), gate.cancelled) == (1, 0)
    assert (response.attempts, response.cached_pieces, response.usage) == (1, 0, USAGE)


async def test_the_last_one_who_leaves_ends_the_call(tts: TTSService, gate: Gate) -> None:
    """And who comes then is not made to wait for it."""
    tasks = await start(tts, gate, request("a"), request("b"))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    late = asyncio.create_task(tts.generate_audio(request("c")))
    gate.opened.set()
    assert (await late).raise_for_error().attempts == 1
    assert (len(gate.asked), gate.cancelled) == (2, 1)


async def test_an_error_reaches_every_request(tts: TTSService, gate: Gate) -> None:
    """The call is made once, and is on one bill; each error says which piece of its own request failed."""
    gate.error = TTSContentBlockedError("refused", usage=USAGE)
    tasks = await start(tts, gate, request("a"), request("b"))
    gate.opened.set()
    first, second = await asyncio.gather(*tasks)
    assert first.error_code is second.error_code is ErrorCode.CONTENT_BLOCKED
    assert first.error == second.error == "refused"
    assert (first.attempts, first.usage) == (1, USAGE)
    assert (second.attempts, second.cached_pieces, second.cost_usd) == (0, 0, 0.0)


async def test_each_error_names_the_piece_of_its_own_request(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """The same words are the last of four pieces here, and all there is there."""
    config = settings(gemini_emulator, tmp_path)
    end = pieces_of(AudioRequest(text=TEXT))[-1].utterance.text
    gemini_emulator.faults = lambda call: Fault.SAFETY if call.text == end else None
    async with TTSService(config, clock=CLOCK) as tts:
        whole, part = await asyncio.gather(*(tts.generate_audio(AudioRequest(text=text)) for text in (TEXT, end)))
    assert str(whole.error).startswith(f"piece {TOTAL} of {TOTAL}: the API refuses")
    assert str(part.error).startswith("the API refuses")


async def test_a_take_of_ones_own_is_not_shared(tts: TTSService, gate: Gate) -> None:
    """``cache=False`` asks for another take, also of a piece in progress."""
    gate.opened.set()
    responses = await asyncio.gather(*(tts.generate_audio(request(name, cache=False)) for name in ("a", "b")))
    assert [response.attempts for response in responses] == [1, 1]


async def test_warnings_reach_every_request(tts: TTSService, gate: Gate) -> None:
    """What is to be known of a shared piece is known to all who hear it."""
    tasks = await start(tts, gate, request("a"), request("b"))
    gate.opened.set()
    first, second = await asyncio.gather(*tasks)
    assert first.warnings == second.warnings == ("half a sample was cut off",)
    assert (first.cached_pieces, second.cached_pieces) == (0, 1)
