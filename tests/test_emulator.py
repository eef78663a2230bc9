"""The emulator, asked by the real SDK over a real socket, and by plain HTTP where the SDK cannot misbehave enough."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import nullcontext
from datetime import date
from types import SimpleNamespace
from typing import Any

import httpx2
import numpy as np
import pytest
from emulator_calls import KEY, TEXT, V25, V31, V38, body, error_of, pcm_of, post, two_voices
from google import genai
from google.genai import errors, types
from hypothesis import given
from hypothesis import strategies as st
from own_time import PATIENCE_S, until
from pydantic import ValidationError

import audio_api.emulator
from audio_api.emulator import Emulator, Fault, ReceivedCall, app, create_app, damage, wire
from audio_api.emulator import errors as refusals
from audio_api.emulator.__main__ import main
from audio_api.emulator.errors import RefusalError
from audio_api.emulator.protocol import FAMILIES, transcript
from audio_api.emulator.quota import Quota
from audio_api.emulator.speech import synthesize

pytestmark = pytest.mark.measured


def audio_config(voice: str = "Kore", **more: Any) -> types.GenerateContentConfig:
    """What a speech call needs."""
    prebuilt = types.VoiceConfig(prebuilt_voice_config=types.PrebuiltVoiceConfig(voice_name=voice))
    settings = {"response_modalities": ["AUDIO"], "speech_config": types.SpeechConfig(voice_config=prebuilt)}
    return types.GenerateContentConfig(**{**settings, "automatic_continuation": False, **more})


@pytest.fixture
def emulator(gemini_emulator: Emulator) -> Emulator:
    """The fixture that users get."""
    return gemini_emulator


@pytest.fixture
async def client(emulator: Emulator) -> AsyncIterator[genai.Client]:
    """The real SDK, pointed at the emulator."""
    options = types.HttpOptions(
        api_version="v1beta",
        base_url=emulator.url,
        timeout=10_000,
        async_client_args={"transport": httpx2.AsyncHTTPTransport(), "follow_redirects": False},
    )
    with genai.Client(api_key=KEY, http_options=options) as made:
        yield made
        await made.aio.aclose()


async def speak(client: genai.Client, model: str = V38, contents: Any = TEXT, **config: Any) -> Any:
    """One unary call of the SDK."""
    return await client.aio.models.generate_content(model=model, contents=contents, config=audio_config(**config))


async def stream(client: genai.Client, model: str = V38, text: str = TEXT) -> list[Any]:
    """One streamed call of the SDK; its chunks."""
    chunks = await client.aio.models.generate_content_stream(model=model, contents=text, config=audio_config())
    return [chunk async for chunk in chunks]


# Good answers


@pytest.mark.parametrize(
    ("model", "mime"),
    [
        (V38, "audio/wav"),
        ("gemini-3.8-flash-lite-tts", "audio/wav"),
        (V31, "audio/l16; rate=24000; channels=1"),
        (V25, "audio/L16;codec=pcm;rate=24000"),
        ("gemini-2.5-pro-preview-tts", "audio/L16;codec=pcm;rate=24000"),
    ],
)
async def test_every_model_answers_in_its_own_wrapping(client: genai.Client, model: str, mime: str) -> None:
    """A good answer has the family's mime type, the sound of the text, usage of 25 tokens a second, and its model."""
    reply = await speak(client, model)
    [part] = reply.parts
    sound = synthesize(TEXT, "kore", "en-US")
    assert part.inline_data.mime_type == mime
    assert part.inline_data.data.endswith(sound)
    assert reply.candidates[0].finish_reason is types.FinishReason.STOP
    assert reply.model_version == model
    assert reply.response_id
    [billed] = reply.usage_metadata.candidates_tokens_details
    assert (billed.modality, billed.token_count) == (types.MediaModality.AUDIO, round(len(sound) / 48_000 * 25))
    assert reply.usage_metadata.prompt_token_count == len(TEXT) // 4


async def test_wav_replies_carry_exactly_6114_bytes_besides_their_samples(client: genai.Client) -> None:
    """The header of 3.8 is not 44 bytes, and its size fields are true."""
    data = (await speak(client)).parts[0].inline_data.data
    assert len(data) - len(synthesize(TEXT, "kore", "en-US")) == 6_114
    assert struct.unpack_from("<I", data, 4)[0] == len(data) - 8


@pytest.mark.parametrize(("model", "piece_s"), [(V38, 0.08), (V31, 0.5)])
async def test_streams_are_raw_pieces_with_running_usage_and_an_empty_last_one(
    client: genai.Client, model: str, piece_s: float
) -> None:
    """The pieces of 3.8 last 80 ms. Only the last event says why it stopped; its usage is the total."""
    *chunks, last = await stream(client, model)
    assert {chunk.parts[0].inline_data.mime_type for chunk in chunks} == {"audio/l16; rate=24000; channels=1"}
    assert {len(chunk.parts[0].inline_data.data) / 48_000 for chunk in chunks[:-1]} == {piece_s}
    assert b"".join(chunk.parts[0].inline_data.data for chunk in chunks) == synthesize(TEXT, "kore", "en-US")
    assert {chunk.candidates[0].finish_reason for chunk in chunks} == {None}
    assert (last.parts, last.candidates[0].finish_reason) == (None, types.FinishReason.STOP)
    totals = [chunk.usage_metadata.candidates_token_count for chunk in [*chunks, last]]
    assert totals == sorted(totals)
    assert len({chunk.response_id for chunk in [*chunks, last]}) == 1


async def test_a_2_5_stream_is_one_chunk(client: genai.Client) -> None:
    """The 2.5 models stream in name only."""
    [chunk] = await stream(client, V25)
    assert chunk.parts[0].inline_data.data == synthesize(TEXT, "kore", "en-US")
    assert chunk.candidates[0].finish_reason is types.FinishReason.STOP


async def test_3_8_speaks_the_text_word_for_word(client: genai.Client, emulator: Emulator) -> None:
    """A preamble or a label in the text of 3.8 is spoken; a style beside it is not."""
    part = types.Part(text="Say cheerfully: Hi", speech_metadata=types.SpeechMetadata(style="cheerful"))
    await speak(client, V38, [part])
    assert emulator.calls[-1].text == "Say cheerfully: Hi"


async def test_3_8_dialogues_have_a_part_and_a_voice_for_each_turn(emulator: Emulator) -> None:
    """The turns of a dialogue are spoken one after the other, each in its speaker's voice."""
    request = body(speechConfig=two_voices("Joe", "Jane"))
    turns = [
        {"text": "Hi there", "speechMetadata": {"speaker": "Joe"}},
        {"text": "Hello", "speech_metadata": {"speaker": "Jane"}},
    ]
    request["contents"][0]["parts"] = turns
    [part] = post(emulator, request).json()["candidates"][0]["content"]["parts"]
    assert pcm_of(part) == synthesize("Hi there", "puck", "en-US") + synthesize("Hello", "puck", "en-US")


@pytest.mark.parametrize("model", [V25, V31])
async def test_legacy_dialogues_are_spoken_without_names(client: genai.Client, emulator: Emulator, model: str) -> None:
    """A legacy prompt's preamble and labels are not spoken; a line without a label goes on in the same voice."""
    prompt = "TTS the following conversation between Joe and Jane:\nJoe: Hi\nwell\n\nJANE: Hello: you"
    speakers = [
        types.SpeakerVoiceConfig(
            speaker=name,
            voice_config=types.VoiceConfig(prebuilt_voice_config=types.PrebuiltVoiceConfig(voice_name=voice)),
        )
        for name, voice in (("Joe", "Kore"), ("Jane", "Puck"))
    ]
    both = types.SpeechConfig(
        multi_speaker_voice_config=types.MultiSpeakerVoiceConfig(speaker_voice_configs=speakers), language_code="en-GB"
    )
    reply = await speak(client, model, prompt, speech_config=both)
    assert emulator.calls[-1].text == "Hi\nwell\nHello: you"
    spoken = [("Hi", "kore"), ("well", "kore"), ("Hello: you", "puck")]
    assert reply.parts[0].inline_data.data == b"".join(synthesize(*turn, "en-GB") for turn in spoken)


