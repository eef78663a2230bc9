"""Everything a fresh checkout needs, in one command: ``python3 setup.py``.

Makes ``.venv``, installs the pinned packages into it, writes ``.env`` and runs the examples in ``main.py``. Needs
Python 3.11 or newer on a POSIX system, and nothing else; uses uv when it is on the PATH. Not a packaging script:
hatchling builds the package. Holds no syntax newer than Python 3.6, so that an old Python gets as far as the sentence
saying what is needed.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
UV = shutil.which("uv")


def main() -> int:
    """Prepare the checkout and run the examples; return their exit code."""
    python = prepare(ROOT)
    write_env(ROOT)
    print("Examples: running main.py", flush=True)
    return subprocess.call([str(python), "main.py"], cwd=str(ROOT))


def prepare(root: Path) -> Path:
    """Make ``root/.venv`` hold what ``requirements.lock`` pins, and the package itself; return its Python.

    Quick when nothing changed since the last time.
    """
    if sys.version_info < (3, 11):  # noqa: UP036 - an older Python is told here
        sys.exit(f"audio_api needs Python 3.11 or newer; this is {sys.version.split()[0]} ({sys.executable})")
    if sys.platform == "win32":
        sys.exit("audio_api needs a POSIX system such as Linux or macOS; on Windows, run this inside WSL")
    sources = [root / "requirements.lock", root / "pyproject.toml"]
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    stamp = root / ".venv" / "audio-api-installed"
    python = root / ".venv" / "bin" / "python"
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        print("Packages: up to date", flush=True)
        return python
    print("Packages: installing what requirements.lock pins, hashes checked, into .venv", flush=True)
    try:
        make_environment(root / ".venv")
        install(python, "--require-hashes", "-r", str(root / "requirements.lock"))
        install(python, "--no-build-isolation", "-e", str(root))
        run_pip(python, "check")
    except subprocess.CalledProcessError as error:
        sys.exit(f"The lines above say what went wrong. The command was: {' '.join(error.cmd)}")
    stamp.write_text(wanted)
    return python


def make_environment(folder: Path) -> Path:
    """Make a virtual environment unless ``folder`` holds one; return its Python."""
    python = folder / "bin" / "python"
    if python.exists():
        return python
    if importlib.util.find_spec("ensurepip"):
        subprocess.check_call([sys.executable, "-m", "venv", "--clear", str(folder)])
    elif UV:
        subprocess.check_call([UV, "venv", "--quiet", "--python", sys.executable, str(folder)])
    else:
        sys.exit("This Python came without pip: install uv, or on Debian and Ubuntu the package python3-venv")
    return python


def install(python: Path, *arguments: str) -> None:
    """Install exactly what the arguments name into the environment of ``python``.

    The lock is complete, so no resolver runs: for a pinned package with an extra, pips 22.3 to 23.2 ask the index for
    the newest release, and stop because that one is not pinned. ``run_pip(python, "check")`` tells what is missing.
    """
    run_pip(python, "install", "--no-deps", *arguments)


def run_pip(python: Path, command: str, *arguments: str) -> None:
    """Run a command of pip for the environment of ``python``, by uv or else by the pip of that environment.

    pip also steps in when uv fails: it knows mirrors and certificates from settings that uv does not read.
    """
    if UV and subprocess.call([UV, "pip", command, "-q", "--python", str(python), *arguments]) == 0:
        return
    subprocess.check_call([str(python), "-m", "pip", command, "-qq", *arguments])


def write_env(root: Path) -> None:
    """Write ``.env`` for its owner's eyes only, unless there is one: it will hold the API key."""
    env = root / ".env"
    try:
        descriptor = os.open(str(env), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        if env.is_dir() and not (env / "pyvenv.cfg").exists():
            sys.exit(
                ".env is a folder, as a container makes one when it mounts a file that is not there: "
                "remove the folder, or put the file in its place"
            )
        print(".env: kept as it is")
        if env.is_file() and env.stat().st_mode & 0o077:
            print(".env: others on this machine can read it; `chmod 600 .env` keeps the key yours")
        return
    with os.fdopen(descriptor, "wb") as file:
        file.write((root / ".env.example").read_bytes())
    print(".env: written, readable by you only; put your GEMINI_API_KEY into it")


if __name__ == "__main__":
    sys.exit(main())
