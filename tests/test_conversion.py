"""Every file is 24 kHz, 16 bits, mono, whatever rate, depth, channels or encoding the sound comes in.

Replies come from a real server; files are read again with the standard library, tones are measured in their spectrum.
"""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from books import MODEL, PIECE_CHARS, book, pieces_of, settings
from hypothesis import given
from hypothesis import strategies as st
from kit import CLOCK, sound_part
from raw_server import answering, raw_server
from scripted import ScriptedEngine, speech
from sound import RATE, Samples, read_wav

from audio_api.audio.checks import Take, judge
from audio_api.audio.conversion import Converter
from audio_api.audio.wav import SoundFormat, encode_wav
from audio_api.emulator import Emulator, Fault
from audio_api.engines.base import SpeechAudio, Utterance, WordTime
from audio_api.errors import ErrorCode
from audio_api.models.audio_request import AudioRequest, AudioResponse
from audio_api.models.usage import TokenUsage
from audio_api.services.tts_service import TTSService

TEXT = "The quick brown fox jumps over the lazy dog."
SECONDS = 1.7
Serve = Callable[..., TTSService]


def tone(rate: int, *, hz: float = 440.0, seconds: float = SECONDS, peak: float = 0.999) -> Samples:
    """A sine, nearly as loud as samples can say."""
    return np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate) * peak


def _mu_law(samples: Samples) -> bytes:
    levels = 33 + np.abs(samples) * 8_158
    exponents = np.floor(np.log2(levels)).astype(int) - 5
    codes = (samples < 0) * 0x80 | exponents << 4 | (levels.astype(int) >> (exponents + 1)) & 15
    return bytes(~codes.astype("u1"))


def _a_law(samples: Samples) -> bytes:
    levels = np.maximum(np.abs(samples) * 4_095, 1).astype(int)
    exponents = np.maximum(np.floor(np.log2(levels)).astype(int) - 4, 0)
    codes = (samples >= 0) * 0x80 | exponents << 4 | (levels >> np.maximum(exponents, 1)) & 15
    return bytes(codes.astype("u1") ^ 0x55)


ENCODERS: dict[tuple[int, int], Callable[[Samples], bytes]] = {
    (1, 8): lambda samples: np.rint(samples * 127 + 128).astype("u1").tobytes(),
    (1, 16): lambda samples: np.rint(samples * 32_767).astype("<i2").tobytes(),
    (1, 24): lambda samples: np.rint(samples * 8_388_607).astype("<i4").view("u1").reshape(-1, 4)[:, :3].tobytes(),
    (1, 32): lambda samples: np.rint(samples * 2_147_483_647).astype("<i4").tobytes(),
    (3, 32): lambda samples: samples.astype("<f4").tobytes(),
    (3, 64): lambda samples: samples.astype("<f8").tobytes(),
    (6, 8): _a_law,
    (7, 8): _mu_law,
}
"""How samples are written down in a WAV, by its format code and its bits per sample."""


def wav(
    samples: Samples, rate: int, *, code: int = 1, bits: int = 16, channels: int = 1, extensible: bool = False
) -> bytes:
    """A WAV, with the same samples in every channel."""
    body = ENCODERS[code, bits](np.repeat(samples, channels))
    frame = channels * bits // 8
    fmt = struct.pack("<HHIIHH", 0xFFFE if extensible else code, channels, rate, rate * frame, frame, bits)
    if extensible:
        fmt += struct.pack("<HHIH", 22, bits, 0, code) + bytes.fromhex("000000001000800000aa00389b71")
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def reply(*parts: dict[str, Any]) -> bytes:
    """A reply of the API."""
    usage = {"promptTokenCount": 9, "candidatesTokenCount": 43}
    document = {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}], "usageMetadata": usage}
    return json.dumps(document).encode()


def events(*parts: dict[str, Any]) -> bytes:
    """The same as the events of a stream, a part each."""
    return b"".join(b"data: " + reply(each) + b"\r\n\r\n" for each in parts)


