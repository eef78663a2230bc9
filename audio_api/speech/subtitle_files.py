"""Subtitles beside the file they belong to."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from audio_api.audio.durable import DurableFile, explained, folder_at, real_folder, taken
from audio_api.audio.file_threads import in_file_thread
from audio_api.errors import TTSOutputError
from audio_api.speech.assembly import Draft, Line, Recording
from audio_api.text.pace import spoken_s
from audio_api.text.subtitles import Spoken, SpokenWord, make_cues, to_srt, to_vtt

_WRITERS = {"srt": to_srt, "vtt": to_vtt}


async def check_subtitles(wav: Path, kinds: Iterable[str], overwrite: bool) -> None:
    """Find out before anything is paid for whether a name is taken.

    Raises:
        TTSOutputError: It is, and may not be overwritten, or it is a folder's.
    """
    await in_file_thread(_check_all, [wav.with_suffix(f".{kind}") for kind in kinds], overwrite)


def _check_all(paths: Iterable[Path], overwrite: bool) -> None:
    for path in paths:
        if not overwrite and os.path.lexists(path):
            raise taken(path)
        _refuse_folder(path)


def _refuse_folder(path: Path) -> None:
    # A link to a folder is replaced like any other file.
    if os.path.isdir(path) and not path.is_symlink():  # noqa: PTH112 - pathlib's raises if the name is too long
        raise TTSOutputError(f"{path.name} is a folder; choose another name")


async def write_subtitles(draft: Draft, recording: Recording, kinds: Iterable[str]) -> tuple[Path, ...]:
    """Write subtitles beside a recording, each file whole and durably, or not at all.

    Args:
        draft: What was published. Where its file is not, nothing is written; a file that it may not replace is kept,
            also one that appeared meanwhile.
        recording: What is heard in it.
        kinds: ``"srt"``, ``"vtt"`` or both.

    Raises:
        TTSOutputError: A file could not be written. The recording stays, and the text says where it is.
    """
    return await in_file_thread(_write_all, draft, recording, kinds)


def subtitles_of(recording: Recording, kinds: Iterable[str]) -> dict[str, bytes]:
    """The content of the subtitle files of a recording, by their names. Blocking; for threads.

    Args:
        recording: What is heard.
        kinds: ``"srt"``, ``"vtt"`` or both.
    """
    cues = make_cues(spoken for line in recording.lines for spoken in _with_line_end(line))
    return {recording.path.with_suffix(f".{kind}").name: _WRITERS[kind](cues).encode() for kind in kinds}


def _write_all(draft: Draft, recording: Recording, kinds: Iterable[str]) -> tuple[Path, ...]:
    paths, kept = [], f"the sound is complete in {recording.path.name}"
    for name, content in subtitles_of(recording, kinds).items():
        path = recording.path.with_name(name)
        try:
            _write(path, content, draft.overwrite, recording.path.name, draft.identity)
        except TTSOutputError as error:
            raise TTSOutputError(f"{error}; {kept}", code=error.code) from None
        paths.append(path)
    return tuple(paths)


def _write(path: Path, content: bytes, overwrite: bool, recording: str, identity: os.stat_result) -> None:
    with explained(path), folder_at(real_folder(path.parent)) as folder_fd:
        beside = os.stat(recording, dir_fd=folder_fd, follow_symlinks=False)
        if not os.path.samestat(beside, identity):
            raise FileNotFoundError(errno.ENOENT, "the sound is not there any more")
        _refuse_folder(path)
        with DurableFile(folder_fd, path, overwrite=overwrite) as file:
            file.write(content)
            os.fsync(file.fileno())
            file.publish()


def _with_line_end(line: Line) -> Iterator[Spoken]:
    *others, last = _spoken(line)
    yield from others
    # A text is cut between clauses behind punctuation, or at the end of a line.
    is_line = line.piece.break_after == "clause" and last.text[-1:].isalnum()
    yield replace(last, ends_line=is_line or line.piece.break_after == "paragraph")


def _spoken(line: Line) -> Iterator[Spoken]:
    """The turns of a piece, when their words are heard, or else shared out over its time."""
    turns = line.piece.utterance.turns
    words = [
        [SpokenWord(word.text, word.start_s, word.end_s) for word in line.words if word.turn == number]
        for number in range(len(turns))
    ]
    if not all(words):
        yield from _shared_out(line)
        return
    # The last words are shown until the sound ends, rather than until its quiet end begins.
    words[-1][-1] = replace(words[-1][-1], end_s=line.end_s)
    for turn, of_turn in zip(turns, words, strict=True):
        yield Spoken(turn.text, of_turn[0].start_s, of_turn[-1].end_s, turn.speaker, tuple(of_turn))


def _shared_out(line: Line) -> Iterator[Spoken]:
    """The turns of a piece whose words were not measured: its time is shared out by how long each takes to say."""
    turns = line.piece.utterance.turns
    expected = [max(spoken_s(turn.text), 0.01) for turn in turns]
    per_expected = (line.end_s - line.start_s) / sum(expected)
    at = line.start_s
    for turn, seconds in zip(turns, expected, strict=True):
        end = line.end_s if turn is turns[-1] else at + seconds * per_expected
        yield Spoken(turn.text, at, end, turn.speaker, measured=len(turns) == 1)
        at = end
