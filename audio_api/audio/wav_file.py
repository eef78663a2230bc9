"""A sound file that appears whole or not at all."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from math import inf
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from audio_api.audio.draft_content import MOST_UNSAVED_BYTES as MOST_UNSAVED_BYTES
from audio_api.audio.draft_content import DraftContent, EncodedContent, WavContent
from audio_api.audio.durable import (
    DurableFile,
    absolute,
    checked_name,
    explained,
    folder_at,
    real_folder,
)
from audio_api.audio.encoder_sink import Pcm
from audio_api.audio.file_threads import run_in_file_thread
from audio_api.audio.left_behind import growing_name, remove_part_of_the_dead, remove_stale_drafts
from audio_api.audio.wav import SAMPLE_RATE
from audio_api.errors import TooLateError as TooLateError  # the worker's run imports it from here
from audio_api.errors import TTSOutputError
from audio_api.models.sound_formats import OutputFormat

_T = TypeVar("_T")


class SavedWav(NamedTuple):
    """A file that was written, and what it is."""

    path: Path
    identity: os.stat_result


async def write_wav(
    directory: Path, name: str, pcm: Pcm, *, sample_rate: int = SAMPLE_RATE, overwrite: bool = False
) -> Path:
    """Write a WAV that is in memory, whole and durably, in one trip to a thread. Returns its absolute path.

    Cancelled, it leaves no file, or the complete one when it was already there; never a part. A link that stands at
    the name is replaced, never followed.

    Args:
        directory: The output folder; made with mode 0700 when missing.
        name: The file's name, as ``safe_filename`` takes it.
        pcm: Signed 16-bit little-endian samples of one channel.
        sample_rate: Samples per second.
        overwrite: Whether an existing file may be replaced.

    Raises:
        TTSValidationError: The name is no safe file name.
        TTSOutputError: As ``WavWriter.commit``.
        ValueError: The sound ends inside a sample, or no WAV has this sample rate.
    """
    draft = _SoundDraft(directory, checked_name(name, "wav"), WavContent(sample_rate), overwrite)
    return (await draft.in_thread(draft.save, pcm)).path


def save_wav(
    directory: Path,
    name: str,
    pcm: Pcm,
    *,
    sample_rate: int = SAMPLE_RATE,
    overwrite: bool = False,
    trailer: bytes = b"",
    real: Path | None = None,
    synced: bool = True,
) -> SavedWav:
    """Do what ``write_wav`` does, blocking, for work that runs in a thread anyway; it raises the same errors.

    Args:
        directory: As ``write_wav``.
        name: As ``write_wav``.
        pcm: As ``write_wav``.
        sample_rate: As ``write_wav``.
        overwrite: As ``write_wav``.
        trailer: Chunks that follow the sound, complete with ids, sizes and padding; players ignore unknown ones.
        real: As ``WavWriter``.
        synced: Whether it is on disk before this returns; what is not may be torn after a power failure.
    """
    content = WavContent(sample_rate)
    draft = _SoundDraft(directory, checked_name(name, "wav"), content, overwrite, real=real, synced=synced)
    return draft.save(pcm, trailer)


class WavWriter:
    """A WAV file that grows piece by piece and appears under its name only when it is complete and on disk.

    Use it as ``async with WavWriter(folder, "book.wav") as writer``; leaving without ``commit()``, for whatever
    reason, removes every trace. Calls are made one after the other.

    Args:
        directory: The output folder; made with mode 0700 when missing.
        name: The file's name, as ``safe_filename`` takes it.
        sample_rate: Samples per second of a WAV; every other format has 24,000.
        overwrite: Whether ``commit`` may replace an existing file.
        growing: Whether players may open the file before it is complete, as ``NAME.part.wav`` (or another ending)
            beside it: it does not tell its length then, and ``commit`` renames it.
        real: What ``check_target`` returned: if a link has taken its place since, nothing is written. ``None``: where
            the folder is when the file is opened.
        output_format: What the file is. What is not WAV is decoded once more before it gets its name.

    Raises:
        TTSValidationError: The name is no safe file name, or a file of this format cannot be played while it grows.
        ValueError: No WAV has this sample rate.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        sample_rate: int = SAMPLE_RATE,
        overwrite: bool = False,
        growing: bool = False,
        real: Path | None = None,
        output_format: OutputFormat = "wav",
    ) -> None:
        content: DraftContent
        if output_format == "wav":
            content = WavContent(sample_rate, growing=growing)
        else:
            content = EncodedContent(output_format, growing=growing)
        self._draft = _SoundDraft(
            directory, checked_name(name, output_format), content, overwrite, growing=growing, real=real
        )

    async def __aenter__(self) -> Self:
        try:
            await self._draft.in_thread(self._draft.open)
        except asyncio.CancelledError:
            await self._draft.in_thread(self._draft.discard)
            raise
        return self

    def describe(self, tags: Mapping[str, str]) -> None:
        """Say, before the first write, what the file says about itself. A WAV says nothing.

        Args:
            tags: As ``FileEncoder`` takes them.
        """
        self._draft.content.describe(tags)

    async def write(self, pcm: Pcm) -> None:
        """Append sound. A write that fails or is cancelled ends the file: it cannot be committed any more.

        Args:
            pcm: Signed 16-bit little-endian samples of one channel; a sample may be split over two writes.

        Raises:
            TTSOutputError: As ``commit``.
            ConfigurationError: As ``require_encoder``.
            RuntimeError: The file was committed, discarded, or never opened with ``async with``.
        """
        await self._draft.in_thread(self._draft.write, pcm)

    async def prepare(self, pcm: Pcm = b"") -> os.stat_result:
        """Append the end of the sound, and complete the file on disk; only its name is still missing.

        Args:
            pcm: As ``write``.

        Returns:
            What the file is. The name that it gets changes neither its inode nor its size nor its time.

        Raises:
            TTSOutputError: As ``commit``.
            ValueError: The sound ends inside a sample.
            RuntimeError: The file was committed, discarded, or never opened with ``async with``.
        """
        return await self._draft.in_thread(self._draft.prepare, pcm)

    async def hold(self, pcm: Pcm, twin: SavedWav | None = None) -> os.stat_result:
        """Do what ``async with``, ``write`` and ``prepare`` do, in one trip to a thread; ``__aexit__`` follows.

        Args:
            pcm: The whole sound.
            twin: A file that holds it already. A WAV becomes a further name of it (a hard link) where the file system
                has such, and where it still is that file. ``None``: there is none.

        Returns:
            As ``prepare``.

        Raises:
            TTSOutputError: As ``commit``.
            ValueError: The sound ends inside a sample.
        """
        return await self._draft.in_thread(self._draft.hold, pcm, twin)

    @property
    def draft_path(self) -> Path:
        """Where the file is until it gets its name.

        Raises:
            RuntimeError: The file was committed, discarded, or never opened with ``async with``.
        """
        return self._draft.draft_path

    async def sound(self) -> bytes | None:
        """The samples of all writes; ``None``: too many for memory, or unreadable."""
        return await self._draft.in_thread(self._draft.sound)

    @property
    def unsaved(self) -> bytes | None:
        """What was written before the file was given up; ``None``: above ``MOST_UNSAVED_BYTES``, or unreadable."""
        return self._draft.unsaved

    async def commit(self, before: float = inf) -> Path:
        """Give the complete file its name, on disk before this returns. Returns its absolute path.

        A link that stands at the name is replaced, never followed. Cancelled, the file is there wholly or not at all.
        Where the file system has no hard links, a name that must not be overwritten is first reserved by an empty
        file; a reader may see that for a moment.

        Args:
            before: The moment, in seconds of ``time.monotonic``, from which on the file may not get its name any more.

        Raises:
            TooLateError: That moment is over; the file may be committed again with a later one.
            TTSOutputError: The name is taken (code ``OUTPUT_EXISTS``), or the system said no; the text names the file
                and the reason. An older file is untouched, unless replacing it worked and only syncing the folder
                failed: then the new file is complete, but might not survive a power failure.
            ValueError: The sound ends inside a sample.
            RuntimeError: The file was committed, discarded, or never opened with ``async with``.
        """
        return await self._draft.in_thread(self._draft.publish, before)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._draft.is_open:
            await self._draft.in_thread(self._draft.discard)


