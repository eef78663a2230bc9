"""Every way a call can fail becomes the error that says what to do about it, and none carries the key away."""

from __future__ import annotations

import builtins
import importlib
import inspect
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfoNotFoundError

import google.genai
import httpx2
import pydantic
import pytest
from gemini_faults import (
    BACKENDS,
    EXPECTED,
    KEY,
    MODEL,
    NOW,
    TEXT,
    Failed,
    Heard,
    engine_for,
    every_trace,
    impatience,
    outcome,
)
from google_credentials import private_key

from audio_api import clock
from audio_api.clock import next_pacific_midnight
from audio_api.emulator import Emulator, Fault
from audio_api.emulator.speech import synthesize
from audio_api.engines.base import SpeechAudio
from audio_api.engines.gemini_errors import classify
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
)

api = google.genai.errors


def test_every_fault_has_an_expectation() -> None:
    """A fault added to the emulator must be thought about here."""
    assert set(EXPECTED) == set(Fault)


@pytest.mark.usefixtures("google_credentials")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fault", [fault for fault, expected in EXPECTED.items() if isinstance(expected, Failed)])
async def test_a_fault_becomes_its_error(
    backend: str, fault: Fault, gemini_emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    """One call ends with the right class, code, retry decision, server's delay and bill, and leaks nothing.

    Text, repr, pickle, trace with local variables and DEBUG logs are free of the key, the foreign exception and the
    text; the pickle is complete.
    """
    caplog.set_level("DEBUG")
    expected = EXPECTED[fault]
    assert isinstance(expected, Failed)
    engine = engine_for(gemini_emulator, backend=BACKENDS[backend])
    gemini_emulator.fail_next(fault)
    async with impatience(gemini_emulator):
        error = await outcome(engine)
    await engine.close()
    assert isinstance(error, AudioAPIError)
    assert (type(error), error.code, error.retryable) == (expected.kind, expected.code, expected.retryable)
    assert error.retry_after_s == expected.retry_after_s
    assert bool(error.usage and error.usage.input_tokens) == expected.billed
    assert [call.fault for call in gemini_emulator.calls] == [fault]
    assert str(error).isprintable()
    assert TEXT not in str(error) + caplog.text
    assert len(str(error)) < 500
    assert error.__cause__ is None
    assert error.__context__ is None or isinstance(error.__context__, AudioAPIError)
    headers = gemini_emulator.calls[0].headers
    secret = headers["authorization"].split()[1] if backend == "vertex" else headers["x-goog-api-key"]
    assert secret == KEY or secret in gemini_emulator.access_tokens
    seen = every_trace(error) + caplog.text + repr(engine) + repr(vars(engine))
    assert not [each for each in (secret, private_key()[100:200]) if each in seen]


@pytest.mark.usefixtures("google_credentials")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fault", [fault for fault, expected in EXPECTED.items() if isinstance(expected, Heard)])
async def test_a_fault_that_brings_sound_is_told_as_it_is(
    backend: str, fault: Fault, gemini_emulator: Emulator
) -> None:
    """Other wrappings are unwrapped to the last sample; finish reason, rate and oddities are reported."""
    expected = EXPECTED[fault]
    assert isinstance(expected, Heard)
    engine = engine_for(gemini_emulator, backend=BACKENDS[backend])
    gemini_emulator.fail_next(fault)
    audio = await outcome(engine)
    await engine.close()
    assert isinstance(audio, SpeechAudio)
    assert (audio.finish_reason, audio.sample_rate) == (expected.finish_reason, 24_000)
    assert len(audio.warnings) == expected.warnings
    assert audio.usage.audio_tokens > 0
    assert len(audio.pcm) % 2 == 0
    if expected.whole:
        assert audio.pcm == synthesize(TEXT, "kore", "en-US")


async def test_a_reroute_names_the_model_that_spoke(gemini_emulator: Emulator) -> None:
    """The reply's own model is reported, with a warning that names both."""
    gemini_emulator.fail_next(Fault.OTHER_MODEL)
    engine = engine_for(gemini_emulator)
    audio = await outcome(engine)
    await engine.close()
    assert isinstance(audio, SpeechAudio)
    assert audio.model == "gemini-3.8-flash-lite-tts"
    assert MODEL in audio.warnings[0]
    assert audio.model in audio.warnings[0]


async def test_the_day_resets_at_pacific_midnight(gemini_emulator: Emulator) -> None:
    """The minute's delay in a daily refusal is ignored, a delay of hours is believed."""
    engine = engine_for(gemini_emulator, now=lambda: NOW)
    gemini_emulator.fail_next(Fault.QUOTA_DAY, Fault.QUOTA_DAY_PAID)
    free, paid = await outcome(engine), await outcome(engine)
    await engine.close()
    assert isinstance(free, TTSQuotaError)
    assert isinstance(paid, TTSQuotaError)
    assert free.reset_at == datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
    assert paid.reset_at == NOW + timedelta(seconds=6776)
    assert "2026-11-23 08:00 UTC" in str(free)


@pytest.mark.parametrize("header", ["86400000", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_days_quota_is_back_when_the_day_is_over(header: str) -> None:
    """Whatever a server says: quotas of a day last until midnight in California."""
    error = _answer(429, _error("x", _quota("RequestsPerDay")), {"Retry-After": header})
    assert isinstance(error, TTSQuotaError)
    assert error.reset_at == next_pacific_midnight(NOW)
    assert error.retry_after_s == (next_pacific_midnight(NOW) - NOW).total_seconds()


@pytest.mark.parametrize(
    ("now", "midnight"),
    [
        ("2026-11-01T06:59Z", "2026-11-01T07:00Z"),
        ("2026-11-01T07:00Z", "2026-11-02T08:00Z"),
        ("2027-03-14T07:59Z", "2027-03-14T08:00Z"),
        ("2027-03-14T08:00Z", "2027-03-15T07:00Z"),
        ("2026-07-01T12:00Z", "2026-07-02T07:00Z"),
    ],
)
def test_pacific_midnight_follows_summer_time(now: str, midnight: str) -> None:
    """The days on which the clocks change have 25 and 23 hours."""
    assert next_pacific_midnight(datetime.fromisoformat(now)) == datetime.fromisoformat(midnight)


def test_pacific_midnight_is_never_early_without_time_zones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the zones counts winter time: right in winter, an hour late in summer."""

    def missing(name: str) -> None:
        raise ZoneInfoNotFoundError(name)

    monkeypatch.setattr(clock, "ZoneInfo", missing)
    assert next_pacific_midnight(NOW) == datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
    assert next_pacific_midnight(datetime(2026, 7, 1, 12, tzinfo=UTC)) == datetime(2026, 7, 2, 8, 0, tzinfo=UTC)


def _vendor_modules() -> Iterator[ModuleType]:
    names = (
        "google.genai.errors", "google.genai._api_client", "google.auth.exceptions", "httpx2", "httpx", "aiohttp",
    )  # fmt: skip
    for name in names:
        try:
            yield importlib.import_module(name)
        except ImportError:
            assert name in {"httpx", "aiohttp"}


def _exception_classes() -> list[type[Exception]]:
    classes = {
        thing
        for module in _vendor_modules()
        for _, thing in inspect.getmembers(module, inspect.isclass)
        if issubclass(thing, Exception)
        # A TypeError is a mistake in a program by its own account.
        and not issubclass(thing, (Warning, TypeError))
        and thing.__module__.partition(".")[0] == module.__name__.partition(".")[0]
    }
    return sorted(classes, key=lambda cls: f"{cls.__module__}.{cls.__name__}")


# What a mapped class must not be confused with: its closest kin that means something else.
_MEANINGS = {
    "ConnectError": ErrorCode.CONNECTION_FAILED,
    "ConnectTimeout": ErrorCode.CONNECTION_FAILED,
    "PoolTimeout": ErrorCode.CONNECTION_FAILED,
    "ProxyError": ErrorCode.CONNECTION_FAILED,
    "TimeoutException": ErrorCode.TIMEOUT,
    "ReadTimeout": ErrorCode.TIMEOUT,
    "WriteTimeout": ErrorCode.TIMEOUT,
    "NetworkError": ErrorCode.CONNECTION_BROKEN,
    "ReadError": ErrorCode.CONNECTION_BROKEN,
    "WriteError": ErrorCode.CONNECTION_BROKEN,
    "CloseError": ErrorCode.CONNECTION_BROKEN,
    "ProtocolError": ErrorCode.CONNECTION_BROKEN,
    "LocalProtocolError": ErrorCode.CONNECTION_BROKEN,
    "RemoteProtocolError": ErrorCode.CONNECTION_BROKEN,
    "SSEError": ErrorCode.CONNECTION_BROKEN,
    "TransportError": ErrorCode.CONNECTION_BROKEN,
    "RequestError": ErrorCode.CONNECTION_BROKEN,
    "HTTPError": ErrorCode.CONNECTION_BROKEN,
    "StreamError": ErrorCode.CONNECTION_BROKEN,
    "StreamClosed": ErrorCode.CONNECTION_BROKEN,
    "StreamConsumed": ErrorCode.CONNECTION_BROKEN,
    "ResponseNotRead": ErrorCode.CONNECTION_BROKEN,
    "RequestNotRead": ErrorCode.CONNECTION_BROKEN,
    "DecodingError": ErrorCode.UNREADABLE_REPLY,
    "CookieConflict": ErrorCode.UNREADABLE_REPLY,
    "UnknownApiResponseError": ErrorCode.UNREADABLE_REPLY,
    "UnsupportedProtocol": ErrorCode.CONFIGURATION,
    "InvalidURL": ErrorCode.CONFIGURATION,
    "TooManyRedirects": ErrorCode.CONFIGURATION,
    "EphemeralTokenAPIKeyError": ErrorCode.AUTHENTICATION,
    # With the status 500 that the test gives them.
    "APIError": ErrorCode.UNAVAILABLE,
    "ClientError": ErrorCode.UNAVAILABLE,
    "ServerError": ErrorCode.UNAVAILABLE,
    "HTTPStatusError": ErrorCode.UNAVAILABLE,
    # Of calls that this library does not make.
    "ContinuationInterruptedError": ErrorCode.API_ERROR,
    "FunctionInvocationError": ErrorCode.API_ERROR,
    "UnknownFunctionCallArgumentError": ErrorCode.API_ERROR,
    "UnsupportedFunctionError": ErrorCode.API_ERROR,
}


# Of google.auth, which fetches a token before anything is sent; the others mean that it was refused.
_WITHOUT_TOKEN = {
    "TransportError": ErrorCode.CONNECTION_FAILED,
    "TimeoutError": ErrorCode.CONNECTION_FAILED,
    "ResponseError": ErrorCode.CONNECTION_FAILED,
    "DefaultCredentialsError": ErrorCode.CONFIGURATION,
    "MutualTLSChannelError": ErrorCode.CONFIGURATION,
    "ClientCertError": ErrorCode.CONFIGURATION,
    "MalformedError": ErrorCode.CONFIGURATION,
    "InvalidResource": ErrorCode.CONFIGURATION,
    "InvalidOperation": ErrorCode.CONFIGURATION,
    "InvalidValue": ErrorCode.CONFIGURATION,
    "OSError": ErrorCode.CONFIGURATION,
}


@pytest.mark.parametrize("kind", _exception_classes(), ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_every_class_of_the_vendors_has_a_counterpart(kind: type[Exception]) -> None:
    """Each exception of google.genai and its HTTP clients becomes one error, whose class fits its code."""
    # Without its constructor and text, which differ from class to class and are the vendors' business.
    plain = {"__init__": lambda self: None, "__str__": lambda self: "what happened", "__module__": kind.__module__}
    error = type(kind.__name__, (kind,), plain)()
    if issubclass(kind, api.APIError):
        vars(error).update(code=500, status="INTERNAL", message="oops", details={}, response=None)
    if kind.__name__ == "HTTPStatusError":
        vars(error).update(response=httpx2.Response(500))
    ours = classify(error, now=NOW)
    assert ours is not None
    if kind.__module__ == "google.auth.exceptions":
        assert ours.code is _WITHOUT_TOKEN.get(kind.__name__, ErrorCode.AUTHENTICATION)
        assert "what happened" not in str(ours)
    elif kind.__module__.partition(".")[0] in {"google", "httpx2", "httpx"}:
        assert ours.code is _MEANINGS[kind.__name__]
    assert "what happened" not in str(ours) or ours.code is not ErrorCode.UNREADABLE_REPLY


class _Line(pydantic.BaseModel):
    number: int


def _raised(call: Any, *arguments: Any) -> Exception:
    try:
        call(*arguments)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TimeoutError(), ErrorCode.TIMEOUT),
        (ConnectionRefusedError(111, "refused"), ErrorCode.CONNECTION_FAILED),
        (ConnectionResetError(), ErrorCode.CONNECTION_BROKEN),
        (OSError(24, "Too many open files"), ErrorCode.CONNECTION_FAILED),
        (_raised(json.loads, "{"), ErrorCode.UNREADABLE_REPLY),
        (_raised(b"\xff".decode), ErrorCode.UNREADABLE_REPLY),
        (_raised(_Line.model_validate, {"number": "the text to speak"}), ErrorCode.UNREADABLE_REPLY),
        (RecursionError(), ErrorCode.UNREADABLE_REPLY),
        (RuntimeError("Cannot send a request, as the client has been closed."), ErrorCode.API_ERROR),
        (Exception("something of an injected client"), ErrorCode.API_ERROR),
        *((getattr(builtins, name)(), None) for name in ("TypeError", "AttributeError", "KeyError", "AssertionError")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_other_exceptions(error: Exception, code: ErrorCode | None) -> None:
    """Python's own errors are told apart by class; a mistake in a program is not an answer of the API."""
    ours = classify(error, now=NOW)
    assert (ours and ours.code) == code
    assert "the text to speak" not in str(ours)


def test_an_error_of_ours_passes() -> None:
    """What was named below the SDK keeps its name."""
    error = TTSUnavailableError("x")
    assert classify(error, now=NOW) is error


def _answer(status: int, document: Any, headers: dict[str, str] | None = None) -> AudioAPIError:
    response = httpx2.Response(status, json=document, headers=headers)
    error = classify(api.APIError(status, document, response), now=NOW, key=KEY)
    assert error is not None
    return error


def _error(message: str = "", *details: Any) -> dict[str, Any]:
    return {"error": {"message": message, "status": "SOME_STATUS", "details": list(details)}}


def _detail(kind: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/google.rpc.{kind}", **fields}


def _quota(*ids: str, **fields: Any) -> dict[str, Any]:
    return _detail("QuotaFailure", violations=[{"quotaId": name, **fields} for name in ids])


GOOGLES = [
    _error("m", None, 7, {}, {"@type": 5}, _detail("QuotaFailure"), _detail("QuotaFailure", violations=[3])),
    _error("m", _detail("QuotaFailure", violations=5), _detail("RetryInfo", retryDelay=[]), _detail("ErrorInfo")),
]


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (204, TTSUnavailableError, ErrorCode.UNREADABLE_REPLY),
        (301, ConfigurationError, ErrorCode.CONFIGURATION),
        (304, ConfigurationError, ErrorCode.CONFIGURATION),
        (400, TTSAPIError, ErrorCode.API_ERROR),
        (401, TTSAuthenticationError, ErrorCode.AUTHENTICATION),
        (403, TTSAuthenticationError, ErrorCode.AUTHENTICATION),
        (404, TTSModelNotFoundError, ErrorCode.MODEL_NOT_FOUND),
        (405, TTSAPIError, ErrorCode.API_ERROR),
        (408, TTSUnavailableError, ErrorCode.UNAVAILABLE),
        (413, TTSAPIError, ErrorCode.API_ERROR),
        (429, TTSRateLimitError, ErrorCode.RATE_LIMITED),
        (499, TTSUnavailableError, ErrorCode.UNAVAILABLE),
        (500, TTSUnavailableError, ErrorCode.UNAVAILABLE),
        (599, TTSUnavailableError, ErrorCode.UNAVAILABLE),
    ],
)
@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        [{"error": {"message": "m"}}],
        [1, 2],
        "text",
        {"error": None},
        {"error": "invalid"},
        {"message": "<html>", "status": "Bad Gateway"},
        {"error": {"details": "none", "message": 5, "status": 7}},
        *GOOGLES,
    ],
    ids=range(11),
)
def test_a_status_decides_whatever_the_body(
    status: int, kind: type[AudioAPIError], code: ErrorCode, document: Any
) -> None:
    """Without usable details the HTTP status alone decides, and no shape of the body breaks it.

    A 404 without an error of Google's is the wrong address.
    """
    error = _answer(status, document)
    if status == 404 and document not in GOOGLES:
        kind, code = ConfigurationError, ErrorCode.CONFIGURATION
    assert (type(error), error.code) == (kind, code)


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (_error("", _quota("GenerateRequestsPerMinutePerProjectPerModel")), ErrorCode.RATE_LIMITED),
        (_error("", _quota("SomethingPerHour")), ErrorCode.RATE_LIMITED),
        (_error("", _quota("GenerateRequestsPerDayPerProjectPerModel")), ErrorCode.QUOTA_EXHAUSTED),
        (_error("", _quota("XPerMinute", "GenerateContentInputTokensPerModelPerDay")), ErrorCode.QUOTA_EXHAUSTED),
        (_error("", _quota("?", quotaMetric="x/generate_requests_per_model_per_day")), ErrorCode.QUOTA_EXHAUSTED),
        (_error("", _quota("XPerMinute", quotaValue="0")), ErrorCode.QUOTA_NOT_GRANTED),
        (_error("… limit: 0, model: m", _quota("XPerDay", "XPerMinute")), ErrorCode.QUOTA_NOT_GRANTED),
        (_error("x" * 300 + "\n* limit: 0"), ErrorCode.QUOTA_NOT_GRANTED),
        (_error("limit: 0.5"), ErrorCode.RATE_LIMITED),
        (_error("limit: 05"), ErrorCode.RATE_LIMITED),
        (_error("Your prepayment credits are depleted. Go to …"), ErrorCode.CREDIT_EXHAUSTED),
        (_error("per day daily quota exhausted forever"), ErrorCode.RATE_LIMITED),
    ],
)
def test_429_is_told_apart_by_its_quotas(document: Any, code: ErrorCode) -> None:
    """A quota's id or metric decides; words only for the two cases where nothing else tells."""
    error = _answer(429, document)
    assert error.code is code
    assert error.retryable is (code is ErrorCode.RATE_LIMITED)


