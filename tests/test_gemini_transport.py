"""The transport below the SDK: no redirects, bounded replies, real cancellation, and no say for the environment."""

from __future__ import annotations

import asyncio
import gc
import gzip
import importlib.util
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import gemini_faults
import pytest
from gemini_faults import EXPECTED, KEY, TEXT, UTTERANCE, Failed, engine_for, outcome
from own_time import pass_time, until
from raw_server import answering, raw_server

from audio_api.emulator import Emulator, Fault
from audio_api.emulator.speech import synthesize
from audio_api.engines import gemini_transport
from audio_api.engines.base import SpeechAudio
from audio_api.errors import AudioAPIError, ConfigurationError, ErrorCode

GOOD = json.dumps(
    {
        "candidates": [
            {"content": {"parts": [{"inlineData": {"mimeType": "audio/L16", "data": "AAEC"}}]}, "finishReason": "STOP"}
        ]
    }
).encode()


def code_of(result: SpeechAudio | AudioAPIError) -> ErrorCode:
    """The code of a failure."""
    assert isinstance(result, AudioAPIError), result
    return result.code


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_a_redirect_never_gets_the_key(status: str) -> None:
    """The call ends as a wrong setting, and the server it points to hears nothing."""
    async with (
        raw_server(answering(GOOD)) as thief,
        raw_server(answering(b"", status, f"Location: {thief.url}/x\r\n")) as server,
    ):
        engine = engine_for(server.url)
        error = await outcome(engine)
        await engine.close()
    assert isinstance(error, ConfigurationError)
    assert thief.requests == []
    assert len(server.requests) == 1


async def test_only_the_first_host_sees_calls_of_the_emulator(gemini_emulator: Emulator) -> None:
    """The emulator's redirect points to itself by another name: it would see a second call."""
    engine = engine_for(gemini_emulator)
    gemini_emulator.fail_next(Fault.REDIRECT)
    await outcome(engine)
    await engine.close()
    assert len(gemini_emulator.calls) == 1


_MEASURE = """
import asyncio, resource, sys
from gemini_faults import engine_for, outcome, UTTERANCE
async def main():
    engine = engine_for(sys.argv[1], timeout_s=60)
    await outcome(engine)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = await outcome(engine)
    print(error.code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    await engine.close()
asyncio.run(main())
"""


@pytest.mark.parametrize("fault", [Fault.GZIP_BOMB, Fault.HUGE_BODY])
async def test_a_bomb_costs_little_memory(fault: Fault, gemini_emulator: Emulator) -> None:
    """300 MiB behind a small gzip body, or 200 MiB sent as they are, add less than 200 MB to the process."""
    gemini_emulator.fail_next(Fault.NONE, fault)
    measure = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _MEASURE, gemini_emulator.url, cwd=Path(__file__).parent, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await measure.communicate()
    code, growth_kib = printed.decode().split()
    assert code == ErrorCode.AUDIO_TOO_LARGE
    assert int(growth_kib) * 1024 < 200e6


