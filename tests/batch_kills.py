"""A batch whose process is killed at a given step of its life, and the next process that goes on; also a script.

``python batch_kills.py URL FOLDER COUNT`` submits a batch of so many requests, and collects it.
With ``REDIS_URL QUEUE`` after these it is a worker of that queue, until the tasks of the batch there are done.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from uuid import uuid4

from audio_api import (
    AudioConfig,
    AudioRequest,
    AudioResponse,
    BatchAudioRequest,
    BatchAudioResponse,
    QueueService,
    TTSService,
    WorkerService,
)
from audio_api.emulator import Emulator, Fault
from audio_api.emulator.control import ReceivedCall
from audio_api.emulator.speech import synthesize
from audio_api.retry import Clock
from audio_api.services import batch_jobs, job_run, task_batch

NAME = "life"
STOPPED = "standing still before the create"
"""Here a process is not killed: it stands still until that of another machine has done its work, and then goes on."""
LIMIT_S = 600.0


def text_of(number: int) -> str:
    """What a request asks for."""
    return f"Request number {number} of a batch that is to survive whatever happens to it."


@dataclass(frozen=True)
class Life:
    """What came of a batch.

    Attributes:
        killed: Whether the first process was killed before it had finished.
        jobs: How many jobs the API has.
        lost: Requests without the file of their whole text.
        ordinary: Calls at the full price.
        overcharged: Tokens that the responses count and the API did not bill.
        uncharged: Tokens that the API billed and the responses do not count, unless they say that the cost is unknown.
    """

    killed: bool
    jobs: int
    lost: int
    ordinary: int
    overcharged: int
    uncharged: int

    @property
    def is_good(self) -> bool:
        """Whether nothing was created twice, lost, or billed otherwise than by the API."""
        return (self.jobs, self.lost, self.ordinary, self.overcharged, self.uncharged) == (1, 0, 0, 0, 0)


def _at_call(is_it: Callable[[ReceivedCall], bool], fault: Fault = Fault.NONE) -> Callable[..., None]:
    """Kill when the API has got a call, and let that end with a fault."""

    def arm(emulator: Emulator, folder: Path, kill: Callable[[], None], chance: Random) -> None:
        def strike(call: ReceivedCall) -> Fault | None:
            if not is_it(call):
                return None
            emulator.faults = None
            kill()
            return fault

        emulator.faults = strike

    return arm


def _at_file(*patterns: str, within_s: float = 0.0, content: bytes = b"") -> Callable[..., None]:
    """Kill when such a file is there and has such a content, and a random while later."""
    wanted = re.compile(content)

    def arm(emulator: Emulator, folder: Path, kill: Callable[[], None], chance: Random) -> None:
        def watch() -> None:
            end_s = time.monotonic() + LIMIT_S
            while time.monotonic() < end_s and not any(
                wanted.search(found.read_bytes() if content else b"")
                for pattern in patterns
                for found in folder.glob(pattern)
            ):
                time.sleep(0.0005)
            time.sleep(chance.uniform(0, within_s))
            kill()

        threading.Thread(target=watch, daemon=True).start()

    return arm


STEPS: dict[str, Callable[..., None]] = {
    "planning": _at_file(f".batches/{NAME}", ".batches/.tasks/*"),
    "journal": _at_file(f".batches/{NAME}/batch.json", ".batches/.tasks/*/batch.json"),
    "upload": _at_call(lambda call: call.path.startswith("/upload/")),
    "uploaded": _at_call(lambda call: "upload_id" in call.query),
    "before the create": _at_call(lambda call: call.action == "batchGenerateContent", Fault.UNAVAILABLE_503),
    STOPPED: _at_file(f".batches/{NAME}/batch.json", ".batches/.tasks/*/batch.json", content=rb'"asked_at": ?[1-9]'),
    "after the create": _at_call(lambda call: call.action == "batchGenerateContent"),
    "polling": _at_call(lambda call: call.method == "GET" and call.path.startswith("/v1beta/batches/")),
    "downloading": _at_call(lambda call: call.action == "download", Fault.CLOSE_IN_BODY),
    "downloaded": _at_file(f".batches/{NAME}/*.results", ".batches/.tasks/*/*.results"),
    "checking": _at_file(f".batches/{NAME}/responses.jsonl", ".batches/.tasks/*/*.results", within_s=0.1),
    "publishing": _at_file("*.wav", within_s=0.05),
}
"""Where in its life a batch is killed."""


def live(
    emulator: Emulator,
    folder: Path,
    step: str,
    *,
    count: int = 8,
    chance: Random | None = None,
    redis_url: str | None = None,
) -> Life:
    """Let a batch's process be killed, and the next one end it.

    Args:
        emulator: Fresh.
        folder: Empty; gets the files.
        step: One of ``STEPS``.
        count: Requests.
        chance: Decides how long after the step it dies.
        redis_url: Where the requests are queued as tasks, which the next worker ends on another machine; ``None``: they
            are submitted by the process itself.
    """
    command = [sys.executable, str(Path(__file__)), emulator.url, str(folder), str(count)]
    folders = [folder]
    if redis_url:
        queue = f"life-{uuid4().hex}"
        command += [redis_url, queue]
        folders.append(folder / "there")
        asyncio.run(_enqueue(emulator.url, folder, count, redis_url, queue))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def kill() -> None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGSTOP if step == STOPPED else signal.SIGKILL)

    STEPS[step](emulator, folder, kill, chance or Random(step))
    if step == STOPPED:
        while process.poll() is None and ") T " not in Path(f"/proc/{process.pid}/stat").read_text():
            time.sleep(0.01)
        # On the same machine the other one would be told to wait.
        if redis_url:
            subprocess.run([*command[:3], str(folders[-1]), *command[4:]], check=True, capture_output=True)
        process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=LIMIT_S)
    killed = process.returncode == -signal.SIGKILL
    assert killed or process.returncode == 0, errors.decode()[-3_000:]
    emulator.faults = None
    command[3] = str(folders[-1])
    subprocess.run(command, check=True, capture_output=True, timeout=LIMIT_S)
    if redis_url:
        responses = dict(enumerate(asyncio.run(_done(emulator.url, folder, redis_url, queue)).results))
    else:
        lines = (folder / ".batches" / NAME / "responses.jsonl").read_bytes().split(b"\n")
        told = [json.loads(line) for line in lines if line]
        responses = {
            each["index"]: AudioResponse.model_validate(each["response"]) for each in told if "response" in each
        }
    sure = {number: each.usage for number, each in responses.items() if "cost is unknown" not in str(each.warnings)}
    charged = sum(usage.input_tokens + usage.output_tokens for usage in sure.values())
    texts = {text_of(number) for number in sure}
    billed = sum(item.tokens for job in emulator.batches.jobs for item in job.items if item.text in texts)
    return Life(
        killed,
        len(emulator.batches.jobs),
        sum(not any(_is_whole(place / f"n{number}.wav", number) for place in folders) for number in range(count)),
        sum(call.action == "generateContent" for call in emulator.calls),
        max(0, charged - billed),
        max(0, billed - charged),
    )


def _is_whole(path: Path, number: int) -> bool:
    try:
        with wave.open(str(path)) as file:
            return bytes(file.readframes(file.getnframes())) == synthesize(text_of(number), "kore", "en-US")
    except (OSError, EOFError, wave.Error):
        return False


def quick_clock() -> Clock:
    """Waits are short, and the time goes on as if they were not."""
    waited = timedelta()

    async def sleep(seconds: float) -> None:
        nonlocal waited
        waited += timedelta(seconds=seconds)
        await asyncio.sleep(min(seconds, 0.02))

    return Clock(sleep=sleep, now=lambda: datetime.now(UTC) + waited)


def _settings(url: str, folder: Path, **queue: object) -> AudioConfig:
    where = {"gemini_api_key": "any", "gemini_base_url": url, "output_dir": folder}
    return AudioConfig(**where, **queue, lease_time=2.0, _env_file=None)  # type: ignore[arg-type]


def _requests(count: int) -> tuple[AudioRequest, ...]:
    return tuple(AudioRequest(text=text_of(number), output_filename=f"n{number}") for number in range(count))


async def _enqueue(url: str, folder: Path, count: int, redis_url: str, queue_name: str) -> None:
    config = _settings(url, folder, use_redis=True, redis_url=redis_url, queue_name=queue_name)
    async with QueueService(config=config) as queue:
        batch = BatchAudioRequest(requests=_requests(count), batch_id=NAME)
        await queue.enqueue_batch_tasks(batch, tier="batch")


async def _done(url: str, folder: Path, redis_url: str, queue_name: str) -> BatchAudioResponse:
    config = _settings(url, folder, use_redis=True, redis_url=redis_url, queue_name=queue_name)
    async with QueueService(config=config) as queue:
        return await queue.wait_for_batch(NAME, timeout=LIMIT_S)


async def _main(url: str, folder: str, count: str, redis_url: str = "", queue_name: str = "") -> None:
    if redis_url:
        # Real time passes here; a kill is to cost a second or two.
        task_batch._LEAST_WAIT_S = task_batch._MOST_WAIT_S = job_run._LOOK_AGAIN_S = 0.1
        batch_jobs._SETTLE_S, batch_jobs._SEND_S = 2.0, 1.0
        config = _settings(url, Path(folder), use_redis=True, redis_url=redis_url, queue_name=queue_name)
        worker = WorkerService(config)
        await worker.start_worker()
        done = await _done(url, Path(folder), redis_url, queue_name)
        await worker.stop_worker()
    else:
        async with TTSService(_settings(url, Path(folder)), clock=quick_clock()) as tts:
            batch = await tts.submit_batch(_requests(int(count)), name=NAME)
            done = await batch.collect()
    assert done.failed == 0, [response.error for response in done.results if response.error]


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
