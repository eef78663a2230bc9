"""Print every figure that this project claims, each beside a baseline measured in the same run.

    python benchmarks/core.py [load] [imports] [checks] [writing]

``README.md`` beside this file says how to read the tables.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import checks
import imports
import load
import writing
from measuring import machine

PARTS = ("imports", "load", "checks", "writing")


def main() -> None:
    """Run the parts that the command line names, or all."""
    parser = argparse.ArgumentParser(description="Measure the library beside its baselines.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument(
        "--requests", type=int, default=200, metavar="N", help="requests at once (default: %(default)s)"
    )
    parser.add_argument(
        "--latency", type=float, default=1.0, metavar="S", help="seconds the server takes (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds of each measurement (%(default)s)")
    parser.add_argument("--size-mb", type=int, default=100, metavar="N", help="long sound to write (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where to write files (default: the system's temporary folder)")
    options = parser.parse_args()
    parts = options.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    print(machine())
    if "imports" in parts:
        imports.main(options.rounds)
    if "load" in parts:
        load.main(options.requests, options.latency, options.rounds, options.folder)
    if "checks" in parts:
        print()
        checks.main()
    if "writing" in parts:
        writing.main(options.size_mb, options.rounds, options.folder)


if __name__ == "__main__":
    main()
