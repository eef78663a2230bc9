"""Replies that no speech has: they cost little memory and time, stop no event loop, and lose no sound beside them.

The real SDK reads them from a real socket. Memory and the loop's longest stall are measured in a process of their own.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from books import MODEL, same, settings
from gemini_faults import UTTERANCE, engine_for, outcome
from hypothesis import given
from hypothesis import strategies as st
from kit import CLOCK, sound_part
from project import variables_without
from raw_server import answering, raw_server
from sound import read_wav

from audio_api.emulator.speech import synthesize
from audio_api.engines.base import SpeechAudio
from audio_api.engines.gemini_json import Events
from audio_api.errors import AudioAPIError, ErrorCode, TTSRateLimitError
from audio_api.models.audio_request import AudioRequest
from audio_api.services.tts_service import TTSService

TEXT = "The quick brown fox jumps over the lazy dog."
SOUND = synthesize(TEXT, "kore", "en-US")
MB = 1_000_000
MOST_MB = 400
MOST_STALL_S = 0.5

# For every line of "URL kind" it prints what the call ends with, the memory it took in MB, and the longest that the
# event loop stood still in seconds. Of a stall, only what this process computed meanwhile counts: a busy machine is
# late as well. Memory counts from that of the first call on, so that nothing kept by an earlier call is overlooked.
# Before each call the allocator gives back what it keeps without a use.
PROGRAM = """
import asyncio, ctypes, gc, json, re, sys, time
from gemini_faults import UTTERANCE, engine_for
from audio_api.errors import AudioAPIError

def memory_mb(name):
    # Not ru_maxrss, which begins with that of the process that started this one, and never falls.
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

async def listen(engine, streamed):
    if not streamed:
        return [await engine.synthesize(UTTERANCE)]
    return [block async for block in engine.stream(UTTERANCE)]

async def measured(url, streamed):
    engine, stall_s = engine_for(url, timeout_s=120), 0.0
    await engine.warm_up(UTTERANCE.model)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    # The peak begins again.
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    call = asyncio.create_task(listen(engine, streamed))
    while not call.done():
        clocks = time.perf_counter(), time.process_time()
        await asyncio.sleep(0)
        await asyncio.wait([call], timeout=0.005)
        stall_s = max(stall_s, min(time.perf_counter() - clocks[0] - 0.005, time.process_time() - clocks[1]))
    try:
        ended = "%d bytes" % sum(len(block.pcm) for block in call.result())
    except AudioAPIError as error:
        ended = error.code
    await engine.close()
    return ended, memory_mb("VmHWM"), stall_s

async def main():
    await measured("http://127.0.0.1:9", False)  # loads the SDK
    before = memory_mb("VmRSS")
    for line in sys.stdin:
        url, kind = line.split()
        ended, peak_mb, stall_s = await measured(url, kind == "stream")
        print(json.dumps([ended, peak_mb - before, stall_s]), flush=True)

