"""Large replies on their way: on disk instead of in memory, their sound past the SDK's parser, and nothing changed."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import resource
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gemini_faults import engine_for, outcome
from hypothesis import given
from hypothesis import strategies as st
from raw_server import answering, raw_server

from audio_api.audio.wav import encode_wav
from audio_api.engines import gemini_body
from audio_api.engines.base import SpeechAudio
from audio_api.engines.gemini_body import Body
from audio_api.engines.gemini_transport import open_http_client
from audio_api.errors import AudioAPIError, ErrorCode

# 50 seconds, no two of which are alike; of a size that no padding of base64 fits by chance.
PCM = np.arange(600_001, dtype="<u4").tobytes()


def reply(*parts: dict[str, Any], indent: int | None = None) -> bytes:
    """A reply of the API."""
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}
    usage = {"promptTokenCount": 3, "candidatesTokenCount": 1250, "totalTokenCount": 1253}
    return json.dumps({"candidates": [candidate], "usageMetadata": usage}, indent=indent).encode()


def sound(pcm: bytes, mime: str = "audio/l16; rate=24000; channels=1") -> dict[str, Any]:
    """A part with sound."""
    return {"inlineData": {"mimeType": mime, "data": base64.b64encode(pcm).decode()}}


def same(left: bytes, right: bytes) -> bool:
    """Whether two long values are equal: pytest would print their difference."""
    return left == right


async def heard(body: bytes) -> SpeechAudio | AudioAPIError:
    """What the engine makes of a reply."""
    async with raw_server(answering(body)) as server:
        engine = engine_for(server.url, timeout_s=60)
        result = await outcome(engine)
        await engine.close()
    return result


def open_files() -> list[os.stat_result]:
    """What the file descriptors of this process lead to; the one that lists them is closed by then."""
    return [path.stat() for path in list(Path("/proc/self/fd").iterdir()) if path.exists()]


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """Let every file of this process end there, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("indent", [None, 2], ids=["compact", "as Google indents it"])
@pytest.mark.parametrize(
    "parts",
    [[sound(PCM)], [sound(encode_wav(PCM), "audio/wav")], [sound(PCM[:2_000_000]), sound(b""), sound(PCM[2_000_000:])]],
    ids=["samples", "wav", "parts"],
)
async def test_a_large_reply_arrives_whole(parts: list[dict[str, Any]], indent: int | None) -> None:
    """Every sample in order, in one part or several, and the tokens billed."""
    audio = await heard(reply(*parts, indent=indent))
    assert isinstance(audio, SpeechAudio)
    assert same(audio.pcm, PCM)
    assert (audio.finish_reason, audio.usage.output_tokens) == ("STOP", 1250)


async def test_text_that_looks_like_sound_stays_text() -> None:
    """A quotation of JSON in a text part is not taken for sound, however long it is."""
    quoted = json.dumps({"data": "A" * 700_000})
    audio = await heard(reply({"text": quoted}, sound(PCM), {"text": "sound 0"}))
    assert isinstance(audio, SpeechAudio)
    assert same(audio.pcm, PCM)
    error = await heard(reply({"text": quoted}))
    assert isinstance(error, AudioAPIError)
    assert (error.code, "text instead of audio" in str(error)) == (ErrorCode.NO_AUDIO, True)


async def test_damaged_base64_is_unreadable() -> None:
    """Whether it is so from its beginning or only later, alone or beside a good sound."""
    damaged = sound(PCM)
    for data in ("*" * 2_000_000, damaged["inlineData"]["data"][:2_000_000] + "*" * 4, "A" * 2_000_001):
        damaged["inlineData"]["data"] = data
        for parts in ([damaged], [sound(PCM), damaged]):
            error = await heard(reply(*parts))
            assert isinstance(error, AudioAPIError)
            assert error.code is ErrorCode.UNREADABLE_REPLY


def spelled(data: str, how: str) -> str:
    """The same base64 in another spelling; that of the spare bits ends with two letters and a padding of two."""
    match how:
        case "URL-safe":
            return data.translate(str.maketrans("+/", "-_"))
        case "both alphabets":
            return data.replace("+", "-", 1)
        case "unpadded":
            return data.rstrip("=")
        case "spare bits":
            return data[:-3] + chr(ord(data[-3]) + 1) + "=="
    return data


