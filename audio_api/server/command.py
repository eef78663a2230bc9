"""``audio-api serve`` on the command line; its packages, an extra, are loaded when it runs."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace

from audio_api.errors import ConfigurationError

_LAST_PORT = 65_535


def add_serve_options(parser: ArgumentParser) -> None:
    """Say what ``audio-api serve`` takes, and what it runs."""
    parser.set_defaults(run=_serve)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8880, help="port to listen on (default: %(default)s)")
    parser.add_argument("--engine", choices=["gemini", "offline"], help="default: TTS_ENGINE; offline needs no key")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: %(default)s)")


def _serve(arguments: Namespace) -> int:
    if arguments.engine:
        # Every process of the server reads it there.
        os.environ["TTS_ENGINE"] = arguments.engine
    try:
        from audio_api.server.program import serve
    except ImportError as error:
        raise ConfigurationError(f"the server needs its extra: pip install 'audio-api[server]' ({error})") from None
    if not 0 <= arguments.port <= _LAST_PORT:
        raise ConfigurationError(f"--port {arguments.port}: a port is a number from 0 (any free one) to {_LAST_PORT}")
    serve(arguments.host, arguments.port, max(1, arguments.workers))
    return 0
