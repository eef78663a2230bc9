"""One pace for all workers: exact in every window, and a gate that one call's answer closes or opens for all."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from scripted import ScriptedEngine

from audio_api.config import AudioConfig
from audio_api.engines.base import Bounds, SpeechAudio, Turn, Utterance
from audio_api.errors import (
    AudioAPIError,
    ErrorCode,
    QueueUnavailableError,
    TTSAudioError,
    TTSAuthenticationError,
    TTSQuotaError,
    TTSRateLimitError,
    TTSUnavailableError,
    WorkerServiceError,
)
from audio_api.models.audio_request import VoiceConfig
from audio_api.queues import lua
from audio_api.queues.base import QueueBackend
from audio_api.queues.limits import Admission, CallLimits, MemoryLimits, Rates
from audio_api.queues.memory import MemoryBackend
from audio_api.queues.redis_queue import RedisBackend
from audio_api.retry import Clock
from audio_api.services.circuit_breaker import CircuitBreaker
from audio_api.services.pacing import PacedEngine, Pacer

MODEL = "gemini-3.8-flash-tts"
NOON = datetime(2026, 11, 22, 20, tzinfo=UTC).timestamp()
"""Noon in California, a while before the day ends there."""
MOMENT_S = 2**-6
"""Redis counts in milliseconds."""
FREE = Rates(None, 60, None, lambda now: now + 1e6)


def per_window(count: int, window_s: float = 60.0) -> Rates:
    """So many calls in any such window."""
    return Rates(count, window_s, None, lambda now: now + 1e6)


class Time:
    """A clock that a test moves; sleeping moves it, too."""

    def __init__(self) -> None:
        self.now_s = NOON
        self.slept: list[float] = []
        self.tell: Callable[[], Awaitable[object]] | None = None

    async def go_on(self, seconds: float) -> None:
        """Let the time pass, for the limits of a queue, too."""
        self.now_s += seconds
        if self.tell:
            await self.tell()

    async def sleep(self, seconds: float) -> None:
        """Let the time pass."""
        self.slept.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)

    def clock(self) -> Clock:
        """This time, as the library takes it."""
        return Clock(lambda: self.now_s, self.sleep, lambda: 0.5, lambda: datetime.fromtimestamp(self.now_s, UTC))


@pytest.fixture
def time_() -> Time:
    """A clock of the test's own."""
    return Time()


@pytest.fixture
def limits(time_: Time) -> MemoryLimits:
    """Limits in memory, by that clock."""
    return MemoryLimits(lambda: time_.now_s)


@pytest.fixture(params=["memory", "redis"])
async def shared(
    request: pytest.FixtureRequest, time_: Time, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[CallLimits, CallLimits]]:
    """The limits of one queue, as two processes see them, by the test's clock."""
    name = f"test-{secrets.token_hex(6)}"
    async with AsyncExitStack() as opened:
        pair: list[QueueBackend]
        if request.param == "memory":
            pair = [MemoryBackend(name, clock=lambda: time_.now_s), MemoryBackend(name)]
        else:
            url = request.getfixturevalue("redis_url")
            # Nothing but this line asks Redis for the time.
            monkeypatch.setattr(lua, "CLOCK", "local now = tonumber(redis.call('GET', KEYS[1] .. ':clock'))")
            redis = await opened.enter_async_context(Redis.from_url(url))
            time_.tell = lambda: redis.set(f"audio_api:{{{name}}}:clock", int(time_.now_s * 1000))
            await time_.tell()
            pair = [RedisBackend(url, name), RedisBackend(url, name)]
        yield pair[0].limits, pair[1].limits
        for backend in pair:
            await backend.close()


Shared = tuple[CallLimits, CallLimits]


async def test_calls_are_counted_together(shared: Shared) -> None:
    """Three calls of one process leave none for the other, which learns when to come again; another model is free."""
    one, other = shared
    rates = per_window(3)
    assert [await one.take(MODEL, rates) for _ in range(3)] == [Admission()] * 3
    assert 59 < (await other.take(MODEL, rates)).wait_s <= 60
    assert await other.take("another-model", rates) == Admission()


