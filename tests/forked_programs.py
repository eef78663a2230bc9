"""Programs of Python that begin at once, forked from a process that has imported what they need.

The imports of a fresh worker process take more CPU time than the jobs that a test gives it.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

_FORKS = multiprocessing.get_context("forkserver")
# What a worker process has imported when it takes its first job, and what the main module of a benchmark imports.
_FORKS.set_forkserver_preload(
    [
        "anyio._backends._asyncio",
        "audio_api.audio.checks",
        "audio_api.cli.worker",
        "audio_api.engines.gemini",
        "audio_api.queues.redis_queue",
        "audio_api.services.worker_service",
        "google.genai.live",
        "httpcore2",
        "pytest",
        "redis.asyncio",
    ]
)


class ForkedProgram:
    """A running program, with what tests need of ``subprocess.Popen``.

    Args:
        arguments: What would follow ``python`` on a command line: ``-m`` or ``-c`` or a script, then the program's own.
        folder: Where it works.
        variables: Its environment.
        log: The file that takes what it prints.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, variables: Mapping[str, str], log: Path) -> None:
        with mock.patch.dict(os.environ):
            # What forks run is lost to coverage, and only slowed down by it.
            os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
            forkserver.ensure_running()
        self._process = _FORKS.Process(target=_run, args=(list(arguments), folder, dict(variables), log))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """Its exit code, or the negative number of the signal that ended it; ``None``: it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self._process.pid and self._process.exitcode is None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it by ``SIGKILL``."""
        self.send_signal(signal.SIGKILL)

    def wait(self, limit_s: float | None = None) -> int:
        """Wait for its end; its exit code.

        Raises:
            TimeoutError: It runs after so many seconds.
        """
        self._process.join(limit_s)
        if self._process.exitcode is None:
            raise TimeoutError(f"process {self._process.pid} runs after {limit_s} s")
        return self._process.exitcode


def _run(arguments: list[str], folder: Path, variables: dict[str, str], log: Path) -> None:
    with log.open("wb") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    kind, *sys.argv = arguments
    if kind == "-m":
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        exec(sys.argv[0], {"__name__": "__main__"})
    else:
        sys.argv = arguments
        runpy.run_path(kind, run_name="__main__")
