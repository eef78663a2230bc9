"""Spans and metrics by OpenTelemetry's API, with the names of its GenAI conventions v0.1.0; never the text.

Without the extra ``telemetry`` nothing is imported, and nothing happens. The program says where spans and metrics go.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from audio_api.errors import AudioAPIError
from audio_api.models.usage import TokenUsage

_SCOPE = "audio_api"
# Of the conventions: from 10 ms, doubling.
_SECONDS = [0.01 * 2**power for power in range(14)]


@dataclass
class CallReport:
    """What is told of a call to the API.

    Attributes:
        usage: Tokens billed.
        first_sound_s: When its first sound came, in monotonic seconds; ``None``: not as a stream.
    """

    usage: TokenUsage = field(default_factory=TokenUsage)
    first_sound_s: float | None = None

    def heard(self) -> None:
        """Note that sound came."""
        if self.first_sound_s is None:
            self.first_sound_s = time.monotonic()


class _Instruments:
    """What OpenTelemetry's API records with; made once."""

    def __init__(self) -> None:
        from opentelemetry import metrics, propagate, trace  # an optional extra

        self.trace, self.propagate = trace, propagate
        self.tracer = trace.get_tracer(_SCOPE)
        meter = metrics.get_meter(_SCOPE)
        self.duration = meter.create_histogram(
            "gen_ai.client.inference.duration", "s", explicit_bucket_boundaries_advisory=_SECONDS
        )
        self.first_chunk = meter.create_histogram(
            "gen_ai.client.inference.time_to_first_chunk", "s", explicit_bucket_boundaries_advisory=_SECONDS
        )
        self.input_tokens = meter.create_histogram("gen_ai.client.inference.usage.input_tokens", "{token}")
        self.output_tokens = meter.create_histogram("gen_ai.client.inference.usage.output_tokens", "{token}")


@lru_cache(1)
def _instruments() -> _Instruments | None:
    return _Instruments() if find_spec("opentelemetry") else None


@contextmanager
def api_call(model: str, engine: str, *, is_stream: bool) -> Iterator[CallReport]:
    """One call to the API as a span, and in the metrics.

    Args:
        model: The model that is asked for.
        engine: The engine's name.
        is_stream: Whether its sound comes in blocks.

    Yields:
        Where the caller tells what it learns. An ``AudioAPIError`` that ends the block is the call's error.
    """
    report = CallReport()
    if (instruments := _instruments()) is None:
        yield report
        return
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "gcp.gemini" if engine == "gemini" else engine,
        "gen_ai.request.model": model,
        "gen_ai.output.type": "speech",
        "gen_ai.request.stream": is_stream,
    }
    started_s = time.monotonic()
    with instruments.tracer.start_as_current_span(
        f"generate_content {model}",
        kind=instruments.trace.SpanKind.CLIENT,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield report
        except AudioAPIError as error:
            # The text of an error may name what was to be spoken.
            attributes["error.type"] = error.code.value
            span.set_attribute("error.type", error.code.value)
            span.set_status(instruments.trace.StatusCode.ERROR)
            raise
        finally:
            usage = report.usage
            span.set_attributes(
                {
                    "gen_ai.usage.input_tokens": usage.input_tokens,
                    "gen_ai.usage.output_tokens": usage.output_tokens,
                    "gen_ai.usage.audio.output_tokens": usage.audio_tokens,
                }
            )
            instruments.duration.record(time.monotonic() - started_s, attributes)
            instruments.input_tokens.record(usage.input_tokens, attributes)
            instruments.output_tokens.record(usage.output_tokens, attributes)
            if report.first_sound_s is not None:
                span.set_attribute("gen_ai.response.time_to_first_chunk", report.first_sound_s - started_s)
                instruments.first_chunk.record(report.first_sound_s - started_s, attributes)


def traceparent() -> str | None:
    """The current trace, for a task to take along; ``None``: there is none."""
    carrier: dict[str, str] = {}
    if instruments := _instruments():
        instruments.propagate.inject(carrier)
    return carrier.get("traceparent")


@contextmanager
def task_of(parent: str | None, task_id: str) -> Iterator[None]:
    """The work on a task as a span of the trace that asked for it.

    Args:
        parent: As ``traceparent`` gave it; ``None``: the task begins a trace.
        task_id: The task.
    """
    if (instruments := _instruments()) is None:
        yield
        return
    carrier: Mapping[str, str] = {"traceparent": parent} if parent else {}
    with instruments.tracer.start_as_current_span(
        "audio_api task",
        context=instruments.propagate.extract(carrier),
        kind=instruments.trace.SpanKind.CONSUMER,
        attributes={"audio_api.task.id": task_id},
    ):
        yield
