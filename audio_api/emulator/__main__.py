"""``python -m audio_api.emulator``: the emulator as a program, until SIGTERM or Ctrl+C."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

_STOP = {signal.SIGINT, signal.SIGTERM}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve, after printing the URL on the first line of standard output.

    Args:
        arguments: Of the command line; ``None``: those of the process.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m audio_api.emulator", description="A local Gemini speech API.")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one (default)")
    parser.add_argument("--latency", type=float, default=0.0, metavar="S", help="seconds before an answer begins")
    parser.add_argument("--tokens-per-s", type=float, default=25.0, metavar="N", help="audio tokens billed per second")
    parser.add_argument("--api-key", help="the one key to accept; by default any is")
    options = parser.parse_args(arguments)
    # Blocked before the server's thread starts, which inherits it: the signals wait for sigwait alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    try:
        from audio_api.emulator import Emulator

        server = Emulator(
            None, options.api_key, options.latency, options.tokens_per_s, host=options.host, port=options.port
        )
        with server:
            print(server.url, flush=True)  # noqa: T201 - the program's output
            signal.sigwait(_STOP)
    except (ImportError, OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
