"""A batch whose process is killed at a given step of its life, and the next process that goes on; also a script.

``python batch_kills.py URL FOLDER COUNT`` submits a batch of so many requests, and collects it.
"""

from __future__ import annotations

import asyncio
import json
import os
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

from audio_api import AudioConfig, AudioRequest, TTSService
from audio_api.emulator import Emulator, Fault
from audio_api.emulator.control import ReceivedCall
from audio_api.emulator.speech import synthesize
from audio_api.retry import Clock

NAME = "life"
LIMIT_S = 120.0


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
        uncharged: Tokens that the API billed and the responses do not count.
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


def _at_file(pattern: str, *, within_s: float = 0.0) -> Callable[..., None]:
    """Kill when a file is there, and a random while later."""

    def arm(emulator: Emulator, folder: Path, kill: Callable[[], None], chance: Random) -> None:
        def watch() -> None:
            end_s = time.monotonic() + LIMIT_S
            while not any(folder.glob(pattern)) and time.monotonic() < end_s:
                time.sleep(0.0005)
            time.sleep(chance.uniform(0, within_s))
            kill()

        threading.Thread(target=watch, daemon=True).start()

    return arm


STEPS: dict[str, Callable[..., None]] = {
    "planning": _at_file(f".batches/{NAME}"),
    "journal": _at_file(f".batches/{NAME}/batch.json"),
    "upload": _at_call(lambda call: call.path.startswith("/upload/")),
    "uploaded": _at_call(lambda call: "upload_id" in call.query),
    "before the create": _at_call(lambda call: call.action == "batchGenerateContent", Fault.UNAVAILABLE_503),
    "after the create": _at_call(lambda call: call.action == "batchGenerateContent"),
    "polling": _at_call(lambda call: call.method == "GET" and call.path.startswith("/v1beta/batches/")),
    "downloading": _at_call(lambda call: call.action == "download", Fault.CLOSE_IN_BODY),
    "downloaded": _at_file(f".batches/{NAME}/*.results"),
    "checking": _at_file(f".batches/{NAME}/responses.jsonl", within_s=0.1),
    "publishing": _at_file("*.wav", within_s=0.05),
}
"""Where in its life a batch is killed."""


def live(emulator: Emulator, folder: Path, step: str, *, count: int = 8, chance: Random | None = None) -> Life:
    """Let a batch's process be killed, and the next one end it.

    Args:
        emulator: Fresh.
        folder: Empty; gets the files.
        step: One of ``STEPS``.
        count: Requests.
        chance: Decides how long after the step it dies.
    """
    command = [sys.executable, str(Path(__file__)), emulator.url, str(folder), str(count)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def kill() -> None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)

    STEPS[step](emulator, folder, kill, chance or Random(step))
    _, errors = process.communicate(timeout=LIMIT_S)
    killed = process.returncode == -signal.SIGKILL
    assert killed or process.returncode == 0, errors.decode()[-3_000:]
    emulator.faults = None
    subprocess.run(command, check=True, capture_output=True, timeout=LIMIT_S)
    told = [
        json.loads(line) for line in (folder / ".batches" / NAME / "responses.jsonl").read_bytes().split(b"\n") if line
    ]
    responses = {each["index"]: each["response"] for each in told if "response" in each}
    usage = [each["usage"] for each in responses.values() if "usage" in each]
    charged = sum(each.get("input_tokens", 0) + each.get("output_tokens", 0) for each in usage)
    billed = sum(item.tokens for job in emulator.batches.jobs for item in job.items)
    return Life(
        killed,
        len(emulator.batches.jobs),
        sum(not _is_whole(folder / f"n{number}.wav", number) for number in range(count)),
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


async def _main(url: str, folder: str, count: str) -> None:
    config = AudioConfig(gemini_api_key="any", gemini_base_url=url, output_dir=Path(folder), _env_file=None)
    requests = [AudioRequest(text=text_of(number), output_filename=f"n{number}") for number in range(int(count))]
    async with TTSService(config, clock=quick_clock()) as tts:
        batch = await tts.submit_batch(requests, name=NAME)
        done = await batch.collect()
    assert done.failed == 0, [response.error for response in done.results if response.error]


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
