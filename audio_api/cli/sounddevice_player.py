"""``python -m audio_api.cli.sounddevice_player FILE``: a WAV, on standard input if it is ``-``, is played."""

from __future__ import annotations

import sys
import wave

import sounddevice

_FRAMES = 4_800


def main(source: str) -> None:
    """Play a WAV of 16 bits to its end."""
    with wave.open(sys.stdin.buffer if source == "-" else source) as sound:
        channels, rate = sound.getnchannels(), sound.getframerate()
        with sounddevice.RawOutputStream(samplerate=rate, channels=channels, dtype="int16") as output:
            while frames := sound.readframes(_FRAMES):
                output.write(frames)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except sounddevice.PortAudioError as error:
        sys.exit(f"sounddevice: {error}")
