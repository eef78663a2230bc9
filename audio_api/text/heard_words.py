"""Words that a recogniser heard, held against those of the text.

A recogniser writes 1963 or "nineteen sixty-three", "color" or "colour", "any one" or "anyone". Both sides are brought
to one spelling first; what is left over counts as heard when it is written with about the same letters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby

Heard = str | Sequence[tuple[str, float]]
"""What a recogniser wrote; word by word with how sure it is of each, from 0 to 1, if it can tell."""

# As ``text/pace.py`` counts them: instructions, which are not spoken.
_TAG = re.compile(r"<[^\W\d][^<>]{0,60}>|\[[^\[\]]{1,60}\]|\|[^|\n]{1,20}\|")
_SIGNS = {"&": " and ", "@": " at ", "%": " percent ", "$": " dollars ", "€": " euros ", "£": " pounds ", "’": "'"}
_WORD = re.compile(r"\d+|[^\W\d_]+(?:'[^\W\d_]+)*")
_ENDINGS = {"n't": " not", "'re": " are", "'ll": " will", "'ve": " have", "'m": " am", "'d": " would", "'s": " is"}
_SAME = {"mr": "mister", "mrs": "missis", "dr": "doctor", "cannot": "can not", "ok": "okay"} | {
    "grey": "gray", "wo not": "will not", "ca not": "can not", "gonna": "going to", "wanna": "want to",
}  # fmt: skip
# British and American spellings; what else they change, they change on both sides.
_SPELLINGS = (
    ("our", "or"), ("is(?=e|i|a)", "iz"), ("yse", "yze"), ("tre$", "ter"), ("ogue$", "og"), ("ae|oe", "e"),
    (r"([^\W\d_])\1", r"\1"),
)  # fmt: skip
_NUMBER_WORDS = re.compile(
    r"\d+|zero|oh|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(thir|four|fif|six|seven|eigh|nine)teen"
    r"|(twen|thir|for|fif|six|seven|eigh|nine)ty|hundreds?|thousands?|(m|b)illions?|half|first|second|third|fifth|ninth"
    r"|(four|six|seven|eigh|ten|eleven|(thir|four|fif|six|seven|eigh|nine)teen|hundred|thousand)th|twelfth"
    r"|(twen|thir|for|fif|six|seven|eigh|nine)tieth"
)
# Spoken with a number, and often written as a sign, or not at all.
_BESIDE_NUMBERS = re.compile("point|and|percent|dollars?|cents?|euros?|pounds?|st|nd|rd|th|am|pm")
_NUMBER = "#"
# Only English number words are known. In other languages a number in figures may be heard as so many words.
_WORDS_OF_NUMBER = 10
# The letters of scripts that are written without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, those of the
# Tai, Balinese, Javanese, Chinese, Japanese.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f\u3005-\u3007\u3040-\u312f"
    "\u31a0-\u31ff\u3400-\u9fff\ua980-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff]"
)
# So many letters of them, such as a name, do no harm among other words.
_MOST_UNSPACED = 4
# Said for signs, or not: voices differ.
_SIGN_WORDS = set("slash dot underscore dash hyphen colon plus minus equals quote http https www".split())  # noqa: SIM905
# Of a word: so "internationalisation" is as much speech as four short words.
_LETTERS = 4.5
# Of the words beside the longest run: of neural speech, damaged or not, at least 0.83 were heard; of robotic voices,
# which tiny.en hardly understands, mostly fewer.
_LEAST_UNDERSTOOD = 0.8
# Of a few words a robotic voice is misunderstood in four or more, as if they were garbled.
_ENOUGH_WORDS = 16
# Of a voice that is surely understood, a run of so many words tells of the sound: of clean neural speech it has up to
# two, of a cut of 1.5 s mostly three or more.
_LEAST_RUN = 3.0
# Of a robotic voice every tenth word is misheard, and the recogniser is not sure of the others: there clean speech has
# runs of up to 12 words. In neural speech, damaged or not, both shares together are mostly below this one.
_SURELY_MISSED = 0.13
_WORDS_PER_SHARE = 40
# A slip of the recogniser puts other words in the place of those that were said; a cut leaves nothing there.
_NOTHING_HEARD = 1.5
# Of the letters of a run; words that sound alike share more, other words of English about 0.4.
_SAME_LETTERS = 0.65
# Of the letters of two runs and the word between them: there only the spaces differ.
_OTHERWISE_SPACED = 0.9
# Nor is the shorter side much shorter: then words are missing between those that are alike.
_SAME_LENGTH = 0.75


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A run of words that do not match.

    Attributes:
        place: Which words of the text.
        said: How many these are; long words count as several.
        heard: How many were heard in their place; long words count as several.
    """

    place: range
    said: float
    heard: float

    @classmethod
    def of(cls, place: range, said: Sequence[str], heard: Sequence[str], language: str) -> Mismatch:
        """A run of words.

        Args:
            place: Which words of the text.
            said: These words.
            heard: Those in their place.
            language: A BCP-47 code.
        """
        sizes = [max(len(side), len("".join(side)) / _LETTERS) for side in (said, heard)]
        figures = 0 if language.partition("-")[0] == "en" else said.count(_NUMBER) - heard.count(_NUMBER)
        if figures:
            spelt = int(figures > 0)
            sizes[spelt] = max(0.0, sizes[spelt] - _WORDS_OF_NUMBER * abs(figures))
            sizes[1 - spelt] -= abs(figures)
        return cls(place, *sizes)

    @property
    def length(self) -> float:
        """Words of the longer side; those in whose place nothing was heard count half as much again."""
        return max(self.said, self.heard, _NOTHING_HEARD * self.missing)

    @property
    def missing(self) -> float:
        """Words of the text in whose place nothing else was heard; below 0: words that were added."""
        return self.said - self.heard


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the words that were heard differ from the text.

    Attributes:
        said: How many words the text has; long words count as several.
        last: Index of its last word; -1 when there is none.
        runs: Every run of words that do not match, in order.
        sureness: How sure the recogniser is of the words that match, on average; 1: it does not tell.
    """

    said: float
    last: int
    runs: tuple[Mismatch, ...]
    sureness: float = 1.0

    @property
    def longest(self) -> Mismatch:
        """The longest run; one of no words when all match."""
        return max(self.runs, key=lambda run: run.length, default=Mismatch(range(0), 0, 0))

    @property
    def telling_run(self) -> float:
        """Of how many words a run tells of the sound: the worse the voice is understood beside it, the more."""
        run = self.longest
        missed = (sum(other.length for other in self.runs) - run.length) / max(self.said - run.said, 1)
        return _LEAST_RUN + _WORDS_PER_SHARE * max(0.0, missed + 1 - self.sureness - _SURELY_MISSED)

    @property
    def is_understood(self) -> bool:
        """Whether the voice is understood so well that its longest run tells of the sound, not of the recogniser."""
        run = self.longest
        others = self.said - run.said
        understood = others - sum(other.length for other in self.runs) + run.length
        # Words that are missing, or are too many, are no misunderstandings; those that differ may be.
        differs = run.said / 2 <= run.heard <= 2 * run.said
        least = max(_ENOUGH_WORDS, run.said) if differs else run.length / 3
        return understood >= max(least, _LEAST_UNDERSTOOD * others)

    @property
    def ends_early(self) -> bool:
        """Whether the last word of the text was not heard."""
        return bool(self.runs) and self.last in self.runs[-1].place

    @property
    def score(self) -> float:
        """The share of the text's words that were heard, less those that were added: from 0 to 1."""
        return max(0.0, 1 - sum(run.length for run in self.runs) / max(self.said, 1))


