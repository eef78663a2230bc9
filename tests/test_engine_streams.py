"""Streams of the real engines: when sound arrives, what ends a stream, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import kit
import pytest
from gemini_faults import EXPECTED, KEY, MODEL, TEXT, UTTERANCE, Failed, Heard, engine_for, every_trace, impatience
from google import genai
from hypothesis import given
from hypothesis import strategies as st
from own_time import PATIENCE_S, pass_time, until
from raw_server import answering, raw_server

from audio_api.audio.wav import encode_wav
from audio_api.emulator import Emulator, Fault, wire
from audio_api.emulator.speech import synthesize
from audio_api.engines import gemini_transport
from audio_api.engines.base import SpeechAudio, SpeechEngine, Turn, Utterance
from audio_api.engines.gemini import GeminiEngine
from audio_api.engines.gemini_reply import IncomingReply, Wire, read_reply
from audio_api.engines.offline import OfflineEngine
from audio_api.errors import (
    ErrorCode,
    TTSAPIError,
    TTSAudioError,
    TTSContentBlockedError,
    TTSModelNotFoundError,
    TTSUnavailableError,
)
from audio_api.models.audio_request import VoiceConfig
from audio_api.models.usage import TokenUsage

SOUND = synthesize(TEXT, "kore", "en-US")
LONG = Utterance((Turn(f"{TEXT} " * 3, VoiceConfig()),), MODEL, "en-US")
LONG_SOUND = synthesize(f"{TEXT} " * 3, "kore", "en-US")


async def listen(engine: SpeechEngine, utterance: Utterance = UTTERANCE) -> tuple[list[SpeechAudio], Any]:
    """The blocks of a stream, and the error that ended it or ``None``."""
    return await kit.listen(engine.stream(utterance))


def joined(blocks: list[SpeechAudio]) -> bytes:
    """The sound of several blocks."""
    return b"".join(block.pcm for block in blocks)


# --- Gemini: every fault -------------------------------------------------------------------------------------------

_BROKEN = Failed(TTSUnavailableError, ErrorCode.CONNECTION_BROKEN, retryable=True, billed=True)
# What ends otherwise than in one piece: some of the sound has arrived, and been billed.
STREAMED: dict[Fault, Heard | Failed] = EXPECTED | {
    Fault.RESET_IN_BODY: _BROKEN,
    Fault.CLOSE_IN_BODY: _BROKEN,
    Fault.TRUNCATED_JSON: Failed(TTSUnavailableError, ErrorCode.UNREADABLE_REPLY, retryable=True, billed=True),
    Fault.STREAM_CUT: Heard(None, whole=False),
    Fault.STREAM_STALL: Failed(TTSUnavailableError, ErrorCode.TIMEOUT, retryable=True, billed=True),
    Fault.STREAM_ERROR: Failed(TTSUnavailableError, ErrorCode.UNAVAILABLE, retryable=True, billed=True),
    # Streams carry bare samples, for which this is no damage that the engine could tell.
    Fault.BASE64_TWICE: Heard(whole=None, warnings=0),
}


@pytest.mark.parametrize("fault", Fault)
async def test_every_fault_of_a_stream(
    fault: Fault, gemini_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each ends as in one piece, after the sound that came before it; no error shows the key.

    Nothing is repeated, but for a call that must not say ``store``, of which nothing was spoken.
    """
    # A reset takes back what the client has not read yet.
    monkeypatch.setattr(wire, "_READ_S", 1.0)
    stalls = fault is Fault.STREAM_STALL
    engine = engine_for(gemini_emulator, stall_timeout_s=0.5 if stalls else PATIENCE_S)
    gemini_emulator.fail_next(fault)
    async with impatience(gemini_emulator):
        blocks, error = await listen(engine, LONG)
    await engine.close()
    assert len(gemini_emulator.calls) == 1 + (fault is Fault.STORE_UNKNOWN)
    expected = STREAMED[fault]
    if isinstance(expected, Failed):
        assert (type(error), error.code, error.retryable) == (expected.kind, expected.code, expected.retryable), error
        assert error.retry_after_s == expected.retry_after_s
        assert (error.usage is not None) is expected.billed
        assert LONG_SOUND.startswith(joined(blocks))
        assert KEY not in every_trace(error)
    else:
        assert error is None, error
        last = blocks[-1]
        assert (last.finish_reason, last.sample_rate) == (expected.finish_reason, 24_000)
        assert len(last.warnings) == expected.warnings
        assert last.usage.audio_tokens > 0
        same = joined(blocks) == LONG_SOUND
        assert expected.whole is None or same is expected.whole


