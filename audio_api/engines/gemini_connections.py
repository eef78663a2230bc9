"""The SDK's clients for the Gemini API, one for each event loop."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from audio_api.engines.gemini_backend import Backend
from audio_api.engines.gemini_credentials import access_headers, find_credentials
from audio_api.errors import ConfigurationError

if TYPE_CHECKING:
    import httpx2


@dataclass(frozen=True, slots=True)
class Connection:
    """The SDK's client for one event loop, the HTTP client below it, and the process that has both."""

    sdk: Any
    http: httpx2.AsyncClient
    pid: int


class Connections:
    """Clients that are made when an event loop first needs one.

    Args:
        api_key: The key that makes the calls, unless the backend has a project.
        base_url: Where the API is; variables such as ``GOOGLE_GEMINI_BASE_URL`` have no effect.
        backend: Whose API that is.
        timeout_s: Seconds one call may take in total.
        max_connections: Calls that may be in progress at once in one event loop.
    """

    def __init__(
        self, api_key: SecretStr, base_url: str, backend: Backend, timeout_s: float, max_connections: int
    ) -> None:
        self._api_key = api_key
        self._base_url = base_url
        self._backend = backend
        self._timeout_s = timeout_s
        self._max_connections = max_connections
        self._by_loop: dict[asyncio.AbstractEventLoop, Connection] = {}
        self._connecting = threading.Lock()
        # They keep their access token for an hour, whatever loop uses it.
        self._credentials: Any = None

    async def sdk(self) -> Any:
        """The SDK's client for the running event loop.

        Raises:
            ConfigurationError: The proxy, the environment or Google's credentials are wrong.
        """
        loop = asyncio.get_running_loop()
        connection = self._by_loop.get(loop)
        if connection is None:
            # The first import of the SDK takes most of a second, during which the loop must not stand still.
            connection = await asyncio.to_thread(self._connect_once, loop)
        return connection.sdk

    async def http(self) -> httpx2.AsyncClient:
        """The HTTP client for the running event loop, below the SDK's.

        Raises:
            ConfigurationError: The proxy or the environment is wrong.
        """
        await self.sdk()
        return self._by_loop[asyncio.get_running_loop()].http

    async def headers(self) -> dict[str, str]:
        """What shows who calls, for calls that the SDK does not make.

        Raises:
            ConfigurationError: As ``http``.
            google.auth.exceptions.GoogleAuthError: Google refused the credentials, or gave no answer.
        """
        await self.sdk()
        if self._credentials is None:
            return {"x-goog-api-key": self._api_key.get_secret_value()}
        return await asyncio.to_thread(access_headers, self._credentials)

    async def close(self) -> None:
        """Close the connections of every event loop that still runs in this process."""
        here = asyncio.get_running_loop()
        while self._by_loop:
            loop, connection = self._by_loop.popitem()
            if loop is here:
                await connection.http.aclose()
            elif loop.is_running() and connection.pid == os.getpid():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(connection.http.aclose(), loop))

    def _connect_once(self, loop: asyncio.AbstractEventLoop) -> Connection:
        from audio_api.engines.gemini_transport import open_http_client

        with self._connecting:
            for ended in [other for other in self._by_loop if other.is_closed()]:
                del self._by_loop[ended]
            if loop not in self._by_loop:
                http = open_http_client(self._base_url, max_connections=self._max_connections)
                self._by_loop[loop] = self.open(http)
            return self._by_loop[loop]

    def open(self, http: httpx2.AsyncClient) -> Connection:
        """Make the SDK's client.

        Args:
            http: What it calls through.

        Raises:
            ConfigurationError: The environment asks for an HTTP client that is not installed, or Google's credentials
                are missing.
        """
        import httpx2
        from google.genai import Client, types
        from google.genai.client import DebugConfig

        # A finish reason that the SDK does not know is reported with the reply.
        warnings.filterwarnings("ignore", r".* is not a valid \w+$", UserWarning, r"google\.genai\._common$")
        options = types.HttpOptions(
            base_url=self._base_url,
            # The SDK's default, v1, does not take the fields of speech.
            api_version=self._backend.version,
            timeout=round(self._timeout_s * 1000),
            httpx_async_client=http,
            # Never used; without it the SDK loads two sets of TLS certificates for a client of its own.
            httpx_client=httpx2.Client(transport=httpx2.BaseTransport()),
        )
        try:
            # What is passed here, the environment cannot change: neither another cloud nor recorded replies.
            sdk = Client(
                vertexai=self._backend.is_vertex,
                **self._caller(),
                debug_config=DebugConfig(client_mode="api"),
                http_options=options,
            )
        except ImportError:
            problem = "GOOGLE_GENAI_HTTP_CLIENT names an HTTP client that is not installed: unset it"
        else:
            return Connection(sdk, http, os.getpid())
        raise ConfigurationError(problem)

    def _caller(self) -> dict[str, Any]:
        """Who makes the calls, as the SDK's client takes it."""
        if not self._backend.project:
            return {"api_key": self._api_key.get_secret_value()}
        if self._credentials is None:
            self._credentials = find_credentials()
        place = {"project": self._backend.project, "location": self._backend.location}
        return {**place, "credentials": self._credentials}