async def spoken(body: bytes, folder: Path, **changes: Any) -> AudioResponse:
    """What becomes of a request to whose calls a server answers so; tones pass, as no check looks at them."""
    async with raw_server(answering(body)) as server:
        config = settings(server.url, folder, default_tts_model=MODEL, audio_checks="off", **changes)
        async with TTSService(config, clock=CLOCK) as tts:
            return await tts.generate_audio(AudioRequest(text=TEXT, output_filename="tone"))


async def streamed(body: bytes, folder: Path) -> tuple[bytes, AudioResponse]:
    """What is heard of a stream to whose calls a server answers so, and the account of it."""
    accounts: list[AudioResponse] = []
    async with raw_server(answering(body, headers="Content-Type: text/event-stream\r\n")) as server:
        config = settings(server.url, folder, default_tts_model=MODEL, audio_checks="off")
        async with TTSService(config, clock=CLOCK) as tts:
            request = AudioRequest(text=TEXT)
            heard = [block async for block in tts.stream_audio(request, on_done=accounts.append)]
    return b"".join(heard), accounts[0]


def pitch_hz(samples: Samples) -> float:
    """Where the spectrum has its highest peak."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * RATE / len(samples))


def assert_tone(samples: Samples, hz: float = 440.0, *, peak: float = 0.999, noise_db: float = -60.0) -> None:
    """Assert that samples are the tone, of its length and loudness, not clipped, and nothing else above the noise."""
    assert abs(len(samples) / RATE - SECONDS) <= 0.001
    assert pitch_hz(samples) == pytest.approx(hz, abs=1)
    middle = samples[RATE // 10 : -RATE // 10]
    times = np.arange(len(middle)) / RATE
    waves = np.stack([np.sin(2 * np.pi * hz * times), np.cos(2 * np.pi * hz * times)], axis=1)
    weights, *_ = np.linalg.lstsq(waves, middle, rcond=None)
    assert np.hypot(*weights) == pytest.approx(peak, rel=0.02)
    assert 20 * np.log10(np.std(middle - waves @ weights)) < noise_db


# --- replies of the API --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1_000, 8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000])
async def test_a_tone_of_another_rate_stays_that_tone(tmp_path: Path, rate: int) -> None:
    """Pitch, loudness and length, in a file that says 24,000 Hz; the response says what was converted."""
    response = await spoken(
        reply(sound_part(ENCODERS[1, 16](tone(rate)), f"audio/L16;codec=pcm;rate={rate}")), tmp_path
    )
    assert_tone(read_wav(response.file_path))
    assert response.duration == pytest.approx(SECONDS, abs=0.001)
    assert f"{rate:,} Hz" in response.warnings[0]
    assert response.attempts == 1


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize(("code", "bits"), [form for form in ENCODERS if form != (1, 16)])
async def test_a_wav_of_another_depth_or_encoding_is_read(
    tmp_path: Path, code: int, bits: int, extensible: bool
) -> None:
    """8, 24 and 32 bits, float, A-law and mu-law; at 24 kHz nothing but the depth is changed."""
    data = wav(tone(RATE, peak=0.9), RATE, code=code, bits=bits, extensible=extensible)
    response = await spoken(reply(sound_part(data, "audio/wav")), tmp_path)
    assert_tone(read_wav(response.file_path), peak=0.9, noise_db=-35.0 if bits == 8 else -90.0)
    assert f"{bits} bits" in response.warnings[0]


@pytest.mark.parametrize(("rate", "channels"), [(24_000, 2), (48_000, 2), (16_000, 2), (48_000, 6)])
async def test_channels_become_their_mean(tmp_path: Path, rate: int, channels: int) -> None:
    """In a WAV and behind a type that names them: the tone that all of them hold is neither louder nor clipped."""
    bare = sound_part(ENCODERS[1, 16](np.repeat(tone(rate), channels)), f"audio/L16;rate={rate};channels={channels}")
    for each in (bare, sound_part(wav(tone(rate), rate, channels=channels), "audio/wav")):
        response = await spoken(reply(each), tmp_path / each["inlineData"]["mimeType"].partition(";")[0][-3:])
        assert_tone(read_wav(response.file_path))
        assert f"{channels} channels" in response.warnings[0]


async def test_channels_that_differ_are_mixed(tmp_path: Path) -> None:
    """440 Hz on the left and 1,000 Hz on the right are both heard, half as loud."""
    left, right = tone(RATE), tone(RATE, hz=1_000)
    data = ENCODERS[1, 16](np.stack([left, right], axis=1).ravel())
    response = await spoken(reply(sound_part(data, "audio/pcm;channels=2")), tmp_path)
    assert_tone(read_wav(response.file_path) - right / 2, peak=0.4995)


async def test_sound_in_the_right_format_is_not_touched(tmp_path: Path) -> None:
    """Bit for bit, and without a word."""
    pcm = ENCODERS[1, 16](tone(RATE))
    response = await spoken(reply(sound_part(pcm, "audio/L16")), tmp_path)
    assert np.array_equal(read_wav(response.file_path), np.frombuffer(pcm, "<i2") / 32_768)
    assert response.warnings == ()


async def test_parts_of_different_formats_are_joined(tmp_path: Path) -> None:
    """One after the other in one file, with a warning for each format that was converted."""
    rates = 24_000, 16_000, 48_000, 24_000
    parts = [sound_part(ENCODERS[1, 16](tone(rate, hz=300 + rate / 100)), f"audio/L16;rate={rate}") for rate in rates]
    response = await spoken(reply(*parts), tmp_path)
    samples = read_wav(response.file_path)
    assert len(samples) / RATE == pytest.approx(4 * SECONDS, abs=0.001)
    quarters = np.split(samples[: len(samples) // 4 * 4], 4)
    for quarter, rate in zip(quarters, rates, strict=True):
        assert pitch_hz(quarter) == pytest.approx(300 + rate / 100, abs=1)
    assert [rate in " ".join(response.warnings) for rate in ("16,000 Hz", "48,000 Hz")] == [True, True]
    assert len(response.warnings) == 2


@pytest.mark.parametrize("cut", [997, 4_001])
@pytest.mark.parametrize("is_wav", [False, True], ids=["samples", "one wav"])
async def test_a_stream_is_converted_as_it_comes(tmp_path: Path, cut: int, is_wav: bool) -> None:
    """Wherever the server cuts: the same samples as in one piece, without clicks, up to the last one."""
    data = wav(tone(16_000), 16_000, channels=2) if is_wav else ENCODERS[1, 16](np.repeat(tone(16_000), 2))
    mime = "audio/wav" if is_wav else "audio/L16;rate=16000;channels=2"
    pieces = [sound_part(data[at : at + cut], mime) for at in range(0, len(data), cut)]
    heard, account = await streamed(events(*pieces), tmp_path)
    assert_tone(np.frombuffer(heard, "<i2") / 32_768)
    whole = await spoken(reply(sound_part(data, mime)), tmp_path)
    assert np.array_equal(read_wav(whole.file_path), np.frombuffer(heard, "<i2") / 32_768)
    assert len(account.warnings) == 1
    assert "16,000 Hz" in account.warnings[0]


async def test_a_stream_of_wavs_has_no_clicks_between_them(tmp_path: Path) -> None:
    """A header in front of each block does not end the sound."""
    blocks = np.split(tone(16_000), 17)
    heard, _ = await streamed(events(*(sound_part(wav(block, 16_000), "audio/wav") for block in blocks)), tmp_path)
    assert_tone(np.frombuffer(heard, "<i2") / 32_768)


async def test_a_rate_that_changes_in_mid_stream_is_no_error(tmp_path: Path) -> None:
    """What follows is heard at its own pitch."""
    halves = [sound_part(ENCODERS[1, 16](tone(rate)), f"audio/L16;rate={rate}") for rate in (24_000, 16_000)]
    heard, account = await streamed(events(*halves), tmp_path)
    first, second = np.split(np.frombuffer(heard, "<i2")[: len(heard) // 4 * 2] / 32_768, 2)
    assert_tone(first)
    assert_tone(second)
    assert len(account.warnings) == 1


@pytest.mark.parametrize(
    ("mime", "data"),
    [
        ("audio/mpeg", b"\xff\xfb" + bytes(2_000)),
        ("audio/L16;codec=opus", bytes(2_000)),
        ("audio/L16;rate=999", bytes(2_000)),
        ("audio/L16;rate=192001", bytes(2_000)),
        ("audio/L16;channels=9", bytes(2_000)),
        ("audio/L16;channels=0", bytes(2_000)),
        ("audio/wav", wav(tone(RATE), 192_001)),
        ("audio/wav", wav(tone(RATE), RATE, channels=9)),
        ("audio/wav", wav(tone(RATE), RATE).replace(b"\1\0\1\0", b"\x55\0\1\0", 1)),
    ],
    ids=range(9),
)
async def test_what_cannot_be_converted_is_refused_once(tmp_path: Path, mime: str, data: bytes) -> None:
    """Asking again would bring the same codec, and the same bill."""
    response = await spoken(reply(sound_part(data, mime)), tmp_path)
    assert (response.error_code, response.retryable, response.attempts) == (ErrorCode.AUDIO_FORMAT, False, 1)


async def test_speech_of_another_rate_is_checked_kept_joined_and_streamed(
    gemini_emulator: Emulator, tmp_path: Path
) -> None:
    """A piece in the middle of a book at 16 kHz is one like the others: nothing is asked for again."""
    request = AudioRequest(text=book(3 * PIECE_CHARS), output_filename="book")
    pieces = pieces_of(request, model=MODEL)
    gemini_emulator.faults = lambda _: Fault.RATE_16000
    async with TTSService(settings(gemini_emulator, tmp_path), clock=CLOCK) as tts:
        response = await tts.generate_audio(request)
        assert response.success, response.error
        calls = len(gemini_emulator.calls)
        again = await tts.generate_audio(replace_name(request, "again"))
        blocks = [block async for block in tts.stream_audio(AudioRequest(text=TEXT))]
    assert len(pieces) == 1 or calls > 1
    assert again.cached_pieces == calls
    assert "16,000 Hz" in " ".join(response.warnings)
    samples = read_wav(response.file_path)
    verdict = judge(Take(np.rint(samples * 32_768).astype("<i2").tobytes(), RATE, request.text, "en-US"))
    assert verdict.outcome == "accept"
    assert len(b"".join(blocks)) / 2 / RATE > 1


def replace_name(request: AudioRequest, name: str) -> AudioRequest:
    """The same request for another file."""
    return request.model_copy(update={"output_filename": name})


# --- other engines -------------------------------------------------------------------------------------------------


def at_rate(rate: int) -> Callable[[Utterance], SpeechAudio]:
    """A take that is a tone, with a word that lasts half of it."""
    words = (WordTime(TEXT, 0.2, SECONDS - 0.2),)
    return lambda utterance: speech(utterance, pcm=ENCODERS[1, 16](tone(rate)), sample_rate=rate, words=words)


class StreamingEngine(ScriptedEngine):
    """Streams a tone in blocks of 100 ms, and tells usage and words in the last, empty one."""

    def __init__(self, rate: int) -> None:
        super().__init__()
        self.rate = rate

    async def stream(self, utterance: Utterance) -> AsyncGenerator[SpeechAudio, None]:
        """The tone."""
        pcm = ENCODERS[1, 16](tone(self.rate))
        step = self.rate // 10 * 2
        for at in range(0, len(pcm), step):
            yield SpeechAudio(pcm[at : at + step], self.rate, utterance.model, finish_reason=None)
        yield SpeechAudio(b"", self.rate, utterance.model, usage=TokenUsage(output_tokens=43), warnings=("robotic",))


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Make services over engines of the test's own."""
    made: list[TTSService] = []

    def make(engine: ScriptedEngine) -> TTSService:
        config = settings("http://127.0.0.1:1", tmp_path / "out", audio_checks="off", default_tts_model=MODEL)
        made.append(TTSService(config, engine=engine, clock=CLOCK))
        return made[-1]

    yield make
    for service in made:
        await service.close()


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
async def test_an_engine_may_speak_at_any_rate(serve: Serve, rate: int) -> None:
    """The file has 24,000 Hz; words keep their times."""
    request = AudioRequest(text=TEXT, output_filename="tone", subtitles=["vtt"])
    response = await serve(ScriptedEngine([at_rate(rate)])).generate_audio(request)
    assert_tone(read_wav(response.file_path))
    assert f"{rate:,} Hz" in response.warnings[0]
    [path] = response.subtitle_paths
    assert "00:00:00.200 --> 00:00:01." in Path(path).read_text("utf-8")


