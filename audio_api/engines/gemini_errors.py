"""Every exception of the SDK and of its HTTP client, as one of ours.

Told apart by class, HTTP status and the structured details of the answer. Words of a message decide only where nothing
else does; they are named below. No exception is kept: those of the vendors hold the API key.
"""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, timezone, tzinfo
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from audio_api.errors import (
    AudioAPIError,
    ConfigurationError,
    ErrorCode,
    TTSAPIError,
    TTSAuthenticationError,
    TTSModelNotFoundError,
    TTSQuotaError,
    TTSRateLimitError,
    TTSUnavailableError,
    TTSValidationError,
    TTSVoiceNotFoundError,
    error_class,
)

# A mistake in a program, ours or an injected client's, is no answer of the API: it must be seen as what it is.
_BUGS = (TypeError, AttributeError, NameError, LookupError, AssertionError, NotImplementedError, MemoryError)

# The closest entry of an exception's ancestry counts. "httpx" stands for httpx2 too, its fork with the same classes.
_CODES = {
    # Nothing was sent yet: these are no TIMEOUT, which leaves open whether the call was billed.
    "httpx.ConnectTimeout": ErrorCode.CONNECTION_FAILED,
    "httpx.PoolTimeout": ErrorCode.CONNECTION_FAILED,
    "httpx.ConnectError": ErrorCode.CONNECTION_FAILED,
    "httpx.ProxyError": ErrorCode.CONNECTION_FAILED,
    "httpx.TimeoutException": ErrorCode.TIMEOUT,
    "httpx.UnsupportedProtocol": ErrorCode.CONFIGURATION,
    "httpx.InvalidURL": ErrorCode.CONFIGURATION,
    "httpx.TooManyRedirects": ErrorCode.CONFIGURATION,
    "httpx.DecodingError": ErrorCode.UNREADABLE_REPLY,
    "httpx.CookieConflict": ErrorCode.UNREADABLE_REPLY,
    "httpx.HTTPError": ErrorCode.CONNECTION_BROKEN,
    "httpx.StreamError": ErrorCode.CONNECTION_BROKEN,
    "aiohttp.ConnectionTimeoutError": ErrorCode.CONNECTION_FAILED,
    "aiohttp.ServerTimeoutError": ErrorCode.TIMEOUT,
    "aiohttp.ClientConnectorError": ErrorCode.CONNECTION_FAILED,
    "aiohttp.InvalidURL": ErrorCode.CONFIGURATION,
    "aiohttp.TooManyRedirects": ErrorCode.CONFIGURATION,
    "aiohttp.ClientResponseError": ErrorCode.UNREADABLE_REPLY,
    "aiohttp.ClientError": ErrorCode.CONNECTION_BROKEN,
    "google.UnknownApiResponseError": ErrorCode.UNREADABLE_REPLY,
    "google.EphemeralTokenAPIKeyError": ErrorCode.AUTHENTICATION,
    "pydantic_core.ValidationError": ErrorCode.UNREADABLE_REPLY,
    "json.JSONDecodeError": ErrorCode.UNREADABLE_REPLY,
    "builtins.UnicodeError": ErrorCode.UNREADABLE_REPLY,
    "builtins.RecursionError": ErrorCode.UNREADABLE_REPLY,
    "builtins.TimeoutError": ErrorCode.TIMEOUT,
    "builtins.ConnectionRefusedError": ErrorCode.CONNECTION_FAILED,
    "builtins.ConnectionError": ErrorCode.CONNECTION_BROKEN,
    "builtins.OSError": ErrorCode.CONNECTION_FAILED,
}
_SENTENCES = {
    ErrorCode.TIMEOUT: "the API gave no complete answer in time",
    ErrorCode.CONNECTION_FAILED: "the API could not be reached",
    ErrorCode.CONNECTION_BROKEN: "the connection broke before the answer was complete",
    ErrorCode.UNREADABLE_REPLY: "the API's answer could not be read",
    ErrorCode.CONFIGURATION: "GEMINI_BASE_URL does not lead to the API",
    ErrorCode.AUTHENTICATION: "GEMINI_API_KEY is not a key for this kind of call",
    ErrorCode.API_ERROR: "the call to the API failed",
}


