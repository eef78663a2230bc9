"""Other formats than WAV, whole and streamed: decoded by another library than the one that wrote them."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import wave
import zlib
from collections.abc import AsyncGenerator, Mapping
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from sound import RATE, by_ffmpeg, voice

from audio_api.audio.aac import ChapterMark
from audio_api.audio.encoding import (
    FileEncoder,
    StreamEncoder,
    encoded,
    require_encoder,
    write_audiobook,
)
from audio_api.errors import ConfigurationError, TTSOutputError
from audio_api.models.sound_formats import OutputFormat, StreamFormat

MS = RATE // 1000
TAGS = {"title": "Grüße, Привет, 日本", "artist": "kore", "comment": "gemini-3.8-flash-tts"}
FILES: list[OutputFormat] = ["mp3", "opus", "flac", "m4a"]
STREAMS: list[StreamFormat] = ["mp3", "opus", "flac", "aac", "wav", "pcm"]
# How much later than in the sound a decoder hears it, and how much longer it is: no AAC stream knows its own length.
MOST_LATE = {"mp3": 46 * MS, "aac": 1024}
MOST_LONGER = {"mp3": 50 * MS, "aac": 2048}
PCM = voice(3.217)
FAAD = shutil.which("faad")

Samples = npt.NDArray[np.int16]


def encode_sound(pcm: bytes, output_format: OutputFormat, tags: Mapping[str, str] | None = None) -> bytes:
    """A complete file, by way of one without a name on disk."""
    with tempfile.TemporaryFile() as file:
        encoder = FileEncoder(file.fileno(), output_format, tags or {})
        try:
            encoder.write(pcm)
            encoder.finish()
        finally:
            encoder.abandon()
        file.seek(0)
        return file.read()


def as_samples(pcm: bytes) -> Samples:
    """The samples as numbers."""
    return np.frombuffer(pcm, "<i2")


def by_libsndfile(data: bytes) -> Samples:
    """What libsndfile decodes."""
    samples: Samples = soundfile.read(io.BytesIO(data), dtype="int16")[0]
    return samples


def by_faad(path: Path) -> Samples:
    """What FAAD2 decodes, which is no part of FFmpeg. It makes stereo of mono, and 48 kHz of ADTS at 24 kHz."""
    assert FAAD
    done = subprocess.run([FAAD, "-q", "-f", "2", "-w", path], stdout=subprocess.PIPE, check=True)
    return as_samples(done.stdout)[:: 4 if path.suffix == ".aac" else 2]


def best_lag(heard: Samples, said: Samples, most: int) -> int:
    """How many samples late the beginning is heard."""
    first = said[: RATE // 2].astype(float)
    late = [float(np.dot(first, heard[lag : lag + first.size])) for lag in range(most + 1)]
    return int(np.argmax(late))


def assert_same_sound(heard: Samples, said: Samples, *, most_late: int = MS) -> None:
    """Assert that the beginning and the last 300 ms are heard, each at its place and as loud as it was said."""
    lag = best_lag(heard, said, most_late)
    for part in (slice(0, RATE // 2), slice(said.size - 300 * MS, said.size)):
        expected = said[part].astype(float)
        found = heard[lag:][part].astype(float)
        expected = expected[: found.size]
        # A stream of mp3 may lose up to 20 ms of a sound that ends loud.
        assert found.size >= 280 * MS
        similar = np.dot(found, expected) / np.sqrt(np.dot(found, found) * np.dot(expected, expected))
        assert similar > 0.95
        assert abs(10 * np.log10(np.dot(found, found) / np.dot(expected, expected))) < 1


def streamed(stream_format: StreamFormat, pcm: bytes, block_bytes: int = 4_800) -> bytes:
    """The whole stream of a sound that came in blocks."""
    encoder = StreamEncoder(stream_format)
    sent = [encoder.encode(pcm[at : at + block_bytes]) for at in range(0, len(pcm), block_bytes)]
    return b"".join([*sent, encoder.finish()])


@pytest.mark.parametrize("output_format", FILES)
def test_a_file_holds_the_sound_to_a_millisecond(output_format: OutputFormat) -> None:
    """FFmpeg decodes as many samples as went in, the last 300 ms among them, and nothing is heard late."""
    heard = by_ffmpeg(encode_sound(PCM, output_format))
    assert abs(heard.size - len(PCM) // 2) <= MS
    assert_same_sound(heard, as_samples(PCM))


@pytest.mark.parametrize("output_format", FILES)
def test_a_file_tells_its_length_without_being_decoded(output_format: OutputFormat) -> None:
    """What players show, and seek by, is the length of the sound: Opus says it at 48 kHz with its delay, as it must."""
    with av.open(io.BytesIO(encode_sound(PCM, output_format)), "r") as file:
        assert file.duration is not None
        assert file.duration / av.time_base == pytest.approx(len(PCM) / 2 / RATE, abs=0.007)


def test_an_mp4_begins_with_its_index() -> None:
    """Over HTTP a player plays an m4a from its first bytes on, without reading its end first."""
    content = encode_sound(PCM, "m4a")
    assert content.index(b"ftyp") < content.index(b"moov") < content.index(b"mdat")


def test_flac_loses_nothing() -> None:
    """Every sample comes back as it was."""
    assert np.array_equal(by_ffmpeg(encode_sound(PCM, "flac")), as_samples(PCM))


@pytest.mark.skipif(not FAAD, reason="needs faad, which .ci/run installs")
@pytest.mark.parametrize("container", ["m4a", "aac"])
def test_aac_is_heard_by_a_decoder_of_other_people(container: str, tmp_path: Path) -> None:
    """FAAD2, which shares no code with FFmpeg, decodes the whole sound out of MP4 and out of ADTS."""
    path = tmp_path / f"a.{container}"
    path.write_bytes(encode_sound(PCM, "m4a") if container == "m4a" else streamed("aac", PCM))
    heard, said = by_faad(path), as_samples(PCM)
    assert 0 <= heard.size - said.size <= MOST_LONGER["aac"]
    assert_same_sound(heard, said, most_late=2 * MOST_LATE["aac"])


@pytest.mark.parametrize("output_format", FILES)
def test_a_file_carries_its_tags(output_format: OutputFormat) -> None:
    """Title, artist and comment come back as they were, accents and all."""
    with av.open(io.BytesIO(encode_sound(PCM, output_format, TAGS)), "r") as file:
        found = {**file.metadata, **file.streams.audio[0].metadata}
    assert {name.lower(): text for name, text in found.items()}.items() >= TAGS.items()


def test_an_mp3_with_tags_is_as_exact_as_one_without() -> None:
    """The frame that tells the length is filled in behind the tags."""
    data = encode_sound(PCM, "mp3", TAGS)
    assert data.startswith(b"ID3\x03")
    assert b"Xing" in data[:600]
    assert by_ffmpeg(data).size == by_libsndfile(data).size == len(PCM) // 2


@settings(max_examples=25)
@given(
    st.sampled_from(FILES),
    st.integers(1_200, 30_000),
    st.lists(st.integers(1, 20_000), max_size=6),
)
def test_any_length_in_any_blocks_makes_the_same_exact_file(
    output_format: OutputFormat, samples: int, cuts: list[int]
) -> None:
    """Blocks may have any size and end inside a sample."""
    pcm = PCM[: 2 * samples]
    edges = sorted({0, len(pcm), *(cut for cut in cuts if cut < len(pcm))})
    whole = encode_sound(pcm, output_format)
    with io.FileIO(os.memfd_create("sound"), "w+") as file:
        encoder = FileEncoder(file.fileno(), output_format, {})
        for start, end in pairwise(edges):
            encoder.write(pcm[start:end])
        encoder.finish()
        file.seek(0)
        blocks = file.readall()
    assert abs(by_ffmpeg(blocks).size - samples) <= MS
    assert len(blocks) == len(whole)


def test_half_a_sample_is_refused() -> None:
    """A sound that ends inside a sample becomes neither a file nor a stream."""
    with pytest.raises(ValueError, match="inside a sample"):
        encode_sound(PCM[:-1], "flac")
    encoder = StreamEncoder("flac")
    encoder.encode(PCM[:-1])
    with pytest.raises(ValueError, match="inside a sample"):
        encoder.finish()


@pytest.mark.parametrize("output_format", FILES)
def test_a_damaged_file_is_noticed(output_format: OutputFormat) -> None:
    """What was changed on disk behind the encoder's back is found when the file is decoded once more."""
    with io.FileIO(os.memfd_create("sound"), "w+") as file:
        encoder = FileEncoder(file.fileno(), output_format, {})
        encoder.write(PCM)
        size = file.seek(0, os.SEEK_END)
        os.pwrite(file.fileno(), bytes(size // 2), size // 4)
        with pytest.raises(TTSOutputError, match=rf"decoded, the {output_format} holds \d\.\d+ s of sound"):
            encoder.finish()
        encoder.abandon()


@pytest.mark.parametrize("output_format", FILES)
def test_a_full_disk_is_named(output_format: OutputFormat, capfd: pytest.CaptureFixture[str]) -> None:
    """The system's own reason comes out of the encoder, and nothing is printed."""
    with Path("/dev/full").open("r+b", buffering=0) as full, pytest.raises(OSError, match="No space left"):
        write_all(full.fileno(), output_format)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("output_format", FILES)
def test_an_error_can_be_collected_as_part_of_a_circle(output_format: OutputFormat) -> None:
    """The frames of its traceback hold nothing that old Pythons crash on (gh-77894), as memory views are."""
    gc.disable()
    try:
        with Path("/dev/full").open("r+b", buffering=0) as full:
            try:
                write_all(full.fileno(), output_format)
            except OSError as error:
                error.circle = error  # type: ignore[attr-defined]
        assert gc.collect() > 0
    finally:
        gc.enable()


def write_all(fd: int, output_format: OutputFormat) -> None:
    """Encode the voice into a file."""
    encoder = FileEncoder(fd, output_format, {})
    try:
        encoder.write(PCM)
        encoder.finish()
    finally:
        encoder.abandon()


def test_what_is_abandoned_is_written_no_more(tmp_path: Path) -> None:
    """After ``abandon`` the descriptor may be another file's."""
    with (tmp_path / "a.mp3").open("w+b") as file:
        encoder = FileEncoder(file.fileno(), "mp3", {})
        encoder.write(PCM)
        encoder.abandon()
        size = os.fstat(file.fileno()).st_size
        del encoder
        assert os.fstat(file.fileno()).st_size == size


@pytest.mark.parametrize("stream_format", STREAMS)
def test_a_stream_holds_the_sound_and_its_tail(stream_format: StreamFormat) -> None:
    """FFmpeg hears all of it; mp3 and AAC are late and longer by no more than the docs say."""
    data, said = streamed(stream_format, PCM), as_samples(PCM)
    if stream_format == "pcm":
        heard = as_samples(data)
    else:
        heard = by_ffmpeg(data, {"opus": "ogg"}.get(stream_format, stream_format))
    longer = heard.size - said.size
    assert -MS <= longer <= MOST_LONGER.get(stream_format, MS)
    assert_same_sound(heard, said, most_late=MOST_LATE.get(stream_format, MS))


@pytest.mark.parametrize("stream_format", STREAMS)
def test_a_stream_flows(stream_format: StreamFormat) -> None:
    """After two seconds of sound most of their bytes are out, long before the end."""
    encoder = StreamEncoder(stream_format)
    sent = b"".join(encoder.encode(PCM[at : at + 4_800]) for at in range(0, 4 * RATE, 4_800))
    assert len(sent) > 0.75 * len(streamed(stream_format, PCM[: 4 * RATE]))


@settings(max_examples=40)
@given(st.integers(1, 3_000) | st.integers(RATE, RATE + 576), st.booleans(), st.booleans())
def test_an_mp3_stream_is_at_most_50_ms_longer(samples: int, quiet_start: bool, quiet_end: bool) -> None:
    """Whatever its length, and whether or not it begins and ends in quiet; it is never shorter."""
    sound = as_samples(voice(1.1, padding_s=0))[:samples].copy()
    if quiet_start:
        sound[:600] = 0
    if quiet_end:
        sound[-600:] = 0
    assert 0 <= by_ffmpeg(streamed("mp3", sound.tobytes()), "mp3").size - samples <= 50 * MS


def test_streams_of_mp3_can_be_put_one_behind_the_other() -> None:
    """LibreChat does: every frame is one of 64 kbit/s, and none tells a length or tags."""
    data = streamed("mp3", PCM)
    frames = [data[at : at + 192] for at in range(0, len(data), 192)]
    assert {frame[:3] for frame in frames} == {b"\xff\xf3\x84"}
    assert any(frames[0][13:])
    assert not any(mark in data for mark in (b"Xing", b"Info", b"ID3", b"TAG"))
    assert by_ffmpeg(data + data, "mp3").size == 2 * by_ffmpeg(data, "mp3").size


def test_pages_of_opus_take_200_ms() -> None:
    """A listener of an Ogg stream waits for no second of sound."""
    data = streamed("opus", PCM)
    granules = []
    at = 0
    while at < len(data):
        magic, _, granule, _, _, _, segments = struct.unpack_from("<4sHqIIIB", data, at)
        assert magic == b"OggS"
        granules.append(granule)
        at += 27 + segments + sum(data[at + 27 : at + 27 + segments])
    steps = [after - before for before, after in pairwise(granules[2:])]
    assert len(steps) > 10
    assert max(steps) <= 48 * 200


def test_a_wav_stream_says_that_its_size_is_unknown() -> None:
    """Both sizes are 0xFFFFFFFF, as OpenAI's are; behind the header is the sound itself."""
    data = streamed("wav", PCM)
    assert data[:4] + data[8:16] == b"RIFFWAVEfmt "
    assert data[4:8] == data[40:44] == b"\xff" * 4
    assert data[44:] == PCM


async def sound_of(pcm: bytes) -> AsyncGenerator[bytes, None]:
    """A sound in a single block."""
    yield pcm


@pytest.mark.parametrize("stream_format", STREAMS)
async def test_the_generator_encodes_what_it_is_given(stream_format: StreamFormat) -> None:
    """Its blocks are never empty, and together they are the stream."""
    blocks = [block async for block in encoded(sound_of(PCM), stream_format)]
    assert all(blocks)
    assert len(blocks) > 1
    # Only Ogg has a random number in each stream.
    expected = streamed(stream_format, PCM)
    assert len(b"".join(blocks)) == pytest.approx(len(expected), rel=0.01)
    assert stream_format == "opus" or b"".join(blocks) == expected


async def test_the_generator_keeps_the_loop_free() -> None:
    """While 20 s of sound are encoded in one block, which takes most of a second of CPU, the loop goes on."""
    longest_s = 0.0

    async def watch() -> None:
        nonlocal longest_s
        while True:
            clocks = time.perf_counter(), time.process_time()
            await asyncio.sleep(0)
            # Only what this process computed meanwhile counts: on a busy machine others take the CPU away.
            longest_s = max(longest_s, min(time.perf_counter() - clocks[0], time.process_time() - clocks[1]))

    watching = asyncio.create_task(watch())
    blocks = [block async for block in encoded(sound_of(voice(20)), "opus")]
    watching.cancel()
    assert sum(map(len, blocks)) > 30_000
    # Measured: 2 ms.
    assert longest_s < 0.5


async def test_the_generator_closes_its_sound() -> None:
    """A listener who leaves ends the speech at once."""
    closed = False

    async def endless() -> AsyncGenerator[bytes, None]:
        nonlocal closed
        try:
            while True:
                yield PCM
        finally:
            closed = True

    stream = encoded(endless(), "mp3")
    assert await anext(stream)
    await stream.aclose()
    assert closed


@pytest.mark.parametrize(
    ("sound_format", "module", "extra"),
    [
        ("mp3", "soundfile", "formats"),
        ("mp3", "lameenc", "formats"),
        ("opus", "soundfile", "formats"),
        ("flac", "soundfile", "formats"),
        ("m4a", "av", "audiobook"),
        ("aac", "av", "audiobook"),
    ],
)
def test_a_missing_extra_is_named(
    sound_format: OutputFormat, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to install; WAV and bare samples need nothing."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=rf"{sound_format} needs an extra: pip install 'audio-api\[{extra}\]'"):
        require_encoder(sound_format)
    require_encoder("wav")
    require_encoder("pcm")


def test_encoders_load_on_first_use() -> None:
    """Importing the module loads neither soundfile nor PyAV."""
    code = "import sys, audio_api.audio.encoding; print('soundfile' in sys.modules or 'av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def a_png() -> bytes:
    """A red square."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = (b"\0" + b"\xc8\x32\x32" * 32) * 32
    header = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_an_audiobook_has_chapters_a_cover_and_tags(tmp_path: Path) -> None:
    """Three hundred chapters come back with their titles and times, as do the picture and what the file says."""
    chapters = [ChapterMark(f"Kapitel {n}: Grüße", n * 240, n * 240 + 240) for n in range(300)]
    tags = {"title": "Das Buch", "artist": "Eine Frau", "album": "Das Buch", "genre": "Audiobook"}
    path, cover = tmp_path / "book.m4b", a_png()
    with path.open("w+b") as file:
        blocks = [PCM[:100_001], PCM[100_001:]]
        samples = write_audiobook(file.fileno(), blocks, tags=tags, chapters=chapters, cover=cover)
    assert samples == len(PCM) // 2
    content = path.read_bytes()
    assert content[4:12] == b"ftypM4B "
    assert content.index(b"moov") < content.index(b"mdat")
    with av.open(str(path), "r") as book:
        assert book.metadata.items() >= tags.items()
        found = [(each["metadata"]["title"], each["start"] * each["time_base"]) for each in book.chapters()]
        assert found == [(chapter.title, Fraction(chapter.start, RATE)) for chapter in chapters]
        assert bytes(next(book.demux(video=0))) == cover
    assert by_ffmpeg(path.read_bytes()).size == samples


def test_a_cover_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    """The error says what a cover may be."""
    with (tmp_path / "book.m4b").open("w+b") as file, pytest.raises(ValueError, match="neither a JPEG nor a PNG"):
        write_audiobook(file.fileno(), [PCM], tags={}, cover=b"no picture")


_GROWTH = """
import json, os, resource, sys
from audio_api.audio.encoding import FileEncoder
from pathlib import Path
def rss_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
pcm = Path(sys.argv[1]).read_bytes()
with open(sys.argv[2], "w+b") as file:
    encoder = FileEncoder(file.fileno(), sys.argv[3], {})
    encoder.write(pcm)
    before = rss_mb()
    for _ in range(int(sys.argv[4])):
        encoder.write(pcm)
    encoder.finish()
    print(json.dumps(rss_mb() - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("output_format", "minutes"), [("flac", 40), ("mp3", 3), ("m4a", 3)])
def test_memory_does_not_grow_with_the_sound(output_format: str, minutes: int, tmp_path: Path) -> None:
    """Forty minutes of FLAC, or three of what takes more CPU, take a few MB more than the first one."""
    (tmp_path / "pcm").write_bytes(voice(60))
    command = [sys.executable, "-c", _GROWTH, tmp_path / "pcm", tmp_path / "sound", output_format, str(minutes - 1)]
    grown_mb = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    # Measured: 1 to 4. benchmarks/formats.py prints an hour of each.
    assert grown_mb < 15


def test_the_standard_library_reads_a_whole_wav_of_the_same_sound() -> None:
    """The sound of these tests is a voice, not silence: 24 kHz, and loud in its last 300 ms."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(PCM)
    assert by_libsndfile(buffer.getvalue()).size == len(PCM) // 2
    assert np.abs(as_samples(PCM)[-300 * MS :]).max() > 5_000
