"""The one place where sound enters the services: whatever rate an engine speaks in, it is 24 kHz from here on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from audio_api.audio.conversion import Converter
from audio_api.audio.large_sounds import in_sound_thread
from audio_api.audio.wav import SAMPLE_RATE, SoundFormat
from audio_api.engines.base import SpeechAudio
from audio_api.errors import ErrorCode, TTSAudioError
from audio_api.models.usage import TokenUsage


async def standard_audio(audio: SpeechAudio) -> SpeechAudio:
    """Sound as an engine made it, at 24 kHz; a warning tells what was converted. Times of words stay as they are.

    Raises:
        TTSAudioError: It cannot be converted: its rate is not one of 1,000 to 192,000 Hz.
    """
    if audio.sample_rate == SAMPLE_RATE:
        return audio
    converter = Converter()
    pcm = await _fed(converter, audio) + converter.finish()
    return _whole(audio, pcm, converter, audio.usage)


async def standard_blocks(stream: AsyncGenerator[SpeechAudio, None]) -> AsyncGenerator[SpeechAudio, None]:
    """Blocks as an engine streams them, at 24 kHz; closes the stream.

    Yields:
        What the engine yields. When it speaks at another rate, the last block holds the end of the converted sound.

    Raises:
        TTSAudioError: As from ``standard_audio``.
    """
    converter: Converter | None = None
    usage = TokenUsage()
    async with aclosing(stream):
        async for block in stream:
            if converter is None and block.sample_rate == SAMPLE_RATE:
                yield block
                continue
            converter = converter or Converter()
            usage += block.usage
            last = block
            if pcm := await _fed(converter, block):
                yield SpeechAudio(pcm, SAMPLE_RATE, block.model, finish_reason=None)
    if converter:
        yield _whole(last, converter.finish(), converter, usage)


async def _fed(converter: Converter, audio: SpeechAudio) -> bytes:
    if not audio.pcm:
        return b""
    try:
        return await in_sound_thread(converter.feed, audio.pcm, SoundFormat(audio.sample_rate))
    except ValueError as error:
        problem = f"the engine made {error}"
    raise TTSAudioError(problem, code=ErrorCode.AUDIO_FORMAT, retryable=False)


def _whole(audio: SpeechAudio, pcm: bytes, converter: Converter, usage: TokenUsage) -> SpeechAudio:
    warnings = (*audio.warnings, *converter.warnings)
    return replace(audio, pcm=pcm, sample_rate=SAMPLE_RATE, usage=usage, warnings=warnings)
