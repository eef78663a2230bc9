"""When a call may be made: every worker of a queue keeps to one pace, and waits together when the API asks or is down.

The pace is kept at each call to an engine, retries and pieces of long texts included, because that is what quotas
count.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from datetime import UTC, datetime
from math import inf
from typing import Protocol

from audio_api.config import AudioConfig
from audio_api.engines.base import SpeechAudio, SpeechEngine, Utterance
from audio_api.engines.gemini_errors import LONGEST_DELAY_S, next_pacific_midnight
from audio_api.errors import (
    AudioAPIError,
    ErrorCode,
    QueueServiceError,
    TTSAudioError,
    TTSAuthenticationError,
    TTSContentBlockedError,
    TTSQuotaError,
    TTSRateLimitError,
    TTSUnavailableError,
)
from audio_api.queues.limits import Admission, CallLimits, MemoryLimits, Rates
from audio_api.retry import Clock
from audio_api.services.time_limit import uncounted

logger = logging.getLogger(__name__)

MINUTE_S = 60.0
# A place in the window is free when its call is a window old where it arrived, and calls take different times to get
# there: a new connection alone takes some tenths of a second. This much longer leaves 95 % of the quota in use.
_ARRIVAL = 1.045
# A call that must wait longer than a minute and a half hands its job back, so that others may use its slot.
_LONGEST_WAIT_S = 90.0
# At 40 % failures, the rate that users report, ten in a row come once in ten thousand calls.
_FAILURES_OF_AN_OUTAGE = 10
# A task may use up its attempts before ten calls have failed. From the third answer 5xx on, without another in between,
# or the second where a task has no third, its last attempt puts it off instead of failing it: seconds lost by chance.
_FEWEST_LIKE_AN_OUTAGE, _FAILURES_LIKE_AN_OUTAGE = 2, 3
# One call a second after an outage was noticed, then one every five: found within five seconds after its end.
_FIRST_PROBE_S, _PROBE_S = 1.0, 5.0
# What a 429 without a delay means: a minute's quota is used up.
_UNNAMED_PAUSE_S = 60.0
# What has been spent in ten minutes is what the account may not exceed: in as many it is surely less.
_LONGEST_ACCOUNT_PAUSE_S = 600.0
# Whoever cannot ask how many others there are calls as if there were ten.
_BLIND_SHARE = 10
DOWN = {
    ErrorCode.UNAVAILABLE,
    ErrorCode.TIMEOUT,
    ErrorCode.CONNECTION_FAILED,
    ErrorCode.CONNECTION_BROKEN,
    ErrorCode.UNREADABLE_REPLY,
}
"""Nobody answered, or the server is in trouble; whatever else comes back shows that it is up."""


class Gatekeeper(Protocol):
    """Who decides when a call may be made."""

    def call(self, model: str) -> AbstractAsyncContextManager[None]:
        """Wait for a turn, make the call within, and learn from its outcome."""

    def check(self, model: str) -> None:
        """Raise when calls are in vain now."""


async def _settle_account(limits: CallLimits, turn: Admission, error: AudioAPIError | None) -> None:
    """Pause every model when the account has spent too much, and go on when a call gets through."""
    if error is not None and error.code is ErrorCode.SPEND_LIMITED:
        logger.warning("the account has spent too much in ten minutes; no model is called", extra={"error": str(error)})
        await limits.pause_all(error.retry_after_s or _UNNAMED_PAUSE_S, _LONGEST_ACCOUNT_PAUSE_S, _PROBE_S)
    elif turn.of_account and (error is None or isinstance(error, TTSAudioError | TTSContentBlockedError)):
        await limits.resume_all()


class AccountPause:
    """Holds all calls of one service back while its account may spend nothing; it minds no other limit.

    Args:
        clock: Time and chance.
        longest_s: The seconds that a call waits at most.
    """

    def __init__(self, clock: Clock, longest_s: float) -> None:
        self._limits = MemoryLimits(clock.monotonic)
        self._clock = clock
        self._longest_s = longest_s

    @asynccontextmanager
    async def call(self, model: str) -> AsyncIterator[None]:
        """Wait until the account may spend again, and make the call within.

        Raises:
            TTSRateLimitError: With the code ``SPEND_LIMITED``: that is further away than a call waits.
        """
        turn = await self._turn(model)
        try:
            yield
        except AudioAPIError as error:
            await _settle_account(self._limits, turn, error)
            raise
        await _settle_account(self._limits, turn, None)

    def check(self, model: str) -> None:
        """Let every question pass: it costs nothing."""

    async def _turn(self, model: str) -> Admission:
        while (turn := await self._limits.take(model, _NO_RATES)).wait_s:
            if turn.wait_s > self._longest_s:
                raise TTSRateLimitError(
                    f"the account has spent as much as it may; no model is called for {turn.wait_s:,.0f} s",
                    code=ErrorCode.SPEND_LIMITED,
                    retry_after_s=turn.wait_s,
                )
            await self._clock.sleep(turn.wait_s)
        return turn


_NO_RATES = Rates(per_window=None, window_s=0.0, per_day=None, day_end=lambda _: inf)


def _end_of_pacific_day(now_s: float) -> float:
    return next_pacific_midnight(datetime.fromtimestamp(now_s, UTC)).timestamp()


class Pacer:
    """Lets calls through at the pace that ``RATE_LIMIT_RPM``, ``RATE_LIMIT_RPD`` and the API's own answers allow.

    Args:
        limits: What all workers of the queue share.
        settings: The settings now.
        clock: Time and chance; ``None``: the real ones.
        window_s: The length of the API's minute, in seconds; tests shorten it.
    """

    def __init__(
        self,
        limits: CallLimits,
        settings: Callable[[], AudioConfig],
        *,
        clock: Clock | None = None,
        window_s: float = MINUTE_S,
    ) -> None:
        self._limits = limits
        self._settings = settings
        self._clock = clock or Clock()
        self._window_s = window_s * _ARRIVAL
        self._alone = MemoryLimits(time.time)
        self._blind = False
        self._failures: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()

    @asynccontextmanager
    async def call(self, model: str) -> AsyncIterator[None]:
        """Wait for a turn, make the call within, and let the others know what its outcome means for them.

        Raises:
            TTSRateLimitError: Not retryable: the turn is further away than a job should wait; ``retry_after_s`` tells
                when to come back.
            TTSUnavailableError: With the code ``OUTAGE``: the API serves nobody, as far as this process can tell. Not
                retryable when that is certain enough to cease all calls but a probe.
        """
        turn = await self._turn(model)
        try:
            yield
        except AudioAPIError as error:
            await self._settle(turn, error)
            if await self._is_everybodys(error, model, turn):
                raise _outage(error, retryable=False) from None
            if error.code in DOWN and self._refusals[model] >= self._like_an_outage():
                # What may have been billed ends the run, whose bill would not tell so under this code.
                raise _outage(error, retryable=error.retryable and error.code is ErrorCode.UNAVAILABLE) from None
            raise
        self._note_answer(model)
        await self._settle(turn, None)
        if turn.probe:
            await self._open(model)

    def check(self, model: str) -> None:
        """Take the API for down when, since it last served a call, more have failed than one task may make.

        Raises:
            TTSUnavailableError: With the code ``OUTAGE``.
        """
        if (failures := self._failures[model]) > self._settings().retry_attempts:
            raise TTSUnavailableError(f"the last {failures} calls of {model} have failed", code=ErrorCode.OUTAGE)

    def _like_an_outage(self) -> int:
        return max(_FEWEST_LIKE_AN_OUTAGE, min(_FAILURES_LIKE_AN_OUTAGE, self._settings().retry_attempts))

    async def _turn(self, model: str) -> Admission:
        waited_s = 0.0
        while True:
            turn = await self._take(model)
            if turn.wait_s == 0:
                return turn
            waited_s += turn.wait_s
            if waited_s > _LONGEST_WAIT_S:
                raise _come_back(f"{model} takes no further calls for {turn.wait_s:,.0f} s", turn.wait_s)
            with uncounted():
                await self._clock.sleep(turn.wait_s)

    async def _take(self, model: str) -> Admission:
        settings = self._settings()
        per_window, per_day = settings.rate_limit_rpm, settings.rate_limit_rpd
        try:
            with uncounted():
                turn = await self._limits.take(model, Rates(per_window, self._window_s, per_day, _end_of_pacific_day))
        except QueueServiceError as error:
            self._warn(error)
            share = per_window and max(1, per_window // _BLIND_SHARE)
            return await self._alone.take(model, Rates(share, self._window_s, per_day, _end_of_pacific_day))
        self._blind = False
        return turn

    def _warn(self, error: QueueServiceError) -> None:
        """Say once in a row that the others' calls are unknown."""
        if not self._blind:
            self._blind = True
            logger.warning("the shared pace is unknown; calling at a tenth of it", extra={"error": str(error)})

    async def _is_everybodys(self, error: AudioAPIError, model: str, turn: Admission) -> bool:
        """Close the gate when the failure concerns every call, and tell whether it is an outage."""
        if isinstance(error, TTSRateLimitError) and error.code is not ErrorCode.SPEND_LIMITED:
            await self._learn(model, error)
            pause_s = _UNNAMED_PAUSE_S if error.retry_after_s is None else min(error.retry_after_s, LONGEST_DELAY_S)
            # After more than a minute's pause one call finds out whether all may go on.
            await self._close(model, pause_s, _PROBE_S if pause_s > MINUTE_S else 0.0)
        elif isinstance(error, TTSQuotaError) and error.reset_at is not None:
            reset_at = min(error.reset_at, next_pacific_midnight(self._clock.now()))
            await self._close(model, (reset_at - self._clock.now()).total_seconds(), _PROBE_S)
        elif error.code in DOWN or isinstance(error, TTSAuthenticationError):
            self._refusals[model] += error.code is ErrorCode.UNAVAILABLE
            return await self._is_outage(model, turn)
        elif turn.probe and error.code is not ErrorCode.SPEND_LIMITED:
            await self._open(model)
        self._note_answer(model)
        return False

    def _note_answer(self, model: str) -> None:
        self._failures[model] = self._refusals[model] = 0

    async def _is_outage(self, model: str, turn: Admission) -> bool:
        self._failures[model] += 1
        if turn.probe:
            return True
        if self._failures[model] < _FAILURES_OF_AN_OUTAGE:
            return False
        # Again after ten more: somebody else may have opened the gate, or the place that holds it forgotten it.
        if self._failures[model] % _FAILURES_OF_AN_OUTAGE == 0:
            logger.warning("the API is down; a call every few seconds looks whether it is back", extra={"model": model})
            await self._close(model, _FIRST_PROBE_S, _PROBE_S)
        return True

    async def _settle(self, turn: Admission, error: AudioAPIError | None) -> None:
        try:
            await _settle_account(self._limits, turn, error)
        except QueueServiceError as unknown:
            self._warn(unknown)

    async def _close(self, model: str, wait_s: float, probe_s: float = 0.0) -> None:
        try:
            with uncounted():
                await self._limits.close_gate(model, max(0.0, wait_s), probe_s)
        except QueueServiceError as error:
            self._warn(error)

    async def _learn(self, model: str, refusal: TTSRateLimitError) -> None:
        """Let all workers keep from now on to the quota that a refusal names."""
        if refusal.per_minute is None or refusal.retry_after_s is None:
            return
        try:
            with uncounted():
                await self._limits.learn(model, refusal.per_minute, min(refusal.retry_after_s, LONGEST_DELAY_S))
        except QueueServiceError as error:
            self._warn(error)

    async def _open(self, model: str) -> None:
        logger.info("the API serves again", extra={"model": model})
        try:
            with uncounted():
                await self._limits.open_gate(model)
        except QueueServiceError as error:
            self._warn(error)


