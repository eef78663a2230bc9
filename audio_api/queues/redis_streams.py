"""Jobs that wait in Redis: streams with a consumer group, on any number of machines. The only file that imports redis.

Redis 6.2 or newer, or Valkey. The user that the URL names needs no more than ``ACCESS``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import secrets
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from math import inf
from typing import Any, TypeVar, cast
from urllib.parse import SplitResult, parse_qs, urlsplit, urlunsplit

from audio_api.config import is_loopback
from audio_api.errors import (
    ConfigurationError,
    QueueClosedError,
    QueueServiceError,
    QueueUnavailableError,
    TaskNotFoundError,
)
from audio_api.queues import scripts
from audio_api.queues.base import (
    DEFAULT_RESULT_TTL_S,
    BatchStatus,
    DeadLetter,
    Job,
    JobState,
    JobStatus,
    Lease,
    QueueBackend,
    QueueStats,
    check_id,
    check_jobs,
    check_size,
    conflict,
    encode_progress,
    full,
)
from audio_api.queues.limits import CallLimits, RedisLimits

_logger = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")
_Status = TypeVar("_Status", JobStatus, BatchStatus)

ACCESS = (
    "resetchannels ~audio_api:* &audio_api:* -@all +@connection +@stream +@sortedset +@hash +@string +@list +eval "
    "+evalsha +time +pexpire +persist +del +exists +publish +subscribe -@dangerous"
)
"""All that ``ACL SETUSER`` must allow; add ``on`` and a password. ``+config|get`` lets a wrong server be warned of."""

# A server on the same network answers within milliseconds; one that speaks another protocol never does.
_PING_LIMIT_S = 5.0
_URL_FORM = (
    "redis://[user][:password]@host[:port][,host[:port]...][/database] with special characters percent-encoded "
    "(rediss:// for TLS, unix://path for a socket, redis+sentinel://host[:port],.../service for sentinels)"
)


async def ping(url: str) -> str:
    """Connect, log in, and ask the server who it is.

    Args:
        url: As ``REDIS_URL``.

    Returns:
        The server's name and version, such as ``"valkey 9.1.2"``.

    Raises:
        ConfigurationError: No usable server is there, or the extra is missing. The text never holds the password.
    """
    try:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import AuthenticationError, RedisError
    except ModuleNotFoundError:
        raise ConfigurationError("redis is not installed: pip install 'audio-api[redis]'") from None
    address = _address(url)
    if "," in address or "+sentinel" in url:
        return await _ping_one_of_several(url)
    try:
        # HELLO rather than INFO: an access list for the queue need not allow INFO.
        async with (
            asyncio.timeout(_PING_LIMIT_S),
            # The older protocol, because in the newer one redis-py asks for notices that only a cloud's servers know.
            Redis.from_url(url, protocol=2, decode_responses=True, retry=Retry(NoBackoff(), 0)) as client,
        ):
            answer = await cast(Any, client).execute_command("HELLO")  # redis-py leaves it untyped
    except AuthenticationError:
        raise ConfigurationError(f"the Redis server at {address} refuses REDIS_URL's user or password") from None
    except (RedisError, OSError, TypeError, ValueError) as error:  # the last two: an option redis does not take
        raise ConfigurationError(
            f"no Redis server can be used at {address} ({type(error).__name__}): start it, or correct REDIS_URL"
        ) from None
    known = dict(zip(answer[::2], answer[1::2], strict=True))
    return f"{known['server']} {known['version']}"


async def _ping_one_of_several(url: str) -> str:
    server = _Server(url, pool_size=1)
    try:
        return await server.introduce()
    except QueueServiceError as error:
        raise ConfigurationError(f"{error}: start it, or correct REDIS_URL") from None
    finally:
        await server.close()


def _address(url: str) -> str:
    """Where the URL leads, without user and password, once nothing in it is dangerous or ambiguous."""
    parts = urlsplit(url)
    _refuse_unverified_tls(parts)
    # An unencoded "/", "?" or "#" in the password ends the host part early, and takes the password for host and port.
    ambiguous = "@" in parts.path + parts.query + parts.fragment
    try:
        hosts = [f"{host}:{port}" for host, port in _hosts(parts)]
    except ValueError:
        ambiguous = True
    if ambiguous:
        raise ConfigurationError(f"REDIS_URL cannot be read: it must be {_URL_FORM}")
    return parts.path if parts.scheme == "unix" else ",".join(hosts)


def _hosts(parts: SplitResult) -> list[tuple[str, int]]:
    standard = 26379 if parts.scheme.endswith("+sentinel") else 6379
    each = [urlsplit(f"//{host}") for host in parts.netloc.rpartition("@")[2].split(",")]
    return [(host.hostname or "localhost", host.port or standard) for host in each]


def _places(url: str) -> tuple[str, deque[tuple[str, int]], str]:
    """The URL for one host, as redis-py reads it; all hosts; and the service that sentinels know, or nothing."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return url, deque([("", 1)]), ""
    scheme, _, sentinel = parts.scheme.partition("+")
    path, service = parts.path, ""
    if sentinel:
        service, _, database = parts.path.strip("/").partition("/")
        path = f"/{database}"
    user, at, hosts = parts.netloc.rpartition("@")
    one = parts._replace(scheme=scheme, netloc=f"{user}{at}{hosts.split(',')[0]}", path=path)
    return urlunsplit(one), deque(_hosts(parts)), service


