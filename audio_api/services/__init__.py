"""What decides: order, retry, verify, write, report. Names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audio_api.errors import (
        QueueServiceError,
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
    from audio_api.services.job_codec import (
        TaskResult,
    )
    from audio_api.services.one_liner import (
        asay,
        say,
    )
    from audio_api.services.queue_service import (
        QueueService,
    )
    from audio_api.services.tts_service import (
        TTSService,
    )
    from audio_api.services.worker_service import (
        WorkerManager,
        WorkerService,
        WorkerStatus,
    )

_HOME = {
    "audio_api.errors": (
        "QueueServiceError",
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
        "WorkerServiceError",
    ),
    "audio_api.services.one_liner": (
        "asay",
        "say",
    ),
    "audio_api.services.queue_service": ("QueueService",),
    "audio_api.services.job_codec": ("TaskResult",),
    "audio_api.services.tts_service": ("TTSService",),
    "audio_api.services.worker_service": (
        "WorkerManager",
        "WorkerService",
        "WorkerStatus",
    ),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "QueueService",
    "QueueServiceError",
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
    "TaskResult",
    "WorkerManager",
    "WorkerService",
    "WorkerServiceError",
    "WorkerStatus",
    "asay",
    "say",
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
