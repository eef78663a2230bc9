"""Speaks what fits into one call, and pays for it once: join a flight, look into the cache, call, keep."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from audio_api.audio.large_sounds import Permit, SoundBudget
from audio_api.audio.wav import SAMPLE_RATE
from audio_api.audio.wav_file import SavedWav
from audio_api.config import AudioConfig
from audio_api.engines.base import Bounds, SpeechAudio, SpeechEngine, Utterance
from audio_api.errors import AudioAPIError, ErrorCode, TTSAudioError, TTSModelNotFoundError, TTSValidationError
from audio_api.models.audio_request import AudioRequest
from audio_api.models.speech_models import model_spec
from audio_api.models.user_text import has_words, uniform
from audio_api.retry import Clock
from audio_api.speech.assembly import Line, joined
from audio_api.speech.attempts import Attempts, Desk, SpendingPause
from audio_api.speech.cost import Call, Outcome, calls_of, note
from audio_api.speech.listening import Listener
from audio_api.speech.piece_cache import CachedPiece, PieceCache
from audio_api.speech.planning import LEAST_PIECE_CHARS, PlannedPiece, SpokenPiece, halve, most_chars, plan_pieces
from audio_api.speech.shared_pieces import SharedPieces
from audio_api.speech.single_flight import Flight, SingleFlight
from audio_api.speech.voice_paces import VoicePaces, judge_audio, outliers, voice_key
from audio_api.stores.by_url import store_at

logger = logging.getLogger(__name__)

# Part of every content key: raise it when the same request starts to sound different.
_PROTOCOL_VERSION = 1
# What a smaller piece may mend: the model stopped early, or left words out.
_TOO_MUCH_AT_ONCE = {ErrorCode.AUDIO_INCOMPLETE, ErrorCode.AUDIO_TOO_SHORT, ErrorCode.WORDS_MISSING}
# A quarter of a piece is a few sentences; what cannot speak those will not speak a single one.
_MOST_HALVINGS = 2
# Planning a text of this length takes about 10 ms.
_THREAD_ABOVE_CHARS = 20_000
# Paid pieces that the cache's disk refuses stay in memory, twenty minutes of speech at most.
_UNKEPT_BYTES = 64_000_000
# Of long texts. Between the end of its call and its turn to be heard a piece is checked and kept, which takes far less
# than a call.
_MOST_IN_MEMORY = 2


@dataclass(frozen=True, slots=True)
class SpeakOptions:
    """How the pieces of a request are spoken.

    Attributes:
        cached: Whether a finished piece of the same content will do; a new one is kept in any case.
        limit_s: The most seconds that one call may take; ``None``: as many as the engine allows.
        permit: To have the sound in memory, when many pieces are in progress; ``None``: none is needed.
        turn: Closed when the calls for the piece are over, before it is kept; ``None``: no other piece waits.
    """

    cached: bool = True
    limit_s: float | None = None
    permit: Permit | None = None
    turn: Permit | None = None


class PieceSpeaker:
    """Speaks with one engine, by one configuration.

    Args:
        config: The settings.
        engine: The source of speech.
        clock: Time and chance.
        listener: Listens to takes; ``None``: they are not listened to.

    Attributes:
        config: As given.
        engine: As given.
        store: Where finished sounds go; ``None``: they stay in the output folder.
        desk: What the attempts at all utterances share.
        budget: How many sounds of long texts may be in memory.

    Raises:
        ConfigurationError: The stores of the settings cannot be used.
    """

    def __init__(self, config: AudioConfig, engine: SpeechEngine, clock: Clock, listener: Listener | None) -> None:
        self.config = config
        self.engine = engine
        folder = config.cache_dir or config.output_dir / ".cache"
        is_cached = config.cache_max_bytes > 0
        self.store = store_at(config.output_url, config.store_timeout) if config.output_url else None
        self._cache: PieceCache | SharedPieces | None = None
        if is_cached:
            self._cache = PieceCache(folder, config.cache_max_bytes)
            if config.cache_url:
                pieces = store_at(config.cache_url, config.store_timeout)
                self._cache = SharedPieces(self._cache, pieces, config.store_timeout, clock)
        self._unkept: dict[str, CachedPiece] = {}
        self._clock = clock
        self.desk = Desk(
            engine,
            config,
            clock,
            VoicePaces(folder / "paces.json" if is_cached else None),
            # Of the call that is refused as of those that follow: a longer delay ends the request.
            SpendingPause(clock, config.rate_limit_retry_max_wait),
            listener,
        )
        self._lost_models: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self.enter_loop()

    def enter_loop(self) -> None:
        """In another event loop than before, make again what calls wait for.

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
            self._flights = SingleFlight()
            self.budget = SoundBudget(_MOST_IN_MEMORY)

    async def read(self, request: AudioRequest) -> tuple[Utterance, tuple[Call, ...]]:
        """What a request asks to be spoken, and what is to be known of its text.

        Raises:
            TTSValidationError: The text is too long, or holds no words, or does not fit its speakers.
        """
        if len(request.text) > self.config.max_text_length:
            raise TTSValidationError(
                f"the text has {len(request.text):,} characters; MAX_TEXT_LENGTH allows "
                f"{self.config.max_text_length:,}",
                code=ErrorCode.TEXT_TOO_LONG,
            )
        notes: tuple[Call, ...] = ()
        if request.markup == "markdown":
            # In a thread: the parser is imported there, and takes 3 s for a megabyte.
            text, warnings = await asyncio.to_thread(_unmarked, request)
            request, notes = request.model_copy(update={"text": text}), (note(*warnings),)
        model, tier = str(request.model or self.config.default_tts_model), request.service_tier
        if tier == "batch":
            raise TTSValidationError("service_tier batch is for submit_batch and for queues; calls take another one")
        return Utterance.from_request(request, model, tier or self.config.service_tier), notes

    async def plan(
        self, utterance: Utterance, first_chars: int | None = None
    ) -> tuple[list[PlannedPiece], tuple[Call, ...]]:
        """Cut an utterance into pieces, each of which is one call.

        Of a model that is gone, finished pieces may be left. Then the text is cut as it was for that model, and its
        successor speaks the others; else it is cut for the successor, which may take longer pieces.

        Args:
            utterance: Any length and cast.
            first_chars: As ``plan_pieces`` takes it.

        Returns:
            The pieces, and what is to be known of their model.

        Raises:
            TTSModelNotFoundError: Its model is gone, and no successor may speak.
        """
        pieces = await self._cut(utterance, first_chars)
        if not self._is_gone(utterance.model):
            return pieces, ()
        for piece in pieces:
            if await self._find(piece):
                return pieces, ()
        model, said = self._successor(utterance.model)
        return await self._cut(replace(utterance, model=model), first_chars), (said,)

    def check(self, pieces: Sequence[PlannedPiece]) -> None:
        """Make sure that the engine could speak each piece: none is paid for if another is refused.

        Raises:
            AudioAPIError: It cannot speak one of them.
        """
        for piece in pieces:
            self.engine.preflight(piece.utterance)

    async def speak(self, piece: PlannedPiece, options: SpeakOptions, *, halvings: int = _MOST_HALVINGS) -> SpokenPiece:
        """Make the verified sound of a piece, take it from the cache, or wait for a request that makes it right now.

        Args:
            piece: What one call speaks.
            options: How.
            halvings: How often it may be halved when the model does not get to its end.

        Raises:
            AudioAPIError: There is no such sound; the class says whether trying again makes sense.
        """
        if options.permit:
            # A flight that this one joins may need it.
            options.permit.give_back()
        is_shared = options.cached and self._cache is not None
        # Who pays for speed does not wait for a call that may take a quarter of an hour.
        key = f"{piece.key} {piece.utterance.tier}"
        flight = self._flights.get(key) if is_shared else None
        if flight is None:
            calls: list[Call] = []
            flight = Flight(self._made(piece, options, halvings, calls), calls)
            if is_shared:
                self._flights.add(key, flight)
        return await flight.join()

    async def _made(self, piece: PlannedPiece, options: SpeakOptions, halvings: int, calls: list[Call]) -> SpokenPiece:
        if options.cached and (kept := await self.recall(piece, options.permit)):
            calls += kept.calls
            return kept
        if options.permit:
            options.permit.give_back()
        # A call of flex ends by the engine's own limit, which is longer.
        bounds = Bounds(options.permit, None if piece.utterance.tier == "flex" else options.limit_s)
        try:
            async with self.slot(piece.utterance.model):
                audio = await Attempts(self.desk, piece.utterance, calls, bounds).run()
        except TTSModelNotFoundError:
            successor = self.for_successor(piece, calls)
            return await self._part(successor, options, halvings, calls)
        except TTSAudioError as error:
            halves = halve(piece) if halvings and error.code in _TOO_MUCH_AT_ONCE else None
            if halves is None:
                raise
            alone = replace(options, turn=None)
            audio = await joined([await self._part(self.keyed(half), alone, halvings - 1, calls) for half in halves])
        if audio.warnings or audio.doubtful or audio.heard is not None:
            calls.append(note(*audio.warnings, doubtful=audio.doubtful, heard=audio.heard))
        if options.turn:
            options.turn.close()
        return SpokenPiece(piece, audio, file=await self.keep(piece, audio))

    async def _part(self, piece: PlannedPiece, options: SpeakOptions, halvings: int, calls: list[Call]) -> SpokenPiece:
        """Speak a piece in the place of another one, whose calls it adds to."""
        try:
            spoken = await self.speak(piece, options, halvings=halvings)
        except (AudioAPIError, asyncio.CancelledError) as error:
            calls += calls_of(error)
            raise
        calls += spoken.calls
        return spoken

    @asynccontextmanager
    async def slot(self, model: str) -> AsyncIterator[None]:
        """A slot for a call of a model that may still be served.

        Raises:
            TTSModelNotFoundError: It is not served any more.
            TTSUnavailableError: The service was closed.
        """
        async with self._slots:
            self.desk.check_open()
            if self._is_gone(model):
                raise TTSModelNotFoundError(f"the model {model} is not served any more")
            yield

    async def recall(self, piece: PlannedPiece, permit: Permit | None = None) -> SpokenPiece | None:
        """The finished piece of this content, if one is kept that passes today's checks."""
        kept = await self._find(piece, permit)
        if kept is None:
            return None
        audio = SpeechAudio(kept.pcm, SAMPLE_RATE, kept.model, kept.finish_reason, warnings=kept.warnings)
        audio = replace(audio, doubtful=kept.doubtful or (), heard=kept.heard)
        own_pace = await self.desk.paces.of(voice_key(piece.utterance, self.engine.name))
        verdict = await judge_audio(piece.utterance, audio, self.config, own_pace, repeatable=False)
        if kept.doubtful is None and verdict.code:
            audio = replace(audio, doubtful=(verdict.code,), warnings=(*audio.warnings, f"doubtful: {verdict.detail}"))
        if verdict.outcome == "reject" or (audio.doubtful and self.config.audio_checks == "strict"):
            return None
        call = Call(audio.model, Outcome.KEPT, warnings=audio.warnings, doubtful=audio.doubtful, heard=audio.heard)
        return SpokenPiece(piece, audio, (call,))

    async def keep(self, piece: PlannedPiece, audio: SpeechAudio) -> SavedWav | None:
        """Keep a finished piece that was paid for. Returns its file, if it has one."""
        if self._cache is None or not self.engine.is_billed:
            return None
        kept = CachedPiece(
            pcm=audio.pcm,
            model=audio.model,
            finish_reason=audio.finish_reason,
            usage=audio.usage,
            warnings=audio.warnings,
            doubtful=audio.doubtful,
            heard=audio.heard,
            made_at=self._clock.now(),
        )
        file = await self._cache.put(piece.key, kept)
        if file is None:
            self._unkept[piece.key] = kept
            most_bytes = min(_UNKEPT_BYTES, self.config.cache_max_bytes)
            while sum(len(each.pcm) for each in self._unkept.values()) > most_bytes:
                del self._unkept[next(iter(self._unkept))]
        return file

    async def compare(self, lines: Sequence[Line]) -> list[Call]:
        """Find pieces of one text that are far shorter than the others, and make sure that they are made again.

        Returns:
            What is to be known of them.

        Raises:
            TTSAudioError: There are some, and the settings are strict.
        """
        if len(lines) == 1 or self.config.audio_checks == "off":
            return []
        notes = []
        spoken = [(line.piece.utterance, line.end_s - line.start_s) for line in lines]
        # A book has hundreds of pieces: their lengths take tenths of a second of work.
        for index, part in await asyncio.to_thread(outliers, spoken):
            if self._cache:
                await self._cache.forget(lines[index].piece.key)
            text = f"piece {index + 1} of {len(lines)} has {part:.0%} of the length that the others lead to expect"
            if self.config.audio_checks == "strict":
                raise TTSAudioError(text, code=ErrorCode.AUDIO_TOO_SHORT)
            warning = f"{text}; the next request asks for it again"
            notes.append(note(warning, doubtful=(ErrorCode.AUDIO_TOO_SHORT,)))
        return notes

    def for_successor(self, piece: PlannedPiece, calls: list[Call]) -> PlannedPiece:
        """The same piece for the model that takes over from one that is gone.

        Args:
            piece: The piece.
            calls: Gets a note that says so.

        Raises:
            TTSModelNotFoundError: No successor may speak.
            TTSValidationError: It cannot speak this.
        """
        model, said = self._successor(piece.utterance.model)
        calls.append(said)
        successor = self.keyed(replace(piece, utterance=replace(piece.utterance, model=model)))
        self.engine.preflight(successor.utterance)
        return successor

    def keyed(self, piece: PlannedPiece) -> PlannedPiece:
        """The same piece with its content key."""
        return replace(piece, key=content_key(piece.utterance, self.engine.name))

    async def _cut(self, utterance: Utterance, first_chars: int | None) -> list[PlannedPiece]:
        chars = len(utterance.turns[0].text)
        if first_chars is None and len(utterance.turns) == 1 and chars <= LEAST_PIECE_CHARS:
            return [self.keyed(PlannedPiece(utterance, "end"))]
        plan = plan_pieces(utterance, most_chars(utterance.model, self.config), first_chars)
        if sum(len(turn.text) for turn in utterance.turns) > _THREAD_ABOVE_CHARS:
            return await asyncio.to_thread(lambda: [self.keyed(piece) for piece in plan])
        return [self.keyed(piece) for piece in plan]

    def _is_gone(self, model: str) -> bool:
        return model in self._lost_models or model_spec(model).is_shut_down(self._clock.now().date())

    async def _find(self, piece: PlannedPiece, permit: Permit | None = None) -> CachedPiece | None:
        if self._cache is None:
            return None
        return await self._cache.get(piece.key, permit) or self._unkept.get(piece.key)

    def _successor(self, model: str) -> tuple[str, Call]:
        """The model that takes over, and a note that says so; the log says it once."""
        successor = model_spec(model).successor
        if successor is None or not self.config.model_fallback:
            advice = f"use {successor}, or set MODEL_FALLBACK=true" if successor else "use one of VoiceModel"
            raise TTSModelNotFoundError(f"the model {model} is not served by the API: {advice}")
        if model not in self._lost_models:
            self._lost_models.add(model)
            logger.warning("model is gone, its successor speaks", extra={"model": model, "successor": successor.value})
        return successor.value, note(f"{model} is not served any more; its successor {successor} spoke instead")


def content_key(utterance: Utterance, engine_name: str) -> str:
    """64 hexadecimal digits (sha256) over everything audible: engine, model, language, every turn's words and voice."""
    turns = [
        (turn.text, turn.speaker, turn.style, str(turn.voice.voice_name), turn.voice.speed, turn.voice.pitch)
        for turn in utterance.turns
    ]
    audible = [_PROTOCOL_VERSION, engine_name, utterance.model, utterance.language, turns]
    return hashlib.sha256(json.dumps(audible).encode()).hexdigest()


def _unmarked(request: AudioRequest) -> tuple[str, tuple[str, ...]]:
    from audio_api.text.markdown import unmarked

    try:
        text, warnings = unmarked(request.text, request.markup_keep)
    except ValueError as error:
        raise TTSValidationError(str(error)) from None
    # Entities such as &#769; stand for any character.
    text = uniform(text)
    if not has_words(text):
        raise TTSValidationError("; ".join(("the Markdown holds no words to speak", *warnings)))
    return text, warnings
