"""Who may use ``audio-api serve``, how much, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from decoded import assert_whole, decoded, pcm_samples
from own_time import PATIENCE_S
from project import variables_without
from redis_server import free_port
from served import Served
from test_server_speech import settings

from audio_api.config import AudioConfig
from audio_api.emulator import Emulator, Fault
from audio_api.emulator.speech import synthesize
from audio_api.errors import ConfigurationError
from audio_api.server.app import build_app

FIRST, LIMITED = "first-key-of-ours", "second-key-of-ours"


@pytest.fixture(scope="module")
def guarded(_gemini_emulator_server: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with two keys, one of them limited to a hundred characters a day, for one foreign page."""
    config = settings(
        _gemini_emulator_server,
        tmp_path_factory.mktemp("guarded"),
        server_api_keys=f"{FIRST}, {LIMITED}=100",
        server_cors_origins="https://chat.example.com",
        server_voice_aliases={"narrator": "gacrux"},
        server_model_aliases={"fast": "gemini-3.8-flash-lite-tts"},
        server_language="de-DE",
    )
    with Served(config) as server:
        yield server


def bearer(key: str) -> dict[str, str]:
    """The header that shows a key."""
    return {"Authorization": f"Bearer {key}"}


def test_speech_needs_a_key_and_lists_do_not(guarded: Served, gemini_emulator: Emulator) -> None:
    """Without a key, or with a wrong one, nothing is called; both keys open; lists and health are for everyone."""
    for headers in ({}, bearer("wrong"), bearer(""), bearer(FIRST + "x"), {"Authorization": FIRST}, bearer("é")):
        answer, content = guarded.speak("Hello, you over there.", headers=headers)
        assert answer.status == 401
        assert json.loads(content)["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert guarded.ask("GET", "/metrics")[0].status == 401
    assert gemini_emulator.calls == []
    for path in ("/v1/models", "/v1/audio/voices", "/v1/audio/models", "/health"):
        assert guarded.ask("GET", path)[0].status == 200
    for key in (FIRST, LIMITED):
        assert guarded.speak("Hello, you over there.", headers=bearer(key))[0].status == 200
        assert guarded.ask("GET", "/metrics", headers=bearer(key))[0].status == 200


def test_a_key_has_its_characters_of_the_day(guarded: Served, gemini_emulator: Emulator) -> None:
    """What would exceed them is refused and not counted; the other key speaks on; a restart forgets nothing."""
    text = "These are more than fifty characters, as you can see."
    first = guarded.speak(text, headers=bearer(LIMITED))
    second, content = guarded.speak(text, headers=bearer(LIMITED))
    assert first[0].status == 200
    assert second.status == 429
    assert second.headers["x-should-retry"] == "false"
    error = json.loads(content)["error"]
    assert error["code"] == "insufficient_quota"
    assert "100 characters a day" in error["message"]
    assert guarded.speak(text, headers=bearer(FIRST))[0].status == 200
    config = guarded.config.model_copy(update={"queue_name": "restarted"})
    with Served(config) as restarted:
        assert restarted.speak(text, headers=bearer(LIMITED))[0].status == 429


def test_aliases_and_the_language_are_settings(guarded: Served, gemini_emulator: Emulator) -> None:
    """Names that the settings add are listed and understood; a request without a language is in the server's."""
    listed = json.loads(guarded.ask("GET", "/v1/audio/voices")[1])["voices"]
    assert {"id": "narrator", "name": "Narrator (Gacrux)", "alias_of": "gacrux"} in listed
    fields = {"voice": "narrator", "model": "fast", "headers": bearer(FIRST)}
    assert guarded.speak("Guten Tag, wie geht es Ihnen?", **fields)[0].status == 200
    (call,) = gemini_emulator.calls
    assert call.model == "gemini-3.8-flash-lite-tts"
    assert "Gacrux" in json.dumps(call.body)
    assert "de-DE" in json.dumps(call.body)


def test_only_chosen_pages_may_call(guarded: Served, gemini_emulator: Emulator) -> None:
    """The preflight of a chosen page is answered, that of another one is not; its requests are refused, key or not."""
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    chosen, other = {"Origin": "https://chat.example.com"}, {"Origin": "https://evil.example.com"}
    answer, _ = guarded.ask("OPTIONS", "/v1/audio/speech", headers=preflight | chosen)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "https://chat.example.com"
    assert "authorization" in answer.headers["access-control-allow-headers"].lower()
    assert answer.headers["access-control-allow-credentials"] is None
    answer, _ = guarded.speak("Hello, you over there.", headers=bearer(FIRST) | chosen)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "https://chat.example.com"
    assert guarded.ask("OPTIONS", "/v1/audio/speech", headers=preflight | other)[0].status == 403
    answer, content = guarded.speak("Hello, you over there.", headers=bearer(FIRST) | other)
    assert answer.status == 403
    assert json.loads(content)["error"]["code"] == "wrong_origin"


def test_without_keys_a_foreign_page_reaches_nothing(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """A page that a browser on this machine shows can neither post here nor come under a name of its own."""
    with Served(settings(gemini_emulator, tmp_path)) as server:
        for headers in ({"Origin": "https://evil.example.com"}, {"Host": "evil.example.com:8880"}, {"Origin": "null"}):
            assert server.speak("Hello, you over there.", headers=headers)[0].status == 403
        for host in ("localhost", "127.0.0.1:8880", "[::1]:8880"):
            own_page = {"Host": host, "Origin": f"http://{host}"}
            assert server.speak("Hello, you over there.", headers=own_page)[0].status == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_has_at_most_a_mebibyte(chunked: bool, guarded: Served) -> None:
    """Whether it tells its length or not, a larger one is refused before it is read whole."""
    head = ["POST /v1/audio/speech HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    head.append("Transfer-Encoding: chunked" if chunked else "Content-Length: 99000000")
    with socket.create_connection(("127.0.0.1", guarded.port)) as client:
        client.sendall("\r\n".join([*head, "", ""]).encode())
        if chunked:
            client.sendall(b"110000\r\n" + b" " * 0x110000 + b"\r\n")
        answer = b""
        while b'"error"' not in answer and (part := client.recv(65536)):
            answer += part
    assert b" 413 " in answer.splitlines()[0]
    assert b'"error"' in answer


def test_a_busy_server_says_when_to_come_back(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """Beyond SERVER_MAX_REQUESTS a request is a 429 with ``retry-after``, which OpenAI's client repeats by itself."""
    go_on = threading.Event()

    def speak_later(*spoken: str) -> bytes:
        go_on.wait(PATIENCE_S)
        return synthesize(*spoken)

    gemini_emulator.synthesize = speak_later
    with Served(settings(gemini_emulator, tmp_path, server_max_requests=1)) as server:
        first = threading.Thread(target=server.speak, args=("Hello, you over there.",))
        first.start()
        server.until(lambda: server.state.in_progress == 1)
        answer, content = server.speak("And hello to you, too.")
        assert answer.status == 429
        assert json.loads(content)["error"]["code"] == "server_busy"
        assert answer.headers["retry-after"] == "2"
        assert answer.headers["x-should-retry"] is None
        go_on.set()
        first.join()
        assert server.speak("And hello to you, too.")[0].status == 200


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"server_api_keys": "short"}, "8 to 256"),
        ({"server_api_keys": "long-enough=many"}, "behind '='"),
        ({"server_cors_origins": "chat.example.com"}, "a scheme and a host"),
        ({"server_cors_origins": "https://chat.example.com/path"}, "without a path"),
        ({"server_voice_aliases": {"mine": "nobodys"}}, "unknown voice"),
        ({"server_model_aliases": {"mine": "a b"}}, "not a model id"),
    ],
)
def test_wrong_settings_are_told_at_the_start(values: dict[str, Any], text: str) -> None:
    """Each is a ConfigurationError that says what would be right, and shows no key."""
    with pytest.raises(ConfigurationError, match=text) as caught:
        build_app(AudioConfig(tts_engine="offline", **values))
    assert "short" not in str(caught.value)


