"""Text as a reader takes it, whatever its case, accents, width and invisible marks, and the way back."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from functools import cached_property
from itertools import accumulate

# Characters that a reader takes for the same one as its key.
_LOOKALIKES = {":": "：﹕︓∶꞉፦", "'": "’‘ʼ＇", "-": "\u2010\u2011"}
# Accents stand above and below; these are their combining classes, and those of the vowel points of Hebrew and Arabic.
_ACCENTS = range(200, 250)
_POINTS = range(10, 36)
_LISTED = frozenset(map(chr, range(0x2460, 0x24A0)))
_VARIATION_SELECTORS = frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))


class _Folding(dict[int, str]):
    """What each character folds to, worked out when first asked for."""

    def __init__(self) -> None:
        super().__init__({ord(alike): char for char, many in _LOOKALIKES.items() for alike in many})

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        # Fractions and powers are words of their own; numbers in circles and brackets count the items of a list.
        is_plain = category[0] not in "LN" or (category == "No" and char not in _LISTED)
        if char in _VARIATION_SELECTORS or category == "Cf" or (category == "Mn" and _is_accent(char)):
            folded = ""
        elif category == "Zs":
            folded = " "
        elif is_plain:
            folded = char
        else:
            # Upper case first: the dotless ı and the long ſ have capitals that are plain letters.
            plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char.upper()).casefold())
            # Brackets and full stops that come with listed numbers would look like those of the text.
            kept = (part for part in plain if part.isalnum() or part.isspace() or unicodedata.category(part)[0] == "M")
            folded = "".join(part for part in kept if not _is_accent(part))
            folded = folded if any(map(str.isalnum, folded)) else char
        self[code] = folded
        return folded


def _is_accent(char: str) -> bool:
    kind = unicodedata.combining(char)
    return kind in _ACCENTS or kind in _POINTS


_FOLDING = _Folding()


def fold(text: str) -> str:
    """Fold a text: plain letters and digits in one case, one kind of blank and of colon, no invisible marks.

    ``"José"``, ``"JOSE"`` and ``"Ｊｏｓｅ"`` fold to the same; punctuation and line breaks stay as they are.
    """
    return text.translate(_FOLDING)


class FoldedText:
    """A folded text whose positions lead back to the original.

    Attributes:
        original: The text as it was given.
        folded: What ``fold`` makes of it.
    """

    def __init__(self, original: str) -> None:
        self.original = original
        self.folded = fold(original)
        self._keeps_positions = all(len(fold(char)) == 1 for char in set(original))

    def behind(self, position: int) -> int:
        """The index in the original behind what stands before a folded position; invisible marks do not count."""
        if self._keeps_positions:
            return position
        return bisect_left(self._ends, position) + 1 if position else 0

    def before(self, position: int) -> int:
        """The index in the original of what stands at a folded position; invisible marks before it are skipped."""
        return position if self._keeps_positions else bisect_right(self._ends, position)

    @cached_property
    def _ends(self) -> list[int]:
        """Where the folding of each character of the original ends."""
        return list(accumulate(map(len, map(_FOLDING.__getitem__, map(ord, self.original)))))
