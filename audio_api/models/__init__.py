"""Plain data and its rules: requests, responses, voices, languages, models. Names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audio_api.models.audio_request import (
        AudioFormat,
        AudioRequest,
        AudioResponse,
        BatchAudioRequest,
        BatchAudioResponse,
        MultiSpeakerConfig,
        SpeakerConfig,
        SpeakerMode,
        SpeechProgress,
        VoiceConfig,
    )
    from audio_api.models.languages import (
        Language,
    )
    from audio_api.models.speech_models import (
        VoiceModel,
    )
    from audio_api.models.usage import (
        TokenUsage,
    )
    from audio_api.models.voices import (
        VoiceName,
    )

_HOME = {
    "audio_api.models.audio_request": (
        "AudioFormat",
        "AudioRequest",
        "AudioResponse",
        "BatchAudioRequest",
        "BatchAudioResponse",
        "MultiSpeakerConfig",
        "SpeakerConfig",
        "SpeakerMode",
        "SpeechProgress",
        "VoiceConfig",
    ),
    "audio_api.models.languages": ("Language",),
    "audio_api.models.speech_models": ("VoiceModel",),
    "audio_api.models.usage": ("TokenUsage",),
    "audio_api.models.voices": ("VoiceName",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "AudioFormat",
    "AudioRequest",
    "AudioResponse",
    "BatchAudioRequest",
    "BatchAudioResponse",
    "Language",
    "MultiSpeakerConfig",
    "SpeakerConfig",
    "SpeakerMode",
    "SpeechProgress",
    "TokenUsage",
    "VoiceConfig",
    "VoiceModel",
    "VoiceName",
]


def __getattr__(name: str) -> Any:
    """Load a public name's module on first use (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return list(__all__)
