"""From a request to a finished draft: with the engine of the settings in force, and no file that another one writes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import get_args

from audio_api.audio.durable import check_target
from audio_api.audio.wav import SAMPLE_RATE, decode_wav
from audio_api.config import AudioConfig
from audio_api.engines.base import SpeechAudio, SpeechEngine
from audio_api.errors import AudioAPIError, ErrorCode, TTSOutputError, TTSValidationError
from audio_api.models.audio_request import AudioRequest, AudioResponse, SpeechProgress
from audio_api.models.sound_formats import OutputFormat
from audio_api.retry import Clock
from audio_api.services.delivery import Delivery, check_names
from audio_api.services.report import Delivered, Report
from audio_api.speech.assembly import Draft, Joint, SpeechCallback, Target, joined_blocks, tell, write_blocks, write_one
from audio_api.speech.cost import Outcome, calls_of
from audio_api.speech.formats import artist_of, filename_of, require_format
from audio_api.speech.listening import Listener, Recogniser
from audio_api.speech.ordered_pieces import OrderedPieces
from audio_api.speech.planning import PlannedPiece, SpokenPiece, check_length
from audio_api.speech.speaker import PieceSpeaker, SpeakOptions, content_key
from audio_api.speech.streaming import FIRST_CHARS, SpeechStream
from audio_api.speech.subtitle_files import check_subtitles, write_subtitles

# The fields of a file's status that a rename does not change.
_IDENTITY = ("st_ino", "st_size", "st_mtime_ns")


class SpeechDraft:
    """Speech that is finished, in a file without a name; or the failure that stands in its place.

    Args:
        draft: The file, or why there is none.
        report: Writes the response.
        delivery: Brings the file into the store; ``None``: it gets its name where it is.
    """

    def __init__(self, draft: Draft | AudioAPIError, report: Report, delivery: Delivery | None = None) -> None:
        self._draft = draft
        self._report = report
        self._delivery = delivery

    @property
    def note(self) -> dict[str, object] | None:
        """What tells the file, once it is published, from any other: its name as ``file``, and more.

        ``None``: there is no file.
        """
        if isinstance(self._draft, AudioAPIError):
            return None
        if self._delivery:
            return self._delivery.note
        return {"file": self._draft.recording.path.name, **_identity_of(self._draft.identity)}

    @property
    def unsure_calls(self) -> int:
        """How many calls failed without a word on whether they were billed."""
        return sum(call.outcome is Outcome.UNSURE for call in self._report.calls)

    async def publish(self, before: float = inf) -> AudioResponse:
        """Give the file its name, or put it into the store, and the subtitles beside it.

        Args:
            before: The moment, in seconds of ``time.monotonic``, from which on the file may not get its name any more.

        Returns:
            What ``generate_audio`` returns. When the store did not take the file (an error of ``StoreError``), it may
            be published again.

        Raises:
            TooLateError: That moment is over; the draft may be published with a later one.
        """
        if isinstance(self._draft, AudioAPIError):
            return self._report.failure(self._draft)
        try:
            if self._delivery:
                return self._report.success(await self._delivery.run(before))
            recording = await self._draft.publish(before)
            kinds = self._report.request.subtitles
            subtitles = await write_subtitles(self._draft, recording, kinds) if kinds else ()
        except AudioAPIError as error:
            return self._report.failure(error)
        paths = tuple(map(str, subtitles))
        return self._report.success(
            Delivered(recording.duration_s, recording.model, str(recording.path), subtitles=paths)
        )


def is_noted(file: os.stat_result, note: Mapping[str, object]) -> bool:
    """Whether a draft's ``note`` was of this very file, rather than of another one of its name."""
    return _identity_of(file) == {name: note.get(name) for name in _IDENTITY}


def _identity_of(file: os.stat_result) -> dict[str, int]:
    return {name: getattr(file, name) for name in _IDENTITY}


