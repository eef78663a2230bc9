"""The contract of every store: a sound is there whole, once, and can be told from any other; or it is not there."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from math import inf, isfinite
from pathlib import Path
from urllib.parse import quote, unquote

from audio_api.errors import ErrorCode, StoreError, TTSOutputError
from audio_api.models.store_url import StoreURL, key_problem

BLOCK_BYTES = 1024 * 1024
"""How much of a sound is read at a time."""
MOST_LINK_S = 7 * 24 * 3600
"""The longest life of a presigned link, which is S3's."""

_MOST_KEY_BYTES = 1024


@dataclass(frozen=True, slots=True)
class SoundLabel:
    """What stands on a sound in a store. It never holds the text.

    Attributes:
        content_type: The media type, such as ``audio/wav``.
        task: The id of the queued task that asked for it; empty: none did.
        key: The content key: a digest of everything audible.
        duration_s: Its length in seconds.
        model: The model that spoke.
        sha256: The digest of the file, as 64 hexadecimal digits.
        deposit: A random name of the act of putting it there. What bears it was put there by that act, even if the
            store's answer was lost.
    """

    content_type: str
    task: str
    key: str
    duration_s: float
    model: str
    sha256: str
    deposit: str = field(default_factory=lambda: secrets.token_hex(16))

    def metadata(self) -> dict[str, str]:
        """The label as a store's metadata, which is ASCII."""
        fields = {
            "task": self.task,
            "key": self.key,
            "duration": f"{self.duration_s:.6f}",
            "model": quote(self.model),
            "sha256": self.sha256,
            "deposit": self.deposit,
        }
        # Azure refuses empty values.
        return {name: value for name, value in fields.items() if value}

    @classmethod
    def from_metadata(cls, content_type: str, metadata: Mapping[str, str]) -> SoundLabel | None:
        """The label that a store gives back; ``None``: it is none of ours, or damaged."""
        found = {name.lower(): value for name, value in metadata.items()}
        try:
            duration_s = float(found["duration"])
            label = cls(
                content_type=content_type,
                task=found.get("task", ""),
                key=found["key"],
                duration_s=duration_s,
                model=unquote(found["model"]),
                sha256=found["sha256"],
                deposit=found["deposit"],
            )
        except (KeyError, ValueError):
            return None
        return label if isfinite(duration_s) and duration_s >= 0 else None

    def is_of_the_same_act(self, other: SoundLabel) -> bool:
        """Whether both were put by one act, or for one task and the same words."""
        for_one_task = bool(self.task) and (self.task, self.key) == (other.task, other.key)
        return for_one_task or self.deposit == other.deposit


@dataclass(frozen=True, slots=True)
class StoredSound:
    """A sound that a store has.

    Attributes:
        size_bytes: Its size.
        sha256: The digest of the file; ``None``: it is not known, as something else put it there.
        label: What stands on it; ``None``: nothing of ours, and never on a file in a folder.
    """

    size_bytes: int
    sha256: str | None
    label: SoundLabel | None


class Store(ABC):
    """A place for sounds and pieces. Belongs to one event loop.

    Keys are names below the URL's prefix, such as ``hello.wav``. Every call ends: each has a time limit, and what fails
    for a moment is tried again, a few times.

    Attributes:
        url: Where it is. It holds no credentials.
    """

    url: StoreURL

    @abstractmethod
    async def put_sound(
        self, key: str, file: Path, label: SoundLabel, *, overwrite: bool, before: float = inf
    ) -> SoundLabel:
        """Put a finished sound under a key, where it appears whole.

        Args:
            key: Its key.
            file: Its file, complete.
            label: What will stand on it.
            overwrite: Whether what is there may be replaced. What was put by this very act, or for the same task and
                words, is taken over, not replaced.
            before: The moment, in seconds of ``time.monotonic``, from which on it may not be put any more.

        Returns:
            The label of what is there now: this one, or that of an earlier worker of the same task.

        Raises:
            TooLateError: That moment is over.
            TTSOutputError: Something else is there (code ``output_exists``).
            StoreError: The store does not take it; ``retryable`` says whether it may later.
        """

    @abstractmethod
    async def find(self, key: str) -> StoredSound | None:
        """What is under a key; ``None``: nothing.

        Raises:
            StoreError: The store does not say.
        """

    @abstractmethod
    def open(self, key: str) -> AsyncGenerator[bytes, None]:
        """Read a sound, block by block, however slow the reader is.

        Yields:
            Its bytes, in blocks of ``BLOCK_BYTES`` at most.

        Raises:
            StoreError: It is not there (code ``store_object_missing``), or the store does not give it.
        """

    @abstractmethod
    async def put(self, key: str, content: bytes, content_type: str) -> None:
        """Put a few megabytes under a key, whatever is there now.

        Raises:
            StoreError: As ``put_sound``.
        """

    @abstractmethod
    async def get(self, key: str, most_bytes: int) -> bytes | None:
        """Read an object that ``put`` wrote.

        Args:
            key: Its key.
            most_bytes: The size above which it is not read.

        Returns:
            Its bytes; ``None``: it is not there, or larger.

        Raises:
            StoreError: The store does not say.
        """

    @abstractmethod
    async def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error.

        Raises:
            StoreError: The store refuses.
        """

    @abstractmethod
    async def link(self, key: str, expires_s: float) -> str:
        """A URL with which anyone may read the object for a while.

        Args:
            key: Its key. Whether it is there is not looked up.
            expires_s: How long it is valid, in seconds, at most ``MOST_LINK_S``. Links into a folder do not expire.

        Raises:
            StoreError: The store's credentials cannot sign.
            ValueError: The time is not above 0, or too long.
        """

    @abstractmethod
    def path_of(self, key: str) -> Path | None:
        """The object's file on this machine; ``None``: it has none."""

    @abstractmethod
    async def is_conditional(self) -> bool:
        """Whether the store itself refuses to create what is there; found out once.

        Some servers that speak S3 ignore the condition, and replace. Then the name is looked up first, and of two
        programs that write it at the same moment the later one wins.

        Raises:
            StoreError: The store takes nothing now.
        """

    @abstractmethod
    async def check(self) -> None:
        """Make sure that the store takes objects now, by writing a marker.

        Raises:
            StoreError: It does not.
        """


def checked_key(key: str) -> str:
    """Return a key, or refuse one that would lead elsewhere.

    Raises:
        ValueError: It has an empty part, ``.``, ``..``, a character that means something elsewhere, or is too long.
    """
    if problem := key_problem(key):
        raise ValueError(f"the key {key[:80]!r} {problem}")
    if len(key.encode()) > _MOST_KEY_BYTES:
        raise ValueError(f"the key {key[:80]!r}… has more than {_MOST_KEY_BYTES} bytes")
    return key


def checked_expiry(expires_s: float) -> float:
    """Return the life of a link in seconds, or refuse it.

    Raises:
        ValueError: It is not above 0, or too long.
    """
    if not 1 <= expires_s <= MOST_LINK_S:
        raise ValueError(f"a link lives 1 to {MOST_LINK_S:,} seconds (7 days), not {expires_s:,g}")
    return expires_s


def taken(url: str) -> TTSOutputError:
    """The error that says that something else has this URL."""
    return TTSOutputError(
        f"{url} exists already: choose another name, or set overwrite=True", code=ErrorCode.OUTPUT_EXISTS
    )


def missing(url: str) -> StoreError:
    """The error that says that nothing is at this URL."""
    return StoreError(
        f"there is no {url}: it was deleted, perhaps by a life-cycle rule",
        code=ErrorCode.STORE_OBJECT_MISSING,
        retryable=False,
    )