@pytest.mark.parametrize("fault", Fault)
async def test_whatever_ends_a_stream_its_connection_is_free(fault: Fault, gemini_emulator: Emulator) -> None:
    """With one connection the next call is made at once: none waits for a call that has no listener any more."""
    stalls = fault is Fault.STREAM_STALL
    engine = engine_for(gemini_emulator, stall_timeout_s=0.3 if stalls else PATIENCE_S, max_connections=1)
    gemini_emulator.fail_next(fault)
    async with impatience(gemini_emulator):
        await listen(engine)
    async with asyncio.timeout(PATIENCE_S / 2):
        next_blocks, _ = await listen(engine)
    await engine.close()
    assert next_blocks
    assert len(gemini_emulator.calls) == 2 + (fault is Fault.STORE_UNKNOWN)


async def test_what_an_error_leaves_of_a_stream_is_collected_in_silence(
    gemini_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK leaves its generators in a cycle: a collector in another thread must not meet ours as it is closed."""
    complaints: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", complaints.append)
    engine = engine_for(gemini_emulator, stall_timeout_s=PATIENCE_S)
    gc.collect()
    # What exists by now is not looked at: a collection takes a millisecond, not 100.
    gc.freeze()
    gc.disable()
    try:
        for _ in range(150):
            gemini_emulator.fail_next(Fault.STREAM_ERROR)
            await listen(engine)
            await asyncio.to_thread(gc.collect)
    finally:
        gc.enable()
        gc.unfreeze()
    await engine.close()
    assert not complaints


@pytest.mark.parametrize(
    "model",
    [
        "gemini-3.8-flash-tts",
        "gemini-3.8-flash-lite-tts",
        "gemini-3.1-flash-tts-preview",
        "gemini-2.5-flash-preview-tts",
        "gemini-2.5-pro-preview-tts",
    ],
)
async def test_every_family_streams(model: str, gemini_emulator: Emulator) -> None:
    """The sound is complete in each family's layout: many pieces, or one that also says why it ended."""
    engine = engine_for(gemini_emulator)
    blocks, error = await listen(engine, Utterance(LONG.turns, model, "en-US"))
    await engine.close()
    assert error is None
    same = joined(blocks) == LONG_SOUND
    assert same
    assert len(blocks) == 2 if "2.5" in model else len(blocks) > 15
    assert {block.model for block in blocks} == {model}
    assert blocks[-1].usage.audio_tokens == round(len(LONG_SOUND) / 48_000 * 25)
    call = gemini_emulator.calls[0]
    assert call.action == "streamGenerateContent"


# --- Gemini: a server that a test leads by the hand ----------------------------------------------------------------


def event(pcm: bytes = b"", reason: str | None = None, tokens: int = 0, **more: Any) -> bytes:
    """A server-sent event of a stream."""
    inline = {"inlineData": {"mimeType": "audio/L16;codec=pcm;rate=24000", "data": b64encode(pcm).decode()}}
    candidate = {"content": {"parts": [inline]} if pcm else {}, **({"finishReason": reason} if reason else {})}
    audio = [{"modality": "AUDIO", "tokenCount": tokens}]
    usage = {"usageMetadata": {"candidatesTokenCount": tokens, "candidatesTokensDetails": audio}} if tokens else {}
    return b"data: " + json.dumps({"candidates": [candidate], **usage, **more}).encode() + b"\r\n\r\n"


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """A chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


class Script:
    """Sends a list of things, waits where it says so, and notes when the client asked and went away."""

    def __init__(self, *steps: bytes | asyncio.Event | type[ConnectionResetError]) -> None:
        self.steps = steps
        self.asked, self.gone = asyncio.Event(), asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        self.asked.set()
        watch = asyncio.create_task(self._watch(reader))
        writer.write(HEAD)
        for step in self.steps:
            if isinstance(step, bytes):
                writer.write(chunk(step) if step is not END else END)
            elif isinstance(step, asyncio.Event):
                await step.wait()
            else:
                await asyncio.sleep(0.05)
                writer.transport.abort()
        await watch

    async def _watch(self, reader: asyncio.StreamReader) -> None:
        while await reader.read(1):
            pass
        self.gone.set()


@asynccontextmanager
async def scripted_stream(*steps: Any, **options: Any) -> AsyncIterator[tuple[GeminiEngine, Script]]:
    """An engine and the script that answers it."""
    script = Script(*steps)
    async with raw_server(script) as server:
        engine = engine_for(server.url, **options)
        yield engine, script
        await engine.close()


async def test_sound_is_heard_as_it_arrives() -> None:
    """The server sends its second piece only after the first was heard, and its end only after the second."""
    first, second = asyncio.Event(), asyncio.Event()
    steps = event(b"ab"), first, event(b"cd"), second, event(b"", "STOP", 9), END
    async with scripted_stream(*steps) as (engine, _):
        stream = engine.stream(UTTERANCE)
        assert (await anext(stream)).pcm == b"ab"
        first.set()
        assert (await anext(stream)).pcm == b"cd"
        second.set()
        last = await anext(stream)
        assert (last.pcm, last.finish_reason) == (b"", "STOP")
        assert last.usage == TokenUsage(output_tokens=9, audio_tokens=9)
        assert await anext(stream, None) is None


async def test_closing_closes_the_connection() -> None:
    """When ``aclose`` has returned, the connection is closed, and the server sees it."""
    async with scripted_stream(event(b"ab")) as (engine, script):
        stream = engine.stream(UTTERANCE)
        await anext(stream)
        assert not script.gone.is_set()
        await stream.aclose()
        await asyncio.wait_for(script.gone.wait(), PATIENCE_S)


async def test_leaving_the_loop_closes_the_connection() -> None:
    """A ``break`` is enough."""
    async with scripted_stream(event(b"ab")) as (engine, script):
        async for _ in engine.stream(UTTERANCE):
            break
        await asyncio.wait_for(script.gone.wait(), PATIENCE_S)


@pytest.mark.parametrize("steps", [[], [event(b"ab")]], ids=["before", "in"])
async def test_cancelling_closes_the_connection(steps: list[bytes]) -> None:
    """Before the first piece and between two."""
    async with scripted_stream(*steps) as (engine, script):
        heard = asyncio.Event()

        async def consume() -> None:
            async for _ in engine.stream(UTTERANCE):
                heard.set()

        task = asyncio.create_task(consume())
        await (heard if steps else script.asked).wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(script.gone.wait(), PATIENCE_S)


async def test_closing_the_engine_ends_a_stream() -> None:
    """What still streams fails as a broken connection."""
    async with scripted_stream(event(b"ab")) as (engine, script):
        stream = engine.stream(UTTERANCE)
        await anext(stream)
        await engine.close()
        with pytest.raises(TTSUnavailableError) as caught:
            await anext(stream)
        assert caught.value.code is ErrorCode.CONNECTION_BROKEN
        await asyncio.wait_for(script.gone.wait(), PATIENCE_S)


@pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")
async def test_an_injected_real_client_streams_and_closes_the_connection() -> None:
    """A client of the user's own keeps its own transport; leaving the stream still ends the call, and only the call."""
    script = Script(event(b"ab"))
    async with raw_server(script) as server:
        options = genai.types.HttpOptions(base_url=server.url, api_version="v1beta")
        client = genai.Client(api_key=KEY, vertexai=False, http_options=options)
        engine = GeminiEngine(timeout_s=30, max_connections=1, client=client)
        async with aclosing(engine.stream(UTTERANCE)) as stream:
            assert (await anext(stream)).pcm == b"ab"
        await asyncio.wait_for(script.gone.wait(), PATIENCE_S)
        await client.aio.aclose()
        client.close()


async def test_a_stream_read_to_its_end_leaves_its_connection_to_the_next() -> None:
    """Two streams, one connection."""
    connections = set()
    answer = answering(event(b"ab", "STOP"))

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer.get_extra_info("peername"))
        await answer(reader, writer)

    async with raw_server(note) as server:
        engine = engine_for(server.url)
        for _ in range(2):
            blocks, error = await listen(engine)
            assert (joined(blocks), error) == (b"ab", None)
        await engine.close()
    assert len(connections) == 1


