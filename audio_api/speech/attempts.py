"""The attempts at one utterance: calls, checks, and the best of what is doubtful."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from audio_api.audio.wav import SAMPLE_RATE
from audio_api.config import AudioConfig
from audio_api.engines.base import Bounds, SpeechAudio, SpeechEngine, Utterance
from audio_api.errors import (
    AudioAPIError,
    ErrorCode,
    TTSAudioError,
    TTSContentBlockedError,
    TTSRateLimitError,
    TTSUnavailableError,
)
from audio_api.models.service_tiers import ServiceTier
from audio_api.models.usage import TokenUsage
from audio_api.retry import Clock, RetryPolicy, T, call_with_retry
from audio_api.speech.conversion import standard_audio, standard_blocks
from audio_api.speech.cost import Call, Outcome, failed_call, note
from audio_api.speech.listening import Ear, Listener
from audio_api.speech.voice_paces import VoicePaces, judge_audio, voice_key
from audio_api.telemetry import CallReport, api_call

if TYPE_CHECKING:
    from audio_api.audio.checks import Verdict

# Doubtful audio is asked for again, at most twice. Two takes of about the same length are believed: words that a model
# leaves out differ from take to take. The same text was spoken in 4.93 to 6.33 s, so two whole takes differ by 8 %.
_MOST_TAKES = 3
AGREEMENT = 0.05
# What the tier flex answers, or does not, when there is no room for it.
_SHED = {ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT, ErrorCode.RATE_LIMITED, ErrorCode.CIRCUIT_OPEN}
# What an account has spent in ten minutes is what it may not exceed: in as many it is surely less.
_LONGEST_PAUSE_S = 600.0
_SHORTEST_PAUSE_S = 60.0
# After a pause one call looks whether the account may spend again, and another every so many seconds.
_PROBE_S = 5.0


class SpendingPause:
    """Holds the calls of every model back while the account may spend nothing; a pause that did not help is doubled.

    Args:
        clock: Time and chance.
        longest_s: The seconds that a call waits at most.
    """

    def __init__(self, clock: Clock, longest_s: float) -> None:
        self._clock = clock
        self._longest_s = longest_s
        self._is_on = False
        self._length_s = 0.0
        self._ends_s = self._next_probe_s = -math.inf

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Wait until the account may spend again, and make the call within.

        Raises:
            TTSRateLimitError: With the code ``SPEND_LIMITED``: that is further away than a call waits.
        """
        while self._is_on and (wait_s := max(self._ends_s, self._next_probe_s) - self._clock.monotonic()) > 0:
            if wait_s > self._longest_s:
                raise TTSRateLimitError(
                    f"the account has spent as much as it may; no model is called for {wait_s:,.0f} s",
                    code=ErrorCode.SPEND_LIMITED,
                    retry_after_s=wait_s,
                )
            await self._clock.sleep(wait_s)
        self._next_probe_s = self._clock.monotonic() + _PROBE_S
        is_probe = self._is_on
        try:
            yield
        except AudioAPIError as error:
            if error.code is ErrorCode.SPEND_LIMITED:
                self._begin(error.retry_after_s or _SHORTEST_PAUSE_S)
            elif is_probe and isinstance(error, TTSAudioError | TTSContentBlockedError):
                self._is_on, self._length_s = False, 0.0
            raise
        if is_probe:
            self._is_on, self._length_s = False, 0.0

    def _begin(self, least_s: float) -> None:
        now_s = self._clock.monotonic()
        # Calls that were under way when it began are refused, too: they tell nothing new.
        if not self._is_on or now_s >= self._ends_s:
            self._length_s = max(least_s, min(2 * self._length_s, _LONGEST_PAUSE_S))
            self._ends_s = now_s + self._length_s
        self._is_on, self._ends_s = True, max(self._ends_s, now_s + least_s)


