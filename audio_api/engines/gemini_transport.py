"""The HTTP client below the SDK: no redirects, bounded replies, and no other effect of the environment than a proxy."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import cache, partial
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2

from audio_api.audio.large_sounds import in_sound_thread
from audio_api.engines.gemini_body import Body, Unpacked, unpacked_event
from audio_api.engines.gemini_json import MOST_ERROR_BYTES, Events, reduce_error, reduce_reply, too_much
from audio_api.engines.gemini_reply import Wire, current_wire
from audio_api.errors import ConfigurationError, ErrorCode, TTSAudioError
from audio_api.urls import is_loopback

logger = logging.getLogger(__name__)

# 16,384 audio tokens at 25 a second are 655 s: 31.5 MB of samples, 42 MB of base64.
MAX_REPLY_BYTES = 64 * 2**20
# A host that does not take a connection by then is down; the call's own time limit is meant for speaking.
_CONNECT_TIMEOUT_S = 10.0
# As httpx keeps idle connections; servers close theirs later.
_KEEP_ALIVE_S = 5.0
# Reading this much JSON takes less than a millisecond.
_SMALL_REPLY_BYTES = 2**16
_STEP_BYTES = 2**14
# The longest speech in blocks of 80 ms has 8,200.
_MOST_EVENTS = 50_000


class _Lanes:
    """One connection for each call in progress, used again by later calls.

    A shared pool looks at all of its idle connections for every call: with 200 calls at once that is a third of their
    CPU time.

    Args:
        open_lane: Makes a transport, which will carry one call at a time.
        most: Calls that may be in progress at once; further ones wait.
    """

    def __init__(self, open_lane: Callable[[], httpx2.AsyncHTTPTransport], most: int) -> None:
        self._open_lane = open_lane
        self._vacancies = asyncio.Semaphore(most)
        # The first one now: what is wrong with a proxy shows here.
        first = open_lane()
        self._all = {first}
        # With the time at which each became idle, the longest ago first.
        self._idle = deque([(time.monotonic(), first)])

    @asynccontextmanager
    async def lane(self) -> AsyncGenerator[httpx2.AsyncHTTPTransport, None]:
        async with self._vacancies:
            lane = self._idle.pop()[1] if self._idle else self._open_lane()
            self._all.add(lane)
            try:
                yield lane
            except BaseException:
                # The HTTP library takes a connection whose handshake failed in a proxy's tunnel for a busy one: the
                # next call would wait for it.
                await self._close(lane)
                raise
            now_s = time.monotonic()
            self._idle.append((now_s, lane))
            if now_s - self._idle[0][0] > _KEEP_ALIVE_S:
                await self._close(self._idle.popleft()[1])

    async def aclose(self) -> None:
        self._idle.clear()
        while self._all:
            await self._all.pop().aclose()

    async def _close(self, lane: httpx2.AsyncHTTPTransport) -> None:
        self._all.discard(lane)
        await lane.aclose()


class _SpeechTransport(httpx2.AsyncBaseTransport):
    """Decodes replies, each read to its end unless it is a stream; gives up on one that is larger than any speech."""

    def __init__(self, lanes: _Lanes) -> None:
        self._lanes = lanes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        wire = current_wire.get(None)
        async with AsyncExitStack() as call:
            lane = await call.enter_async_context(self._lanes.lane())
            reply = await _send(lane, request)
            call.push_async_callback(reply.aclose)
            if wire:
                wire.status = reply.status_code
            stream = _BoundedStream(reply, call)
            headers = [(name, value) for name, value in reply.headers.raw if name.lower() not in _WIRE_ONLY]
            respond = partial(httpx2.Response, reply.status_code, headers=headers, extensions=reply.extensions)
            method = request.url.path.rpartition(":")[2]
            if wire and reply.status_code != _OK:
                return respond(content=reduce_error(await stream.beginning(MOST_ERROR_BYTES + 1), reply.reason_phrase))
            if wire and method == _STREAM:
                return respond(stream=stream.detached(wire))
            if wire and method == _DOWNLOAD:
                wire.call.push_async_callback(call.pop_all().aclose)
                return respond(stream=_FileContent(reply))
            with closing(Body()) as body:
                async for part in stream:
                    await body.add(part)
                if wire and method == _SPEECH:
                    return respond(content=await _reduced(body.unpack(wire.permit), wire))
                return respond(content=await body.read())

    async def aclose(self) -> None:
        await self._lanes.aclose()


async def _send(lane: httpx2.AsyncHTTPTransport, request: httpx2.Request) -> httpx2.Response:
    """Pass the request on; the connection must be ready within the time of its two steps.

    The HTTP library bounds the first step and the handshake, but waits for a proxy as long as for speech.
    """
    timeout = request.extensions["timeout"]
    timeout["connect"] = min(timeout["connect"] or _CONNECT_TIMEOUT_S, _CONNECT_TIMEOUT_S)
    limit_s = 2 * timeout["connect"]
    try:
        async with asyncio.timeout(limit_s) as connecting:

            async def watch(event: str, details: Mapping[str, Any]) -> None:
                if event == _SENDING and details["request"].method != b"CONNECT":
                    connecting.reschedule(None)

            request.extensions["trace"] = watch
            return await lane.handle_async_request(request)
    except TimeoutError:
        problem = f"no connection within {limit_s:g} s"
    raise httpx2.ConnectTimeout(problem, request=request)


# Named so by the HTTP library for each request, that for a proxy's tunnel included.
_SENDING = "http11.send_request_headers.started"


async def _reduced(unpacking: Awaitable[Unpacked], wire: Wire) -> bytes:
    """What the SDK is given; the wire keeps the rest."""
    try:
        body = await unpacking
        reduce = partial(reduce_reply, body.json, body.sounds, wire.marks)
        reduced = await in_sound_thread(reduce) if len(body.json) > _SMALL_REPLY_BYTES else reduce()
    except (ValueError, RecursionError) as error:
        raise httpx2.DecodingError(type(error).__name__) from None
    wire.sounds |= reduced.sounds
    wire.marks += len(reduced.sounds)
    wire.finish_message = reduced.finish_message or wire.finish_message
    return reduced.json


_OK = 200
_SPEECH, _STREAM, _DOWNLOAD = "generateContent", "streamGenerateContent", "download"
# These describe the bytes on the wire, not the decoded body.
_WIRE_ONLY = {b"content-encoding", b"content-length", b"transfer-encoding"}


class _BoundedStream(httpx2.AsyncByteStream):
    """The decoded body of a reply as it comes in."""

    def __init__(self, reply: httpx2.Response, call: AsyncExitStack) -> None:
        self._reply = reply
        self._call = call

    def detached(self, wire: Wire) -> _Speech:
        """The stream as owner of the call, which ends with it, or when the engine says so."""
        self._call = self._call.pop_all()
        wire.call.push_async_callback(self.aclose)
        speech = _Speech(self, wire)
        wire.call.push_async_callback(speech.end)
        return speech

    async def beginning(self, most_bytes: int) -> bytes:
        """The first bytes; the others stay where they are."""
        content = bytearray()
        async for part in self._reply.aiter_bytes():
            content += part
            if len(content) >= most_bytes:
                break
        return bytes(content[:most_bytes])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        announced = self._reply.headers.get("content-length", "")
        if announced.isdecimal() and len(announced) < 20 and int(announced) > MAX_REPLY_BYTES:
            raise _too_large()
        size = 0
        async for part in self._reply.aiter_bytes():
            size += len(part)
            if size > MAX_REPLY_BYTES:
                raise _too_large()
            yield part

    async def aclose(self) -> None:
        await self._call.aclose()


class _FileContent(httpx2.AsyncByteStream):
    """The content of a file as it comes in, of any size; the wire ends the call."""

    def __init__(self, reply: httpx2.Response) -> None:
        self._reply = reply

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._reply.aiter_bytes():
            yield part


class _Speech(httpx2.AsyncByteStream):
    """The events of a stream as they come in, each as the SDK is given it."""

    def __init__(self, stream: _BoundedStream, wire: Wire) -> None:
        self._stream = stream
        self._wire = wire
        self._count = 0
        self._events = self._read()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._events

    async def end(self) -> None:
        """Close the generator, so that the garbage collector of another thread does not."""
        await self._events.aclose()

    async def _read(self) -> AsyncGenerator[bytes, None]:
        events = Events()
        async for part in self._stream:
            for at in range(0, len(part), _STEP_BYTES):
                # It may hold thousands of lines.
                await asyncio.sleep(0)
                for event in events.feed(part[at : at + _STEP_BYTES]):
                    yield await self._reduced(event)
        if event := events.end():
            yield await self._reduced(event)

    async def _reduced(self, event: bytearray) -> bytes:
        self._count += 1
        if self._count > _MOST_EVENTS:
            raise too_much()
        # Thousands of events may come at once.
        await asyncio.sleep(0)
        return b"data: " + await _reduced(unpacked_event(event), self._wire) + b"\n\n"

    async def aclose(self) -> None:
        await self._stream.aclose()


def _too_large() -> TTSAudioError:
    return TTSAudioError(
        f"the reply is larger than {MAX_REPLY_BYTES:,} bytes, more than the longest speech",
        code=ErrorCode.AUDIO_TOO_LARGE,
        retryable=False,
    )


def open_http_client(base_url: str, *, max_connections: int) -> httpx2.AsyncClient:
    """A client for one event loop; its opener closes it.

    Args:
        base_url: Where the API is; decides whether a proxy of the environment is used.
        max_connections: Calls that may be in progress at once.

    Raises:
        ConfigurationError: The proxy or the certificates of the environment cannot be used.
    """
    url = proxy_for(base_url)
    limits = httpx2.Limits(max_connections=1, keepalive_expiry=_KEEP_ALIVE_S)
    # Reading the certificates takes 20 ms, and this machine's own servers need none.
    is_tls = base_url.startswith("https:")
    certificates = _certificates() if is_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        proxy = httpx2.Proxy(url) if url else None
        # Each lane would load the certificates by itself.
        open_lane = partial(httpx2.AsyncHTTPTransport, certificates, limits=limits, proxy=proxy)
        transport = _SpeechTransport(_Lanes(open_lane, max_connections))
    except ImportError:
        problem = "SOCKS needs the package socksio: pip install socksio"
    except (httpx2.InvalidURL, ValueError):
        problem = "it must be an http:// or https:// URL, or socks5:// with the package socksio"
    else:
        if proxy is not None:
            _announce(proxy.url.host)
        # Speech hardly compresses, and what is not compressed cannot be a bomb.
        headers = {"Accept-Encoding": "identity"}
        return httpx2.AsyncClient(transport=transport, follow_redirects=False, trust_env=False, headers=headers)
    raise ConfigurationError(f"the proxy that HTTPS_PROXY or ALL_PROXY names cannot be used: {problem}")


def _certificates() -> ssl.SSLContext:
    """Those of the system, or of SSL_CERT_FILE, or of SSL_CERT_DIR.

    Raises:
        ConfigurationError: The variable points to no certificates.
    """
    name = "SSL_CERT_FILE" if os.environ.get("SSL_CERT_FILE") else "SSL_CERT_DIR"
    path = os.environ.get(name, "")
    try:
        if name == "SSL_CERT_DIR" and path and not any(map(os.path.isdir, path.split(os.pathsep))):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return httpx2.create_ssl_context()
    except OSError as error:
        problem = error.strerror or "unreadable"
    wanted = "a file with certificates in PEM format" if name == "SSL_CERT_FILE" else "a folder of certificates"
    raise ConfigurationError(f"{name}={path!r} cannot be used ({problem}): it must be {wanted}")


def proxy_for(base_url: str) -> str | None:
    """The URL of the environment's proxy, for https to other machines only; it may hold a password."""
    url = urlsplit(base_url)
    host = url.hostname or ""
    if url.scheme != "https" or is_loopback(host) or proxy_bypass(host):
        return None
    proxies = getproxies()
    proxy = proxies.get("https") or proxies.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


@cache
def _announce(proxy_host: str) -> None:
    """Say once in a process that calls take a detour; the URL itself may hold a password."""
    logger.warning("calls to Gemini go through a proxy of the environment", extra={"proxy_host": proxy_host})