@contextmanager
def program(*arguments: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """``audio-api serve`` as a process, once it answers, with its port."""
    port = free_port()
    command = [sys.executable, "-m", "audio_api", "serve", "--port", str(port), *arguments]
    environment = variables_without("COVERAGE_") | variables
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            Served.until(lambda: _answers(port) or process.poll() is not None)
            yield process, port
        finally:
            process.kill()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def curl(port: int, text: str) -> subprocess.Popen[bytes]:
    """A client in a process of its own, which waits for its answer."""
    code = (
        "import sys, json, urllib.request as u;"
        "r = u.Request(sys.argv[1], json.dumps({'input': sys.argv[2], 'response_format': 'pcm'}).encode(),"
        " {'content-type': 'application/json'}); sys.stdout.buffer.write(u.urlopen(r).read())"
    )
    command = [sys.executable, "-c", code, f"http://127.0.0.1:{port}/v1/audio/speech", text]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=variables_without("COVERAGE_"))


def test_sigterm_finishes_what_speaks(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """The answer in progress is whole, no other one begins, and the program ends with 0."""
    gemini_emulator.latency_s = 1.5
    text = "Hello, you over there, and a good day to you."
    with program(GEMINI_API_KEY="any", GEMINI_BASE_URL=gemini_emulator.url) as (process, port):
        client = curl(port, text)
        Served.until(lambda: len(gemini_emulator.calls) == 1)
        process.send_signal(signal.SIGTERM)
        content, _ = client.communicate(timeout=600)
        assert client.returncode == 0
        assert_whole(decoded(content, "pcm"), pcm_samples(synthesize(text, "kore", "en-US")))
        assert process.wait(600) == 0
    assert not _answers(port)


def test_a_killed_server_yields_no_clean_end(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """A client of a server that is killed in mid-answer sees that."""
    gemini_emulator.faults = lambda _: Fault.STREAM_STALL
    with program(GEMINI_API_KEY="any", GEMINI_BASE_URL=gemini_emulator.url) as (process, port):
        client = curl(port, "Hello, you over there, and a good day to you. " * 3)
        Served.until(lambda: len(gemini_emulator.calls) == 1)
        process.kill()
        client.communicate(timeout=600)
        assert client.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "variables", "text"),
    [
        (["--host", "0.0.0.0"], {}, "SERVER_API_KEYS"),
        (["--workers", "2"], {}, "USE_REDIS"),
        (["--port", "99999"], {}, "from 0 (any free one) to 65535"),
        (["--host", "no.such.host.invalid"], {"SERVER_API_KEYS": "long-enough"}, "cannot listen"),
        ([], {"SERVER_VOICE_ALIASES": "{"}, "JSON"),
        ([], {"TTS_ENGINE": "gemini"}, "GEMINI_API_KEY"),
    ],
)
def test_what_cannot_be_served_is_said(arguments: list[str], variables: dict[str, str], text: str) -> None:
    """The program ends with 2 and one sentence."""
    command = [sys.executable, "-m", "audio_api", "serve", "--port", str(free_port()), *arguments]
    environment = variables_without("COVERAGE_", "GEMINI_") | {"TTS_ENGINE": "offline"} | variables
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 2
    assert text in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_several_processes_serve_together(gemini_emulator: Emulator, redis_url: str, tmp_path: Path) -> None:
    """``--workers 2`` on Redis: requests are answered, and any process tells the counters of all."""
    variables = {"GEMINI_API_KEY": "any", "GEMINI_BASE_URL": gemini_emulator.url}
    variables |= {"USE_REDIS": "true", "REDIS_URL": redis_url, "QUEUE_NAME": f"served-{os.getpid()}"}
    with program("--workers", "2", **variables) as (process, port):
        for number in range(6):
            assert curl(port, f"Hello to number {number}, and a good day.").communicate(timeout=600)[0]

        def are_counted() -> bool:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                return b'audio_api_speeches_total{outcome="succeeded"} 6.0' in answer.read()

        # The queue is told of a speech after its listeners.
        Served.until(are_counted)
        process.send_signal(signal.SIGTERM)
        assert process.wait(600) == 0
