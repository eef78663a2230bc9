"""From text to file in one line."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from audio_api.audio.file_threads import in_file_thread
from audio_api.config import AudioConfig, get_config
from audio_api.errors import TTSOutputError, TTSValidationError
from audio_api.models.audio_request import AudioRequest, AudioResponse
from audio_api.models.filenames import safe_filename
from audio_api.services.tts_service import TTSService


async def asay(
    text: str,
    path: str | Path | None = None,
    *,
    voice: str = "kore",
    config: AudioConfig | None = None,
    **fields: Any,
) -> AudioResponse:
    """Speak a text into a file, in one line.

    Args:
        text: What is spoken.
        path: Where the sound goes, ``~`` being the home folder; its ending says the format, such as ``.mp3``. A folder
            is an error, and so is an existing file unless ``overwrite=True``. ``None``: a name made from the content,
            in the configured output folder or store.
        voice: The voice's name.
        config: The settings; ``None``: ``get_config()``.
        fields: Further fields of ``AudioRequest``, such as ``language``, ``style``, ``model`` or ``overwrite``.

    Returns:
        The response of a success.

    Raises:
        AudioAPIError: No speech was made; the class says what to do.
        ValueError: A field is wrong.
    """
    config = config or get_config()
    if path is not None:
        config, fields["output_filename"] = await in_file_thread(aimed_at, path, config)
    request = AudioRequest.model_validate({"text": text, "voice_config": {"voice_name": voice}, **fields})
    async with TTSService(config) as service:
        return (await service.generate_audio(request)).raise_for_error()


def aimed_at(path: str | Path, config: AudioConfig) -> tuple[AudioConfig, str]:
    """The settings with which a request's file is exactly there, and its name. Blocking; for threads.

    Args:
        path: The file, ``~`` being the home folder.
        config: The settings; finished pieces stay where they always are, not beside a file that may be anywhere.

    Raises:
        TTSOutputError: The path is a folder's.
        TTSValidationError: No file can be called so.
    """
    if "\0" in str(path):
        raise _unwritable(path, "a path holds no NUL character")
    try:
        file = Path(path).expanduser()
        os.fsencode(file)
    except (RuntimeError, ValueError) as error:
        raise _unwritable(path, error) from None
    if str(path).endswith(os.sep) or os.path.isdir(file):  # noqa: PTH112 - pathlib's raises if the name is too long
        raise TTSOutputError(f"{str(path)!r} is a folder: name a file in it")
    try:
        name = safe_filename(file.name)
    except ValueError as error:
        raise _unwritable(file, error) from None
    cache_dir = config.cache_dir or config.output_dir / ".cache"
    return config.model_copy(update={"output_dir": file.parent, "output_url": None, "cache_dir": cache_dir}), name


def _unwritable(path: str | Path, reason: object) -> TTSValidationError:
    return TTSValidationError(f"cannot write {str(path)[:80]!r}: {reason}")


def say(text: str, path: str | Path | None = None, **options: Any) -> AudioResponse:
    """Speak a text into a file and wait for it. Takes and raises what ``asay`` does.

    Inside a running event loop it blocks that loop until done; prefer ``await asay(…)`` there.
    """
    speech = partial(asay, text, path, **options)
    try:
        is_in_loop = asyncio.get_running_loop() is not None
    except RuntimeError:
        is_in_loop = False
    # Not in the handler above, whose RuntimeError every failure would carry as its context.
    if not is_in_loop:
        return asyncio.run(speech())
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(speech())).result()
