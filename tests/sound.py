"""What tests hear in a WAV file, read with the standard library rather than with the code under test."""

from __future__ import annotations

import io
import wave
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

RATE = 24_000
Samples = npt.NDArray[np.float64]


def read_wav(path: str | Path | None) -> Samples:
    """The samples of a file between -1 and 1; asserts 24,000 Hz, 16 bits, one channel, and that none is missing."""
    assert path is not None
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (RATE, 2, 1)
        frames = file.readframes(file.getnframes())
        assert len(frames) == 2 * file.getnframes()
    return np.frombuffer(frames, "<i2") / 32_768


def assert_audible(path: str | Path | None) -> Samples:
    """Assert that a file holds something as loud as speech for at least a third of its time; return its samples."""
    samples = read_wav(path)
    assert len(samples) > 0.3 * RATE
    assert np.mean(loudness_db(samples) > -45) > 1 / 3
    return samples


def loudness_db(samples: Samples) -> Samples:
    """The level of every 20 ms, in dB below full scale."""
    frames = samples[: len(samples) // 480 * 480].reshape(-1, 480)
    levels: Samples = 10 * np.log10(np.mean(frames**2, axis=1) + 1e-12)
    return levels


def spectrum_db(samples: Samples) -> Samples:
    """The average spectrum in 40 bands from 60 Hz to 10 kHz, loudness taken out: what a voice sounds like."""
    frames = samples[: len(samples) // 2048 * 2048].reshape(-1, 2048) * np.hanning(2048)
    power = np.mean(np.abs(np.fft.rfft(frames, axis=1)) ** 2, axis=0)
    edges = np.unique(np.geomspace(60, 10_000, 41) * 2048 / RATE).astype(int)
    bands = np.array([power[low : max(high, low + 1)].mean() for low, high in pairwise(edges)])
    levels: Samples = 10 * np.log10(bands + 1e-12)
    levels -= levels.mean()
    return levels


def split_at_longest_pause(samples: Samples) -> tuple[Samples, Samples]:
    """The parts before and after the longest pause inside a recording."""
    loud = np.flatnonzero(loudness_db(samples) > -45)
    gap = int(np.argmax(np.diff(loud)))
    middle = (loud[gap] + loud[gap + 1]) // 2 * 480
    return samples[:middle], samples[middle:]


def voice(seconds: float, *, padding_s: float = 0.08) -> bytes:
    """Samples of something like a voice: harmonics that rise and fall, syllables, breath; quiet before and behind it.

    Args:
        seconds: Their length, quiet included.
        padding_s: How much of it is quiet, at either end.
    """
    noise = np.random.default_rng(7)
    size, quiet = round(seconds * RATE), round(padding_s * RATE)
    at_s = np.arange(size - 2 * quiet) / RATE
    phase = 2 * np.pi * (140 * at_s + 4 * np.sin(2 * np.pi * 0.9 * at_s))
    sound = sum(np.sin(n * phase) / n for n in range(1, 20)) * (0.55 - 0.45 * np.cos(2 * np.pi * 4.1 * at_s))
    sound = 5_000 * sound + noise.normal(0, 60, at_s.size)
    return np.pad(sound, quiet).clip(-32_000, 32_000).astype("<i2").tobytes()


def by_ffmpeg(data: bytes, container: str | None = None) -> npt.NDArray[np.int16]:
    """What FFmpeg decodes, as far as the file says that it is part of the sound."""
    blocks, expected = [], Fraction(0)
    with av.open(io.BytesIO(data), "r", format=container) as file:
        resampler = av.AudioResampler("s16", "mono", RATE)
        for frame in file.decode(audio=0):
            blocks += resampler.resample(frame)
            expected += frame.duration * frame.time_base if frame.duration else Fraction(frame.samples, frame.rate)
        blocks += resampler.resample(None)
    return np.concatenate([block.to_ndarray()[0] for block in blocks])[: round(expected * RATE)]


def tags_of(path: str | Path) -> dict[str, str]:
    """What a file says about itself, by names in lower case."""
    with av.open(str(path), "r") as file:
        found = {**file.metadata, **file.streams.audio[0].metadata}
    return {name.lower(): text for name, text in found.items()}
