"""Finished pieces, in order, into one file: joined without a trace, and never held in memory all at once."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from inspect import isawaitable
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from audio_api.audio.large_sounds import in_sound_thread
from audio_api.audio.wav import SAMPLE_RATE, encode_wav
from audio_api.audio.wav_file import MOST_UNSAVED_BYTES, WavWriter
from audio_api.engines.base import SpeechAudio, WordTime
from audio_api.errors import AudioAPIError, TTSOutputError
from audio_api.models.audio_request import SpeechProgress
from audio_api.models.sound_formats import OutputFormat
from audio_api.speech.planning import PlannedPiece, SpokenPiece

if TYPE_CHECKING:
    from audio_api.audio.joining import Span

# Joining takes a thousandth of the sound's duration; above this it would hold up the event loop for over 10 ms.
_THREAD_ABOVE_S = 10.0

SpeechCallback = Callable[[SpeechProgress], Awaitable[None] | None]
"""Called after each piece of a request."""


async def tell(listener: Callable[..., Awaitable[None] | None] | None, *news: object) -> None:
    """Call a listener, if there is one, and await what it returns when that can be awaited.

    Args:
        listener: Takes the news; ``None``: no listener is told.
        *news: Its arguments.
    """
    if listener is not None and isawaitable(told := listener(*news)):
        await told


@dataclass(frozen=True, slots=True)
class Line:
    """What is heard when, in seconds from the start of the file; each word, too, if the engine knew."""

    piece: PlannedPiece
    start_s: float
    end_s: float
    words: tuple[WordTime, ...] = ()


@dataclass(frozen=True, slots=True)
class Recording:
    """A finished file.

    Attributes:
        path: Where it is.
        duration_s: Its length in seconds.
        model: The model that spoke last.
        lines: What is heard when, a piece each, in order.
    """

    path: Path
    duration_s: float
    model: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a recording goes.

    Attributes:
        path: Its file.
        overwrite: Whether an existing file may be replaced.
        real: The file's folder, as ``check_target`` found it.
        key: The content key of everything that is spoken.
        output_format: What it is.
        artist: Whose voice it is.
    """

    path: Path
    overwrite: bool
    real: Path
    key: str = ""
    output_format: OutputFormat = "wav"
    artist: str = ""

    def writer(self, *, growing: bool = False) -> WavWriter:
        """What writes the file; as ``WavWriter``."""
        return WavWriter(
            self.path.parent,
            self.path.name,
            overwrite=self.overwrite,
            growing=growing,
            real=self.real,
            output_format=self.output_format,
        )

    def tags(self, model: str) -> dict[str, str]:
        """What the file says about itself, which holds nothing of the text.

        Args:
            model: The model that speaks.
        """
        return {"title": self.path.stem, "artist": self.artist, "comment": model}


class Draft:
    """A recording that is complete on disk, and has no name yet.

    Args:
        identity: What the file is. A name changes neither its inode nor its size nor its time.
        recording: The recording; its path is final once it is published.
        writer: Holds the file.
        target: Where it goes.
    """

    def __init__(self, identity: os.stat_result, recording: Recording, writer: WavWriter, target: Target) -> None:
        self.identity = identity
        self.recording = recording
        self.overwrite = target.overwrite
        self.key = target.key
        self.output_format = target.output_format
        self._writer = writer

    @property
    def path(self) -> Path:
        """Where the file is now."""
        return self._writer.draft_path

    async def wav(self) -> bytes | None:
        """Its sound as a whole WAV, whatever its format is; ``None``: that is too large for memory."""
        sound = await self._writer.sound()
        return None if sound is None else encode_wav(sound)

    async def publish(self, before: float = inf) -> Recording:
        """Give the file its name.

        Args:
            before: As ``WavWriter.commit``.

        Raises:
            TooLateError: As ``WavWriter.commit``.
            TTSOutputError: As ``WavWriter.commit``. Its ``audio`` is the whole WAV, if that is not too large.
        """
        try:
            return replace(self.recording, path=await self._writer.commit(before))
        except TTSOutputError as error:
            if self._writer.unsaved:
                error.audio, error.model = encode_wav(self._writer.unsaved), self.recording.model
            raise


async def write_one(spoken: SpokenPiece, target: Target, opened: AsyncExitStack) -> Draft:
    """Write the only piece of a text. Where it was just kept, the file and the cache share the bytes (a hard link).

    Args:
        spoken: The piece.
        target: Where the file goes.
        opened: Removes the file at its end, unless it was published.

    Raises:
        TTSOutputError: The file could not be written. Its ``audio`` is the whole WAV.
    """
    audio = spoken.audio
    writer = target.writer()
    opened.push_async_exit(writer)
    writer.describe(target.tags(audio.model))
    try:
        identity = await writer.hold(audio.pcm, spoken.file)
    except TTSOutputError as error:
        error.audio, error.model = encode_wav(audio.pcm), audio.model
        raise
    lines = (Line(spoken.piece, 0.0, audio.duration_s, audio.words),)
    return Draft(identity, Recording(target.path, audio.duration_s, audio.model, lines), writer, target)


