"""What the API objects to in the way a call is put is put otherwise, once; what it does not know is told as it is."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gemini_faults import KEY, MODEL, TEXT, engine_for, outcome
from raw_server import RawServer, raw_server

from audio_api import AudioConfig, AudioRequest, TTSService, TTSVoiceNotFoundError
from audio_api.emulator import Emulator
from audio_api.engines.base import SpeechAudio, Turn, Utterance
from audio_api.engines.gemini import GeminiEngine
from audio_api.errors import AudioAPIError, ErrorCode, TTSAPIError, TTSValidationError
from audio_api.models.audio_request import MultiSpeakerConfig, SpeakerConfig, SpeakerMode, VoiceConfig
from audio_api.models.voices import VoiceName, parse_voice

LIBRARY = "ar-eg-advisor-11"
STORE = 'Invalid JSON payload received. Unknown name "store": Cannot find field.'
METADATA = "Speech metadata is not supported for this model."
SPEAKERS = "Multi-speaker generation requests must specify speech_metadata.speaker for each text part. See the docs."
LANGUAGE = "No matching speaker voice found for name: Kore and language: xx-XX."
VOICE = "No matching speaker voice found for name: voice_gone and language: ."
FOREIGN = "The voice was not found or the caller does not have permission to access it."

Judge = Callable[[dict[str, Any]], tuple[int, str] | None]
"""Says with which status and words a body is refused; ``None``: it is spoken."""


def api(judge: Judge) -> Any:
    """The API as a handler, which refuses what the judge says, in one piece or as a stream."""
    part = {"inlineData": {"mimeType": "audio/L16;rate=24000", "data": "AAEC"}}
    spoken = {"candidates": [{"content": {"parts": [part]}, "finishReason": "STOP"}]}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, _, body = server.requests[-1].partition(b"\r\n\r\n")
        refusal = judge(json.loads(body))
        document: dict[str, Any] = spoken
        if refusal:
            name = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND"}[refusal[0]]
            document = {"error": {"code": refusal[0], "message": refusal[1], "status": name}}
        content, kind = json.dumps(document).encode(), "application/json"
        if b":streamGenerateContent" in head and not refusal:
            content, kind = b"data: " + content + b"\r\n\r\n", "text/event-stream"
        status = f"{refusal[0] if refusal else 200} x"
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        writer.write(head + content)
        await writer.drain()

    server: RawServer

    def bind(made: RawServer) -> None:
        nonlocal server
        server = made

    answer.bind = bind  # type: ignore[attr-defined]
    return answer


async def talk(
    judge: Judge, utterances: list[Utterance], *, stream: bool = False, **options: Any
) -> tuple[list[SpeechAudio | AudioAPIError], list[dict[str, Any]]]:
    """What each utterance ends with, one after the other, and the bodies that were sent."""
    handler = api(judge)
    async with raw_server(handler) as server:
        handler.bind(server)
        engine = engine_for(server.url, **options)
        results = [await (streamed(engine, each) if stream else outcome(engine, each)) for each in utterances]
        await engine.close()
        return results, [json.loads(request.partition(b"\r\n\r\n")[2]) for request in server.requests]


async def streamed(engine: GeminiEngine, utterance: Utterance) -> SpeechAudio | AudioAPIError:
    """The last block of a stream, or its error."""
    try:
        return [block async for block in engine.stream(utterance)][-1]
    except AudioAPIError as error:
        return error


def single(model: str = MODEL, voice: str = "kore", language: str = "en-US", **options: Any) -> Utterance:
    """One voice."""
    return Utterance((Turn(TEXT, VoiceConfig(voice_name=voice), **options),), model, language)


def dialogue(model: str, voice: str = "kore") -> Utterance:
    """Two speakers."""
    voices = {"Ann": VoiceConfig(voice_name=voice), "Bob": VoiceConfig(voice_name="puck")}
    turns = tuple(Turn(f"Hello from {name}.", voices[name], name) for name in voices)
    return Utterance(turns, model, "en-US")


def metadata(body: dict[str, Any]) -> list[Any]:
    """Of each part its speech metadata."""
    return [part.get("speechMetadata") for part in body["contents"][0]["parts"]]


@pytest.mark.parametrize("stream", [False, True])
async def test_store_is_dropped_once_when_it_is_refused_by_name(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The first call is made again without it, later ones never send it, and one warning says so."""

    def judge(body: dict[str, Any]) -> tuple[int, str] | None:
        return (400, STORE) if "store" in body else None

    results, sent = await talk(judge, [single()] * 3, stream=stream)
    assert all(isinstance(result, SpeechAudio) for result in results)
    assert [body.get("store") for body in sent] == [False, None, None, None]
    assert [record.levelno for record in caplog.records if "store" in record.message] == [logging.WARNING]


