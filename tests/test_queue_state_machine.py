"""Whatever happens in whatever order, both queues do what a model of fifty lines does.

Time is virtual. The memory queue takes a clock. A queue in Redis asks Redis for the time in one line that every script
begins with; here that line reads the test's clock from a key instead, and nothing else differs.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from audio_api.errors import QueueFullError, QueueServiceError
from audio_api.queues import lua
from audio_api.queues.base import FAIR_TURN, MAX_DELIVERIES, QueueBackend
from audio_api.queues.jobs import Job, Lease
from audio_api.queues.memory import MemoryBackend
from audio_api.queues.redis_queue import RedisBackend

MAX_SIZE = 9
NAMES = [f"job{n}" for n in range(20)]


@dataclass
class Known:
    """What the model knows about a job; ``at`` is its place, its lease's end, or its time, as the state says."""

    priority: int
    batch: str | None
    state: str = "queued"
    at: float = 0
    first: bool = False
    deliveries: int = 0
    token: int = 0
    result: bytes | None = None


class Model:
    """What a queue does."""

    def __init__(self) -> None:
        self.jobs: dict[str, Known] = {}
        self.places = self.turns = 0

    def those(self, *states: str) -> list[str]:
        """Jobs in these states, in their order."""
        return sorted(
            (name for name, job in self.jobs.items() if job.state in states), key=lambda n: (self.jobs[n].at, n)
        )

    def queue(self, name: str, *, first: bool = False) -> None:
        """Put a job at the end of its line, or of the line that comes first."""
        self.places += 1
        job = self.jobs[name]
        job.state, job.at, job.first = "queued", self.places, first

    def hand_back(self, name: str) -> None:
        """A lease ended without a result."""
        if self.jobs[name].deliveries >= MAX_DELIVERIES:
            self.jobs[name].state = "dead"
        else:
            self.queue(name, first=True)

    def next(self) -> str | None:
        """Who is handed out next."""
        waiting = self.those("queued")
        returned = [name for name in waiting if self.jobs[name].first]
        priorities = {self.jobs[name].priority for name in waiting}
        if returned or len(priorities) <= 1:
            return next(iter(returned or waiting), None)
        self.turns += 1
        if self.turns % FAIR_TURN == 0:
            return waiting[0]
        return next(name for name in waiting if self.jobs[name].priority == max(priorities))

    def lease(self, count: int, until: float, now: float) -> list[str]:
        """Hand out up to this many."""
        for name in self.those("delayed"):
            if self.jobs[name].at <= now:
                self.queue(name)
        for name in self.those("leased"):
            if self.jobs[name].at <= now:
                self.hand_back(name)
        taken: list[str] = []
        while len(taken) < count and (name := self.next()):
            job = self.jobs[name]
            job.state, job.at, job.deliveries = "leased", until, job.deliveries + 1
            taken.append(name)
        return taken

    def holds(self, lease: Lease) -> bool:
        """Whether the lease is current."""
        job = self.jobs[lease.job_id]
        return job.state == "leased" and job.token == lease.token

    def release(self, name: str, delay: float, now: float, *, counts: bool) -> None:
        """Take a job back from its holder."""
        job = self.jobs[name]
        job.deliveries -= not counts
        if delay and job.deliveries < MAX_DELIVERIES:
            job.state, job.at = "delayed", now + delay
        else:
            self.hand_back(name)


