"""``python -m audio_api`` is the command line, and so is the command ``audio-api``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; Ctrl-C ends it without a traceback also while it is being imported."""
    try:
        from audio_api.cli import INTERRUPTED, main
    except KeyboardInterrupt:
        return 130
    try:
        return main()
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
