"""What one configuration needs to speak: its engine, its slots, its cache, and what became of its models."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from audio_api.audio.cache import CachedPiece, PieceCache
from audio_api.config import AudioConfig
from audio_api.engines.base import SpeechAudio, SpeechEngine, Utterance
from audio_api.errors import TTSModelNotFoundError
from audio_api.models.audio_request import TokenUsage, VoiceConfig
from audio_api.models.speech_models import model_spec
from audio_api.retry import Clock
from audio_api.services.synthesis import Bill, Synthesis, judge_audio

logger = logging.getLogger(__name__)

# Part of every content key: raise it when the same request starts to sound different.
_PROTOCOL_VERSION = 1


class Runtime:
    """Speaks utterances that fit into one call each, and pays for each of them once.

    Args:
        config: The settings.
        engine: The source of speech.
        clock: Time and chance.

    Attributes:
        config: As given.
        engine: As given.
    """

    def __init__(self, config: AudioConfig, engine: SpeechEngine, clock: Clock) -> None:
        self.config = config
        self.engine = engine
        self._clock = clock
        self._slots = asyncio.Semaphore(config.max_concurrency)
        self._lost_models: set[str] = set()
        folder = config.cache_dir or config.output_dir / ".cache"
        self._cache = PieceCache(folder, config.cache_max_bytes) if config.cache_max_bytes else None

    def living_model(self, model: str, bill: Bill) -> str:
        """The model itself, or the successor of one that is known to be gone.

        Raises:
            TTSModelNotFoundError: It is gone, and no successor may speak.
        """
        is_gone = model in self._lost_models or model_spec(model).is_shut_down(self._clock.now().date())
        return self._successor(model, bill) if is_gone else model

    async def speak(self, utterance: Utterance, bill: Bill, *, cached: bool = True) -> SpeechAudio:
        """Make the verified sound of an utterance, or take it from the cache.

        Args:
            utterance: One call's worth.
            bill: Is charged for every attempt.
            cached: Whether a finished piece of the same content will do; a new one is kept in any case.

        Raises:
            AudioAPIError: There is no such sound; the class says whether trying again makes sense.
        """
        if cached and (audio := await self.recall(utterance, bill)):
            return audio
        async with self._slots:
            audio = await self._make(utterance, bill)
        await self.keep(utterance, audio)
        return audio

    async def stream(self, utterance: Utterance, bill: Bill) -> AsyncGenerator[SpeechAudio, None]:
        """Make the sound of an utterance, block by block; tries again only while nothing has been heard.

        Yields:
            What ``SpeechEngine.stream`` yields; the last block is verified to end with ``STOP`` by the caller.

        Raises:
            AudioAPIError: As from ``speak``, also in the middle.
        """
        async with self._slots:
            try:
                opened = await Synthesis(self.engine, self.config, self._clock, bill).open_stream(utterance)
            except TTSModelNotFoundError:
                utterance = self._for_successor(utterance, bill)
                opened = await Synthesis(self.engine, self.config, self._clock, bill).open_stream(utterance)
            async with aclosing(opened):
                async for block in opened:
                    yield block

    async def recall(self, utterance: Utterance, bill: Bill) -> SpeechAudio | None:
        """The finished piece of this content, if one is kept that passes today's checks."""
        piece = await self._cache.get(content_key(utterance, self.engine.name)) if self._cache else None
        if piece is None:
            return None
        audio = SpeechAudio(piece.pcm, piece.sample_rate, piece.model, piece.finish_reason, warnings=piece.warnings)
        verdict = await judge_audio(utterance, audio, self.config)
        if verdict.outcome == "reject" or (verdict.outcome == "suspect" and self.config.audio_checks == "strict"):
            return None
        bill.cached_pieces += 1
        bill.warn(*piece.warnings)
        return audio

    async def keep(self, utterance: Utterance, audio: SpeechAudio) -> None:
        """Keep a finished piece that was paid for."""
        if self._cache is None or audio.usage == TokenUsage():
            return
        piece = CachedPiece(
            pcm=audio.pcm,
            sample_rate=audio.sample_rate,
            model=audio.model,
            finish_reason=audio.finish_reason,
            usage=audio.usage,
            warnings=audio.warnings,
            made_at=self._clock.now(),
        )
        await self._cache.put(content_key(utterance, self.engine.name), piece)

    async def _make(self, utterance: Utterance, bill: Bill) -> SpeechAudio:
        try:
            return await Synthesis(self.engine, self.config, self._clock, bill).run(utterance)
        except TTSModelNotFoundError:
            utterance = self._for_successor(utterance, bill)
        return await Synthesis(self.engine, self.config, self._clock, bill).run(utterance)

    def _for_successor(self, utterance: Utterance, bill: Bill) -> Utterance:
        utterance = replace(utterance, model=self._successor(utterance.model, bill))
        self.engine.preflight(utterance)
        return utterance

    def _successor(self, model: str, bill: Bill) -> str:
        """The model that takes over from one that is gone; every response says so, the log says it once."""
        successor = model_spec(model).successor
        if successor is None or not self.config.model_fallback:
            advice = f"use {successor}, or set MODEL_FALLBACK=true" if successor else "use one of VoiceModel"
            raise TTSModelNotFoundError(f"the model {model} is not served by the API: {advice}")
        bill.warn(f"{model} is not served any more; its successor {successor} spoke instead")
        if model not in self._lost_models:
            self._lost_models.add(model)
            logger.warning("model is gone, its successor speaks", extra={"model": model, "successor": successor.value})
        return successor.value


def content_key(utterance: Utterance, engine_name: str) -> str:
    """64 hexadecimal digits (sha256) over everything audible: engine, model, language, every turn's words and voice."""
    turns = [(turn.text, turn.speaker, turn.style, *_voice_key(turn.voice)) for turn in utterance.turns]
    audible = [_PROTOCOL_VERSION, engine_name, utterance.model, utterance.language, turns]
    return hashlib.sha256(json.dumps(audible).encode()).hexdigest()


def _voice_key(voice: VoiceConfig) -> tuple[str, float | None, float | None]:
    return str(voice.voice_name), voice.speed, voice.pitch
