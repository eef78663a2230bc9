"""What follows a failure: the one table, printed in docs/errors.md.

An error says itself whether the same call may succeed at once (``retryable``); ``retry.bound_of`` says how often that
is tried. This table says what follows when those attempts are used up: what the failure tells about the model, and what
becomes of its job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from audio_api.errors import ErrorCode
from audio_api.models.audio_request import AudioResponse

# A job that failed is tried again after 5 s, then 10, 20, 40 and so on.
_FIRST_DELAY_S, _LONGEST_DELAY_S = 5.0, 600.0
MOST_REPEATS_OF_BILLED = 3
"""So often, in the whole life of a job, a call is repeated that may have been billed."""


class Fate(StrEnum):
    """What becomes of a job when the attempts of a try are used up."""

    FAILS = "fails"
    """With this error."""
    TRIED_AGAIN = "tried again"
    """Put back with a growing delay, until ``TASK_MAX_AGE`` has passed since its first failure; then it fails."""
    TRIED_AGAIN_IF_RETRYABLE = "tried again, if retryable"
    """The same, unless the error says that the same call cannot succeed."""
    WAITS = "waits"
    """Put back until the failure's own end, and not counted as a try."""
    WAITS_FOR_THE_DISK = "waits, if no file can be written"
    """Put back, and not counted, while this process can write no file at all; else it fails."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What follows one kind of failure.

    Attributes:
        fate: What becomes of the job.
        trips: Whether it counts towards opening the model's circuit: a text cannot cause it.
        billed: Whether the call may have been billed.
        wait_s: The shortest delay until the job's next try, in seconds, unless the error names a longer one.
    """

    fate: Fate
    trips: bool = False
    billed: bool = False
    wait_s: float = _FIRST_DELAY_S


_FAILS = Rule(Fate.FAILS)
_NO_SPEECH = Rule(Fate.TRIED_AGAIN_IF_RETRYABLE, billed=True)
_NO_ANSWER = Rule(Fate.TRIED_AGAIN, trips=True, billed=True)

RULES: Mapping[ErrorCode, Rule] = {
    # A person must act; then every job goes on.
    ErrorCode.CONFIGURATION: Rule(Fate.TRIED_AGAIN, trips=True, wait_s=60),
    ErrorCode.AUTHENTICATION: Rule(Fate.TRIED_AGAIN, trips=True, wait_s=60),
    ErrorCode.CREDIT_EXHAUSTED: Rule(Fate.TRIED_AGAIN, trips=True, wait_s=300),
    # The request itself is the reason.
    ErrorCode.INVALID_REQUEST: _FAILS,
    ErrorCode.TEXT_TOO_LONG: _FAILS,
    ErrorCode.API_ERROR: _FAILS,
    ErrorCode.MODEL_NOT_FOUND: _FAILS,
    ErrorCode.VOICE_NOT_FOUND: _FAILS,
    ErrorCode.CONTENT_BLOCKED: _FAILS,
    ErrorCode.QUOTA_NOT_GRANTED: _FAILS,
    # The API is asked too often, or is in trouble.
    ErrorCode.RATE_LIMITED: Rule(Fate.WAITS, wait_s=60),
    ErrorCode.SPEND_LIMITED: Rule(Fate.WAITS, wait_s=60),
    ErrorCode.QUOTA_EXHAUSTED: Rule(Fate.WAITS),
    ErrorCode.CIRCUIT_OPEN: Rule(Fate.WAITS),
    ErrorCode.UNAVAILABLE: Rule(Fate.TRIED_AGAIN, trips=True),
    ErrorCode.CONNECTION_FAILED: Rule(Fate.TRIED_AGAIN, trips=True),
    ErrorCode.TIMEOUT: _NO_ANSWER,
    ErrorCode.CONNECTION_BROKEN: _NO_ANSWER,
    ErrorCode.UNREADABLE_REPLY: _NO_ANSWER,
    ErrorCode.TASK_TIMEOUT: _NO_ANSWER,
    # The API answered, but not with speech of the whole text.
    ErrorCode.MODEL_CONFUSED: Rule(Fate.TRIED_AGAIN_IF_RETRYABLE),
    **{code: _NO_SPEECH for code in ErrorCode if code.startswith("audio_")},
    ErrorCode.NO_AUDIO: _NO_SPEECH,
    ErrorCode.WORDS_MISSING: _NO_SPEECH,
    # The speech is there, but not its file.
    ErrorCode.OUTPUT_FAILED: Rule(Fate.WAITS_FOR_THE_DISK),
    ErrorCode.OUTPUT_EXISTS: _FAILS,
    ErrorCode.STORE_UNAVAILABLE: Rule(Fate.TRIED_AGAIN),
    ErrorCode.STORE_REFUSED: Rule(Fate.TRIED_AGAIN, wait_s=60),
    ErrorCode.STORE_OBJECT_MISSING: _FAILS,
}


