"""One event is one line, and neither a secret nor the text to speak is ever in it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from audio_api.config import AudioConfig
from audio_api.errors import ConfigurationError, ErrorCode, TTSRateLimitError
from audio_api.logging_config import (
    MASK,
    HumanFormatter,
    StructuredFormatter,
    get_logger,
    log_error_with_context,
    log_performance,
    setup_logging,
    text_fingerprint,
)
from audio_api.models.audio_request import AudioRequest

CANARY = "AIzaSyCanary0123456789_-abcdefghijklmnop"
# Every way to begin a new line, to move the cursor, or to turn the reading direction.
FORGED = "a\n2026-11-22 CRITICAL root: FORGED\r\x1b[2K\x85\u2028\u2029\u202e\u2066\x00\x7f\ud800b"


@pytest.fixture(autouse=True)
def untouched_loggers() -> Iterator[None]:
    """Puts the library's logger and the root logger back as they were."""
    saved = [
        (logger, logger.level, logger.propagate, logger.handlers[:])
        for logger in (logging.getLogger("audio_api"), logging.getLogger())
    ]
    yield
    for logger, level, propagate, handlers in saved:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers


@pytest.fixture
def config(tmp_path: Path) -> AudioConfig:
    """A configuration at DEBUG with a key."""
    return AudioConfig(_env_file=None, gemini_api_key=SecretStr(CANARY), log_level="DEBUG", output_dir=tmp_path)


@pytest.fixture(params=[StructuredFormatter, HumanFormatter])
def formatter(request: pytest.FixtureRequest) -> logging.Formatter:
    """Both formats."""
    made: logging.Formatter = request.param()
    return made


def line(formatter: logging.Formatter, message: object = "event", *args: object, **record: object) -> str:
    """What the formatter makes of one event, with ``record`` as its further attributes."""
    made = logging.LogRecord("audio_api.x", logging.INFO, __file__, 1, message, args, None)
    vars(made).update(record)
    return formatter.format(made)


def fields(**extra: object) -> dict[str, object]:
    """What the structured formatter makes of these fields."""
    found: dict[str, object] = json.loads(line(StructuredFormatter(), **extra))
    for name in ("time", "level", "logger", "event"):
        del found[name]
    return found


def raised(error: Exception) -> Exception:
    """The error with a real traceback, through a frame whose locals hold the canary."""
    key = CANARY
    try:
        raise error
    except type(error):
        assert key
        return error


# --- the two formats


def test_a_structured_line_is_one_json_object() -> None:
    """Time in UTC, level, logger, event and the fields, in this order."""
    found = json.loads(line(StructuredFormatter(), "written %d", 3, created=0.25, file="a.wav", duration_s=1.5))
    assert list(found.items()) == [
        ("time", "1970-01-01T00:00:00.250+00:00"),
        ("level", "INFO"),
        ("logger", "audio_api.x"),
        ("event", "written 3"),
        ("file", "a.wav"),
        ("duration_s", 1.5),
    ]


def test_a_human_line_reads_well() -> None:
    """Plain values are bare, others quoted, letters of every language legible."""
    shown = line(HumanFormatter(), "written", created=0.25, file="Ähre 1.wav", duration_s=1.5, ok=True, model="m-1")
    assert shown == (
        '1970-01-01T00:00:00.250+00:00 INFO     audio_api.x: written file="Ähre 1.wav" duration_s=1.5 ok=true model=m-1'
    )


def test_a_field_cannot_replace_the_facts() -> None:
    """A field named like one of the four parts is kept beside it."""
    found = json.loads(line(StructuredFormatter(), "event", level="CRITICAL", time="never"))
    assert found["level"] == "INFO"
    assert found["level_"] == "CRITICAL"
    assert found["time_"] == "never"


@pytest.mark.parametrize(
    "where", ["message", "argument", "field", "name", "logger", "nested", "object", "error", "stack"]
)
def test_nothing_forges_a_second_line(formatter: logging.Formatter, where: str) -> None:
    """Line breaks, escape sequences and direction marks are escaped wherever they stand."""
    error = raised(ValueError(FORGED))
    shown = {
        "message": lambda: line(formatter, FORGED),
        "argument": lambda: line(formatter, "%s", FORGED),
        "field": lambda: line(formatter, file=FORGED),
        "name": lambda: line(formatter, **{FORGED: 1}),
        "logger": lambda: line(formatter, name=FORGED),
        "nested": lambda: line(formatter, value={FORGED: [FORGED, (FORGED,)]}),
        "object": lambda: line(formatter, value=error),
        "error": lambda: line(formatter, exc_info=(type(error), error, error.__traceback__)),
        "stack": lambda: line(formatter, stack_info=FORGED),
    }[where]()
    assert shown.isprintable()
    assert "FORGED" in shown


