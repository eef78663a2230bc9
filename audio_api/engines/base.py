"""What an engine is given, what it gives back, and what it must be able to do."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

from audio_api.audio.large_sounds import Permit
from audio_api.errors import ConfigurationError, ErrorCode, TTSValidationError, WorkerServiceError
from audio_api.models.audio_request import AudioRequest, VoiceConfig
from audio_api.models.service_tiers import ServedTier, ServiceTier
from audio_api.models.usage import TokenUsage
from audio_api.models.voice_library import PREBUILT_VOICES, VoiceInfo, VoiceQuery
from audio_api.text.dialogue import split_turns


@dataclass(frozen=True, slots=True)
class Turn:
    """Words that one voice speaks in one go.

    Attributes:
        text: Spoken word for word; holds no speaker's name and no style.
        voice: The voice, its speed and pitch.
        speaker: The speaker's name in a dialogue; ``None`` for a single voice.
        style: How to speak, in adjectives; ``None``: plain. Never spoken.
    """

    text: str
    voice: VoiceConfig
    speaker: str | None = None
    style: str | None = None


@dataclass(frozen=True, slots=True)
class Utterance:
    """What is spoken together, by one call to an engine: a turn of a single voice, or those of a dialogue, in order.

    Attributes:
        turns: At least one; either none of them has a speaker, or all have.
        model: The id of the model that is asked to speak.
        language: A BCP-47 code.
        tier: How urgent the call is; it changes no sound.
    """

    turns: tuple[Turn, ...]
    model: str
    language: str
    tier: ServiceTier = "standard"

    @property
    def text(self) -> str:
        """All that is spoken, and nothing else."""
        return "\n".join(turn.text for turn in self.turns)

    @classmethod
    def from_request(cls, request: AudioRequest, model: str, tier: ServiceTier = "standard") -> Self:
        """Read a request's text, split into turns in multiple mode; a turn's own style wins over its speaker's.

        A dialogue of any length and cast comes back whole; ``audio_api.speech.planning`` cuts it into calls.

        Raises:
            TTSValidationError: The dialogue's text and its speakers do not fit.
        """
        language = str(request.language)
        if not request.speakers:
            turn = Turn(request.text, request.voice_config, style=request.style)
            return cls((turn,), model, language, tier)
        speakers = {speaker.speaker_name: speaker for speaker in request.speakers}
        try:
            spoken = split_turns(request.text, list(speakers))
        except ValueError as error:
            raise TTSValidationError(str(error)) from None
        turns = tuple(
            Turn(text, speakers[name], name, style or speakers[name].style or request.style)
            for name, text, style in spoken
        )
        return cls(turns, model, language, tier)


@dataclass(frozen=True, slots=True)
class WordTime:
    """A word as it stands in the text, and when it is heard.

    Attributes:
        text: The word with its punctuation; what an engine speaks in one go, such as "of the", is one.
        start_s: Where its sound begins, in seconds from the start of the audio.
        end_s: Where its sound ends; a pause behind it does not count.
        turn: The index of its turn in ``Utterance.turns``.
    """

    text: str
    start_s: float
    end_s: float
    turn: int = 0


@dataclass(frozen=True, slots=True)
class SpeechAudio:
    """Sound as an engine delivered it, not yet checked.

    Attributes:
        pcm: Signed 16-bit little-endian samples of one channel, whole samples only.
        sample_rate: Samples per second, 1,000 to 192,000; services convert what is not 24,000 and say so in a warning.
        model: The id of the model that spoke, as the reply named it.
        finish_reason: The API's reason for stopping, such as ``"STOP"``; ``None`` when the reply named none.
        usage: Tokens billed.
        warnings: What the engine noticed, such as a byte trimmed.
        words: Every word of the utterance, in order; empty when the engine does not know their times.
        doubtful: Why this may not be the whole text, as the checks found; engines leave it empty.
        heard: The share of the text's words that a recogniser heard, from 0 to 1; ``None``: none listened.
        tier: The tier that served; ``None``: the reply named none, and it is taken for the one asked for.
    """

    pcm: bytes
    sample_rate: int
    model: str
    finish_reason: str | None = "STOP"
    usage: TokenUsage = TokenUsage()
    warnings: tuple[str, ...] = ()
    words: tuple[WordTime, ...] = ()
    doubtful: tuple[ErrorCode, ...] = ()
    heard: float | None = None
    tier: ServedTier | None = None

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.pcm) / 2 / self.sample_rate


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one attempt may take.

    Attributes:
        permit: Taken before a large sound is loaded; ``None``: none is needed.
        limit_s: The most seconds; ``None``: as many as the engine allows.
    """

    permit: Permit | None = None
    limit_s: float | None = None

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """End what is within when it takes too long.

        Raises:
            WorkerServiceError: It did (code ``TASK_TIMEOUT``).
        """
        limit = asyncio.timeout(self.limit_s)
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            problem = f"the call took longer than {self.limit_s:g} s"
        else:
            return
        raise WorkerServiceError(problem, code=ErrorCode.TASK_TIMEOUT)


