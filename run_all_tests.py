"""Every gate and every test, in one command: ``python3 run_all_tests.py``.

Sets the checkout up first if need be and, like ``setup.py``, needs nothing but Python 3.11 or newer. Arguments go to
pytest (``run_all_tests.py -k wav``); without them several processes share the tests, and coverage is judged. The exit
code is 0 when everything passed, and the last line is pytest's own.
"""

import os
import re
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import List, NamedTuple  # noqa: UP035 - an old Python must get as far as prepare(), which tells it so

from setup import ROOT, prepare

GATES = {
    "lint": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "types": ["mypy"],
}
# More processes than the two cores of a small machine, because some tests wait. A file stays in one process, with what
# its tests share; files with slow tests come first.
PROCESSES = ["--numprocesses=4", "--dist=loadfile", "--no-loadscope-reorder"]
PYTEST_SUMMARY = re.compile(r"^.*\b(?:passed|failed|errors?|skipped|no tests ran)\b.* in \d[\d.]*s\b.*$", re.MULTILINE)


class Step(NamedTuple):
    """What became of one step."""

    name: str
    passed: bool
    seconds: float
    output: str


def main(pytest_arguments: List[str]) -> int:  # noqa: UP006
    """Run it all, show a table, and return 0 when everything passed."""
    python = prepare(ROOT)
    steps = [run(name, python, *command) for name, command in GATES.items()]
    run("start", python, "coverage", "erase")
    color = ["--color=yes"] if sys.stdout.isatty() else []
    # One seed for all processes: hypothesis repeats its examples with it, and sets have the same order everywhere.
    seed = str(secrets.randbelow(2**32))
    os.environ["PYTHONHASHSEED"] = seed
    # Without its compiled files, each process of the tests and each program that tests start compiles the library.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    chosen = pytest_arguments or PROCESSES
    tests = run("tests", python, "coverage", "run", "-m", "pytest", *color, f"--hypothesis-seed={seed}", *chosen)
    run("collect", python, "coverage", "combine", "--quiet")
    coverage = run("coverage", python, "coverage", "report")
    steps += [tests] if pytest_arguments else [tests, coverage]
    print("\nstep        result  seconds")
    for step in steps:
        print(f"{step.name:<12}{'passed' if step.passed else 'FAILED'}{step.seconds:9.1f}")
    print(*PYTEST_SUMMARY.findall(tests.output)[-1:])
    return 0 if all(step.passed for step in steps) else 1


def run(name: str, python: Path, *module: str) -> Step:
    """Run a module of the environment, and show its output as it comes."""
    print(f"\n--- {name}: {' '.join(module)}", flush=True)
    begin = time.monotonic()
    command = [str(python), "-m", *module]
    output = []
    with subprocess.Popen(command, cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for line in process.stdout or ():
            output.append(line.decode(errors="replace"))
            print(output[-1], end="", flush=True)
    return Step(name, process.returncode == 0, time.monotonic() - begin, "".join(output))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
