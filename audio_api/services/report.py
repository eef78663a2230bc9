"""The response to a request, and the event that the log has of it."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field

from audio_api.config import AudioConfig
from audio_api.errors import AudioAPIError, TTSOutputError, TTSQuotaError
from audio_api.models.audio_request import AudioRequest, AudioResponse
from audio_api.retry import Clock
from audio_api.speech.cost import Call, add_up

# The event is one of the service, wherever its report is written.
logger = logging.getLogger("audio_api.services.tts_service")


@dataclass(slots=True)
class Report:
    """Writes the response to one request.

    Attributes:
        request: What was asked for.
        clock: Tells how long it took, and the day whose prices hold.
        config: The settings; ``None``: they are wrong.
        calls: The calls so far, and what is to be known besides.
        earlier: The response to the same request whose file could not be written; what it used counts as well.
        task: The queued task that asked for it; empty: none did.
    """

    request: AudioRequest
    clock: Clock
    config: AudioConfig | None = None
    calls: list[Call] = field(default_factory=list)
    earlier: AudioResponse | None = None
    task: str = ""
    started_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.started_s = self.clock.monotonic()

    def success(self, message: str, model: str | None, seconds: float, **files: object) -> AudioResponse:
        """The response to a request that was fulfilled.

        Args:
            message: One sentence for people.
            model: The model that spoke.
            seconds: The length of the sound.
            **files: The fields of ``AudioResponse`` that name files.
        """
        return self._written(success=True, message=message, duration=seconds, model=model, **files)

    def failure(self, error: AudioAPIError) -> AudioResponse:
        """The response to a request that failed."""
        return self._written(
            success=False,
            message=f"no speech: {error}",
            error=str(error),
            error_code=error.code,
            retryable=error.retryable,
            retry_after_s=error.retry_after_s,
            reset_at=error.reset_at if isinstance(error, TTSQuotaError) else None,
            model=error.model if isinstance(error, TTSOutputError) else None,
            unsaved_audio=error.audio if isinstance(error, TTSOutputError) else None,
            doubtful=(),
        )

    def left(self, seconds: float) -> AudioResponse:
        """The response to a request whose listener left, which is no error."""
        text = f"the listener left after {seconds:.1f} s of sound"
        return self._written(success=False, message=f"no speech: {text}", error=text, doubtful=())

    def _written(self, **fields: object) -> AudioResponse:
        cost = add_up(self.calls, self.config.model_prices if self.config else {}, self.clock.now().date())
        used = {name: getattr(cost, name) for name in cost.__slots__}
        if self.earlier:
            used |= {
                "attempts": cost.attempts + self.earlier.attempts,
                "cached_pieces": cost.cached_pieces + self.earlier.cached_pieces,
                "usage": cost.usage + self.earlier.usage,
                "cost_usd": self.earlier.cost_usd,
                "warnings": tuple(dict.fromkeys((*cost.warnings, *self.earlier.warnings))),
            }
        response = AudioResponse(**{**used, "processing_time": self.clock.monotonic() - self.started_s, **fields})
        _log(self.request, response)
        return response


def _log(request: AudioRequest, response: AudioResponse) -> None:
    """Log one event. The text itself is private: its length and a short hash are enough to recognise it."""
    # A listener may leave at any time: that has no code, and warns of nothing.
    level = logging.WARNING if response.error_code or response.doubtful else logging.INFO
    if not logger.isEnabledFor(level):
        return
    ended = "no speech made" if response.error_code else "listener left"
    logger.log(
        level,
        "speech made" if response.success else ended,
        extra={
            "text_length": len(request.text),
            "text_sha256": hashlib.sha256(request.text.encode()).hexdigest()[:8],
            "model": response.model or request.model,
            "attempts": response.attempts,
            "processing_s": response.processing_time,
            "audio_s": response.duration,
            "error_code": response.error_code,
            "doubtful": [code.value for code in response.doubtful],
        },
    )
