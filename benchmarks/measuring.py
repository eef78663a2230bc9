"""How every figure is measured: interleaved with its baseline in the same run, as a median, and printed as a ratio."""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TypeVar

T = TypeVar("T")


def machine() -> str:
    """One line that says where the figures were measured."""
    cpu_info = Path("/proc/cpuinfo")
    models = [line for line in cpu_info.read_text().splitlines() if "model name" in line] if cpu_info.exists() else []
    cpu = models[0].partition(":")[2].strip() if models else platform.machine()
    packages = ", ".join(f"{name} {version(name)}" for name in ("google-genai", "httpx2", "numpy"))
    return (
        f"{os.cpu_count()} × {cpu}, load {os.getloadavg()[0]:.1f}; {platform.system()} {platform.release()}; "
        f"Python {platform.python_version()}, {packages}"
    )


def timed_s(work: Callable[[], object]) -> float:
    """The seconds that one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(arms: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each arm yields, round by round (A B A B), so that whatever else the machine does hits all of them.

    A first round, which pays for connections, imports and cold caches, is left out.
    """
    results: dict[str, list[T]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name, arm in arms.items():
            gc.collect()
            result = arm()
            if number:
                results[name].append(result)
    return results


def heading(title: str, ours: str = "ours", baseline: str = "baseline") -> None:
    """Begin a table."""
    print(f"\n{title:<58} {ours:>11} {baseline:>11} {'':<8} {'ratio':>6}  {'lowest–highest':<14}  goal")


def row(what: str, ours: Sequence[float], baseline: Sequence[float], unit: str, goal: float | None = None) -> None:
    """Print the medians of both, and the median, lowest and highest ratio of neighbouring runs.

    Args:
        what: What is compared with what.
        ours: One figure per round.
        baseline: One figure per round.
        unit: Of the figures.
        goal: The ratio that should not be exceeded; ``None``: there is none.
    """
    ratios = [mine / theirs for mine, theirs in zip(ours, baseline, strict=True)]
    ratio = median(ratios)
    verdict = "" if goal is None else f"≤ {goal} {'met' if ratio <= goal else 'MISSED'}"
    spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
    print(f"{what:<58} {median(ours):11.3f} {median(baseline):11.3f} {unit:<8} {ratio:6.2f}  {spread:<14}  {verdict}")
