"""The child process in which eSpeak NG speaks, over a socket that is its stdin, until the other end closes.

A request is one message: a JSON list of ``EspeakTurn`` (espeak_request.py). A reply is any number of messages of
16-bit little-endian samples of one channel at 24,000 Hz, an empty message, and a JSON object: ``{}`` when all was
spoken, else ``{"error": sentence, "broken": bool}``, where ``broken`` says that the library itself cannot be used.

The library is not thread-safe, a text may crash it, and its licence is the GPL: three reasons for a process of its own.
This file imports nothing of the package, so that it runs by its path wherever the package was found.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import espeakng_loader
import numpy as np
import numpy.typing as npt
import soxr

_SAMPLE_RATE = 24_000

# Of speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1  # and never SSML, 0x10: markup in a text can crash the library
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4

_CALLBACK_EVERY_MS = 1_000
# At its own volume of 100 some variants clip inside the library; loudness is set afterwards.
_VOLUME_WITHOUT_CLIPPING = 40
# NUL ends a C string, 0x01 begins one of the library's own commands, the others mean nothing spoken.
_UNSPOKEN = {code: " " for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}

_LEAD_MS, _TURN_PAUSE_MS, _TAIL_MS = 150, 250, 250  # Gemini ends with about 250 ms of quiet
_LOUDNESS_DBFS = -20.0
# Peaks above the knee are bent, so that they never reach the ceiling: some variants peak 24 dB above their mean.
_KNEE, _CEILING = 10 ** (-6 / 20), 10 ** (-1 / 20)
_QUIET = 20  # of 32,768, at the reduced volume; quieter samples at a turn's ends are cut off
_BLOCK_SAMPLES = 1 << 19  # 24 s

_Native = npt.NDArray[np.int16]
_Waveform = npt.NDArray[np.float32]
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """The C library; one per process."""

    def __init__(self) -> None:
        """Load the library and its data.

        Raises:
            OSError: The library does not load, or does not find its data.
        """
        self._lib = ctypes.CDLL(espeakng_loader.get_library_path())
        data = Path(espeakng_loader.get_data_path())
        # The library copies the path into a fixed buffer and fails from about 160 bytes on; "." always fits.
        os.chdir(data)
        self.sample_rate = self._lib.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, _CALLBACK_EVERY_MS, b".", _INITIALIZE_DONT_EXIT
        )
        if self.sample_rate <= 0:
            raise OSError(f"no usable data in {data}")
        self._voice: str | None = None
        self._heard = bytearray()
        self._out_of_memory = False
        # The library keeps the bare pointer: without this reference the callback would be freed under it.
        self._callback = _Callback(self._hear)
        self._lib.espeak_SetSynthCallback(self._callback)

    def _hear(self, samples: int | None, count: int, _events: int | None) -> int:
        # An exception must not cross into C; 1 ends the synthesis.
        try:
            if samples:
                self._heard += ctypes.string_at(samples, count * 2)
        except MemoryError:
            self._out_of_memory = True
        return int(self._out_of_memory)

    def speak(self, turn: dict[str, Any]) -> _Native:
        """Speak one turn at the library's own sample rate and loudness.

        Raises:
            ValueError: The library has no such voice.
            MemoryError: The sound does not fit into memory.
        """
        self._set_voice(turn["voice"])
        parameters = {
            _RATE: turn["rate_wpm"],
            _VOLUME: _VOLUME_WITHOUT_CLIPPING,
            _PITCH: turn["pitch"],
            _RANGE: turn["range"],
        }
        for parameter, value in parameters.items():
            self._lib.espeak_SetParameter(parameter, value, 0)
        self._out_of_memory = False
        text = turn["text"].translate(_UNSPOKEN).encode("utf-8", "replace")
        self._lib.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 0, 0, _CHARS_UTF8, None, None)
        if self._out_of_memory:
            self._heard = bytearray()
            raise MemoryError("the sound does not fit into memory; speak the text in pieces")
        heard, self._heard = self._heard, bytearray()
        return np.frombuffer(heard, np.int16)

    def _set_voice(self, voice: str) -> None:
        # Setting a voice reads its dictionary again: 8.5 MB for Russian.
        if voice == self._voice:
            return
        self._voice = None
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"eSpeak NG has no voice {voice!r}")
        self._voice = voice


def _blocks(native: _Native) -> Iterator[_Waveform]:
    """The sound as -1 to 1, in pieces: an hour at once would take gigabytes."""
    for start in range(0, len(native), _BLOCK_SAMPLES):
        yield native[start : start + _BLOCK_SAMPLES].astype(np.float32) / np.float32(32_768)


def _quiet_start(native: _Native) -> int:
    """How many samples the sound begins with that are as good as silence."""
    for start in range(0, len(native), _BLOCK_SAMPLES):
        loud = np.abs(native[start : start + _BLOCK_SAMPLES].astype(np.int32)) > _QUIET
        if loud.any():
            return start + int(loud.argmax())
    return len(native)


def _trim(native: _Native) -> _Native:
    return native[_quiet_start(native) : len(native) - _quiet_start(native[::-1])]


def _gain(native: _Native, loudness_dbfs: float) -> float:
    """The factor that gives the sound this root mean square."""
    energy = sum(float(np.dot(block, block)) for block in _blocks(native))
    return float(10 ** (loudness_dbfs / 20) / np.sqrt(energy / len(native)))


def _limit(waveform: _Waveform) -> _Waveform:
    loud = np.flatnonzero(np.abs(waveform) > _KNEE)
    room = _CEILING - _KNEE
    over = np.abs(waveform[loud]) - _KNEE
    waveform[loud] = np.sign(waveform[loud]) * (_KNEE + room * np.tanh(over / room))
    return waveform


def _silence(length_ms: int) -> bytes:
    return bytes(2 * _SAMPLE_RATE * length_ms // 1_000)


def _pcm(espeak: Espeak, turn: dict[str, Any]) -> Iterator[bytes]:
    """Speak one turn at 24,000 Hz and about -20 dBFS."""
    native = _trim(espeak.speak(turn))
    if not len(native):
        return
    gain = _gain(native, _LOUDNESS_DBFS + turn["loudness_db"])
    resampler = soxr.ResampleStream(espeak.sample_rate, _SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    for block in _blocks(native):
        yield _samples(resampler.resample_chunk(block * np.float32(gain)))
    yield _samples(resampler.resample_chunk(np.zeros(0, np.float32), last=True))


def _samples(waveform: _Waveform) -> bytes:
    return np.rint(_limit(waveform) * 32_767).astype("<i2").tobytes()


def _sound(espeak: Espeak, turns: list[dict[str, Any]]) -> Iterator[bytes]:
    for number, turn in enumerate(turns):
        yield _silence(_TURN_PAUSE_MS if number else _LEAD_MS)
        yield from _pcm(espeak, turn)
    yield _silence(_TAIL_MS)


def _reply(espeak: Espeak, request: bytes, parent: Connection) -> dict[str, str | bool]:
    try:
        for pcm in filter(None, _sound(espeak, json.loads(request))):
            parent.send_bytes(pcm)
    except (ValueError, MemoryError) as error:
        return {"error": str(error), "broken": False}
    return {}


def _serve(parent: Connection) -> None:
    espeak: Espeak | None = None
    while True:
        request = parent.recv_bytes()
        try:
            espeak = espeak or Espeak()
        except OSError as error:
            outcome: dict[str, str | bool] = {"error": str(error), "broken": True}
        else:
            outcome = _reply(espeak, request, parent)
        parent.send_bytes(b"")
        parent.send_bytes(json.dumps(outcome).encode())


def main() -> None:
    """Answer requests until the other end closes."""
    # Ctrl-C in a terminal reaches the whole group; the parent alone decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Connection(os.dup(0)) as parent, suppress(EOFError, ConnectionError):
        _serve(parent)


if __name__ == "__main__":
    main()
