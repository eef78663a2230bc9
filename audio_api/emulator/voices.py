"""The voices endpoint: a library of the real one's size, and the voices that an account made."""

from __future__ import annotations

import base64
import itertools
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from starlette.requests import Request

from audio_api.emulator.control import Control, ReceivedCall
from audio_api.emulator.errors import RefusalError
from audio_api.emulator.fields import ANY, Choice, read_json
from audio_api.emulator.replies import Answer, wav
from audio_api.emulator.speech import synthesize
from audio_api.models.voices import VoiceName

# Of 30 languages; of Chinese, Russian and Ukrainian the real library had none in September 2026.
_LANGUAGES = (
    "ar-EG", "bn-BD", "cs-CZ", "da-DK", "de-DE", "el-GR", "en-AU", "en-GB", "en-IN", "en-US", "es-ES", "es-US",
    "fi-FI", "fr-CA", "fr-FR", "hi-IN", "hu-HU", "id-ID", "it-IT", "ja-JP", "ko-KR", "nb-NO", "nl-NL", "pl-PL",
    "pt-BR", "ro-RO", "sv-SE", "th-TH", "tr-TR", "vi-VN",
)  # fmt: skip
_PERSONAS = ("advisor", "narrator", "coach", "host", "teacher", "friend", "reporter")
_NUMBERS = range(10, 20)
_GENDERS = ("female", "male", "neutral")
_PITCHES = ("low", "medium", "high")
_FILTERS = {
    "accent": "accent", "context": "context", "gender": "gender", "language_code": "language_code",
    "persona": "persona", "pitch": "pitch", "region_code": "region_code", "type": "type",
}  # fmt: skip
_FILTERS_ON_VERTEX = {"type", "search"}
_PAGE, _LARGEST_PAGE, _LARGEST_ON_VERTEX = 50, 1_000, 50
# Of one project.
_MOST_STORED = 200
_LIFE = timedelta(days=365)
_NOT_FOUND = "The voice was not found or the caller does not have permission to access it."
_KIND = Choice("Voice.Type", ("prebuilt", "prompted", "replicated"))
_TEXTS = ("accent", "context", "description", "displayName", "gender", "languageCode", "model", "persona", "pitch")
_CREATE = {
    "store": bool,
    "voice": {
        "type": _KIND,
        **dict.fromkeys((*_TEXTS, "regionCode"), str),
        "prompted": {"input": str, "baseVoice": str},
        "replicated": ANY,
        "sampleAudio": ANY,
    },
}


@cache
def _catalogue() -> tuple[dict[str, str], ...]:
    return tuple(_prebuilt())


def _prebuilt() -> Iterator[dict[str, str]]:
    for voice in VoiceName:
        name = voice.value.capitalize()
        yield {"id": name, "type": "prebuilt", "display_name": name, "description": f"{voice.character} voice"}
    for index, (language, persona, number) in enumerate(itertools.product(_LANGUAGES, _PERSONAS, _NUMBERS)):
        gender, pitch = _GENDERS[index % 3], _PITCHES[index % 3]
        yield {
            "id": f"{language.lower()}-{persona}-{number}",
            "type": "prebuilt",
            "display_name": f"{persona.title()} {number}",
            "language_code": language,
            "region_code": language.partition("-")[2],
            "gender": gender,
            "pitch": pitch,
            "persona": persona.title(),
            "context": "Conversational",
            "description": f"A {pitch} {gender} {persona} who speaks {language}",
        }


def answer(request: Request, body: bytes, call: ReceivedCall, control: Control) -> Answer:
    """Answer what is asked of the voices.

    Raises:
        RefusalError: It is none of the endpoint's methods, or against its rules.
    """
    if call.method == "POST" and not call.model:
        return Answer.of_json(_create(read_json(body, _CREATE), control))
    if call.method == "GET" and not call.model:
        return Answer.of_json(_page(request, control))
    if call.method not in {"GET", "DELETE"}:
        raise RefusalError(_NOT_FOUND, "NOT_FOUND")
    found = next((voice for voice in _voices(control) if voice["id"] == call.model), None)
    if found is None:
        raise RefusalError(_NOT_FOUND, "NOT_FOUND")
    if call.method == "GET":
        return Answer.of_json(found)
    if found["type"] == "prebuilt":
        raise RefusalError("A prebuilt voice cannot be deleted.", "PERMISSION_DENIED")
    control.custom_voices.discard(call.model)
    control.made_voices.pop(call.model, None)
    return Answer.of_json({})


