"""The place of a store, as a URL: S3, Google Cloud Storage, Azure or a folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast
from urllib.parse import quote, unquote

_URL = re.compile(r"(?P<scheme>s3|gs|az|file)://(?P<bucket>[^/]*)(?:/(?P<path>.*))?", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,220}[A-Za-z0-9]")
# Stores take them; in a URL, a shell or an IAM policy they mean something else.
_NOT_IN_PREFIXES = frozenset('?#%*\\"<>|{}^`[]')
# S3 and Google allow 1,024 bytes. The rest is for what is put below a prefix: a name of 255 bytes and its folder.
_MOST_PREFIX_BYTES = 512


@dataclass(frozen=True, slots=True)
class StoreURL:
    """A bucket and a prefix in it, or a folder.

    Attributes:
        scheme: ``s3``, ``gs``, ``az`` or ``file``.
        bucket: The bucket, or Azure's container; empty for a folder.
        prefix: What stands before every key, without a slash at either end; of a folder, its absolute path.
    """

    scheme: Literal["s3", "gs", "az", "file"]
    bucket: str
    prefix: str

    def __str__(self) -> str:
        """The URL, without a slash at its end."""
        if self.scheme == "file":
            return Path(self.prefix).as_uri()
        return f"{self.scheme}://{self.bucket}{f'/{self.prefix}' if self.prefix else ''}"

    def of(self, key: str) -> str:
        """The URL of an object.

        Args:
            key: Its name below the prefix.
        """
        return f"{str(self).rstrip('/')}/{quote(key) if self.scheme == 'file' else key}"

    def key_of(self, url: str) -> str | None:
        """The name of the object at a URL; ``None``: it is not in this store."""
        start = f"{str(self).rstrip('/')}/"
        if not url.startswith(start):
            return None
        key = url.removeprefix(start)
        return unquote(key) if self.scheme == "file" else key


def parse_store_url(value: str) -> StoreURL:
    """Read the URL of a store.

    Args:
        value: Such as ``s3://bucket/prefix``, ``gs://bucket``, ``az://container/prefix`` or ``file:///folder``.

    Raises:
        ValueError: It is no such URL. The text does not repeat the URL, which may hold a password.
    """
    url = _URL.fullmatch(value.strip())
    if not url:
        raise ValueError("must be s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///folder")
    scheme = cast(Literal["s3", "gs", "az", "file"], url["scheme"])
    if scheme == "file":
        folder = unquote(url["path"] or "")
        if url["bucket"] not in {"", "localhost"}:
            raise ValueError("must name a folder of this machine with three slashes, such as file:///srv/speech")
        if "\0" in folder or ".." in folder.split("/"):
            raise ValueError("must name a folder by its path from the root on, without '..' and without NUL")
        return StoreURL(scheme, "", str(Path("/", folder)))
    if "@" in url["bucket"] or ":" in url["bucket"]:
        raise ValueError(
            "must hold no user, no password and no port: credentials and the endpoint come from the environment, "
            "such as AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL"
        )
    if not _BUCKET.fullmatch(url["bucket"]):
        raise ValueError("must name a bucket of 3 or more letters, digits, dots, hyphens or underscores")
    prefix = (url["path"] or "").strip("/")
    if len(prefix.encode()) > _MOST_PREFIX_BYTES:
        raise ValueError(f"must have a prefix of at most {_MOST_PREFIX_BYTES} bytes")
    if bad := sorted(_NOT_IN_PREFIXES.intersection(prefix)):
        raise ValueError(f"has a prefix that holds {', '.join(map(ascii, bad))}")
    if problem := key_problem(prefix) if prefix else None:
        raise ValueError(f"has a prefix that {problem}")
    return StoreURL(scheme, url["bucket"], prefix)


def key_problem(key: str) -> str | None:
    """Why no object may have this key; ``None``: it may."""
    if bad := sorted({char for char in key if not char.isprintable()}):
        return f"holds {', '.join(map(ascii, bad[:5]))}"
    if any(part in {"", ".", ".."} for part in key.split("/")):
        return "has an empty part, '.' or '..' between slashes"
    return None