class EngineVoices:
    """The voices of an engine. One call is one attempt; those of an engine without an account are always the same."""

    async def find(self, query: VoiceQuery) -> list[VoiceInfo]:
        """The voices that are looked for.

        Raises:
            AudioAPIError: They could not be asked for.
        """
        return query.matching(PREBUILT_VOICES)

    async def create(self, description: str, name: str | None, base_voice: str | None) -> VoiceInfo:
        """Make a voice, which may be billed.

        Args:
            description: How it sounds, in words; with a base voice, what is to be changed.
            name: What people call it; ``None``: no name.
            base_voice: The id of the voice that it is made of; ``None``: of none.

        Raises:
            AudioAPIError: It was not made; or the text says that it may have been.
        """
        raise ConfigurationError("only Gemini makes voices: leave TTS_ENGINE out")

    async def delete(self, voice: str) -> None:
        """Delete a voice that was made.

        Raises:
            AudioAPIError: It was not deleted, or not found.
        """
        raise ConfigurationError("only Gemini deletes voices: leave TTS_ENGINE out")


class SpeechEngine(ABC):
    """A source of speech. One call is one attempt: an engine neither waits nor tries again.

    An engine speaks at any sample rate; ``audio_api.speech.conversion`` brings its sound to 24 kHz.

    Attributes:
        name: Stands for the engine in logs and content keys.
        is_billed: Whether its calls cost money. What they made is kept, so that the same content is not paid for again.
            An engine that costs nothing says the same each time, so what the checks refuse is not asked for again.
    """

    name: str
    is_billed: bool = True

    @abstractmethod
    def preflight(self, utterance: Utterance) -> None:
        """Find without network or money what makes the utterance impossible.

        Raises:
            TTSValidationError: This engine cannot speak it; the text says why.
            ConfigurationError: The engine lacks something, such as its key or its extra.
        """

    @abstractmethod
    async def synthesize(self, utterance: Utterance) -> SpeechAudio:
        """Make one attempt. Cancelling it ends the call.

        Raises:
            TTSError: Of the class that says whether another attempt makes sense; a billed failure carries its usage.
        """

    async def synthesize_within(self, utterance: Utterance, bounds: Bounds) -> SpeechAudio:
        """Make one attempt within bounds; an engine of its own needs ``synthesize`` only.

        Args:
            utterance: What is spoken.
            bounds: What the attempt may take. An engine whose sounds are small, or in memory anyway, need not take the
                permit.

        Raises:
            TTSError: As from ``synthesize``.
            WorkerServiceError: It took too long (code ``TASK_TIMEOUT``).
        """
        async with bounds.in_time():
            return await self.synthesize(utterance)

    async def stream(self, utterance: Utterance) -> AsyncGenerator[SpeechAudio, None]:
        """Make one attempt, and yield the sound as it arrives; close the generator to end the call early.

        An engine that cannot stream yields all of its sound in one block.

        Yields:
            Blocks of whole samples, with ``finish_reason=None``, no usage, warnings or words; then one last
            block, whose sound may be empty, with the finish reason, the usage, the warnings and the words of the whole.
            Its ``finish_reason`` is ``None`` when the sound ended early.

        Raises:
            TTSError: As from ``synthesize``, also after some of the sound was yielded.
        """
        yield await self.synthesize(utterance)

    async def count_tokens(self, utterance: Utterance) -> int | None:
        """Tell, without billing, how many input tokens a call would have; ``None``: the engine does not count.

        Raises:
            AudioAPIError: The engine could not be asked.
        """
        return None

    def voices(self) -> EngineVoices:
        """The voices that it knows.

        Raises:
            ConfigurationError: It cannot ask for them.
        """
        return EngineVoices()

    @abstractmethod
    async def health_check(self, model: str) -> None:
        """Make sure, without billing, that the engine can be reached and knows the model.

        Args:
            model: The model's id; an engine with a single voice of its own ignores it.

        Raises:
            AudioAPIError: It cannot; the text says why.
        """

    async def warm_up(self, model: str) -> None:  # noqa: B027 - nothing is what most engines have to do
        """Do now, without billing, what would make the first call late; most engines have nothing to do.

        Args:
            model: The id of the model that will probably speak.

        Raises:
            AudioAPIError: As ``synthesize``; the engine may be used all the same.
        """

    @abstractmethod
    async def close(self) -> None:
        """End connections and processes that this engine opened. May be called twice."""
