"""The voices of an account, in plain JSON: the SDK's own client repeats a creation by itself, and pays for it twice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, get_args

from audio_api.engines.base import EngineVoices
from audio_api.engines.gemini_backend import Backend
from audio_api.engines.gemini_rest import RestCalls, understood
from audio_api.errors import (
    ConfigurationError,
    ErrorCode,
    TTSModelNotFoundError,
    TTSUnavailableError,
    TTSVoiceNotFoundError,
)
from audio_api.models.voice_library import VoiceInfo, VoiceKind, VoiceQuery
from audio_api.models.voices import parse_voice

# The largest page of each API. The library had 2,100 voices in September 2026.
_PAGE, _PAGE_ON_VERTEX = 1_000, 50
_MOST_PAGES = 200
# With a region, which the API compares as a whole.
_WHOLE_CODE = re.compile(r"[A-Za-z]{2,3}-[A-Za-z0-9-]+")
_NAMES: Mapping[str, str] = {"language": "language_code", "gender": "gender", "search": "search"}


class VoiceCalls(EngineVoices):
    """Lists, makes and deletes voices, one attempt each.

    Args:
        rest: Makes the calls.
        backend: Whose API that is, and by what it filters.

    Raises:
        ConfigurationError: The backend has no voices for its caller.
    """

    def __init__(self, rest: RestCalls, backend: Backend) -> None:
        if backend.is_vertex and not backend.project:
            raise ConfigurationError("Vertex AI tells a key of express mode no voices: set GOOGLE_CLOUD_PROJECT")
        self._rest = rest
        self._backend = backend
        # Vertex AI keeps them in one place only.
        parent = f"projects/{backend.project}/locations/global/" if backend.project else ""
        self._path = f"{backend.version}/{parent}voices"

    async def find(self, query: VoiceQuery) -> list[VoiceInfo]:
        """Ask page by page, free of charge; the account's own voices come first."""
        asked: dict[str, Any] = {"page_size": _PAGE_ON_VERTEX if self._backend.is_vertex else _PAGE}
        for name in self._backend.voice_filters:
            value = getattr(query, name)
            if value and (name != "language" or _WHOLE_CODE.fullmatch(value)):
                asked[_NAMES[name]] = value
        found: list[VoiceInfo] = []
        for _ in range(_MOST_PAGES):
            page = await self._call("GET", self._path, params=asked)
            listed = page.get("voices")
            found += [_voice(each) for each in listed if isinstance(each, Mapping)] if isinstance(listed, list) else []
            if not page.get("next_page_token"):
                # What the API searched for may stand in fields that are not read here.
                return replace(query, search=None).matching(voice for voice in found if voice.id)
            asked["page_token"] = page["next_page_token"]
        raise TTSUnavailableError(f"the API lists voices without end: more than {_MOST_PAGES} pages")

    async def create(self, description: str, name: str | None, base_voice: str | None) -> VoiceInfo:
        """Make a voice, which is billed; an error says so if it may have been made all the same."""
        prompted = {"input": description} | ({"base_voice": base_voice} if base_voice else {})
        voice = {"type": "prompted", "prompted": prompted, "description": description}
        voice |= {"display_name": name} if name else {}
        try:
            made = _voice(await self._call("POST", self._path, {"voice": voice, "store": True}))
            if not made.id:
                raise TTSUnavailableError("the answer names no voice", code=ErrorCode.UNREADABLE_REPLY)  # noqa: TRY301
        except TTSUnavailableError as error:
            if error.code is ErrorCode.CONNECTION_FAILED:
                raise
            problem = f"the voice may have been made, and billed: list_voices tells ({error})"
            raise TTSUnavailableError(problem, code=error.code, retryable=False) from None
        return made

    async def delete(self, voice: str) -> None:
        """Delete a voice of the account."""
        await self._call("DELETE", f"{self._path}/{voice}")

    async def _call(
        self, method: str, path: str, content: Mapping[str, Any] | None = None, params: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        try:
            answer = await self._rest.call(method, path, content, params=params)
            return understood(answer.json, dict)
        except TTSModelNotFoundError as error:
            raise TTSVoiceNotFoundError(f"the API knows no such voice, or none for this caller ({error})") from None


def _voice(document: Mapping[str, Any]) -> VoiceInfo:
    told = {name: "".join(filter(str.isprintable, str(value))) for name, value in document.items()}
    prompted = document.get("prompted")
    words = prompted.get("input") if isinstance(prompted, Mapping) else None
    voice = told.get("id") or told.get("key") or ""
    kind: VoiceKind = next((kind for kind in get_args(VoiceKind) if kind == told.get("type", "").lower()), "prebuilt")
    with suppress(ValueError):
        voice = str(parse_voice(voice))
    return VoiceInfo(
        id=voice,
        kind=kind,
        name=told.get("display_name", ""),
        language=told.get("language_code", ""),
        accent=told.get("accent", ""),
        gender=told.get("gender", ""),
        pitch=told.get("pitch", ""),
        persona=told.get("persona", ""),
        context=told.get("context", ""),
        description=told.get("description", "") or str(words or ""),
        expires_at=_time(told.get("expire_time", "")),
    )


def _time(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
