"""Logging for programs: one event is one line, and neither a secret nor the text to speak is ever in it.

Modules of the library only call ``logging.getLogger(__name__)``; a program that wants to see something calls
``setup_logging()``. Importing this module touches no logger.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import reprlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from datetime import UTC, date, datetime
from enum import Enum
from hashlib import sha256
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TextIO, overload

from audio_api.errors import AudioAPIError

if TYPE_CHECKING:
    from audio_api.config import AudioConfig

MASK = "**********"
"""What stands in place of a secret, as pydantic writes it."""

_LIBRARY = "audio_api"
# Longer values keep both ends: a traceback tells most in its last lines.
_MAX_CHARS = 10_000
_MAX_DEPTH = 4
_RECORD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
# The keys of audio content and of the cache are plain hashes.
_SECRET_NAME = re.compile(
    r"api_?key|^key$|(?<!content)(?<!cache)_key$|secret|passw|passphrase|authori[sz]ation|credential|cookie"
    r"|(^|_)token$",
    re.IGNORECASE,
)
# Google's two forms of API keys, keys in its error messages and in URLs, bearer tokens, and a URL's user and password.
_SECRET_VALUE = re.compile(
    r"AIza[\w-]{10,}|\bAQ\.[\w-]{20,}|(?<=api_key:)[^\s'\"]+|(?<=[?&]key=)[^\s&'\"]+|(?<=Bearer )[^\s'\"]+"
    r"|(?<=://)[^\s/@]+(?=@)"
)
_TEXT_NAMES = frozenset({"text", "transcript", "prompt"})
_REPR = reprlib.Repr()
_REPR.maxother = 200
_BARE_VALUE = re.compile(r"[\w.,:/@+*-]+")


def setup_logging(config: AudioConfig | None = None) -> None:
    """Show the library's events on standard error; called again, it replaces its own earlier settings only.

    The root logger and the handlers of the host program stay as they are. They get the events, too, unless one of
    them writes to standard error and would show each event twice, whether it was there before or comes later.

    Args:
        config: Gives ``log_level`` and ``enable_structured_logging``; ``None``: the process's configuration.

    Raises:
        ConfigurationError: ``config`` is ``None`` and the environment or ``.env`` holds a wrong value.
    """
    if config is None:
        from audio_api.config import get_config

        config = get_config()
    logger = logging.getLogger(_LIBRARY)
    for handler in [handler for handler in logger.handlers if isinstance(handler, _StderrHandler)]:
        logger.removeHandler(handler)
    handler = _StderrHandler()
    handler.setFormatter(StructuredFormatter() if config.enable_structured_logging else HumanFormatter())
    logger.addHandler(handler)
    logger.setLevel(config.log_level)
    logger.propagate = True


def get_logger(name: str) -> logging.Logger:
    """The logger of that name below ``audio_api``, so that ``setup_logging`` governs it.

    Args:
        name: Usually ``__name__``.
    """
    inside = name == _LIBRARY or name.startswith(f"{_LIBRARY}.")
    return logging.getLogger(name if inside else f"{_LIBRARY}.{name}")


def text_fingerprint(text: str) -> dict[str, Any]:
    """The only form in which a text to speak is logged: its length and the first 8 hex digits of its SHA-256."""
    digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return {"text_length": len(text), "text_sha256": digest[:8]}


@overload
def log_performance(
    logger: logging.Logger, event: str, **fields: object
) -> AbstractContextManager[dict[str, object]]: ...


@overload
def log_performance(logger: logging.Logger, event: str, duration: float, **fields: object) -> None: ...


@overload
def log_performance(
    logger: logging.Logger, event: None = None, *, operation: str, duration: float, **fields: object
) -> None: ...


def log_performance(
    logger: logging.Logger, event: Any = None, duration: Any = None, **fields: Any
) -> AbstractContextManager[dict[str, object]] | None:
    """Log how long something took: now, when ``duration`` is given, else at the end of a ``with`` block.

    A block's event has its ``duration_s`` and ``outcome``: ``ok``, ``error`` or ``cancelled``. Success is logged at
    INFO, anything else at WARNING with the exception's class as ``error_type``; the exception goes through. The block
    gets the fields, to add what is known only at the end.

    Args:
        logger: Where the event goes.
        event: Its name; ``None``: it is given as ``operation``.
        duration: What was measured already, in seconds; ``None``: the block is measured.
        fields: What else the event says.

    Raises:
        TypeError: The event has no name.
    """
    if event is None:
        if "operation" not in fields:
            raise TypeError("log_performance() needs the name of the event: log_performance(logger, event, …)")
        event = str(fields.pop("operation"))
    if duration is None:
        return _measured(logger, event, fields)
    logger.info(event, extra=_extra({**fields, "duration_s": round(duration, 6)}))
    return None


@contextmanager
def _measured(logger: logging.Logger, event: str, fields: dict[str, object]) -> Iterator[dict[str, object]]:
    started_s = time.perf_counter()
    level, outcome = logging.INFO, "ok"
    try:
        yield fields
    except BaseException as error:
        level, outcome = logging.WARNING, "cancelled" if isinstance(error, asyncio.CancelledError) else "error"
        fields["error_type"] = type(error).__name__
        raise
    finally:
        measured = {"duration_s": round(time.perf_counter() - started_s, 6), "outcome": outcome}
        logger.log(level, event, extra=_extra({**fields, **measured}))


def log_error_with_context(
    logger: logging.Logger, error: BaseException, context: Mapping[str, object] | None = None, **fields: object
) -> None:
    """Log an error at ERROR with its class, its text, its traceback and what the caller knows.

    Args:
        logger: Where the event goes.
        error: An error of this library adds its code, whether another try makes sense, and the attempts made.
        context: What else the event says, by name, such as ``{"task_id": "t-1"}``; ``None``: nothing else.
        fields: The same as keywords; a keyword wins over the same name in ``context``.
    """
    facts: dict[str, object] = {"error_type": type(error).__name__, "error": str(error)}
    if isinstance(error, AudioAPIError):
        facts |= {"error_code": error.code, "retryable": error.retryable, "attempts": error.attempts}
    logger.error("error", extra=_extra({**(context or {}), **fields, **facts}), exc_info=error)


class _OneLineFormatter(logging.Formatter):
    """What both formats have in common: the parts of an event, safe to show."""

    def entry(self, record: logging.LogRecord) -> dict[str, Any]:
        """Time, level, logger and event, then the ``extra`` fields, then the traceback."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            message = f"{record.msg} {_REPR.repr(record.args)}"
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": _shown(message),
        }
        extra = ((name, value) for name, value in vars(record).items() if name not in _RECORD_ATTRIBUTES)
        for name, value in _safe_fields(extra, _MAX_DEPTH).items():
            entry[f"{name}_" if name in entry else name] = value
        if record.exc_info:
            entry["exception"] = _shown(self.formatException(record.exc_info))
        if record.stack_info:
            entry["stack"] = _shown(record.stack_info)
        return entry


