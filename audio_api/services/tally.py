"""What is counted of speeches and tasks, for people who watch: few names, whole numbers, and never the text.

A name is that of a metric with the values of its labels behind it, such as ``attempts gemini-3.8-flash-tts ok``. The
queue keeps the amounts, so that they are those of all its workers and servers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from audio_api.errors import ErrorCode
from audio_api.models.audio_request import AudioRequest, AudioResponse
from audio_api.models.speech_models import MODEL_SPECS
from audio_api.queues.jobs import Lease
from audio_api.services.worker_status import Ending

# From a cached piece to a piece that was asked for six times, and to a task that waited for an hour.
BUCKETS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 600.0, 3_600.0)
_MS, _NANO = 1_000, 1_000_000_000
# A delivery that went back, or to another worker, ended nothing.
_OUTCOMES = {Ending.BURIED: "dead", Ending.RETURNED: "returned", Ending.LOST: "lost"}


@dataclass(frozen=True, slots=True)
class Metric:
    """What an amount means.

    Attributes:
        help: One sentence.
        labels: The names of its labels.
        scale: What the amount is divided by.
        is_histogram: Whether it counts how many took how long: its last label is the number of a bucket, or ``sum``.
    """

    help: str
    labels: tuple[str, ...] = ()
    scale: int = 1
    is_histogram: bool = False


METRICS = {
    "speeches": Metric("Speeches over HTTP that ended.", ("outcome",)),
    "speech_duration_seconds": Metric(
        "Seconds from a request over HTTP to the end of its speech.", ("outcome",), _MS, is_histogram=True
    ),
    "task_duration_seconds": Metric("Seconds that a worker had a task in hand.", ("outcome",), _MS, is_histogram=True),
    "task_wait_seconds": Metric(
        "Seconds from the acceptance of a task to its first delivery.", (), _MS, is_histogram=True
    ),
    "deliveries": Metric("Tasks handed to a worker.", ("redelivered",)),
    "attempts": Metric("Calls to the API, by how each ended.", ("model", "code")),
    "audio_seconds": Metric("Seconds of sound.", ("model",), _MS),
    "characters": Metric("Characters of the texts asked for."),
    "cost_usd": Metric("US dollars, where the price is known.", ("model",), _NANO),
    "cached_pieces": Metric("Pieces of texts that had been made before."),
    "checks_failed": Metric("Sounds that failed a check, or are doubtful.", ("code",)),
}


def of_speech(request: AudioRequest, response: AudioResponse) -> Counter[str]:
    """What is counted of a speech over HTTP that ended."""
    left = not response.success and response.error_code is None
    outcome = "succeeded" if response.success else "cancelled" if left else "failed"
    counted = _used(request, response) + _took("speech_duration_seconds", response.processing_time or 0.0, outcome)
    counted[f"speeches {outcome}"] += 1
    return counted


def of_delivery(
    lease: Lease, ending: Ending, seconds: float, spoken: tuple[AudioRequest, AudioResponse] | None
) -> Counter[str]:
    """What is counted of a task's delivery that ended.

    Args:
        lease: The delivery.
        ending: How it ended.
        seconds: How long it took.
        spoken: What was asked for, and what became of it; ``None``: no call was made.
    """
    counted = _took("task_duration_seconds", seconds, _OUTCOMES.get(ending, ending.value))
    counted[f"deliveries {'true' if lease.deliveries > 1 else 'false'}"] += 1
    if lease.deliveries == 1:
        counted += _took("task_wait_seconds", lease.waited_s)
    if ending is Ending.DEFERRED:
        counted["tasks_deferred"] += 1
    # A response whose sound waits for its place is used again by the task's next delivery.
    if spoken and not spoken[1].unsaved_audio:
        counted += _used(*spoken)
    return counted


def cost_usd(amounts: Mapping[str, int]) -> float:
    """The dollars among amounts."""
    return sum(amount for name, amount in amounts.items() if name.startswith("cost_usd ")) / _NANO


def _took(name: str, seconds: float, *labels: str) -> Counter[str]:
    key = " ".join((name, *labels))
    return Counter({f"{key} {bisect_left(BUCKETS_S, seconds)}": 1, f"{key} sum": round(seconds * _MS)})


def _used(request: AudioRequest, response: AudioResponse) -> Counter[str]:
    # A model that is not known here has a name of the client's choice.
    model = str(response.model or request.model or "default")
    model = model if model in MODEL_SPECS or model == "default" else "other"
    code = response.error_code
    failed = [code] if code and (code is ErrorCode.WORDS_MISSING or code.startswith("audio_")) else []
    return Counter(
        {
            **Counter(f"attempts {model} {code}" for code in response.attempt_codes),
            f"audio_seconds {model}": round((response.duration or 0.0) * _MS),
            "characters": len(request.text),
            f"cost_usd {model}": round((response.cost_usd or 0.0) * _NANO),
            "cached_pieces": response.cached_pieces,
            **Counter(f"checks_failed {fault}" for fault in (*failed, *response.doubtful)),
        }
    )
