"""The results of a batch as a source of speech: each is one take, and what it lacks is asked for by ordinary calls."""

from __future__ import annotations

from pathlib import Path

from audio_api.audio.large_sounds import in_sound_thread
from audio_api.engines.base import Bounds, SpeechAudio, SpeechEngine, Utterance
from audio_api.engines.gemini_batches import BatchCalls
from audio_api.errors import AudioAPIError, TTSAudioError, TTSContentBlockedError
from audio_api.models.usage import TokenUsage
from audio_api.speech.speaker import content_key


class BatchResults(SpeechEngine):
    """Speaks what a batch has brought; the checks, the cache and the bill are those of any other engine.

    Args:
        engine: Makes ordinary calls.
        calls: Reads the results.
        takes: Where they are, by content key: file, offset and size.
        has_fallback: Whether ordinary calls may be made.
        problem: Why results may be missing.

    Attributes:
        takes: As given.
        billed: What was billed for each result that was read, by content key.
    """

    def __init__(
        self,
        engine: SpeechEngine,
        calls: BatchCalls,
        takes: dict[str, tuple[Path, int, int]],
        *,
        has_fallback: bool,
        problem: str,
    ) -> None:
        self.name = engine.name
        self.billed: dict[str, TokenUsage] = {}
        self._engine = engine
        self._calls = calls
        self.takes = takes
        self._has_fallback = has_fallback
        self._problem = problem

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
        if key not in self.billed and key in self.takes:
            if bounds.permit:
                await bounds.permit.take()
            return await self.take(key, utterance.model)
        if self._has_fallback:
            return await self._engine.synthesize_within(utterance, bounds)
        raise TTSAudioError(f"{self._problem}; ordinary calls are off (BATCH_FALLBACK)", retryable=False)

    async def take(self, key: str, model: str) -> SpeechAudio:
        """The result of a key, whether it was used or not.

        Raises:
            AudioAPIError: It is a failure.
        """
        try:
            sound = await in_sound_thread(self._read, key, model)
        except AudioAPIError as error:
            self.billed[key] = error.usage or TokenUsage()
            # What is not to be said is refused by an ordinary call, too.
            error.retryable = self._has_fallback and not isinstance(error, TTSContentBlockedError)
            error.retry_after_s = 0.0 if error.retryable else None
            raise
        self.billed[key] = sound.usage
        return sound

    def _read(self, key: str, model: str) -> SpeechAudio:
        path, offset, size = self.takes[key]
        with path.open("rb") as file:
            file.seek(offset)
            line = file.read(size)
        return self._calls.read(line, model)

    async def health_check(self, model: str) -> None:
        """As the engine of ordinary calls."""
        await self._engine.health_check(model)

    async def close(self) -> None:
        """As the engine of ordinary calls."""
        await self._engine.close()