@dataclass(frozen=True, slots=True)
class Writing:
    """The file of one request, which is being spoken.

    Attributes:
        speaker: Speaks it.
        options: How its pieces are spoken.
        report: Gets the calls.
        target: Where the file goes.
        opened: Removes the file at its end, unless it was published.
        on_progress: Told after each piece; ``None``: no listener is told.
    """

    speaker: PieceSpeaker
    options: SpeakOptions
    report: Report
    target: Target
    opened: AsyncExitStack
    on_progress: SpeechCallback | None

    async def short(self, piece: PlannedPiece, unsaved: AudioResponse | None) -> Draft:
        """Speak what is one piece; of an earlier response whose file could not be written, write the sound."""
        if unsaved and unsaved.unsaved_audio:
            self.report.earlier = unsaved
            pcm = decode_wav(unsaved.unsaved_audio).pcm
            spoken = SpokenPiece(piece, SpeechAudio(pcm, SAMPLE_RATE, unsaved.model or piece.utterance.model))
        else:
            spoken = await self.speaker.speak(piece, self.options)
            self.report.calls += spoken.calls
        draft = await write_one(spoken, self.target, self.opened)
        if self.on_progress:
            seconds = draft.recording.duration_s
            await tell(self.on_progress, SpeechProgress(pieces_done=1, pieces_total=1, seconds=seconds))
        return draft

    async def long(self, pieces: Sequence[PlannedPiece]) -> Draft:
        """Speak pieces, a few at a time, into one file."""
        joint = Joint()
        async with OrderedPieces(pieces, self.speaker, self.options) as ordered:
            async with aclosing(ordered.in_order()) as parts, aclosing(joined_blocks(parts, joint)) as blocks:
                draft = await write_blocks(blocks, joint, len(pieces), self.target, self.opened, self.on_progress)
            notes = await self.speaker.compare(draft.recording.lines)
        self.report.calls += [*ordered.calls, *notes]
        return draft

    async def growing(self, pieces: Sequence[PlannedPiece]) -> Draft:
        """Speak pieces as a stream, into a file that is heard while it grows."""
        stream = SpeechStream(pieces, self.speaker, self.options)
        try:
            async with aclosing(stream.blocks()) as blocks:
                draft = await write_blocks(
                    blocks, stream.joint, stream.total, self.target, self.opened, self.on_progress, growing=True
                )
        except AudioAPIError as error:
            error.calls = stream.calls
            raise
        self.report.calls += stream.calls
        return draft