def _come_back(message: str, wait_s: float) -> TTSRateLimitError:
    return TTSRateLimitError(message, retryable=False, retry_after_s=wait_s)


def _outage(error: AudioAPIError, *, retryable: bool) -> TTSUnavailableError:
    return TTSUnavailableError(
        f"the API serves nobody now: {error}",
        code=ErrorCode.OUTAGE,
        retryable=retryable,
        retry_after_s=error.retry_after_s,
        usage=error.usage,
    )


class PacedEngine(SpeechEngine):
    """Another engine, whose calls wait for their turn.

    Args:
        engine: Who speaks.
        pacer: Who decides when.
    """

    def __init__(self, engine: SpeechEngine, pacer: Gatekeeper) -> None:
        self.name = engine.name
        self.is_billed = engine.is_billed
        self._engine = engine
        self._pacer = pacer

    def preflight(self, utterance: Utterance) -> None:
        """As the engine itself."""
        self._engine.preflight(utterance)

    async def synthesize(self, utterance: Utterance) -> SpeechAudio:
        """As the engine itself, when it is this call's turn.

        Raises:
            TTSError: As the engine itself, and as ``Pacer.call``.
        """
        async with self._pacer.call(utterance.model):
            return await self._engine.synthesize(utterance)

    async def stream(self, utterance: Utterance) -> AsyncGenerator[SpeechAudio, None]:
        """As the engine itself, when it is this call's turn.

        Raises:
            TTSError: As the engine itself, and as ``Pacer.call``.
        """
        async with self._pacer.call(utterance.model), aclosing(self._engine.stream(utterance)) as blocks:
            async for block in blocks:
                yield block

    async def health_check(self, model: str) -> None:
        """As the engine itself: it costs nothing and needs no turn.

        Raises:
            TTSError: As the engine itself, and as ``Pacer.check``.
        """
        self._pacer.check(model)
        await self._engine.health_check(model)

    async def warm_up(self, model: str) -> None:
        """As the engine itself: it needs no turn, and spares the first one."""
        await self._engine.warm_up(model)

    async def close(self) -> None:
        """As the engine itself."""
        await self._engine.close()
