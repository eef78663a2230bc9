"""The stage of every chaos run: worker processes that can be told apart, and a judge who never asks the library.

The judge asks Redis for every job, the emulator for every call, and reads every file again.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
import wave
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests"))
from redis_server import RedisServer  # noqa: E402 - servers and sites are shared with the tests
from worker_parts import READY, Site  # noqa: E402

from audio_api.config import AudioConfig  # noqa: E402
from audio_api.emulator import Emulator, ReceivedCall  # noqa: E402
from audio_api.emulator.speech import synthesize  # noqa: E402
from audio_api.models.audio_request import AudioRequest  # noqa: E402
from audio_api.services.queue_service import QueueService  # noqa: E402

LEASE_S = 2.0
_SIZES = {name: int(AudioConfig.model_fields[name].default) for name in ("num_workers", "worker_concurrency")}
SLOTS = prod(_SIZES.values())
_LIMIT_S = 300.0
_BULK = 500
# A busy machine is slow to begin; what is measured begins when all are there.
_LOOK_S = 0.05
_LISTEN_S = 0.2


@dataclass(frozen=True)
class Figure:
    """A row of the table.

    Attributes:
        what: What was counted or measured.
        value: What came out.
        limit: The goal; ``None``: there is none.
        least: Whether the goal is the least that is good rather than the most.
    """

    what: str
    value: float
    limit: float | None = None
    least: bool = False

    @property
    def met(self) -> bool:
        """Whether the goal is met."""
        return self.limit is None or (self.value >= self.limit if self.least else self.value <= self.limit)


@dataclass(frozen=True)
class Limits:
    """How much smaller than in full a run is to be.

    Attributes:
        most_jobs: In one scenario.
        most_s: How long an outage or a freeze lasts, in seconds.
        most_times: How often a server is restarted or its connections are cut.
    """

    most_jobs: float
    most_s: float
    most_times: float

    def jobs(self, full: int) -> int:
        """How many jobs to run."""
        return int(min(full, self.most_jobs))

    def seconds(self, full: float) -> float:
        """How long a fault lasts."""
        return min(full, self.most_s)

    def times(self, full: int) -> int:
        """How often a fault comes."""
        return int(min(full, self.most_times))


def sound_of(text: str, _voice: str, _language: str) -> bytes:
    """What the API answers, and every file must therefore hold."""
    return synthesize(text, "any", "any")


def identity(path: Path) -> tuple[int, int, int] | None:
    """What changes whenever a file is written or replaced; ``None``: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def holds(path: Path, text: str) -> bool:
    """Whether the file is a whole recording of this text."""
    try:
        with wave.open(str(path)) as file:
            return file.readframes(file.getnframes()) == sound_of(text, "", "")
    except (OSError, EOFError, wave.Error):
        return False


