"""Speech that can be heard while it is made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from audio_api.engines.base import SpeechAudio
from audio_api.errors import AudioAPIError, TTSAudioError
from audio_api.services.narration import Narrated, Narration
from audio_api.services.planning import PlannedPiece
from audio_api.services.recording import Joint
from audio_api.services.runtime import Runtime
from audio_api.services.synthesis import Bill, judge_audio

# The first sentence of most texts. It is streamed as the model makes it; meanwhile the next pieces, longer and longer,
# are made whole and verified, so that a call that fails there can be repeated before anybody hears it.
FIRST_CHARS = 200


@dataclass(slots=True)
class Live:
    """A sound that is heard while it grows.

    Attributes:
        joint: What there is so far.
        sent_bytes: How much of it was handed over.
    """

    joint: Joint
    sent_bytes: int = 0


async def stream_pieces(
    pieces: Sequence[PlannedPiece], runtime: Runtime, bill: Bill, *, cached: bool, live: Live
) -> AsyncGenerator[bytes, None]:
    """Hand over the sound of all pieces in order, the first one as it arrives.

    Args:
        pieces: Planned with ``FIRST_CHARS``.
        runtime: Speaks them.
        bill: Is charged for every attempt.
        cached: Whether finished pieces of the same content will do.
        live: Keeps the account of what is heard.

    Yields:
        Signed 16-bit little-endian samples of one channel, whole samples only.

    Raises:
        AudioAPIError: The sound cannot go on. The text says how much of it was handed over.
    """
    first, *rest = pieces
    speak = partial(runtime.speak, bill=bill, cached=cached)
    narration = Narration(rest, speak, at_once=runtime.config.piece_concurrency)
    try:
        with _accounted(live):
            async with aclosing(_opening(first, runtime, bill, cached, live.joint)) as opening:
                async for block in opening:
                    live.sent_bytes += len(block)
                    yield block
            async with aclosing(narration.in_order()) as parts:
                async for part in parts:
                    block = await live.joint.add(part)
                    live.sent_bytes += len(block)
                    yield block
        yield live.joint.finish()
    finally:
        await narration.stop()


@contextmanager
def _accounted(live: Live) -> Iterator[None]:
    try:
        yield
    except AudioAPIError as error:
        if live.sent_bytes:
            seconds = live.sent_bytes / 2 / (live.joint.sample_rate or 24_000)
            error.args = (f"the stream ended after {seconds:.1f} s of sound: {error}",)
        raise


async def _opening(
    piece: PlannedPiece, runtime: Runtime, bill: Bill, cached: bool, joint: Joint
) -> AsyncGenerator[bytes, None]:
    """The first piece, block by block, but for quiet at its end: that is for the joiner to shorten."""
    if cached and (kept := await runtime.recall(piece.utterance, bill)):
        yield await joint.add(Narrated(piece, kept))
        return
    whole = bytearray()
    sent = 0
    last: SpeechAudio | None = None
    async with aclosing(runtime.stream(piece.utterance, bill)) as blocks:
        async for last in blocks:
            whole += last.pcm
            if (end := joint.safe_end(whole, sent, last.sample_rate)) > sent:
                yield bytes(whole[sent:end])
                sent = end
    if last is None:
        raise TTSAudioError("the stream ended without any sound")
    audio = replace(last, pcm=bytes(whole))
    verdict = await judge_audio(piece.utterance, audio, runtime.config)
    if verdict.outcome == "reject":
        raise TTSAudioError(verdict.detail, code=verdict.code)
    if verdict.outcome == "suspect":
        bill.warn(f"the first piece is doubtful: {verdict.detail}")
    bill.warn(*audio.warnings)
    await asyncio.shield(runtime.keep(piece.utterance, audio))
    yield (await joint.add(Narrated(piece, audio)))[sent:]
