"""The commands, and what each is called."""

from __future__ import annotations

from typing import Annotated

import typer

from audio_api import __version__
from audio_api.cli.batch import batch
from audio_api.cli.book import BookArguments, book
from audio_api.cli.cache import cache
from audio_api.cli.doctor import doctor
from audio_api.cli.estimate import estimate
from audio_api.cli.lists import languages, models, voices
from audio_api.cli.queue import queue
from audio_api.cli.say import say
from audio_api.cli.serve import serve
from audio_api.cli.worker import worker

_PLAIN = {"help_option_names": ["-h", "--help"], "max_content_width": 80}

app = typer.Typer(
    help="Text to speech with Google's Gemini models.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=_PLAIN,
)


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"audio-api {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


app.command()(say)
app.command()(estimate)
app.command(cls=BookArguments)(book)
app.add_typer(batch, name="batch", context_settings=_PLAIN)
app.command()(voices)
app.command()(languages)
app.command()(models)
app.command()(worker)
app.add_typer(queue, name="queue")
app.add_typer(cache, name="cache")
app.command()(serve)
app.command()(doctor)
