"""The one table of what follows a failure: row by row, as a document, and whatever a job has behind it."""

from __future__ import annotations

import re
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from project import ROOT

from audio_api.errors import ErrorCode, TTSError, error_class
from audio_api.models.audio_request import AudioResponse
from audio_api.retry import bound_of
from audio_api.services.recovery import MOST_REPEATS_OF_BILLED, RULES, Fate, History, PutBack, put_back, rule_for

NOW_S = datetime(2026, 11, 22, 20, tzinfo=UTC).timestamp()
HOUR_S = 3_600.0
AGE_S = 6 * HOUR_S
FRESH = History()
ERRORS = Path(ROOT) / "docs" / "errors.md"


def failure(code: ErrorCode, **fields: Any) -> AudioResponse:
    """A response that tells of it."""
    fields = {"retryable": error_class(code).default_retryable, "attempts": 1, **fields}
    return AudioResponse(success=False, message="no speech", error="no", error_code=code, **fields)


def decided(response: AudioResponse, history: History = FRESH, **facts: Any) -> PutBack | None:
    """What the table says of it."""
    facts = {"now_s": NOW_S, "max_age_s": AGE_S, "circuit_open": False, "can_write": True, **facts}
    return put_back(response, history, **facts)


BACK, WAITS, FAILS = "counted", "not counted", "fails"
ROWS: dict[ErrorCode, tuple[str, float]] = {
    ErrorCode.CONFIGURATION: (BACK, 60),
    ErrorCode.AUTHENTICATION: (BACK, 60),
    ErrorCode.CREDIT_EXHAUSTED: (BACK, 300),
    ErrorCode.INVALID_REQUEST: (FAILS, 0),
    ErrorCode.TEXT_TOO_LONG: (FAILS, 0),
    ErrorCode.API_ERROR: (FAILS, 0),
    ErrorCode.MODEL_NOT_FOUND: (FAILS, 0),
    ErrorCode.VOICE_NOT_FOUND: (FAILS, 0),
    ErrorCode.CONTENT_BLOCKED: (FAILS, 0),
    ErrorCode.QUOTA_NOT_GRANTED: (FAILS, 0),
    ErrorCode.QUOTA_EXHAUSTED: (FAILS, 0),
    ErrorCode.RATE_LIMITED: (WAITS, 60),
    ErrorCode.SPEND_LIMITED: (WAITS, 60),
    ErrorCode.CIRCUIT_OPEN: (WAITS, 5),
    ErrorCode.UNAVAILABLE: (BACK, 5),
    ErrorCode.CONNECTION_FAILED: (BACK, 5),
    ErrorCode.TIMEOUT: (BACK, 5),
    ErrorCode.CONNECTION_BROKEN: (BACK, 5),
    ErrorCode.UNREADABLE_REPLY: (BACK, 5),
    ErrorCode.TASK_TIMEOUT: (BACK, 5),
    ErrorCode.MODEL_CONFUSED: (BACK, 5),
    ErrorCode.NO_AUDIO: (BACK, 5),
    ErrorCode.WORDS_MISSING: (BACK, 5),
    **{code: (BACK, 5.0) for code in ErrorCode if code.startswith("audio_")},
    ErrorCode.OUTPUT_FAILED: (FAILS, 0),
    ErrorCode.OUTPUT_EXISTS: (FAILS, 0),
    ErrorCode.STORE_UNAVAILABLE: (BACK, 5),
    ErrorCode.STORE_REFUSED: (BACK, 60),
    ErrorCode.STORE_OBJECT_MISSING: (FAILS, 0),
}


@pytest.mark.parametrize(("code", "row"), ROWS.items(), ids=[code.value for code in ROWS])
def test_a_row_of_the_table(code: ErrorCode, row: tuple[str, float]) -> None:
    """What becomes of a job that fails so for the first time, and how soon it is tried again."""
    what, delay_s = row
    back = decided(failure(code))
    if what == FAILS:
        assert back is None
        return
    assert back
    assert back.delay_s == delay_s
    assert (back.history.tries, back.history.failing_since) == ((1, NOW_S) if what == BACK else (0, None))


def test_the_table_names_every_failure_of_a_job() -> None:
    """Every code with which speech can fail, a wrong setting and a job's own time; errors of the queue end no try."""
    of_speech = {code for code in ErrorCode if issubclass(error_class(code), TTSError)}
    assert set(RULES) == set(ROWS) == of_speech | {ErrorCode.CONFIGURATION, ErrorCode.TASK_TIMEOUT}
    assert rule_for(None).fate is rule_for(ErrorCode.LEASE_LOST).fate is Fate.FAILS


def test_a_quota_ends_when_it_says() -> None:
    """A day's quota at its reset, a minute's after the server's delay, however short; neither counts as a try."""
    reset_at = datetime.fromtimestamp(NOW_S, UTC) + timedelta(hours=9)
    old = History(tries=30, failing_since=NOW_S - 7 * HOUR_S)
    assert decided(failure(ErrorCode.QUOTA_EXHAUSTED, reset_at=reset_at), old) == PutBack(9 * HOUR_S, old)
    assert decided(failure(ErrorCode.RATE_LIMITED, retry_after_s=2.5), old) == PutBack(2.5, old)
    assert decided(failure(ErrorCode.SPEND_LIMITED, retry_after_s=120.0), old) == PutBack(120.0, old)