class _SoundDraft:
    """A sound under a temporary name. Its methods block; they run in threads, one at a time."""

    def __init__(
        self,
        directory: Path,
        name: str,
        content: DraftContent,
        overwrite: bool,
        *,
        growing: bool = False,
        real: Path | None = None,
        synced: bool = True,
    ) -> None:
        self._real = real
        self._synced = synced
        self._path = directory / name
        self._growing_name = checked_name(growing_name(name)) if growing else None
        self.content = content
        self._overwrite = overwrite
        self.unsaved: bytes | None = None
        self._file: DurableFile | None = None
        self._prepared = False
        self._cancelled = False
        self._undo = ExitStack()

    @property
    def is_open(self) -> bool:
        return self._file is not None and self._file.is_open

    @property
    def draft_path(self) -> Path:
        return self._opened().draft_path

    async def in_thread(self, work: Callable[..., _T], *args: object) -> _T:
        """Run blocking work. A thread cannot be stopped: when cancelled, tell it, and wait until it is done."""
        # A plain future: a loop that shuts down cancels its tasks, and would lose sight of this work.
        running = run_in_file_thread(work, *args)
        cancellation: asyncio.CancelledError | None = None
        while not running.done():
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError as error:
                self._cancelled = True
                cancellation = error
        if cancellation is None:
            return running.result()
        running.exception()
        raise cancellation

    def open(self, twin: SavedWav | None = None) -> None:
        with explained(self._path), ExitStack() as undo:
            self._path = absolute(self._path)
            folder_fd = undo.enter_context(folder_at(self._real or real_folder(self._path.parent)))
            remove_stale_drafts(folder_fd)
            if self._growing_name:
                remove_part_of_the_dead(self._path.with_name(self._growing_name), folder_fd)
            file = DurableFile(
                folder_fd,
                self._path,
                overwrite=self._overwrite,
                draft=self._growing_name,
                synced=self._synced,
                # In the cache, every sound is a WAV.
                twin=twin if isinstance(self.content, WavContent) else None,
            )
            self._file = undo.enter_context(file)
            if self._growing_name:
                # Another process may look for a moment whether the file was left behind.
                fcntl.flock(file, fcntl.LOCK_EX)
            undo.callback(self.content.let_go)
            self.content.begin(file)
            self._undo = undo.pop_all()

    def save(self, pcm: Pcm, trailer: bytes = b"") -> SavedWav:
        self.open()
        with self._undo:
            identity = self.prepare(pcm, trailer)
            return SavedWav(self.publish(), identity)

    def hold(self, pcm: Pcm, twin: SavedWav | None) -> os.stat_result:
        self.open(twin)
        return self.prepare(pcm)

    def write(self, pcm: Pcm) -> None:
        with self._writing():
            self.content.write(pcm)

    def prepare(self, pcm: Pcm = b"", trailer: bytes = b"") -> os.stat_result:
        self.write(pcm)
        with self._writing() as file:
            self.content.finish(trailer)
            if self._synced:
                os.fsync(file.fileno())
            self._prepared = True
            return os.fstat(file.fileno())

    def sound(self) -> bytes | None:
        return self.content.sound(self._opened().fileno())

    @contextmanager
    def _writing(self) -> Iterator[DurableFile]:
        file = self._opened()
        try:
            with explained(self._path):
                yield file
        except (TTSOutputError, ValueError):
            self.unsaved = self.content.sound(file.fileno())
            self.discard()
            raise

    def publish(self, before: float = inf) -> Path:
        if not self._prepared:
            self.prepare()
        file = self._opened()
        # The thread looks at the clock, because it may have waited or been frozen since the call.
        if time.monotonic() >= before:
            raise TooLateError
        # The descriptor that reads the sound back outlives the file's own.
        fd = os.dup(file.fileno())
        try:
            with explained(self._path), self._undo:
                file.close()
                if self._cancelled:
                    raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
                file.publish()
        except TTSOutputError:
            self.unsaved = self.content.sound(fd)
            raise
        finally:
            os.close(fd)
        return self._path

    def discard(self) -> None:
        self._undo.close()

    def _opened(self) -> DurableFile:
        if self._file is None or not self._file.is_open or self._cancelled:
            raise RuntimeError(f"{str(self._path)!r} is not open for writing: it was committed, discarded or cancelled")
        return self._file
