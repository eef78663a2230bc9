"""The connections to a Redis, and what its errors mean."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from math import inf
from typing import Any, TypeVar

from audio_api.errors import ConfigurationError, QueueClosedError, QueueServiceError, QueueUnavailableError
from audio_api.queues.base import heard
from audio_api.queues.failover import Failover
from audio_api.queues.lua import Script
from audio_api.queues.redis_answers import as_text

_logger = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")

ACCESS = (
    "resetchannels ~audio_api:* &audio_api:* -@all +@connection +@sortedset +@hash +@string +@list +eval "
    "+evalsha +time +pexpire +persist +del +exists +publish +subscribe -@dangerous"
)
"""All that ``ACL SETUSER`` must allow; add ``on`` and a password. ``+config|get`` lets a wrong server be warned of."""

# Producers hear within a second that the server does not answer.
ANSWER_LIMIT_S = 0.9
# A thousand jobs or a megabyte take well under a tenth of a second; a hundred times slower is no answer.
_LIMIT_PER_JOB_S, _LIMIT_PER_BYTE_S = 1e-3, 1e-6
# Seconds of silence after which the server is asked whether the subscription still stands.
_QUIET_S = 10.0
# One connection waits for jobs, and one hears of results.
_WAITING_CONNECTIONS = 2
# A person who asks whether the server is there can wait longer than a job.
_PING_LIMIT_S = 5.0

# Errors that pass by themselves: what Redis says first, or the class for which redis-py takes and strips that word.
_PASSING = {
    "OOM|OutOfMemoryError": "is out of memory (maxmemory)",
    "READONLY|ReadOnlyError": "is a read-only replica",
    "LOADING|BusyLoadingError": "is still loading its data",
    "MISCONF": "cannot save its data",
    "MASTERDOWN|MasterDownError": "is a replica without its master",
    "NOREPLICAS": "misses replicas",
    "BUSY": "is busy with a script",
    "CLUSTERDOWN|ClusterDownError": "is a cluster that is down",
    "TRYAGAIN|TryAgainError|AskError|MovedError": "moves its data",
    "UNBLOCKED": "became a replica",
}


@cache
def _warn_once(message: str, *details: str) -> None:
    _logger.warning(message, *details)


def answer_limit_s(jobs: int, size_bytes: int) -> float:
    """Seconds after which a server that was sent so many jobs, of this size together, does not answer."""
    return ANSWER_LIMIT_S + jobs * _LIMIT_PER_JOB_S + size_bytes * _LIMIT_PER_BYTE_S


def _ours(error: Exception, where: str) -> QueueServiceError | ConfigurationError:
    """The error of ours that says what this one of redis-py means."""
    from redis import exceptions

    denied = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
    if isinstance(error, denied):
        return ConfigurationError(
            f"the Redis server at {where} refuses REDIS_URL's user or password, or an access the queue needs: "
            f"its ACL must allow {ACCESS}"
        )
    if "DB index" in str(error):
        return ConfigurationError(
            f"the Redis server at {where} has no database of REDIS_URL's number: most have 0 to 15, a cluster only 0"
        )
    said = f"{type(error).__name__} {error}"
    for words, meaning in _PASSING.items():
        if re.search(rf"\b({words})\b", said):
            return QueueUnavailableError(f"the Redis server at {where} {meaning}")
    if isinstance(error, exceptions.ResponseError):
        return QueueServiceError(f"the Redis server at {where} refuses a step of the queue: {str(error)[:200]}")
    return QueueUnavailableError(f"the Redis server at {where} does not answer ({type(error).__name__})")


class RedisConnection:
    """One pool of connections to the server that takes commands now; no other code meets redis-py's errors.

    Args:
        url: As ``REDIS_URL``.
        pool_size: Connections for commands; two more wait for jobs and for results.

    Attributes:
        address: Where the URL leads, without user and password.
        failed_at: When, by the event loop's clock, the server last took no commands.
        closing: Set by ``close``.

    Raises:
        ConfigurationError: The URL is wrong or the extra is missing.
    """

    def __init__(self, url: str, pool_size: int) -> None:
        try:
            import redis.asyncio
        except ModuleNotFoundError:
            raise ConfigurationError("redis is not installed: pip install 'audio-api[redis]'") from None
        self._redis: Any = redis.asyncio  # which redis-py types in parts
        self._failover = Failover(url)
        self.address = self._failover.address
        if self._failover.travels_openly:
            _warn_once("the password for the Redis server at %s travels openly: use rediss://", self.address)
        self._pool_size = pool_size
        try:
            self._client = self._connect()
        except (TypeError, ValueError):
            raise self._failover.refusal() from None
        self._free = asyncio.Semaphore(pool_size)
        self._reader = asyncio.Lock()
        self._answered_at = self.failed_at = -inf
        self.closing = asyncio.Event()

    def _connect(self) -> Any:
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        self._place = self._failover.place
        options = {
            **self._failover.options,
            "retry": Retry(NoBackoff(), 0),
            # The older protocol: in the newer one redis-py asks for notices that only a cloud's servers know.
            "protocol": 2,
            "socket_timeout": None,
            "socket_connect_timeout": ANSWER_LIMIT_S,
        }
        pool = self._redis.ConnectionPool(max_connections=self._pool_size + _WAITING_CONNECTIONS, **options)
        pool.make_connection()  # or else the first command would stumble over an option
        return self._redis.Redis.from_pool(pool)

    async def _move(self) -> None:
        """Connect to where the failover leads, unless that is here."""
        if self._failover.place == self._place:
            return
        _logger.info("the queue at %s moves to %s", self.address, self._failover.place)
        old, self._client = self._client, self._connect()
        await _hang_up(old)

    def refuse_if_closed(self) -> None:
        """Raise ``QueueClosedError`` after ``close``."""
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
            if isinstance(error, exceptions.AuthenticationError) and self._answered_at > -inf:
                # An access list that is being edited, or not loaded yet, must not cost what is in hand.
                ours = QueueUnavailableError(f"the Redis server at {self.address} refuses the user it took before")
            if isinstance(ours, QueueUnavailableError):
                self.failed_at = clock()
            # In the frames redis-py logs in: their variables hold the password.
            told: BaseException | None = error
            while told:
                told.__traceback__ = None
                told = told.__cause__ or told.__context__
            raise ours from None

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """Wait for a free connection, as long as the server answers those who have one."""
        clock = asyncio.get_running_loop().time
        while True:
            try:
                async with asyncio.timeout(ANSWER_LIMIT_S):
                    await self._free.acquire()
                break
            except TimeoutError:
                if clock() - self._answered_at > ANSWER_LIMIT_S:
                    raise QueueUnavailableError(f"the Redis server at {self.address} does not answer") from None
        try:
            yield
        finally:
            self._free.release()

    async def command(self, *args: Any, limit_s: float = ANSWER_LIMIT_S) -> Any:
        """Send one command, which may be repeated."""
        return await self._reliably(lambda: self._execute(*args), limit_s)

    async def run(
        self, script: Script, key: str, args: Sequence[Any], *, if_unknown: Sequence[Any], limit_s: float
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

        async with self._slot(), self._answering(limit_s):
            for _ in range(2):
                failed = self._place
                try:
                    return await attempt()
                except (AuthenticationError, BusyLoadingError):  # connection errors for redis-py, but no cuts
                    raise
                except (CutError, MovedError, ReadOnlyError) as error:
                    # A connection may also have been cut long ago, while it was idle, or by our own end.
                    self.refuse_if_closed()
                    await self._failover.follow(error, failed)
                    await self._move()
            return await attempt()

    async def _execute(self, *args: Any) -> Any:
        await self._failover.locate()
        await self._move()
        return await self._client.execute_command(*args)

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
            async with self._answering(block_s + ANSWER_LIMIT_S):
                await self._client.execute_command("BLPOP", key, f"{block_s:.3f}")
        finally:
            self._reader.release()

    async def subscribe(self, channel: str) -> AsyncGenerator[str]:
        """What is published, preceded by an empty string as soon as nothing can be missed any more.

        Raises:
            QueueUnavailableError: The subscription broke, also by silence.
        """
        async with self._client.pubsub() as channels:
            async with self._answering(ANSWER_LIMIT_S):
                await channels.subscribe(channel)
            asked = False
            while True:
                async with self._answering(_QUIET_S + ANSWER_LIMIT_S):
                    message = await channels.get_message(timeout=_QUIET_S)
                    if message is None and asked:
                        raise TimeoutError
                    if message is None:
                        await channels.ping()
                asked = message is None
                if message and message["type"] == "subscribe":
                    yield ""
                elif message and message["type"] == "message":
                    yield as_text(message["data"])

    @contextmanager
    def understood(self) -> Iterator[None]:
        """Raise ``QueueServiceError`` when an answer that is read within is not what a Redis answers."""
        try:
            yield
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise QueueServiceError(
                f"the server at {self.address} answers what no Redis does ({type(error).__name__}): correct REDIS_URL"
            ) from None

    async def introduce(self, limit_s: float = ANSWER_LIMIT_S) -> str:
        """Ask for the server's name and version; HELLO is allowed where INFO is not."""
        answer = await self.command("HELLO", limit_s=limit_s)
        with self.understood():
            known = dict(zip(answer[::2], answer[1::2], strict=True))
            return f"{as_text(known[b'server'])} {as_text(known[b'version'])}"

    async def inspect(self) -> bool:
        """Warn once of settings that lose jobs, where the access list lets us see them."""
        from redis.exceptions import ResponseError

        found: dict[bytes, bytes] = {}

        async def look() -> None:
            with suppress(ResponseError):
                for name in ("maxmemory-policy", "appendonly", "save"):
                    answer = await self._execute("CONFIG", "GET", name)
                    with self.understood():
                        key, value = answer
                        found[key] = value

        await self._reliably(look, ANSWER_LIMIT_S)
        risks = []
        if found.get(b"maxmemory-policy", b"noeviction") != b"noeviction":
            risks.append("maxmemory-policy is not noeviction: a full server throws jobs away")
        if (found.get(b"appendonly"), found.get(b"save")) == (b"no", b""):
            risks.append("neither appendonly nor save is set: a restart loses every job")
        if risks:
            _warn_once("the Redis server at %s may lose jobs: %s", self.address, "; ".join(risks))
        return True

    async def pause(self, pause_s: float) -> None:
        """Wait, but not beyond ``close``."""
        await heard(self.closing, max(0.0, pause_s))
        self.refuse_if_closed()

    async def close(self) -> None:
        """End every call with ``QueueClosedError``, and the connections."""
        self.closing.set()
        await _hang_up(self._client)


async def _hang_up(client: Any) -> None:
    await client.connection_pool.disconnect(inuse_connections=True)
    await client.aclose()


async def ping(url: str) -> str:
    """Connect, log in, and ask the server who it is, such as ``"valkey 9.1.2"``.

    Args:
        url: As ``REDIS_URL``.

    Raises:
        ConfigurationError: No usable server is there, or the extra is missing. The text never holds the password.
    """
    server = RedisConnection(url, pool_size=1)
    try:
        return await server.introduce(_PING_LIMIT_S)
    except QueueServiceError as error:
        raise ConfigurationError(f"{error}: start it, or correct REDIS_URL") from None
    finally:
        await server.close()
