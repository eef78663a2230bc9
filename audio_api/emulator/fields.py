"""JSON as Google's front end reads it: every field known, in either spelling, and of the right kind."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from audio_api.emulator.errors import RefusalError

ANY = object()
"""A field whose content is not looked at."""


@dataclass(frozen=True)
class Choice:
    """A field that holds one of several names, in any case.

    Attributes:
        message: What the API calls the kind, such as ``"GenerationConfig.Modality"``.
        names: All of them, as the API writes them.
    """

    message: str
    names: tuple[str, ...]


MODALITY = Choice("GenerationConfig.Modality", ("TEXT", "IMAGE", "AUDIO", "VIDEO"))
SERVICE_TIER = Choice("GenerateContentRequest.ServiceTier", ("standard", "flex", "priority"))
AUDIO_FORMAT = Choice("AudioResponseFormat.MimeType", ("AUDIO_WAV", "AUDIO_L16", "AUDIO_MULAW", "AUDIO_ALAW"))

_VOICE = {"voice": str, "prebuiltVoiceConfig": {"voiceName": str}}
_SPEECH = {
    "voiceConfig": _VOICE,
    "multiSpeakerVoiceConfig": {"speakerVoiceConfigs": [{"speaker": str, "voiceConfig": _VOICE}]},
    "languageCode": str,
}
_CONTENT = {
    "role": str,
    "parts": [
        {
            "text": str,
            "speechMetadata": {"speaker": str, "style": str},
            **dict.fromkeys(
                ("inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "videoMetadata"), ANY
            ),
            "thought": bool,
            "thoughtSignature": str,
        }
    ],
}
_NUMBERS = ("temperature", "topP", "topK", "presencePenalty", "frequencyPenalty")
_COUNTS = ("candidateCount", "maxOutputTokens", "seed", "logprobs")
_GENERATION_CONFIG = {
    "responseModalities": [MODALITY],
    "speechConfig": _SPEECH,
    **dict.fromkeys(_NUMBERS, float),
    **dict.fromkeys(_COUNTS, int),
    "stopSequences": [str],
    "responseLogprobs": bool,
    "responseMimeType": str,
    # The Developer API's page shows one object, that of Vertex a list of one: the reader takes both.
    "responseFormat": [{"audio": {"mimeType": AUDIO_FORMAT, "sampleRate": int}}],
    **dict.fromkeys(("responseSchema", "responseJsonSchema", "thinkingConfig", "mediaResolution"), ANY),
}
GENERATE = {
    "model": str,
    "contents": [_CONTENT],
    "generationConfig": _GENERATION_CONFIG,
    "systemInstruction": _CONTENT,
    "safetySettings": [{"category": str, "threshold": str}],
    "tools": [ANY],
    "toolConfig": ANY,
    "cachedContent": str,
    "serviceTier": SERVICE_TIER,
    "store": bool,
}
"""The body of generateContent and streamGenerateContent."""

_SPEECHLESS_CONFIG = {name: shape for name, shape in _GENERATION_CONFIG.items() if name != "speechConfig"}
GENERATE_WITHOUT_SPEECH = GENERATE | {"generationConfig": _SPEECHLESS_CONFIG}
"""The same on a v1 that does not know speech, as it was in the middle of 2026."""

COUNT_TOKENS = {"contents": [_CONTENT], "generateContentRequest": GENERATE}
"""The body of countTokens."""

# The quote that ends a string may be missing: then all that is left is that string, and no search starts again in it.
_STRING_OR_LAST_COMMA = re.compile(r'("(?:[^"\\]|\\.)*+"?)|,(?=\s*[\]}])', re.DOTALL)


def parse_json(body: bytes) -> Any:
    """Parse JSON as leniently as Google does, for its own curl samples need it.

    Args:
        body: JSON in UTF-8; a comma may close a list or an object, and strings may hold line ends and tabs.

    Raises:
        ValueError: It is no JSON even so.
    """
    text = body.decode("utf-8-sig")
    return json.loads(_STRING_OR_LAST_COMMA.sub(lambda found: found[1] or "", text), strict=False)


def read_json(body: bytes, shape: dict[str, Any]) -> dict[str, Any]:
    """Parse a request's body and check it against a shape.

    Args:
        body: As ``parse_json`` takes it.
        shape: Field names in camelCase with what they hold: ``str``, ``int``, ``float``, ``bool``, a ``Choice``,
            ``ANY``, another shape, or a list of one of these for a repeated field.

    Returns:
        The body with every name in camelCase, and every choice as the API writes it. A single value of a repeated field
        is a list of one.

    Raises:
        RefusalError: It is no JSON, a name is unknown, or a value is of the wrong kind.
    """
    try:
        value = parse_json(body)
    except ValueError:
        raise RefusalError("Invalid JSON payload received. Unexpected token.") from None
    problems: list[tuple[str, str]] = []
    result = _read(value, shape, "", problems)
    if problems:
        violations = [{"field": place, "description": text} for place, text in problems]
        details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations}]
        raise RefusalError("\n".join(text for _, text in problems), details=details)
    return dict(result)


def _read(value: Any, shape: Any, place: str, problems: list[tuple[str, str]]) -> Any:
    if shape is ANY:
        return value
    if isinstance(shape, list):
        items = value if isinstance(value, list) else [value]
        return [_read(item, shape[0], f"{place}[{index}]", problems) for index, item in enumerate(items)]
    if isinstance(value, list):
        problems.append((place, _at("Invalid JSON payload received. Unknown name", place, _NOT_REPEATING)))
        return {}
    if isinstance(shape, dict):
        return _read_message(value, shape, place, problems)
    if isinstance(shape, Choice):
        names = {name.lower(): name for name in shape.names}
        if isinstance(value, str) and value.lower() in names:
            return names[value.lower()]
        kind = f"type.googleapis.com/google.ai.generativelanguage.v1beta.{shape.message}"
        problems.append((place, f"Invalid value at '{place}' ({kind}), {json.dumps(value)}"))
        return ""
    kinds = (int, float) if shape is float else (shape,)
    if isinstance(value, kinds) and (shape is bool or not isinstance(value, bool)):
        return value
    kind = {str: "TYPE_STRING", int: "TYPE_INT32", float: "TYPE_FLOAT", bool: "TYPE_BOOL"}[shape]
    problems.append((place, f"Invalid value at '{place}' ({kind}), {json.dumps(value)}"))
    return shape()


_NOT_REPEATING = "Proto field is not repeating, cannot start list."


def _at(start: str, place: str, end: str) -> str:
    parent, _, name = place.rpartition(".")
    where = f" at '{parent}'" if parent else ""
    return f'{start} "{name}"{where}: {end}'


def _read_message(value: Any, shape: dict[str, Any], place: str, problems: list[tuple[str, str]]) -> dict[str, Any]:
    if not isinstance(value, dict):
        problems.append((place, f"Invalid value at '{place}', {json.dumps(value)}"))
        return {}
    result = {}
    for given, content in value.items():
        name = re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), given)
        snake = re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()
        inner = f"{place}.{snake}".lstrip(".")
        if name not in shape:
            unknown = f"{place}.{given}".lstrip(".")
            problems.append((place, _at("Invalid JSON payload received. Unknown name", unknown, "Cannot find field.")))
        elif content is not None:
            result[name] = _read(content, shape[name], inner, problems)
    return result
