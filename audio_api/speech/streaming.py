"""Speech that can be heard while it is made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from audio_api.audio.wav import SAMPLE_RATE
from audio_api.engines.base import Bounds, SpeechAudio, Utterance
from audio_api.errors import AudioAPIError, TTSAudioError, TTSModelNotFoundError
from audio_api.speech.assembly import Joint
from audio_api.speech.attempts import Attempts
from audio_api.speech.cost import Call, note
from audio_api.speech.listening import Ear
from audio_api.speech.ordered_pieces import OrderedPieces
from audio_api.speech.planning import PlannedPiece, SpokenPiece
from audio_api.speech.speaker import PieceSpeaker, SpeakOptions
from audio_api.speech.voice_paces import judge_audio, voice_key

# The first sentence of most texts. It is streamed as the model makes it; meanwhile the next pieces, longer and longer,
# are made whole and verified, so that a call that fails there can be repeated before it is heard.
FIRST_CHARS = 200


class SpeechStream:
    """A sound that is heard while it grows: the first piece as it arrives, the others in order.

    Args:
        pieces: Planned with ``FIRST_CHARS``.
        speaker: Speaks them.
        options: How.
        verified: Whether the first piece, too, is made whole and verified before it is handed over.

    Attributes:
        joint: What there is so far.
        total: Pieces in all.
        sent_bytes: How much of it was handed over.
    """

    def __init__(
        self, pieces: Sequence[PlannedPiece], speaker: PieceSpeaker, options: SpeakOptions, *, verified: bool = False
    ) -> None:
        self.joint = Joint()
        self.sent_bytes = 0
        self.total = len(pieces)
        self._first = None if verified else pieces[0]
        rest = pieces if verified else pieces[1:]
        self._speaker = speaker
        self._manner = options
        self._following = OrderedPieces(rest, speaker, options, done=len(pieces) - len(rest))
        self._calls: list[Call] = []

    @property
    def seconds(self) -> float:
        """How much was handed over, in seconds."""
        return self.sent_bytes / 2 / SAMPLE_RATE

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls so far; all of them when the stream was closed."""
        return *self._calls, *self._following.calls

    async def blocks(self) -> AsyncGenerator[bytes, None]:
        """Hand over the sound.

        Yields:
            Signed 16-bit little-endian samples of one channel, whole samples only.

        Raises:
            AudioAPIError: The sound cannot go on. Its ``heard_s`` says how much of it was handed over.
        """
        try:
            async with aclosing(self._sound()) as blocks:
                async for block in blocks:
                    # To some players an empty block means the end.
                    if block:
                        self.sent_bytes += len(block)
                        yield block
        except AudioAPIError as error:
            error.heard_s = self.seconds if self.sent_bytes else None
            error.calls = self.calls
            raise

    async def _sound(self) -> AsyncGenerator[bytes, None]:
        async with self._following as following:
            if self._first:
                async with aclosing(self._opening(self._first)) as opening:
                    async for block in opening:
                        # Not before: a call that fails at once is the only one.
                        following.begin()
                        yield block
            async with aclosing(following.in_order()) as parts:
                async for part in parts:
                    yield await self.joint.add(part)
            yield self.joint.finish()

    async def _opening(self, piece: PlannedPiece) -> AsyncGenerator[bytes, None]:
        """The first piece, block by block, but for quiet at its end: that is for the joiner to shorten."""
        if self._manner.cached and (kept := await self._speaker.recall(piece)):
            self._calls += kept.calls
            yield await self.joint.add(kept)
            return
        whole = bytearray()
        sent = 0
        try:
            async with aclosing(self._call(piece.utterance)) as blocks:
                async for last in blocks:
                    whole += last.pcm
                    self.joint.model = last.model
                    if (end := self.joint.safe_end(whole, sent)) > sent:
                        yield bytes(whole[sent:end])
                        sent = end
        except TTSModelNotFoundError:
            if whole:
                raise
            successor = self._speaker.for_successor(piece, self._calls)
            async with aclosing(self._opening(successor)) as blocks_of_successor:
                async for block in blocks_of_successor:
                    yield block
            return
        audio = replace(last, pcm=bytes(whole))
        await self._verify(piece, audio)
        yield (await self.joint.add(SpokenPiece(piece, audio)))[sent:]

    async def _call(self, utterance: Utterance) -> AsyncGenerator[SpeechAudio, None]:
        """The blocks of a call, which goes on while the listener is slow: no slot is taken longer than it lasts."""
        blocks: asyncio.Queue[SpeechAudio | None] = asyncio.Queue()
        call = asyncio.create_task(self._call_in_slot(utterance, blocks))
        call.add_done_callback(lambda _: blocks.put_nowait(None))
        try:
            while block := await blocks.get():
                yield block
        finally:
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        call.result()

    async def _call_in_slot(self, utterance: Utterance, blocks: asyncio.Queue[SpeechAudio | None]) -> None:
        async with self._speaker.slot(utterance.model):
            bounds = Bounds(limit_s=self._manner.limit_s)
            await Attempts(self._speaker.desk, utterance, self._calls, bounds).stream_into(blocks)

    async def _verify(self, piece: PlannedPiece, audio: SpeechAudio) -> None:
        """Judge what was heard already; keep it only if it is good, so that a doubtful take is made again next time."""
        speaker = self._speaker
        own_pace = await speaker.desk.paces.of(voice_key(piece.utterance, speaker.engine.name))
        verdict = await judge_audio(piece.utterance, audio, speaker.config, own_pace, repeatable=False)
        if speaker.desk.listener:
            audio, verdict = await Ear(speaker.desk.listener, piece.utterance, repeatable=False).judge(audio, verdict)
        self._calls.append(note(*audio.warnings, heard=audio.heard))
        if verdict.outcome == "reject" or (verdict.outcome == "suspect" and speaker.config.audio_checks == "strict"):
            raise TTSAudioError(verdict.detail, code=verdict.code)
        if verdict.code:
            warning = f"the first piece is doubtful: {verdict.detail}"
            self._calls.append(note(warning, doubtful=(verdict.code,)))
        else:
            await speaker.keep(piece, audio)
