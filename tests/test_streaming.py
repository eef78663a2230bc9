"""Speech that is heard while it is made: what is handed over, when, and what an error leaves behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from books import LEGACY, MODEL, book, kept_pieces, pieces_of, same, settings, sound_of, visible_files
from kit import CLOCK, listen
from own_time import PATIENCE_S, pass_time, until
from scripted import ScriptedEngine, speech
from sound import RATE, read_wav

from audio_api.audio.wav import decode_wav
from audio_api.emulator import Emulator, Fault
from audio_api.emulator.control import ReceivedCall
from audio_api.emulator.speech import synthesize
from audio_api.engines.base import SpeechAudio, SpeechEngine, Utterance
from audio_api.engines.gemini import GeminiEngine
from audio_api.errors import (
    AudioAPIError,
    ErrorCode,
    TTSAudioError,
    TTSContentBlockedError,
    TTSModelNotFoundError,
    TTSUnavailableError,
)
from audio_api.models.audio_request import AudioRequest, AudioResponse, SpeechProgress
from audio_api.models.usage import TokenUsage
from audio_api.services.tts_service import TTSService
from audio_api.speech.planning import PlannedPiece
from audio_api.speech.streaming import FIRST_CHARS

TEXT = book(2_500)
REQUEST = AudioRequest(text=TEXT, output_filename="talk")


def planned(request: AudioRequest = REQUEST) -> list[PlannedPiece]:
    """How a request is cut to be streamed by the model of these tests, whose pieces are short."""
    return pieces_of(request, FIRST_CHARS, "gemini-3.1-flash-tts-preview")


PIECES = planned()
TOTAL = len(PIECES)
FIRST = PIECES[0].utterance.text
SOUND, SPANS = sound_of(PIECES)
FIRST_SOUND = synthesize(FIRST, "kore", "en-US")

Serve = Callable[..., TTSService]


@pytest.fixture
async def serve(gemini_emulator: Emulator, folder: Path) -> AsyncIterator[Serve]:
    """Make services that stream by a model which sends sound in blocks, and do not wait between attempts."""
    made: list[TTSService | SpeechEngine] = []

    def make(engine: SpeechEngine | None = None, *, stall_timeout_s: float = 60, **changes: Any) -> TTSService:
        config = settings(gemini_emulator, folder, **{"default_tts_model": "gemini-3.1-flash-tts-preview", **changes})
        engine = engine or GeminiEngine(
            "k", base_url=gemini_emulator.url, timeout_s=60, stall_timeout_s=stall_timeout_s, max_connections=10
        )
        made.extend((engine, TTSService(config, engine=engine, clock=CLOCK)))
        return made[-1]  # type: ignore[return-value]  # just appended

    yield make
    for each in reversed(made):
        await each.close()


def is_first(call: ReceivedCall) -> bool:
    """Whether a call asks for the beginning of the text."""
    return call.text == FIRST


def is_later(call: ReceivedCall) -> bool:
    """Whether a call asks for anything else."""
    return not is_first(call)


# --- what is heard -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.NONE, Fault.STREAM_ODD_CHUNKS], ids=str)
async def test_a_stream_is_the_sound_of_the_whole_text(serve: Serve, gemini_emulator: Emulator, fault: Fault) -> None:
    """In blocks of whole samples, none of them empty, wherever the server cuts its own."""
    gemini_emulator.fail_next(fault)
    blocks, error = await listen(serve().stream_audio(REQUEST))
    assert error is None
    assert same(b"".join(blocks), SOUND)
    assert all(block and len(block) % 2 == 0 for block in blocks)
    assert len(blocks) > TOTAL + 10
    assert sorted((call.text for call in gemini_emulator.calls), key=TEXT.find) == [
        piece.utterance.text for piece in PIECES
    ]
    assert [call.action for call in gemini_emulator.calls].count("streamGenerateContent") == 1


@pytest.mark.parametrize("model", [MODEL, LEGACY])
async def test_every_model_can_be_streamed(serve: Serve, model: str) -> None:
    """Also one that sends the whole sound at once."""
    request = AudioRequest(text=FIRST, model=model)
    blocks, error = await listen(serve().stream_audio(request))
    assert error is None
    assert same(b"".join(blocks), FIRST_SOUND)


async def test_an_engine_that_cannot_stream_is_heard_all_the_same(serve: Serve) -> None:
    """Its sound comes as one block for each piece."""
    blocks, error = await listen(serve(ScriptedEngine()).stream_audio(REQUEST))
    assert error is None
    assert same(b"".join(blocks), SOUND)


async def test_the_first_sound_waits_for_nothing_else(serve: Serve, gemini_emulator: Emulator) -> None:
    """It is heard although the server sends only half of the first piece, and none of the others."""
    gemini_emulator.faults = lambda call: Fault.STREAM_STALL if is_first(call) else Fault.NEVER_ANSWERS
    async with aclosing(serve().stream_audio(REQUEST)) as stream:
        block = await anext(stream)
    assert FIRST_SOUND.startswith(block)
    assert len(block) <= RATE


async def test_the_other_pieces_are_begun_with_the_first_sound(serve: Serve, gemini_emulator: Emulator) -> None:
    """Not before, so that a refusal is paid for once; and not after, so that no listener waits for them."""
    gemini_emulator.faults = lambda call: Fault.STREAM_STALL if is_first(call) else None
    async with aclosing(serve().stream_audio(REQUEST)) as stream:
        assert gemini_emulator.calls == []
        await anext(stream)
        await until(lambda: len(gemini_emulator.calls) == min(TOTAL, 5))
    gemini_emulator.reset()
    gemini_emulator.fail_next(Fault.SAFETY)
    blocks, error = await listen(serve().stream_audio(AudioRequest(text=TEXT, cache=False)))
    assert (blocks, type(error), len(gemini_emulator.calls)) == ([], TTSContentBlockedError, 1)


async def test_a_stream_that_was_heard_costs_nothing_the_next_time(
    serve: Serve, gemini_emulator: Emulator, folder: Path
) -> None:
    """Every piece is kept, the streamed one included; ``cache=False`` makes them again."""
    tts = serve()
    first = await listen(tts.stream_audio(REQUEST))
    assert (kept_pieces(folder), len(gemini_emulator.calls)) == (TOTAL, TOTAL)
    again = await listen(tts.stream_audio(REQUEST))
    assert len(gemini_emulator.calls) == TOTAL
    assert same(b"".join(first[0]), b"".join(again[0]))
    await listen(tts.stream_audio(REQUEST.model_copy(update={"cache": False})))
    assert len(gemini_emulator.calls) == 2 * TOTAL


async def test_a_slow_listener_holds_no_slot(serve: Serve) -> None:
    """While one listener pauses, others are served: a slot is taken for as long as a call lasts."""
    tts = serve(max_concurrency=1)
    async with aclosing(tts.stream_audio(REQUEST)) as stream:
        await anext(stream)
        async with asyncio.timeout(20):
            assert (await tts.generate_audio(AudioRequest(text="Somebody else's words, said meanwhile."))).success


# --- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [Fault.UNAVAILABLE_503, Fault.RESET_BEFORE_BODY, Fault.CONTENT_EMPTY, Fault.RATE_LIMIT_BARE], ids=str
)
async def test_what_fails_before_the_first_sound_is_tried_again(
    serve: Serve, gemini_emulator: Emulator, fault: Fault
) -> None:
    """No sound was heard yet."""
    gemini_emulator.fail_next(fault, fault)
    blocks, error = await listen(serve().stream_audio(REQUEST))
    assert error is None
    assert same(b"".join(blocks), SOUND)
    assert len(gemini_emulator.calls) == TOTAL + 2


async def test_a_stream_without_sound_is_billed_and_tried_again(serve: Serve) -> None:
    """An answer that holds nothing was paid for all the same."""
    paid = TokenUsage(input_tokens=10, output_tokens=50)
    engine = ScriptedEngine([lambda u: speech(u, pcm=b"", usage=paid), lambda u: speech(u, usage=paid)])
    response = await serve(engine, max_concurrency=1).stream_to_file(AudioRequest(text=FIRST))
    assert response.success
    assert (response.attempts, response.usage) == (2, paid + paid)


async def test_a_stream_that_never_begins_fails_like_a_file(serve: Serve, gemini_emulator: Emulator) -> None:
    """After as many attempts, and with the same words."""
    gemini_emulator.faults = lambda _: Fault.UNAVAILABLE_503
    blocks, error = await listen(serve().stream_audio(REQUEST))
    response = await serve().generate_audio(AudioRequest(text=FIRST))
    assert (blocks, str(error), len(gemini_emulator.calls)) == ([], response.error, 12)


AFTER_SOUND = {
    Fault.STREAM_CUT: (ErrorCode.AUDIO_INCOMPLETE, 0.5),
    Fault.STREAM_STALL: (ErrorCode.TIMEOUT, 0.5),
    Fault.STREAM_ERROR: (ErrorCode.UNAVAILABLE, 0.5),
    Fault.CLOSE_IN_BODY: (ErrorCode.CONNECTION_BROKEN, 0.5),
    Fault.FINISH_MISSING: (ErrorCode.AUDIO_INCOMPLETE, 1.0),
    Fault.FINISH_UNKNOWN: (ErrorCode.AUDIO_INCOMPLETE, 1.0),
    Fault.FINISH_OTHER: (ErrorCode.AUDIO_INCOMPLETE, 0.5),
    Fault.MAX_TOKENS: (ErrorCode.AUDIO_INCOMPLETE, 0.6),
}


@pytest.mark.parametrize("fault", AFTER_SOUND, ids=str)
async def test_what_fails_after_the_first_sound_is_an_error_that_says_how_much_was_heard(
    serve: Serve, gemini_emulator: Emulator, folder: Path, fault: Fault
) -> None:
    """Nothing is said twice. The other pieces on their way are finished and kept, the broken one is not."""
    code, share = AFTER_SOUND[fault]
    gemini_emulator.faults = lambda call: fault if is_first(call) else None
    stall_s = PATIENCE_S / 2
    listening = asyncio.create_task(listen(serve(stall_timeout_s=stall_s).stream_audio(REQUEST)))
    if fault is Fault.STREAM_STALL:
        # The half that the server sent arrived long before the other pieces.
        await until(lambda: kept_pieces(folder) == len(gemini_emulator.calls) - 1 >= 4)
        pass_time(stall_s)
    blocks, error = await listening
    assert error is not None
    assert error.code is code
    heard = b"".join(blocks)
    assert FIRST_SOUND.startswith(heard)
    assert len(heard) == pytest.approx(len(FIRST_SOUND) * share, abs=1.2 * RATE)
    seconds = re.match(r"the stream ended after ([\d.]+) s of sound: ", str(error))
    assert seconds
    assert float(seconds[1]) == pytest.approx(len(heard) / 2 / RATE, abs=0.06)
    assert sum(map(is_first, gemini_emulator.calls)) == 1
    assert kept_pieces(folder) == len(gemini_emulator.calls) - 1 > 0


async def test_a_later_piece_is_tried_again_before_it_is_heard(serve: Serve, gemini_emulator: Emulator) -> None:
    """Whatever is wrong with it: a broken connection, silence, half a text."""
    faults = iter([Fault.RESET_IN_BODY, Fault.SILENT, Fault.TRUNCATED])
    gemini_emulator.faults = lambda call: next(faults, None) if is_later(call) else None
    blocks, error = await listen(serve().stream_audio(REQUEST))
    assert error is None
    assert same(b"".join(blocks), SOUND)
    assert len(gemini_emulator.calls) == TOTAL + 3


async def test_a_later_piece_that_fails_for_good_ends_the_stream_at_its_boundary(
    serve: Serve, gemini_emulator: Emulator
) -> None:
    """All before it was heard; the error says how much, which piece is missing, and how many are finished."""
    bad = PIECES[2].utterance.text
    gemini_emulator.faults = lambda call: Fault.SAFETY if call.text == bad else None
    blocks, error = await listen(serve().stream_audio(REQUEST))
    heard = b"".join(blocks)
    assert SOUND.startswith(heard)
    assert SPANS[1].end - RATE < len(heard) / 2 <= SPANS[1].end
    said = f"the stream ended after {len(heard) / 2 / RATE:.1f} s of sound: piece 3 of {TOTAL}: the API refuses"
    assert str(error).startswith(said)
    assert re.search(r"; finished pieces: \d$", str(error))


async def test_a_successor_is_streamed(serve: Serve, gemini_emulator: Emulator) -> None:
    """When the API does not know the model any more; from then on the old one is not asked again."""
    old = "gemini-2.5-flash-preview-tts"
    gemini_emulator.faults = lambda call: Fault.MODEL_RETIRED if call.model == old else None
    tts = serve(default_tts_model=old)
    blocks, error = await listen(tts.stream_audio(REQUEST))
    assert error is None
    assert same(b"".join(blocks), SOUND)
    assert [call.model for call in gemini_emulator.calls] == [old] + [MODEL] * TOTAL
    again, _ = await listen(tts.stream_audio(REQUEST))
    assert same(b"".join(again), SOUND)
    assert len(gemini_emulator.calls) == 1 + TOTAL


async def test_the_settings_say_how_long_a_stream_may_pause(gemini_emulator: Emulator, folder: Path) -> None:
    """STREAM_STALL_TIMEOUT, although REQUEST_TIMEOUT would allow minutes."""
    gemini_emulator.faults = lambda _: Fault.STREAM_STALL
    config = settings(gemini_emulator, folder, default_tts_model=MODEL, stream_stall_timeout=PATIENCE_S)
    assert config.request_timeout > PATIENCE_S
    heard: list[bytes] = []

    async def hear(tts: TTSService) -> None:
        async for block in tts.stream_audio(AudioRequest(text=FIRST)):
            heard.append(block)  # noqa: PERF401 - those before the error count

    async with TTSService(config, clock=CLOCK) as tts:
        hearing = asyncio.create_task(hear(tts))
        await until(lambda: heard)
        while not hearing.done():
            pass_time(PATIENCE_S)
            await asyncio.sleep(0.001)
        with pytest.raises(TTSUnavailableError) as caught:
            await hearing
    assert caught.value.code is ErrorCode.TIMEOUT


async def test_a_stream_that_is_left_to_the_garbage_collector_ends_in_silence(
    serve: Serve, gemini_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the listener's is part of a circle with it: the collector, in any thread, closes each part once."""
    complaints: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", complaints.append)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    gemini_emulator.faults = lambda _: Fault.STREAM_STALL
    tts = serve()
    told: list[AudioResponse] = []

    async def leave() -> None:
        left: list[object] = [stream := tts.stream_audio(AudioRequest(text=FIRST), told.append)]
        await anext(stream)
        left.append(left)

    for number in range(1, 4):
        await leave()
        async with asyncio.timeout(PATIENCE_S):
            while len(told) < number:
                await asyncio.to_thread(gc.collect)
    await until(lambda: all(call.disconnected for call in gemini_emulator.calls))
    assert complaints == []
    assert [response.error_code for response in told] == [None] * 3
    assert not any(response.success for response in told)


