"""Gemini by Vertex AI: where calls go, who makes them, what is left out, and what wrong credentials lead to."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from gemini_faults import BACKENDS, KEY, MODEL, PROJECT, TEXT, UTTERANCE, engine_for, every_trace, outcome
from google import genai
from google.auth.credentials import AnonymousCredentials
from google.genai import types
from google_credentials import private_key, service_account, workload_identity

from audio_api import AudioConfig, AudioRequest, TTSService
from audio_api.emulator import Emulator, Fault
from audio_api.emulator.speech import synthesize
from audio_api.engines.base import SpeechAudio, Turn, Utterance
from audio_api.engines.gemini import GeminiEngine
from audio_api.engines.gemini_backend import Backend, api_url
from audio_api.errors import (
    AudioAPIError,
    ConfigurationError,
    ErrorCode,
    TTSAuthenticationError,
    TTSModelNotFoundError,
    TTSUnavailableError,
    TTSValidationError,
)
from audio_api.models.audio_request import VoiceConfig

CANARY = "canary-of-the-file"
PATH = f"/v1beta1/projects/{PROJECT}/locations/global/publishers/google/models/{MODEL}:generateContent"
EXPRESS_PATH = f"/v1beta1/publishers/google/models/{MODEL}:generateContent"


def settings(server: Emulator, folder: Path, **changes: object) -> AudioConfig:
    """Settings of a project whose Vertex AI is the emulator."""
    fields = {
        "gemini_backend": "vertex",
        "google_cloud_project": PROJECT,
        "gemini_base_url": server.url,
        "output_dir": folder / "out",
    }
    return AudioConfig(**{**fields, **changes}, _env_file=None)


@pytest.mark.usefixtures("google_credentials")
async def test_what_is_sent_by_a_project(gemini_emulator: Emulator) -> None:
    """The path names project and location, an access token calls, and nothing is said about storage."""
    engine = engine_for(gemini_emulator, backend=BACKENDS["vertex"])
    audio = await outcome(engine)
    await engine.close()
    (call,) = gemini_emulator.calls
    assert isinstance(audio, SpeechAudio)
    assert audio.pcm == synthesize(TEXT, "kore", "en-US")
    assert call.path == PATH
    assert call.headers["authorization"].removeprefix("Bearer ") in gemini_emulator.access_tokens
    assert "x-goog-api-key" not in call.headers
    assert call.body == {
        "contents": [{"parts": [{"text": TEXT}], "role": "user"}],
        "generationConfig": {
            "responseModalities": ["AUDIO"],
            "speechConfig": {
                "voiceConfig": {"prebuiltVoiceConfig": {"voice_name": "Kore"}},
                "languageCode": "en-US",
            },
        },
    }


async def test_what_is_sent_in_express_mode(gemini_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key calls, and no project stands in the path, whatever the environment says to the SDK."""
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "of-the-environment")
    monkeypatch.setenv("GOOGLE_CLOUD_LOCATION", "us-central1")
    engine = engine_for(gemini_emulator, backend=Backend.vertex())
    assert isinstance(await outcome(engine), SpeechAudio)
    await engine.close()
    (call,) = gemini_emulator.calls
    assert (call.path, call.headers["x-goog-api-key"]) == (EXPRESS_PATH, KEY)
    assert "authorization" not in call.headers


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("global", "https://aiplatform.googleapis.com"),
        ("us", "https://aiplatform.us.rep.googleapis.com"),
        ("eu", "https://aiplatform.eu.rep.googleapis.com"),
        ("europe-west4", "https://europe-west4-aiplatform.googleapis.com"),
    ],
)
def test_the_address_follows_the_location(location: str, url: str) -> None:
    """Each location has its own; ``GEMINI_BASE_URL`` wins, and express mode knows only the first one."""
    project: dict[str, Any] = {"gemini_backend": "vertex", "google_cloud_location": location, "_env_file": None}
    assert api_url(AudioConfig(google_cloud_project="p", **project)) == url
    gateway = "https://gateway.googleapis.com"
    assert api_url(AudioConfig(google_cloud_project="p", gemini_base_url=gateway, **project)) == gateway
    assert api_url(AudioConfig(gemini_api_key="k", **project)) == "https://aiplatform.googleapis.com"
    assert Backend.of(AudioConfig(google_cloud_project="p", **project)) == Backend.vertex("p", location)


