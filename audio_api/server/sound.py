"""The body of an answer that is sound: sent as it is made, or whole; it ends cleanly only if the speech is whole."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import TypeVar

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from audio_api.audio.encoding import FileEncoder, StreamEncoder
from audio_api.audio.wav import HEADER_BYTES, wav_header
from audio_api.errors import AudioAPIError
from audio_api.models.audio_request import AudioResponse
from audio_api.models.sound_formats import MEDIA_TYPES, StreamFormat
from audio_api.server.problems import AnswerError, problem_of

logger = logging.getLogger(__name__)

Speech = AsyncGenerator[bytes | AudioResponse, None]
"""Sound as ``TTSService.stream_audio`` yields it; at last what it cost."""

_Answer = TypeVar("_Answer")

_BLOCK_BYTES = 64 * 1024
# Of a whole answer: 20 s of WAV. Longer ones lie on disk.
_IN_MEMORY_BYTES = 1_000_000
# What a thread would take longer to begin than to do: samples as they are, and a quarter of a second of mp3.
_SAMPLES = {"pcm", "wav"}
_SHORT_BYTES = 12_000
# Proxies collect an answer otherwise, and browsers keep it.
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class BrokenBodyError(Exception):
    """An answer cannot go on; the server breaks the connection, so that no client takes what came for the whole."""


class SoundResponse(Response):
    """Speech in a format. The speech is ended when the client leaves.

    Args:
        speech: Begun when the answer begins.
        sound_format: What is sent.
        whole: Whether it is sent when it is complete, with its length.
        events: Whether it is sent as OpenAI's server-sent events.
        headers: Further headers.
    """

    def __init__(
        self,
        speech: Speech,
        sound_format: StreamFormat,
        *,
        whole: bool,
        events: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._speech = speech
        self._format = sound_format
        self._whole = whole
        self._events = events
        self._sound_headers = _HEADERS | {"content-type": "text/event-stream" if events else MEDIA_TYPES[sound_format]}
        self._sound_headers |= headers or {}
        self._made: AudioResponse | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, and end it when the client leaves."""
        sending = asyncio.create_task(self._send(scope, receive, send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
        if not sending.cancelled():
            sending.result()

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        # HTTP/1.0 knows no chunks: a body without a length that breaks off looks complete.
        whole = self._whole or (scope["http_version"] == "1.0" and not self._events)
        is_begun = False
        headers = dict(self._sound_headers)
        try:
            async with (
                aclosing(self._speech),
                aclosing(self._collected(headers) if whole else self._encoded(self._format)) as body,
            ):
                async for part in body:
                    if not is_begun:
                        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
                        await send({"type": "http.response.start", "status": 200, "headers": encoded})
                        is_begun = True
                    content = part
                    if self._events:
                        content = _event({"type": "speech.audio.delta", "audio": base64.b64encode(part).decode()})
                    await send({"type": "http.response.body", "body": content, "more_body": True})
        except (AudioAPIError, AnswerError) as error:
            if not is_begun:
                problem = error if isinstance(error, AnswerError) else problem_of(error)
                await problem.response()(scope, receive, send)
                return
            if self._events and isinstance(error, AudioAPIError):
                event = _event({"type": "error", "error": problem_of(error).error})
                await send({"type": "http.response.body", "body": event, "more_body": True})
            logger.warning("answer broken off", extra={"error_code": str(error.code)})
            raise BrokenBodyError from None
        last = b""
        if self._events and self._made:
            usage = self._made.usage
            counts = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
            last = _event({"type": "speech.audio.done", "usage": counts | {"total_tokens": sum(counts.values())}})
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _encoded(self, sound_format: StreamFormat) -> AsyncGenerator[bytes, None]:
        """The speech as it is made, in a format; what it cost is noted."""
        encoder = StreamEncoder(sound_format)
        async for part in self._speech:
            if isinstance(part, AudioResponse):
                self._made = part
                continue
            fast = sound_format in _SAMPLES or (sound_format == "mp3" and len(part) <= _SHORT_BYTES)
            if content := await _done(encoder.encode, part, fast=fast):
                yield content
        if content := await _done(encoder.finish, fast=sound_format in _SAMPLES):
            yield content

    async def _collected(self, headers: dict[str, str]) -> AsyncGenerator[bytes, None]:
        """The speech when all of it is there, with its length; a little in memory, more on disk."""
        with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as file:
            flac = await asyncio.to_thread(FileEncoder, file.fileno(), "flac", {}) if self._format == "flac" else None
            # The header of a WAV tells its length: its place is kept.
            size = file.write(bytes(HEADER_BYTES)) if self._whole and not flac else 0
            try:
                async for part in self._encoded("pcm" if self._whole else self._format):
                    size += len(part)
                    fast = size <= _IN_MEMORY_BYTES and not flac
                    await _done(flac.write if flac else file.write, part, fast=fast)
                if flac:
                    await asyncio.to_thread(flac.finish)
                    size = file.seek(0, 2)
            finally:
                if flac:
                    flac.abandon()
            file.seek(0)
            if self._whole and not flac:
                file.write(wav_header(size - HEADER_BYTES))
                file.seek(0)
            if not self._events:
                headers["content-length"] = str(size)
            while part := await _done(file.read, _BLOCK_BYTES, fast=size <= _IN_MEMORY_BYTES and not flac):
                yield part


async def _done(work: Callable[..., _Answer], *args: object, fast: bool) -> _Answer:
    """Work that is done at once, or else in a thread."""
    return work(*args) if fast else await asyncio.to_thread(work, *args)


async def _left(receive: Receive) -> None:
    """Wait until the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(event: Mapping[str, object]) -> bytes:
    return f"data: {json.dumps(event)}\n\n".encode()


async def events(values: AsyncIterator[Mapping[str, object]]) -> AsyncGenerator[bytes, None]:
    """Values as server-sent events."""
    async for value in values:
        yield _event(value)
