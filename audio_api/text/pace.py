"""How long a text takes to speak, estimated from its letters alone.

Letters per second of each script, and of each language written in the Latin or Cyrillic alphabet, are those of the
median of 589 sentences in 24 languages spoken by eSpeak NG at 175 words per minute.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from functools import cache

from audio_api.text.sizes import SizeOf

_ALPHABETS_PER_S = {
    "": 15.7, "de": 16.5, "en": 15.7, "es": 14.1, "fr": 18.3, "id": 14.2, "it": 15.3, "nl": 15.1, "pl": 13.3,
    "pt": 13.9, "ro": 13.9, "ru": 16.0, "tr": 12.7, "uk": 17.0, "vi": 15.7,
}  # fmt: skip
_ABJAD, _DEVANAGARI, _BENGALI, _TAMIL, _TELUGU, _INDIC, _THAI = 9.4, 13.4, 11.8, 14.9, 11.7, 12.9, 9.1
_HANGUL, _KANA, _HAN = 5.3, 8.1, 4.5
_ALPHABET = 0.0  # a placeholder: the language names the rate
# The first code point of each run of scripts, after NFKC.
_SCRIPTS = (
    (0x0000, _ALPHABET), (0x0590, _ABJAD), (0x0900, _DEVANAGARI), (0x0980, _BENGALI), (0x0A00, _INDIC),
    (0x0B80, _TAMIL), (0x0C00, _TELUGU), (0x0C80, _INDIC), (0x0E00, _THAI), (0x0F00, _INDIC), (0x10A0, _ALPHABET),
    (0x1100, _HANGUL), (0x1200, _KANA), (0x13A0, _ALPHABET), (0x1780, _INDIC), (0x1800, _ALPHABET), (0x3000, _KANA),
    (0x3400, _HAN), (0xA000, _ALPHABET), (0xAC00, _HANGUL), (0xD7B0, _ALPHABET), (0xF900, _HAN), (0xFB00, _ALPHABET),
    (0x20000, _HAN), (0xE0000, _ALPHABET),
)  # fmt: skip
_SCRIPT_STARTS = [start for start, _ in _SCRIPTS]

# Times those rates at which Gemini speaks: 0.67 to 0.96. 3.8 was measured at 16.8 to 17.5 characters of English a
# second, blanks and punctuation included, which is this.
_GEMINI_PACE = 0.85

_DIGIT_LEAST_S, _DIGIT_MOST_S = 0.12, 0.6  # "1984" as a year, "1,299.99" as an amount
_SYMBOL_MOST_S = 0.6  # "€" is a word, or nothing
_PUNCTUATION_S = 0.1  # the pause it makes, between a comma's and none
_SPELLED_S = 0.25  # each character of a URL, an address or an abbreviation

_TAG = re.compile(r"<[^\W\d][^<>]{0,60}>|\[[^\[\]]{1,60}\]|\|[^|\n]{1,20}\|")
_STRETCHED = re.compile(r"(.)\1{2,}", re.DOTALL)


def spoken_s(text: str) -> float:
    """About how many seconds Gemini takes for a text: a sum over its characters, so parts add up to the whole."""
    return SECONDS.total(text)


def alphabet_pace(language: str) -> float:
    """Times the pace of English at which a language with an alphabet is spoken; a BCP-47 code, 1 for an unknown one."""
    return _alphabet_per_s(language) / _alphabet_per_s("")


def least_seconds(text: str, language: str = "") -> float:
    """Seconds at the reference rate, counting only what is certainly spoken.

    Args:
        text: Any text; tags such as ``<laugh>`` and punctuation take no time of their own.
        language: A BCP-47 code; ``""`` when unknown. It refines the rate of alphabets, no more.
    """
    # Tags are played rather than read, and "Nooooo" is one syllable.
    certain = _STRETCHED.sub(r"\1\1", _TAG.sub(" ", text))
    return _seconds(certain, _table(_alphabet_per_s(language), _DIGIT_LEAST_S, 0.0))


def most_seconds(text: str, language: str = "") -> float:
    """Seconds at the reference rate, with tags read aloud, amounts in full and abbreviations letter by letter."""
    table = _table(_alphabet_per_s(language), _DIGIT_MOST_S, _SYMBOL_MOST_S)
    return _seconds(text, table) + _spelling_s(text)


def _spelling_s(text: str) -> float:
    """What URLs, addresses and abbreviations take on top, being read letter by letter."""
    return sum(_SPELLED_S * len(token) for token in text.split() if _is_spelled(token))


def _is_spelled(token: str) -> bool:
    return "://" in token or "@" in token or token.startswith("www.") or (len(token) <= 6 and token.isupper())


def _seconds(text: str, table: SizeOf) -> float:
    return table.total(unicodedata.normalize("NFKC", text))


def _alphabet_per_s(language: str) -> float:
    return _ALPHABETS_PER_S.get(language.split("-")[0].lower(), _ALPHABETS_PER_S[""])


@cache
def _table(alphabet_per_s: float, digit_s: float, symbol_s: float) -> SizeOf:
    return SizeOf(lambda char: _char_s(char, alphabet_per_s, digit_s, symbol_s))


def _char_s(char: str, alphabet_per_s: float, digit_s: float, symbol_s: float) -> float:
    kind = unicodedata.category(char)[0]
    if kind not in "LM":
        return {"N": digit_s, "S": symbol_s}.get(kind, 0.0)
    per_s = _SCRIPTS[bisect_right(_SCRIPT_STARTS, ord(char)) - 1][1]
    # Vowel signs are sounds of their own in Indic scripts; accents and harakat colour or repeat a letter's sound.
    if kind == "M" and per_s in (_ALPHABET, _ABJAD):
        return 0.0
    return 1 / (per_s or alphabet_per_s)


def _expected_s(char: str) -> float:
    """With numbers and symbols half way between their shortest and their longest reading, and with pauses."""
    if unicodedata.category(char)[0] == "P":
        return _PUNCTUATION_S
    digit_s, symbol_s = (_DIGIT_LEAST_S + _DIGIT_MOST_S) / 2, _SYMBOL_MOST_S / 2
    return _char_s(char, _ALPHABETS_PER_S[""], digit_s, symbol_s) / _GEMINI_PACE


SECONDS = SizeOf(_expected_s)
"""Seconds that Gemini takes for a character, whatever stands beside it; 0 for white space."""