async def test_an_engine_may_stream_at_any_rate(serve: Serve) -> None:
    """Block by block; usage, finish reason and warnings arrive with the end."""
    accounts: list[AudioResponse] = []
    stream = serve(StreamingEngine(44_100)).stream_audio(AudioRequest(text=TEXT), on_done=accounts.append)
    blocks = [block async for block in stream]
    assert_tone(np.frombuffer(b"".join(blocks), "<i2") / 32_768)
    assert len(blocks) > 10
    assert accounts[0].usage.output_tokens == 43
    assert [word in " ".join(accounts[0].warnings) for word in ("robotic", "44,100 Hz")] == [True, True]


async def test_an_impossible_rate_of_an_engine_is_its_error(serve: Serve) -> None:
    """It is told with its value, once."""
    engine = ScriptedEngine([lambda utterance: replace(speech(utterance), sample_rate=0)])
    response = await serve(engine).generate_audio(AudioRequest(text=TEXT))
    assert (response.error_code, response.attempts) == (ErrorCode.AUDIO_FORMAT, 1)
    assert "0 Hz" in str(response.error)


# --- the converter -------------------------------------------------------------------------------------------------


@given(
    cuts=st.lists(st.integers(0, 4_000), max_size=8),
    rate=st.sampled_from([8_000, 16_000, 24_000, 44_100, 192_000]),
    channels=st.integers(1, 8),
    form=st.sampled_from(sorted(ENCODERS)),
)
def test_blocks_may_end_anywhere(cuts: list[int], rate: int, channels: int, form: tuple[int, int]) -> None:
    """However the bytes are cut, the samples are the same as in one piece."""
    code, bits = form
    encodings = {1: "pcm", 3: "float", 6: "a-law", 7: "mu-law"}
    sound_format = SoundFormat(rate, channels, bits, encodings[code])  # type: ignore[arg-type]  # one of the literals
    data = ENCODERS[form](np.repeat(tone(rate, seconds=0.02), channels))
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    whole, cut = Converter(), Converter()
    expected = whole.feed(data, sound_format) + whole.finish()
    fed = [cut.feed(data[start:end], sound_format) for start, end in pairwise(edges)]
    assert b"".join([*fed, cut.finish()]) == expected
    assert abs(len(expected) / 2 / RATE - 0.02) <= 0.001
    assert (cut.warnings, cut.has_lost_part) == (whole.warnings, False)


