"""One request becomes one verified WAV: preflight, attempts, checks, file, report."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from audio_api.audio.wav import check_target, encode_wav, write_wav
from audio_api.config import AudioConfig, get_config
from audio_api.engines.base import SpeechAudio, SpeechEngine, Utterance
from audio_api.errors import (
    AudioAPIError,
    ErrorCode,
    TTSModelNotFoundError,
    TTSOutputError,
    TTSQuotaError,
    TTSValidationError,
)
from audio_api.models.audio_request import (
    AudioRequest,
    AudioResponse,
    BatchAudioRequest,
    BatchAudioResponse,
    TokenUsage,
    VoiceConfig,
)
from audio_api.models.speech_models import model_spec
from audio_api.retry import Clock
from audio_api.services.synthesis import Bill, Synthesis

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)

ProgressCallback = Callable[[int, int, AudioResponse], Awaitable[None] | None]
"""Called after each request of a batch with: requests finished, requests in all, this request's response."""

# Part of every content key: raise it when the same request starts to sound different.
_PROTOCOL_VERSION = 1


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """Whether speech can be made now; true in a condition when it can.

    Attributes:
        healthy: Whether the engine could be reached and knows its model.
        engine: The engine's name.
        error: What is wrong; ``None`` when healthy.
        error_code: Its stable name; ``None`` when healthy.
    """

    healthy: bool
    engine: str
    error: str | None = None
    error_code: ErrorCode | None = None

    def __bool__(self) -> bool:
        """The answer in one word."""
        return self.healthy


@dataclass(frozen=True, slots=True)
class _Runtime:
    """What one configuration needs: its engine, and the slots that bound its concurrency."""

    config: AudioConfig
    engine: SpeechEngine
    slots: asyncio.Semaphore


