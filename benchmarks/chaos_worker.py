"""A worker process of the chaos runs: ``audio_api worker`` under a key of its own, so that its calls can be told apart.

    python chaos_worker.py NUMBER [WINDOW_S]

The API's "minute" may be shorter, and whoever takes up a text that begins with "Poison" dies at once.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from audio_api.cli import main
from audio_api.models.audio_request import AudioRequest, AudioResponse
from audio_api.services import pacing
from audio_api.services.tts_service import TTSService

_speak = TTSService.generate_audio


async def _speak_or_die(self: TTSService, request: AudioRequest, *args: Any) -> AudioResponse:
    if request.text.startswith("Poison"):
        os._exit(9)
    return await _speak(self, request, *args)


if __name__ == "__main__":
    number, *window_s = sys.argv[1:]
    os.environ["GEMINI_API_KEY"] = number
    # Faults that no setting asks for.
    service: Any = TTSService
    service.generate_audio = _speak_or_die
    if window_s:
        pacer: Any = pacing.Pacer
        pacer.__init__.__kwdefaults__["window_s"] = float(window_s[0])
    sys.exit(main(["worker"]))
