"""Sound in other formats than WAV: whole files, and streams that are heard while they are made.

The encoders are optional extras. Everything blocks except ``encoded``.
"""

from __future__ import annotations

import asyncio
import wave
from array import array
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from audio_api.audio.encoder_sink import Encoder, Pcm, Sink
from audio_api.audio.wav import SAMPLE_RATE, growing_header
from audio_api.errors import ConfigurationError, TTSOutputError
from audio_api.models.sound_formats import OutputFormat, StreamFormat, format_of

if TYPE_CHECKING:
    from audio_api.audio.aac import ChapterMark

_EXTRA_OF: Mapping[OutputFormat | StreamFormat, tuple[tuple[str, ...], str]] = {
    "mp3": (("soundfile", "lameenc"), "formats"),
    "opus": (("soundfile",), "formats"),
    "flac": (("soundfile",), "formats"),
    "m4a": (("av",), "audiobook"),
    "aac": (("av",), "audiobook"),
}
_SECOND_BYTES = 2 * SAMPLE_RATE
# How much longer or shorter than its sound a file may be.
_TOLERANCE_SAMPLES = SAMPLE_RATE // 1000
# ID3 2.3, which every player knows.
_ID3_FRAMES = {"title": b"TIT2", "artist": b"TPE1", "comment": b"COMM"}

# A frame of mp3 at 64 kbit/s and 24 kHz: there each one has this size.
_FRAME_SAMPLES, _FRAME_BYTES = 576, 192
# Quiet of 20 ms at the beginning is left out of a stream of mp3, whose coding begins with more of it.
_SPARED_BYTES, _QUIET = 960, 104
_MOST_LONGER_SAMPLES = SAMPLE_RATE // 20


def require_encoder(sound_format: OutputFormat | StreamFormat) -> None:
    """Make sure that a format can be written, before anything is paid for. Imports its encoder.

    Raises:
        ConfigurationError: Its extra is not installed; the text names it.
    """
    if sound_format not in _EXTRA_OF:
        return
    modules, extra = _EXTRA_OF[sound_format]
    try:
        for module in modules:
            import_module(module)
    except (ImportError, OSError) as error:
        # OSError: soundfile does not find its C library.
        raise ConfigurationError(f"{sound_format} needs an extra: pip install 'audio-api[{extra}]' ({error})") from None


class FileEncoder:
    """Encodes a sound into an open file, in whatever blocks it comes.

    The memory that this takes does not grow with the sound; only the index of m4a takes a few MB an hour.

    Args:
        fd: The file, empty, and open for reading and writing; it stays open.
        output_format: Any but WAV.
        tags: What the file says about itself: ``title``, ``artist`` and ``comment``; none is needed.

    Raises:
        ConfigurationError: As ``require_encoder``.
        OSError: The system said no.
    """

    def __init__(self, fd: int, output_format: OutputFormat, tags: Mapping[str, str]) -> None:
        require_encoder(output_format)
        self._fd = fd
        self._format = output_format
        self._samples = 0
        self._half = b""
        self._sink = Sink(fd)
        self._encoder: Encoder
        if output_format == "m4a":
            from audio_api.audio.aac import AacEncoder

            self._encoder = AacEncoder(self._sink, "m4a", tags)
        else:
            from audio_api.audio.soundfile_encoder import SoundFileEncoder

            if output_format == "mp3":
                self._sink.write(_id3(tags))
                self._sink.check()
                self._sink = Sink(fd, self._sink.tell())
            self._encoder = SoundFileEncoder(self._sink, output_format, tags, is_stream=False)
        self._sink.check()

    def write(self, pcm: Pcm) -> None:
        """Append sound.

        Args:
            pcm: Signed 16-bit little-endian samples of one channel; a sample may be split over two writes.

        Raises:
            OSError: The system said no; the file is of no use any more.
        """
        pcm, self._half = _whole_samples(pcm, self._half)
        for block in _blocks(pcm):
            self._encoder.write(block)
            self._sink.check()
        self._samples += len(pcm) // 2

    def finish(self) -> None:
        """Complete the file, and decode it once more.

        Raises:
            ValueError: The sound ends inside a sample.
            TTSOutputError: Decoded, it is not as long as the sound, to a millisecond.
            OSError: The system said no.
        """
        _refuse_half(self._half)
        self._encoder.close()
        self._sink.check()
        _compare(self._fd, self._format, self._samples)

    def abandon(self) -> None:
        """Let go of the file, which may be closed from then on; of use only when it is not finished."""
        self._sink.let_go()
        with suppress(Exception):
            self._encoder.close()


