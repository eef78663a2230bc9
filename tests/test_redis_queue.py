"""What only a real server can go through: death, frost, want of memory, foreign entries, and a wire that is cut."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from kit import one, state
from own_time import PATIENCE_S, own_time, until
from redis.exceptions import ConnectionError as CutError
from redis.exceptions import ResponseError
from redis_server import PASSWORD, USER, RedisSentinel, RedisServer, free_port, limit_answers

from audio_api.errors import ConfigurationError, QueueServiceError, QueueUnavailableError
from audio_api.queues import redis_answers, redis_connection
from audio_api.queues.base import backoff
from audio_api.queues.jobs import Job, JobState
from audio_api.queues.redis_queue import RedisBackend

pytestmark = pytest.mark.usefixtures("patient_redis")

LONG_S = 60.0
LIMIT_S = redis_connection.ANSWER_LIMIT_S
DURABLE = ("appendonly yes", "appendfsync always")
FAST_S = 1.0
"""Within this time a producer hears that the server does not answer."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of one's own, that keeps its data over a restart."""
    server = RedisServer(tmp_path, *DURABLE)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that tests leave as they found it."""
    server = RedisServer(tmp_path_factory.mktemp("shared"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., RedisBackend]]:
    """Makes handles and closes them."""
    opened: list[RedisBackend] = []
    name = uuid4().hex

    def connect(url: str, queue: str = name, **options: Any) -> RedisBackend:
        opened.append(RedisBackend(url, queue, **options))
        return opened[-1]

    yield connect
    for backend in opened:
        await backend.close()


Connect = Callable[..., RedisBackend]


def jobs(count: int) -> list[Job]:
    """Jobs j0, j1, and so on."""
    return [Job(f"j{n}", b'{"v":1}') for n in range(count)]


async def refusal(call: Awaitable[object]) -> str:
    """What a producer hears, within a second."""
    with pytest.MonkeyPatch.context() as patch:
        limit_answers(patch, LIMIT_S)
        async with own_time() as elapsed_s:
            with pytest.raises(QueueUnavailableError) as caught:
                await call
            assert elapsed_s() < FAST_S + 0.2
    assert caught.value.retryable
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


async def test_a_server_that_is_down_at_the_start(server: RedisServer, connect: Connect) -> None:
    """Producers hear it at once; a waiting worker starts as soon as the server is there."""
    server.stop()
    producer, worker = connect(server.url), connect(server.url)
    assert f"127.0.0.1:{server.port} does not answer" in await refusal(producer.enqueue(jobs(1)))
    await refusal(producer.health())
    await refusal(producer.wait_result("j0", PATIENCE_S))
    await refusal(worker.lease(1, LONG_S))
    waiting = asyncio.create_task(one(worker, wait_s=2 * PATIENCE_S))
    server.start()
    await producer.enqueue(jobs(1))
    start = time.monotonic()
    assert (await waiting).job_id == "j0"
    assert time.monotonic() - start < PATIENCE_S


async def test_a_server_killed_in_the_middle_of_a_job(server: RedisServer, connect: Connect) -> None:
    """The result is kept until the server is back, waiters hear of it then, and no worker takes the job meanwhile."""
    worker, other, producer = (connect(server.url) for _ in range(3))
    await producer.enqueue(jobs(2), "batch")
    await other.lease(1, 0.001)
    lease = await one(worker, 1.0)
    heard = asyncio.create_task(producer.wait_result(lease.job_id, PATIENCE_S))
    complete = asyncio.create_task(producer.wait_batch("batch", PATIENCE_S, more_than=0))
    await asyncio.wait([heard, complete], timeout=0.2)
    server.stop(signal.SIGKILL)
    finishing = asyncio.create_task(worker.finish(lease, b"paid", success=True))
    await asyncio.wait([finishing], timeout=1.2)  # longer than the lease
    assert not finishing.done()
    server.start()
    # Every lease has run out by now; no worker may be given this job before its holder had the time to say something.
    taken = await other.lease(5, 1.0)
    assert lease.job_id not in [each.job_id for each in taken]
    assert await finishing
    status = await heard
    assert (status.state, status.result, status.deliveries) == (JobState.SUCCEEDED, b"paid", lease.deliveries)
    assert (await complete).succeeded == 1


async def test_after_a_restart_lost_jobs_come_back(server: RedisServer, connect: Connect) -> None:
    """The grace after a restart ends: a job whose worker died with the server is given out again."""
    queue = connect(server.url)
    await queue.enqueue(jobs(1))
    await queue.lease(1, 0.3)
    server.stop(signal.SIGKILL)
    server.start()
    start = time.monotonic()
    lease = await one(connect(server.url), 0.5)
    assert (lease.job_id, lease.deliveries) == ("j0", 2)
    assert time.monotonic() - start < PATIENCE_S / 2


async def test_a_frozen_server(server: RedisServer, connect: Connect) -> None:
    """Producers hear it at once; what a worker asked for meanwhile is given to it once, not lost and not twice."""
    producer, worker, other = (connect(server.url) for _ in range(3))
    await producer.enqueue(jobs(1))
    await producer.lease(1, LONG_S)
    await worker.status("j0")
    await producer.enqueue([Job("next", b"{}")])
    server.process.send_signal(signal.SIGSTOP)
    await refusal(producer.enqueue([Job("later", b"{}")]))
    await refusal(worker.lease(1, LONG_S))
    server.process.send_signal(signal.SIGCONT)
    lease = await one(worker)
    assert (lease.job_id, lease.deliveries) == ("next", 1)
    await producer.enqueue([Job("later", b"{}")])
    assert (await one(other)).job_id == "later"
    assert await worker.finish(lease, b"{}", success=True)


async def test_leases_that_ran_out_while_the_server_was_frozen(server: RedisServer, connect: Connect) -> None:
    """A worker that saw the server frozen lets the holders renew before it takes their jobs."""
    holder, other = connect(server.url), connect(server.url)
    await other.lease(1, LONG_S)
    await holder.enqueue(jobs(1))
    lease = await one(holder, 1.5)
    server.process.send_signal(signal.SIGSTOP)
    await refusal(other.lease(1, LONG_S))
    await asyncio.wait([asyncio.create_task(asyncio.sleep(0.8))])
    server.process.send_signal(signal.SIGCONT)
    assert await other.lease(1, LONG_S) == []
    assert await holder.renew([lease]) == [lease]
    assert await holder.finish(lease, b"{}", success=True)


async def test_leases_that_ran_out_while_the_server_was_read_only(server: RedisServer, connect: Connect) -> None:
    """The same after a time in which the server answered, but no worker could renew."""
    holder, other = connect(server.url), connect(server.url)
    await holder.enqueue(jobs(1))
    lease = await one(holder, 0.5)
    await server.admin("REPLICAOF", "127.0.0.1", str(free_port()))
    assert "read-only replica" in await refusal(other.lease(1, LONG_S, 0.6))
    await server.admin("REPLICAOF", "NO", "ONE")
    assert await other.lease(1, LONG_S) == []
    assert await holder.renew([lease]) == [lease]
    assert await holder.finish(lease, b"{}", success=True)


async def test_connections_that_are_cut(shared: RedisServer, connect: Connect) -> None:
    """Cutting every connection again and again loses nothing and finishes nothing twice."""
    producer, worker = connect(shared.url), connect(shared.url)
    await producer.enqueue(jobs(150), "batch")
    finished: list[str] = []

    async def work() -> None:
        while len(finished) < 150:
            for lease in await worker.lease(5, 2.0, 0.2):
                finished.extend([lease.job_id] if await worker.finish(lease, b"{}", success=True) else [])

    async def cut() -> None:
        while len(finished) < 150:
            await shared.admin("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await shared.admin("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")
            await asyncio.sleep(0.01)

    async with asyncio.timeout(3 * PATIENCE_S):
        *_, status = await asyncio.gather(cut(), work(), work(), producer.wait_batch("batch", 2 * PATIENCE_S))
    assert sorted(finished) == sorted(job.id for job in jobs(150))
    assert (status.succeeded, status.complete) == (150, True)


async def test_a_lost_reply_to_finish(shared: RedisServer, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the result was stored and only the answer was lost, the repetition says so; nothing counts twice."""
    queue = connect(shared.url)
    await queue.enqueue(jobs(1), "batch")
    lease = await one(queue)
    run, answers = queue._server.run, []

    async def lose_the_first(*args: Any, **options: Any) -> Any:
        answers.append(await run(*args, **options))
        if len(answers) == 1:
            raise QueueUnavailableError("the connection was cut")
        return answers[-1]

    monkeypatch.setattr(queue._server, "run", lose_the_first)
    assert await queue.finish(lease, b"{}", success=True)
    assert len(answers) == 2
    status = await queue.batch_status("batch")
    assert status
    assert status.succeeded == 1


