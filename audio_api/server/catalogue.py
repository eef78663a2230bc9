"""The models and voices that clients may name: Gemini's own, and OpenAI's names for them."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from audio_api.config import AudioConfig
from audio_api.errors import ConfigurationError
from audio_api.models.speech_models import MODEL_SPECS, model_spec, parse_model
from audio_api.models.voices import VoiceName, is_custom, parse_voice
from audio_api.server.problems import AnswerError

# OpenAI shuts these down on 2027-01-06; clients go on to send their names, the last one also with a date behind it.
OPENAI_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
# The voices of openai 3.57.0, each with one of like character. n8n, pipecat and others send no other names.
OPENAI_VOICES: Mapping[str, VoiceName] = {
    "alloy": VoiceName.AOEDE,
    "ash": VoiceName.IAPETUS,
    "ballad": VoiceName.UMBRIEL,
    "cedar": VoiceName.ORUS,
    "coral": VoiceName.SULAFAT,
    "echo": VoiceName.CHARON,
    "fable": VoiceName.ACHIRD,
    "marin": VoiceName.DESPINA,
    "nova": VoiceName.LEDA,
    "onyx": VoiceName.ALGENIB,
    "sage": VoiceName.VINDEMIATRIX,
    "shimmer": VoiceName.ACHERNAR,
    "verse": VoiceName.PUCK,
}


class Catalogue:
    """What the names that clients send stand for.

    Args:
        config: The settings, whose aliases win over OpenAI's names.

    Raises:
        ConfigurationError: An alias stands for no model or no voice.
    """

    def __init__(self, config: AudioConfig) -> None:
        self._default = str(config.default_tts_model)
        models = dict.fromkeys(OPENAI_MODELS, self._default) | config.server_model_aliases
        voices = {name: voice.value for name, voice in OPENAI_VOICES.items()} | config.server_voice_aliases
        try:
            self._models = {name.lower(): str(parse_model(model)) for name, model in models.items()}
            self._voices = {name.lower(): parse_voice(voice) for name, voice in voices.items()}
        except ValueError as error:
            raise ConfigurationError(f"SERVER_MODEL_ALIASES or SERVER_VOICE_ALIASES: {error}") from None

    def model(self, name: str | None) -> str:
        """The model that a name stands for; ``None`` and an empty name: the default one.

        Raises:
            AnswerError: There is no such model.
        """
        plain = (name or "").strip().removeprefix("models/")
        if not plain:
            return self._default
        if model := self._models.get(plain.lower()):
            return model
        if plain.startswith("gpt-4o-mini-tts-"):
            return self._models["gpt-4o-mini-tts"]
        if plain not in MODEL_SPECS and not plain.startswith("gemini-"):
            known = ", ".join((*self._models, *map(str, MODEL_SPECS)))
            raise AnswerError(
                400, f"the model {plain[:80]!r} does not exist; the models are {known}", "model", "model_not_found"
            )
        return plain

    def voice(self, name: str | None) -> VoiceName | str:
        """The voice that a name stands for; ``None`` and an empty name: Kore.

        Raises:
            AnswerError: There is no such voice.
        """
        plain = (name or "").strip()
        if not plain:
            return VoiceName.KORE
        if voice := self._voices.get(plain.lower()):
            return voice
        try:
            return parse_voice(plain)
        except ValueError as error:
            close = get_close_matches(plain.lower(), self._voices, 1)
            text = f"unknown voice {plain[:80]!r}: did you mean {close[0]!r}?" if close else str(error)
            raise AnswerError(400, text, "voice", "voice_not_found") from None

    def models(self) -> list[dict[str, Any]]:
        """Every model, and every alias with the model that it stands for, as OpenAI lists them."""
        own = [self._entry(str(model), str(model)) for model in MODEL_SPECS]
        return own + [self._entry(name, model) for name, model in self._models.items()]

    def _entry(self, name: str, model: str) -> dict[str, Any]:
        shutdown = model_spec(model).shutdown
        return {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "google",
            "shutdown_date": shutdown.isoformat() if shutdown else None,
            "name": name if name == model else f"{name} ({model})",
        }

    def voices(self) -> list[dict[str, Any]]:
        """Every voice, and every alias with the voice that it stands for."""
        own = [
            {"id": voice.value, "name": f"{voice.value.title()} ({voice.character})", "character": voice.character}
            for voice in VoiceName
        ]
        aliases = [
            {"id": name, "name": f"{name.title()} ({_shown(voice)})", "alias_of": str(voice)}
            for name, voice in self._voices.items()
        ]
        return own + aliases


def _shown(voice: VoiceName | str) -> str:
    return str(voice) if is_custom(voice) else str(voice).title()