async def test_a_window_slides(shared: Shared, time_: Time) -> None:
    """A place is free exactly one window after the call that took it, not at the next full minute."""
    one, other = shared
    rates = per_window(1)
    assert await one.take(MODEL, rates) == Admission()
    wait_s = (await other.take(MODEL, rates)).wait_s
    assert 59 < wait_s <= 60
    await time_.go_on(wait_s + MOMENT_S)
    assert await other.take(MODEL, rates) == Admission()
    assert (await one.take(MODEL, rates)).wait_s > 0


async def test_a_day_ends_for_all(shared: Shared, time_: Time) -> None:
    """Its calls are counted together, and the next one begins at its end; a refused minute uses up nothing of it."""
    one, other = shared
    ends: list[float] = []

    def day_end(now: float) -> float:
        ends.append(now + 3)
        return ends[0] if now < ends[0] else now + 100

    rates = Rates(None, 60, 2, day_end)
    assert await one.take(MODEL, rates) == Admission()
    assert await other.take(MODEL, rates) == Admission()
    wait_s = (await one.take(MODEL, rates)).wait_s
    assert 0 < wait_s <= 3
    if time_.tell:
        await asyncio.sleep(wait_s + MOMENT_S)  # Redis forgets what was counted by its own clock
    await time_.go_on(wait_s + MOMENT_S)
    assert await one.take(MODEL, rates) == Admission()
    minute_too = Rates(1, 60, 10, day_end)
    await other.take(MODEL, minute_too)
    for _ in range(5):
        assert (await other.take(MODEL, minute_too)).wait_s < 61


async def test_a_closed_gate_holds_everybody(shared: Shared, time_: Time) -> None:
    """One closes it, the other waits; the longer time wins; it opens by itself."""
    one, other = shared
    # Redis forgets a gate by its own clock, which goes on.
    await one.close_gate(MODEL, 60)
    await other.close_gate(MODEL, 0.01)
    wait_s = (await other.take(MODEL, FREE)).wait_s
    assert 59 < wait_s <= 60
    await time_.go_on(wait_s + MOMENT_S)
    assert await other.take(MODEL, FREE) == await other.take(MODEL, FREE) == Admission()


async def test_a_gate_with_probes_lets_one_through(shared: Shared, time_: Time) -> None:
    """After its time one call tries, the others go on waiting, until a call opens it."""
    one, other = shared
    await one.close_gate(MODEL, 0.5, 30)
    await time_.go_on((await one.take(MODEL, FREE)).wait_s + MOMENT_S)
    assert await other.take(MODEL, FREE) == Admission(probe=True)
    assert 29 < (await one.take(MODEL, FREE)).wait_s <= 30
    await other.open_gate(MODEL)
    assert await one.take(MODEL, FREE) == Admission()


async def test_a_gate_is_not_forgotten_while_calls_look_behind_it(redis_url: str) -> None:
    """Each probe keeps it for another hour: an outage that is longer than one lets no calls loose."""
    name = f"test-{secrets.token_hex(6)}"
    backend = RedisBackend(redis_url, name)
    await backend.limits.close_gate(MODEL, 0, 30)
    async with Redis.from_url(redis_url) as client:
        await client.pexpire(f"audio_api:{{{name}}}:gate:{MODEL}", 100_000)  # the hour is nearly over
        assert await backend.limits.take(MODEL, FREE) == Admission(probe=True)
        assert not await client.pexpire(f"audio_api:{{{name}}}:gate:{MODEL}", 3_500_000, gt=True)
    await backend.close()


@given(
    st.lists(st.floats(0, 30), min_size=1, max_size=60),
    st.integers(1, 5),
    st.floats(0.5, 20),
)
def test_no_window_holds_too_many(gaps: list[float], count: int, window_s: float) -> None:
    """Whenever calls are asked for, those let through are never more than allowed in any window; nor ever fewer."""
    time_ = Time()
    limits = MemoryLimits(lambda: time_.now_s)
    through: list[float] = []
    for gap in gaps:
        time_.now_s += gap
        now = time_.now_s
        turn = asyncio.run(limits.take(MODEL, per_window(count, window_s)))
        recent = [moment for moment in through if moment > now - window_s + 1e-6]
        if turn.wait_s == 0:
            through.append(now)
            assert len(recent) < count
        else:
            assert len([moment for moment in through if moment > now - window_s - 1e-6]) >= count


