"""What Prometheus reads at ``/metrics``: what this server did, and how its queue is."""

from __future__ import annotations

import os
from collections.abc import Mapping

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from audio_api.errors import ErrorCode, QueueServiceError
from audio_api.models.audio_request import AudioRequest, AudioResponse
from audio_api.queues.jobs import QueueStats
from audio_api.server.access import ShownKey

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that names the folder in which the processes of a server share their counters."""
# From a cached piece to a piece that was asked for six times.
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)

router = APIRouter(tags=["operation"])


class Metrics:
    """The counters of a server; those of all its processes, where it has several."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        counters: Mapping[str, tuple[str, tuple[str, ...]]] = {
            "speeches": ("Speeches that ended.", ("outcome",)),
            "attempts": ("Calls to the API.", ("model", "code")),
            "audio_seconds": ("Seconds of sound.", ("model",)),
            "characters": ("Characters of the texts asked for.", ()),
            "cost_usd": ("US dollars, where the price is known.", ("model",)),
            "cached_pieces": ("Pieces of texts that had been made before.", ()),
            "checks_failed": ("Sounds that failed a check, or are doubtful.", ("code",)),
        }
        self._counters = {
            name: Counter(f"audio_api_{name}", text, labels, registry=self._registry)
            for name, (text, labels) in counters.items()
        }
        self._durations = Histogram(
            "audio_api_speech_duration_seconds",
            "Seconds from a request to the end of its speech.",
            ("outcome",),
            buckets=_SECONDS,
            registry=self._registry,
        )

    def record(self, request: AudioRequest, response: AudioResponse) -> None:
        """Count a speech that ended."""
        count = self._counters
        model = response.model or str(request.model)
        left = not response.success and response.error_code is None
        outcome = "succeeded" if response.success else "cancelled" if left else "failed"
        count["speeches"].labels(outcome).inc()
        self._durations.labels(outcome).observe(response.processing_time or 0.0)
        if response.attempts:
            count["attempts"].labels(model, response.error_code or "ok").inc(response.attempts)
        count["audio_seconds"].labels(model).inc(response.duration or 0.0)
        count["characters"].inc(len(request.text))
        count["cost_usd"].labels(model).inc(response.cost_usd or 0.0)
        count["cached_pieces"].inc(response.cached_pieces)
        code = response.error_code
        failed = [code] if code and (code is ErrorCode.WORDS_MISSING or code.startswith("audio_")) else []
        for fault in (*failed, *response.doubtful):
            count["checks_failed"].labels(fault).inc()

    def text(self, in_progress: int, stats: QueueStats | None) -> bytes:
        """Everything in Prometheus' text format.

        Args:
            in_progress: Requests that this process answers.
            stats: The queue; ``None``: it does not answer.
        """
        counted = self._registry
        if MULTIPROCESS in os.environ:
            counted = CollectorRegistry()
            MultiProcessCollector(counted)  # type: ignore[no-untyped-call]
        return generate_latest(counted) + generate_latest(_now(in_progress, stats))


def _now(in_progress: int, stats: QueueStats | None) -> CollectorRegistry:
    """What is so at this moment; it is the same whichever process is asked, but for the first."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, value: float) -> None:
        Gauge(f"audio_api_{name}", text, registry=registry).set(value)

    gauge("requests_in_progress", "Requests for speech that this process answers.", in_progress)
    gauge("queue_up", "Whether the queue answers.", stats is not None)
    if stats is None:
        return registry
    tasks = Gauge("audio_api_queue_tasks", "Tasks in the queue.", ("state", "priority"), registry=registry)
    for priority, waiting in stats.waiting.items():
        tasks.labels("queued", priority).set(waiting)
    for state in ("delayed", "leased", "dead"):
        tasks.labels(state, "").set(getattr(stats, state))
    gauge("queue_oldest_age_seconds", "Age of the task that waits longest; 0: none waits.", stats.oldest_age_s or 0.0)
    gauge("tasks_in_progress", "Tasks that workers have in hand.", stats.leased)
    ended = Counter("audio_api_tasks", "Tasks that ended since the queue exists.", ("outcome",), registry=registry)
    for outcome in ("succeeded", "failed", "cancelled"):
        ended.labels(outcome).inc(getattr(stats, outcome))
    return registry


@router.api_route("/metrics", methods=["GET", "HEAD"], response_class=Response)
async def metrics(request: Request, _: ShownKey) -> Response:
    """Counters and gauges in Prometheus' text format."""
    server = request.state.server
    try:
        stats = await server.queue.get_queue_stats()
    except QueueServiceError:
        stats = None
    return Response(server.metrics.text(server.in_progress, stats), media_type=CONTENT_TYPE_LATEST)