async def test_a_job_given_to_a_cancelled_call_is_handed_back(
    shared: RedisServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is told to stop while the server answers lets no other worker wait until the lease has run out."""
    queue, other = connect(shared.url), connect(shared.url)
    await queue.enqueue(jobs(2))
    run, given, go_on = queue._server.run, asyncio.Event(), asyncio.Event()

    async def answer_late(*args: Any, **options: Any) -> Any:
        answer = await run(*args, **options)
        given.set()
        await go_on.wait()
        return answer

    monkeypatch.setattr(queue._server, "run", answer_late)
    asking = asyncio.create_task(queue.lease(2, LONG_S, LONG_S))
    await given.wait()
    asking.cancel()
    go_on.set()
    await asyncio.wait([asking])
    assert asking.cancelled()
    assert [(lease.job_id, lease.deliveries) for lease in await other.lease(2, LONG_S)] == [("j0", 1), ("j1", 1)]


async def test_no_memory(server: RedisServer, connect: Connect) -> None:
    """A full server takes no job, not even a part; the jobs it has are handed out, renewed and finished."""
    queue = connect(server.url)
    await queue.enqueue(jobs(3))
    early = await one(queue)
    await server.admin("CONFIG", "SET", "maxmemory", "1")
    assert "out of memory" in await refusal(queue.enqueue([Job("x", b"{}"), Job("y", b"{}")], "batch"))
    assert "out of memory" in await refusal(queue.health())
    late = await one(queue)
    assert await queue.renew([early, late]) == [early, late]
    assert await queue.finish(early, b'{"audio":"paid"}', success=True)
    assert await queue.release(late)
    assert await queue.bury(await one(queue), "x")
    assert await queue.cancel("j2")
    await server.admin("CONFIG", "SET", "maxmemory", "0")
    assert await state(queue, "j0") is JobState.SUCCEEDED
    assert await queue.status("x") is None
    assert await queue.batch_status("batch") is None
    await queue.enqueue([Job("x", b"{}"), Job("y", b"{}")], "batch")


async def test_a_replica(server: RedisServer, connect: Connect) -> None:
    """A server that was demoted takes nothing; results wait until it takes them again."""
    queue = connect(server.url)
    await queue.enqueue(jobs(2))
    lease = await one(queue)
    await server.admin("REPLICAOF", "127.0.0.1", str(free_port()))
    assert "read-only replica" in await refusal(queue.enqueue([Job("x", b"{}")]))
    assert "read-only replica" in await refusal(queue.lease(1, LONG_S))
    finishing = asyncio.create_task(queue.finish(lease, b"{}", success=True))
    await asyncio.wait([finishing], timeout=0.3)
    assert not finishing.done()
    await server.admin("REPLICAOF", "NO", "ONE")
    assert await finishing
    assert (await one(queue)).job_id == "j1"


async def test_a_server_that_is_loading(server: RedisServer, connect: Connect) -> None:
    """While the data is loaded producers hear that, and workers wait."""
    queue = connect(server.url)
    await queue.enqueue(jobs(8_000))
    server.stop(signal.SIGTERM)
    server.slowly("key-load-delay 300", "loading-process-events-interval-bytes 8192")
    server.start(ready="oading")

    async def says_that_it_loads() -> bool:
        return "is still loading its data" in await refusal(queue.enqueue([Job("x", b"{}")]))

    async with asyncio.TaskGroup() as tasks:
        worker = tasks.create_task(one(queue, wait_s=2 * PATIENCE_S))
        await until(says_that_it_loads)
        await server.admin("CONFIG", "SET", "key-load-delay", "0")
    assert worker.result().job_id == "j0"


async def test_forgotten_scripts(shared: RedisServer, connect: Connect) -> None:
    """A server that lost its scripts is sent them again."""
    queue = connect(shared.url)
    await queue.enqueue(jobs(1))
    await shared.admin("SCRIPT", "FLUSH")
    await queue.enqueue(jobs(2))
    lease = await one(queue)
    await shared.admin("SCRIPT", "FLUSH")
    assert await queue.finish(lease, b"{}", success=True)


async def test_more_callers_than_connections(shared: RedisServer, connect: Connect) -> None:
    """Calls wait for a connection as long as the server answers the others."""
    queue = connect(shared.url, pool_size=2)
    await asyncio.gather(*(queue.enqueue([Job(f"j{n}", b"{}")]) for n in range(500)))
    assert (await queue.stats()).waiting == {0: 500}


async def test_callers_without_a_connection_hear_of_a_frozen_server(
    server: RedisServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those who wait for their turn behind others are told within a second or two."""
    queue = connect(server.url, pool_size=1)
    await queue.enqueue(jobs(1))
    server.process.send_signal(signal.SIGSTOP)
    limit_answers(monkeypatch, LIMIT_S)
    async with own_time() as elapsed_s:
        ends = await asyncio.gather(*(queue.status("j0") for _ in range(20)), return_exceptions=True)
        assert elapsed_s() < 2 * FAST_S + 0.5
    assert {type(end) for end in ends} == {QueueUnavailableError}


async def test_nothing_is_asked_that_only_a_cloud_knows(
    shared: RedisServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """redis-py logs what a server refuses when a connection is made; it finds nothing to log."""
    caplog.set_level(logging.DEBUG, "redis")
    await redis_connection.ping(shared.url)
    await connect(shared.url).health()
    assert [record for record in caplog.records if record.name.startswith("redis")] == []


async def test_the_access_list_is_minimal_and_enough(shared: RedisServer, connect: Connect) -> None:
    """Other keys, other channels and everything dangerous are denied to the user all these tests run as."""
    user = redis_connection.RedisConnection(shared.url, 1)
    denied = ["GET other", "CONFIG GET save", "KEYS *", "FLUSHALL", "INFO", "SUBSCRIBE other"]
    denied += ["CLIENT KILL TYPE normal", "SCRIPT FLUSH", "ACL LIST", "EXPIRE audio_api:x 1"]
    for command in denied:
        with pytest.raises(ConfigurationError, match="ACL must allow"):
            await user.command(*command.split())
    with pytest.raises(QueueServiceError, match="refuses a step"):
        await user.command("EVAL", "return redis.call('GET', 'other')", "0")
    await user.close()


@pytest.mark.parametrize("user", [USER, "nobody"])
async def test_a_wrong_password(shared: RedisServer, connect: Connect, user: str) -> None:
    """It is an error of the configuration, which names neither user nor password."""
    queue = connect(f"redis://{user}:CANARY-wrong@127.0.0.1:{shared.port}")
    with pytest.raises(ConfigurationError) as caught:
        await queue.enqueue(jobs(1))
    assert "CANARY" not in str(caught.value)


async def test_a_user_who_is_refused_for_a_while(shared: RedisServer, connect: Connect) -> None:
    """Once the server took the user, a refusal passes: producers hear so, and what is in hand is kept until then."""
    await shared.admin("ACL", "SETUSER", "brief", "on", f">{PASSWORD}", *redis_connection.ACCESS.split())
    queue = connect(f"redis://brief:{PASSWORD}@127.0.0.1:{shared.port}")
    await queue.enqueue(jobs(1))
    lease = await one(queue)
    await shared.admin("ACL", "SETUSER", "brief", "off")
    await shared.admin("CLIENT", "KILL", "USER", "brief")
    assert "refuses the user it took before" in await refusal(queue.enqueue(jobs(2)))
    finishing = asyncio.create_task(queue.finish(lease, b"{}", success=True))
    await asyncio.wait([finishing], timeout=0.3)
    await shared.admin("ACL", "SETUSER", "brief", "on")
    assert await finishing


async def test_a_database_that_is_not_there(shared: RedisServer, connect: Connect) -> None:
    """It is an error of the configuration: no waiting mends it."""
    queue = connect(shared.url.removesuffix("/0") + "/99")
    with pytest.raises(ConfigurationError, match="no database of REDIS_URL's number"):
        await queue.health()


async def test_a_user_who_may_not_subscribe(shared: RedisServer, connect: Connect) -> None:
    """Results are heard of nevertheless, a little later."""
    rules = ["on", f">{PASSWORD}", *redis_connection.ACCESS.split(), "-subscribe"]
    await shared.admin("ACL", "SETUSER", "deaf", *rules)
    queue = connect(f"redis://deaf:{PASSWORD}@127.0.0.1:{shared.port}")
    await queue.enqueue(jobs(1))
    lease = await one(queue)
    heard = asyncio.create_task(queue.wait_result("j0", PATIENCE_S))
    await asyncio.wait([heard], timeout=0.1)
    await queue.finish(lease, b"{}", success=True)
    assert (await heard).state is JobState.SUCCEEDED


async def test_every_key_is_in_the_queues_slot_and_goes_away(shared: RedisServer, connect: Connect) -> None:
    """All keys begin with the queue's name in braces, and what stays of finished work is a handful."""
    queue = connect(shared.url, "tidy", result_ttl_s=0.05)
    await queue.enqueue([Job(f"p{n}", b"{}", priority=n) for n in range(5)], "batch")
    await queue.enqueue(jobs(20))
    await queue.enqueue([Job("later", b"{}", not_before=time.time() + 0.05)])
    while leases := await queue.lease(3, 0.5, 0.1):
        for lease in leases:
            await queue.finish(lease, b"{}", success=True)

    async def left() -> set[str]:
        keys: Any = await shared.admin("KEYS", "*")
        return {key.decode() for key in keys if b"tidy" in key}

    assert all(key.startswith("audio_api:{tidy}:") for key in await left())

    async def tidy() -> bool:
        return {key.rpartition(":")[2] for key in await left()} <= {"meta", "wake", "recent"}

    await until(tidy)


async def calls_of(server: RedisServer, call: Awaitable[Any]) -> tuple[Any, dict[str, int]]:
    """What a call returns, and how often each command was sent for it; commands inside scripts do not count."""

    async def sent() -> dict[str, int]:
        stats: Any = await server.admin("INFO", "commandstats")
        return {
            name: stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]
            for name in ("evalsha", "eval", "blpop", "config|get")
        }

    before = await sent()
    answer = await call
    after = await sent()
    return answer, {name: after[name] - before[name] for name in after if after[name] != before[name]}


async def test_round_trips(shared: RedisServer, connect: Connect) -> None:
    """One to enqueue, however many; one to take several jobs; one to finish each."""
    queue = connect(shared.url)
    await queue.enqueue([Job("warm", b"{}")])
    await queue.renew([warm := await one(queue)])
    await queue.finish(warm, b"{}", success=True)
    _, sent = await calls_of(shared, queue.enqueue(jobs(10), "batch"))
    assert sent == {"evalsha": 1}
    leases, sent = await calls_of(shared, queue.lease(10, LONG_S))
    assert (len(leases), sent) == (10, {"evalsha": 1})
    _, sent = await calls_of(shared, queue.renew(leases))
    assert sent == {"evalsha": 1}
    _, sent = await calls_of(shared, queue.finish(leases[0], b"{}", success=True))
    assert sent == {"evalsha": 1}


async def test_results_that_are_ready_together_disturb_no_other(shared: RedisServer, connect: Connect) -> None:
    """Each has an answer of its own; one that is cancelled, and one of a job that was cancelled, end no other."""
    queue = connect(shared.url)
    await queue.enqueue([*jobs(250), Job("warm", b"{}")])
    *leases, warm = await queue.lease(251, LONG_S)
    await queue.finish(warm, b"{}", success=True)
    await queue.cancel("j7")
    finishing = [asyncio.create_task(queue.finish(lease, b"{}", success=True)) for lease in leases]
    await asyncio.sleep(0)  # now they are under way
    finishing[3].cancel()
    answers = await asyncio.gather(*finishing, return_exceptions=True)
    assert [leases[place].job_id for place, answer in enumerate(answers) if answer is not True] == ["j3", "j7"]
    assert isinstance(answers[3], asyncio.CancelledError)
    assert (await queue.stats()).succeeded in {249, 250}


async def test_an_idle_worker_is_quiet(shared: RedisServer, connect: Connect) -> None:
    """Waiting costs at most three commands per second, whatever number of slots waits."""
    queue = connect(shared.url)
    await queue.lease(1, LONG_S)
    _, sent = await calls_of(shared, asyncio.gather(*(queue.lease(1, LONG_S, 2.0) for _ in range(3))))
    assert sum(sent.values()) <= 6 + 3  # each of the three asks once more when its time is over


async def test_a_queued_job_is_small(server: RedisServer, connect: Connect) -> None:
    """At most 1.2 KB beside the payload."""

    async def used() -> int:
        memory: Any = await server.admin("INFO", "memory")
        return int(memory["used_memory"])

    queue = connect(server.url)
    await queue.enqueue([Job("warm", b"{}")])
    before = await used()
    await queue.enqueue([Job(uuid4().hex, b"x" * 500, priority=n % 3) for n in range(2_000)], "batch")
    assert (await used() - before) / 2_000 < 500 + 1_200


async def test_risky_settings_are_warned_of_once(
    server: RedisServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that may throw jobs away is named once; without the right to look, never."""
    redis_connection._warn_once.cache_clear()  # another test's server may have had this port
    await server.admin("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    await server.admin("CONFIG", "SET", "appendonly", "no")
    with caplog.at_level(logging.WARNING, "audio_api"):
        await connect(server.url).stats()
        assert _ours(caplog) == []
        await connect(server.admin_url).stats()
        await connect(server.admin_url).stats()
    (warning,) = _ours(caplog)
    assert "maxmemory-policy is not noeviction" in warning
    assert "neither appendonly nor save" in warning
    assert PASSWORD not in warning


def _ours(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the library logged; the client below it has warnings of its own."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("audio_api")]


FOREIGN: dict[str, bytes] = {
    "nothing": b"",
    "unknown job": b"unknown",
    "null": b"\0",
    "pattern": b"*",
    "another queue's job": b"}:job:x{",
    "with a space": b"a b",
    "JSON": b'{"id":1}',
    "invalid UTF-8": b"\xff\xfe",
    "5 MB": b"x" * 5_000_000,
    "65 letters": b"x" * 65,
    "a pickle": b"\x80\x04\x95.",
    "a payload": b'{"v":1}',
    "lines": b"1\n2\r\n",
}


@pytest.mark.parametrize("kind", FOREIGN)
async def test_a_foreign_name_is_put_aside(shared: RedisServer, connect: Connect, kind: str) -> None:
    """A name in line that is no job of ours goes to the dead letters with a reason; the others are handed out."""
    queue = connect(shared.url, name := uuid4().hex)
    await queue.enqueue(jobs(1))
    await shared.admin("ZADD", f"audio_api:{{{name}}}:wait", "5", FOREIGN[kind])  # type: ignore[arg-type]
    await queue.enqueue([Job("last", b"{}")])
    assert [lease.job_id for lease in await queue.lease(5, LONG_S)] == ["j0", "last"]
    (letter,) = await queue.list_dead()
    if kind == "unknown job":
        assert (letter.job_id, letter.reason) == ("unknown", "it was damaged in Redis: its payload is gone")
    else:
        assert letter.job_id.startswith("foreign-")
        assert letter.reason.startswith("the name ")
        assert letter.reason.endswith(" is no job of this queue")
        assert letter.reason.isprintable()
        assert "\ufffd" not in letter.reason
        assert letter.payload == FOREIGN[kind][:10_000]
    assert not await queue.retry_dead(letter.job_id)
    assert (await queue.stats()).dead == 1
    status = await queue.status(letter.job_id)
    assert status
    assert (status.state, status.deliveries) == (JobState.DEAD, 0)


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A folder with a certificate authority and a certificate for localhost."""
    run = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    run += ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(run, cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


@pytest.fixture
async def tls_port(certificates: Path, shared: RedisServer) -> AsyncIterator[int]:
    """A port that speaks TLS and passes everything on to the server."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", shared.port)
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as listener:
        yield listener.sockets[0].getsockname()[1]


async def test_tls_is_verified(certificates: Path, tls_port: int, connect: Connect) -> None:
    """A certificate is checked against its authority and its host's name, and that cannot be switched off."""
    trusted = f"?ssl_ca_certs={quote(str(certificates / 'cert.pem'))}"
    queue = connect(f"rediss://{USER}:{PASSWORD}@localhost:{tls_port}/0{trusted}")
    await queue.enqueue(jobs(1))
    assert (await one(queue)).job_id == "j0"
    await queue.close()
    for host, options in [("localhost", ""), ("127.0.0.1", trusted)]:
        await refusal(connect(f"rediss://{USER}:{PASSWORD}@{host}:{tls_port}/0{options}").enqueue(jobs(1)))
    with pytest.raises(ConfigurationError, match="leave these options out"):
        connect(f"rediss://localhost:{tls_port}/0?ssl_cert_reqs=none")


async def move_all(giver: RedisServer, taker: RedisServer) -> None:
    """Hand the only queue's slot, with all that is in it, to another node of the cluster."""
    keys: Any = await giver.admin("KEYS", "*")
    slot = str(await giver.admin("CLUSTER", "KEYSLOT", keys[0]))
    old, new = [redis_answers.as_text(await node.admin("CLUSTER", "MYID")) for node in (giver, taker)]
    await taker.admin("CLUSTER", "SETSLOT", slot, "IMPORTING", old)
    await giver.admin("CLUSTER", "SETSLOT", slot, "MIGRATING", new)
    await giver.admin("MIGRATE", "127.0.0.1", str(taker.port), "", "0", "60000", "AUTH", PASSWORD, "KEYS", *keys)
    for node in (taker, giver):
        await node.admin("CLUSTER", "SETSLOT", slot, "NODE", new)


async def test_a_cluster(tmp_path: Path, connect: Connect) -> None:
    """Any node leads to the one that has the queue, also after the queue's slot has moved."""
    nodes = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        nodes.append(RedisServer(tmp_path / name, "cluster-enabled yes", "cluster-require-full-coverage no", *DURABLE))
    first, second = nodes
    try:
        for node in nodes:
            node.start()
            await node.admin("CONFIG", "SET", "cluster-announce-ip", "127.0.0.1")
        await second.admin("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        await first.admin("CLUSTER", "MEET", "127.0.0.1", str(second.port))
        queue = connect(first.url.replace("@", f"@127.0.0.1:{free_port()},"))

        async def enqueued() -> bool:
            try:
                await queue.enqueue(jobs(2), "batch")
            except QueueUnavailableError:
                return False
            return True

        await until(enqueued)
        assert await second.admin("DBSIZE")
        waiting = asyncio.create_task(queue.wait_batch("batch", PATIENCE_S))
        await asyncio.wait([waiting], timeout=0.2)
        lease = await one(queue)
        await queue.finish(lease, b"{}", success=True)
        second.stop()
        await refusal(queue.stats())
        second.start()
        await until(enqueued)
        await queue.finish(await one(connect(first.url)), b"{}", success=True)
        assert (await waiting).complete
        await move_all(second, first)
        await queue.enqueue([Job("moved", b"{}")])
        assert (await one(queue)).job_id == "moved"
        assert await first.admin("DBSIZE")
        assert not await second.admin("DBSIZE")
    finally:
        first.stop()
        second.stop()


async def test_sentinels(tmp_path: Path, connect: Connect) -> None:
    """The sentinels say who the master is; when another one takes over, the queue moves with it."""
    servers = []
    for name in ("master", "replica"):
        (tmp_path / name).mkdir()
        servers.append(RedisServer(tmp_path / name, f"masterauth {PASSWORD}", "repl-diskless-sync-delay 0"))
    master, replica = servers
    (tmp_path / "sentinel").mkdir()
    sentinel = RedisSentinel(tmp_path / "sentinel", master.port)
    try:
        master.start()
        replica.start()
        await replica.admin("REPLICAOF", "127.0.0.1", str(master.port))
        sentinel.start()
        places = f"127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}"
        queue = connect(f"redis+sentinel://{USER}:{PASSWORD}@{places}/queues/0")
        assert (
            await redis_connection.ping(f"redis+sentinel://{USER}:{PASSWORD}@{places}/queues") == await queue.health()
        )
        await queue.enqueue(jobs(2))
        lease = await one(queue)

        async def replicated() -> bool:
            copy: Any = await replica.admin("INFO", "replication")
            known: Any = await sentinel.admin("SENTINEL", "REPLICAS", "queues")
            return copy["master_link_status"] == "up" and copy["master_sync_in_progress"] == 0 and bool(known)

        await until(replicated)
        await master.admin("WAIT", "1", "60000")
        master.stop()
        finishing = asyncio.create_task(queue.finish(lease, b"{}", success=True))

        async def promoted() -> bool:
            with suppress(ResponseError):  # not yet, or already under way
                await sentinel.admin("SENTINEL", "FAILOVER", "queues")
            with suppress(CutError):  # by the sentinel, which cuts everybody off when it promotes
                role: Any = await replica.admin("ROLE")
                return role[0] == b"master"
            return False

        await until(promoted)
        assert await finishing
        assert (await one(queue)).job_id == "j1"
    finally:
        for process in (sentinel, *servers):
            process.stop()


async def test_no_sentinel_answers(connect: Connect) -> None:
    """Producers hear it within a second."""
    url = f"redis+sentinel://127.0.0.1:{free_port()}/queues"
    await refusal(connect(url).enqueue(jobs(1)))
    with pytest.raises(ConfigurationError, match="start it, or correct REDIS_URL"):
        await redis_connection.ping(url)


async def test_a_socket(tmp_path: Path, connect: Connect) -> None:
    """A server on this machine can be reached by a path."""
    server = RedisServer(tmp_path, f"unixsocket {tmp_path}/s")
    server.start()
    try:
        queue = connect(f"unix://{USER}:{PASSWORD}@{tmp_path}/s")
        await queue.enqueue(jobs(1))
        assert (await one(queue)).job_id == "j0"
    finally:
        server.stop()


async def test_a_subscription_is_asked_whether_it_stands(
    server: RedisServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence is no proof: one that answers stays, one that does not is replaced, and no result is missed."""
    monkeypatch.setattr(redis_connection, "_QUIET_S", 0.05)
    limit_answers(monkeypatch, 3.0)
    queue, worker = connect(server.url), connect(server.url)
    await queue.enqueue(jobs(2))
    first, second = await worker.lease(2, LONG_S)
    heard = asyncio.create_task(queue.wait_result("j0", PATIENCE_S))
    await asyncio.wait([heard], timeout=0.4)
    await worker.finish(first, b"{}", success=True)
    assert (await heard).state is JobState.SUCCEEDED
    heard = asyncio.create_task(queue.wait_result("j1", PATIENCE_S))
    await asyncio.wait([heard], timeout=0.2)
    server.process.send_signal(signal.SIGSTOP)
    await asyncio.wait([heard], timeout=4)
    server.process.send_signal(signal.SIGCONT)
    await worker.finish(second, b"{}", success=True)
    assert (await heard).state is JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("url", "open_"),
    [
        ("redis://:{}@queue.example:6379/0", True),
        ("redis://user:{}@127.0.0.1,10.0.0.7", True),
        ("redis+sentinel://user:{}@10.0.0.8/queues", True),
        ("redis://queue.example", False),
        ("redis://:{}@localhost", False),
        ("redis://:{}@[::1]:6379", False),
        ("rediss://:{}@queue.example", False),
        ("unix://user:{}@/run/valkey.sock", False),
    ],
)
async def test_a_password_that_crosses_a_network_openly(
    url: str, open_: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning for each place, and the password is not in it."""
    redis_connection._warn_once.cache_clear()
    for _ in range(2):
        await RedisBackend(url.format(PASSWORD)).close()
    assert ["travels openly: use rediss://" in text for text in _ours(caplog)] == [True] * open_
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize("option", ["nonsense=1", "socket_timeout=x"])
def test_a_url_that_redis_does_not_take(option: str) -> None:
    """A wrong option is an error of the configuration, at once."""
    with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1:1"):
        RedisBackend(f"redis://:{PASSWORD}@127.0.0.1:1/0?{option}")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without redis-py the text says how to install it."""
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'audio-api\[redis\]'"):
        RedisBackend("redis://127.0.0.1")


def test_pauses_grow_to_five_seconds() -> None:
    """Workers look for a server after 0.1 s, and then ever more rarely, but never more rarely than every 5 s."""
    pauses = backoff()
    assert [next(pauses) for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


async def test_what_strangers_publish_is_ignored(shared: RedisServer, connect: Connect) -> None:
    """Bytes that are no UTF-8 on the queue's channel end no wait for a result, and hold none up."""
    queue = connect(shared.url)
    await queue.enqueue(jobs(1))
    lease = await one(queue)
    waiting = asyncio.create_task(queue.wait_result("j0", PATIENCE_S))
    from redis.asyncio import Redis

    async with Redis.from_url(shared.admin_url) as stranger:
        channel = f"{queue._key}:done"
        async with asyncio.timeout(PATIENCE_S):
            while not await stranger.publish(channel, b"\xff\xfejob \x80"):  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.01)
    assert not waiting.done()
    await queue.finish(lease, b"{}", success=True)
    async with asyncio.timeout(PATIENCE_S):
        assert (await waiting).state is JobState.SUCCEEDED
