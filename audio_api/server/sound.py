"""The body of an answer that is sound: sent as it is made, or whole; it ends cleanly only if the speech is whole."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import IO

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from audio_api.audio.encoding import FileEncoder, encoded
from audio_api.audio.wav import wav_header
from audio_api.errors import AudioAPIError
from audio_api.models.audio_request import AudioResponse
from audio_api.models.sound_formats import MEDIA_TYPES, StreamFormat
from audio_api.server.problems import AnswerError, problem_of

logger = logging.getLogger(__name__)

Speech = AsyncGenerator[bytes | AudioResponse, None]
"""Sound as ``TTSService.stream_audio`` yields it; at last what it cost."""

_BLOCK_BYTES = 64 * 1024
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, and end it when the client leaves."""
        # HTTP/1.0 knows no chunks: a body without a length that breaks off looks complete.
        whole = self._whole or (scope["http_version"] == "1.0" and not self._events)
        sending = asyncio.create_task(self._send(scope, receive, send, whole=whole))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
        if not sending.cancelled():
            sending.result()

    async def _send(self, scope: Scope, receive: Receive, send: Send, *, whole: bool) -> None:
        is_begun = False
        headers = dict(self._sound_headers)
        try:
            async with aclosing(self._speech) as speech, aclosing(self._body(speech, headers, whole=whole)) as body:
                async for part in body:
                    if not is_begun:
                        await send({"type": "http.response.start", "status": 200, "headers": _encoded(headers)})
                        is_begun = True
                    await send({"type": "http.response.body", "body": part, "more_body": True})
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
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _body(self, speech: Speech, headers: dict[str, str], *, whole: bool) -> AsyncGenerator[bytes, None]:
        responses: list[AudioResponse] = []
        pcm = _sound_of(speech, responses.append)
        if self._whole:
            parts = _file_of(pcm, self._format, headers)
        else:
            # Samples need no encoder, and no thread for each block.
            parts = pcm if self._format == "pcm" else encoded(pcm, self._format)
            if whole:
                parts = _collected(parts, headers)
        return _events_of(parts, responses, headers) if self._events else parts


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


async def _left(receive: Receive) -> None:
    """Wait until the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _sound_of(speech: Speech, on_done: Callable[[AudioResponse], None]) -> AsyncGenerator[bytes, None]:
    """The blocks of a speech; what it cost is told."""
    async with aclosing(speech):
        async for part in speech:
            if isinstance(part, AudioResponse):
                on_done(part)
            else:
                yield part


async def _file_of(
    pcm: AsyncGenerator[bytes, None], sound_format: StreamFormat, headers: dict[str, str]
) -> AsyncGenerator[bytes, None]:
    """A complete WAV or FLAC file, written to disk first: its header tells its length."""
    with tempfile.TemporaryFile() as file:
        if sound_format == "wav":
            size = 0
            async with aclosing(pcm):
                async for block in pcm:
                    size += await asyncio.to_thread(file.write, block)
            header = wav_header(size)
            headers["content-length"] = str(len(header) + size)
            yield header
        else:
            size = await _encode_file(pcm, file)
            headers["content-length"] = str(size)
        file.seek(0)
        while part := await asyncio.to_thread(file.read, _BLOCK_BYTES):
            yield part


async def _encode_file(pcm: AsyncGenerator[bytes, None], file: IO[bytes]) -> int:
    encoder = await asyncio.to_thread(FileEncoder, file.fileno(), "flac", {})
    try:
        async with aclosing(pcm):
            async for block in pcm:
                await asyncio.to_thread(encoder.write, block)
        await asyncio.to_thread(encoder.finish)
    finally:
        encoder.abandon()
    return file.seek(0, 2)


async def _collected(parts: AsyncGenerator[bytes, None], headers: dict[str, str]) -> AsyncGenerator[bytes, None]:
    """The same bytes, when all are there, with their length."""
    with tempfile.TemporaryFile() as file:
        size = 0
        async with aclosing(parts):
            async for part in parts:
                size += await asyncio.to_thread(file.write, part)
        headers["content-length"] = str(size)
        file.seek(0)
        while part := await asyncio.to_thread(file.read, _BLOCK_BYTES):
            yield part


async def _events_of(
    parts: AsyncGenerator[bytes, None], responses: list[AudioResponse], headers: dict[str, str]
) -> AsyncGenerator[bytes, None]:
    """The same bytes as OpenAI's events, and what was billed."""
    async with aclosing(parts):
        async for part in parts:
            headers.pop("content-length", None)
            yield _event({"type": "speech.audio.delta", "audio": base64.b64encode(part).decode()})
    usage = responses[0].usage
    counts = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    yield _event({"type": "speech.audio.done", "usage": counts | {"total_tokens": sum(counts.values())}})


def _event(event: Mapping[str, object]) -> bytes:
    return f"data: {json.dumps(event)}\n\n".encode()


async def events(values: AsyncIterator[Mapping[str, object]]) -> AsyncGenerator[bytes, None]:
    """Values as server-sent events."""
    async for value in values:
        yield _event(value)
