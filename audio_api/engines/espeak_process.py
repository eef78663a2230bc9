"""The child process in which eSpeak NG speaks, over a socket that is its stdin, until the other end closes.

A request is one message: a JSON list of ``EspeakTurn`` (espeak_request.py). A reply is any number of messages of
16-bit little-endian samples of one channel at 24,000 Hz, an empty message, and a JSON object: when all was spoken,
``{"readings": ...}`` with lists of the three numbers of a ``WordSpan`` (espeak_words.py) for each turn; else
``{"error": sentence, "broken": bool}``, where ``broken`` says that the library itself cannot be used.

The library is not thread-safe, a text may crash it, and its licence is the GPL: three reasons for a process of its own.
This file imports nothing of the package, so that it runs by its path wherever the package was found.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
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
_EVENTS_END, _EVENT_WORD, _EVENT_CLAUSE_END = 0, 1, 5

_CALLBACK_EVERY_MS = 1_000
# At its own volume of 100 some variants clip inside the library; loudness is set afterwards.
_VOLUME_WITHOUT_CLIPPING = 40
# NUL ends a C string, 0x01 begins one of the library's own commands, the others mean nothing spoken.
_UNSPOKEN = {code: " " for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}

_LEAD_MS, _TURN_PAUSE_MS, _TAIL_MS = 150, 250, 250  # Gemini ends with about 250 ms of quiet
_LOUDNESS_DBFS = -20.0
# Peaks above the knee are bent, so that they never reach the ceiling: some variants peak 24 dB above their mean.
_KNEE, _CEILING = 10 ** (-6 / 20), 10 ** (-1 / 20)
_QUIET = 20  # of 32,768, at the reduced volume; quieter samples at the ends of a turn or word do not belong to it
# The loudness of a turn is measured here, so that its first sound need not wait for its last.
_MEASURED_S = 10

_Native = npt.NDArray[np.int16]
_Waveform = npt.NDArray[np.float32]


class _Event(ctypes.Structure):
    """``espeak_EVENT`` of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # counts characters from 1
        ("length", ctypes.c_int),
        ("audio_position_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))
# Takes the next samples, and of each word that begins in them the characters before it and its first sample.
_Listener = Callable[[_Native, list[tuple[int, int]]], None]


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
        self._listener: _Listener = lambda _, __: None
        self._failure: Exception | None = None
        # The library keeps the bare pointer: without this reference the callback would be freed under it.
        self._callback = _Callback(self._hear)
        self._lib.espeak_SetSynthCallback(self._callback)

    def _hear(self, samples: int | None, size: int, events: ctypes._Pointer[_Event]) -> int:
        # An exception must not cross into C, where it would get lost; 1 ends the synthesis.
        try:
            if samples:
                native = np.frombuffer(ctypes.string_at(samples, size * 2), np.int16)
                self._listener(native, list(_words(events)))
        except Exception as error:
            self._failure = error
        return int(self._failure is not None)

    def speak(self, turn: dict[str, Any], listener: _Listener) -> None:
        """Speak one turn at the library's own sample rate and loudness, second by second into a listener.

        Raises:
            ValueError: The library has no such voice.
            Exception: What the listener raised, which ends the speech.
        """
        # Setting a voice reads its dictionary again: 8.5 MB for Russian.
        if (voice := turn["voice"]) != self._voice:
            self._voice = None
            if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
                raise ValueError(f"eSpeak NG has no voice {voice!r}")
            self._voice = voice
        parameters = {
            _RATE: turn["rate_wpm"],
            _VOLUME: _VOLUME_WITHOUT_CLIPPING,
            _PITCH: turn["pitch"],
            _RANGE: turn["range"],
        }
        for parameter, value in parameters.items():
            self._lib.espeak_SetParameter(parameter, value, 0)
        text = turn["text"].translate(_UNSPOKEN).encode("utf-8", "replace")
        self._listener = listener
        self._lib.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 0, 0, _CHARS_UTF8, None, None)
        failure, self._failure = self._failure, None
        if failure:
            raise failure


def _words(events: ctypes._Pointer[_Event]) -> Iterator[tuple[int, int]]:
    """Of each word the characters before it, and its first sample."""
    for number in count():
        event = events[number]
        if event.type == _EVENTS_END:
            return
        if event.type == _EVENT_WORD:
            yield event.text_position - 1, event.sample
        # A word begins there, too, which in Korean is not announced.
        if event.type == _EVENT_CLAUSE_END:
            yield event.text_position, event.sample


def _loud(native: _Native) -> npt.NDArray[np.bool_]:
    return (native > _QUIET) | (native < -_QUIET)


def _quiet_start(native: _Native) -> int:
    """How many samples the sound begins with that are as good as silence."""
    loud = _loud(native)
    return int(loud.argmax()) if loud.any() else len(native)


def _gain(waveform: _Waveform, loudness_dbfs: float) -> np.float32:
    """The factor that gives the sound this root mean square."""
    return np.float32(10 ** (loudness_dbfs / 20) / np.sqrt(np.dot(waveform, waveform) / len(waveform)))


