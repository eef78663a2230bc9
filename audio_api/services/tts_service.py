"""One request becomes one verified WAV: preflight, attempts, checks, file, report."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Self

from audio_api.audio.durable import check_target
from audio_api.audio.wav import MAX_DATA_BYTES, SAMPLE_RATE, decode_wav
from audio_api.config import AudioConfig, get_config
from audio_api.engines.base import SpeechAudio, SpeechEngine, Utterance
from audio_api.errors import (
    AudioAPIError,
    ErrorCode,
    TTSAPIError,
    TTSAudioError,
    TTSAuthenticationError,
    TTSContentBlockedError,
    TTSError,
    TTSModelNotFoundError,
    TTSOutputError,
    TTSQuotaError,
    TTSRateLimitError,
    TTSUnavailableError,
    TTSValidationError,
    TTSVoiceNotFoundError,
)
from audio_api.models.audio_request import (
    AudioRequest,
    AudioResponse,
    BatchAudioRequest,
    BatchAudioResponse,
    SpeechProgress,
)
from audio_api.models.usage import TokenUsage
from audio_api.models.user_text import has_words, uniform
from audio_api.retry import Clock
from audio_api.services.health import Health
from audio_api.services.listeners import tell
from audio_api.services.narration import Narration, Speak
from audio_api.services.planning import PlannedPiece
from audio_api.services.recording import Draft, Joint, Target, may_replace, record, write_blocks
from audio_api.services.runtime import Runtime, content_key
from audio_api.services.runtimes import Runtimes
from audio_api.services.streaming import FIRST_CHARS, Live, stream_pieces
from audio_api.services.subtitle_files import check_subtitles, write_subtitles
from audio_api.services.synthesis import Bill
from audio_api.text.pace import spoken_s

# The errors, too: programs written for the published original import them from here.
__all__ = [
    "ProgressCallback",
    "ResponseCallback",
    "ServiceHealth",
    "SpeechCallback",
    "SpeechDraft",
    "TTSAPIError",
    "TTSAudioError",
    "TTSAuthenticationError",
    "TTSContentBlockedError",
    "TTSError",
    "TTSModelNotFoundError",
    "TTSOutputError",
    "TTSQuotaError",
    "TTSRateLimitError",
    "TTSService",
    "TTSUnavailableError",
    "TTSValidationError",
    "TTSVoiceNotFoundError",
    "make_engine",
]

logger = logging.getLogger(__name__)

_LONGEST_FILE_S = MAX_DATA_BYTES / 2 / SAMPLE_RATE
# None is planned to last more than two minutes.
_SURELY_FIT = _LONGEST_FILE_S // 120

ProgressCallback = Callable[[int, int, AudioResponse], Awaitable[None] | None]
"""Called after each request of a batch with: requests finished, requests in all, this request's response."""

ResponseCallback = Callable[[AudioResponse], Awaitable[None] | None]
"""Called with what became of a request."""

