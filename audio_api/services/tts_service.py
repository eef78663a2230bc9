"""The door to speech: requests, one at a time as ``SpeechService`` speaks them, or many at once, books and voices."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from audio_api.engines.from_settings import make_engine
from audio_api.errors import (
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
from audio_api.models.audio_request import AudioRequest, AudioResponse, BatchAudioRequest, BatchAudioResponse
from audio_api.models.sound_formats import SubtitleKind
from audio_api.models.user_text import has_words
from audio_api.models.voice_library import VoiceInfo, VoiceQuery
from audio_api.models.voices import VoiceName, is_custom, parse_voice
from audio_api.retry import call_with_retry
from audio_api.services.batch_means import Means
from audio_api.services.drafts import SpeechDraft
from audio_api.services.health import ServiceHealth
from audio_api.services.report import finished_batch
from audio_api.services.sound_access import SoundAccess
from audio_api.services.speech_service import ResponseCallback, SpeechService, check_type
from audio_api.speech.assembly import SpeechCallback, tell
from audio_api.speech.attempts import policy_of

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

ProgressCallback = Callable[[int, int, AudioResponse], Awaitable[None] | None]
"""Called after each request of a batch with: requests finished, requests in all, this request's response."""


class TTSService(SpeechService):
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

    @property
    def means(self) -> Means:
        """What batches are made with; for workers."""
        return Means(self.config, self._clock, self._drafting.make, self._recogniser)

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
        items = _items_of(requests)
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
        return finished_batch(batch_id or uuid.uuid4().hex, [results[index] for index in range(len(items))])

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

        # The tier "batch" stands for this very door, and for no call.
        items = tuple(
            item.model_copy(update={"service_tier": None}) if item.service_tier == "batch" else item
            for item in _items_of(requests)
        )
        means = self.means
        if not means.config.cache_max_bytes:
            raise ConfigurationError("CACHE_MAX_BYTES=0: a batch keeps its pieces in the cache; allow it some bytes")
        batch = await asyncio.to_thread(GeminiBatch.resumed, items, name, means)
        if batch is None:
            missing = await self._drafting.missing(items, means.config)
            batch = await GeminiBatch.begin(items, missing, name, means)
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
        make = self._drafting.make
        async with SpeechService(
            config, engine=self._engine, engine_factory=make, recogniser=self._recogniser, clock=self._clock
        ) as speaker:
            return await narration.narrate(
                book, speaker, config, narrator or Narrator(), target, chapters=chapters, on_progress=on_progress
            )

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

    async def audio_url(
        self, response: AudioResponse, expires_s: float = 3_600.0, subtitles: SubtitleKind | None = None
    ) -> str:
        """A link with which anyone may read the sound of a response for a while.

        Args:
            response: A success whose ``url`` is in ``OUTPUT_URL``.
            expires_s: How long the link is valid, in seconds: up to 7 days.
            subtitles: The kind of the subtitles that the link is to lead to; ``None``: it leads to the sound.

        Raises:
            AudioAPIError: The response is a failure; as its ``raise_for_error()``.
            ConfigurationError: The sound is in no store, or in one that is not ``OUTPUT_URL``.
            StoreError: The store's credentials cannot sign.
            ValueError: The time is none of these, or the sound has no such subtitles.
        """
        return await SoundAccess(self.config).link(response, expires_s, subtitles)


def _items_of(requests: BatchAudioRequest | Sequence[AudioRequest]) -> tuple[AudioRequest, ...]:
    items = requests.requests if isinstance(requests, BatchAudioRequest) else tuple(requests)
    if not items:
        raise TTSValidationError("a batch needs at least one request")
    for item in items:
        check_type(item)
    return items