def _host_and_port(place: tuple[str, int]) -> dict[str, Any]:
    """Nothing for a socket's path, which has neither."""
    return {"host": place[0], "port": place[1]} if place[0] else {}


def _travels_openly(parts: SplitResult) -> bool:
    """Whether the password crosses a network without TLS."""
    hosts = _hosts(parts) if parts.scheme in {"redis", "redis+sentinel"} else []
    return bool(parts.password) and not all(is_loopback(host) for host, _ in hosts)


def _refuse_unverified_tls(parts: SplitResult) -> None:
    options = parse_qs(parts.query)
    verified = all(value == "required" for value in options.get("ssl_cert_reqs", []))
    named = not {"0", "f", "false", "n", "no"} & {value.lower() for value in options.get("ssl_check_hostname", [])}
    if not (verified and named):
        raise ConfigurationError(
            "REDIS_URL switches the check of the server's certificate off (ssl_cert_reqs, ssl_check_hostname), so that "
            "anybody in between could read the jobs: leave these options out"
        )


# Producers hear within a second that the server does not answer.
_ANSWER_LIMIT_S = 0.9
# A thousand jobs or a megabyte take well under a tenth of a second; a hundred times slower is no answer.
_LIMIT_PER_JOB_S, _LIMIT_PER_BYTE_S = 1e-3, 1e-6
# Most steps of one kind that share a round trip; other steps need not wait for them longer than a few milliseconds.
_MOST_TOGETHER = 100
# Longest blocking read. Shorter than any timeout of a proxy in between, and still a third of a command per second.
_LONGEST_BLOCK_S = 4.0
# Seconds of silence after which the server is asked whether the subscription still stands.
_QUIET_S = 10.0
# A sentinel that does not answer at once must leave time to ask the others.
_SENTINEL_LIMIT_S = 0.25
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0

# What Redis says first in an error that passes by itself.
_PASSING = {
    "OOM": "is out of memory (maxmemory)",
    "READONLY": "is a read-only replica",
    "LOADING": "is still loading its data",
    "MISCONF": "cannot save its data",
    "MASTERDOWN": "is a replica without its master",
    "NOREPLICAS": "misses replicas",
    "BUSY": "is busy with a script",
    "CLUSTERDOWN": "is a cluster that is down",
    "TRYAGAIN": "moves its data",
    "UNBLOCKED": "became a replica",
}
# redis-py takes some of these words for a class and strips them.
_WORD_OF_CLASS = {
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "BusyLoadingError": "LOADING",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "TryAgainError": "TRYAGAIN",
    "AskError": "TRYAGAIN",
    "MovedError": "TRYAGAIN",
}
_PASSING_WORD = re.compile(rf"\b({'|'.join(_PASSING)})\b")


@cache
def _warn_once(message: str, *details: str) -> None:
    _logger.warning(message, *details)


_Place = tuple[str, int]
_NOWHERE: _Place = ("", 0)
"""The place of a master before any sentinel was asked."""


def _limit_s(jobs: int, size_bytes: int) -> float:
    return _ANSWER_LIMIT_S + jobs * _LIMIT_PER_JOB_S + size_bytes * _LIMIT_PER_BYTE_S


