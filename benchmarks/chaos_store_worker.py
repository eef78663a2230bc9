"""A worker process with a disk of its own, as on another machine.

    python chaos_store_worker.py NUMBER

Its key is its number, so that its calls can be told apart, and its disk is the folder ``disk-NUMBER``.
"""

from __future__ import annotations

import os
import sys

from audio_api.cli import main

if __name__ == "__main__":
    (number,) = sys.argv[1:]
    os.environ.update(GEMINI_API_KEY=number, OUTPUT_DIR=f"disk-{number}/out", CACHE_DIR=f"disk-{number}/cache")
    sys.exit(main(["worker"]))
