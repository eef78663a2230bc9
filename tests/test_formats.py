"""A request becomes the format that it, its file's name or the settings ask for; and never another one."""

from __future__ import annotations

import asyncio
import errno
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from books import book
from kit import CLOCK
from scripted import Outcome, ScriptedEngine, speech
from sound import RATE, by_ffmpeg, read_wav, tags_of
from test_wav_faults import as_root

from audio_api.audio.encoding import file_seconds
from audio_api.audio.wav import decode_wav
from audio_api.config import AudioConfig
from audio_api.errors import ConfigurationError, ErrorCode, TTSModelNotFoundError, TTSValidationError
from audio_api.models.audio_request import AudioRequest, AudioResponse, MultiSpeakerConfig, SpeakerConfig, SpeakerMode
from audio_api.models.sound_formats import OutputFormat, StreamFormat, format_of
from audio_api.services.job_run import JobRun
from audio_api.services.queue_service import QueueService
from audio_api.services.tts_service import TTSService
from audio_api.services.worker_service import WorkerService

TEXT = "The quick brown fox jumps over the lazy dog, and then it rests for a while."
LONG = book(1_500)
FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)
ENCODED: tuple[OutputFormat, ...] = ("mp3", "opus", "flac", "m4a")
STREAMS: tuple[StreamFormat, ...] = get_args(StreamFormat)
MS = RATE // 1000


Serve = Callable[..., TTSService]


@pytest.fixture
def config(tmp_path: Path) -> AudioConfig:
    """Settings that write below the test's own folder, and keep no pieces."""
    return AudioConfig(
        output_dir=tmp_path / "out", cache_max_bytes=0, default_tts_model="gemini-3.1-flash-tts-preview", _env_file=None
    )


@pytest.fixture
async def serve(config: AudioConfig) -> AsyncIterator[Serve]:
    """Make services over scripted engines; all are closed afterwards."""
    services: list[TTSService] = []

    def make(*outcomes: Outcome, engine: ScriptedEngine | None = None, **changes: Any) -> TTSService:
        changed = AudioConfig(**{**config.model_dump(), **changes}, _env_file=None) if changes else config
        services.append(TTSService(changed, engine=engine or ScriptedEngine(outcomes), clock=CLOCK))
        return services[-1]

    yield make
    for service in services:
        await service.close()


def heard(response: AudioResponse) -> np.ndarray[Any, Any]:
    """What FFmpeg decodes of a success's file."""
    assert response.file_path, response.error
    return by_ffmpeg(Path(response.file_path).read_bytes())


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("text", [TEXT, LONG], ids=["short", "long"])
async def test_every_format_holds_the_sound_of_the_wav(output_format: OutputFormat, text: str, serve: Serve) -> None:
    """Short and long texts alike: as long as the WAV to a millisecond, as loud at the end, and named after it."""
    wav = (await serve().generate_audio(AudioRequest(text=text, output_filename="a"))).raise_for_error()
    said = read_wav(wav.file_path)
    request = AudioRequest(text=text, output_filename="b", output_format=output_format)
    response = (await serve().generate_audio(request)).raise_for_error()
    assert response.file_path is not None
    assert response.file_path.endswith(f"b.{output_format}")
    assert response.output_format == output_format
    assert response.duration == wav.duration == pytest.approx(said.size / RATE)
    samples = heard(response) / 32_768
    assert abs(samples.size - said.size) <= MS
    tail, expected = samples[said.size - 300 * MS : said.size], said[-300 * MS :]
    assert np.dot(tail, expected[: tail.size]) > 0.9 * np.dot(expected, expected)
    assert file_seconds(Path(response.file_path)) == pytest.approx(response.duration, abs=0.007)


