"""Voices of the library and of one's own: listed and searched free of charge, made and deleted in one attempt."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google import genai
from google.genai import types
from kit import CLOCK, settings
from raw_server import answering, raw_server

from audio_api import (
    AudioConfig,
    AudioRequest,
    ConfigurationError,
    SpeakerConfig,
    SpeakerMode,
    TTSService,
    TTSValidationError,
    TTSVoiceNotFoundError,
    VoiceConfig,
    VoiceInfo,
    VoiceName,
)
from audio_api.cli import main
from audio_api.doctor.installation import Check, check_installation
from audio_api.emulator import Emulator, Fault
from audio_api.errors import AudioAPIError, TTSAuthenticationError, TTSUnavailableError
from audio_api.models.voice_library import VoiceQuery

PROJECT = "project-of-the-tests"
OWN = "voice_of-the-tests"


@pytest.fixture
async def tts(gemini_emulator: Emulator, tmp_path: Path) -> AsyncIterator[TTSService]:
    """A service that talks to the emulator, and does not wait between attempts."""
    async with TTSService(settings(gemini_emulator, tmp_path), clock=CLOCK) as service:
        yield service


def vertex(server: Emulator, folder: Path, **changes: object) -> TTSService:
    """A service whose API is Vertex AI."""
    config = settings(server, folder, gemini_backend="vertex", google_cloud_project=PROJECT, **changes)
    return TTSService(config, clock=CLOCK)


async def test_all_voices_come_page_by_page(tts: TTSService, gemini_emulator: Emulator) -> None:
    """The account's own come first, then Google's: the thirty by the names they have here, and the library."""
    gemini_emulator.custom_voices.add(OWN)
    voices = await tts.list_voices()
    assert len(voices) == 1 + 30 + 2_100
    assert (voices[0].id, voices[0].kind) == (OWN, "prompted")
    assert [voice.id for voice in voices[1:31]] == list(VoiceName)
    assert {voice.kind for voice in voices[1:]} == {"prebuilt"}
    assert len({voice.id for voice in voices}) == len(voices)
    assert [call.query["page_size"] for call in gemini_emulator.calls] == ["1000"] * 3


@pytest.mark.usefixtures("google_credentials")
async def test_vertex_lists_the_same_in_smaller_pages(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """With an access token, from the one place that has them, whatever the location of the speech."""
    async with vertex(gemini_emulator, tmp_path, google_cloud_location="eu") as service:
        voices = await service.list_voices()
    assert len(voices) == 30 + 2_100
    assert {call.path for call in gemini_emulator.calls} == {f"/v1beta1/projects/{PROJECT}/locations/global/voices"}
    assert len(gemini_emulator.calls) == 43


QUERIES: dict[str, dict[str, str]] = {
    "a language": {"language": "ar"},
    "a region": {"language": "EN-gb"},
    "a gender": {"gender": "Female"},
    "words": {"search": "advisor"},
    "all of it": {"language": "de-DE", "gender": "male", "search": "NARRATOR"},
    "a language that none has": {"language": "zh"},
}


@pytest.mark.usefixtures("google_credentials")
@pytest.mark.parametrize("name", QUERIES)
async def test_both_apis_find_the_same(name: str, tts: TTSService, gemini_emulator: Emulator, tmp_path: Path) -> None:
    """What an API does not filter by is filtered here: Vertex AI knows only ``search``, and no API a bare language."""
    query = QUERIES[name]
    everything = await tts.list_voices()
    gemini_emulator.reset()
    found = await tts.list_voices(**query)
    asked = [set(call.query) - {"page_size", "page_token"} for call in gemini_emulator.calls]
    gemini_emulator.reset()
    async with vertex(gemini_emulator, tmp_path) as service:
        assert await service.list_voices(**query) == found
    assert {frozenset(call.query) - {"page_size", "page_token"} for call in gemini_emulator.calls} == {
        frozenset({"search"} & set(query))
    }
    assert found == VoiceQuery(**query).matching(everything)
    assert bool(found) == (name != "a language that none has")
    assert all(each == asked[0] for each in asked)


async def test_a_found_voice_speaks(tts: TTSService, gemini_emulator: Emulator) -> None:
    """Its id is what ``VoiceConfig`` takes; the language's code is left out, as the library looks for name and code."""
    (voice,) = await tts.list_voices(language="ar", search="Advisor 11")
    response = await tts.generate_audio(AudioRequest(text="Hello.", voice_config=VoiceConfig(voice_name=voice.id)))
    assert response.success
    speech = gemini_emulator.calls[-1].body["generationConfig"]["speechConfig"]
    assert speech == {"voice_config": {"voice": "ar-eg-advisor-11"}}


