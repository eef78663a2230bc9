"""Voices as an API or an engine lists them, and how they are looked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import AwareDatetime

from audio_api.models.frozen import FrozenModel
from audio_api.models.voices import VoiceName

VoiceKind = Literal["prebuilt", "prompted", "replicated"]
"""Google's own (the thirty and its library); designed in words; made of a recording."""


class VoiceInfo(FrozenModel):
    """A voice that can speak. What is not known of it is empty.

    Attributes:
        id: What ``VoiceConfig(voice_name=…)`` takes.
        kind: Whose it is: Google's, or the account's own by a description or a recording.
        name: What people call it.
        language: The BCP-47 code of the language that it was made for, such as ``"ar-EG"``.
        accent: Such as ``"British"``.
        gender: Such as ``"female"``, ``"male"`` or ``"neutral"``.
        pitch: ``"low"``, ``"medium"`` or ``"high"``.
        persona: Such as ``"Warm, Friendly"``.
        context: What it is for, such as ``"Audiobook"``.
        description: How it sounds; of a designed voice, the words that it was made of.
        expires_at: When it is deleted unless it is used before; ``None``: never.
    """

    id: str
    kind: VoiceKind = "prebuilt"
    name: str = ""
    language: str = ""
    accent: str = ""
    gender: str = ""
    pitch: str = ""
    persona: str = ""
    context: str = ""
    description: str = ""
    expires_at: AwareDatetime | None = None


PREBUILT_VOICES = tuple(
    VoiceInfo(id=voice.value, name=voice.value.capitalize(), description=voice.character) for voice in VoiceName
)
"""The thirty that every account has, and that speak every language."""


@dataclass(frozen=True, slots=True)
class VoiceQuery:
    """Which voices are looked for; letters may be small or large.

    Attributes:
        language: A BCP-47 code; ``"ar"`` stands for all regions, too. ``None``: any.
        gender: ``None``: any.
        search: A part of the name or the description; ``None``: any.
    """

    language: str | None = None
    gender: str | None = None
    search: str | None = None

    def matching(self, voices: Iterable[VoiceInfo]) -> list[VoiceInfo]:
        """Those of some voices that are looked for, in their order."""
        wanted = (self.language or "").lower()
        return [
            voice
            for voice in voices
            if (not wanted or f"{voice.language.lower()}-".startswith(f"{wanted}-"))
            and (not self.gender or voice.gender.lower() == self.gender.lower())
            and (not self.search or self.search.lower() in f"{voice.id}\n{voice.name}\n{voice.description}".lower())
        ]
