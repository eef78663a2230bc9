"""Texts longer than one call: cut, made a few at a time, joined, kept, and never paid for twice.

The real engine talks to the emulator over real sockets; how pieces are started and ended is tested on
``OrderedPieces``.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from books import (
    LEGACY,
    MODEL,
    book,
    kept_pieces,
    pieces_of,
    same,
    settings,
    sound_of,
    visible_files,
)
from kit import CLOCK
from own_time import until
from scripted import USAGE, ScriptedEngine, speech
from sound import RATE, loudness_db, read_wav

from audio_api.audio.large_sounds import SoundBudget
from audio_api.audio.wav_file import SavedWav
from audio_api.config import AudioConfig
from audio_api.emulator import Emulator, Fault
from audio_api.emulator.control import ReceivedCall
from audio_api.emulator.speech import synthesize
from audio_api.engines.base import Bounds, SpeechAudio, Utterance
from audio_api.errors import AudioAPIError, ErrorCode, TTSAudioError, TTSContentBlockedError
from audio_api.models.audio_request import AudioRequest, SpeakerConfig, SpeakerMode, SpeechProgress
from audio_api.models.usage import TokenUsage
from audio_api.services.tts_service import TTSService
from audio_api.speech.attempts import Attempts, Desk, SpendingPause
from audio_api.speech.ordered_pieces import OrderedPieces
from audio_api.speech.piece_cache import CachedPiece, PieceCache
from audio_api.speech.planning import PlannedPiece, SpokenPiece
from audio_api.speech.speaker import SpeakOptions
from audio_api.speech.voice_paces import VoicePaces

TEXT = book(4_500)
REQUEST = AudioRequest(text=TEXT, output_filename="book")
PIECES = pieces_of(REQUEST)
TOTAL = len(PIECES)
# The last day of LEGACY is over.
AFTERWARDS = replace(CLOCK, now=lambda: datetime(2026, 12, 19, tzinfo=UTC))


@pytest.fixture
async def tts(gemini_emulator: Emulator, folder: Path) -> AsyncIterator[TTSService]:
    """A service that does not wait between attempts."""
    async with TTSService(settings(gemini_emulator, folder), clock=CLOCK) as service:
        yield service


def texts(emulator: Emulator) -> list[str]:
    """What was asked to be spoken, in the order of the text."""
    return sorted((call.text for call in emulator.calls), key=TEXT.find)


# --- ordered pieces ------------------------------------------------------------------------------------------------


class Speaker:
    """Speaks a piece when a test lets it, and keeps it for as long; remembers who was started and who was ended."""

    def __init__(self, at_once: int) -> None:
        self.config = AudioConfig(piece_concurrency=at_once, tts_engine="offline", _env_file=None)
        self.budget = SoundBudget(2)
        self.loading: Callable[[], Awaitable[None]] = _nothing
        self.gates = [asyncio.Event() for _ in PIECES]
        self.keeping: dict[int, asyncio.Event] = {}
        self.failures: dict[int, Exception] = {}
        self.started: list[int] = []
        self.cancelled: list[int] = []

    async def speak(self, piece: PlannedPiece, options: SpeakOptions) -> SpokenPiece:
        """Speak when the piece's gate is open."""
        number = PIECES.index(piece)
        self.started.append(number)
        try:
            await self.gates[number].wait()
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        if number in self.failures:
            raise self.failures[number]
        assert options.turn
        assert options.permit
        options.turn.close()
        await options.permit.take()
        await self.loading()
        if number in self.keeping:
            options.permit.give_back()
            await self.keeping[number].wait()
        return SpokenPiece(piece, speech(piece.utterance))

    def let_all(self) -> None:
        """Open every gate."""
        for gate in self.gates:
            gate.set()


def ordered(speaker: Speaker, pieces: Sequence[PlannedPiece] = PIECES, done: int = 0) -> OrderedPieces:
    """Pieces that this speaker makes."""
    return OrderedPieces(pieces, cast("Any", speaker), SpeakOptions(), done=done)


async def heard(pieces: OrderedPieces) -> list[PlannedPiece]:
    """Every piece in the order in which it is handed over."""
    async with pieces:
        return [part.piece async for part in pieces.in_order()]


async def test_pieces_are_handed_over_in_the_order_of_the_text() -> None:
    """Whichever is finished first; no more are in progress than are allowed at once, and no more wait."""
    speaker = Speaker(at_once=2)
    hearing = asyncio.create_task(heard(ordered(speaker)))
    await _some_time()
    assert speaker.started == [0, 1]
    for gate in speaker.gates[1:]:
        gate.set()
    await until(lambda: len(speaker.started) == 4)
    await _some_time()
    assert speaker.started == [0, 1, 2, 3]
    assert not hearing.done()
    speaker.gates[0].set()
    assert await hearing == PIECES
    assert speaker.started == list(range(TOTAL))