SpeechCallback = Callable[[SpeechProgress], Awaitable[None] | None]
"""Called after each piece of a request."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServiceHealth(Health):
    """Whether speech can be made now: the engine could be reached and knows its model.

    Attributes:
        engine: The engine's name; empty when the settings, which name it, are wrong.
    """

    engine: str


class SpeechDraft:
    """Speech that is finished, in a file without a name; or the failure that stands in its place.

    Args:
        request: What was spoken.
        draft: The file, or why there is none.
        bill: What was used; ``None``: nothing, the settings are wrong.
        account: Completes the response and logs it.
    """

    def __init__(
        self,
        request: AudioRequest,
        draft: Draft | AudioAPIError,
        bill: Bill | None,
        account: Callable[[AudioResponse], Awaitable[AudioResponse]],
    ) -> None:
        self._request = request
        self._draft = draft
        self._bill = bill
        self._account = account

    @property
    def file(self) -> tuple[str, os.stat_result] | None:
        """The name that the file will get, and what it is, which the name does not change; ``None``: there is none."""
        if isinstance(self._draft, AudioAPIError):
            return None
        return self._draft.recording.path.name, self._draft.identity

    async def publish(self, before: float = inf) -> AudioResponse:
        """Give the file its name, and write the subtitles beside it.

        Args:
            before: The moment, in seconds of ``time.monotonic``, from which on the file may not get its name any more.

        Returns:
            What ``generate_audio`` returns.

        Raises:
            TooLateError: That moment is over; the draft may be published with a later one.
        """
        if isinstance(self._draft, AudioAPIError):
            return await self._account(_failure(self._draft, self._bill))
        try:
            recording = await self._draft.publish(before)
            subtitle_paths = await write_subtitles(recording, self._request, self._draft.identity)
        except AudioAPIError as error:
            return await self._account(_failure(error, self._bill))
        assert self._bill  # noqa: S101 - what has a draft has a bill
        message = f"{recording.duration_s:.2f} s of speech in {recording.path.name}"
        model, duration_s = recording.model, recording.duration_s
        return await self._account(_success(message, model, duration_s, self._bill, recording.path, subtitle_paths))


class TTSService:
    """Turns requests into verified WAV files. Ends with ``close()`` or its ``async with``.

    Belongs to one event loop for as long as that runs; the next ``asyncio.run()`` may go on with it.

    Args:
        config: The settings; ``None``: ``get_config()`` at every request, so that ``reload_config()`` takes effect.
        gemini_client: Anything shaped like ``google.genai.Client``, used instead of one made here and never closed
            here; ``None``: one is made from the settings.
        engine: The source of speech, never closed here; ``None``: what the settings say.
        engine_factory: Makes the source of speech from settings, once for each that take effect; it is closed here when
            others have taken effect and its last request has ended, or with the service. ``None``: ``make_engine`` with
            the client. Not asked when there is an ``engine``.
        clock: Time and chance; ``None``: the real ones.
    """

    def __init__(
        self,
        config: AudioConfig | None = None,
        gemini_client: object | None = None,
        engine: SpeechEngine | None = None,
        *,
        engine_factory: Callable[[AudioConfig], SpeechEngine] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._config = config
        self._engine = engine
        self._clock = clock or Clock()
        make = engine_factory or partial(make_engine, gemini_client=gemini_client)
        self._runtimes = Runtimes(engine, make, self._clock)
        self._being_written: set[Path] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def config(self) -> AudioConfig:
        """The settings in force now."""
        return self._settings()

    async def generate_audio(self, request: AudioRequest, on_progress: SpeechCallback | None = None) -> AudioResponse:
        """Speak one request, of any length and cast, into one file.

        Everything that can be known beforehand is checked before any paid call. A long text is made in pieces, a few at
        a time; finished ones are kept, so that the same request, after a failure or a crash, pays only for the others.
        Cancelling ends the calls in progress and leaves no file behind.

        Args:
            request: What to speak.
            on_progress: Called after each piece; a coroutine function is awaited. ``None``: nobody is told.

        Returns:
            A success whose ``file_path`` is a complete WAV of the whole text, or a failure with its ``error_code``;
            ``raise_for_error()`` turns the latter into its exception.
        """
        async with self.prepare(request, on_progress) as draft:
            return await draft.publish()

    @asynccontextmanager
    async def prepare(
        self,
        request: AudioRequest,
        on_progress: SpeechCallback | None = None,
        *,
        unsaved: AudioResponse | None = None,
    ) -> AsyncIterator[SpeechDraft]:
        """Do all of ``generate_audio`` but the last step, which gives the file its name.

        For programs that must record, or be allowed, which file comes. Leaving the context without publishing removes
        the file.

        Args:
            request: As ``generate_audio``.
            on_progress: As ``generate_audio``.
            unsaved: The response to the same request whose file could not be written; its sound is written now, rather
                than made and paid for again. ``None``, or without sound: it is made.

        Yields:
            The finished speech; or the failure, which ``publish`` returns.
        """
        async with self._drafted(request, partial(self._write, on_progress=on_progress, unsaved=unsaved)) as draft:
            yield draft

    async def stream_to_file(self, request: AudioRequest, on_progress: SpeechCallback | None = None) -> AudioResponse:
        """Speak one request into a file that can be played while it grows, as ``NAME.part.wav`` beside the final one.

        Args:
            request: What to speak.
            on_progress: As in ``generate_audio``.

        Returns:
            As ``generate_audio``; a stream that fails leaves no file.
        """
        async with self._drafted(request, partial(self._write_growing, on_progress=on_progress)) as draft:
            return await draft.publish()

    async def stream_audio(
        self, request: AudioRequest, on_done: ResponseCallback | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Speak one request as sound that can be played at once: the first sentence as the model makes it.

        The following pieces are made and verified meanwhile. Leaving the loop, closing the generator or cancelling ends
        every call in progress. The file settings of the request do not matter.

        Args:
            request: What to speak.
            on_done: Called once, when the sound has ended in whatever way, with the attempts, the usage, the cost and
                the warnings. It is a success, without a file, when all was handed over; an error that is raised here is
                in it, too. When the listener left, its ``error`` says so, its ``error_code`` is ``None``, and calls
                that were ended may be billed beyond its cost. A coroutine function is awaited. ``None``: nobody is
                told.

        Yields:
            Signed 16-bit little-endian samples of one channel, 24,000 a second, whole samples only.

        Raises:
            AudioAPIError: Nothing can be said, or the sound cannot go on; then the text says how much was handed over.
        """
        started_s = self._clock.monotonic()
        config = self._settings()
        bill, live = Bill(config, self._clock), Live(Joint())
        response: AudioResponse | None = None
        try:
            async with self._runtimes.use(config) as runtime:
                pieces = await runtime.plan(await _read(request, config, bill), bill, FIRST_CHARS)
                async with aclosing(stream_pieces(pieces, runtime, bill, cached=request.cache, live=live)) as blocks:
                    async for block in blocks:
                        yield block
            response = _success(f"{live.seconds:.2f} s of speech", live.joint.model, live.seconds, bill)
        except AudioAPIError as error:
            response = _failure(error, bill)
            raise
        except (GeneratorExit, asyncio.CancelledError):
            left = AudioAPIError(f"the listener left after {live.seconds:.1f} s of sound")
            response = _failure(left, bill).model_copy(update={"error_code": None})
            raise
        finally:
            if response is not None:
                await self._account(request, response, started_s, on_done)

    async def generate_batch(
        self,
        requests: BatchAudioRequest | Sequence[AudioRequest],
        max_concurrency: int | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> BatchAudioResponse:
        """Speak many requests, a few at a time. One failure does not stop the others.

        Args:
            requests: A batch, or any number of requests.
            max_concurrency: Requests in progress at once; ``None``: the setting ``max_concurrency``, which also is the
                upper bound.
            on_progress: Called after each request with how many are finished, how many there are, and the response;
                a coroutine function is awaited. ``None``: nobody is told.

        Returns:
            The responses in the order of the requests.

        Raises:
            TTSValidationError: There are no requests, or ``max_concurrency`` is less than 1.
            ConfigurationError: The settings, which shall say how many at once, are wrong.
            TypeError: One of them is no ``AudioRequest``; nothing was sent.
            ExceptionGroup: ``on_progress`` raised; the requests in progress are ended.
        """
        batch_id = requests.batch_id if isinstance(requests, BatchAudioRequest) else None
        items = requests.requests if isinstance(requests, BatchAudioRequest) else tuple(requests)
        if not items:
            raise TTSValidationError("a batch needs at least one request")
        for item in items:
            _check_type(item)
        if max_concurrency is not None and max_concurrency < 1:
            raise TTSValidationError(f"max_concurrency must be at least 1, not {max_concurrency}")
        workers = min(len(items), max_concurrency or self._settings().max_concurrency)
        results: dict[int, AudioResponse] = {}
        waiting = iter(enumerate(items))

        async def work() -> None:
            for index, request in waiting:
                results[index] = response = await self.generate_audio(request)
                await tell(on_progress, len(results), len(items), response)

        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work())
        return _batch_response(batch_id or uuid.uuid4().hex, [results[index] for index in range(len(items))])

    async def health_check(self) -> ServiceHealth:
        """Ask, without billing, whether the engine can be reached and knows the default model.

        Never raises an ``AudioAPIError``.
        """
        name = self._engine.name if self._engine else ""
        try:
            config = self._settings()
            name = name or config.tts_engine
            async with self._runtimes.use(config) as runtime:
                await runtime.engine.health_check(str(config.default_tts_model))
        except AudioAPIError as error:
            return ServiceHealth(healthy=False, engine=name, error=str(error), error_code=error.code)
        return ServiceHealth(healthy=True, engine=name)

    async def warm_up(self) -> None:
        """Do now, without billing, what would make the first call late; for programs that must keep a pace.

        Raises:
            AudioAPIError: The engine will not be able to speak as things are. The service may be used all the same.
        """
        # numpy, which else would be imported between a call and its checks.
        await asyncio.to_thread(import_module, "audio_api.audio.checks")
        config = self._settings()
        async with self._runtimes.use(config) as runtime:
            await runtime.engine.warm_up(str(config.default_tts_model))

    async def close(self) -> None:
        """End the connections and processes that this service opened. May be called twice.

        A request in progress fails if its call is cut by that, and its call is not made again.
        """
        await self._runtimes.close()

    def _settings(self) -> AudioConfig:
        return self._config or get_config()

    @asynccontextmanager
    async def _drafted(
        self, request: AudioRequest, write: Callable[[AudioRequest, Runtime, Bill], AbstractAsyncContextManager[Draft]]
    ) -> AsyncIterator[SpeechDraft]:
        started_s = self._clock.monotonic()
        bill: Bill | None = None
        draft: Draft | AudioAPIError
        async with AsyncExitStack() as opened:
            try:
                config = self._settings()
                bill = Bill(config, self._clock)
                runtime = await opened.enter_async_context(self._runtimes.use(config))
                draft = await opened.enter_async_context(write(request, runtime, bill))
            except AudioAPIError as error:
                draft = error
            yield SpeechDraft(request, draft, bill, partial(self._account, request, started_s=started_s))

    async def _account(
        self,
        request: AudioRequest,
        response: AudioResponse,
        started_s: float,
        on_done: ResponseCallback | None = None,
    ) -> AudioResponse:
        response = response.model_copy(update={"processing_time": self._clock.monotonic() - started_s})
        _report(request, response)
        await tell(on_done, response)
        return response

    @asynccontextmanager
    async def _write(
        self,
        request: AudioRequest,
        runtime: Runtime,
        bill: Bill,
        *,
        on_progress: SpeechCallback | None,
        unsaved: AudioResponse | None,
    ) -> AsyncIterator[Draft]:
        async with self._prepared(request, runtime, bill) as (pieces, target):
            speak: Speak = partial(runtime.speak, bill=bill, cached=request.cache)
            if unsaved and unsaved.unsaved_audio and len(pieces) == 1:
                bill.carry_over(unsaved)
                speak = partial(_hand_over, unsaved.unsaved_audio, unsaved.model or pieces[0].utterance.model)
            async with Narration(pieces, speak, at_once=runtime.config.piece_concurrency) as narration:

                async def on_piece(seconds: float) -> None:
                    await tell(
                        on_progress,
                        SpeechProgress(pieces_done=narration.done, pieces_total=narration.total, seconds=seconds),
                    )

                async with record(narration, target, on_piece) as draft:
                    if runtime.config.audio_checks != "off":
                        await runtime.compare(draft.recording.lines, bill)
                    yield draft

    @asynccontextmanager
    async def _write_growing(
        self, request: AudioRequest, runtime: Runtime, bill: Bill, *, on_progress: SpeechCallback | None
    ) -> AsyncIterator[Draft]:
        async with self._prepared(request, runtime, bill, FIRST_CHARS) as (pieces, target):
            live = Live(Joint())
            blocks = self._told(request, runtime, bill, pieces, live, on_progress)
            async with aclosing(blocks), target.writer(growing=True) as writer:
                identity = await write_blocks(writer, blocks, live.joint, len(pieces))
                yield Draft(identity, live.joint.recording(target.path), writer)

    async def _told(
        self,
        request: AudioRequest,
        runtime: Runtime,
        bill: Bill,
        pieces: list[PlannedPiece],
        live: Live,
        on_progress: SpeechCallback | None,
    ) -> AsyncGenerator[bytes, None]:
        async with aclosing(stream_pieces(pieces, runtime, bill, cached=request.cache, live=live)) as blocks:
            async for block in blocks:
                yield block
                await tell(
                    on_progress,
                    SpeechProgress(pieces_done=live.joint.pieces, pieces_total=len(pieces), seconds=live.seconds),
                )

    @asynccontextmanager
    async def _prepared(
        self, request: AudioRequest, runtime: Runtime, bill: Bill, first_chars: int | None = None
    ) -> AsyncIterator[tuple[list[PlannedPiece], Target]]:
        """Refuse what can be refused before a call; the pieces, and where the file goes."""
        utterance = await _read(request, runtime.config, bill)
        name = request.output_filename or f"{content_key(utterance, runtime.engine.name)}.wav"
        folder, overwrite = runtime.config.output_dir, may_replace(request)
        await check_subtitles(folder / name, request)
        with self._claim(folder / name, overwrite):
            pieces = await runtime.plan(utterance, bill, first_chars)
            _check_length(pieces)
            real = await check_target(folder, name, overwrite=overwrite)
            yield pieces, Target(folder / name, overwrite, real)

    @contextmanager
    def _claim(self, path: Path, overwrite: bool) -> Iterator[None]:
        """Keep a second request of this service from paying for a file that a first one is about to write."""
        if path in self._being_written and not overwrite:
            raise TTSOutputError(
                f"{path.name} is being written by another request; choose another name, or set overwrite=True",
                code=ErrorCode.OUTPUT_EXISTS,
            )
        self._being_written.add(path)
        try:
            yield
        finally:
            self._being_written.discard(path)


