"""Every exception of the SDK and of its HTTP client, as one of ours.

Told apart by class, HTTP status and the structured details of the answer. Words of a message decide only where nothing
else does; they are named below. No exception is kept: those of the vendors hold the API key.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Any

from audio_api.clock import next_pacific_midnight
from audio_api.engines.gemini_answers import ErrorAnswer, ancestry, objects, quote
from audio_api.engines.gemini_credentials import credentials_failure
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
    if answer := ErrorAnswer.of(error, key):
        return error_of(answer, now)
    if failure := credentials_failure(error):
        return failure
    cause: BaseException | None = error
    # Each library wraps the reason in errors of its own.
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if cause:
        problem = getattr(cause, "verify_message", str(cause))
        return ConfigurationError(
            f"the certificate on the way to GEMINI_BASE_URL is not trusted ({quote(problem, key)}): a proxy or gateway "
            "with a certificate authority of its own needs SSL_CERT_FILE, the path of that authority's certificate"
        )
    if "httpx.ProxyError" in ancestry(type(error)) and str(error).startswith("407"):
        return ConfigurationError(
            "the proxy refuses the user or the password (407): HTTPS_PROXY names both, as http://user:password@host:port"
        )
    if code := next((_CODES[name] for name in ancestry(type(error)) if name in _CODES), None):
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
    answer = ErrorAnswer.of(error, "")
    if answer is None or answer.status != 400:
        return None
    return next((objection for words, objection in _OBJECTIONS if words.search(answer.message)), None)


def unreadable(error: Exception) -> TTSUnavailableError:
    """A reply whose shape made the SDK stumble."""
    return TTSUnavailableError(_describe(ErrorCode.UNREADABLE_REPLY, error, ""), code=ErrorCode.UNREADABLE_REPLY)


# What could not be read may quote the reply, and with it the text to speak; what could not be sent may quote the key.
_WORDLESS = {ErrorCode.UNREADABLE_REPLY, ErrorCode.CONNECTION_BROKEN}


def _describe(code: ErrorCode, error: Exception, key: str) -> str:
    words = "" if code in _WORDLESS else quote(str(error), key)
    return f"{_SENTENCES[code]} ({type(error).__name__}{': ' if words else ''}{words})"


LONGEST_DELAY_S = 600.0
"""A minute's quota and an outage are over, or worth another call, by then, whatever delay a server names."""


def error_of(answer: ErrorAnswer, now: datetime) -> AudioAPIError:
    """The error of ours for an answer of the API that is one."""
    named_s = answer.retry_after_s(now)
    retry_after_s = None if named_s is None else min(named_s, LONGEST_DELAY_S)
    match answer.status:
        case 400:
            return _from_400(answer)
        case 401 | 403:
            return TTSAuthenticationError(f"the API refused the key or the credentials ({answer})")
        case 404:
            return _from_404(answer)
        case 429:
            return _from_429(answer, now, retry_after_s, named_s)
        case 408 | 499:
            return TTSUnavailableError(f"the API gave up on the call ({answer})", retry_after_s=retry_after_s)
        case status if status // 100 == 2:
            return TTSUnavailableError(f"the API answered without content ({answer})", code=ErrorCode.UNREADABLE_REPLY)
        case status if status // 100 == 3:
            return ConfigurationError(
                f"the server at GEMINI_BASE_URL sends calls elsewhere ({answer.status}); the key is not sent there: "
                "set GEMINI_BASE_URL to the API's own address, and check the proxy"
            )
        case status if status // 100 == 5:
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
# A daily quota often comes with the delay of the minute's one (27 s); only a longer delay is its own.
_SHORT_DELAY_S = 300.0


def _from_400(answer: ErrorAnswer) -> AudioAPIError:
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


def _from_404(answer: ErrorAnswer) -> AudioAPIError:
    if not answer.is_googles:
        return ConfigurationError(
            f"there is no Gemini API at the address that GEMINI_BASE_URL names ({answer}): it must be the part before "
            "/v1beta/models, such as https://host or https://host/path"
        )
    if _NO_VOICE.search(answer.message):
        return TTSVoiceNotFoundError(f"the API does not know the voice, or this key may not use it ({answer})")
    return TTSModelNotFoundError(f"the API does not know the model ({answer})")


def _from_429(answer: ErrorAnswer, now: datetime, retry_after_s: float | None, named_s: float | None) -> AudioAPIError:
    failures = answer.of_type("QuotaFailure")
    violations = [violation for failure in failures for violation in objects(failure.get("violations"))]
    limits = (f"{each.get('quotaId', '?')}: {each.get('quotaValue', 'limit unknown')}" for each in violations)
    quotas = quote(", ".join(limits), answer.key) or str(answer)
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
    if any(
        "PerDay" in str(violation.get("quotaId")) or str(violation.get("quotaMetric")).endswith("_per_day")
        for violation in violations
    ):
        reset_at = next_pacific_midnight(now)
        day_s = (reset_at - now).total_seconds()
        delay_s = min(named_s, day_s) if named_s is not None and min(named_s, day_s) > _SHORT_DELAY_S else None
        if delay_s is not None:
            reset_at = now + timedelta(seconds=delay_s)
        over = TTSQuotaError(
            f"the day's quota is used up until {reset_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC ({quotas})",
            retry_after_s=delay_s,
        )
        over.reset_at = reset_at
        return over
    error = TTSRateLimitError(f"too many calls this minute ({quotas})", retry_after_s=retry_after_s)
    error.per_minute = min(filter(None, map(_calls_per_minute, violations)), default=None)
    return error


def _calls_per_minute(violation: Mapping[str, Any]) -> int | None:
    """The value of a quota that counts calls rather than tokens."""
    value = str(violation.get("quotaValue"))
    counts_calls = "RequestsPerMinute" in str(violation.get("quotaId"))
    return int(value) if counts_calls and re.fullmatch("[1-9][0-9]{0,8}", value) else None
