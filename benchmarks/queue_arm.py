"""One queue system under measurement, in a process of its own: a producer that obeys, or a worker that reports.

Needs nothing but the standard library, so that every system can run in an environment of its own. A job carries a
stamp, the Unix time at which it was enqueued; to do the job is to note the stamp.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

CONCURRENCY = 100

Note = Callable[[str], None]


class Arm(ABC):
    """A queue system.

    Args:
        url: The Redis.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    async def enqueue(self, stamp: str) -> None:
        """Enqueue one job; it is stored when this returns."""

    async def enqueue_bulk(self, stamps: Sequence[str]) -> None:
        """Enqueue many in the fastest way the system offers; this way, when it offers none."""
        for start in range(0, len(stamps), CONCURRENCY):
            await asyncio.gather(*map(self.enqueue, stamps[start : start + CONCURRENCY]))

    @abstractmethod
    async def work(self, note: Note) -> None:
        """Do jobs for ever, ``CONCURRENCY`` at a time; each is done by calling ``note`` with its stamp."""

    async def hold(self, note: Note) -> None:
        """Note jobs as they begin, and never finish them."""
        raise NotImplementedError


def _say(**values: object) -> None:
    print(json.dumps(values), flush=True)


class _Reporter:
    """Tells when all of the waiting jobs were done, and of each later one how long it waited."""

    def __init__(self, jobs: int) -> None:
        self.left = jobs
        self._began = 0.0

    def note(self, stamp: str) -> None:
        self.left -= 1
        now = time.time()
        if self.left < 0:
            _say(latency_s=now - float(stamp))
            return
        self._began = self._began or now
        if self.left == 0:
            _say(drain_s=now - self._began)


async def _produce(arm: Arm) -> None:
    """Obey the lines of the standard input, ``one N`` and ``bulk N``, and answer with the seconds it took."""
    await arm.enqueue(str(time.time()))
    _say(ready=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        how, count = line.split()
        begin = time.perf_counter()
        if how == "bulk":
            await arm.enqueue_bulk([str(time.time())] * int(count))
        else:
            for _ in range(int(count)):
                await arm.enqueue(str(time.time()))
        _say(took_s=time.perf_counter() - begin)


async def _be_alone(arm: Arm, jobs: int) -> None:
    """Enqueue and do all jobs in this very process."""
    await arm.enqueue_bulk([str(time.time())] * jobs)
    done = asyncio.Event()
    reporter = _Reporter(jobs)

    def note(stamp: str) -> None:
        reporter.note(stamp)
        if reporter.left == 0:
            done.set()

    working = asyncio.create_task(arm.work(note))
    await done.wait()
    working.cancel()


def main(arms: Mapping[str, type[Arm]]) -> None:
    """Play the part that the command line names: ARM, ROLE (produce, work, hold, alone), URL, jobs that wait."""
    name, role, url, jobs = sys.argv[1:]
    asyncio.run(_play(arms[name], role, url, int(jobs)))


async def _play(make: type[Arm], role: str, url: str, jobs: int) -> None:
    arm = make(url)
    match role:
        case "produce":
            await _produce(arm)
        case "work":
            await arm.work(_Reporter(jobs).note)
        case "alone":
            await _be_alone(arm, jobs)
        case "hold":
            await arm.hold(lambda stamp: _say(stamp=stamp))
