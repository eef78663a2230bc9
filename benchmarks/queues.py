"""What the queue costs, beside a bare loop over a stream and beside other libraries: rates, waits, traffic, memory.

    python benchmarks/queues.py
    python -m venv peers && peers/bin/pip install hiredis saq taskiq-redis streaq
    python -m venv arq && arq/bin/pip install arq
    python benchmarks/queues.py --peers peers/bin/python arq/bin/python

Every system has a producer and one worker, a process each, and the same server, emptied before. The jobs do nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory

from measuring import machine
from queue_bench import HERE, Bench, Figures, Sizes
from queue_peers import CANNOT_LOSE

sys.path.append(str(HERE.parent / "tests"))
from redis_server import RedisServer

BARE = ("bare loop", "bare loops")
OURS = (*BARE, "backend", "service")


def print_systems(results: dict[str, list[Figures]]) -> None:
    """A row of medians for each system."""
    print(
        f"\n{'system':<14} {'enqueue/s':>9} {'bulk/s':>7} {'jobs/s':>7} {'of bare':>7} {'start p50':>9} {'p99 ms':>7}"
        f" {'trips enqueue + run':>19} {'commands':>12} {'bytes/job':>9} {'idle commands/s':>15}"
    )
    bare = results[fastest_of(results, BARE)]
    for name, rounds in results.items():
        of_bare = [ours.jobs_per_s / bare.jobs_per_s for ours, bare in zip(rounds, bare, strict=True)]
        middle, late = waits_ms(rounds)
        trips = f"{middle_of(rounds, 'enqueue_trips'):.1f} + {middle_of(rounds, 'run_trips'):.2f}"
        commands = f"{middle_of(rounds, 'enqueue_commands'):.0f} + {middle_of(rounds, 'run_commands'):.1f}"
        print(
            f"{name:<14} {middle_of(rounds, 'enqueue_per_s'):>9,.0f} {middle_of(rounds, 'bulk_per_s'):>7,.0f}"
            f" {middle_of(rounds, 'jobs_per_s'):>7,.0f} {median(of_bare):>7.0%} {middle:>9.2f} {late:>7.2f}"
            f" {trips:>19} {commands:>12} {middle_of(rounds, 'job_bytes'):>9,.0f}"
            f" {middle_of(rounds, 'idle_commands_per_s'):>15.1f}"
        )


def fastest_of(results: dict[str, list[Figures]], names: Sequence[str]) -> str:
    """Who of these does most jobs per second."""
    return max(names, key=lambda name: middle_of(results[name], "jobs_per_s"))


def middle_of(rounds: Sequence[Figures], figure: str) -> float:
    """The median of one figure."""
    return float(median(getattr(each, figure) for each in rounds))


def waits_ms(rounds: Sequence[Figures]) -> tuple[float, float]:
    """The median and the 99th percentile of all waits, in milliseconds."""
    waits = quantiles([wait_s * 1000 for each in rounds for wait_s in each.waits_s], n=100)
    return waits[49], waits[98]


def check(what: str, value: float, limit: float, *, least: bool = False, unit: str = "") -> None:
    """Print a goal, and whether it is met."""
    met = value >= limit if least else value <= limit
    print(f"{what:<72} {value:>10,.2f} {'≥' if least else '≤'} {limit:,g} {unit:<10} {'met' if met else 'MISSED'}")


def print_goals(results: dict[str, list[Figures]]) -> None:
    """The goals for the service, layer by layer where it matters."""
    bare, safe = results[fastest_of(results, BARE)], [name for name in results if CANNOT_LOSE.get(name)]
    print(f"\n{'goal':<72} {'figure':>10}")
    for layer in ("service", "backend"):
        ours = results[layer]
        ratios = [mine.jobs_per_s / its.jobs_per_s for mine, its in zip(ours, bare, strict=True)]
        check(f"{layer}: jobs/s beside the bare loop", median(ratios), 0.7, least=True)
        if safe:
            fastest = fastest_of(results, safe)
            ratios = [mine.jobs_per_s / its.jobs_per_s for mine, its in zip(ours, results[fastest], strict=True)]
            check(f"{layer}: jobs/s beside {fastest}, the fastest safe peer", median(ratios), 1.3, least=True)
        check(f"{layer}: bulk enqueue", middle_of(ours, "bulk_per_s"), 15_000, least=True, unit="jobs/s")
        check(f"{layer}: wait of a job for an idle worker, p50", waits_ms(ours)[0], 2, unit="ms")
        check(f"{layer}: round trips to enqueue", round(middle_of(ours, "enqueue_trips"), 1), 1)
        check(f"{layer}: round trips to run a job", round(middle_of(ours, "run_trips"), 1), 2)
        check(f"{layer}: commands per second of an idle worker", middle_of(ours, "idle_commands_per_s"), 3)
        check(f"{layer}: bytes per queued job, payload included", middle_of(ours, "job_bytes"), 1_200, unit="bytes")


async def run(options: argparse.Namespace, url: str, folder: Path) -> None:
    """Measure everything."""
    bench = Bench(url, options.peers, folder)
    sizes = Sizes(options.jobs // 4, options.jobs, options.waits, options.idle)
    await bench.find_peers()
    peers = list(bench.python)
    print(f"{machine()}, redis-py {version('redis')}; peers: {', '.join(peers) or 'none'}")
    results: dict[str, list[Figures]] = {name: [] for name in [*OURS, *peers]}
    for _ in range(options.rounds):
        for name, rounds in list(results.items()):
            try:
                rounds.append(await bench.measure(name, sizes))
            except RuntimeError as error:
                if name in OURS:
                    raise
                print(f"{name} is left out: {error}")
                del results[name]
    print_systems(results)
    print_goals(results)
    for name in ("memory backend", "memory service"):
        rates = [await bench.in_memory_per_s(name, 4 * options.jobs) for _ in range(options.rounds)]
        check(f"{name}: jobs", median(rates), 20_000, least=True, unit="jobs/s")
    redelivery_s = await bench.redelivery_s(options.lease)
    check(f"service: ten jobs done after kill -9, lease {options.lease:g} s", redelivery_s, options.lease + 1)
    await bench.close()


def main() -> None:
    """Print a row for each system, then every goal."""
    parser = argparse.ArgumentParser(description="Measure the queue beside its baselines.")
    parser.add_argument(
        "--peers", nargs="*", default=[sys.executable], metavar="PYTHON", help="interpreters with peers"
    )
    parser.add_argument("--jobs", type=int, default=4_000, metavar="N", help="jobs in bulk (default: %(default)s)")
    parser.add_argument("--waits", type=int, default=200, metavar="N", help="jobs for an idle worker (%(default)s)")
    parser.add_argument("--idle", type=float, default=8.0, metavar="S", help="seconds of idleness (%(default)s)")
    parser.add_argument("--lease", type=float, default=30.0, metavar="S", help="seconds of a lease (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds of each system (%(default)s)")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        server = RedisServer(Path(folder))
        server.start()
        try:
            asyncio.run(run(options, server.admin_url, Path(folder)))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