class Drafting:
    """What a ``TTSService`` shares among its requests.

    Args:
        settings: The settings now.
        make: Makes the source of speech from settings; it is closed here.
        engine: The source of speech, never closed here; ``None``: what ``make`` makes.
        clock: Time and chance.
        recogniser: Listens to takes; ``None``: the model of the settings does.

    Attributes:
        make: As given.
        speakers: Of each configuration that is in use, and of the one in force, the last: how many requests use it.
    """

    def __init__(
        self,
        settings: Callable[[], AudioConfig],
        make: Callable[[AudioConfig], SpeechEngine],
        engine: SpeechEngine | None,
        clock: Clock,
        recogniser: Recogniser | None = None,
    ) -> None:
        self._settings = settings
        self.make = make
        self._engine = engine
        self._clock = clock
        self._recogniser = recogniser
        self.speakers: dict[PieceSpeaker, int] = {}
        self._is_closed = False
        self._being_written: set[Path] = set()

    async def close(self) -> None:
        """End the connections and processes that were opened here. May be called twice."""
        self._is_closed = True
        while self.speakers:
            await self._end(next(iter(self.speakers)))

    @asynccontextmanager
    async def draft(
        self,
        request: AudioRequest,
        options: SpeakOptions,
        on_progress: SpeechCallback | None,
        unsaved: AudioResponse | None = None,
        *,
        growing: bool = False,
        task: str = "",
    ) -> AsyncIterator[SpeechDraft]:
        """A draft, or the failure that stands in its place; the arguments are those of ``TTSService.prepare``.

        Args:
            request: What to speak.
            options: How its pieces are spoken.
            on_progress: Told after each piece.
            unsaved: The response whose sound is only to be written.
            growing: Whether the file is heard while it grows.
            task: The queued task that asks for it.
        """
        report = Report(request, self._clock, task=task)
        draft: Draft | AudioAPIError
        delivery: Delivery | None = None
        async with AsyncExitStack() as opened:
            try:
                report.config = self._settings()
                speaker = await opened.enter_async_context(self.speaking(report.config))
                pieces, target = await self.plan(speaker, report, opened, growing=growing)
                writing = Writing(speaker, options, report, target, opened, on_progress)
                if growing:
                    draft = await writing.growing(pieces)
                elif len(pieces) == 1:
                    draft = await writing.short(pieces[0], unsaved)
                else:
                    draft = await writing.long(pieces)
                if speaker.store:
                    delivery = await Delivery.of(speaker.store, draft, request.subtitles, task)
            except AudioAPIError as error:
                report.calls += calls_of(error)
                draft = error
            yield SpeechDraft(draft, report, delivery)

    async def plan(
        self, speaker: PieceSpeaker, report: Report, opened: AsyncExitStack, *, growing: bool
    ) -> tuple[list[PlannedPiece], Target]:
        """Refuse what can be refused before a call; the pieces, and where the file goes.

        Args:
            speaker: Speaks them.
            report: Of the request; gets what is to be known of its text.
            opened: Keeps the file's name until it ends.
            growing: Whether the file is heard while it grows.

        Raises:
            AudioAPIError: The request cannot be fulfilled.
        """
        request, folder = report.request, speaker.config.output_dir
        output_format = request.format_or(speaker.config.output_format)
        if output_format != "wav":
            await asyncio.to_thread(require_format, output_format, get_args(OutputFormat))
        utterance, notes = await speaker.read(request)
        report.calls += notes
        key = content_key(utterance, speaker.engine.name)
        name = filename_of(request, output_format) or f"{key}.{output_format}"
        # A name that is made from the content names the same sound again.
        overwrite = request.overwrite or request.output_filename is None
        if speaker.store and not overwrite:
            await check_names(speaker.store, name, request.subtitles, report.task, key)
        if request.subtitles and not speaker.store:
            await check_subtitles(folder / name, request.subtitles, overwrite)
        opened.enter_context(self._claim(folder / name, overwrite))
        pieces, notes = await speaker.plan(utterance, FIRST_CHARS if growing else None)
        speaker.check(pieces)
        report.calls += notes
        if len(pieces) > 1 and output_format == "wav":
            check_length(pieces)
        # In the store's case the folder only holds the draft: a file of that name is of no concern.
        real = await check_target(folder, name, overwrite=overwrite or speaker.store is not None)
        return pieces, Target(folder / name, overwrite, real, key, output_format, artist_of(utterance))

    async def missing(
        self, requests: Sequence[AudioRequest], config: AudioConfig
    ) -> list[list[PlannedPiece] | AudioAPIError]:
        """Of each request the pieces that are not kept, or why it cannot be fulfilled.

        Args:
            requests: What to speak.
            config: The settings.

        Raises:
            AudioAPIError: None can be fulfilled.
        """
        missing: list[list[PlannedPiece] | AudioAPIError] = []
        async with self.speaking(config) as speaker, AsyncExitStack() as opened:
            for request in requests:
                try:
                    pieces, _ = await self.plan(speaker, Report(request, self._clock), opened, growing=False)
                except (TTSValidationError, TTSOutputError) as error:
                    missing.append(error)
                    continue
                kept = [request.cache and await speaker.recall(piece) for piece in pieces]
                missing.append([piece for piece, is_kept in zip(pieces, kept, strict=True) if not is_kept])
        return missing

    @asynccontextmanager
    async def speaking(self, config: AudioConfig) -> AsyncIterator[PieceSpeaker]:
        """The speaker of these settings, which are in force from now on; the last request of others ends theirs.

        Raises:
            RuntimeError: The service is closed, or another event loop that still runs uses it.
            AudioAPIError: The engine cannot be made.
        """
        if self._is_closed:
            raise RuntimeError("this TTSService is closed")
        speaker = next(reversed(self.speakers), None)
        if speaker is None or speaker.config is not config:
            listener = Listener.of(config, self._recogniser)
            speaker = PieceSpeaker(config, self._engine or self.make(config), self._clock, listener)
            self.speakers[speaker] = 0
        speaker.enter_loop()
        self.speakers[speaker] += 1
        try:
            yield speaker
        finally:
            # All were ended when the service was closed meanwhile.
            if speaker in self.speakers:
                self.speakers[speaker] -= 1
                *replaced, _ = self.speakers.items()
                for other, users in replaced:
                    if not users:
                        await self._end(other)

    async def _end(self, speaker: PieceSpeaker) -> None:
        del self.speakers[speaker]
        # Calls in progress fail when the engine is closed, and are not paid for twice.
        speaker.desk.is_closed = True
        if self._engine is None:
            await speaker.engine.close()

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
