"""``python -m audio_api.emulator``: the emulator as a program, until SIGTERM or Ctrl+C."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from pydantic import ValidationError

from audio_api.emulator.speech import synthesize as computed_speech
from audio_api.engines.base import Turn, Utterance
from audio_api.engines.offline import MODEL, OfflineEngine
from audio_api.errors import TTSValidationError
from audio_api.models.audio_request import VoiceConfig

_STOP = {signal.SIGINT, signal.SIGTERM}


class _OfflineSpeech:
    """eSpeak NG as the voice of the emulator."""

    def __init__(self) -> None:
        self._engine = OfflineEngine()

    async def __call__(self, text: str, voice: str, language: str) -> bytes:
        """Speak; what eSpeak NG cannot, such as Thai or a voice of the library, is computed."""
        try:
            utterance = Utterance((Turn(text, VoiceConfig(voice_name=voice)),), MODEL, language)
            return (await self._engine.synthesize(utterance)).pcm
        except (TTSValidationError, ValidationError):
            return computed_speech(text, voice, language)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve, after printing the URL on the first line of standard output.

    Args:
        arguments: Of the command line; ``None``: those of the process.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m audio_api.emulator", description="A local Gemini speech API.")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="IP address to listen on (default: %(default)s); "
        "0.0.0.0 is for other containers, and lets everyone who reaches it read the calls and their keys",
    )
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one (default)")
    parser.add_argument("--latency", type=float, default=0.0, metavar="S", help="seconds before an answer begins")
    parser.add_argument("--tokens-per-s", type=float, default=25.0, metavar="N", help="audio tokens billed per second")
    parser.add_argument(
        "--speech",
        choices=("offline", "computed"),
        help="what is heard: eSpeak NG, or a sound that only has the measures of speech; "
        "by default eSpeak NG if the extra [offline] is installed",
    )
    parser.add_argument("--api-key", help="the one key to accept; by default any is")
    parser.add_argument(
        "--voice",
        action="append",
        default=[],
        metavar="ID",
        help="a custom voice that exists, voice_…; may be repeated",
    )
    parser.add_argument("--v1beta-only", action="store_true", help="know speech on /v1beta alone")
    options = parser.parse_args(arguments)
    speech = options.speech or ("offline" if find_spec("espeakng_loader") else "computed")
    # Blocked before the server's thread starts, which inherits it: the signals wait for sigwait alone.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    try:
        from audio_api.emulator import Emulator

        server = Emulator(
            _OfflineSpeech() if speech == "offline" else None,
            options.api_key,
            options.latency,
            options.tokens_per_s,
            custom_voices=options.voice,
            v1beta_only=options.v1beta_only,
            host=options.host,
            port=options.port,
        )
        with server:
            print(server.url, flush=True)  # noqa: T201 - the program's output
            if server.is_public:
                print(f"warning: all who reach {options.host} can read the calls and their keys", file=sys.stderr)  # noqa: T201
            print(f"{speech} speech; Ctrl+C ends", file=sys.stderr)  # noqa: T201
            signal.sigwait(_STOP)
    except (ImportError, OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
    return 0


if __name__ == "__main__":
    sys.exit(main())
