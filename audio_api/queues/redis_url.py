"""What ``REDIS_URL`` says: where the servers are, and whether the way there is safe."""

from __future__ import annotations

from collections import deque
from urllib.parse import SplitResult, parse_qs, urlsplit, urlunsplit

from audio_api.errors import ConfigurationError
from audio_api.urls import is_certificate_checked, is_loopback

Place = tuple[str, int]
"""Host and port; no host: the path of a socket, which the URL itself names."""

_URL_FORM = (
    "redis://[user][:password]@host[:port][,host[:port]...][/database] with special characters percent-encoded "
    "(rediss:// for TLS, unix://path for a socket, redis+sentinel://host[:port],.../service for sentinels)"
)


def address(url: str) -> str:
    """Where the URL leads, without user and password.

    Raises:
        ConfigurationError: Something in the URL is dangerous or ambiguous.
    """
    parts = urlsplit(url)
    _refuse_unverified_tls(parts)
    # An unencoded "/", "?" or "#" in the password ends the host part early, and takes the password for host and port.
    ambiguous = not parts.scheme or "@" in parts.path + parts.query + parts.fragment
    try:
        hosts = [f"{host}:{port}" for host, port in _hosts(parts)]
    except ValueError:
        ambiguous = True
    if ambiguous:
        raise ConfigurationError(f"REDIS_URL cannot be read: it must be {_URL_FORM}")
    return parts.path if parts.scheme == "unix" else ",".join(hosts)


def _hosts(parts: SplitResult) -> list[Place]:
    standard = 26379 if parts.scheme.endswith("+sentinel") else 6379
    each = [urlsplit(f"//{host}") for host in parts.netloc.rpartition("@")[2].split(",")]
    return [(host.hostname or "localhost", host.port or standard) for host in each]


def places(url: str) -> tuple[str, deque[Place], str]:
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


def travels_openly(url: str) -> bool:
    """Whether the password crosses a network without TLS."""
    parts = urlsplit(url)
    hosts = _hosts(parts) if parts.scheme in {"redis", "redis+sentinel"} else []
    return bool(parts.password) and not all(is_loopback(host) for host, _ in hosts)


def _refuse_unverified_tls(parts: SplitResult) -> None:
    if not is_certificate_checked(parse_qs(parts.query)):
        raise ConfigurationError(
            "REDIS_URL switches the check of the server's certificate off (ssl_cert_reqs, ssl_check_hostname), so that "
            "others on the way could read the jobs: leave these options out"
        )
