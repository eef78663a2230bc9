"""A server, the systems that are measured on it, and what one round of each shows."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

HERE = Path(__file__).parent
# No queue needs longer for a whole round.
_ANSWER_LIMIT_S = 120.0


@dataclass(frozen=True)
class Figures:
    """What one round of one system shows; jobs are those that waited for the worker."""

    enqueue_per_s: float
    bulk_per_s: float
    jobs_per_s: float
    waits_s: Sequence[float]
    enqueue_trips: float
    run_trips: float
    enqueue_commands: float
    run_commands: float
    job_bytes: float
    idle_commands_per_s: float


@dataclass(frozen=True)
class Snapshot:
    """The server's counters. Commands include those that scripts run; trips are reads from a client's socket."""

    commands: int
    trips: int
    used_bytes: int


@dataclass(frozen=True)
class Sizes:
    """How many jobs are enqueued one by one, how many in bulk, how many waits are timed, and how long the idleness."""

    single: int
    bulk: int
    waits: int
    idle_s: float

    @property
    def waiting(self) -> int:
        """Jobs the worker finds; the producer warms up with one."""
        return 1 + self.single + self.bulk


class Part:
    """A process that plays a part of a system and says what it measured, a line of JSON at a time."""

    def __init__(self, process: asyncio.subprocess.Process, errors: Path) -> None:
        self._process = process
        self._errors = errors

    async def hear(self) -> dict[str, Any]:
        """The next thing it says."""
        assert self._process.stdout
        line = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_LIMIT_S):
                line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a part fell silent:\n{self._errors.read_text()[-2_000:]}")
        values: dict[str, Any] = json.loads(line)
        return values

    async def order(self, how: str, count: int) -> float:
        """Let a producer enqueue; returns the seconds it took."""
        assert self._process.stdin
        self._process.stdin.write(f"{how} {count}\n".encode())
        return float((await self.hear())["took_s"])

    async def kill(self) -> None:
        """End it as ``kill -9`` does."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


class Bench:
    """One server, and the queue that is measured on it.

    Args:
        url: The server, with all rights.
        peers: The interpreters that have other libraries.
        folder: For what the parts complain about.

    Attributes:
        python: The interpreter of each other library that was found.
    """

    def __init__(self, url: str, peers: Sequence[str], folder: Path) -> None:
        self._url = url
        self._peers = peers
        self.python: dict[str, str] = {}
        self._folder = folder
        self._client: Any = Redis.from_url(url)

    async def find_peers(self) -> None:
        """Ask every interpreter which other libraries it has."""
        question = "import queue_peers; print(*queue_peers.installed())"
        for python in self._peers:
            asked = await asyncio.create_subprocess_exec(
                python, "-c", question, cwd=HERE, stdout=asyncio.subprocess.PIPE
            )
            for name in (await asked.communicate())[0].decode().split():
                self.python.setdefault(name, python)

    @asynccontextmanager
    async def part(self, name: str, role: str, jobs: int = 0, **environment: str) -> AsyncIterator[Part]:
        """Start a part; it is killed at the end."""
        program = "queue_peers.py" if name in self.python else "queue_ours.py"
        errors = self._folder / "errors.log"
        with errors.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                self.python.get(name, sys.executable),
                str(HERE / program),
                *(name, role, self._url, str(jobs)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(HERE.parent), **environment},
            )
        part = Part(process, errors)
        try:
            yield part
        finally:
            await part.kill()

    async def empty(self) -> None:
        """Forget everything."""
        await self._client.flushall()

    async def snapshot(self) -> Snapshot:
        """The counters now, this question left out."""
        info = await self._client.info("everything")
        calls = {name: int(value["calls"]) for name, value in info.items() if name.startswith("cmdstat_")}
        calls.pop("cmdstat_info", None)
        return Snapshot(sum(calls.values()), int(info["total_reads_processed"]), int(info["used_memory"]))

    async def measure(self, name: str, sizes: Sizes) -> Figures:
        """One round of one system."""
        await self.empty()
        async with AsyncExitStack() as parts:
            producer = await parts.enter_async_context(self.part(name, "produce"))
            await producer.hear()
            before = await self.snapshot()
            single_s = await producer.order("one", sizes.single)
            between = await self.snapshot()
            bulk_s = await producer.order("bulk", sizes.bulk)
            queued = await self.snapshot()
            worker = await parts.enter_async_context(self.part(name, "work", sizes.waiting))
            drain_s = (await worker.hear())["drain_s"]
            drained = await self.snapshot()
            await asyncio.sleep(1)  # what follows a job is not idleness
            quiet = await self.snapshot()
            await asyncio.sleep(sizes.idle_s)
            idle = await self.snapshot()
            waits_s = []
            for _ in range(sizes.waits):
                await producer.order("one", 1)
                waits_s.append((await worker.hear())["latency_s"])
        return Figures(
            enqueue_per_s=sizes.single / single_s,
            bulk_per_s=sizes.bulk / bulk_s,
            jobs_per_s=sizes.waiting / drain_s,
            waits_s=waits_s,
            enqueue_trips=(between.trips - before.trips) / sizes.single,
            run_trips=(drained.trips - queued.trips) / sizes.waiting,
            enqueue_commands=(between.commands - before.commands) / sizes.single,
            run_commands=(drained.commands - queued.commands) / sizes.waiting,
            job_bytes=(queued.used_bytes - between.used_bytes) / sizes.bulk,
            idle_commands_per_s=(idle.commands - quiet.commands) / sizes.idle_s,
        )

    async def redelivery_s(self, lease_s: float, jobs: int = 10) -> float:
        """Seconds from a worker's violent end until another one has done all of its jobs."""
        await self.empty()
        setting = {"LEASE_TIME": str(lease_s)}
        async with AsyncExitStack() as parts:
            producer = await parts.enter_async_context(self.part("service", "produce"))
            await producer.hear()
            await producer.order("bulk", jobs - 1)
            first = await parts.enter_async_context(self.part("service", "hold", **setting))
            for _ in range(jobs):
                await first.hear()
            # It does them: what was lost with a worker is begun one after the other.
            second = await parts.enter_async_context(self.part("service", "work", jobs, **setting))
            await asyncio.sleep(lease_s / 2)  # so that it is renewed at least once, and the second waits
            await first.kill()
            clock = asyncio.get_running_loop().time
            begin = clock()
            await second.hear()
            return clock() - begin

    async def in_memory_per_s(self, name: str, jobs: int) -> float:
        """Jobs per second when queue, producer and worker are one process."""
        async with self.part(name, "alone", jobs) as process:
            return jobs / float((await process.hear())["drain_s"])

    async def close(self) -> None:
        """Let the server go."""
        await self._client.aclose()
