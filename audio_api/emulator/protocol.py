"""What a well-formed request asks for, and the rules of its model's family."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from audio_api.emulator.errors import INVALID, RefusalError
from audio_api.models.speech_models import VoiceModel
from audio_api.models.voices import VoiceName

INPUT_TOKENS = 8_192
OUTPUT_TOKENS = 16_384
FAMILIES = {model.value: model.value.split("-")[1] for model in VoiceModel}
"""The models that are served, each with its generation: ``2.5``, ``3.1`` or ``3.8``."""
GENERATIONS = FAMILIES | {"gemini-2.5-flash-tts": "2.5", "gemini-2.5-pro-tts": "2.5"}
"""The same, with the names that older ones have on Vertex AI."""

_VOICES = sorted(VoiceName)
# What 2.5 takes when no voice is named.
_DEFAULT_VOICE = VoiceName.KORE.value
# Ids of the account's own voices: stored ones, and keys that hold a voice.
_STORED_VOICE = re.compile(r"voice_[A-Za-z0-9_-]{1,128}")
_VOICE_KEY = re.compile(r"voicekey_[A-Za-z0-9_-]{1,128}")
# Google's library has some 2,100 voices, named like ar-eg-advisor-11; the list is not public.
_LIBRARY_VOICE = re.compile(r"([a-z]{2,3})(-[a-z0-9]+)+-\d+", re.IGNORECASE)

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
        audio_format: Such as ``"AUDIO_L16"``; ``None``: the family's own.
        tier: ``"standard"``, ``"flex"`` or ``"priority"``.
    """

    turns: tuple[tuple[str, str], ...]
    language: str
    prompt_tokens: int
    max_tokens: int
    audio_format: str | None
    tier: str

    @property
    def text(self) -> str:
        """All that is spoken."""
        return "\n".join(text for text, _ in self.turns)


def understand(model: str, body: dict[str, Any], custom_voices: Collection[str] = ()) -> Asked:
    """Apply a model's rules to a request.

    Args:
        model: One of ``GENERATIONS``.
        body: As ``read_json`` returns it.
        custom_voices: The ids of the account's own voices.

    Raises:
        RefusalError: The model does not take it.
    """
    config = body.get("generationConfig", {})
    family = GENERATIONS[model]
    _check_features(model, body, config)
    formats = config.get("responseFormat", [])
    if formats and family != "3.8":
        raise RefusalError(f"responseFormat is not supported by {model}.")
    if len(formats) > 1:
        raise RefusalError(INVALID)
    if not body.get("contents"):
        raise RefusalError("* GenerateContentRequest.contents: contents is not specified\n")
    if any(content.get("role", "user") != "user" for content in body["contents"]):
        raise RefusalError("Please use a valid role: user.")
    parts = [part for content in body["contents"] for part in content.get("parts", [])]
    if not parts or not all(part.get("text", "").strip() for part in parts):
        raise RefusalError(INVALID)
    speech = config.get("speechConfig", {})
    speakers = _speakers(family, speech, custom_voices)
    _check_parts(family, parts, speech, speakers)
    tokens = count_tokens(body)
    if tokens > INPUT_TOKENS:
        raise RefusalError(
            f"The input token count ({tokens}) exceeds the maximum number of tokens allowed ({INPUT_TOKENS})."
        )
    if family == "3.8":
        turns = [(part["text"], speakers[part.get("speechMetadata", {}).get("speaker")]) for part in parts]
    else:
        turns = _legacy_turns(parts, speakers)
    return Asked(
        turns=tuple(turns),
        language=speech.get("languageCode", "en-US"),
        prompt_tokens=tokens,
        max_tokens=min(config.get("maxOutputTokens", OUTPUT_TOKENS), OUTPUT_TOKENS),
        audio_format=next((each["audio"].get("mimeType") for each in formats if "audio" in each), None),
        tier=body.get("serviceTier", "standard"),
    )


def count_tokens(body: dict[str, Any]) -> int:
    """A quarter of the bytes of all text, which is close enough for a limit."""
    size = 0
    contents = [*body.get("contents", []), body.get("systemInstruction", {})]
    for part in (part for content in contents for part in content.get("parts", [])):
        words = (part.get("text", ""), part.get("speechMetadata", {}).get("style", ""))
        size += sum(len(word.encode(errors="replace")) for word in words)
    return math.ceil(size / 4)


def _check_features(model: str, body: dict[str, Any], config: dict[str, Any]) -> None:
    if "systemInstruction" in body and GENERATIONS[model] != "2.5":
        raise RefusalError("Developer instruction is not enabled for this model")
    _refuse(body, ("tools", "toolConfig", "cachedContent"), model)
    modalities = config.get("responseModalities") or ["TEXT"]
    if set(modalities) != {"AUDIO"}:
        raise RefusalError(
            f"The requested combination of response modalities ({', '.join(modalities)}) is not supported by the "
            f"model. models/{model} accepts the following combination of response modalities:\n* AUDIO"
        )
    _refuse(config, ("thinkingConfig", "responseSchema", "responseJsonSchema", "responseMimeType"), model)
    if GENERATIONS[model] == "3.8":
        _refuse(config, ("temperature", "topP", "topK"), model)
        if config.get("candidateCount", 1) != 1:
            raise RefusalError(f"candidateCount is not supported by {model}.")


