"""Voices and languages: every documented name, in any case, and nothing made up."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from audio_api.models.languages import Language, LanguageCode, parse_language
from audio_api.models.voices import Voice, VoiceName, parse_voice

# As Google documents them: https://ai.google.dev/gemini-api/docs/speech-generation#voices
VOICES = """
Zephyr Bright, Puck Upbeat, Charon Informative, Kore Firm, Fenrir Excitable, Leda Youthful, Orus Firm, Aoede Breezy,
Callirrhoe Easy-going, Autonoe Bright, Enceladus Breathy, Iapetus Clear, Umbriel Easy-going, Algieba Smooth,
Despina Smooth, Erinome Clear, Algenib Gravelly, Rasalgethi Informative, Laomedeia Upbeat, Achernar Soft, Alnilam Firm,
Schedar Even, Gacrux Mature, Pulcherrima Forward, Achird Friendly, Zubenelgenubi Casual, Vindemiatrix Gentle,
Sadachbia Lively, Sadaltager Knowledgeable, Sulafat Warm
"""

LANGUAGES = {
    "ARABIC_EGYPTIAN": "ar-EG",
    "GERMAN_GERMANY": "de-DE",
    "ENGLISH_US": "en-US",
    "SPANISH_US": "es-US",
    "FRENCH_FRANCE": "fr-FR",
    "HINDI_INDIA": "hi-IN",
    "INDONESIAN_INDONESIA": "id-ID",
    "ITALIAN_ITALY": "it-IT",
    "JAPANESE_JAPAN": "ja-JP",
    "KOREAN_KOREA": "ko-KR",
    "PORTUGUESE_BRAZIL": "pt-BR",
    "RUSSIAN_RUSSIA": "ru-RU",
    "DUTCH_NETHERLANDS": "nl-NL",
    "POLISH_POLAND": "pl-PL",
    "THAI_THAILAND": "th-TH",
    "TURKISH_TURKEY": "tr-TR",
    "VIETNAMESE_VIETNAM": "vi-VN",
    "ROMANIAN_ROMANIA": "ro-RO",
    "UKRAINIAN_UKRAINE": "uk-UA",
    "BENGALI_BANGLADESH": "bn-BD",
    "ENGLISH_INDIA_HINDI_BUNDLE": "en-IN",
    "MARATHI_INDIA": "mr-IN",
    "TAMIL_INDIA": "ta-IN",
    "TELUGU_INDIA": "te-IN",
    "CHINESE": "zh",
}
ALIASES = {
    "ENGLISH": "ENGLISH_US",
    "SPANISH": "SPANISH_US",
    "FRENCH": "FRENCH_FRANCE",
    "GERMAN": "GERMAN_GERMANY",
    "ITALIAN": "ITALIAN_ITALY",
    "PORTUGUESE": "PORTUGUESE_BRAZIL",
    "RUSSIAN": "RUSSIAN_RUSSIA",
    "JAPANESE": "JAPANESE_JAPAN",
    "KOREAN": "KOREAN_KOREA",
}


def test_the_thirty_voices_have_their_documented_character() -> None:
    """Names, order and characters are Google's; values are lower-case."""
    documented = [tuple(entry.split()) for entry in VOICES.replace("\n", " ").split(",")]
    assert [(voice.value.capitalize(), voice.character) for voice in VoiceName] == documented
    assert len(documented) == 30
    assert all(voice.value == voice.name.lower() for voice in VoiceName)


@pytest.mark.parametrize("voice", VoiceName)
def test_a_voice_is_found_in_any_case(voice: VoiceName) -> None:
    """``kore``, ``Kore``, ``KORE`` and a name with blanks around it are one voice, here and in ``VoiceName(…)``."""
    for spelling in (voice.value, voice.value.capitalize(), voice.name, f" {voice.value}\n", voice.value.swapcase()):
        assert parse_voice(spelling) is voice
        assert VoiceName(spelling) is voice


@pytest.mark.parametrize("voice", VoiceName)
def test_a_voice_is_its_name(voice: VoiceName) -> None:
    """A member is a string, formats as one, and survives pickling and JSON as the same member."""
    assert (voice, f"{voice}") == (voice.value, voice.value)
    assert pickle.loads(pickle.dumps(voice)) is voice
    adapter: TypeAdapter[VoiceName | str] = TypeAdapter(Voice)
    assert adapter.validate_json(adapter.dump_json(voice)) is voice


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("Callirhoe", "callirrhoe"),
        ("Calirrhoe", "callirrhoe"),
        ("Korre", "kore"),
        ("k\0re", "kore"),
        ("Pulcherima", "pulcherrima"),
        ("Rasalghethi", "rasalgethi"),
        ("Zubenelgenubbi", "zubenelgenubi"),
        ("Sulaphat", "sulafat"),
        ("Enceladus2", "enceladus"),
    ],
)
def test_a_misspelt_voice_is_corrected_in_the_error(misspelt: str, meant: str) -> None:
    """The text names what was given and the closest voices."""
    with pytest.raises(ValueError, match=r"unknown voice '.*': did you mean ('\w+' or )*'\w+'\?$") as caught:
        parse_voice(misspelt)
    assert repr(misspelt) in str(caught.value)
    assert repr(meant) in str(caught.value)


