"""The simplest things a user does, through the offline engine. ``python tests/test_example.py`` runs it alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sound import RATE, assert_audible

from audio_api import AudioConfig, AudioRequest, AudioResponse, BatchAudioRequest, ErrorCode, TTSService, asay, say


async def test_one_sentence_becomes_one_audible_file(offline_tts: TTSService, offline_config: AudioConfig) -> None:
    """A request with nothing but a text makes a WAV in the output folder, as long as the response says."""
    response = await offline_tts.generate_audio(AudioRequest(text="Hello! This is the simplest example."))
    response.raise_for_error()
    samples = assert_audible(response.file_path)
    assert response.duration == pytest.approx(len(samples) / RATE)
    assert [path.resolve() for path in offline_config.output_dir.iterdir()] == [Path(response.file_path or "")]


async def test_more_words_take_longer(offline_tts: TTSService) -> None:
    """Four times the words make about four times the sound: nothing is cut off."""
    sentence = "The quick brown fox jumps over the lazy dog. "
    once = await offline_tts.generate_audio(AudioRequest(text=sentence))
    four_times = await offline_tts.generate_audio(AudioRequest(text=sentence * 4))
    assert 3 < len(assert_audible(four_times.file_path)) / len(assert_audible(once.file_path)) < 5


async def test_a_named_file_is_never_replaced_unasked(offline_tts: TTSService) -> None:
    """A second request with the same name fails and leaves the first file as it was; ``overwrite`` replaces it."""
    first = await offline_tts.generate_audio(AudioRequest(text="The first version.", output_filename="note"))
    path = Path(first.file_path or "")
    before = path.read_bytes()
    second = AudioRequest(text="The second version, which is longer.", output_filename="note.wav")
    refused = await offline_tts.generate_audio(second)
    assert refused.error_code is ErrorCode.OUTPUT_EXISTS
    assert path.read_bytes() == before
    replaced = await offline_tts.generate_audio(second.model_copy(update={"overwrite": True}))
    assert replaced.success
    assert len(assert_audible(path)) > len(before) / 2


async def test_a_batch_keeps_its_order_and_counts(offline_tts: TTSService) -> None:
    """Each request of a batch gets its response at its place, and progress is told after each."""
    texts = ["One.", "One, two, three, four.", "One, two, three, four, five, six, seven, eight, nine, ten."]
    requests = [AudioRequest(text=text, output_filename=f"part-{n}") for n, text in enumerate(texts)]
    told: list[tuple[int, int]] = []

    def on_progress(done: int, total: int, response: AudioResponse) -> None:
        told.append((done, total))

    batch = await offline_tts.generate_batch(
        BatchAudioRequest(requests=tuple(requests)), max_concurrency=2, on_progress=on_progress
    )
    assert (batch.total_requests, batch.completed, batch.failed, batch.status) == (3, 3, 0, "completed")
    assert [Path(result.file_path or "").name for result in batch.results] == ["part-0.wav", "part-1.wav", "part-2.wav"]
    lengths = [len(assert_audible(result.file_path)) for result in batch.results]
    assert lengths == sorted(lengths)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_say_needs_one_line(offline_config: AudioConfig, tmp_path: Path) -> None:
    """``say`` speaks into the file one names, without any service or event loop of one's own."""
    response = say("One line is enough.", tmp_path / "line.wav", config=offline_config)
    assert Path(response.file_path or "") == (tmp_path / "line.wav").resolve()
    assert_audible(tmp_path / "line.wav")


async def test_asay_is_awaited(offline_config: AudioConfig, tmp_path: Path) -> None:
    """``asay`` is the same line inside a running event loop."""
    await asay("One awaited line is enough.", tmp_path / "awaited.wav", config=offline_config)
    assert_audible(tmp_path / "awaited.wav")


if __name__ == "__main__":
    sys.exit(subprocess.call([sys.executable, "-m", "pytest", __file__, *sys.argv[1:]]))
