"""Which addresses a secret may be sent to, and what ``GEMINI_BASE_URL`` and ``REDIS_URL`` may say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from urllib.parse import SplitResult, parse_qs, urlsplit

# Strict, so that no other parser can read another host out of an accepted URL: no user, query, fragment, white space,
# backslash or percent sign.
_BASE_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(?:/[a-z0-9._~-]*)*)",
    re.IGNORECASE | re.ASCII,
)
# What people copy along: the version, the list of models, a model, a method, or OpenAI's protocol.
_BEHIND_BASE = re.compile(r"/(?:v\d+(?:(?:alpha|beta)\d*)?(?:/openai)?|models(?:/[^/]*)?)/*$", re.IGNORECASE)
# How redis-py spells "no".
_FALSE = {"0", "f", "false", "n", "no"}
# Domains that no public name server knows.
_PRIVATE_DOMAINS = (
    ".local",
    ".localdomain",
    ".internal",
    ".intranet",
    ".private",
    ".corp",
    ".home",
    ".lan",
    ".home.arpa",
)
_REDIS_OPTION = re.compile(
    r"ssl_\w+|socket_(timeout|connect_timeout|keepalive)|db|timeout|client_name|lib_(name|version)|retry_on_timeout"
    r"|health_check_interval"
)


def is_loopback(host: str) -> bool:
    """Whether what is sent to this host stays on this machine."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_googles(url: str) -> bool:
    """Whether what is sent to this URL reaches Google, encrypted."""
    parts = urlsplit(url.strip())
    return parts.scheme == "https" and (parts.hostname or "").endswith(".googleapis.com")


def _is_private(host: str) -> bool:
    """Whether this host is in a private network, by its address or by a name that only such a network knows."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        # What begins with a digit may be another spelling of any address.
        return not host[0].isdigit() and ("." not in host or host.endswith(_PRIVATE_DOMAINS))
    return address.is_private and not address.is_unspecified


def check_base_url(value: str, *, any_host: bool) -> str:
    """Check a URL that will receive the API key. Returns it without a slash at its end.

    Args:
        value: As ``GEMINI_BASE_URL``.
        any_host: Whether it may name another https host, or a host of a private network.

    Raises:
        ValueError: It may not be called.
    """
    url = _BASE_URL.fullmatch(value.strip())
    if not url or not 0 < int(url["port"] or 443) < 65_536:
        raise ValueError("must be http(s)://host, with a port and a path at most: no user, query or fragment")
    scheme, host = url["scheme"].lower(), url["host"].lower()
    if not (is_googles(value) or is_loopback(host) or (any_host and (scheme == "https" or _is_private(host)))):
        raise ValueError(
            f"{scheme}://{host} would receive the API key; it must be https on googleapis.com, or on this machine. "
            "ALLOW_CUSTOM_BASE_URL=true allows another https host, and http in a private network"
        )
    if found := _BEHIND_BASE.search(url["path"]):
        raise ValueError(f"must end before {found[0]}: the library itself calls /v1beta/models behind it")
    return url[0].rstrip("/")


def is_certificate_checked(options: Mapping[str, Sequence[str]]) -> bool:
    """Whether the options of a Redis URL leave the check of the server's certificate on."""
    return all(mode.lower() == "required" for mode in options.get("ssl_cert_reqs", ())) and not any(
        check.lower() in _FALSE for check in options.get("ssl_check_hostname", ())
    )


def _check_redis_details(url: SplitResult, query: Mapping[str, Sequence[str]]) -> None:
    """Refuse a database that is no number, and options that the queue sets itself."""
    path = url.path.partition("/")[2]
    if url.scheme.endswith("+sentinel"):
        path = path.partition("/")[2]
    databases = [*query.get("db", ()), *([] if url.scheme == "unix" else [path.rstrip("/") or "0"])]
    if not all(re.fullmatch("[0-9]+", database) for database in databases):
        raise ValueError("must name its database by a number, such as redis://host:6379/0")
    if "max_connections" in query:
        raise ValueError("cannot say how many connections there are: leave max_connections out and set REDIS_POOL_SIZE")
    if unknown := sorted(name for name in query if not _REDIS_OPTION.fullmatch(name)):
        raise ValueError(f"holds an option that the queue sets itself or does not know: leave {unknown[0][:40]!r} out")


def check_redis_url(value: str) -> str:
    """Check where Redis is. Returns the URL without white space around it.

    Args:
        value: As ``REDIS_URL``.

    Raises:
        ValueError: redis-py cannot read it, or it switches the check of the server's certificate off.
    """
    value = value.strip()
    if not re.match(r"(rediss?(\+sentinel)?|unix)://", value):
        raise ValueError("must begin with redis://, rediss://, unix:// or redis+sentinel://")
    try:
        url = urlsplit(value)
        hosts = url.netloc.rpartition("@")[2].split(",")
        numbers = [number for host in hosts if (number := urlsplit(f"//{host}").netloc.rpartition(":")[2]).isdecimal()]
        ambiguous = "@" in url.path + url.query + url.fragment
        beyond = any(len(number) > 5 or not 0 < int(number) < 65_536 for number in numbers)
        _ = [urlsplit(f"//{host}").port for host in hosts if not beyond]
    except ValueError:
        # The original names the part it stumbled over, which may be the password.
        ambiguous = True
    if ambiguous:
        raise ValueError("is not a URL; special characters of a password must be percent-encoded")
    if beyond:
        raise ValueError("names a port outside 1 to 65535")
    if url.scheme.endswith("+sentinel") and not url.path.strip("/"):
        raise ValueError("must name the service that the sentinels watch: redis+sentinel://host:26379/service")
    query = parse_qs(url.query, keep_blank_values=True)
    _check_redis_details(url, query)
    if not is_certificate_checked(query):
        raise ValueError(
            "must not switch the check of the server's certificate off; ssl_ca_certs names an authority of your own"
        )
    return value
