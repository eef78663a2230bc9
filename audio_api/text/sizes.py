"""How large characters are: in bytes, in columns of a screen, and in whatever else is asked for."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable


class SizeOf(dict[str, float]):
    """Sizes by character, each worked out when first asked for."""

    def __init__(self, measure: Callable[[str], float]) -> None:
        super().__init__()
        self._measure = measure

    def __missing__(self, char: str) -> float:
        size = self[char] = self._measure(char)
        return size

    def total(self, text: str) -> float:
        """The size of a text."""
        return sum(map(self.__getitem__, text))


def _char_columns(char: str) -> int:
    """Columns of a fixed-width screen; Chinese, Japanese, Korean and emoji take two.

    ``wcwidth`` counts for terminals, where 441 vowel signs of Indic scripts have no column of their own; in a line of
    subtitles they take room.
    """
    if unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


UTF8_BYTES = SizeOf(lambda char: len(char.encode("utf-8", "surrogatepass")))
"""Bytes of UTF-8; 3 for a lone surrogate."""

COLUMNS = SizeOf(_char_columns)
"""Columns on a screen: 2 for wide characters, 0 for combining marks."""
