"""Where a text may be cut: between paragraphs, sentences, clauses, words or characters.

For speech a cut too few costs little and a wrong one is heard, so every doubtful full stop counts as none. The rules
need no language, only scripts. ``sentencex``, the kept splitter that was measured beside them, drops newlines, fails on
lone surrogates, and cuts behind "M.", "Av.", "Bpk.", "TS." and "डॉ.".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Literal, NamedTuple

from audio_api.text.abbreviations import ends_abbreviation
from audio_api.text.graphemes import splits_grapheme

Kind = Literal["paragraph", "sentence", "clause", "word", "grapheme"]

# Stands for every character but the first of what is never cut: tags, URLs, and the white space inside an abbreviation
# or a number. A noncharacter, so no pattern below matches it.
_INSIDE = "\ufffe"
# Stands for every character of a note mark behind the end of a sentence, which belongs to that sentence.
_NOTE = "\ufdd0"
_UNCUT = {_INSIDE, _NOTE}
TAG = r"</?[^\W\d][^<>\n]{0,60}>"
"""An audio tag of the 3.8 models, such as ``<laugh>``."""
# Note marks behind the end of a sentence: "[1]", "¹", "†", the stars of emphasis, and, before white space, digits.
_BRACKETED = r"[\[［〔]\^?(?:\d{1,3}(?:[,–-] ?\d{1,3})?|[^\W\d_]|(?:n|note|nb|Anm\.) ?\d{1,3}|citation needed)[\]］〕]"
_NOTES = rf"(?:{_BRACKETED}|[\u00b9\u00b2\u00b3\u2070\u2074-\u2079ᵃ-ᶻ†‡]{{1,4}}|[*_]{{1,4}}(?!\w)){{1,6}}"
_END = r"[.!?…。！？｡।॥؟۔][\"'”’»)\]」』）]{0,3}"
# Alternatives that begin with a letter of their own let the scanner skip everything else.
_ATOM = re.compile(
    rf"(?P<end>{_END})(?P<notes>{_NOTES}|\d{{1,3}}(?=\s+[^\W\d_]|\s*$))|{TAG}|\[[^\[\]\n]{{1,60}}\]|\|[^|\n]{{1,20}}\||"
    r"https?://[^\s<>\"。、，！？；：「」『』（）]*[\w/]|www\.[^\s<>\"。、，！？；：「」『』（）]*[\w/]|"
    r"\.(?=\s)[^\S\n]*+(?:\n[^\S\n]*+)?(?=\S)|"
    r" (?=\d{3}(?!\d))|\u00a0(?=\d{3}(?!\d))|\u202f(?=\d{3}(?!\d))"
)

# A quote that closes in one language opens in another; before white space it closes. French closes behind a space.
_CLOSING = rf"[\"'“”‘’«»‹›)\]}}」』】）》〉]{{0,8}}+(?:[ \u00a0\u202f]»(?=\s))?+{_NOTE}*+"
_CLOSING_CJK = rf"[\"'”’»›)\]}}」』】）》〉]{{0,8}}+{_NOTE}*+"
_OPENING = re.compile(r"[\s\"'“”‘’„«»‹(\[¿¡—–-]{0,12}")
# White space where a line may break, and the zero-width space that parts words in Khmer.
_BREAKING = "[\\t-\\r\\x1c- \x85\u1680\u2000-\u2006\u2008-\u200b\u2028\u2029\u205f\u3000]"
_HIRAGANA, _KATAKANA, _HAN = "\u3041-\u309f", "\u30a0-\u30ff", "\u3005\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_CJK = _HIRAGANA + _KATAKANA + _HAN
# Scripts whose words stand side by side; behind the bar, what a syllable begins with.
_SOUTH_EAST = "\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff"
_SYLLABLE = "\u0e01-\u0e2e\u0e40-\u0e44\u0e81-\u0eae\u0ec0-\u0ec4\u1000-\u102a\u1780-\u17b3"
_SMALL_KANA = "ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶーん々"

# What follows a quotation without ending its sentence: Japanese and Korean particles, a Chinese "he said".
_QUOTED = re.compile(
    rf"(?<=[\"'”’」』»）])(?:と(?!ても|にかく|ころ|りあえず|もかく|つぜん|もだち)|って|っつ|など|なんて|だって|です|を|"
    rf"[はがのにもでや](?=[{_HAN}{_KATAKANA}「『、，])|[\uac00-\ud7a3]|"
    rf"[{_HAN}]{{0,6}}?(?:[问問](?![题題])|[说說](?![明法])|(?<!知)道(?![路理德])|[喊喝]|叫(?!做)|答(?!案)|嚷|吼))|"
    r"(?<=[\"'”’」』»] )(?:(?:이?라|하)(?:고|며|면서|는)|고 )"
)

# In each pattern the groups hold the white space behind the text that ends there.
_PARAGRAPH = re.compile(r"(\n[^\S\n]*+\n\s*+|[\f\v\x1c-\x1e\u2029]\s*+)")
_SENTENCE = re.compile(
    rf"[.!?…؟۔։‼-⁉⸮]{{1,8}}{_CLOSING}(\s++)|[!?]{{1,8}}{_CLOSING_CJK}()(?=[{_CJK}\uac00-\ud7a3])|"
    rf"[。！？｡।॥؟۔။።፧།៕។]{{1,8}}{_CLOSING_CJK}(\s*+)|．{_CLOSING_CJK}(\s*+)(?!\d)"
)
_CLAUSE = re.compile(
    rf"[,;:،؛՝!?…]{{1,8}}{_CLOSING}(\s++)|[、，；：،؛၊፣፤៖]{_CLOSING_CJK}(\s*+)(?!\d)|[—―]{{1,8}}(\s*+)(?!\d)|"
    rf"\s[–-](\s++)|(\n\s*+)|(?<=[{_SOUTH_EAST}])(\s++)(?=[{_SOUTH_EAST}])"
)
_WORD = re.compile(
    rf"({_BREAKING}++)|(?<=[{_HIRAGANA}])()(?=[{_HAN}{_KATAKANA}])|"
    "(?<=[^\\s\u0e40-\u0e44\u0ec0-\u0ec4])()(?=[\u0e40-\u0e44\u0ec0-\u0ec4])"
)
_UNSPACED = re.compile(
    rf"(?<=[{_CJK}])()(?=[{_CJK}])(?![{_SMALL_KANA}])|"
    rf"(?<=[{_SOUTH_EAST}])(?<![\u0e40-\u0e44\u0ec0-\u0ec4])()(?=[{_SYLLABLE}])(?!.[\u103a\u1039])"
)
_PATTERNS: dict[Kind, tuple[re.Pattern[str], ...]] = {
    "paragraph": (_PARAGRAPH,),
    "sentence": (_SENTENCE,),
    "clause": (_CLAUSE,),
    "word": (_WORD, _UNSPACED),
}
_CLOSE = 80
_LOOK_BEHIND, _LOOK_AHEAD = 32, 40  # longer than a run of punctuation with its quotes and note marks


class Cut(NamedTuple):
    """A place to cut, and what ends there."""

    at: int
    kind: Kind


class Boundaries:
    """The places where one text may be cut; a search takes time linear in what it looks through."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._shape = _ATOM.sub(_mask, text)

    def sentences(self) -> Iterator[int]:
        """The ends of all sentences, the last one that of the text; a paragraph ends one too, white space none."""
        begin = start = end = 0
        for paragraph_end in chain(self._ends(_PARAGRAPH, 1, len(self._text)), (len(self._text),)):
            for cut in chain(self._ends(_SENTENCE, begin + 1, paragraph_end), (paragraph_end,)):
                if self._text[end:cut].strip():
                    if end > start:
                        yield end
                    start, end = end, cut
            begin = paragraph_end
        if self._text:
            yield len(self._text)

    def nearest(self, low: int, target: int, high: int, kinds: Iterable[Kind] = tuple(_PATTERNS)) -> Cut | None:
        """The best kind of cut that is found from ``low`` to ``high``, the one nearest to ``target`` of several.

        Args:
            low: The first index to cut at, above 0.
            target: Any index.
            high: The last index to cut at; white space that begins up to there may end behind it.
            kinds: What to look for, best first.
        """
        for kind in kinds:
            for pattern in _PATTERNS[kind]:
                # A cut that is found close by is the nearest. A search through everything takes twenty times as long.
                for radius in (_CLOSE, high):
                    cuts = self._ends(pattern, max(low, target - radius), high, min(high, target + radius))
                    if (at := min(cuts, key=lambda cut: abs(cut - target), default=None)) is not None:
                        return Cut(at, kind)
        return None

    def nearest_grapheme(self, start: int, target: int, high: int) -> Cut:
        """The cut nearest to ``target`` between two characters, between units such as tags rather than inside one.

        Args:
            start: Where a character begins, below ``target``; the cut is behind it.
            target: From ``start + 1`` to ``high``, searched downwards first.
            high: The last index to cut at, below the length of the text. When all of the text up to there is one
                character, this is the cut.
        """
        inside = high
        for at in chain(range(target, start, -1), range(target + 1, high + 1)):
            if splits_grapheme(self._text, at, start):
                continue
            if self._shape[at] not in _UNCUT:
                return Cut(at, "grapheme")
            inside = at if inside == high else inside
        return Cut(inside, "grapheme")

    def _ends(self, pattern: re.Pattern[str], low: int, high: int, last: int | None = None) -> Iterator[int]:
        """Where white space behind an end is over, or ``high`` when that comes first, in order.

        The white space begins at ``last`` or before; ``None``: at ``high``.
        """
        last = high if last is None else last
        for match in pattern.finditer(self._shape, max(0, low - _LOOK_BEHIND), last + _LOOK_AHEAD):
            at = min(match.end(), high)
            if at < low or match.start(match.lastindex or 0) > last:
                continue
            if at < len(self._text):
                if self._shape[at] in _UNCUT or splits_grapheme(self._text, at):
                    continue
                opening = _OPENING.match(self._shape, at)
                begin = opening.end() if opening else at
                # A small letter comes next, as in `"What?" he asked`, or what quotes in its script.
                goes_on = _QUOTED.match(self._text, at) or self._shape[begin : begin + 1].islower()
                if pattern is _SENTENCE and goes_on:
                    continue
            yield at


def _mask(match: re.Match[str]) -> str:
    """A unit as one capital letter and marks that it goes on, of the same length; anything else as it is."""
    found, text = match.group(), match.string
    if end := match["end"]:
        notes, following = match["notes"], text[match.end() : match.end() + 3].lstrip()[:1]
        # "3.1" is a number, "No.1" and "v.2" are names.
        is_number = notes[0].isdecimal() and not (
            end[0] != "." or text[max(0, match.start() - 2) : match.start()].isalpha()
        )
        ends_none = is_number or (
            end[0] == "." and ends_abbreviation(text, match.start(), notes[0] if notes.isdecimal() else following)
        )
        return found if ends_none else end + _NOTE * len(notes)
    if found[0] == ".":
        unit = ends_abbreviation(text, match.start(), text[match.end()])
        return _INSIDE * len(found) if unit else found
    if found[0].isspace():
        return _INSIDE if text[match.start() - 1 : match.start()].isdecimal() else found
    return "X" + _INSIDE * (len(found) - 1)
