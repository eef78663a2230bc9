"""Who may ask the server for what: keys with their limits, scripts of other pages, and the log."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from audio_api.config import AudioConfig
from audio_api.errors import ConfigurationError
from audio_api.server.problems import AnswerError
from audio_api.urls import is_loopback

logger = logging.getLogger(__name__)

MOST_BODY_BYTES = 1024 * 1024
"""Of a request. FastAPI ends one that is longer than it said."""
COOKIE = "audio_api_session"
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True)
class Key:
    """A key that clients show.

    Attributes:
        name: Tells it from the others in logs and counters, and does not give it away.
        digest: Of the key: two of them take equally long to compare, whatever the keys are.
        session: What the page's cookie holds in its place.
        most_characters: Its limit for a day; ``None``: there is none.
    """

    name: str
    digest: bytes
    session: str
    most_characters: int | None

    @classmethod
    def parse(cls, item: str) -> Key:
        """The key that an item of SERVER_API_KEYS stands for, such as ``secret`` or ``secret=100000``.

        Raises:
            ConfigurationError: It is none.
        """
        secret, _, most = item.strip().partition("=")
        if not re.fullmatch("[!-~]{8,256}", secret) or not re.fullmatch("[0-9]{0,12}", most):
            raise ConfigurationError(
                "SERVER_API_KEYS holds keys of 8 to 256 ASCII characters without spaces, commas or '=', each alone or "
                "with its characters a day behind '='"
            )
        digest = hashlib.sha256(secret.encode())
        session = hmac.new(secret.encode(), b"audio-api session", "sha256").hexdigest()
        return cls(digest.hexdigest()[:8], digest.digest(), session, int(most) if most else None)


class Doorkeeper:
    """Decides who may speak.

    Args:
        config: The settings.

    Raises:
        ConfigurationError: SERVER_API_KEYS or SERVER_CORS_ORIGINS cannot be read.
    """

    def __init__(self, config: AudioConfig) -> None:
        keys = config.server_api_keys.get_secret_value() if config.server_api_keys else ""
        self.keys = [Key.parse(item) for item in keys.split(",") if item.strip()]
        origins = (config.server_cors_origins or "").split(",")
        self.origins = [_origin(item.strip()) for item in origins if item.strip()]

    def key_of(self, headers: Headers, session: str | None) -> Key | None:
        """The key that a request shows; ``None``: it shows none, and none is asked for.

        Raises:
            AnswerError: A key is asked for, and what is shown is none.
        """
        if not self.keys:
            return None
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" or not session:
            digest = hashlib.sha256(shown.strip().encode()).digest()
            found = [key for key in self.keys if hmac.compare_digest(key.digest, digest)]
        else:
            found = [key for key in self.keys if hmac.compare_digest(key.session.encode(), session.encode())]
        if not found:
            raise AnswerError(
                401, "the API key is missing or wrong: send Authorization: Bearer KEY", code="invalid_api_key"
            )
        return found[0]

    def check_page(self, headers: Headers) -> None:
        """Refuse what the script of a foreign page asks for.

        A browser sends the origin of such a page. Without keys, the host must be this machine, too: a foreign name that
        leads here (DNS rebinding) makes its page look like ours.

        Raises:
            AnswerError: A foreign page asks.
        """
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self.keys and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            raise AnswerError(403, f"{host[:80]!r} is not this machine: set SERVER_API_KEYS", code="wrong_host")
        is_foreign = origin is not None and urlsplit(origin).netloc != host
        if is_foreign and "*" not in self.origins and origin not in self.origins:
            raise AnswerError(403, f"{str(origin)[:80]!r} is not among SERVER_CORS_ORIGINS", code="wrong_origin")


def _origin(item: str) -> str:
    parts = urlsplit(item)
    if item != "*" and (not parts.scheme or item != f"{parts.scheme}://{parts.netloc}"):
        raise ConfigurationError(
            f"SERVER_CORS_ORIGINS={item[:80]!r}: an origin is a scheme and a host, such as https://chat.example.com, "
            "without a path; * is any"
        )
    return item


def check_bind(host: str, keys: Sequence[Key]) -> None:
    """Refuse to serve other machines without a key.

    Raises:
        ConfigurationError: The host is not this machine, and there are no keys.
    """
    if not keys and not is_loopback(host):
        raise ConfigurationError(
            f"--host {host} lets other machines spend what the Gemini key pays for: set SERVER_API_KEYS, or use "
            "--host 127.0.0.1"
        )


async def shown_key(request: Request) -> Key | None:
    """The key of a request, for routes that need one where keys are set.

    Raises:
        AnswerError: As ``Doorkeeper.key_of``.
    """
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    return doorkeeper.key_of(request.headers, request.cookies.get(COOKIE))


ShownKey = Annotated[Key | None, Depends(shown_key)]
"""The key of a request; ``None``: none is asked for."""


class Entrance:
    """Every request passes it: it gets an id, is refused if a foreign page sends it, and is logged.

    Args:
        app: What is behind it.
        doorkeeper: Knows which pages may ask.
    """

    def __init__(self, app: ASGIApp, doorkeeper: Doorkeeper) -> None:
        self._app = app
        self._doorkeeper = doorkeeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        answer = _WatchedAnswer(send, request_id)
        started_s = time.monotonic()
        try:
            self._doorkeeper.check_page(headers)
            _check_length(headers)
            await self._app(scope, receive, answer.send)
        except AnswerError as problem:
            await problem.response()(scope, receive, answer.send)
        finally:
            logger.info(
                "request",
                extra={
                    "method": scope["method"],
                    "path": scope["path"][:200],
                    "status": answer.status,
                    "bytes": answer.sent_bytes,
                    "complete": answer.is_complete,
                    "duration_s": round(time.monotonic() - started_s, 3),
                    "request_id": request_id,
                },
            )


def _check_length(headers: Headers) -> None:
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length) > MOST_BODY_BYTES:
        raise AnswerError(413, f"a body has at most {MOST_BODY_BYTES:,} bytes", code="body_too_large")


class _WatchedAnswer:
    """Counts what is sent, and puts the request's id into it."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.status: int | None = None
        self.sent_bytes = 0
        self.is_complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["x-request-id"] = self._request_id
            self.status = message["status"]
        await self._send(message)
        if message["type"] == "http.response.body":
            self.sent_bytes += len(message.get("body", b""))
            self.is_complete = not message.get("more_body", False)