def write_audiobook(
    fd: int,
    sound: Iterable[Pcm],
    *,
    container: Literal["m4a", "m4b"] = "m4b",
    tags: Mapping[str, str],
    chapters: Sequence[ChapterMark] = (),
    cover: bytes | None = None,
) -> int:
    """Encode a sound of any length into an open file, with chapters and a cover, and decode it once more.

    Args:
        fd: The file, empty, and open for reading and writing; it stays open. Syncing it is up to the caller.
        sound: Signed 16-bit little-endian samples of one channel, in blocks of any size.
        container: What the file says it is good for; the bytes are the same.
        tags: What the file says about itself: ``title``, ``artist``, ``album``, ``album_artist``, ``genre``, ``date``,
            ``comment`` and whatever else FFmpeg writes into MP4.
        chapters: In order; as ``audio.aac.ChapterMark``. Old players show the first 255.
        cover: A JPEG or PNG; ``None``: no cover.

    Returns:
        The samples of the sound.

    Raises:
        ConfigurationError: As ``require_encoder``.
        ValueError: The sound ends inside a sample, or the cover is no picture.
        TTSOutputError: As ``FileEncoder.finish``.
        OSError: The system said no.
    """
    require_encoder("m4a")
    from audio_api.audio.aac import AacEncoder

    sink = Sink(fd)
    encoder = AacEncoder(sink, container, tags, chapters, cover)
    samples, half = 0, b""
    try:
        for pcm in sound:
            pcm, half = _whole_samples(pcm, half)
            samples += len(pcm) // 2
            for block in _blocks(pcm):
                encoder.write(block)
                sink.check()
        _refuse_half(half)
        encoder.close()
        sink.check()
        _compare(fd, "m4a", samples)
    finally:
        sink.let_go()
        encoder.close()
    return samples


def file_seconds(path: Path) -> float:
    """How long the sound of a complete file is, as the file says.

    Args:
        path: The file; its ending tells what it is.

    Raises:
        ConfigurationError: As ``require_encoder``.
        OSError: It cannot be read.
        ValueError: It is no sound file.
    """
    output_format = format_of(path.name)
    if output_format is None:
        raise ValueError(f"{path.name!r} does not end as a sound file does")
    require_encoder(output_format)
    if output_format == "wav":
        try:
            with wave.open(str(path)) as sound:
                return float(sound.getnframes() / sound.getframerate())
        except (wave.Error, EOFError) as error:
            raise ValueError(f"{path.name!r} is no WAV: {error}") from None
    if output_format == "m4a":
        from audio_api.audio.aac import file_seconds as seconds_of
    else:
        from audio_api.audio.soundfile_encoder import file_seconds as seconds_of
    return seconds_of(path)


class StreamEncoder:
    """Encodes a sound that is heard while it is made.

    ``wav`` says that its size is not known. ``mp3`` has a constant 64 kbit/s, and neither tags nor the frame that tells
    its length, so that streams can be put one behind the other; it is up to 50 ms longer than its sound, which begins
    26 to 46 ms late. A page of ``opus`` holds 200 ms.

    Args:
        stream_format: What to make.

    Raises:
        ConfigurationError: As ``require_encoder``.
    """

    def __init__(self, stream_format: StreamFormat) -> None:
        require_encoder(stream_format)
        self._is_mp3 = stream_format == "mp3"
        self._half = b""
        self._samples = 0
        # Of mp3: the first 20 ms, until it is known whether they are quiet.
        self._beginning: bytearray | None = bytearray() if self._is_mp3 else None
        self._spared_samples = 0
        self._sink = Sink()
        self._encoder: Encoder = self._sink
        if stream_format == "wav":
            self._sink.write(growing_header())
        elif stream_format == "aac":
            from audio_api.audio.aac import AacEncoder

            self._encoder = AacEncoder(self._sink, "adts", {})
        elif stream_format == "mp3":
            from audio_api.audio.lame import LameEncoder

            self._encoder = LameEncoder(self._sink)
        elif stream_format != "pcm":
            from audio_api.audio.soundfile_encoder import SoundFileEncoder

            self._encoder = SoundFileEncoder(self._sink, stream_format, {}, is_stream=True)

    def encode(self, pcm: Pcm) -> bytes:
        """Take the next part of the sound.

        Args:
            pcm: Signed 16-bit little-endian samples of one channel; a sample may be split over two calls.

        Returns:
            What can be sent; often nothing.
        """
        pcm, self._half = _whole_samples(pcm, self._half)
        self._samples += len(pcm) // 2
        if self._beginning is not None:
            self._beginning += pcm
            if len(self._beginning) < _SPARED_BYTES:
                return b""
            pcm = self._begin()
        return self._encoded(pcm)

    def finish(self) -> bytes:
        """End the sound. Returns the last bytes.

        Raises:
            ValueError: The sound ends inside a sample.
        """
        _refuse_half(self._half)
        sent = self._encoded(self._begin())
        self._encoder.close()
        sent += self._sink.take()
        # How much longer than its sound an mp3 is: LAME begins with a frame, and pads the end by one or two.
        coded = self._samples - self._spared_samples
        longer_samples = 2 * _FRAME_SAMPLES + -coded % _FRAME_SAMPLES - self._spared_samples
        if self._is_mp3 and longer_samples > _MOST_LONGER_SAMPLES:
            # Its last frame holds 20 ms of the sound at most, and mostly none.
            sent = sent[:-_FRAME_BYTES]
        return sent

    def _begin(self) -> bytes:
        """The beginning of an mp3, without what is left out."""
        beginning, self._beginning = bytes(self._beginning or b""), None
        samples = array("h", beginning[:_SPARED_BYTES])
        if len(beginning) < _SPARED_BYTES or max(samples) > _QUIET or min(samples) < -_QUIET:
            return beginning
        self._spared_samples = _SPARED_BYTES // 2
        return beginning[_SPARED_BYTES:]

    def _encoded(self, pcm: Pcm) -> bytes:
        for block in _blocks(pcm):
            self._encoder.write(block)
        return self._sink.take()


