"""Where a reader of a dialogue sees a known name and a colon, however they are decorated."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from audio_api.text.folding import FoldedText, fold

BREAK = r"\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
"""Python's own line ends (``str.splitlines``) for a character class, so that text from any system works."""
TITLES = ("dr", "mr", "mrs", "ms", "prof")
"""Their full stop ends no sentence."""

_SPACE = rf"[^\S{BREAK}]"
_LINE_START = rf"(?<![^{BREAK}])"
_OPENING, _CLOSING = r"\[［【〔(（{", r"\]］】〕)）}"
_IN_BRACKETS = rf"[^{_OPENING}{_CLOSING}{BREAK}]*"
_DIRECTION = rf"[{_OPENING}]{_IN_BRACKETS}[{_CLOSING}]"
_STAMP = rf"\d{{1,3}}:\d\d(?::\d\d)?(?:[.,]\d{{1,6}})?(?:{_SPACE}?[ap]\.?m\b\.?)?"
# Punctuation that ends a sentence is no decoration: what stands before it belongs to the turn before.
_SENTENCE_MARKS = ".!?…。！？｡．।॥؟۔¡¿"
_SYMBOLS = rf"(?:_|[^\w\s:{_SENTENCE_MARKS}])++"
_TAG = (
    r"</?(?:b|i|u|s|a|p|em|strong|mark|small|big|code|font|span|div|li|ul|ol|td|tr|th|h[1-6]|blockquote|br)"
    rf"(?:\s[^<>{BREAK}]*)?/?>"
)
# A speaker may be called "B", and her name stand in angle brackets.
_OPENING_TAG = rf"{_TAG}(?!{_SPACE}*:)"
# Dates, times and counts, and the numbers and letters of lists.
_NUMBER = (
    r"\d{1,9}(?:[.:,/–-]\d{1,9}|[thms]\d{1,9}){0,9}"
    rf"(?:z|h|ms|m|s|min|sec|{_SPACE}?uhr|{_SPACE}?[ap]\.?m\b\.?)?(?![^\W_])(?::(?={_SPACE}))?"
)
# A letter or a zero with a full stop more often ends a sentence.
_LIST_MARK = rf"(?:[1-9]\d{{0,3}}[.)]{{1,2}}|(?:\d{{1,4}}|[a-z]|[ivxlc]{{2,6}})\)(?={_SPACE})|\[x\])"
_SHORTCODE = r":[a-z0-9_+-]{2,40}:"
_ENTITY = r"&#?\w{1,10};"
# What may stand between the start of a line and the name. Each alternative is atomic and their number is bounded, which
# keeps the time linear.
_LINE_DECORATION = (
    rf"(?:(?>{_SPACE}++|{_OPENING_TAG}|{_ENTITY}|{_SHORTCODE}|{_LIST_MARK}|{_NUMBER}|{_SYMBOLS})){{0,30}}?"
)
_EMOJI = r"\u2190-\u21ff\u2300-\u27bf\u2900-\u2bff\U0001f000-\U0001faff"
# In the middle of a line less counts as decoration, as more of it is text there.
_INNER_DECORATION = rf"(?:(?>{_SPACE}++|{_OPENING_TAG}|[*_~`•{_EMOJI}]++|[\[(<]{_STAMP}[\])>]|[\[(（【［])){{0,8}}?"
# Behind these a sentence is over, white space or not: Chinese and Japanese have none.
_SENTENCE_END = rf"(?<=[!?…。！？｡．।॥؟۔」』）】]){_SPACE}*"
# Behind these only with white space: they also stand inside "www.bob:80", or open what they seem to close. Thai and Lao
# sentences end with nothing else, and their words have none between them.
_BEHIND_A_TITLE = "".join(rf"(?<!\b{title}\.)" for title in TITLES)
_SPACED_END = rf"(?<=[.\"'”’“»«)\]>\u0e00-\u0eff]){_BEHIND_A_TITLE}{_SPACE}+"
_BOLD_END = rf"(?:{'|'.join(rf'(?<=[.!?…][*_~`]{{{count}}})' for count in (1, 2, 3))}){_SPACE}+"
# What may stand between a name and its colon.
_BEHIND_NAME = rf"(?>{_SPACE}++|{_DIRECTION}|{_TAG}|{_STAMP}|\d\u20e3|_|[^\w\s:])*+"
# A colon, but not the eyes of an emoticon: "Bob :)".
_COLON = r":(?!(?<=\s:)-?[)(dpo/\\](?![^\W_]))"