@pytest.mark.parametrize("ending", [None, TTSAudioError("broken", retryable=False)], ids=["no sound", "error"])
async def test_a_stream_that_never_sounds_is_closed(serve: Serve, ending: AudioAPIError | None) -> None:
    """Nothing of an attempt is left to the garbage collector."""
    closed = []

    class Mute(ScriptedEngine):
        async def stream(self, utterance: Utterance) -> AsyncGenerator[SpeechAudio, None]:
            try:
                if ending:
                    raise ending
                yield speech(utterance, pcm=b"")
            finally:
                closed.append(utterance)

    blocks, error = await listen(serve(Mute(), retry_attempts=1).stream_audio(AudioRequest(text=FIRST)))
    assert blocks == []
    assert error is not None
    assert len(closed) == 1


async def test_a_model_lost_in_the_middle_of_a_sound_is_an_error(serve: Serve) -> None:
    """The successor would begin again, with words that were heard already."""

    class Losing(ScriptedEngine):
        async def stream(self, utterance: Utterance) -> AsyncGenerator[SpeechAudio, None]:
            yield speech(utterance, finish_reason=None)
            raise TTSModelNotFoundError("gone")

    blocks, error = await listen(serve(Losing(), default_tts_model=LEGACY).stream_audio(AudioRequest(text=FIRST)))
    assert blocks
    assert error is not None
    assert error.code is ErrorCode.MODEL_NOT_FOUND


