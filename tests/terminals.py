"""A program under a pseudo-terminal, as a person sees it."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from dataclasses import dataclass

AUDIO_API = (sys.executable, "-m", "audio_api")


@dataclass(frozen=True)
class Seen:
    """What a program did.

    Attributes:
        code: Its exit code.
        shown: What the terminal got.
        out: What went into the pipe that standard output was.
    """

    code: int
    shown: str
    out: bytes


def on_terminal(
    *arguments: str, program: Sequence[str] = AUDIO_API, typed: str = "", piped: bool = False, **variables: str
) -> Seen:
    """Run a command whose standard streams are a terminal of 80 by 40.

    Args:
        arguments: Of the command.
        program: What is run.
        typed: What the person types.
        piped: Whether standard output is a pipe instead.
        variables: Of the environment, besides this process's.
    """
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
    process = subprocess.Popen(
        [*program, *arguments],
        stdin=follower,
        stdout=subprocess.PIPE if piped else follower,
        stderr=follower,
        env={**environment, "TERM": "xterm", **variables},
    )
    os.close(follower)
    os.write(leader, typed.encode())
    shown = b""
    # Reading fails when the last process that has the terminal open ends.
    try:
        while part := os.read(leader, 65_536):
            shown += part
    except OSError:
        pass
    finally:
        os.close(leader)
    out, _ = process.communicate()
    return Seen(process.returncode, shown.decode(), out or b"")