async def test_the_library_tells_what_is_known_of_a_voice(tts: TTSService) -> None:
    """Its pitch, persona, context and description come with its language and gender."""
    (voice,) = await tts.list_voices(language="en-GB", search="coach 12")
    assert voice == VoiceInfo(
        id="en-gb-coach-12",
        name="Coach 12",
        language="en-GB",
        gender=voice.gender,
        pitch=voice.pitch,
        persona="Coach",
        context="Conversational",
        description=f"A {voice.pitch} {voice.gender} coach who speaks en-GB",
    )
    assert voice.pitch in {"low", "medium", "high"}
    assert voice.gender in {"female", "male", "neutral"}


async def test_a_library_voice_takes_part_in_a_dialogue_and_a_custom_one_speaks_alone(
    tts: TTSService, gemini_emulator: Emulator
) -> None:
    """Library voices share a call with others; each turn of a designed voice is a call of its own, in its place."""
    gemini_emulator.custom_voices.add(OWN)
    text = "Ann: Good morning, Bob.\nBob: Good morning, Ann.\nAnn: How are you today?"

    async def calls(voice: str) -> list[str]:
        gemini_emulator.calls.clear()
        voices = {"Ann": "puck", "Bob": voice}
        cast = [SpeakerConfig(speaker_name=name, voice_name=its) for name, its in voices.items()]
        response = await tts.generate_audio(AudioRequest(text=text, speaker_mode=SpeakerMode.MULTIPLE, cast=cast))
        assert response.success, response.error
        return sorted(call.text for call in gemini_emulator.calls)

    assert await calls("en-us-advisor-11") == ["Good morning, Bob.\nGood morning, Ann.\nHow are you today?"]
    assert await calls(OWN) == ["Good morning, Ann.", "Good morning, Bob.", "How are you today?"]


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE_503, Fault.RATE_LIMIT_MINUTE, Fault.CLOSE_IN_BODY, Fault.HTML_200])
async def test_a_list_is_asked_for_again(tts: TTSService, gemini_emulator: Emulator, fault: Fault) -> None:
    """It costs nothing, so a passing failure passes."""
    gemini_emulator.fail_next(fault)
    assert len(await tts.list_voices(language="ar-EG")) == 70
    assert len(gemini_emulator.calls) == 2


async def test_a_list_that_is_refused(tts: TTSService, gemini_emulator: Emulator) -> None:
    """A wrong key is told at once."""
    gemini_emulator.fail_next(Fault.API_KEY_INVALID)
    with pytest.raises(TTSAuthenticationError):
        await tts.list_voices()
    assert len(gemini_emulator.calls) == 1


