"""What is counted of speeches and tasks: bounded names, whole amounts, and never the text."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_api.errors import ErrorCode
from audio_api.models.audio_request import AudioRequest, AudioResponse
from audio_api.queues.jobs import Lease
from audio_api.services.tally import BUCKETS_S, METRICS, cost_usd, of_delivery, of_speech
from audio_api.services.worker_status import Ending

MODEL = "gemini-3.8-flash-tts"
REQUEST = AudioRequest(text="CANARY is what is said.", model=MODEL)


def response(**fields: Any) -> AudioResponse:
    """What became of a request."""
    return AudioResponse(**{"success": True, "message": "CANARY", "model": MODEL, **fields})


def lease(deliveries: int = 1, waited_s: float = 0.0) -> Lease:
    """A delivery."""
    return Lease("a", b"CANARY", 0, None, 1, deliveries, 30.0, waited_s=waited_s)


def test_a_speech_is_counted_in_whole_units() -> None:
    """Seconds are thousandths, dollars billionths; each attempt counts under its own code."""
    counted = of_speech(
        REQUEST,
        response(
            duration=5.25, cost_usd=0.002, processing_time=0.3, cached_pieces=2, attempt_codes=("unavailable", "ok")
        ),
    )
    assert counted == {
        "speeches succeeded": 1,
        "speech_duration_seconds succeeded 5": 1,
        "speech_duration_seconds succeeded sum": 300,
        f"attempts {MODEL} unavailable": 1,
        f"attempts {MODEL} ok": 1,
        f"audio_seconds {MODEL}": 5_250,
        f"cost_usd {MODEL}": 2_000_000,
        "characters": len(REQUEST.text),
        "cached_pieces": 2,
    }
    assert cost_usd(counted) == pytest.approx(0.002)


@pytest.mark.parametrize("ending", Ending)
def test_a_delivery_is_counted_by_its_ending(ending: Ending) -> None:
    """Only the first delivery tells how long the task waited, and only a deferred one was put back."""
    first, second = (of_delivery(lease(number, 7.0), ending, 2.0, None) for number in (1, 2))
    assert first["deliveries false"] == second["deliveries true"] == 1
    assert first["task_wait_seconds sum"] == 7_000
    assert second["task_wait_seconds sum"] == 0
    assert first["tasks_deferred"] == (ending is Ending.DEFERRED)
    outcome = "dead" if ending is Ending.BURIED else ending.value
    assert first[f"task_duration_seconds {outcome} sum"] == 2_000


def test_a_sound_that_waits_for_its_place_is_counted_once() -> None:
    """The next delivery of its task has the same calls in its response."""
    waiting = response(cost_usd=0.1, unsaved_audio=b"RIFF", success=False, error_code=ErrorCode.OUTPUT_FAILED)
    assert cost_usd(of_delivery(lease(), Ending.DEFERRED, 1.0, (REQUEST, waiting))) == 0
    assert cost_usd(of_delivery(lease(2), Ending.SUCCEEDED, 1.0, (REQUEST, response(cost_usd=0.1)))) == 0.1


@given(
    st.text(),
    st.sampled_from([None, *ErrorCode]),
    st.floats(0, 1e6),
    st.lists(st.sampled_from(["ok", "ended", *(code.value for code in ErrorCode)])),
)
def test_names_are_few_and_hold_no_text(model: str, code: ErrorCode | None, seconds: float, codes: list[str]) -> None:
    """Whatever a client calls its model, each name is a known metric with as many labels as it has."""
    spoken = response(
        model=model, error_code=code, success=code is None, attempt_codes=tuple(codes), processing_time=seconds
    )
    counted = of_speech(REQUEST, spoken) + of_delivery(lease(), Ending.FAILED, seconds, (REQUEST, spoken))
    for name, amount in counted.items():
        metric, *labels = name.split(" ")
        expected = METRICS[metric]
        assert len(labels) == len(expected.labels) + expected.is_histogram
        assert isinstance(amount, int)
        assert "CANARY" not in name
        if "model" in expected.labels:
            assert labels[0] in {MODEL, "other", "default"}


@given(st.lists(st.floats(0, 1e5), min_size=1))
def test_each_time_is_in_one_bucket(times_s: list[float]) -> None:
    """The bucket whose bound is the first that is not exceeded."""
    counted: Counter[str] = Counter()
    for seconds in times_s:
        counted += of_delivery(lease(), Ending.SUCCEEDED, seconds, None)
    for number, bound in enumerate(BUCKETS_S):
        below = BUCKETS_S[number - 1] if number else -1.0
        expected = sum(below < seconds <= bound for seconds in times_s)
        assert counted[f"task_duration_seconds succeeded {number}"] == expected
