"""``audio-api serve``: speech over HTTP; its packages, an extra, are loaded when it runs."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from audio_api.cli.exit_codes import DONE
from audio_api.errors import ConfigurationError

_LAST_PORT = 65_535


def serve(
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="port to listen on; 0: any free one")] = 8880,
    engine: Annotated[
        Literal["gemini", "offline"] | None,
        typer.Option(metavar="NAME", help="gemini or offline, which needs no key; default: TTS_ENGINE"),
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", help="processes")] = 1,
) -> int:
    """Serve speech over HTTP, as OpenAI does."""
    if engine:
        # Every process of the server reads it there.
        os.environ["TTS_ENGINE"] = engine
    try:
        from audio_api.server.program import serve as run
    except ImportError as error:
        raise ConfigurationError(f"the server needs its extra: pip install 'audio-api[server]' ({error})") from None
    if not 0 <= port <= _LAST_PORT:
        raise ConfigurationError(f"--port {port}: a port is a number from 0 (any free one) to {_LAST_PORT}")
    run(host, port, max(1, workers))
    return DONE
