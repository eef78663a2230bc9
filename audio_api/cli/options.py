"""Options that several commands share, and how their values are read. Importing this loads nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from audio_api.errors import TTSValidationError

if TYPE_CHECKING:
    from audio_api.config import AudioConfig


class Kept(StrEnum):
    """What of Markdown is spoken that otherwise is left out."""

    CODE = "code"
    TABLES = "tables"


def _voices(incomplete: str) -> list[tuple[str, str]]:
    from audio_api.models.voices import VoiceName

    return [(voice.value, voice.character) for voice in VoiceName if voice.startswith(incomplete.lower())]


def _languages(incomplete: str) -> list[tuple[str, str]]:
    from audio_api.models.languages import Language

    return [(each.value, each.display_name) for each in Language if each.lower().startswith(incomplete.lower())]


def _models(incomplete: str) -> list[str]:
    from audio_api.models.speech_models import VoiceModel

    return [model.value for model in VoiceModel if model.startswith(incomplete)]


TextWords = Annotated[list[str] | None, typer.Argument(metavar="TEXT", hidden=True)]
TextFile = Annotated[
    str | None, typer.Option("--file", metavar="PATH", help="a UTF-8 text to speak; - is standard input")
]
Speakers = Annotated[
    list[str] | None,
    typer.Option("--speaker", metavar="NAME=VOICE", help="a voice of a dialogue, such as Alice=leda"),
]
Voice = Annotated[str, typer.Option("--voice", metavar="NAME", help="see the command voices", autocompletion=_voices)]
LanguageOfText = Annotated[
    str, typer.Option("--language", metavar="CODE", help="BCP-47, such as de-DE", autocompletion=_languages)
]
Style = Annotated[
    str | None, typer.Option("--style", metavar="WORDS", help="how to speak, in a few adjectives", show_default=False)
]
Speed = Annotated[float | None, typer.Option("--speed", metavar="X", help="1.0 is natural", min=0.1, max=3.0)]
Pitch = Annotated[float | None, typer.Option("--pitch", metavar="X", help="1.0 is natural", min=0.1, max=2.0)]
Model = Annotated[
    str | None, typer.Option("--model", metavar="ID", help="default: DEFAULT_TTS_MODEL", autocompletion=_models)
]
MarkupOfText = Annotated[
    Literal["plain", "markdown"] | None,
    typer.Option("--markup", metavar="KIND", help="plain or markdown; default: by the file's name, else MARKUP"),
]
Keep = Annotated[
    list[Kept] | None,
    typer.Option("--keep", metavar="PART", help="code or tables of Markdown: speak these, too"),
]
Offline = Annotated[bool, typer.Option("--offline", help="a robotic voice, without key or network")]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON")]


def settings_of(*, offline: bool) -> AudioConfig:
    """The settings, with logging that leaves the terminal to the results unless LOG_LEVEL asks for more.

    Args:
        offline: Whether the robotic voice speaks, whatever the settings say.
    """
    from audio_api.config import AudioConfig
    from audio_api.logging_config import setup_logging

    config = AudioConfig(tts_engine="offline") if offline else AudioConfig()
    chosen = "log_level" in config.model_fields_set
    setup_logging(config if chosen else config.model_copy(update={"log_level": "ERROR"}))
    return config


def language_code(text: str) -> str:
    """The code, or a refusal that proposes what may have been meant: ``en_US``, or a language's name."""
    from audio_api.models.languages import Language, parse_language

    code = text.partition(".")[0].replace("_", "-")
    names = {language.display_name.partition(" ")[0].lower(): language.value for language in reversed(Language)}
    with suppress(ValueError):
        if parse_language(text):
            return text
    with suppress(ValueError):
        names[text.lower()] = str(parse_language(code))
    close = get_close_matches(text.lower(), names, 1)
    meant = f"did you mean {names[close[0]]}? " if close else ""
    raise TTSValidationError(f"--language: {text[:40]!r} is no language code; {meant}The command languages lists some")


def pairs(option: str, given: Sequence[str], example: str) -> Iterator[tuple[str, str]]:
    """Names and values that are written ``NAME=VALUE``.

    Raises:
        TTSValidationError: One is written otherwise.
    """
    for pair in given:
        name, sign, value = pair.partition("=")
        if not (name.strip() and sign and value.strip()):
            raise TTSValidationError(f"{option}: {pair[:40]!r} must be written like {example}")
        yield name.strip(), value.strip()
