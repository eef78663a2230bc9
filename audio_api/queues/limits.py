"""How often the API may be called by all workers of a queue together: one state, wherever the queue's jobs are.

Why not a library: ``limits`` asks the clock of each machine rather than the server's, so that its windows are as exact
as the clocks agree; it counts minute and day in two steps, where a refusal by one still uses up the other; and no
library has a gate that one worker's 429 closes for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any

ARRIVAL = 1.04
"""How much longer than a window a place in it is taken: calls take different times to arrive, a new connection alone
some tenths of a second. This much leaves 96 % of a quota in use."""
LEARNED_S = 3_600.0
"""How long a quota that the API named is kept to; then it may have been raised."""
# By then a quota that is easily exceeded is known, or there is none.
_FIRST_CALLS = 50


@dataclass(frozen=True, slots=True)
class Rates:
    """What one model may take.

    Attributes:
        per_window: Most calls in any ``window_s``, wherever it begins; ``None``: no limit.
        window_s: Its length in seconds.
        per_day: Most calls in a day; ``None``: no limit.
        day_end: When the day ends that holds a moment; both in Unix seconds.
        first_gap_s: Seconds between the first 50 calls of a burst, while no quota is known: the refusal of one comes
            before most others have left. 0: they leave together.
    """

    per_window: int | None
    window_s: float
    per_day: int | None
    day_end: Callable[[float], float]
    first_gap_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer to a worker that wants to call.

    Attributes:
        wait_s: 0: go ahead, the call is counted. Otherwise seconds after which to ask again; nothing was counted.
        probe: The model's gate was closed, and this one call finds out whether it can be opened.
        of_account: The same, for the pause of the whole account.
        circuit_open: Failures in a row have closed the gate, rather than a quota.
    """

    wait_s: float = 0.0
    probe: bool = False
    of_account: bool = False
    circuit_open: bool = False


class CallLimits(ABC):
    """Counts calls; holds a gate for each model, and one for all. Every step is atomic, by the clock of the place.

    Every call raises ``QueueUnavailableError`` when the place does not answer; then nothing is known.
    """

    @abstractmethod
    async def take(self, model: str, rates: Rates, *, answered: bool = False) -> Admission:
        """Ask for one call, and count it if it may be made now.

        Args:
            model: The model's id.
            rates: What it may take.
            answered: Whether a call of this model was answered since this process last asked or told of a failure:
                failures before it are not in a row any more.
        """

    @abstractmethod
    async def count_failure(
        self, model: str, most: int, first_probe_s: float, probe_s: float, *, answered: bool
    ) -> int:
        """Count a call that failed for want of an answer; close the gate when so many have failed in a row.

        Args:
            model: The model's id.
            most: The number of failures that closes the gate.
            first_probe_s: Seconds until one call is let through.
            probe_s: Seconds between further ones, until ``open_gate``.
            answered: As ``take``.

        Returns:
            The failures in a row, of all workers.
        """

    @abstractmethod
    async def is_circuit_open(self, model: str) -> bool:
        """Whether failures in a row have closed the gate of this model."""

    @abstractmethod
    async def close_gate(self, model: str, wait_s: float, probe_s: float = 0.0) -> None:
        """Let no worker call this model for a time; a gate that is closed for longer stays so.

        Args:
            model: The model's id.
            wait_s: For how many seconds.
            probe_s: After that time one call is let through, and another every so many seconds, until ``open_gate``;
                0: the gate opens by itself.
        """

    async def learn(self, model: str, per_window: int, retry_after_s: float) -> None:  # noqa: B027 - a place may do without
        """Keep to a quota that the API has named, for an hour, beside the one that ``take`` is told.

        A place that does not know how to goes on as it is told.

        Args:
            model: The model's id.
            per_window: Most calls in a window.
            retry_after_s: When the API takes calls again. With the time since the oldest call that is known it tells
                the length of the window, unless the one that ``take`` is told is shorter.
        """

    @abstractmethod
    async def open_gate(self, model: str) -> None:
        """Let every worker call this model again."""

    @abstractmethod
    async def pause_all(self, least_s: float, most_s: float, probe_s: float) -> None:
        """Let no worker call any model for a time, which doubles as long as pauses do not help.

        Args:
            least_s: The seconds of a first pause, and the least of any.
            most_s: The seconds that doubling does not exceed.
            probe_s: Afterwards one call is let through, and another every so many seconds, until ``resume_all``.
        """

    @abstractmethod
    async def resume_all(self) -> None:
        """Let every worker call again, and forget how long the pause was."""


@dataclass(slots=True)
class _Account:
    ends: float = -inf
    held_until: float = -inf
    length_s: float = 0.0
    probe_s: float = 0.0

    def pause(self, now: float, least_s: float, most_s: float) -> None:
        # Calls that were under way when it began are refused, too: they tell nothing new.
        if now >= self.ends:
            self.length_s = max(least_s, min(2 * self.length_s, most_s))
            self.ends = now + self.length_s
        self.ends = max(self.ends, now + least_s)


