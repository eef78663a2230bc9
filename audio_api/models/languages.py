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


# Language, optional script, optional region, optional variants: the part of BCP 47 (RFC 5646) that speech needs.
_BCP47 = re.compile(
    r"([a-z]{2,3})(?:-([a-z]{4}))?(?:-([a-z]{2}|\d{3}))?((?:-(?:[a-z0-9]{5,8}|\d[a-z0-9]{3}))*)", re.IGNORECASE
)


def parse_language(value: object) -> Language | str:
    """Turn a BCP-47 code in any case into a ``Language``, or into the same code in canonical case.

    Raises:
        ValueError: The value is not a well-formed code.
    """
    match = _BCP47.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            f"{str(value)[:40]!r} is not a language code; use Language.GERMAN or a BCP-47 code like 'de-DE'"
        )
    language, script, region, variants = match.groups()
    parts = [language.lower(), script and script.title(), region and region.upper()]
    code = "-".join(part for part in parts if part) + variants.lower()
    try:
        return Language(code)
    except ValueError:
        return code


LanguageCode = Annotated[Language | str, BeforeValidator(parse_language)]
"""One of ``Language``, or any other well-formed BCP-47 code, in pydantic models."""