asyncio.run(main())
"""


def reply(parts: list[dict[str, Any]] | None = None, **more: Any) -> bytes:
    """A reply of the API."""
    sound = {"inlineData": {"mimeType": "audio/L16", "data": base64.b64encode(SOUND).decode()}}
    candidate = {"content": {"parts": [sound] if parts is None else parts}, "finishReason": "STOP"}
    usage = {"promptTokenCount": 9, "candidatesTokenCount": 43}
    return json.dumps({"candidates": [candidate], "usageMetadata": usage, **more}).encode()


def filled(size: int, template: bytes, item: bytes, comma: bytes = b",") -> bytes:
    """A document of about this size, with as many of the items as fit in the place of the mark ``@``."""
    return template.replace(b"@", comma.join([item] * (size // (len(item) + len(comma)))))


PARTS = b'{"candidates":[{"content":{"parts":[@]},"finishReason":"STOP"}]}'
UNSAID = b'{"candidates":[{"content":{"parts":[]}}],"x":@}'
RIFF = b"RIFF\xff\xff\xff\xffWAVE" + struct.pack("<4sI", b"JUNK", 0) * 4_000_000

REPLIES: dict[str, tuple[Callable[[], bytes], ErrorCode | None]] = {
    "candidates": (lambda: filled(20 * MB, b'{"candidates":[@]}', b"{}"), ErrorCode.AUDIO_TOO_LARGE),
    "half a megabyte of candidates": (lambda: filled(MB // 2, b'{"candidates":[@]}', b"{}"), ErrorCode.AUDIO_TOO_LARGE),
    "fewer candidates": (lambda: filled(50_000, b'{"candidates":[@]}', b"{}"), ErrorCode.NO_AUDIO),
    "candidates that are none": (lambda: filled(MB // 2, b'{"candidates":[@]}', b"1"), ErrorCode.UNREADABLE_REPLY),
    "empty parts": (lambda: filled(40 * MB, PARTS, b"{}"), ErrorCode.AUDIO_TOO_LARGE),
    "200 kB of parts": (lambda: filled(200_000, PARTS, b'{"text":"a"}'), ErrorCode.NO_AUDIO),
    "half a megabyte of strings": (lambda: filled(MB // 2, UNSAID.replace(b"@", b"[@]"), b'""'), ErrorCode.NO_AUDIO),
    "text parts": (lambda: filled(40 * MB, PARTS, b'{"text":"a"}'), ErrorCode.AUDIO_TOO_LARGE),
    "parts with a sample each": (
        lambda: filled(40 * MB, PARTS, b'{"inlineData":{"mimeType":"audio/L16","data":"AAA="}}'),
        ErrorCode.AUDIO_TOO_LARGE,
    ),
    "300 kB of parts with a sample": (lambda: filled(300_000, PARTS, b'{"inlineData":{"data":"AAA="}}'), None),
    "one text": (lambda: UNSAID.replace(b"@", b'"' + b"a" * 60 * MB + b'"'), ErrorCode.AUDIO_TOO_LARGE),
    "text that looks like sounds": (
        lambda: UNSAID.replace(b"@", b'["' + rb"\"data\":\"" * 5 * MB + b'"]'),
        ErrorCode.AUDIO_TOO_LARGE,
    ),
    "empty sounds": (lambda: filled(60 * MB, UNSAID.replace(b"@", b"[@]"), b'{"data":""}'), ErrorCode.AUDIO_TOO_LARGE),
    "one number": (lambda: UNSAID.replace(b"@", b"9" * 60 * MB), ErrorCode.AUDIO_TOO_LARGE),
    "a number of half a megabyte": (lambda: UNSAID.replace(b"@", b"9" * (MB // 2)), ErrorCode.NO_AUDIO),
    "a fraction of half a megabyte": (lambda: UNSAID.replace(b"@", b"1." + b"9" * (MB // 2)), ErrorCode.NO_AUDIO),
    "numbers": (lambda: filled(MB // 2, UNSAID.replace(b"@", b"[@]"), b"1"), ErrorCode.NO_AUDIO),
    "spaces": (lambda: reply() + b" " * 60 * MB, ErrorCode.AUDIO_TOO_LARGE),
    "depth": (lambda: UNSAID.replace(b"@", b"[" * 60 * MB), ErrorCode.AUDIO_TOO_LARGE),
    "depth of 30 kB": (lambda: UNSAID.replace(b"@", b"[" * 30_000), ErrorCode.UNREADABLE_REPLY),
    "names": (lambda: filled(60 * MB, b"{@}", b'"candidates":[]'), ErrorCode.AUDIO_TOO_LARGE),
    "a type": (lambda: reply([sound_part(SOUND, "audio/L16;" + "a" * 2 * MB)]), ErrorCode.AUDIO_TOO_LARGE),
    "a type of half a megabyte": (lambda: reply([sound_part(SOUND, "audio/L16;" + "a" * (MB // 2))]), None),
    "a type of many parameters": (lambda: reply([sound_part(SOUND, "audio/L16" + ";a=b" * 100_000)]), None),
    "chunks of a WAV": (lambda: reply([sound_part(RIFF, "audio/wav")]), ErrorCode.AUDIO_FORMAT),
    "the longest sound": (lambda: reply([sound_part(bytes(48 * MB))]), None),
    "the longest sound at 8 kHz": (lambda: reply([sound_part(bytes(10 * MB), "audio/L16;rate=8000")]), None),
}
"""Bodies, and what the call ends with; ``None``: with sound."""


@pytest.fixture(scope="module")
def caller() -> Iterator[subprocess.Popen[str]]:
    """The process that is measured. Coverage, which would slow it down, is not."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parent,
        env=variables_without("COVERAGE_"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.communicate()
    assert process.returncode == 0


async def measured(
    caller: subprocess.Popen[str], body: bytes, kind: str, status: str = "200 OK", headers: str = ""
) -> tuple[str, float, float]:
    """What a call ends with, the megabytes it took, and the longest stall of the event loop in seconds."""
    assert caller.stdin is not None
    assert caller.stdout is not None
    async with raw_server(answering(body, status, headers)) as server:
        print(server.url, kind, file=caller.stdin, flush=True)
        said = await asyncio.to_thread(caller.stdout.readline)
    ended, memory_mb, stall_s = json.loads(said)
    return ended, memory_mb, stall_s


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["reply", "stream"])
@pytest.mark.parametrize("name", REPLIES)
async def test_a_hostile_reply_costs_little(name: str, kind: str, caller: subprocess.Popen[str]) -> None:
    """In one piece and as an event of a stream: little memory, no stall, and an error that says what is wrong."""
    make, code = REPLIES[name]
    body = make()
    if kind == "stream":
        body = b"data: " + body + b"\r\n\r\n"
    ended, memory_mb, stall_s = await measured(caller, body, kind)
    assert ended.endswith(" bytes") if code is None else ended == code
    assert memory_mb < MOST_MB
    assert stall_s < MOST_STALL_S


EVENTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty events": (lambda: b"data: {}\n\n" * 6 * MB, ErrorCode.AUDIO_TOO_LARGE),
    "empty candidates": (lambda: b'data: {"candidates":[{}]}\n\n' * 2 * MB, ErrorCode.AUDIO_TOO_LARGE),
    "empty lines": (lambda: b"\n" * 60 * MB, ErrorCode.AUDIO_TOO_LARGE),
    "comments": (lambda: b":\n" * (MB // 2) + b"data: " + reply() + b"\n\n", f"{len(SOUND)} bytes"),
    "one event in lines": (lambda: b"data:[\n" * 8 * MB, ErrorCode.AUDIO_TOO_LARGE),
    "lines of nothing known": (lambda: b"{\n" * 30 * MB, ErrorCode.AUDIO_TOO_LARGE),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EVENTS)
async def test_a_hostile_stream_costs_little(name: str, caller: subprocess.Popen[str]) -> None:
    """However many events and lines there are."""
    make, expected = EVENTS[name]
    ended, memory_mb, stall_s = await measured(caller, make(), "stream")
    assert ended == expected
    assert memory_mb < MOST_MB
    assert stall_s < MOST_STALL_S


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["reply", "stream"])
@pytest.mark.parametrize(
    "item",
    [b"{}", b'{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{}]}'],
    ids=["empty", "quotas"],
)
@pytest.mark.parametrize("size", [40 * MB, 60_000])
async def test_an_error_with_millions_of_details_is_that_error(
    size: int, item: bytes, kind: str, caller: subprocess.Popen[str]
) -> None:
    """Its status and its header say what to do; of its body the beginning is read."""
    body = filled(size, b'{"error":{"code":429,"message":"slow down","details":[@]}}', item)
    ended, memory_mb, stall_s = await measured(caller, body, kind, "429 Too Many Requests", "Retry-After: 7\r\n")
    assert ended == ErrorCode.RATE_LIMITED
    assert memory_mb < 100
    assert stall_s < MOST_STALL_S


