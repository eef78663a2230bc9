"""What a request comes to: a finished draft of a file, and the response that reports it."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from math import inf

from audio_api.audio.wav import SAMPLE_RATE, decode_wav
from audio_api.config import AudioConfig
from audio_api.engines.base import SpeechAudio
from audio_api.errors import AudioAPIError, TTSOutputError, TTSQuotaError
from audio_api.models.audio_request import AudioRequest, AudioResponse, SpeechProgress
from audio_api.models.sound_formats import format_of
from audio_api.retry import Clock
from audio_api.services.delivery import Delivery
from audio_api.speech.assembly import Draft, Joint, SpeechCallback, Target, joined_blocks, tell, write_blocks, write_one
from audio_api.speech.cost import Call, Outcome, add_up
from audio_api.speech.ordered_pieces import OrderedPieces
from audio_api.speech.planning import PlannedPiece, SpokenPiece
from audio_api.speech.speaker import PieceSpeaker, SpeakOptions
from audio_api.speech.streaming import SpeechStream
from audio_api.speech.subtitle_files import write_subtitles

IDENTITY = ("st_ino", "st_size", "st_mtime_ns")
"""The fields of a file's status that a rename does not change."""

# The event is one of the service, wherever its report is written.
logger = logging.getLogger("audio_api.services.tts_service")


@dataclass(slots=True)
class Report:
    """Writes the response to one request.

    Attributes:
        request: What was asked for.
        clock: Tells how long it took, and the day whose prices hold.
        config: The settings; ``None``: they are wrong.
        calls: The calls so far, and what is to be known besides.
        earlier: The response to the same request whose file could not be written; what it used counts as well.
        task: The queued task that asked for it; empty: none did.
    """

    request: AudioRequest
    clock: Clock
    config: AudioConfig | None = None
    calls: list[Call] = field(default_factory=list)
    earlier: AudioResponse | None = None
    task: str = ""
    started_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.started_s = self.clock.monotonic()

    def success(self, message: str, model: str | None, seconds: float, **files: object) -> AudioResponse:
        """The response to a request that was fulfilled.

        Args:
            message: One sentence for people.
            model: The model that spoke.
            seconds: The length of the sound.
            **files: The fields of ``AudioResponse`` that name files.
        """
        return self._written(success=True, message=message, duration=seconds, model=model, **files)

    def failure(self, error: AudioAPIError) -> AudioResponse:
        """The response to a request that failed."""
        return self._written(
            success=False,
            message=f"no speech: {error}",
            error=str(error),
            error_code=error.code,
            retryable=error.retryable,
            retry_after_s=error.retry_after_s,
            reset_at=error.reset_at if isinstance(error, TTSQuotaError) else None,
            model=error.model if isinstance(error, TTSOutputError) else None,
            unsaved_audio=error.audio if isinstance(error, TTSOutputError) else None,
            doubtful=(),
        )

    def left(self, seconds: float) -> AudioResponse:
        """The response to a request whose listener left, which is no error."""
        text = f"the listener left after {seconds:.1f} s of sound"
        return self._written(success=False, message=f"no speech: {text}", error=text, doubtful=())

    def _written(self, **fields: object) -> AudioResponse:
        cost = add_up(self.calls, self.config.model_prices if self.config else {}, self.clock.now().date())
        used = {name: getattr(cost, name) for name in cost.__slots__}
        if self.earlier:
            used |= {
                "attempts": cost.attempts + self.earlier.attempts,
                "cached_pieces": cost.cached_pieces + self.earlier.cached_pieces,
                "usage": cost.usage + self.earlier.usage,
                "cost_usd": self.earlier.cost_usd,
                "warnings": tuple(dict.fromkeys((*cost.warnings, *self.earlier.warnings))),
            }
        response = AudioResponse(**{**used, "processing_time": self.clock.monotonic() - self.started_s, **fields})
        _log(self.request, response)
        return response


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
        return {"file": self._draft.recording.path.name, **identity_of(self._draft.identity)}

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
        if self._delivery:
            try:
                done = await self._delivery.run(before)
            except AudioAPIError as error:
                return self._report.failure(error)
            return self._report.success(
                f"{done.duration_s:.2f} s of speech in {done.url}",
                done.model,
                done.duration_s,
                file_path=done.file_path,
                url=done.url,
                output_format=format_of(done.url or ""),
                subtitle_paths=done.subtitles or (),
            )
        try:
            recording = await self._draft.publish(before)
            kinds = self._report.request.subtitles
            subtitles = await write_subtitles(self._draft, recording, kinds) if kinds else ()
        except AudioAPIError as error:
            return self._report.failure(error)
        return self._report.success(
            f"{recording.duration_s:.2f} s of speech in {recording.path.name}",
            recording.model,
            recording.duration_s,
            file_path=str(recording.path),
            output_format=self._draft.output_format,
            subtitle_paths=tuple(map(str, subtitles)),
        )


