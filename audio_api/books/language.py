"""The language that a book states, as a code that voices know."""

from __future__ import annotations

from contextlib import suppress

from audio_api.models.languages import Language, parse_language

# ISO 639-2, which librarians use, in both its variants.
_THREE_LETTERS = {
    "ara": "ar", "ben": "bn", "bul": "bg", "cat": "ca", "ces": "cs", "cze": "cs", "chi": "zh", "zho": "zh", "dan": "da",
    "deu": "de", "ger": "de", "dut": "nl", "nld": "nl", "ell": "el", "gre": "el", "eng": "en", "fas": "fa", "per": "fa",
    "fin": "fi", "fra": "fr", "fre": "fr", "heb": "he", "hin": "hi", "hun": "hu", "ind": "id", "ita": "it", "jpn": "ja",
    "kor": "ko", "nor": "no", "pol": "pl", "por": "pt", "ron": "ro", "rum": "ro", "rus": "ru", "slk": "sk", "slo": "sk",
    "spa": "es", "srp": "sr", "swe": "sv", "tam": "ta", "tel": "te", "tha": "th", "tur": "tr", "ukr": "uk", "vie": "vi",
}  # fmt: skip
_UNKNOWN = {"", "und", "zxx", "mul", "xx"}


def book_language(stated: str) -> tuple[str | None, list[str]]:
    """The code that a book means, such as ``"en"`` for ``"eng"`` or ``"de-DE"`` for ``"de_DE"``.

    Returns:
        A BCP-47 code, and a warning when what the book states is none; ``None`` when it states nothing.
    """
    first, _, rest = stated.strip().replace("_", "-").partition("-")
    code = "-".join(filter(None, (_THREE_LETTERS.get(first.lower(), first), rest)))
    if code.lower() in _UNKNOWN:
        return None, []
    with suppress(ValueError):
        return str(parse_language(code)), []
    names = {language.display_name.partition(" ")[0].lower(): language for language in reversed(Language)}
    if named := names.get(stated.strip().lower()):
        return named.value, []
    return None, [f"the book states the language {stated[:40]!r}, which is no code; say which it is"]