UTTERANCE = Utterance((Turn("Hello there, my friend.", VoiceConfig()),), MODEL, "en-US")


def paced(engine: ScriptedEngine, limits: CallLimits, time_: Time, **settings: Any) -> PacedEngine:
    """An engine at the pace of these limits."""
    config = AudioConfig(**settings)
    return PacedEngine(engine, Pacer(limits, lambda: config, clock=time_.clock()))


async def outcome(engine: PacedEngine) -> AudioAPIError | None:
    """The error of one call; ``None``: it succeeded."""
    try:
        await engine.synthesize(UTTERANCE)
    except AudioAPIError as error:
        return error
    return None


async def test_without_settings_no_call_waits(limits: MemoryLimits, time_: Time) -> None:
    """No limit is set, and the API is content."""
    engine = paced(ScriptedEngine(), limits, time_)
    assert [await outcome(engine) for _ in range(30)] == [None] * 30
    assert time_.slept == []


async def test_the_minutes_limit_is_kept(limits: MemoryLimits, time_: Time) -> None:
    """Ten a minute: the eleventh call comes a little more than a minute after the first."""
    engine = paced(ScriptedEngine(), limits, time_, rate_limit_rpm=10)
    for _ in range(21):
        assert await outcome(engine) is None
    assert 60 < time_.slept[0] < 63
    assert time_.now_s - NOON == pytest.approx(2 * 62.4)


async def test_a_days_limit_hands_the_job_back(limits: MemoryLimits, time_: Time) -> None:
    """Its end is too far away to wait; the error tells when: midnight in California."""
    engine = paced(ScriptedEngine(), limits, time_, rate_limit_rpd=2)
    assert [await outcome(engine) for _ in range(2)] == [None, None]
    error = await outcome(engine)
    assert isinstance(error, TTSRateLimitError)
    assert not error.retryable
    assert error.retry_after_s == pytest.approx(12 * 3600)
    assert time_.slept == []


@pytest.mark.parametrize(("named_s", "wait_s"), [(42.0, 42.0), (None, 60.0)])
async def test_a_429_pauses_everybody(named_s: float | None, wait_s: float, limits: MemoryLimits, time_: Time) -> None:
    """The call that was refused reports it; every other worker's next call waits as long as the server said."""
    refused = paced(ScriptedEngine([TTSRateLimitError("slow down", retry_after_s=named_s)]), limits, time_)
    other = paced(ScriptedEngine(), limits, time_)
    error = await outcome(refused)
    assert error
    assert error.retryable
    assert await outcome(other) is None
    assert time_.slept == [pytest.approx(wait_s)]


async def test_a_delay_of_a_thousand_days_is_ten_minutes_and_a_probe(limits: MemoryLimits, time_: Time) -> None:
    """Of an engine of another kind, too; the first call afterwards is refused again, and holds the others back."""
    refusal = TTSRateLimitError("slow down", retry_after_s=86_400_000.0)
    one, other = paced(ScriptedEngine([refusal, refusal]), limits, time_), paced(ScriptedEngine(), limits, time_)
    assert await outcome(one) is refusal
    for call in (one, other):
        held = await outcome(other)
        assert held
        assert held.retry_after_s == pytest.approx(600)
        time_.now_s += 600
        assert await outcome(call) is (refusal if call is one else None)
    assert await outcome(one) is None
    assert time_.slept == []


async def test_a_day_ends_at_midnight_whatever_an_engine_says(limits: MemoryLimits, time_: Time) -> None:
    """Midnight in California is twelve hours away."""
    over = TTSQuotaError("the day is over")
    over.reset_at = datetime.fromtimestamp(NOON, UTC) + timedelta(days=1_000)
    assert await outcome(paced(ScriptedEngine([over]), limits, time_)) is over
    held = await outcome(paced(ScriptedEngine(), limits, time_))
    assert held
    assert held.retry_after_s == pytest.approx(12 * 3_600)


