"""Other libraries' queues under measurement, each set up so that it keeps as much as it can.

Runs in an interpreter that has some of them. arq and the others want different versions of redis.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from queue_arm import CONCURRENCY, Arm, Note, main

# One process, as arq and saq count seconds: long enough for every job here.
_HEARTBEAT_S = 60


class Arq(Arm):
    """arq; asked every 10 ms instead of every half second, or an idle worker would be late by that."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        connections = import_module("arq.connections")
        self._settings = connections.RedisSettings.from_dsn(url)
        self._create_pool = connections.create_pool
        self._pool: Any = None

    async def enqueue(self, stamp: str) -> None:
        self._pool = self._pool or await self._create_pool(self._settings)
        await self._pool.enqueue_job("job", stamp)

    async def work(self, note: Note) -> None:
        async def job(_context: object, stamp: str) -> None:
            note(stamp)

        module = import_module("arq.worker")
        worker = module.Worker(
            [module.func(job, name="job")],
            redis_settings=self._settings,
            max_jobs=CONCURRENCY,
            poll_delay=0.01,
            handle_signals=False,
        )
        await worker.main()


class Saq(Arm):
    """saq; with retries and a heartbeat, or it would lose the jobs of a dead worker."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._saq: Any = import_module("saq")
        self._queue = self._saq.Queue.from_url(url)

    async def enqueue(self, stamp: str) -> None:
        await self._queue.enqueue("job", stamp=stamp, retries=3, heartbeat=_HEARTBEAT_S)

    async def work(self, note: Note) -> None:
        async def job(_context: object, *, stamp: str) -> None:
            note(stamp)

        await self._saq.Worker(self._queue, [("job", job)], concurrency=CONCURRENCY).start()


class _Taskiq(Arm):
    broker_class = ""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        module: Any = import_module("taskiq_redis")
        broker = getattr(module, self.broker_class)(url)
        self._broker = broker.with_result_backend(module.RedisAsyncResultBackend(url, result_ex_time=86_400))
        self._note: Note = print

        async def job(stamp: str) -> None:
            self._note(stamp)

        self._job = self._broker.register_task(job, task_name="job")
        self._started = False

    async def enqueue(self, stamp: str) -> None:
        if not self._started:
            await self._broker.startup()
            self._started = True
        await self._job.kiq(stamp)

    async def work(self, note: Note) -> None:
        self._note = note
        self._broker.is_worker_process = True
        receiver: Any = import_module("taskiq.api.receiver")
        await receiver.run_receiver_task(self._broker, max_async_tasks=CONCURRENCY, run_startup=True)


class TaskiqList(_Taskiq):
    """taskiq over a list: what a worker has taken is gone with it."""

    broker_class = "ListQueueBroker"


class TaskiqStream(_Taskiq):
    """taskiq over a stream."""

    broker_class = "RedisStreamBroker"


class Streaq(Arm):
    """streaq."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._worker: Any = import_module("streaq").Worker(redis_url=url, concurrency=CONCURRENCY, handle_signals=False)
        self._note: Note = print

        async def job(stamp: str) -> None:
            self._note(stamp)

        self._job = self._worker.task(name="job")(job)
        self._entered = False

    async def _enter(self) -> None:
        if not self._entered:
            await self._worker.__aenter__()
            self._entered = True

    async def enqueue(self, stamp: str) -> None:
        await self._enter()
        await self._job.enqueue(stamp)

    async def enqueue_bulk(self, stamps: Sequence[str]) -> None:
        await self._enter()
        for start in range(0, len(stamps), 1_000):
            await self._worker.enqueue_many([self._job.enqueue(stamp) for stamp in stamps[start : start + 1_000]])

    async def work(self, note: Note) -> None:
        self._note = note
        await self._worker.run_async()


ARMS: dict[str, type[Arm]] = {
    "arq": Arq,
    "saq": Saq,
    "taskiq-list": TaskiqList,
    "taskiq-stream": TaskiqStream,
    "streaq": Streaq,
}
PACKAGES = {
    "arq": "arq",
    "saq": "saq",
    "taskiq-list": "taskiq_redis",
    "taskiq-stream": "taskiq_redis",
    "streaq": "streaq",
}


CANNOT_LOSE = {name: name != "taskiq-list" for name in ARMS}
"""Whether it keeps the jobs of a worker that is killed, set up as it is here."""


def installed() -> list[str]:
    """The names of those that this interpreter has."""
    found = []
    for name, package in PACKAGES.items():
        with suppress(ImportError):
            import_module(package)
            found.append(name)
    return found


if __name__ == "__main__":
    main(ARMS)