def _pauses() -> Iterator[float]:
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _ours(error: Exception, address: str) -> QueueServiceError | ConfigurationError:
    """The error of ours that says what this one of redis-py means."""
    from redis import exceptions

    denied = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
    if isinstance(error, denied):
        return ConfigurationError(
            f"the Redis server at {address} refuses REDIS_URL's user or password, or an access the queue needs: "
            f"its ACL must allow {ACCESS}"
        )
    word = _PASSING_WORD.search(_WORD_OF_CLASS.get(type(error).__name__) or str(error))
    if word:
        return QueueUnavailableError(f"the Redis server at {address} {_PASSING[word[0]]}")
    if isinstance(error, exceptions.ResponseError):
        return QueueServiceError(f"the Redis server at {address} refuses a step of the queue: {str(error)[:200]}")
    return QueueUnavailableError(f"the Redis server at {address} does not answer ({type(error).__name__})")


@dataclass(frozen=True, slots=True)
class _Script:
    text: str
    sha: str

    @classmethod
    def of(cls, body: str, queue: str) -> _Script:
        text = scripts.script(body, queue)
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class _Server:
    """The connections to one server, and the only place that meets redis-py's errors.

    ``_quick`` serves commands that are answered at once; ``_patient`` has a connection for blocking reads and one for
    the subscription.
    """

    def __init__(self, url: str, pool_size: int) -> None:
        try:
            import redis.asyncio
            from redis.asyncio.connection import parse_url
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ModuleNotFoundError:
            raise ConfigurationError("redis is not installed: pip install 'audio-api[redis]'") from None
        self._redis: Any = redis.asyncio  # which redis-py types in parts
        self.address = _address(url)
        if _travels_openly(urlsplit(url)):
            _warn_once("the password for the Redis server at %s travels openly: use rediss://", self.address)
        plain, self._hosts, self._service = _places(url)
        self._pool_size = pool_size
        try:
            self._options: dict[str, Any] = {
                **parse_url(plain),
                "retry": Retry(NoBackoff(), 0),
                "protocol": 2,
                "socket_timeout": None,
                "socket_connect_timeout": _ANSWER_LIMIT_S,
            }
            self._place = _NOWHERE if self._service else self._hosts[0]
            self._quick, self._patient = self._clients()
        except (TypeError, ValueError):
            raise ConfigurationError(f"REDIS_URL for {self.address} holds an option redis does not take") from None
        self._free = asyncio.Semaphore(pool_size)
        self._reader = asyncio.Lock()
        self._answered_at = self.failed_at = -inf
        self.closing = asyncio.Event()

    def _clients(self) -> list[Any]:
        """For commands that are answered at once, and for a blocking read and a subscription."""
        options = {**self._options, **_host_and_port(self._place)}
        pools = [self._redis.ConnectionPool(max_connections=size, **options) for size in (self._pool_size, 2)]
        pools[0].make_connection()  # or else the first command would stumble over an option
        return [self._redis.Redis.from_pool(pool) for pool in pools]

    async def _move(self, place: _Place) -> None:
        if place == self._place:
            return
        _logger.info("the queue at %s moves to %s", self.address, place)
        old, self._place = (self._quick, self._patient), place
        self._quick, self._patient = self._clients()
        await _hang_up(*old)

    async def _follow(self, error: Exception, failed: _Place) -> None:
        """Find the server that takes commands now: as a cluster says, as sentinels say, or the next of several."""
        from redis.exceptions import MovedError

        if isinstance(error, MovedError):
            await self._move((error.host or failed[0], error.port))
        elif self._service:
            await self._move(await self._master())
        elif failed == self._place and len(self._hosts) > 1:
            self._hosts.rotate(-1)
            await self._move(self._hosts[0])

    async def _master(self) -> _Place:
        from redis.exceptions import ConnectionError as CutError
        from redis.exceptions import RedisError

        own = {name: value for name, value in self._options.items() if name not in {"username", "password", "db"}}
        own |= {"socket_connect_timeout": _SENTINEL_LIMIT_S, "socket_timeout": _SENTINEL_LIMIT_S}
        for place in self._hosts:
            with suppress(RedisError, OSError):
                pool = self._redis.ConnectionPool(**{**own, **_host_and_port(place)})
                async with self._redis.Redis.from_pool(pool) as sentinel:
                    found = await sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
                if found:
                    return _text(found[0]), int(found[1])
        raise CutError("no sentinel knows the master")

    def refuse_if_closed(self) -> None:
        if self.closing.is_set():
            raise QueueClosedError("this queue was closed; make another RedisBackend")

    @asynccontextmanager
    async def _answering(self, limit_s: float) -> AsyncIterator[None]:
        """Turn whatever goes wrong within into an error of ours."""
        from redis import exceptions

        clock = asyncio.get_running_loop().time
        self.refuse_if_closed()
        try:
            async with asyncio.timeout(limit_s):
                yield
            self._answered_at = clock()
        except (exceptions.RedisError, OSError) as error:
            self.refuse_if_closed()
            ours = _ours(error, self.address)
            if isinstance(ours, QueueUnavailableError):
                self.failed_at = clock()
            raise ours from None

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[None]:
        """Wait for a free connection, as long as the server answers those who have one."""
        clock = asyncio.get_running_loop().time
        while True:
            try:
                async with asyncio.timeout(_ANSWER_LIMIT_S):
                    await self._free.acquire()
                break
            except TimeoutError:
                if clock() - self._answered_at > _ANSWER_LIMIT_S:
                    raise QueueUnavailableError(f"the Redis server at {self.address} does not answer") from None
        try:
            yield
        finally:
            self._free.release()

    async def command(self, *args: Any) -> Any:
        """Send one command, which may be repeated."""
        return await self._reliably(lambda: self._execute(*args), _ANSWER_LIMIT_S)

    async def run(
        self, script: _Script, key: str, args: Sequence[Any], *, if_unknown: Sequence[Any], limit_s: float
    ) -> Any:
        """Run a script; a server that does not know it is sent its text, with ``if_unknown`` as its arguments."""
        from redis.exceptions import NoScriptError

        async def evaluate() -> Any:
            try:
                return await self._execute("EVALSHA", script.sha, 1, key, *args)
            except NoScriptError:
                return await self._execute("EVAL", script.text, 1, key, *if_unknown)

        return await self._reliably(evaluate, limit_s)

    async def _reliably(self, attempt: Callable[[], Awaitable[_Answer]], limit_s: float) -> _Answer:
        from redis.exceptions import AuthenticationError, BusyLoadingError, MovedError, ReadOnlyError
        from redis.exceptions import ConnectionError as CutError

        async with self._connection(), self._answering(limit_s):
            for _ in range(2):
                failed = self._place
                try:
                    return await attempt()
                except (AuthenticationError, BusyLoadingError):  # connection errors for redis-py, but no cuts
                    raise
                except (CutError, MovedError, ReadOnlyError) as error:
                    # A connection may also have been cut long ago, while it was idle, or by our own end.
                    self.refuse_if_closed()
                    await self._follow(error, failed)
            return await attempt()

    async def _execute(self, *args: Any) -> Any:
        if self._place == _NOWHERE:
            await self._move(await self._master())
        return await self._quick.execute_command(*args)

    async def pop(self, key: str, limit_s: float) -> None:
        """Return when the list has an item, which is taken, or after ``limit_s``. Callers take turns."""
        clock = asyncio.get_running_loop().time
        give_up = clock() + limit_s
        try:
            async with asyncio.timeout(limit_s):
                await self._reader.acquire()
        except TimeoutError:
            return
        try:
            block_s = max(give_up - clock(), 0.001)
            async with self._answering(block_s + _ANSWER_LIMIT_S):
                await self._patient.execute_command("BLPOP", key, f"{block_s:.3f}")
        finally:
            self._reader.release()

    async def subscribe(self, channel: str) -> AsyncGenerator[str]:
        """What is published, preceded by an empty string as soon as nothing can be missed any more.

        Raises:
            QueueUnavailableError: The subscription broke, also by silence.
        """
        async with self._patient.pubsub() as channels:
            async with self._answering(_ANSWER_LIMIT_S):
                await channels.subscribe(channel)
            asked = False
            while True:
                async with self._answering(_QUIET_S + _ANSWER_LIMIT_S):
                    message = await channels.get_message(timeout=_QUIET_S)
                    if message is None and asked:
                        raise TimeoutError
                    if message is None:
                        await channels.ping()
                asked = message is None
                if message and message["type"] == "subscribe":
                    yield ""
                elif message and message["type"] == "message":
                    yield message["data"].decode()

    async def introduce(self) -> str:
        """Ask for the server's name and version; HELLO is allowed where INFO is not."""
        answer = await self.command("HELLO")
        known = dict(zip(answer[::2], answer[1::2], strict=True))
        return f"{_text(known[b'server'])} {_text(known[b'version'])}"

    async def inspect(self) -> bool:
        """Warn once of settings that lose jobs, where the access list lets us see them."""
        from redis.exceptions import ResponseError

        found: dict[bytes, bytes] = {}

        async def look() -> None:
            with suppress(ResponseError):
                for name in ("maxmemory-policy", "appendonly", "save"):
                    key, value = await self._execute("CONFIG", "GET", name)
                    found[key] = value

        await self._reliably(look, _ANSWER_LIMIT_S)
        risks = []
        if found.get(b"maxmemory-policy", b"noeviction") != b"noeviction":
            risks.append("maxmemory-policy is not noeviction: a full server throws jobs away")
        if (found.get(b"appendonly"), found.get(b"save")) == (b"no", b""):
            risks.append("neither appendonly nor save is set: a restart loses every job")
        if risks:
            _warn_once("the Redis server at %s may lose jobs: %s", self.address, "; ".join(risks))
        return True

    async def pause(self, pause_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self.closing.wait()
        self.refuse_if_closed()

    async def close(self) -> None:
        self.closing.set()
        await _hang_up(self._quick, self._patient)


async def _hang_up(*clients: Any) -> None:
    for client in clients:
        await client.connection_pool.disconnect(inuse_connections=True)
        await client.aclose()


class _News:
    """Wakes those who wait for a job or a batch to end; one subscription for all of them, while there are any."""

    def __init__(self, server: _Server, channel: str) -> None:
        self._server = server
        self._channel = channel
        self._bells: dict[str, set[asyncio.Event]] = {}
        self._listener: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def about(self, topic: str) -> AsyncIterator[asyncio.Event]:
        bell = asyncio.Event()
        self._bells.setdefault(topic, set()).add(bell)
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listen())
        try:
            yield bell
        finally:
            self._bells[topic].discard(bell)
            if not self._bells[topic]:
                del self._bells[topic]

    async def _listen(self) -> None:
        pauses = _pauses()
        while self._bells:
            try:
                async with aclosing(self._server.subscribe(self._channel)) as topics:
                    async for topic in topics:
                        pauses = _pauses()
                        self._ring(topic)
                        if not self._bells:
                            break
            except (QueueServiceError, ConfigurationError):
                # Without news, who waits must look for themselves, at this pace.
                self._ring("")
                await self._server.pause(next(pauses))

    def _ring(self, topic: str) -> None:
        """Wake who waits for this; for the empty topic everybody, as something may have been missed."""
        for name in [topic] if topic else list(self._bells):
            for bell in self._bells.get(name, ()):
                bell.set()

    async def close(self) -> None:
        self._ring("")
        while self._listener and not self._listener.done():
            self._listener.cancel()
            # The client may lose a cancellation while it connects anew.
            await asyncio.wait([self._listener], timeout=1)
        if self._listener and not self._listener.cancelled():
            self._listener.exception()