_AND = "and|und|et|y|och|og|ve|dan"
_AND_LIKE = f"{_AND}|or|with|to|plus|oder|mit|ou|avec|e|o|con|ed|com|en|met|dengan|si|va|i|z|oraz|и|с|та|і"
_AND_SIGNS = "& + / , 、 ، ・ و 와 과 と 和 与 與 及 और এবং และ"
_AND_SIGN = "|".join(re.escape(fold(sign)) for sign in _AND_SIGNS.split())
_BETWEEN_NAMES = rf"(?:{_SPACE}*(?:{_AND_SIGN}){_SPACE}*|{_SPACE}+(?:(?:{_AND_LIKE}){_SPACE}+)?)"
_BEFORE_NAME = rf"(?:{_SPACE}*[&+/]{_SPACE}*|{_SPACE}+(?:{_AND}){_SPACE}+)"
_WORD = rf"[^\W_](?:[^\s:{_SENTENCE_MARKS}]{{0,39}}[^\W_])?"
# At most three words make a direction rather than a sentence.
_WORDS = rf"{_WORD}(?:(?:{_SPACE}|[^\w\s:{_SENTENCE_MARKS}]){{1,9}}{_WORD}){{0,2}}"
# What makes the words behind a name a direction: brackets, a comma, a dash or another mark, or a word like "and".
_MARK = (
    rf"(?:{_SPACE}*(?:{_DIRECTION}|[,;/&+|*(\[{{<—–=→、，；・（［【،؛])|{_SPACE}+(?:[^\w\s:.!?]|_|(?:{_AND_LIKE})\b))"
    rf"(?:{_SPACE}|[^\w\s:{_SENTENCE_MARKS}]|_){{0,9}}"
)
# English participles and adverbs need no mark: "Bob laughing:".
_MANNER = rf"(?:[^\W\d_]+{_SPACE}+)?[^\W\d_]+(?:ing|ly)(?![^\W_])"
_DIRECTION_FIRST = rf"(?:{_DIRECTION}|<[^<>{BREAK}]{{1,80}}>|\*[^*{BREAK}]{{1,80}}\*)(?:{_SPACE}|{_SYMBOLS})*+"
# "Scene 1 - Bob:", "Jan 5, 12:30 Bob:", "speaker: Bob:".
_HEADING_FIRST = (
    rf"(?:{_WORD}{_SPACE}+\d{{1,4}}(?:{_SPACE}|{_SYMBOLS}|:)*+|{_WORD}:{_SPACE}+(?:{_SYMBOLS})?"
    rf"|[^\W\d_][^:{BREAK}]{{0,30}}{_STAMP}(?:{_SPACE}|{_SYMBOLS})*+)"
)

_DIRECTIONS = re.compile(_DIRECTION)
# Brackets that tell a time hold no direction.
_TIME = re.compile(rf"(?=[^:]*:)(?:(?>{_NUMBER}|{_SYMBOLS}|{_SPACE}))*")
# The address of a Markdown link: "[Bob](https://example.org):".
_ADDRESS = re.compile(r"(?<=\])\([^()\s]*\)")
_MARKS = re.compile(
    rf"\*+|_+|~+|`+|[|\"{_OPENING}{_CLOSING}“”„«»‹›「」『』《》〈〉]|<(?P<slash>/?)(?P<tag>[^\W\d_]\w*)[^<>]*>"
)
# More pairs around one name are no decoration, and each costs a look at the words behind it.
_MOST_PAIRS = 8
_CLOSERS = dict(zip("[［【〔(（{“„«‹「『《〈", "]］】〕)）}”“»›」』》〉", strict=True))


class Label(NamedTuple):
    """A name and a colon with their decoration.

    Attributes:
        speaker: The name as it was given.
        start: Where the label begins in the text.
        end: The index behind its colon.
        begins_a_line: Whether only decoration stands before it on its line.
        directions: What stands in brackets between name and colon, time stamps apart.
        left_open: Opening and closing mark of each pair that the decoration leaves open, the innermost last.
    """

    speaker: str
    start: int
    end: int
    begins_a_line: bool
    directions: tuple[str, ...]
    left_open: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Oddity:
    """The beginning of a line that reads like a label of known speakers, and is not one.

    Attributes:
        speakers: The known names in it, as they were given.
        start: Where its line begins in the text.
        end: The index behind its colon.
        manner: The words behind the name, if they may be its style.
    """

    speakers: tuple[str, ...]
    start: int
    end: int
    manner: str | None