def classify(error: Exception, *, now: datetime, key: str = "") -> AudioAPIError | None:
    """The error of ours that says what a client's exception means.

    Args:
        error: What the call raised.
        now: The time, with its zone; decides when a daily quota resets.
        key: The API key, which is taken out of the text should the server have repeated it.

    Returns:
        ``None`` for a mistake in a program, such as a ``TypeError``, which is no answer of the API.
    """
    if isinstance(error, AudioAPIError):
        return error
    if answer := _ErrorAnswer.of(error, key):
        return _from_status(answer, now)
    if problem := _distrust(error):
        return ConfigurationError(
            f"the certificate on the way to GEMINI_BASE_URL is not trusted ({quote(problem, key)}): a proxy or gateway "
            "with a certificate authority of its own needs SSL_CERT_FILE, the path of that authority's certificate"
        )
    if "httpx.ProxyError" in _ancestry(type(error)) and str(error).startswith("407"):
        return ConfigurationError(
            "the proxy refuses the user or the password (407): HTTPS_PROXY names both, as http://user:password@host:port"
        )
    if code := _code_of(type(error)):
        return error_class(code)(_describe(code, error, key), code=code)
    if isinstance(error, _BUGS):
        return None
    return TTSAPIError(_describe(ErrorCode.API_ERROR, error, key))


class Objection(Enum):
    """What the API refuses in the way a call is put; it has spoken and billed nothing."""

    STORE = auto()
    LANGUAGE = auto()
    METADATA = auto()
    NO_METADATA = auto()


def objection_to(error: Exception) -> Objection | None:
    """What a client's exception objects to in the way the call was put; ``None``: nothing could be put otherwise."""
    answer = _ErrorAnswer.of(error, "")
    if answer is None or answer.status != 400:
        return None
    return next((objection for words, objection in _OBJECTIONS if words.search(answer.message)), None)


def unreadable(error: Exception) -> TTSUnavailableError:
    """A reply whose shape made the SDK stumble."""
    return TTSUnavailableError(_describe(ErrorCode.UNREADABLE_REPLY, error, ""), code=ErrorCode.UNREADABLE_REPLY)


def _ancestry(kind: type) -> Iterator[str]:
    for cls in kind.__mro__:
        yield f"{cls.__module__.partition('.')[0].removesuffix('2')}.{cls.__name__}"


def _code_of(kind: type) -> ErrorCode | None:
    return next((_CODES[name] for name in _ancestry(kind) if name in _CODES), None)


def _distrust(error: BaseException | None) -> str | None:
    """Why a certificate was refused, if that is behind an error; each library wraps the reason in errors of its own."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error.verify_message if error else None


# What could not be read may quote the reply, and with it the text to speak; what could not be sent may quote the key.
_WORDLESS = {ErrorCode.UNREADABLE_REPLY, ErrorCode.CONNECTION_BROKEN}


def _describe(code: ErrorCode, error: Exception, key: str) -> str:
    words = "" if code in _WORDLESS else quote(str(error), key)
    return f"{_SENTENCES[code]} ({type(error).__name__}{': ' if words else ''}{words})"


_KEY_LIKE = re.compile(r"\bAIza[\w-]{20,}")


# Of a page, its beginning says what is wrong.
_MOST_CHARS = 4_000


def quote(message: str, key: str) -> str:
    """A server's words on one line of at most 200 characters, without the key."""
    message = _KEY_LIKE.sub("[key]", message.replace(key, "[key]") if key else message)
    message = "".join(char if char.isprintable() else " " for char in message[:_MOST_CHARS])
    message = " ".join(message.split())
    return message if len(message) <= 200 else message[:199] + "…"


@dataclass(frozen=True, slots=True)
class _ErrorAnswer:
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
    def of(cls, error: Exception, key: str) -> _ErrorAnswer | None:
        """Read the SDK's ``APIError``, or an HTTP client's own error for a status."""
        names = set(_ancestry(type(error)))
        response = getattr(error, "response", None)
        headers = getattr(response, "headers", None)
        headers = headers if isinstance(headers, Mapping) else {}
        if "google.APIError" in names:
            document = getattr(error, "details", None)
            status, name = getattr(error, "code", 0), getattr(error, "status", "")
            message, details = _words(getattr(error, "message", None) or document), _details(document)
            is_googles = _is_googles(document)
        elif "httpx.HTTPStatusError" in names:
            status, name, message, details = getattr(response, "status_code", 0), "", str(error), []
            is_googles = True
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