def make_engine(config: AudioConfig, gemini_client: object | None = None) -> SpeechEngine:
    """The source of speech that the settings name; whoever asked for it closes it.

    Args:
        config: The settings.
        gemini_client: As ``TTSService``; makes it Gemini, whatever the settings say.
    """
    if config.tts_engine == "offline" and gemini_client is None:
        from audio_api.engines.offline import OfflineEngine  # an optional extra

        logger.warning("speech is made offline: a robotic voice, not Gemini", extra={"engine": "offline"})
        return OfflineEngine()
    from audio_api.engines.gemini import GeminiEngine  # its SDK takes 0.8 s to import

    return GeminiEngine(
        config.gemini_api_key.get_secret_value() if config.gemini_api_key else None,
        base_url=config.gemini_base_url,
        timeout_s=config.request_timeout,
        stall_timeout_s=config.stream_stall_timeout,
        max_connections=config.max_concurrency,
        max_input_tokens=config.max_context_tokens,
        store=config.gemini_store,
        client=gemini_client,
    )


async def _hand_over(wav: bytes, model: str, _piece: PlannedPiece, when_spoken: Callable[[], None]) -> SpeechAudio:
    """Verified sound that has been made before, in the place of a call."""
    when_spoken()
    return SpeechAudio(decode_wav(wav).pcm, SAMPLE_RATE, model)


