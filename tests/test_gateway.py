"""Behind a gateway: a wrong address is told from an unknown model, and what the gateway itself says is shown."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import nullcontext
from pathlib import Path

import pytest
from gemini_faults import KEY, UTTERANCE, engine_for, outcome
from raw_server import Handler, RawServer, answering, raw_server

from audio_api import AudioConfig, AudioRequest, ErrorCode, TTSService
from audio_api.audio.wav import encode_wav
from audio_api.engines.base import SpeechAudio
from audio_api.errors import (
    AudioAPIError,
    ConfigurationError,
    TTSAPIError,
    TTSModelNotFoundError,
    TTSUnavailableError,
)

GOOGLES_404 = {"error": {"code": 404, "message": "models/x is not found for API version v1beta", "status": "NOT_FOUND"}}
NOT_GOOGLES = [
    b"",
    b"404 page not found\n",
    b"<html><head><title>404 Not Found</title></head><body><h1>Not Found</h1></body></html>",
    b'{"detail":"Not Found"}',
    b'{"message":"no Route matched with those values"}',
    b'{"error":{"message":"Invalid URL (POST /v1beta/models)","type":"invalid_request_error","code":"404"}}',
    b'{"error":"Not Found"}',
    b'["Not Found"]',
]


@pytest.mark.parametrize("model", ["gemini-3.8-flash-tts", "gemini-2.5-flash-preview-tts"])
@pytest.mark.parametrize("body", NOT_GOOGLES)
async def test_a_404_without_googles_error_is_the_wrong_address(body: bytes, model: str, tmp_path: Path) -> None:
    """One call, no successor: the error names GEMINI_BASE_URL, whatever the body is."""
    async with raw_server(answering(body, "404 Not Found")) as server:
        config = AudioConfig(
            gemini_api_key=KEY, gemini_base_url=server.url, output_dir=tmp_path, default_tts_model=model
        )
        async with TTSService(config) as service:
            response = await service.generate_audio(AudioRequest(text="Good morning."))
        assert len(server.requests) == 1
    assert response.error_code is ErrorCode.CONFIGURATION
    assert "no Gemini API at the address that GEMINI_BASE_URL names" in str(response.error)
    assert response.warnings == ()


async def test_a_404_of_googles_is_the_model() -> None:
    """As ever, also in the list of one that old front ends send."""
    for document in (GOOGLES_404, [GOOGLES_404]):
        async with raw_server(answering(json.dumps(document).encode(), "404 Not Found")) as server:
            engine = engine_for(server.url)
            assert isinstance(await outcome(engine), TTSModelNotFoundError)
            await engine.close()


WORDS = "Budget of team blue is exceeded"


@pytest.mark.parametrize(
    "body",
    [
        f"{WORDS}\r\n\x1b[31m for {KEY}",
        f"<html><style>p {{color: red}}</style><body><h1>Oops</h1><p>{WORDS}</p></body></html>",
        f'{{"detail": "{WORDS}"}}',
        f'{{"detail": [{{"loc": ["body"], "msg": "{WORDS}"}}]}}',
        f'{{"message": "{WORDS}", "request_id": 5}}',
        f'{{"error": "{WORDS}"}}',
        f'{{"error": {{"message": "{WORDS}", "type": "budget", "code": "400"}}}}',
        f'{{"title": "{WORDS}", "status": 400, "type": "about:blank"}}',
        f'{{"errors": [{{"message": "{WORDS}"}}]}}',
        f'["{WORDS}"]',
        f'"{WORDS}"',
        json.dumps({"error": {"message": WORDS + " \n" * 9_000 + KEY}}),
    ],
)
@pytest.mark.parametrize(
    ("status", "kind"), [("400 Bad Request", TTSAPIError), ("402 Payment Required", TTSAPIError), ("503 Busy", None)]
)
async def test_a_gateways_own_words_are_shown(body: str, status: str, kind: type[AudioAPIError] | None) -> None:
    """On one short line, wherever the gateway has put them, and never with the key."""
    async with raw_server(answering(body.encode(), status)) as server:
        engine = engine_for(server.url)
        error = await outcome(engine)
        await engine.close()
    assert type(error) is (kind or TTSUnavailableError)
    assert WORDS in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 400
    assert KEY not in str(error)
    assert "<" not in str(error)


@pytest.mark.parametrize("mime", ["application/octet-stream", "application/octet-stream; charset=binary"])
async def test_bytes_of_no_type_that_are_a_wav_are_sound(mime: str) -> None:
    """RIFF says what they are; other bytes of no type are none."""
    sound = bytes(range(256)) * 4
    for data in (encode_wav(sound), b"\x89PNG" + sound):
        blob = {"mimeType": mime, "data": base64.b64encode(data).decode()}
        reply = {"candidates": [{"content": {"parts": [{"inlineData": blob}]}, "finishReason": "STOP"}]}
        async with raw_server(answering(json.dumps(reply).encode())) as server:
            engine = engine_for(server.url)
            result = await outcome(engine)
            await engine.close()
        if data.startswith(b"RIFF"):
            assert isinstance(result, SpeechAudio)
            assert result.pcm == sound
        else:
            assert isinstance(result, AudioAPIError)
            assert result.code is ErrorCode.NO_AUDIO


async def test_parts_of_a_stream_that_are_no_sound_are_skipped() -> None:
    """Text, a picture and a thought before and among the sound change none of it."""
    others = [
        {"text": "Certainly:"},
        {"inlineData": {"mimeType": "image/png", "data": "iVBORw0K"}},
        {"thought": True, "text": "hm"},
        {"functionCall": {"name": "speak", "args": {}}},
    ]
    sound = {"inlineData": {"mimeType": "audio/L16;codec=pcm;rate=24000", "data": "AAECAw=="}}
    parts = [[others[0]], [others[1], sound], [others[2]], [others[3]], [sound, others[0]]]
    events = [{"candidates": [{"content": {"parts": each}}]} for each in parts]
    events.append({"candidates": [{"content": {}, "finishReason": "STOP"}]})
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\r\n\r\n" for event in events)
    async with raw_server(answering(body)) as server:
        engine = engine_for(server.url)
        blocks = [block async for block in engine.stream(UTTERANCE)]
        await engine.close()
    assert b"".join(block.pcm for block in blocks) == b"\0\1\2\3" * 2
    assert blocks[-1].finish_reason == "STOP"


def gateway(get: tuple[str, bytes], post: tuple[str, bytes]) -> tuple[list[RawServer], Handler]:
    """Answers GET and POST in different ways; its server is to be put into the list."""
    servers: list[RawServer] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        status, body = get if servers[0].requests[-1].startswith(b"GET") else post
        await answering(body, status)(reader, writer)

    return servers, answer


_REFUSED = json.dumps({"error": {"code": 400, "message": "contents is not specified", "status": "INVALID_ARGUMENT"}})
_UNKNOWN_KEY = json.dumps({"error": {"code": 403, "message": "no", "status": "PERMISSION_DENIED"}})


@pytest.mark.parametrize(
    ("get", "post", "kind"),
    [
        (("404 Not Found", b'{"detail":"Not Found"}'), ("400 Bad Request", _REFUSED.encode()), None),
        (("405 Method Not Allowed", b""), ("422 Unprocessable", b'{"detail":"contents"}'), None),
        (("501 Not Implemented", b""), ("200 OK", b"{}"), None),
        (("404 Not Found", b""), ("404 Not Found", b""), ConfigurationError),
        (("405 Method Not Allowed", b""), ("403 Forbidden", _UNKNOWN_KEY.encode()), AudioAPIError),
        (("405 Method Not Allowed", b""), ("503 Busy", b""), TTSUnavailableError),
        (("404 Not Found", json.dumps(GOOGLES_404).encode()), ("400 Bad", _REFUSED.encode()), TTSModelNotFoundError),
    ],
)
async def test_a_gateway_without_descriptions_of_models_is_not_unhealthy_for_that(
    get: tuple[str, bytes], post: tuple[str, bytes], kind: type[AudioAPIError] | None
) -> None:
    """It is asked to say nothing, which costs nothing: that it refuses shows that it is there."""
    servers, handler = gateway(get, post)
    async with raw_server(handler) as server:
        servers.append(server)
        engine = engine_for(server.url)
        with pytest.raises(kind) if kind else nullcontext():
            await engine.health_check("gemini-3.8-flash-tts")
        await engine.close()
    posted = [request for request in server.requests if request.startswith(b"POST")]
    assert all(
        json.loads(request.partition(b"\r\n\r\n")[2])["contents"][0].get("parts", []) == [] for request in posted
    )
