"""The voices of an account, in plain JSON: the SDK's own client repeats a creation by itself, and pays for it twice."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, get_args

from pydantic import SecretStr

from audio_api.engines.base import EngineVoices
from audio_api.engines.gemini_backend import Backend
from audio_api.engines.gemini_connections import Connections
from audio_api.engines.gemini_errors import classify, unreadable
from audio_api.engines.gemini_reply import Wire, current_wire
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
        connections: The calls go through them.
        backend: Whose API that is, and by what it filters.
        key: Taken out of texts should the server repeat it.
        base_url: Where the API is.
        timeout_s: Seconds one call may take.
        now: The time in UTC.

    Raises:
        ConfigurationError: The backend has no voices for its caller.
    """

    def __init__(
        self,
        connections: Connections,
        backend: Backend,
        *,
        key: SecretStr,
        base_url: str,
        timeout_s: float,
        now: Callable[[], datetime],
    ) -> None:
        self._connections = connections
        if backend.is_vertex and not backend.project:
            raise ConfigurationError("Vertex AI tells a key of express mode no voices: set GOOGLE_CLOUD_PROJECT")
        self._backend = backend
        self._key = key
        self._timeout_s = timeout_s
        self._now = now
        # Vertex AI keeps them in one place only.
        parent = f"projects/{backend.project}/locations/global/" if backend.project else ""
        self._url = f"{base_url}/{backend.version}/{parent}voices"

    async def find(self, query: VoiceQuery) -> list[VoiceInfo]:
        """Ask page by page, free of charge; the account's own voices come first."""
        asked: dict[str, Any] = {"page_size": _PAGE_ON_VERTEX if self._backend.is_vertex else _PAGE}
        for name in self._backend.voice_filters:
            value = getattr(query, name)
            if value and (name != "language" or _WHOLE_CODE.fullmatch(value)):
                asked[_NAMES[name]] = value
        found: list[VoiceInfo] = []
        for _ in range(_MOST_PAGES):
            page = await self._call("GET", self._url, params=asked)
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
            made = _voice(await self._call("POST", self._url, json={"voice": voice, "store": True}))
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
        await self._call("DELETE", f"{self._url}/{voice}")

    async def _call(self, method: str, url: str, **sent: Any) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._timeout_s):
                http = await self._connections.http()
                headers = await self._connections.headers()
                current_wire.set(Wire())
                answer = await http.request(method, url, headers=headers, timeout=self._timeout_s, **sent)
                answer.raise_for_status()
                document: dict[str, Any] = answer.json()
                return dict(document)
        # A vendor's border, as in ``GeminiEngine``.
        except Exception as error:
            failure = classify(error, now=self._now(), key=self._key.get_secret_value())
            if failure is None:
                failure = unreadable(error)
        if isinstance(failure, TTSModelNotFoundError):
            failure = TTSVoiceNotFoundError(f"the API knows no such voice, or none for this caller ({failure})")
        raise failure.with_traceback(None)


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
