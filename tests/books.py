"""Long texts for tests, services that speak them through the emulator, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any

import kit

from audio_api.audio.joining import PAUSE_S, Joiner, Span
from audio_api.config import AudioConfig
from audio_api.emulator import Emulator
from audio_api.emulator.speech import synthesize
from audio_api.engines.base import Utterance
from audio_api.models.audio_request import AudioRequest
from audio_api.speech.planning import PlannedPiece, plan_pieces

MODEL = "gemini-3.8-flash-tts"
LEGACY = "gemini-2.5-flash-preview-tts"
PIECE_CHARS = 800


def book(chars: int, name: str = "the river") -> str:
    """Numbered sentences, no two alike, in paragraphs; as many characters as asked for, or a few less."""
    text = ""
    for number in count(1):
        end = "\n\n" if number % 5 == 0 else " "
        sentence = f"This is sentence number {number} about {name}, and it says that the bridge was gone.{end}"
        if len(text) + len(sentence) > chars:
            return text.rstrip()
        text += sentence
    raise AssertionError


def settings(emulator: Emulator | str, folder: Path, **changes: Any) -> AudioConfig:
    """The default settings, aimed at the emulator, with short pieces: those of an older model."""
    return kit.settings(emulator, folder, **{"default_tts_model": LEGACY, **changes})


def pieces_of(request: AudioRequest, first_chars: int | None = None, model: str = LEGACY) -> list[PlannedPiece]:
    """How a request is cut."""
    return list(plan_pieces(Utterance.from_request(request, model), PIECE_CHARS, first_chars))


def sound_of(pieces: Iterable[PlannedPiece]) -> tuple[bytes, list[Span]]:
    """The emulator's own sound of each piece, joined, and where each piece lies."""
    joiner = Joiner()
    blocks = []
    for piece in pieces:
        (turn,) = piece.utterance.turns
        pcm = synthesize(turn.text, str(turn.voice.voice_name), "en-US")
        blocks.append(joiner.add(pcm, PAUSE_S[piece.break_after]))
    return b"".join([*blocks, joiner.finish()]), joiner.spans


def same(one: bytes, other: bytes) -> bool:
    """Whether two sounds are equal; asserting it on large bytes directly would never end when they are not."""
    return one == other


def visible_files(folder: Path) -> list[str]:
    """What a user finds in the output folder; finished pieces are kept out of sight."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".cache") if folder.exists() else []


def kept_pieces(folder: Path) -> int:
    """Finished pieces in the cache below an output folder."""
    return len(list((folder / ".cache").glob("*.piece.wav")))


TEXT_OF_PROGRAMS = book(4_500)
"""What tests let another process speak."""