class LabelFinder:
    """Finds the labels of given speakers in any text, in time that grows with its length."""

    def __init__(self, speakers: Sequence[str]) -> None:
        self._speakers: dict[str, list[str]] = {}
        for speaker in speakers:
            self._speakers.setdefault(_key(speaker), []).append(speaker)
        longest_first = sorted(self._speakers, key=len, reverse=True)
        names = "|".join(rf"{_SPACE}+".join(map(re.escape, name.split())) for name in longest_first)
        inner_start = rf"(?:{_SENTENCE_END}|{_SPACED_END}|{_BOLD_END})"
        self._label = re.compile(
            rf"(?:{_LINE_START}(?P<line>){_LINE_DECORATION}|{inner_start}{_INNER_DECORATION})"
            rf"(?P<name>{names})(?P<tail>{_BEHIND_NAME}){_COLON}"
        )
        self._oddity = re.compile(
            rf"{_LINE_START}{_LINE_DECORATION}(?:"
            rf"(?P<name>{names})(?:{_BETWEEN_NAMES}(?P<second>{names})"
            rf"|{_MARK}(?P<words>{_WORDS})|{_SPACE}+(?P<manner>{_MANNER}))"
            rf"|(?:{_DIRECTION_FIRST}|{_HEADING_FIRST}|(?:{'|'.join(TITLES)})\.?{_SPACE}*|(?:{_WORD}{_SPACE}+)?{_WORD}{_BEFORE_NAME})"
            rf"(?P<last>{names})"
            rf")(?P<tail>{_BEHIND_NAME}):(?!//|\d)"
        )

    def is_known(self, name: str) -> bool:
        """Whether it is one of the speakers' names, however it is spelled."""
        return _key(name) in self._speakers

    def labels(self, text: FoldedText) -> Iterator[Label]:
        """Every label, in order."""
        for found in self._label.finditer(text.folded):
            if _is_cut_short(found):
                continue
            start, end = text.behind(found.start()), text.behind(found.end())
            lead = text.original[start : text.behind(found.start("name"))]
            tail = text.original[text.before(found.end("name")) : end - 1]
            begins_a_line = found["line"] is not None
            directions, left_open = _decoration(lead, found["name"], tail) if lead or tail else ((), ())
            # An aside in the middle of a line: "I met him (Bob: my brother)."
            if begins_a_line or not any(opener in _CLOSERS for opener, _ in left_open):
                yield Label(self._speaker(text, found, "name"), start, end, begins_a_line, directions, left_open)

    def oddities(self, text: FoldedText) -> Iterator[Oddity]:
        """Every line that begins like a label without being one, or with words before one; labels are among them."""
        for found in self._oddity.finditer(text.folded):
            if _is_cut_short(found):
                continue
            names = [group for group in ("name", "second", "last") if found[group]]
            manner = next((group for group in ("words", "manner") if found[group]), None)
            yield Oddity(
                speakers=tuple(dict.fromkeys(self._speaker(text, found, name) for name in names)),
                start=text.behind(found.start()),
                end=text.behind(found.end()),
                manner=manner and text.original[text.before(found.start(manner)) : text.behind(found.end(manner))],
            )

    def _speaker(self, text: FoldedText, found: re.Match[str], group: str) -> str:
        alike = self._speakers[" ".join(found[group].split())]
        if len(alike) == 1:
            return alike[0]
        # "José" and "Jose" may both speak; the accents decide, where they are written.
        written = _exact(text.original[text.behind(found.start(group)) : text.before(found.end(group))])
        return next((speaker for speaker in alike if _exact(speaker) == written), alike[0])


def _key(name: str) -> str:
    return " ".join(fold(name).split())


def _exact(name: str) -> str:
    visible = "".join(char for char in name if unicodedata.category(char) != "Cf")
    return " ".join(unicodedata.normalize("NFC", visible).casefold().split())


def _is_cut_short(found: re.Match[str]) -> bool:
    """Whether the name goes on with a vowel sign, and is another one: scripts of India write vowels as marks."""
    return unicodedata.category(found["tail"][:1] or " ")[0] == "M"


def _decoration(lead: str, name: str, tail: str) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """The directions around a name, and the pairs of marks of which only the first is there, the innermost last."""
    if tail.startswith("]"):
        tail = _ADDRESS.sub("", tail, count=1)
    directions = (direction[1:-1].strip() for direction in _DIRECTIONS.findall(tail))
    # The name itself keeps marks before it from looking like bullets.
    decoration = f"{lead}{name}{_DIRECTIONS.sub('', tail)}"
    opened: list[tuple[str, str]] = []
    for mark in _MARKS.finditer(decoration):
        if mark[0] == "|":
            # However many cells there are, the row begins and ends with one mark.
            opened += [] if ("|", "|") in opened[:1] else [("|", "|")]
        elif opened and mark[0] == opened[-1][1]:
            opened.pop()
        elif mark["tag"]:
            opened += [] if mark["slash"] else [(mark[0], f"</{mark['tag']}>")]
        elif mark[0] in _CLOSERS:
            opened.append((mark[0], _CLOSERS[mark[0]]))
        elif mark[0][0] in '*_~`"' and not decoration[mark.end() : mark.end() + 1].isspace():
            # Before a blank it is a bullet.
            opened.append((mark[0], mark[0]))
    return tuple(words for words in directions if not _TIME.fullmatch(fold(words))), tuple(opened[-_MOST_PAIRS:])
