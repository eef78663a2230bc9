"""The door for requests: each one becomes a verified file, a stream, or an error, and a report of what it used."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, get_args

from audio_api.audio.encoding import encoded
from audio_api.config import AudioConfig, get_config
from audio_api.engines.base import SpeechEngine
from audio_api.engines.from_settings import make_engine
from audio_api.errors import (
    AudioAPIError,
    ConfigurationError,
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
)
from audio_api.models.estimate import Estimate
from audio_api.models.sound_formats import StreamFormat
from audio_api.models.user_text import has_words
from audio_api.models.voice_library import VoiceInfo, VoiceQuery
from audio_api.models.voices import VoiceName, is_custom, parse_voice
from audio_api.retry import Clock, call_with_retry
from audio_api.services.drafts import Drafting, SpeechDraft
from audio_api.services.health import ServiceHealth
from audio_api.services.report import Report
from audio_api.services.sound_access import SoundAccess
from audio_api.speech.assembly import SpeechCallback, tell
from audio_api.speech.attempts import policy_of
from audio_api.speech.cost import calls_of
from audio_api.speech.estimate import estimate_request
from audio_api.speech.formats import require_format
from audio_api.speech.listening import Recogniser
from audio_api.speech.speaker import SpeakOptions
from audio_api.speech.streaming import FIRST_CHARS, SpeechStream

if TYPE_CHECKING:
    from audio_api.books.audiobook import Audiobook, BookFormat, BookProgressCallback
    from audio_api.books.book import Book
    from audio_api.books.narrator import Narrator
    from audio_api.services.gemini_batch import GeminiBatch

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

ProgressCallback = Callable[[int, int, AudioResponse], Awaitable[None] | None]
"""Called after each request of a batch with: requests finished, requests in all, this request's response."""

ResponseCallback = Callable[[AudioResponse], Awaitable[None] | None]
"""Called with what became of a request."""


