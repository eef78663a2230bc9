"""Settings in files such as ``.env``, which a stranger may have written: read within bounds, or refused."""

from __future__ import annotations

import io
import logging
import os
import stat
from collections.abc import Container, Iterable
from pathlib import Path

from dotenv import dotenv_values

from audio_api.errors import ConfigurationError

_logger = logging.getLogger(__name__)

EnvFiles = str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None
"""One file, several of which a later one wins, or none."""

# Ten times what all settings take; python-dotenv reads as many in 0.2 s.
_MOST_BYTES = 2**16
_warned_of: set[Path] = set()


def read_env_files(files: EnvFiles, names: Container[str]) -> dict[str, str]:
    """What the files that are there say about these variables, in lower case; empty values count as not set.

    Values stand for themselves: no variable is replaced in them, because a few hundred bytes of nested ones would fill
    the memory, and because a stranger's file could put the user's secrets into names and addresses.

    Raises:
        ConfigurationError: A file cannot be read, is a folder or a pipe, or is too large.
    """
    found: dict[str, str] = {}
    for name in [files] if isinstance(files, str | os.PathLike) else files or ():
        path = Path(name).expanduser()
        content, mode = _content(path)
        for variable, value in dotenv_values(stream=io.StringIO(content), interpolate=False).items():
            if not value or variable.lower() not in names:
                continue
            if "${" in value:
                raise ConfigurationError(
                    f"{variable} in {path}: ${{...}} is not replaced there; write the value itself"
                )
            whole = path.absolute()
            if variable.lower() == "gemini_api_key" and mode & stat.S_IROTH and whole not in _warned_of:
                _warned_of.add(whole)
                _logger.warning("every user of this machine can read the API key in %s: run chmod 600 on it", whole)
            found[variable.lower()] = value
    return found


def _content(path: Path) -> tuple[str, int]:
    """The text of a file and its mode; no text when it is missing."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise ConfigurationError(f"{path} is a pipe or a device: it must be a file")
            content = file.read(_MOST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return "", 0
    except IsADirectoryError:
        # Many name a virtual environment so.
        if (path / "pyvenv.cfg").exists():
            return "", 0
        raise ConfigurationError(
            f"{path} is a folder, as a container makes one when it mounts a file that is not there: remove the folder, "
            "or put the file in its place"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > _MOST_BYTES:
        raise ConfigurationError(f"{path} holds more than {_MOST_BYTES:,} bytes: that is no file of settings")
    try:
        # Windows editors write a byte order mark.
        return content.decode("utf-8-sig"), mode
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} cannot be read: it is not UTF-8") from None


def _open_at_once(path: str, flags: int) -> int:
    # A pipe would wait for its other end.
    return os.open(path, flags | os.O_NONBLOCK)
