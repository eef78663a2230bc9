"""Requests, one at a time: each becomes a verified file, a stream, or an error, and a report of what it used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from importlib import import_module
from types import TracebackType
from typing import Self, get_args

from audio_api.audio.encoding import encoded
from audio_api.config import AudioConfig, get_config
from audio_api.engines.base import SpeechEngine
from audio_api.engines.from_settings import make_engine
from audio_api.errors import AudioAPIError
from audio_api.models.audio_request import AudioRequest, AudioResponse
from audio_api.models.estimate import Estimate
from audio_api.models.sound_formats import StreamFormat
from audio_api.retry import Clock
from audio_api.services.drafts import Drafting, SpeechDraft
from audio_api.services.health import ServiceHealth
from audio_api.services.report import Delivered, Report
from audio_api.speech.assembly import SpeechCallback, tell
from audio_api.speech.cost import calls_of
from audio_api.speech.estimate import estimate_request
from audio_api.speech.formats import require_format
from audio_api.speech.listening import Recogniser
from audio_api.speech.speaker import SpeakOptions
from audio_api.speech.streaming import FIRST_CHARS, SpeechStream

ResponseCallback = Callable[[AudioResponse], Awaitable[None] | None]
"""Called with what became of a request."""


class SpeechService:
    """Speaks requests, one at a time. Users make a ``TTSService``, which takes the same arguments and does more."""

    def __init__(
        self,
        config: AudioConfig | None = None,
        gemini_client: object | None = None,
        engine: SpeechEngine | None = None,
        *,
        engine_factory: Callable[[AudioConfig], SpeechEngine] | None = None,
        recogniser: Recogniser | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._config = config
        self._engine = engine
        self._recogniser = recogniser
        self._clock = clock or Clock()
        make = engine_factory or (lambda config: make_engine(config, gemini_client))
        self._drafting = Drafting(lambda: self.config, make, engine, self._clock, recogniser)
        # What streams have open. A listener who left one without closing it, by an error that is part of a circle,
        # leaves it to the garbage collector. That would close each generator of it by itself, all at the same time,
        # were they not held here: so it closes the outermost one, which closes the others in their order.
        self._streaming: set[AsyncExitStack] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def config(self) -> AudioConfig:
        """The settings in force now."""
        return self._config or get_config()

    async def generate_audio(self, request: AudioRequest, on_progress: SpeechCallback | None = None) -> AudioResponse:
        """Speak one request, of any length and cast, into one file.

        Everything that can be known beforehand is checked before any paid call. A long text is made in pieces, a few at
        a time; finished ones are kept, so that the same request, after a failure or a crash, pays only for the others.
        Cancelling ends the calls in progress and leaves no file behind.

        Args:
            request: What to speak.
            on_progress: Called after each piece; a coroutine function is awaited. ``None``: no listener is told.

        Returns:
            A success whose ``file_path`` is a complete file of the whole text, or whose ``url`` is that of one in the
            store of ``OUTPUT_URL``; or a failure with its ``error_code``, which ``raise_for_error()`` raises.
        """
        async with self.prepare(request, on_progress) as draft:
            return await draft.publish()

    def prepare(
        self,
        request: AudioRequest,
        on_progress: SpeechCallback | None = None,
        *,
        unsaved: AudioResponse | None = None,
        attempt_limit_s: float | None = None,
        task: str = "",
    ) -> AbstractAsyncContextManager[SpeechDraft]:
        """Do all of ``generate_audio`` but the last step, which gives the file its name.

        For programs that must record, or be allowed, which file comes. Leaving the context without publishing removes
        the file.

        Args:
            request: As ``generate_audio``.
            on_progress: As ``generate_audio``.
            unsaved: The response to the same request whose file could not be written; its sound is written now, rather
                than made and paid for again. ``None``, or without sound: it is made.
            attempt_limit_s: The most seconds that one call may take; waiting for a slot, a quota or the next attempt
                does not count. ``None``: as many as the engine allows.
            task: The id of the queued task that asks for it, which will stand on the sound in a store. What is there
                for this task is taken over, not refused. Empty: none does.

        Returns:
            A context that gives the finished speech; or the failure, which ``publish`` returns.
        """
        check_type(request)
        options = SpeakOptions(request.cache, attempt_limit_s)
        return self._drafting.draft(request, options, on_progress, unsaved, task=task)

    async def stream_to_file(self, request: AudioRequest, on_progress: SpeechCallback | None = None) -> AudioResponse:
        """Speak one request into a file that can be played while it grows, as ``NAME.part.wav`` beside the final one.

        Args:
            request: What to speak; not as m4a, which cannot be played while it grows.
            on_progress: As in ``generate_audio``.

        Returns:
            As ``generate_audio``; a stream that fails leaves no file.
        """
        check_type(request)
        async with self._drafting.draft(request, SpeakOptions(request.cache), on_progress, growing=True) as draft:
            return await draft.publish()

    async def stream_audio(
        self,
        request: AudioRequest,
        on_done: ResponseCallback | None = None,
        *,
        verified: bool = False,
        format: StreamFormat = "pcm",  # noqa: A002 - the word that users of other libraries know
    ) -> AsyncGenerator[bytes, None]:
        """Speak one request as sound that can be played at once: the first sentence as the model makes it.

        The following pieces are made and verified meanwhile. Leaving the loop, closing the generator or cancelling ends
        every call in progress. The file settings of the request do not matter.

        Args:
            request: What to speak.
            on_done: Called once, when the sound has ended in whatever way, with the attempts, the usage, the cost and
                the warnings. It is a success, without a file, when all was handed over; an error that is raised here is
                in it, too. When the listener left, its ``error`` says so, its ``error_code`` is ``None``, and calls
                that were ended may be billed beyond its cost. A coroutine function is awaited. ``None``: none.
            verified: Whether the first sentence, too, is made whole, checked and asked for again if need be, before it
                is handed over. That takes longer, and no more of it is heard than is right.
            format: ``"pcm"`` hands over the samples, any other what ``StreamEncoder`` makes of them.

        Yields:
            Signed 16-bit little-endian samples of one channel, 24,000 a second, whole samples only; or encoded bytes.

        Raises:
            AudioAPIError: Nothing can be said, or the sound cannot go on; then the text says how much was handed over.
        """
        check_type(request)
        report = Report(request, self._clock)
        stream: SpeechStream | None = None
        response: AudioResponse | None = None
        try:
            async with AsyncExitStack() as opened:
                self._streaming.add(opened)
                opened.callback(self._streaming.discard, opened)
                report.config = self.config
                await asyncio.to_thread(require_format, format, get_args(StreamFormat))
                speaker = await opened.enter_async_context(self._drafting.speaking(report.config))
                utterance, notes = await speaker.read(request)
                report.calls += notes
                pieces, notes = await speaker.plan(utterance, None if verified else FIRST_CHARS)
                speaker.check(pieces)
                report.calls += notes
                stream = SpeechStream(pieces, speaker, SpeakOptions(request.cache), verified=verified)
                sound = stream.blocks()
                blocks = aclosing(sound if format == "pcm" else encoded(sound, format))
                async for block in await opened.enter_async_context(blocks):
                    yield block
            report.calls += stream.calls
            response = report.success(Delivered(stream.seconds, stream.joint.model))
        except AudioAPIError as error:
            report.calls += calls_of(error)
            response = report.failure(error)
            raise
        except (GeneratorExit, asyncio.CancelledError):
            report.calls += stream.calls if stream else ()
            response = report.left(stream.seconds if stream else 0.0)
            raise
        finally:
            if response is not None:
                await tell(on_done, response)

    async def estimate(self, request: AudioRequest) -> Estimate:
        """Tell what a request will take, before anything is paid: calls, seconds, tokens, and dollars by service tier.

        The API counts the input tokens, free of charge; without a key or an answer they are estimated.

        Args:
            request: As ``generate_audio``. Its pieces that were made before cost nothing.

        Raises:
            AudioAPIError: No call could speak it, or the settings are wrong.
        """
        check_type(request)
        async with self._drafting.speaking(self.config) as speaker:
            return await estimate_request(request, speaker, self._clock.now().date())

    async def health_check(self) -> ServiceHealth:
        """Ask, without billing, whether the engine can be reached and knows the default model.

        Never raises an ``AudioAPIError``.
        """
        name = self._engine.name if self._engine else ""
        try:
            config = self.config
            name = name or config.tts_engine
            async with self._drafting.speaking(config) as speaker:
                await speaker.engine.health_check(str(config.default_tts_model))
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
        config = self.config
        async with self._drafting.speaking(config) as speaker:
            await speaker.engine.warm_up(str(config.default_tts_model))

    async def close(self) -> None:
        """End the connections and processes that this service opened. May be called twice.

        A request in progress fails if its call is cut by that, and its call is not made again.
        """
        await self._drafting.close()


def check_type(request: AudioRequest) -> None:
    """Refuse what is no request: the likeliest slip without a type checker is ``generate_audio("Hello")``.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(request, AudioRequest):
        raise TypeError(f"what is spoken is an AudioRequest(text=…), not a {type(request).__name__}")