def _silence(length_ms: int) -> bytes:
    return bytes(2 * _SAMPLE_RATE * length_ms // 1_000)


class _Readings:
    """The words of one turn, each from its first loud sample to its last: pauses belong to none.

    Attributes:
        found: Of each word the characters before it, its first sample, and the sample after its last; the same sample
            twice when it made no sound.
    """

    def __init__(self) -> None:
        self.found = [[0, 0, 0]]
        self._heard = 0

    def hear(self, native: _Native, words: list[tuple[int, int]]) -> None:
        """Take the next samples, and the words that begin in them."""
        loud = self._heard + np.flatnonzero(_loud(native))
        self._heard += len(native)
        for at, start in words:
            before, loud = np.split(loud, np.searchsorted(loud, [start]))
            self._extend(before)
            self.found.append([at, start, start])
        self._extend(loud)

    def _extend(self, loud: npt.NDArray[np.intp]) -> None:
        if len(loud):
            at, first, end = self.found[-1]
            self.found[-1] = [at, first if first < end else int(loud[0]), int(loud[-1]) + 1]


class _Finish:
    """Sends one turn while it is spoken: without quiet ends, at one loudness, at 24,000 Hz.

    Attributes:
        readings: When each word was heard, in samples of the library.
        sent: Samples sent so far.
    """

    def __init__(self, sample_rate: int, loudness_dbfs: float, send: Callable[[bytes], None]) -> None:
        self._loudness_dbfs = loudness_dbfs
        self._send = send
        self._measured_samples = _MEASURED_S * sample_rate
        self._resampler = soxr.ResampleStream(sample_rate, _SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        self._held: _Native = np.zeros(0, np.int16)
        self._gain: np.float32 | None = None
        self._rate_factor = _SAMPLE_RATE / sample_rate
        self._skipped = 0
        self.readings = _Readings()
        self.sent = 0

    def hear(self, native: _Native, words: list[tuple[int, int]]) -> None:
        """Take the next samples, and the words that begin in them."""
        self.readings.hear(native, words)
        if self._gain is None and not len(self._held):
            quiet = _quiet_start(native)
            self._skipped += quiet
            native = native[quiet:]
        self._held = np.concatenate((self._held, native))
        if self._gain is not None or len(self._held) >= self._measured_samples:
            self._send_held()

    def end(self) -> None:
        """Pass the rest to the listener."""
        self._send_held()
        if self._gain is not None:
            self._resample(np.zeros(0, np.float32), last=True)

    def place(self, sample: int) -> int:
        """Where a sample of the library is in what was sent."""
        return round((sample - self._skipped) * self._rate_factor)

    def _send_held(self) -> None:
        # Quiet at the end is kept back until it turns out to be a pause.
        end = len(self._held) - _quiet_start(self._held[::-1])
        sound, self._held = self._held[:end], self._held[end:]
        if not len(sound):
            return
        waveform = sound.astype(np.float32) / np.float32(32_768)
        if self._gain is None:
            self._gain = _gain(waveform, self._loudness_dbfs)
        self._resample(waveform * self._gain)

    def _resample(self, waveform: _Waveform, *, last: bool = False) -> None:
        resampled = self._resampler.resample_chunk(waveform, last=last)
        self.sent += len(resampled)
        loud = np.flatnonzero(np.abs(resampled) > _KNEE)
        room = _CEILING - _KNEE
        over = np.abs(resampled[loud]) - _KNEE
        resampled[loud] = np.sign(resampled[loud]) * (_KNEE + room * np.tanh(over / room))
        self._send(np.rint(resampled * 32_767).astype("<i2").tobytes())


def _speak(espeak: Espeak, turns: list[dict[str, Any]], send: Callable[[bytes], None]) -> Iterator[list[list[int]]]:
    """Speak all turns, and yield the readings of each."""
    start = 0
    for number, turn in enumerate(turns):
        silence = _silence(_TURN_PAUSE_MS if number else _LEAD_MS)
        send(silence)
        start += len(silence) // 2
        finish = _Finish(espeak.sample_rate, _LOUDNESS_DBFS + turn["loudness_db"], send)
        espeak.speak(turn, finish.hear)
        finish.end()
        yield [
            [at, start + finish.place(first), start + finish.place(end)]
            for at, first, end in finish.readings.found
            if first < end
        ]
        start += finish.sent
    send(_silence(_TAIL_MS))


def _reply(espeak: Espeak, request: bytes, parent: Connection) -> dict[str, object]:
    def send(pcm: bytes) -> None:
        if pcm:
            parent.send_bytes(pcm)

    try:
        return {"readings": list(_speak(espeak, json.loads(request), send))}
    except (ValueError, MemoryError) as error:
        return {"error": str(error) or "the sound does not fit into memory", "broken": False}


def main() -> None:
    """Answer requests until the other end closes."""
    # Ctrl-C in a terminal reaches the whole group; the parent alone decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    espeak: Espeak | None = None
    with Connection(os.dup(0)) as parent, suppress(EOFError, ConnectionError):
        while True:
            request = parent.recv_bytes()
            try:
                espeak = espeak or Espeak()
            except OSError as error:
                outcome: dict[str, object] = {"error": str(error), "broken": True}
            else:
                outcome = _reply(espeak, request, parent)
            parent.send_bytes(b"")
            parent.send_bytes(json.dumps(outcome).encode())


if __name__ == "__main__":
    main()