@pytest.mark.parametrize("value", ["", "   ", "xyzzyx", "Kore Puck Leda", "\0", None, 5, b"kore", ["kore"]], ids=repr)
def test_anything_else_is_no_voice(value: Any) -> None:
    """Where nothing comes close, all thirty voices are listed."""
    with pytest.raises(ValueError, match=rf"unknown voice .*zephyr, puck, .*{VoiceName.SULAFAT}"):
        parse_voice(value)
    with pytest.raises(ValueError, match="is not a valid VoiceName"):
        VoiceName(value)


@pytest.mark.parametrize("value", ["voice_abc123", "voicekey_A-b_9", "voice_x", f"voice_{'x' * 128}", " voice_Ab "])
def test_ids_of_custom_voices_pass_through(value: str) -> None:
    """Ids are case-sensitive and only lose blanks around them."""
    assert parse_voice(value) == value.strip()


@pytest.mark.parametrize("value", ["voice_", "voicekey_", "voice_a b", "voice_a/b", f"voice_{'x' * 129}", "voices_a"])
def test_malformed_ids_of_custom_voices_are_refused(value: str) -> None:
    """An id is at most 128 letters, digits, ``_`` and ``-``."""
    with pytest.raises(ValueError, match="unknown voice"):
        parse_voice(value)


@given(st.text())
@example("ſulafat")
@example("\ud800")
def test_any_text_is_a_voice_or_a_value_error(value: str) -> None:
    """No input causes anything else."""
    try:
        voice = parse_voice(value)
    except ValueError:
        return
    assert voice


def test_the_languages_are_the_documented_ones() -> None:
    """24 languages and Chinese, under the names that programs use, and nine short aliases."""
    assert {language.name: language.value for language in Language} == LANGUAGES
    assert len(LANGUAGES) == 24 + 1
    assert {name: member.name for name, member in Language.__members__.items() if name not in LANGUAGES} == ALIASES


@pytest.mark.parametrize(
    ("language", "name"),
    [
        (Language.GERMAN, "German (Germany)"),
        (Language.ENGLISH, "English (US)"),
        (Language.ENGLISH_INDIA_HINDI_BUNDLE, "English (India, with Hindi)"),
        (Language.CHINESE, "Chinese"),
    ],
)
def test_a_language_has_a_name_for_people(language: Language, name: str) -> None:
    """Country codes stay capitals."""
    assert language.display_name == name


def test_names_for_people_are_distinct() -> None:
    """A table of languages is unambiguous."""
    assert len({language.display_name for language in Language}) == len(Language)


@pytest.mark.parametrize("language", Language)
def test_a_code_in_any_case_is_its_language(language: Language) -> None:
    """``DE-de`` is ``Language.GERMAN``, in JSON as well."""
    for spelling in (language.value, language.value.upper(), language.value.lower(), f" {language.value} "):
        assert parse_language(spelling) is language
    adapter: TypeAdapter[Language | str] = TypeAdapter(LanguageCode)
    assert adapter.validate_json(adapter.dump_json(language)) is language
    assert pickle.loads(pickle.dumps(language)) is language


@pytest.mark.parametrize(
    ("code", "canonical"),
    [
        ("SV", "sv"),
        ("CMN-tw", "cmn-TW"),
        ("es-419", "es-419"),
        ("ZH-hant-tw", "zh-Hant-TW"),
        ("zh-YUE-hk", "zh-yue-HK"),
        ("sr-latn-RS", "sr-Latn-RS"),
        ("ca-es-VALENCIA", "ca-ES-valencia"),
        ("sl-rozaj-biske-1994", "sl-rozaj-biske-1994"),
        ("de-DE-u-CO-phonebk", "de-DE-u-co-phonebk"),
        ("en-a-BBB-x-a-CCC", "en-a-bbb-x-a-ccc"),
        ("de-x-AB-Cdef", "de-x-ab-cdef"),
        ("en-ca-X-ca", "en-CA-x-ca"),
    ],
)
def test_other_well_formed_codes_are_written_in_canonical_case(code: str, canonical: str) -> None:
    """RFC 5646, sections 2.1 and 2.1.1, with the examples of its appendix A."""
    assert parse_language(code) == canonical


@pytest.mark.parametrize(
    "value",
    ["", " ", "d", "german", "de_DE", "de-", "-de", "de--DE", "de-D", "de-DE-", "a-DE", "en-x", "en-a", "x-klingon",
     "\u212ao-KR", "ſv", "de-\u0661\u0662\u0663", "de-DE\ud800", "de" + "-abcde" * 50, None, 5, b"de", Language],
    ids=ascii,
)  # fmt: skip
def test_anything_else_is_no_language(value: object) -> None:
    """Look-alike letters and foreign digits included; the text shows how a code looks."""
    with pytest.raises(ValueError, match=r"is not a language code; use Language.GERMAN or a BCP-47 code like 'de-DE'"):
        parse_language(value)
    with pytest.raises(ValidationError, match="is not a language code"):
        TypeAdapter(LanguageCode).validate_python(value)


@given(st.text() | st.from_regex(r"\A[a-zA-Z]{2,3}(-[a-zA-Z0-9]{1,8}){0,6}\Z"))
def test_parsing_a_code_twice_changes_nothing(value: str) -> None:
    """What the parser returns, it accepts and returns again; whatever it refuses is a ``ValueError``."""
    try:
        code = parse_language(value)
    except ValueError:
        return
    assert parse_language(code) == code
    assert code.lower() == value.strip().lower()
