"""What a worker does at a moment, and what it did, as a program sees it."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Generator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, TypedDict

_RATE_WINDOW_S = 60.0


class Ending(StrEnum):
    """What became of a job in this worker's hands."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DEFERRED = "deferred"
    BURIED = "buried"
    RETURNED = "returned"
    LOST = "lost"


class WorkerState(StrEnum):
    """What a worker does."""

    IDLE = "idle"
    WORKING = "working"
    BLOCKED = "blocked"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker at this moment.

    Attributes:
        worker_id: Its name.
        state: What it does.
        current_tasks: The tasks it works on.
        processed: Tasks it finished, with success or without.
        failed: Those without success, dead letters included.
        deferred: Tasks that wait for a quota or for the end of an outage.
        tasks_per_minute: Tasks finished in the last minute.
        uptime_s: Seconds since it began.
        restarts: How often its loop failed and began again.
        problem: Why it takes no tasks now, such as a full disk; ``None``: it takes them.
    """

    worker_id: str
    state: WorkerState
    current_tasks: tuple[str, ...]
    processed: int
    failed: int
    deferred: int
    tasks_per_minute: int
    uptime_s: float
    restarts: int
    problem: str | None = None


class Tally:
    """What a worker did.

    Attributes:
        endings: How many jobs ended how.
        restarts: How often its loop failed and began again.
    """

    def __init__(self) -> None:
        self.endings: Counter[str] = Counter()
        self.restarts = 0
        self._finished_at: deque[float] = deque()

    def add(self, ending: Ending) -> None:
        """Count a job that has ended."""
        self.endings[ending] += 1
        if ending in {Ending.SUCCEEDED, Ending.FAILED, Ending.BURIED}:
            self._finished_at.append(time.monotonic())

    def status(
        self,
        worker_id: str,
        state: WorkerState,
        current_tasks: tuple[str, ...],
        uptime_s: float,
        problem: str | None,
    ) -> WorkerStatus:
        """All that is known of the worker now; the arguments are fields of ``WorkerStatus``."""
        minute_ago = time.monotonic() - _RATE_WINDOW_S
        while self._finished_at and self._finished_at[0] < minute_ago:
            self._finished_at.popleft()
        failed = self.endings[Ending.FAILED] + self.endings[Ending.BURIED]
        return WorkerStatus(
            worker_id=worker_id,
            state=state,
            current_tasks=current_tasks,
            processed=self.endings[Ending.SUCCEEDED] + failed,
            failed=failed,
            deferred=self.endings[Ending.DEFERRED],
            tasks_per_minute=len(self._finished_at),
            uptime_s=uptime_s,
            restarts=self.restarts,
            problem=problem,
        )


class WorkersSummary(TypedDict):
    """What awaiting ``WorkerManager.get_worker_status()`` gives.

    Attributes:
        total_workers: Workers that the manager has started.
        running_workers: Those that have not been stopped.
        worker_details: One entry for each worker.
    """

    total_workers: int
    running_workers: int
    worker_details: list[dict[str, Any]]


class WorkersStatus(dict[str, WorkerStatus]):
    """Every worker, by its name; awaited, it gives their summary."""

    def __await__(self) -> Generator[Any, None, WorkersSummary]:
        """The summary: each worker's fields, with ``running`` and ``tasks_processed``."""
        details = [
            {**asdict(each), "running": each.state is not WorkerState.STOPPED, "tasks_processed": each.processed}
            for each in self.values()
        ]
        return WorkersSummary(
            total_workers=len(details),
            running_workers=sum(each["running"] for each in details),
            worker_details=details,
        )
        yield  # makes this method a generator, as an awaitable needs