async def test_a_used_up_day_stops_everybody_until_it_resets(limits: MemoryLimits, time_: Time) -> None:
    """Afterwards one call looks whether the quota is back, and lets the others in."""
    over = TTSQuotaError("the day is over")
    over.reset_at = datetime.fromtimestamp(NOON, UTC) + timedelta(hours=3)
    one, other = paced(ScriptedEngine([over]), limits, time_), paced(ScriptedEngine(), limits, time_)
    assert await outcome(one) is over
    error = await outcome(other)
    assert error
    assert error.code is ErrorCode.RATE_LIMITED
    assert error.retry_after_s == pytest.approx(3 * 3600)
    time_.now_s += 3 * 3600
    assert [await outcome(other), await outcome(one)] == [None, None]
    assert time_.slept == []


DOWN = TTSUnavailableError("503")


async def test_an_open_circuit_costs_few_calls(limits: MemoryLimits, time_: Time) -> None:
    """After ten failures in a row calls cease but for a probe, no job tries again at once, and the end is noticed."""
    failing = ScriptedEngine([DOWN] * 14)
    engine = paced(failing, limits, time_)
    errors = [await outcome(engine) for _ in range(14)]
    assert [(error.code, error.retryable) for error in errors if error] == [
        *[(ErrorCode.UNAVAILABLE, True)] * 9,
        *[(ErrorCode.UNAVAILABLE, False)] * 5,
    ]
    # One second after the circuit opened, then every five.
    assert time_.slept == [pytest.approx(1), *[pytest.approx(5)] * 3]
    assert await outcome(engine) is None
    time_.slept.clear()
    assert [await outcome(engine) for _ in range(5)] == [None] * 5
    assert time_.slept == []


async def test_failures_of_all_workers_are_counted_together(shared: Shared, time_: Time) -> None:
    """Five of one process and five of another open the circuit of both, and a probe that is served closes it."""
    one, other = (CircuitBreaker(each) for each in shared)
    assert [await breaker.note_failure(MODEL, answered=False) for breaker in [one, other] * 5] == [*[False] * 9, True]
    assert await one.is_open(MODEL)
    assert await other.is_open(MODEL)
    assert not await other.is_open("another-model")
    held = await shared[0].take(MODEL, FREE)
    assert held.circuit_open
    assert 0 < held.wait_s <= 1
    await time_.go_on(held.wait_s + MOMENT_S)
    assert await shared[1].take(MODEL, FREE) == Admission(probe=True, circuit_open=True)
    assert 4 < (await shared[0].take(MODEL, FREE)).wait_s <= 5
    await other.close(MODEL)
    assert await shared[0].take(MODEL, FREE) == Admission()
    assert not await one.is_open(MODEL)


async def test_an_answer_to_any_worker_ends_the_row(shared: Shared) -> None:
    """Nine failures of one process, an answer to another one, which its next call tells, and nine more."""
    breaker = CircuitBreaker(shared[0])
    for _ in range(2):
        assert not any([await breaker.note_failure(MODEL, answered=False) for _ in range(9)])
        await shared[1].take(MODEL, FREE, answered=True)


async def test_a_longer_closure_outlives_a_failure(redis_url: str) -> None:
    """A failure that is counted while a day's quota is used up does not let the gate be forgotten early."""
    name = f"test-{secrets.token_hex(6)}"
    backend = RedisBackend(redis_url, name)
    await backend.limits.close_gate(MODEL, 7_200, 5)
    await CircuitBreaker(backend.limits).note_failure(MODEL, answered=False)
    async with Redis.from_url(redis_url) as client:
        assert not await client.pexpire(f"audio_api:{{{name}}}:gate:{MODEL}", 7_200_000, gt=False, nx=True)
        assert not await client.pexpire(f"audio_api:{{{name}}}:gate:{MODEL}", 7_200_000, gt=True)
    await backend.close()


async def test_a_call_that_waits_too_long_for_a_circuit_says_so(limits: MemoryLimits, time_: Time) -> None:
    """Its job goes back, so that another may use the slot; no call was made."""
    await limits.count_failure(MODEL, 1, 100, 5, answered=False)
    engine = ScriptedEngine()
    error = await outcome(paced(engine, limits, time_))
    assert error
    assert (error.code, error.retryable, error.retry_after_s) == (ErrorCode.CIRCUIT_OPEN, False, pytest.approx(100))
    assert engine.asked == []