async def test_the_next_call_does_not_wait_until_a_piece_is_kept() -> None:
    """Its time on the disk is used; but no more than twice as many pieces are in progress as are called for at once."""
    speaker = Speaker(at_once=2)
    speaker.keeping = {number: asyncio.Event() for number in range(TOTAL)}
    hearing = asyncio.create_task(heard(ordered(speaker)))
    await _some_time()
    assert speaker.started == [0, 1]
    speaker.gates[1].set()
    await until(lambda: len(speaker.started) == 3)
    speaker.let_all()
    await until(lambda: len(speaker.started) == 4)
    await _some_time()
    assert speaker.started == [0, 1, 2, 3]
    for kept in speaker.keeping.values():
        kept.set()
    assert await hearing == PIECES


async def test_few_pieces_are_in_memory_however_many_are_in_progress() -> None:
    """Two at a time are loaded, checked and kept; one whose call takes long holds no other up."""
    speaker = Speaker(at_once=TOTAL)
    loaded, most, finished = 0, 0, 0

    async def load() -> None:
        nonlocal loaded, most, finished
        loaded += 1
        most = max(most, loaded)
        await _some_time()
        loaded -= 1
        finished += 1

    speaker.loading = load
    hearing = asyncio.create_task(heard(ordered(speaker)))
    for gate in speaker.gates[1:]:
        gate.set()
    await until(lambda: finished == TOTAL - 1)
    speaker.let_all()
    assert await hearing == PIECES
    assert most == 2


async def test_a_piece_that_waits_for_its_next_attempt_takes_no_memory(tmp_path: Path) -> None:
    """Its permit is another's between two attempts, and its own again for the second."""
    budget = SoundBudget(1)
    is_free: list[bool] = []

    class Loading(ScriptedEngine):
        async def synthesize_within(self, utterance: Utterance, bounds: Bounds) -> SpeechAudio:
            assert bounds.permit
            await bounds.permit.take()
            return await super().synthesize_within(utterance, bounds)

    async def look() -> None:
        with budget.permit() as another:
            taking = asyncio.create_task(another.take())
            await asyncio.wait([taking], timeout=0.01)
            is_free.append(taking.done())
            taking.cancel()

    async def sleep(seconds: float) -> None:
        await look()

    def silence(utterance: Utterance) -> SpeechAudio:
        return speech(utterance, pcm=bytes(100_000))

    config = AudioConfig(output_dir=tmp_path, tts_engine="offline")
    clock = replace(CLOCK, sleep=sleep)
    desk = Desk(Loading([silence]), config, clock, VoicePaces(None), SpendingPause(clock, 1))
    with budget.permit() as permit:
        await Attempts(desk, PIECES[0].utterance, [], Bounds(permit)).run()
        await look()
    assert is_free == [True, False]