@given(st.text(st.characters(codec=None)), st.text(st.characters(codec=None)))
def test_any_event_is_one_printable_line(message: str, value: str) -> None:
    """For every text; and the structured line gives it back unchanged."""
    assert line(HumanFormatter(), message, value=value).isprintable()
    shown = line(StructuredFormatter(), message, value=value)
    assert shown.isascii()
    assert shown.isprintable()
    assert json.loads(shown)["event"] == message
    assert json.loads(shown)["value"] == value


def test_a_traceback_is_one_field_without_locals(formatter: logging.Formatter) -> None:
    """It names file and error, but shows no variable's value, not even a cached text of another formatter."""
    error = raised(ValueError("boom"))
    shown = line(formatter, exc_info=(type(error), error, error.__traceback__), exc_text="cached\nelsewhere")
    assert "test_logging.py" in shown
    assert "ValueError: boom" in shown
    assert CANARY not in shown
    assert "elsewhere" not in shown


@pytest.mark.parametrize(
    ("message", "args", "expected"),
    [("%d", ("x",), "%d ('x',)"), ("%(a)s %(b)s", ({"a": 1},), "%(a)s %(b)s {'a': 1}"), ("%y", (1,), "%y (1,)")],
)
def test_a_wrong_format_string_does_not_lose_the_event(message: str, args: tuple[object, ...], expected: str) -> None:
    """The event is shown unformatted instead."""
    assert json.loads(line(StructuredFormatter(), message, *args))["event"] == expected


# --- values


class Colour(Enum):
    """An enum that is no string."""

    RED = "red"


@dataclass
class Holder:
    """A dataclass with a secret and a text in it."""

    api_key: str
    text: str
    count: int