def _is_googles(document: Any) -> bool:
    error = document.get("error") if isinstance(document, Mapping) else None
    if not isinstance(error, Mapping):
        return False
    return isinstance(error.get("code"), int) or isinstance(error.get("status"), str) or bool(_details(document))


def _details(document: Any) -> list[Mapping[str, Any]]:
    error = document.get("error") if isinstance(document, Mapping) else None
    return _objects(error.get("details")) if isinstance(error, Mapping) else []


def _objects(value: Any) -> list[Mapping[str, Any]]:
    """The JSON objects of a list; none when it is something else."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


LONGEST_DELAY_S = 600.0
"""A minute's quota and an outage are over, or worth another call, by then, whatever delay a server names."""


def _from_status(answer: _ErrorAnswer, now: datetime) -> AudioAPIError:
    named_s = _retry_after_s(answer, now)
    retry_after_s = None if named_s is None else min(named_s, LONGEST_DELAY_S)
    match answer.status:
        case 400:
            return _from_400(answer)
        case 401 | 403:
            return TTSAuthenticationError(f"the API refused the key ({answer})")
        case 404:
            return _from_404(answer)
        case 429:
            return _from_429(answer, now, retry_after_s, named_s)
        case 408 | 499:
            return TTSUnavailableError(f"the API gave up on the call ({answer})", retry_after_s=retry_after_s)
    return _from_class(answer, retry_after_s)


def _from_class(answer: _ErrorAnswer, retry_after_s: float | None) -> AudioAPIError:
    match answer.status // 100:
        case 2:
            return TTSUnavailableError(f"the API answered without content ({answer})", code=ErrorCode.UNREADABLE_REPLY)
        case 3:
            return ConfigurationError(
                f"the server at GEMINI_BASE_URL sends calls elsewhere ({answer.status}); the key is not sent there: "
                "set GEMINI_BASE_URL to the API's own address, and check the proxy"
            )
        case 5:
            return TTSUnavailableError(f"the API failed ({answer})", retry_after_s=retry_after_s)
    return TTSAPIError(f"the API refused the request ({answer})")


# Cases in which only the message tells. A random fault of speech models, which passes:
_CONFUSED = re.compile(r"\bModel tried to generate text\b")
_TOO_LONG = re.compile(r"\binput token count\b.*\bexceeds the maximum\b")
# A limit of zero is left out of the details, as proto3 does with zeros.
_ZERO_LIMIT = re.compile(r"\blimit: 0(?![\d.])")
_NO_CREDIT = re.compile(r"\bprepayment credits are depleted\b")
# Recorded in September and October 2026: of all models and the whole account, as no other quota is.
_SPENT = re.compile(r"\bspend-based rate limit\b")
_NO_VOICE = re.compile(
    r"\bNo matching speaker voice found\b|\bThe voice was not found\b|\bVoice name \S+ is not supported\b"
)
_OBJECTIONS = (
    (
        re.compile(r"""["'`]store["'`]|\b(?:name|field|parameter|option):? store\b|\bstore (?:is|field|param)"""),
        Objection.STORE,
    ),
    (re.compile(r"\bNo matching speaker voice found\b.*\band language: \w"), Objection.LANGUAGE),
    (re.compile(r"\bSpeech metadata is not supported\b"), Objection.METADATA),
    (re.compile(r"\bmust specify speech_metadata\.speaker\b"), Objection.NO_METADATA),
)
# The account's window is ten minutes long; a shorter pause is refused again.
_SPENT_PAUSE_S = 60.0


def _from_400(answer: _ErrorAnswer) -> AudioAPIError:
    if any(str(info.get("reason")).startswith("API_KEY_") for info in answer.of_type("ErrorInfo")):
        return TTSAuthenticationError(f"the API refused the key ({answer})")
    if _CONFUSED.search(answer.message):
        return TTSUnavailableError(f"the model answered instead of speaking ({answer})", code=ErrorCode.MODEL_CONFUSED)
    if _TOO_LONG.search(answer.message):
        return TTSValidationError(
            f"the text is too long for one call; split it at ends of sentences ({answer})",
            code=ErrorCode.TEXT_TOO_LONG,
        )
    if _NO_VOICE.search(answer.message):
        return TTSVoiceNotFoundError(f"the API does not know the voice ({answer})")
    return TTSAPIError(f"the API refused the request ({answer})")


