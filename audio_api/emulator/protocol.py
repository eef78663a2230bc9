"""What a well-formed request asks for, and the rules of its model's family."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from audio_api.emulator.errors import INVALID, RefusalError
from audio_api.models.speech_models import VoiceModel
from audio_api.models.voices import VoiceName

INPUT_TOKENS = 8_192
OUTPUT_TOKENS = 16_384
FAMILIES = {model.value: model.value.split("-")[1] for model in VoiceModel}
"""The models that are served, each with its generation: ``2.5``, ``3.1`` or ``3.8``."""

_VOICES = sorted(VoiceName)
# What 2.5 takes when no voice is named.
_DEFAULT_VOICE = VoiceName.KORE.value
_CUSTOM_VOICE = re.compile(r"voice(key)?_[A-Za-z0-9_-]{1,128}")

# What a legacy prompt says before the words to speak: all before a "# Transcript" heading, or else up to the first line
# that ends in a colon (and a "Transcript:" line after it), or else a leading "Say cheerfully:".
_HEADING = re.compile(r"\A.*?^#+[ \t]*(?:the[ \t]+)?transcript\b[^\n]*\n+", re.IGNORECASE | re.MULTILINE | re.DOTALL)
_PREAMBLE = re.compile(r"\A.*?:[ \t]*\n+(?:transcript:[ \t]*\n+)?", re.IGNORECASE | re.DOTALL)
_SAY = re.compile(r"\A(?:say|speak|read|narrate|whisper|shout|tts)\b[^:\n]{0,300}:[ \t]*", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """What a request asks to be spoken.

    Attributes:
        turns: Each turn's words and voice.
        language: A BCP-47 code.
        prompt_tokens: What the prompt counts.
        max_tokens: The most audio tokens the answer may have.
    """

    turns: tuple[tuple[str, str], ...]
    language: str
    prompt_tokens: int
    max_tokens: int = OUTPUT_TOKENS

    @property
    def text(self) -> str:
        """All that is spoken."""
        return "\n".join(text for text, _ in self.turns)


def understand(model: str, body: dict[str, Any]) -> Asked:
    """Apply a model's rules to a request.

    Args:
        model: One of ``FAMILIES``.
        body: As ``read_json`` returns it.

    Raises:
        RefusalError: The model does not take it.
    """
    config = body.get("generationConfig", {})
    family = FAMILIES[model]
    _check_features(model, body, config)
    parts = _parts(body)
    speech = config.get("speechConfig", {})
    speakers = _speakers(family, speech)
    _check_parts(family, parts, set(speakers))
    tokens = count_tokens(body)
    if tokens > INPUT_TOKENS:
        raise RefusalError(
            f"The input token count ({tokens}) exceeds the maximum number of tokens allowed ({INPUT_TOKENS})."
        )
    turns = _verbatim_turns(parts, speakers) if family == "3.8" else _legacy_turns(parts, speakers)
    limit = min(config.get("maxOutputTokens", OUTPUT_TOKENS), OUTPUT_TOKENS)
    return Asked(tuple(turns), speech.get("languageCode", "en-US"), tokens, limit)


def count_tokens(body: dict[str, Any]) -> int:
    """A quarter of the bytes of all text, which is close enough for a limit."""
    size = 0
    for part in _all_parts(body):
        words = (part.get("text", ""), part.get("speechMetadata", {}).get("style", ""))
        size += sum(len(word.encode(errors="replace")) for word in words)
    return math.ceil(size / 4)


def _all_parts(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for content in body.get("contents", []) for part in content.get("parts", [])]


def _check_features(model: str, body: dict[str, Any], config: dict[str, Any]) -> None:
    if "systemInstruction" in body:
        raise RefusalError("Developer instruction is not enabled for this model")
    _refuse(body, ("tools", "toolConfig", "cachedContent"), model)
    modalities = config.get("responseModalities") or ["TEXT"]
    if set(modalities) != {"AUDIO"}:
        raise RefusalError(
            f"The requested combination of response modalities ({', '.join(modalities)}) is not supported by the "
            f"model. models/{model} accepts the following combination of response modalities:\n* AUDIO"
        )
    _refuse(config, ("thinkingConfig", "responseSchema", "responseJsonSchema", "responseMimeType"), model)
    _refuse(config, ("responseFormat",), "the emulator")
    if FAMILIES[model] == "3.8":
        _refuse(config, ("temperature", "topP", "topK", "candidateCount"), model)


def _refuse(message: dict[str, Any], names: Iterable[str], model: str) -> None:
    for name in names:
        if name in message:
            raise RefusalError(f"{name} is not supported by {model}.")


def _parts(body: dict[str, Any]) -> list[dict[str, Any]]:
    if not body.get("contents"):
        raise RefusalError("* GenerateContentRequest.contents: contents is not specified\n")
    if any(content.get("role", "user") != "user" for content in body["contents"]):
        raise RefusalError("Please use a valid role: user.")
    parts = _all_parts(body)
    if not parts or not all(part.get("text", "").strip() for part in parts):
        raise RefusalError(INVALID)
    return parts


def _check_parts(family: str, parts: list[dict[str, Any]], speakers: set[str | None]) -> None:
    for part in parts:
        if family != "3.8":
            if "speechMetadata" in part:
                raise RefusalError("speech_metadata is not supported by this model.")
        elif (speaker := part.get("speechMetadata", {}).get("speaker")) not in speakers:
            raise RefusalError(
                f"Every part must name a speaker of multi_speaker_voice_config, not {speaker!r}."
                if None not in speakers
                else f"A part names the speaker {speaker!r}, but there is no multi_speaker_voice_config."
            )


def _speakers(family: str, speech: dict[str, Any]) -> dict[str | None, str]:
    """The voice of every speaker; a single voice is that of ``None``."""
    if "multiSpeakerVoiceConfig" not in speech:
        return {None: _voice(family, speech.get("voiceConfig", {}))}
    if "voiceConfig" in speech:
        raise RefusalError("voice_config and multi_speaker_voice_config are mutually exclusive.")
    configs = speech["multiSpeakerVoiceConfig"].get("speakerVoiceConfigs", [])
    names = [config.get("speaker", "") for config in configs]
    if len(configs) != 2 or len(set(names)) != 2 or not all(names):
        raise RefusalError(f"multi_speaker_voice_config must name exactly two different speakers, not {names}.")
    voices = [config.get("voiceConfig", {}) for config in configs]
    if any(not voice or _CUSTOM_VOICE.fullmatch(voice.get("voice", "")) for voice in voices):
        raise RefusalError("Every speaker of multi_speaker_voice_config needs a prebuilt voice.")
    return {name: _voice(family, voice) for name, voice in zip(names, voices, strict=True)}


def _voice(family: str, config: dict[str, Any]) -> str:
    prebuilt = config.get("prebuiltVoiceConfig", {}).get("voiceName")
    voice = config.get("voice")
    if prebuilt and voice:
        raise RefusalError("voice and prebuilt_voice_config are mutually exclusive.")
    if voice and family != "3.8":
        raise RefusalError(INVALID)
    if voice and _CUSTOM_VOICE.fullmatch(voice):
        return str(voice)
    name = prebuilt or voice
    if not name:
        if family == "3.1":
            raise RefusalError(INVALID)
        return _DEFAULT_VOICE
    if name.lower() not in _VOICES:
        raise _unknown_voice(family, name)
    return str(name.lower())


def _unknown_voice(family: str, name: str) -> RefusalError:
    if family == "3.1":
        return RefusalError("Requested entity was not found.", "NOT_FOUND")
    return RefusalError(f"Voice name {name} is not supported. Allowed voice names are: {', '.join(_VOICES)}")


def _verbatim_turns(parts: list[dict[str, Any]], speakers: dict[str | None, str]) -> list[tuple[str, str]]:
    return [(part["text"], speakers[part.get("speechMetadata", {}).get("speaker")]) for part in parts]


def _legacy_turns(parts: list[dict[str, Any]], speakers: dict[str | None, str]) -> list[tuple[str, str]]:
    text = transcript("\n".join(part["text"] for part in parts))
    voice = next(iter(speakers.values()))
    if None in speakers:
        return [(text, voice)]
    turns = []
    label = re.compile(rf"\s*({'|'.join(re.escape(name) for name in speakers if name)})\s*:\s*", re.IGNORECASE)
    by_label = {str(name).lower(): voice for name, voice in speakers.items()}
    for line in filter(str.strip, text.splitlines()):
        found = label.match(line)
        voice = by_label[found[1].lower()] if found else voice
        turns.append((line[found.end() :] if found else line, voice))
    return turns


def transcript(prompt: str) -> str:
    """The words of a legacy prompt that are spoken.

    That is what follows a ``# Transcript`` heading; or else what follows the first line that ends in a colon; or else
    what follows a leading instruction such as ``Say cheerfully:``; or else everything.
    """
    for preamble in (_HEADING, _PREAMBLE, _SAY):
        if (found := preamble.match(prompt)) and prompt[found.end() :].strip():
            return prompt[found.end() :]
    return prompt