def _voices(control: Control) -> list[dict[str, Any]]:
    """Those of the account, the newest first, and the library."""
    stored = {voice for voice in control.custom_voices if voice.startswith("voice_")}
    plain = [
        {"id": voice, "type": "prompted", "display_name": voice, "expire_time": _later()}
        for voice in sorted(stored - control.made_voices.keys())
    ]
    made = [voice for name, voice in reversed(control.made_voices.items()) if name in stored]
    return [*made, *plain, *_catalogue()]


def _later(life: timedelta = _LIFE) -> str:
    return (datetime.now(UTC) + life).isoformat().replace("+00:00", "Z")


def _page(request: Request, control: Control) -> dict[str, Any]:
    is_vertex = "project" in request.path_params
    given = request.query_params.multi_items()
    asked = [(name, value) for name, value in given if name not in {"page_size", "page_token", "key"}]
    known = _FILTERS_ON_VERTEX if is_vertex else {*_FILTERS, "search"}
    if unknown := [name for name, _ in asked if name not in known]:
        raise RefusalError(f"Invalid filter: {unknown[0]}")
    largest = _LARGEST_ON_VERTEX if is_vertex else _LARGEST_PAGE
    size = min(int(request.query_params.get("page_size", _PAGE)), largest)
    # The token is of one search only.
    search = base64.urlsafe_b64encode(repr(sorted(asked)).encode()).decode()
    first, _, of_search = request.query_params.get("page_token", f"0.{search}").partition(".")
    if of_search != search:
        raise RefusalError("The page token does not fit the filters.")
    found = [voice for voice in _voices(control) if _fits(voice, asked)]
    end = int(first) + size
    page: dict[str, Any] = {"voices": found[int(first) : end]}
    return page | ({"next_page_token": f"{end}.{search}"} if end < len(found) else {})


def _fits(voice: dict[str, Any], asked: list[tuple[str, str]]) -> bool:
    """Any value of a filter will do, and each filter must fit."""
    for name in {name for name, _ in asked}:
        values = [value.lower() for each, value in asked if each == name]
        if name == "search":
            text = f"{voice.get('display_name', '')}\n{voice.get('description', '')}".lower()
            if values[0] not in text:
                return False
        elif str(voice.get(_FILTERS[name], "")).lower() not in values:
            return False
    return True


def _create(asked: dict[str, Any], control: Control) -> dict[str, Any]:
    voice, store = asked.get("voice", {}), asked.get("store", False)
    kind = voice.get("type")
    prompted = voice.get("prompted", {})
    if kind not in {"prompted", "replicated"} or kind not in voice:
        raise RefusalError("voice.type must be prompted or replicated, with the parameters of that kind.")
    if kind == "prompted" and not (store and prompted.get("input", "").strip()):
        raise RefusalError("A prompted voice needs an input, and store = true.")
    base = prompted.get("baseVoice")
    if base and base not in {each["id"] for each in _voices(control)}:
        raise RefusalError(_NOT_FOUND, "NOT_FOUND")
    if not store:
        key = f"voicekey_{secrets.token_hex(16)}"
        control.custom_voices.add(key)
        return {"type": kind, "key": key, "expire_time": _later(timedelta(days=7))}
    if len([each for each in control.custom_voices if each.startswith("voice_")]) >= _MOST_STORED:
        raise RefusalError("The project has reached its quota of stored voices.", "RESOURCE_EXHAUSTED")
    name = f"voice_{secrets.token_hex(8)}"
    sample = wav(synthesize("This is how I sound.", name, "en-US"))
    made = {
        "id": name,
        "type": kind,
        "model": "gemini-3.8-flash-tts",
        "display_name": voice.get("displayName", ""),
        "description": voice.get("description", ""),
        "language_code": voice.get("languageCode", ""),
        "expire_time": _later(),
        **({"prompted": {"input": prompted["input"], **({"base_voice": base} if base else {})}} if prompted else {}),
    }
    control.custom_voices.add(name)
    control.made_voices[name] = made
    usage = {"total_input_tokens": 220, "total_output_tokens": 1_100, "total_tokens": 1_320}
    control.bill(usage["total_tokens"])
    audio = {"data": base64.b64encode(sample).decode(), "mime_type": "audio/wav"}
    return {**made, "sample_audio": audio, "usage": usage}