def _from_404(answer: _ErrorAnswer) -> AudioAPIError:
    if not answer.is_googles:
        return ConfigurationError(
            f"there is no Gemini API at the address that GEMINI_BASE_URL names ({answer}): it must be the part before "
            "/v1beta/models, such as https://host or https://host/path"
        )
    if _NO_VOICE.search(answer.message):
        return TTSVoiceNotFoundError(f"the API does not know the voice, or this key may not use it ({answer})")
    return TTSModelNotFoundError(f"the API does not know the model ({answer})")


def _from_429(answer: _ErrorAnswer, now: datetime, retry_after_s: float | None, named_s: float | None) -> AudioAPIError:
    failures = answer.of_type("QuotaFailure")
    violations = [violation for failure in failures for violation in _objects(failure.get("violations"))]
    quotas = quote(", ".join(_limit(violation) for violation in violations), answer.key) or str(answer)
    if _ZERO_LIMIT.search(answer.message) or any(violation.get("quotaValue") == "0" for violation in violations):
        return TTSQuotaError(
            f"this key's plan has no quota for the model; use another model or plan ({quotas})",
            code=ErrorCode.QUOTA_NOT_GRANTED,
        )
    if _SPENT.search(answer.message):
        return TTSRateLimitError(
            f"the account has spent as much as its tier may in ten minutes, over all models ({answer})",
            code=ErrorCode.SPEND_LIMITED,
            retry_after_s=max(_SPENT_PAUSE_S, retry_after_s or 0.0),
        )
    if _NO_CREDIT.search(answer.message):
        return TTSQuotaError(f"the account's credit is used up ({answer})", code=ErrorCode.CREDIT_EXHAUSTED)
    if any(_is_daily(violation) for violation in violations):
        return _day_is_over(quotas, now, named_s)
    error = TTSRateLimitError(f"too many calls this minute ({quotas})", retry_after_s=retry_after_s)
    error.per_minute = min(filter(None, map(_calls_per_minute, violations)), default=None)
    return error


def _calls_per_minute(violation: Mapping[str, Any]) -> int | None:
    """The value of a quota that counts calls rather than tokens."""
    value = str(violation.get("quotaValue"))
    counts_calls = "RequestsPerMinute" in str(violation.get("quotaId"))
    return int(value) if counts_calls and re.fullmatch("[1-9][0-9]{0,8}", value) else None


def _limit(violation: Mapping[str, Any]) -> str:
    return f"{violation.get('quotaId', '?')}: {violation.get('quotaValue', 'limit unknown')}"


def _is_daily(violation: Mapping[str, Any]) -> bool:
    return "PerDay" in str(violation.get("quotaId")) or str(violation.get("quotaMetric")).endswith("_per_day")


# A daily quota often comes with the delay of the minute's one (27 s); only a longer delay is its own.
_SHORT_DELAY_S = 300.0


def _day_is_over(quotas: str, now: datetime, retry_after_s: float | None) -> TTSQuotaError:
    reset_at = next_pacific_midnight(now)
    if retry_after_s is not None:
        retry_after_s = min(retry_after_s, (reset_at - now).total_seconds())
        if retry_after_s <= _SHORT_DELAY_S:
            retry_after_s = None
        else:
            reset_at = now + timedelta(seconds=retry_after_s)
    error = TTSQuotaError(
        f"the day's quota is used up until {reset_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC ({quotas})",
        retry_after_s=retry_after_s,
    )
    error.reset_at = reset_at
    return error


def next_pacific_midnight(now: datetime) -> datetime:
    """When daily quotas reset: https://ai.google.dev/gemini-api/docs/rate-limits."""
    zone = _pacific()
    tomorrow = now.astimezone(zone).date() + timedelta(days=1)
    return datetime.combine(tomorrow, time(), zone).astimezone(UTC)


def _pacific() -> tzinfo:
    try:
        return ZoneInfo("America/Los_Angeles")
    except ZoneInfoNotFoundError:
        # A machine without time zones: winter time, which in summer is an hour late rather than early.
        return timezone(timedelta(hours=-8))


def _retry_after_s(answer: _ErrorAnswer, now: datetime) -> float | None:
    delays = [_duration_s(info.get("retryDelay")) for info in answer.of_type("RetryInfo")]
    delays.append(_header_delay_s(answer.headers.get("Retry-After", ""), now))
    return max((delay for delay in delays if delay is not None), default=None)


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
