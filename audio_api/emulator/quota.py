"""Quotas as the API counts them: per model, and enforced to the request."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime
from zoneinfo import ZoneInfo

from audio_api.emulator.errors import per_day, per_minute, quota_exceeded, spend_limited

# A daily refusal of the real API carries a delay this short, which is no use: the day ends at midnight Pacific.
_SHORT_RETRY_S = 27
# In the middle of what the real API asked for, 31 to 45 s, however long its ten minutes still last.
_SPEND_RETRY_S = 38


def _pacific_day() -> date:
    return datetime.now(ZoneInfo("America/Los_Angeles")).date()


@dataclass
class Quota:
    """What one model may take.

    Attributes:
        per_minute: Most requests admitted in any ``window_s``; ``None``: no limit.
        per_day: Most requests admitted per day, Pacific time; ``None``: no limit.
        window_s: How long a "minute" is, in seconds.
        clock: Monotonic seconds.
        today: The current day in the API's time zone.
    """

    per_minute: int | None = None
    per_day: int | None = None
    window_s: float = 60.0
    clock: Callable[[], float] = time.monotonic
    today: Callable[[], date] = _pacific_day
    _recent: deque[float] = field(default_factory=deque)
    _day: date | None = None
    _count: int = 0

    def admit(self, model: str) -> None:
        """Count one request.

        Raises:
            RefusalError: A limit is reached. A refused request is not counted.
        """
        if self._day != self.today():
            self._day, self._count = self.today(), 0
        if self.per_day is not None and self._count >= self.per_day:
            raise quota_exceeded(model, _SHORT_RETRY_S, per_day(self.per_day))
        now = self.clock()
        while self._recent and self._recent[0] <= now - self.window_s:
            self._recent.popleft()
        if self.per_minute is not None and len(self._recent) >= self.per_minute:
            wait_s = self._recent[0] + self.window_s - now if self._recent else self.window_s
            raise quota_exceeded(model, wait_s, per_minute(self.per_minute))
        self._recent.append(now)
        self._count += 1


@dataclass
class SpendLimit:
    """What the account may be billed, over all models.

    Attributes:
        tokens: Most tokens, of prompts and of answers, within any ``window_s``.
        window_s: In seconds.
        retry_info: Whether a refusal asks for a delay.
        clock: Monotonic seconds.
    """

    tokens: int
    window_s: float = 600.0
    retry_info: bool = True
    clock: Callable[[], float] = time.monotonic
    _billed: deque[tuple[float, int]] = field(default_factory=deque)

    def admit(self) -> None:
        """Let a call through.

        Raises:
            RefusalError: The limit is reached.
        """
        while self._billed and self._billed[0][0] <= self.clock() - self.window_s:
            self._billed.popleft()
        if sum(tokens for _, tokens in self._billed) >= self.tokens:
            raise spend_limited(min(_SPEND_RETRY_S, self.window_s) if self.retry_info else None)

    def bill(self, tokens: int) -> None:
        """Count what a call was billed."""
        self._billed.append((self.clock(), tokens))
