"""Finished pieces, in order, into one file: joined without a trace, and never held in memory all at once."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from audio_api.audio.large_sounds import in_sound_thread
from audio_api.audio.wav import SAMPLE_RATE, encode_wav
from audio_api.audio.wav_file import MOST_UNSAVED_BYTES, WavWriter
from audio_api.engines.base import SpeechAudio, Utterance, WordTime
from audio_api.errors import AudioAPIError, TTSOutputError
from audio_api.models.audio_request import AudioRequest
from audio_api.services.narration import Narrated, Narration
from audio_api.services.planning import PlannedPiece
from audio_api.text.chunking import Break

if TYPE_CHECKING:
    from audio_api.audio.joining import Span

# Joining takes a thousandth of the sound's duration; above this it would hold up the event loop for over 10 ms.
_THREAD_ABOVE_S = 10.0


@dataclass(frozen=True, slots=True)
class Line:
    """What is heard when, in seconds from the start of the file; each word, too, if the engine knew.

    ``break_after`` says what ends behind it.
    """

    utterance: Utterance
    start_s: float
    end_s: float
    words: tuple[WordTime, ...] = ()
    break_after: Break = "end"


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


def may_replace(request: AudioRequest) -> bool:
    """Whether a file may be replaced: always if its name is made from the content, as what it names is the same."""
    return request.overwrite or request.output_filename is None


@dataclass(frozen=True, slots=True)
class Target:
    """Where a recording goes.

    Attributes:
        path: Its file.
        overwrite: Whether an existing file may be replaced.
        real: The file's folder, as ``check_target`` found it.
    """

    path: Path
    overwrite: bool
    real: Path

    def writer(self, *, growing: bool = False) -> WavWriter:
        """What writes the file; as ``WavWriter``."""
        return WavWriter(self.path.parent, self.path.name, overwrite=self.overwrite, growing=growing, real=self.real)


class Draft:
    """A recording that is complete on disk, and has no name yet.

    Args:
        identity: What the file is. A name changes neither its inode nor its size nor its time.
        recording: The recording; its path is final once it is published.
        writer: Holds the file.
    """

    def __init__(self, identity: os.stat_result, recording: Recording, writer: WavWriter) -> None:
        self.identity = identity
        self.recording = recording
        self._writer = writer

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


@contextmanager
def _handing_over(whole: SpeechAudio) -> Iterator[None]:
    """Give sound that was paid for, and cannot be written, to the caller."""
    try:
        yield
    except TTSOutputError as error:
        error.audio, error.model = encode_wav(whole.pcm), whole.model
        raise


async def write_blocks(writer: WavWriter, blocks: AsyncIterator[bytes], joint: Joint, total: int) -> os.stat_result:
    """Write a sound as it is made, and complete its file; when that fails, make the rest in memory.

    Args:
        writer: Holds the file.
        blocks: The sound.
        joint: Knows how much of it there is.
        total: Pieces in all.

    Returns:
        What ``WavWriter.prepare`` does.

    Raises:
        TTSOutputError: The file could not be written. Its ``audio`` is the whole WAV, unless that has, or seems to
            get, more than ``MOST_UNSAVED_BYTES``, or the rest could not be made.
    """
    block = b""
    try:
        async for block in blocks:
            await writer.write(block)
            block = b""  # it would stay in memory while the next one is made
        return await writer.prepare()
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


@asynccontextmanager
async def record(
    narration: Narration, target: Target, on_piece: Callable[[float], Awaitable[None]]
) -> AsyncIterator[Draft]:
    """Write all pieces into one file that has no name yet; leaving the context without publishing it removes it.

    Args:
        narration: At least one piece.
        target: Where the file goes.
        on_piece: Told after each piece how many seconds of sound there are.

    Raises:
        TTSOutputError: The file could not be written. Its ``audio`` is the whole WAV, if that is not too large.
    """
    path = target.path
    async with aclosing(narration.in_order()) as parts:
        if narration.total == 1:
            part = await anext(parts)
            audio = part.audio
            with _handing_over(audio):
                async with target.writer() as writer:
                    identity = await writer.prepare(audio.pcm)
                    await on_piece(audio.duration_s)
                    lines = (Line(part.piece.utterance, 0.0, audio.duration_s, audio.words),)
                    yield Draft(identity, Recording(path, audio.duration_s, audio.model, lines), writer)
            return
        joint = Joint()
        async with target.writer() as writer, aclosing(_blocks(narration, parts, joint, on_piece)) as blocks:
            identity = await write_blocks(writer, blocks, joint, narration.total)
            yield Draft(identity, joint.recording(path), writer)


async def _blocks(
    narration: Narration,
    parts: AsyncIterator[Narrated],
    joint: Joint,
    on_piece: Callable[[float], Awaitable[None]],
) -> AsyncGenerator[bytes, None]:
    for _ in range(narration.total - narration.done):
        yield await joint.add(await anext(parts))
        await on_piece(joint.duration_s)
    yield joint.finish()


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

    async def add(self, part: Narrated) -> bytes:
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
            Line(
                piece.utterance,
                span.start / SAMPLE_RATE,
                span.end / SAMPLE_RATE,
                tuple(_shifted(words, span)),
                piece.break_after,
            )
            for (piece, words), span in zip(self._said, self._joiner.spans, strict=True)
        )
        return Recording(path, self.duration_s, self.model, lines)


def _shifted(words: Iterable[WordTime], span: Span) -> Iterable[WordTime]:
    """Words of a piece at their times in the file, within what is left of the piece."""
    start_s, end_s, by_s = (at / SAMPLE_RATE for at in (span.start, span.end, span.start - span.skipped))
    for word in words:
        first_s, last_s = (min(max(at_s + by_s, start_s), end_s) for at_s in (word.start_s, word.end_s))
        yield replace(word, start_s=first_s, end_s=last_s)
