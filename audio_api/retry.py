"""The only place that waits and tries again.

Errors say themselves whether another attempt makes sense (``retryable``) and when (``retry_after_s``). Nothing below
this module retries, because attempts multiply across layers.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from audio_api.errors import AudioAPIError, ErrorCode, TTSRateLimitError, error_class

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A server that refuses connections is down, not busy: three tries tell it, and the caller learns it soon.
_CONNECTION_ATTEMPTS = 3
# RetryInfo is rounded down to whole seconds; a second more is the difference between one call and two.
_ROUNDING_S = 1.0

_now = partial(datetime.now, UTC)


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and chance, so that tests of long waits take milliseconds.

    Attributes:
        monotonic: Seconds that never go back.
        sleep: Waits for seconds.
        random: A number from 0 up to, not including, 1.
        now: The time in UTC, which decides prices and shutdown dates.
    """

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random.random
    now: Callable[[], datetime] = _now


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long; the meaning of each number is that of the setting with the same name."""

    attempts: int
    min_wait_s: float
    max_wait_s: float
    rate_limit_attempts: int
    rate_limit_min_wait_s: float
    rate_limit_max_wait_s: float
    deadline_s: float


class _Schedule:
    """The state of one call: what failed so far, and how long to wait for the next attempt."""

    def __init__(self, policy: RetryPolicy, clock: Clock) -> None:
        self._policy = policy
        self._clock = clock
        self._started = clock.monotonic()
        self._failures: Counter[AttemptsBound] = Counter()

    def record(self, state: RetryCallState) -> None:
        self._failures[bound_of(_error(state).code) or AttemptsBound.OTHER] += 1

    def wait_s(self, state: RetryCallState) -> float:
        error = _error(state)
        policy = self._policy
        if error.retry_after_s is not None:
            return error.retry_after_s + _ROUNDING_S + self._clock.random()
        if isinstance(error, TTSRateLimitError):
            low, high = policy.rate_limit_min_wait_s, policy.rate_limit_max_wait_s
            ceiling = min(high, low * 2.0 ** self._failures[AttemptsBound.RATE_LIMIT])
            return low + (ceiling - low) * self._clock.random()
        # Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        ceiling = min(policy.max_wait_s, policy.min_wait_s * 2.0 ** (self._transient() - 1))
        return ceiling * self._clock.random()

    def is_over(self, state: RetryCallState) -> bool:
        error = _error(state)
        asked_s, elapsed_s = error.retry_after_s or 0.0, self._clock.monotonic() - self._started
        return (
            self._failures[AttemptsBound.RATE_LIMIT] >= self._policy.rate_limit_attempts
            or self._transient() >= self._policy.attempts
            or self._failures[AttemptsBound.CONNECTION] >= _CONNECTION_ATTEMPTS
            or (isinstance(error, TTSRateLimitError) and asked_s > self._policy.rate_limit_max_wait_s)
            or elapsed_s + state.upcoming_sleep > self._policy.deadline_s
        )

    def _transient(self) -> int:
        # A 429 is the caller's pace, not the server's health: it has a budget of its own.
        return self._failures.total() - self._failures[AttemptsBound.RATE_LIMIT]


class AttemptsBound(StrEnum):
    """What bounds the attempts at a call that failed, each kind of failure with a number of its own."""

    RATE_LIMIT = "RATE_LIMIT_RETRY_ATTEMPTS"
    CONNECTION = "3 calls"
    OTHER = "RETRY_ATTEMPTS"


def bound_of(code: ErrorCode) -> AttemptsBound | None:
    """What bounds the attempts after a failure of this code; ``None``: there are none, unless the error says so."""
    # A call that ran into the limit of its job ends the job's try, and so does one that was not made.
    if code in {ErrorCode.TASK_TIMEOUT, ErrorCode.CIRCUIT_OPEN}:
        return None
    kind = error_class(code)
    if issubclass(kind, TTSRateLimitError):
        return AttemptsBound.RATE_LIMIT
    if code is ErrorCode.CONNECTION_FAILED:
        return AttemptsBound.CONNECTION
    return AttemptsBound.OTHER if kind.default_retryable else None


def _error(state: RetryCallState) -> AudioAPIError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, AudioAPIError)  # noqa: S101 - only these are retried
    return error


def _may_be_repeated(error: BaseException) -> bool:
    return isinstance(error, AudioAPIError) and error.retryable and error.code is not ErrorCode.TASK_TIMEOUT


def _log(state: RetryCallState) -> None:
    error = _error(state)
    logger.info(
        "attempt failed, trying again",
        extra={
            "attempt": state.attempt_number,
            "error_code": error.code.value,
            "wait_s": round(state.upcoming_sleep, 3),
        },
    )


async def call_with_retry(attempt: Callable[[], Awaitable[T]], policy: RetryPolicy, clock: Clock) -> T:
    """Call ``attempt`` until it succeeds, fails for good, or the policy's attempts or deadline are used up.

    Waits are random between zero and a ceiling that doubles (full jitter). A delay that the server named is never
    undercut; one beyond ``rate_limit_max_wait_s`` ends the call at once, since the caller can plan better with it.

    Args:
        attempt: Makes one attempt.
        policy: How often and how long.
        clock: Time and chance.

    Raises:
        AudioAPIError: The last attempt's error, unchanged.
    """
    schedule = _Schedule(policy, clock)
    retrying = AsyncRetrying(
        retry=retry_if_exception(_may_be_repeated),
        after=schedule.record,
        wait=schedule.wait_s,
        stop=schedule.is_over,
        sleep=clock.sleep,
        before_sleep=_log,
        reraise=True,
    )
    return await retrying(attempt)
