"""When a call may be made: every worker of a queue keeps to one pace, and waits together when the API asks or is down.

The pace is kept at each call to an engine, retries and pieces of long texts included, because that is what quotas
count.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from copy import copy
from datetime import UTC, datetime
from typing import TypeVar

from audio_api.clock import next_pacific_midnight
from audio_api.config import AudioConfig, get_config
from audio_api.engines.base import Bounds, SpeechAudio, SpeechEngine, Utterance
from audio_api.engines.gemini_errors import LONGEST_DELAY_S
from audio_api.errors import (
    AudioAPIError,
    ErrorCode,
    QueueServiceError,
    TTSAudioError,
    TTSContentBlockedError,
    TTSQuotaError,
    TTSRateLimitError,
    TTSUnavailableError,
)
from audio_api.models.audio_request import AudioRequest
from audio_api.models.service_tiers import ServiceTier
from audio_api.queues.limits import ARRIVAL, Admission, CallLimits, MemoryLimits, Rates
from audio_api.retry import Clock
from audio_api.services.circuit_breaker import PROBE_S, CircuitBreaker
from audio_api.services.queue_service import QueueService
from audio_api.services.recovery import rule_for
from audio_api.services.tts_service import TTSService, make_engine

logger = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")

MINUTE_S = 60.0
# A call that must wait longer than a minute and a half puts its job back, so that others may use its slot.
_LONGEST_WAIT_S = 90.0
# What a 429 without a delay means: a minute's quota is used up.
_UNNAMED_PAUSE_S = 60.0
# What has been spent in ten minutes is what the account may not exceed: in as many it is surely less.
_LONGEST_ACCOUNT_PAUSE_S = 600.0
# The first calls that are made beside others leave one by one: a quota that is not known refuses few of them.
_FIRST_GAP_S = 0.025
# A worker that cannot ask how many others there are calls as if there were ten.
_BLIND_SHARE = 10


def _end_of_pacific_day(now_s: float) -> float:
    return next_pacific_midnight(datetime.fromtimestamp(now_s, UTC)).timestamp()


def lane(model: str, tier: ServiceTier) -> str:
    """What keeps a pace and a circuit of its own: a model, and each of its other tiers, which are refused apart."""
    return model if tier == "standard" else f"{model}.{tier}"


def lane_of(request: AudioRequest, settings: AudioConfig) -> str:
    """The lane of the calls for a request."""
    model, tier = request.model or settings.default_tts_model, request.service_tier or settings.service_tier
    return lane(str(model), "standard" if tier == "batch" else tier)


class Pacer:
    """Lets calls through at the pace that ``RATE_LIMIT_RPM``, ``RATE_LIMIT_RPD`` and the API's own answers allow.

    Args:
        limits: What all workers of the queue share.
        settings: The settings now.
        clock: Time and chance; ``None``: the real ones.
        window_s: The length of the API's minute, in seconds; tests shorten it.

    Attributes:
        waiting: Calls of this process that wait for their turn.
    """

    def __init__(
        self,
        limits: CallLimits,
        settings: Callable[[], AudioConfig],
        *,
        clock: Clock | None = None,
        window_s: float = MINUTE_S,
    ) -> None:
        self._settings = settings
        self._clock = clock or Clock()
        self._window_s = window_s * ARRIVAL
        self._shared = limits
        # What this process keeps to while the place that all workers share does not answer.
        self._alone = MemoryLimits(time.time)
        # Models that answered since their last call left: the place learns it with the next call, at no cost.
        self._answered: set[str] = set()
        # One call of a model asks at a time, or all that wait would ask at the moment when one may go.
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        # Calls of each model that are made or wait for their turn.
        self._in_progress: Counter[str] = Counter()
        self._blind = False
        self.waiting = 0

    @asynccontextmanager
    async def call(self, model: str) -> AsyncIterator[None]:
        """Wait for a turn, make the call within, and let the others know what its outcome means for them.

        Raises:
            TTSRateLimitError: Not retryable: the turn is further away than a job waits; ``retry_after_s`` says when to
                come back.
            TTSUnavailableError: With the code ``CIRCUIT_OPEN``, not retryable: the same, as calls have failed in a row.
            AudioAPIError: The call's own; not retryable when it finds the circuit open.
        """
        self._in_progress[model] += 1
        try:
            self.waiting += 1
            try:
                admission = await self._admission(model)
            finally:
                self.waiting -= 1
            try:
                yield
            except AudioAPIError as error:
                raise await self._after(model, admission, error) from None
            await self._settle(admission, None)
            await self._note_answer(model, admission, serves=True)
        finally:
            self._in_progress[model] -= 1

    async def _after(self, model: str, admission: Admission, error: AudioAPIError) -> AudioAPIError:
        """Let the others know of a failure; returns it, or the same without a further attempt: the circuit is open."""
        await self._settle(admission, error)
        if rule_for(error.code).trips:
            answered = model in self._answered
            self._answered.discard(model)
            if await self._tell(lambda limits: CircuitBreaker(limits).note_failure(model, answered=answered)):
                # No further attempt is made at once.
                last = copy(error)
                last.retryable = False
                return last.with_traceback(error.__traceback__)
        elif error.code is not ErrorCode.SPEND_LIMITED:
            await self._note_answer(model, admission, serves=not await self._heed(model, error))
        return error

    async def _admission(self, model: str) -> Admission:
        began_s = self._clock.monotonic()
        async with self._turns[model]:
            while True:
                answered = model in self._answered
                admission = await self._tell(
                    lambda limits: limits.take(model, self._rates(model, limits), answered=answered)  # noqa: B023
                )
                self._answered.discard(model)
                if admission.wait_s == 0:
                    return admission
                if self._clock.monotonic() - began_s + admission.wait_s > _LONGEST_WAIT_S:
                    raise _too_far(model, admission)
                await self._clock.sleep(admission.wait_s)

    def _rates(self, model: str, limits: CallLimits) -> Rates:
        settings = self._settings()
        per_window = settings.rate_limit_rpm
        if per_window and limits is self._alone:
            per_window = max(1, per_window // _BLIND_SHARE)
        first_gap_s = _FIRST_GAP_S if self._in_progress[model] > 1 else 0.0
        return Rates(per_window, self._window_s, settings.rate_limit_rpd, _end_of_pacific_day, first_gap_s)

    async def _settle(self, admission: Admission, error: AudioAPIError | None) -> None:
        """Pause every model when the account has spent too much, and go on when a call gets through."""
        if error is not None and error.code is ErrorCode.SPEND_LIMITED:
            logger.warning(
                "the account has spent too much in ten minutes; no model is called", extra={"error": str(error)}
            )
            pause_s = error.retry_after_s or _UNNAMED_PAUSE_S
            await self._tell(lambda limits: limits.pause_all(pause_s, _LONGEST_ACCOUNT_PAUSE_S, PROBE_S))
        elif admission.of_account and (error is None or isinstance(error, TTSAudioError | TTSContentBlockedError)):
            await self._tell(lambda limits: limits.resume_all())

    async def _note_answer(self, model: str, admission: Admission, *, serves: bool) -> None:
        self._answered.add(model)
        if admission.probe and serves:
            await self._tell(lambda limits: CircuitBreaker(limits).close(model))

    async def _heed(self, model: str, refusal: AudioAPIError) -> bool:
        """Close the gate of every worker when a quota is used up, and keep to the one that is named; whether it is."""
        now = self._clock.now()
        if isinstance(refusal, TTSRateLimitError):
            wait_s = _UNNAMED_PAUSE_S if refusal.retry_after_s is None else min(refusal.retry_after_s, LONGEST_DELAY_S)
            # After more than a minute's pause one call finds out whether all may go on.
            probe_s = PROBE_S if wait_s > MINUTE_S else 0.0
            if (most := refusal.per_minute) and refusal.retry_after_s is not None:
                await self._tell(lambda limits: limits.learn(model, most, wait_s))
        elif isinstance(refusal, TTSQuotaError) and refusal.reset_at is not None:
            wait_s = (min(refusal.reset_at, next_pacific_midnight(now)) - now).total_seconds()
            probe_s = PROBE_S
        else:
            return False
        await self._tell(lambda limits: limits.close_gate(model, max(0.0, wait_s), probe_s))
        return True

    async def _tell(self, step: Callable[[CallLimits], Awaitable[_Answer]]) -> _Answer:
        """Take a step in the place that all workers share; while that does not answer, in this process alone."""
        try:
            answer = await step(self._shared)
        except QueueServiceError as error:
            if not self._blind:
                self._blind = True
                logger.warning("the shared pace is unknown; calling at a tenth of it", extra={"error": str(error)})
            return await step(self._alone)
        self._blind = False
        return answer


def _too_far(model: str, admission: Admission) -> AudioAPIError:
    wait_s = admission.wait_s
    if admission.circuit_open:
        return TTSUnavailableError(
            f"no call of {model} was made: its last calls failed, and its circuit is open",
            code=ErrorCode.CIRCUIT_OPEN,
            retryable=False,
            retry_after_s=wait_s,
        )
    return TTSRateLimitError(
        f"{model} takes no further calls for {wait_s:,.0f} s", retryable=False, retry_after_s=wait_s
    )


class PacedEngine(SpeechEngine):
    """Another engine, whose calls wait for their turn.

    Args:
        engine: Who speaks.
        pacer: Who decides when.

    Attributes:
        engine: As given.
    """

    def __init__(self, engine: SpeechEngine, pacer: Pacer) -> None:
        self.name = engine.name
        self.is_billed = engine.is_billed
        self.engine = engine
        self._pacer = pacer

    def preflight(self, utterance: Utterance) -> None:
        """As the engine itself."""
        self.engine.preflight(utterance)

    async def synthesize(self, utterance: Utterance) -> SpeechAudio:
        """As the engine itself, when it is this call's turn.

        Raises:
            TTSError: As the engine itself, and as ``Pacer.call``.
        """
        async with self._pacer.call(lane(utterance.model, utterance.tier)):
            return await self.engine.synthesize(utterance)

    async def synthesize_within(self, utterance: Utterance, bounds: Bounds) -> SpeechAudio:
        """As the engine itself, when it is this call's turn; the wait for it is not bounded.

        Raises:
            AudioAPIError: As the engine itself, and as ``Pacer.call``.
        """
        async with self._pacer.call(lane(utterance.model, utterance.tier)):
            return await self.engine.synthesize_within(utterance, bounds)

    async def stream(self, utterance: Utterance) -> AsyncGenerator[SpeechAudio, None]:
        """As the engine itself, when it is this call's turn.

        Raises:
            TTSError: As the engine itself, and as ``Pacer.call``.
        """
        turn = self._pacer.call(lane(utterance.model, utterance.tier))
        async with turn, aclosing(self.engine.stream(utterance)) as blocks:
            async for block in blocks:
                yield block

    async def health_check(self, model: str) -> None:
        """As the engine itself: it costs nothing and needs no turn."""
        await self.engine.health_check(model)

    async def warm_up(self, model: str) -> None:
        """As the engine itself: it needs no turn, and spares the first one."""
        await self.engine.warm_up(model)

    async def close(self) -> None:
        """As the engine itself."""
        await self.engine.close()


def make_tts(config: AudioConfig | None, queue: QueueService) -> TTSService:
    """Speech for the workers of a queue, at their common pace.

    Args:
        config: The settings; ``None``: ``get_config()`` at every request.
        queue: The queue whose workers share the pace.
    """
    return paced_tts(config, Pacer(queue.backend.limits, lambda: config or get_config()))


def paced_tts(config: AudioConfig | None, pacer: Pacer) -> TTSService:
    """Speech at a pace.

    Args:
        config: The settings; ``None``: ``get_config()`` at every request.
        pacer: Lets its calls through.
    """
    return TTSService(config, engine_factory=lambda config: PacedEngine(make_engine(config), pacer))