def test_a_sound_that_ends_inside_a_sample_is_cut_there() -> None:
    """Of two channels, too: half a moment is none."""
    converter = Converter()
    assert len(converter.feed(bytes(4_003), SoundFormat(24_000, 2)) + converter.finish()) == 2_000
    assert converter.has_lost_part


def test_silence_stays_silence_and_full_loudness_does_not_wrap_around() -> None:
    """No dither; where the filter overshoots, samples stay at the limit."""
    silence = Converter()
    assert not any(silence.feed(bytes(16_000), SoundFormat(16_000)) + silence.finish())
    square, loud = Converter(), np.tile(np.array([32_767, -32_768], "<i2"), 20)
    made = square.feed(np.repeat(loud, 200).tobytes(), SoundFormat(16_000)) + square.finish()
    expected = np.repeat(loud, 300)
    # But for the 10 samples around an edge.
    is_inner = np.arange(expected.size) % 300 // 10 % 29 != 0
    assert np.array_equal(np.sign(np.frombuffer(made, "<i2")[is_inner]), np.sign(expected[is_inner]))


def test_numbers_that_are_none_are_silence() -> None:
    """A float WAV may hold NaN and infinities."""
    converter = Converter()
    data = struct.pack("<4f", float("nan"), float("inf"), float("-inf"), 0.5)
    assert struct.unpack("<4h", converter.feed(data, SoundFormat(24_000, 1, 32, "float"))) == (
        0,
        32_767,
        -32_768,
        16_384,
    )


def test_a_wav_in_the_standard_format_needs_no_conversion() -> None:
    """The header that this library writes names the format that it reads back."""
    pcm = ENCODERS[1, 16](tone(RATE))
    assert wav(tone(RATE), RATE) == encode_wav(pcm)