def doubtful(utterance: Utterance) -> SpeechAudio:
    """A take that is probably, but not surely, too short."""
    pcm = synthesize(utterance.text, "kore", "en-US")
    usage = TokenUsage(input_tokens=10, output_tokens=50)
    return speech(utterance, pcm=pcm[: int(len(pcm) * 0.52) // 2 * 2] + bytes(12_000), usage=usage)


async def test_a_doubtful_first_piece_is_heard_but_not_kept(serve: Serve, folder: Path) -> None:
    """It cannot be taken back; the response says so, and the next request asks for a better take."""
    request = AudioRequest(text=FIRST, output_filename="talk")
    response = await serve(ScriptedEngine([doubtful])).stream_to_file(request)
    assert response.success
    assert response.warnings[0].startswith("the first piece is doubtful: ")
    assert response.cost_usd == pytest.approx((10 * 1.00 + 50 * 20.00) / 1e6)
    assert kept_pieces(folder) == 0


async def test_strict_settings_take_no_doubtful_first_piece(serve: Serve) -> None:
    """The stream ends in an error."""
    blocks, error = await listen(
        serve(ScriptedEngine([doubtful]), audio_checks="strict").stream_audio(AudioRequest(text=FIRST))
    )
    assert blocks
    assert isinstance(error, TTSAudioError)
    assert error.code is ErrorCode.AUDIO_TOO_SHORT


async def test_a_wrong_request_is_refused_before_any_call(serve: Serve, gemini_emulator: Emulator) -> None:
    """As an exception: a stream has no response."""
    blocks, error = await listen(serve(max_text_length=100).stream_audio(REQUEST))
    assert (blocks, error and error.code, gemini_emulator.calls) == ([], ErrorCode.TEXT_TOO_LONG, [])


# --- the end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["close", "break", "cancel"])
async def test_a_listener_who_stops_hangs_up(serve: Serve, gemini_emulator: Emulator, way: str) -> None:
    """The server sees every caller go: that of the stream and those of the pieces after it. No slot is lost."""
    tts = serve(max_concurrency=5)
    gemini_emulator.faults = lambda call: Fault.STREAM_STALL if is_first(call) else Fault.NEVER_ANSWERS

    async def hear_a_little() -> None:
        if way == "break":
            async for _ in tts.stream_audio(REQUEST):
                await until(lambda: len([call for call in gemini_emulator.calls if call.text]) == 5)
                break
            return
        async with aclosing(tts.stream_audio(REQUEST)) as stream:
            await anext(stream)
            await until(lambda: len([call for call in gemini_emulator.calls if call.text]) == 5)
            if way == "cancel":
                await asyncio.Event().wait()

    task = asyncio.create_task(hear_a_little())
    if way == "cancel":
        await until(lambda: len([call for call in gemini_emulator.calls if call.text]) == 5)
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: all(call.disconnected for call in gemini_emulator.calls))
    gemini_emulator.reset()
    blocks, error = await listen(tts.stream_audio(REQUEST))
    assert error is None
    assert same(b"".join(blocks), SOUND)


async def test_cancelling_before_the_first_sound_hangs_up(serve: Serve, gemini_emulator: Emulator) -> None:
    """The only call there is yet ends."""
    gemini_emulator.faults = lambda _: Fault.NEVER_ANSWERS
    task = asyncio.create_task(listen(serve().stream_audio(REQUEST)))
    await until(lambda: any(call.text for call in gemini_emulator.calls))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: gemini_emulator.calls[0].disconnected)
    assert len(gemini_emulator.calls) == 1


