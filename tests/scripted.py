"""An engine that does what a test says: for decisions of the service that no real engine makes on request."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from audio_api.emulator.speech import synthesize
from audio_api.engines.base import SpeechAudio, SpeechEngine, Utterance
from audio_api.errors import AudioAPIError
from audio_api.models.usage import TokenUsage

USAGE = TokenUsage(input_tokens=10, output_tokens=100, audio_tokens=100)

Outcome = AudioAPIError | Callable[[Utterance], SpeechAudio]


def speech(utterance: Utterance, **changes: object) -> SpeechAudio:
    """A good take of the utterance."""
    pcm = synthesize(utterance.text, "kore", utterance.language)
    return SpeechAudio(**{"pcm": pcm, "sample_rate": 24_000, "model": utterance.model, **changes})  # type: ignore[arg-type]


class ScriptedEngine(SpeechEngine):
    """Yields the given outcomes in turn, then good takes; remembers what it was asked."""

    name = "scripted"

    def __init__(self, outcomes: Iterable[Outcome] = ()) -> None:
        self._outcomes = list(outcomes)
        self.asked: list[Utterance] = []
        self.warm = self.closed = False
        self.refusal: AudioAPIError | None = None
        self.health: AudioAPIError | None = None

    def preflight(self, utterance: Utterance) -> None:
        """Refuse when told to."""
        if self.refusal:
            raise self.refusal

    async def synthesize(self, utterance: Utterance) -> SpeechAudio:
        """The next outcome."""
        self.asked.append(utterance)
        outcome = self._outcomes.pop(0) if self._outcomes else speech
        if isinstance(outcome, AudioAPIError):
            raise outcome
        return outcome(utterance)

    async def health_check(self, model: str) -> None:
        """Refuse when told to."""
        if refusal := self.refusal or self.health:
            raise refusal

    async def warm_up(self, model: str) -> None:
        """Refuse when told to."""
        self.warm = True
        if self.refusal:
            raise self.refusal

    async def close(self) -> None:
        """Remember it."""
        self.closed = True