@pytest.mark.parametrize(
    "document",
    [
        b"[" * 5_000,
        b"\xff\xfe" * 300,
        b'{"error":{"code":@}}'.replace(b"@", b"9" * 5_000),
        b'{"error":NaN}',
        b"<html>",
    ],
    ids=range(5),
)
async def test_whatever_the_body_of_an_error_its_status_counts(document: bytes) -> None:
    """Deep, no UTF-8, numbers without end, no JSON: a 429 is a 429, with its delay."""
    async with raw_server(answering(document, "429 Too Many Requests", "Retry-After: 7\r\n")) as server:
        engine = engine_for(server.url, max_connections=1)
        errors = [await outcome(engine) for _ in range(2)]
        await engine.close()
    for error in errors:
        assert isinstance(error, TTSRateLimitError)
        assert (error.code, error.retry_after_s) == (ErrorCode.RATE_LIMITED, 7)
        assert len(str(error)) < 500


# --- tokens --------------------------------------------------------------------------------------------------------

COUNTS = ["1e400", "1e308", "9" * 5_000, "99999999999", "-5", "true", '"12"', "NaN", "-Infinity", "1.5", "[]", "{}"]


@pytest.mark.parametrize("field", ["promptTokenCount", "candidatesTokenCount", "tokenCount"])
@pytest.mark.parametrize("count", COUNTS, ids=range(len(COUNTS)))
@pytest.mark.parametrize("streamed", [False, True], ids=["reply", "stream"])
async def test_sound_is_kept_whatever_the_count_of_its_tokens(
    tmp_path: Path, field: str, count: str, streamed: bool
) -> None:
    """One call; what it cost is unknown."""
    usage = {"promptTokenCount": 9, "candidatesTokenCount": 43, "candidatesTokensDetails": [{"modality": "AUDIO"}]}
    holder = usage if field in usage else usage["candidatesTokensDetails"][0]  # type: ignore[index]  # a list
    holder[field] = "@"  # type: ignore[index]  # a dictionary
    body = reply(usageMetadata=usage).replace(b'"@"', count.encode())
    accounts = []
    async with raw_server(answering(b"data: " + body + b"\r\n\r\n" if streamed else body)) as server:
        config = settings(server.url, tmp_path, default_tts_model=MODEL)
        async with TTSService(config, clock=CLOCK) as tts:
            request = AudioRequest(text=TEXT, output_filename="fox")
            if streamed:
                heard = b"".join([block async for block in tts.stream_audio(request, on_done=accounts.append)])
                response = accounts[0]
            else:
                response = await tts.generate_audio(request)
                heard = (read_wav(response.file_path) * 32_768).astype("<i2").tobytes()
    assert heard == SOUND
    assert (response.attempts, response.cost_usd) == (1, None)
    assert response.usage.output_tokens == response.usage.input_tokens == 0


async def test_a_count_that_is_none_at_the_end_of_a_stream_makes_the_cost_unknown(tmp_path: Path) -> None:
    """The total before it is not the whole."""
    accounts = []
    last = b'data: {"usageMetadata":{"promptTokenCount":1e400,"candidatesTokenCount":50}}\r\n\r\n'
    async with raw_server(answering(b"data: " + reply() + b"\r\n\r\n" + last)) as server:
        config = settings(server.url, tmp_path, default_tts_model=MODEL)
        async with TTSService(config, clock=CLOCK) as tts:
            async for _ in tts.stream_audio(AudioRequest(text=TEXT), on_done=accounts.append):
                pass
    assert accounts[0].cost_usd is None