@pytest.mark.parametrize(
    ("document", "kind", "code"),
    [
        (_error("x", _detail("ErrorInfo", reason="API_KEY_INVALID")), TTSAuthenticationError, ErrorCode.AUTHENTICATION),
        (_error("x", _detail("ErrorInfo", reason="OTHER")), TTSAPIError, ErrorCode.API_ERROR),
        (_error("API key not valid."), TTSAPIError, ErrorCode.API_ERROR),
        (_error("Model tried to generate text, but …"), TTSUnavailableError, ErrorCode.MODEL_CONFUSED),
        (
            _error("The input token count (9000) exceeds the maximum number of tokens allowed (8192)."),
            TTSValidationError,
            ErrorCode.TEXT_TOO_LONG,
        ),
    ],
)
def test_400_is_told_apart(document: Any, kind: type[AudioAPIError], code: ErrorCode) -> None:
    """A bad key by its reason, a confused model and a text too long by the only thing that tells: the message."""
    error = _answer(400, document)
    assert (type(error), error.code) == (kind, code)


@pytest.mark.parametrize(
    ("delay", "header", "expected_s"),
    [
        ("42s", None, 42),
        ("3.9s", None, 3.9),
        ("42s", "10", 42),
        ("42s", "572", 572),
        (None, "572", 572),
        (None, "1572", 600),
        (None, "86400000", 600),
        ("86400000s", None, 600),
        (None, "Fri, 31 Dec 9999 23:59:59 GMT", 600),
        (None, "Fri, 31 Dec 99999999999 23:59:59 GMT", None),
        (None, "9" * 5_000, None),
        (None, "1.5", 1.5),
        (None, "Sun, 22 Nov 2026 20:01:00 GMT", 60),
        (None, "Sun, 22 Nov 2026 19:00:00 GMT", 0),
        (None, "Sun, 22 Nov 2026 20:01:00 -0000", None),
        (None, "soon", None),
        (None, "-5", None),
        ("1h", None, None),
        (42, None, None),
        ("-1s", None, None),
        ("1" * 400 + "s", None, None),
        (None, None, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_the_servers_longest_delay_counts(
    status: int, delay: Any, header: str | None, expected_s: float | None
) -> None:
    """RetryInfo or Retry-After, in seconds or as a date, up to ten minutes; nonsense counts as silence."""
    details = [] if delay is None else [_detail("RetryInfo", retryDelay=delay)]
    headers = {} if header is None else {"Retry-After": header}
    assert _answer(status, _error("x", *details), headers).retry_after_s == expected_s


def test_a_servers_words_are_tamed() -> None:
    """They come on one line, at most 200 characters, without control characters or any key."""
    other_key = "AIzaSyA-1234567890abcdefghijklmnopqrstu"
    nasty = f"bad\r\n2026-11-22 CRITICAL forged\x1b[31m \u2028{KEY} and {other_key} " + "y" * 1000
    text = str(_answer(403, _error(nasty)))
    assert KEY not in text
    assert other_key not in text
    assert "[key]" in text
    assert text.isprintable()
    assert len(text) < 300


def test_an_http_clients_own_status_error() -> None:
    """An injected client may raise for a status by itself; the status decides."""
    request = httpx2.Request("POST", "http://127.0.0.1/")
    response = httpx2.Response(429, headers={"Retry-After": "7"})
    error = classify(httpx2.HTTPStatusError("429", request=request, response=response), now=NOW)
    assert isinstance(error, TTSRateLimitError)
    assert error.retry_after_s == 7


def test_a_status_error_without_a_status() -> None:
    """An exception that misses what its class promises is still an error of ours."""
    bare = api.APIError.__new__(api.APIError)
    assert type(classify(bare, now=NOW)) is TTSAPIError