def _refuse(message: dict[str, Any], names: Iterable[str], model: str) -> None:
    for name in names:
        # A repeated field without items is one that was not sent.
        if message.get(name, []) != []:
            raise RefusalError(f"{name} is not supported by {model}.")


def _check_parts(
    family: str, parts: list[dict[str, Any]], speech: dict[str, Any], speakers: dict[str | None, str]
) -> None:
    metadata = [part.get("speechMetadata", {}) for part in parts]
    if family != "3.8":
        if any("speechMetadata" in part for part in parts):
            raise RefusalError("Speech metadata is not supported for this model.")
        return
    if None not in speakers and not all(each.get("speaker") for each in metadata):
        raise RefusalError("Multi-speaker generation requests must specify speech_metadata.speaker for each text part.")
    if (
        None in speakers
        and _voice_name(speech.get("voiceConfig", {})) is None
        and any(each.get("style") for each in metadata)
    ):
        raise RefusalError(INVALID)
    for each in metadata:
        if (speaker := each.get("speaker")) not in speakers:
            raise RefusalError(
                f"A part names the speaker {speaker!r}, but there is no multi_speaker_voice_config."
                if None in speakers
                else f"Every part must name a speaker of multi_speaker_voice_config, not {speaker!r}."
            )


def _speakers(family: str, speech: dict[str, Any], custom_voices: Collection[str]) -> dict[str | None, str]:
    """The voice of every speaker; a single voice is that of ``None``."""
    language = speech.get("languageCode", "")
    if "multiSpeakerVoiceConfig" not in speech:
        return {None: _voice(family, speech.get("voiceConfig", {}), language, custom_voices)}
    if "voiceConfig" in speech:
        raise RefusalError("voice_config and multi_speaker_voice_config are mutually exclusive.")
    configs = speech["multiSpeakerVoiceConfig"].get("speakerVoiceConfigs", [])
    if len(configs) != 2:
        raise RefusalError("the number of speaker_voice_configs must equal 2")
    names = [config.get("speaker", "") for config in configs]
    if len(set(names)) != 2 or not all(names):
        raise RefusalError(f"multi_speaker_voice_config must name two different speakers, not {names}.")
    voices = [config.get("voiceConfig", {}) for config in configs]
    if any(not voice or _is_custom(voice.get("voice", "")) for voice in voices):
        raise RefusalError("Every speaker of multi_speaker_voice_config needs a prebuilt voice.")
    return {name: _voice(family, voice, language, ()) for name, voice in zip(names, voices, strict=True)}


def _is_custom(voice: str) -> bool:
    return bool(_STORED_VOICE.fullmatch(voice) or _VOICE_KEY.fullmatch(voice))


def _voice(family: str, config: dict[str, Any], language: str, custom_voices: Collection[str]) -> str:
    voice = config.get("voice")
    if voice and config.get("prebuiltVoiceConfig", {}).get("voiceName"):
        raise RefusalError("voice and prebuilt_voice_config are mutually exclusive.")
    if voice and family != "3.8":
        raise RefusalError(INVALID)
    if voice and _is_custom(voice):
        if voice in custom_voices:
            return str(voice)
        if _VOICE_KEY.fullmatch(voice):
            raise RefusalError(INVALID)
        raise RefusalError("The voice was not found or the caller does not have permission to access it.", "NOT_FOUND")
    name = _voice_name(config)
    if name is None:
        if family == "3.1":
            raise RefusalError(INVALID)
        return _DEFAULT_VOICE
    # The library looks for name *and* language, so that another language hides a voice.
    found = _LIBRARY_VOICE.fullmatch(voice or "")
    is_in_library = found and language.partition("-")[0].lower() in {"", found[1].lower()}
    if name.lower() not in _VOICES and not is_in_library:
        raise _unknown_voice(family, name, language)
    return str(name.lower())


def _voice_name(config: dict[str, Any]) -> str | None:
    """The voice that is named, in either field."""
    return config.get("voice") or config.get("prebuiltVoiceConfig", {}).get("voiceName") or None


def _unknown_voice(family: str, name: str, language: str) -> RefusalError:
    if family == "3.1":
        return RefusalError("Requested entity was not found.", "NOT_FOUND")
    if family == "3.8":
        return RefusalError(f"No matching speaker voice found for name: {name} and language: {language}")
    return RefusalError(f"Voice name {name} is not supported. Allowed voice names are: {', '.join(_VOICES)}")


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
