"""What the emulator takes from Google's samples and from the SDKs, and what it answers to it."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx2
import numpy as np
import pytest
from emulator_calls import KEY, TEXT, V25, V31, V38, body, error_of, pcm_of, post, two_voices
from hypothesis import given
from hypothesis import strategies as st

from audio_api.emulator import Emulator, Fault, create_app
from audio_api.emulator.fields import parse_json
from audio_api.emulator.speech import synthesize, to_a_law, to_mu_law

GOOD = synthesize(TEXT, "kore", "en-US")
SPENT = "You exceeded your spend-based rate limit."


@pytest.fixture
def emulator(gemini_emulator: Emulator) -> Emulator:
    """The fixture that users get."""
    return gemini_emulator


def parts_of(response: httpx2.Response) -> list[dict[str, Any]]:
    """The parts of a unary answer, which must be a good one."""
    assert response.status_code == 200, response.text
    parts: list[dict[str, Any]] = response.json()["candidates"][0]["content"]["parts"]
    return parts


def events_of(response: httpx2.Response) -> list[dict[str, Any]]:
    """The documents of a stream of events."""
    assert response.headers["content-type"] == "text/event-stream"
    return [json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line]


def sound_of(documents: list[dict[str, Any]]) -> bytes:
    """The joined data of a stream's parts of sound."""
    parts = [part for each in documents for part in each["candidates"][0]["content"].get("parts", [])]
    return b"".join(base64.b64decode(part["inlineData"]["data"]) for part in parts if "inlineData" in part)


def spoken(emulator: Emulator, request: dict[str, Any], model: str = V38) -> bytes:
    """The samples that a good request gives."""
    [part] = parts_of(post(emulator, request, model))
    return pcm_of(part)


# Versions


@pytest.mark.parametrize("model", [V25, V31, V38])
def test_v1_speaks_like_v1beta(emulator: Emulator, model: str) -> None:
    """The version that every newer SDK asks for gives the same sound."""
    [new], [old] = (parts_of(post(emulator, body(), model, version=version)) for version in ("v1", "v1beta"))
    assert new == old


def test_v1_knows_no_speech_if_told_so() -> None:
    """A client that must ask v1beta is found out: v1 refuses the field by its name, until the setting is taken back."""
    with Emulator(v1beta_only=True) as own:
        code, _, text = error_of(post(own, body(), version="v1"))
        field = "Unknown name \"speechConfig\" at 'generation_config': Cannot find field."
        assert (code, text) == (400, f"Invalid JSON payload received. {field}")
        assert post(own, body()).status_code == 200
        own.v1beta_only = False
        assert post(own, body(), version="v1").status_code == 200
        own.reset()
        assert post(own, body(), version="v1").status_code == 400


def test_an_application_takes_the_same_options() -> None:
    """create_app hands them to what steers it."""
    control = create_app(custom_voices=["voice_a"], v1beta_only=True).state.control
    assert (control.custom_voices, control.v1beta_only) == ({"voice_a"}, True)


# JSON


SAMPLE = b"""{
  "contents": [{"parts": [{"text": "Hello,
\tworld, ]"},]},],
  "generationConfig": {"responseModalities": ["AUDIO", ],
    "speechConfig": {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore", }, }, }, } ,
}"""


def test_trailing_commas_and_raw_line_ends_are_read(emulator: Emulator) -> None:
    """A body as people type it into a shell is spoken word for word, and recorded."""
    url = f"{emulator.url}/v1beta/models/{V38}:generateContent"
    assert httpx2.post(url, content=SAMPLE, headers={"x-goog-api-key": KEY}).status_code == 200
    assert emulator.calls[-1].text == "Hello,\n\tworld, ]"
    assert emulator.calls[-1].body["generationConfig"]["responseModalities"] == ["AUDIO"]


@pytest.mark.parametrize("wrong", [b"[1,,]", b'"a', b'{"a":"b\\",', b"\xff", b""])
def test_other_errors_in_json_stay_errors(wrong: bytes) -> None:
    """What is no JSON even with leniency raises ValueError."""
    with pytest.raises(ValueError):  # noqa: PT011 - JSONDecodeError and UnicodeDecodeError
        parse_json(wrong)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON_VALUES)
def test_commas_at_the_end_change_nothing(value: Any) -> None:
    """Any JSON reads the same as it is, and with a comma behind the last item of its lists and objects."""

    def loose(each: Any) -> str:
        if isinstance(each, list):
            return "[" + "".join(f"{loose(item)} ,\n" for item in each) + "]"
        if isinstance(each, dict):
            return "{" + "".join(f"{json.dumps(key)}: {loose(item)}, " for key, item in each.items()) + "}"
        return json.dumps(each)

    assert parse_json(json.dumps(value).encode()) == value
    assert parse_json(loose(value).encode()) == value