@dataclass(slots=True)
class _Model:
    calls: deque[float] = field(default_factory=deque)
    today: int = 0
    day_end: float = 0.0
    closed_until: float = -inf
    probe_s: float = 0.0
    learned: int | None = None
    learned_until: float = -inf
    learned_window_s: float = inf
    failures: int = 0
    circuit_open: bool = False

    def forget_failures(self) -> None:
        """The model has answered."""
        self.failures, self.circuit_open = 0, False

    def wait_s(self, now: float, rates: Rates) -> float:
        """Seconds until the next call may be made."""
        if now >= self.day_end:
            self.today, self.day_end = 0, rates.day_end(now)
        ends = [self.closed_until]
        if rates.per_day is not None and self.today >= rates.per_day:
            ends.append(self.day_end)
        if rates.per_window is not None and len(self.calls) >= rates.per_window:
            ends.append(self.calls[-rates.per_window] + rates.window_s)
        learned = self.learned if now < self.learned_until else None
        if learned and len(self.calls) >= learned:
            ends.append(self.calls[-learned] + min(self.learned_window_s, rates.window_s))
        if not (learned or rates.per_window) and 0 < len(self.calls) < _FIRST_CALLS:
            ends.append(self.calls[-1] + rates.first_gap_s)
        return max(0.0, max(ends) - now)

    def count(self, now: float, window_s: float) -> bool:
        """Count a call; whether it is a probe."""
        while self.calls and self.calls[0] <= now - window_s:
            self.calls.popleft()
        self.calls.append(now)
        self.today += 1
        if self.probe_s:
            self.closed_until = now + self.probe_s
        return bool(self.probe_s)


class MemoryLimits(CallLimits):
    """The limits of a queue in this process; for one thread. It always answers.

    Args:
        clock: Unix time in seconds that never goes back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._models: defaultdict[str, _Model] = defaultdict(_Model)
        self._account = _Account()

    async def take(self, model: str, rates: Rates, *, answered: bool = False) -> Admission:
        known, account, now = self._models[model], self._account, self._clock()
        if answered:
            known.forget_failures()
        wait_s = max(known.wait_s(now, rates), account.ends - now, account.held_until - now)
        if wait_s > 0:
            return Admission(wait_s, circuit_open=known.circuit_open)
        if account.probe_s:
            account.held_until = now + account.probe_s
        probe = known.count(now, rates.window_s)
        return Admission(probe=probe, of_account=account.probe_s > 0, circuit_open=known.circuit_open)

    async def count_failure(
        self, model: str, most: int, first_probe_s: float, probe_s: float, *, answered: bool
    ) -> int:
        known = self._models[model]
        if answered:
            known.forget_failures()
        known.failures += 1
        if known.failures >= most and not known.circuit_open:
            known.circuit_open = True
            await self.close_gate(model, first_probe_s, probe_s)
        return known.failures

    async def is_circuit_open(self, model: str) -> bool:
        return self._models[model].circuit_open

    async def close_gate(self, model: str, wait_s: float, probe_s: float = 0.0) -> None:
        known = self._models[model]
        known.closed_until = max(known.closed_until, self._clock() + wait_s)
        known.probe_s = max(known.probe_s, probe_s)

    async def learn(self, model: str, per_window: int, retry_after_s: float) -> None:
        known, now = self._models[model], self._clock()
        window_s = ARRIVAL * ((now - known.calls[0] if known.calls else 0.0) + retry_after_s)
        if now >= known.learned_until or window_s < known.learned_window_s:
            known.learned_window_s = window_s
        known.learned, known.learned_until = per_window, now + LEARNED_S

    async def open_gate(self, model: str) -> None:
        known = self._models[model]
        known.closed_until, known.probe_s = -inf, 0.0
        known.forget_failures()

    async def pause_all(self, least_s: float, most_s: float, probe_s: float) -> None:
        self._account.pause(self._clock(), least_s, most_s)
        self._account.probe_s = probe_s

    async def resume_all(self) -> None:
        self._account = _Account()


class RedisLimits(CallLimits):
    """The limits of a queue in Redis, shared by all machines.

    Args:
        run: Runs a step of ``lua/limits.lua`` atomically, by its name, with its arguments, on the queue's server.
    """

    def __init__(self, run: Callable[..., Awaitable[Any]]) -> None:
        self._run = run
        # The last end of a day that the server's clock gave; until then it need not be asked for the time.
        self._day_end = 0.0

    async def take(self, model: str, rates: Rates, *, answered: bool = False) -> Admission:
        first_gap_ms, has_answered = round(rates.first_gap_s * 1_000), "yes" if answered else ""
        while True:
            most, most_today = rates.per_window or "", rates.per_day or ""
            window_ms, day_end_ms = round(rates.window_s * 1_000), round(self._day_end * 1_000)
            verdict, value, why = await self._run(
                "take", model, most, window_ms, most_today, day_end_ms, _FIRST_CALLS, first_gap_ms, has_answered
            )
            if verdict != b"which day":
                return Admission(float(value) / 1_000, b"probe" in why, b"account" in why, b"circuit" in why)
            self._day_end = rates.day_end(float(value) / 1_000)

    async def count_failure(
        self, model: str, most: int, first_probe_s: float, probe_s: float, *, answered: bool
    ) -> int:
        times_ms = (round(seconds * 1_000) for seconds in (first_probe_s, probe_s))
        return int(await self._run("count_failure", model, most, *times_ms, "yes" if answered else ""))

    async def is_circuit_open(self, model: str) -> bool:
        return bool(await self._run("is_circuit_open", model))

    async def close_gate(self, model: str, wait_s: float, probe_s: float = 0.0) -> None:
        await self._run("close_gate", model, round(wait_s * 1_000), round(probe_s * 1_000))

    async def learn(self, model: str, per_window: int, retry_after_s: float) -> None:
        await self._run("learn", model, per_window, round(retry_after_s * 1_000), ARRIVAL, round(LEARNED_S * 1_000))

    async def open_gate(self, model: str) -> None:
        await self._run("open_gate", model)

    async def pause_all(self, least_s: float, most_s: float, probe_s: float) -> None:
        await self._run("pause_all", *(round(seconds * 1_000) for seconds in (least_s, most_s, probe_s)))

    async def resume_all(self) -> None:
        await self._run("resume_all")