@pytest.mark.parametrize("room", [True, False])
async def test_what_waits_for_an_earlier_piece_comes_back_as_it_was(
    room: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From a temporary file; where there is no room for one it waits in memory."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path if room else tmp_path / "missing"))
    speaker = Speaker(at_once=3)
    async with ordered(speaker, PIECES[:3]) as pieces:
        pieces.begin()
        speaker.gates[1].set()
        speaker.gates[2].set()
        await _some_time()
        speaker.gates[0].set()
        parts = [part async for part in pieces.in_order()]
    assert all(same(part.audio.pcm, speech(part.piece.utterance).pcm) for part in parts)
    assert [part.piece for part in parts] == PIECES[:3]
    assert list(tmp_path.iterdir()) == []


async def _nothing() -> None:
    pass


async def _some_time() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_failed_piece_lets_those_in_progress_finish() -> None:
    """They are paid for. None is begun after it; the error names the piece, and counts what is finished."""
    speaker = Speaker(at_once=3)
    speaker.failures[1] = TTSContentBlockedError("refused")
    hearing = asyncio.create_task(heard(ordered(speaker)))
    await until(lambda: len(speaker.started) == 3)
    speaker.gates[0].set()
    await until(lambda: len(speaker.started) == 4)
    speaker.gates[1].set()
    await _some_time()
    assert not hearing.done()
    speaker.let_all()
    with pytest.raises(TTSContentBlockedError, match=f"^piece 2 of {TOTAL}: refused; finished pieces: 3$"):
        await hearing
    assert (speaker.started, speaker.cancelled) == ([0, 1, 2, 3], [])


async def test_the_only_piece_fails_with_its_own_words() -> None:
    """A short text knows nothing of pieces."""
    speaker = Speaker(at_once=3)
    speaker.failures[0] = TTSContentBlockedError("refused")
    speaker.let_all()
    with pytest.raises(TTSContentBlockedError, match=r"^refused$"):
        await heard(ordered(speaker, PIECES[:1]))


async def test_pieces_heard_before_count() -> None:
    """The pieces of a stream after its first one are numbered from two."""
    speaker = Speaker(at_once=1)
    speaker.failures[1] = TTSContentBlockedError("refused")
    speaker.let_all()
    following = ordered(speaker, PIECES[1:], done=1)
    with pytest.raises(TTSContentBlockedError, match=f"^piece 2 of {TOTAL}: refused; finished pieces: 1$"):
        await heard(following)
    assert (following.done, following.total) == (1, TOTAL)


@pytest.mark.parametrize(
    ("error", "cancelled"),
    [(RuntimeError("a bug"), [1, 2]), (asyncio.CancelledError(), [1, 2]), (TTSAudioError("no room to join"), [])],
    ids=lambda value: type(value).__name__,
)
async def test_leaving_ends_the_calls_in_progress_unless_they_are_to_be_kept(
    error: BaseException, cancelled: list[int]
) -> None:
    """A bug or a cancellation ends them; any error that a caller could act on lets them finish."""
    speaker = Speaker(at_once=3)
    speaker.gates[0].set()

    async def fail() -> None:
        async with ordered(speaker, PIECES[:3]) as pieces:
            await anext(pieces.in_order())
            await until(lambda: len(speaker.started) == 3)
            asyncio.get_running_loop().call_later(0.01, speaker.let_all)
            raise error

    with pytest.raises(type(error)):
        await fail()
    assert speaker.cancelled == cancelled


# --- from text to file ---------------------------------------------------------------------------------------------


async def test_a_long_text_is_one_file(tts: TTSService, gemini_emulator: Emulator, folder: Path) -> None:
    """Every word is asked for once, in pieces; the file holds their sound, joined, and nothing else."""
    response = (await tts.generate_audio(REQUEST)).raise_for_error()
    assert texts(gemini_emulator) == [piece.utterance.text for piece in PIECES]
    assert "".join(TEXT.split()) == "".join("".join(texts(gemini_emulator)).split())
    pcm, spans = sound_of(PIECES)
    samples = read_wav(response.file_path)
    assert same((samples * 32_768).astype("<i2").tobytes(), pcm)
    pauses = sum(after.start - before.end for before, after in pairwise(spans))
    assert len(samples) == sum(span.end - span.start for span in spans) + pauses
    assert response.duration == len(samples) / RATE
    assert (response.attempts, response.cached_pieces, response.model) == (TOTAL, 0, LEGACY)
    assert visible_files(folder) == ["book.wav"]


@pytest.mark.parametrize("sentence", ["It was late in the tower. ", "В башне было уже поздно. "], ids=["en", "ru"])
async def test_a_small_context_makes_small_pieces(gemini_emulator: Emulator, folder: Path, sentence: str) -> None:
    """MAX_CONTEXT_TOKENS bounds each call, not the text: in any alphabet the pieces fit into it."""
    async with TTSService(settings(gemini_emulator, folder, max_context_tokens=150), clock=CLOCK) as service:
        response = await service.generate_audio(AudioRequest(text=sentence * 40, cache=False))
    response.raise_for_error()
    assert response.attempts > 2
    assert {call.text.strip()[-1] for call in gemini_emulator.calls} == {"."}
    assert 200 < max(len(call.text) for call in gemini_emulator.calls) <= 300


async def test_a_context_for_a_few_words_is_refused(gemini_emulator: Emulator, folder: Path) -> None:
    """A context too small for a sentence makes no call, rather than hundreds for a few words each."""
    async with TTSService(settings(gemini_emulator, folder, max_context_tokens=5), clock=CLOCK) as service:
        response = await service.generate_audio(AudioRequest(text=TEXT))
    assert (response.error_code, response.attempts) == (ErrorCode.TEXT_TOO_LONG, 0)
    assert "one call takes 5 tokens" in str(response.error)


async def test_joins_are_heard_neither_as_clicks_nor_as_jumps_in_loudness(
    tts: TTSService, gemini_emulator: Emulator
) -> None:
    """Pieces that come 12 dB apart are within 1 dB in the file, and no step is larger than those inside of pieces."""

    def uneven(text: str, voice: str, language: str) -> bytes:
        sound = np.frombuffer(synthesize(text, voice, language), "<i2")
        return np.rint(sound * 10 ** (-(len(text) % 13) / 20)).astype("<i2").tobytes()

    gemini_emulator.synthesize = uneven
    response = (await tts.generate_audio(REQUEST)).raise_for_error()
    samples = read_wav(response.file_path)
    # Equal in length to what the even pieces make: levels do not decide where pieces are cut, within a frame or two.
    _, spans = sound_of(PIECES)
    assert abs(len(samples) - spans[-1].end) < 0.1 * RATE * TOTAL
    steps = np.abs(np.diff(samples))
    inner = max(steps[span.start + RATE : span.end - RATE].max() for span in spans)
    assert steps.max() <= inner * 1.01
    levels = [loudness_db(samples[span.start + RATE : span.end - RATE]) for span in spans]
    loudness = [10 * np.log10(np.mean(10 ** (level[level > -50] / 10))) for level in levels]
    assert max(loudness) - min(loudness) < 1


async def test_progress_is_told_after_every_piece(tts: TTSService) -> None:
    """How many pieces are in the file, of how many, and how long it is; the last one is the whole."""
    told: list[SpeechProgress] = []

    async def listen(progress: SpeechProgress) -> None:
        await asyncio.sleep(0)
        told.append(progress)

    response = (await tts.generate_audio(REQUEST, on_progress=listen)).raise_for_error()
    assert [(one.pieces_done, one.pieces_total) for one in told] == [(done, TOTAL) for done in range(1, TOTAL + 1)]
    assert all(before.seconds < after.seconds for before, after in pairwise(told))
    # But for the quiet at its end, which stays only because nothing follows.
    assert told[-1].seconds == pytest.approx(response.duration, abs=0.3)
    told.clear()
    await tts.generate_audio(AudioRequest(text="One sentence, in one call, and nothing else."), on_progress=told.append)
    assert [(one.pieces_done, one.pieces_total) for one in told] == [(1, 1)]


async def test_calls_go_on_while_pieces_are_kept(
    gemini_emulator: Emulator, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow disk delays no call; every piece is on it before the request is answered."""
    disk = asyncio.Event()
    put = PieceCache.put

    async def slowly(cache: PieceCache, key: str, piece: CachedPiece) -> SavedWav | None:
        await disk.wait()
        return await put(cache, key, piece)

    monkeypatch.setattr(PieceCache, "put", slowly)
    async with TTSService(settings(gemini_emulator, folder, piece_concurrency=2), clock=CLOCK) as tts:
        speaking = asyncio.create_task(tts.generate_audio(REQUEST))
        await until(lambda: len(gemini_emulator.calls) == 4)
        assert kept_pieces(folder) == 0
        disk.set()
        (await speaking).raise_for_error()
    assert kept_pieces(folder) == TOTAL


async def test_a_bug_in_a_listener_leaves_no_file(tts: TTSService, folder: Path) -> None:
    """It is the caller's bug and goes to the caller; calls in progress are ended."""

    def broken(_: SpeechProgress) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        await tts.generate_audio(REQUEST, on_progress=broken)
    assert visible_files(folder) == []


@pytest.mark.parametrize("fault", [Fault.MAX_TOKENS, Fault.TRUNCATED])
async def test_a_piece_that_comes_back_too_short_is_halved(
    tts: TTSService, gemini_emulator: Emulator, fault: Fault
) -> None:
    """Alone, and for good: the other pieces stay whole, and the next time nothing is called."""
    long = PIECES[2].utterance.text
    gemini_emulator.faults = lambda call: fault if call.text == long else None
    response = (await tts.generate_audio(REQUEST)).raise_for_error()
    asked = list(dict.fromkeys(texts(gemini_emulator)))
    halves = [text for text in asked if text in long and text != long]
    assert (len(halves), len(asked)) == (2, TOTAL + 2)
    assert " ".join(halves).split() == long.split()
    assert response.attempts == len(gemini_emulator.calls)
    assert response.duration == pytest.approx(sound_of(PIECES)[1][-1].end / RATE, abs=0.5)
    gemini_emulator.reset()
    again = (await tts.generate_audio(REQUEST.model_copy(update={"overwrite": True}))).raise_for_error()
    assert (gemini_emulator.calls, again.cached_pieces) == ([], TOTAL)


async def test_a_piece_that_fails_for_good_leaves_no_file_and_loses_nothing(
    tts: TTSService, gemini_emulator: Emulator, folder: Path
) -> None:
    """The error says which piece and how many are finished; the same request later pays for the others only."""
    bad = PIECES[2].utterance.text
    gemini_emulator.faults = lambda call: Fault.SAFETY if call.text == bad else None
    failed = await tts.generate_audio(REQUEST)
    assert failed.error_code is ErrorCode.CONTENT_BLOCKED
    finished = kept_pieces(folder)
    assert str(failed.error).startswith(f"piece 3 of {TOTAL}: ")
    assert str(failed.error).endswith(f"; finished pieces: {finished}")
    assert finished == len(gemini_emulator.calls) - 1 >= 2
    assert failed.usage.audio_tokens > 0
    assert visible_files(folder) == []
    assert "sentence number" not in str(failed.error)
    gemini_emulator.reset()
    response = (await tts.generate_audio(REQUEST)).raise_for_error()
    assert (len(gemini_emulator.calls), response.cached_pieces) == (TOTAL - finished, finished)


async def test_cancelling_ends_every_call(tts: TTSService, gemini_emulator: Emulator, folder: Path) -> None:
    """The server sees all callers go, no file appears, and the service speaks on: no slot is lost."""
    gemini_emulator.faults = lambda _: Fault.NEVER_ANSWERS
    task = asyncio.create_task(tts.generate_audio(REQUEST))
    await until(lambda: len([call for call in gemini_emulator.calls if call.text]) == 4)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: all(call.disconnected for call in gemini_emulator.calls))
    assert visible_files(folder) == []
    gemini_emulator.reset()
    assert (await tts.generate_audio(REQUEST)).success


@pytest.mark.parametrize("end", ["cancel", "fail"])
async def test_no_slot_is_lost(gemini_emulator: Emulator, folder: Path, end: str) -> None:
    """With a single slot, whatever ends a request, the next one is served."""
    async with TTSService(settings(gemini_emulator, folder, max_concurrency=1), clock=CLOCK) as tts:
        fault = Fault.NEVER_ANSWERS if end == "cancel" else Fault.SAFETY
        gemini_emulator.faults = lambda _: fault
        task = asyncio.create_task(tts.generate_audio(REQUEST))
        await until(lambda: any(call.text for call in gemini_emulator.calls))
        if end == "cancel":
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        gemini_emulator.reset()
        assert (await tts.generate_audio(REQUEST)).success


async def test_a_text_of_the_longest_length(folder: Path) -> None:
    """MAX_TEXT_LENGTH characters are spoken; one more is refused before any call."""
    engine = ScriptedEngine()
    config = settings("http://127.0.0.1:1", folder, max_text_length=40_000, audio_checks="off", cache_max_bytes=0)
    take = speech(PIECES[0].utterance, pcm=synthesize("A take.", "kore", "en-US"))
    text = "I walk on. " * 3_636 + "End."
    assert len(text) == 40_000
    async with TTSService(config, engine=engine, clock=CLOCK) as tts:
        engine.synthesize = _always(engine, take)  # type: ignore[method-assign]  # no need to compute an hour of sound
        response = (await tts.generate_audio(AudioRequest(text=text))).raise_for_error()
        assert response.attempts == len(engine.asked) >= 50
        assert sum(len(utterance.text) + 1 for utterance in engine.asked) == 40_001
        refused = await tts.generate_audio(AudioRequest(text=text + "!"))
    assert (refused.error_code, refused.attempts) == (ErrorCode.TEXT_TOO_LONG, 0)
    assert "40,001" in str(refused.error)


@pytest.mark.parametrize("call", ["generate_audio", "stream_to_file"])
async def test_what_no_file_could_hold_is_refused_before_any_call(folder: Path, call: str) -> None:
    """A WAV of 4 GiB ends after a day; only the last hour of a longer book would find out, with all others paid for."""
    engine = ScriptedEngine()
    sentence = "川の水位が高くて橋が流された。"
    day = AudioRequest(text=sentence * 40_000, language="ja-JP")
    config = settings("http://127.0.0.1:1", folder, max_text_length=2_000_000, default_tts_model=MODEL)
    async with TTSService(config, engine=engine, clock=CLOCK) as tts:
        refused = await getattr(tts, call)(day)
    assert (refused.error_code, refused.attempts, engine.asked) == (ErrorCode.TEXT_TOO_LONG, 0, [])
    assert re.search(r"about \d\d\.\d hours to speak, and a WAV file holds 24\.9;", refused.error)


def _always(engine: ScriptedEngine, take: SpeechAudio) -> Any:
    async def synthesize(utterance: Any) -> SpeechAudio:
        engine.asked.append(utterance)
        return take

    return synthesize


async def test_pieces_of_another_sample_rate_are_joined(tts: TTSService, gemini_emulator: Emulator) -> None:
    """One piece of 16,000 Hz changes nothing about the book but a warning."""
    plain = (await tts.generate_audio(REQUEST)).raise_for_error()
    gemini_emulator.faults = lambda call: Fault.RATE_16000 if call.text == PIECES[1].utterance.text else None
    mixed = (await tts.generate_audio(REQUEST.model_copy(update={"cache": False, "overwrite": True}))).raise_for_error()
    assert mixed.duration == pytest.approx(plain.duration, abs=0.02)
    assert any("16,000" in warning for warning in mixed.warnings)


async def test_a_successor_takes_over_in_the_middle(tts: TTSService, gemini_emulator: Emulator) -> None:
    """When the API stops to know the model between two pieces the others are spoken by its successor; it is said."""

    def retire(call: ReceivedCall) -> Fault | None:
        return Fault.MODEL_RETIRED if call.model == LEGACY and call.number > 2 else None

    gemini_emulator.faults = retire
    response = (await tts.generate_audio(REQUEST)).raise_for_error()
    models = [call.model for call in gemini_emulator.calls]
    # Those already on their way to the old model, but no more.
    assert 2 < models.count(LEGACY) <= 2 + 4
    assert models.count(MODEL) == TOTAL - 2
    assert response.model == MODEL
    assert response.warnings == (f"{LEGACY} is not served any more; its successor {MODEL} spoke instead",)


async def test_what_a_lost_model_left_is_used(gemini_emulator: Emulator, folder: Path) -> None:
    """A book that a model begins and its successor ends costs nothing the second time, in any service."""

    def retire(call: ReceivedCall) -> Fault | None:
        return Fault.MODEL_RETIRED if call.model == LEGACY and call.number > 2 else None

    gemini_emulator.faults = retire
    config = settings(gemini_emulator, folder)
    async with TTSService(config, clock=CLOCK) as tts:
        first, again = [
            (await tts.generate_audio(AudioRequest(text=TEXT, output_filename=name))).raise_for_error()
            for name in ("first", "again")
        ]
    calls = len(gemini_emulator.calls)
    async with TTSService(config, clock=CLOCK) as afterwards:
        later = (await afterwards.generate_audio(REQUEST)).raise_for_error()
    assert first.cached_pieces == 0
    assert (again.attempts, again.cached_pieces, again.cost_usd) == (0, TOTAL, 0.0)
    assert again.warnings == first.warnings
    # A new process has to hear of the loss first.
    assert (later.cached_pieces, later.cost_usd) == (TOTAL, 0.0)
    assert {call.status for call in gemini_emulator.calls[calls:]} == {404}
    assert same((folder / "first.wav").read_bytes(), (folder / "again.wav").read_bytes())


async def test_a_text_that_was_not_begun_is_cut_for_the_successor(gemini_emulator: Emulator, folder: Path) -> None:
    """After the last day of a model the successor's longer pieces are asked for: fewer calls."""
    async with TTSService(settings(gemini_emulator, folder), clock=AFTERWARDS) as tts:
        (await tts.generate_audio(REQUEST)).raise_for_error()
    assert {call.model for call in gemini_emulator.calls} == {MODEL}
    assert len(gemini_emulator.calls) < TOTAL


@pytest.mark.parametrize("kept", [True, False])
async def test_without_a_successor_what_is_kept_is_still_used(
    gemini_emulator: Emulator, folder: Path, kept: bool
) -> None:
    """A finished book of a lost model comes from the cache; of one that is not finished nothing more is made."""
    if kept:
        await _speak(gemini_emulator, folder, AudioRequest(text=TEXT, output_filename="before"))
    calls = len(gemini_emulator.calls)
    config = settings(gemini_emulator, folder, model_fallback=False)
    async with TTSService(config, clock=AFTERWARDS) as tts:
        response = await tts.generate_audio(REQUEST)
    assert response.success is kept
    assert response.error_code is (None if kept else ErrorCode.MODEL_NOT_FOUND)
    assert len(gemini_emulator.calls) == calls


# --- the cache -----------------------------------------------------------------------------------------------------


async def test_a_second_run_costs_nothing(gemini_emulator: Emulator, folder: Path) -> None:
    """In another service, and so in another process: no call, no token, no dollar, the same file."""
    paid, free = [
        (await _speak(gemini_emulator, folder, AudioRequest(text=TEXT, output_filename=name))) for name in ("1", "2")
    ]
    assert (paid.attempts, paid.cached_pieces) == (TOTAL, 0)
    assert paid.cost_usd
    assert (free.attempts, free.cached_pieces, free.cost_usd, free.usage.output_tokens) == (0, TOTAL, 0.0, 0)
    assert len(gemini_emulator.calls) == TOTAL
    assert same((folder / "1.wav").read_bytes(), (folder / "2.wav").read_bytes())


async def test_an_edit_pays_for_what_it_touches(gemini_emulator: Emulator, folder: Path) -> None:
    """The same sentences in another job are found again; a changed piece is made."""
    await _speak(gemini_emulator, folder, REQUEST)
    edited = TEXT[: len(TEXT) - 10] + "was found."
    response = await _speak(gemini_emulator, folder, AudioRequest(text=edited))
    assert (response.attempts, response.cached_pieces) == (1, TOTAL - 1)


@pytest.mark.parametrize("is_billed", [True, False])
async def test_what_a_billed_engine_made_is_kept(
    gemini_emulator: Emulator, folder: Path, is_billed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the reply does not say what it cost: that it cost nothing is not known. Free speech is not kept."""
    engine = ScriptedEngine([lambda utterance: speech(utterance, usage=TokenUsage())] * 2)
    monkeypatch.setattr(engine, "is_billed", is_billed)
    async with TTSService(settings(gemini_emulator, folder), engine=engine) as tts:
        responses = [
            (await tts.generate_audio(AudioRequest(text="Twice the same.", output_filename=name))).raise_for_error()
            for name in ("one", "two")
        ]
    assert [response.cached_pieces for response in responses] == [0, int(is_billed)]
    assert len(engine.asked) == 2 - is_billed


@pytest.mark.parametrize("refuse", [{"cache": False}, {"cache_max_bytes": 0}], ids=str)
async def test_the_cache_can_be_left_out(gemini_emulator: Emulator, folder: Path, refuse: dict[str, Any]) -> None:
    """By one request, which wants another take, or for good."""
    changes = {"cache_max_bytes": 0} if "cache_max_bytes" in refuse else {}
    request = AudioRequest(text=TEXT, cache=refuse.get("cache", True))
    for _ in range(2):
        response = await _speak(gemini_emulator, folder, request, **changes)
        assert (response.attempts, response.cached_pieces) == (TOTAL, 0)
    assert (kept_pieces(folder) == 0) == bool(changes)


async def test_what_was_kept_is_checked_again(gemini_emulator: Emulator, folder: Path) -> None:
    """A piece that was accepted without checks does not pass as checked, and is made again."""
    gemini_emulator.faults = lambda call: Fault.HALF_SILENT if call.text == PIECES[0].utterance.text else None
    await _speak(gemini_emulator, folder, AudioRequest(text=TEXT, output_filename="1"), audio_checks="off")
    gemini_emulator.reset()
    response = await _speak(gemini_emulator, folder, AudioRequest(text=TEXT, output_filename="2"))
    assert (response.attempts, response.cached_pieces) == (1, TOTAL - 1)


async def test_a_doubtful_take_from_the_cache_is_called_doubtful(folder: Path) -> None:
    """Every time; where the settings are strict it is made again instead."""

    def cut(share: float) -> Callable[[Any], SpeechAudio]:
        def take(utterance: Any) -> SpeechAudio:
            pcm = synthesize(utterance.text, "kore", "en-US")
            return speech(utterance, pcm=pcm[: int(len(pcm) * share) // 2 * 2] + bytes(12_000), usage=USAGE)

        return take

    config = settings("http://127.0.0.1:1", folder)
    request = AudioRequest(text=PIECES[0].utterance.text)
    async with TTSService(config, engine=ScriptedEngine(map(cut, (0.52, 0.6, 0.55))), clock=CLOCK) as tts:
        made, kept = [(await tts.generate_audio(request)).raise_for_error() for _ in range(2)]
    assert (made.attempts, kept.attempts, kept.cached_pieces) == (3, 0, 1)
    assert "3 doubtful takes" in made.warnings[0]
    assert made.doubtful == kept.doubtful == (ErrorCode.AUDIO_TOO_SHORT,)
    strict = config.model_copy(update={"audio_checks": "strict"})
    async with TTSService(strict, engine=ScriptedEngine(), clock=CLOCK) as tts:
        again = (await tts.generate_audio(request)).raise_for_error()
    assert (again.attempts, again.cached_pieces, again.warnings) == (1, 0, ())


async def _speak(emulator: Emulator, folder: Path, request: AudioRequest, **changes: Any) -> Any:
    async with TTSService(settings(emulator, folder, **changes), clock=CLOCK) as tts:
        return (await tts.generate_audio(request)).raise_for_error()


# --- processes -----------------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, sys
from pathlib import Path
from books import TEXT_OF_PROGRAMS, settings
from audio_api import AudioRequest, TTSService

async def main(url, folder, name):
    async with TTSService(settings(url, Path(folder))) as tts:
        request = AudioRequest(text=TEXT_OF_PROGRAMS, output_filename=name)
        response = (await tts.generate_audio(request)).raise_for_error()
        print(response.attempts, response.cached_pieces)

asyncio.run(main(*sys.argv[1:]))
"""


async def start(emulator: Emulator, folder: Path, name: str) -> asyncio.subprocess.Process:
    """A program that speaks the text."""
    command = (sys.executable, "-c", PROGRAM, emulator.url, str(folder), name)
    return await asyncio.create_subprocess_exec(
        *command, cwd=Path(__file__).parent, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


async def finish(process: asyncio.subprocess.Process) -> tuple[int, int]:
    """The calls that a program made, and the pieces it found."""
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    calls, found = out.split()
    return int(calls), int(found)


async def test_after_kill_9_only_unfinished_pieces_are_paid_for(gemini_emulator: Emulator, folder: Path) -> None:
    """A process that dies in the middle leaves its finished pieces; a third run calls nothing at all."""
    gemini_emulator.faults = lambda call: Fault.NEVER_ANSWERS if call.number > TOTAL // 2 else None
    victim = await start(gemini_emulator, folder, "book")
    await until(lambda: kept_pieces(folder) == TOTAL // 2 < len(gemini_emulator.calls))
    victim.send_signal(signal.SIGKILL)
    await victim.wait()
    finished = kept_pieces(folder)
    assert finished == TOTAL // 2
    assert "book.wav" not in visible_files(folder)
    gemini_emulator.reset()
    assert await finish(await start(gemini_emulator, folder, "book")) == (TOTAL - finished, finished)
    assert await finish(await start(gemini_emulator, folder, "again")) == (0, TOTAL)
    pcm = sound_of(PIECES)[0]
    assert all(
        same((read_wav(folder / name) * 32_768).astype("<i2").tobytes(), pcm) for name in ("book.wav", "again.wav")
    )


@pytest.mark.slow
async def test_several_processes_share_one_folder(gemini_emulator: Emulator, folder: Path) -> None:
    """At the same time: each file is right, no piece is damaged, and a later run finds all of them."""
    programs = await asyncio.gather(*(start(gemini_emulator, folder, f"{n}") for n in range(3)))
    results = await asyncio.gather(*(finish(program) for program in programs))
    assert all(calls + found == TOTAL for calls, found in results)
    assert kept_pieces(folder) == TOTAL
    files = [(folder / f"{n}.wav").read_bytes() for n in range(3)]
    assert all(same(file, files[0]) for file in files)
    response = await _speak(gemini_emulator, folder, AudioRequest(text=TEXT))
    assert (response.attempts, response.cached_pieces) == (0, TOTAL)


# --- dialogues -----------------------------------------------------------------------------------------------------

CAST = tuple(
    SpeakerConfig(speaker_name=name, voice_name=voice)
    for name, voice in (("Alice", "kore"), ("Bob", "puck"), ("Carol", "leda"), ("Dave", "orus"))
)


def dialogue(turns: int, speakers: int) -> AudioRequest:
    """Turns of some of the cast, one after the other."""
    names = [speaker.speaker_name for speaker in CAST[:speakers]]
    lines = [f"{names[n % speakers]}: This is line number {n} of our talk about rivers." for n in range(turns)]
    return AudioRequest(
        text="\n".join(lines), speaker_mode=SpeakerMode.MULTIPLE, cast=CAST[:speakers], output_filename="talk"
    )


@pytest.mark.parametrize("model", [LEGACY, MODEL])
@pytest.mark.parametrize("speakers", [2, 3, 4])
async def test_a_dialogue_of_any_cast(gemini_emulator: Emulator, folder: Path, speakers: int, model: str) -> None:
    """Cut between turns into calls of at most two voices, and joined: every turn in its order and its voice."""
    request = dialogue(30, speakers)
    spoken: list[tuple[str, str]] = []

    def listen(text: str, voice: str, language: str) -> bytes:
        spoken.append((text, voice))
        return synthesize(text, voice, language)

    gemini_emulator.synthesize = listen
    async with TTSService(settings(gemini_emulator, folder, default_tts_model=model), clock=CLOCK) as tts:
        response = (await tts.generate_audio(request)).raise_for_error()
    voices = {speaker.speaker_name: str(speaker.voice_name) for speaker in CAST}
    turns = [line.split(": ") for line in request.text.splitlines()]
    said = {text.strip(): voice.lower() for text, voice in spoken}
    assert said == {text: voices[name] for name, text in turns}
    assert len(spoken) == len(turns)
    assert len(gemini_emulator.calls) == response.attempts == len(pieces_of(request, model=model)) > 1
    assert response.duration == pytest.approx(sum(_seconds(text) for _, text in turns), rel=0.1)


def _seconds(text: str) -> float:
    return len(synthesize(text, "kore", "en-US")) / 2 / RATE


async def test_a_failed_dialogue_is_an_error_of_its_piece(tts: TTSService, gemini_emulator: Emulator) -> None:
    """Raised as its own class by ``raise_for_error``."""
    gemini_emulator.faults = lambda call: Fault.SAFETY if "line number 29" in call.text else None
    response = await tts.generate_audio(dialogue(30, 3))
    with pytest.raises(AudioAPIError, match=r"^piece (\d+) of \1: .*; finished pieces: \d+$"):
        response.raise_for_error()
