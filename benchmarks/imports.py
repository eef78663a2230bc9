"""What importing costs before the first request, each time in a fresh process, beside Google's SDK."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from measuring import heading, interleaved, row

BASELINE = "from google import genai"
# The goal is for the import alone; the service brings pydantic and the settings along.
GOALS = {
    "import audio_api": 0.25,
    "from audio_api import AudioRequest": None,
    "from audio_api import TTSService, AudioRequest": None,
}


def import_ms(statement: str) -> float:
    """Milliseconds that a statement takes in a fresh process, without the start of the interpreter."""
    script = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(done.stdout) * 1000


def main(rounds: int = 9) -> None:
    """Print the table."""
    results = interleaved({name: partial(import_ms, name) for name in (*GOALS, BASELINE)}, rounds)
    heading(f"imports / {BASELINE}")
    for statement, goal in GOALS.items():
        row(statement, results[statement], results[BASELINE], "ms", goal)


if __name__ == "__main__":
    main()