def test_the_developer_api_does_not_care_for_the_cloud() -> None:
    """A project in the environment changes nothing as long as the backend is not Vertex AI."""
    config = AudioConfig(google_cloud_project="p", google_cloud_location="us-central1", _env_file=None)
    assert api_url(config) == "https://generativelanguage.googleapis.com"
    assert Backend.of(config) == Backend()
    assert not config.uses_credentials


def test_a_project_or_a_key_is_needed(tmp_path: Path) -> None:
    """Without both the settings are wrong, and the text names both; one of them is enough."""
    vertex: dict[str, Any] = {"gemini_backend": "Vertex", "output_dir": tmp_path, "_env_file": None}
    with pytest.raises(ConfigurationError, match=r"GOOGLE_CLOUD_PROJECT.*GEMINI_API_KEY"):
        AudioConfig(**vertex).validate_config()
    AudioConfig(google_cloud_project="p", **vertex).validate_config()
    AudioConfig(gemini_api_key="k", **vertex).validate_config()
    with pytest.raises(ConfigurationError, match="GOOGLE_CLOUD_PROJECT='a/b'"):
        AudioConfig(google_cloud_project="a/b", **vertex)
    with pytest.raises(ConfigurationError, match=r"GOOGLE_CLOUD_LOCATION='evil\.com/x'"):
        AudioConfig(google_cloud_location="evil.com/x", **vertex)