@pytest.mark.parametrize("text", ['"' + '\\"' * 500_000, ", " * 500_000, '"a' * 333_333, "[" + "," * 900_000])
def test_hostile_json_takes_no_longer_than_its_length(text: str) -> None:
    """A megabyte that is no JSON is refused in one pass; the test runs into its limit if the time grows faster."""
    with pytest.raises(ValueError):  # noqa: PT011 - JSONDecodeError
        parse_json(text.encode())


# Fields


@pytest.mark.parametrize("modality", ["AUDIO", "audio", "Audio"])
def test_modalities_are_read_in_any_case(emulator: Emulator, modality: str) -> None:
    """Names of choices have no case."""
    assert spoken(emulator, body(responseModalities=[modality])) == GOOD


def test_an_empty_list_is_a_field_that_was_not_sent(emulator: Emulator) -> None:
    """SDKs that always send a list of tools are answered when it is empty."""
    assert spoken(emulator, {**body(), "tools": []}) == GOOD


def test_one_candidate_is_what_there_is(emulator: Emulator) -> None:
    """Asking for one changes nothing, also on 3.8."""
    assert spoken(emulator, body(candidateCount=1)) == GOOD


def test_2_5_takes_an_instruction_of_the_developer(emulator: Emulator) -> None:
    """It is counted with the prompt, and not spoken."""
    request = {**body(), "systemInstruction": {"parts": [{"text": "Speak calmly."}]}}
    reply = post(emulator, request, V25).json()
    assert emulator.calls[-1].text == TEXT
    assert reply["usageMetadata"]["promptTokenCount"] > len(TEXT) // 4


def test_requests_need_not_be_stored(emulator: Emulator) -> None:
    """``store`` is taken, true or false."""
    for store in (True, False):
        assert spoken(emulator, {**body(), "store": store}) == GOOD


def test_a_front_end_may_not_know_store(emulator: Emulator) -> None:
    """The fault refuses the field by its name, and only calls that carry it."""
    emulator.faults = lambda call: Fault.STORE_UNKNOWN
    code, status, text = error_of(post(emulator, {**body(), "store": False}))
    assert (code, status) == (400, "INVALID_ARGUMENT")
    assert text == 'Invalid JSON payload received. Unknown name "store": Cannot find field.'
    assert spoken(emulator, body()) == GOOD


@pytest.mark.parametrize("tier", ["flex", "priority", "standard", "FLEX"])
@pytest.mark.parametrize("alt", [None, "sse", "json"])
def test_the_tier_asked_for_is_the_tier_served(emulator: Emulator, tier: str, alt: str | None) -> None:
    """The header and every usage name it, unary and in either kind of stream."""
    action = "streamGenerateContent" if alt else "generateContent"
    answer = post(emulator, {**body(), "serviceTier": tier}, action=action, params={"alt": alt} if alt else {})
    assert answer.headers["x-gemini-service-tier"] == tier.lower()
    documents = events_of(answer) if alt == "sse" else answer.json() if alt else [answer.json()]
    assert {each["usageMetadata"]["serviceTier"] for each in documents} == {tier.lower()}


def test_the_usual_tier_is_standard(emulator: Emulator) -> None:
    """It is named although no tier was asked for."""
    assert post(emulator, body()).headers["x-gemini-service-tier"] == "standard"


# Voices


@pytest.mark.parametrize("name", ["kore", "KORE", "Kore"])
@pytest.mark.parametrize("model", [V25, V31, V38])
def test_voice_names_have_no_case(emulator: Emulator, model: str, name: str) -> None:
    """Every spelling of a prebuilt voice is that voice."""
    assert spoken(emulator, body(speechConfig={"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": name}}}), model)


@pytest.mark.parametrize("language", [None, "ar-EG", "ar"])
def test_library_voices_speak(emulator: Emulator, language: str | None) -> None:
    """An id of the library is a voice of 3.8, also with a language code that is its own."""
    speech = {"voiceConfig": {"voice": "ar-eg-advisor-11"}, "languageCode": language}
    assert spoken(emulator, body(speechConfig=speech)) == synthesize(TEXT, "ar-eg-advisor-11", "")


def test_library_voices_speak_in_dialogues(emulator: Emulator) -> None:
    """Only the account's own voices are barred there."""
    request = body(speechConfig=two_voices("Joe", "Jane", voiceConfig={"voice": "en-us-guide-2"}))
    request["contents"][0]["parts"] = [
        {"text": text, "speechMetadata": {"speaker": name}} for text, name in (("Hi", "Joe"), ("Hello", "Jane"))
    ]
    assert spoken(emulator, request) == b"".join(synthesize(text, "en-us-guide-2", "") for text in ("Hi", "Hello"))


