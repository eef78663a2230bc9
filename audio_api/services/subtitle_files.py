"""Subtitles beside the file they belong to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from audio_api.audio.file_threads import in_file_thread
from audio_api.errors import ErrorCode, TTSOutputError
from audio_api.models.audio_request import AudioRequest
from audio_api.services.recording import Line, Recording
from audio_api.text.pace import spoken_s
from audio_api.text.subtitles import Spoken, SpokenWord, make_cues, to_srt, to_vtt

_WRITERS = {"srt": to_srt, "vtt": to_vtt}


async def check_subtitles(wav: Path, request: AudioRequest, overwrite: bool) -> None:
    """Find out before anything is paid for whether a name is taken.

    Raises:
        TTSOutputError: It is, and may not be overwritten, or it is a folder's.
    """
    if request.subtitles:
        await in_file_thread(_check_all, [wav.with_suffix(f".{kind}") for kind in request.subtitles], overwrite)


def _check_all(paths: Iterable[Path], overwrite: bool) -> None:
    for path in paths:
        if not overwrite and os.path.lexists(path):
            raise TTSOutputError(
                f"{path.name} exists; choose another name, or set overwrite=True", code=ErrorCode.OUTPUT_EXISTS
            )
        # A link to a folder is replaced like any other file.
        if os.path.isdir(path) and not path.is_symlink():  # noqa: PTH112 - pathlib's raises if the name is too long
            raise TTSOutputError(f"{path.name} is a folder; choose another name")


async def write_subtitles(recording: Recording, request: AudioRequest) -> tuple[Path, ...]:
    """Write what the request asks for beside the recording, each file whole or not at all.

    Raises:
        TTSOutputError: A file could not be written. The recording stays, and the text says where it is.
    """
    if not request.subtitles:
        return ()
    return await in_file_thread(_write_all, recording, request.subtitles)


def _write_all(recording: Recording, kinds: Iterable[str]) -> tuple[Path, ...]:
    cues = make_cues(spoken for line in recording.lines for spoken in _spoken(line))
    paths = []
    for kind in dict.fromkeys(kinds):
        path = recording.path.with_suffix(f".{kind}")
        try:
            _replace(path, _WRITERS[kind](cues).encode(), recording.path)
        except OSError as error:
            raise TTSOutputError(
                f"cannot write {str(path)!r}: {error.strerror}; the sound is complete in {recording.path.name}"
            ) from None
        paths.append(path)
    return tuple(paths)


def _replace(path: Path, content: bytes, recording: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=f"{path.suffix}.tmp", delete=False) as file:
        draft = Path(file.name)
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            # As the recording beside it, which follows the umask.
            draft.chmod(recording.stat().st_mode & 0o777)
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise


def _spoken(line: Line) -> Iterator[Spoken]:
    """The turns of a piece, when their words are heard, or else shared out over its time."""
    turns = line.utterance.turns
    words = [_words(line, number) for number in range(len(turns))]
    if not all(words):
        yield from _shared_out(line)
        return
    # The last words are shown until the sound ends, rather than until its quiet end begins.
    words[-1][-1] = replace(words[-1][-1], end_s=line.end_s)
    for turn, of_turn in zip(turns, words, strict=True):
        yield Spoken(turn.text, of_turn[0].start_s, of_turn[-1].end_s, turn.speaker, tuple(of_turn))


def _words(line: Line, turn: int) -> list[SpokenWord]:
    return [SpokenWord(word.text, word.start_s, word.end_s) for word in line.words if word.turn == turn]


def _shared_out(line: Line) -> Iterator[Spoken]:
    """The turns of a piece whose words were not measured: its time is shared out by how long each takes to say."""
    turns = line.utterance.turns
    expected = [max(spoken_s(turn.text), 0.01) for turn in turns]
    per_expected = (line.end_s - line.start_s) / sum(expected)
    at = line.start_s
    for turn, seconds in zip(turns, expected, strict=True):
        end = line.end_s if turn is turns[-1] else at + seconds * per_expected
        yield Spoken(turn.text, at, end, turn.speaker, measured=len(turns) == 1)
        at = end