@pytest.mark.parametrize(("spare_bytes", "fits"), [(0, True), (-1, False)])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
async def test_the_limit_counts_decoded_bytes(
    spare_bytes: int, fits: bool, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reply of exactly the limit passes, one byte more does not; also when a server compresses it unasked."""
    padded = GOOD + b" " * 100_000
    monkeypatch.setattr(gemini_transport, "MAX_REPLY_BYTES", len(padded) + spare_bytes)
    sent = gzip.compress(padded) if packed else padded
    async with raw_server(answering(sent, headers="Content-Encoding: gzip\r\n" if packed else "")) as server:
        engine = engine_for(server.url)
        result = await outcome(engine)
        await engine.close()
    assert isinstance(result, SpeechAudio) if fits else code_of(result) is ErrorCode.AUDIO_TOO_LARGE


async def test_an_announced_excess_is_not_waited_for() -> None:
    """A length beyond the limit ends the call before any of the body came."""

    async def announce(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")

    async with raw_server(announce) as server:
        engine = engine_for(server.url, timeout_s=60)
        assert code_of(await outcome(engine)) is ErrorCode.AUDIO_TOO_LARGE
        await engine.close()


async def test_a_damaged_encoding_is_unreadable() -> None:
    """A body that is not the gzip it claims to be."""
    async with raw_server(answering(GOOD, headers="Content-Encoding: gzip\r\n")) as server:
        engine = engine_for(server.url)
        assert code_of(await outcome(engine)) is ErrorCode.UNREADABLE_REPLY
        await engine.close()


@pytest.mark.parametrize("fault", [Fault.NEVER_ANSWERS, Fault.SLOW_LORIS])
async def test_cancelling_ends_the_call(fault: Fault, gemini_emulator: Emulator) -> None:
    """The server sees the connection go, before and inside the body, and the next call works."""
    engine = engine_for(gemini_emulator, timeout_s=60)
    gemini_emulator.fail_next(fault)
    task = asyncio.create_task(engine.synthesize(UTTERANCE))
    await until(lambda: bool(gemini_emulator.calls) and gemini_emulator.calls[0].fault is fault)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: gemini_emulator.calls[0].disconnected)
    assert isinstance(await outcome(engine), SpeechAudio)
    await engine.close()


async def test_a_timeout_ends_the_call(gemini_emulator: Emulator) -> None:
    """A reply that trickles in for ever is cut off by the total time limit, and the server sees it."""
    engine = engine_for(gemini_emulator, timeout_s=60)
    gemini_emulator.fail_next(Fault.SLOW_LORIS)
    call = asyncio.create_task(outcome(engine))
    await until(lambda: gemini_emulator.calls and gemini_emulator.calls[0].status == 200)
    pass_time(60)
    assert code_of(await call) is ErrorCode.TIMEOUT
    await until(lambda: gemini_emulator.calls[0].disconnected)
    await engine.close()


async def test_no_server_listens() -> None:
    """A refused connection is a failed connection, and nothing that may have been billed."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        engine = engine_for(f"http://127.0.0.1:{silent.getsockname()[1]}")
        error = await outcome(engine)
    await engine.close()
    assert code_of(error) is ErrorCode.CONNECTION_FAILED


async def test_as_many_calls_at_once_as_allowed() -> None:
    """No default of an HTTP library stands in the way: 120 calls are all in progress before the first is answered."""
    meeting = asyncio.Barrier(120)
    answer = answering(GOOD)

    async def answer_together(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await meeting.wait()
        await answer(reader, writer)

    async with raw_server(answer_together) as server:
        engine = engine_for(server.url, max_connections=120, timeout_s=60)
        results = await asyncio.gather(*(outcome(engine) for _ in range(120)))
        await engine.close()
    assert all(isinstance(result, SpeechAudio) for result in results)


async def test_further_calls_wait_for_a_free_connection() -> None:
    """Of eight calls over two connections never more than two are in progress."""
    busy, busiest = 0, 0
    answer, pair = answering(GOOD), asyncio.Barrier(2)

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal busy, busiest
        busy += 1
        busiest = max(busiest, busy)
        await pair.wait()
        busy -= 1
        await answer(reader, writer)

    async with raw_server(count) as server:
        engine = engine_for(server.url, max_connections=2, timeout_s=60)
        results = await asyncio.gather(*(outcome(engine) for _ in range(8)))
        await engine.close()
    assert all(isinstance(result, SpeechAudio) for result in results)
    assert busiest == server.connections == 2


async def test_connections_are_used_again_the_latest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls after a burst take a connection of the burst; of those that idle too long, each call closes one."""
    monkeypatch.setattr(gemini_transport, "_KEEP_ALIVE_S", 600.0)
    meeting = asyncio.Barrier(5)
    answer = answering(GOOD)

    async def answer_together(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) <= meeting.parties:
            await meeting.wait()
        await answer(reader, writer)

    async with raw_server(answer_together) as server:
        engine = engine_for(server.url, max_connections=10, timeout_s=60)
        await asyncio.gather(*(outcome(engine) for _ in range(meeting.parties)))
        await outcome(engine)
        assert server.connections == server.open == meeting.parties
        monkeypatch.setattr(gemini_transport, "_KEEP_ALIVE_S", 0)
        for left in range(meeting.parties - 1, 0, -1):
            await outcome(engine)
            await until(lambda left=left: server.open == left)
        assert server.connections == meeting.parties
        await engine.close()
        await until(lambda: server.open == 0)


async def test_closing_ends_calls_in_progress_and_may_be_repeated(gemini_emulator: Emulator) -> None:
    """A call under way fails as a broken connection; an engine used again opens new connections."""
    engine = engine_for(gemini_emulator, timeout_s=60)
    gemini_emulator.fail_next(Fault.NEVER_ANSWERS)
    task = asyncio.create_task(outcome(engine))
    await until(lambda: bool(gemini_emulator.calls) and gemini_emulator.calls[0].fault is Fault.NEVER_ANSWERS)
    await engine.close()
    await engine.close()
    assert code_of(await task) is ErrorCode.CONNECTION_BROKEN
    assert isinstance(await outcome(engine), SpeechAudio)
    await engine.close()


def test_one_engine_serves_many_loops(gemini_emulator: Emulator) -> None:
    """Loops one after the other and several at once each get connections of their own."""
    engine = engine_for(gemini_emulator)

    async def speak(close: bool) -> SpeechAudio | AudioAPIError:
        result = await outcome(engine)
        if close:
            await engine.close()
        return result

    results = [asyncio.run(speak(close=True)) for _ in range(2)]
    ready, leave = threading.Barrier(3), threading.Event()

    async def speak_and_stay() -> None:
        results.append(await outcome(engine))
        ready.wait()
        await asyncio.to_thread(leave.wait)

    threads = [threading.Thread(target=asyncio.run, args=(speak_and_stay(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    ready.wait()
    # From a third loop; the others' connections are closed in their own, or their loops would complain.
    asyncio.run(speak(close=True))
    leave.set()
    for thread in threads:
        thread.join()
    assert all(isinstance(result, SpeechAudio) for result in results)
    assert len(results) == 4


def test_a_loop_that_ended_is_forgotten() -> None:
    """Programs that run each request in a loop of its own do not pile up clients."""
    engines = []
    loops = []

    async def speak() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        async with raw_server(answering(GOOD, headers="Connection: close\r\n")) as server:
            engines[:] = engines or [engine_for(server.url)]
            await outcome(engines[0])

    for _ in range(2):
        asyncio.run(speak())
    gc.collect()
    assert loops[0]() is None
    asyncio.run(engines[0].close())


# What the SDK looks for before it prefers aiohttp; using any of it is an error.
_AIOHTTP = """
class ClientError(Exception): ...
class ClientOSError(ClientError, OSError): ...
class ClientConnectorError(ClientOSError): ...
class ClientConnectorDNSError(ClientConnectorError): ...
class ServerDisconnectedError(ClientError): ...
class ClientResponse: ...
class ClientSession:
    def __init__(self, *arguments, **named): raise AssertionError("aiohttp is used")
class TCPConnector(ClientSession): ...
class ClientTimeout(ClientSession): ...
"""

_HOSTILE_ENVIRONMENT = {
    "GOOGLE_GEMINI_BASE_URL": "http://127.0.0.1:9",
    "GOOGLE_VERTEX_BASE_URL": "http://127.0.0.1:9",
    "GOOGLE_API_KEY": "another-key",
    "GEMINI_API_KEY": "a-third-key",
    "GOOGLE_GENAI_API_VERSION": "v1",
    "GOOGLE_GENAI_HTTP_CLIENT": "httpx2",
    "GOOGLE_GENAI_USE_VERTEXAI": "true",
    "GOOGLE_GENAI_USE_ENTERPRISE": "true",
    "GOOGLE_CLOUD_PROJECT": "somebody-elses",
    "GOOGLE_CLOUD_LOCATION": "europe-west1",
    "GOOGLE_GENAI_CLIENT_MODE": "replay",
    "GOOGLE_GENAI_REPLAYS_DIRECTORY": "/nonexistent",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "ALL_PROXY": "http://127.0.0.1:9",
}


def test_the_environment_changes_nothing(tmp_path: Path) -> None:
    """With aiohttp importable and every variable set that the SDK reads, each fault ends exactly as without.

    The key is in no log of either run, at DEBUG on the root logger.
    """
    (tmp_path / "aiohttp").mkdir()
    (tmp_path / "aiohttp" / "__init__.py").write_text(_AIOHTTP)
    script = Path(gemini_faults.__file__)
    plain = {name: value for name, value in os.environ.items() if name not in _HOSTILE_ENVIRONMENT}
    hostile = plain | _HOSTILE_ENVIRONMENT | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    runs = [
        subprocess.Popen([sys.executable, str(script)], env=env, stdout=subprocess.PIPE, text=True)
        for env in (plain, hostile)
    ]
    without, with_all = (json.loads(run.communicate(timeout=600)[0]) for run in runs)
    assert with_all["aiohttp"]
    assert without["found"] == with_all["found"]
    assert {name for name, (heard, _) in without["found"].items() if heard[0] != "heard"} == {
        fault.value
        for fault, expected in EXPECTED.items()
        if isinstance(expected, Failed) and fault not in (Fault.GZIP_BOMB, Fault.HUGE_BODY)
    }
    assert not without["logged"]
    assert not with_all["logged"]


@pytest.mark.skipif(importlib.util.find_spec("httpx") is not None, reason="httpx is installed, so the SDK can load it")
async def test_an_http_client_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one variable that stops the SDK itself is named as what it is."""
    monkeypatch.setenv("GOOGLE_GENAI_HTTP_CLIENT", "httpx")
    engine = engine_for("http://127.0.0.1:9")
    with pytest.raises(ConfigurationError, match="GOOGLE_GENAI_HTTP_CLIENT"):
        await engine.synthesize(UTTERANCE)


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without proxies, for tests that set their own; whether one was announced is forgotten."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    gemini_transport._announce.cache_clear()
    return monkeypatch


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("scheme", ["http://user:secret@", ""])
async def test_https_goes_through_the_proxy_of_the_environment(
    name: str, scheme: str, no_proxies: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The proxy is asked for a tunnel, hears neither key nor text, and is announced once, without its password."""
    async with raw_server(answering(b"", "502 Bad Gateway")) as proxy:
        no_proxies.setenv(name, scheme + proxy.url.removeprefix("http://"))
        engines = [engine_for("https://gemini.invalid"), engine_for("https://gemini.invalid")]
        codes = [code_of(await outcome(engine)) for engine in engines]
        for engine in engines:
            await engine.close()
    assert codes == [ErrorCode.CONNECTION_FAILED] * 2
    assert all(request.startswith(b"CONNECT gemini.invalid:443 ") for request in proxy.requests)
    assert len(proxy.requests) == 2
    assert KEY.encode() not in b"".join(proxy.requests)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [vars(record)["proxy_host"] for record in warnings] == ["127.0.0.1"]
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("base_url", "no_proxy"),
    [
        ("http://127.0.0.1:9", ""),
        ("https://127.0.0.1:9", ""),
        ("https://localhost:9", ""),
        ("https://[::1]:9", ""),
        ("https://gemini.invalid", ".invalid"),
        ("https://gemini.invalid", "*"),
    ],
)
async def test_no_proxy_where_none_is_wanted(base_url: str, no_proxy: str, no_proxies: pytest.MonkeyPatch) -> None:
    """Not for this machine, whatever the variables say, and not for the hosts of NO_PROXY."""
    async with raw_server(answering(b"", "502 Bad Gateway")) as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            no_proxies.setenv(name, proxy.url)
        no_proxies.setenv("NO_PROXY", no_proxy)
        engine = engine_for(base_url)
        assert code_of(await outcome(engine)) is ErrorCode.CONNECTION_FAILED
        await engine.close()
    assert proxy.requests == []


@pytest.mark.parametrize("proxy", ["ftp://proxy.invalid", "http://proxy:port"])
async def test_a_proxy_that_cannot_be_used_is_named(proxy: str, no_proxies: pytest.MonkeyPatch) -> None:
    """A wrong variable is a configuration error, raised without a call."""
    no_proxies.setenv("HTTPS_PROXY", proxy)
    engine = engine_for("https://gemini.invalid")
    error = await outcome(engine)
    assert isinstance(error, ConfigurationError)
    assert "HTTPS_PROXY" in str(error)
    assert error.__context__ is None


def test_preflight_loads_no_sdk() -> None:
    """Checks that need no money cost no import of the SDK either."""
    code = "import sys; from audio_api.engines.gemini import GeminiEngine as E; from audio_api.engines.base import *\n"
    code += "from audio_api.models.audio_request import VoiceConfig\n"
    code += "E('k', timeout_s=1, max_connections=1).preflight(Utterance((Turn('Hi', VoiceConfig()),), 'm', 'en-US'))\n"
    code += "print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"google", "httpx2", "numpy"} & set(done.stdout.split())


_WATCHED = """
import asyncio, sys
from blockbuster import blockbuster_ctx
async def main():
    from gemini_faults import engine_for, UTTERANCE
    assert "google.genai" not in sys.modules
    engine = engine_for(sys.argv[1])
    with blockbuster_ctx():
        await engine.synthesize(UTTERANCE)
        await engine.close()
asyncio.run(main())
"""


async def test_not_even_the_first_call_blocks_the_loop(gemini_emulator: Emulator) -> None:
    """Loading the SDK and its certificates happens in a thread; blockbuster raises on anything else that blocks."""
    command = (sys.executable, "-c", _WATCHED, gemini_emulator.url)
    run = await asyncio.create_subprocess_exec(*command, cwd=Path(__file__).parent)
    assert await run.wait() == 0


async def test_the_first_call_of_many_loads_once(gemini_emulator: Emulator) -> None:
    """Calls that begin together share one client, whose sound is right for each."""
    engine = engine_for(gemini_emulator)
    results: list[Any] = await asyncio.gather(*(outcome(engine) for _ in range(10)))
    await engine.close()
    assert {result.pcm for result in results} == {synthesize(TEXT, "kore", "en-US")}
