"""What is done to workers, to the server and to the API, one function for each scenario."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from chaos_stage import LEASE_S, SLOTS, Figure, Stage, seconds_since
from own_time import until
from redis_server import free_port

from audio_api.emulator import Fault, ReceivedCall
from audio_api.errors import QueueUnavailableError
from audio_api.models.audio_request import BatchAudioRequest
from audio_api.queues.jobs import Job
from audio_api.services.queue_service import QueueService

EVERY_S = 1.5
PROCESSES = 3
QUOTA, WINDOW_S = 10, 5.0


async def kill(stage: Stage) -> list[Figure]:
    """``kill -9`` of a random worker process every 1.5 s."""
    stage.emulator.latency_s = 0.1
    await stage.enqueue(stage.limits.jobs(2_000))
    async with stage.witness() as witness:
        stage.start(PROCESSES)
        kills = await stage.strike(signal.SIGKILL, EVERY_S, PROCESSES)
    verdict = await stage.verdict()
    hits = Counter(verdict.deliveries.values())
    return [
        *await stage.basic_figures(verdict),
        Figure("kills", kills),
        Figure("jobs delivered twice", hits[2]),
        Figure("jobs delivered three times (a third hit is the last)", hits[3]),
        Figure("announced more than once", sum(count > 1 for count in witness.announced.values()), 0),
        Figure("calls again (kills × slots are allowed)", stage.calls_again(), kills * SLOTS),
        Figure("longest time to the call again, s", max(stage.redeliveries_s(), default=0), LEASE_S + 1),
    ]


async def stop(stage: Stage) -> list[Figure]:
    """SIGTERM to a random worker process every 1.5 s."""
    stage.emulator.latency_s = 0.2
    await stage.enqueue(stage.limits.jobs(2_000))
    stage.start(PROCESSES)
    stops = await stage.strike(signal.SIGTERM, EVERY_S, PROCESSES)
    # A second signal is another story.
    await stage.until(lambda: all(stage.site.processes[int(number)].poll() is not None for number in stage.struck))
    codes = stage.site.stop()
    return [
        *await stage.basic_figures(await stage.verdict()),
        Figure("stops", stops),
        Figure("calls again", stage.calls_again(), 0),
        Figure("processes that did not end with 0", sum(codes[int(number)] != 0 for number in stage.struck), 0),
    ]


async def freeze(stage: Stage) -> list[Figure]:
    """SIGSTOP of a random worker process for longer than a lease, again and again."""
    stage.emulator.latency_s = 1.0
    await stage.enqueue(stage.limits.jobs(500))
    freezes = 0
    async with stage.witness() as witness:
        stage.start(PROCESSES)
        ending = asyncio.create_task(stage.all_ended())
        while not (await asyncio.wait([ending], timeout=0.7))[0]:
            if ready := stage.ready():
                victim = stage.site.processes[stage.chance.choice(ready)]
                victim.send_signal(signal.SIGSTOP)
                await asyncio.sleep(2 * LEASE_S)
                victim.send_signal(signal.SIGCONT)
                freezes += 1
        # A worker that slept may still want to write.
        stage.site.stop()
        results, files = await witness.changes()
    return [
        *await stage.basic_figures(await stage.verdict()),
        Figure("freezes", freezes),
        Figure("calls again (freezes × slots are allowed)", stage.calls_again(), freezes * SLOTS),
        Figure("announced more than once", sum(count > 1 for count in witness.announced.values()), 0),
        Figure("results that changed once they were visible", results, 0),
        Figure("files that changed once they were visible", files, 0),
    ]


class Load:
    """A producer that hands over a job every now and then, and tries again what was refused."""

    def __init__(self, stage: Stage, every_s: float = 0.04) -> None:
        self._stage = stage
        self._every_s = every_s
        self.over = asyncio.Event()
        self.refusals_s: list[float] = []

    async def run(self, least: int) -> None:
        """Until it is over, and so many jobs were accepted."""
        async with QueueService(config=self._stage.site.config) as queue:
            while not self.over.is_set() or len(self._stage.texts) < least:
                await self._one(queue, len(self._stage.texts))
                await asyncio.sleep(self._every_s)

    async def _one(self, queue: QueueService, number: int) -> None:
        request, task_id = self._stage.request("Job", number), f"job-{number}"
        while True:
            started = time.monotonic()
            try:
                await queue.enqueue_single_task(request, task_id=task_id)
            except QueueUnavailableError:
                self.refusals_s.append(time.monotonic() - started)
                await asyncio.sleep(0.2)
            else:
                self._stage.texts[task_id] = request.text
                return


Trouble = Callable[[Stage], Awaitable[list[float]]]
"""Does something to the server, and returns when, in Unix seconds, it was well again each time."""


async def _under_load(stage: Stage, trouble: Trouble) -> list[Figure]:
    stage.emulator.latency_s = 0.1
    stage.start(2)
    await stage.all_ready(2)
    await stage.enqueue(stage.limits.jobs(200), "Early")
    load = Load(stage)
    producing = asyncio.create_task(load.run(2 * stage.limits.jobs(200)))
    await stage.until(lambda: bool(stage.calls()))
    well_at = await trouble(stage)
    await asyncio.sleep(1)
    load.over.set()
    await producing
    await stage.all_ended()
    verdict = await stage.verdict()
    return [
        *await stage.basic_figures(verdict),
        Figure("times", len(well_at)),
        Figure("calls again", stage.calls_again()),
        Figure("producer: refusals", len(load.refusals_s)),
        Figure("producer: longest time to a refusal, s", max(load.refusals_s, default=0), 1),
        Figure("workers: longest time to the first result after it, s", seconds_since(well_at, verdict.finished_at), 5),
    ]


async def restarts(stage: Stage) -> list[Figure]:
    """The server is killed and started again, 20 times; it keeps its data in an AOF."""

    async def trouble(stage: Stage) -> list[float]:
        well_at = []
        for _ in range(stage.limits.times(20)):
            await asyncio.to_thread(stage.server.stop, signal.SIGKILL)
            await asyncio.sleep(stage.chance.uniform(0.1, 1.5))
            await asyncio.to_thread(stage.server.start)
            well_at.append(time.time())
            await asyncio.sleep(stage.chance.uniform(0.5, 2.5))
        return well_at

    return await _under_load(stage, trouble)


async def memory(stage: Stage) -> list[Figure]:
    """The server has no memory left."""

    async def trouble(stage: Stage) -> list[float]:
        await stage.server.admin("CONFIG", "SET", "maxmemory", "1")
        await asyncio.sleep(stage.limits.seconds(8))
        await stage.server.admin("CONFIG", "SET", "maxmemory", "0")
        return [time.time()]

    return await _under_load(stage, trouble)


async def readonly(stage: Stage) -> list[Figure]:
    """The server becomes a replica for a while."""

    async def trouble(stage: Stage) -> list[float]:
        await stage.server.admin("REPLICAOF", "127.0.0.1", str(free_port()))
        await asyncio.sleep(stage.limits.seconds(8))
        await stage.server.admin("REPLICAOF", "NO", "ONE")
        return [time.time()]

    return await _under_load(stage, trouble)


async def loading(stage: Stage) -> list[Figure]:
    """The server takes seconds to load its data."""

    async def trouble(stage: Stage) -> list[float]:
        keys = [part for number in range(int(stage.limits.seconds(5) * 4_000)) for part in (f"ballast-{number}", "1")]
        await stage.server.admin("MSET", *keys)
        # One command in the AOF would be loaded in one go; the file with all keys is loaded key by key.
        await stage.server.admin("SAVE")
        await stage.server.admin("BGREWRITEAOF")
        await until(lambda: _is(stage, "aof_rewrite_in_progress", 0))
        stage.server.slowly("key-load-delay 200", "loading-process-events-interval-bytes 8192")
        await asyncio.to_thread(stage.server.stop, signal.SIGKILL)
        await asyncio.to_thread(stage.server.start, "oading")
        await until(lambda: _is(stage, "loading", 0))
        return [time.time()]

    return await _under_load(stage, trouble)


async def _is(stage: Stage, name: str, value: int) -> bool:
    info = await stage.server.admin("INFO", "persistence")
    assert isinstance(info, dict)
    return bool(info[name] == value)


async def frost(stage: Stage) -> list[Figure]:
    """The server is frozen for 14 s, which is several leases."""

    async def trouble(stage: Stage) -> list[float]:
        stage.server.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(stage.limits.seconds(14))
        stage.server.process.send_signal(signal.SIGCONT)
        return [time.time()]

    return await _under_load(stage, trouble)


async def cuts(stage: Stage) -> list[Figure]:
    """Every connection is cut, 200 times."""

    async def trouble(stage: Stage) -> list[float]:
        for _ in range(stage.limits.times(200)):
            await stage.server.admin("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await stage.server.admin("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")
            await asyncio.sleep(stage.chance.uniform(0.02, 0.2))
        return [time.time()]

    return await _under_load(stage, trouble)


async def poison(stage: Stage) -> list[Figure]:
    """Five jobs that kill their process at every delivery, among good ones; a supervisor starts new processes."""
    stage.emulator.latency_s = 0.1
    good = await stage.enqueue(stage.limits.jobs(495) // 2)
    bad = await stage.enqueue(5, "Poison")
    good += await stage.enqueue(stage.limits.jobs(495) - len(good), "Task")
    deaths: set[int] = set()

    def supervise() -> bool:
        for number, process in enumerate(stage.site.processes):
            if process.poll() == 9 and number not in deaths:
                deaths.add(number)
                stage.start()
        return False

    started = time.monotonic()
    stage.start(PROCESSES)
    supervising = asyncio.create_task(stage.until(supervise))
    await stage.all_ended()
    took_s = time.monotonic() - started
    supervising.cancel()
    verdict, letters = await stage.verdict(), await stage.dead_letters()
    return [
        *await stage.basic_figures(verdict, succeed=len(good)),
        Figure("poison jobs not among the dead letters", 5 - verdict.states["dead"], 0),
        Figure("poison jobs not delivered three times", sum(verdict.deliveries[each] != 3 for each in bad), 0),
        Figure("good jobs in the dead letters", sum(each in letters for each in good), 0),
        Figure("dead processes", len(deaths), 3 * 5),
        Figure("all done after, s", took_s),
    ]


async def batches(stage: Stage) -> list[Figure]:
    """Batches of 100 of which one in twenty is refused by the API, while processes are killed every 3 s."""

    def refuse(call: ReceivedCall) -> Fault | None:
        return Fault.SAFETY if call.text.startswith("Refused") else None

    stage.emulator.faults = refuse
    count, size = (50, 100) if stage.limits.jobs(5_000) == 5_000 else (3, max(20, stage.limits.jobs(5_000) // 3))
    expected = {"succeeded": size - len(range(0, size, 20)), "failed": len(range(0, size, 20)), "total": size}
    async with QueueService(config=stage.site.config) as queue:
        for batch in range(count):
            requests = [
                stage.request(f"{'Job' if number % 20 else 'Refused'} of batch {batch}", number)
                for number in range(size)
            ]
            await queue.enqueue_batch_tasks(BatchAudioRequest(requests=requests, batch_id=f"batch-{batch}"))
            stage.texts |= {f"batch-{batch}-{number}": request.text for number, request in enumerate(requests)}
    stage.start(PROCESSES)
    kills = await stage.strike(signal.SIGKILL, 2 * EVERY_S, PROCESSES)
    verdict = await stage.verdict()
    found = [await stage.batch(f"batch-{number}") for number in range(count)]
    wrong = sum(
        any(batch.get(key, 0) != expected.get(key, 0) for key in ("total", "succeeded", "failed", "cancelled", "dead"))
        for batch in found
    )
    basic = await stage.basic_figures(verdict, succeed=count * expected["succeeded"])
    return [
        *(figure for figure in basic if figure.what != "recorded as failed"),
        Figure("batches", count),
        Figure("kills", kills),
        Figure("failed that the API did not refuse", abs(verdict.states["failed"] - count * expected["failed"]), 0),
        Figure("batches whose counters are wrong", wrong, 0),
    ]


def _malformed(chance: random.Random, number: int) -> bytes:
    good = '{"v":1,"request":{"text":"A job without an author."}}'
    kinds = (
        chance.randbytes(chance.randrange(1, 2_000)),
        b"\xff\xfe" + good.encode("utf-16-le"),
        good[: chance.randrange(1, len(good))].encode(),
        good.replace('"v":1', f'"v":{number + 2}').encode(),
        good.replace('"v":1,', '"v":1,"extra":1,').encode(),
        good.replace("text", "txet").encode(),
        b'{"v":1,"request":{"text":""}}',
        b'{"v":1,"request":{"text":"Outside.","output_filename":"../../outside"}}',
        b'{"v":1,"request":{"text":"Voice.","voice":"Nowhere"}}',
        b'{"v":1,"request":' + b"[" * 5_000,
        b'{"v":1,"request":{"text":"' + b"x" * 200_000,
        b"null",
        b"",
    )
    return kinds[number % len(kinds)]


async def malformed(stage: Stage) -> list[Figure]:
    """Payloads that are none, and names in line that are no jobs, among good jobs."""
    count = stage.limits.jobs(1_000)
    foreign = count // 10
    good = await stage.enqueue(stage.limits.jobs(100))
    jobs = [Job(f"bad-{number}", _malformed(stage.chance, number)) for number in range(count - foreign)]
    async with QueueService(config=stage.site.config) as queue:
        for job in jobs:
            await queue.backend.enqueue([job])
    for number in range(foreign):
        name = (f"unknown-{number}", stage.chance.randbytes(20), f"{number}" * 5_000)[number % 3]
        await stage.add_foreign_name(name)
    good += await stage.enqueue(stage.limits.jobs(100), "Task")
    started = time.monotonic()
    stage.start(1)
    await stage.all_ended(more=count)
    took_s = time.monotonic() - started
    letters = await stage.dead_letters()
    return [
        Figure("jobs", len(good)),
        Figure("not done in the end", len(good) - (await stage.verdict()).states["succeeded"], 0),
        Figure("malformed", count),
        Figure("not among the dead letters with a reason", count - sum(map(bool, letters.values())), 0),
        Figure("good jobs among the dead letters", sum(each in letters for each in good), 0),
        Figure("calls beyond one for each good job", len(stage.calls()) - len(good), 0),
        Figure("processes that died", sum(process.poll() is not None for process in stage.site.processes), 0),
        Figure("all done after, s", took_s),
    ]


async def quota(stage: Stage) -> list[Figure]:
    """A server that allows 10 calls in 5 s, and workers that were told so and nothing else."""
    stage.start(PROCESSES)
    await stage.all_ready(PROCESSES)
    stage.emulator.set_quota(per_minute=QUOTA, window_s=WINDOW_S)
    jobs = stage.limits.jobs(60)
    await stage.enqueue(jobs)
    await stage.all_ended()
    calls = stage.calls()
    refused = sum(call.status == 429 for call in calls)
    # The first ten need no time, and each further ten a whole window.
    least_s = (-(-jobs // QUOTA) - 1) * WINDOW_S
    used = least_s / (calls[-1].time_s - calls[0].time_s) if least_s else 1.0
    return [
        *await stage.basic_figures(await stage.verdict()),
        Figure("calls answered 429, %", 100 * refused / len(calls), 1),
        Figure("quota used, %", 100 * used, 95, least=True),
    ]


async def outage(stage: Stage) -> list[Figure]:
    """Every call is answered 503 for a minute, after the first jobs are done."""
    down = False

    def fail(_: ReceivedCall) -> Fault | None:
        return Fault.UNAVAILABLE_503 if down else None

    stage.emulator.faults = fail
    stage.emulator.latency_s = 0.1
    jobs = stage.limits.jobs(1_000)
    await stage.enqueue(jobs)
    stage.start(PROCESSES)
    await stage.until(lambda: len(stage.calls()) >= jobs // 10)
    down = True
    await asyncio.sleep(stage.limits.seconds(60))
    down = False
    up_at = time.time()
    await stage.all_ended()
    verdict = await stage.verdict()
    return [
        *await stage.basic_figures(verdict),
        Figure("calls beside jobs", len(stage.calls()) / jobs, 1.1),
        Figure("calls during the outage", sum(call.status == 503 for call in stage.calls())),
        Figure("all done after its end, s", max(verdict.finished_at.values(), default=up_at) - up_at, 60),
    ]