async def encoded(sound: AsyncGenerator[bytes, None], stream_format: StreamFormat) -> AsyncGenerator[bytes, None]:
    """Encode a sound while it is made, in threads; close its generator in the end.

    Args:
        sound: Yields signed 16-bit little-endian samples of one channel.
        stream_format: As ``StreamEncoder``.

    Yields:
        What can be sent; never an empty block.

    Raises:
        ConfigurationError: As ``require_encoder``; the generator was not asked for anything.
    """
    async with aclosing(sound):
        encoder = await asyncio.to_thread(StreamEncoder, stream_format)
        async for pcm in sound:
            for block in _blocks(pcm):
                if sent := await asyncio.to_thread(encoder.encode, block):
                    yield sent
        if sent := await asyncio.to_thread(encoder.finish):
            yield sent


# Copies rather than memory views: Python before 3.11.9 and 3.12.3 crashes when it collects a view with the frame, and
# the traceback, of an error that is part of a circle (gh-77894).
def _blocks(pcm: Pcm) -> Iterator[Pcm]:
    """The same sound, a second at a time: an encoder holds a thread up for 40 ms at most."""
    return (pcm[at : at + _SECOND_BYTES] for at in range(0, len(pcm), _SECOND_BYTES))


def _whole_samples(pcm: Pcm, half: bytes) -> tuple[Pcm, bytes]:
    """The whole samples of what is left from before and what came now, and what is left of these."""
    if half:
        pcm = half + bytes(pcm)
    return (pcm[:-1], bytes(pcm[-1:])) if len(pcm) % 2 else (pcm, b"")


def _refuse_half(half: bytes) -> None:
    if half:
        raise ValueError("the sound ends inside a sample")


def _id3(tags: Mapping[str, str]) -> bytes:
    """The tags of an mp3; libsndfile would write ID3 1, of thirty letters without an accent."""
    frames = b""
    for name, text in tags.items():
        # Encoding 1 is UTF-16; a comment has a language and a description, which is empty, before its text.
        prefix = b"\x01eng\xff\xfe\0\0" if name == "comment" else b"\x01"
        body = prefix + b"\xff\xfe" + text.encode("utf-16-le")
        frames += _ID3_FRAMES[name] + len(body).to_bytes(4) + b"\0\0" + body
    if not frames:
        return b""
    size = len(frames)
    return b"ID3\x03\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + frames


def _compare(fd: int, output_format: OutputFormat, samples: int) -> None:
    """Decode a file, and refuse one that is not as long as its sound."""
    if output_format == "m4a":
        from audio_api.audio.aac import decoded_samples
    else:
        from audio_api.audio.soundfile_encoder import decoded_samples
    found = decoded_samples(fd)
    if abs(found - samples) > _TOLERANCE_SAMPLES:
        raise TTSOutputError(
            f"decoded, the {output_format} holds {found / SAMPLE_RATE:.3f} s of sound rather than "
            f"{samples / SAMPLE_RATE:.3f} s"
        )