# --- Gemini: time --------------------------------------------------------------------------------------------------


async def test_a_stall_ends_the_stream() -> None:
    """A pause longer than the limit is a timeout; what was billed so far is known."""
    async with scripted_stream(event(b"ab", tokens=7), stall_timeout_s=0.1) as (engine, script):
        blocks, error = await listen(engine)
        assert joined(blocks) == b"ab"
        assert (error.code, error.retryable) == (ErrorCode.TIMEOUT, True)
        assert error.usage == TokenUsage(output_tokens=7, audio_tokens=7)
        await asyncio.wait_for(script.gone.wait(), PATIENCE_S)


async def test_without_a_limit_of_its_own_a_pause_may_last_as_long_as_the_call() -> None:
    """An engine that is told nothing of pauses has one limit: that of the call."""
    async with scripted_stream(event(b"ab")) as (engine, _):
        stream = engine.stream(UTTERANCE)
        assert (await anext(stream)).pcm == b"ab"
        pausing = asyncio.create_task(anext(stream))
        while not pausing.done():
            pass_time(1)
            await asyncio.sleep(0.001)
        with pytest.raises(TTSUnavailableError) as caught:
            await pausing
    assert caught.value.code is ErrorCode.TIMEOUT


async def test_thinking_is_no_stall() -> None:
    """Before its first piece a model may take as long as a call may take: some speak all before they send any."""
    thought = asyncio.Event()
    steps = thought, event(b"ab") + event(b"cd", "STOP"), END
    async with scripted_stream(*steps, stall_timeout_s=0.1) as (engine, script):
        listening = asyncio.create_task(listen(engine))
        await script.asked.wait()
        done, _ = await asyncio.wait([listening], timeout=0.3)
        assert not done
        thought.set()
        blocks, error = await listening
    assert (joined(blocks), error, blocks[-1].finish_reason) == (b"abcd", None, "STOP")