def _check_type(request: AudioRequest) -> None:
    # The likeliest slip of whoever has no type checker: generate_audio("Hello").
    if not isinstance(request, AudioRequest):
        raise TypeError(f"what is spoken is an AudioRequest(text=…), not a {type(request).__name__}")


async def _read(request: AudioRequest, config: AudioConfig, bill: Bill) -> Utterance:
    _check_type(request)
    if len(request.text) > config.max_text_length:
        raise TTSValidationError(
            f"the text has {len(request.text):,} characters; MAX_TEXT_LENGTH allows {config.max_text_length:,}",
            code=ErrorCode.TEXT_TOO_LONG,
        )
    if request.markup == "markdown":
        # In a thread: the parser is imported there, and takes 3 s for a megabyte.
        text, warnings = await asyncio.to_thread(_unmarked, request)
        request = request.model_copy(update={"text": text})
        bill.warn(*warnings)
    return Utterance.from_request(request, str(request.model or config.default_tts_model))


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


def _check_length(pieces: Sequence[PlannedPiece]) -> None:
    """Refuse before any call what no WAV file could hold in the end."""
    if len(pieces) <= _SURELY_FIT:
        return
    hours, most_hours = sum(spoken_s(piece.utterance.text) for piece in pieces) / 3_600, _LONGEST_FILE_S / 3_600
    if hours > most_hours:
        raise TTSValidationError(
            f"the text takes about {hours:.1f} hours to speak, and a WAV file holds {most_hours:.1f}; make several "
            "requests of it",
            code=ErrorCode.TEXT_TOO_LONG,
        )