class StructuredFormatter(_OneLineFormatter):
    """One JSON object a line, in ASCII: ``time`` (UTC, ISO 8601), ``level``, ``logger``, ``event``, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The event as JSON without a line break."""
        return json.dumps(self.entry(record))


class HumanFormatter(_OneLineFormatter):
    """One line of text: time (UTC), level, logger, event, then ``name=value`` for each field."""

    def format(self, record: logging.LogRecord) -> str:
        """The event as text; every character that does not print is escaped."""
        entry = self.entry(record)
        head = "{} {:<8} {}: {}".format(*(entry.pop(name) for name in ("time", "level", "logger", "event")))
        line = " ".join([head, *(f"{name}={_readable(value)}" for name, value in entry.items())])
        if line.isprintable():
            return line
        return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever ``sys.stderr`` is at that moment, as programs and test runners exchange it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        # At each event: the program may call logging.basicConfig() at any time. Loggers ask for this behind handlers.
        if any(getattr(handler, "stream", None) is sys.stderr for handler in logging.getLogger().handlers):
            logging.getLogger(_LIBRARY).propagate = False
        super().emit(record)


def _extra(fields: Mapping[str, object]) -> dict[str, object]:
    # ``logging`` refuses fields that are named like a record's own attributes, such as ``name`` or ``filename``.
    return {f"{name}_" if name in _RECORD_ATTRIBUTES else name: value for name, value in fields.items()}


def _safe_fields(pairs: Iterable[tuple[object, object]], depth: int) -> dict[str, Any]:
    """Values of JSON's types; those with a secret's name are masked, texts become fingerprints."""
    fields: dict[str, Any] = {}
    for key, value in pairs:
        name = str(key)
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^\w]+", "_", name)
        if name in _TEXT_NAMES and isinstance(value, str):
            fields |= text_fingerprint(value)
        elif _SECRET_NAME.search(snake) and not (value is None or isinstance(value, bool)):
            fields[name] = MASK
        else:
            fields[name] = _safe(value, depth)
    return fields


def _safe(value: object, depth: int) -> Any:
    """The value in JSON's types, without its secrets."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return _shown(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, PurePath | date):
        return _shown(str(value))
    return _safe_object(value, depth - 1)


def _safe_object(value: object, depth: int) -> Any:
    if hasattr(value, "get_secret_value"):
        return MASK
    if isinstance(value, Enum):
        return _safe(value.value, depth)
    if depth < 0:
        return "…"
    if isinstance(value, Mapping):
        return _safe_fields(value.items(), depth)
    if isinstance(value, list | tuple | set | frozenset):
        return [_safe(item, depth) for item in value]
    if names := _field_names(value):
        return _safe_fields(((name, getattr(value, name)) for name in names), depth)
    return _shown(_REPR.repr(value))


def _field_names(value: object) -> list[str]:
    """The fields of a dataclass or a pydantic model: their ``repr`` would show a request's text."""
    if isinstance(value, type):
        return []
    if is_dataclass(value):
        return [field.name for field in dataclass_fields(value)]
    return list(getattr(type(value), "model_fields", ()))


def _shown(text: str) -> str:
    """Without secrets, and not endless."""
    text = _SECRET_VALUE.sub(MASK, str.__str__(text))
    if len(text) <= _MAX_CHARS:
        return text
    half = _MAX_CHARS // 2
    return f"{text[:half]} … {len(text) - 2 * half:,} characters … {text[-half:]}"


def _readable(value: object) -> str:
    """A value for people: bare when nothing can be mistaken, else as JSON."""
    if isinstance(value, str) and _BARE_VALUE.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)