@pytest.mark.parametrize(
    ("name", "asked", "setting", "expected"),
    [
        (None, None, "wav", "wav"),
        (None, None, "mp3", "mp3"),
        (None, "flac", "mp3", "flac"),
        ("a", None, "mp3", "mp3"),
        ("a.opus", None, "mp3", "opus"),
        ("a.ogg", None, "wav", "opus"),
        ("a.m4b", None, "wav", "m4a"),
        ("a.wav", None, "mp3", "wav"),
        ("v1.2", "mp3", "wav", "mp3"),
    ],
)
async def test_the_request_the_name_then_the_setting_decide(
    name: str | None, asked: OutputFormat | None, setting: str, expected: str, serve: Serve
) -> None:
    """In this order; a name that lacks its ending gets it, and one made from the content has it, too."""
    request = AudioRequest(text=TEXT, output_filename=name, output_format=asked)
    response = (await serve(output_format=setting).generate_audio(request)).raise_for_error()
    assert response.output_format == expected
    path = Path(str(response.file_path))
    assert format_of(path.name) == expected
    if name and format_of(name):
        assert path.name == name
    beginnings = {"wav": b"RIFF", "mp3": b"ID3\x03", "opus": b"OggS", "flac": b"fLaC", "m4a": b"\0\0\0\x1c"}
    assert path.read_bytes()[:4] == beginnings[expected]


@pytest.mark.parametrize("output_format", ENCODED)
async def test_tags_tell_voice_and_model_but_nothing_of_the_text(output_format: OutputFormat, serve: Serve) -> None:
    """Title is the file's stem, artist the voice, comment the model that really spoke."""
    secret = "My password is Rumpelstiltskin, and no one else may ever read it in a file."
    request = AudioRequest(text=secret, output_filename="Grüße 1", output_format=output_format)
    gone = TTSModelNotFoundError("gone")
    response = (await serve(gone).generate_audio(request)).raise_for_error()
    assert response.model != "gemini-3.1-flash-tts-preview"
    tags = tags_of(str(response.file_path))
    assert (tags["title"], tags["artist"], tags["comment"]) == ("Grüße 1", "kore", response.model)
    content = Path(str(response.file_path)).read_bytes()
    assert b"Rumpel" not in content
    assert "Rumpel".encode("utf-16-le") not in content


async def test_a_dialogue_names_every_voice(serve: Serve) -> None:
    """The artists of two speakers are both voices."""
    speakers = MultiSpeakerConfig(
        speakers=(
            SpeakerConfig(speaker_name="Ann", voice_name="kore"),
            SpeakerConfig(speaker_name="Bob", voice_name="puck"),
        )
    )
    request = AudioRequest(
        text="Ann: Hello, my friend, how are you?\nBob: I am fine, thank you very much.",
        speaker_mode=SpeakerMode.MULTIPLE,
        multi_speaker_config=speakers,
        output_format="mp3",
    )
    response = (await serve().generate_audio(request)).raise_for_error()
    assert tags_of(str(response.file_path))["artist"] == "kore, puck"