async def test_who_cannot_list_is_told(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """A key of express mode and an injected client have no list; no key is a wrong setting."""
    express = settings(gemini_emulator, tmp_path, gemini_backend="vertex")
    keyless = settings(gemini_emulator, tmp_path, gemini_api_key=None)
    with genai.Client(api_key="k") as client:
        services = [
            (TTSService(express), "GOOGLE_CLOUD_PROJECT"),
            (TTSService(keyless), "GEMINI_API_KEY"),
            (TTSService(keyless, gemini_client=client), "gemini_client"),
        ]
        for service, words in services:
            async with service:
                with pytest.raises(ConfigurationError, match=words):
                    await service.list_voices()
    assert gemini_emulator.calls == []


async def test_the_offline_engine_lists_the_thirty(tmp_path: Path) -> None:
    """Without a network; it makes none."""
    async with TTSService(AudioConfig(tts_engine="offline", output_dir=tmp_path, _env_file=None)) as service:
        assert [voice.id for voice in await service.list_voices()] == list(VoiceName)
        assert [voice.id for voice in await service.list_voices(search="firm")] == ["kore", "orus", "alnilam"]
        with pytest.raises(ConfigurationError, match="only Gemini"):
            await service.create_voice("a deep voice")
        with pytest.raises(ConfigurationError, match="only Gemini"):
            await service.delete_voice(OWN)


async def test_a_voice_is_made_speaks_and_is_deleted(tts: TTSService, gemini_emulator: Emulator) -> None:
    """One call each; the new voice is the first of the list, and a deleted one is not found."""
    made = await tts.create_voice("A warm, calm narrator in her fifties", name="Grandmother")
    (call,) = gemini_emulator.calls
    assert call.body == {
        "voice": {
            "type": "prompted",
            "prompted": {"input": "A warm, calm narrator in her fifties"},
            "description": "A warm, calm narrator in her fifties",
            "display_name": "Grandmother",
        },
        "store": True,
    }
    assert made.id.startswith("voice_")
    assert (made.kind, made.name) == ("prompted", "Grandmother")
    assert made.expires_at
    assert timedelta(days=364) < made.expires_at - datetime.now(UTC) < timedelta(days=366)
    assert (await tts.list_voices(search="grandmother"))[0] == made
    request = AudioRequest(text="Once upon a time.", voice_config=VoiceConfig(voice_name=made.id))
    assert (await tts.generate_audio(request)).success
    gemini_emulator.calls.clear()
    await tts.delete_voice(made.id)
    assert [(call.method, call.path) for call in gemini_emulator.calls] == [("DELETE", f"/v1beta/voices/{made.id}")]
    assert await tts.list_voices(search="grandmother") == []
    with pytest.raises(TTSVoiceNotFoundError):
        await tts.delete_voice(made.id)


@pytest.mark.usefixtures("google_credentials")
async def test_a_voice_is_made_of_another(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """By Vertex AI, too; a prebuilt voice is named as Google writes it."""
    async with vertex(gemini_emulator, tmp_path) as service:
        made = await service.create_voice("older and slower", base_voice="puck")
        again = await service.create_voice("a little deeper", base_voice=made.id)
    bases = [call.body["voice"]["prompted"]["base_voice"] for call in gemini_emulator.calls]
    assert bases == ["Puck", made.id]
    assert {made.id, again.id} <= gemini_emulator.custom_voices


LOST = [Fault.CLOSE_BEFORE_BODY, Fault.RESET_IN_BODY, Fault.TRUNCATED_JSON, Fault.HTML_200, Fault.UNAVAILABLE_503]


@pytest.mark.parametrize("fault", LOST)
async def test_a_creation_is_never_repeated(tts: TTSService, gemini_emulator: Emulator, fault: Fault) -> None:
    """Whatever becomes of its answer: the error is not retryable, and says where to look."""
    gemini_emulator.fail_next(fault)
    with pytest.raises(TTSUnavailableError, match="may have been made, and billed: list_voices tells") as caught:
        await tts.create_voice("a deep voice")
    assert not caught.value.retryable
    assert len(gemini_emulator.calls) == 1


async def test_a_creation_that_was_refused(tts: TTSService, gemini_emulator: Emulator) -> None:
    """The 200 voices of a project, and a base voice that is unknown, are told as the API says it."""
    gemini_emulator.custom_voices.update(f"voice_{number}" for number in range(200))
    with pytest.raises(AudioAPIError, match="quota of stored voices"):
        await tts.create_voice("a deep voice")
    with pytest.raises(TTSVoiceNotFoundError):
        await tts.create_voice("a deep voice", base_voice="voice_unknown")
    assert len(gemini_emulator.calls) == 2


NOT_OF_THE_ACCOUNT = ["kore", "ar-eg-advisor-11", "voicekey_abc", "voice_", "../models", "voice_a/../b", ""]


@pytest.mark.parametrize("voice", NOT_OF_THE_ACCOUNT)
async def test_what_is_no_voice_of_the_account_is_not_deleted(
    voice: str, tts: TTSService, gemini_emulator: Emulator
) -> None:
    """Nor is any other path called."""
    with pytest.raises(TTSValidationError):
        await tts.delete_voice(voice)
    assert gemini_emulator.calls == []


@pytest.mark.parametrize(("description", "base"), [("", None), (" \n…", None), ("deep", "koro")])
async def test_what_makes_no_voice_is_refused_before_any_call(
    description: str, base: str | None, tts: TTSService, gemini_emulator: Emulator
) -> None:
    """A description without words, and a base voice that cannot exist."""
    with pytest.raises(TTSValidationError):
        await tts.create_voice(description, base_voice=base)
    assert gemini_emulator.calls == []


ODD = [[], {"voices": 1}, {"voices": [1]}, {"voices": [{}]}, {"voices": [{"id": "x\x1b[2J", "expire_time": 5}]}]


@pytest.mark.parametrize("document", ODD)
async def test_an_answer_of_another_shape(document: Any, tmp_path: Path) -> None:
    """What is no voice is left out, an odd field is empty, and no control character comes through."""
    body = json.dumps(document).encode()
    async with raw_server(answering(body)) as server, TTSService(settings(server.url, tmp_path)) as service:
        voices = await service.list_voices()
        assert [voice.id for voice in voices] == (["x[2J"] if "x" in str(document) else [])
        assert all(voice.expires_at is None for voice in voices)
        with pytest.raises(TTSUnavailableError, match="may have been made"):
            await service.create_voice("a deep voice")


async def test_a_list_without_end_ends(tmp_path: Path) -> None:
    """A server that always names a next page is given up on."""
    reply = answering(json.dumps({"voices": [], "next_page_token": "t"}).encode())
    async with raw_server(reply) as server, TTSService(settings(server.url, tmp_path, retry_attempts=1)) as service:
        with pytest.raises(TTSUnavailableError, match="without end"):
            await service.list_voices()


def test_googles_own_client_reads_the_emulators_voices(gemini_emulator: Emulator) -> None:
    """The SDK's voices client lists, makes, gets and deletes with the same words."""
    options = types.HttpOptions(base_url=gemini_emulator.url, api_version="v1beta")
    with genai.Client(api_key="k", http_options=options) as client:
        page = client.voices.list(language_code=["ar-EG"], gender=["female"], page_size=10)
        assert page.voices
        assert {voice.language_code for voice in page.voices} == {"ar-EG"}
        following = client.voices.list(
            language_code=["ar-EG"], gender=["female"], page_size=10, page_token=page.next_page_token
        )
        assert following.voices
        assert {voice.id for voice in page.voices}.isdisjoint({voice.id for voice in following.voices})
        made = client.voices.create(voice={"type": "prompted", "prompted": {"input": "deep"}}, store=True)
        assert made.id in gemini_emulator.custom_voices
        assert made.usage
        assert made.usage.total_output_tokens == 1_100
        assert client.voices.get(id=made.id).type == "prompted"
        client.voices.delete(id=made.id)
    assert made.id not in gemini_emulator.custom_voices


@pytest.mark.usefixtures("emulator_in_environment")
def test_the_command_searches(gemini_emulator: Emulator, capfd: pytest.CaptureFixture[str]) -> None:
    """One voice a line, its id first; without an option the thirty are listed without a call."""
    gemini_emulator.custom_voices.add(OWN)
    assert main(["voices", "--search", "advisor 11", "--language", "ar"]) == 0
    assert capfd.readouterr().out == (
        "ar-eg-advisor-11 ar-EG; male; Advisor 11; A medium male advisor who speaks ar-EG\n"
    )
    assert main(["voices", "--search", "of-the-tests"]) == 0
    assert f"{OWN} {OWN}; expires 20" in capfd.readouterr().out
    gemini_emulator.calls.clear()
    assert main(["voices"]) == 0
    assert capfd.readouterr().out.splitlines()[3].split() == ["kore", "Firm"]
    assert gemini_emulator.calls == []


async def doctor() -> dict[str, Check]:
    """Every check by its title."""
    return {check.title: check async for check in check_installation()}


@pytest.mark.usefixtures("emulator_in_environment")
async def test_the_doctor_counts_voices_and_misses_those_that_are_named(
    gemini_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A voice of the settings must be there, and one that expires within a month is worth knowing."""
    assert (await doctor())["voices"].text == "2,130, of which the account made 0"
    monkeypatch.setenv("SERVER_VOICE_ALIASES", json.dumps({"alloy": OWN, "nova": "Kore"}))
    missing = (await doctor())["voices"]
    assert (missing.level, OWN in missing.text, "kore" in missing.text.lower()) == ("fail", True, False)
    gemini_emulator.custom_voices.add(OWN)
    assert (await doctor())["voices"].level == "ok"
    soon = (datetime.now(UTC) + timedelta(days=3)).isoformat()
    gemini_emulator.made_voices[OWN] = {"id": OWN, "type": "replicated", "expire_time": soon}
    ending = (await doctor())["voices"]
    assert (ending.level, OWN in ending.text) == ("warn", True)
    assert soon[:10] in ending.text


def test_a_voice_tells_all_that_is_known_of_it() -> None:
    """It survives JSON, and compares by its fields."""
    voice = VoiceInfo(id=OWN, kind="replicated", expires_at=datetime(2027, 1, 1, tzinfo=UTC))
    assert VoiceInfo.model_validate_json(voice.model_dump_json()) == voice
