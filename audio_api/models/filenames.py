"""The rule for names of output files: one safe path component, on every system."""

from __future__ import annotations

import unicodedata

# Most file systems count bytes, not characters.
MAX_NAME_BYTES = 255
_FORBIDDEN = frozenset('/\\:*?"<>|')
# Names that Windows gives to devices, whatever their ending.
_RESERVED = {"con", "prn", "aux", "nul"} | {f"{device}{n}" for device in ("com", "lpt") for n in "0123456789¹²³"}


def safe_filename(name: str) -> str:
    """Return ``name`` in Unicode NFC with the ending ``.wav``, or refuse it.

    Args:
        name: A file name without any folder, such as ``"chapter 1"`` or ``"chapter 1.wav"``.

    Raises:
        ValueError: The name is empty, hidden, longer than 255 bytes of UTF-8, ends with another audio type, holds a
            separator, a control or invisible character, or is a name that some system reserves.
    """
    shown = repr(name[:80])
    try:
        name = unicodedata.normalize("NFC", name)
        encoded = name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"file name {name[:80]!a} holds half a surrogate pair") from None
    if not name.strip():
        raise ValueError("a file name must not be empty")
    if bad := sorted({char for char in name if char in _FORBIDDEN or not (char.isprintable())}):
        raise ValueError(f"file name {shown} must be a plain name without {', '.join(map(ascii, bad))}, not a path")
    if name[0] in ". ~-" or name[-1] in ". ":
        raise ValueError(f"file name {shown} must not begin with '.', '~', '-' or a space, nor end with '.' or a space")
    stem, dot, ending = name.rpartition(".")
    if dot and ending.lower() in {"mp3", "ogg", "opus", "flac", "aac", "m4a", "pcm", "aiff"}:
        raise ValueError(f"file name {shown} must end with .wav: the audio is always WAV")
    if not (dot and ending.lower() == "wav"):
        stem, encoded, name = name, encoded + b".wav", name + ".wav"
    if stem.partition(".")[0].rstrip().lower() in _RESERVED:
        raise ValueError(f"file name {shown} is reserved by Windows")
    if len(encoded) > MAX_NAME_BYTES:
        raise ValueError(f"file name {shown}… has {len(encoded)} bytes of UTF-8; at most {MAX_NAME_BYTES} are allowed")
    return name
