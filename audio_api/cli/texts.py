"""Where a text to speak comes from: the arguments, a file or standard input."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from audio_api.cli.terminal import complain
from audio_api.errors import TTSValidationError


def read_text(words: Sequence[str], file: str | None) -> str:
    """What the arguments say, or the file or the standard input they name; the locale does not matter.

    Args:
        words: The text, word by word or in one; ``-`` alone is standard input.
        file: The file whose text it is; ``-`` is standard input. ``None``: the words are the text.

    Raises:
        TTSValidationError: There is no text, there are two, or what was read is none.
    """
    if bool(words) == bool(file):
        both = "TEXT and --file exclude each other" if words else "there is nothing to speak"
        raise TTSValidationError(f"{both}: give a TEXT, --file PATH, or - for standard input")
    if file and file != "-":
        try:
            content = Path(file).read_bytes()
        except OSError as error:
            raise TTSValidationError(f"cannot read {file!r}: {error.strerror}") from None
        return _decoded(content, file)
    if file or list(words) == ["-"]:
        if sys.stdin is None:
            raise TTSValidationError("standard input is closed")
        if sys.stdin.isatty():
            complain("reading standard input; Ctrl-D ends the text")
        return _decoded(sys.stdin.buffer.read(), "standard input")
    text = " ".join(words)
    with suppress(OSError, ValueError):
        if Path(text).is_file():
            complain(f"hint: {text!r} is a file, and its name is spoken; its text: --file {shlex.quote(text)}")
    # What Python could not decode is in it as halves of surrogate pairs.
    return _decoded(text.encode("utf-8", "surrogateescape"), "the argument")


def _decoded(content: bytes, source: str) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = "\0"
    # UTF-16 without its mark, and many a binary file, is UTF-8 by its letter.
    if "\0" in text:
        raise TTSValidationError(f"{source} is not UTF-8 text")
    return text
