"""Calls of the emulator in plain JSON, for what no SDK would send, and what comes back."""

from __future__ import annotations

import base64
import struct
from types import SimpleNamespace
from typing import Any

import httpx2

from audio_api.emulator import Emulator

V38 = "gemini-3.8-flash-tts"
V31 = "gemini-3.1-flash-tts-preview"
V25 = "gemini-2.5-flash-preview-tts"
TEXT = "The quick brown fox jumps over the lazy dog, and then it sleeps."
KEY = "key-of-the-tests"


def two_voices(*names: str, **voice: Any) -> dict[str, Any]:
    """A speechConfig in plain JSON with these speakers."""
    voice = voice or {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Puck"}}}
    return {"multiSpeakerVoiceConfig": {"speakerVoiceConfigs": [{"speaker": name, **voice} for name in names]}}


def body(text: str = TEXT, **config: Any) -> dict[str, Any]:
    """A good request in plain JSON, in the spelling of the REST documentation."""
    speech = {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}}}
    generation = {"responseModalities": ["AUDIO"], "speechConfig": speech, **config}
    return {"contents": [{"parts": [{"text": text}]}], "generationConfig": generation}


def post(
    emulator: Emulator | SimpleNamespace,
    request: Any,
    model: str = V38,
    action: str = "generateContent",
    **options: Any,
) -> Any:
    """Send any JSON as plain HTTP."""
    options = {"headers": {"x-goog-api-key": KEY}, "version": "v1beta", **options}
    url = f"{emulator.url}/{options.pop('version')}/models/{model}:{action}"
    return httpx2.post(url, json=request, timeout=60, **options)


def error_of(response: httpx2.Response) -> tuple[int, str, str]:
    """Status code, canonical status, message."""
    error = response.json()["error"]
    assert error["code"] == response.status_code
    return response.status_code, error["status"], error["message"]


def pcm_of(part: dict[str, Any]) -> bytes:
    """The samples of a part, read by a walk over the chunks when it is a WAV file."""
    data = base64.b64decode(part["inlineData"]["data"])
    if not data.startswith(b"RIFF"):
        return data
    at = 12
    while data[at : at + 4] != b"data":
        at += 8 + struct.unpack_from("<I", data, at + 4)[0]
    size = struct.unpack_from("<I", data, at + 4)[0]
    return data[at + 8 :] if size in (0, 0xFFFFFFFF) else data[at + 8 : at + 8 + size]