async def test_a_burst_leaves_one_call_after_the_other(limits: MemoryLimits, time_: Time) -> None:
    """A quota that is not known refuses few calls: the first refusal comes before the others have left."""
    rates = Rates(None, 60, None, lambda now: now + 1e6, first_gap_s=0.025)
    assert await limits.take(MODEL, rates) == Admission()
    assert (await limits.take(MODEL, rates)).wait_s == pytest.approx(0.025, abs=1e-4)
    time_.now_s += 0.025
    assert await limits.take(MODEL, rates) == Admission()
    assert await limits.take(MODEL, FREE) == Admission()
    for _ in range(47):
        time_.now_s += 0.0251
        assert await limits.take(MODEL, rates) == Admission()
    assert await limits.take(MODEL, rates) == Admission()


async def test_a_circuit_that_opens_again_is_noticed_again(limits: MemoryLimits, time_: Time) -> None:
    """Another process closes it; before this one has a success calls fail again, and cease."""
    engine = paced(ScriptedEngine([DOWN] * 40), limits, time_)
    for _ in range(2):
        for _ in range(10):
            await outcome(engine)
        assert (await limits.take(MODEL, FREE)).wait_s > 0
        await limits.open_gate(MODEL)
    assert time_.slept == []


@pytest.mark.parametrize(
    ("error", "most"),
    [
        (DOWN, 9),
        (TTSUnavailableError("no answer", code=ErrorCode.TIMEOUT), 9),
        (TTSAuthenticationError("the key was revoked"), 9),
    ],
    ids=["503", "perhaps billed", "key"],
)
async def test_failures_between_successes_open_no_circuit(
    error: AudioAPIError, most: int, limits: MemoryLimits, time_: Time
) -> None:
    """So many failures and a success, again and again: every failure is reported as what it is, and no call waits."""
    engine = paced(ScriptedEngine([*[error] * most, TTSAudioError("silence"), *[error] * most]), limits, time_)
    assert [await outcome(engine) for _ in range(most)] == [error] * most
    assert isinstance(await outcome(engine), TTSAudioError)
    assert [await outcome(engine) for _ in range(most)] == [error] * most
    assert time_.slept == []


async def test_a_probe_that_is_answered_at_all_closes_the_circuit(limits: MemoryLimits, time_: Time) -> None:
    """Even silence shows that the API is back."""
    engine = paced(ScriptedEngine([*[DOWN] * 10, TTSAudioError("silence")]), limits, time_)
    for _ in range(11):
        await outcome(engine)
    time_.slept.clear()
    assert [await outcome(engine), await outcome(engine)] == [None, None]
    assert time_.slept == []


async def test_a_stream_keeps_the_pace(limits: MemoryLimits, time_: Time) -> None:
    """Streams are calls, too."""
    engine = paced(ScriptedEngine(), limits, time_, rate_limit_rpm=1)
    for _ in range(2):
        blocks = [block async for block in engine.stream(UTTERANCE)]
        assert sum(len(block.pcm) for block in blocks) > 1_000
    assert len(time_.slept) == 1


async def test_a_paced_engine_is_the_engine_otherwise(limits: MemoryLimits, time_: Time) -> None:
    """Its name, its checks and its end."""
    engine = ScriptedEngine()
    wrapped = paced(engine, limits, time_)
    assert wrapped.name == "scripted"
    engine.refusal = DOWN
    with pytest.raises(TTSUnavailableError):
        wrapped.preflight(UTTERANCE)
    with pytest.raises(TTSUnavailableError):
        await wrapped.health_check(MODEL)
    with pytest.raises(TTSUnavailableError):
        await wrapped.warm_up(MODEL)
    await wrapped.close()
    assert engine.closed


