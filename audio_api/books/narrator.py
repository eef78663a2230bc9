"""How a book is read: voices, language, pauses, and words that are replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from audio_api.errors import TTSValidationError
from audio_api.models.audio_request import SpeakerConfig, VoiceConfig

LONGEST_PAUSE_S = 60.0
"""The longest pause by rule, and the longest that a text may ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pauses:
    """Silence by rule, in seconds, 0 to 60.

    Attributes:
        heading: Behind a heading, or several headings in a row.
        chapter: Between two chapters of one file.
        scene: At a rule or an ornament between two scenes.
    """

    heading: float = 1.2
    chapter: float = 2.5
    scene: float = 1.5

    def __post_init__(self) -> None:
        for rule in fields(self):
            seconds = getattr(self, rule.name)
            if not 0 <= seconds <= LONGEST_PAUSE_S:
                raise TTSValidationError(
                    f"the pause {rule.name} takes 0 to {LONGEST_PAUSE_S:.0f} seconds, not {seconds}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrator:
    """How a book is read.

    Attributes:
        voice_config: The voice of everything that no speaker of the cast says.
        cast: The speakers of a dialogue. A paragraph that begins with ``Name:`` is spoken by that speaker, and so are
            the following ones up to another name, a heading or a scene break.
        language: A BCP-47 code; ``None``: what the book states, else English.
        model: As ``AudioRequest.model``.
        style: As ``AudioRequest.style``.
        lexicon: What is spoken, by word; see ``Lexicon``.
        pauses: Silence by rule.
        titles: Whether the title of each chapter is spoken: the headings at its beginning, or the title from the table
            of contents where it has none.
        cache: As ``AudioRequest.cache``.
    """

    voice_config: VoiceConfig = field(default_factory=VoiceConfig)
    cast: tuple[SpeakerConfig, ...] = ()
    language: str | None = None
    model: str | None = None
    style: str | None = None
    lexicon: Mapping[str, str] = field(default_factory=dict)
    pauses: Pauses = Pauses()
    titles: bool = True
    cache: bool = True
