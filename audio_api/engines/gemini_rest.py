"""Calls of the Gemini API in plain JSON, for what the SDK does not do or does badly."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import SecretStr

from audio_api.engines.gemini_connections import Connections
from audio_api.engines.gemini_errors import classify, unreadable
from audio_api.engines.gemini_reply import Wire, current_wire

if TYPE_CHECKING:
    import httpx2

_T = TypeVar("_T")


class RestCalls:
    """Makes calls, one attempt each.

    Args:
        connections: The calls go through them.
        key: Taken out of texts should the server repeat it.
        base_url: Where the API is.
        timeout_s: Seconds one call may take.
        now: The time in UTC.
    """

    def __init__(
        self,
        connections: Connections,
        *,
        key: SecretStr,
        base_url: str,
        timeout_s: float,
        now: Callable[[], datetime],
    ) -> None:
        self._connections = connections
        self.key = key.get_secret_value()
        self.base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self.now = now

    async def call(
        self,
        method: str,
        path: str,
        content: Mapping[str, Any] | bytes | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        wire: Wire | None = None,
    ) -> httpx2.Response:
        """Make one call, and read its answer.

        Args:
            method: The method of HTTP.
            path: What follows the base URL and its slash; or a whole URL.
            content: JSON, or bytes as they are; ``None``: none.
            params: The query; ``None``: that of the path.
            headers: Sent besides those that show who calls; ``None``: none.
            wire: The answer's content is left on the connection until ``wire.call`` is closed; ``None``: it is read.

        Raises:
            AudioAPIError: Of the class that says whether another attempt makes sense.
        """

        async def exchange() -> httpx2.Response:
            http = await self._connections.http()
            request = http.build_request(
                method,
                path if path.startswith("http") else f"{self.base_url}/{path}",
                params=params,
                headers={**await self._connections.headers(), **(headers or {})},
                timeout=self._timeout_s,
                **({"content": content} if isinstance(content, bytes) else {"json": content}),
            )
            current_wire.set(wire or Wire())
            answer = await http.send(request, stream=wire is not None)
            if not answer.is_success:
                await answer.aread()
            return answer.raise_for_status()

        return await self.in_time(exchange())

    async def in_time(self, step: Awaitable[_T]) -> _T:
        """Await a step of a call.

        Raises:
            AudioAPIError: It failed, or took too long.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await step
        # A vendor's border, as in ``GeminiEngine``.
        except Exception as error:
            failure = classify(error, now=self.now(), key=self.key)
            if failure is None:
                raise
        raise failure.with_traceback(None)


def understood(load: Callable[[], Any], understand: Callable[[Any], _T]) -> _T:
    """What a document of the API says.

    Args:
        load: Gives the document, such as ``answer.json``.
        understand: Reads it.

    Raises:
        TTSUnavailableError: It is none, or has another shape.
    """
    try:
        return understand(load())
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        failure = unreadable(error)
    raise failure