class Unknown(CallLimits):
    """A place that does not answer."""

    async def take(self, model: str, rates: Rates, *, answered: bool = False) -> Admission:
        """Fail."""
        raise QueueUnavailableError("down")

    async def count_failure(
        self, model: str, most: int, first_probe_s: float, probe_s: float, *, answered: bool
    ) -> int:
        """Fail."""
        raise QueueUnavailableError("down")

    async def is_circuit_open(self, model: str) -> bool:
        """Fail."""
        raise QueueUnavailableError("down")

    async def close_gate(self, model: str, wait_s: float, probe_s: float = 0.0) -> None:
        """Fail."""
        raise QueueUnavailableError("down")

    async def open_gate(self, model: str) -> None:
        """Fail."""
        raise QueueUnavailableError("down")

    async def pause_all(self, least_s: float, most_s: float, probe_s: float) -> None:
        """Fail."""
        raise QueueUnavailableError("down")

    async def resume_all(self) -> None:
        """Fail."""
        raise QueueUnavailableError("down")


async def test_a_limiter_that_fails_lets_calls_through_slowly(
    time_: Time, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a tenth of the limit, as the process does not know of the others; the warning comes once."""
    monkeypatch.setattr("audio_api.services.pacing.time.time", lambda: time_.now_s)
    engine = paced(ScriptedEngine([TTSRateLimitError("slow down")]), Unknown(), time_, rate_limit_rpm=20)
    assert await outcome(engine)
    time_.now_s += 100
    for _ in range(3):
        assert await outcome(engine) is None
    assert time_.slept == [pytest.approx(62.4)]
    assert len([record for record in caplog.records if "the shared pace is unknown" in record.message]) == 1


async def test_a_limiter_that_fails_without_a_limit_has_a_circuit_of_its_own(
    time_: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no pace to keep; failures in a row open the process's own circuit, and a probe closes it."""
    monkeypatch.setattr("audio_api.services.pacing.time.time", lambda: time_.now_s)
    engine = paced(ScriptedEngine([*[DOWN] * 10]), Unknown(), time_)
    errors = [await outcome(engine) for _ in range(12)]
    assert errors[9]
    assert (errors[9].code, errors[9].retryable) == (ErrorCode.UNAVAILABLE, False)
    assert errors[10:] == [None, None]
    assert time_.slept == [pytest.approx(1)]


async def test_a_failing_open_is_no_failure_of_the_call(time_: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe succeeded, but the place that holds the gate is gone by then."""
    unknown = Unknown()

    async def probe(*_: object, **__: object) -> Admission:
        return Admission(probe=True)

    monkeypatch.setattr(unknown, "take", probe)
    assert await outcome(paced(ScriptedEngine(), unknown, time_)) is None


async def test_waiting_for_a_turn_is_not_held_against_the_job() -> None:
    """Only the call itself is bounded: a turn that comes later than the limit is waited for."""
    config = AudioConfig(rate_limit_rpm=1)
    engine = PacedEngine(ScriptedEngine(), Pacer(MemoryLimits(time.time), lambda: config, window_s=0.5))
    for _ in range(2):
        assert (await engine.synthesize_within(UTTERANCE, Bounds(limit_s=0.2))).pcm


async def test_a_call_that_hangs_ends_and_counts_towards_opening_the_circuit(limits: MemoryLimits, time_: Time) -> None:
    """Its limit ends it, with its own code; ten in a row cease all calls."""

    class Hanging(ScriptedEngine):
        async def synthesize(self, utterance: Utterance) -> SpeechAudio:
            await asyncio.Event().wait()
            return await super().synthesize(utterance)

    engine = paced(Hanging(), limits, time_)
    for _ in range(10):
        with pytest.raises(WorkerServiceError) as caught:
            await engine.synthesize_within(UTTERANCE, Bounds(limit_s=0.01))
    assert caught.value.code is ErrorCode.TASK_TIMEOUT
    assert await limits.is_circuit_open(MODEL)


async def test_a_quota_that_a_refusal_names_is_kept_to(limits: MemoryLimits, time_: Time) -> None:
    """From the first 429 on no further call is refused, although no limit is set."""
    for _ in range(3):
        assert (await limits.take(MODEL, Rates(None, 62.7, None, lambda now: now + 86_400))).wait_s == 0
    await limits.learn(MODEL, 3, 5.0)
    turn = await limits.take(MODEL, Rates(None, 62.7, None, lambda now: now + 86_400))
    assert 5.0 <= turn.wait_s < 6.0