@pytest.mark.parametrize(("output_format", "module"), [("mp3", "soundfile"), ("m4a", "av")])
async def test_a_missing_extra_is_an_error_before_any_call(
    output_format: OutputFormat, module: str, serve: Serve, config: AudioConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the extra; no file of another format appears, and the API is not asked."""
    monkeypatch.setitem(sys.modules, module, None)
    engine = ScriptedEngine()
    response = await serve(engine=engine).generate_audio(AudioRequest(text=TEXT, output_format=output_format))
    assert response.error_code is ErrorCode.CONFIGURATION
    assert "pip install 'audio-api[" in str(response.error)
    stream: StreamFormat = "mp3" if output_format == "mp3" else "aac"
    with pytest.raises(ConfigurationError, match="pip install"):
        await anext(serve(engine=engine).stream_audio(AudioRequest(text=TEXT), format=stream))
    assert engine.asked == []
    assert not config.output_dir.exists() or list(config.output_dir.iterdir()) == []


@pytest.mark.parametrize("output_format", ENCODED)
async def test_an_older_file_is_safe(output_format: OutputFormat, serve: Serve, config: AudioConfig) -> None:
    """A taken name is refused before any call; with ``overwrite`` the file is replaced."""
    config.output_dir.mkdir()
    old = config.output_dir / f"a.{output_format}"
    old.write_bytes(b"old")
    engine = ScriptedEngine()
    request = AudioRequest(text=TEXT, output_filename=old.name)
    response = await serve(engine=engine).generate_audio(request)
    assert response.error_code is ErrorCode.OUTPUT_EXISTS
    assert engine.asked == []
    assert old.read_bytes() == b"old"
    response = await serve(engine=engine).generate_audio(request.model_copy(update={"overwrite": True}))
    assert heard(response).size > RATE


@as_root
@pytest.mark.parametrize("output_format", ["mp3", "flac"])
@pytest.mark.parametrize("text", [TEXT, LONG], ids=["short", "long"])
async def test_sound_that_cannot_be_written_is_handed_over(
    output_format: OutputFormat, text: str, serve: Serve, mount: Callable[[str], Path]
) -> None:
    """The disk is full: the response has the whole sound as a WAV, and nothing is left on the disk."""
    folder = mount("size=16k")
    whole = (await serve().generate_audio(AudioRequest(text=text, output_filename="a"))).raise_for_error()
    request = AudioRequest(text=text, output_filename="a", output_format=output_format)
    response = await serve(output_dir=folder).generate_audio(request)
    assert response.error_code is ErrorCode.OUTPUT_FAILED
    assert errno.errorcode[errno.ENOSPC] in str(response.error)
    assert response.unsaved_audio is not None
    assert decode_wav(response.unsaved_audio).pcm == Path(str(whole.file_path)).read_bytes()[44:]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("output_format", ENCODED)
async def test_subtitles_stand_beside_any_format(output_format: OutputFormat, serve: Serve) -> None:
    """They have the file's name with their own ending."""
    request = AudioRequest(text=TEXT, output_filename=f"a.{output_format}", subtitles=("srt", "vtt"))
    response = (await serve().generate_audio(request)).raise_for_error()
    assert [Path(path).name for path in response.subtitle_paths] == ["a.srt", "a.vtt"]
    assert all(Path(path).stat().st_size for path in response.subtitle_paths)


@pytest.mark.parametrize("output_format", ["mp3", "opus", "flac"])
async def test_a_file_can_grow_in_other_formats(output_format: OutputFormat, serve: Serve, config: AudioConfig) -> None:
    """While it grows, a part of it can be played; in the end it is exact, and tells voice and model."""
    parts: list[int] = []

    def look(_: object) -> None:
        part = config.output_dir / f"talk.part.{output_format}"
        parts.append(by_ffmpeg(part.read_bytes()).size)

    request = AudioRequest(text=LONG, output_filename=f"talk.{output_format}")
    response = (await serve().stream_to_file(request, look)).raise_for_error()
    assert max(parts) > 0.5 * RATE
    assert response.duration is not None
    assert abs(heard(response).size - response.duration * RATE) <= MS
    assert [each.name for each in config.output_dir.iterdir()] == [f"talk.{output_format}"]
    assert tags_of(str(response.file_path))["comment"] == response.model


async def test_an_m4a_does_not_grow(serve: Serve, config: AudioConfig) -> None:
    """The refusal comes before any call and says what would do."""
    engine = ScriptedEngine()
    response = await serve(engine=engine).stream_to_file(AudioRequest(text=LONG, output_filename="talk.m4a"))
    assert response.error_code is ErrorCode.INVALID_REQUEST
    assert "generate_audio" in str(response.error)
    assert engine.asked == []
    assert list(config.output_dir.glob("*")) == []


@pytest.mark.parametrize("stream_format", STREAMS)
async def test_a_stream_comes_in_the_format_asked_for(stream_format: StreamFormat, serve: Serve) -> None:
    """What is heard is the sound of the file, in blocks that are never empty; the report has its seconds."""
    wav = (await serve().generate_audio(AudioRequest(text=LONG, output_filename="a"))).raise_for_error()
    reports: list[AudioResponse] = []
    stream = serve().stream_audio(AudioRequest(text=LONG), reports.append, format=stream_format)
    blocks = [block async for block in stream]
    assert all(blocks)
    (report,) = reports
    assert report.success
    assert report.duration is not None
    data = b"".join(blocks)
    if stream_format == "pcm":
        samples = len(data) // 2
    else:
        samples = by_ffmpeg(data, {"opus": "ogg"}.get(stream_format, stream_format)).size
    longer = samples - report.duration * RATE
    assert -1 <= longer <= {"mp3": 50 * MS, "aac": 2_048}.get(stream_format, MS)
    assert wav.duration is not None
    assert report.duration == pytest.approx(wav.duration, rel=0.05)


async def test_an_unknown_stream_format_is_refused_before_any_call(serve: Serve) -> None:
    """The text lists those that there are."""
    engine = ScriptedEngine()
    with pytest.raises(TTSValidationError, match="one of wav, mp3, opus, flac, aac, pcm, not 'm4a'"):
        await anext(serve(engine=engine).stream_audio(AudioRequest(text=TEXT), format="m4a"))  # type: ignore[arg-type]
    assert engine.asked == []


async def test_a_listener_who_leaves_an_encoded_stream_ends_it(serve: Serve) -> None:
    """The report comes at once, and says how much was handed over."""
    reports: list[AudioResponse] = []
    stream = serve().stream_audio(AudioRequest(text=LONG), reports.append, format="mp3")
    assert await anext(stream)
    await stream.aclose()
    (report,) = reports
    assert not report.success
    assert "the listener left after" in str(report.error)


async def test_a_job_carries_its_format_and_the_result_says_it(config: AudioConfig) -> None:
    """Through the queue, too: by the request's own format, and by its name."""
    async with QueueService(use_redis=False, config=config) as queue:
        tts = TTSService(config, engine=ScriptedEngine(), clock=CLOCK)
        worker = WorkerService(config, queue, tts)
        ids = [
            await queue.enqueue_single_task(AudioRequest(text=TEXT, output_format="flac")),
            await queue.enqueue_single_task(AudioRequest(text=TEXT, output_filename="b.mp3")),
        ]
        working = asyncio.create_task(worker.start_worker())
        results = [await queue.wait_for_result(task_id) for task_id in ids]
        await worker.stop_worker()
        await working
        await tts.close()
    assert [result.output_format for result in results] == ["flac", "mp3"]
    assert [Path(str(result.file_path)).suffix for result in results] == [".flac", ".mp3"]
    for result in results:
        assert abs(heard(result).size - (result.duration or 0) * RATE) <= MS


@pytest.mark.parametrize("name", ["b", "b.flac", None, "b.mp3", "b.opus", "b.m4a"])
async def test_a_file_of_a_worker_that_died_is_the_tasks_own_in_any_format(
    name: str | None, config: AudioConfig
) -> None:
    """The next worker takes the file over, however it got its ending, and calls no engine."""
    config = config.model_copy(update={"output_format": "flac"})
    async with QueueService(use_redis=False, config=config) as queue:
        task_id = await queue.enqueue_single_task(AudioRequest(text=TEXT, output_filename=name))
        finish = queue.backend.finish

        async def die(*_: object, **__: object) -> bool:
            raise asyncio.CancelledError

        queue.backend.finish = die  # type: ignore[method-assign]
        (lease,) = await queue.backend.lease(1, 30)
        async with TTSService(config, engine=ScriptedEngine(), clock=CLOCK) as tts:
            with pytest.raises(asyncio.CancelledError):
                await asyncio.create_task(JobRun(lease, queue, tts, lambda: config).run())
        queue.backend.finish = finish  # type: ignore[method-assign]
        await queue.backend.release(lease)
        (lease,) = await queue.backend.lease(1, 30)
        engine = ScriptedEngine()
        async with TTSService(config, engine=engine, clock=CLOCK) as tts:
            await asyncio.create_task(JobRun(lease, queue, tts, lambda: config).run())
        result = await queue.get_task_result(task_id)
    assert result
    assert result.success
    expected = Path(name).suffix.removeprefix(".") if name and "." in name else "flac"
    assert (result.output_format, Path(str(result.file_path)).suffix) == (expected, f".{expected}")
    assert result.duration == pytest.approx(heard(result).size / RATE, abs=0.001)
    assert engine.asked == []


async def test_long_texts_keep_no_sound_in_memory_for_their_format(serve: Serve, config: AudioConfig) -> None:
    """The encoder takes a piece as it comes: most of the file is on the disk before the last one is spoken."""
    sizes: list[int] = []

    def spoken(utterance: Any) -> Any:
        sizes.append(sum(each.stat().st_size for each in config.output_dir.glob(".*.tmp")))
        return speech(utterance)

    engine = ScriptedEngine([spoken] * 100)
    request = AudioRequest(text=book(6_000), output_filename="long.mp3")
    response = (await serve(engine=engine, piece_concurrency=1).generate_audio(request)).raise_for_error()
    assert max(sizes) > 0.5 * Path(str(response.file_path)).stat().st_size
