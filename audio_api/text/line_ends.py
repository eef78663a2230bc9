"""Which line ends a reader hears: those of lists, verse, headings and paragraphs, not those of wrapped prose.

Prose that was wrapped at some width has a line end where the next word had no room, so a line that left room for it
was ended on purpose. A list or a poem may fill its lines by chance: it shows itself by bullets, by lines that all begin
with a capital, or that all end a sentence; and it is narrow, as wrapped prose seldom is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from audio_api.text.sizes import COLUMNS

_PARAGRAPH_END = re.compile(r"\n[^\S\n]*\n\s*|[\f\v\x1c-\x1e\u2029]")
_BULLET = re.compile(r"\s*(?:[-*+•‣▪◦·–—]\s|\(?\d{1,2}[.)]\s|\(?[^\W\d_]\)\s|\[[ xX]\]\s|[\u2460-\u2473])")
_SENTENCE_END = re.compile(r"[.!?…。！？｡।॥؟۔][\"'”’»)\]」』）]*\s*$")
_LETTER = re.compile(r"[^\W\d_]")

# Columns: text is wrapped at 60 to 80, seldom from 30 on (telephones); verse has 20 to 50.
_LEAST_WIDTH, _WIDE = 30, 55
# Of the width, a line that people wrapped by hand may leave this much free.
_RAGGED = 0.1


def own_lines(text: str) -> Iterator[str]:
    """The parts of a text that stand on a line of their own, in order; lines of wrapped prose are one part.

    Args:
        text: Any text; lines and paragraphs end as in ``str.splitlines``.
    """
    for paragraph in _PARAGRAPH_END.split(text.replace("\r\n", "\n").replace("\r", "\n")):
        lines = [line for line in paragraph.splitlines() if line.strip()]
        wrapped = _wrapped(lines) if lines else []
        part: list[str] = []
        for line, goes_on in zip(lines, [*wrapped, False], strict=False):
            part.append(line)
            if not goes_on:
                yield "\n".join(part)
                part = []


def _wrapped(lines: Sequence[str]) -> list[bool]:
    """Of each line but the last, whether its end is that of wrapped prose."""
    are_sentences = all(_SENTENCE_END.search(line) for line in lines)
    if are_sentences or (len(lines) > 2 and all(map(_begins_with_capital, lines))):
        return [False] * (len(lines) - 1)
    # Some editors count columns, others characters: vowel signs of Hindi are characters without a column.
    measured = zip(_without_room(lines, COLUMNS.total), _without_room(lines, len), strict=True)
    bullets = [_BULLET.match(line) is not None for line in lines]
    # A single one may be the date or the dash of a sentence, at the start of a line by chance.
    is_list = sum(bullets) > 1
    return [any(full) and not (is_list and bullet) for full, bullet in zip(measured, bullets[1:], strict=True)]


def _without_room(lines: Sequence[str], measure: Callable[[str], float]) -> list[bool]:
    """Of each line but the last, whether the next word had no room in it."""
    sizes = [measure(line.strip()) for line in lines]
    # Of three lines or more, one may be an address that fits nowhere.
    width = sorted(sizes)[-2 if len(lines) > 2 else -1]
    if width < _LEAST_WIDTH:
        return [False] * (len(lines) - 1)
    without_room = []
    for size, following in zip(sizes, lines[1:], strict=False):
        word, letter = following.split()[0], _LETTER.search(following)
        # Chinese and Japanese are wrapped between any two characters.
        needed = measure(word[0]) if COLUMNS[word[0]] == 2 else 1 + measure(word)
        begins_small = letter is not None and letter[0].islower()
        without_room.append(size + needed > (1 - _RAGGED) * width and (width >= _WIDE or begins_small))
    return without_room


def _begins_with_capital(line: str) -> bool:
    letter = _LETTER.search(line)
    return letter is not None and letter[0].istitle()