def rule_for(code: ErrorCode | None) -> Rule:
    """What follows a failure of this code; what the table does not name fails."""
    return _FAILS if code is None else RULES.get(code, _FAILS)


@dataclass(frozen=True, slots=True)
class History:
    """The failures of a job so far; it is kept with the job, whatever becomes of its workers.

    Attributes:
        tries: How often it was put back after a failure that counts.
        failing_since: When the first of them was, in Unix seconds; ``None``: there was none.
        billed_calls: Its calls that failed and may have been billed.
    """

    tries: int = 0
    failing_since: float | None = None
    billed_calls: int = 0

    @classmethod
    def from_note(cls, note: Mapping[str, Any]) -> History:
        """Read it from the job's note, which another program may have written."""
        tries, since, billed = (note.get(name) for name in cls.__slots__)
        return cls(
            tries if isinstance(tries, int) and tries >= 0 else 0,
            float(since) if isinstance(since, int | float) else None,
            billed if isinstance(billed, int) and billed >= 0 else 0,
        )

    def age_s(self, now_s: float) -> float:
        """Seconds since the first failure that counts."""
        return 0.0 if self.failing_since is None else now_s - self.failing_since


FAILURES = frozenset(History.__slots__)
"""The names in a job's note that tell of its failures."""


@dataclass(frozen=True, slots=True)
class PutBack:
    """How a job goes back to its queue.

    Attributes:
        delay_s: Seconds until its next try.
        history: What is known of it from then on.
    """

    delay_s: float
    history: History


def put_back(
    failure: AudioResponse,
    history: History,
    *,
    now_s: float,
    max_age_s: float,
    circuit_open: bool,
    can_write: bool,
    unsure_calls: int = 1,
) -> PutBack | None:
    """What becomes of a job whose try has ended with a failure.

    Args:
        failure: How its last try ended.
        history: Its failures before.
        now_s: The Unix time.
        max_age_s: The setting ``TASK_MAX_AGE``.
        circuit_open: Whether the circuit of its model is open: then the failure is not the job's own.
        can_write: Whether this process can write files.
        unsure_calls: The calls of the try that failed, and did not say whether they were billed.

    Returns:
        How it goes back; ``None``: it fails.
    """
    rule = rule_for(failure.error_code)
    wait_s = max(rule.wait_s, failure.retry_after_s or 0.0)
    match rule.fate:
        case Fate.FAILS:
            return None
        case Fate.WAITS_FOR_THE_DISK:
            return None if can_write else PutBack(wait_s, history)
        case Fate.WAITS:
            if failure.error_code is not ErrorCode.QUOTA_EXHAUSTED:
                return PutBack(wait_s if failure.retry_after_s is None else failure.retry_after_s, history)
            if failure.reset_at is None:
                return None
            return PutBack(max(0.0, failure.reset_at.timestamp() - now_s), history)
        case Fate.TRIED_AGAIN_IF_RETRYABLE if not failure.retryable:
            return None
    if rule.billed:
        history = replace(
            history, billed_calls=history.billed_calls + (failure.attempts if rule is _NO_SPEECH else unsure_calls)
        )
    if (history.billed_calls > MOST_REPEATS_OF_BILLED and rule.billed) or history.age_s(now_s) >= max_age_s:
        return None
    if circuit_open:
        return PutBack(wait_s, history)
    delay_s = max(wait_s, min(_FIRST_DELAY_S * 2.0 ** min(history.tries, 20), _LONGEST_DELAY_S))
    # The last try comes when the job is as old as it may get.
    delay_s = min(delay_s, max_age_s - history.age_s(now_s))
    since_s = now_s if history.failing_since is None else history.failing_since
    return PutBack(delay_s, replace(history, tries=history.tries + 1, failing_since=since_s))
