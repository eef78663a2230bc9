"""Finished chapters on disk, so that a book that was interrupted goes on where it was. Everything here blocks."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from audio_api.audio.durable import DurableFile, explained, folder_at, real_folder
from audio_api.audio.joining import JOIN_QUIET_S, Joiner
from audio_api.audio.wav import SAMPLE_RATE, decode_wav
from audio_api.books.script import ChapterScript
from audio_api.config import AudioConfig
from audio_api.errors import TTSOutputError

_VERSION = 1  # of what a script becomes; another one makes every chapter again, from kept pieces
# In the middle of what ACX asks of audiobooks (-23 to -18 dB), and the same whichever chapter is made first.
_LOUDNESS_DBFS = -20.0
# The least that can be heard in quiet surroundings; the checks call speech what has this level over 20 ms.
_HEARD = 104
_FORGOTTEN_AFTER_S = 30 * 86_400
# A draft that is written at all is written more often.
_DRAFT_FORGOTTEN_AFTER_S = 86_400
_NOT_HEARD = {"output_filename", "overwrite", "priority", "cache", "service_tier", "subtitles"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChapterSound:
    """The sound of a finished chapter: a file of bare samples, 24,000 a second, 16 bits, one channel.

    Attributes:
        samples: How many there are.
        first_word: The sample at which the first word begins.
        model: The model that spoke last.
        doubtful: As ``AudioResponse.doubtful``.
        warnings: As ``AudioResponse.warnings``.
    """

    samples: int
    first_word: int
    model: str | None
    doubtful: tuple[str, ...]
    warnings: tuple[str, ...]

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Self:
        """What ``dataclasses.asdict`` made of one.

        Raises:
            ValueError, TypeError, KeyError: It made something else.
        """
        lists = {name: tuple(map(str, told[name])) for name in ("doubtful", "warnings")}
        counts = {name: int(told[name]) for name in ("samples", "first_word")}
        return cls(**{**told, **counts, **lists})

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.samples / SAMPLE_RATE


def chapter_key(script: ChapterScript, config: AudioConfig, target: Path) -> str:
    """64 hexadecimal digits over all that is heard of a chapter, and where it goes: two books at a time do not meet."""
    passages = [(passage.request.model_dump_json(exclude=_NOT_HEARD), passage.silence_s) for passage in script.passages]
    heard = [_VERSION, str(target), config.tts_engine, str(config.default_tts_model), script.silence_s, passages]
    return hashlib.sha256(json.dumps(heard).encode()).hexdigest()


def pure_silence_s(heard_s: float) -> float:
    """The silence to put between two words, so that so many seconds of it are heard with the quiet of a join."""
    return max(0.0, heard_s - JOIN_QUIET_S)


class KeptChapters:
    """The folder of finished chapters.

    Args:
        folder: It may be missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, key: str) -> Path:
        """The file of a chapter's samples."""
        return self._folder / f"{key}.pcm"

    def find(self, key: str) -> ChapterSound | None:
        """A chapter that was finished, and is complete; ``None``: there is none."""
        try:
            told = json.loads(self._account(key).read_bytes())
            sound = ChapterSound.from_dict(told)
            return sound if self.path(key).stat().st_size == 2 * sound.samples else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    @contextmanager
    def claimed(self, target: Path) -> Iterator[None]:
        """Keep other processes from making the same files at the same time.

        Raises:
            TTSOutputError: Another process makes them, or the folder takes no files.
        """
        path = self._folder / f"{hashlib.sha256(os.fsencode(target)).hexdigest()}.lock"
        with explained(path):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    # The process that had it removes the file before it lets go.
                    is_ours = os.path.samestat(os.fstat(descriptor), path.stat())
                except (BlockingIOError, FileNotFoundError):
                    is_ours = False
                if not is_ours:
                    raise TTSOutputError(
                        f"{str(target)!r} is being made by another run: wait for it, or choose another output"
                    )
                yield
                path.unlink(missing_ok=True)
                self.remove(())
            finally:
                os.close(descriptor)

    @contextmanager
    def writer(self, key: str, silence_s: float) -> Iterator[ChapterWriter]:
        """Begin a chapter; leaving the context before ``finish`` leaves nothing behind.

        Args:
            key: Of the chapter.
            silence_s: Silence before its first word.

        Raises:
            TTSOutputError: The folder takes no files.
        """
        with (
            explained(self._folder),
            folder_at(real_folder(self._folder)) as folder_fd,
            DurableFile(folder_fd, self.path(key), overwrite=True) as file,
            DurableFile(folder_fd, self._account(key), overwrite=True) as account,
        ):
            yield ChapterWriter(file, account, silence_s)

    def remove(self, keys: Iterable[str]) -> None:
        """Remove chapters that are in a finished audiobook, and those that a month ago were left behind."""
        for key in keys:
            self._account(key).unlink(missing_ok=True)
            self.path(key).unlink(missing_ok=True)
        with suppress(OSError):
            for path in self._folder.iterdir():
                after_s = _DRAFT_FORGOTTEN_AFTER_S if path.suffix == ".tmp" else _FORGOTTEN_AFTER_S
                if time.time() - path.stat().st_mtime > after_s:
                    path.unlink(missing_ok=True)
            self._folder.rmdir()

    def _account(self, key: str) -> Path:
        return self._folder / f"{key}.json"


class ChapterWriter:
    """Joins the passages of a chapter into its file; see ``KeptChapters.writer``."""

    def __init__(self, file: DurableFile, account: DurableFile, silence_s: float) -> None:
        self._file = file
        self._account = account
        self._samples = 0
        self._first_word: int | None = None
        # Between two pieces that are empty every passage is an inner one, and loses its quiet at both ends.
        self._joiner = Joiner(loudness_dbfs=_LOUDNESS_DBFS)
        self._write(self._joiner.add(b"", silence_s))

    def add(self, path: Path, silence_s: float) -> None:
        """Append a passage.

        Args:
            path: Its WAV, which is removed.
            silence_s: Exact silence behind it.

        Raises:
            TTSOutputError: The WAV cannot be read here, or the file cannot be written.
        """
        try:
            pcm = decode_wav(path.read_bytes()).pcm
        except (OSError, ValueError) as error:
            raise TTSOutputError(
                f"{str(path)!r} was made, but cannot be read here ({error}): workers and this program must use "
                "the same OUTPUT_DIR"
            ) from None
        self._write(self._joiner.add(pcm, pure_silence_s(silence_s)))
        path.unlink(missing_ok=True)

    def _write(self, pcm: bytes) -> None:
        if self._first_word is None:
            samples = np.frombuffer(pcm, "<i2")
            heard = (samples > _HEARD) | (samples < -_HEARD)
            self._first_word = self._samples + int(heard.argmax()) if heard.any() else None
        self._file.write(pcm)
        self._samples += len(pcm) // 2

    def finish(self, model: str | None, doubtful: Iterable[str], warnings: Iterable[str]) -> ChapterSound:
        """Complete the file, and put it on disk."""
        self._write(self._joiner.add(b"", 0.0) + self._joiner.finish())
        sound = ChapterSound(
            samples=self._samples,
            first_word=self._first_word or 0,
            model=model,
            doubtful=tuple(doubtful),
            warnings=tuple(warnings),
        )
        self._account.write(json.dumps(asdict(sound)).encode())
        for file in (self._file, self._account):
            os.fsync(file.fileno())
            file.publish()
        return sound