# --- what it cost --------------------------------------------------------------------------------------------------


async def test_a_listener_to_the_end_is_told_what_it_cost(serve: Serve) -> None:
    """Once: all tokens of all pieces, or nothing when they are kept; it is the response of a file, without the file."""
    tts, told = serve(), []
    for _ in range(2):
        blocks, _ = await listen(tts.stream_audio(REQUEST, on_done=told.append))
    first, again = told
    assert first.success
    assert first.file_path is None
    assert first.duration == pytest.approx(len(b"".join(blocks)) / 2 / RATE)
    assert (first.attempts, again.attempts, again.cached_pieces, again.cost_usd) == (TOTAL, 0, TOTAL, 0.0)
    assert first.usage.audio_tokens == pytest.approx(sum(_tokens(piece) for piece in PIECES), abs=TOTAL)
    assert first.cost_usd
    assert first.processing_time is not None


async def test_an_error_is_told_with_its_cost_and_raised(serve: Serve, gemini_emulator: Emulator) -> None:
    """A coroutine function is awaited."""
    told: list[AudioResponse] = []

    async def on_done(response: AudioResponse) -> None:
        await asyncio.sleep(0)
        told.append(response)

    gemini_emulator.faults = lambda call: Fault.SAFETY if call.text == PIECES[2].utterance.text else None
    _, error = await listen(serve().stream_audio(REQUEST, on_done=on_done))
    (response,) = told
    assert (response.success, response.error, response.error_code) == (False, str(error), ErrorCode.CONTENT_BLOCKED)
    assert response.usage.audio_tokens > 0