# --- junk beside the sound -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        b'"createTime":1e400',
        b'"modelVersion":"\\ud800"',
        b'"modelVersion":["a"]',
        b'"promptFeedback":[]',
        b'"promptFeedback":{"safetyRatings":"\\udfff"}',
        b'"usageMetadata":5',
        b'"usageMetadata":{"candidatesTokensDetails":{}}',
        b'"x":NaN,"y":Infinity,"z":' + b"9" * 6_000,
        b'"responseId":{"a":[1,2]}',
        b'"modelStatus":"unknown"',
    ],
    ids=range(10),
)
async def test_junk_beside_a_sound_loses_nothing(more: bytes) -> None:
    """Fields of a wrong type, numbers that are none, halves of characters."""
    async with raw_server(answering(reply()[:-1] + b"," + more + b"}")) as server:
        engine = engine_for(server.url)
        audio = await outcome(engine)
        await engine.close()
    assert isinstance(audio, SpeechAudio)
    assert audio.pcm == SOUND


async def test_a_half_of_a_character_in_a_text_part_loses_nothing() -> None:
    """The text is not read; that it is there is."""
    async with raw_server(answering(reply([{"text": "\ud800"}, sound_part(SOUND), {"thought": 5}]))) as server:
        engine = engine_for(server.url)
        audio = await outcome(engine)
        await engine.close()
    assert isinstance(audio, SpeechAudio)
    assert audio.pcm == SOUND


async def test_the_last_of_equal_names_counts() -> None:
    """As in every reader of JSON."""
    body = reply().replace(b'{"candidates"', b'{"candidates": [], "candidates"', 1)
    async with raw_server(answering(body)) as server:
        engine = engine_for(server.url)
        audio = await outcome(engine)
        await engine.close()
    assert isinstance(audio, SpeechAudio)
    assert audio.pcm == SOUND


async def test_thousands_of_parts_are_one_sound() -> None:
    """Blocks of 70 ms, gathered into one reply by a gateway."""
    parts = [sound_part(SOUND[at : at + 3_282]) for at in range(0, len(SOUND), 3_282)] * 200
    async with raw_server(answering(reply(parts))) as server:
        engine = engine_for(server.url, timeout_s=120)
        audio = await outcome(engine)
        await engine.close()
    assert isinstance(audio, SpeechAudio)
    assert same(audio.pcm, SOUND * 200)


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(
        {"candidates", "content", "parts", "inlineData", "data", "mimeType", "text", "finishReason", "finishMessage",
         "usageMetadata", "promptTokenCount", "candidatesTokensDetails", "tokenCount", "promptFeedback", "blockReason",
         "modelVersion", "error", "code", "details", "message", "status"})), inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.slow
@given(document=_ANY, status=st.sampled_from(["200 OK", "400 Bad Request", "429 Too Many Requests", "503 Oh"]))
def test_any_json_is_an_answer_or_an_error_of_ours(document: Any, status: str) -> None:
    """In one piece and in a stream, under any status."""

    async def ask() -> None:
        body = json.dumps(document).encode()
        for answer in (body, b"data: " + body + b"\n\n"):
            async with raw_server(answering(answer, status)) as server:
                engine = engine_for(server.url)
                try:
                    if answer is body:
                        await engine.synthesize(UTTERANCE)
                    else:
                        _ = [block async for block in engine.stream(UTTERANCE)]
                except AudioAPIError:
                    pass
                finally:
                    await engine.close()

    asyncio.run(ask())


@given(cuts=st.lists(st.integers(0, 200)), end=st.sampled_from([b"\n", b"\r\n"]))
def test_events_may_be_cut_anywhere(cuts: list[int], end: bytes) -> None:
    """The same events, in lines that end either way; comments and other fields are no part of them."""
    lines = [
        b": hi",
        b'data: {"a":',
        b'data: "b"}',
        b"",
        b"event: x",
        b"id: 5",
        b"data:{}",
        b"",
        b"",
        b'{"error":',
        b"5}",
    ]
    body = end.join(lines)
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    events = Events()
    found = [event for start, stop in pairwise(edges) for event in events.feed(body[start:stop])]
    assert [json.loads(event) for event in [*found, events.end()]] == [{"a": "b"}, {}, {"error": 5}]
