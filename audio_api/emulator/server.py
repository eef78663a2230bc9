"""The emulator on a real socket."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterable
from contextlib import closing
from http.client import HTTPConnection
from ipaddress import ip_address
from typing import Self

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from audio_api.emulator.app import build_app
from audio_api.emulator.control import Control, Synthesize

# Longer than any pause in a test, so that a kept connection is not closed just when a client uses it again.
_KEEP_ALIVE_S = 240
_BACKLOG = 2048
_LAST_PORT = 65_535


class _Protocol(H11Protocol):
    """HTTP that lets the application at its connection, and ends at once when the server does."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}
        # asyncio does so only for sockets that name their protocol; without it every small answer takes 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def shutdown(self) -> None:
        self.transport.abort()


class Emulator(Control):
    """A server that speaks Gemini's protocol, in a thread of its own.

    As a context manager it runs between ``with`` and its end; ``.url`` is then its address, to be used as a base URL
    with any key.

    Args:
        synthesize: What is heard, a function of text, voice and language that returns 24,000 Hz, 16-bit, mono PCM, or
            an awaitable of it; a plain function runs in a thread. ``None``: a computed sound with the measures of
            speech.
        api_key: The one key that is accepted; ``None``: any key, but not none.
        latency_s: Seconds between a valid call and the first byte of its answer. May be changed at any time.
        tokens_per_s: Audio tokens billed per second of sound. May be changed at any time.
        custom_voices: The ids of the account's own voices, such as ``"voice_abc"``; all others are not found. The set
            may be changed at any time.
        v1beta_only: Whether ``/v1`` knows no speech, as in the middle of 2026, so that a client must ask ``/v1beta``.
            May be changed at any time.
        host: An IP address of this machine, or ``"localhost"``. One that other machines reach lets them read every call
            that came, with its key.
        port: ``0`` takes a free one.

    Raises:
        ValueError: ``host`` is no address, or there is no such port.
    """

    def __init__(
        self,
        synthesize: Synthesize | None = None,
        api_key: str | None = None,
        latency_s: float = 0.0,
        tokens_per_s: float = 25.0,
        *,
        custom_voices: Iterable[str] = (),
        v1beta_only: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(
            synthesize, api_key, latency_s, tokens_per_s, custom_voices=custom_voices, v1beta_only=v1beta_only
        )
        self._address = ip_address("127.0.0.1" if host == "localhost" else host)
        if not 0 <= port <= _LAST_PORT:
            raise ValueError(f"there is no port {port}: ports are 0 (a free one) to {_LAST_PORT}")
        self._port = port
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Its address, such as ``http://127.0.0.1:41234``, without a closing slash."""
        host = f"[{self._address}]" if self._address.version == 6 else str(self._address)
        return f"http://{host}:{self._port}"

    @property
    def is_public(self) -> bool:
        """Whether other machines may reach it."""
        return not self._address.is_loopback

    def start(self) -> Self:
        """Listen, and serve in a thread.

        Raises:
            OSError: The port is taken.
        """
        family = socket.AF_INET6 if self._address.version == 6 else socket.AF_INET
        listener = socket.create_server((str(self._address), self._port), family=family, backlog=_BACKLOG)
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            build_app(self),
            http=_Protocol,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            backlog=_BACKLOG,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name=f"emulator-{self._port}", daemon=True
        )
        self._thread.start()
        return self

    def settle(self) -> None:
        """Wait until all calls that were sent before have arrived, also from clients that are gone by now."""
        # Connections are accepted in order, and what they bring is read in order.
        with closing(HTTPConnection(str(self._address), self._port)) as connection:
            connection.request("GET", "/emulator", headers={"connection": "close"})
            connection.getresponse().read()

    def stop(self) -> None:
        """Break all connections and end. May be called twice."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
        self._server = self._thread = None

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *error: object) -> None:
        """Stop."""
        self.stop()