def _success(
    message: str,
    model: str,
    duration_s: float,
    bill: Bill,
    path: Path | None = None,
    subtitle_paths: Iterable[Path] = (),
) -> AudioResponse:
    return AudioResponse(
        success=True,
        message=message,
        file_path=None if path is None else str(path),
        duration=duration_s,
        subtitle_paths=tuple(map(str, subtitle_paths)),
        model=model,
        attempts=bill.attempts,
        cached_pieces=bill.cached_pieces,
        usage=bill.usage,
        cost_usd=bill.cost_usd,
        warnings=bill.all_warnings(),
        doubtful=tuple(bill.doubtful),
    )


def _failure(error: AudioAPIError, bill: Bill | None) -> AudioResponse:
    return AudioResponse(
        success=False,
        message=f"no speech: {error}",
        error=str(error),
        error_code=error.code,
        retryable=error.retryable,
        retry_after_s=error.retry_after_s,
        reset_at=error.reset_at if isinstance(error, TTSQuotaError) else None,
        attempts=bill.attempts if bill else 0,
        cached_pieces=bill.cached_pieces if bill else 0,
        usage=bill.usage if bill else TokenUsage(),
        cost_usd=bill.cost_usd if bill else 0.0,
        warnings=bill.all_warnings() if bill else (),
        model=error.model if isinstance(error, TTSOutputError) else None,
        unsaved_audio=error.audio if isinstance(error, TTSOutputError) else None,
    )


def _batch_response(batch_id: str, results: Iterable[AudioResponse]) -> BatchAudioResponse:
    results = tuple(results)
    completed = sum(response.success for response in results)
    return BatchAudioResponse(
        batch_id=batch_id,
        total_requests=len(results),
        completed=completed,
        failed=len(results) - completed,
        results=results,
        status="completed" if completed else "failed",
    )


def _report(request: AudioRequest, response: AudioResponse) -> None:
    """Log one event. The text itself is private: its length and a short hash are enough to recognise it."""
    # A listener may leave at any time: that has no code, and warns of nothing.
    level = logging.WARNING if response.error_code or response.doubtful else logging.INFO
    if not logger.isEnabledFor(level):
        return
    logger.log(
        level,
        _event(response),
        extra={
            "text_length": len(request.text),
            "text_sha256": hashlib.sha256(request.text.encode()).hexdigest()[:8],
            "model": response.model or request.model,
            "attempts": response.attempts,
            "processing_s": response.processing_time,
            "audio_s": response.duration,
            "error_code": response.error_code,
            "doubtful": [code.value for code in response.doubtful],
        },
    )


def _event(response: AudioResponse) -> str:
    if response.success:
        return "speech made"
    return "no speech made" if response.error_code else "listener left"