@pytest.mark.parametrize("how", ["standard", "URL-safe", "both alphabets", "unpadded", "spare bits"])
@pytest.mark.parametrize("n_bytes", [100, 100_000, 1_000_000])
async def test_base64_is_read_however_it_is_spelled(n_bytes: int, how: str) -> None:
    """As gateways write it: of any size, every sample arrives."""
    pcm = PCM[: n_bytes - (n_bytes - 1) % 3] + b"\xfb\xff\xfe\0" + b"\0" * 2
    pcm = pcm[: len(pcm) // 6 * 6 - 2]
    part = sound(pcm)
    assert part["inlineData"]["data"].endswith("A==")
    part["inlineData"]["data"] = spelled(part["inlineData"]["data"], how)
    audio = await heard(reply(part))
    assert isinstance(audio, SpeechAudio)
    assert same(audio.pcm, pcm)


@pytest.mark.parametrize("n_bytes", [100_000, 1_000_000])
async def test_a_mark_that_the_server_sent_stands_for_no_second_sound(n_bytes: int) -> None:
    """Thousands of marks of ten letters would else be thousands of copies of a sound."""
    audio = await heard(reply(sound(PCM[:n_bytes]), *[sound(b"sound 0.")] * 2_000))
    assert isinstance(audio, SpeechAudio)
    assert same(audio.pcm, PCM[:n_bytes] + b"sound 0." * 2_000)
    audio = await heard(reply(sound(PCM[:n_bytes]), *[sound(b"sound 0")] * 2_000))
    assert isinstance(audio, SpeechAudio)
    assert len(audio.pcm) < n_bytes + 20_000


async def test_a_large_reply_that_is_cut_is_unreadable_and_leaves_no_file() -> None:
    """JSON that ends inside the sound."""
    await heard(reply(sound(b"\1\0")))
    before = len(open_files())
    error = await heard(reply(sound(PCM))[:-300_000])
    assert isinstance(error, AudioAPIError)
    assert error.code is ErrorCode.UNREADABLE_REPLY
    assert len(open_files()) == before


async def test_a_call_that_is_cancelled_while_its_file_is_made_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that makes the file goes on; the file is closed all the same."""
    begun, may_go_on = asyncio.Event(), threading.Event()
    files: list[FileIO] = []
    loop, make_file = asyncio.get_running_loop(), tempfile.TemporaryFile

    def make(buffering: int) -> Any:
        loop.call_soon_threadsafe(begun.set)
        may_go_on.wait()
        files.append(make_file(buffering=buffering))
        return files[-1]

    async def read() -> None:
        with closing(Body()) as body:
            await body.add(bytes(1_000_000))

    monkeypatch.setattr(tempfile, "TemporaryFile", make)
    reading = asyncio.create_task(read())
    await begun.wait()
    loop.call_soon(may_go_on.set)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert reading.cancelled()
    assert [file.closed for file in files] == [True]


async def test_who_calls_without_the_engine_gets_the_reply_as_it_came() -> None:
    """The doctor reads replies by itself."""
    body = reply(sound(PCM))
    async with raw_server(answering(body)) as server, open_http_client(server.url, max_connections=1) as client:
        assert same((await client.post(server.url)).content, body)


async def test_without_a_folder_for_temporary_files_it_stays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reply was paid for: no disk is no reason to lose it."""
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    audio = await heard(reply(sound(PCM)))
    assert isinstance(audio, SpeechAudio)
    assert same(audio.pcm, PCM)


@pytest.mark.parametrize("room", [0, 1_000_000, 1_500_001, 3_199_999])
async def test_a_disk_that_fills_up_on_the_way_loses_nothing(room: int) -> None:
    """Whatever did not fit stays in memory, and the reply is read as usual."""
    body = reply(sound(PCM))
    with largest_file(room):
        audio = await heard(body)
    assert isinstance(audio, SpeechAudio)
    assert same(audio.pcm, PCM)


async def test_a_large_reply_waits_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """While it comes in, all but half a megabyte is in a file without a name."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    disk, body = tmp_path.stat().st_dev, reply(sound(PCM))
    with closing(Body()) as growing:
        for at in range(0, len(body), 65_536):
            await growing.add(body[at : at + 65_536])
        waiting = [status.st_size for status in open_files() if not status.st_nlink and status.st_dev == disk]
        assert 0 <= len(body) - max(waiting) < 2**19
        assert list(tmp_path.iterdir()) == []


_SOUNDS = st.binary(max_size=64).map(lambda data: base64.b64encode(data).decode())
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | _SOUNDS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.fixed_dictionaries({}, optional={"data": _SOUNDS | st.none(), "text": inner, 'quoted"data': inner})
    ),
    max_leaves=20,
)


@given(document=_VALUES, cuts=st.lists(st.integers(0, 2_000)), indent=st.sampled_from([None, 1]))
def test_nothing_is_changed_on_the_way(document: Any, cuts: list[int], indent: int | None) -> None:
    """Whatever the JSON, and wherever it is cut: with the sounds in place of their marks it is the same again."""
    body = json.dumps(document, indent=indent).encode()
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})

    async def unpack() -> gemini_body.Unpacked:
        with closing(Body()) as growing:
            for start, end in pairwise(edges):
                await growing.add(body[start:end])
            return await growing.unpack()

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"_STEP_BYTES": 8, "_SOUND_FROM_BYTES": 8}.items():
            patch.setattr(gemini_body, name, value)
        unpacked = asyncio.run(unpack())

    def restored(value: Any) -> Any:
        match value:
            case dict():
                return {name: restored(inner) for name, inner in value.items()}
            case list():
                return [restored(inner) for inner in value]
            case str() if (mark := _decoded(value)) in unpacked.sounds:
                return base64.b64encode(unpacked.sounds[mark]).decode()
        return value

    assert restored(json.loads(unpacked.json)) == document


def _decoded(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        return b""
