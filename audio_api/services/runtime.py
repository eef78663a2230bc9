"""What one configuration needs to speak: its engine, its slots, its cache, and what became of its models."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from audio_api.audio.cache import CachedPiece, PieceCache
from audio_api.audio.large_sounds import give_permit_back
from audio_api.audio.wav import SAMPLE_RATE
from audio_api.config import AudioConfig
from audio_api.engines.base import SpeechAudio, SpeechEngine, Utterance
from audio_api.errors import ErrorCode, TTSAudioError, TTSModelNotFoundError, TTSUnavailableError
from audio_api.models.audio_request import VoiceConfig
from audio_api.models.speech_models import model_spec
from audio_api.retry import Clock
from audio_api.services.narration import Narrated
from audio_api.services.pacing import AccountPause, PacedEngine
from audio_api.services.planning import PlannedPiece, halve, plan_pieces
from audio_api.services.recording import Joint, Line
from audio_api.services.sharing import Sharing
from audio_api.services.synthesis import Bill, Synthesis, judge_audio
from audio_api.services.time_limit import uncounted
from audio_api.services.voice_paces import VoicePaces, outliers, voice_key

if TYPE_CHECKING:
    from audio_api.audio.checks import Verdict

logger = logging.getLogger(__name__)

# Part of every content key: raise it when the same request starts to sound different.
_PROTOCOL_VERSION = 1
# What a smaller piece may mend: the model stopped early, or left words out.
_TOO_MUCH_AT_ONCE = {ErrorCode.AUDIO_INCOMPLETE, ErrorCode.AUDIO_TOO_SHORT}
# A quarter of a piece is a few sentences; what cannot speak those will not speak a single one.
_MOST_HALVINGS = 2
# Outside of English, where it is four.
_CHARS_PER_TOKEN = 2
# However small a context is allowed, a text does not become hundreds of calls for a few words each.
_LEAST_PIECE_CHARS = 200
# Planning a text of this length takes about 10 ms.
_THREAD_ABOVE_CHARS = 20_000
# Paid pieces that the cache's disk refuses stay in memory, twenty minutes of speech at most.
_UNKEPT_BYTES = 64_000_000


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
        self._clock = replace(clock, sleep=partial(self._wait, clock.sleep))
        # Of the call that is refused as of those that follow: a longer delay ends the request.
        self._paused_engine = PacedEngine(engine, AccountPause(self._clock, config.rate_limit_retry_max_wait))
        self._ended = False
        self._lost_models: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self.enter_loop()
        folder = config.cache_dir or config.output_dir / ".cache"
        self._unkept: dict[str, CachedPiece] = {}
        self._cache = PieceCache(folder, config.cache_max_bytes) if config.cache_max_bytes else None
        self._paces = VoicePaces(folder / "paces.json" if config.cache_max_bytes else None)

    def enter_loop(self) -> None:
        """Make anew, in another event loop than before, what calls wait for.

        Raises:
            RuntimeError: The other one still runs: a call of either might wait for ever.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # A process that was forked within a running loop holds a copy, which never runs.
            if self._loop and self._loop.is_running() and self._pid == os.getpid():
                raise RuntimeError("this TTSService is used by another event loop: make one for each")
            self._loop, self._pid = loop, os.getpid()
            self._slots = asyncio.Semaphore(self.config.max_concurrency)
            self._sharing = Sharing()

    def end(self) -> None:
        """Begin no further call: those in progress fail when the engine is closed, and must not be paid for twice."""
        self._ended = True

    async def plan(self, utterance: Utterance, bill: Bill, first_chars: int | None = None) -> list[PlannedPiece]:
        """Cut an utterance into pieces, each of which the engine could speak: none is paid for if another is refused.

        Of a model that is gone, finished pieces may be left. Then the text is cut as it was for that model, and its
        successor speaks the others; else it is cut for the successor, which may take longer pieces.

        Args:
            utterance: Any length and cast.
            bill: Is told when the successor speaks.
            first_chars: As ``plan_pieces`` takes it.

        Raises:
            AudioAPIError: The engine cannot speak it, or its model is gone and no successor may speak.
        """
        pieces = await self._cut(utterance, first_chars)
        if self._is_gone(utterance.model) and not await self._has_any(pieces):
            pieces = await self._cut(self.for_successor(utterance, bill), first_chars)
        for piece in pieces:
            self.engine.preflight(piece.utterance)
        return pieces

    async def speak(
        self,
        piece: PlannedPiece,
        when_spoken: Callable[[], None] = lambda: None,
        *,
        bill: Bill,
        cached: bool = True,
        halvings: int = _MOST_HALVINGS,
    ) -> SpeechAudio:
        """Make the verified sound of a piece, or take it from the cache, or share it with who is making it right now.

        Args:
            piece: One call's worth.
            when_spoken: Called when its calls are over, before it is kept; not if there are none, or if they fail.
            bill: Is charged for every attempt.
            cached: Whether a finished piece of the same content will do; a new one is kept in any case.
            halvings: How often it may be halved when the model does not get to its end.

        Raises:
            AudioAPIError: There is no such sound; the class says whether trying again makes sense.
        """
        make = partial(self._speak, piece, when_spoken, cached, halvings)
        if not (cached and self._cache):
            return await make(bill)
        return await self._sharing.speak(content_key(piece.utterance, self.engine.name), make, bill)

    async def _speak(
        self, piece: PlannedPiece, when_spoken: Callable[[], None], cached: bool, halvings: int, bill: Bill
    ) -> SpeechAudio:
        if cached and (audio := await self.recall(piece.utterance, bill)):
            return audio
        give_permit_back()
        speak = partial(self.speak, bill=bill, cached=cached)
        try:
            audio = await self._make(piece.utterance, bill)
        except TTSModelNotFoundError:
            successors = replace(piece, utterance=self.for_successor(piece.utterance, bill))
            return await speak(successors, when_spoken, halvings=halvings)
        except TTSAudioError as error:
            halves = halve(piece) if halvings and error.code in _TOO_MUCH_AT_ONCE else None
            if halves is None:
                raise
            audio = await self._joined(halves, partial(speak, halvings=halvings - 1))
        when_spoken()
        await self.keep(piece.utterance, audio)
        return audio

    async def stream(self, utterance: Utterance, bill: Bill) -> AsyncGenerator[SpeechAudio, None]:
        """Make the sound of an utterance, block by block; tries again only while nothing has been heard.

        No successor takes over: what it says is kept under its own name, and that is for the caller to decide. The call
        goes on while the listener is slow, so that no slot is taken longer than the call lasts.

        Yields:
            What ``SpeechEngine.stream`` yields; the caller judges the whole.

        Raises:
            AudioAPIError: As from ``speak``, also in the middle.
        """
        blocks: asyncio.Queue[SpeechAudio | None] = asyncio.Queue()
        call = asyncio.create_task(self._listen(utterance, bill, blocks.put_nowait))
        call.add_done_callback(lambda _: blocks.put_nowait(None))
        try:
            while block := await blocks.get():
                yield block
        finally:
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        call.result()

    async def recall(self, utterance: Utterance, bill: Bill) -> SpeechAudio | None:
        """The finished piece of this content, if one is kept that passes today's checks."""
        piece = await self._find(utterance)
        if piece is None:
            return None
        audio = SpeechAudio(
            piece.pcm,
            SAMPLE_RATE,
            piece.model,
            piece.finish_reason,
            warnings=piece.warnings,
            doubtful=piece.doubtful or (),
        )
        verdict = await self.judge(utterance, audio)
        if piece.doubtful is None and verdict.code:
            audio = replace(audio, doubtful=(verdict.code,), warnings=(*audio.warnings, f"doubtful: {verdict.detail}"))
        if verdict.outcome == "reject" or (audio.doubtful and self.config.audio_checks == "strict"):
            return None
        bill.cached_pieces += 1
        bill.note(audio)
        return audio

    async def judge(self, utterance: Utterance, audio: SpeechAudio) -> Verdict:
        """Whether a sound that is not asked for again is speech, and all of the utterance, by its voice's own pace."""
        own_pace = await self._paces.of(voice_key(utterance, self.engine.name))
        return await judge_audio(utterance, audio, self.config, own_pace, repeatable=False)

    async def keep(self, utterance: Utterance, audio: SpeechAudio) -> None:
        """Keep a finished piece that was paid for."""
        if self._cache is None or not self.engine.is_billed:
            return
        piece = CachedPiece(
            pcm=audio.pcm,
            model=audio.model,
            finish_reason=audio.finish_reason,
            usage=audio.usage,
            warnings=audio.warnings,
            doubtful=audio.doubtful,
            made_at=self._clock.now(),
        )
        key = content_key(utterance, self.engine.name)
        if not await self._cache.put(key, piece):
            self._unkept[key] = piece
            most_bytes = min(_UNKEPT_BYTES, self.config.cache_max_bytes)
            while sum(len(each.pcm) for each in self._unkept.values()) > most_bytes:
                del self._unkept[next(iter(self._unkept))]

    async def compare(self, lines: Sequence[Line], bill: Bill) -> None:
        """Find pieces of one text that are far shorter than the others, and make sure that they are made again.

        Raises:
            TTSAudioError: There are some, and the settings are strict.
        """
        for index, part in outliers([(line.utterance, line.end_s - line.start_s) for line in lines]):
            if self._cache:
                await self._cache.forget(content_key(lines[index].utterance, self.engine.name))
            text = f"piece {index + 1} of {len(lines)} has {part:.0%} of the length that the others lead to expect"
            if self.config.audio_checks == "strict":
                raise TTSAudioError(text, code=ErrorCode.AUDIO_TOO_SHORT)
            bill.warn(f"{text}; the next request asks for it again")
            bill.doubtful[ErrorCode.AUDIO_TOO_SHORT] = None

    def for_successor(self, utterance: Utterance, bill: Bill) -> Utterance:
        """The same words for the model that takes over from one that is gone.

        Every response says so, the log says it once.

        Raises:
            TTSModelNotFoundError: No successor may speak.
            TTSValidationError: It cannot speak this.
        """
        utterance = replace(utterance, model=self._successor(utterance.model, bill))
        self.engine.preflight(utterance)
        return utterance

    @asynccontextmanager
    async def _turn(self, utterance: Utterance, bill: Bill) -> AsyncIterator[Synthesis]:
        """A slot for a call of a model that may still be served."""
        with uncounted():
            await self._slots.acquire()
        try:
            self._check_open()
            if self._is_gone(utterance.model):
                raise TTSModelNotFoundError(f"the model {utterance.model} is not served any more")
            yield Synthesis(self._paused_engine, self.config, self._clock, bill, self._paces)
        finally:
            self._slots.release()

    async def _wait(self, sleep: Callable[[float], Awaitable[None]], seconds: float) -> None:
        """Wait for the next attempt."""
        with uncounted():
            await sleep(seconds)
        self._check_open()

    def _check_open(self) -> None:
        if self._ended:
            raise TTSUnavailableError(
                "the service was closed meanwhile", code=ErrorCode.CONNECTION_FAILED, retryable=False
            )

    async def _make(self, utterance: Utterance, bill: Bill) -> SpeechAudio:
        async with self._turn(utterance, bill) as synthesis:
            return await synthesis.run(utterance)

    async def _listen(self, utterance: Utterance, bill: Bill, hand_on: Callable[[SpeechAudio], None]) -> None:
        async with (
            self._turn(utterance, bill) as synthesis,
            aclosing(await synthesis.open_stream(utterance)) as opened,
        ):
            async for block in opened:
                hand_on(block)

    async def _joined(
        self, halves: tuple[PlannedPiece, PlannedPiece], speak: Callable[[PlannedPiece], Awaitable[SpeechAudio]]
    ) -> SpeechAudio:
        """The halves of a piece as one sound, which is kept like any other: the next time nothing is called."""
        joint = Joint()
        parts = [Narrated(half, await speak(half)) for half in halves]
        pcm = b"".join([await joint.add(part) for part in parts] + [joint.finish()])
        first, second = (part.audio for part in parts)
        return replace(
            first,
            pcm=pcm,
            usage=first.usage + second.usage,
            warnings=first.warnings + second.warnings,
            doubtful=first.doubtful + second.doubtful,
            words=(),
        )

    async def _cut(self, utterance: Utterance, first_chars: int | None) -> list[PlannedPiece]:
        most_chars = max(_CHARS_PER_TOKEN * self.config.max_context_tokens, _LEAST_PIECE_CHARS)
        plan = plan_pieces(utterance, min(model_spec(utterance.model).piece_chars, most_chars), first_chars)
        is_long = sum(len(turn.text) for turn in utterance.turns) > _THREAD_ABOVE_CHARS
        return await asyncio.to_thread(list, plan) if is_long else list(plan)

    def _is_gone(self, model: str) -> bool:
        return model in self._lost_models or model_spec(model).is_shut_down(self._clock.now().date())

    async def _has_any(self, pieces: Iterable[PlannedPiece]) -> bool:
        for piece in pieces if self._cache else ():
            if await self._find(piece.utterance):
                return True
        return False

    async def _find(self, utterance: Utterance) -> CachedPiece | None:
        if self._cache is None:
            return None
        key = content_key(utterance, self.engine.name)
        return await self._cache.get(key) or self._unkept.get(key)

    def _successor(self, model: str, bill: Bill) -> str:
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
