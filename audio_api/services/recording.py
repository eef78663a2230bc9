"""Finished pieces, in order, into one file: joined without a trace, and never held in memory all at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from audio_api.audio.wav import WavWriter, encode_wav, write_wav
from audio_api.engines.base import SpeechAudio, Utterance
from audio_api.errors import ErrorCode, TTSAudioError, TTSOutputError
from audio_api.services.narration import Narrated

if TYPE_CHECKING:
    from audio_api.audio.joining import Joiner

# Joining takes a thousandth of the sound's duration; above this it would hold up the event loop for over 10 ms.
_THREAD_ABOVE_S = 10.0


@dataclass(frozen=True, slots=True)
class Line:
    """Words, and when they are heard, in seconds from the start of the file."""

    utterance: Utterance
    start_s: float
    end_s: float


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


class Sink(Protocol):
    """What a long sound is written to."""

    async def write(self, pcm: bytes) -> None:
        """Append samples."""

    async def commit(self) -> Path:
        """Make the file final, and say where it is."""


async def record(
    parts: AsyncIterator[Narrated],
    folder: Path,
    name: str,
    *,
    overwrite: bool,
    on_part: Callable[[float], Awaitable[None]],
) -> Recording:
    """Write all parts into one file that appears when it is complete.

    Args:
        parts: At least one.
        folder: Where the file goes.
        name: The file's name.
        overwrite: Whether an existing file may be replaced.
        on_part: Told after each part how many seconds of sound there are.

    Raises:
        TTSOutputError: The file could not be written. Its ``audio`` is the whole WAV if there is only one part.
    """
    first = await anext(parts)
    second = await anext(parts, None)
    if second is None:
        return await _record_one(first, folder, name, overwrite, on_part)
    async with WavWriter(folder, name, sample_rate=first.audio.sample_rate, overwrite=overwrite) as writer:
        return await join_into(writer, _chain(first, second, parts), on_part)


async def _record_one(
    part: Narrated, folder: Path, name: str, overwrite: bool, on_part: Callable[[float], Awaitable[None]]
) -> Recording:
    audio = part.audio
    try:
        path = await write_wav(folder, name, audio.pcm, sample_rate=audio.sample_rate, overwrite=overwrite)
    except TTSOutputError as error:
        error.audio = encode_wav(audio.pcm, audio.sample_rate)
        raise
    await on_part(audio.duration_s)
    lines = (Line(part.piece.utterance, 0.0, audio.duration_s),)
    return Recording(path, audio.duration_s, audio.model, lines)


async def join_into(
    sink: Sink, parts: AsyncIterator[Narrated], on_part: Callable[[float], Awaitable[None]]
) -> Recording:
    """Join parts as they come, and make the file final."""
    joint = Joint()
    async for part in parts:
        await sink.write(await joint.add(part))
        await on_part(joint.duration_s)
    await sink.write(joint.finish())
    return joint.recording(await sink.commit())


async def _chain(first: Narrated, second: Narrated, others: AsyncIterator[Narrated]) -> AsyncIterator[Narrated]:
    yield first
    yield second
    async for part in others:
        yield part


class Joint:
    """One sound that grows by a part at a time, and knows what is heard when."""

    def __init__(self) -> None:
        from audio_api.audio import joining  # numpy takes 0.1 s to import

        self._joining = joining
        self._joiner: Joiner | None = None
        self.sample_rate = 0
        self._utterances: list[Utterance] = []
        self.model = ""

    @property
    def duration_s(self) -> float:
        """Seconds so far; final when the sound is finished."""
        return self._joiner.spans[-1].end / self.sample_rate if self._joiner else 0.0

    async def add(self, part: Narrated) -> bytes:
        """The samples that this part adds.

        Raises:
            TTSAudioError: It has another sample rate than the first one.
        """
        audio = part.audio
        if self._joiner is None:
            self._joiner, self.sample_rate = self._joining.Joiner(audio.sample_rate), audio.sample_rate
        _check_rate(audio, self.sample_rate)
        self._utterances.append(part.piece.utterance)
        self.model = audio.model
        pause_s = self._joining.PAUSE_S[part.piece.break_after]
        if audio.duration_s > _THREAD_ABOVE_S:
            return await asyncio.to_thread(self._joiner.add, audio.pcm, pause_s)
        return self._joiner.add(audio.pcm, pause_s)

    def safe_end(self, pcm: bytearray, start: int, sample_rate: int) -> int:
        """How many bytes of the first part, of which ``pcm`` is the beginning, will surely be part of the sound.

        Args:
            pcm: The first part so far.
            start: Bytes known to be safe before; what lies there is not looked at again.
            sample_rate: Samples per second.
        """
        return self._joining.safe_end(pcm, start, sample_rate)

    def finish(self) -> bytes:
        """The last samples."""
        return self._joiner.finish() if self._joiner else b""

    @property
    def parts(self) -> int:
        """Parts so far."""
        return len(self._utterances)

    def recording(self, path: Path) -> Recording:
        """The account of the finished sound, which is in a file now."""
        spans = self._joiner.spans if self._joiner else []
        lines = tuple(
            Line(utterance, span.start / self.sample_rate, span.end / self.sample_rate)
            for utterance, span in zip(self._utterances, spans, strict=True)
        )
        return Recording(path, self.duration_s, self.model, lines)


def _check_rate(audio: SpeechAudio, rate: int) -> None:
    if audio.sample_rate != rate:
        raise TTSAudioError(
            f"one piece has {audio.sample_rate:,} samples per second, those before it {rate:,}; they cannot be joined",
            code=ErrorCode.AUDIO_FORMAT,
        )
