"""Spans and metrics with OpenTelemetry's SDK, as a program sets it up: calls, failures, tasks; never the text."""

from __future__ import annotations

import json
import subprocess
import sys

from project import variables_without

from audio_api.emulator import Emulator, Fault

PROGRAM = """
import asyncio, json, sys
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider([reader]))

from audio_api import AudioConfig, AudioRequest, BatchAudioRequest, QueueService, TTSService, WorkerService

async def main():
    config = AudioConfig(gemini_api_key="any", gemini_base_url=sys.argv[1], retry_min_wait=0, retry_max_wait=0)
    async with TTSService(config) as tts, QueueService(config=config) as queue:
        (await tts.generate_audio(AudioRequest(text="CANARY one, and a bit more to say."))).raise_for_error()
        async for _ in tts.stream_audio(AudioRequest(text="CANARY two, and a bit more to say.")):
            pass
        worker = WorkerService(config, queue, tts)
        await worker.start_worker()
        with trace.get_tracer("program").start_as_current_span("asks"):
            task_id = await queue.enqueue_single_task(AudioRequest(text="CANARY three, and a bit more to say."))
        (await queue.wait_for_result(task_id)).raise_for_error()
        chosen = AudioRequest(text="CANARY four, and a bit more to say.")
        batch = BatchAudioRequest(requests=[AudioRequest(text="CANARY five, and a bit more to say.")])
        with trace.get_tracer("program").start_as_current_span("chooses"):
            await queue.enqueue_single_task(chosen, task_id="chosen")
        (await queue.wait_for_result("chosen")).raise_for_error()
        with trace.get_tracer("program").start_as_current_span("repeats"):
            await queue.enqueue_single_task(chosen, task_id="chosen")
            batch_id = await queue.enqueue_batch_tasks(batch)
        await queue.wait_for_batch(batch_id)
        await worker.stop_worker()

asyncio.run(main())
print(json.dumps([{
    "name": span.name, "kind": span.kind.name, "status": span.status.status_code.name,
    "attributes": dict(span.attributes),
    "trace": span.context.trace_id, "id": span.context.span_id, "parent": span.parent and span.parent.span_id,
    "events": [event.name for event in span.events],
} for span in spans.get_finished_spans()]))
print(reader.get_metrics_data().to_json(indent=None))
"""


def test_calls_and_tasks_are_spans(gemini_emulator: Emulator) -> None:
    """Each call is a span with the conventions' names; a task's spans belong to the trace that asked for it."""
    gemini_emulator.fail_next(Fault.UNAVAILABLE_503)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, gemini_emulator.url],
        env=variables_without("OTEL_", "COVERAGE_"),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = done.stdout.splitlines()
    spans = json.loads(first)
    calls = [span for span in spans if span["name"] == "generate_content gemini-3.8-flash-tts"]
    assert [call["status"] for call in calls] == ["ERROR", *["UNSET"] * 5]
    assert {call["kind"] for call in calls} == {"CLIENT"}
    failed, spoken, streamed, of_task = (call["attributes"] for call in calls[:4])
    assert failed["error.type"] == "unavailable"
    assert spoken["gen_ai.operation.name"] == "generate_content"
    assert spoken["gen_ai.provider.name"] == "gcp.gemini"
    assert spoken["gen_ai.output.type"] == "speech"
    assert spoken["gen_ai.usage.output_tokens"] > 0
    assert not spoken["gen_ai.request.stream"]
    assert streamed["gen_ai.request.stream"]
    assert streamed["gen_ai.response.time_to_first_chunk"] > 0
    assert of_task["gen_ai.usage.audio.output_tokens"] > 0
    of_program = [span for span in spans if span["name"] in {"asks", "chooses", "repeats"}]
    tasks = [span for span in spans if span["name"] == "audio_api task"]
    # A task whose id was chosen is enqueued twice, and belongs to the first trace; a batch takes its trace along, too.
    assert [(task["trace"], task["parent"]) for task in tasks] == [(one["trace"], one["id"]) for one in of_program]
    assert [call["parent"] for call in calls[3:]] == [task["id"] for task in tasks]
    assert [span["events"] for span in spans] == [[]] * len(spans)
    for name in ("duration", "time_to_first_chunk", "usage.input_tokens", "usage.output_tokens"):
        assert f'"gen_ai.client.inference.{name}"' in second
    assert "CANARY" not in done.stdout


def test_nothing_is_imported_without_the_extra(gemini_emulator: Emulator) -> None:
    """Without OpenTelemetry a call is made as ever; with it, the package alone imports nothing of it."""
    code = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'opentelemetry' else find(name, *rest)\n"
        "from audio_api import *\n"
        f"config = AudioConfig(gemini_api_key='any', gemini_base_url={gemini_emulator.url!r})\n"
        "print(say('Hello, you over there.', 'x.wav', config=config).success, 'opentelemetry.trace' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "False"], done.stderr[-2000:]
