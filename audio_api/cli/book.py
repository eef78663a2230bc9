"""``audio-api book``: its arguments."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from audio_api.cli.options import (
    AsJson,
    Keep,
    MarkupOfText,
    Model,
    Offline,
    Pitch,
    Speed,
    Style,
    Voice,
    language_code,
    settings_of,
)
from audio_api.cli.terminal import ended_tidily

_FORMATS = Literal["m4b", "m4a", "mp3", "opus", "flac", "wav"]
_WITH_SEVERAL_VALUES = ("--cast", "--pause")


class BookArguments(TyperCommand):
    """Takes ``--pause heading=1.2 chapter=2.5`` for ``--pause heading=1.2 --pause chapter=2.5``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the option again before each further value."""
        spread: list[str] = []
        option = ""
        for number, argument in enumerate(args):
            if argument == "--":
                spread += args[number:]
                break
            if argument.startswith("-"):
                option = argument.partition("=")[0] if argument.startswith(_WITH_SEVERAL_VALUES) else ""
            elif option and "=" in argument and spread[-1] != option:
                spread.append(option)
            spread.append(argument)
        return super().parse_args(ctx, spread)


def book(
    file: Annotated[str, typer.Argument(metavar="FILE", hidden=True)],
    list_only: Annotated[bool, typer.Option("--list", help="list the chapters with their cost, pay nothing")] = False,
    chapters: Annotated[str | None, typer.Option(metavar="N", help="only these, such as 3-5 or 1,4,7-")] = None,
    sample: Annotated[bool, typer.Option("--sample", help="only one chapter, to hear how it sounds")] = False,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="PATH", help="the m4b, or the folder of the chapters")
    ] = None,
    book_format: Annotated[
        _FORMATS | None, typer.Option("--format", metavar="KIND", help="m4b; or files: m4a, mp3, opus, flac, wav")
    ] = None,
    rss: Annotated[str | None, typer.Option(metavar="URL", help="also podcast.xml, for files published there")] = None,
    voice: Voice = "kore",
    cast: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VOICE", help="a voice of a dialogue; several may follow")
    ] = None,
    language: Annotated[str | None, typer.Option(metavar="CODE", help="BCP-47; default: what the book states")] = None,
    style: Style = None,
    speed: Speed = None,
    pitch: Pitch = None,
    model: Model = None,
    lexicon: Annotated[
        str | None, typer.Option(metavar="FILE", help="lines 'word = spoken', replaced before speaking")
    ] = None,
    pause: Annotated[
        list[str] | None, typer.Option(metavar="RULE=S", help="heading=1.2 scene=1.5 chapter=2.5 by default")
    ] = None,
    no_titles: Annotated[bool, typer.Option("--no-titles", help="do not speak the titles of chapters")] = False,
    markup: MarkupOfText = None,
    keep: Keep = None,
    queue: Annotated[bool, typer.Option("--queue", help="let the workers of the queue speak")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace existing files")] = False,
    as_json: AsJson = False,
    offline: Offline = False,
) -> int:
    """Make an audiobook of an EPUB, Markdown or text.

    FILE is the book; - reads it from standard input.
    """
    arguments = locals()
    from audio_api.cli.audiobook import BookOrder, run

    config = settings_of(offline=arguments.pop("offline"))
    language = language and language_code(language)
    with ended_tidily():
        return run(BookOrder(**{**arguments, "language": language}), config)
