"""The response to a request, and the event that the log has of it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audio_api.config import AudioConfig
from audio_api.errors import AudioAPIError, TTSOutputError, TTSQuotaError
from audio_api.models.audio_request import AudioRequest, AudioResponse, BatchAudioResponse
from audio_api.models.sound_formats import format_of
from audio_api.retry import Clock
from audio_api.speech.cost import Call, add_up

# The event is one of the service, wherever its report is written.
logger = logging.getLogger("audio_api.services.tts_service")


@dataclass(frozen=True, slots=True)
class Delivered:
    """A sound that is where its request wanted it, with its subtitles.

    Attributes:
        duration_s: Its length in seconds.
        model: The model that spoke; ``None``: it is not known.
        file_path: Its file; ``None``: it is in a bucket, or was only heard.
        url: Where it is in a store; ``None``: it is in none.
        subtitles: The URLs of its subtitles, or their paths if the store is a folder; ``None``: they are not all there.
    """

    duration_s: float
    model: str | None
    file_path: str | None = None
    url: str | None = None
    subtitles: tuple[str, ...] | None = ()

    @property
    def fields(self) -> dict[str, Any]:
        """What ``AudioResponse`` says of it."""
        name = self.url or Path(self.file_path or "").name
        return {
            "success": True,
            "message": f"{self.duration_s:.2f} s of speech{f' in {name}' if name else ''}",
            "duration": self.duration_s,
            "model": self.model,
            "file_path": self.file_path,
            "url": self.url,
            "output_format": format_of(name) if name else None,
            "subtitle_paths": self.subtitles or (),
        }


def failure_of(error: AudioAPIError) -> AudioResponse:
    """The response to a request that failed before anything was spoken for it."""
    return AudioResponse(**_fields_of(error))


def _fields_of(error: AudioAPIError) -> dict[str, Any]:
    return {
        "success": False,
        "message": f"no speech: {error}",
        "error": str(error),
        "error_code": error.code,
        "retryable": error.retryable,
        "retry_after_s": error.retry_after_s,
        "reset_at": error.reset_at if isinstance(error, TTSQuotaError) else None,
        "model": error.model if isinstance(error, TTSOutputError) else None,
        "unsaved_audio": error.audio if isinstance(error, TTSOutputError) else None,
    }


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

    def success(self, sound: Delivered) -> AudioResponse:
        """The response to a request that was fulfilled."""
        return self._written(**sound.fields)

    def failure(self, error: AudioAPIError) -> AudioResponse:
        """The response to a request that failed."""
        return self._written(**_fields_of(error), doubtful=())

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
                "attempt_codes": cost.attempt_codes + self.earlier.attempt_codes,
                "cached_pieces": cost.cached_pieces + self.earlier.cached_pieces,
                "usage": cost.usage + self.earlier.usage,
                "cost_usd": self.earlier.cost_usd,
                "warnings": tuple(dict.fromkeys((*cost.warnings, *self.earlier.warnings))),
            }
        response = AudioResponse(**{**used, "processing_time": self.clock.monotonic() - self.started_s, **fields})
        # A listener may leave at any time: that has no code, and warns of nothing.
        level = logging.WARNING if response.error_code or response.doubtful else logging.INFO
        ended = "no speech made" if response.error_code else "listener left"
        if logger.isEnabledFor(level):
            # The text itself is private: its length and a short hash are enough to recognise it.
            told = {
                "text_length": len(self.request.text),
                "text_sha256": hashlib.sha256(self.request.text.encode()).hexdigest()[:8],
                "model": response.model or self.request.model,
                "attempts": response.attempts,
                "processing_s": response.processing_time,
                "audio_s": response.duration,
                "error_code": response.error_code,
                "doubtful": [code.value for code in response.doubtful],
            }
            logger.log(level, "speech made" if response.success else ended, extra=told)
        return response


def finished_batch(batch_id: str, results: Sequence[AudioResponse]) -> BatchAudioResponse:
    """What became of a batch whose requests are all finished; a failure when none of them succeeded."""
    completed = sum(result.success for result in results)
    return BatchAudioResponse(
        batch_id=batch_id,
        total_requests=len(results),
        completed=completed,
        failed=len(results) - completed,
        results=tuple(results),
        status="completed" if completed else "failed",
    )
