"""Jobs that wait in Redis. The only file that imports redis."""

from __future__ import annotations

import asyncio
from typing import Any, cast
from urllib.parse import SplitResult, parse_qs, urlsplit

from audio_api.errors import ConfigurationError

# A server on the same network answers within milliseconds; one that speaks another protocol never does.
_PING_LIMIT_S = 5.0
_URL_FORM = (
    "redis://[user][:password]@host[:port][/database] with special characters percent-encoded (rediss:// for TLS, "
    "unix://path for a socket)"
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
    try:
        # HELLO rather than INFO: an access list for the queue need not allow INFO.
        async with (
            asyncio.timeout(_PING_LIMIT_S),
            Redis.from_url(url, protocol=3, decode_responses=True, retry=Retry(NoBackoff(), 0)) as client,
        ):
            server = await cast(Any, client).execute_command("HELLO")  # redis-py leaves it untyped
    except AuthenticationError:
        raise ConfigurationError(f"the Redis server at {address} refuses REDIS_URL's user or password") from None
    except (RedisError, OSError, TypeError, ValueError) as error:  # the last two: an option redis does not take
        raise ConfigurationError(
            f"no Redis server can be used at {address} ({type(error).__name__}): start it, or correct REDIS_URL"
        ) from None
    return f"{server['server']} {server['version']}"


def _address(url: str) -> str:
    """Where the URL leads, without user and password, once nothing in it is dangerous or ambiguous."""
    parts = urlsplit(url)
    _refuse_unverified_tls(parts)
    # An unencoded "/", "?" or "#" in the password ends the host part early, and takes the password for host and port.
    ambiguous = "@" in parts.path + parts.query + parts.fragment
    try:
        port = parts.port or 6379
    except ValueError:
        ambiguous = True
    if ambiguous:
        raise ConfigurationError(f"REDIS_URL cannot be read: it must be {_URL_FORM}")
    return parts.path if parts.scheme == "unix" else f"{parts.hostname or 'localhost'}:{port}"


def _refuse_unverified_tls(parts: SplitResult) -> None:
    options = parse_qs(parts.query)
    verified = all(value == "required" for value in options.get("ssl_cert_reqs", []))
    named = not {"0", "f", "false", "n", "no"} & {value.lower() for value in options.get("ssl_check_hostname", [])}
    if not (verified and named):
        raise ConfigurationError(
            "REDIS_URL switches the check of the server's certificate off (ssl_cert_reqs, ssl_check_hostname), so that "
            "anybody in between could read the jobs: leave these options out"
        )
