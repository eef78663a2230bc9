"""The languages with a name of their own here, and the rule for every other BCP-47 code."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

from pydantic import BeforeValidator


class Language(StrEnum):
    """The 24 languages every Gemini speech model speaks, short aliases, and Chinese."""

    ARABIC_EGYPTIAN = "ar-EG"
    GERMAN_GERMANY = "de-DE"
    ENGLISH_US = "en-US"
    SPANISH_US = "es-US"
    FRENCH_FRANCE = "fr-FR"
    HINDI_INDIA = "hi-IN"
    INDONESIAN_INDONESIA = "id-ID"
    ITALIAN_ITALY = "it-IT"
    JAPANESE_JAPAN = "ja-JP"
    KOREAN_KOREA = "ko-KR"
    PORTUGUESE_BRAZIL = "pt-BR"
    RUSSIAN_RUSSIA = "ru-RU"
    DUTCH_NETHERLANDS = "nl-NL"
    POLISH_POLAND = "pl-PL"
    THAI_THAILAND = "th-TH"
    TURKISH_TURKEY = "tr-TR"
    VIETNAMESE_VIETNAM = "vi-VN"
    ROMANIAN_ROMANIA = "ro-RO"
    UKRAINIAN_UKRAINE = "uk-UA"
    BENGALI_BANGLADESH = "bn-BD"
    ENGLISH_INDIA_HINDI_BUNDLE = "en-IN"
    MARATHI_INDIA = "mr-IN"
    TAMIL_INDIA = "ta-IN"
    TELUGU_INDIA = "te-IN"
    CHINESE = "zh"

    ENGLISH = "en-US"
    SPANISH = "es-US"
    FRENCH = "fr-FR"
    GERMAN = "de-DE"
    ITALIAN = "it-IT"
    PORTUGUESE = "pt-BR"
    RUSSIAN = "ru-RU"
    JAPANESE = "ja-JP"
    KOREAN = "ko-KR"

    @property
    def display_name(self) -> str:
        """The language in English words, such as "German (Germany)"."""
        if self is Language.ENGLISH_INDIA_HINDI_BUNDLE:
            return "English (India, with Hindi)"
        language, _, region = self.name.partition("_")
        place = region if region == "US" else region.capitalize()
        return f"{language.capitalize()} ({place})" if place else language.capitalize()


# The "langtag" of RFC 5646, section 2.1. Left out: languages of four to eight letters, of which none is registered, so
# that "german" is a mistake and not a language; and tags that name none ("x-…") or were registered before 2006 ("i-…").
_LANGTAG = re.compile(
    r"[a-z]{2,3}(-[a-z]{3}){0,3}(-[a-z]{4})?(-([a-z]{2}|[0-9]{3}))?(-([a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*"
    r"(-[0-9a-wy-z](-[a-z0-9]{2,8})+)*(-x(-[a-z0-9]{1,8})+)?"
)


_BY_CODE = {language.value: language for language in Language}


def parse_language(value: object) -> Language | str:
    """Turn a BCP-47 code in any case into a ``Language``, or into the same code in canonical case.

    Raises:
        ValueError: The value is not a well-formed code of at most 100 characters.
    """
    if isinstance(value, str) and (known := _BY_CODE.get(value)):
        return known  # what the queue's workers read
    # Any case of ASCII, but no other letters: "K" (Kelvin) in lower case is "k".
    lower = value.strip().lower() if isinstance(value, str) and len(value) <= 100 and value.isascii() else ""
    if not _LANGTAG.fullmatch(lower):
        raise ValueError(
            f"{str(value)[:40]!r} is not a language code; use Language.GERMAN or a BCP-47 code like 'de-DE'"
        )
    # As RFC 5646, section 2.1.1, recommends: "zh-Hant-TW".
    subtags = lower.split("-")
    for place in range(1, len(subtags)):
        if len(subtags[place - 1]) == 1:
            break
        if len(subtags[place]) == 2:
            subtags[place] = subtags[place].upper()
        elif len(subtags[place]) == 4:
            subtags[place] = subtags[place].title()
    code = "-".join(subtags)
    return _BY_CODE.get(code, code)


LanguageCode = Annotated[Language | str, BeforeValidator(parse_language)]
"""One of ``Language``, or any other well-formed BCP-47 code, in pydantic models."""
