"""Programs that let a sound be heard, whichever is there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, cast

from audio_api.errors import AudioAPIError, ConfigurationError


@dataclass(frozen=True, slots=True)
class Player:
    """A program that plays sound.

    Attributes:
        name: What people call it.
        command: How it is run; the file, or what stands for standard input, comes last.
        formats: What it plays.
        stdin: What stands for standard input; ``None``: it plays files only.
    """

    name: str
    command: tuple[str, ...]
    formats: tuple[str, ...]
    stdin: str | None

    @property
    def is_there(self) -> bool:
        """Whether it can be run here."""
        if self.name != "sounddevice":
            return shutil.which(self.name) is not None
        # It can be installed without the library that it calls.
        trial = [sys.executable, "-c", "import sounddevice"]
        return subprocess.run(trial, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0

    def play(self, path: str) -> None:
        """Play a file to its end.

        Raises:
            AudioAPIError: The program failed, and said why on standard error.
        """
        self._check(subprocess.run([*self.command, path], stdin=subprocess.DEVNULL, check=False).returncode)

    @contextmanager
    def playing(self) -> Iterator[IO[bytes]]:
        """Play what is written into the pipe, which is a WAV, and wait for its end.

        Raises:
            AudioAPIError: As ``play``.
        """
        process = subprocess.Popen([*self.command, self.stdin or ""], stdin=subprocess.PIPE)
        pipe = cast(IO[bytes], process.stdin)
        try:
            yield pipe
            pipe.close()
            code = process.wait()
        except BrokenPipeError:
            code = process.wait() or -1
        except BaseException:
            process.kill()
            process.wait()
            raise
        self._check(code)

    def _check(self, code: int) -> None:
        if code:
            raise AudioAPIError(f"the sound could not be played: {self.name} ended with {code}")


_ANY = ("wav", "mp3", "opus", "flac", "m4a")
PLAYERS = (
    Player("ffplay", ("ffplay", "-nodisp", "-autoexit", "-loglevel", "error", "-i"), _ANY, "pipe:0"),
    Player("afplay", ("afplay",), ("wav", "mp3", "flac", "m4a"), None),
    Player("aplay", ("aplay", "-q"), ("wav",), "-"),
    Player("sounddevice", (sys.executable, "-m", "audio_api.cli.sounddevice_player"), ("wav",), "-"),
)


def find_player(sound_format: str, *, stream: bool, players: Sequence[Player] = PLAYERS) -> Player:
    """The first player that is there and can do it.

    Args:
        sound_format: What the file is.
        stream: Whether it must play what is not a file.
        players: Those to choose from.

    Raises:
        ConfigurationError: None can.
    """
    able = [each for each in players if sound_format in each.formats and (each.stdin or not stream)]
    for player in able:
        if player.is_there:
            return player
    names = " or ".join(each.name for each in able)
    what = "a stream" if stream else sound_format
    raise ConfigurationError(f"--play finds no program that plays {what}: install {names}")
