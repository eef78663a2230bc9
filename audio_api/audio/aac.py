"""AAC by PyAV, the extra ``audiobook``: in MP4, with chapters, a cover and tags, or in ADTS. Imported when wanted."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import starmap
from pathlib import Path
from typing import Literal

import av
from av.stream import Disposition

from audio_api.audio.encoder_sink import Pcm, Sink
from audio_api.audio.wav import SAMPLE_RATE

_BITS_PER_S = 64_000
_IN_SAMPLES = Fraction(1, SAMPLE_RATE)
# ISO 14496-12: what the file is good for.
_BRANDS = {"m4a": "M4A ", "m4b": "M4B "}


@dataclass(frozen=True, slots=True)
class ChapterMark:
    """A part of a sound that players list and go to.

    Attributes:
        title: What they show.
        start: Its first sample.
        end: The sample after its last one.
    """

    title: str
    start: int
    end: int


class AacEncoder:
    """One sound.

    Args:
        sink: Takes the bytes.
        container: ``"m4a"`` or ``"m4b"``, which are MP4 and differ in what they say they are good for, or ``"adts"``.
        tags: What the file says about itself: ``title``, ``artist``, ``album``, ``comment``, ``genre`` and whatever
            else FFmpeg's MP4 knows; ignored by ADTS.
        chapters: In order; only MP4 has them.
        cover: A JPEG or PNG; only MP4 has one. ``None``: there is none.

    Raises:
        ValueError: The cover is no picture.
    """

    def __init__(
        self,
        sink: Sink,
        container: Literal["m4a", "m4b", "adts"],
        tags: Mapping[str, str],
        chapters: Sequence[ChapterMark] = (),
        cover: bytes | None = None,
    ) -> None:
        # The index goes before the sound, so that a player over HTTP need not read the end first.
        mp4 = {"brand": _BRANDS[container], "movflags": "faststart"} if container != "adts" else {}
        # FFmpeg reads the sound again to move it, in blocks of the index's size.
        self._container = av.open(
            sink,
            "w",
            format="mp4" if mp4 else "adts",
            container_options=mp4,
            io_open=(lambda *_: sink.read_again()) if mp4 else None,
        )
        self._container.metadata.update(tags)
        self._stream = self._container.add_stream("aac", rate=SAMPLE_RATE, bit_rate=_BITS_PER_S, layout="mono")
        self._samples = 0
        self._is_closed = False
        if chapters:
            self._container.set_chapters(list(starmap(_for_av, enumerate(chapters))))
        if cover is not None:
            self._add_cover(cover)

    def _add_cover(self, cover: bytes) -> None:
        try:
            with av.open(io.BytesIO(cover)) as picture:
                codec = picture.streams.video[0].codec_context
        except (av.FFmpegError, IndexError):
            raise ValueError("the cover is neither a JPEG nor a PNG") from None
        stream = self._container.add_mux_stream(codec.name, width=codec.width, height=codec.height)
        stream.disposition = Disposition.attached_pic
        self._container.start_encoding()
        packet = av.Packet(cover)
        packet.stream = stream
        packet.pts = packet.dts = 0
        packet.is_keyframe = True
        self._container.mux(packet)

    def write(self, pcm: Pcm, /) -> None:
        """Encode samples."""
        frame = av.AudioFrame("s16", "mono", memoryview(pcm).nbytes // 2)
        frame.planes[0].update(bytes(pcm))
        frame.sample_rate, frame.time_base, frame.pts = SAMPLE_RATE, _IN_SAMPLES, self._samples
        self._samples += frame.samples
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Encode what is left, and write the index before it; does nothing the second time."""
        if not self._is_closed:
            self._is_closed = True
            self._container.mux(self._stream.encode(None))
            self._container.close()


def _for_av(number: int, chapter: ChapterMark) -> av.container.core.Chapter:
    return {
        "id": number,
        "start": chapter.start,
        "end": chapter.end,
        "time_base": _IN_SAMPLES,
        "metadata": {"title": chapter.title},
    }


def decoded_samples(fd: int) -> int:
    """How many samples of an MP4 can be decoded, its padding at both ends left out."""
    os.lseek(fd, 0, os.SEEK_SET)
    samples = 0
    with suppress(av.FFmpegError), open(fd, "rb", closefd=False) as file, av.open(file, "r") as container:
        for frame in container.decode(audio=0):
            # A frame of AAC is a whole one even at the end; the file says how much of it is sound.
            samples += min(frame.samples, frame.duration)
    return samples


def file_seconds(path: Path) -> float:
    """How long the sound of an MP4 is, as it says.

    Raises:
        OSError: It cannot be read.
        ValueError: It is none.
    """
    try:
        with av.open(str(path), "r") as container:
            return (container.duration or 0) / av.time_base
    except av.FFmpegError as error:
        raise ValueError(f"{path.name!r} is no MP4: {error.strerror}") from None