class Broken:
    """An object that cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError(FORGED)


def test_values_become_plain_json() -> None:
    """Every kind of value has a form that any JSON reader takes."""
    found = fields(
        nan=float("nan"),
        none=None,
        when=datetime(2026, 1, 2, tzinfo=UTC),
        path=Path("a/b"),
        sound=b"\0" * 9,
        colour=Colour.RED,
        code=ErrorCode.TIMEOUT,
        items=(1, {2}, frozenset()),
        kind=Holder,
        thing=object,
    )
    assert found == {
        "nan": "nan",
        "none": None,
        "when": "2026-01-02 00:00:00+00:00",
        "path": "a/b",
        "sound": "<9 bytes>",
        "colour": "red",
        "code": "timeout",
        "items": [1, [2], []],
        "kind": repr(Holder),
        "thing": "<class 'object'>",
    }


def test_strange_values_do_not_stop_the_event() -> None:
    """An object that cannot be shown, that contains itself, or that is endless still makes one short line."""
    circle: list[object] = []
    circle.append(circle)
    found = fields(broken=Broken(), circle=circle, long="x" * 50_000)
    assert str(found["broken"]).startswith("<Broken instance")
    assert "…" in json.dumps(found["circle"], ensure_ascii=False)
    assert str(found["long"]).startswith("xxx")
    assert " … 40,000 characters … " in str(found["long"])


# --- secrets and texts


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "apikey",
        "geminiApiKey",
        "GEMINI_API_KEY",
        "x-goog-api-key",
        "key",
        "signing_key",
        "password",
        "redis_passwd",
        "passphrase",
        "Authorization",
        "client_secret",
        "credentials",
        "Set-Cookie",
        "access_token",
        "lease token",
    ],
)
def test_a_field_with_a_secret_name_is_masked(formatter: logging.Formatter, name: str) -> None:
    """At the top, in a mapping and in a list of mappings; that there is none may be said."""
    shown = line(formatter, **{name: "canary", "nested": {"deep": [{name: b"canary"}]}, "plain": 1})
    assert "canary" not in shown
    assert shown.count(MASK) == 2
    assert fields(**{name: None}) == {name: None}


@pytest.mark.parametrize("name", ["content_key", "cache_key", "audio_tokens", "token_count", "monkey", "keyboard"])
def test_an_innocent_name_is_not_masked(name: str) -> None:
    """Counters of tokens and keys that are hashes stay legible."""
    assert fields(**{name: "abc"}) == {name: "abc"}


@pytest.mark.parametrize(
    "text",
    [
        CANARY,
        f"Permission denied: Consumer 'api_key:{CANARY}' has been suspended.",
        "Consumer 'api_key:canary.0123' has been suspended.",
        "https://host/v1beta/models?key=canary0123&alt=sse",
        "AQ.Canary0123456789abcdefghij",
        "Authorization: Bearer canary0123",
        "redis://user:canary0123@host:6379/0",
    ],
)
def test_a_secret_inside_a_text_is_masked(formatter: logging.Formatter, text: str) -> None:
    """Keys, bearer tokens and passwords in URLs are recognised in messages, fields and tracebacks."""
    error = raised(RuntimeError(text))
    shown = line(formatter, text, field=text, exc_info=(type(error), error, error.__traceback__))
    assert "canary" not in shown.lower()
    assert shown.count(MASK) == 3


def test_secret_objects_and_those_that_hold_them_are_masked(formatter: logging.Formatter, config: AudioConfig) -> None:
    """A ``SecretStr``, a whole configuration, and a dataclass with a key in it show no secret."""
    shown = line(formatter, value=SecretStr("canary"), config=config, holder=Holder("canary", "canary", 7))
    assert "canary" not in shown.lower()
    assert '"count": 7' in shown


def test_a_text_is_never_shown(formatter: logging.Formatter) -> None:
    """A program that logs a text, or a request, logs its fingerprint."""
    text = "A private sentence."
    shown = line(formatter, text=text, request=AudioRequest(text=text), requests=[AudioRequest(text=text)])
    assert "private" not in shown
    assert shown.count(sha256(text.encode()).hexdigest()[:8]) == 3


def test_the_fingerprint_is_length_and_hash() -> None:
    """Every text has one, even with half a surrogate pair in it."""
    assert text_fingerprint("Hello") == {"text_length": 5, "text_sha256": "185f8db3"}
    assert text_fingerprint("\ud800")["text_length"] == 1


# --- setting up


def test_importing_touches_no_logger() -> None:
    """In a fresh process no handler appears and the library's logger does not even exist."""
    code = (
        "import logging, audio_api.logging_config;"
        "assert not logging.getLogger().handlers;"
        "assert not [name for name in logging.Logger.manager.loggerDict if name.startswith('audio_api')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_setting_up_twice_shows_each_event_once(config: AudioConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """The second call replaces the first: level and format are the newer ones."""
    setup_logging(config.model_copy(update={"log_level": "ERROR"}))
    setup_logging(config.model_copy(update={"enable_structured_logging": True}))
    logging.getLogger("audio_api.x").debug("seen", extra={"n": 1})
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [json.loads(text)["event"] for text in shown.err.splitlines()] == ["seen"]
    setup_logging(config.model_copy(update={"log_level": "ERROR"}))
    logging.getLogger("audio_api.x").warning("unseen")
    logging.getLogger("audio_api.x").error("seen")
    assert capsys.readouterr().err.endswith("ERROR    audio_api.x: seen\n")


def test_without_an_argument_the_process_configuration_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config: AudioConfig
) -> None:
    """``setup_logging()`` asks ``get_config()``, and a wrong setting is reported as such."""
    monkeypatch.setattr("audio_api.config._current", config)
    setup_logging()
    logging.getLogger("audio_api").debug("seen")
    assert "seen" in capsys.readouterr().err
    monkeypatch.setattr("audio_api.config._current", None)
    monkeypatch.setenv("LOG_LEVEL", "LOUD")
    with pytest.raises(ConfigurationError, match="LOG_LEVEL"):
        setup_logging()


def test_the_host_keeps_its_handlers(config: AudioConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """The root logger's level and handlers stay, the library's other handlers too, and both still get the events."""
    root, library = logging.getLogger(), logging.getLogger("audio_api")
    hosts, own = logging.StreamHandler(io.StringIO()), logging.StreamHandler(io.StringIO())
    root.addHandler(hosts)
    library.addHandler(own)
    before = (root.level, root.handlers[:])
    setup_logging(config)
    library.info("seen")
    assert (root.level, root.handlers) == before
    assert hosts.stream.getvalue() == own.stream.getvalue() == "seen\n"
    assert capsys.readouterr().err.count("seen") == 1


def test_a_program_that_sets_its_logging_up_later_shows_no_event_twice() -> None:
    """``logging.basicConfig()`` after ``setup_logging()``, in a real program: one line an event, and it is masked."""
    code = (
        "import logging; from audio_api import AudioConfig, get_logger, setup_logging\n"
        "setup_logging(AudioConfig(_env_file=None)); log = get_logger('x.y'); log.warning('one')\n"
        "logging.basicConfig(level='INFO'); log.warning('two of %s', 'AIza' + '0' * 30)\n"
        "log.info('three'); logging.getLogger('host').info('four'); setup_logging(); log.info('five')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [line.split(": ")[-1].split(":")[-1] for line in done.stderr.splitlines()] == [
        "one", f"two of {MASK}", "three", "four", "five",
    ]  # fmt: skip


def test_a_host_that_writes_to_stderr_shows_no_event_twice(
    config: AudioConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """When the root logger writes to standard error as well, the library's line is the only one."""
    logging.getLogger().addHandler(logging.StreamHandler())
    setup_logging(config)
    logging.getLogger("audio_api.x").info("seen")
    assert capsys.readouterr().err.count("seen") == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("audio_api", "audio_api"),
        ("audio_api.services", "audio_api.services"),
        ("__main__", "audio_api.__main__"),
        ("audio_apis", "audio_api.audio_apis"),
    ],
)
def test_every_logger_lies_below_the_library(name: str, expected: str) -> None:
    """So that one call of ``setup_logging`` governs them all."""
    assert get_logger(name).name == expected


