"""What a batch is made with: the settings, and the engine that makes its calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from audio_api.config import AudioConfig
from audio_api.engines.base import SpeechEngine
from audio_api.engines.from_settings import make_engine
from audio_api.errors import ConfigurationError
from audio_api.retry import Clock
from audio_api.speech.listening import Recogniser

if TYPE_CHECKING:
    from audio_api.engines.gemini_batches import BatchCalls


@dataclass(frozen=True, slots=True)
class Means:
    """What a batch is made with.

    Attributes:
        config: The settings.
        clock: Time and chance.
        make: Makes the source of ordinary calls, whose connections the batch uses, too.
        recogniser: Listens to takes; ``None``: the model of the settings does.
    """

    config: AudioConfig
    clock: Clock = field(default_factory=Clock)
    make: Callable[[AudioConfig], SpeechEngine] = make_engine
    recogniser: Recogniser | None = None

    @asynccontextmanager
    async def calls(self) -> AsyncIterator[tuple[SpeechEngine, BatchCalls]]:
        """The engine of the settings, and its calls of the Batch API; closed at the end.

        Raises:
            ConfigurationError: It makes no batches.
        """
        from audio_api.engines.gemini import GeminiEngine  # takes a while to import

        engine = self.make(self.config)
        try:
            # Of a paced engine the one that calls.
            gemini = getattr(engine, "engine", engine)
            if not isinstance(gemini, GeminiEngine):
                raise ConfigurationError(f"the engine {gemini.name} makes no batches: set TTS_ENGINE=gemini")
            yield engine, gemini.batches()
        finally:
            await engine.close()
