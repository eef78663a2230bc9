"""``audio-api serve`` as clients of OpenAI's speech API see it, over a real socket; the emulator is Gemini."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import openai
import pytest
from decoded import assert_whole, decoded, pcm_samples
from own_time import PATIENCE_S
from served import Served

from audio_api.config import AudioConfig
from audio_api.emulator import Emulator, Fault
from audio_api.emulator.speech import synthesize
from audio_api.models.speech_models import MODEL_SPECS
from audio_api.server.catalogue import OPENAI_VOICES

FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")
TEXT = "The quick brown fox jumps over the lazy dog, and then it sleeps for a while in the sun."
_numbers = count(1)


def settings(emulator: Emulator, folder: Path, **values: Any) -> AudioConfig:
    """A server's settings, with short waits and a queue of its own."""
    values.setdefault("queue_name", f"served-{uuid4().hex}")
    return AudioConfig(
        gemini_api_key="any",
        gemini_base_url=emulator.url,
        output_dir=folder / "out",
        retry_attempts=3,
        retry_min_wait=0.0,
        retry_max_wait=0.01,
        max_concurrency=300,
        **values,
    )


@pytest.fixture(scope="module")
def served(_gemini_emulator_server: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests of this module."""
    with Served(settings(_gemini_emulator_server, tmp_path_factory.mktemp("served"))) as server:
        yield server


def new_text() -> str:
    """A text that no test has spoken."""
    return f"{TEXT} This is number {next(_numbers)}."


def raw_request(body: Mapping[str, Any], version: str = "1.1") -> bytes:
    """A request for speech as bytes, for clients that leave or are old."""
    content = json.dumps(body).encode()
    head = ["Host: 127.0.0.1", "Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join([f"POST /v1/audio/speech HTTP/{version}", *head, "", ""]).encode() + content


def assert_spoken(content: bytes, sound_format: str, text: str, voice: str = "kore") -> None:
    """Assert that the sound is the whole text."""
    assert_whole(decoded(content, sound_format), pcm_samples(synthesize(text, voice, "en-US")))


@pytest.mark.parametrize("sound_format", FORMATS)
def test_openai_gets_the_whole_speech_in_every_format(
    sound_format: Any, served: Served, gemini_emulator: Emulator
) -> None:
    """OpenAI's client saves a file that decodes to the whole text, with its type, and its length where it is known."""
    text = new_text()
    with openai.OpenAI(api_key="any", base_url=f"{served.url}/v1") as client:
        answer = client.audio.speech.create(
            model="gpt-4o-mini-tts",
            voice="nova",
            input=text,
            instructions="calm, warm",
            response_format=sound_format,
            extra_body={"user": "somebody", "stream": True, "backend": "x"},
        )
    assert_spoken(answer.content, sound_format, text, "leda")
    types = {"mp3": "audio/mpeg", "opus": "audio/ogg", "pcm": "audio/pcm;rate=24000;channels=1"}
    assert answer.response.headers["content-type"] == types.get(sound_format, f"audio/{sound_format}")
    length = answer.response.headers.get("content-length")
    assert length == (str(len(answer.content)) if sound_format in {"wav", "flac"} else None)
    (call,) = gemini_emulator.calls
    assert call.model == "gemini-3.8-flash-tts"
    assert "calm, warm" in json.dumps(call.body)


async def test_openais_async_client_streams(served: Served, gemini_emulator: Emulator) -> None:
    """The asynchronous client hears the speech block by block, and the request's id."""
    text = new_text()
    async with (
        openai.AsyncOpenAI(api_key="any", base_url=served.url) as client,
        client.audio.speech.with_streaming_response.create(
            model="tts-1", voice={"id": "kore"}, input=text, extra_headers={"x-request-id": "my-own_1"}
        ) as answer,
    ):
        content = b"".join([block async for block in answer.iter_bytes()])
    assert answer.headers["x-request-id"] == "my-own_1"
    assert_spoken(content, "mp3", text)


@pytest.mark.parametrize("sound_format", ["mp3", "wav", "pcm"])
def test_openai_reads_events(sound_format: Any, served: Served, gemini_emulator: Emulator) -> None:
    """As events, the base64 parts are the sound of the format asked for, and the last event tells what was billed."""
    text = new_text()
    with (
        openai.OpenAI(api_key="any", base_url=f"{served.url}/v1") as client,
        client.audio.speech.with_streaming_response.create(
            model="gpt-4o-mini-tts", voice="alloy", input=text, response_format=sound_format, stream_format="sse"
        ) as answer,
    ):
        events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
    assert answer.headers["content-type"] == "text/event-stream"
    *deltas, done = events
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    assert_spoken(b"".join(base64.b64decode(event["audio"]) for event in deltas), sound_format, text, "aoede")
    assert done["type"] == "speech.audio.done"
    usage = done["usage"]
    assert usage["output_tokens"] > 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_curl_saves_a_file(served: Served, gemini_emulator: Emulator, tmp_path: Path) -> None:
    """curl, without a model, a voice or a format, gets an mp3 of constant bit rate without a Xing frame."""
    if not shutil.which("curl"):
        pytest.skip("no curl here")
    text, file = new_text(), tmp_path / "x.mp3"
    command = ["curl", "-sSf", "-o", file, f"{served.url}/audio/speech", "-H", "content-type: application/json"]
    subprocess.run([*command, "-d", json.dumps({"input": text})], check=True, timeout=600)
    content = file.read_bytes()
    assert_spoken(content, "mp3", text)
    assert b"Xing" not in content
    assert b"Info" not in content[:200]


async def test_open_webui_finds_models_and_voices_without_a_key(served: Served) -> None:
    """Its three lists have the shapes it reads."""
    async with aiohttp.ClientSession(served.url) as client:
        async with client.get("/audio/voices") as answer:
            voices = {voice["id"]: voice["name"] for voice in (await answer.json())["voices"]}
        async with client.get("/v1/audio/models") as answer:
            models = [model["id"] for model in (await answer.json())["models"]]
        async with client.get("/models") as answer:
            listed = (await answer.json())["data"]
    assert len(voices) == 30 + 13
    assert voices["kore"] == "Kore (Firm)"
    assert set(OPENAI_VOICES) <= set(voices)
    assert models == [model["id"] for model in listed]
    ends = {model["id"]: model["shutdown_date"] for model in listed}
    assert ends["gemini-2.5-flash-preview-tts"] == str(MODEL_SPECS["gemini-2.5-flash-preview-tts"].shutdown)
    assert ends["tts-1"] is None


CLIENTS = {
    "Open WebUI": ("/v1", {"model": "tts-1", "voice": "alloy"}, "mp3", "aoede"),
    "SillyTavern": ("/v1", {"model": "tts-1", "voice": "kore", "response_format": "mp3", "speed": 1}, "mp3", "kore"),
    "Home Assistant": (
        "/v1",
        {"model": "tts-1", "voice": "shimmer", "response_format": "opus", "speed": 1.0, "chime": False},
        "opus",
        "achernar",
    ),
    "LibreChat": ("/v1", {"backend": "openai"}, "mp3", "kore"),
    "n8n": ("/v1", {"model": "tts-1-hd", "voice": "onyx", "response_format": "aac", "speed": 1}, "aac", "algenib"),
    "AnythingLLM": (
        "",
        {"model": "tts-1", "voice": "Puck", "response_format": None, "instructions": ""},
        "mp3",
        "puck",
    ),
}


@pytest.mark.parametrize("name", CLIENTS)
async def test_requests_as_programs_send_them(name: str, served: Served, gemini_emulator: Emulator) -> None:
    """The body of each program is answered with the whole speech in the format that the program expects."""
    prefix, body, sound_format, voice = CLIENTS[name]
    text = new_text()
    headers = {"Authorization": "Bearer any", "Accept": "*/*"}
    async with (
        aiohttp.ClientSession(served.url) as client,
        client.post(f"{prefix}/audio/speech", json={"input": text, **body}, headers=headers) as answer,
    ):
        assert answer.status == 200
        assert_spoken(await answer.read(), sound_format, text, voice)


def test_pasted_answers_are_one_sound(served: Served, gemini_emulator: Emulator) -> None:
    """LibreChat puts several mp3 answers one behind the other: they play to the end of the last one."""
    texts = [new_text(), new_text()]
    content = b"".join(served.speak(text)[1] for text in texts)
    heard = decoded(content, "mp3")
    spoken = [pcm_samples(synthesize(text, "kore", "en-US")) for text in texts]
    assert len(heard) > sum(map(len, spoken))
    assert_whole(heard[-len(spoken[1]) - 1200 :], spoken[1])


def test_a_wav_is_streamed_when_that_is_asked_for(served: Served, gemini_emulator: Emulator) -> None:
    """``stream_format: audio`` sends a WAV at once, whose header does not know its length."""
    text = new_text()
    answer, content = served.speak(text, response_format="wav", stream_format="audio")
    assert answer.headers["content-length"] is None
    assert content[:4] == b"RIFF"
    assert content[4:8] == b"\xff" * 4
    assert content.endswith(synthesize(text, "kore", "en-US"))


def test_http_1_0_gets_a_length(served: Served, gemini_emulator: Emulator) -> None:
    """A client of HTTP/1.0, such as nginx by default, knows no chunks; it gets the whole body with its length."""
    text = new_text()
    body = {"input": text}
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(raw_request(body, "1.0"))
        headers, _, content = b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")
    assert f"content-length: {len(content)}".encode() in headers
    assert_spoken(content, "mp3", text)


def test_a_dialogue_has_its_cast(served: Served, gemini_emulator: Emulator) -> None:
    """``cast`` gives each speaker of a script a voice, by Gemini's names or OpenAI's."""
    answer, content = served.speak(
        "Alice: How are you today?\nBob: Very well, I thank you.",
        cast={"Alice": "nova", "Bob": {"voice": "puck", "style": "cheerful"}},
        response_format="wav",
        language="en-GB",
    )
    assert answer.status == 200
    assert len(content) > 48_000
    sent = json.dumps(gemini_emulator.calls[0].body).lower()
    assert "leda" in sent
    assert "puck" in sent
    assert "en-gb" in sent


def test_markdown_is_read_when_that_is_asked_for(served: Served, gemini_emulator: Emulator) -> None:
    """``markup: markdown`` leaves the marks unspoken."""
    served.speak("**Very** good, _my_ friend, this is a fine day for a walk.", markup="markdown")
    assert "*" not in gemini_emulator.calls[0].text


@pytest.mark.slow
def test_equal_requests_at_once_are_one_call(served: Served, gemini_emulator: Emulator) -> None:
    """Ten requests at once, in several formats, share one call; the eleventh takes the sound from the cache."""
    text = new_text()
    gemini_emulator.latency_s = 0.3

    async def ask() -> list[bytes]:
        async with aiohttp.ClientSession(served.url) as client:

            async def one(sound_format: str) -> bytes:
                body = {"input": text, "response_format": sound_format}
                async with client.post("/v1/audio/speech", json=body) as answer:
                    return await answer.read()

            return await asyncio.gather(*(one(each) for each in ("mp3", "pcm", "opus", "mp3", "pcm") * 2))

    bodies = asyncio.run(ask())
    for content, sound_format in zip(bodies, ("mp3", "pcm", "opus", "mp3", "pcm") * 2, strict=True):
        assert_spoken(content, sound_format, text)
    assert len(gemini_emulator.calls) == 1
    _, content = served.speak(text, response_format="flac")
    assert_spoken(content, "flac", text)
    assert len(gemini_emulator.calls) == 1


REFUSALS: dict[str, tuple[dict[str, Any], int, str | None, str, str]] = {
    "no text": ({"input": " "}, 400, "input", "invalid_request", "at least one letter"),
    "no input": ({}, 400, "input", "invalid_request", "Field required"),
    "unknown model": ({"input": "Hi.", "model": "gpt-5"}, 400, "model", "model_not_found", "tts-1"),
    "unknown voice": ({"input": "Hi.", "voice": "allay"}, 400, "voice", "voice_not_found", "did you mean 'alloy'"),
    "unknown voice of Gemini": ({"input": "Hi.", "voice": "korre"}, 400, "voice", "voice_not_found", "'kore'"),
    "unknown format": ({"input": "Hi.", "response_format": "ogg"}, 400, "response_format", "invalid_request", "'mp3'"),
    "a number as voice": ({"input": "Hi.", "voice": 5}, 400, "voice", "invalid_request", "voice: Input should be a"),
    "no speed": ({"input": "Hi.", "speed": 0}, 400, "speed", "invalid_request", "greater than 0"),
    "long instructions": ({"input": "Hi.", "instructions": "x " * 600}, 400, "instructions", "invalid_request", "500"),
    "no language": ({"input": "Hi.", "language": "German"}, 400, "language", "invalid_request", "de-DE"),
    "subtitles": ({"input": "Hi.", "subtitles": ["srt"]}, 400, "subtitles", "unsupported_field", "/v1/audio/jobs"),
    "long text": ({"input": "word " * 20_001}, 400, "input", "text_too_long", "100,000"),
    "unknown speaker": (
        {"input": "Carl: Hello there.", "cast": {"Alice": "kore"}},
        400,
        None,
        "invalid_request",
        "Carl",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_wrong_field_is_named(name: str, served: Served, gemini_emulator: Emulator) -> None:
    """The answer has the status, the field, the code and a text that says what would be right; nothing is called."""
    body, status, param, code, text = REFUSALS[name]
    answer, content = served.ask("POST", "/v1/audio/speech", body)
    error = json.loads(content)["error"]
    assert answer.status == status
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    assert text in error["message"]
    assert gemini_emulator.calls == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff"])
def test_a_body_that_is_no_object_is_refused(body: bytes, served: Served) -> None:
    """The answer says what a body is."""
    answer, content = served.ask("POST", "/v1/audio/speech", body)
    assert answer.status == 400
    assert "body" in json.loads(content)["error"]["message"]


def test_unknown_paths_and_models_are_not_found(served: Served) -> None:
    """They, too, are answered in OpenAI's form; HEAD is answered like GET."""
    for path in ("/v1/nothing", "/v1/models/gpt-5"):
        answer, content = served.ask("GET", path)
        assert answer.status == 404
        assert json.loads(content)["error"]["type"] == "not_found_error"
    for path in ("/health", "/v1/models", "/v1/models/tts-1", "/v1/audio/voices", "/audio/models", "/metrics"):
        assert served.ask("HEAD", path)[0].status == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("GET", "/v1/audio/speech", {"POST"}), ("DELETE", "/audio/voices", {"GET", "HEAD"})]
)
def test_a_method_that_a_path_does_not_know_is_told(method: str, path: str, allowed: set[str], served: Served) -> None:
    """The answer is 405 in OpenAI's form, and names the methods that would be right."""
    answer, content = served.ask(method, path)
    assert answer.status == 405
    assert set(answer.headers["allow"].split(", ")) == allowed
    assert json.loads(content)["error"]["message"] == f"{method} {path}: Method Not Allowed"


def test_used_up_attempts_are_not_repeated_by_the_client(served: Served, gemini_emulator: Emulator) -> None:
    """Gemini is down: the library tries three times, and OpenAI's client makes exactly one request."""
    gemini_emulator.faults = lambda _: Fault.UNAVAILABLE_503
    requests: list[int] = []
    with openai.OpenAI(api_key="any", base_url=f"{served.url}/v1") as client:
        client._client.event_hooks["response"].append(lambda answer: requests.append(answer.status_code))
        with pytest.raises(openai.InternalServerError) as caught:
            client.audio.speech.create(model="tts-1", voice="nova", input=new_text())
    assert requests == [503]
    assert len(gemini_emulator.calls) == 3
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.code in {"unavailable", "outage"}
    assert caught.value.request_id


def test_a_used_up_quota_is_openais_insufficient_quota(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """The quota of a day is a 429 that a client does not repeat."""
    gemini_emulator.faults = lambda _: Fault.QUOTA_DAY
    with Served(settings(gemini_emulator, tmp_path)) as server:
        answer, content = server.speak(new_text())
    assert answer.status == 429
    assert json.loads(content)["error"]["code"] == "insufficient_quota"
    assert answer.headers["x-should-retry"] == "false"


def test_a_refused_key_of_the_server_is_not_the_clients(served: Served, gemini_emulator: Emulator) -> None:
    """It is a 502: a client would take a 401 for its own key's."""
    gemini_emulator.fail_next(Fault.API_KEY_INVALID)
    answer, content = served.speak(new_text())
    assert answer.status == 502
    assert json.loads(content)["error"]["code"] == "authentication"


@pytest.mark.parametrize("sound_format", ["mp3", "pcm", "opus"])
def test_a_broken_stream_is_noticed(
    sound_format: str, served: Served, gemini_emulator: Emulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Gemini dies in mid-stream: openai, aiohttp and curl each see a broken body, never a clean end."""
    gemini_emulator.faults = lambda _: Fault.STREAM_CUT
    long = " ".join([TEXT] * 2)

    async def with_aiohttp() -> None:
        async with (
            aiohttp.ClientSession(served.url) as client,
            client.post(
                "/v1/audio/speech", json={"input": f"{long} aiohttp", "response_format": sound_format}
            ) as answer,
        ):
            assert answer.status == 200
            await answer.read()

    with pytest.raises(aiohttp.ClientPayloadError):
        asyncio.run(with_aiohttp())
    with openai.OpenAI(api_key="any", base_url=served.url, max_retries=0) as client:
        fields: Any = {"model": "tts-1", "voice": "nova", "input": f"{long} openai", "response_format": sound_format}
        with pytest.raises(openai.APIConnectionError):
            client.audio.speech.create(**fields)
    if shutil.which("curl"):
        body = json.dumps({"input": f"{long} curl", "response_format": sound_format})
        command = [
            "curl",
            "-sS",
            "-o",
            tmp_path / "x",
            f"{served.url}/v1/audio/speech",
            "-H",
            "content-type: application/json",
        ]
        assert subprocess.run([*command, "-d", body], check=False, capture_output=True).returncode == 18
        assert (tmp_path / "x").stat().st_size > 0


def test_a_broken_stream_of_events_says_so(served: Served, gemini_emulator: Emulator) -> None:
    """In a stream of events the last one is an error, and the body breaks off all the same."""
    gemini_emulator.faults = lambda _: Fault.STREAM_CUT
    with (
        openai.OpenAI(api_key="any", base_url=served.url, max_retries=0) as client,
        client.audio.speech.with_streaming_response.create(
            model="gpt-4o-mini-tts", voice="nova", input=f"{TEXT} {new_text()}", stream_format="sse"
        ) as answer,
    ):
        events = []
        with pytest.raises(Exception, match=r"peer closed|incomplete"):
            events.extend(json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line)
    assert [event["type"] for event in events if event["type"] != "speech.audio.delta"] == ["error"]


@pytest.mark.slow
def test_listeners_who_leave_end_their_calls(served: Served, gemini_emulator: Emulator) -> None:
    """Two hundred leave in mid-stream: no call, no task and no connection is left, and the server speaks on."""
    before = len(served.tasks), served.connections
    gemini_emulator.faults = lambda _: Fault.STREAM_STALL

    async def listen_and_leave() -> None:
        async def one(number: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            body = {"input": f"{TEXT} {TEXT} {number}", "response_format": "pcm"}
            writer.write(raw_request(body))
            assert b"200 OK" in await reader.readline()
            assert len(await reader.readexactly(1000)) == 1000
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(*(one(number) for number in range(200)))

    asyncio.run(listen_and_leave())
    served.until(lambda: served.state.in_progress == 0 and served.state.speeches.being_made == 0)
    served.until(lambda: served.connections <= before[1])
    served.until(lambda: len(served.tasks) <= before[0])
    served.until(lambda: all(call.disconnected for call in gemini_emulator.calls))
    assert len(gemini_emulator.calls) == 200
    gemini_emulator.faults = None
    assert served.speak(new_text())[0].status == 200


def test_a_listener_who_leaves_before_the_first_sound_ends_the_call(served: Served, gemini_emulator: Emulator) -> None:
    """While a WAV is made, too, a client that leaves ends its call."""
    gemini_emulator.fail_next(Fault.NEVER_ANSWERS)
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        body = {"input": new_text(), "response_format": "wav"}
        client.sendall(raw_request(body))
        served.until(lambda: len(gemini_emulator.calls) == 1)
    served.until(lambda: gemini_emulator.calls[0].disconnected and served.state.in_progress == 0)


def test_one_of_two_listeners_may_leave(served: Served, gemini_emulator: Emulator) -> None:
    """Two share a speech; the first one leaves before it sounds, and the other one hears all of it."""
    text, go_on = new_text(), threading.Event()

    def speak_later(*spoken: str) -> bytes:
        go_on.wait(PATIENCE_S)
        return synthesize(*spoken)

    gemini_emulator.synthesize = speak_later
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        body = {"input": text, "response_format": "pcm"}
        client.sendall(raw_request(body))
        served.until(lambda: len(gemini_emulator.calls) == 1)

        with ThreadPoolExecutor() as threads:
            other = threads.submit(served.speak, text, response_format="pcm")
            served.until(lambda: served.state.in_progress == 2)
            client.close()
            served.until(lambda: served.state.in_progress == 1)
            go_on.set()
            assert_spoken(other.result()[1], "pcm", text)
    assert len(gemini_emulator.calls) == 1


def test_the_log_holds_no_text(served: Served, gemini_emulator: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    """Each request is one event with its path, status, size and id; what was spoken is in none."""
    with caplog.at_level(logging.INFO, "audio_api.server"):
        answer, content = served.speak("Canary is what I say, and nothing else today.")
        served.until(lambda: any(record.message == "request" for record in caplog.records))
    (record,) = [record for record in caplog.records if record.message == "request"]
    logged = vars(record)
    assert (logged["method"], logged["path"], logged["status"]) == ("POST", "/v1/audio/speech", 200)
    assert logged["bytes"] == len(content)
    assert logged["request_id"] == answer.headers["x-request-id"]
    assert "canary" not in str([vars(record) for record in caplog.records]).lower()


def test_metrics_count_what_was_spoken(served: Served, gemini_emulator: Emulator) -> None:
    """``/metrics`` counts speeches, seconds, characters, cost and each attempt by its code, and shows the queue."""
    text = new_text()

    def figures() -> dict[str, float]:
        lines = served.ask("GET", "/metrics")[1].decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    before = figures()
    gemini_emulator.fail_next(Fault.UNAVAILABLE_503)
    _, content = served.speak(text, response_format="pcm")
    after = figures()

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert grown('audio_api_speeches_total{outcome="succeeded"}') == 1
    assert grown("audio_api_characters_total") == len(text)
    assert grown('audio_api_audio_seconds_total{model="gemini-3.8-flash-tts"}') == pytest.approx(len(content) / 48_000)
    assert grown('audio_api_cost_usd_total{model="gemini-3.8-flash-tts"}') > 0
    for code in ("ok", "unavailable"):
        assert grown(f'audio_api_attempts_total{{code="{code}",model="gemini-3.8-flash-tts"}}') == 1
    assert grown('audio_api_speech_duration_seconds_count{outcome="succeeded"}') == 1
    assert grown('audio_api_speech_duration_seconds_sum{outcome="succeeded"}') > 0
    assert after["audio_api_pace_waiting"] == 0
    assert after['audio_api_outage{model="gemini-3.8-flash-tts"}'] == 0
    assert after["audio_api_requests_in_progress"] == 0
    assert after["audio_api_queue_up"] == 1
    assert after['audio_api_queue_tasks{priority="",state="dead"}'] == 0
