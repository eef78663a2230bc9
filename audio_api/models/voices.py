"""The thirty prebuilt Gemini voices and their documented character."""

from __future__ import annotations

import re
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BeforeValidator


class VoiceName(StrEnum):
    """A prebuilt voice. ``VoiceName("KORE")`` and ``VoiceName("Kore")`` both work; any voice speaks any language."""

    character: str

    def __new__(cls, value: str, character: str = "") -> Self:
        """Build the member from its lower-case name and the word Google documents for its character."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.character = character
        return member

    ZEPHYR = "zephyr", "Bright"
    PUCK = "puck", "Upbeat"
    CHARON = "charon", "Informative"
    KORE = "kore", "Firm"
    FENRIR = "fenrir", "Excitable"
    LEDA = "leda", "Youthful"
    ORUS = "orus", "Firm"
    AOEDE = "aoede", "Breezy"
    CALLIRRHOE = "callirrhoe", "Easy-going"
    AUTONOE = "autonoe", "Bright"
    ENCELADUS = "enceladus", "Breathy"
    IAPETUS = "iapetus", "Clear"
    UMBRIEL = "umbriel", "Easy-going"
    ALGIEBA = "algieba", "Smooth"
    DESPINA = "despina", "Smooth"
    ERINOME = "erinome", "Clear"
    ALGENIB = "algenib", "Gravelly"
    RASALGETHI = "rasalgethi", "Informative"
    LAOMEDEIA = "laomedeia", "Upbeat"
    ACHERNAR = "achernar", "Soft"
    ALNILAM = "alnilam", "Firm"
    SCHEDAR = "schedar", "Even"
    GACRUX = "gacrux", "Mature"
    PULCHERRIMA = "pulcherrima", "Forward"
    ACHIRD = "achird", "Friendly"
    ZUBENELGENUBI = "zubenelgenubi", "Casual"
    VINDEMIATRIX = "vindemiatrix", "Gentle"
    SADACHBIA = "sadachbia", "Lively"
    SADALTAGER = "sadaltager", "Knowledgeable"
    SULAFAT = "sulafat", "Warm"

    @classmethod
    def _missing_(cls, value: object) -> VoiceName | None:
        return cls.__members__.get(value.strip().upper()) if isinstance(value, str) else None


# Ids of stored voices (one year) and of voice keys (seven days), as the voices endpoint hands them out.
_CUSTOM_VOICE = re.compile(r"voice(key)?_[A-Za-z0-9_-]{1,128}")
# Ids of the voice library, such as "ar-eg-advisor-11": language, region, words, number.
_LIBRARY_VOICE = re.compile(r"[a-z]{2,3}(-[a-z0-9]{1,32}){1,8}-[0-9]{1,4}", re.IGNORECASE)


def is_custom(voice: VoiceName | str) -> bool:
    """Whether an account made this voice, which the API does not let take part in a dialogue."""
    return not isinstance(voice, VoiceName) and _CUSTOM_VOICE.fullmatch(voice) is not None


def parse_voice(value: object) -> VoiceName | str:
    """Turn a voice name in any case, or an id such as ``voice_…`` or ``ar-eg-advisor-11``, into what the API takes.

    Raises:
        ValueError: The name is no prebuilt voice and no id; the text names the closest voices.
    """
    name = value.strip() if isinstance(value, str) else ""
    if _CUSTOM_VOICE.fullmatch(name) or _LIBRARY_VOICE.fullmatch(name):
        return name
    if voice := VoiceName.__members__.get(name.upper()):
        return voice
    close = get_close_matches(name[:80].lower(), [voice.value for voice in VoiceName], n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"the voices are {', '.join(VoiceName)}"
    raise ValueError(f"unknown voice {str(value)[:80]!r}: {hint}")


Voice = Annotated[VoiceName | str, BeforeValidator(parse_voice)]
"""A prebuilt voice, or the id of one of the library or of a custom one, in pydantic models."""