class _Together:
    """Calls of one kind that share round trips: while one trip is under way, the calls for the next one gather.

    Args:
        run: Makes some calls in one trip, and returns their answers.
    """

    def __init__(self, run: Callable[[Sequence[Sequence[Any]]], Awaitable[Sequence[Any]]]) -> None:
        self._run = run
        self._under_way = asyncio.Lock()
        self._calls: list[Sequence[Any]] = []
        self._next: asyncio.Task[list[Any]] | None = None

    async def call(self, *args: Any) -> Any:
        """Make one call. When this is cancelled, it may be made all the same."""
        if self._next is None:
            self._next = asyncio.create_task(self._make())
        trip, place = self._next, len(self._calls)
        self._calls.append(args)
        return (await asyncio.shield(trip))[place]

    async def _make(self) -> list[Any]:
        async with self._under_way:
            calls, self._calls, self._next = self._calls, [], None
            answers: list[Any] = []
            for start in range(0, len(calls), _MOST_TOGETHER):
                answers += await self._run(calls[start : start + _MOST_TOGETHER])
            return answers


class RedisBackend(QueueBackend):
    """A queue in Redis. Handles of one name share it, in any number of processes on any number of machines.

    Args:
        url: As ``REDIS_URL``: ``redis://``, ``rediss://`` or ``unix://``, for a cluster with some of its nodes,
            comma-separated; or ``redis+sentinel://host:port,host:port/service/database``.
        queue: The queue's name.
        pool_size: Connections for commands; two more wait for jobs and for results.
        max_size: How many jobs may wait, delayed ones included; ``None``: any number.
        result_ttl_s: Seconds results are kept, from completion on, as this handle's calls decide.

    Raises:
        ConfigurationError: The URL is wrong or the extra is missing.
    """

    durable = True

    def __init__(
        self,
        url: str,
        queue: str = "audio",
        *,
        pool_size: int = 10,
        max_size: int | None = None,
        result_ttl_s: float = DEFAULT_RESULT_TTL_S,
    ) -> None:
        self._server = _Server(url, pool_size)
        self._key = f"audio_api:{{{check_id(queue)}}}"
        self._news = _News(self._server, f"{self._key}:done")
        self._scripts = {name: _Script.of(body, queue) for name, body in scripts.STEPS.items()}
        self._together = {step: _Together(partial(self._run_all, step)) for step in ("finish", "release", "bury")}
        self._limits = RedisLimits(self._run)
        self._max_size = max_size
        self._ttl_ms = _ms(result_ttl_s)
        self._name = secrets.token_hex(8)
        self._unanswered: list[str] = []
        self._inspected = False

    async def enqueue(self, jobs: Sequence[Job], batch_id: str | None = None) -> None:
        check_jobs(jobs, batch_id)
        args: list[Any] = [batch_id or "", "" if self._max_size is None else self._max_size]
        for job in jobs:
            args += (job.id, job.payload, job.priority, "" if job.not_before is None else _ms(job.not_before))
        limit_s = _limit_s(len(jobs), sum(len(job.payload) for job in jobs))
        answer, *details = await self._run("enqueue", *args, limit_s=limit_s)
        if answer == b"full":
            raise full(details[0], details[1], self._max_size or 0)
        if answer == b"batch":
            raise conflict(f"batch {batch_id} is known with other jobs")
        if answer == b"job":
            raise conflict(f"job {_text(details[0])} is known with another payload or in another batch")

    async def _run(
        self, step: str, *args: Any, if_unknown: Sequence[Any] | None = None, limit_s: float = _ANSWER_LIMIT_S
    ) -> Any:
        if not self._inspected:
            self._inspected = await self._server.inspect()
        return await self._server.run(
            self._scripts[step], self._key, args, if_unknown=if_unknown or args, limit_s=limit_s
        )

    async def lease(
        self, max_jobs: int, lease_s: float, wait_s: float = 0.0, *, spare_last: bool = False
    ) -> list[Lease]:
        clock = asyncio.get_running_loop().time
        give_up = clock() + wait_s
        pauses = _pauses()
        while True:
            last = clock() >= give_up
            try:
                leases, due_s = await self._take(max_jobs, lease_s, spare_last)
                if leases or last:
                    return leases
                # Half a lease, because one that is given out in the meantime may also run out in the meantime.
                await self._server.pop(
                    f"{self._key}:wake", min(give_up - clock(), due_s, lease_s / 2, _LONGEST_BLOCK_S)
                )
                pauses = _pauses()
            except QueueUnavailableError:
                if last:
                    raise
                await self._server.pause(max(0.0, min(next(pauses), give_up - clock())))

    async def _take(self, max_jobs: int, lease_s: float, spare_last: bool) -> tuple[list[Lease], float]:
        """The jobs that can be had now, and the seconds until one may appear by itself."""
        call = self._unanswered.pop() if self._unanswered else secrets.token_hex(8)
        try:
            answer, *details = await self._ask(max_jobs, lease_s, call, spare_last)
            if answer == b"expired":
                await self._run("reclaim", self._ttl_ms)
                answer, *details = await self._ask(max_jobs, lease_s, call, spare_last, reclaim="done")
        except BaseException:
            # Also when cancelled: the server may have given jobs to this call, and the next one asks for them.
            self._unanswered.append(call)
            raise
        taken, due_ms = details
        return [_lease(each, lease_s) for each in taken], inf if due_ms < 0 else due_ms / 1000

    async def _ask(self, max_jobs: int, lease_s: float, call: str, spare_last: bool, *, reclaim: str = "first") -> Any:
        # A server that was frozen, read-only or away comes back with every lease run out, before those who hold them
        # could renew: they get the time.
        if asyncio.get_running_loop().time() - self._server.failed_at < lease_s:
            reclaim = "never"
        args = (max_jobs, _ms(lease_s), self._name, call, reclaim, self._ttl_ms, int(spare_last))
        return await self._run("lease", *args, 0, if_unknown=(*args, 1))

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        if not leases:
            return []
        args = [arg for lease in leases for arg in (lease.job_id, lease.token, _ms(lease.lease_s))]
        kept = {int(token) for token in await self._run("renew", *args)}
        return [lease for lease in leases if lease.token in kept]

    async def _insist(self, step: str, lease: Lease, *args: Any) -> bool:
        """Run a step until the server answers. It is told which call this is, so that a lost reply does not matter."""
        this_call, pauses = secrets.token_hex(8), _pauses()
        while True:
            try:
                return bool(await self._together[step].call(lease.job_id, lease.token, this_call, *args))
            except QueueUnavailableError as error:
                pause_s = next(pauses)
                _logger.warning("%s of job %s waits %.1f s: %s", step, lease.job_id, pause_s, error)
                await self._server.pause(pause_s)

    async def _run_all(self, step: str, calls: Sequence[Sequence[Any]]) -> Sequence[Any]:
        args = list(chain.from_iterable(calls))
        limit_s = _limit_s(len(calls), sum(len(arg) for arg in args if isinstance(arg, bytes)))
        return cast("Sequence[Any]", await self._run(step, self._ttl_ms, *args, limit_s=limit_s))

    async def finish(self, lease: Lease, result: bytes, *, success: bool) -> bool:
        check_size(result, f"result of job {lease.job_id}")
        return await self._insist("finish", lease, (JobState.SUCCEEDED if success else JobState.FAILED).value, result)

    async def release(self, lease: Lease, delay_s: float = 0.0, *, count_delivery: bool = False) -> bool:
        return await self._insist("release", lease, _ms(delay_s), int(count_delivery))

    async def bury(self, lease: Lease, reason: str) -> bool:
        return await self._insist("bury", lease, reason)

    async def progress(self, lease: Lease, progress: Mapping[str, Any]) -> bool:
        return bool(await self._run("progress", lease.job_id, lease.token, encode_progress(progress)))

    async def cancel(self, job_id: str) -> bool:
        return bool(await self._run("cancel", job_id, self._ttl_ms))

    async def status(self, job_id: str) -> JobStatus | None:
        found = await self._run("status", job_id)
        return _status(*found[0]) if found else None

    async def wait_result(self, job_id: str, timeout_s: float | None = None) -> JobStatus:
        async def look() -> JobStatus:
            if status := await self.status(job_id):
                return status
            raise TaskNotFoundError(f"there is no job {job_id}, or its result has expired")

        return await self._until(f"job {job_id}", look, lambda status: status.state.final, timeout_s)

    async def batch_status(self, batch_id: str) -> BatchStatus | None:
        total, started, *ended = await self._run("batch_status", batch_id)
        if total is None:
            return None
        succeeded, failed, cancelled, dead = (int(count or 0) for count in ended)
        return BatchStatus(
            batch_id=batch_id,
            total=int(total),
            succeeded=succeeded,
            failed=failed,
            cancelled=cancelled,
            dead=dead,
            started=bool(started),
        )

    async def batch_jobs(self, batch_id: str) -> list[JobStatus]:
        return [_status(*each) for each in await self._run("batch_jobs", batch_id)]

    async def wait_batch(
        self, batch_id: str, timeout_s: float | None = None, more_than: int | None = None
    ) -> BatchStatus:
        async def look() -> BatchStatus:
            if status := await self.batch_status(batch_id):
                return status
            raise TaskNotFoundError(f"there is no batch {batch_id}, or it has expired")

        def enough(status: BatchStatus) -> bool:
            return status.complete or (more_than is not None and status.finished > more_than)

        return await self._until(f"batch {batch_id}", look, enough, timeout_s)

    async def _until(
        self,
        topic: str,
        look: Callable[[], Awaitable[_Status]],
        enough: Callable[[_Status], bool],
        timeout_s: float | None,
    ) -> _Status:
        clock = asyncio.get_running_loop().time
        give_up = inf if timeout_s is None else clock() + timeout_s
        status = await look()
        if enough(status) or clock() >= give_up:
            return status
        async with self._news.about(topic) as bell:
            while not enough(status) and clock() < give_up:
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if give_up == inf else give_up - clock()):
                        await bell.wait()
                bell.clear()
                status = await self._patiently(look, give_up)
        return status

    async def _patiently(self, look: Callable[[], Awaitable[_Status]], give_up: float) -> _Status:
        clock, pauses = asyncio.get_running_loop().time, _pauses()
        while True:
            try:
                return await look()
            except QueueUnavailableError:
                if clock() >= give_up:
                    raise
                await self._server.pause(max(0.0, min(next(pauses), give_up - clock())))

    async def stats(self) -> QueueStats:
        waiting, delayed, leased, dead, totals, oldest_ms = await self._run("stats")
        succeeded, failed, cancelled = (int(total or 0) for total in totals)
        return QueueStats(
            waiting={int(priority): count for priority, count in waiting},
            delayed=delayed,
            leased=leased,
            dead=dead,
            succeeded=succeeded,
            failed=failed,
            cancelled=cancelled,
            oldest_age_s=None if oldest_ms < 0 else oldest_ms / 1000,
        )

    async def list_dead(self, limit: int = 100, offset: int = 0) -> list[DeadLetter]:
        found = await self._run("list_dead", offset, offset + limit - 1) if limit > 0 else []
        return [_dead_letter(*each) for each in found]

    async def retry_dead(self, job_id: str) -> bool:
        return bool(await self._run("retry_dead", job_id))

    async def cleanup_expired(self) -> int:
        self._server.refuse_if_closed()
        return 0

    @property
    def limits(self) -> CallLimits:
        return self._limits

    async def health(self) -> str:
        # A write: a server that is full or read-only answers every question, but takes no job.
        await self._run("check")
        return await self._server.introduce()

    async def close(self) -> None:
        self._server.closing.set()
        await self._news.close()
        await self._server.close()


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _seconds(value: bytes | None) -> float | None:
    return None if value is None else int(value) / 1000


