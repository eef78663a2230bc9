"""What Prometheus reads at ``/metrics``: what the queue's workers and servers did, and how the queue is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from audio_api.errors import QueueServiceError
from audio_api.models.speech_models import MODEL_SPECS
from audio_api.queues.jobs import QueueStats
from audio_api.server.access import ShownKey
from audio_api.server.state import ServerState
from audio_api.services.tally import BUCKETS_S, METRICS

router = APIRouter(tags=["operation"])


@dataclass
class _Figures(Collector):
    """All that is told at one moment.

    Attributes:
        in_progress: Requests that this process answers.
        pace_waiting: Calls of this process that wait for their turn.
        stats: The queue; ``None``: it does not answer.
        counts: What its workers and servers counted.
        outages: Whether the circuit of each model is open.
    """

    in_progress: int
    pace_waiting: int
    stats: QueueStats | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    outages: Mapping[str, bool] = field(default_factory=dict)

    def collect(self) -> Iterator[Metric]:
        """Each metric with its values."""
        yield _gauge("requests_in_progress", "Requests for speech that this process answers.", self.in_progress)
        yield _gauge("pace_waiting", "Calls of this process that wait for their turn.", self.pace_waiting)
        yield _gauge("queue_up", "Whether the queue answers.", self.stats is not None)
        outage = GaugeMetricFamily("audio_api_outage", "Whether the model's circuit is open.", labels=("model",))
        for model, is_open in self.outages.items():
            outage.add_metric((model,), is_open)
        yield outage
        if self.stats:
            yield from _of_queue(self.stats, self.counts.get("tasks_deferred", 0))
        for name, metric in METRICS.items():
            amounts = {
                tuple(key.split(" ")[1:]): amount / metric.scale
                for key, amount in self.counts.items()
                if key.partition(" ")[0] == name
            }
            if metric.is_histogram:
                yield _histogram(name, metric.help, metric.labels, amounts, metric.scale)
                continue
            counter = CounterMetricFamily(f"audio_api_{name}", metric.help, labels=metric.labels)
            for labels, amount in amounts.items():
                counter.add_metric(labels, amount)
            yield counter


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"audio_api_{name}", text, value)


def _of_queue(stats: QueueStats, deferred: int) -> Iterator[Metric]:
    tasks = GaugeMetricFamily("audio_api_queue_tasks", "Tasks in the queue.", labels=("state", "priority"))
    for priority, waiting in stats.waiting.items():
        tasks.add_metric(("queued", str(priority)), waiting)
    for state in ("delayed", "leased", "dead"):
        tasks.add_metric((state, ""), getattr(stats, state))
    yield tasks
    oldest = "Age of the task that waits longest; 0: none waits."
    yield _gauge("queue_oldest_age_seconds", oldest, stats.oldest_age_s or 0.0)
    yield _gauge("tasks_in_progress", "Tasks that workers have in hand.", stats.leased)
    ended = CounterMetricFamily("audio_api_tasks", "Tasks that ended, or were put back.", labels=("outcome",))
    for outcome in ("succeeded", "failed", "cancelled"):
        ended.add_metric((outcome,), getattr(stats, outcome))
    ended.add_metric(("dead",), stats.buried)
    ended.add_metric(("deferred",), deferred)
    yield ended


def _histogram(
    name: str, text: str, labels: tuple[str, ...], amounts: Mapping[tuple[str, ...], float], scale: int
) -> HistogramMetricFamily:
    """Buckets hold what is at most as long as their bound, so that each includes those before it."""
    family = HistogramMetricFamily(f"audio_api_{name}", text, labels=labels)
    for values in sorted({key[:-1] for key in amounts}):
        buckets, total = [], 0.0
        for number, bound in enumerate((*map(str, BUCKETS_S), "+Inf")):
            total += amounts.get((*values, str(number)), 0.0) * scale
            buckets.append((bound, total))
        family.add_metric(values, buckets, amounts.get((*values, "sum"), 0.0))
    return family


@router.api_route("/metrics", methods=["GET", "HEAD"], response_class=Response)
async def metrics(request: Request, _: ShownKey) -> Response:
    """Counters and gauges in Prometheus' text format."""
    server: ServerState = request.state.server
    figures = _Figures(server.in_progress, server.pacer.waiting)
    try:
        figures.counts = await server.queue.backend.counts()
        figures.outages = {
            str(model): await server.queue.backend.limits.is_circuit_open(str(model)) for model in MODEL_SPECS
        }
        figures.stats = await server.queue.get_queue_stats()
    except QueueServiceError:
        figures.stats = None
    return Response(generate_latest(figures), media_type=CONTENT_TYPE_LATEST)
