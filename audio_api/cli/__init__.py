"""The command line: ``audio-api say "Hello"``, lists of what there is, workers for a queue, and a doctor.

Each command is a module of its own. Its top declares arguments and imports nothing heavy, so that ``--help`` and the
completion of a shell are quick; what the command needs is imported when it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from audio_api.cli.app import app
from audio_api.cli.exit_codes import FAILED, INTERRUPTED, TRY_LATER, WRONG
from audio_api.cli.rescue import rescue
from audio_api.cli.terminal import complain, prepare_streams, silence
from audio_api.cli.wording import in_words, misuse_in_words, problems_in_words
from audio_api.errors import AudioAPIError, ConfigurationError, TTSOutputError, TTSValidationError

__all__ = ["INTERRUPTED", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments; ``None``: the process's own.

    Returns:
        The exit code: 0 done; 1 failed; 2 the command, a setting or the text is wrong; 3 failed, but trying again later
        may help; 130 interrupted.

    Raises:
        SystemExit: A shell asked for completions, or the reader of standard output is gone.
    """
    prepare_streams()
    try:
        code: int = app(argv, prog_name="audio-api", standalone_mode=False)
        # Now rather than at exit, where a failure could not be told.
        print(end="", flush=True)
    except AudioAPIError as error:
        complain(in_words(str(error)))
        if isinstance(error, TTSOutputError) and error.audio:
            rescue(error.audio)
        if isinstance(error, ConfigurationError | TTSValidationError):
            return WRONG
        return TRY_LATER if error.retryable else FAILED
    except typer.TyperException as error:
        complain(misuse_in_words(error))
        return WRONG
    except ValueError as error:
        complain(problems_in_words(error))
        return WRONG
    except OSError as error:
        # Of standard output: what is done with files and connections has errors of its own.
        complain(f"cannot print: {error.strerror}")
        silence(sys.stdout)
        return FAILED
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return code
