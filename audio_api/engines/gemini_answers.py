"""An HTTP answer of the Gemini API, or of a gateway, that is an error: what it says, in whatever shape."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

# Keys, access tokens, and the signed words that are exchanged for one.
_KEY_LIKE = re.compile(r"\b(?:AIza[\w-]{20,}|ya29\.[\w.-]{10,}|eyJ[\w-]{10,}\.[\w.-]+)")
# Of a page, its beginning says what is wrong.
_MOST_CHARS = 4_000


def quote(message: str, key: str) -> str:
    """A server's words on one line of at most 200 characters, without the key."""
    message = _KEY_LIKE.sub("[key]", message.replace(key, "[key]") if key else message)
    message = "".join(char if char.isprintable() else " " for char in message[:_MOST_CHARS])
    message = " ".join(message.split())
    return message if len(message) <= 200 else message[:199] + "…"


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An HTTP answer that is an error; as text, it is fit for an error of ours.

    ``is_googles`` tells whether its body is an error of Google's, as far as that can be known, and not a gateway's own.
    """

    status: int
    name: str
    message: str
    details: list[Mapping[str, Any]]
    is_googles: bool
    headers: Mapping[str, str]
    key: str

    @classmethod
    def of(cls, error: Exception, key: str) -> ErrorAnswer | None:
        """Read the SDK's ``APIError``, or an HTTP client's own error for a status."""
        names = set(ancestry(type(error)))
        response = getattr(error, "response", None)
        headers = getattr(response, "headers", None)
        headers = headers if isinstance(headers, Mapping) else {}
        if "google.APIError" in names:
            document = getattr(error, "details", None)
            status, name = getattr(error, "code", 0), getattr(error, "status", "")
            message, details = _words(getattr(error, "message", None) or document), _details(document)
            is_googles = _is_googles(document)
        elif "httpx.HTTPStatusError" in names:
            document = _document(response)
            status, name = getattr(response, "status_code", 0), ""
            message, details = _words(document) or str(error), _details(document)
            is_googles = document is None or _is_googles(document)
        else:
            return None
        return cls(
            status if isinstance(status, int) else 0,
            quote(name, key)[:40] if isinstance(name, str) else "",
            message,
            details,
            is_googles,
            headers,
            key,
        )

    def of_type(self, name: str) -> Iterator[Mapping[str, Any]]:
        """The details of one ``google.rpc`` type."""
        return (detail for detail in self.details if str(detail.get("@type", "")).endswith(f"google.rpc.{name}"))

    def retry_after_s(self, now: datetime) -> float | None:
        """Seconds that the server asks to wait: the longest that it names; ``None``: it names none.

        Args:
            now: The time, with its zone.
        """
        delays = [_duration_s(info.get("retryDelay")) for info in self.of_type("RetryInfo")]
        delays.append(_header_delay_s(self.headers.get("Retry-After", ""), now))
        return max((delay for delay in delays if delay is not None), default=None)

    def __str__(self) -> str:
        return f"{self.status} {self.name}: {quote(self.message, self.key)}".strip(" :")


# Where gateways put their words: FastAPI, Kong, OpenAI's body, RFC 9457, and plain text.
_WORDS = ("message", "error", "detail", "msg", "error_description", "title", "errors")
_MARKUP = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^<>]*>", re.DOTALL | re.IGNORECASE)


def _words(document: Any) -> str:
    """What an error's body says, wherever a gateway has put it; empty when it says nothing."""
    for _ in range(4):
        if isinstance(document, list):
            document = document[0] if document else None
        if isinstance(document, Mapping):
            document = next((document[name] for name in _WORDS if document.get(name)), None)
    return _MARKUP.sub(" ", document[:_MOST_CHARS]) if isinstance(document, str) else ""


def _document(response: Any) -> Any:
    try:
        return response.json()
    # Of a response that was not read, or that has no such method: every client has its own error.
    except Exception:
        return None


def _is_googles(document: Any) -> bool:
    error = document.get("error") if isinstance(document, Mapping) else None
    if not isinstance(error, Mapping):
        return False
    return isinstance(error.get("code"), int) or isinstance(error.get("status"), str) or bool(_details(document))


def _details(document: Any) -> list[Mapping[str, Any]]:
    error = document.get("error") if isinstance(document, Mapping) else None
    return objects(error.get("details")) if isinstance(error, Mapping) else []


def objects(value: Any) -> list[Mapping[str, Any]]:
    """The JSON objects of a list; none when it is something else."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def ancestry(kind: type) -> Iterator[str]:
    """The names of a class and its bases, each with its package, such as ``"httpx.HTTPError"``; httpx2 is httpx."""
    for cls in kind.__mro__:
        yield f"{cls.__module__.partition('.')[0].removesuffix('2')}.{cls.__name__}"


def _duration_s(value: Any) -> float | None:
    match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)s", value) if isinstance(value, str) else None
    return float(match[1]) if match else None


def _header_delay_s(value: str, now: datetime) -> float | None:
    """Seconds, or the seconds until a date (RFC 9110, section 10.2.3)."""
    if (seconds := _duration_s(f"{value.strip()}s")) is not None:
        return seconds
    try:
        return max(0.0, math.ceil((parsedate_to_datetime(value) - now).total_seconds()))
    except (ValueError, TypeError, OverflowError):
        return None
