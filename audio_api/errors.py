"""Every error this library raises, in one tree.

The class says what to do; the text says what happened, to which value, and what would be right.

    AudioAPIError
    ├── ConfigurationError            a setting is wrong or missing: correct it
    ├── TTSError
    │   ├── TTSValidationError        the request is wrong; nothing was sent
    │   ├── TTSAPIError               the API said no, or nothing
    │   │   ├── TTSRateLimitError     too many calls this minute: wait, then try again
    │   │   ├── TTSUnavailableError   5xx, timeouts, broken connections, unreadable replies: try again
    │   │   ├── TTSAuthenticationError    the key is missing, wrong or not allowed
    │   │   ├── TTSModelNotFoundError     the API does not know the model
    │   │   ├── TTSVoiceNotFoundError     the API does not know the voice, or it belongs to another account
    │   │   ├── TTSContentBlockedError    the API refuses to speak this text
    │   │   └── TTSAudioError         an answer without audio, or audio that is not the whole text
    │   ├── TTSQuotaError             the day's quota or the credit is used up: stop until it resets
    │   └── TTSOutputError            the file could not be written
    │       └── StoreError            the object store does not take or give the sound
    ├── QueueServiceError             the queue refuses the job: correct it
    │   ├── QueueUnavailableError     the queue's server does not answer or takes nothing now: try again
    │   ├── QueueClosedError          this queue object was closed
    │   ├── QueueFullError            as many jobs wait as are allowed: try again later
    │   └── TaskNotFoundError         no such job or batch, or its result has expired
    └── WorkerServiceError            a worker gave a job up

No error holds an exception of the vendor's SDK: those carry the API key in their request headers.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

    from audio_api.models.service_tiers import ServedTier
    from audio_api.models.usage import TokenUsage


class ErrorCode(StrEnum):
    """A stable name for each reason; ``AudioResponse.error_code`` carries it."""

    CONFIGURATION = "configuration"
    INVALID_REQUEST = "invalid_request"
    TEXT_TOO_LONG = "text_too_long"
    API_ERROR = "api_error"
    RATE_LIMITED = "rate_limited"
    SPEND_LIMITED = "spend_limited"
    UNAVAILABLE = "unavailable"
    CIRCUIT_OPEN = "circuit_open"
    TIMEOUT = "timeout"
    CONNECTION_FAILED = "connection_failed"
    CONNECTION_BROKEN = "connection_broken"
    UNREADABLE_REPLY = "unreadable_reply"
    MODEL_CONFUSED = "model_confused"
    AUTHENTICATION = "authentication"
    MODEL_NOT_FOUND = "model_not_found"
    VOICE_NOT_FOUND = "voice_not_found"
    CONTENT_BLOCKED = "content_blocked"
    QUOTA_EXHAUSTED = "quota_exhausted"
    QUOTA_NOT_GRANTED = "quota_not_granted"
    CREDIT_EXHAUSTED = "credit_exhausted"
    NO_AUDIO = "no_audio"
    AUDIO_INCOMPLETE = "audio_incomplete"
    AUDIO_TOO_SHORT = "audio_too_short"
    AUDIO_TOO_LONG = "audio_too_long"
    AUDIO_SILENT = "audio_silent"
    AUDIO_GAP = "audio_gap"
    AUDIO_NOISE = "audio_noise"
    AUDIO_FLAT = "audio_flat"
    AUDIO_OFFSET = "audio_offset"
    AUDIO_CLIPPED = "audio_clipped"
    AUDIO_CUT_OFF = "audio_cut_off"
    AUDIO_FORMAT = "audio_format"
    AUDIO_TOO_LARGE = "audio_too_large"
    WORDS_MISSING = "words_missing"
    OUTPUT_FAILED = "output_failed"
    OUTPUT_EXISTS = "output_exists"
    STORE_UNAVAILABLE = "store_unavailable"
    STORE_REFUSED = "store_refused"
    STORE_OBJECT_MISSING = "store_object_missing"
    QUEUE_REFUSED = "queue_refused"
    TASK_CONFLICT = "task_conflict"
    QUEUE_UNAVAILABLE = "queue_unavailable"
    QUEUE_CLOSED = "queue_closed"
    QUEUE_FULL = "queue_full"
    TASK_NOT_FOUND = "task_not_found"
    TASK_CANCELLED = "task_cancelled"
    TASK_DEAD = "task_dead"
    TASK_PENDING = "task_pending"
    TASK_TIMEOUT = "task_timeout"
    LEASE_LOST = "lease_lost"
    WORKER_RUNNING = "worker_running"


class FailedPiece(NamedTuple):
    """The piece of a long text that could not be spoken.

    Attributes:
        number: Which it is, from 1.
        total: Pieces in all.
        finished: Pieces that are finished, and are not paid for again.
    """

    number: int
    total: int
    finished: int


class AudioAPIError(Exception):
    """Base of every error of this library. Picklable; holds no key and no exception of another library.

    Args:
        message: What happened, to which value, and what would be right.
        code: The reason; ``None`` means the class's own ``default_code``.
        retryable: Whether the same call may succeed later; ``None`` means the class's own answer.
        retry_after_s: Seconds the server asked to wait; ``None`` when it did not say.
        attempts: API calls made before giving up; 0 when nothing was sent.
        usage: Tokens that were billed although the attempt failed; ``None`` when none are known.

    Attributes:
        piece: The piece of a long text that failed; ``None``: the text is one piece, or none was begun.
        heard_s: Seconds of a stream that were handed over before it ended; ``None``: none were.
        tier: The service tier of a billed failure; ``None``: the one asked for.
        calls: The records of the calls that led to it, as ``audio_api.speech.cost`` keeps them.
    """

    default_code: ClassVar[ErrorCode] = ErrorCode.API_ERROR
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
        attempts: int = 0,
        usage: TokenUsage | None = None,
    ) -> None:
        super().__init__(message)
        self.code = self.default_code if code is None else code
        self.retryable = self.default_retryable if retryable is None else retryable
        self.retry_after_s = retry_after_s
        self.attempts = attempts
        self.usage = usage
        self.piece: FailedPiece | None = None
        self.heard_s: float | None = None
        self.tier: ServedTier | None = None
        self.calls: tuple[object, ...] = ()

    def __str__(self) -> str:
        """What happened, in which piece, and how much was heard before."""
        text = super().__str__()
        if self.piece:
            number, total, finished = self.piece
            text = f"piece {number} of {total}: {text}; finished pieces: {finished}"
        return text if self.heard_s is None else f"the stream ended after {self.heard_s:.1f} s of sound: {text}"


class ConfigurationError(AudioAPIError, ValueError):
    """A setting is wrong or missing. The text names the variable, its value and what is allowed."""

    default_code = ErrorCode.CONFIGURATION


class TTSError(AudioAPIError):
    """Speech could not be made."""


class TTSValidationError(TTSError, ValueError):
    """The request is wrong; nothing was sent and nothing was billed."""

    default_code = ErrorCode.INVALID_REQUEST


class TTSAPIError(TTSError):
    """The API said no, or nothing."""


class TTSRateLimitError(TTSAPIError):
    """Too many calls this minute, or too much spent in ten. Wait ``retry_after_s`` and try again.

    ``per_minute`` is the most calls that the API says it takes; ``None`` when it did not say.
    """

    default_code = ErrorCode.RATE_LIMITED
    default_retryable = True
    per_minute: int | None = None


class TTSUnavailableError(TTSAPIError):
    """Server error, timeout, broken connection or unreadable reply. Try again."""

    default_code = ErrorCode.UNAVAILABLE
    default_retryable = True


class TTSAuthenticationError(TTSAPIError):
    """The API key is missing, wrong, leaked, or may not be used here."""

    default_code = ErrorCode.AUTHENTICATION


class TTSModelNotFoundError(TTSAPIError):
    """The API does not know the model, or no longer serves it."""

    default_code = ErrorCode.MODEL_NOT_FOUND


class TTSVoiceNotFoundError(TTSAPIError):
    """The API does not know the voice: misspelt, expired, or of another account. No other model knows it either."""

    default_code = ErrorCode.VOICE_NOT_FOUND


class TTSContentBlockedError(TTSAPIError):
    """The API refuses to speak this text. Rephrase it; repeating the call does not help."""

    default_code = ErrorCode.CONTENT_BLOCKED


class TTSAudioError(TTSAPIError):
    """The API answered, but not with speech of the whole text. Try again, a few times."""

    default_code = ErrorCode.NO_AUDIO
    default_retryable = True


class TTSQuotaError(TTSError):
    """The day's quota or the credit is used up. Stop until ``reset_at`` (``None``: it does not reset by waiting)."""

    default_code = ErrorCode.QUOTA_EXHAUSTED
    reset_at: datetime | None = None