async def test_other_refusals_do_not_drop_store() -> None:
    """A text or a shop that is quoted is no objection, and one that goes on objecting ends as an error."""
    for words in ("Request contains an invalid argument.", "Cannot read: we restore the stored goods of our store"):
        results, sent = await talk(lambda _, words=words: (400, words), [single()] * 2)
        assert [type(result) for result in results] == [TTSAPIError] * 2
        assert [body["store"] for body in sent] == [False] * 2
    results, sent = await talk(lambda _: (400, STORE), [single()])
    assert [type(result) for result in results] == [TTSAPIError]
    assert len(sent) == 2


@pytest.mark.parametrize("backend", ["developer", "vertex"])
async def test_safety_is_what_the_setting_says(backend: str, tmp_path: Path, gemini_emulator: Emulator) -> None:
    """GEMINI_SAFETY_THRESHOLD reaches the wire for every kind of harm, on both APIs; by default nothing is said."""
    said = []
    for threshold in ("Block_None", None):
        config = AudioConfig(
            gemini_backend=backend,
            gemini_api_key=KEY,
            gemini_base_url=gemini_emulator.url,
            gemini_safety_threshold=threshold,
            output_dir=tmp_path,
            cache_max_bytes=0,
        )
        async with TTSService(config) as service:
            assert (await service.generate_audio(AudioRequest(text=TEXT))).success
        said.append(gemini_emulator.calls[-1].body.get("safetySettings"))
    assert {each["threshold"] for each in said[0]} == {"BLOCK_NONE"}
    assert len({each["category"] for each in said[0]}) == 4
    assert said[1] is None


async def test_store_is_what_the_setting_says(tmp_path: Path) -> None:
    """GEMINI_STORE reaches the wire, for a service as for an engine."""
    handler = api(lambda _: (400, "no"))
    async with raw_server(handler) as server:
        handler.bind(server)
        for store in (True, False):
            config = AudioConfig(
                gemini_api_key=KEY, gemini_base_url=server.url, gemini_store=store, output_dir=tmp_path
            )
            async with TTSService(config) as service:
                await service.generate_audio(AudioRequest(text=TEXT))
        assert [json.loads(each.partition(b"\r\n\r\n")[2])["store"] for each in server.requests] == [True, False]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unknown_model_that_takes_no_metadata_is_prompted_in_words(stream: bool) -> None:
    """Nothing was spoken, so the dialect is switched at once, and remembered for this model alone."""

    def judge(body: dict[str, Any]) -> tuple[int, str] | None:
        return (400, METADATA) if any(metadata(body)) else None

    model = "gemini-9-old-tts"
    asked = [single(model, style="calm"), single(model, style="calm"), single("gemini-9-new-tts")]
    results, sent = await talk(judge, asked, stream=stream)
    assert all(isinstance(result, SpeechAudio) for result in results)
    prompts = [body["contents"][0]["parts"][0]["text"].startswith("Read the following") for body in sent]
    assert prompts == [False, True, True, False]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_wants_metadata_gets_it(stream: bool) -> None:
    """The other way round: what looks like an old model wants a speaker for each part."""

    def judge(body: dict[str, Any]) -> tuple[int, str] | None:
        return None if all(metadata(body)) else (400, SPEAKERS)

    results, sent = await talk(judge, [dialogue("gemini-2.5-next-tts")] * 2, stream=stream)
    assert all(isinstance(result, SpeechAudio) for result in results)
    assert [all(metadata(body)) for body in sent] == [False, True, True]


async def test_a_model_that_objects_to_both_dialects_is_asked_twice() -> None:
    """Then its error is told; the calls do not go round in circles."""

    def judge(body: dict[str, Any]) -> tuple[int, str] | None:
        return (400, METADATA) if any(metadata(body)) else (400, SPEAKERS)

    results, sent = await talk(judge, [dialogue("gemini-9-tts")])
    assert [type(result) for result in results] == [TTSAPIError]
    assert len(sent) == 2


async def test_a_custom_voice_is_not_sent_in_words() -> None:
    """When the dialect turns out to know no such voices, the error says so instead of a second call."""
    voice = single("gemini-9-tts", "voice_mine", style="calm")
    results, sent = await talk(lambda _: (400, METADATA), [voice])
    assert isinstance(results[0], TTSValidationError)
    assert len(sent) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_language_that_the_voice_lacks_is_left_out(stream: bool) -> None:
    """The call is made once more without its code, and so are later ones in this language."""

    def judge(body: dict[str, Any]) -> tuple[int, str] | None:
        return (400, LANGUAGE) if "language_code" in body["generationConfig"]["speechConfig"] else None

    results, sent = await talk(judge, [single(language="xx-XX")] * 2, stream=stream)
    assert all(isinstance(result, SpeechAudio) for result in results)
    assert len(sent) == 3