@pytest.mark.parametrize(
    ("prompt", "spoken"),
    [
        ("Hello.", "Hello."),
        ("Say cheerfully: Hello: you.", "Hello: you."),
        ("Read this aloud:\n\nHello:\nyou", "Hello:\nyou"),
        ("Read this aloud.\nStyle: calm.\n\nTranscript:\nHello", "Hello"),
        ("Read this aloud:\nTranscript:\nHello", "Hello"),
        ("# Scene\nStyle:\n* calm\n\n## THE TRANSCRIPT\nHello:\nyou", "Hello:\nyou"),
        ("Read this aloud:\n", "Read this aloud:\n"),
        ("It was so: nobody came.", "It was so: nobody came."),
    ],
)
def test_the_transcript_of_a_legacy_prompt(prompt: str, spoken: str) -> None:
    """What is spoken of a legacy prompt is what follows its transcript heading, its preamble or its instruction."""
    assert transcript(prompt) == spoken


async def test_answers_longer_than_the_limit_stop_with_max_tokens(client: genai.Client) -> None:
    """Sound ends at maxOutputTokens, and the finish reason says so."""
    reply = await speak(client, max_output_tokens=10)
    assert reply.candidates[0].finish_reason is types.FinishReason.MAX_TOKENS
    assert reply.usage_metadata.candidates_token_count == 10


async def test_models_are_listed_and_described(client: genai.Client, emulator: Emulator) -> None:
    """GET on the models tells their limits; an unknown one is a 404."""
    listed = [model.name async for model in await client.aio.models.list(config={"query_base": True})]
    assert listed == [f"models/{model}" for model in FAMILIES]
    model = await client.aio.models.get(model=V38)
    assert (model.input_token_limit, model.output_token_limit) == (8_192, 16_384)
    with pytest.raises(errors.ClientError, match="models/gemini-9 is not found"):
        await client.aio.models.get(model="gemini-9")
    assert [call.method for call in emulator.calls] == ["GET"] * 3


async def test_tokens_are_counted_without_a_charge(client: genai.Client, emulator: Emulator) -> None:
    """A call of countTokens answers with what the prompt counts, in both of its forms, whatever the quota."""
    emulator.set_quota(per_day=0)
    assert (await client.aio.models.count_tokens(model=V38, contents=TEXT)).total_tokens == len(TEXT) // 4
    nested = post(emulator, {"generateContentRequest": body("a" * 8)}, action="countTokens")
    assert nested.json() == {"totalTokens": 2}


async def test_speech_can_be_handed_in(client: genai.Client) -> None:
    """What is heard is a function of text, voice and language, plain or asynchronous."""
    heard: list[tuple[str, str, str]] = []

    def plain(text: str, voice: str, language: str) -> bytes:
        heard.append((text, voice, language))
        return b"\1\0" * 24_000

    async def asynchronous(text: str, voice: str, language: str) -> bytes:
        return plain(text, voice, language)

    for function in (plain, asynchronous):
        with Emulator(function, tokens_per_s=32, custom_voices=["voice_mine"]) as own:
            reply = post(
                own, body("Hola", speechConfig={"voiceConfig": {"voice": "voice_mine"}, "languageCode": "es-US"})
            )
        assert pcm_of(reply.json()["candidates"][0]["content"]["parts"][0]) == b"\1\0" * 24_000
        assert reply.json()["usageMetadata"]["candidatesTokenCount"] == 32
    assert heard == [("Hola", "voice_mine", "es-US")] * 2


def test_the_application_can_be_mounted_elsewhere() -> None:
    """create_app gives an ASGI application and what steers it."""
    assert create_app(api_key=KEY, latency_s=2).state.control.latency_s == 2


# Strictness

NO_VOICE = {"responseModalities": ["AUDIO"]}
UNKNOWN = "Invalid JSON payload received. Unknown name"
ONLY_AUDIO = (
    f"The requested combination of response modalities (TEXT) is not supported by the model. models/{V38} accepts"
)
INVALID = "Request contains an invalid argument."


def with_part(**part: Any) -> dict[str, Any]:
    """A request with one part."""
    return {**body(), "contents": [{"role": "user", "parts": [part]}]}


def styled(style: str) -> dict[str, Any]:
    """A request with a style beside its text."""
    return with_part(text="Hi", speechMetadata={"style": style})


def spoken_by(*speakers: str | None, config: dict[str, Any] | None = None) -> dict[str, Any]:
    """A dialogue of parts with these speakers."""
    parts = [{"text": "Hi", "speechMetadata": {"speaker": name} if name else {}} for name in speakers]
    return {**body(speechConfig=config or two_voices("Joe", "Jane")), "contents": [{"parts": parts}]}


