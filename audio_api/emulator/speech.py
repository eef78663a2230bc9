"""A computed sound with the measures of speech, so that checks of real speech accept it and damage to it shows."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from zlib import crc32

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 24_000
BYTES_PER_S = 2 * SAMPLE_RATE
_CONTROL_RATE = 200
_TICK = SAMPLE_RATE // _CONTROL_RATE
_WAVE_LENGTH = 4096
# Longer texts are seldom asked for twice, and their sound is large.
_CACHED_LENGTH = 300
_QUIET_START_S = 0.15
_QUIET_END_S = 0.25
_SYLLABLES_PER_S = 5.0
# -20 dBFS, the middle of measured speech.
_RMS = 0.1

# Seconds per letter by script: English comes at 15 characters a second, between the 14 of 3.1 and the 17 of 3.8.
_LETTER_S = 1 / 12.5
_DIGIT_S = 0.4
_PAUSES_S = dict.fromkeys(",;:—،、，；", 0.2) | dict.fromkeys(".!?\n…。！？।؟", 0.35)
_SCRIPTS = (
    (0x0590, 0x08FF, 1 / 8.5),
    (0x0900, 0x0DFF, 1 / 11),
    (0x0E00, 0x0EFF, 1 / 8),
    (0x1100, 0x11FF, 1 / 5),
    (0x3040, 0x30FF, 1 / 6.5),
    (0x3400, 0x9FFF, 1 / 4.5),
    (0xAC00, 0xD7FF, 1 / 5),
    (0xF900, 0xFAFF, 1 / 4.5),
    (0x20000, 0x3FFFF, 1 / 4.5),
)
_TAG = re.compile(r"<[a-z ]{1,30}>")
_TAG_PAUSE = "…"


def synthesize(text: str, voice: str, language: str) -> bytes:
    """Compute a sound as long as the text takes to say. The same arguments give the same sound.

    Args:
        text: What is spoken.
        voice: Its pitch comes from the name.
        language: Not used: the length follows the text's scripts.

    Returns:
        24,000 Hz, 16-bit, mono PCM.
    """
    return _cached(text, voice) if len(text) <= _CACHED_LENGTH else _compute(text, voice)


def _compute(text: str, voice: str) -> bytes:
    seed = crc32(f"{voice}\0{text}".encode(errors="replace"))
    voiced = _voiced(_TAG.sub(_TAG_PAUSE, text))
    # The sound rises and falls with every syllable, each a little louder or softer than the last.
    beat = np.arange(len(voiced)) * (_SYLLABLES_PER_S / _CONTROL_RATE)
    gain = np.random.default_rng(seed).uniform(0.6, 1.0, int(beat[-1]) + 2)
    swell = 0.06 + 0.94 * (0.5 - 0.5 * np.cos(2 * np.pi * beat)) ** 1.5
    loudness = voiced * swell * np.interp(beat, np.arange(len(gain)), gain)
    ticks = np.arange(len(loudness))
    melody = 1 + 0.12 * np.sin(ticks / _CONTROL_RATE * 4.1 + seed % 7)
    steps = (100 + crc32(voice.encode()) % 120) * melody * (_WAVE_LENGTH / _CONTROL_RATE)
    # From here on a row is one tick of the control rate, and a column a sample in it.
    within = np.arange(_TICK, dtype=np.float32) / _TICK
    at = (np.cumsum(steps) % _WAVE_LENGTH).astype(np.float32)[:, None] + steps.astype(np.float32)[:, None] * within
    slope = np.diff(loudness, append=0).astype(np.float32)[:, None] * within
    sound = _wave()[at.astype(np.int32) % _WAVE_LENGTH] * (loudness.astype(np.float32)[:, None] + slope)
    sound *= _RMS / max(float(np.sqrt(np.mean(sound**2))), 1e-9)
    samples: npt.NDArray[np.int16] = (np.clip(sound, -0.99, 0.99) * 32767).astype("<i2")
    return samples.tobytes()


_cached = lru_cache(maxsize=64)(_compute)


def _seconds(character: str) -> float:
    """How long one character is heard; negative: how long it is a pause."""
    if character in _PAUSES_S:
        return -_PAUSES_S[character]
    kind = unicodedata.category(character)[0]
    if kind == "N":
        return _DIGIT_S
    if kind not in "LM":
        return 0.0
    code = ord(character)
    return next((each for first, last, each in _SCRIPTS if first <= code <= last), _LETTER_S)


def _voiced(text: str) -> npt.NDArray[np.float64]:
    """One where something is said, zero in pauses, at the control rate; closing pauses become the quiet end."""
    seconds = [_seconds(character) for character in text.rstrip("".join(_PAUSES_S) + " ")]
    seconds = [-_QUIET_START_S, *[each for each in seconds if each], -_QUIET_END_S]
    edges = np.round(np.cumsum(np.abs(seconds)) * _CONTROL_RATE).astype(int)
    voiced = np.array([float(each > 0) for each in seconds])
    return np.repeat(voiced, np.diff(edges, prepend=0))


@lru_cache(maxsize=1)
def _wave() -> npt.NDArray[np.float32]:
    """One period of a voice: harmonics that fade with their number, as a vowel's do."""
    turn = np.linspace(0, 2 * np.pi, _WAVE_LENGTH, endpoint=False)
    wave = np.zeros(_WAVE_LENGTH, np.float32)
    for k in range(1, 13):
        wave += np.sin(k * turn + k * k) / k**1.4
    return wave


# ITU-T G.711: the encoders' bias and clip, and what a byte is XORed with on the wire.
_MU_BIAS = 0x84
_MU_CLIP = 32_635
_A_MASK = 0x55


def to_mu_law(pcm: bytes) -> bytes:
    """Samples of 24,000 Hz as G.711 mu-law of 8,000 Hz."""
    samples = _third(pcm)
    size = np.minimum(np.abs(samples), _MU_CLIP) + _MU_BIAS
    segment = np.floor(np.log2(size)).astype(np.int32) - 7
    mantissa = (size >> (segment + 3)) & 0x0F
    return _as_bytes(~((samples < 0) << 7 | segment << 4 | mantissa) & 0xFF)


def to_a_law(pcm: bytes) -> bytes:
    """Samples of 24,000 Hz as G.711 A-law of 8,000 Hz."""
    samples = _third(pcm)
    size = np.where(samples < 0, ~samples, samples) >> 3
    segment = np.maximum(np.floor(np.log2(np.maximum(size, 1))).astype(np.int32) - 4, 0)
    mantissa = (size >> np.maximum(segment, 1)) & 0x0F
    return _as_bytes(((samples >= 0) << 7 | segment << 4 | mantissa) ^ _A_MASK)


def _third(pcm: bytes) -> npt.NDArray[np.int32]:
    """A third of the samples, each the mean of three."""
    samples = np.frombuffer(pcm, "<i2", count=len(pcm) // 6 * 3)
    third: npt.NDArray[np.int32] = samples.reshape(-1, 3).mean(axis=1).astype(np.int32)
    return third


def _as_bytes(codes: npt.NDArray[np.int32]) -> bytes:
    return codes.astype(np.uint8).tobytes()
