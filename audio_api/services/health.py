"""Whether a service can do its work now."""

from __future__ import annotations

import logging
from dataclasses import astuple, dataclass

from audio_api.errors import ErrorCode, error_class

# The event is one of the workers, which wait.
logger = logging.getLogger("audio_api.services.worker_service")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Health:
    """What a ``health_check`` found; true in a condition, and equal to ``True``, when the service works.

    Attributes:
        healthy: Whether the service works.
        error: What is wrong; ``None`` when healthy.
        error_code: Its stable name; ``None`` when healthy.
    """

    healthy: bool
    error: str | None = None
    error_code: ErrorCode | None = None

    def refuse_lasting(self) -> None:
        """Raise what waiting does not mend: wrong settings, and a key that is refused. What passes is logged.

        Raises:
            ConfigurationError, TTSAuthenticationError: As the check found it.
        """
        if self.error_code in {ErrorCode.CONFIGURATION, ErrorCode.AUTHENTICATION}:
            raise error_class(self.error_code)(self.error or "")
        if not self:
            logger.warning("waiting for what is down", extra={"error": self.error})

    def __bool__(self) -> bool:
        """The answer in one word."""
        return self.healthy

    def __eq__(self, other: object) -> bool:
        """Compare with ``True`` or ``False``, or field by field with another finding of the same kind."""
        if isinstance(other, bool):
            return self.healthy is other
        return isinstance(other, Health) and type(other) is type(self) and astuple(other) == astuple(self)

    def __hash__(self) -> int:
        """The hash of ``healthy``, because equal values have equal hashes."""
        return hash(self.healthy)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServiceHealth(Health):
    """Whether speech can be made now: the engine could be reached and knows its model.

    Attributes:
        engine: The engine's name; empty when the settings, which name it, are wrong.
    """

    engine: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QueueHealth(Health):
    """Whether the queue answers and takes jobs now.

    Attributes:
        backend: What answered, such as ``"valkey 9.1.2"``; ``None``: nothing did.
    """

    backend: str | None = None
