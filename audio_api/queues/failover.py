"""What ``REDIS_URL`` says, and which of its servers takes the commands now."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit, urlunsplit

from audio_api.errors import ConfigurationError
from audio_api.urls import is_certificate_checked, is_loopback

Place = tuple[str, int]
"""Host and port; no host: the path of a socket, which the URL itself names, or a master that is not known yet."""

_NOWHERE: Place = ("", 0)
# A sentinel that does not answer at once must leave time to ask the others.
_SENTINEL_LIMIT_S = 0.25
_URL_FORM = (
    "redis://[user][:password]@host[:port][,host[:port]...][/database] with special characters percent-encoded "
    "(rediss:// for TLS, unix://path for a socket, redis+sentinel://host[:port],.../service for sentinels)"
)


class Failover:
    """The servers that a URL names.

    Args:
        url: As ``REDIS_URL``.

    Attributes:
        address: Where the URL leads, without user and password.
        place: The server that takes the commands, as far as is known.
        travels_openly: Whether the password crosses a network without TLS.

    Raises:
        ConfigurationError: Something in the URL is dangerous, ambiguous, or not understood by redis-py.
    """

    def __init__(self, url: str) -> None:
        from redis.asyncio.connection import parse_url

        parts = urlsplit(url)
        if not is_certificate_checked(parse_qs(parts.query)):
            raise ConfigurationError(
                "REDIS_URL switches the check of the server's certificate off (ssl_cert_reqs, ssl_check_hostname), so "
                "that others on the way could read the jobs: leave these options out"
            )
        try:
            self._hosts = deque(_hosts(parts))
        except ValueError:
            self._hosts = deque()
        # An unencoded "/", "?" or "#" in the password ends the host part early: it would be taken for host and port.
        if not self._hosts or not parts.scheme or "@" in parts.path + parts.query + parts.fragment:
            raise ConfigurationError(f"REDIS_URL cannot be read: it must be {_URL_FORM}")
        scheme, _, sentinels = parts.scheme.partition("+")
        self.address = parts.path if scheme == "unix" else ",".join(f"{host}:{port}" for host, port in self._hosts)
        self.travels_openly = bool(
            parts.password and scheme == "redis" and not all(is_loopback(host) for host, _ in self._hosts)
        )
        service, _, database = parts.path.strip("/").partition("/") if sentinels else ("", "", "")
        self._service = service
        self.place = _NOWHERE if sentinels or scheme == "unix" else self._hosts[0]
        user, at, hosts = parts.netloc.rpartition("@")
        one = parts._replace(scheme=scheme, netloc=f"{user}{at}{hosts.split(',')[0]}")
        try:
            self._options = parse_url(urlunsplit(one._replace(path=f"/{database}") if sentinels else one))
        except (TypeError, ValueError):
            raise self.refusal() from None

    def refusal(self) -> ConfigurationError:
        """The error for a URL that redis-py does not take; it holds no password."""
        return ConfigurationError(f"REDIS_URL for {self.address} holds an option redis does not take")

    @property
    def options(self) -> dict[str, Any]:
        """What redis-py needs to connect to the place."""
        return {**self._options, **_host_and_port(self.place)}

    async def locate(self) -> None:
        """Ask the sentinels for the master, if there are sentinels and it is not known yet."""
        if self._service and self.place == _NOWHERE:
            self.place = await self._master()

    async def follow(self, error: Exception, failed: Place) -> None:
        """Find the server that takes commands after an error: as a cluster says, as sentinels say, or the next one."""
        from redis.exceptions import MovedError

        if isinstance(error, MovedError):
            self.place = (error.host or failed[0], error.port)
        elif self._service:
            self.place = await self._master()
        elif failed == self.place and len(self._hosts) > 1:
            self._hosts.rotate(-1)
            self.place = self._hosts[0]

    async def _master(self) -> Place:
        from redis.asyncio import ConnectionPool, Redis
        from redis.exceptions import ConnectionError as CutError
        from redis.exceptions import RedisError

        limits = {"socket_connect_timeout": _SENTINEL_LIMIT_S, "socket_timeout": _SENTINEL_LIMIT_S}
        own = {name: value for name, value in self._options.items() if name not in {"username", "password", "db"}}
        for place in self._hosts:
            with suppress(RedisError, OSError):
                pool: Any = ConnectionPool(**{**own, **limits, "protocol": 2, **_host_and_port(place)})
                sentinel: Any
                async with Redis.from_pool(pool) as sentinel:
                    found = await sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
                if found:
                    return found[0].decode(errors="replace"), int(found[1])
        raise CutError("no sentinel knows the master")


def _hosts(parts: SplitResult) -> list[Place]:
    standard = 26379 if parts.scheme.endswith("+sentinel") else 6379
    each = [urlsplit(f"//{host}") for host in parts.netloc.rpartition("@")[2].split(",")]
    return [(host.hostname or "localhost", host.port or standard) for host in each]


def _host_and_port(place: Place) -> dict[str, Any]:
    return {"host": place[0], "port": place[1]} if place[0] else {}