@dataclass(slots=True)
class Desk:
    """What the attempts of one service share.

    Attributes:
        engine: The source of speech.
        config: The settings.
        clock: Time and chance.
        paces: How each voice has spoken so far.
        spending: Holds calls back while the account may spend nothing.
        listener: Listens to takes; ``None``: they are not listened to.
        is_closed: Whether no further call may begin.
    """

    engine: SpeechEngine
    config: AudioConfig
    clock: Clock
    paces: VoicePaces
    spending: SpendingPause
    listener: Listener | None = None
    is_closed: bool = False

    def check_open(self) -> None:
        """Refuse a call that would begin after the service was closed.

        Raises:
            TTSUnavailableError: It was.
        """
        if self.is_closed:
            raise TTSUnavailableError(
                "the service was closed meanwhile", code=ErrorCode.CONNECTION_FAILED, retryable=False
            )


def policy_of(config: AudioConfig, tier: ServiceTier = "standard") -> RetryPolicy:
    """How often, and how long, the settings let a call be tried; one long call of flex may be repeated."""
    return RetryPolicy(
        attempts=config.retry_attempts,
        min_wait_s=config.retry_min_wait,
        max_wait_s=config.retry_max_wait,
        rate_limit_attempts=config.rate_limit_retry_attempts,
        rate_limit_min_wait_s=config.rate_limit_retry_min_wait,
        rate_limit_max_wait_s=config.rate_limit_retry_max_wait,
        deadline_s=config.retry_deadline + (config.flex_timeout if tier == "flex" else 0.0),
    )


