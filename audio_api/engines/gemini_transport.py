"""The HTTP client below the SDK: no redirects, bounded replies, and no other effect of the environment than a proxy."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from functools import cache
from ipaddress import ip_address
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2

from audio_api.engines.gemini_reply import Wire, current_wire
from audio_api.errors import ConfigurationError, ErrorCode, TTSAudioError

logger = logging.getLogger(__name__)

# 16,384 audio tokens at 25 a second are 655 s: 31.5 MB of samples, 42 MB of base64.
MAX_REPLY_BYTES = 64 * 2**20
# A host that does not take a connection by then is down; the call's own time limit is meant for speaking.
_CONNECT_TIMEOUT_S = 10.0
# A reply of this size holds no speech, but may hold a reason that the SDK drops.
_SMALL_REPLY_BYTES = 2**16


class _BoundedTransport(httpx2.AsyncHTTPTransport):
    """Decodes replies, and gives up on one that is larger than any speech; reads each to its end, but for streams."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        timeout = request.extensions["timeout"]
        timeout["connect"] = min(timeout["connect"] or _CONNECT_TIMEOUT_S, _CONNECT_TIMEOUT_S)
        reply = await super().handle_async_request(request)
        stream = _BoundedStream(reply, current_wire.get(Wire()))
        headers = [(name, value) for name, value in reply.headers.raw if name.lower() not in _WIRE_ONLY]
        if reply.status_code == 200 and request.url.path.endswith(_STREAM_METHOD):
            return httpx2.Response(200, headers=headers, stream=stream, extensions=reply.extensions)
        # One growing block for each reply: many small parts of several replies at once would riddle the heap.
        body = bytearray()
        try:
            async for part in stream:
                body += part
        finally:
            await stream.aclose()
        return httpx2.Response(reply.status_code, headers=headers, content=bytes(body), extensions=reply.extensions)


_STREAM_METHOD = ":streamGenerateContent"
# These describe the bytes on the wire, not the decoded body.
_WIRE_ONLY = {b"content-encoding", b"content-length", b"transfer-encoding"}


class _BoundedStream(httpx2.AsyncByteStream):
    """The decoded body of a reply as it comes in; a small one is kept for the engine."""

    def __init__(self, reply: httpx2.Response, wire: Wire) -> None:
        self._reply = reply
        self._wire = wire

    async def __aiter__(self) -> AsyncIterator[bytes]:
        announced = self._reply.headers.get("content-length", "")
        if announced.isdecimal() and len(announced) < 20 and int(announced) > MAX_REPLY_BYTES:
            raise _too_large()
        size = 0
        async for part in self._reply.aiter_bytes():
            size += len(part)
            if size > MAX_REPLY_BYTES:
                raise _too_large()
            self._wire.body = self._wire.body + part if size <= _SMALL_REPLY_BYTES else b""
            yield part

    async def aclose(self) -> None:
        await self._reply.aclose()


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
        ConfigurationError: The proxy of the environment cannot be used.
    """
    limits = httpx2.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
    url = _proxy_for(base_url)
    try:
        proxy = httpx2.Proxy(url) if url else None
        transport = _BoundedTransport(limits=limits, proxy=proxy)
    # InvalidURL and ValueError: the variable's value; ImportError: SOCKS needs a package of its own.
    except (httpx2.InvalidURL, ValueError, ImportError) as error:
        problem = type(error).__name__
    else:
        if proxy is not None:
            _announce(proxy.url.host)
        # Speech hardly compresses, and what is not compressed cannot be a bomb.
        headers = {"Accept-Encoding": "identity"}
        return httpx2.AsyncClient(transport=transport, follow_redirects=False, trust_env=False, headers=headers)
    raise ConfigurationError(
        f"the proxy that HTTPS_PROXY or ALL_PROXY names cannot be used ({problem}): it must be an http:// or https:// "
        "URL, or socks5:// with the package socksio"
    )


def _proxy_for(base_url: str) -> str | None:
    """The proxy of the environment, for https to other machines only."""
    url = urlsplit(base_url)
    host = url.hostname or ""
    if url.scheme != "https" or _is_this_machine(host) or proxy_bypass(host):
        return None
    proxies = getproxies()
    proxy = proxies.get("https") or proxies.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@cache
def _announce(proxy_host: str) -> None:
    """Say once in a process that calls take a detour; the URL itself may hold a password."""
    logger.warning("calls to Gemini go through a proxy of the environment", extra={"proxy_host": proxy_host})
