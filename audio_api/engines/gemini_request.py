"""What a Gemini speech call says: plain data in the protocol of the model's family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from audio_api.engines.base import Turn, Utterance
from audio_api.models.languages import Language
from audio_api.models.speech_models import Family, SafetyThreshold
from audio_api.models.voices import VoiceName

# Upper bounds, exclusive, of VoiceConfig.speed and pitch, and the words that Gemini gets for them. Between 0.85 and
# 1.15 nothing is said: a style, once named, is exaggerated.
_SPEED_WORDS = ((0.6, "very slow"), (0.85, "slow"), (1.15, None), (1.6, "fast"), (float("inf"), "very fast"))
_PITCH_WORDS = (
    (0.6, "very deep voice"),
    (0.85, "deep voice"),
    (1.15, None),
    (1.5, "high voice"),
    (float("inf"), "very high voice"),
)

_HARMS = (
    "HARM_CATEGORY_HARASSMENT",
    "HARM_CATEGORY_HATE_SPEECH",
    "HARM_CATEGORY_SEXUALLY_EXPLICIT",
    "HARM_CATEGORY_DANGEROUS_CONTENT",
)
# The documented way to keep a 2.5 or 3.1 model from answering the text instead of reading it: a preamble, and a
# labelled section. It is a request, not a guarantee: those models read everything as one prompt.
_PREAMBLE = "Read the following transcript aloud, word for word, and say nothing else."
_DIALOGUE_PREAMBLE = (
    "TTS the following conversation between {} and {}, word for word, without the names, and say nothing else."
)
_DELIMITER = "\n\n### TRANSCRIPT\n"


def style_words(turn: Turn) -> str | None:
    """The turn's style with words for its speed and pitch, or ``None`` for plain speech.

    Speed below 0.6 is "very slow", below 0.85 "slow", from 1.15 "fast", from 1.6 "very fast". Pitch below 0.6 is
    "very deep voice", below 0.85 "deep voice", from 1.15 "high voice", from 1.5 "very high voice".
    """
    words = [turn.style, _word(_SPEED_WORDS, turn.voice.speed), _word(_PITCH_WORDS, turn.voice.pitch)]
    return ", ".join(word for word in words if word) or None


def _word(table: Sequence[tuple[float, str | None]], value: float | None) -> str | None:
    return None if value is None else next(word for bound, word in table if value < bound)


def speakers_of(utterance: Utterance) -> list[str]:
    """The distinct speakers, in the order in which they first speak; empty for a single voice."""
    return list(dict.fromkeys(turn.speaker for turn in utterance.turns if turn.speaker))


@dataclass(frozen=True, slots=True)
class Manner:
    """How a call is put.

    Attributes:
        family: The prompt protocol.
        names_language: Whether the language's code is sent, which a voice of the library may not know.
        store: Whether Google may keep the request; ``None``: not said.
        timeout_s: Seconds that the server may take; ``None``: as long as any call of the client.
        safety: From which probability of harm on a text is refused; ``None``: the API's own threshold.
    """

    family: Family
    names_language: bool
    store: bool | None
    timeout_s: float | None = None
    safety: SafetyThreshold | None = None


def build_request(utterance: Utterance, manner: Manner) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ``contents`` and the ``config`` of ``generate_content``.

    A 3.8 model gets each turn's words alone in a part of their own, and its style beside them; a 2.5 or 3.1 model gets
    one prompt. Neither sampling settings nor system instructions are sent: speech models refuse or mishandle them.
    """
    is_dialogue = len(speakers_of(utterance)) > 1
    if manner.family == "verbatim":
        parts: list[dict[str, Any]] = []
        for turn in utterance.turns:
            metadata = {"speaker": turn.speaker if is_dialogue else None, "style": style_words(turn)}
            metadata = {name: value for name, value in metadata.items() if value}
            parts.append({"text": turn.text, **({"speech_metadata": metadata} if metadata else {})})
    else:
        parts = [{"text": _prompt(utterance, is_dialogue)}]
    voices: dict[str, Any] = {"voice_config": _voice(utterance.turns[0])}
    if is_dialogue:
        first_turns = {turn.speaker: turn for turn in reversed(utterance.turns)}
        cast = [{"speaker": name, "voice_config": _voice(first_turns[name])} for name in speakers_of(utterance)]
        voices = {"multi_speaker_voice_config": {"speaker_voice_configs": cast}}
    language = {"language_code": utterance.language} if manner.names_language else {}
    config = {
        "response_modalities": ["AUDIO"],
        "speech_config": language | voices,
        # Otherwise the SDK may send further billed requests by itself.
        "automatic_continuation": False,
        "automatic_function_calling": {"disable": True},
    }
    # The SDK's own fields for these are younger than 2.30.
    extra: dict[str, Any] = {} if manner.store is None else {"store": manner.store}
    if utterance.tier != "standard":
        extra["serviceTier"] = utterance.tier
    if manner.safety:
        extra["safetySettings"] = [{"category": harm, "threshold": manner.safety.upper()} for harm in _HARMS]
    options = {"extra_body": extra, "timeout": manner.timeout_s and round(manner.timeout_s * 1000)}
    if any(options.values()):
        config["http_options"] = {name: value for name, value in options.items() if value}
    return {"role": "user", "parts": parts}, config


def _prompt(utterance: Utterance, is_dialogue: bool) -> str:
    preamble = _DIALOGUE_PREAMBLE.format(*speakers_of(utterance)) if is_dialogue else _PREAMBLE
    try:
        language = Language(utterance.language).display_name
    except ValueError:
        language = utterance.language
    styles = {(turn.speaker if is_dialogue else None): style_words(turn) for turn in utterance.turns}
    asked = [f"Style{f' of {speaker}' if speaker else ''}: {style}." for speaker, style in styles.items() if style]
    lines = [preamble, f"Language: {language}.", *asked]
    said = [f"{turn.speaker}: {turn.text}" if is_dialogue else turn.text for turn in utterance.turns]
    return "\n".join(lines) + _DELIMITER + "\n".join(said)


def _voice(turn: Turn) -> dict[str, Any]:
    voice = turn.voice.voice_name
    if isinstance(voice, VoiceName):
        # The one spelling that every family takes.
        return {"prebuilt_voice_config": {"voice_name": voice.value.capitalize()}}
    return {"voice": voice}
