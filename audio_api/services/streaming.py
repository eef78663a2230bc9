"""Speech that can be heard while it is made."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial

from audio_api.audio.wav import SAMPLE_RATE
from audio_api.engines.base import SpeechAudio, Utterance
from audio_api.errors import AudioAPIError, TTSAudioError, TTSModelNotFoundError
from audio_api.services.narration import Narrated, Narration
from audio_api.services.planning import PlannedPiece
from audio_api.services.recording import Joint
from audio_api.services.runtime import Runtime
from audio_api.services.synthesis import Bill

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

    @property
    def seconds(self) -> float:
        """How much of it was handed over, in seconds."""
        return self.sent_bytes / 2 / SAMPLE_RATE


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
    try:
        async with aclosing(_sound(pieces, runtime, bill, cached, live.joint)) as blocks:
            async for block in blocks:
                # To some players an empty block means the end.
                if block:
                    live.sent_bytes += len(block)
                    yield block
    except AudioAPIError as error:
        if live.sent_bytes:
            error.args = (f"the stream ended after {live.seconds:.1f} s of sound: {error}",)
        raise


async def _sound(
    pieces: Sequence[PlannedPiece], runtime: Runtime, bill: Bill, cached: bool, joint: Joint
) -> AsyncGenerator[bytes, None]:
    first, *rest = pieces
    speak = partial(runtime.speak, bill=bill, cached=cached)
    async with Narration(rest, speak, at_once=runtime.config.piece_concurrency, done=1) as narration:
        async with aclosing(_opening(first, runtime, bill, cached, joint)) as opening:
            async for block in opening:
                # Not before: a call that fails at once shall be the only one.
                narration.begin()
                yield block
        async with aclosing(narration.in_order()) as parts:
            async for part in parts:
                yield await joint.add(part)
        yield joint.finish()


async def _opening(
    piece: PlannedPiece, runtime: Runtime, bill: Bill, cached: bool, joint: Joint
) -> AsyncGenerator[bytes, None]:
    """The first piece, block by block, but for quiet at its end: that is for the joiner to shorten."""
    if cached and (kept := await runtime.recall(piece.utterance, bill)):
        yield await joint.add(Narrated(piece, kept))
        return
    whole = bytearray()
    sent = 0
    try:
        async with aclosing(runtime.stream(piece.utterance, bill)) as blocks:
            async for last in blocks:
                whole += last.pcm
                if (end := joint.safe_end(whole, sent)) > sent:
                    yield bytes(whole[sent:end])
                    sent = end
    except TTSModelNotFoundError:
        if whole:
            raise
        successors = replace(piece, utterance=runtime.for_successor(piece.utterance, bill))
        async with aclosing(_opening(successors, runtime, bill, cached, joint)) as blocks_of_successor:
            async for block in blocks_of_successor:
                yield block
        return
    audio = replace(last, pcm=bytes(whole))
    await _verify(piece.utterance, audio, runtime, bill)
    yield (await joint.add(Narrated(piece, audio)))[sent:]


async def _verify(utterance: Utterance, audio: SpeechAudio, runtime: Runtime, bill: Bill) -> None:
    """Judge what was heard already; keep it only if it is good, so that a doubtful take is made anew the next time."""
    verdict = await runtime.judge(utterance, audio)
    bill.note(audio)
    if verdict.outcome == "reject" or (verdict.outcome == "suspect" and runtime.config.audio_checks == "strict"):
        raise TTSAudioError(verdict.detail, code=verdict.code)
    if verdict.code:
        bill.warn(f"the first piece is doubtful: {verdict.detail}")
        bill.doubtful[verdict.code] = None
    else:
        await runtime.keep(utterance, audio)
