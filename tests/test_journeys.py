"""How many rooms a request passes: a reader who follows it opens few files."""

from __future__ import annotations

import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from books import MODEL, settings
from kit import CLOCK
from scripted import USAGE, ScriptedEngine, speech

import audio_api
from audio_api.models.audio_request import AudioRequest
from audio_api.services import output_place
from audio_api.services.pacing import PacedEngine, Pacer
from audio_api.services.queue_service import QueueService
from audio_api.services.tts_service import TTSService
from audio_api.services.worker_service import WorkerService

PACKAGE = Path(audio_api.__file__).parent
# Plain data and pure functions are no steps of a journey: a reader who trusts their names need not open them.
STEPS = {path for path in PACKAGE.rglob("*.py") if "async def " in path.read_text("utf-8")}
WARM_UP = AudioRequest(text="The first request of a process imports what the others find.")
SHORT = AudioRequest(text="The bridge was gone, and so was the river.", output_filename="short")


class Tracer:
    """Notes the files of the package that wait or act, in every thread that begins after it."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self._is_on = False

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note from here on, beginning with nothing."""
        self.files.clear()
        self._is_on = True
        try:
            yield
        finally:
            self._is_on = False

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        """Note a call; the body of a module is no step of a journey."""
        if self._is_on and event == "call" and frame.f_code.co_name != "<module>":
            path = Path(frame.f_code.co_filename)
            if path in STEPS:
                self.files.add(str(path.relative_to(PACKAGE)))


@contextmanager
def traced() -> Iterator[Tracer]:
    """A tracer of this thread and of those that begin within."""
    tracer, before = Tracer(), sys.getprofile()
    threading.setprofile(tracer)
    sys.setprofile(tracer)
    try:
        yield tracer
    finally:
        sys.setprofile(before)
        threading.setprofile(None)  # type: ignore[arg-type]  # which it takes, too


async def test_a_short_request_and_a_cache_hit_pass_few_files(tmp_path: Path) -> None:
    """From ``generate_audio`` to the engine and the file: 15 at most; 12 when the piece is kept already."""
    engine = ScriptedEngine(lambda utterance: speech(utterance, usage=USAGE) for _ in range(2))
    with traced() as tracer:
        async with TTSService(
            settings("http://127.0.0.1:1", tmp_path, default_tts_model=MODEL), engine=engine, clock=CLOCK
        ) as tts:
            (await tts.generate_audio(WARM_UP)).raise_for_error()
            with tracer.noting():
                made = (await tts.generate_audio(SHORT)).raise_for_error()
            of_short = sorted(tracer.files)
            with tracer.noting():
                kept = (await tts.generate_audio(SHORT.model_copy(update={"output_filename": "hit"}))).raise_for_error()
            of_hit = sorted(tracer.files)
    assert (made.attempts, kept.attempts, kept.cached_pieces) == (1, 0, 1)
    assert len(of_short) <= 15, of_short
    assert len(of_hit) <= 12, of_hit
    # The threads were seen: the file is written in one of them.
    assert "audio/durable.py" in of_hit


async def test_a_queued_job_passes_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From ``enqueue_single_task`` through a worker, at the pace of its queue, to the result that is waited for."""
    # Once a second a worker looks whether its folder takes files, whichever job comes next.
    monkeypatch.setattr(output_place, "FRESH_S", 60.0)
    config = settings(
        "http://127.0.0.1:1", tmp_path, default_tts_model=MODEL, queue_name=f"trace-{secrets.token_hex(6)}"
    )
    engine = ScriptedEngine(lambda utterance: speech(utterance, usage=USAGE) for _ in range(2))
    with traced() as tracer:
        async with QueueService(config=config) as queue:
            paced = PacedEngine(engine, Pacer(queue.backend.limits, lambda: config))
            async with TTSService(config, engine=paced, clock=CLOCK) as tts:
                worker = WorkerService(config, queue, tts)
                await worker.start_worker()
                assert (await queue.wait_for_result(await queue.enqueue_single_task(WARM_UP), 60)).success
                with tracer.noting():
                    result = await queue.wait_for_result(await queue.enqueue_single_task(SHORT), 60)
                of_job = sorted(tracer.files)
                await worker.stop_worker()
    assert (result.success, result.attempts) == (True, 1)
    assert len(of_job) <= 22, "\n".join(of_job)