def identity_of(file: os.stat_result) -> dict[str, int]:
    """What tells this file from any other of its name; a rename changes none of it."""
    return {name: getattr(file, name) for name in IDENTITY}


def _log(request: AudioRequest, response: AudioResponse) -> None:
    """Log one event. The text itself is private: its length and a short hash are enough to recognise it."""
    # A listener may leave at any time: that has no code, and warns of nothing.
    level = logging.WARNING if response.error_code or response.doubtful else logging.INFO
    if not logger.isEnabledFor(level):
        return
    ended = "no speech made" if response.error_code else "listener left"
    logger.log(
        level,
        "speech made" if response.success else ended,
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


async def write_short(
    piece: PlannedPiece,
    speaker: PieceSpeaker,
    options: SpeakOptions,
    report: Report,
    target: Target,
    opened: AsyncExitStack,
    on_progress: SpeechCallback | None,
    unsaved: AudioResponse | None,
) -> Draft:
    """Speak what is one piece into a draft."""
    if unsaved and unsaved.unsaved_audio:
        report.earlier = unsaved
        pcm = decode_wav(unsaved.unsaved_audio).pcm
        spoken = SpokenPiece(piece, SpeechAudio(pcm, SAMPLE_RATE, unsaved.model or piece.utterance.model))
    else:
        spoken = await speaker.speak(piece, options)
        report.calls += spoken.calls
    draft = await write_one(spoken, target, opened)
    if on_progress:
        seconds = draft.recording.duration_s
        await tell(on_progress, SpeechProgress(pieces_done=1, pieces_total=1, seconds=seconds))
    return draft


async def write_long(
    pieces: Sequence[PlannedPiece],
    speaker: PieceSpeaker,
    options: SpeakOptions,
    report: Report,
    target: Target,
    opened: AsyncExitStack,
    on_progress: SpeechCallback | None,
) -> Draft:
    """Speak pieces, a few at a time, into a draft of all."""
    joint = Joint()
    async with OrderedPieces(pieces, speaker, options) as ordered:
        async with aclosing(ordered.in_order()) as parts, aclosing(joined_blocks(parts, joint)) as blocks:
            draft = await write_blocks(blocks, joint, len(pieces), target, opened, on_progress)
        notes = await speaker.compare(draft.recording.lines)
    report.calls += [*ordered.calls, *notes]
    return draft


async def write_stream(
    stream: SpeechStream,
    report: Report,
    target: Target,
    opened: AsyncExitStack,
    on_progress: SpeechCallback | None,
) -> Draft:
    """Write a stream into a draft that grows as it is heard."""
    try:
        async with aclosing(stream.blocks()) as blocks:
            draft = await write_blocks(blocks, stream.joint, stream.total, target, opened, on_progress, growing=True)
    except AudioAPIError as error:
        error.calls = stream.calls
        raise
    report.calls += stream.calls
    return draft