@pytest.fixture
def one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine count its seconds by the event loop's clock, which a test lets jump."""
    clock = SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time())
    monkeypatch.setattr("audio_api.engines.gemini.time", clock)


@pytest.mark.usefixtures("one_clock")
async def test_a_stream_without_end_is_ended() -> None:
    """The sum of all waiting is bounded, however steadily the pieces drip."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        while not writer.is_closing() and not reader.at_eof():
            writer.write(chunk(event(b"ab")))
            await asyncio.sleep(0.01)

    async with raw_server(drip) as server:
        engine = engine_for(server.url)
        blocks: list[SpeechAudio] = []

        async def hear() -> None:
            async for block in engine.stream(UTTERANCE):
                blocks.append(block)  # noqa: PERF401 - those before the error count

        hearing = asyncio.create_task(hear())
        await until(lambda: len(blocks) > 1)
        pass_time(PATIENCE_S)
        with pytest.raises(TTSUnavailableError) as caught:
            await hearing
        await engine.close()
    assert caught.value.code is ErrorCode.TIMEOUT


@pytest.mark.usefixtures("one_clock")
async def test_a_slow_listener_is_no_stall() -> None:
    """The time a listener takes, to play a block for instance, is not the server's."""
    steps = event(b"ab"), event(b"cd", "STOP"), END
    async with scripted_stream(*steps) as (engine, _):
        stream = engine.stream(UTTERANCE)
        assert (await anext(stream)).pcm == b"ab"
        pass_time(2 * PATIENCE_S)  # longer than either limit
        assert joined([block async for block in stream]) == b"cd"