class TTSService:
    """Turns requests into verified sound files. Ends with ``close()`` or its ``async with``.

    Belongs to one event loop for as long as that runs; the next ``asyncio.run()`` may go on with it.

    Args:
        config: The settings; ``None``: ``get_config()`` at every request, so that ``reload_config()`` takes effect.
        gemini_client: Anything shaped like ``google.genai.Client``, used instead of one made here and never closed
            here; ``None``: one is made from the settings.
        engine: The source of speech, never closed here; ``None``: what the settings say.
        engine_factory: Makes the source of speech from settings, once for each that take effect; it is closed here when
            others have taken effect and its last request has ended, or with the service. ``None``: ``make_engine`` with
            the client. Not asked when there is an ``engine``.
        recogniser: Listens to takes when the setting ``listen`` says so: anything with a ``listen(pcm, language)``, as
            ``audio_api.speech.listening.Recogniser`` says. ``None``: the Whisper model of the setting
            ``listen_model``.
        clock: Time and chance; ``None``: the real ones.
    """

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
        self._gemini_client = gemini_client
        self._engine = engine
        self._engine_factory = engine_factory
        self._recogniser = recogniser
        self._clock = clock or Clock()
        make = engine_factory or (lambda config: make_engine(config, gemini_client))
        self._drafting = Drafting(lambda: self.config, make, engine, self._clock, recogniser)

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

    @asynccontextmanager
    async def prepare(
        self,
        request: AudioRequest,
        on_progress: SpeechCallback | None = None,
        *,
        unsaved: AudioResponse | None = None,
        attempt_limit_s: float | None = None,
        task: str = "",
    ) -> AsyncIterator[SpeechDraft]:
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

        Yields:
            The finished speech; or the failure, which ``publish`` returns.
        """
        _check_type(request)
        options = SpeakOptions(request.cache, attempt_limit_s)
        async with self._drafting.draft(request, options, on_progress, unsaved, task=task) as draft:
            yield draft

    async def stream_to_file(self, request: AudioRequest, on_progress: SpeechCallback | None = None) -> AudioResponse:
        """Speak one request into a file that can be played while it grows, as ``NAME.part.wav`` beside the final one.

        Args:
            request: What to speak; not as m4a, which cannot be played while it grows.
            on_progress: As in ``generate_audio``.

        Returns:
            As ``generate_audio``; a stream that fails leaves no file.
        """
        _check_type(request)
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
        _check_type(request)
        report = Report(request, self._clock)
        stream: SpeechStream | None = None
        response: AudioResponse | None = None
        try:
            async with AsyncExitStack() as opened:
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
                async with aclosing(sound if format == "pcm" else encoded(sound, format)) as blocks:
                    async for block in blocks:
                        yield block
            report.calls += stream.calls
            response = report.success(f"{stream.seconds:.2f} s of speech", stream.joint.model, stream.seconds)
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
        _check_type(request)
        async with self._drafting.speaking(self.config) as speaker:
            return await estimate_request(request, speaker, self._clock.now().date())

    async def list_voices(
        self, *, language: str | None = None, gender: str | None = None, search: str | None = None
    ) -> list[VoiceInfo]:
        """List voices, free of charge: those of the account first, then Google's, some 2,100 in all.

        Args:
            language: The BCP-47 code that they were made for; ``"en"`` stands for all regions. ``None``: any.
            gender: ``"female"``, ``"male"`` or ``"neutral"``; ``None``: any.
            search: A part of the name or the description; ``None``: any.

        Raises:
            AudioAPIError: The API could not be asked; a passing failure was tried again.
        """
        query = VoiceQuery(language, gender, search)
        async with self._drafting.speaking(self.config) as speaker:

            async def find() -> list[VoiceInfo]:
                return await speaker.engine.voices().find(query)

            return await call_with_retry(find, policy_of(speaker.config), self._clock)

    async def create_voice(
        self, description: str, *, name: str | None = None, base_voice: str | None = None
    ) -> VoiceInfo:
        """Design a voice in words, in one attempt, which is never repeated; it costs about a cent.

        Args:
            description: How it sounds; with a base voice, what is to be changed.
            name: What people call it; ``None``: no name.
            base_voice: The voice that it is made of; ``None``: of none.

        Raises:
            AudioAPIError: It was not made. When that is not known, the text says so, and ``list_voices`` tells.
        """
        if not has_words(description):
            raise TTSValidationError("a voice is made of a description that has words")
        try:
            base = parse_voice(base_voice) if base_voice else None
        except ValueError as error:
            raise TTSValidationError(str(error)) from None
        async with self._drafting.speaking(self.config) as speaker:
            known = base.value.capitalize() if isinstance(base, VoiceName) else base
            return await speaker.engine.voices().create(description, name, known)

    async def delete_voice(self, voice: str) -> None:
        """Delete a voice of the account, in one attempt.

        Args:
            voice: Its id, ``voice_…``.

        Raises:
            AudioAPIError: It was not deleted.
        """
        if not (is_custom(voice) and voice.startswith("voice_")):
            raise TTSValidationError(f"{voice[:80]!r} is no voice of an account: those are called voice_…")
        async with self._drafting.speaking(self.config) as speaker:
            await speaker.engine.voices().delete(voice)

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
                a coroutine function is awaited. ``None``: no listener is told.

        Returns:
            The responses in the order of the requests.

        Raises:
            TTSValidationError: There are no requests, or ``max_concurrency`` is less than 1.
            ConfigurationError: The settings, which say how many at once, are wrong.
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
        workers = min(len(items), max_concurrency or self.config.max_concurrency)
        results: dict[int, AudioResponse] = {}
        waiting = iter(enumerate(items))

        async def work() -> None:
            for index, request in waiting:
                results[index] = response = await self.generate_audio(request)
                await tell(on_progress, len(results), len(items), response)

        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work())
        completed = sum(response.success for response in results.values())
        return BatchAudioResponse(
            batch_id=batch_id or uuid.uuid4().hex,
            total_requests=len(items),
            completed=completed,
            failed=len(items) - completed,
            results=tuple(results[index] for index in range(len(items))),
            status="completed" if completed else "failed",
        )

    async def submit_batch(
        self, requests: BatchAudioRequest | Sequence[AudioRequest], *, name: str | None = None
    ) -> GeminiBatch:
        """Have requests spoken at half the price by Gemini's Batch API, in minutes or hours.

        Everything that can be known beforehand is checked first; finished pieces are not asked for. The same requests
        submitted again, after a crash, are the same batch until its responses are collected.

        Args:
            requests: A batch, or any number of requests. Their service tier is that of ordinary calls, if these follow.
            name: 1 to 64 letters, digits, ``_`` or ``-``, for ``GeminiBatch.load``; ``None``: made from the requests.

        Returns:
            The batch, whose ``collect()`` waits for it. Its ``status()`` tells whether its jobs are created yet: an
            account has 100 at once, and so many input tokens in them.

        Raises:
            TTSValidationError: There are no requests, or one is wrong, which the text names; nothing was sent.
            ConfigurationError: The settings are wrong, or name an engine or a backend that makes no batches.
            TTSOutputError: A file exists, or another process works on this batch.
            AudioAPIError: Google refuses the job for a reason that a person must mend.
        """
        from audio_api.services.gemini_batch import GeminiBatch

        items = requests.requests if isinstance(requests, BatchAudioRequest) else tuple(requests)
        if not items:
            raise TTSValidationError("a batch needs at least one request")
        for item in items:
            _check_type(item)
        # What stands for this very door, and for no call.
        items = tuple(
            item.model_copy(update={"service_tier": None}) if item.service_tier == "batch" else item for item in items
        )
        config = self.config
        if not config.cache_max_bytes:
            raise ConfigurationError(
                "CACHE_MAX_BYTES=0: a batch keeps finished pieces in the cache; allow it some bytes"
            )
        whole = items, name, config, self._clock, self._drafting.make
        batch = await asyncio.to_thread(GeminiBatch.resumed, *whole)
        if batch is None:
            missing = await self._drafting.missing(items, config)
            batch = await GeminiBatch.begin(items, missing, name, config, self._clock, self._drafting.make)
        await batch.create()
        return batch

    async def narrate(
        self,
        book: Book,
        path: str | Path | None = None,
        *,
        narrator: Narrator | None = None,
        chapters: Sequence[int] | None = None,
        book_format: BookFormat | None = None,
        rss_base_url: str | None = None,
        overwrite: bool = False,
        on_progress: BookProgressCallback | None = None,
    ) -> Audiobook:
        """Speak a book into an audiobook.

        Finished chapters are kept until they are in a file, and finished pieces in the cache: the same call, after a
        failure or a kill, pays for neither. A chapter that fails does not stop the others, unless every other would
        fail alike; the one file of all chapters is written only when none is missing.

        Args:
            book: The book, such as ``audio_api.books.read_book`` gives it.
            path: The file of an m4b, or the folder of the chapters; ``None``: the book's title in the output folder.
            narrator: How it is read; ``None``: as ``Narrator()`` does.
            chapters: Numbers of chapters, from 1 on; ``None``: all.
            book_format: ``"m4b"``, one file, or a format of which each chapter is a file; ``None``: m4b, but mp3 with a
                feed.
            rss_base_url: Where the files will be published; a feed, ``podcast.xml``, is written beside them. ``None``:
                no feed.
            overwrite: Whether existing files may be replaced.
            on_progress: Told how far the book is; a coroutine function is awaited. ``None``: no progress is told.

        Returns:
            What became of each chapter; ``raise_for_error()`` makes an exception of a missing one.

        Raises:
            TTSValidationError: Something about the book or the target is wrong; nothing was spoken.
            TTSOutputError: The files could not be written, and finished chapters are kept; or another run makes them.
            ConfigurationError: The format needs an extra that is not installed, or the settings are wrong.
            ExceptionGroup: ``on_progress`` raised; the chapters in progress are ended.
        """
        from audio_api.books import narration  # numpy takes 0.1 s to import
        from audio_api.books.narrator import Narrator

        # The passages are joined on this machine, wherever the sound of requests goes.
        config = self.config.model_copy(update={"output_url": None})
        target = narration.target_for(
            book, config, path, book_format=book_format, overwrite=overwrite, rss_base_url=rss_base_url
        )
        parts = self._gemini_client, self._engine
        async with TTSService(
            config, *parts, engine_factory=self._engine_factory, recogniser=self._recogniser, clock=self._clock
        ) as speaker:
            return await narration.narrate(
                book, speaker, config, narrator or Narrator(), target, chapters=chapters, on_progress=on_progress
            )

    async def audio_url(self, response: AudioResponse, expires_s: float = 3_600.0) -> str:
        """A link with which anyone may read the sound of a response for a while.

        Args:
            response: A success whose ``url`` is in ``OUTPUT_URL``.
            expires_s: How long the link is valid, in seconds: up to 7 days.

        Raises:
            AudioAPIError: The response is a failure; as its ``raise_for_error()``.
            ConfigurationError: The sound is in no store, or in one that is not ``OUTPUT_URL``.
            StoreError: The store's credentials cannot sign.
            ValueError: The time is none of these.
        """
        return await SoundAccess(self.config).link(response, expires_s)

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


def _check_type(request: AudioRequest) -> None:
    if not isinstance(request, AudioRequest):
        raise TypeError(f"what is spoken is an AudioRequest(text=…), not a {type(request).__name__}")
