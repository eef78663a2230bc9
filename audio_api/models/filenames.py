"""The rule for names of output files: one safe path component, on every system."""

from __future__ import annotations

import unicodedata

MAX_NAME_BYTES = 255
"""The longest name that common file systems take; they count bytes, not characters."""

# No name this long shrinks to 255 bytes when it is composed, and ordering very many combining marks takes ages.
_MAX_CHARACTERS = 1000
_SEPARATORS_AND_WILDCARDS = frozenset('/\\:*?"<>|')
# Letters, marks and a symbol by category, but nothing to see: a name made of them looks empty.
_BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_OTHER_AUDIO = frozenset({"aac", "aif", "aiff", "flac", "m4a", "mp3", "mp4", "ogg", "opus", "pcm", "webm", "wma"})
# Names that Windows gives to devices, whatever their ending.
_DEVICES = frozenset({"aux", "clock$", "con", "conin$", "conout$", "nul", "prn"}) | frozenset(
    f"{device}{number}" for device in ("com", "lpt") for number in "0123456789¹²³"
)


def safe_filename(name: str) -> str:
    """Return ``name`` in Unicode NFC with the ending ``.wav``, or refuse it.

    Args:
        name: A file name without any folder, such as ``"chapter 1"`` or ``"chapter 1.wav"``.

    Raises:
        ValueError: The name is empty, hidden, longer than 255 bytes of UTF-8, ends with another audio type, holds a
            separator, a wildcard, a control or invisible character, or is a name that some system reserves.
    """
    shown = repr(name[:80])
    if not name.strip():
        raise ValueError("a file name must not be empty")
    if len(name) > _MAX_CHARACTERS:
        raise ValueError(f"file name {shown}… has {len(name):,} characters; at most {MAX_NAME_BYTES} bytes are allowed")
    name = unicodedata.normalize("NFC", name)
    if bad := sorted({char for char in name if not _is_plain(char)}):
        raise ValueError(f"file name {shown} must be a plain name without {', '.join(map(ascii, bad[:5]))}, not a path")
    if name[0] in ". ~-" or name[-1] in ". ":
        raise ValueError(f"file name {shown} must not begin with '.', '~', '-' or a space, nor end with '.' or a space")
    ending = name.rpartition(".")[2].lower() if "." in name else ""
    if ending in _OTHER_AUDIO:
        raise ValueError(f"file name {shown} must end with .wav: the audio is always WAV")
    if name.partition(".")[0].rstrip().lower() in _DEVICES:
        raise ValueError(f"file name {shown} is reserved by Windows")
    if ending != "wav":
        name += ".wav"
    if (size_bytes := len(name.encode())) > MAX_NAME_BYTES:
        raise ValueError(f"file name {shown}… has {size_bytes} bytes of UTF-8; at most {MAX_NAME_BYTES} are allowed")
    return name


def _is_plain(char: str) -> bool:
    # isprintable() refuses controls, bidi overrides, joiners, halves of surrogate pairs and every space but U+0020.
    return char.isprintable() and char not in _SEPARATORS_AND_WILDCARDS and char not in _BLANKS