# --- helpers


def test_performance_is_one_event(caplog: pytest.LogCaptureFixture) -> None:
    """The event has its fields, those found on the way, a duration and the outcome; reserved names do no harm."""
    logger = logging.getLogger("audio_api.test_performance")
    with caplog.at_level("INFO"), log_performance(logger, "spoken", model="m", name="n", filename="f") as found:
        found["attempts"] = 2
    (record,) = caplog.records
    shown = json.loads(StructuredFormatter().format(record))
    assert (shown["event"], shown["level"], shown["outcome"]) == ("spoken", "INFO", "ok")
    assert (shown["model"], shown["name_"], shown["filename_"], shown["attempts"]) == ("m", "n", "f", 2)
    assert shown["duration_s"] >= 0


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(ValueError("x"), "error"), (asyncio.CancelledError(), "cancelled"), (KeyboardInterrupt(), "error")],
)
def test_performance_of_a_failure_goes_through(
    caplog: pytest.LogCaptureFixture, error: BaseException, outcome: str
) -> None:
    """The exception is named in the event and raised on."""
    logger = logging.getLogger("audio_api.test_performance")
    with pytest.raises(type(error)) as caught, log_performance(logger, "spoken"):
        raise error
    assert caught.value is error
    (record,) = caplog.records
    shown = json.loads(StructuredFormatter().format(record))
    assert (shown["level"], shown["outcome"], shown["error_type"]) == ("WARNING", outcome, type(error).__name__)


def test_an_error_is_logged_with_what_is_known(caplog: pytest.LogCaptureFixture) -> None:
    """Class, text, code, attempts, the caller's context and a traceback on one line."""
    logger = logging.getLogger("audio_api.test_errors")
    log_error_with_context(logger, raised(TTSRateLimitError("slow\ndown", attempts=3)), task_id="t", module="m")
    log_error_with_context(logger, ValueError("plain"))
    first, second = (StructuredFormatter().format(record) for record in caplog.records)
    shown = json.loads(first)
    expected = {
        "level": "ERROR",
        "event": "error",
        "error_type": "TTSRateLimitError",
        "error": "slow\ndown",
        "error_code": "rate_limited",
        "retryable": True,
        "attempts": 3,
        "task_id": "t",
        "module_": "m",
    }
    assert shown.items() >= expected.items()
    assert shown["exception"].startswith("Traceback (most recent call last):\n")
    assert first.isprintable()
    assert "error_code" not in json.loads(second)
