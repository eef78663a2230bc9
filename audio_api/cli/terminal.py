"""What the command line does with a terminal: complaints, a bar of progress, and signals that end it tidily."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TextIO, TypeVar

# What takes less is over before a bar could be read.
_SHOWN_AFTER_S = 1.0

T = TypeVar("T")

Progress = Callable[[str, float, float | None, str], None]
"""Takes what is being done, how much of it is done, of how much (``None``: unknown), and a note for people."""


def prepare_streams() -> None:
    """Keep numbers 0 to 2 for the standard streams, and standard output able to show any name."""
    # A shell closes them (``<&-``), and files opened later would get their numbers.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name may hold what the terminal cannot show, and by then its speech is paid for.
        sys.stdout.reconfigure(errors="backslashreplace")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Do asynchronous work. Its event loop takes a quarter of the time of a help page to import, so only here."""
    import asyncio

    return asyncio.run(work)


def complain(text: str) -> None:
    """Print one line on standard error, if there is one."""
    if sys.stderr is None:
        return
    try:
        print(f"audio-api: {' '.join(text.split())}", file=sys.stderr)
    except OSError:
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Let a stream that takes nothing lead nowhere: Python would try once more at exit, fail, and say so."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show on standard error how far the work is, once it has taken a second; only on a terminal that can move back."""
    if sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM") in {"dumb", "unknown"}:
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[told]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
    )
    bar = Bar(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task("starting", total=None, told="")
    starter = threading.Timer(_SHOWN_AFTER_S, bar.start)
    starter.daemon = True
    starter.start()
    try:
        yield lambda what, done, total, told: bar.update(task, description=what, completed=done, total=total, told=told)
    finally:
        starter.cancel()
        starter.join()
        bar.stop()


@contextmanager
def ended_tidily() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP end the work within as Ctrl-C does, which leaves no draft, and then the process.

    Yields:
        The numbers of the signals that came; none of them is Ctrl-C's.
    """
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        on_ctrl_c = signal.getsignal(signal.SIGINT)
        (on_ctrl_c if callable(on_ctrl_c) else signal.default_int_handler)(number, frame)

    # A shell lets a job in the background ignore Ctrl-C. asyncio then leaves its handler alone, and an interrupt would
    # hit any line of the event loop instead of cancelling what it does. So Ctrl-C is held off, which ignores it, too.
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT] if ignored else [])
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    usual = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
    for number in usual:
        signal.signal(number, interrupt)
    try:
        yield received
    finally:
        for number in usual:
            signal.signal(number, signal.SIG_DFL)
        if ignored:
            # One that came meanwhile is forgotten.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for each in received[:1]:
            signal.raise_signal(each)
