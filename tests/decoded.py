"""What tests hear in encoded sound, decoded by libsndfile or FFmpeg rather than by the code under test."""

from __future__ import annotations

import io

import av
import numpy as np
import numpy.typing as npt
import soundfile

RATE = 24_000
Samples = npt.NDArray[np.float64]


def pcm_samples(pcm: bytes) -> Samples:
    """Bare samples between -1 and 1."""
    return np.frombuffer(pcm, "<i2") / 32_768


def decoded(content: bytes, sound_format: str) -> Samples:
    """The samples of a file at 24,000 Hz, one channel, between -1 and 1."""
    if sound_format == "pcm":
        return pcm_samples(content)
    if sound_format == "aac":
        with av.open(io.BytesIO(content)) as container:
            frames = [frame.to_ndarray().mean(axis=0) for frame in container.decode(audio=0)]
        return np.concatenate(frames).astype(np.float64)
    samples, rate = soundfile.read(io.BytesIO(content))
    assert rate == RATE
    assert samples.ndim == 1
    return np.asarray(samples, np.float64)


def assert_whole(heard: Samples, spoken: Samples) -> None:
    """Assert that a sound is all of another one, coded: as long, and with the same end."""
    assert -0.001 < (len(heard) - len(spoken)) / RATE < 0.15
    tail = spoken[-RATE // 2 :]
    end = np.concatenate([heard, np.zeros(RATE // 10)])[-RATE:]
    # The correlation at each shift, by Fourier transforms that are too long to wrap around.
    found = np.fft.irfft(np.fft.rfft(end, 2 * RATE) * np.fft.rfft(tail, 2 * RATE).conj())[: len(end) - len(tail) + 1]
    assert found.max() / np.sum(tail**2) > 0.9, "the end is another one"
