"""The server of ``audio-api serve`` in a thread of the tests, on a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Mapping
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from typing import Any, Self

import uvicorn
from own_time import PATIENCE_S

from audio_api.config import AudioConfig
from audio_api.server.app import build_app
from audio_api.server.program import options
from audio_api.server.state import ServerState


class Served:
    """A running server.

    Args:
        config: Its settings.
    """

    def __init__(self, config: AudioConfig) -> None:
        self.config = config
        self._server = uvicorn.Server(options(build_app(config)))
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],), daemon=True)

    def __enter__(self) -> Self:
        """Serve."""
        self._thread.start()
        self.until(lambda: self._server.started)
        return self

    def __exit__(self, *error: object) -> None:
        """End, as by SIGTERM."""
        self._server.should_exit = True
        self._thread.join()

    @property
    def state(self) -> ServerState:
        """What its routes share."""
        state: ServerState = self._server.lifespan.state["server"]
        return state

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Its event loop."""
        return next(iter(self._server.servers)).get_loop()

    @property
    def connections(self) -> int:
        """Clients that are connected."""
        return len(self._server.server_state.connections)

    @property
    def tasks(self) -> list[str]:
        """What its event loop has to do."""
        return [repr(task.get_coro()) for task in asyncio.all_tasks(self.loop)]

    @staticmethod
    def until(condition: Any, limit_s: float = PATIENCE_S) -> None:
        """Wait for a condition of the other thread to hold."""
        event = threading.Event()
        for _ in range(int(limit_s / 0.01)):
            if condition():
                return
            event.wait(0.01)
        raise AssertionError("it did not come to that")

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[HTTPResponse, bytes]:
        """One request in plain HTTP, with the answer and its body."""
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=600)) as connection:
            content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            sent = {"content-type": "application/json"} | dict(headers or {})
            connection.request(method, path, content, sent)
            answer = connection.getresponse()
            return answer, answer.read()

    def speak(self, text: str, headers: Mapping[str, str] | None = None, **fields: Any) -> tuple[HTTPResponse, bytes]:
        """Ask for speech."""
        return self.ask("POST", "/v1/audio/speech", {"input": text, **fields}, headers)
