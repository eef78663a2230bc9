"""The formats of finished sound: their names, the endings of their files and their media types."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

OutputFormat = Literal["wav", "mp3", "opus", "flac", "m4a"]
"""What a file can be: ``"opus"`` is Opus in Ogg, ``"m4a"`` AAC in MP4."""

StreamFormat = Literal["wav", "mp3", "opus", "flac", "aac", "pcm"]
"""What can be played while it is made: ``"aac"`` is AAC in ADTS, ``"pcm"`` the bare samples."""

SubtitleKind = Literal["srt", "vtt"]
"""What subtitles can be: SubRip or WebVTT."""

ENDINGS: Mapping[str, OutputFormat] = MappingProxyType(
    {"wav": "wav", "mp3": "mp3", "opus": "opus", "ogg": "opus", "flac": "flac", "m4a": "m4a", "m4b": "m4a"}
)
"""The format that the ending of a file's name stands for, in lower case. A format's own name is its usual ending."""

MEDIA_TYPES: Mapping[OutputFormat | StreamFormat, str] = MappingProxyType(
    {
        "wav": "audio/wav",
        "mp3": "audio/mpeg",
        "opus": "audio/ogg",
        "flac": "audio/flac",
        "m4a": "audio/mp4",
        "aac": "audio/aac",
        "pcm": "audio/pcm;rate=24000;channels=1",
    }
)
"""The ``Content-Type`` of each format."""


def format_of(filename: str) -> OutputFormat | None:
    """The format that a file's name stands for; ``None``: it has no ending, or one of another kind."""
    return ENDINGS.get(filename.rpartition(".")[2].lower()) if "." in filename else None