@pytest.mark.parametrize("end", [asyncio.Event(), ConnectionResetError], ids=["stall", "reset"])
async def test_after_the_last_word_nothing_can_go_wrong(end: Any) -> None:
    """A stream that said why it ended is complete, however its connection ends."""
    async with scripted_stream(event(b"ab", "STOP"), end, stall_timeout_s=0.1) as (engine, _):
        blocks, error = await listen(engine)
        if isinstance(end, asyncio.Event):
            end.set()
    assert (joined(blocks), error, blocks[-1].finish_reason) == (b"ab", None, "STOP")


# --- Gemini: what a stream holds -----------------------------------------------------------------------------------


async def test_the_limit_counts_over_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces arrive until together they are larger than any speech."""
    piece = event(b"ab" * 1_000)
    monkeypatch.setattr(gemini_transport, "MAX_REPLY_BYTES", 3 * len(piece))
    async with scripted_stream(*[piece] * 4) as (engine, script):
        blocks, error = await listen(engine)
        assert len(blocks) <= 3
        assert (error.code, error.retryable) == (ErrorCode.AUDIO_TOO_LARGE, False)
        await asyncio.wait_for(script.gone.wait(), PATIENCE_S)


async def test_words_and_empty_events_are_passed_over() -> None:
    """Text parts, events without candidates and a usage on its own disturb nothing; the last usage counts."""
    text = b'data: {"candidates":[{"content":{"parts":[{"text":"Sure!"}]}}]}\r\n\r\n'
    usage = b'data: {"usageMetadata":{"promptTokenCount":4,"candidatesTokenCount":50}}\r\n\r\n'
    steps = text, b"data: {}\r\n\r\n", event(b"ab", tokens=20), event(b"cd", "STOP", 40), usage, END
    async with scripted_stream(*steps) as (engine, _):
        blocks, error = await listen(engine)
    assert (joined(blocks), error) == (b"abcd", None)
    assert (blocks[-1].finish_reason, blocks[-1].usage.output_tokens) == ("STOP", 50)


async def test_a_refusal_in_mid_stream() -> None:
    """The API may change its mind: what was heard before is delivered, the refusal is final and carries its price."""
    async with scripted_stream(event(b"ab", tokens=5), event(b"cd", "SAFETY", 6), END) as (engine, _):
        blocks, error = await listen(engine)
    assert joined(blocks) == b"ab"
    assert isinstance(error, TTSContentBlockedError)
    assert error.usage == TokenUsage(output_tokens=6, audio_tokens=6)


async def test_another_codec_in_mid_stream_is_an_error_even_at_the_end() -> None:
    """A finish reason excuses the connection, never the sound."""
    other = event(b"cd", "STOP").replace(b"L16", b"mp3")
    async with scripted_stream(event(b"ab"), other, END) as (engine, _):
        blocks, error = await listen(engine)
    assert joined(blocks) == b"ab"
    assert (type(error), error.code) == (TTSAudioError, ErrorCode.AUDIO_FORMAT)


async def test_another_model_is_warned_of() -> None:
    """A silent reroute is told by the last block."""
    steps = event(b"ab", modelVersion="gemini-2.5-flash-preview-tts"), event(reason="STOP"), END
    async with scripted_stream(*steps) as (engine, _):
        blocks, _ = await listen(engine)
    assert {block.model for block in blocks} == {"gemini-2.5-flash-preview-tts"}
    assert "read aloud" in blocks[-1].warnings[0]


async def test_an_expired_custom_voice_is_not_an_unknown_model() -> None:
    """A 404 that does not name the model may mean the voice, in a stream as in one piece."""
    document = {"error": {"code": 404, "message": "Requested entity was not found.", "status": "NOT_FOUND"}}
    custom = Utterance((Turn(TEXT, VoiceConfig(voice_name="voice_x")),), MODEL, "en-US")
    async with raw_server(answering(json.dumps(document).encode(), "404 Not Found")) as server:
        engine = engine_for(server.url)
        assert type((await listen(engine, custom))[1]) is TTSAPIError
        assert type((await listen(engine))[1]) is TTSModelNotFoundError
        await engine.close()


PCM = bytes(range(256)) * 4
_MIMES = st.sampled_from(["audio/L16;codec=pcm;rate=24000", "audio/l16; rate=24000; channels=1", ""])


def _wav(pcm: bytes, size: int | None, tail: bytes) -> bytes:
    """A WAV with a chunk before its sound, a size that may be wrong, and chunks after it."""
    plain = encode_wav(pcm)
    data = b"data" + (len(pcm) if size is None else size).to_bytes(4, "little") + pcm
    return plain[:36] + b"JUNK\x05\0\0\0junk!\0" + data + tail


def _pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted(cuts), len(data)]
    return filter(None, (data[start:end] for start, end in pairwise(edges)))


def _reply(mime: str, data: bytes, reason: str | None = None) -> Any:
    blob = genai.types.Blob(mime_type=mime, data=data)
    content = genai.types.Content(parts=[genai.types.Part(inline_data=blob)])
    return genai.types.GenerateContentResponse(
        candidates=[genai.types.Candidate(content=content, finish_reason=reason)]
    )


@given(
    mime=_MIMES,
    samples=st.integers(1, 500),
    cuts=st.lists(st.integers(0, 1_000), max_size=20),
    wrapping=st.none() | st.sampled_from([(None, b""), (None, b"LIST\4\0\0\0abcd"), (0, b""), (0xFFFFFFFF, b"")]),
)
def test_sound_may_be_cut_anywhere(mime: str, samples: int, cuts: list[int], wrapping: Any) -> None:
    """However bare samples or a WAV are cut into events, whole samples come out, the same as in one piece."""
    pcm = PCM[: 2 * samples]
    data, mime = (pcm, mime) if wrapping is None else (_wav(pcm, *wrapping), "audio/wav")
    reading = IncomingReply(MODEL, Wire())
    blocks = [block for piece in _pieces(data, cuts) if (block := reading.take(_reply(mime, piece)))]
    last = reading.end()
    assert all(len(block.pcm) % 2 == 0 for block in blocks)
    assert joined(blocks) == pcm == read_reply(_reply(mime, data), asked_model=MODEL, wire=Wire()).pcm
    assert (last.sample_rate, last.finish_reason, last.warnings) == (24_000, None, ())


def test_half_a_sample_at_the_end_is_told() -> None:
    """It is cut off, and the last block says so."""
    reading = IncomingReply(MODEL, Wire())
    assert reading.take(_reply("audio/l16", b"a")) is None
    block = reading.take(_reply("audio/l16", b"bc"))
    assert block is not None
    assert block.pcm == b"ab"
    assert "half a sample" in reading.end().warnings[0]


# --- Gemini: a client of the user's own -----------------------------------------------------------------------------


def _client(**methods: Any) -> Any:
    return SimpleNamespace(aio=SimpleNamespace(models=SimpleNamespace(**methods)))


async def test_an_injected_client_that_cannot_stream_speaks_in_one_piece() -> None:
    """The stream is then a single block with everything in it."""
    client = _client(generate_content=AsyncMock(return_value=_reply("audio/l16", PCM, "STOP")))
    blocks, error = await listen(GeminiEngine(timeout_s=5, max_connections=1, client=client))
    assert error is None
    assert [(block.pcm, block.finish_reason) for block in blocks] == [(PCM, "STOP")]


async def test_an_injected_clients_stream_is_any_asynchronous_iterable() -> None:
    """It need not be a generator; a bug of its own stays a bug."""

    class Replies:
        def __init__(self) -> None:
            self._replies = [_reply("audio/l16", PCM), _reply("audio/l16", PCM, "STOP")]

        def __aiter__(self) -> Replies:
            return self

        async def __anext__(self) -> Any:
            if not self._replies:
                raise StopAsyncIteration
            return self._replies.pop(0)

    client = _client(generate_content_stream=AsyncMock(return_value=Replies()))
    blocks, error = await listen(GeminiEngine(timeout_s=5, max_connections=1, client=client))
    assert (joined(blocks), error, blocks[-1].finish_reason) == (PCM * 2, None, "STOP")
    client = _client(generate_content_stream=AsyncMock(side_effect=TypeError("a bug")))
    with pytest.raises(TypeError, match="a bug"):
        await listen(GeminiEngine(timeout_s=5, max_connections=1, client=client))


# --- offline -------------------------------------------------------------------------------------------------------

BOOK = Utterance((Turn(f"{TEXT} " * 2_000, VoiceConfig()),), "any", "en-US")
SHORT = Utterance((Turn("Yes.", VoiceConfig()),), "any", "en-US")


@pytest.fixture
async def offline() -> AsyncIterator[OfflineEngine]:
    """An engine that has not spoken yet."""
    engine = OfflineEngine()
    yield engine
    await engine.close()


def is_speaking() -> bool:
    """Whether a call is with the child: the watch over its time limit runs just then."""
    return any(isinstance(thread, threading.Timer) for thread in threading.enumerate())


async def test_offline_sound_comes_before_all_is_spoken(offline: OfflineEngine) -> None:
    """The first sound of a book is there while the process still speaks; leaving ends the process."""
    stream = offline.stream(BOOK)
    lead, first = await anext(stream), await anext(stream)
    assert not any(lead.pcm)
    assert 9 < first.duration_s < 12
    assert is_speaking()
    child = offline._child
    assert child is not None
    await stream.aclose()
    assert (await offline.synthesize(SHORT)).duration_s < 2
    assert not child.alive


async def test_a_slow_listener_does_not_hold_up_the_next_call(offline: OfflineEngine) -> None:
    """While one stream is not drawn from, another call is answered; then the stream goes on, complete."""
    long = Utterance((Turn(f"{TEXT} " * 50, VoiceConfig()),), "any", "en-US")
    stream = offline.stream(long)
    first = await anext(stream)
    assert (await offline.synthesize(SHORT)).duration_s < 2
    rest = [block async for block in stream]
    assert sum(block.duration_s for block in [first, *rest]) > 100
    assert rest[-1].finish_reason == "STOP"


async def test_a_crash_in_mid_stream(offline: OfflineEngine) -> None:
    """What was spoken before is delivered; the error says that another attempt makes sense, and that works."""
    stream = offline.stream(BOOK)
    await anext(stream)
    assert offline._child is not None
    os.kill(offline._child._process.pid, signal.SIGKILL)
    with pytest.raises(TTSUnavailableError, match="died"):
        [block async for block in stream]
    assert (await offline.synthesize(SHORT)).duration_s < 2


def test_a_loop_that_ends_in_mid_stream_leaves_nothing_to_the_next() -> None:
    """A loop closed without a farewell loses its own stream, and the next call hears only its own words."""
    engine = OfflineEngine()
    loop = asyncio.new_event_loop()
    stream = engine.stream(Utterance((Turn(f"{TEXT} " * 100, VoiceConfig()),), "any", "en-US"))
    loop.run_until_complete(anext(stream))
    loop.close()

    async def speak() -> float:
        audio = await engine.synthesize(SHORT)
        await engine.close()
        return audio.duration_s

    assert asyncio.run(speak()) < 2
    del stream
