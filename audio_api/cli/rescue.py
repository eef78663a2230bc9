"""Sound that was made and could not be written where it should be."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from audio_api.cli.terminal import complain


def rescue(wav: bytes) -> None:
    """Put sound that may have been paid for into the temporary folder, and say where."""
    try:
        number, name = tempfile.mkstemp(".wav", "audio-api-")
        os.close(number)
        path = Path(name)
        try:
            path.write_bytes(wav)
        except OSError:
            path.unlink()
            raise
    except OSError as error:
        complain(f"nor can it be written to the temporary folder: {error.strerror}")
    else:
        complain(f"the sound is complete in {name!r}")