@pytest.mark.parametrize(
    ("model", "request_body", "message"),
    [
        (V38, {**body(), "speech": 1}, f'{UNKNOWN} "speech": Cannot find field.'),
        (V38, body(voice="Kore"), f"{UNKNOWN} \"voice\" at 'generation_config': Cannot find field."),
        (V38, body(speechConfig=[{"voiceConfig": {}}]), "Proto field is not repeating, cannot start list."),
        (V38, body(speechConfig="Kore"), "Invalid value at 'generation_config.speech_config', \"Kore\""),
        (V38, body(responseModalities=["SOUND"]), "'generation_config.response_modalities[0]' (type.googleapis.com/"),
        (V38, {**body(), "serviceTier": "cheap"}, "Invalid value at 'service_tier' (type.googleapis.com/"),
        (V38, {**body(), "store": "no"}, "Invalid value at 'store' (TYPE_BOOL), \"no\""),
        (V38, body(maxOutputTokens="9"), "Invalid value at 'generation_config.max_output_tokens' (TYPE_INT32)"),
        (V38, body(seed=True), "Invalid value at 'generation_config.seed' (TYPE_INT32), true"),
        (V38, [], "Proto field is not repeating"),
        (V38, body(responseModalities=None), ONLY_AUDIO),
        (V38, body(responseModalities=["TEXT"]), ONLY_AUDIO),
        (V38, body(responseModalities=["TEXT", "AUDIO"]), "response modalities (TEXT, AUDIO) is not supported"),
        (V38, body(temperature=0.7), "temperature is not supported"),
        (V38, body(topP=0.7), "topP is not supported"),
        (V38, body(top_k=7), "topK is not supported"),
        (V38, body(candidateCount=2), "candidateCount is not supported"),
        (V25, body(thinkingConfig={}), "thinkingConfig is not supported"),
        (V25, {**body(), "tools": [{}]}, "tools is not supported"),
        *[
            (model, body(responseFormat={"audio": {"mimeType": "AUDIO_L16"}}), "responseFormat is not supported")
            for model in (V25, V31)
        ],
        (V38, body(responseFormat=[{"audio": {}}, {"audio": {}}]), INVALID),
        (V38, body(responseFormat={"video": {}}), f'{UNKNOWN} "video"'),
        *[
            (
                V38,
                body(responseFormat={"audio": {"mimeType": mime}}),
                "Invalid value at 'generation_config.response_format[0].audio.mime_type' "
                "(type.googleapis.com/google.ai.generativelanguage.v1beta.AudioResponseFormat.MimeType), ",
            )
            for mime in ("audio/wav", "AUDIO_MP3", 1)
        ],
        *[
            (model, {**body(), "systemInstruction": {"parts": {"text": "x"}}}, "Developer instruction is not enabled")
            for model in (V31, V38)
        ],
        (V25, body("a" * 4 * 8_193), "token count (8193) exceeds the maximum number of tokens allowed (8192)"),
        (V38, {**body(), "contents": []}, "contents is not specified"),
        (V38, {**body(), "contents": [{"role": "model", "parts": [{"text": "x"}]}]}, "valid role"),
        (V38, with_part(text=" "), INVALID),
        (V38, with_part(inlineData={}), INVALID),
        (
            V25,
            with_part(text="Hi", speechMetadata={"style": "calm"}),
            "Speech metadata is not supported for this model.",
        ),
        (V31, {**body(), "generationConfig": NO_VOICE}, INVALID),
        (V25, body(speechConfig={"voiceConfig": {"voice": "Kore"}}), INVALID),
        (
            V38,
            body(speechConfig={"voiceConfig": {"voice": "Kore", "prebuiltVoiceConfig": {"voiceName": "Kore"}}}),
            "mutually exclusive",
        ),
        (V38, body(speechConfig={**two_voices("A", "B"), "voiceConfig": {"voice": "Kore"}}), "mutually exclusive"),
        *[
            (model, body(speechConfig=two_voices(*names)), "the number of speaker_voice_configs must equal 2")
            for model in (V25, V31, V38)
            for names in ((), ("Joe",), ("Joe", "Jane", "Jim"))
        ],
        *[
            (model, body(speechConfig=two_voices(*names)), "must name two different speakers")
            for model in (V25, V31, V38)
            for names in (("Joe", "Joe"), ("Joe", ""))
        ],
        (V38, spoken_by("Joe", "Jane", config=two_voices("Joe", "Jane", voiceConfig={})), "needs a prebuilt voice"),
        (
            V38,
            spoken_by("Joe", "Jane", config=two_voices("Joe", "Jane", voiceConfig={"voice": "voice_1"})),
            "needs a prebuilt voice",
        ),
        *[
            (
                V38,
                spoken_by("Joe", None, config=voices),
                "Multi-speaker generation requests must specify speech_metadata.speaker for each text part",
            )
            for voices in (None, two_voices("Joe", "Jane", voiceConfig={"voice": "en-us-guide-2"}))
        ],
        *[
            (V38, {**styled("calm"), "generationConfig": {**NO_VOICE, **nameless}}, INVALID)
            for nameless in ({}, {"speechConfig": {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": ""}}}})
        ],
        *[
            (V38, body(speechConfig={"voiceConfig": voice, "languageCode": language}), f"for name: {name} and {end}")
            for voice, language, name, end in (
                ({"voice": "Bob"}, None, "Bob", "language: "),
                ({"prebuiltVoiceConfig": {"voiceName": "Bob"}}, "en-US", "Bob", "language: en-US"),
                ({"voice": "ar-eg-advisor-11"}, "en-US", "ar-eg-advisor-11", "language: en-US"),
                ({"prebuiltVoiceConfig": {"voiceName": "ar-eg-advisor-11"}}, None, "ar-eg-advisor-11", "language: "),
            )
        ],
        (V38, body(speechConfig={"voiceConfig": {"voice": "voicekey_expired"}}), INVALID),
        (V38, spoken_by("Joe", "Jim"), "Every part must name a speaker of multi_speaker_voice_config, not 'Jim'"),
        (V38, with_part(text="Hi", speechMetadata={"speaker": "Joe"}), "there is no multi_speaker_voice_config"),
    ],
)
def test_what_the_api_does_not_take_is_refused(emulator: Emulator, model: str, request_body: Any, message: str) -> None:
    """A request that the real API refuses is a 400 with its words, and uses up no fault that waits."""
    emulator.fail_next(Fault.INTERNAL_500)
    code, status, text = error_of(post(emulator, request_body, model))
    assert (code, status) == (400, "INVALID_ARGUMENT")
    assert message in text
    assert emulator.coming_faults == (Fault.INTERNAL_500,)
    assert (emulator.calls[-1].attempt, emulator.calls[-1].status) == (0, 400)


def test_every_unknown_name_is_named_at_once(emulator: Emulator) -> None:
    """The answer lists all unknown fields, in its text and in its details."""
    error = post(emulator, body(a=1, b_c=2)).json()["error"]
    assert error["message"].count(UNKNOWN) == 2
    [detail] = error["details"]
    assert [violation["field"] for violation in detail["fieldViolations"]] == ["generation_config"] * 2
    assert '"b_c"' in error["message"]


def test_what_is_no_json_is_refused(emulator: Emulator) -> None:
    """A body that cannot be read is a 400, and is recorded as none."""
    url = f"{emulator.url}/v1beta/models/{V38}:generateContent"
    assert error_of(httpx2.post(url, content=b"{", headers={"x-goog-api-key": KEY}))[2].endswith("Unexpected token.")
    assert emulator.calls[-1].body is None


def test_an_unknown_voice_is_answered_with_all_voices_by_2_5(emulator: Emulator) -> None:
    """2.5 names the thirty voices."""
    config = {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Bob"}}}
    code, _, text = error_of(post(emulator, body(speechConfig=config), V25))
    assert (code, text.count(",")) == (400, 29)
    assert text.startswith("Voice name Bob is not supported. Allowed voice names are: achernar, achird,")


def test_an_unknown_voice_is_a_404_on_3_1(emulator: Emulator) -> None:
    """3.1 finds no such entity."""
    config = {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Bob"}}}
    error = error_of(post(emulator, body(speechConfig=config), V31))
    assert error == (404, "NOT_FOUND", "Requested entity was not found.")


@pytest.mark.parametrize("model", [V25, V38])
def test_without_a_voice_the_server_has_one(emulator: Emulator, model: str) -> None:
    """2.5 and 3.8 fall back to a voice of their own."""
    assert post(emulator, {**body(), "generationConfig": NO_VOICE}, model).status_code == 200


def test_both_spellings_and_single_values_are_read(emulator: Emulator) -> None:
    """snake_case, a single value of a repeated field, and null for nothing are as good as the documented form."""
    voice = {"voice_config": {"prebuilt_voice_config": {"voice_name": "KORE"}}, "language_code": None}
    config = {"response_modalities": "AUDIO", "speech_config": voice, "presencePenalty": 1}
    assert post(emulator, {"contents": {"parts": {"text": TEXT}}, "generation_config": config}).status_code == 200


@pytest.mark.parametrize(
    ("model", "action", "version"),
    [("gemini-9", "generateContent", "v1beta"), (V38, "embedContent", "v1beta"), (V38, "generateContent", "v2")],
)
def test_unknown_models_methods_and_versions_are_404(emulator: Emulator, model: str, action: str, version: str) -> None:
    """The text is the one that leads people to ListModels."""
    code, _, text = error_of(post(emulator, body(), model, action, version=version))
    start = f"models/{model} is not found for API version {version}, or is not supported for {action}. Call ListModels"
    assert (code, text.startswith(start)) == (404, True)


def test_a_call_needs_a_key(emulator: Emulator) -> None:
    """Without a key 403, with the wrong one 400 and its reason in the details; header and query both count."""
    emulator.api_key = KEY
    assert error_of(post(emulator, body(), headers={}))[:2] == (403, "PERMISSION_DENIED")
    wrong = post(emulator, body(), headers={"x-goog-api-key": "other"})
    assert error_of(wrong)[0] == 400
    assert wrong.json()["error"]["details"][0]["reason"] == "API_KEY_INVALID"
    assert post(emulator, body(), headers={}, params={"key": KEY}).status_code == 200


# Faults: other statuses


def test_every_fault_is_served_somewhere() -> None:
    """Each name has exactly one kind of effect, besides its finish reason."""
    kinds: list[Iterable[Fault]] = [
        refusals.REFUSALS,
        app._PAGES,
        wire.SENDERS,
        damage.SOUND,
        damage.WRAPPING,
        damage.DOCUMENT,
    ]
    served = [fault for kind in kinds for fault in kind]
    alone = {Fault.FINISH_MISSING, Fault.FINISH_UNKNOWN, Fault.STREAM_ODD_CHUNKS, Fault.STREAM_TEXT_FIRST, Fault.NONE}
    alone.add(Fault.TIER_DOWNGRADED)
    assert sorted([*served, *alone]) == sorted(Fault)


def quota_of(response: dict[str, Any]) -> tuple[list[str], str]:
    """The ids of the exceeded quotas, and the delay asked for."""
    by_type = {detail["@type"].rpartition(".")[2]: detail for detail in response["error"]["details"]}
    ids = [violation["quotaId"] for violation in by_type["QuotaFailure"]["violations"]]
    return ids, by_type["RetryInfo"]["retryDelay"]


@pytest.mark.parametrize(
    ("fault", "ids", "delay"),
    [
        (Fault.RATE_LIMIT_MINUTE, ["GenerateRequestsPerMinutePerProjectPerModel-FreeTier"], "42s"),
        (Fault.QUOTA_DAY, ["GenerateRequestsPerDayPerProjectPerModel-FreeTier"], "27s"),
        (Fault.QUOTA_DAY_PAID, ["GenerateRequestsPerDayPerProjectPerModel"], "6776s"),
        (
            Fault.QUOTA_ZERO,
            [
                "GenerateRequestsPerDayPerProjectPerModel-FreeTier",
                "GenerateRequestsPerMinutePerProjectPerModel-FreeTier",
                "GenerateContentInputTokensPerModelPerMinute-FreeTier",
            ],
            "23s",
        ),
    ],
)
async def test_429_names_its_quota(
    client: genai.Client, emulator: Emulator, fault: Fault, ids: list[str], delay: str
) -> None:
    """The details carry quotaId, the model without -preview, and RetryInfo; a limit of zero has no quotaValue."""
    emulator.fail_next(fault)
    with pytest.raises(errors.ClientError) as caught:
        await speak(client, V31)
    assert (caught.value.code, caught.value.status) == (429, "RESOURCE_EXHAUSTED")
    assert quota_of(caught.value.details) == (ids, delay)
    violations = caught.value.details["error"]["details"][1]["violations"]
    assert {violation["quotaDimensions"]["model"] for violation in violations} == {"gemini-3.1-flash-tts"}
    assert all("quotaValue" in violation for violation in violations) == (fault is not Fault.QUOTA_ZERO)
    assert str(caught.value.message).count("limit: 0") == (3 if fault is Fault.QUOTA_ZERO else 0)
    assert ("1h52m56.4s" in str(caught.value.message)) == (fault is Fault.QUOTA_DAY_PAID)


@pytest.mark.parametrize(
    ("fault", "code", "status", "message"),
    [
        (Fault.RATE_LIMIT_BARE, 429, "RESOURCE_EXHAUSTED", "Resource exhausted"),
        (Fault.CREDITS_DEPLETED, 429, "RESOURCE_EXHAUSTED", "prepayment credits are depleted"),
        (Fault.INTERNAL_500, 500, "INTERNAL", "internal error"),
        (Fault.UNAVAILABLE_503, 503, "UNAVAILABLE", "overloaded"),
        (Fault.DEADLINE_504, 504, "DEADLINE_EXCEEDED", "Deadline expired"),
        (Fault.BAD_ARGUMENT, 400, "INVALID_ARGUMENT", "invalid argument"),
        (Fault.LOCATION, 400, "FAILED_PRECONDITION", "User location is not supported"),
        (Fault.API_KEY_INVALID, 400, "INVALID_ARGUMENT", "API key not valid"),
        (Fault.UNAUTHENTICATED, 401, "UNAUTHENTICATED", "invalid authentication credentials"),
        (Fault.PERMISSION_DENIED, 403, "PERMISSION_DENIED", "does not have permission"),
        (Fault.KEY_LEAKED, 403, "PERMISSION_DENIED", "reported as leaked"),
        (Fault.MODEL_NOT_FOUND, 404, "NOT_FOUND", f"models/{V38} is not found"),
        (Fault.MODEL_RETIRED, 404, "NOT_FOUND", "no longer available to new users"),
        (Fault.GENERATED_TEXT, 400, "INVALID_ARGUMENT", "Model tried to generate text"),
    ],
)
@pytest.mark.parametrize("call", [speak, stream])
async def test_refusals_have_the_status_and_the_words_of_the_api(
    client: genai.Client, emulator: Emulator, fault: Fault, code: int, status: str, message: str, call: Any
) -> None:
    """The SDK sees the error as from the real API, unary and streamed; the next call is good again."""
    emulator.fail_next(fault)
    with pytest.raises(errors.APIError, match=message) as caught:
        await call(client)
    assert (caught.value.code, caught.value.status) == (code, status)
    assert isinstance(caught.value, errors.ServerError) == (code >= 500)
    assert (emulator.calls[-1].fault, emulator.calls[-1].status) == (fault, code)
    assert await call(client)


def test_the_location_error_is_a_list_of_one(emulator: Emulator) -> None:
    """The oldest front ends answer with a list."""
    emulator.fail_next(Fault.LOCATION)
    [only] = post(emulator, body()).json()
    assert only["error"]["status"] == "FAILED_PRECONDITION"


@pytest.mark.parametrize(("fault", "code"), [(Fault.TIMEOUT_408, 408), (Fault.BAD_GATEWAY_502, 502)])
async def test_front_end_errors_are_html(client: genai.Client, emulator: Emulator, fault: Fault, code: int) -> None:
    """The front end knows no JSON; the SDK passes its page on."""
    emulator.fail_next(fault)
    with pytest.raises(errors.APIError) as caught:
        await speak(client)
    assert caught.value.code == code
    assert caught.value.details["message"].startswith("<html>")


async def test_a_redirect_leads_to_another_origin(client: genai.Client, emulator: Emulator) -> None:
    """The emulator's other host name is another origin: who follows is seen there, and with which key."""
    emulator.fail_next(Fault.REDIRECT, Fault.NONE, Fault.REDIRECT)
    with pytest.raises(errors.APIError) as caught:
        await speak(client)
    assert caught.value.code == 307
    assert len(emulator.calls) == 1
    assert post(emulator, body(), follow_redirects=True).status_code == 200
    response = post(emulator, body(), params={"a": "b"})
    host, _, path = response.headers["location"].removeprefix("http://").partition("/")
    assert host == f"localhost:{emulator.url.rpartition(':')[2]}"
    assert path == f"v1beta/models/{V38}:generateContent?a=b"
    emulator.fail_next(Fault.REDIRECT)
    assert "//127.0.0.1:" in httpx2.get(f"http://{host}/v1beta/models", params={"key": KEY}).headers["location"]


# Faults: the connection


@pytest.mark.parametrize(
    ("fault", "error", "status"),
    [
        (Fault.RESET_BEFORE_BODY, httpx2.ReadError, None),
        (Fault.RESET_IN_BODY, httpx2.ReadError, 200),
        (Fault.CLOSE_BEFORE_BODY, httpx2.RemoteProtocolError, None),
        (Fault.CLOSE_IN_BODY, httpx2.RemoteProtocolError, 200),
    ],
)
@pytest.mark.parametrize("call", [speak, stream])
async def test_broken_connections(
    client: genai.Client, emulator: Emulator, fault: Fault, error: type[Exception], status: int | None, call: Any
) -> None:
    """A reset is a RST on the wire and a close is a FIN: the SDK lets the two kinds of error through."""
    emulator.fail_next(fault)
    with pytest.raises(error):
        await call(client)
    assert (emulator.calls[-1].status, emulator.calls[-1].disconnected) == (status, False)
    assert await call(client)


@pytest.mark.parametrize(("fault", "error"), [(Fault.RESET_IN_BODY, ConnectionResetError), (Fault.CLOSE_IN_BODY, None)])
async def test_reset_and_close_on_the_bare_socket(
    emulator: Emulator, fault: Fault, error: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RST is ECONNRESET to the client's kernel, FIN an ordinary end, both after the first half of the answer."""
    # A reset takes back what the client has not read yet.
    monkeypatch.setattr(wire, "_READ_S", 1.0)
    emulator.fail_next(fault)
    host, port = emulator.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**24)
    content = json.dumps(body()).encode()
    head = f"POST /v1beta/models/{V38}:generateContent HTTP/1.1\r\nhost: x\r\nx-goog-api-key: k\r\n"
    writer.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
    headers = (await reader.readuntil(b"\r\n\r\n")).decode()
    announced = int(headers.partition("content-length: ")[2].partition("\r\n")[0])
    await reader.readexactly(announced // 2)
    with pytest.raises(error) if error else nullcontext():
        assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("fault", [Fault.NEVER_ANSWERS, Fault.SLOW_LORIS])
async def test_calls_that_never_end_last_until_the_client_leaves(
    client: genai.Client, emulator: Emulator, fault: Fault
) -> None:
    """Only the caller's own deadline ends them, and the server sees it go."""
    emulator.fail_next(fault)
    endless = asyncio.create_task(speak(client))
    await until(lambda: emulator.calls)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(endless, 0.2)
    await until(lambda: emulator.calls[-1].disconnected)


async def test_a_slow_loris_sends_bytes_all_the_time(emulator: Emulator) -> None:
    """A read timeout never fires: the next byte always comes."""
    emulator.fail_next(Fault.SLOW_LORIS)
    headers = {"x-goog-api-key": KEY}
    url = f"{emulator.url}/v1beta/models/{V38}:generateContent"
    async with (
        httpx2.AsyncClient(timeout=PATIENCE_S) as http,
        http.stream("POST", url, json=body(), headers=headers) as slow,
    ):
        drips = slow.aiter_raw()
        assert [await anext(drips) for _ in range(3)] == [b" "] * 3


async def test_latency_is_the_time_before_the_answer(client: genai.Client, emulator: Emulator) -> None:
    """Valid calls wait, invalid ones do not; who leaves meanwhile is noticed, and gets no answer."""
    emulator.latency_s = 0.2
    began = time.monotonic()
    await speak(client)
    assert time.monotonic() - began >= 0.2
    emulator.latency_s = 60
    assert post(emulator, {}).status_code == 400
    waiting = asyncio.create_task(speak(client))
    await until(lambda: len(emulator.calls) == 3)
    waiting.cancel()
    await until(lambda: emulator.calls[-1].disconnected)
    assert emulator.calls[-1].status is None


async def test_a_gzip_bomb_is_small_on_the_wire_and_large_in_memory(emulator: Emulator) -> None:
    """A few megabytes become 300; they are a good reply for a client that reads it to the end."""
    emulator.fail_next(Fault.GZIP_BOMB)
    headers, url = {"x-goog-api-key": KEY}, f"{emulator.url}/v1beta/models/{V38}:generateContent"
    with httpx2.stream("POST", url, json=body(), headers=headers, timeout=PATIENCE_S) as response:
        packed = b"".join(response.iter_raw())
    assert response.headers["content-encoding"] == "gzip"
    assert len(packed) < 5 * 2**20
    assert struct.unpack("<I", packed[-4:])[0] > wire.BOMB_BYTES
    assert zlib.decompressobj(31).decompress(packed, 1_000).startswith(b'{"candidates"')


async def test_a_huge_body_never_ends_unless_one_hangs_up(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 MB are sent in pieces to a client that takes them; the server sees one that hangs up."""
    emulator.fail_next(Fault.HUGE_BODY, Fault.HUGE_BODY)
    headers, url = {"x-goog-api-key": KEY}, f"{emulator.url}/v1beta/models/{V38}:generateContent"
    async with (
        httpx2.AsyncClient(timeout=PATIENCE_S) as http,
        http.stream("POST", url, json=body(), headers=headers) as response,
    ):
        got = 0
        async for chunk in response.aiter_raw():
            got += len(chunk)
            if got > 64 * 2**20:
                break
    await until(lambda: emulator.calls[-1].disconnected)
    monkeypatch.setattr(wire, "HUGE_BYTES", 3 * 2**20)
    assert len(pcm_of(post(emulator, body()).json()["candidates"][0]["content"]["parts"][0])) > 2 * 2**20


# Faults: no reply, or no audio in it


async def test_bodies_that_are_no_reply(client: genai.Client, emulator: Emulator) -> None:
    """Half a JSON document and a login page are JSON errors of the SDK; an empty body is a reply of nothing."""
    emulator.fail_next(Fault.TRUNCATED_JSON, Fault.HTML_200, Fault.EMPTY_BODY)
    for _ in range(2):
        with pytest.raises(json.JSONDecodeError):
            await speak(client)
    assert (await speak(client)).candidates is None


@pytest.mark.parametrize(
    ("fault", "candidates"),
    [
        (Fault.CANDIDATES_EMPTY, []),
        (Fault.CANDIDATES_MISSING, None),
        (Fault.CONTENT_EMPTY, [{"content": {}, "finishReason": "OTHER", "index": 0}]),
        (Fault.CONTENT_MISSING, [{"finishReason": "OTHER", "index": 0}]),
        (Fault.SAFETY, [{"finishReason": "SAFETY", "index": 0}]),
        (Fault.PROHIBITED_CONTENT, [{"finishReason": "PROHIBITED_CONTENT", "index": 0}]),
    ],
)
def test_replies_without_audio_are_billed(emulator: Emulator, fault: Fault, candidates: Any) -> None:
    """The reply has no audio and its usage is that of a good one; a stream has it as its only event."""
    emulator.fail_next(fault, fault)
    reply = post(emulator, body()).json()
    assert reply.get("candidates") == candidates
    assert reply["usageMetadata"]["candidatesTokenCount"] > 50
    streamed = post(emulator, body(), action="streamGenerateContent", params={"alt": "sse"}).text
    [event] = [json.loads(line.removeprefix("data: ")) for line in streamed.splitlines() if line]
    assert event.get("candidates") == candidates


def test_the_reasons_for_a_refusal(emulator: Emulator) -> None:
    """Copyright has a finishMessage; a blocked prompt has no candidates, and only its prompt is billed."""
    emulator.fail_next(Fault.COPYRIGHT, Fault.PROMPT_BLOCKED)
    [candidate] = post(emulator, body()).json()["candidates"]
    assert "copyrighted works" in candidate["finishMessage"]
    blocked = post(emulator, body()).json()
    assert blocked["promptFeedback"] == {"blockReason": "PROHIBITED_CONTENT"}
    assert ("candidates" in blocked, "candidatesTokenCount" in blocked["usageMetadata"]) == (False, False)


async def test_text_instead_of_audio(client: genai.Client, emulator: Emulator) -> None:
    """Text alone is billed as text."""
    emulator.fail_next(Fault.TEXT_ONLY)
    reply = await speak(client)
    assert reply.parts[0].inline_data is None
    assert reply.usage_metadata.candidates_tokens_details[0].modality is types.MediaModality.TEXT


async def test_inline_data_that_is_no_data(client: genai.Client, emulator: Emulator) -> None:
    """Empty data is empty; bad base64 is more than the SDK's models take."""
    emulator.fail_next(Fault.INLINE_DATA_EMPTY, Fault.BASE64_INVALID, Fault.BASE64_TWICE)
    assert (await speak(client)).parts[0].inline_data.data == b""
    with pytest.raises(ValidationError):
        await speak(client)
    assert base64.b64decode((await speak(client)).parts[0].inline_data.data).startswith(b"RIFF")


# Faults: the sound and its wrapping


def parts_with(emulator: Emulator, fault: Fault, model: str = V38) -> list[dict[str, Any]]:
    """The parts of a reply damaged in this way."""
    emulator.fail_next(fault)
    parts: list[dict[str, Any]] = post(emulator, body(), model).json()["candidates"][0]["content"]["parts"]
    return parts


@pytest.mark.parametrize(
    "fault",
    [
        Fault.TEXT_THEN_AUDIO,
        Fault.AUDIO_SPLIT,
        Fault.WAV_CHUNK_AFTER_DATA,
        Fault.WAV_SIZE_ZERO,
        Fault.WAV_SIZE_UNKNOWN,
        Fault.MIME_UNKNOWN,
    ],
)
def test_other_wrappings_hold_the_whole_sound(emulator: Emulator, fault: Fault) -> None:
    """A client that joins the audio parts and walks the chunks has all of it."""
    parts = parts_with(emulator, fault)
    assert b"".join(pcm_of(part) for part in parts if "text" not in part) == synthesize(TEXT, "kore", "en-US")


def test_wrappings_are_what_they_say(emulator: Emulator) -> None:
    """Text comes first, the split is in three, the tail is a LIST chunk, sizes and mime types lie as asked."""
    assert "text" in parts_with(emulator, Fault.TEXT_THEN_AUDIO)[0]
    assert len(parts_with(emulator, Fault.AUDIO_SPLIT)) == 3
    [tail] = parts_with(emulator, Fault.WAV_CHUNK_AFTER_DATA)
    assert b"LIST" in base64.b64decode(tail["inlineData"]["data"])[-30:]
    for fault, size in ((Fault.WAV_SIZE_ZERO, 0), (Fault.WAV_SIZE_UNKNOWN, 0xFFFFFFFF)):
        [part] = parts_with(emulator, fault)
        assert struct.unpack_from("<I", base64.b64decode(part["inlineData"]["data"]), 4)[0] == size
    [mp3] = parts_with(emulator, Fault.MP3)
    assert (mp3["inlineData"]["mimeType"], pcm_of(mp3)[:2]) == ("audio/mpeg", b"\xff\xfb")
    [slow] = parts_with(emulator, Fault.RATE_16000)
    assert slow["inlineData"]["mimeType"].endswith("rate=16000")
    assert len(pcm_of(slow)) == pytest.approx(len(synthesize(TEXT, "kore", "en-US")) * 2 / 3, abs=4)
    [other] = parts_with(emulator, Fault.MIME_UNKNOWN)
    assert other["inlineData"]["mimeType"] == "audio/x-unheard-of"


GOOD = synthesize(TEXT, "kore", "en-US")


def samples(pcm: bytes) -> np.ndarray[Any, np.dtype[np.float64]]:
    """As numbers."""
    return np.frombuffer(pcm, "<i2").astype(np.float64)


def correlation(pcm: bytes) -> float:
    """Of each sample with the next: near 1 for speech, near 0 for noise."""
    x = samples(pcm[: len(pcm) // 2 * 2])
    return float(np.corrcoef(x[1:], x[:-1])[0, 1])


@pytest.mark.parametrize(
    ("fault", "is_so"),
    [
        (Fault.SILENT, lambda pcm: set(pcm) == {0} and len(pcm) == len(GOOD)),
        (Fault.NEAR_SILENT, lambda pcm: np.abs(samples(pcm)).max() == 3 and len(pcm) == len(GOOD)),
        (Fault.DC_OFFSET, lambda pcm: set(samples(pcm)) == {8_000}),
        (Fault.HALF_SILENT, lambda pcm: pcm[: len(GOOD) // 2 - 2] in GOOD and not any(pcm[len(GOOD) // 2 :])),
        (Fault.GARBAGE, lambda pcm: abs(correlation(pcm)) < 0.1 and len(pcm) == len(GOOD)),
        (Fault.BYTES_SWAPPED, lambda pcm: abs(correlation(pcm)) < 0.2 and sorted(pcm) == sorted(GOOD)),
        (Fault.BYTES_SHIFTED, lambda pcm: pcm[:-1] == GOOD[1:]),
        (Fault.MP3_AS_PCM, lambda pcm: pcm.startswith(b"\xff\xfb") and abs(correlation(pcm)) < 0.2),
        (Fault.ODD_BYTES, lambda pcm: pcm == GOOD[:-1]),
        (Fault.TOO_SHORT, lambda pcm: len(pcm) == 4_800),
        (Fault.TRUNCATED, lambda pcm: GOOD.startswith(pcm) and 0.3 < len(pcm) / len(GOOD) < 0.4),
        (Fault.TRUNCATED_BILLED, lambda pcm: GOOD.startswith(pcm) and 0.65 < len(pcm) / len(GOOD) < 0.75),
        (Fault.RUNAWAY, lambda pcm: pcm == GOOD * 6),
    ],
)
@pytest.mark.parametrize("model", [V25, V38])
def test_damaged_sound(emulator: Emulator, fault: Fault, is_so: Callable[[bytes], bool], model: str) -> None:
    """The sound is damaged as the name says, in the family's usual wrapping, with STOP and a bill for what came."""
    emulator.fail_next(fault)
    reply = post(emulator, body(), model).json()
    [candidate] = reply["candidates"]
    pcm = pcm_of(candidate["content"]["parts"][0])
    assert is_so(pcm)
    assert candidate["finishReason"] == "STOP"
    billed = GOOD if fault is Fault.TRUNCATED_BILLED else pcm
    assert reply["usageMetadata"]["candidatesTokenCount"] == round(len(billed) / 48_000 * 25)


@pytest.mark.parametrize(
    ("fault", "reason", "kept"),
    [
        (Fault.MAX_TOKENS, "MAX_TOKENS", 0.6),
        (Fault.FINISH_OTHER, "OTHER", 0.5),
        (Fault.FINISH_MISSING, None, 1),
        (Fault.FINISH_UNKNOWN, "SPEECH_BOREDOM", 1),
    ],
)
def test_other_finish_reasons(emulator: Emulator, fault: Fault, reason: str | None, kept: float) -> None:
    """The reason is not STOP, and part of the sound may be missing; a stream says so in its last event."""
    emulator.fail_next(fault, fault)
    [candidate] = post(emulator, body()).json()["candidates"]
    assert candidate.get("finishReason") == reason
    assert len(pcm_of(candidate["content"]["parts"][0])) == pytest.approx(len(GOOD) * kept, abs=2)
    streamed = post(emulator, body(), action="streamGenerateContent", params={"alt": "sse"}).text.split("data: ")
    assert json.loads(streamed[-1])["candidates"][0].get("finishReason") == reason


@pytest.mark.parametrize("model", [V38, "gemini-3.8-flash-lite-tts"])
async def test_another_model_may_answer(client: genai.Client, emulator: Emulator, model: str) -> None:
    """A silent reroute shows only in modelVersion."""
    emulator.fail_next(Fault.OTHER_MODEL)
    reply = await speak(client, model)
    assert reply.model_version not in {model, None}
    assert reply.parts[0].inline_data.data


def test_a_tier_may_be_served_as_standard(emulator: Emulator) -> None:
    """Silently: only the header and the usage tell."""
    emulator.fail_next(Fault.TIER_DOWNGRADED)
    answer = post(emulator, {**body(), "serviceTier": "priority"})
    assert answer.headers["x-gemini-service-tier"] == "standard"
    assert answer.json()["usageMetadata"]["serviceTier"] == "standard"


# Faults: streams


async def take(chunks: AsyncIterator[Any], into: list[Any]) -> None:
    """Collect chunks as long as they come."""
    async for chunk in chunks:
        into.append(chunk)  # noqa: PERF401 - what came before an error counts


async def test_streams_that_stop_in_the_middle(client: genai.Client, emulator: Emulator) -> None:
    """A cut stream ends without a reason and without an error; an error event is an APIError after good chunks."""
    emulator.fail_next(Fault.STREAM_CUT, Fault.STREAM_ERROR)
    chunks = await stream(client)
    assert {chunk.candidates[0].finish_reason for chunk in chunks} == {None}
    assert 0 < sum(len(chunk.parts[0].inline_data.data) for chunk in chunks) < len(GOOD)
    got: list[Any] = []
    config = audio_config()
    with pytest.raises(errors.ServerError):
        await take(await client.aio.models.generate_content_stream(model=V38, contents=TEXT, config=config), got)
    assert len(got) == len(chunks)


async def test_streams_that_stall(client: genai.Client, emulator: Emulator) -> None:
    """After half of the sound nothing comes, and the connection stays."""
    emulator.fail_next(Fault.STREAM_STALL)
    chunks = await client.aio.models.generate_content_stream(model=V38, contents=TEXT, config=audio_config())
    got: list[Any] = []
    taking = asyncio.create_task(take(chunks, got))
    await until(lambda: got)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(taking, 0.2)
    await until(lambda: emulator.calls[-1].disconnected)


async def test_streams_with_odd_chunks_are_whole(client: genai.Client, emulator: Emulator) -> None:
    """Chunks that end in the middle of a sample join to the whole sound."""
    emulator.fail_next(Fault.STREAM_ODD_CHUNKS)
    pieces = [chunk.parts[0].inline_data.data for chunk in await stream(client) if chunk.parts]
    assert len(pieces[0]) % 2 == 1
    assert b"".join(pieces) == GOOD


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault.startswith("stream-")])
async def test_stream_faults_leave_unary_calls_alone(client: genai.Client, emulator: Emulator, fault: Fault) -> None:
    """They mean nothing there."""
    emulator.fail_next(fault)
    assert (await speak(client)).parts[0].inline_data.data.endswith(GOOD)


# How faults are asked for


async def test_outcomes_are_served_in_order(client: genai.Client, emulator: Emulator) -> None:
    """Queued outcomes come first in, first out; then the function decides, knowing text and attempt."""

    def decide(call: ReceivedCall) -> Fault | None:
        return Fault.UNAVAILABLE_503 if call.attempt <= 2 and call.text == "Again" else None

    emulator.faults = decide
    emulator.fail_next(Fault.NONE, Fault.SAFETY)
    assert (await speak(client)).parts
    assert (await speak(client)).parts is None
    for attempt in (1, 2):
        with pytest.raises(errors.ServerError):
            await speak(client, contents="Again")
        assert emulator.calls[-1].attempt == attempt
    assert (await speak(client, contents="Again")).parts
    assert [call.number for call in emulator.calls] == [1, 2, 3, 4, 5]
    assert [call.attempt for call in emulator.calls] == [1, 2, 1, 2, 3]


async def test_calls_are_recorded(client: genai.Client, emulator: Emulator) -> None:
    """A call keeps what was sent, the key included, and what was served."""
    before = time.monotonic()
    await speak(client)
    [call] = emulator.calls
    assert (call.method, call.path) == ("POST", f"/v1beta/models/{V38}:generateContent")
    assert (call.model, call.action, call.text) == (V38, "generateContent", TEXT)
    assert call.headers["x-goog-api-key"] == KEY
    assert call.body["contents"][0]["parts"] == [{"text": TEXT}]
    assert (call.fault, call.status, call.disconnected) == (Fault.NONE, 200, False)
    assert before <= call.time_s <= time.monotonic()


async def test_reset_takes_everything_back(client: genai.Client, emulator: Emulator) -> None:
    """Calls, attempts, faults, quotas and settings are as at the start."""
    await speak(client)
    emulator.fail_next(Fault.SAFETY)
    emulator.set_quota(per_day=0)
    emulator.faults = lambda call: Fault.SAFETY
    emulator.api_key, emulator.latency_s, emulator.tokens_per_s = "other", 60, 32
    emulator.synthesize = lambda *_: b"\0\0"
    emulator.reset()
    assert (await speak(client)).usage_metadata.candidates_token_count == round(len(GOOD) / 48_000 * 25)
    assert [(call.number, call.attempt) for call in emulator.calls] == [(1, 1)]


def test_a_settled_server_has_heard_everybody(emulator: Emulator) -> None:
    """A client that sends a call and leaves at once is heard before a reset, not by the test behind it."""
    host, port = emulator.url.removeprefix("http://").split(":")
    content = json.dumps(body()).encode()
    head = f"POST /v1beta/models/{V38}:generateContent HTTP/1.1\r\nhost: x\r\nx-goog-api-key: k\r\n"
    clients = [socket.create_connection((host, int(port))) for _ in range(8)]
    for client in clients:
        client.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        client.close()
    emulator.settle()
    assert [call.text for call in emulator.calls] == [TEXT] * 8


def test_faults_and_calls_from_outside(emulator: Emulator) -> None:
    """Another process queues faults by name and reads the calls as JSON; a wrong name is told all names."""
    answer = httpx2.post(f"{emulator.url}/emulator/faults", json={"faults": ["unavailable-503", "none"]})
    assert answer.json() == {"coming": ["unavailable-503", "none"]}
    assert post(emulator, body()).status_code == 503
    wrong: Any
    for wrong in ({"faults": ["unheard-of"]}, {}, []):
        refused = httpx2.post(f"{emulator.url}/emulator/faults", json=wrong)
        assert (refused.status_code, "unavailable-503" in refused.json()["error"]) == (400, True)
    [call] = httpx2.get(f"{emulator.url}/emulator/calls").json()["calls"]
    assert (call["fault"], call["status"], call["text"]) == ("unavailable-503", 503, TEXT)


def test_faults_are_members_or_their_names(emulator: Emulator) -> None:
    """A name that is no fault is a ValueError."""
    emulator.fail_next("safety")  # type: ignore[arg-type]  # what a caller without types may do
    assert emulator.coming_faults == (Fault.SAFETY,)
    with pytest.raises(ValueError, match="unheard-of"):
        emulator.fail_next("unheard-of")  # type: ignore[arg-type]


# Quotas


async def test_a_quota_is_exact_under_load(client: genai.Client, emulator: Emulator) -> None:
    """Of many calls at once exactly as many as allowed get through, per model; the rest are told what and when."""
    emulator.set_quota(per_minute=5)
    emulator.set_quota(V25, per_day=2)
    results = await asyncio.gather(
        *[speak(client, model) for model in (V38, V31, V25) for _ in range(8)], return_exceptions=True
    )
    refused = [error for error in results if isinstance(error, errors.ClientError)]
    assert len(results) - len(refused) == 5 + 5 + 2
    kinds = [quota_of(error.details) for error in refused]
    days = [delay for ids, delay in kinds if ids == ["GenerateRequestsPerDayPerProjectPerModel-FreeTier"]]
    assert days == ["27s"] * 6
    minutes = [float(delay[:-1]) for ids, delay in kinds if "PerMinute" in ids[0]]
    assert len(minutes) == 6
    assert all(50 < delay <= 60 for delay in minutes)
    assert "limit: 5, model: gemini-3.8-flash-tts" in str(refused[0])


def test_the_delay_of_a_minute_quota_is_true() -> None:
    """After the delay that the refusal asks for, and no earlier, the next call is admitted."""
    now = [100.0]
    quota = Quota(per_minute=2, window_s=10, clock=lambda: now[0])
    quota.admit(V38)
    now[0] = 104
    quota.admit(V38)
    with pytest.raises(RefusalError) as refused:
        quota.admit(V38)
    assert quota_of(refused.value.document())[1] == "6s"
    now[0] = 109.9
    with pytest.raises(RefusalError):
        quota.admit(V38)
    now[0] = 110
    quota.admit(V38)


@given(st.lists(st.floats(0, 5), max_size=60), st.integers(0, 4))
def test_no_window_holds_more_than_the_quota(gaps: list[float], limit: int) -> None:
    """However calls arrive, no window of the quota's length admits more than it allows, and none is wasted."""
    now, admitted = [0.0], list[float]()
    quota = Quota(per_minute=limit, window_s=7, clock=lambda: now[0])
    for gap in gaps:
        now[0] += gap
        recent = [at for at in admitted if at > now[0] - 7]
        try:
            quota.admit(V38)
        except RefusalError:
            assert len(recent) >= limit
        else:
            assert len(recent) < limit
            admitted.append(now[0])


def test_a_day_quota_starts_again_the_next_day() -> None:
    """The count is per day, not per process."""
    day = [date(2026, 11, 22)]
    quota = Quota(per_day=1, today=lambda: day[0])
    quota.admit(V38)
    with pytest.raises(RefusalError):
        quota.admit(V38)
    day[0] = date(2026, 11, 23)
    quota.admit(V38)


# The computed sound


@pytest.mark.parametrize(
    "text",
    [TEXT, "Wait... what?", "人人生而自由，在尊严和权利上一律平等。", "In 1984, 42 people came.", "¡Hola! <laugh> Hi"],
)
def test_the_computed_sound_measures_like_speech(text: str) -> None:
    """About -20 dBFS, quiet at both ends, lively, no offset, correlated; the same text gives the same bytes."""
    pcm = synthesize(text, "kore", "en-US")
    assert pcm == synthesize(text, "kore", "fr-FR")
    assert pcm != synthesize(text, "puck", "en-US")
    x = samples(pcm) / 32_768
    assert 20 * np.log10(np.sqrt(np.mean(x**2))) == pytest.approx(-20, abs=0.5)
    assert abs(x.mean()) < 0.002
    assert np.abs(x).max() < 0.99
    assert correlation(pcm) > 0.9
    assert np.abs(x[: int(0.14 * 24_000)]).max() < 0.001
    assert np.abs(x[-int(0.24 * 24_000) :]).max() < 0.001
    frames = 10 * np.log10(np.mean(x[: len(x) // 480 * 480].reshape(-1, 480) ** 2, axis=1) + 1e-10)
    assert np.percentile(frames, 95) - np.percentile(frames, 10) > 10


@pytest.mark.parametrize(
    ("text", "speech_s"),
    [
        ("a" * 75, 6),
        ("漢" * 9, 2),
        ("가" * 50, 10),
        ("12345", 2),
        ("one, two.", 6 / 12.5 + 0.2),
        ("!?", 0),
        ("ab <laugh> cd", 4 / 12.5 + 0.35),
    ],
)
def test_the_computed_sound_lasts_as_long_as_the_text(text: str, speech_s: float) -> None:
    """Twelve and a half letters a second, others and digits slower, pauses at punctuation, 0.4 s of quiet around."""
    assert len(synthesize(text, "kore", "")) / 48_000 == pytest.approx(speech_s + 0.4, abs=0.02)


def test_long_texts_are_computed_but_not_kept() -> None:
    """A text beyond the cache's limit gives the same sound every time too."""
    assert synthesize(TEXT * 10, "kore", "") == synthesize(TEXT * 10, "kore", "")


# The server as such


async def test_the_server_ends_with_calls_in_flight() -> None:
    """Stopping breaks connections that wait for an answer, and a second stop does nothing."""
    with Emulator() as own:
        own.fail_next(Fault.NEVER_ANSWERS)
        waiting = asyncio.create_task(asyncio.to_thread(post, own, body()))
        await until(lambda: own.calls)
        began = time.monotonic()
        own.stop()
        with pytest.raises(httpx2.TransportError):
            await waiting
        assert time.monotonic() - began < 20
    with pytest.raises(httpx2.ConnectError):
        post(own, body())


def test_the_server_listens_on_addresses_of_this_machine() -> None:
    """Either loopback family works, and all addresses when they are asked for; a name or a foreign address does not."""
    with pytest.raises(ValueError, match="address"):
        Emulator(host="example.com")
    with pytest.raises(OSError, match="address"):
        Emulator(host="192.0.2.1").start()
    for host, shown in (("::1", "[::1]"), ("localhost", "127.0.0.1"), ("0.0.0.0", "0.0.0.0")):
        with Emulator(host=host) as own:
            assert own.url.startswith(f"http://{shown}:")
            assert post(own, body()).status_code == 200
            own.settle()
            assert len(own.calls) == 1


async def test_a_client_that_leaves_while_sending_is_no_call(emulator: Emulator) -> None:
    """A request whose body never comes is not recorded."""
    host, port = emulator.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1beta/models/{V38}:generateContent HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n"
    writer.write(head.encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert post(emulator, body()).status_code == 200
    assert len(emulator.calls) == 1


@pytest.fixture
def program() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``python -m audio_api.emulator``; ends what still runs."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "audio_api.emulator", *arguments]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_program_warns_when_other_machines_reach_it(program: Callable[..., subprocess.Popen[str]]) -> None:
    """It serves another container when it is told to, and says who can read what it was sent."""
    process = program("--speech", "computed", "--host", "0.0.0.0", "--v1beta-only", "--voice", "voice_mine")
    assert process.stdout is not None
    own = SimpleNamespace(url=process.stdout.readline().strip())
    assert own.url.startswith("http://0.0.0.0:")
    mine = body(speechConfig={"voiceConfig": {"voice": "voice_mine"}})
    assert post(own, mine).status_code == 200
    assert post(own, mine, version="v1").status_code == 400
    process.terminate()
    _, said = process.communicate(timeout=PATIENCE_S)
    assert "warning: all who reach 0.0.0.0 can read the calls and their keys" in said


@pytest.mark.parametrize(("speech", "stop"), [("computed", signal.SIGTERM), ("offline", signal.SIGINT)])
def test_the_program_serves_until_it_is_told_to_stop(
    program: Callable[..., subprocess.Popen[str]], speech: str, stop: signal.Signals
) -> None:
    """Its first line is its URL, its options hold, and SIGTERM and Ctrl+C end it with status 0."""
    process = program("--speech", speech, "--api-key", KEY, "--tokens-per-s", "32", "--latency", "0.01")
    assert process.stdout is not None
    own = SimpleNamespace(url=process.stdout.readline().strip())
    assert own.url.startswith("http://127.0.0.1:")
    assert post(own, body(), headers={"x-goog-api-key": "other"}).status_code == 400
    reply = post(own, body()).json()
    pcm = pcm_of(reply["candidates"][0]["content"]["parts"][0])
    assert (pcm == GOOD) == (speech == "computed")
    assert reply["usageMetadata"]["candidatesTokenCount"] == round(len(pcm) / 48_000 * 32)
    thai = {"voiceConfig": {"voice": "Kore"}, "languageCode": "th-TH"}
    assert post(own, body("สวัสดีครับ", speechConfig=thai)).status_code == 200
    library = {"voiceConfig": {"voice": "ar-eg-advisor-11"}}
    assert post(own, body(speechConfig=library)).status_code == 200
    process.send_signal(stop)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, said) == (0, f"{speech} speech; Ctrl+C ends\n")


def test_the_program_says_what_it_cannot_do(emulator: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    """A foreign address and a taken port end it with status 2 and one line."""
    for arguments in (
        ["--host", "192.0.2.1"],
        ["--host", "example.com"],
        ["--port", emulator.url.rpartition(":")[2]],
        ["--port", "99999"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith("python -m audio_api.emulator: ")


def test_the_plugin_is_light() -> None:
    """Every run of pytest in every project loads it: it brings no server, no numpy and no SDK along."""
    code = (
        "import sys, audio_api.emulator.pytest_plugin\n"
        "print([name for name in ('starlette', 'uvicorn', 'numpy', 'google.genai') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (
            "starlette",
            "ImportError: the emulator needs starlette, which is not installed: pip install 'audio-api[emulator]'",
        ),
        ("numpy", "ModuleNotFoundError: import of numpy halted"),
    ],
)
def test_a_missing_extra_is_named(missing: str, said: str) -> None:
    """Without the extra the error says what to install; what is broken otherwise stays as it is."""
    code = f"import sys; sys.modules['{missing}'] = None; from audio_api.emulator import Emulator"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said in ended.stderr.splitlines()[-1]


def test_other_names_are_no_part_of_the_package() -> None:
    """An unknown name is an AttributeError."""
    with pytest.raises(AttributeError, match="no attribute 'unheard_of'"):
        getattr(audio_api.emulator, "unheard_of")  # noqa: B009 - what the type checker would not let pass
