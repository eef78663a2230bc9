"""How long a text takes to speak: its letters, its words, and the pauses between its sentences, lines and paragraphs.

The seconds are those of the offline voice, fitted on the texts of ``tests/corpus.py`` in 24 languages and printed again
by ``benchmarks/pace.py``. Gemini speaks at about the same pace: 83 characters in 4.93 to 6.33 s, which are 5.6 s here.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from audio_api.text.sizes import SizeOf

# Seconds of a letter and, on top, of a word, by language; "" for English and every other language with an alphabet.
_ALPHABETS_S = {
    "": (0.078, 0.02), "cs": (0.071, 0.08), "de": (0.075, 0.0), "es": (0.088, 0.0),
    "fr": (0.063, 0.0), "id": (0.077, 0.07), "it": (0.08, 0.0), "nl": (0.077, 0.02), "pl": (0.083, 0.05),
    "pt": (0.086, 0.01), "ro": (0.083, 0.02), "ru": (0.067, 0.0), "tr": (0.074, 0.13), "uk": (0.077, 0.1),
    "vi": (0.05, 0.08),
}  # fmt: skip
_SCRIPTS_S = {
    "arabic": (0.122, 0.05),
    "devanagari": (0.075, 0.1),
    "bengali": (0.073, 0.17),
    "tamil": (0.079, 0.03),
    "telugu": (0.072, 0.18),
    "indic": (0.075, 0.12),
    "thai": (0.13, 0.0),
    "hangul": (0.177, 0.15),
}
_LATIN, _ALPHABET = "latin", "alphabet"
# The first code point of each run of scripts. Vowel signs of Indic scripts count as letters.
_RUNS = (
    (0x0000, _LATIN), (0x0370, _ALPHABET), (0x0590, "arabic"), (0x0900, "devanagari"), (0x0980, "bengali"),
    (0x0A00, "indic"), (0x0B80, "tamil"), (0x0C00, "telugu"), (0x0C80, "indic"), (0x0E00, "thai"), (0x0F00, "indic"),
    (0x10A0, _ALPHABET), (0x1100, "hangul"), (0x1200, "kana"), (0x13A0, _ALPHABET), (0x1780, "indic"),
    (0x1800, _ALPHABET), (0x1E00, _LATIN), (0x1F00, _ALPHABET), (0x2C60, _LATIN), (0x2C80, _ALPHABET),
    (0x3000, "kana"), (0x3400, "han"), (0xA000, _ALPHABET), (0xAC00, "hangul"), (0xD7B0, _ALPHABET), (0xF900, "han"),
    (0xFB00, _ALPHABET), (0x20000, "han"), (0xE0000, _ALPHABET),
)  # fmt: skip
_RUN_STARTS = [start for start, _ in _RUNS]

# Seconds of what voices read or leave out as they like: at the least, usually, and at the most.
_COSTS_S = {
    "kana": (0.11, 0.165, 0.3),
    "han": (0.15, 0.23, 0.35),  # one syllable, in Japanese up to four
    "comma": (0.2, 0.28, 0.5),
    "sentence": (0.28, 0.4, 0.8),
    "fragment": (0.0, 0.2, 0.8),  # a full stop before a small letter may be that of an abbreviation
    "line": (-0.06, -0.02, 0.8),  # a voice that runs on says the last word faster than that of a sentence
    "paragraph": (0.4, 0.8, 1.6),
    "digit": (0.06, 0.39, 0.6),  # "1984" as a year, "1,299.99" as an amount
    "symbol": (0.0, 0.6, 1.2),  # "*" is a word, or nothing
    "spelled": (0.0, 0.06, 0.25),  # each character of an address or abbreviation, on top of its sound
    "foreign": (0.05, 0.14, 0.3),  # a Latin letter among others: a name, or an abbreviation
    "tag": (0.0, 0.3, 2.0),
    "pause": (0.0, 0.3, 4.0),
    "stretched": (0.0, 0.05, 0.2),  # "Nooooo" is one syllable, or a long one
}
# A voice reads them or does not, in the whole text. Of pauses and numbers it has some longer and some shorter ones, so
# that their sum moves only this part of the way to its extremes.
_READ_OR_NOT = {"symbol", "spelled", "tag", "pause", "stretched"}
_LEANING = 0.3
# Of the usual length. The short and the long reading of sentences differ by a tenth of it, those of symbols by more.
_SURE = 0.35
_WRITTEN_IN = {_LATIN, _ALPHABET, "kana", "han", *_SCRIPTS_S}
_SILENT_MARKS = frozenset(".,;:!?…'\"()[]{}-–—،؛؟।。、，；：！？“”‘’«»‹›·¿¡「」『』（）【】`")

_TAG = re.compile(r"<[^\W\d][^<>]{0,60}>|\[[^\[\]]{1,60}\]|\|[^|\n]{1,20}\|")
_PAUSE = re.compile(r"paus|silence|break", re.IGNORECASE)
_STRETCHED = re.compile(r"(.)\1{2,}", re.DOTALL)
_COMMA = re.compile(r"[,;:،؛—–](?=\s)|[、，；：]")
_SENTENCE = re.compile(r"[.!?…؟।](?:[\"'”’»)\]]{0,3}\s+)(?=(\w)?)|[。！？｡](?=[^\s」』）】])")
_COMMAS = frozenset(",;:،؛—–、，；：")
_SENTENCE_END = frozenset(".!?…؟।。！？｡")

# 3.8 was measured at 16.8 to 17.5 characters of English a second, which is this times the pace above.
_GEMINI_PACE = 1.09
_PUNCTUATION_S = 0.1  # the pause it makes, between a comma's and none


@dataclass(frozen=True, slots=True)
class SpokenLength:
    """How long a text takes at the reference pace, in seconds.

    Attributes:
        least_s: With short pauses, and with everything left out that a voice may leave out.
        short_s: As ``least_s``, with pauses and readings that are only a little shorter than usual.
        usual_s: What most voices take.
        long_s: As ``most_s``, with pauses and readings that are only a little longer than usual.
        most_s: With long pauses, amounts read in full and abbreviations letter by letter.
    """

    least_s: float
    short_s: float
    usual_s: float
    long_s: float
    most_s: float

    @property
    def is_sure(self) -> bool:
        """Whether voices differ so little in how they read the text that its length tells their pace."""
        return self.long_s - self.short_s <= _SURE * self.usual_s


def spoken_length(text: str, language: str = "") -> SpokenLength:
    """Estimate how long a text takes; the time that the estimate itself takes grows with the text, and no faster.

    Args:
        text: Any text.
        language: A BCP-47 code; ``""`` when unknown. It refines the pace of alphabets, no more.
    """
    lengths = [0.0] * 5
    for what, count in tally(text).items():
        least_s, usual_s, most_s = _COSTS_S.get(what) or (_letters_s(what, language),) * 3
        leaning = 1.0 if what in _READ_OR_NOT else _LEANING
        short_s, long_s = usual_s - leaning * (usual_s - least_s), usual_s + leaning * (most_s - usual_s)
        for index, seconds in enumerate((least_s, short_s, usual_s, long_s, most_s)):
            lengths[index] += count * seconds
    return SpokenLength(*lengths)


def tally(text: str) -> Counter[str]:
    """How often a text holds what takes time: letters and words of each script, pauses, digits, symbols, tags."""
    found: Counter[str] = Counter()
    found.update("pause" if _PAUSE.search(tag) else "tag" for tag in _TAG.findall(text))
    text = _TAG.sub(" ", text)
    short = _STRETCHED.sub(r"\1\1", text)
    found["stretched"] = sum(map(str.isalpha, text)) - sum(map(str.isalpha, short))
    end, blank = "", False
    for line in map(str.strip, short.splitlines()):
        if not line:
            blank = bool(end)
            continue
        if end:
            found["paragraph"] += blank
            found["sentence" if end in _SENTENCE_END else "comma" if end in _COMMAS else "line"] += 1
        blank, end = False, line[-1]
        found["comma"] += len(_COMMA.findall(line))
        found.update("fragment" if after.islower() else "sentence" for after in _SENTENCE.findall(line))
    for char, count in Counter(short).items():
        for kind in _kinds(char):
            found[kind] += count
    for token in short.split():
        is_address = "://" in token or "@" in token or token.startswith("www.")
        found["spelled"] += len(token) if is_address or (1 < len(token) <= 6 and token.isupper()) else 0
    main = max(_WRITTEN_IN & found.keys(), key=lambda script: (found[script], script), default=_LATIN)
    if main != _LATIN:
        found["foreign"] = found.pop(_LATIN, 0)
    if main not in _COSTS_S:
        found[f"word {main}"] = sum(any(map(str.isalpha, token)) for token in short.split())
    return found


@lru_cache(65_536)
def _kinds(char: str) -> tuple[str, ...]:
    """What a character is, or those that it stands for: "½" is two digits and a symbol."""
    kinds = []
    for part in unicodedata.normalize("NFKC", char):
        category = unicodedata.category(part)
        script = _RUNS[bisect_right(_RUN_STARTS, ord(part)) - 1][1]
        if category[0] == "N":
            kinds.append("digit")
        elif category[0] == "S" or (category[0] == "P" and part not in _SILENT_MARKS):
            kinds.append("symbol")
        # Vowel signs are sounds of their own in Indic scripts; accents and harakat colour or repeat a letter's sound.
        elif category[0] == "L" or (category[0] == "M" and script not in {_LATIN, _ALPHABET, "arabic"}):
            kinds.append(script)
    return tuple(kinds)


def _letters_s(what: str, language: str) -> float:
    """Seconds of a letter of a script, or of a word in it."""
    script = what.removeprefix("word ")
    letter_s, word_s = _SCRIPTS_S.get(script) or _alphabet_s(language)
    return word_s if what != script else letter_s


def spoken_s(text: str) -> float:
    """About how many seconds Gemini takes for a text: a sum over its characters, so parts add up to the whole."""
    return SECONDS.total(text)


def alphabet_pace(language: str) -> float:
    """Times the pace of English at which a language with an alphabet is spoken; a BCP-47 code, 1 for an unknown one."""
    return _ten_letters_s("") / _ten_letters_s(language)


def _ten_letters_s(language: str) -> float:
    """Of a text in which every fifth letter ends a word."""
    letter_s, word_s = _alphabet_s(language)
    return 10 * letter_s + 2 * word_s


def _alphabet_s(language: str) -> tuple[float, float]:
    return _ALPHABETS_S.get(language.split("-")[0].lower(), _ALPHABETS_S[""])


def _expected_s(char: str) -> float:
    if unicodedata.category(char)[0] == "P":
        return _PUNCTUATION_S
    return sum(_COSTS_S[kind][1] if kind in _COSTS_S else _letters_s(kind, "") for kind in _kinds(char)) / _GEMINI_PACE


SECONDS = SizeOf(_expected_s)
"""Seconds that Gemini takes for a character, whatever stands beside it; 0 for white space."""
