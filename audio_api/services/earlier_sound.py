"""The sound that an earlier worker published for a task before it died: it is taken over, not paid for again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audio_api.audio.encoding import file_seconds
from audio_api.audio.file_threads import in_file_thread
from audio_api.config import AudioConfig
from audio_api.errors import ConfigurationError, StoreError
from audio_api.models.audio_request import AudioRequest, AudioResponse
from audio_api.models.filenames import safe_filename
from audio_api.services.delivery import delivered_before
from audio_api.services.drafts import is_noted
from audio_api.services.report import Delivered, failure_of
from audio_api.stores.base import Store


async def earlier_sound(
    request: AudioRequest, note: Mapping[str, Any], config: AudioConfig, store: Store | None
) -> AudioResponse | None:
    """Look for the sound of this very task.

    Args:
        request: What the task asks for.
        note: What the earlier worker noted with the task; a stranger may have written it.
        config: The settings.
        store: Where sounds go; ``None``: they stay in the output folder.

    Returns:
        The response to it. Its ``subtitle_paths`` are not those asked for when that worker did not come to the last of
        them. A failure: the store does not say. ``None``: there is no such sound.
    """
    try:
        if request.filename_or(config.output_format) not in {None, note.get("file")}:
            return None
        name = safe_filename(str(note.get("file")))
    except ValueError:
        return None
    if store:
        try:
            found = await delivered_before(store, name, note, request.subtitles)
        except StoreError as error:
            return failure_of(error)
    else:
        found = await in_file_thread(_find, config.output_dir.absolute() / name, note, request.subtitles)
    if found is None:
        return None
    warning = "an earlier worker wrote the file, and ended before it could tell; its cost is unknown"
    return AudioResponse(**found.fields, warnings=(warning,))


def _find(path: Path, note: Mapping[str, Any], kinds: tuple[str, ...]) -> Delivered | None:
    """Exactly this file, with its subtitles; ``None``: it is not there."""
    try:
        status = path.lstat()
        if not is_noted(status, note):
            return None
        duration_s = file_seconds(path)
    except (OSError, ValueError, ConfigurationError):  # the last one without an encoder
        return None
    paths = [path.with_suffix(f".{kind}") for kind in dict.fromkeys(kinds)]
    try:
        # They are written after the recording; older ones belong to the file that it replaced.
        complete = all(each.lstat().st_mtime_ns >= status.st_mtime_ns for each in paths)
    except OSError:
        complete = False
    return Delivered(duration_s, None, str(path), None, tuple(map(str, paths)) if complete else None)
