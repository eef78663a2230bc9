"""Environments of programs that tests run beside the library, because they bring packages of their own."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from pathlib import Path

from project import ROOT, program


def environment(name: str) -> Path:
    """The folder of an environment's programs; installs them at first, while the other processes of the tests wait.

    Args:
        name: That of its lock beside this file, without its ending.
    """
    lock = Path(__file__).with_name(f"{name}.lock")
    folder = ROOT / ".venv" / name
    folder.parent.mkdir(exist_ok=True)
    stamp, wanted = folder / "installed", hashlib.sha256(lock.read_bytes()).hexdigest()
    with (folder.parent / f"{name}.making").open("w") as making:
        fcntl.flock(making, fcntl.LOCK_EX)
        if not (stamp.exists() and stamp.read_text() == wanted):
            shutil.rmtree(folder, ignore_errors=True)
            setup = program("setup")
            python = setup.make_environment(folder)
            setup.install(python, "--no-compile", "--require-hashes", "--only-binary", ":all:", "-r", str(lock))
            stamp.write_text(wanted)
    return folder / "bin"