class TTSOutputError(TTSError):
    """The file could not be written: disk full, read-only, name taken. An older file is untouched.

    ``audio`` is the complete verified WAV when only writing it failed, so that nothing paid for is lost; ``model`` is
    the model that spoke it.
    """

    default_code = ErrorCode.OUTPUT_FAILED
    audio: bytes | None = None
    model: str | None = None


class StoreError(TTSOutputError):
    """The object store does not take the sound, or does not give it back. Try again if it is ``retryable``.

    Of a store that refuses (``store_refused``) the credentials, the rights or the bucket must be put right first.
    """

    default_code = ErrorCode.STORE_UNAVAILABLE
    default_retryable = True


class QueueServiceError(AudioAPIError):
    """The queue refuses the job: its id, its size or its priority is wrong, or its id is taken by another job."""

    default_code = ErrorCode.QUEUE_REFUSED


class QueueUnavailableError(QueueServiceError):
    """The queue's server does not answer, or takes nothing now. Try again; repeating a call with its ids is safe."""

    default_code = ErrorCode.QUEUE_UNAVAILABLE
    default_retryable = True


class QueueClosedError(QueueServiceError):
    """This queue object was closed; make another one."""

    default_code = ErrorCode.QUEUE_CLOSED


class QueueFullError(QueueServiceError):
    """As many jobs wait as ``QUEUE_MAX_SIZE`` allows; nothing was accepted. Try again when some are done."""

    default_code = ErrorCode.QUEUE_FULL
    default_retryable = True


