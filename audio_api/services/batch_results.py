"""The results of a batch as a source of speech: each is one take, and what it lacks is asked for by ordinary calls."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import date

from audio_api.audio.large_sounds import in_sound_thread
from audio_api.config import AudioConfig
from audio_api.engines.base import Bounds, SpeechAudio, SpeechEngine, Utterance
from audio_api.engines.gemini_batches import BatchCalls
from audio_api.errors import AudioAPIError, TTSAudioError, TTSContentBlockedError
from audio_api.models.audio_request import AudioResponse
from audio_api.models.usage import TokenUsage
from audio_api.services.batch_journal import Brought, Journal
from audio_api.speech.cost import Call, Outcome, add_up
from audio_api.speech.speaker import content_key


class BatchResults(SpeechEngine):
    """Speaks what a batch has brought; the checks, the cache and the bill are those of any other engine.

    Args:
        engine: Makes ordinary calls.
        calls: Reads the results.
        takes: Where they are, by content key.
        has_fallback: Whether ordinary calls may be made.
        problem: Why results may be missing.
        only: The number of the one request that is spoken; the others are charged for their own. ``None``: all are.
    """

    def __init__(
        self,
        engine: SpeechEngine,
        calls: BatchCalls,
        takes: Mapping[str, Brought],
        *,
        has_fallback: bool,
        problem: str,
        only: int | None = None,
    ) -> None:
        self.name = engine.name
        self._engine = engine
        self._calls = calls
        self._takes = takes
        self._has_fallback = has_fallback
        self._problem = problem
        self._only = only
        self._billed: dict[str, TokenUsage] = {}

    @classmethod
    def of(
        cls,
        journal: Journal,
        engine: SpeechEngine,
        calls: BatchCalls,
        config: AudioConfig,
        only: int | None = None,
    ) -> BatchResults:
        """The results of a batch whose jobs have ended; blocking.

        Args:
            journal: The batch.
            engine: As above.
            calls: As above.
            config: The settings.
            only: As above.
        """
        problems = [f"the job {part.state}: {part.problem}" for part in journal.record.parts if not part.results]
        return cls(
            engine,
            calls,
            journal.takes(),
            has_fallback=config.batch_fallback and not journal.record.cancelled,
            problem=next(iter(problems), "the batch brought no sound for this piece, or none that is whole"),
            only=only,
        )

    def preflight(self, utterance: Utterance) -> None:
        """As the engine of ordinary calls."""
        self._engine.preflight(utterance)

    async def synthesize(self, utterance: Utterance) -> SpeechAudio:
        """The next take of the utterance.

        Raises:
            AudioAPIError: There is none.
        """
        return await self.synthesize_within(utterance, Bounds())

    async def synthesize_within(self, utterance: Utterance, bounds: Bounds) -> SpeechAudio:
        """The batch's take, if it was not used; else an ordinary call.

        Raises:
            AudioAPIError: The take is a failure, which is worth an ordinary call; or none may be made.
        """
        key = content_key(utterance, self.name)
        if key not in self._billed and key in self._takes:
            if bounds.permit:
                await bounds.permit.take()
            return await self._take(key, utterance.model)
        if self._has_fallback:
            return await self._engine.synthesize_within(utterance, bounds)
        raise TTSAudioError(f"{self._problem}; ordinary calls are off (BATCH_FALLBACK)", retryable=False)

    async def charged(self, response: AudioResponse, owner: int, config: AudioConfig, day: date) -> AudioResponse:
        """Add what was billed for sounds that were kept already: an earlier process kept them, and was killed.

        Args:
            response: Of a request.
            owner: The request's number.
            config: The settings, which know the prices.
            day: The day of the prices.
        """
        model = response.model or str(config.default_tts_model)
        calls = []
        for key, take in self._takes.items():
            if take.owner == owner and key not in self._billed:
                with suppress(AudioAPIError):
                    await self._take(key, model)
                calls.append(Call(model, Outcome.SPOKEN, self._billed[key], tier="batch"))
        if not calls:
            return response
        cost = add_up(calls, config.model_prices, day)
        known = cost.cost_usd is not None and response.cost_usd is not None
        return response.model_copy(
            update={
                "attempts": response.attempts + cost.attempts,
                "usage": response.usage + cost.usage,
                "cost_usd": (response.cost_usd or 0.0) + (cost.cost_usd or 0.0) if known else None,
                "service_tier": response.service_tier or cost.service_tier,
            }
        )

    async def _take(self, key: str, model: str) -> SpeechAudio:
        """The result of a key, whether it was used or not.

        Raises:
            AudioAPIError: It is a failure.
        """
        is_charged = self._only in {None, self._takes[key].owner}
        try:
            sound = await in_sound_thread(self._read, key, model)
        except AudioAPIError as error:
            error.usage = error.usage if is_charged else None
            self._billed[key] = error.usage or TokenUsage()
            # What is not to be said is refused by an ordinary call, too.
            error.retryable = self._has_fallback and not isinstance(error, TTSContentBlockedError)
            error.retry_after_s = 0.0 if error.retryable else None
            raise
        if not is_charged:
            sound = replace(sound, usage=TokenUsage())
        self._billed[key] = sound.usage
        return sound

    def _read(self, key: str, model: str) -> SpeechAudio:
        take = self._takes[key]
        with take.path.open("rb") as file:
            file.seek(take.offset)
            line = file.read(take.size)
        return self._calls.read(line, model)

    async def health_check(self, model: str) -> None:
        """As the engine of ordinary calls."""
        await self._engine.health_check(model)

    async def close(self) -> None:
        """As the engine of ordinary calls."""
        await self._engine.close()
