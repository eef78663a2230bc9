"""``python -m audio_api`` is the command line."""

from __future__ import annotations

import sys

from audio_api.cli import main

if __name__ == "__main__":
    sys.exit(main())
