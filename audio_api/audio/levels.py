"""How loud a sound is, and how much like speech: frame by frame, without judging it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FRAME_S = 0.02
"""Seconds of a frame, for which one level is measured."""

VOICED_DBFS = -50.0
"""The level that a frame must exceed to count as speech; quieter ones are silence."""

NOISE_WINDOW_S = 2.0
"""Seconds of steady sound of which the worst correlation is told."""

_NOISE_WINDOW_DBFS = -40.0
_NOISE_WINDOW_FILLED = 0.9
_FULL_SCALE = 32_768.0
_CLIPPED = 32_767
# 4 s: a block and its float copy stay in the CPU's cache; the float copy of ten minutes would be 58 MB.
_BLOCK_FRAMES = 200


@dataclass(frozen=True, slots=True)
class SoundMeasures:
    """What a clip measures; levels and correlation are those of frames without their offset.

    Attributes:
        duration_s: Seconds of sound.
        offset: The mean of all samples, without its sign; 1.0 is full scale.
        clipped_share: The share of samples at full scale.
        peak_dbfs: The loudest sample.
        rms_dbfs: The mean level.
        correlation: How alike neighbouring samples are: 1.0 for a slow wave, 0.0 for noise.
        worst_correlation: The least of any ``NOISE_WINDOW_S`` of steady sound; 1.0 when no sound is steady.
        last_frame_dbfs: The level of the last 20 ms.
        frame_s: Seconds of a frame.
        frames_dbfs: The level of every frame.
        voiced: The numbers of the frames that count as speech.
    """

    duration_s: float
    offset: float
    clipped_share: float
    peak_dbfs: float
    rms_dbfs: float
    correlation: float
    worst_correlation: float
    last_frame_dbfs: float
    frame_s: float
    frames_dbfs: NDArray[np.float64]
    voiced: NDArray[np.intp]

    @property
    def voiced_share(self) -> float:
        """The share of frames that count as speech."""
        return self.voiced.size / self.frames_dbfs.size

    @property
    def leading_s(self) -> float:
        """Seconds before the first of them."""
        return float(self.voiced[0]) * self.frame_s if self.voiced.size else self.duration_s

    @property
    def trailing_s(self) -> float:
        """Seconds after the last of them."""
        return self.duration_s - float(self.voiced[-1] + 1) * self.frame_s if self.voiced.size else 0.0

    @property
    def speech_s(self) -> float:
        """Seconds from the first of them to the last."""
        return self.duration_s - self.leading_s - self.trailing_s

    @property
    def gap_s(self) -> float:
        """Seconds of the longest silence between two of them."""
        return float(np.diff(self.voiced).max(initial=1) - 1) * self.frame_s

    @property
    def dynamics_db(self) -> float:
        """How far loud frames stand above quiet ones; of audible frames, else a tone before silence seems to vary."""
        if not self.voiced.size:
            return 0.0
        levels = np.sort(self.frames_dbfs[self.voiced])
        quiet, loud = levels[(np.array([0.10, 0.95]) * (levels.size - 1)).astype(int)]
        return float(loud - quiet)


def measure(pcm: bytes, sample_rate: int) -> SoundMeasures:
    """Measure a clip.

    Args:
        pcm: Signed 16-bit little-endian samples of one channel, at least a frame of them.
        sample_rate: Samples per second.
    """
    samples = np.frombuffer(pcm, "<i2", count=len(pcm) // 2)
    frame = round(sample_rate * FRAME_S)
    whole = samples[: samples.size // frame * frame].reshape(-1, frame)
    means, energy, product = measures = np.empty((3, len(whole)))
    for block, block_means, centred in _centred_blocks(whole):
        measures[:, block] = block_means, np.vecdot(centred, centred), np.vecdot(centred[:, :-1], centred[:, 1:])
    offset, lowest, highest = float(means.mean()), int(samples.min()), int(samples.max())
    tail = samples[-frame:] - samples[-frame:].mean()
    peak = max(highest - offset, offset - lowest)
    last_dbfs, peak_dbfs, rms_dbfs = dbfs(np.array([tail @ tail / frame, peak**2, energy.mean() / frame])).tolist()
    frames_dbfs = dbfs(energy / frame)
    clipped = 0
    if max(highest, -lowest) >= _CLIPPED:
        # In blocks, so that no large copy is made.
        blocks = (whole[start : start + _BLOCK_FRAMES] for start in range(0, len(whole), _BLOCK_FRAMES))
        clipped = sum(int(np.count_nonzero((block >= _CLIPPED) | (block <= -_CLIPPED))) for block in blocks)
    return SoundMeasures(
        duration_s=samples.size / sample_rate,
        offset=abs(offset) / _FULL_SCALE,
        clipped_share=clipped / whole.size,
        peak_dbfs=peak_dbfs,
        rms_dbfs=rms_dbfs,
        correlation=float(product.sum()) / max(float(energy.sum()), 1.0),
        worst_correlation=_worst_correlation(energy / frame, product / frame),
        last_frame_dbfs=last_dbfs,
        frame_s=frame / sample_rate,
        frames_dbfs=frames_dbfs,
        voiced=np.flatnonzero(frames_dbfs > VOICED_DBFS),
    )


def _centred_blocks(frames: NDArray[np.int16]) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.float32]]]:
    """Some frames at a time: which they are, their means, and their samples without the mean of their frame.

    Each frame loses its own offset: that of the whole clip would turn the silence between offset words into sound.
    """
    # A dot product takes a third of the time of a mean.
    weights = np.full(frames.shape[1], 1 / frames.shape[1], np.float32)
    for start in range(0, len(frames), _BLOCK_FRAMES):
        block = slice(start, start + _BLOCK_FRAMES)
        centred = frames[block].astype(np.float32)
        means = np.vecdot(centred, weights)
        centred -= means[:, np.newaxis]
        yield block, means, centred


def _worst_correlation(power: NDArray[np.float64], product: NDArray[np.float64]) -> float:
    """The least correlation of neighbouring samples in any two seconds of steady sound; 1 when no sound is steady."""
    width = min(round(NOISE_WINDOW_S / FRAME_S), power.size)
    loud = power > _FULL_SCALE**2 * 10 ** (_NOISE_WINDOW_DBFS / 10)
    sums = np.zeros((3, power.size + 1))
    np.cumsum([power, product, loud], axis=1, out=sums[:, 1:])
    powers, products, loud_frames = sums[:, width:] - sums[:, :-width]
    # A hiss before a long pause is alone in its two seconds, too, but it is not steady.
    steady = loud_frames >= _NOISE_WINDOW_FILLED * width
    return float((products[steady] / powers[steady]).min(initial=1.0))


def frame_levels_dbfs(samples: NDArray[np.int16], frame: int) -> NDArray[np.float64]:
    """The level of every frame; what remains at the end counts as a frame that is silent behind it.

    Args:
        samples: Of one channel.
        frame: Samples of a frame.
    """
    whole = samples.size // frame * frame
    parts = [samples[:whole].reshape(-1, frame)]
    if whole < samples.size:
        parts.append(samples[whole:].reshape(1, -1))
    energies = [np.vecdot(centred, centred) for part in parts for _, _, centred in _centred_blocks(part)]
    return dbfs(np.concatenate([*energies, np.empty(0)], dtype=np.float64) / frame)


def dbfs(power: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean squares of samples as decibels below full scale; silence is -120."""
    return 10 * np.log10(power / _FULL_SCALE**2 + 1e-12)
