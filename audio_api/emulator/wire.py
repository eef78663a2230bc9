"""Sending an answer, well or badly: from one write to connections that hang, crawl, break or never end."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from functools import lru_cache
from io import BytesIO

from starlette.types import Receive, Scope, Send

from audio_api.emulator.control import ReceivedCall
from audio_api.emulator.errors import RefusalError
from audio_api.emulator.faults import Fault
from audio_api.emulator.replies import JSON, Answer

BOMB_BYTES = 300 * 2**20
"""Size of a compressed body, once decompressed."""
HUGE_BYTES = 200 * 2**20
_DRIP_S = 0.05
# RST discards what the client's kernel has not delivered; this lets the client read the first half before.
_READ_S = 0.05
_MEBIBYTE = b"A" * 2**20
_REPLY_START = b'{"candidates":[{"content":{"parts":[{"inlineData":{"mimeType":"audio/L16;rate=24000","data":"'
_REPLY_END = b'"}}],"role":"model"},"finishReason":"STOP","index":0}]}'


class Peer:
    """The client at the other end of one connection, after its request was read."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, call: ReceivedCall) -> None:
        self.scope = scope
        self.call = call
        self._send = send
        # Ends by itself: at the latest when the answer is complete, the server says "disconnect".
        self._lost = asyncio.create_task(_until_disconnected(receive))

    async def start(self, answer: Answer, length: int | None = None, **headers: str) -> None:
        """Send the status and the headers. ``length=None`` sends the body in chunks."""
        fields = {"content-type": answer.content_type, **answer.headers, **headers}
        if length is not None:
            fields["content-length"] = str(length)
        raw = [(name.lower().replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
        self.call.status = answer.status
        await self._send({"type": "http.response.start", "status": answer.status, "headers": raw})

    async def write(self, body: bytes, *, more: bool = True) -> None:
        """Send a piece of the body."""
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def gone(self, within_s: float | None) -> bool:
        """Whether the client goes away within a time; ``None`` waits until it does."""
        gone, _ = await asyncio.wait({self._lost}, timeout=within_s)
        self.call.disconnected = bool(gone)
        return self.call.disconnected

    async def close(self) -> None:
        """End the connection in order (FIN), after all that was written."""
        self._transport.close()
        await self._lost

    async def reset(self) -> None:
        """Break the connection (RST)."""
        linger = struct.pack("ii", 1, 0)
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._transport.abort()
        await self._lost

    @property
    def _transport(self) -> asyncio.Transport:
        transport: asyncio.Transport = self.scope["state"]["transport"]
        return transport


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def send(peer: Peer, answer: Answer) -> None:
    """Send an answer as it should be, if the client is still there."""
    if await peer.gone(0):
        return
    whole = len(answer.chunks) == 1
    await peer.start(answer, len(answer.chunks[0]) if whole else None)
    for index in range(len(answer.chunks) - 1):
        await peer.write(answer.chunks[index])
    await peer.write(answer.chunks[-1], more=False)


async def _never_answer(peer: Peer, answer: Answer) -> None:
    await peer.gone(None)


async def _drip(peer: Peer, answer: Answer) -> None:
    await peer.start(answer)
    while not await peer.gone(_DRIP_S):
        await peer.write(b" ")


async def _send_half(peer: Peer, answer: Answer) -> None:
    body = b"".join(answer.chunks)
    await peer.start(answer, len(body))
    await peer.write(body[: len(body) // 2])


async def _reset_before_body(peer: Peer, answer: Answer) -> None:
    await peer.reset()


async def _close_before_body(peer: Peer, answer: Answer) -> None:
    await peer.close()


async def _reset_in_body(peer: Peer, answer: Answer) -> None:
    await _send_half(peer, answer)
    if not await peer.gone(_READ_S):
        await peer.reset()


async def _close_in_body(peer: Peer, answer: Answer) -> None:
    await _send_half(peer, answer)
    await peer.close()


async def _redirect(peer: Peer, answer: Answer) -> None:
    """Point to the same server under its other name, so that its calls show whether a key went there."""
    _, port = peer.scope["server"]
    other = "127.0.0.1" if peer.call.headers["host"].startswith("localhost") else "localhost"
    query = peer.scope["query_string"].decode()
    location = f"http://{other}:{port}{peer.call.path}?{query}".rstrip("?")
    await send(peer, Answer(307, "text/html", [b"<html>Moved</html>"], {"Location": location}))


def _reply_of(size_bytes: int) -> Iterator[bytes]:
    yield _REPLY_START
    for _ in range(size_bytes // len(_MEBIBYTE)):
        yield _MEBIBYTE
    yield _REPLY_END


async def _huge_body(peer: Peer, answer: Answer) -> None:
    await peer.start(answer)
    for chunk in _reply_of(HUGE_BYTES):
        if await peer.gone(0):
            return
        await peer.write(chunk)
    await peer.write(b"", more=False)


@lru_cache(maxsize=1)
def _bomb() -> bytes:
    target = BytesIO()
    with gzip.GzipFile(fileobj=target, mode="wb", compresslevel=1) as packed:
        packed.writelines(_reply_of(BOMB_BYTES))
    return target.getvalue()


async def _gzip_bomb(peer: Peer, answer: Answer) -> None:
    body = await asyncio.to_thread(_bomb)
    await send(peer, Answer(200, JSON, [body], {"Content-Encoding": "gzip"}))


async def _truncated(peer: Peer, answer: Answer) -> None:
    body = b"".join(answer.chunks)
    await send(peer, Answer(answer.status, answer.content_type, [body[: len(body) // 2]], answer.headers))


def _half_of_stream(sender: Callable[[Peer, Answer], Awaitable[None]]) -> Callable[[Peer, Answer], Awaitable[None]]:
    """Send the first half of a stream, then let another take over; an answer that is no stream is sent as it is."""

    async def deliver(peer: Peer, answer: Answer) -> None:
        if peer.call.action != "streamGenerateContent":
            await send(peer, answer)
            return
        await peer.start(answer)
        for chunk in answer.chunks[: max(1, len(answer.chunks) // 2)]:
            await peer.write(chunk)
        await sender(peer, answer)

    return deliver


async def _end(peer: Peer, answer: Answer) -> None:
    await peer.write(b"", more=False)


async def _stall(peer: Peer, answer: Answer) -> None:
    await peer.gone(None)


async def _error_event(peer: Peer, answer: Answer) -> None:
    error = RefusalError("The model is overloaded. Please try again later.", "UNAVAILABLE")
    await peer.write(answer.last_chunk(error.document()), more=False)


SENDERS: dict[Fault, Callable[[Peer, Answer], Awaitable[None]]] = {
    Fault.NEVER_ANSWERS: _never_answer,
    Fault.SLOW_LORIS: _drip,
    Fault.RESET_BEFORE_BODY: _reset_before_body,
    Fault.RESET_IN_BODY: _reset_in_body,
    Fault.CLOSE_BEFORE_BODY: _close_before_body,
    Fault.CLOSE_IN_BODY: _close_in_body,
    Fault.GZIP_BOMB: _gzip_bomb,
    Fault.HUGE_BODY: _huge_body,
    Fault.REDIRECT: _redirect,
    Fault.TRUNCATED_JSON: _truncated,
    Fault.STREAM_CUT: _half_of_stream(_end),
    Fault.STREAM_STALL: _half_of_stream(_stall),
    Fault.STREAM_ERROR: _half_of_stream(_error_event),
}
"""How an otherwise good answer is sent."""
