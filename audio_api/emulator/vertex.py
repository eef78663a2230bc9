"""Vertex AI: the same models behind other paths, called with access tokens or with the key of express mode."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from audio_api.emulator.control import Control, ReceivedCall
from audio_api.emulator.errors import REFUSALS, RefusalError, bad_key
from audio_api.emulator.faults import Fault
from audio_api.emulator.fields import GENERATE
from audio_api.emulator.protocol import FAMILIES

# Its overview of October 2026; other regions have older models only.
LOCATIONS_OF_3_8 = {"global", "us", "eu"}
# The older models have other names there.
_OLDER = {"gemini-2.5-flash-tts", "gemini-2.5-pro-tts", "gemini-3.1-flash-tts-preview"}
_MODELS = _OLDER | {model for model, family in FAMILIES.items() if family == "3.8"}
_METHODS = {"generateContent", "streamGenerateContent"}

GENERATE_ON_VERTEX = {name: shape for name, shape in GENERATE.items() if name not in {"store", "serviceTier"}} | {
    "labels": {}
}
"""The body of a call that generates: it cannot forbid to be kept, and has one tier."""


def check_caller(request: Request, control: Control) -> None:
    """Refuse a call without an access token that was given out here, or in express mode without the key.

    Raises:
        RefusalError: It shows neither.
    """
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    key = request.headers.get("x-goog-api-key")
    is_express = "project" not in request.path_params
    if is_express and key:
        if control.api_key not in {None, key}:
            raise bad_key()
    elif is_express or token not in control.access_tokens:
        raise REFUSALS[Fault.UNAUTHENTICATED](request.path_params.get("name", ""))


def check_target(call: ReceivedCall, place: dict[str, str]) -> None:
    """Refuse what is not served at a path.

    Args:
        call: What came.
        place: The version, and the project and location if the path names them.

    Raises:
        RefusalError: There is no such version, model or method, or the model is served elsewhere.
    """
    location = place.get("location", "global")
    name = f"publishers/google/models/{call.model}"
    is_there = call.model in _MODELS and (call.model in _OLDER or location in LOCATIONS_OF_3_8)
    if place["version"] not in {"v1", "v1beta1"} or call.method != "POST" or not is_there:
        where = f"projects/{place['project']}/locations/{location}/" if "project" in place else ""
        raise RefusalError(
            f"Publisher Model `{where}{name}` was not found or your project does not have access to it. Please ensure "
            "you are using a valid model version.",
            "NOT_FOUND",
        )
    if call.action not in _METHODS:
        raise RefusalError(f"{call.action} is not supported by {call.model}.")


def as_on_vertex(document: dict[str, Any]) -> dict[str, Any]:
    """A reply with what Vertex AI says of its billing."""
    document["usageMetadata"].pop("serviceTier", None)
    document["usageMetadata"]["trafficType"] = "ON_DEMAND"
    return document
