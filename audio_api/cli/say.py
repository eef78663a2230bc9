"""``audio-api say``: its arguments."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import typer

from audio_api.cli.options import (
    AsJson,
    Keep,
    LanguageOfText,
    MarkupOfText,
    Model,
    Offline,
    Pitch,
    Speakers,
    Speed,
    Style,
    TextFile,
    TextWords,
    Voice,
    settings_of,
)

_TIERS = Literal["standard", "flex", "priority"]
_FORMATS = Literal["wav", "mp3", "opus", "flac", "m4a"]


class Subtitles(StrEnum):
    """The kinds of files beside the sound."""

    SRT = "srt"
    VTT = "vtt"


def say(
    text: TextWords = None,
    file: TextFile = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="where the sound goes; - is standard output")
    ] = None,
    sound_format: Annotated[
        _FORMATS | None, typer.Option("--format", metavar="KIND", help="wav, mp3, opus, flac or m4a; default: as FILE")
    ] = None,
    subtitles: Annotated[
        list[Subtitles] | None, typer.Option(metavar="KIND", help="srt or vtt, beside the sound")
    ] = None,
    voice: Voice = "kore",
    speaker: Speakers = None,
    language: LanguageOfText = "en-US",
    style: Style = None,
    speed: Speed = None,
    pitch: Pitch = None,
    model: Model = None,
    tier: Annotated[
        _TIERS | None, typer.Option(metavar="KIND", help="standard, flex (half price, later) or priority")
    ] = None,
    markup: MarkupOfText = None,
    keep: Keep = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace FILE if it exists")] = False,
    play: Annotated[bool, typer.Option("--play", help="let it be heard")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="give the sound out while it is made")] = False,
    as_json: AsJson = False,
    offline: Offline = False,
) -> int:
    """Speak a text into a file.

    TEXT is what is spoken, in quotes or not; - reads it from standard input.
    """
    arguments = locals()
    from audio_api.cli.saying import SayOrder, run

    return run(SayOrder(**arguments), settings_of(offline=offline))
