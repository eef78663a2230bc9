"""The one retry layer: how often, how long, and when it gives up. Clock and chance are injected: no test waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_api.errors import (
    AudioAPIError,
    ErrorCode,
    TTSAudioError,
    TTSAuthenticationError,
    TTSContentBlockedError,
    TTSModelNotFoundError,
    TTSQuotaError,
    TTSRateLimitError,
    TTSUnavailableError,
    TTSValidationError,
)
from audio_api.retry import Clock, RetryPolicy, call_with_retry

POLICY = RetryPolicy(
    attempts=6,
    min_wait_s=1,
    max_wait_s=30,
    rate_limit_attempts=5,
    rate_limit_min_wait_s=10,
    rate_limit_max_wait_s=60,
    deadline_s=600,
)


class FakeTime:
    """A clock that only moves when a task sleeps, and chance that is what the test says."""

    def __init__(self, chance: float = 0.5) -> None:
        self.now_s = 0.0
        self.waits_s: list[float] = []
        self.clock = Clock(monotonic=lambda: self.now_s, sleep=self._sleep, random=lambda: chance)

    async def _sleep(self, seconds: float) -> None:
        self.waits_s.append(seconds)
        self.now_s += seconds


class Scripted:
    """Raises the given errors in turn, then succeeds."""

    def __init__(self, errors: Iterable[AudioAPIError]) -> None:
        self._errors: Iterator[AudioAPIError] = iter(errors)
        self.calls = 0

    async def __call__(self) -> str:
        """Make one attempt."""
        self.calls += 1
        if error := next(self._errors, None):
            raise error
        return "spoken"


def unavailable(code: ErrorCode | None = None, retry_after_s: float | None = None) -> TTSUnavailableError:
    """A transient failure."""
    return TTSUnavailableError("down", code=code, retry_after_s=retry_after_s)


async def test_five_transient_failures_still_succeed() -> None:
    """The sixth attempt of six may succeed; the waits double up to their random share."""
    time, attempt = FakeTime(), Scripted([unavailable()] * 5)
    assert await call_with_retry(attempt, POLICY, time.clock) == "spoken"
    assert attempt.calls == 6
    assert time.waits_s == [0.5, 1, 2, 4, 8]


async def test_the_last_error_goes_through_unchanged() -> None:
    """When every attempt fails the caller gets the very error of the last one, not a wrapper."""
    errors = [TTSUnavailableError(f"failure {n}") for n in range(6)]
    with pytest.raises(TTSUnavailableError, match="failure 5") as caught:
        await call_with_retry(Scripted(errors), POLICY, FakeTime().clock)
    assert caught.value is errors[5]


@pytest.mark.parametrize(
    "error",
    [
        TTSQuotaError("daily"),
        TTSAuthenticationError("key"),
        TTSModelNotFoundError("model"),
        TTSContentBlockedError("blocked"),
        TTSValidationError("text"),
        TTSAudioError("mp3", code=ErrorCode.AUDIO_FORMAT, retryable=False),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_permanent_errors_are_not_tried_again(error: AudioAPIError) -> None:
    """An error that says it is not retryable ends the call at once, without a wait."""
    time, attempt = FakeTime(), Scripted([error] * 2)
    with pytest.raises(type(error)):
        await call_with_retry(attempt, POLICY, time.clock)
    assert (attempt.calls, time.waits_s) == (1, [])


async def test_a_bug_is_not_tried_again() -> None:
    """An exception that is not ours passes through at once."""
    calls = 0

    async def broken() -> None:
        nonlocal calls
        calls += 1
        raise TypeError("a bug")

    with pytest.raises(TypeError):
        await call_with_retry(broken, POLICY, FakeTime().clock)
    assert calls == 1


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
async def test_the_servers_delay_is_never_undercut(chance: float) -> None:
    """A 429 that asks for 42 s is followed by a wait of at least 42 s, whatever chance says."""
    time = FakeTime(chance)
    await call_with_retry(Scripted([TTSRateLimitError("slow", retry_after_s=42)]), POLICY, time.clock)
    assert 42 < time.waits_s[0] < 45


async def test_a_rate_limit_without_delay_waits_between_its_limits() -> None:
    """A bare 429 waits 10 to 60 s, more each time, and is given up after five answers."""
    for chance in (0.0, 0.999):
        time, attempt = FakeTime(chance), Scripted([TTSRateLimitError("slow")] * 9)
        with pytest.raises(TTSRateLimitError):
            await call_with_retry(attempt, POLICY, time.clock)
        assert attempt.calls == 5
        assert all(10 <= wait_s <= 60 for wait_s in time.waits_s)
        assert time.waits_s == sorted(time.waits_s)


async def test_a_delay_beyond_the_maximum_ends_the_call() -> None:
    """A 429 that asks for more than 60 s is reported at once, with the delay, so that the caller can plan."""
    time, attempt = FakeTime(), Scripted([TTSRateLimitError("slow", retry_after_s=61)] * 2)
    with pytest.raises(TTSRateLimitError) as caught:
        await call_with_retry(attempt, POLICY, time.clock)
    assert (attempt.calls, time.waits_s, caught.value.retry_after_s) == (1, [], 61)


async def test_rate_limits_do_not_use_up_the_other_attempts() -> None:
    """Four 429 and five transient failures of one call still end in success: the budgets are separate."""
    errors = [TTSRateLimitError("slow")] * 4 + [unavailable()] * 5
    assert await call_with_retry(Scripted(errors), POLICY, FakeTime().clock) == "spoken"


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (unavailable(ErrorCode.CONNECTION_FAILED), 3),
        (TTSAudioError("silence", code=ErrorCode.AUDIO_SILENT), 6),
        (unavailable(ErrorCode.MODEL_CONFUSED), 6),
        (unavailable(ErrorCode.TIMEOUT), 6),
    ],
    ids=lambda value: getattr(value, "code", value),
)
async def test_each_kind_of_failure_has_its_bound(error: AudioAPIError, calls: int) -> None:
    """Refused connections get three tries, everything else six."""
    attempt = Scripted([error] * 9)
    with pytest.raises(type(error)):
        await call_with_retry(attempt, POLICY, FakeTime().clock)
    assert attempt.calls == calls


async def test_no_attempt_begins_after_the_deadline() -> None:
    """A wait that would pass the total deadline is not begun; 300-second waits cost this test nothing."""
    time, attempt = FakeTime(), Scripted([unavailable(retry_after_s=300)] * 5)
    with pytest.raises(TTSUnavailableError):
        await call_with_retry(attempt, POLICY, time.clock)
    assert attempt.calls == 2
    assert time.now_s < POLICY.deadline_s


async def test_retrying_can_be_turned_off() -> None:
    """One attempt means one call."""
    policy = RetryPolicy(1, 1, 30, 1, 10, 60, 600)
    for error in (unavailable(), TTSRateLimitError("slow")):
        attempt = Scripted([error] * 2)
        with pytest.raises(type(error)):
            await call_with_retry(attempt, policy, FakeTime().clock)
        assert attempt.calls == 1


async def test_cancelling_a_wait_ends_the_call() -> None:
    """A call that is cancelled while it waits makes no further attempt."""
    waiting = asyncio.Event()

    async def sleep(_: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    attempt = Scripted([unavailable()] * 2)
    task = asyncio.create_task(call_with_retry(attempt, POLICY, Clock(sleep=sleep)))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert attempt.calls == 1


_ERRORS = st.one_of(
    st.sampled_from(list(ErrorCode)).map(unavailable),
    st.floats(0, 100).map(lambda delay_s: TTSRateLimitError("slow", retry_after_s=delay_s)),
    st.just(TTSRateLimitError("slow")),
    st.just(TTSAudioError("silence")),
    st.just(TTSQuotaError("daily")),
)


@given(errors=st.lists(_ERRORS, max_size=30), chance=st.floats(0, 0.999))
def test_attempts_and_time_are_bounded(errors: list[AudioAPIError], chance: float) -> None:
    """Whatever fails, in whatever order: attempts and total waiting stay within the policy."""
    time, attempt = FakeTime(chance), Scripted(errors)
    try:
        asyncio.run(call_with_retry(attempt, POLICY, time.clock))
    except AudioAPIError as error:
        assert error in errors  # noqa: PT017 - which error it is does not matter, that it is one of ours does
    assert attempt.calls <= POLICY.attempts + POLICY.rate_limit_attempts - 1
    assert time.now_s <= POLICY.deadline_s