def test_the_delay_grows_up_to_ten_minutes() -> None:
    """5 s, then twice as long each time; a delay that the server names is not undercut."""
    delays, history = [], FRESH
    for _ in range(9):
        back = decided(failure(ErrorCode.UNAVAILABLE), history)
        assert back
        delays.append(back.delay_s)
        history = back.history
    assert delays == [5, 10, 20, 40, 80, 160, 320, 600, 600]
    named = decided(failure(ErrorCode.UNAVAILABLE, retry_after_s=90.0))
    assert named
    assert named.delay_s == 90


def test_a_job_is_tried_until_it_is_too_old() -> None:
    """The last try comes at the end of its age, and fails it."""
    back = decided(failure(ErrorCode.UNAVAILABLE), History(tries=20, failing_since=NOW_S - AGE_S + 7))
    assert back
    assert back.delay_s == 7
    assert decided(failure(ErrorCode.UNAVAILABLE), back.history, now_s=NOW_S + 7) is None


def test_an_open_circuit_counts_nothing() -> None:
    """The failure is everyone's: the job's tries and the beginning of its failures stay as they are."""
    assert decided(failure(ErrorCode.UNAVAILABLE), circuit_open=True) == PutBack(5, FRESH)
    too_old = History(tries=9, failing_since=NOW_S - AGE_S)
    assert decided(failure(ErrorCode.CIRCUIT_OPEN), too_old, circuit_open=True) == PutBack(5, too_old)


def test_billed_calls_are_counted_while_the_circuit_is_open() -> None:
    """A probe that may have been billed costs money like any other call."""
    back = decided(failure(ErrorCode.TIMEOUT), History(billed_calls=2), circuit_open=True)
    assert back == PutBack(5, History(billed_calls=3))
    assert decided(failure(ErrorCode.TIMEOUT), back.history, circuit_open=True) is None


def test_six_answers_without_the_speech_are_enough() -> None:
    """Each was paid for; an answer that no further call can better fails the job at once."""
    assert decided(failure(ErrorCode.AUDIO_TOO_SHORT, attempts=6)) is None
    assert decided(failure(ErrorCode.AUDIO_INCOMPLETE, retryable=False)) is None


def test_a_job_waits_for_a_disk_that_takes_no_file() -> None:
    """A folder that refuses this file alone is the job's own trouble."""
    assert decided(failure(ErrorCode.OUTPUT_FAILED), can_write=False) == PutBack(5, FRESH)
    assert decided(failure(ErrorCode.OUTPUT_FAILED), can_write=True) is None


@given(
    st.sampled_from(list(RULES)),
    st.lists(st.tuples(st.booleans(), st.floats(0, 1e5), st.integers(1, 6)), max_size=60),
    st.floats(0.01, 1e5),
)
def test_no_job_is_tried_for_ever(code: ErrorCode, tries: list[tuple[bool, float, int]], max_age_s: float) -> None:
    """Whatever happens in between: delays are no longer than its age, billed calls end, and the note keeps it all."""
    history, now_s, failing_since = FRESH, NOW_S, None
    for circuit_open, pause_s, attempts in tries:
        response = failure(code, attempts=attempts)
        back = decided(response, history, now_s=now_s, max_age_s=max_age_s, circuit_open=circuit_open)
        if back is None:
            break
        assert back.delay_s >= 0
        assert back.history.billed_calls <= MOST_REPEATS_OF_BILLED
        if back.history.tries > history.tries:
            failing_since = now_s if failing_since is None else failing_since
            assert now_s - failing_since < max_age_s
            assert back.delay_s <= max_age_s
        history = back.history
        assert (
            History.from_note(
                {"tries": history.tries, "failing_since": history.failing_since, "billed_calls": history.billed_calls}
            )
            == history
        )
        now_s += back.delay_s + pause_s


@pytest.mark.parametrize("note", [{}, {"tries": "x", "failing_since": [], "billed_calls": -3}, {"tries": None}])
def test_a_strange_note_is_no_history(note: dict[str, Any]) -> None:
    """Other programs write into the same Redis."""
    assert History.from_note(note) == FRESH


def markdown() -> str:
    """The table as the page prints it: codes with the same rule share a row."""
    codes: defaultdict[str, list[str]] = defaultdict(list)
    for code, rule in RULES.items():
        budget = bound_of(code)
        at_once = "none" if budget is None else f"`{budget}`" if budget.isupper() else budget
        delay = "" if rule.fate is Fate.FAILS else f"{rule.wait_s:g} s"
        circuit, billed = "counts" if rule.trips else "", "yes" if rule.billed else ""
        codes[f"| {rule.fate.value} | {at_once} | {delay} | {circuit} | {billed} |"].append(f"`{code.value}`")
    lines = [
        "| the job | attempts at once | first delay | circuit | may be billed | codes |",
        "|---|---|---|---|---|---|",
        *(f"{row} {', '.join(names)} |" for row, names in codes.items()),
    ]
    return "\n".join(re.sub(" +", " ", line) for line in lines)


def test_the_page_prints_the_table() -> None:
    """docs/errors.md holds exactly the rows of the code."""
    assert markdown() in ERRORS.read_text("utf-8"), f"put this into docs/errors.md:\n{markdown()}"