class Attempts:
    """The attempts at one utterance; keeps the doubtful takes until one is believed.

    Args:
        desk: What they share with others.
        utterance: What is spoken.
        calls: Gets a record of every call, which is replaced when the call has ended.
        bounds: What each call may take. Its permit is given back between attempts.
    """

    def __init__(self, desk: Desk, utterance: Utterance, calls: list[Call], bounds: Bounds) -> None:
        self._desk = desk
        self._utterance = utterance
        self._calls = calls
        self._bounds = bounds
        self._ear = desk.listener and Ear(desk.listener, utterance, repeatable=desk.engine.is_billed)
        self._doubtful: list[tuple[SpeechAudio, Verdict]] = []

    async def run(self) -> SpeechAudio:
        """Try until there is speech of the whole utterance.

        Raises:
            AudioAPIError: Of the last attempt: the reason why there is none.
        """
        try:
            return await self._persist(self._attempt)
        except AudioAPIError:
            if not self._doubtful or self._desk.config.audio_checks == "strict":
                raise
            return self._best_doubtful()

    async def _attempt(self) -> SpeechAudio:
        try:
            async with self._call(is_stream=False):
                reply = await self._desk.engine.synthesize_within(self._utterance, self._bounds)
                self._note_usage(reply)
            audio = reply if reply.sample_rate == SAMPLE_RATE else await standard_audio(reply)
            return await self._verified(audio)
        except AudioAPIError:
            # Others go on while this one waits for its next attempt.
            if self._bounds.permit:
                self._bounds.permit.give_back()
            raise

    async def stream_into(self, blocks: asyncio.Queue[SpeechAudio | None]) -> None:
        """Try until a stream yields its first sound, and put all of its blocks into a queue.

        Raises:
            AudioAPIError: Of the last attempt; after the first sound nothing is tried again.
        """

        async def attempt() -> AudioAPIError | None:
            is_heard = False
            try:
                spoken = standard_blocks(self._desk.engine.stream(self._utterance))
                async with self._call(is_stream=True) as report, aclosing(spoken) as stream:
                    async for block in stream:
                        self._note_usage(block, ended=False)
                        if is_heard := is_heard or bool(block.pcm):
                            report.heard()
                            blocks.put_nowait(block)
            except AudioAPIError as error:
                if is_heard:
                    return error
                raise
            if not is_heard:
                self._calls[-1] = replace(self._calls[-1], outcome=Outcome.FAILED)
                raise TTSAudioError("the stream ended without any sound")
            self._calls[-1] = replace(self._calls[-1], outcome=self._outcome(self._calls[-1].usage))
            return None

        if error := await self._persist(attempt):
            raise error

    async def _persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Make attempts in the tier asked for; then in standard, if the settings want that, where flex has no room."""
        desk, tier = self._desk, self._utterance.tier
        try:
            return await call_with_retry(attempt, policy_of(desk.config, tier), desk.clock)
        except AudioAPIError as error:
            if not (tier == "flex" and desk.config.flex_fallback and error.code in _SHED):
                raise
        self._calls.append(note("the tier flex had no room; the tier standard served, at its price"))
        self._utterance = replace(self._utterance, tier="standard")
        return await call_with_retry(attempt, policy_of(desk.config), desk.clock)

    @asynccontextmanager
    async def _call(self, *, is_stream: bool) -> AsyncIterator[CallReport]:
        """Make a call within, and leave a record of it."""
        self._desk.check_open()
        model, tier = self._utterance.model, self._utterance.tier if self._desk.engine.is_billed else None
        self._calls.append(Call(model, tier=tier))
        try:
            async with self._desk.spending.call():
                with api_call(model, self._desk.engine.name, is_stream=is_stream) as report:
                    yield report
                    report.usage = self._calls[-1].usage
        except AudioAPIError as error:
            self._calls[-1] = failed_call(model, error, tier)
            raise

    def _note_usage(self, sound: SpeechAudio, *, ended: bool = True) -> None:
        """Record what the last call was billed, and by which tier."""
        call, asked = self._calls[-1], self._utterance.tier
        usage, tier = call.usage + sound.usage, sound.tier or call.tier
        warnings = (
            (f"{asked} was asked for, and the tier {tier} served",) if sound.tier not in (None, asked, "batch") else ()
        )
        outcome = self._outcome(usage) if ended else call.outcome
        self._calls[-1] = replace(call, usage=usage, outcome=outcome, tier=tier, warnings=call.warnings + warnings)

    def _outcome(self, usage: TokenUsage) -> Outcome:
        """What became of a call that spoke: sound without a word on its bill costs an unknown sum, not nothing."""
        is_unpriced = self._desk.engine.is_billed and not usage.output_tokens
        return Outcome.UNPRICED if is_unpriced else Outcome.SPOKEN

    async def _verified(self, audio: SpeechAudio) -> SpeechAudio:
        desk = self._desk
        key = voice_key(self._utterance, desk.engine.name)
        own_pace = await desk.paces.of(key)
        verdict = await judge_audio(self._utterance, audio, desk.config, own_pace, repeatable=desk.engine.is_billed)
        if self._ear:
            audio, verdict = await self._ear.judge(audio, verdict)
        is_certain = verdict.outcome == "accept"
        is_same = any(audio.pcm == earlier.pcm for earlier, _ in self._doubtful)
        if verdict.outcome == "suspect":
            # Confirmed by an earlier doubtful take of about its length, if a voice may speak that fast or slowly.
            is_certain = (
                not is_same
                and verdict.plausible
                and any(
                    other.plausible and abs(other.speech_s / verdict.speech_s - 1) <= AGREEMENT
                    for _, other in self._doubtful
                )
            )
            self._doubtful.append((audio, verdict))
        if is_certain:
            await desk.paces.learn(key, verdict.pace)
            return audio
        # An engine that says the same again has nothing better.
        is_last = is_same or not desk.engine.is_billed or len(self._doubtful) >= _MOST_TAKES
        if self._doubtful and is_last and desk.config.audio_checks != "strict":
            return self._best_doubtful()
        # The output limit is met again by every further take, and so is any fault of a voice that costs nothing.
        retryable = audio.finish_reason != "MAX_TOKENS" and desk.engine.is_billed and not is_same
        self._calls[-1] = replace(self._calls[-1], code=verdict.code)
        raise TTSAudioError(verdict.detail, code=verdict.code, retryable=retryable)

    def _best_doubtful(self) -> SpeechAudio:
        """The take of which most was heard; else the one whose length is nearest to what its text usually takes."""

        def rank(take: tuple[SpeechAudio, Verdict]) -> tuple[float, float, float]:
            audio, verdict = take
            return -(audio.heard or 0.0), abs(math.log(verdict.pace or 1)), -verdict.speech_s

        audio, verdict = min(self._doubtful, key=rank)
        takes = len(self._doubtful)
        warning = f"{'a doubtful take' if takes == 1 else f'the best of {takes} doubtful takes'}: {verdict.detail}"
        codes = (verdict.code,) if verdict.code else ()
        return replace(audio, doubtful=codes, warnings=(*audio.warnings, warning))
