"""Pieces of one long text, spoken one by one, become one sound without clicks, long gaps or jumps in loudness.

Only joins are touched. The first piece sets the loudness and keeps its beginning, the last one keeps its end: a text
that is one piece comes out as it went in, and the first sound can be played before the second piece exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from audio_api.audio.levels import FRAME_S, VOICED_DBFS, frame_levels_dbfs
from audio_api.audio.wav import SAMPLE_RATE

PAUSE_S: Mapping[str, float] = MappingProxyType(
    {"paragraph": 0.6, "sentence": 0.25, "clause": 0.1, "word": 0.0, "grapheme": 0.0, "end": 0.0}
)
"""Seconds of silence after a piece, by the kind of boundary behind it, beside the 80 ms of quiet a join keeps."""

# Kept at both sides of a join: an unvoiced consonant may fade below what counts as speech.
_KEPT_FRAMES = 2
JOIN_QUIET_S = 2 * _KEPT_FRAMES * FRAME_S
"""Seconds of quiet that a join keeps: a pause is heard as so much longer than its silence."""

_FADE_S = 0.008
# A listener cannot hear a quarter of a decibel; pieces that differ by less stay bit for bit as they are.
_TOLERANCE_DB = 0.25
_ROUNDS = 6
# -1 dBFS, the most that EBU R 128 allows: players that resample overshoot the samples.
_CEILING = 29_204.0
_LIMITER_S = 0.001
_LIMITER_REACH = 5
# 4 s: a block and its float copy stay in the CPU's cache.
_BLOCK_TICKS = 4_000

_Samples = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Span:
    """Where a piece lies in the joined sound.

    Attributes:
        start: Its first sample.
        end: The sample after its last one.
        skipped: Samples cut away at its beginning: sample ``n`` of the piece is sample ``start + n - skipped``.
    """

    start: int
    end: int
    skipped: int


class Joiner:
    """Joins pieces as they come; holds the quiet end of one piece at a time, and one ``Span`` for each.

    At a join, all but 40 ms of the quiet on either side is cut away, and the outermost 8 ms are faded. A piece without
    any speech is silence that the text asked for: it keeps its length. Every piece is brought to the loudness of the
    first one that holds speech, measured where there is speech, to a quarter of a decibel; a limiter keeps peaks of
    louder made pieces below -1 dBFS. A call blocks for up to 0.3 ms per second of sound.

    Args:
        sample_rate: Samples per second of every piece.
        loudness_dbfs: The loudness to which every piece is brought; ``None``: that of the first one.

    Attributes:
        spans: Of every piece so far, in order. The last one's end is final when the next piece, or ``finish()``, came.
            The pauses lie between them: the sound ends where the last span ends.
    """

    def __init__(self, sample_rate: int = SAMPLE_RATE, loudness_dbfs: float | None = None) -> None:
        self.spans: list[Span] = []
        self._rate = sample_rate
        # Also the grid on which quiet is cut away: what was cut once is not cut again.
        self._frame = max(1, round(sample_rate * FRAME_S))
        self._fade = round(sample_rate * _FADE_S)
        self._loudness_dbfs = loudness_dbfs
        self._held: _Samples = np.empty(0, "<i2")
        self._held_fade = 0
        self._pause = 0

    def add(self, pcm: bytes, pause_s: float) -> bytes:
        """Append a piece.

        Args:
            pcm: Signed 16-bit little-endian samples of one channel.
            pause_s: Seconds of silence after it, if another piece follows; see ``PAUSE_S``.

        Returns:
            The end of the piece before, its pause, and this piece without its end; as ``pcm``.

        Raises:
            ValueError: ``pcm`` ends inside a sample, or the pause is negative or endless.
        """
        if not 0 <= pause_s < float("inf"):
            raise ValueError(f"a pause takes 0 seconds or more, not {pause_s}")
        samples, levels = self._levelled(np.frombuffer(pcm, "<i2"))
        voiced = np.flatnonzero(levels > VOICED_DBFS)
        start, end = 0, samples.size
        if voiced.size:
            # As much quiet as belongs to a join stays.
            start = max(0, int(voiced[0]) - _KEPT_FRAMES) * self._frame if self.spans else 0
            end = min(end, (int(voiced[-1]) + 1 + _KEPT_FRAMES) * self._frame)
        fade = min(self._fade, (end - start) // 2)
        head, body = samples[start : start + fade], samples[start + fade : end - fade]
        joint = b""
        if self.spans:
            joint = _faded_in(self._held[: self._held_fade][::-1])[::-1].tobytes() + bytes(2 * self._pause)
            head = _faded_in(head)
        at = self.spans[-1].end + self._pause if self.spans else 0
        self.spans.append(Span(at, at + end - start, start))
        # A copy: a view would keep the whole piece in memory.
        self._held, self._held_fade = samples[end - fade :].copy(), fade
        self._pause = round(pause_s * self._rate)
        return b"".join([joint, head.tobytes(), body.data])

    def finish(self) -> bytes:
        """End the sound. Returns the end of the last piece, at its new loudness; empty without a piece."""
        held, self._held = self._held, self._held[:0]
        if self.spans:
            last = self.spans[-1]
            self.spans[-1] = replace(last, end=last.end + held.size - self._held_fade)
            self._held_fade = 0
        return held.tobytes()

    def _levelled(self, samples: _Samples) -> tuple[_Samples, NDArray[np.float64]]:
        """A piece in the loudness of the first one, and the level of its frames."""
        levels = frame_levels_dbfs(samples, self._frame)
        measured_dbfs = _loudness_dbfs(levels)
        if measured_dbfs is None:
            return samples, levels
        if self._loudness_dbfs is None:
            self._loudness_dbfs = measured_dbfs
        made, gain_db = samples, 0.0
        # Several rounds: the limiter takes some of the gain back, and the gain moves frames over the gate.
        for _ in range(_ROUNDS):
            missing_db = self._loudness_dbfs - measured_dbfs
            if abs(missing_db) <= _TOLERANCE_DB:
                break
            gain_db += missing_db
            made = _amplified(samples, 10 ** (gain_db / 20), self._rate)
            levels = frame_levels_dbfs(made, self._frame)
            # None: the gain put the piece just below the level of speech; the first piece is hardly above it.
            measured_dbfs = _loudness_dbfs(levels) or VOICED_DBFS
        return made, levels


def safe_end(pcm: bytes | bytearray, start: int, sample_rate: int) -> int:
    """How much of a first piece that is still arriving ``Joiner.add`` will return unchanged, whatever comes.

    Args:
        pcm: The piece so far.
        start: Bytes of which this is known already.
        sample_rate: Samples per second.

    Returns:
        Bytes: all before the first speech, and then until shortly before the end of the last speech.
    """
    frame = max(1, round(sample_rate * FRAME_S))
    # On the grid of the whole piece, on which add() will look for quiet.
    skipped = start // 2 // frame * frame
    samples = np.frombuffer(pcm, "<i2", offset=2 * skipped)
    voiced = np.flatnonzero(frame_levels_dbfs(samples, frame) > VOICED_DBFS)
    if not voiced.size:
        return len(pcm) if start == 0 else start
    # A frame that is not complete yet may turn out to be quiet; the fade takes less than the quiet that add() keeps.
    last = min(int(voiced[-1]) + 1, samples.size // frame) * frame
    return max(start, 2 * (skipped + last - round(sample_rate * _FADE_S)))


def _loudness_dbfs(levels: NDArray[np.float64]) -> float | None:
    """The mean power of the frames that hold speech; ``None`` when none does."""
    voiced = levels[levels > VOICED_DBFS]
    return float(10 * np.log10(np.mean(10 ** (voiced / 10)))) if voiced.size else None


def _amplified(samples: _Samples, gain: float, rate: int) -> _Samples:
    """Samples times a gain; where that passes the ceiling, for some milliseconds by as much less as it takes."""
    tick = max(1, round(rate * _LIMITER_S))
    starts = np.arange(0, samples.size, tick)
    highest, lowest = np.maximum.reduceat(samples, starts), np.minimum.reduceat(samples, starts)
    peaks = np.maximum(highest.astype(np.float32), -lowest.astype(np.float32))
    # The gain at the edges of ticks, never more than their peaks allow; between edges it is a straight line.
    allowed = np.minimum(gain, _CEILING / np.maximum(peaks, 1))
    at_edges = np.minimum(np.append(allowed, gain), np.append(gain, allowed))
    # Each of the averaged minima covers this edge, so their average is not above what this edge allows.
    around = np.pad(at_edges, 2 * _LIMITER_REACH, constant_values=gain)
    leasts = np.lib.stride_tricks.sliding_window_view(around, 2 * _LIMITER_REACH + 1).min(axis=1)
    weights = np.hanning(2 * _LIMITER_REACH + 3)[1:-1]
    gains = np.convolve(leasts, weights / weights.sum(), mode="valid").astype(np.float32)
    made = np.empty_like(samples)
    step = tick * _BLOCK_TICKS
    ramp = np.arange(tick, dtype=np.float32) / tick
    for at in range(0, samples.size, step):
        block, edges = samples[at : at + step], gains[at // tick : (at + step) // tick + 1]
        factors = edges[:-1, None] + np.diff(edges)[:, None] * ramp
        made[at : at + step] = np.rint(block * factors.ravel()[: block.size]).astype("<i2")
    return made


def _faded_in(samples: _Samples) -> _Samples:
    """Samples that rise from silence along a raised cosine."""
    rise = 0.5 - 0.5 * np.cos(np.pi * np.arange(samples.size) / max(samples.size, 1))
    return np.rint(samples * rise).astype("<i2")