def test_custom_voices_exist_when_they_are_named(emulator: Emulator) -> None:
    """A stored voice and a voice key speak if the account has them; another stored one is a 404 in the API's words."""
    emulator.custom_voices |= {"voice_mine", "voicekey_mine"}
    for voice in ("voice_mine", "voicekey_mine"):
        speech = {"voiceConfig": {"voice": voice}}
        assert spoken(emulator, body(speechConfig=speech)) == synthesize(TEXT, voice, "")
    foreign = error_of(post(emulator, body(speechConfig={"voiceConfig": {"voice": "voice_yours"}})))
    text = "The voice was not found or the caller does not have permission to access it."
    assert foreign == (404, "NOT_FOUND", text)
    emulator.reset()
    assert emulator.custom_voices == set()


# Formats


def from_mu_law(data: bytes) -> np.ndarray[Any, Any]:
    """G.711 decoded by its formula: exponent and mantissa of the inverted byte, less the bias."""
    code = ~np.frombuffer(data, np.uint8).astype(np.int32) & 0xFF
    size = (((code & 15) << 3) + 132 << ((code >> 4) & 7)) - 132
    return np.where(code & 128, -size, size)


def from_a_law(data: bytes) -> np.ndarray[Any, Any]:
    """G.711 decoded by its formula: even bits inverted, the middle of each step."""
    code = np.frombuffer(data, np.uint8).astype(np.int32) ^ 0x55
    segment, mantissa = (code >> 4) & 7, code & 15
    size = np.where(segment == 0, (mantissa << 4) + 8, ((mantissa << 4) + 264) << np.maximum(segment - 1, 0))
    return np.where(code & 128, size, -size)


def test_mu_law_and_a_law_decode_to_the_sound() -> None:
    """Both are a third of the samples, as near as eight bits can be, from silence to full scale; zero has its code."""
    pcm = np.concatenate([np.arange(-32_768, 32_768), np.frombuffer(GOOD, "<i2")]).astype("<i2").repeat(3)
    wanted = pcm.reshape(-1, 3)[:, 0].astype(np.int32)
    for heard in (from_mu_law(to_mu_law(pcm.tobytes())), from_a_law(to_a_law(pcm.tobytes()))):
        assert np.abs(heard - wanted)[np.abs(wanted) < 32_600].max() <= 512
        assert np.abs(heard - wanted)[np.abs(wanted) < 200].max() <= 8
    assert (to_mu_law(bytes(6)), to_a_law(bytes(6))) == (b"\xff", b"\xd5")


FORMATS = {
    "AUDIO_WAV": ("audio/wav", None),
    "AUDIO_L16": ("audio/l16; rate=24000; channels=1", GOOD),
    "AUDIO_MULAW": ("audio/mulaw; rate=8000; channels=1", to_mu_law(GOOD)),
    "audio_alaw": ("audio/alaw; rate=8000; channels=1", to_a_law(GOOD)),
}


@pytest.mark.parametrize("form", ["object", "list"])
@pytest.mark.parametrize("asked", FORMATS)
def test_the_format_asked_for_is_sent(emulator: Emulator, asked: str, form: str) -> None:
    """An object or a list of one names it; its rate is ignored, and the bill is for the same seconds."""
    wanted = {"audio": {"mimeType": asked, "sampleRate": 16_000}}
    response = post(emulator, body(responseFormat=[wanted] if form == "list" else wanted))
    [part] = parts_of(response)
    mime, data = FORMATS[asked]
    assert part["inlineData"]["mimeType"] == mime
    assert (base64.b64decode(part["inlineData"]["data"]) if data else pcm_of(part)) == (data or GOOD)
    assert response.json()["usageMetadata"] == post(emulator, body()).json()["usageMetadata"]


@pytest.mark.parametrize("asked", FORMATS)
def test_streams_have_the_format_asked_for(emulator: Emulator, asked: str) -> None:
    """Pieces last 80 ms in every format, and none is a WAV file."""
    request = body(responseFormat={"audio": {"mimeType": asked}})
    *pieces, _ = events_of(post(emulator, request, action="streamGenerateContent", params={"alt": "sse"}))
    data = FORMATS[asked][1] or GOOD
    assert sound_of(pieces) == data
    assert len(sound_of(pieces[:1])) == (640 if "LAW" in asked.upper() else 3_840)


# Streams


def as_list(emulator: Emulator, **options: Any) -> httpx2.Response:
    """A stream as it comes without ``alt=sse``."""
    answer: httpx2.Response = post(emulator, body(), action="streamGenerateContent", **options)
    return answer