async def test_a_call_without_project_and_key_is_not_made(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """The response says what to set."""
    async with TTSService(settings(gemini_emulator, tmp_path, google_cloud_project=None)) as tts:
        response = await tts.generate_audio(AudioRequest(text=TEXT))
    assert response.error_code is ErrorCode.CONFIGURATION
    assert "GOOGLE_CLOUD_PROJECT" in (response.error or "")
    assert gemini_emulator.calls == []


def test_a_strangers_file_does_not_get_the_credentials() -> None:
    """An address in ``.env`` that is not Google's would get a token of this machine: it is refused."""
    lines = ["GEMINI_BACKEND=vertex", "GOOGLE_CLOUD_PROJECT=p", "ALLOW_CUSTOM_BASE_URL=true"]
    Path(".env").write_text("\n".join([*lines, "GEMINI_BASE_URL=https://evil.example.com"]))
    with pytest.raises(ConfigurationError, match="would receive Google's credentials"):
        AudioConfig()
    Path(".env").write_text("\n".join([*lines, "GEMINI_BASE_URL=https://eu.googleapis.com"]))
    assert AudioConfig().uses_credentials


@pytest.mark.usefixtures("google_credentials")
async def test_a_service_speaks_and_streams(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """A request and a stream are answered with the whole sound; one access token serves both."""
    async with TTSService(settings(gemini_emulator, tmp_path)) as tts:
        assert await tts.health_check()
        response = await tts.generate_audio(AudioRequest(text=TEXT))
        again = AudioRequest(text=f"{TEXT} Again.")
        streamed = b"".join([block async for block in tts.stream_audio(again)])
    assert response.success
    assert response.cost_usd
    assert streamed == synthesize(f"{TEXT} Again.", "kore", "en-US")
    assert len({call.headers["authorization"] for call in gemini_emulator.calls}) == 1


@pytest.mark.usefixtures("google_credentials")
def test_every_event_loop_uses_the_same_token(gemini_emulator: Emulator) -> None:
    """Warming up fetches the access token, and calls in any loop use it."""
    given = len(gemini_emulator.access_tokens)
    engine = engine_for(gemini_emulator, backend=BACKENDS["vertex"], timeout_s=60)
    asyncio.run(engine.warm_up(MODEL))
    assert len(gemini_emulator.access_tokens) == given + 1
    assert gemini_emulator.calls == []

    async def speak() -> None:
        assert isinstance(await outcome(engine), SpeechAudio)
        await engine.close()

    for _ in range(2):
        asyncio.run(speak())
    assert len(gemini_emulator.access_tokens) == given + 1


@pytest.mark.usefixtures("google_credentials")
async def test_the_project_that_pays_is_named(
    gemini_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GOOGLE_CLOUD_QUOTA_PROJECT reaches calls for speech, by the SDK, and calls for voices, past it."""
    monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "the-payer")
    async with TTSService(settings(gemini_emulator, tmp_path)) as tts:
        assert (await tts.generate_audio(AudioRequest(text=TEXT))).success
        assert await tts.list_voices(search="narrator 11")
    assert [call.headers["x-goog-user-project"] for call in gemini_emulator.calls] == ["the-payer"] * 2


async def test_a_cluster_may_vouch_for_the_caller(
    gemini_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workload identity, as in Kubernetes, needs no private key."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(workload_identity(gemini_emulator.url, tmp_path)))
    engine = engine_for(gemini_emulator, backend=BACKENDS["vertex"])
    assert isinstance(await outcome(engine), SpeechAudio)
    await engine.close()


@pytest.mark.usefixtures("google_credentials")
@pytest.mark.parametrize("backend", ["vertex", "express"])
async def test_health_is_asked_without_a_bill(backend: str, gemini_emulator: Emulator) -> None:
    """Speech of nothing is refused unbilled by a model that is there; another one is not found."""
    engine = engine_for(gemini_emulator, backend=BACKENDS[backend])
    await engine.health_check(MODEL)
    with pytest.raises(TTSModelNotFoundError):
        await engine.health_check("gemini-9-tts")
    await engine.close()
    assert [call.text for call in gemini_emulator.calls] == ["", ""]


@pytest.mark.usefixtures("google_credentials")
async def test_a_region_without_the_model_is_named(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """3.8 is served in three locations; the 404 of any other one names the setting, and no successor is tried."""
    async with TTSService(settings(gemini_emulator, tmp_path, google_cloud_location="us-central1")) as tts:
        response = await tts.generate_audio(AudioRequest(text=TEXT))
    assert (response.error_code, len(gemini_emulator.calls)) == (ErrorCode.CONFIGURATION, 1)
    assert "GOOGLE_CLOUD_LOCATION='us-central1'" in (response.error or "")
    assert "global, us, eu" in (response.error or "")


@pytest.mark.usefixtures("google_credentials")
async def test_the_successor_of_a_model_that_is_not_there_speaks(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """The 2.5 models have other names on Vertex AI; by these they speak, in their own dialect."""
    async with TTSService(settings(gemini_emulator, tmp_path)) as tts:
        old = await tts.generate_audio(AudioRequest(text=TEXT, model="gemini-2.5-flash-preview-tts"))
        there = await tts.generate_audio(AudioRequest(text=TEXT, model="gemini-2.5-flash-tts"))
    assert (old.success, old.model) == (True, MODEL)
    assert (there.success, there.model, there.cost_usd) == (True, "gemini-2.5-flash-tts", None)


@pytest.mark.usefixtures("google_credentials")
async def test_what_vertex_lacks_is_left_out_or_refused(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """Tokens are estimated, not counted; another tier is refused before any call."""
    async with TTSService(settings(gemini_emulator, tmp_path)) as tts:
        estimate = await tts.estimate(AudioRequest(text=TEXT))
        assert (estimate.tokens_counted, estimate.warnings, gemini_emulator.calls) == (False, (), [])
        response = await tts.generate_audio(AudioRequest(text=TEXT, service_tier="flex"))
    assert response.error_code is ErrorCode.INVALID_REQUEST
    assert "tier standard only" in (response.error or "")
    assert gemini_emulator.calls == []


@pytest.mark.usefixtures("google_credentials")
async def test_a_batch_is_refused_before_any_call(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """Vertex AI's batches are another API: the text names the setting of the one that is meant."""
    async with TTSService(settings(gemini_emulator, tmp_path)) as tts:
        with pytest.raises(ConfigurationError, match="GEMINI_BACKEND=developer"):
            await tts.submit_batch([AudioRequest(text=TEXT)])
    assert gemini_emulator.calls == []


async def test_the_key_alone_is_enough_in_express_mode(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """A service with a key and no project speaks by Vertex AI."""
    config = settings(gemini_emulator, tmp_path, google_cloud_project=None, gemini_api_key=KEY)
    async with TTSService(config) as tts:
        response = await tts.generate_audio(AudioRequest(text=TEXT))
    assert response.success
    assert [call.path for call in gemini_emulator.calls] == [EXPRESS_PATH]


async def failure(server: Emulator | str, **options: Any) -> AudioAPIError:
    """What a call of a project fails with; neither its text nor its trace holds a secret."""
    engine = engine_for(server, backend=BACKENDS["vertex"], timeout_s=60, **options)
    error = await outcome(engine)
    await engine.close()
    assert isinstance(error, AudioAPIError)
    seen = every_trace(error)
    assert CANARY not in seen
    assert private_key()[100:200] not in seen
    assert str(error).isprintable()
    return error


UNUSABLE = [CANARY, "{}", json.dumps({"type": CANARY}), json.dumps({"type": "service_account", "private_key": CANARY})]


@pytest.mark.parametrize("content", [None, *UNUSABLE])
async def test_credentials_that_cannot_be_used(
    content: str | None, gemini_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is missing or damaged is a wrong setting, which is told without quoting the file."""
    path = tmp_path / "credentials.json"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    error = await failure(gemini_emulator)
    assert isinstance(error, ConfigurationError)
    assert "gcloud auth application-default login" in str(error)
    assert gemini_emulator.calls == []


async def test_no_credentials_at_all(
    gemini_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine without any the text says how to get some."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    assert isinstance(await failure(gemini_emulator), ConfigurationError)


@pytest.mark.usefixtures("google_credentials")
@pytest.mark.parametrize(
    ("status", "text", "kind", "words"),
    [
        (400, json.dumps({"error": "invalid_grant", "error_description": CANARY}), TTSAuthenticationError, "_grant"),
        (401, json.dumps({"error": CANARY, "access_token": CANARY}), TTSAuthenticationError, "RefreshError"),
        (403, CANARY, TTSAuthenticationError, "RefreshError"),
        (200, CANARY, TTSUnavailableError, "could not be read"),
    ],
)
async def test_credentials_that_are_refused(
    status: int, text: str, kind: type[AudioAPIError], words: str, gemini_emulator: Emulator
) -> None:
    """What Google's token server says of them is told by its name alone; what it cannot say may be tried again."""
    gemini_emulator.token_refusal = (status, text)
    error = await failure(gemini_emulator)
    assert type(error) is kind
    assert words in str(error)
    assert gemini_emulator.calls == []


async def test_a_token_server_that_is_not_there(
    gemini_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was sent to the API: the call may be made again."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(service_account(url, tmp_path)))
        error = await failure(gemini_emulator)
    assert isinstance(error, TTSUnavailableError)
    assert error.code is ErrorCode.CONNECTION_FAILED


@pytest.mark.usefixtures("google_credentials")
async def test_a_token_that_is_withdrawn(gemini_emulator: Emulator) -> None:
    """The API refuses it: that is an error of the credentials, not of the text."""
    engine = engine_for(gemini_emulator, backend=BACKENDS["vertex"])
    assert isinstance(await outcome(engine), SpeechAudio)
    gemini_emulator.access_tokens.clear()
    error = await outcome(engine)
    await engine.close()
    assert isinstance(error, TTSAuthenticationError)
    assert "credentials" in str(error)


@pytest.mark.usefixtures("google_credentials")
async def test_a_stream_may_begin_with_words(gemini_emulator: Emulator) -> None:
    """Vertex AI was seen to send a text part first: it is passed over."""
    gemini_emulator.fail_next(Fault.STREAM_TEXT_FIRST)
    engine = engine_for(gemini_emulator, backend=BACKENDS["vertex"])
    blocks = [block async for block in engine.stream(UTTERANCE)]
    await engine.close()
    assert b"".join(block.pcm for block in blocks) == synthesize(TEXT, "kore", "en-US")


async def test_a_dialogue_of_a_library_voice(gemini_emulator: Emulator) -> None:
    """The same dialects and voices as on the Developer API."""
    turns = (
        Turn("Hi, Bob!", VoiceConfig(voice_name="en-us-advisor-11"), "Ann"),
        Turn("Hello, Ann.", VoiceConfig(), "Bob", "calm"),
    )
    engine = engine_for(gemini_emulator, backend=BACKENDS["express"])
    assert isinstance(await outcome(engine, Utterance(turns, MODEL, "en-US")), SpeechAudio)
    await engine.close()
    speech = gemini_emulator.calls[0].body["generationConfig"]["speechConfig"]
    assert "languageCode" not in speech
    assert gemini_emulator.calls[0].body["contents"][0]["parts"][1]["speechMetadata"] == {
        "speaker": "Bob",
        "style": "calm",
    }


def test_googles_own_client_speaks_to_the_emulator(gemini_emulator: Emulator) -> None:
    """The SDK, as its users call it, is answered in both modes; without a token it is refused."""
    config = types.GenerateContentConfig(response_modalities=["AUDIO"], speech_config="Kore")  # type: ignore[arg-type]
    options = types.HttpOptions(base_url=gemini_emulator.url)
    with genai.Client(vertexai=True, api_key="k", http_options=options) as client:
        reply = client.models.generate_content(model=MODEL, contents=TEXT, config=config)
    assert reply.usage_metadata is not None
    assert reply.usage_metadata.traffic_type == "ON_DEMAND"
    anonymous = AnonymousCredentials()
    anonymous.token = "unknown"
    client = genai.Client(
        vertexai=True, project=PROJECT, location="global", credentials=anonymous, http_options=options
    )
    with client, pytest.raises(genai.errors.ClientError, match="401"):
        client.models.generate_content(model=MODEL, contents=TEXT, config=config)


async def test_the_emulator_refuses_what_vertex_refuses(gemini_emulator: Emulator) -> None:
    """Storage, tiers, countTokens and other versions: by the facts, not by our engine."""
    import httpx2

    url = f"{gemini_emulator.url}/{{}}/publishers/google/models/{MODEL}:{{}}"
    body = {"contents": [{"parts": [{"text": TEXT}]}], "generationConfig": {"responseModalities": ["AUDIO"]}}
    async with httpx2.AsyncClient(headers={"x-goog-api-key": "k"}) as client:
        good = await client.post(url.format("v1beta1", "generateContent"), json=body)
        others = [
            await client.post(url.format("v1beta1", "generateContent"), json=body | {"store": False}),
            await client.post(url.format("v1beta1", "generateContent"), json=body | {"serviceTier": "flex"}),
            await client.post(url.format("v1beta1", "countTokens"), json={"contents": body["contents"]}),
            await client.post(url.format("v1beta", "generateContent"), json=body),
            await client.get(url.format("v1beta1", "").rstrip(":")),
        ]
    assert good.status_code == 200
    assert "x-gemini-service-tier" not in good.headers
    assert [reply.status_code for reply in others] == [400, 400, 400, 404, 404]


def test_an_injected_client_of_vertex_is_known_as_one() -> None:
    """It is told nothing about storage, and asked for no count."""
    client = genai.Client(vertexai=True, api_key="k")
    engine = GeminiEngine(timeout_s=1, max_connections=1, client=client)
    with pytest.raises(TTSValidationError, match="tier standard only"):
        engine.preflight(Utterance(UTTERANCE.turns, MODEL, "en-US", "flex"))
    client.close()
