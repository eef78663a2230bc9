"""One utterance becomes one verified sound: attempts, checks, doubtful takes, and what it all cost."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from audio_api.audio.large_sounds import give_permit_back
from audio_api.config import AudioConfig
from audio_api.engines.base import SpeechAudio, SpeechEngine, Utterance
from audio_api.errors import AudioAPIError, ErrorCode, TTSAudioError, TTSError
from audio_api.models.audio_request import AudioResponse
from audio_api.models.speech_models import Price, model_spec
from audio_api.models.usage import TokenUsage
from audio_api.retry import Clock, RetryPolicy, call_with_retry
from audio_api.services.conversion import standard_audio, standard_blocks
from audio_api.services.voice_paces import VoicePaces, voice_key

if TYPE_CHECKING:
    from audio_api.audio.checks import OwnPace, Verdict

# Doubtful audio is asked for again, at most twice. Two takes of about the same length are believed: words that a model
# leaves out differ from take to take. The same text was spoken in 4.93 to 6.33 s, so two whole takes differ by 8 %.
_MOST_TAKES = 3
AGREEMENT = 0.05
# After these nobody knows whether the server finished, and billed, the call.
_PERHAPS_BILLED = {ErrorCode.TIMEOUT, ErrorCode.CONNECTION_BROKEN, ErrorCode.UNREADABLE_REPLY}


class Bill:
    """What one request has used so far: calls, tokens, money, and what a careful listener should know.

    Attributes:
        attempts: API calls made.
        usage: Tokens billed, failed calls included.
        cost_usd: Their price; ``None`` once it is unknown: no price of the model, or no usage of a billed sound.
        cached_pieces: Pieces that were finished before, and cost nothing.
        unanswered: Calls that failed without saying what was billed, if anything was.
        doubtful: Why the sound may not be the whole text, each code once.
        warnings: Each sentence once.
    """

    def __init__(self, config: AudioConfig, clock: Clock) -> None:
        self.attempts = 0
        self.usage = TokenUsage()
        self.cost_usd: float | None = 0.0
        self.cached_pieces = 0
        self.unanswered = 0
        self.doubtful: dict[ErrorCode, None] = {}
        self.warnings: dict[str, None] = {}
        self._config = config
        self._clock = clock

    def fresh(self) -> Bill:
        """An empty bill with the same prices."""
        return Bill(self._config, self._clock)

    def add(self, other: Bill) -> None:
        """Take over all of another bill."""
        self.attempts += other.attempts
        self.usage += other.usage
        self.cost_usd = None if self.cost_usd is None or other.cost_usd is None else self.cost_usd + other.cost_usd
        self.cached_pieces += other.cached_pieces
        self.unanswered += other.unanswered
        self.note(other)

    def carry_over(self, response: AudioResponse) -> None:
        """Take over what an earlier response to the same request tells of its calls."""
        self.attempts += response.attempts
        self.usage += response.usage
        self.cost_usd = response.cost_usd
        self.cached_pieces += response.cached_pieces
        self.warn(*response.warnings)

    def charge(self, model: str, usage: TokenUsage) -> None:
        """Add what one call was billed."""
        if usage == TokenUsage():
            return
        self.usage += usage
        price = self._price(model)
        if price is None or self.cost_usd is None:
            self.cost_usd = None
        else:
            self.cost_usd += price.cost_usd(usage.input_tokens, usage.output_tokens)

    def warn(self, *sentences: str) -> None:
        """Keep sentences for the response."""
        self.warnings.update(dict.fromkeys(sentences))

    def note(self, sound: SpeechAudio | Bill) -> None:
        """Keep what is said about a sound for the response: its warnings, and why it is doubtful."""
        self.warn(*sound.warnings)
        self.doubtful.update(dict.fromkeys(sound.doubtful))

    def all_warnings(self) -> tuple[str, ...]:
        """Every sentence, and one about the calls whose bill nobody knows."""
        if not self.unanswered:
            return tuple(self.warnings)
        return *self.warnings, f"{self.unanswered} failed call(s) may have been billed beyond this cost"

    def _price(self, model: str) -> Price | None:
        today = self._clock.now().date()
        if own := self._config.model_prices.get(model):
            return Price(today, *own)
        return model_spec(model).price(today)


class Synthesis:
    """One utterance on its way; keeps the doubtful takes until one is believed."""

    def __init__(self, engine: SpeechEngine, config: AudioConfig, clock: Clock, bill: Bill, paces: VoicePaces) -> None:
        self._engine = engine
        self._config = config
        self._clock = clock
        self._bill = bill
        self._paces = paces
        self._doubtful: list[tuple[SpeechAudio, Verdict]] = []

    async def run(self, utterance: Utterance) -> SpeechAudio:
        """Try until there is speech of the whole utterance.

        Raises:
            AudioAPIError: Of the last attempt: the reason why there is none.
        """
        try:
            audio = await call_with_retry(partial(self._attempt, utterance), _policy(self._config), self._clock)
        except AudioAPIError:
            if not self._doubtful or self._config.audio_checks == "strict":
                raise
            audio = self._best_doubtful()
        self._bill.note(audio)
        return audio

    async def _attempt(self, utterance: Utterance) -> SpeechAudio:
        self._bill.attempts += 1
        try:
            with self._charged(utterance):
                audio = await self._engine.synthesize(utterance)
            self._bill.charge(utterance.model, audio.usage)
            self._settle(audio.usage)
            return await self._verify(utterance, await standard_audio(audio))
        except AudioAPIError:
            # Others go on while this one waits for its next attempt.
            give_permit_back()
            raise

    async def open_stream(self, utterance: Utterance) -> AsyncGenerator[SpeechAudio, None]:
        """Try until a stream yields its first sound, and return the stream from that sound on.

        Raises:
            AudioAPIError: Of the last attempt. The stream itself raises, too, and tries nothing again.
        """
        stream, first = await call_with_retry(partial(self._first_sound, utterance), _policy(self._config), self._clock)
        return self._billed(utterance, stream, first)

    async def _first_sound(self, utterance: Utterance) -> tuple[AsyncGenerator[SpeechAudio, None], SpeechAudio]:
        self._bill.attempts += 1
        stream = standard_blocks(self._engine.stream(utterance))
        with self._charged(utterance):
            async for block in stream:
                if block.pcm:
                    return stream, block
                self._bill.charge(utterance.model, block.usage)
        raise TTSAudioError("the stream ended without any sound")

    async def _billed(
        self, utterance: Utterance, stream: AsyncGenerator[SpeechAudio, None], first: SpeechAudio
    ) -> AsyncGenerator[SpeechAudio, None]:
        async with aclosing(stream):
            with self._charged(utterance):
                self._bill.charge(utterance.model, first.usage)
                usage = first.usage
                yield first
                async for block in stream:
                    self._bill.charge(utterance.model, block.usage)
                    usage += block.usage
                    yield block
                self._settle(usage)

    def _settle(self, usage: TokenUsage) -> None:
        """Sound that was billed without a word on how much costs an unknown sum, not nothing."""
        if self._engine.is_billed and not usage.output_tokens:
            self._bill.cost_usd = None

    @contextmanager
    def _charged(self, utterance: Utterance) -> Iterator[None]:
        """Charge what a failed call was billed, or note that nobody knows."""
        try:
            yield
        except TTSError as error:
            is_unsaid = isinstance(error, TTSAudioError) and error.usage is None
            self._bill.unanswered += is_unsaid or error.code in _PERHAPS_BILLED
            self._bill.charge(utterance.model, error.usage or TokenUsage())
            raise

    async def _verify(self, utterance: Utterance, audio: SpeechAudio) -> SpeechAudio:
        key = voice_key(utterance, self._engine.name)
        own_pace, repeatable = await self._paces.of(key), self._engine.is_billed
        verdict = await judge_audio(utterance, audio, self._config, own_pace, repeatable=repeatable)
        is_certain = verdict.outcome == "accept"
        is_same = any(audio.pcm == earlier.pcm for earlier, _ in self._doubtful)
        if verdict.outcome == "suspect":
            is_certain = not is_same and self._is_confirmed(verdict)
            self._doubtful.append((audio, verdict))
        if is_certain:
            await self._paces.learn(key, verdict.pace)
            return audio
        # An engine that says the same again has nothing better.
        is_last = is_same or not self._engine.is_billed or len(self._doubtful) >= _MOST_TAKES
        if self._doubtful and is_last and self._config.audio_checks != "strict":
            return self._best_doubtful()
        # The output limit is met again by every further take, and so is any fault of a voice that costs nothing.
        retryable = audio.finish_reason != "MAX_TOKENS" and self._engine.is_billed and not is_same
        raise TTSAudioError(verdict.detail, code=verdict.code, retryable=retryable)

    def _is_confirmed(self, verdict: Verdict) -> bool:
        """Whether an earlier doubtful take is about as long, and a voice may speak that fast or slowly."""
        return verdict.plausible and any(
            other.plausible and abs(other.speech_s / verdict.speech_s - 1) <= AGREEMENT for _, other in self._doubtful
        )

    def _best_doubtful(self) -> SpeechAudio:
        """The take whose length is nearest to what its text usually takes."""
        audio, verdict = min(self._doubtful, key=lambda take: (abs(math.log(take[1].pace or 1)), -take[1].speech_s))
        takes = len(self._doubtful)
        warning = f"{'a doubtful take' if takes == 1 else f'the best of {takes} doubtful takes'}: {verdict.detail}"
        codes = (verdict.code,) if verdict.code else ()
        return replace(audio, doubtful=codes, warnings=(*audio.warnings, warning))


async def judge_audio(
    utterance: Utterance, audio: SpeechAudio, config: AudioConfig, own_pace: OwnPace, *, repeatable: bool
) -> Verdict:
    """Whether this is speech, and all of it, by a voice of this pace; a doubt costs a call where it is repeatable."""
    from audio_api.audio.checks import Take, check_speech  # numpy takes 0.1 s to import

    speeds = [turn.voice.speed or 1.0 for turn in utterance.turns]
    take = Take(
        audio.pcm,
        audio.sample_rate,
        utterance.text,
        utterance.language,
        style=", ".join(dict.fromkeys(turn.style for turn in utterance.turns if turn.style)),
        speed=sum(speeds) / len(speeds),
        finish_reason=audio.finish_reason,
        audio_tokens=audio.usage.audio_tokens,
        own_pace=own_pace,
        repeatable=repeatable,
    )
    return await check_speech(take, min_bytes=config.min_audio_size, signal=config.audio_checks != "off")


def _policy(config: AudioConfig) -> RetryPolicy:
    return RetryPolicy(
        attempts=config.retry_attempts,
        min_wait_s=config.retry_min_wait,
        max_wait_s=config.retry_max_wait,
        rate_limit_attempts=config.rate_limit_retry_attempts,
        rate_limit_min_wait_s=config.rate_limit_retry_min_wait,
        rate_limit_max_wait_s=config.rate_limit_retry_max_wait,
        deadline_s=config.retry_deadline,
    )
