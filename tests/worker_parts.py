"""Real worker processes against a real Redis and the emulator: started, killed, frozen and counted."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from forked_programs import ForkedProgram
from own_time import PATIENCE_S

from audio_api.config import AudioConfig
from audio_api.emulator import Emulator
from audio_api.models.audio_request import AudioRequest
from audio_api.services.job_codec import TaskResult
from audio_api.services.queue_service import QueueService

WORKER = ("-m", "audio_api", "worker")
READY = "worker begins"


class Site:
    """One queue with its emulator, its output folder and its worker processes.

    Args:
        folder: Where the files go.
        redis_url: The Redis.
        emulator: The API.
        settings: Further settings of the workers, by field name.
    """

    def __init__(self, folder: Path, redis_url: str, emulator: Emulator, **settings: object) -> None:
        self.folder = folder
        self.emulator = emulator
        values = {
            "gemini_api_key": "any",
            "gemini_base_url": emulator.url,
            "use_redis": True,
            "redis_url": redis_url,
            "queue_name": f"site-{os.urandom(6).hex()}",
            "output_dir": folder / "out",
            "cache_max_bytes": 0,
            "num_workers": 1,
            "worker_concurrency": 2,
            "worker_grace": PATIENCE_S,
            "retry_min_wait": 0.1,
            "retry_max_wait": 1,
            **settings,
        }
        self.config = AudioConfig(**values)
        self.environment = {name.upper(): str(value) for name, value in values.items()}
        self.processes: list[ForkedProgram] = []

    def start(self, count: int = 1, program: Sequence[str] = WORKER) -> list[ForkedProgram]:
        """Start worker processes; they log into a file each."""
        started = []
        for _ in range(count):
            log = self.folder / f"worker-{len(self.processes)}.log"
            # Empty before it writes: tests read the logs of all that were started.
            log.touch()
            started.append(ForkedProgram(program, self.folder, {**os.environ, **self.environment}, log))
            self.processes.append(started[-1])
        return started

    def logs(self) -> str:
        """What all of them logged."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("worker-*.log")))

    def stop(self, how: signal.Signals = signal.SIGTERM) -> list[int]:
        """End all that still run, and return their exit codes."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(how)
        return [process.wait(PATIENCE_S) for process in self.processes]

    def texts(self) -> Counter[str]:
        """How often each text was spoken."""
        return Counter(call.text for call in self.emulator.calls if call.text and call.status == 200)

    async def enqueue(self, count: int, stem: str = "Sentence") -> list[str]:
        """Hand over so many different requests, each with a file name of its own."""
        requests = [
            AudioRequest(text=f"{stem} number {number} of many.", output_filename=f"{stem}-{number}")
            for number in range(count)
        ]
        async with QueueService(config=self.config) as queue:
            return await queue.enqueue_many(requests)

    async def results(self, ids: list[str], limit_s: float = 3 * PATIENCE_S) -> list[TaskResult]:
        """Wait for all of them."""
        async with QueueService(config=self.config) as queue, asyncio.timeout(limit_s):
            return await asyncio.gather(*(queue.wait_for_result(task_id) for task_id in ids))


@contextmanager
def site(folder: Path, redis_url: str, emulator: Emulator, **settings: object) -> Iterator[Site]:
    """A site whose processes are gone at the end."""
    made = Site(folder, redis_url, emulator, **settings)
    try:
        yield made
    finally:
        made.stop(signal.SIGKILL)