def _note(value: bytes | None) -> Mapping[str, Any] | None:
    return cast("Mapping[str, Any]", json.loads(value)) if value else None


def _lease(values: Sequence[Any], lease_s: float) -> Lease:
    job_id, payload, priority, batch_id, token, deliveries, progress = values
    return Lease(
        job_id=_text(job_id),
        payload=payload,
        priority=int(priority),
        batch_id=_text(batch_id) or None,
        token=int(token),
        deliveries=int(deliveries),
        lease_s=lease_s,
        progress=_note(progress),
    )


def _status(job_id: bytes, values: Sequence[Any]) -> JobStatus:
    state, priority, batch_id, deliveries, enqueued, started, finished, result, progress, reason = values
    return JobStatus(
        job_id=_text(job_id),
        state=JobState(_text(state)),
        priority=int(priority or 0),
        batch_id=_text(batch_id) if batch_id else None,
        deliveries=int(deliveries or 0),
        enqueued_at=int(enqueued) / 1000,
        started_at=_seconds(started),
        finished_at=_seconds(finished),
        result=result,
        progress=_note(progress),
        reason=_text(reason) if reason else None,
    )


def _dead_letter(job_id: bytes, values: Sequence[Any]) -> DeadLetter:
    payload, reason, deliveries, batch_id, buried = values
    return DeadLetter(
        job_id=_text(job_id),
        payload=payload,
        reason=_text(reason),
        deliveries=int(deliveries or 0),
        batch_id=_text(batch_id) if batch_id else None,
        buried_at=int(buried) / 1000,
    )
