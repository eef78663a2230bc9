"""``"Alice: Hello! Bob: Hi there!"`` into turns."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

# Python's own line ends (str.splitlines), so that text from any system works.
_BREAK = r"\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
_SPACE = rf"[^\S{_BREAK}]"
# Before the first name of a line: blanks, quotes, and the invisible marks of editors and of right-to-left text.
_LINE_START = rf"(?<![^{_BREAK}])(?:{_SPACE}|[\"'“”„«»‘’\ufeff\u200b\u200e\u200f])*"
# Behind these a sentence is over, white space or not: Chinese and Japanese have none.
_SENTENCE_END = rf"(?<=[!?…。！？｡．।॥؟۔」』）】]){_SPACE}*"
# Behind these only with white space: they also stand inside "www.bob:80", or open what they seem to close.
_TITLES = "".join(rf"(?<!\b{title}\.)" for title in ("dr", "mr", "mrs", "ms", "prof"))
_SPACED_END = rf"(?<=[.\"'”’“»«)\]>]){_TITLES}{_SPACE}+"
_WORD = re.compile(r"[^\W_]")


class SpokenTurn(NamedTuple):
    """What one speaker says in one go."""

    speaker: str
    text: str


def _spellings(name: str) -> str:
    """A pattern for a name in every case (``Strauß``, ``STRAUSS``), composed or decomposed, however spaced."""
    cases = (name, name.upper(), name.lower(), name.casefold())
    forms = {unicodedata.normalize(form, case) for form in ("NFC", "NFD") for case in cases}
    return "|".join(rf"{_SPACE}+".join(map(re.escape, form.split())) for form in sorted(forms))


def _label_of(speakers: Sequence[str]) -> re.Pattern[str]:
    """A pattern for a speaker's label, with one group for each speaker."""
    names = "|".join(f"({_spellings(name)})" for name in speakers)
    return re.compile(rf"(?:{_LINE_START}|{_SENTENCE_END}|{_SPACED_END})(?:{names}){_SPACE}*[:：]", re.IGNORECASE)


def split_turns(text: str, speakers: Sequence[str]) -> list[SpokenTurn]:
    """Split a dialogue at its speakers' names; only the given names count, so a colon elsewhere is just a colon.

    A name counts at the start of the text, of a line, or behind the end of a sentence, in any case, with an ASCII or a
    full-width colon behind it. A sentence ends with its punctuation, or with a quote or bracket and white space. The
    full stop of a title ends none: in ``"He met Dr. Bob: he was late"`` Bob is not speaking, whereas a speaker named
    ``"Dr. Bob"`` would be. Turns without a letter or digit are left out.

    Args:
        text: The whole dialogue, on one line or many.
        speakers: The names to look for: at least one, distinct whatever their case.

    Raises:
        ValueError: Text stands before the first name, or a speaker never says anything.
    """
    labels = list(_label_of(speakers).finditer(text))
    starts = [label.start() for label in labels] + [len(text)]
    if _WORD.search(text, 0, starts[0]):
        expected = " or ".join(f"{name}:" for name in speakers)
        raise ValueError(f"the dialogue must begin with a speaker's name and a colon: {expected}")
    turns = [
        SpokenTurn(speakers[(label.lastindex or 0) - 1], text[label.end() : end].strip())
        for label, end in zip(labels, starts[1:], strict=True)
        if _WORD.search(text, label.end(), end)
    ]
    if silent := [name for name in speakers if name not in {turn.speaker for turn in turns}]:
        raise ValueError(
            f"{' and '.join(silent)} never speak{'s' * (len(silent) == 1)}: the text holds no '{silent[0]}:' followed "
            "by words at the start of a line or behind the end of a sentence"
        )
    return turns