@pytest.mark.parametrize("voice", [LIBRARY, "voice_mine", "voicekey_mine"])
async def test_no_language_is_sent_with_a_voice_that_is_not_prebuilt(voice: str) -> None:
    """The API looks such a voice up by its name and language; alone and in a dialogue, one such voice is enough."""
    asked = [single(voice=voice)] + ([dialogue(MODEL, voice)] if voice == LIBRARY else [])
    results, sent = await talk(lambda _: None, asked)
    assert all(isinstance(result, SpeechAudio) for result in results)
    for body in sent:
        assert "language_code" not in body["generationConfig"]["speechConfig"]
        assert f'"voice": "{voice}"' in json.dumps(body)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "words"), [(400, VOICE), (404, FOREIGN)])
async def test_a_voice_that_is_unknown_costs_one_call(status: int, words: str, stream: bool) -> None:
    """Its error has a class of its own, names the voice, and is never retried."""
    results, sent = await talk(lambda _: (status, words), [single(voice="voice_gone")], stream=stream)
    error = results[0]
    assert isinstance(error, TTSVoiceNotFoundError)
    assert (error.code, error.retryable) == (ErrorCode.VOICE_NOT_FOUND, False)
    assert "voice_gone" in str(error)
    assert len(sent) == 1


@pytest.mark.parametrize(("status", "words"), [(400, VOICE), (404, FOREIGN)])
async def test_no_successor_is_tried_for_an_unknown_voice(status: int, words: str, tmp_path: Path) -> None:
    """A whole request with default settings makes one call, and its response can raise the error."""
    handler = api(lambda _: (status, words))
    async with raw_server(handler) as server:
        handler.bind(server)
        config = AudioConfig(gemini_api_key=KEY, gemini_base_url=server.url, output_dir=tmp_path)
        async with TTSService(config) as service:
            voice = VoiceConfig(voice_name="voice_gone")
            response = await service.generate_audio(AudioRequest(text=TEXT, voice_config=voice))
    assert response.error_code is ErrorCode.VOICE_NOT_FOUND
    with pytest.raises(TTSVoiceNotFoundError):
        response.raise_for_error()
    assert len(server.requests) == response.attempts == 1


async def test_a_library_voice_speaks_in_a_dialogue_of_one_call(tmp_path: Path) -> None:
    """Only voices that an account has made are rendered turn by turn."""
    handler = api(lambda _: (400, "no"))
    async with raw_server(handler) as server:
        handler.bind(server)
        config = AudioConfig(gemini_api_key=KEY, gemini_base_url=server.url, output_dir=tmp_path)
        speakers = (
            SpeakerConfig(speaker_name="Ann", voice_name=LIBRARY),
            SpeakerConfig(speaker_name="Bob", voice_name="puck"),
        )
        request = AudioRequest(
            text="Ann: Good morning to you. Bob: Good morning.",
            speaker_mode=SpeakerMode.MULTIPLE,
            multi_speaker_config=MultiSpeakerConfig(speakers=speakers),
        )
        async with TTSService(config) as service:
            await service.generate_audio(request)
        body = json.loads(server.requests[0].partition(b"\r\n\r\n")[2])
    assert len(body["contents"][0]["parts"]) == 2
    voices = body["generationConfig"]["speechConfig"]["multi_speaker_voice_config"]["speaker_voice_configs"]
    assert [voice["voice_config"] for voice in voices] == [
        {"voice": LIBRARY},
        {"prebuilt_voice_config": {"voice_name": "Puck"}},
    ]


@pytest.mark.parametrize("name", ["kore", "KORE", " Kore ", "kOrE"])
def test_the_case_of_a_prebuilt_voice_does_not_matter(name: str) -> None:
    """As with the API itself."""
    assert parse_voice(name) is VoiceName.KORE


@pytest.mark.parametrize(
    "name", ["en-US-Wavenet-D", "en-US", "kore-1", "ar-eg-advisor-", "ar_eg_advisor_11", "x" * 999]
)
def test_what_is_no_voice_is_refused_before_any_call(name: str) -> None:
    """Names of other services, languages and slips are no ids of the voice library."""
    with pytest.raises(ValueError, match="unknown voice"):
        parse_voice(name)


async def test_a_vertex_client_is_not_told_about_storage() -> None:
    """Vertex AI has no such field, and Google's SDK refuses it there."""
    sent: list[dict[str, Any]] = []

    async def generate(**call: Any) -> Any:
        sent.append(call)
        raise ConnectionRefusedError

    models = SimpleNamespace(generate_content=generate)
    for vertexai in (True, False):
        client = SimpleNamespace(aio=SimpleNamespace(models=models), vertexai=vertexai)
        await outcome(GeminiEngine(timeout_s=60, max_connections=1, client=client))
    assert ["http_options" in call["config"] for call in sent] == [False, True]