class QueueMachine(RuleBasedStateMachine):
    """Runs a queue and the model side by side; a worker that dies is one that never calls again."""

    redis_url: ClassVar[str | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.name = uuid4().hex
        self.model = Model()
        self.leases: list[Lease] = []
        self.batches = 0
        self.clock = Redis.from_url(self.redis_url) if self.redis_url else None
        self.set_clock(1_000.0)
        self.queue: QueueBackend = self.run(self.open())

    async def open(self) -> QueueBackend:
        """Make the queue, inside the loop it lives in."""
        if self.redis_url is None:
            return MemoryBackend(self.name, max_size=MAX_SIZE, clock=lambda: self.now)
        return RedisBackend(self.redis_url, self.name, max_size=MAX_SIZE)

    def run(self, call: Any) -> Any:
        """Wait for a call."""
        return self.runner.run(call)

    def set_clock(self, now: float) -> None:
        """Decide what time it is."""
        self.now = now
        if self.clock:
            self.clock.set(f"audio_api:{{{self.name}}}:clock", int(now * 1000))

    def teardown(self) -> None:
        """Close what was opened."""
        self.run(self.queue.close())
        self.runner.close()
        if self.clock:
            self.clock.close()

    @initialize()
    def let_the_grace_period_end(self) -> None:
        """A queue in Redis takes a server that does not know its scripts for one that restarted."""
        self.run(self.queue.lease(1, 0.001))
        self.set_clock(self.now + 1)

    @rule(
        names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True),
        priority=st.sampled_from([-3, 0, 0, 5]),
        delay=st.sampled_from([0, 0, 4]),
        batch=st.booleans(),
    )
    def enqueue(self, names: list[str], priority: int, delay: int, *, batch: bool) -> None:
        """All are accepted, or none: for want of room, or because one is known in another batch."""
        self.batches += batch
        batch_id = f"batch{self.batches}" if batch else None
        known = [name for name in names if name in self.model.jobs]
        fresh = [name for name in names if name not in known]
        refusal: type[QueueServiceError] | None = None
        if any(self.model.jobs[name].batch != batch_id for name in known):
            refusal = QueueServiceError
        elif fresh and len(self.model.those("queued", "delayed")) + len(fresh) > MAX_SIZE:
            refusal = QueueFullError
        jobs = [Job(name, name.encode(), priority, self.now + delay if delay else None) for name in names]
        if refusal:
            with pytest.raises(refusal):
                self.run(self.queue.enqueue(jobs, batch_id))
            return
        self.run(self.queue.enqueue(jobs, batch_id))
        self.run(self.queue.enqueue(jobs, batch_id))
        for name in fresh:
            self.model.jobs[name] = Known(priority, batch_id)
            self.model.queue(name)
            if delay:
                self.model.jobs[name].state, self.model.jobs[name].at = "delayed", self.now + delay

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data())
    def enqueue_another_payload(self, data: st.DataObject) -> None:
        """A known id with another payload is a conflict, in every state."""
        name = data.draw(st.sampled_from(sorted(self.model.jobs)))
        with pytest.raises(QueueServiceError):
            self.run(self.queue.enqueue([Job(name, b"another")], self.model.jobs[name].batch))

    @rule(count=st.integers(1, 3), lease_s=st.sampled_from([2, 6]))
    def lease(self, count: int, lease_s: int) -> None:
        """The same jobs in the same order, with tokens higher than all before."""
        leases = self.run(self.queue.lease(count, lease_s))
        assert [lease.job_id for lease in leases] == self.model.lease(count, self.now + lease_s, self.now)
        for lease in leases:
            job = self.model.jobs[lease.job_id]
            assert lease.token > max((other.token for other in self.model.jobs.values()), default=0)
            assert (lease.payload, lease.deliveries) == (lease.job_id.encode(), job.deliveries)
            assert (lease.priority, lease.batch_id) == (job.priority, job.batch)
            job.token = lease.token
        self.leases += leases

    @rule(seconds=st.integers(1, 5))
    def let_time_pass(self, seconds: int) -> None:
        """Leases run out, delayed jobs come due; neither shows before a worker asks for work."""
        self.set_clock(self.now + seconds)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        """Those still held last their full time again, the stale ones are named by their absence."""
        leases = data.draw(st.lists(st.sampled_from(self.leases), min_size=1, unique_by=lambda lease: lease.token))
        held = [lease for lease in leases if self.model.holds(lease)]
        assert self.run(self.queue.renew(leases)) == held
        for lease in held:
            self.model.jobs[lease.job_id].at = self.now + lease.lease_s

    def some_lease(self, data: st.DataObject) -> tuple[Lease, Known, bool]:
        """A lease of some worker, what the model knows of its job, and whether it is current."""
        lease = data.draw(st.sampled_from(self.leases))
        return lease, self.model.jobs[lease.job_id], self.model.holds(lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), success=st.booleans())
    def finish(self, data: st.DataObject, *, success: bool) -> None:
        """The holder's result is stored, once."""
        lease, job, held = self.some_lease(data)
        result = f"{lease.token} {success}".encode()
        assert self.run(self.queue.finish(lease, result, success=success)) is held
        assert not self.run(self.queue.finish(lease, b"again", success=not success))
        if held:
            job.state, job.result = "succeeded" if success else "failed", result

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), delay=st.sampled_from([0, 3]), counts=st.booleans())
    def release(self, data: st.DataObject, delay: int, *, counts: bool) -> None:
        """The holder hands its job back, once."""
        lease, _, held = self.some_lease(data)
        assert self.run(self.queue.release(lease, delay, count_delivery=counts)) is held
        if held:
            self.model.release(lease.job_id, delay, self.now, counts=counts)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def bury(self, data: st.DataObject) -> None:
        """The holder gives its job up for good."""
        lease, job, held = self.some_lease(data)
        assert self.run(self.queue.bury(lease, "bad")) is held
        if held:
            job.state = "dead"

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """A holder is never heard of again."""
        self.leases.remove(data.draw(st.sampled_from(self.leases)))

    def some_name(self, data: st.DataObject) -> str:
        """Mostly one that is known."""
        return data.draw(st.sampled_from([*sorted(self.model.jobs), "unknown"]))

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Whatever is not finished can be cancelled, once."""
        name = self.some_name(data)
        job = self.model.jobs.get(name)
        possible = job is not None and job.state in {"queued", "delayed", "leased", "dead"}
        assert self.run(self.queue.cancel(name)) is possible
        if job and possible:
            job.state = "cancelled"

    @rule(times=st.integers(1, 4))
    def die_at_work(self, times: int) -> None:
        """Worker after worker takes jobs, and is never heard of again."""
        for _ in range(times):
            self.lease(3, 2)
            self.set_clock(self.now + 3)

    @rule(times=st.integers(2, 5))
    def work(self, times: int) -> None:
        """A worker takes a job, finishes it, and takes the next."""
        for _ in range(times):
            self.lease(1, 6)
            for lease in self.leases[-1:]:
                held = self.model.holds(lease)
                assert self.run(self.queue.finish(lease, b"{}", success=True)) is held
                if held:
                    self.model.jobs[lease.job_id].state, self.model.jobs[lease.job_id].result = "succeeded", b"{}"

    @rule(data=st.data())
    def retry_dead(self, data: st.DataObject) -> None:
        """Only a dead job can be retried, and starts from the beginning."""
        name = self.some_name(data)
        job = self.model.jobs.get(name)
        possible = job is not None and job.state == "dead"
        assert self.run(self.queue.retry_dead(name)) is possible
        if job and possible:
            job.deliveries = 0
            self.model.queue(name)

    @invariant()
    def every_job_is_where_the_model_has_it(self) -> None:
        """State, deliveries and result of every job, the statistics, and the counters of every batch."""
        for name, job in self.model.jobs.items():
            status = self.run(self.queue.status(name))
            assert (status.state, status.deliveries, status.result) == (job.state, job.deliveries, job.result)
        stats = self.run(self.queue.stats())
        waiting = [self.model.jobs[name].priority for name in self.model.those("queued")]
        assert stats.waiting == {priority: waiting.count(priority) for priority in waiting}
        counts = (stats.delayed, stats.leased, stats.dead)
        assert counts == tuple(len(self.model.those(state)) for state in ("delayed", "leased", "dead"))

    @invariant()
    def batches_count_exactly(self) -> None:
        """The counters of a batch are the numbers of its jobs in each final state."""
        for batch in {job.batch for job in self.model.jobs.values()} - {None}:
            members = [job for job in self.model.jobs.values() if job.batch == batch]
            status = self.run(self.queue.batch_status(batch))
            found = {
                "succeeded": status.succeeded,
                "failed": status.failed,
                "cancelled": status.cancelled,
                "dead": status.dead,
            }
            assert found == {state: sum(job.state == state for job in members) for state in found}
            assert status.total == len(members)


LIMITS = settings(max_examples=150, stateful_step_count=40, suppress_health_check=list(HealthCheck))


@pytest.mark.slow
def test_the_queue_in_memory_does_what_the_model_does() -> None:
    """Any sequence of calls, crashes and pauses."""
    run_state_machine_as_test(QueueMachine, settings=LIMITS)


@pytest.mark.slow
def test_the_queue_in_redis_does_what_the_model_does(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, on a real server with virtual time."""
    monkeypatch.setattr(lua, "CLOCK", "local now = tonumber(redis.call('GET', KEYS[1] .. ':clock'))\n")
    monkeypatch.setattr(QueueMachine, "redis_url", redis_url)
    run_state_machine_as_test(QueueMachine, settings=settings(LIMITS, max_examples=60))