async def write_blocks(
    blocks: AsyncIterator[bytes],
    joint: Joint,
    total: int,
    target: Target,
    opened: AsyncExitStack,
    on_progress: SpeechCallback | None,
    *,
    growing: bool = False,
) -> Draft:
    """Write a sound as it is made; when that fails, make the rest in memory.

    Args:
        blocks: The sound.
        joint: Knows how much of it there is.
        total: Pieces in all.
        target: Where the file goes.
        opened: Removes the file at its end, unless it was published.
        on_progress: Told after each piece; of a growing file after each block. ``None``: no listener is told.
        growing: As ``WavWriter``.

    Raises:
        TTSOutputError: The file could not be written. Its ``audio`` is the whole WAV, unless that has, or seems to
            get, more than ``MOST_UNSAVED_BYTES``, or the rest could not be made.
    """
    writer = await opened.enter_async_context(target.writer(growing=growing))
    block = b""
    written_bytes = pieces_told = 0
    try:
        async for block in blocks:
            if not written_bytes:
                writer.describe(target.tags(joint.model))
            await writer.write(block)
            written_bytes += len(block)
            block = b""  # it would stay in memory while the next one is made
            if growing or joint.pieces > pieces_told:
                pieces_told = joint.pieces
                seconds = written_bytes / 2 / SAMPLE_RATE if growing else joint.duration_s
                await tell(on_progress, SpeechProgress(pieces_done=pieces_told, pieces_total=total, seconds=seconds))
        return Draft(await writer.prepare(), joint.recording(target.path), writer, target)
    except TTSOutputError as error:
        expected_s = joint.duration_s * total / max(joint.pieces, 1)
        if writer.unsaved is not None and expected_s * 2 * SAMPLE_RATE <= MOST_UNSAVED_BYTES:
            error.audio, error.model = await _completed(writer.unsaved + block, blocks), joint.model
        raise


async def _completed(begun: bytes, blocks: AsyncIterator[bytes]) -> bytes | None:
    sound = bytearray(begun)
    try:
        async for block in blocks:
            sound += block
            if len(sound) > MOST_UNSAVED_BYTES:
                return None
    except AudioAPIError:
        return None
    return encode_wav(bytes(sound))


async def joined_blocks(parts: AsyncIterator[SpokenPiece], joint: Joint) -> AsyncGenerator[bytes, None]:
    """The sound of pieces, joined."""
    with suppress(StopAsyncIteration):
        while True:
            # A local variable would hold the sound while the next piece is made.
            yield await joint.add(await anext(parts))
    yield joint.finish()


async def joined(parts: Sequence[SpokenPiece]) -> SpeechAudio:
    """Pieces as the sound of a single one, which is kept like any other."""
    joint = Joint()
    pcm = b"".join([await joint.add(part) for part in parts] + [joint.finish()])
    first, *others = (part.audio for part in parts)
    heard = min((part.audio.heard for part in parts if part.audio.heard is not None), default=None)
    for other in others:
        first = replace(
            first,
            usage=first.usage + other.usage,
            warnings=first.warnings + other.warnings,
            doubtful=first.doubtful + other.doubtful,
        )
    return replace(first, pcm=pcm, words=(), heard=heard)


class Joint:
    """One sound that grows by a piece at a time, and knows what is heard when."""

    def __init__(self) -> None:
        from audio_api.audio import joining  # numpy takes 0.1 s to import

        self._joining = joining
        self._joiner = joining.Joiner()
        self._said: list[tuple[PlannedPiece, tuple[WordTime, ...]]] = []
        self.model = ""

    @property
    def pieces(self) -> int:
        """Pieces so far."""
        return len(self._said)

    @property
    def duration_s(self) -> float:
        """Seconds so far; final when the sound is finished."""
        spans = self._joiner.spans
        return spans[-1].end / SAMPLE_RATE if spans else 0.0

    async def add(self, part: SpokenPiece) -> bytes:
        """The samples that this piece adds."""
        self._said.append((part.piece, part.audio.words))
        self.model = part.audio.model
        pause_s = self._joining.PAUSE_S[part.piece.break_after]
        if part.audio.duration_s > _THREAD_ABOVE_S:
            return await in_sound_thread(self._joiner.add, part.audio.pcm, pause_s)
        return self._joiner.add(part.audio.pcm, pause_s)

    def safe_end(self, pcm: bytearray, start: int) -> int:
        """How many bytes of the first piece, of which ``pcm`` is the beginning, will surely be part of the sound.

        Args:
            pcm: The first piece so far.
            start: Bytes known to be safe before; what lies there is not looked at again.
        """
        return self._joining.safe_end(pcm, start, SAMPLE_RATE)

    def finish(self) -> bytes:
        """The last samples."""
        return self._joiner.finish()

    def recording(self, path: Path) -> Recording:
        """The account of the finished sound, which is in a file now."""
        lines = tuple(
            Line(piece, span.start / SAMPLE_RATE, span.end / SAMPLE_RATE, tuple(_shifted(words, span)))
            for (piece, words), span in zip(self._said, self._joiner.spans, strict=True)
        )
        return Recording(path, self.duration_s, self.model, lines)


def _shifted(words: Iterable[WordTime], span: Span) -> Iterable[WordTime]:
    """Words of a piece at their times in the file, within what is left of the piece."""
    start_s, end_s, by_s = (at / SAMPLE_RATE for at in (span.start, span.end, span.start - span.skipped))
    for word in words:
        first_s, last_s = (min(max(at_s + by_s, start_s), end_s) for at_s in (word.start_s, word.end_s))
        yield replace(word, start_s=first_s, end_s=last_s)
