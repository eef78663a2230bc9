"""Sound of any common format, brought to the one that every file has: 24 kHz, 16 bits, one channel."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from audio_api.audio.wav import SAMPLE_RATE, SoundFormat

# numpy takes 0.1 s to import; sound that needs no conversion needs neither of the two.
if TYPE_CHECKING:
    import numpy as np
    import soxr
    from numpy.typing import NDArray

STANDARD = SoundFormat(SAMPLE_RATE)
"""The format of every file and every piece."""

_LEAST_RATE, _MOST_RATE = 1_000, 192_000
# 7.1 surround has eight.
_MOST_CHANNELS = 8
# About 4 s: a block and its copies as floats stay in the CPU's cache.
_BLOCK_FRAMES = 2**17


class Converter:
    """Takes sound as it comes in, in blocks that may end anywhere, and gives it back in the standard format.

    Several channels become their mean. Sound in the standard format comes out as it went in. A second of sound takes
    up to 2 ms.

    Attributes:
        warnings: A sentence for each other format that there was.
        has_lost_part: Whether the sound ended inside a sample, which was cut off.
    """

    def __init__(self) -> None:
        self.warnings: tuple[str, ...] = ()
        self.has_lost_part = False
        self._format = STANDARD
        self._rest = b""
        self._resampler: soxr.ResampleStream | None = None

    def feed(self, sound: bytes, sound_format: SoundFormat = STANDARD) -> bytes:
        """Append a block.

        Args:
            sound: Little-endian samples, channels interleaved.
            sound_format: Their format; another one than before ends the sound before.

        Returns:
            The samples that are finished, in the standard format; the others follow later.

        Raises:
            ValueError: No sound of this format can be converted; the text says what the format is.
        """
        before = b""
        if sound_format != self._format:
            before = self.finish()
            is_rate = _LEAST_RATE <= sound_format.sample_rate <= _MOST_RATE
            if not (is_rate and 1 <= sound_format.channels <= _MOST_CHANNELS):
                raise ValueError(
                    f"sound of {sound_format}; {_LEAST_RATE:,} to {_MOST_RATE:,} Hz and up to {_MOST_CHANNELS} "
                    "channels can be converted"
                )
            self._format = sound_format
            if sound_format != STANDARD:
                warning = f"sound of {sound_format} was converted to {STANDARD}"
                self.warnings = tuple(dict.fromkeys((*self.warnings, warning)))
            if sound_format.sample_rate != SAMPLE_RATE:
                import soxr

                self._resampler = soxr.ResampleStream(sound_format.sample_rate, SAMPLE_RATE, 1, dtype="float32")
        sound = self._rest + sound
        whole = len(sound) - len(sound) % sound_format.frame_bytes
        self._rest = sound[whole:]
        if self._format == STANDARD:
            return before + sound[:whole]
        step = _BLOCK_FRAMES * self._format.frame_bytes
        blocks = (_floats(sound[at : min(at + step, whole)], self._format) for at in range(0, whole, step))
        return before + b"".join(
            _samples(self._resampler.resample_chunk(block) if self._resampler else block) for block in blocks
        )

    def cut(self) -> None:
        """Drop a sample that has begun: what follows does not continue it."""
        self.has_lost_part |= bool(self._rest)
        self._rest = b""

    def finish(self) -> bytes:
        """End the sound. Returns the samples that are still missing; what is fed later begins another sound."""
        self.cut()
        resampler, self._resampler, self._format = self._resampler, None, STANDARD
        if resampler is None:
            return b""
        return _samples(resampler.resample_chunk(_floats(b"", STANDARD), last=True))


def resampled(pcm: bytes, sample_rate: int) -> NDArray[np.float32]:
    """Sound in the standard format as numbers from -1 to 1, at another rate; for recognisers, which take 16 kHz.

    Args:
        pcm: Signed 16-bit little-endian samples of one channel, 24,000 a second.
        sample_rate: Samples per second of what is returned.
    """
    import soxr

    floats: NDArray[np.float32] = soxr.resample(_floats(pcm, STANDARD), SAMPLE_RATE, sample_rate)
    return floats


def _floats(sound: bytes, sound_format: SoundFormat) -> NDArray[np.float32]:
    """Whole frames as numbers from -1 to 1, a number each."""
    import numpy as np

    values: NDArray[Any]
    match sound_format.encoding, sound_format.bits:
        case "a-law" | "mu-law", _:
            values = _companded(sound_format.encoding)[np.frombuffer(sound, "u1")]
        case "float", bits:
            values = np.nan_to_num(np.frombuffer(sound, f"<f{bits // 8}"), nan=0.0, posinf=1.0, neginf=-1.0)
        case _, 8:
            values = (np.frombuffer(sound, "u1").astype(np.float32) - 128) / 128
        case _, 24:
            wide = np.zeros((len(sound) // 3, 4), "u1")
            wide[:, 1:] = np.frombuffer(sound, "u1").reshape(-1, 3)
            values = wide.view("<i4").ravel() / 2**31
        case _, bits:
            values = np.frombuffer(sound, f"<i{bits // 8}") / 2 ** (bits - 1)
    frames = np.clip(values, -1, 1).astype(np.float32).reshape(-1, sound_format.channels)
    mono: NDArray[np.float32] = frames.mean(axis=1, dtype=np.float32)
    return mono


@cache
def _companded(encoding: str) -> NDArray[np.float32]:
    """What each byte of a telephone line's encoding stands for (ITU-T G.711, tables 1a and 2a)."""
    import numpy as np

    codes = ~np.arange(256) & 0xFF if encoding == "mu-law" else np.arange(256) ^ 0x55
    exponents, mantissas = codes >> 4 & 7, 2 * (codes & 15)
    if encoding == "mu-law":
        sign_bits, magnitudes = 0x00, (((mantissas + 33) << exponents) - 33) / 8_192
    else:
        raised = (mantissas + 33) << np.maximum(exponents - 1, 0)
        sign_bits, magnitudes = 0x80, np.where(exponents == 0, mantissas + 1, raised) / 4_096
    return np.where(codes & 0x80 == sign_bits, magnitudes, -magnitudes).astype(np.float32)


def _samples(floats: NDArray[np.float32]) -> bytes:
    import numpy as np

    # The filter overshoots at edges of full loudness.
    return np.clip(np.rint(floats * 32_768), -32_768, 32_767).astype("<i2").tobytes()