class TTSService:
    """Turns requests into verified WAV files. Belongs to one event loop; ends with ``close()`` or its ``async with``.

    Args:
        config: The settings; ``None``: ``get_config()`` at every request, so that ``reload_config()`` takes effect.
        gemini_client: Anything shaped like ``google.genai.Client``, used instead of one made here and never closed
            here; ``None``: one is made from the settings.
        engine: The source of speech, never closed here; ``None``: what the settings say.
        clock: Time and chance; ``None``: the real ones.
    """

    def __init__(
        self,
        config: AudioConfig | None = None,
        gemini_client: object | None = None,
        engine: SpeechEngine | None = None,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._config = config
        self._gemini_client = gemini_client
        self._engine = engine
        self._clock = clock or Clock()
        self._runtime: _Runtime | None = None
        self._own_engines: list[SpeechEngine] = []
        self._lost_models: set[str] = set()
        self._being_written: set[Path] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def generate_audio(self, request: AudioRequest) -> AudioResponse:
        """Speak one request into one file.

        Everything that can be known beforehand is checked before any paid call. Cancelling ends the call in progress
        and leaves no file behind.

        Args:
            request: What to speak.

        Returns:
            A success whose ``file_path`` is a complete WAV of the whole text, or a failure with its ``error_code``;
            ``raise_for_error()`` turns the latter into its exception.
        """
        started_s = self._clock.monotonic()
        try:
            runtime = self._current_runtime()
        except AudioAPIError as error:
            return _failure(error, None, self._clock.monotonic() - started_s)
        bill = Bill(runtime.config, self._clock)
        try:
            async with runtime.slots:
                path, audio = await self._produce(request, runtime, bill)
        except AudioAPIError as error:
            response = _failure(error, bill, self._clock.monotonic() - started_s)
        else:
            response = AudioResponse(
                success=True,
                message=f"{audio.duration_s:.2f} s of speech in {path.name}",
                file_path=str(path),
                duration=audio.duration_s,
                processing_time=self._clock.monotonic() - started_s,
                model=audio.model,
                attempts=bill.attempts,
                usage=bill.usage,
                cost_usd=bill.cost_usd,
                warnings=bill.all_warnings(),
            )
        _report(request, response)
        return response

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
        """
        batch_id = requests.batch_id if isinstance(requests, BatchAudioRequest) else None
        items = requests.requests if isinstance(requests, BatchAudioRequest) else tuple(requests)
        if not items:
            raise TTSValidationError("a batch needs at least one request")
        if max_concurrency is not None and max_concurrency < 1:
            raise TTSValidationError(f"max_concurrency must be at least 1, not {max_concurrency}")
        results: dict[int, AudioResponse] = {}
        waiting = iter(enumerate(items))

        async def work() -> None:
            for index, request in waiting:
                results[index] = response = await self.generate_audio(request)
                if on_progress is not None and inspect.isawaitable(
                    told := on_progress(len(results), len(items), response)
                ):
                    await told

        async with asyncio.TaskGroup() as group:
            for _ in range(min(len(items), max_concurrency or self._settings().max_concurrency)):
                group.create_task(work())
        return _batch_response(batch_id or uuid.uuid4().hex, [results[index] for index in range(len(items))])

    async def health_check(self) -> ServiceHealth:
        """Ask, without billing, whether the engine can be reached and knows the default model.

        Never raises an ``AudioAPIError``.
        """
        name = self._settings().tts_engine if self._engine is None else self._engine.name
        try:
            runtime = self._current_runtime()
            await runtime.engine.health_check(str(runtime.config.default_tts_model))
        except AudioAPIError as error:
            return ServiceHealth(healthy=False, engine=name, error=str(error), error_code=error.code)
        return ServiceHealth(healthy=True, engine=name)

    async def close(self) -> None:
        """End the connections and processes that this service opened. May be called twice."""
        self._closed = True
        while self._own_engines:
            await self._own_engines.pop().close()

    def _settings(self) -> AudioConfig:
        return self._config or get_config()

    def _current_runtime(self) -> _Runtime:
        if self._closed:
            raise RuntimeError("this TTSService is closed")
        config = self._settings()
        if self._runtime is None or self._runtime.config is not config:
            engine = self._engine or self._make_engine(config)
            self._runtime = _Runtime(config, engine, asyncio.Semaphore(config.max_concurrency))
        return self._runtime

    def _make_engine(self, config: AudioConfig) -> SpeechEngine:
        engine: SpeechEngine
        if config.tts_engine == "offline" and self._gemini_client is None:
            from audio_api.engines.offline import OfflineEngine  # an optional extra

            logger.warning("speech is made offline: a robotic voice, not Gemini", extra={"engine": "offline"})
            engine = OfflineEngine()
        else:
            from audio_api.engines.gemini import GeminiEngine  # its SDK takes 0.8 s to import

            engine = GeminiEngine(
                config.gemini_api_key.get_secret_value() if config.gemini_api_key else None,
                base_url=config.gemini_base_url,
                timeout_s=config.request_timeout,
                max_connections=config.max_concurrency,
                max_input_tokens=config.max_context_tokens,
                client=self._gemini_client,
            )
        self._own_engines.append(engine)
        return engine

    async def _produce(self, request: AudioRequest, runtime: _Runtime, bill: Bill) -> tuple[Path, SpeechAudio]:
        config, engine = runtime.config, runtime.engine
        asked_model = str(request.model or config.default_tts_model)
        _check_length(request.text, config.max_text_length)
        utterance = Utterance.from_request(request, asked_model)
        name = request.output_filename or f"{content_key(utterance, engine.name)}.wav"
        # A name made from the content may be replaced: what it names is the same.
        overwrite = request.overwrite or request.output_filename is None
        with self._claim(config.output_dir / name, overwrite):
            utterance = replace(utterance, model=self._living_model(asked_model, config, bill))
            engine.preflight(utterance)
            await check_target(config.output_dir, name, overwrite=overwrite)
            audio = await self._speak(utterance, runtime, bill)
            try:
                path = await write_wav(
                    config.output_dir, name, audio.pcm, sample_rate=audio.sample_rate, overwrite=overwrite
                )
            except TTSOutputError as error:
                error.audio = encode_wav(audio.pcm, audio.sample_rate)
                raise
        return path, audio

    @contextmanager
    def _claim(self, path: Path, overwrite: bool) -> Iterator[None]:
        """Keep a second request of this service from paying for a file that a first one is about to write."""
        if path in self._being_written and not overwrite:
            raise TTSOutputError(
                f"{path.name} is being written by another request; choose another name or pass overwrite=True",
                code=ErrorCode.OUTPUT_EXISTS,
            )
        self._being_written.add(path)
        try:
            yield
        finally:
            self._being_written.discard(path)

    def _living_model(self, model: str, config: AudioConfig, bill: Bill) -> str:
        """The model itself, or the successor of one that is known to be gone."""
        is_gone = model in self._lost_models or model_spec(model).is_shut_down(self._clock.now().date())
        return self._successor(model, config, bill) if is_gone else model

    def _successor(self, model: str, config: AudioConfig, bill: Bill) -> str:
        """The model that takes over from one that is gone; every response says so, the log says it once."""
        successor = model_spec(model).successor
        if successor is None or not config.model_fallback:
            advice = f"use {successor}, or set MODEL_FALLBACK=true" if successor else "use one of VoiceModel"
            raise TTSModelNotFoundError(f"the model {model} is not served by the API: {advice}")
        bill.warn(f"{model} is not served any more; its successor {successor} spoke instead")
        if model not in self._lost_models:
            self._lost_models.add(model)
            logger.warning("model is gone, its successor speaks", extra={"model": model, "successor": successor.value})
        return successor.value

    async def _speak(self, utterance: Utterance, runtime: _Runtime, bill: Bill) -> SpeechAudio:
        try:
            return await Synthesis(runtime.engine, runtime.config, self._clock, bill).run(utterance)
        except TTSModelNotFoundError:
            successor = self._successor(utterance.model, runtime.config, bill)
        utterance = replace(utterance, model=successor)
        runtime.engine.preflight(utterance)
        return await Synthesis(runtime.engine, runtime.config, self._clock, bill).run(utterance)


def _check_length(text: str, limit: int) -> None:
    if len(text) > limit:
        raise TTSValidationError(
            f"the text has {len(text):,} characters; MAX_TEXT_LENGTH allows {limit:,}", code=ErrorCode.TEXT_TOO_LONG
        )


def content_key(utterance: Utterance, engine_name: str) -> str:
    """64 hexadecimal digits (sha256) over everything audible: engine, model, language, every turn's words and voice."""
    turns = [(turn.text, turn.speaker, turn.style, *_voice_key(turn.voice)) for turn in utterance.turns]
    audible = [_PROTOCOL_VERSION, engine_name, utterance.model, utterance.language, turns]
    return hashlib.sha256(json.dumps(audible).encode()).hexdigest()


def _voice_key(voice: VoiceConfig) -> tuple[str, float | None, float | None]:
    return str(voice.voice_name), voice.speed, voice.pitch


def _failure(error: AudioAPIError, bill: Bill | None, elapsed_s: float) -> AudioResponse:
    return AudioResponse(
        success=False,
        message=f"no speech: {error}",
        error=str(error),
        error_code=error.code,
        retryable=error.retryable,
        retry_after_s=error.retry_after_s,
        reset_at=error.reset_at if isinstance(error, TTSQuotaError) else None,
        processing_time=elapsed_s,
        attempts=bill.attempts if bill else 0,
        usage=bill.usage if bill else TokenUsage(),
        cost_usd=bill.cost_usd if bill else 0.0,
        warnings=bill.all_warnings() if bill else (),
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
    logger.log(
        logging.INFO if response.success else logging.WARNING,
        "speech made" if response.success else "no speech made",
        extra={
            "text_length": len(request.text),
            "text_sha256": hashlib.sha256(request.text.encode()).hexdigest()[:8],
            "model": response.model or request.model,
            "attempts": response.attempts,
            "processing_s": response.processing_time,
            "audio_s": response.duration,
            "error_code": response.error_code,
        },
    )


async def asay(
    text: str,
    path: str | Path | None = None,
    *,
    voice: str = "kore",
    config: AudioConfig | None = None,
    **fields: Any,
) -> AudioResponse:
    """Speak a text into a file, in one line.

    Args:
        text: What is spoken.
        path: Where the WAV goes; an existing file is an error unless ``overwrite=True``. ``None``: a name made from
            the content, in the configured output folder.
        voice: The voice's name.
        config: The settings; ``None``: ``get_config()``.
        fields: Further fields of ``AudioRequest``, such as ``language``, ``style``, ``model`` or ``overwrite``.

    Returns:
        The response of a success.

    Raises:
        AudioAPIError: No speech was made; the class says what to do.
        ValueError: A field is wrong.
    """
    config = config or get_config()
    if path is not None:
        path = Path(path)
        config = config.model_copy(update={"output_dir": path.parent})
        fields["output_filename"] = path.name
    request = AudioRequest.model_validate({"text": text, "voice_config": {"voice_name": voice}, **fields})
    async with TTSService(config) as service:
        return (await service.generate_audio(request)).raise_for_error()


def say(text: str, path: str | Path | None = None, **options: Any) -> AudioResponse:
    """Speak a text into a file and wait for it. Takes and raises what ``asay`` does.

    Inside a running event loop it blocks that loop until done; prefer ``await asay(…)`` there.
    """
    speech = partial(asay, text, path, **options)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(speech())
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(speech())).result()