@pytest.mark.parametrize("way", ["close", "cancel"])
async def test_a_listener_who_leaves_is_told_what_it_cost_so_far(
    serve: Serve, gemini_emulator: Emulator, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """That is neither an error nor a success, and warns of nothing. Calls that this ends are counted, too."""
    caplog.set_level(logging.INFO, "audio_api")
    gemini_emulator.faults = lambda call: Fault.STREAM_STALL if is_first(call) else Fault.NEVER_ANSWERS
    told: list[AudioResponse] = []
    heard = asyncio.Event()

    async def hear_one() -> None:
        async with aclosing(serve().stream_audio(REQUEST, on_done=told.append)) as stream:
            await anext(stream)
            await until(lambda: len(gemini_emulator.calls) == min(TOTAL, 5))
            heard.set()
            if way == "cancel":
                await asyncio.Event().wait()

    task = asyncio.create_task(hear_one())
    await heard.wait()
    if way == "cancel":
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    (response,) = told
    assert (response.success, response.error_code, response.retryable) == (False, None, False)
    assert re.fullmatch(r"the listener left after \d\.\d s of sound", str(response.error))
    assert response.attempts == len(gemini_emulator.calls)
    assert [(record.levelname, record.message) for record in caplog.records] == [("INFO", "listener left")]


# --- into a file ---------------------------------------------------------------------------------------------------


async def test_a_file_can_be_played_while_it_grows(serve: Serve, folder: Path) -> None:
    """As NAME.part.wav, at any time a WAV of what was heard so far; when done, the whole under its own name."""
    seen: list[bytes] = []
    told: list[SpeechProgress] = []

    def look(progress: SpeechProgress) -> None:
        told.append(progress)
        assert visible_files(folder) == ["talk.part.wav"]
        seen.append(decode_wav((folder / "talk.part.wav").read_bytes()).pcm)

    response = await serve().stream_to_file(REQUEST, on_progress=look)
    assert response.success
    assert visible_files(folder) == ["talk.wav"]
    assert same((read_wav(response.file_path) * 32_768).astype("<i2").tobytes(), SOUND)
    assert response.duration == len(SOUND) / 2 / RATE
    assert all(SOUND.startswith(part) for part in seen)
    assert all(len(before) < len(after) for before, after in pairwise(seen))
    assert [len(part) / 2 / RATE for part in seen] == [one.seconds for one in told]
    assert told[0].pieces_done == 0
    assert (told[-1].pieces_done, told[-1].pieces_total) == (TOTAL, TOTAL)
    assert (response.attempts, response.cached_pieces) == (TOTAL, 0)


async def test_a_streamed_file_says_what_it_cost(serve: Serve, gemini_emulator: Emulator) -> None:
    """The same tokens as the same pieces one by one; and nothing when all pieces are kept."""
    tts = serve()
    response = await tts.stream_to_file(REQUEST)
    assert response.usage.audio_tokens == pytest.approx(sum(_tokens(piece) for piece in PIECES), abs=TOTAL)
    assert response.cost_usd == pytest.approx(
        (response.usage.input_tokens * 1.00 + response.usage.output_tokens * 20.00) / 1e6
    )
    again = await tts.stream_to_file(REQUEST.model_copy(update={"overwrite": True}))
    assert (again.attempts, again.cached_pieces, again.cost_usd) == (0, TOTAL, 0.0)


def _tokens(piece: PlannedPiece) -> float:
    return len(synthesize(piece.utterance.text, "kore", "en-US")) / 2 / RATE * 25


async def _fail_in_the_middle(tts: TTSService, emulator: Emulator) -> AudioResponse:
    bad = PIECES[2].utterance.text
    emulator.faults = lambda call: Fault.SAFETY if call.text == bad else None
    return await tts.stream_to_file(REQUEST)


async def test_a_streamed_file_that_fails_leaves_nothing(serve: Serve, gemini_emulator: Emulator, folder: Path) -> None:
    """Neither the file nor its growing part; what was heard until then is in the error, what is finished is kept."""
    response = await _fail_in_the_middle(serve(), gemini_emulator)
    assert response.error_code is ErrorCode.CONTENT_BLOCKED
    assert str(response.error).startswith("the stream ended after ")
    assert visible_files(folder) == []
    assert response.usage.audio_tokens > 0
    kept = kept_pieces(folder)
    gemini_emulator.reset()
    again = await serve().stream_to_file(REQUEST)
    assert (again.success, again.cached_pieces, again.attempts) == (True, kept, TOTAL - kept)


async def test_a_cancelled_streamed_file_leaves_nothing(serve: Serve, gemini_emulator: Emulator, folder: Path) -> None:
    """And hangs up."""
    gemini_emulator.faults = lambda call: Fault.STREAM_STALL if is_first(call) else Fault.NEVER_ANSWERS
    heard = asyncio.Event()
    task = asyncio.create_task(serve().stream_to_file(REQUEST, on_progress=lambda _: heard.set()))
    await heard.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert visible_files(folder) == []
    await until(lambda: all(call.disconnected for call in gemini_emulator.calls))


async def test_a_taken_name_is_refused_before_any_call(serve: Serve, gemini_emulator: Emulator, folder: Path) -> None:
    """Unless it may be overwritten; the older file stays until the new one is complete."""
    folder.mkdir()
    (folder / "talk.wav").write_bytes(b"old")
    refused = await serve().stream_to_file(REQUEST)
    assert (refused.error_code, gemini_emulator.calls) == (ErrorCode.OUTPUT_EXISTS, [])
    assert (folder / "talk.wav").read_bytes() == b"old"
    response = await serve().stream_to_file(REQUEST.model_copy(update={"overwrite": True}))
    assert response.success
    assert len(read_wav(response.file_path)) == len(SOUND) / 2
