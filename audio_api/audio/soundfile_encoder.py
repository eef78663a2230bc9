"""Mp3, Ogg-Opus and FLAC by soundfile, the extra ``formats``. Imported only when one of them is wanted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import soundfile

from audio_api.audio.encoder_sink import Pcm, Sink
from audio_api.audio.wav import SAMPLE_RATE

# The level of mp3 is a quality, from 0 (the best) to 1.
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "VARIABLE", "compression_level": 0.5},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "flac": {"format": "FLAC", "subtype": "PCM_16"},
}
# sndfile.h of libsndfile 1.1; soundfile has no name for it. Pages take a second without it.
_SET_PAGE_LATENCY_MS, _PAGE_MS = 0x1302, 200.0
_DECODED_AT_ONCE = 10 * SAMPLE_RATE


class SoundFileEncoder:
    """One sound.

    Args:
        sink: Takes the bytes.
        sound_format: ``"mp3"``, ``"opus"`` or ``"flac"``.
        tags: Any of ``title``, ``artist`` and ``comment``; ignored by mp3.
        is_stream: Whether the sound is heard while it is made: Opus has short pages then.
    """

    def __init__(self, sink: Sink, sound_format: str, tags: Mapping[str, str], *, is_stream: bool) -> None:
        self._file = soundfile.SoundFile(sink, "w", SAMPLE_RATE, channels=1, **_OPTIONS[sound_format])
        if sound_format == "opus" and is_stream:
            latency = soundfile._ffi.new("double *", _PAGE_MS)
            soundfile._snd.sf_command(self._file._file, _SET_PAGE_LATENCY_MS, latency, soundfile._ffi.sizeof("double"))
        if sound_format != "mp3":
            # Of mp3 these would be ID3 1: thirty letters, and none with an accent.
            for name, text in tags.items():
                setattr(self._file, name, text)

    def write(self, pcm: Pcm, /) -> None:
        """Encode samples."""
        self._file.buffer_write(pcm, "int16")

    def close(self) -> None:
        """Encode what is left, and patch what says how much there is; does nothing the second time."""
        self._file.close()


class _ForwardReader(soundfile.SoundFile):  # type: ignore[misc]
    def seekable(self) -> bool:
        # soundfile seeks after every read, to where it is already: mp3 would lose the bits saved up before that place.
        return False


def decoded_samples(fd: int) -> int:
    """How many samples of a file can be decoded."""
    os.lseek(fd, 0, os.SEEK_SET)
    block = bytearray(2 * _DECODED_AT_ONCE)
    samples = 0
    with suppress(soundfile.LibsndfileError), _ForwardReader(fd, closefd=False) as file:
        while read := file.buffer_read_into(block, "int16"):
            samples += read
    return samples


def file_seconds(path: Path) -> float:
    """How long the sound of a file is, as it says.

    Raises:
        OSError: It cannot be read.
        ValueError: It is none that libsndfile knows.
    """
    try:
        with path.open("rb") as file, soundfile.SoundFile(file) as sound:
            return float(sound.frames / sound.samplerate)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path.name!r}: {error.error_string}") from None