class Witness:
    """Notes every result at the moment it becomes visible, and how often it is announced."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.announced: Counter[str] = Counter()
        self._first: dict[str, tuple[bytes, Path, object]] = {}

    async def listen(self, subscription: Any, over: asyncio.Event) -> None:
        """Note, until it is over and nothing is left to hear."""
        # Not listen(): a cancellation that comes while redis-py connects again would be lost.
        while (message := await subscription.get_message(timeout=_LISTEN_S)) or not over.is_set():
            if not message or message["type"] != "message":
                continue
            kind, _, job_id = message["data"].decode().partition(" ")
            if kind == "job":
                self.announced[job_id] += 1
                if (result := await self._stage.field(job_id, "result")) is None:
                    continue  # it was buried
                response = json.loads(result)["response"]
                path = Path(response.get("file_path") or response["url"])
                self._first.setdefault(job_id, (result, path, identity(path)))

    async def changes(self) -> tuple[int, int]:
        """How many results, and how many of their files, are no longer what was first seen."""
        results = [await self._stage.field(job_id, "result") != seen[0] for job_id, seen in self._first.items()]
        return sum(results), sum(identity(path) != seen for _, path, seen in self._first.values())


@dataclass
class Verdict:
    """What became of the jobs, as Redis and the files have it.

    Attributes:
        states: How many jobs are in each state; ``lost`` are those that Redis does not know.
        bad_files: Succeeded jobs whose file does not hold their text, or is another job's too.
        strays: Recordings that are no job's.
        finished_at: When each job ended, in Unix seconds.
        deliveries: How often each job was handed out.
    """

    states: Counter[str]
    bad_files: int
    strays: int
    finished_at: dict[str, float]
    deliveries: dict[str, int]


class Stage:
    """One queue with its server, its API and its worker processes.

    Args:
        folder: Where files and logs go.
        server: The Redis server, at work.
        emulator: The API.
        chance: Who chooses the victims.
        limits: How much smaller than in full the run is.
        options: Further arguments of ``chaos_worker.py``.
        settings: Further settings of the workers.
    """

    def __init__(
        self,
        folder: Path,
        server: RedisServer,
        emulator: Emulator,
        chance: random.Random,
        limits: Limits,
        *options: str,
        **settings: object,
    ) -> None:
        self.server, self.emulator, self.chance, self.limits = server, emulator, chance, limits
        # By host name: a look-up that fails, or waits, is one more way to lose the server.
        url = server.url.replace("127.0.0.1", "localhost")
        self.site = Site(folder, url, emulator, **{**_SIZES, "lease_time": LEASE_S, **settings})
        self._options = options
        self.key = f"audio_api:{{{self.site.config.queue_name}}}"
        self.texts: dict[str, str] = {}
        self.struck: dict[str, float] = {}
        self._client: Any = Redis.from_url(server.admin_url)

    async def close(self) -> None:
        """End all processes."""
        self.site.stop(signal.SIGKILL)
        await self._client.aclose()

    def start(self, count: int = 1) -> None:
        """Start worker processes."""
        for _ in range(count):
            number = str(len(self.site.processes))
            self.site.start(1, [str(HERE / "chaos_worker.py"), number, *self._options])

    def ready(self) -> list[int]:
        """The numbers of the processes that take tasks, without those that were told to end."""
        return [
            number
            for number, process in enumerate(self.site.processes)
            if process.poll() is None
            and str(number) not in self.struck
            and READY in (self.site.folder / f"worker-{number}.log").read_text()
        ]

    async def all_ready(self, count: int) -> None:
        """Wait until so many processes take tasks."""
        await self.until(lambda: len(self.ready()) >= count)

    @staticmethod
    async def until(condition: Callable[[], bool], limit_s: float = _LIMIT_S) -> None:
        """Wait for something in another process; in vain, too, so that the figures tell."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while not condition():  # noqa: ASYNC110 - nothing out there could set an event
                    await asyncio.sleep(_LOOK_S)

    async def enqueue(self, count: int, stem: str = "Job") -> list[str]:
        """Hand over so many requests; every other one names its file."""
        requests = [self.request(stem, number) for number in range(count)]
        ids: list[str] = []
        async with QueueService(config=self.site.config) as queue:
            for start in range(0, count, _BULK):
                ids += await queue.enqueue_many(requests[start : start + _BULK])
        self.texts.update(zip(ids, (request.text for request in requests), strict=True))
        return ids

    @staticmethod
    def request(stem: str, number: int) -> AudioRequest:
        """A request whose text is its own."""
        name = f"{stem}-{number}" if number % 2 else None
        return AudioRequest(text=f"{stem} number {number}.", output_filename=name)

    async def field(self, job_id: str, name: str) -> Any:
        """A field of a job, as Redis has it."""
        return await self._client.hget(f"{self.key}:job:{job_id}", name)

    async def counts(self) -> dict[str, int]:
        """How often each final state was reached since the queue exists."""
        return {key.decode(): int(value) for key, value in (await self._client.hgetall(f"{self.key}:meta")).items()}

    async def batch(self, batch_id: str) -> dict[str, int]:
        """A batch's counters."""
        found = await self._client.hgetall(f"{self.key}:batch:{batch_id}")
        return {key.decode(): int(value) for key, value in found.items()}

    async def add_foreign_name(self, name: str | bytes) -> None:
        """Put a name in line that is no job."""
        number = await self._client.hincrby(f"{self.key}:meta", "number", 1)
        await self._client.zadd(f"{self.key}:wait", {name: number})

    async def dead_letters(self) -> dict[str, str]:
        """The reason of every dead letter."""
        ids = [each.decode() for each in await self._client.zrange(f"{self.key}:dead", 0, -1)]
        return {job_id: ((await self.field(job_id, "reason")) or b"").decode(errors="replace") for job_id in ids}

    async def ended(self) -> int:
        """How many jobs are in a final state."""
        counts = await self.counts()
        return sum(counts.get(state, 0) for state in ("succeeded", "failed", "cancelled", "dead"))

    async def all_ended(self, more: int = 0, limit_s: float = _LIMIT_S) -> None:
        """Wait for all jobs, and so many others; in vain, too, so that the figures tell."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while await self.ended() < len(self.texts) + more:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(_LOOK_S)

    @asynccontextmanager
    async def witness(self) -> AsyncIterator[Witness]:
        """A reader that sees every result that becomes visible within."""
        witness = Witness(self)
        async with self._client.pubsub() as subscription:
            await subscription.subscribe(f"{self.key}:done")
            over = asyncio.Event()
            listening = asyncio.create_task(witness.listen(subscription, over))
            try:
                yield witness
            finally:
                over.set()
                await listening

    async def strike(self, how: signal.Signals, every_s: float, among: int) -> int:
        """Send the signal to one of so many processes and start another, again and again until all jobs have ended.

        On a machine that needs longer than the interval to start a process, the next strike waits for it. Or else
        there would be one process left, which is always the victim.
        """
        ending = asyncio.create_task(self.all_ended())
        strikes = 0
        while not (await asyncio.wait([ending], timeout=every_s))[0]:
            await self.until(lambda: ending.done() or len(self.ready()) >= among)
            if ending.done() or not (ready := self.ready()):
                continue
            victim = self.chance.choice(ready)
            self.site.processes[victim].send_signal(how)
            self.struck[str(victim)] = time.monotonic()
            strikes += 1
            self.start()
        return strikes

    def calls(self) -> list[ReceivedCall]:
        """The calls that asked for speech."""
        return [call for call in self.emulator.calls if call.text]

    def calls_again(self) -> int:
        """How many calls were more than one for each text."""
        return len(self.calls()) - len({call.text for call in self.calls()})

    def redeliveries_s(self) -> Iterator[float]:
        """Seconds from the end of a process to the second call for what it was at."""
        by_text: dict[str, list[ReceivedCall]] = defaultdict(list)
        for call in self.calls():
            by_text[call.text].append(call)
        for calls in by_text.values():
            for before, after in pairwise(calls):
                worker = before.headers["x-goog-api-key"]
                if worker in self.struck and after.headers["x-goog-api-key"] != worker:
                    yield after.time_s - self.struck[worker]

    async def verdict(self) -> Verdict:
        """Ask Redis for every job, and read every file."""
        states: Counter[str] = Counter()
        files: Counter[Path] = Counter()
        bad = 0
        finished_at, deliveries = {}, {}
        for job_id, text in self.texts.items():
            job = await self._client.hgetall(f"{self.key}:job:{job_id}")
            state = job.get(b"state", b"lost").decode()
            states[state] += 1
            deliveries[job_id] = int(job.get(b"deliveries", 0))
            if finished := job.get(b"finished"):
                finished_at[job_id] = int(finished) / 1000
            if state == "succeeded":
                path = Path(json.loads(job[b"result"])["response"]["file_path"])
                files[path] += 1
                bad += not holds(path, text)
        bad += sum(count - 1 for count in files.values())
        strays = set(self.site.config.output_dir.glob("*.wav")) - files.keys()
        return Verdict(states, bad, len(strays), finished_at, deliveries)

    async def basic_figures(self, verdict: Verdict, succeed: int | None = None) -> list[Figure]:
        """What must hold whatever happened: nothing lost, nothing failed, each result once, each file whole."""
        succeed = len(self.texts) if succeed is None else succeed
        counts = await self.counts()
        twice = sum(counts.get(state, 0) for state in ("succeeded", "failed", "dead")) - len(verdict.finished_at)
        return [
            Figure("jobs", len(self.texts)),
            Figure("not done in the end", succeed - verdict.states["succeeded"], 0),
            Figure("recorded as failed", verdict.states["failed"], 0),
            Figure("results that became visible twice", abs(twice), 0),
            Figure("files that are missing, wrong, shared or without a job", verdict.bad_files + verdict.strays, 0),
        ]


Scenario = Callable[[Stage], Awaitable[list[Figure]]]


def seconds_since(moments: list[float], finished_at: dict[str, float]) -> float:
    """The longest time from one of these moments to the next result."""
    ends = sorted(finished_at.values())
    return max((min((end for end in ends if end > moment), default=moment) - moment for moment in moments), default=0)


def new_folder(parent: Path, name: str) -> Path:
    """A folder for one scenario."""
    folder = parent / f"{name}-{os.urandom(3).hex()}"
    folder.mkdir()
    return folder
