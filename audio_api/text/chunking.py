"""Long text into pieces that are never over the limit, cut where a reader would pause."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, chain, islice, pairwise
from typing import Literal, NamedTuple

from audio_api.text.boundaries import Boundaries, Cut, Kind
from audio_api.text.pace import SECONDS
from audio_api.text.sizes import UTF8_BYTES

Break = Literal[Kind, "end"]
"""What ends behind a piece. No pause belongs behind a ``word`` or a ``grapheme``."""

_MOST_UTF8_BYTES = 4
_LEAST_SHARE = 0.5


class Piece(NamedTuple):
    """A part of a text, with all its white space."""

    text: str
    break_after: Break

    @property
    def spoken(self) -> str:
        """The text without the white space around it; empty for a piece of white space."""
        return self.text.strip()


class Limit(NamedTuple):
    """A size no piece may exceed: the sum of the sizes of its characters, which ``sizes`` gives from index to index."""

    most: float
    sizes: Callable[[int, int], Iterable[float]]


def split_text(
    text: str, max_chars: int, *, max_bytes: int | None = None, max_s: float | None = None
) -> Iterator[Piece]:
    """Cut a text into pieces, as few and as even as its paragraphs, sentences, clauses and words allow.

    ``"".join(piece.text for piece in pieces) == text``. A cut behind a paragraph is better than one behind a sentence,
    a clause or a word, in this order. Tags, numbers, abbreviations, URLs and characters made of several code points are
    cut only when one of them is longer than a piece may be. A text longer than a piece is cut into pieces of at least
    half the even size, where its words allow. To halve a text, give three quarters of its length.

    Args:
        text: Any text, of any script.
        max_chars: The most code points of a piece; at least 1.
        max_bytes: The most bytes of UTF-8, at least 4; ``None``: any number.
        max_s: The most seconds of speech, as ``pace.spoken_s`` estimates them, above 0; a single code point may
            take longer. ``None``: any number.

    Returns:
        The pieces, made one by one; none for an empty text. They can be blank, or hold no letter.

    Raises:
        ValueError: A limit is too small.
    """
    if max_chars < 1:
        raise ValueError(f"max_chars is {max_chars}; a piece has at least 1 character")
    if max_bytes is not None and max_bytes < _MOST_UTF8_BYTES:
        raise ValueError(f"max_bytes is {max_bytes}; one character has up to {_MOST_UTF8_BYTES} bytes")
    if max_s is not None and not max_s > 0:
        raise ValueError(f"max_s is {max_s}; a piece lasts more than 0 s")
    limits = []
    if max_bytes is not None and max_bytes < max_chars * (1 if text.isascii() else _MOST_UTF8_BYTES):
        limits.append(Limit(max_bytes, lambda start, end: map(UTF8_BYTES.__getitem__, text[start:end])))
    if max_s is not None:
        limits.append(Limit(max_s, lambda start, end: map(SECONDS.__getitem__, text[start:end])))
    found = chain((Cut(0, "word"),), cuts(text, max_chars, limits))
    return (Piece(text[start:end], "end" if end == len(text) else kind) for (start, _), (end, kind) in pairwise(found))


def split_sentences(text: str) -> Iterator[str]:
    """A text's sentences, however long, with their white space; a paragraph ends one too. Joined, they are the text.

    A sentence is never blank, unless the text is. Doubtful ends, as in "the U.S. He", do not count.
    """
    ends = Boundaries(text).sentences()
    return (text[start:end] for start, end in pairwise(chain((0,), ends)))


def cuts(text: str, max_chars: int, limits: Iterable[Limit], least_share: float = _LEAST_SHARE) -> Iterator[Cut]:
    """Where ``split_text`` cuts, the end of the text included, for limits of any kind.

    Args:
        text: Any text.
        max_chars: The most code points between two cuts; at least 1.
        limits: Further limits. A single code point above one of them is not cut.
        least_share: How long a piece is at least, as a part of an even one, where words allow.
    """
    boundaries = Boundaries(text)
    budgets = [_Budget(limit, len(text)) for limit in limits]
    start, size = 0, len(text)
    while start < size:
        reach = min([size, start + max_chars, *(budget.reach(start, start + max_chars) for budget in budgets)])
        if reach == size:
            yield Cut(size, "word")
            return
        count = max(2, math.ceil((size - start) / max_chars), *(budget.pieces for budget in budgets))
        target = min(reach, start + max(1, (size - start) // count))
        least = max(1, int((target - start) * least_share))
        # The best cut in the middle of what is allowed, else the best at all.
        cut = (
            boundaries.nearest(start + least, target, min(reach, size - least))
            or boundaries.nearest(start + 1, target, reach, ("word",))
            or boundaries.nearest_grapheme(start, target, reach)
        )
        for budget in budgets:
            budget.spend(cut.at - start)
        yield cut
        start = cut.at


class _Budget:
    """How much of a limit is used, each character being measured once on the way, and once for the total."""

    def __init__(self, limit: Limit, size: int) -> None:
        self._most, self._sizes = limit
        self._size = size
        self._total = sum(self._sizes(0, size))
        self._spent = 0.0
        self._sums: list[float] = []  # from the start of the text, for each character from the last cut on

    @property
    def pieces(self) -> int:
        """The fewest pieces that what is left can make."""
        return math.ceil((self._total - self._spent) / self._most)

    def reach(self, start: int, end: int) -> int:
        """The furthest index up to ``end`` that a piece may end at; at least one character further."""
        sizes = self._sizes(start + len(self._sums), min(end, self._size))
        sums = accumulate(sizes, initial=self._sums[-1] if self._sums else self._spent)
        self._sums.extend(islice(sums, 1, None))
        return start + max(1, bisect_right(self._sums, self._spent + self._most))

    def spend(self, chars: int) -> None:
        """Make a cut so many characters behind the last one."""
        self._spent = self._sums[chars - 1]
        del self._sums[:chars]
