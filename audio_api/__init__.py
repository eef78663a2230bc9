"""Text to speech with Google's Gemini models: async, verified, and never a silent failure.

Names load on first use; importing the package reads no environment, configures nothing and imports no SDK.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audio_api.config import AudioConfig, get_config, reload_config
    from audio_api.errors import (
        AudioAPIError,
        ConfigurationError,
        ErrorCode,
        QueueClosedError,
        QueueFullError,
        QueueServiceError,
        QueueUnavailableError,
        TaskNotFoundError,
        TTSAPIError,
        TTSAudioError,
        TTSAuthenticationError,
        TTSContentBlockedError,
        TTSError,
        TTSModelNotFoundError,
        TTSOutputError,
        TTSQuotaError,
        TTSRateLimitError,
        TTSUnavailableError,
        TTSValidationError,
        TTSVoiceNotFoundError,
        WorkerServiceError,
    )
    from audio_api.logging_config import StructuredFormatter, get_logger, setup_logging
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
    from audio_api.models.estimate import Estimate
    from audio_api.models.languages import Language
    from audio_api.models.speech_models import VoiceModel
    from audio_api.models.usage import TokenUsage
    from audio_api.models.voice_library import VoiceInfo
    from audio_api.models.voices import VoiceName
    from audio_api.services.gemini_batch import GeminiBatch, GeminiBatchStatus
    from audio_api.services.job_codec import TaskResult
    from audio_api.services.one_liner import asay, say
    from audio_api.services.queue_service import QueueService
    from audio_api.services.tts_service import TTSService
    from audio_api.services.worker_service import WorkerManager, WorkerService, WorkerStatus

__version__ = "2.1.0"

_HOME = {
    "audio_api.config": ("AudioConfig", "get_config", "reload_config"),
    "audio_api.errors": (
        "AudioAPIError",
        "ConfigurationError",
        "ErrorCode",
        "QueueClosedError",
        "QueueFullError",
        "QueueServiceError",
        "QueueUnavailableError",
        "TTSAPIError",
        "TTSAudioError",
        "TTSAuthenticationError",
        "TTSContentBlockedError",
        "TTSError",
        "TTSModelNotFoundError",
        "TTSOutputError",
        "TTSQuotaError",
        "TTSRateLimitError",
        "TTSUnavailableError",
        "TTSValidationError",
        "TTSVoiceNotFoundError",
        "TaskNotFoundError",
        "WorkerServiceError",
    ),
    "audio_api.logging_config": ("StructuredFormatter", "get_logger", "setup_logging"),
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
    "audio_api.models.estimate": ("Estimate",),
    "audio_api.models.languages": ("Language",),
    "audio_api.models.speech_models": ("VoiceModel",),
    "audio_api.models.usage": ("TokenUsage",),
    "audio_api.models.voice_library": ("VoiceInfo",),
    "audio_api.models.voices": ("VoiceName",),
    "audio_api.services.gemini_batch": ("GeminiBatch", "GeminiBatchStatus"),
    "audio_api.services.one_liner": ("asay", "say"),
    "audio_api.services.queue_service": ("QueueService",),
    "audio_api.services.job_codec": ("TaskResult",),
    "audio_api.services.tts_service": ("TTSService",),
    "audio_api.services.worker_service": ("WorkerManager", "WorkerService", "WorkerStatus"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "AudioAPIError",
    "AudioConfig",
    "AudioFormat",
    "AudioRequest",
    "AudioResponse",
    "BatchAudioRequest",
    "BatchAudioResponse",
    "ConfigurationError",
    "ErrorCode",
    "Estimate",
    "GeminiBatch",
    "GeminiBatchStatus",
    "Language",
    "MultiSpeakerConfig",
    "QueueClosedError",
    "QueueFullError",
    "QueueService",
    "QueueServiceError",
    "QueueUnavailableError",
    "SpeakerConfig",
    "SpeakerMode",
    "SpeechProgress",
    "StructuredFormatter",
    "TTSAPIError",
    "TTSAudioError",
    "TTSAuthenticationError",
    "TTSContentBlockedError",
    "TTSError",
    "TTSModelNotFoundError",
    "TTSOutputError",
    "TTSQuotaError",
    "TTSRateLimitError",
    "TTSService",
    "TTSUnavailableError",
    "TTSValidationError",
    "TTSVoiceNotFoundError",
    "TaskNotFoundError",
    "TaskResult",
    "TokenUsage",
    "VoiceConfig",
    "VoiceInfo",
    "VoiceModel",
    "VoiceName",
    "WorkerManager",
    "WorkerService",
    "WorkerServiceError",
    "WorkerStatus",
    "asay",
    "get_config",
    "get_logger",
    "reload_config",
    "say",
    "setup_logging",
]


def __getattr__(name: str) -> Any:
    """Load a public name's module on first use (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'audio_api' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted([*__all__, "__version__"])