@pytest.mark.parametrize("model", [V25, V31, V38])
@pytest.mark.parametrize("params", [{}, {"alt": "json"}])
def test_a_stream_that_is_not_asked_for_events_is_one_list(
    emulator: Emulator, model: str, params: dict[str, str]
) -> None:
    """It holds the documents of the events, with the whole sound."""
    answer = as_list(emulator, model=model, params=params)
    assert answer.headers["content-type"].startswith("application/json")
    documents = answer.json()
    assert sound_of(documents) == GOOD
    assert documents[-1]["candidates"][0]["finishReason"] == "STOP"
    events = events_of(post(emulator, body(), model, "streamGenerateContent", params={"$alt": "sse"}))
    assert [each["candidates"] for each in documents] == [each["candidates"] for each in events]


def test_a_list_comes_in_pieces(emulator: Emulator) -> None:
    """It has no length in its head, as its end is not known when it begins."""
    assert as_list(emulator).headers["transfer-encoding"] == "chunked"


def test_errors_of_a_list_stand_in_a_list(emulator: Emulator) -> None:
    """A refusal is a list of one; an error in the middle is the last item."""
    emulator.fail_next(Fault.UNAVAILABLE_503, Fault.STREAM_ERROR, Fault.STREAM_CUT)
    [refused] = as_list(emulator).json()
    assert refused["error"]["status"] == "UNAVAILABLE"
    *good, last = as_list(emulator).json()
    assert last["error"]["code"] == 503
    assert 0 < len(sound_of(good)) < len(GOOD)
    with pytest.raises(json.JSONDecodeError):
        as_list(emulator).json()


@pytest.mark.parametrize("model", [V25, V31, V38])
def test_a_stream_may_begin_with_text(emulator: Emulator, model: str) -> None:
    """The sound behind it is whole."""
    emulator.fail_next(Fault.STREAM_TEXT_FIRST)
    first, *others = events_of(post(emulator, body(), model, "streamGenerateContent", params={"alt": "sse"}))
    [part] = first["candidates"][0]["content"]["parts"]
    assert list(part) == ["text"]
    assert sound_of(others) == GOOD


# The account's limit


@pytest.mark.parametrize(("fault", "details"), [(Fault.SPEND_LIMIT, 2), (Fault.SPEND_LIMIT_BARE, 0)])
def test_the_spend_based_429(emulator: Emulator, fault: Fault, details: int) -> None:
    """It names no quota; a delay of 31 to 45 s stands in its details, or there are none."""
    emulator.fail_next(fault)
    answer = post(emulator, body())
    code, status, text = error_of(answer)
    assert (code, status, text.startswith(SPENT)) == (429, "RESOURCE_EXHAUSTED", True)
    found = answer.json()["error"].get("details", [])
    assert len(found) == details
    if found:
        failure, retry = found
        assert "violations" not in failure
        assert 31 <= float(retry["retryDelay"].removesuffix("s")) <= 45


@pytest.mark.parametrize("retry_info", [True, False])
def test_a_spend_limit_holds_for_all_models(emulator: Emulator, retry_info: bool) -> None:
    """What one model was billed stops the others too, and no quota counts what was refused."""
    emulator.set_spend_limit(150, retry_info=retry_info)
    emulator.set_quota(per_minute=2)
    for model in (V25, V38):
        assert post(emulator, body(), model).status_code == 200
    for model in (V25, V31, V38):
        refused = post(emulator, body(), model)
        assert error_of(refused)[2].startswith(SPENT)
        assert ("details" in refused.json()["error"]) == retry_info
    emulator.set_spend_limit(None)
    assert post(emulator, body(), V31).status_code == 200
    assert post(emulator, body(), V38).status_code == 200


def test_a_reset_lifts_the_spend_limit(emulator: Emulator) -> None:
    """Nothing is left of it."""
    emulator.set_spend_limit(0)
    assert post(emulator, body()).status_code == 429
    emulator.reset()
    assert post(emulator, body()).status_code == 200


# Calls


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"/v1beta/v1beta/models/{V38}:generateContent"),
        ("POST", f"/models/{V38}:generateContent"),
        ("PUT", "/"),
        ("DELETE", "/v1beta/models/"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/emulator/else"),
    ],
)
def test_calls_of_unknown_paths_are_recorded(emulator: Emulator, method: str, path: str) -> None:
    """A client that has the wrong address is seen, with all that it sent; it gets a page, with or without a key."""
    answer = httpx2.request(method, f"{emulator.url}{path}?alt=sse", json={"a": [1]})
    assert (answer.status_code, answer.text.startswith("<!DOCTYPE html>")) == (404, True)
    [call] = emulator.calls
    assert (call.method, call.path, call.query, call.body) == (method, path, {"alt": "sse"}, {"a": [1]})
    assert (call.model, call.action, call.status) == ("", "", 404)


def test_what_can_be_asked_for_is_told(emulator: Emulator) -> None:
    """The emulator's own page lists the faults, and is no call."""
    emulator.fail_next(Fault.SAFETY)
    told = httpx2.get(f"{emulator.url}/emulator").json()
    assert told == {"faults": list(Fault), "coming": ["safety"]}
    assert emulator.calls == []
