"""Text as users have it, made uniform without a word changed."""

from __future__ import annotations

import re
import unicodedata

_BOM = "\ufeff"
_LETTER_OR_DIGIT = re.compile(r"[^\W_]")
# Control characters other than white space, and halves of surrogate pairs, which no encoder takes.
_UNSPEAKABLE = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff]")
_FIRST_TO_COMPOSE = "\u0300"  # below, every text is composed
# The limit of Unicode's stream-safe format (UAX #15): no language comes near it, and composing takes time quadratic in
# the length of a run, half a minute for 100,000 marks.
_LONGEST_RUN = 30
_LONG_RUN = re.compile(rb"[^\x00]{%d,}" % (_LONGEST_RUN + 1))


def uniform(text: str) -> str:
    """The text without byte order marks and in composed form (NFC), so that equal texts are equal strings.

    Editors write the mark (U+FEFF) at the start of a file, so it comes to stand inside a text that was put together
    from files. A run of more than 30 combining marks on one letter stays as it is. Takes time linear in the text.
    """
    text = text.replace(_BOM, "")
    if not text or max(text) < _FIRST_TO_COMPOSE:
        return text
    parts, at = [], 0
    # One byte a character, 0 for all but combining marks.
    for run in _LONG_RUN.finditer(bytes(map(unicodedata.combining, text))):
        parts += [unicodedata.normalize("NFC", text[at : run.start()]), text[run.start() : run.end()]]
        at = run.end()
    return "".join([*parts, unicodedata.normalize("NFC", text[at:])])


def refuse_unspeakable(text: str, what: str) -> None:
    """Refuse what no engine can be sent.

    Raises:
        ValueError: It holds a control character or half of a surrogate pair; the text says which, and where.
    """
    if bad := _UNSPEAKABLE.search(text):
        raise ValueError(f"{what} holds the unspeakable character U+{ord(bad[0]):04X} at position {bad.start()}")


def has_words(text: str) -> bool:
    """Whether a text holds a letter or digit."""
    return _LETTER_OR_DIGIT.search(text) is not None
