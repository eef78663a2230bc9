"""The class of an error says what to do; nothing in it comes from the vendor or holds the key."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime

import pytest

from audio_api import errors
from audio_api.errors import AudioAPIError, ErrorCode, TTSOutputError, TTSQuotaError, error_class
from audio_api.models.usage import TokenUsage

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, AudioAPIError)]

RETRYABLE = {
    "TTSRateLimitError",
    "TTSUnavailableError",
    "TTSAudioError",
    "QueueUnavailableError",
    "QueueFullError",
    "WorkerServiceError",
    "StoreError",
}


class VendorError(Exception):
    """An exception as an SDK raises it: it holds the request, and so the key."""

    def __init__(self, key: str) -> None:
        super().__init__("429")
        self.request_headers = {"x-goog-api-key": key}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_pickling_with_all_it_knows(cls: type[AudioAPIError], protocol: int) -> None:
    """Class, text and every attribute arrive in another process, the extras of single classes included."""
    error = cls(
        "what happened",
        code=ErrorCode.TIMEOUT,
        retryable=True,
        retry_after_s=2.5,
        attempts=3,
        usage=TokenUsage(input_tokens=4, output_tokens=5, audio_tokens=5),
    )
    if isinstance(error, TTSQuotaError):
        error.reset_at = datetime(2026, 11, 23, 8, tzinfo=UTC)
    if isinstance(error, TTSOutputError):
        error.audio = b"RIFF"
    for twin in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is cls
        assert (str(twin), vars(twin)) == ("what happened", vars(error))
        assert repr(twin) == repr(error)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_pickle_leaves_the_vendors_exception_behind(cls: type[AudioAPIError]) -> None:
    """Whatever an error was raised from, its pickle holds nothing of it."""

    def fail() -> None:
        raise cls("too many calls") from VendorError("CANARY")

    with pytest.raises(cls) as caught:
        fail()
    assert b"CANARY" not in pickle.dumps(caught.value)
    assert "CANARY" not in repr(caught.value)


@pytest.mark.parametrize(
    ("cls", "retryable"),
    [(cls, cls.__name__ in RETRYABLE) for cls in CLASSES if cls.__module__ == errors.__name__],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_class_says_whether_another_try_makes_sense(cls: type[AudioAPIError], *, retryable: bool) -> None:
    """What is limited, away, full or badly spoken passes; nothing else does; its maker may know better."""
    assert cls("x").retryable is retryable
    assert cls("x", retryable=not retryable).retryable is not retryable


def test_an_error_knows_nothing_unless_told() -> None:
    """The defaults mean: nothing was sent, nothing was billed, the server named no delay."""
    error = TTSQuotaError("the day's quota is used up")
    assert vars(error) == {
        "code": ErrorCode.QUOTA_EXHAUSTED,
        "retryable": False,
        "retry_after_s": None,
        "attempts": 0,
        "usage": None,
        "piece": None,
        "heard_s": None,
        "tier": None,
        "calls": (),
    }
    assert error.reset_at is None
    assert TTSOutputError("disk full").audio is None


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_its_class(code: ErrorCode) -> None:
    """The codes of sound belong to ``TTSAudioError`` by rule; a code of another kind must be entered in the table."""
    about_audio = code.startswith("audio_") or code in (ErrorCode.NO_AUDIO, ErrorCode.WORDS_MISSING)
    assert (error_class(code) is errors.TTSAudioError) is about_audio


@pytest.mark.parametrize(
    "cls",
    sorted(set(CLASSES) - {AudioAPIError, errors.TTSError}, key=lambda cls: cls.__name__),
    ids=lambda cls: cls.__name__,
)
def test_a_classs_own_code_leads_back_to_it(cls: type[AudioAPIError]) -> None:
    """An error without an explicit code is restored as the same class."""
    assert error_class(cls("x").code) is cls


def test_the_drawing_of_the_tree_is_complete() -> None:
    """The module's docstring names every class."""
    assert errors.__doc__
    assert [cls.__name__ for cls in CLASSES if cls.__name__ not in errors.__doc__] == []


def test_wrong_input_is_a_value_error_too() -> None:
    """Code that only knows Python's own classes catches what the caller did wrong as ``ValueError``."""
    assert [cls.__name__ for cls in CLASSES if issubclass(cls, ValueError)] == [
        "ConfigurationError",
        "TTSValidationError",
    ]
