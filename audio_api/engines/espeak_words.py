"""When each word is heard, from what eSpeak NG says about where in the text it is. Pure functions."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from audio_api.engines.base import Utterance, WordTime

# In Chinese characters and kana, written without spaces, each is a word. Elsewhere only white space ends one: eSpeak NG
# names places inside of what it reads in several words, such as a number, but they are wrong.
_UNSPACED = r"\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


# Clauses end with these whatever their width; in Chinese and Japanese no space follows them, which an ASCII one needs.
_PAUSES = frozenset(",.:;!?")
# What eSpeak NG knows by name, such as "½", "m²" and "№"; other compatible characters it spells out or leaves out.
_KNOWN_BY_NAME = frozenset({"<fraction>", "<super>", "<sub>", "<noBreak>", "<vertical>"})


class _Readable(dict[int, str]):
    """What eSpeak NG is given for a character, worked out when first asked for."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        kind = unicodedata.decomposition(char).partition(" ")[0]
        plain = unicodedata.normalize("NFKC", char)
        category = unicodedata.category(char)
        is_everyday = not kind.startswith("<") or char == "№" or plain in _PAUSES or plain.isspace()
        is_known = is_everyday or (kind in _KNOWN_BY_NAME and category != "Lm")
        is_letter = category[0] in "LNS" or kind in {"<wide>", "<narrow>"}
        self[code] = plain if is_letter and not is_known else char
        return self[code]


_READABLE = _Readable()


def readable(text: str) -> str:
    """A text in the letters and digits that eSpeak NG reads.

    Letters of mathematics, in circles and of full or half width, ligatures, Roman numerals and the forms of Arabic
    letters become those of everyday text (NFKC): eSpeak NG spells them out (``𝓗``) or leaves them out (``１２３``).
    What it knows by name stays: ``½``, ``m²``, ``№``, ``…``.
    """
    return text if text.isascii() else text.translate(_READABLE)


class WordSpan(NamedTuple):
    """What is read from some place of a turn's text up to the next one.

    Attributes:
        at: Characters of the readable text before it.
        start: The first sample of its sound.
        end: The sample after the last one.
    """

    at: int
    start: int
    end: int


def word_times(utterance: Utterance, readings: Iterable[Sequence[WordSpan]], sample_rate: int) -> tuple[WordTime, ...]:
    """When each word is heard; the words of a turn, joined by spaces, are its text.

    Args:
        utterance: What was spoken.
        readings: Of each turn, in the order of their sound.
        sample_rate: Samples per second.
    """
    times: list[WordTime] = []
    for number, (turn, spans) in enumerate(zip(utterance.turns, readings, strict=True)):
        if readable(turn.text) != turn.text:
            # From their places in the readable text to those in the text itself.
            starts = list(accumulate((len(_READABLE[ord(char)]) for char in turn.text), initial=0))
            spans = [span._replace(at=bisect_right(starts, span.at) - 1) for span in spans]
        words = _words(turn.text, spans)
        times += (WordTime(text, start / sample_rate, end / sample_rate, number) for text, start, end in words)
    return tuple(times)


def _words(text: str, readings: Iterable[WordSpan]) -> list[tuple[str, int, int]]:
    starts = [word.start() for word in _WORD.finditer(text)]
    # The voices of some languages name white space, which holds no word.
    if not starts:
        return []
    found: list[WordSpan] = []
    for at, start, end in readings:
        word_at = starts[max(bisect_right(starts, at) - 1, 0)]
        if found and word_at <= found[-1].at:
            found[-1] = found[-1]._replace(end=end)
        else:
            found.append(WordSpan(word_at, start, end))
    # What stands before the first place, such as a dash, goes with the first word.
    edges = [0, *(word.at for word in found[1:]), len(text)]
    return [
        (" ".join(text[first:last].split()), word.start, word.end)
        for word, (first, last) in zip(found, pairwise(edges), strict=False)
    ]
