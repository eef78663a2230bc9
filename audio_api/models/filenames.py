"""The rule for names of output files: one safe path component, on every system."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from audio_api.models.sound_formats import ENDINGS, OutputFormat, format_of

MAX_NAME_BYTES = 255
"""The longest name that common file systems take; they count bytes, not characters."""

# No name this long shrinks to 255 bytes when it is composed, and ordering very many combining marks takes ages.
_MAX_CHARACTERS = 1000
_SEPARATORS_AND_WILDCARDS = frozenset('/\\:*?"<>|')
# Letters, marks and a symbol by category, but nothing to see: a name made of them looks empty.
_BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
# Endings that people may expect, and that no format of ours has.
_OTHER_AUDIO = frozenset({"aac", "aif", "aiff", "mp4", "oga", "pcm", "webm", "wma"})
# Names that Windows gives to devices, whatever their ending.
_DEVICES = frozenset({"aux", "clock$", "con", "conin$", "conout$", "nul", "prn"}) | frozenset(
    f"{device}{number}" for device in ("com", "lpt") for number in "0123456789¹²³"
)


def safe_filename(name: str, output_format: OutputFormat | None = None) -> str:
    """Return ``name`` in Unicode NFC, or refuse it.

    Args:
        name: A file name without any folder, such as ``"chapter 1"`` or ``"chapter 1.mp3"``.
        output_format: What the file is: its usual ending is added when the name has none of its endings. ``None``: not
            known; nothing is added.

    Raises:
        ValueError: The name is empty, hidden, longer than 255 bytes of UTF-8 (with ``.wav`` when it has no ending yet),
            ends with a type of audio that is another or cannot be made, holds a separator, a wildcard, a control or
            invisible character, or is a name that some system reserves.
    """
    shown = repr(name[:80])
    if not name.strip():
        raise ValueError("a file name must not be empty")
    if len(name) > _MAX_CHARACTERS:
        raise ValueError(f"file name {shown}… has {len(name):,} characters; at most {MAX_NAME_BYTES} bytes are allowed")
    name = unicodedata.normalize("NFC", name)
    # isprintable() refuses controls, bidi overrides, joiners, halves of surrogate pairs and every space but U+0020.
    refused = _SEPARATORS_AND_WILDCARDS | _BLANKS
    if bad := sorted({char for char in name if char in refused or not char.isprintable()}):
        usable = " ".join(
            "".join(" " if char in refused or not char.isprintable() else char for char in name).split()
        ).strip(". ~-")
        raise ValueError(
            f"file name {shown} must be a plain name without {', '.join(map(ascii, bad[:5]))}, which not every system "
            f"takes{f'; such as {usable[:80]!r}' if usable else ''}"
        )
    if name[0] in ". ~-" or name[-1] in ". ":
        raise ValueError(f"file name {shown} must not begin with '.', '~', '-' or a space, nor end with '.' or a space")
    ending, named = name.rpartition(".")[2].lower() if "." in name else "", format_of(name)
    if ending in _OTHER_AUDIO:
        raise ValueError(f"file name {shown} must end with {_among(ENDINGS)}: nothing else can be made")
    if output_format and named not in (output_format, None):
        fitting = [each for each, its in ENDINGS.items() if its == output_format]
        raise ValueError(f"file name {shown} must end with {_among(fitting)}, because its format is {output_format}")
    if name.partition(".")[0].rstrip().lower() in _DEVICES:
        raise ValueError(f"file name {shown} is reserved by Windows")
    if output_format and not named:
        name += f".{output_format}"
    size_bytes = len(name.encode()) + (0 if format_of(name) else len(".wav"))
    if size_bytes > MAX_NAME_BYTES:
        raise ValueError(f"file name {shown}… has {size_bytes} bytes of UTF-8; at most {MAX_NAME_BYTES} are allowed")
    return name


def _among(endings: Iterable[str]) -> str:
    *others, last = (f".{ending}" for ending in endings)
    return f"{', '.join(others)} or {last}" if others else last
