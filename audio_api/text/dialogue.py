"""``"Alice: Hello! Bob: Hi there!"`` into turns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class SpokenTurn(NamedTuple):
    """What one speaker says in one go."""

    speaker: str
    text: str


def split_turns(text: str, speakers: Sequence[str]) -> list[SpokenTurn]:
    """Split a dialogue at its speakers' names; only the given names count, so a colon elsewhere is just a colon.

    A name counts at the start of the text, of a line, or behind the end of a sentence, in any case, with an ASCII or a
    full-width colon behind it. Turns without a letter or digit are left out.

    Args:
        text: The whole dialogue, on one line or many.
        speakers: The names to look for.

    Raises:
        ValueError: Text stands before the first name, or a speaker never says anything.
    """
    by_key = {name.casefold(): name for name in speakers}
    names = "|".join(re.escape(name) for name in sorted(speakers, key=len, reverse=True))
    # What may stand before a name: nothing, a line break, or the end of a sentence with its quotes and brackets.
    label = re.compile(rf"(?:^|(?<=\n)|(?<=[.!?…。！？।]|[\"'”’»)\]]))\s*({names})\s*[:：]", re.IGNORECASE)
    pieces = label.split(text)
    if any(char.isalnum() for char in pieces[0]):
        expected = " or ".join(f"{name}:" for name in speakers)
        raise ValueError(f"the dialogue must begin with a speaker's name and a colon: {expected}")
    turns = [
        SpokenTurn(by_key[name.casefold()], said.strip())
        for name, said in zip(pieces[1::2], pieces[2::2], strict=True)
        if any(char.isalnum() for char in said)
    ]
    if silent := [name for name in speakers if name not in {turn.speaker for turn in turns}]:
        raise ValueError(
            f"{' and '.join(silent)} never speaks: the text holds no {silent[0]!r} followed by a colon and words"
        )
    return turns
