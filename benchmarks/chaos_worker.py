"""A worker process of the chaos runs: ``audio_api worker`` under a key of its own, so that its calls can be told apart.

    python chaos_worker.py NUMBER [WINDOW_S]

The API's "minute" may be shorter, and a worker that takes up a text that begins with "Poison" dies at once.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractAsyncContextManager
from typing import Any

from audio_api.cli import main
from audio_api.models.audio_request import AudioRequest
from audio_api.services import pacing
from audio_api.services.tts_service import SpeechDraft, TTSService

_prepare = TTSService.prepare


def _prepare_or_die(
    self: TTSService, request: AudioRequest, *args: Any, **options: Any
) -> AbstractAsyncContextManager[SpeechDraft]:
    if request.text.startswith("Poison"):
        os._exit(9)
    return _prepare(self, request, *args, **options)


if __name__ == "__main__":
    number, *window_s = sys.argv[1:]
    os.environ["GEMINI_API_KEY"] = number
    # Faults that no setting asks for.
    service: Any = TTSService
    service.prepare = _prepare_or_die
    if window_s:
        pacer: Any = pacing.Pacer
        pacer.__init__.__kwdefaults__["window_s"] = float(window_s[0])
    sys.exit(main(["worker"]))