class TaskNotFoundError(QueueServiceError):
    """There is no such job or batch, or its result has expired."""

    default_code = ErrorCode.TASK_NOT_FOUND


class WorkerServiceError(AudioAPIError):
    """A worker gave a job up, as it took too long or belongs to another worker by now; or a worker runs already."""

    default_code = ErrorCode.TASK_TIMEOUT
    default_retryable = True


_CLASS_OF_CODE: dict[ErrorCode, type[AudioAPIError]] = {
    ErrorCode.CONFIGURATION: ConfigurationError,
    ErrorCode.INVALID_REQUEST: TTSValidationError,
    ErrorCode.TEXT_TOO_LONG: TTSValidationError,
    ErrorCode.API_ERROR: TTSAPIError,
    ErrorCode.RATE_LIMITED: TTSRateLimitError,
    ErrorCode.SPEND_LIMITED: TTSRateLimitError,
    ErrorCode.UNAVAILABLE: TTSUnavailableError,
    ErrorCode.CIRCUIT_OPEN: TTSUnavailableError,
    ErrorCode.TIMEOUT: TTSUnavailableError,
    ErrorCode.CONNECTION_FAILED: TTSUnavailableError,
    ErrorCode.CONNECTION_BROKEN: TTSUnavailableError,
    ErrorCode.UNREADABLE_REPLY: TTSUnavailableError,
    ErrorCode.MODEL_CONFUSED: TTSUnavailableError,
    ErrorCode.AUTHENTICATION: TTSAuthenticationError,
    ErrorCode.MODEL_NOT_FOUND: TTSModelNotFoundError,
    ErrorCode.VOICE_NOT_FOUND: TTSVoiceNotFoundError,
    ErrorCode.CONTENT_BLOCKED: TTSContentBlockedError,
    ErrorCode.QUOTA_EXHAUSTED: TTSQuotaError,
    ErrorCode.QUOTA_NOT_GRANTED: TTSQuotaError,
    ErrorCode.CREDIT_EXHAUSTED: TTSQuotaError,
    ErrorCode.OUTPUT_FAILED: TTSOutputError,
    ErrorCode.OUTPUT_EXISTS: TTSOutputError,
    ErrorCode.STORE_UNAVAILABLE: StoreError,
    ErrorCode.STORE_REFUSED: StoreError,
    ErrorCode.STORE_OBJECT_MISSING: StoreError,
    ErrorCode.QUEUE_REFUSED: QueueServiceError,
    ErrorCode.TASK_CONFLICT: QueueServiceError,
    ErrorCode.QUEUE_UNAVAILABLE: QueueUnavailableError,
    ErrorCode.QUEUE_CLOSED: QueueClosedError,
    ErrorCode.QUEUE_FULL: QueueFullError,
    ErrorCode.TASK_NOT_FOUND: TaskNotFoundError,
    ErrorCode.TASK_CANCELLED: QueueServiceError,
    ErrorCode.TASK_DEAD: QueueServiceError,
    ErrorCode.TASK_PENDING: QueueServiceError,
    ErrorCode.TASK_TIMEOUT: WorkerServiceError,
    ErrorCode.LEASE_LOST: WorkerServiceError,
    ErrorCode.WORKER_RUNNING: WorkerServiceError,
}


class TooLateError(Exception):
    """A finished sound was not published, because the moment before which it might be is over."""


def error_class(code: ErrorCode) -> type[AudioAPIError]:
    """The class that carries this code; every ``audio_…`` code and ``words_missing`` belong to ``TTSAudioError``."""
    return _CLASS_OF_CODE.get(code, TTSAudioError)