def spoken_words(text: str) -> list[str]:
    """The words of a text that should be heard, as ``plain_words`` spells them; tags such as ``[laughs]`` are not.

    There are none in a text that is written without spaces between words.
    """
    spoken = _TAG.sub(" ", text)
    return [] if len(_UNSPACED.findall(spoken)) > _MOST_UNSPACED else plain_words(spoken)


def compare(said: Sequence[str], heard: Heard, language: str = "en-US") -> Comparison:
    """Hold what was heard against a text.

    Args:
        said: Its ``spoken_words``.
        heard: What a recogniser wrote.
        language: A BCP-47 code.
    """
    there = plain_words(heard if isinstance(heard, str) else "".join(word for word, _ in heard))
    joined: list[tuple[int, int, int, int]] = []
    for kind, start, end, there_start, there_end in SequenceMatcher(None, said, there, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        run = start, end, there_start, there_end
        if joined and start - joined[-1][1] <= 1:
            first = joined[-1]
            sizes = max(first[1] - first[0], first[3] - first[2]), max(end - start, there_end - there_start)
            # Between two longer runs a word is equal by chance.
            if min(sizes) > 1:
                run = first[0], end, first[2], there_end
                joined.pop()
        joined.append(run)
    differing: list[tuple[int, int, int, int]] = []
    for start, end, there_start, there_end in joined:
        if _is_alike(said[start:end], there[there_start:there_end], _SAME_LETTERS):
            continue
        if differing and start - differing[-1][1] <= 1:
            begin, _, there_begin, _ = differing[-1]
            if _is_alike(said[begin:end], there[there_begin:there_end], _OTHERWISE_SPACED):
                differing.pop()
                continue
        differing.append((start, end, there_start, there_end))
    runs = (
        Mismatch.of(range(start, end), said[start:end], there[there_start:there_end], language)
        for start, end, there_start, there_end in differing
    )
    told = tuple(run for run in runs if run.length)
    size = max(len(said), len("".join(said)) / _LETTERS)
    return Comparison(size, len(said) - 1, told, 1.0 if isinstance(heard, str) else _sureness(said, heard))


def _is_alike(said: Sequence[str], heard: Sequence[str], least: float) -> bool:
    """Whether words are written with about the same letters."""
    one, other = "".join(said), "".join(heard)
    is_as_long = min(len(one), len(other)) >= _SAME_LENGTH * max(len(one), len(other))
    return is_as_long and SequenceMatcher(None, one, other, autojunk=False).ratio() >= least


def _sureness(said: Sequence[str], heard: Sequence[tuple[str, float]]) -> float:
    """How sure the recogniser is of the words that match, on average."""
    told = [(word, sure) for written, sure in heard for word in plain_words(written)]
    blocks = SequenceMatcher(None, said, [word for word, _ in told], autojunk=False).get_matching_blocks()
    matched = [told[at][1] for _, start, size in blocks for at in range(start, start + size)]
    return sum(matched) / len(matched) if matched else 0.0


def plain_words(text: str) -> list[str]:
    """The words of a text in one spelling, without case, marks and punctuation; a number of any length is one."""
    for sign, word in _SIGNS.items():
        text = text.replace(sign, word)
    letters = unicodedata.normalize("NFKD", text.casefold())
    # Marks are accents, and the vowels of Indian scripts, which are no letters to a regular expression.
    plain = "".join(char for char in letters if not unicodedata.category(char).startswith("M"))
    words = []
    for found in _WORD.findall(plain):
        word = found
        for ending, full in _ENDINGS.items():
            if found.endswith(ending) and found != ending:
                word = found.removesuffix(ending) + full
        words += _SAME.get(word, word).split()
    spelt = []
    spoken = (word for word in words if word not in _SIGN_WORDS)
    for _, group in groupby(
        spoken, lambda word: bool(_NUMBER_WORDS.fullmatch(word) or _BESIDE_NUMBERS.fullmatch(word))
    ):
        run = list(group)
        if run in (["1"], ["one"]):
            spelt.append("one")  # most often a pronoun, and a part of "anyone"
            continue
        if any(map(_NUMBER_WORDS.fullmatch, run)):
            spelt.append(_NUMBER)
            continue
        for word in run:
            for pattern, other in _SPELLINGS:
                word = re.sub(pattern, other, word)
            spelt.append(word)
    return spelt
