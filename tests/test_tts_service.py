"""The service: what it refuses beforehand, what it tries again, what it writes, and what it reports.

The scripted engine stands in where a decision of the service is under test that no real engine makes on request; the
wire, the faults of the API and the disk have tests of their own with real parts.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import wave
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kit import CLOCK
from scripted import USAGE, Outcome, ScriptedEngine, speech

from audio_api import config as config_module
from audio_api.config import AudioConfig, reload_config
from audio_api.engines.base import SpeechAudio, Utterance
from audio_api.errors import (
    AudioAPIError,
    ConfigurationError,
    ErrorCode,
    TTSAudioError,
    TTSContentBlockedError,
    TTSModelNotFoundError,
    TTSOutputError,
    TTSQuotaError,
    TTSRateLimitError,
    TTSUnavailableError,
    TTSValidationError,
)
from audio_api.models.audio_request import (
    AudioRequest,
    AudioResponse,
    BatchAudioRequest,
    MultiSpeakerConfig,
    SpeakerConfig,
    SpeakerMode,
    TokenUsage,
    VoiceConfig,
)
from audio_api.models.speech_models import VoiceModel
from audio_api.services.one_liner import asay, say
from audio_api.services.tts_service import TTSService
from audio_api.speech.speaker import content_key

TEXT = "The quick brown fox jumps over the lazy dog, and then it rests for a while."
DOWN = TTSUnavailableError("down")


@pytest.fixture
def config(tmp_path: Path) -> AudioConfig:
    """Settings that write below the test's own folder, and keep no pieces."""
    return AudioConfig(output_dir=tmp_path / "out", cache_max_bytes=0, _env_file=None)


Serve = Callable[..., TTSService]


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


def read_wav(path: str | None) -> bytes:
    """The samples of a file as the standard library reads them; it must be 24 kHz, 16 bits, one channel."""
    assert path is not None
    with wave.open(path, "rb") as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (24_000, 2, 1)
        return file.readframes(file.getnframes())


def files(config: AudioConfig) -> list[str]:
    """Everything in the output folder, hidden temporary files included."""
    return sorted(path.name for path in config.output_dir.iterdir()) if config.output_dir.exists() else []


def doubtful(utterance: Utterance, share: float = 0.52) -> SpeechAudio:
    """A take that is probably, but not surely, too short."""
    audio = speech(utterance)
    end = int(len(audio.pcm) * share) // 2 * 2
    return replace(audio, pcm=audio.pcm[:end] + bytes(24_000 // 2))


def silent(utterance: Utterance) -> SpeechAudio:
    """A take without a sound."""
    return replace(speech(utterance), pcm=bytes(len(speech(utterance).pcm)), usage=USAGE)


# --- success -------------------------------------------------------------------------------------------------------


async def test_a_success_is_a_playable_file_of_the_engines_sound(serve: Serve, config: AudioConfig) -> None:
    """The file on disk holds exactly the samples the engine made, and the response tells the truth about it."""
    engine = ScriptedEngine([lambda u: speech(u, usage=USAGE)])
    response = await serve(engine=engine).generate_audio(AudioRequest(text=TEXT, output_filename="fox"))
    samples = read_wav(response.file_path)
    assert samples == speech(engine.asked[0]).pcm
    assert response.success
    assert response.file_path == str(config.output_dir.resolve() / "fox.wav")
    assert response.duration == len(samples) / 48_000
    assert (response.attempts, response.usage, response.error, response.warnings) == (1, USAGE, None, ())
    assert response.model == "gemini-3.8-flash-tts"
    assert response.cost_usd == pytest.approx((10 * 0.50 + 100 * 9.0) / 1e6)
    assert response.processing_time is not None
    assert response.processing_time >= 0
    assert files(config) == ["fox.wav"]


async def test_equal_requests_share_a_file_named_after_their_content(serve: Serve, config: AudioConfig) -> None:
    """Without a name the file is called after everything audible: equal requests meet, different ones do not."""
    service = serve()
    same = [await service.generate_audio(AudioRequest(text=TEXT)) for _ in range(2)]
    other = await service.generate_audio(AudioRequest(text=TEXT, style="calm"))
    assert same[0].file_path == same[1].file_path
    assert len(files(config)) == 2
    assert len(Path(other.file_path or "").stem) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"text": "Another text."},
        {"style": "calm"},
        {"language": "de-DE"},
        {"voice_config": VoiceConfig(voice_name="puck")},
        {"voice_config": VoiceConfig(speed=1.5)},
        {"voice_config": VoiceConfig(pitch=1.5)},
    ],
    ids=str,
)
def test_everything_audible_is_in_the_content_key(change: dict[str, Any]) -> None:
    """Whatever changes the sound changes the key; what does not change it does not."""
    key = content_key(Utterance.from_request(AudioRequest(text=TEXT), "m"), "gemini")
    assert content_key(Utterance.from_request(AudioRequest(**{"text": TEXT, **change}), "m"), "gemini") != key
    assert content_key(Utterance.from_request(AudioRequest(text=TEXT), "other"), "gemini") != key
    assert content_key(Utterance.from_request(AudioRequest(text=TEXT), "m"), "offline") != key
    inaudible = AudioRequest(text=TEXT, output_filename="name", priority=5, overwrite=True)
    assert content_key(Utterance.from_request(inaudible, "m"), "gemini") == key


# --- preflight -----------------------------------------------------------------------------------------------------


async def test_a_text_over_the_limit_is_refused_before_any_call(serve: Serve, config: AudioConfig) -> None:
    """A text longer than MAX_TEXT_LENGTH makes no call and no file; the error names both lengths."""
    engine = ScriptedEngine()
    response = await serve(engine=engine, max_text_length=20).generate_audio(AudioRequest(text=TEXT))
    assert (response.success, response.error_code, response.attempts) == (False, ErrorCode.TEXT_TOO_LONG, 0)
    assert "75" in str(response.error)
    assert "20" in str(response.error)
    assert (engine.asked, files(config)) == ([], [])


async def test_a_dialogue_that_does_not_fit_its_speakers_is_refused(serve: Serve) -> None:
    """A speaker who never speaks is an error before any call."""
    engine = ScriptedEngine()
    speakers = [SpeakerConfig(speaker_name=name, voice_name="kore") for name in ("Alice", "Bob")]
    request = AudioRequest(
        text="Alice: Hello!",
        speaker_mode=SpeakerMode.MULTIPLE,
        multi_speaker_config=MultiSpeakerConfig(speakers=speakers),
    )
    response = await serve(engine=engine).generate_audio(request)
    assert response.error_code is ErrorCode.INVALID_REQUEST
    assert "Bob" in str(response.error)
    assert engine.asked == []


async def test_what_the_engine_refuses_is_not_called(serve: Serve) -> None:
    """An engine's preflight ends the request without a call."""
    engine = ScriptedEngine()
    engine.refusal = TTSValidationError("cannot speak that")
    response = await serve(engine=engine).generate_audio(AudioRequest(text=TEXT))
    assert (response.error, response.attempts, engine.asked) == ("cannot speak that", 0, [])


async def test_a_name_that_is_taken_is_refused_before_any_call(serve: Serve, config: AudioConfig) -> None:
    """An existing file stays byte for byte, and nothing is paid; ``overwrite`` replaces it."""
    engine = ScriptedEngine()
    service = serve(engine=engine)
    config.output_dir.mkdir()
    (config.output_dir / "taken.wav").write_bytes(b"precious")
    response = await service.generate_audio(AudioRequest(text=TEXT, output_filename="taken"))
    assert response.error_code is ErrorCode.OUTPUT_EXISTS
    assert (config.output_dir / "taken.wav").read_bytes() == b"precious"
    assert engine.asked == []
    response = await service.generate_audio(AudioRequest(text=TEXT, output_filename="taken", overwrite=True))
    assert read_wav(response.file_path)


async def test_two_requests_for_one_name_pay_once(serve: Serve) -> None:
    """While one request works on a name, a second one for the same name is refused before its call."""
    engine = ScriptedEngine()
    service = serve(engine=engine)
    request = AudioRequest(text=TEXT, output_filename="same")
    responses = await asyncio.gather(*(service.generate_audio(request) for _ in range(4)))
    assert sorted(response.success for response in responses) == [False, False, False, True]
    assert {response.error_code for response in responses if not response.success} == {ErrorCode.OUTPUT_EXISTS}
    assert len(engine.asked) == 1


async def test_no_key_is_an_error_that_says_how_to_set_it(config: AudioConfig) -> None:
    """Without a key a request fails before any call and names both ways out; it is never spoken offline instead."""
    async with TTSService(config) as service:
        response = await service.generate_audio(AudioRequest(text=TEXT))
    assert (response.success, response.error_code, response.attempts) == (False, ErrorCode.CONFIGURATION, 0)
    assert "GEMINI_API_KEY" in str(response.error)
    assert "TTS_ENGINE=offline" in str(response.error)
    with pytest.raises(ConfigurationError):
        response.raise_for_error()
    assert files(config) == []


async def test_a_wrong_environment_is_a_response_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A service that reads the environment reports a wrong setting like any other error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config_module, "_current", None)
    monkeypatch.setenv("RETRY_ATTEMPTS", "many")
    async with TTSService() as service:
        response = await service.generate_audio(AudioRequest(text=TEXT))
        health = await service.health_check()
        with pytest.raises(ConfigurationError, match="RETRY_ATTEMPTS"):
            await service.generate_batch([AudioRequest(text=TEXT)])
    assert response.error_code is ErrorCode.CONFIGURATION
    assert "RETRY_ATTEMPTS" in str(response.error)
    assert (health.healthy, health.engine, health.error_code) == (False, "", ErrorCode.CONFIGURATION)


# --- attempts ------------------------------------------------------------------------------------------------------


async def test_failed_attempts_are_counted_and_billed(serve: Serve) -> None:
    """Usage and cost are summed over every attempt that was billed, failed ones included."""
    empty = TTSAudioError("no audio", usage=USAGE)
    response = await serve(empty, DOWN, silent, lambda u: speech(u, usage=USAGE)).generate_audio(
        AudioRequest(text=TEXT)
    )
    assert response.success
    assert response.attempts == 4
    assert response.usage == USAGE + USAGE + USAGE
    assert response.cost_usd == pytest.approx(3 * (10 * 0.50 + 100 * 9.0) / 1e6)


async def test_a_failure_reports_its_attempts_and_leaves_no_file(serve: Serve, config: AudioConfig) -> None:
    """When every attempt fails the response says why, how often and what it cost, and the folder stays empty."""
    response = await serve(*[silent] * 9).generate_audio(AudioRequest(text=TEXT, output_filename="never"))
    assert (response.success, response.error_code, response.retryable) == (False, ErrorCode.AUDIO_SILENT, True)
    assert response.attempts == 6
    assert response.usage.output_tokens == 600
    assert (response.file_path, response.duration) == (None, None)
    assert files(config) == []


async def test_an_older_file_survives_a_failure(serve: Serve, config: AudioConfig) -> None:
    """With ``overwrite`` the old file is replaced only by a complete new one."""
    config.output_dir.mkdir()
    (config.output_dir / "old.wav").write_bytes(b"precious")
    request = AudioRequest(text=TEXT, output_filename="old", overwrite=True)
    assert not (await serve(TTSContentBlockedError("no")).generate_audio(request)).success
    assert (config.output_dir / "old.wav").read_bytes() == b"precious"


@pytest.mark.parametrize(
    "error",
    [TTSQuotaError("daily"), TTSContentBlockedError("blocked"), TTSRateLimitError("slow", retry_after_s=100.0)],
    ids=lambda error: error.code,
)
async def test_what_waiting_does_not_mend_ends_at_once(serve: Serve, error: AudioAPIError) -> None:
    """Errors that cannot be waited out make one call; class, code and delay reach the caller."""
    response = await serve(error, error).generate_audio(AudioRequest(text=TEXT))
    assert (response.attempts, response.error_code, response.retry_after_s) == (1, error.code, error.retry_after_s)
    with pytest.raises(type(error)):
        response.raise_for_error()


async def test_the_reset_of_a_quota_reaches_the_caller(serve: Serve) -> None:
    """A used-up daily quota says when it comes back."""
    error = TTSQuotaError("daily")
    error.reset_at = datetime(2026, 11, 23, 8, tzinfo=UTC)
    response = await serve(error).generate_audio(AudioRequest(text=TEXT))
    assert response.reset_at == error.reset_at
    with pytest.raises(TTSQuotaError) as caught:
        response.raise_for_error()
    assert caught.value.reset_at == error.reset_at


async def test_calls_of_unknown_fate_are_named(serve: Serve) -> None:
    """A call that timed out may have been billed; a success after it says so."""
    response = await serve(TTSUnavailableError("slow", code=ErrorCode.TIMEOUT)).generate_audio(AudioRequest(text=TEXT))
    assert response.success
    assert any("may have been billed" in warning for warning in response.warnings)


async def test_an_answer_without_sound_or_usage_may_have_been_billed(serve: Serve) -> None:
    """An empty answer that names no tokens may cost something all the same; one that names them is in the bill."""
    service = serve(TTSAudioError("nothing"), TTSAudioError("billed", usage=USAGE), lambda u: speech(u, usage=USAGE))
    response = await service.generate_audio(AudioRequest(text=TEXT))
    assert response.success
    assert response.warnings == ("1 failed call(s) may have been billed beyond this cost",)


@pytest.mark.parametrize("is_billed", [True, False])
async def test_sound_without_usage_costs_an_unknown_sum(config: AudioConfig, is_billed: bool) -> None:
    """A reply that does not say what it billed makes the cost unknown rather than 0; what is free costs nothing."""
    engine = ScriptedEngine([lambda u: speech(u, usage=TokenUsage(input_tokens=10))])
    engine.is_billed = is_billed
    async with TTSService(config, engine=engine, clock=CLOCK) as service:
        unary = await service.generate_audio(AudioRequest(text=TEXT))
        streamed = await service.stream_to_file(AudioRequest(text=TEXT, output_filename="streamed"))
    assert unary.success
    assert streamed.success
    known = () if is_billed else (pytest.approx(10 * 0.50 / 1e6), 0.0)
    assert (unary.cost_usd, streamed.cost_usd) == (known or (None, None))


async def test_the_output_limit_is_not_met_twice(serve: Serve) -> None:
    """Audio cut at the model's output limit is no success, and the same call is not repeated: its halves are made."""
    engine = ScriptedEngine([lambda u: speech(u, finish_reason="MAX_TOKENS")])
    response = await serve(engine=engine).generate_audio(AudioRequest(text=TEXT))
    assert (response.success, response.attempts) == (True, 3)
    whole, *halves = (utterance.text for utterance in engine.asked)
    assert whole == TEXT
    assert " ".join(halves) == TEXT


async def test_a_text_that_cannot_be_halved_meets_the_output_limit_once(serve: Serve, config: AudioConfig) -> None:
    """A short text cut at the output limit is an error after one call."""
    short = AudioRequest(text="One sentence that is not worth halving.")
    response = await serve(lambda u: speech(u, finish_reason="MAX_TOKENS")).generate_audio(short)
    assert (response.success, response.error_code, response.attempts) == (False, ErrorCode.AUDIO_INCOMPLETE, 1)
    assert files(config) == []


@pytest.mark.parametrize("reason", ["OTHER", None, "SOMETHING_NEW"])
async def test_audio_that_did_not_stop_by_itself_is_no_success(serve: Serve, reason: str | None) -> None:
    """Only STOP ends a success; anything else is tried again."""
    response = await serve(lambda u: speech(u, finish_reason=reason)).generate_audio(AudioRequest(text=TEXT))
    assert (response.success, response.attempts) == (True, 2)


async def test_a_bug_is_never_a_response(serve: Serve) -> None:
    """A TypeError in an engine goes through: it is no fault of the API."""

    def broken(_: Utterance) -> SpeechAudio:
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        await serve(broken).generate_audio(AudioRequest(text=TEXT))


# --- doubtful audio ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slip", [TEXT, {"text": TEXT}], ids=type)
async def test_a_text_alone_is_no_request(serve: Serve, slip: Any) -> None:
    """A caller who passes the text itself is told what is wanted, by every entry, and without the text."""
    service = serve()
    for speak in (service.generate_audio, service.stream_to_file, lambda text: anext(service.stream_audio(text))):
        with pytest.raises(TypeError, match=rf"AudioRequest\(text=…\), not a {type(slip).__name__}$"):
            await speak(slip)


async def test_doubtful_audio_is_asked_for_again(serve: Serve) -> None:
    """A take that is probably too short is followed by another; a good one ends it without a warning."""
    response = await serve(doubtful).generate_audio(AudioRequest(text=TEXT))
    assert (response.success, response.attempts, response.warnings) == (True, 2, ())


async def test_the_longest_of_three_doubtful_takes_is_accepted(serve: Serve) -> None:
    """When three takes are doubtful the one with most speech is written, with a warning."""
    takes = [lambda u, share=share: doubtful(u, share) for share in (0.50, 0.56, 0.48)]
    engine = ScriptedEngine(takes)
    response = await serve(engine=engine).generate_audio(AudioRequest(text=TEXT))
    assert (response.success, response.attempts) == (True, 3)
    assert read_wav(response.file_path) == doubtful(engine.asked[0], 0.56).pcm
    assert any("3 doubtful takes" in warning for warning in response.warnings)


async def test_a_doubtful_take_is_better_than_an_error(serve: Serve) -> None:
    """A doubtful take that was paid for is used when no later attempt gives anything better."""
    response = await serve(doubtful, *[DOWN] * 9).generate_audio(AudioRequest(text=TEXT))
    assert response.success
    assert response.attempts == 6


async def test_strict_checks_refuse_doubtful_audio(serve: Serve, config: AudioConfig) -> None:
    """With AUDIO_CHECKS=strict doubtful audio fails like impossible audio."""
    response = await serve(*[doubtful] * 99, audio_checks="strict").generate_audio(AudioRequest(text=TEXT))
    assert (response.success, response.error_code) == (False, ErrorCode.AUDIO_TOO_SHORT)
    assert files(config) == []


async def test_checks_can_be_turned_off(serve: Serve) -> None:
    """With AUDIO_CHECKS=off only completeness is checked: silence passes, a missing STOP does not."""
    assert (await serve(silent, audio_checks="off").generate_audio(AudioRequest(text=TEXT))).attempts == 1
    cut = serve(lambda u: speech(u, finish_reason="OTHER"), audio_checks="off")
    assert (await cut.generate_audio(AudioRequest(text=TEXT))).attempts == 2


# --- models --------------------------------------------------------------------------------------------------------


async def test_an_unknown_model_is_served_by_its_successor(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """A 404 leads to the successor, said in each response and once in the log; the lost model is not asked again."""
    engine = ScriptedEngine([TTSModelNotFoundError("404")])
    service = serve(engine=engine)
    for _ in range(2):
        response = await service.generate_audio(AudioRequest(text=TEXT, model=VoiceModel.GEMINI_3_1_FLASH_TTS))
        assert response.success
        assert response.model == VoiceModel.GEMINI_3_8_FLASH_LITE_TTS
        assert any("gemini-3.1-flash-tts-preview" in warning for warning in response.warnings)
    assert [utterance.model for utterance in engine.asked] == [
        "gemini-3.1-flash-tts-preview",
        "gemini-3.8-flash-lite-tts",
        "gemini-3.8-flash-lite-tts",
    ]
    assert sum("successor" in record.message for record in caplog.records) == 1


async def test_a_model_past_its_shutdown_date_is_not_asked(config: AudioConfig) -> None:
    """After the announced last day the successor is asked first."""
    engine = ScriptedEngine()
    clock = replace(CLOCK, now=lambda: datetime(2026, 12, 19, tzinfo=UTC))
    response = await TTSService(config, engine=engine, clock=clock).generate_audio(
        AudioRequest(text=TEXT, model=VoiceModel.GEMINI_TTS_PRO)
    )
    assert (response.success, response.attempts, response.model) == (True, 1, VoiceModel.GEMINI_3_8_FLASH_TTS)
    assert len(response.warnings) == 1


@pytest.mark.parametrize(("model", "fallback"), [(VoiceModel.GEMINI_TTS_PRO, False), ("somebody-elses-model", True)])
async def test_without_a_successor_a_lost_model_is_an_error(serve: Serve, model: str, fallback: bool) -> None:
    """MODEL_FALLBACK=false, or a model without successor, turns the 404 into an error that says what to use."""
    service = serve(*[TTSModelNotFoundError("404")] * 2, model_fallback=fallback)
    response = await service.generate_audio(AudioRequest(text=TEXT, model=model))
    assert (response.success, response.error_code, response.attempts) == (False, ErrorCode.MODEL_NOT_FOUND, 1)
    assert model in str(response.error)


async def test_prices_follow_the_date_and_the_settings(config: AudioConfig) -> None:
    """The price in force on the day is used; MODEL_PRICES overrides it; an unknown model costs an unknown sum."""

    async def cost(model: str | None = None, **changes: Any) -> float | None:
        engine = ScriptedEngine([lambda u: speech(u, usage=USAGE)] * 2)
        clock = replace(CLOCK, now=lambda: datetime(2027, 1, 1, tzinfo=UTC))
        settings = AudioConfig(**{**config.model_dump(), **changes}, _env_file=None)
        response = await TTSService(settings, engine=engine, clock=clock).generate_audio(
            AudioRequest(text=TEXT, model=model)
        )
        assert response.success
        return response.cost_usd

    assert await cost() == pytest.approx((10 * 1.0 + 100 * 18.0) / 1e6)
    assert await cost(model_prices={"gemini-3.8-flash-tts": (2.0, 4.0)}) == pytest.approx((10 * 2.0 + 100 * 4.0) / 1e6)
    assert await cost(model="unheard-of") is None


# --- writing -------------------------------------------------------------------------------------------------------


async def test_paid_audio_is_handed_over_when_its_file_cannot_be_written(serve: Serve, config: AudioConfig) -> None:
    """When the disk fails after the call, the response carries the complete WAV and JSON does not."""

    def and_then_the_folder_is_gone(utterance: Utterance) -> SpeechAudio:
        config.output_dir.write_bytes(b"a file in its place")
        return speech(utterance)

    engine = ScriptedEngine([and_then_the_folder_is_gone])
    response = await serve(engine=engine).generate_audio(AudioRequest(text=TEXT, output_filename="lost"))
    assert (response.success, response.error_code) == (False, ErrorCode.OUTPUT_FAILED)
    with pytest.raises(TTSOutputError) as caught:
        response.raise_for_error()
    rescued = config.output_dir.with_name("rescued.wav")
    rescued.write_bytes(caught.value.audio or b"")
    assert read_wav(str(rescued)) == speech(engine.asked[0]).pcm
    assert "unsaved_audio" not in response.model_dump_json()


async def test_cancelling_stops_the_call_and_leaves_nothing(config: AudioConfig) -> None:
    """A cancelled request cancels the engine's call, writes nothing and frees its slot and its name."""
    begun, ended = asyncio.Event(), asyncio.Event()

    class Hanging(ScriptedEngine):
        async def synthesize(self, utterance: Utterance) -> SpeechAudio:
            if self.asked:
                return await super().synthesize(utterance)
            self.asked.append(utterance)
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            raise AssertionError

    settings = config.model_copy(update={"max_concurrency": 1})
    service = TTSService(settings, engine=Hanging(), clock=CLOCK)
    request = AudioRequest(text=TEXT, output_filename="name")
    task = asyncio.create_task(service.generate_audio(request))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    assert files(config) == []
    assert (await service.generate_audio(request)).success


# --- batches -------------------------------------------------------------------------------------------------------


async def test_a_batch_answers_in_order_and_survives_failures(serve: Serve) -> None:
    """Results stand in the order of the requests; one failure stops no other; the counters agree."""
    refused = AudioRequest(text="x" * 300)
    requests = [AudioRequest(text=f"Sentence number {n} of the batch.", output_filename=f"{n}") for n in range(7)]
    batch = await serve(max_text_length=200).generate_batch([*requests[:3], refused, *requests[3:]])
    names = [Path(result.file_path).stem if result.file_path else None for result in batch.results]
    assert names == ["0", "1", "2", None, "3", "4", "5", "6"]
    assert (batch.total_requests, batch.completed, batch.failed, batch.status) == (8, 7, 1, "completed")


async def test_a_batch_keeps_its_id_and_fails_when_all_fail(serve: Serve) -> None:
    """The caller's batch id comes back; a batch without any success has failed."""
    request = BatchAudioRequest(requests=[AudioRequest(text=TEXT)], batch_id="mine")
    batch = await serve(TTSContentBlockedError("no")).generate_batch(request)
    assert (batch.batch_id, batch.status, batch.failed) == ("mine", "failed", 1)


@pytest.mark.parametrize(("asked", "setting", "most"), [(2, 10, 2), (None, 3, 3), (8, 3, 3)])
async def test_a_batch_works_on_a_few_at_a_time(
    config: AudioConfig, asked: int | None, setting: int, most: int
) -> None:
    """``max_concurrency`` bounds the calls in flight; the setting is the upper bound of every service."""
    in_flight = highest = 0
    together = asyncio.Barrier(most)

    class Counting(ScriptedEngine):
        async def synthesize(self, utterance: Utterance) -> SpeechAudio:
            nonlocal in_flight, highest
            in_flight += 1
            highest = max(highest, in_flight)
            await together.wait()
            in_flight -= 1
            return await super().synthesize(utterance)

    service = TTSService(config.model_copy(update={"max_concurrency": setting}), engine=Counting(), clock=CLOCK)
    requests = [AudioRequest(text=f"Sentence number {n} of the batch.") for n in range(12)]
    assert (await service.generate_batch(requests, max_concurrency=asked)).completed == 12
    assert highest == most


async def test_a_bug_in_a_batchs_listener_ends_the_batch(serve: Serve) -> None:
    """What ``on_progress`` raises comes out in a group, and no further request is made."""
    told: list[int] = []

    def broken(done: int, total: int, response: AudioResponse) -> None:
        told.append(done)
        raise RuntimeError("a bug")

    with pytest.raises(ExceptionGroup) as caught:
        await serve().generate_batch([AudioRequest(text=f"Request {n}.") for n in range(5)], 1, on_progress=broken)
    assert [str(error) for error in caught.value.exceptions] == ["a bug"]
    assert told == [1]


@pytest.mark.parametrize("awaited", [False, True])
async def test_progress_is_told_after_each_request(serve: Serve, awaited: bool) -> None:
    """The callback, plain or a coroutine function, hears of every finished request once."""
    heard: list[tuple[int, int, AudioResponse]] = []

    async def coroutine(done: int, total: int, response: AudioResponse) -> None:
        heard.append((done, total, response))

    def plain(done: int, total: int, response: AudioResponse) -> None:
        heard.append((done, total, response))

    requests = [AudioRequest(text=f"Sentence number {n} of the batch.") for n in range(5)]
    batch = await serve().generate_batch(requests, 2, on_progress=coroutine if awaited else plain)
    assert [(done, total) for done, total, _ in heard] == [(n, 5) for n in range(1, 6)]
    assert {response.file_path for *_, response in heard} == {result.file_path for result in batch.results}


@pytest.mark.parametrize(("requests", "max_concurrency"), [([], None), ([AudioRequest(text=TEXT)], 0)])
async def test_an_impossible_batch_is_refused(
    serve: Serve, requests: list[AudioRequest], max_concurrency: int | None
) -> None:
    """No requests, or no slots to work in, is the caller's mistake."""
    with pytest.raises(TTSValidationError):
        await serve().generate_batch(requests, max_concurrency)


async def test_a_batch_that_holds_something_else_costs_nothing(serve: Serve) -> None:
    """No request of it is spoken: the mistake is found before the first call."""
    engine = ScriptedEngine()
    requests: list[Any] = [AudioRequest(text=TEXT), TEXT]
    with pytest.raises(TypeError, match="not a str"):
        await serve(engine=engine).generate_batch(requests)
    assert engine.asked == []


# --- life cycle ----------------------------------------------------------------------------------------------------


async def test_health_is_the_engines_health(serve: Serve) -> None:
    """``health_check`` tells in one word whether the engine can be reached, and why not."""
    engine = ScriptedEngine()
    service = serve(engine=engine)
    assert await service.health_check()
    engine.refusal = TTSUnavailableError("no route", code=ErrorCode.CONNECTION_FAILED)
    health = await service.health_check()
    assert not health
    assert (health.engine, health.error, health.error_code) == ("scripted", "no route", ErrorCode.CONNECTION_FAILED)


def test_a_service_goes_on_in_a_later_event_loop(config: AudioConfig) -> None:
    """Requests that wait for a slot, or share a piece, do so in each ``asyncio.run`` as in the first."""
    engine = ScriptedEngine()
    service = TTSService(AudioConfig(**{**config.model_dump(), "max_concurrency": 1}, _env_file=None), engine=engine)
    for run in range(3):
        texts = [f"Run {run}, request {number}." for number in (1, 2, 2, 3)]
        batch = asyncio.run(service.generate_batch([AudioRequest(text=text) for text in texts]))
        assert batch.completed == 4
        long = asyncio.run(service.generate_audio(AudioRequest(text=f"{run}. {TEXT} " * 100)))
        assert long.success
    assert len(engine.asked) > 3 * 4
    asyncio.run(service.close())


async def test_a_service_is_not_shared_by_event_loops_that_run(serve: Serve) -> None:
    """A call might wait for one of the other loop, for ever; so it is refused."""
    service, request = serve(), AudioRequest(text=TEXT)
    assert (await service.generate_audio(request)).success
    with pytest.raises(RuntimeError, match="another event loop"):
        await asyncio.to_thread(lambda: asyncio.run(service.generate_audio(request)))
    assert (await service.generate_audio(request)).success


async def test_a_factory_is_asked_once_for_each_settings(config: AudioConfig) -> None:
    """What it makes speaks and is closed with the service."""
    made: list[ScriptedEngine] = []

    def make(given: AudioConfig) -> ScriptedEngine:
        assert given is config
        made.append(ScriptedEngine())
        return made[-1]

    async with TTSService(config, engine_factory=make) as service:
        await service.warm_up()
        assert (await service.generate_audio(AudioRequest(text="Made to order."))).success
    (engine,) = made
    assert engine.warm
    assert engine.closed


async def test_an_injected_engine_is_not_closed(config: AudioConfig) -> None:
    """Who opens a thing closes it; after ``close`` the service says that it is closed."""
    engine = ScriptedEngine()
    async with TTSService(config, engine=engine) as service:
        pass
    assert not engine.closed
    await service.close()
    with pytest.raises(RuntimeError, match="closed"):
        await service.generate_audio(AudioRequest(text=TEXT))


async def test_a_reloaded_configuration_takes_effect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A service without a config of its own follows ``reload_config``; one with a config does not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config_module, "_current", None)
    monkeypatch.setenv("OUTPUT_DIR", "first")
    service = TTSService(engine=ScriptedEngine(), clock=CLOCK)
    first = await service.generate_audio(AudioRequest(text=TEXT, output_filename="a"))
    monkeypatch.setenv("OUTPUT_DIR", "second")
    unchanged = await service.generate_audio(AudioRequest(text=TEXT, output_filename="b"))
    reload_config()
    second = await service.generate_audio(AudioRequest(text=TEXT, output_filename="c"))
    folders = [Path(response.file_path or "").parent.name for response in (first, unchanged, second)]
    assert folders == ["first", "first", "second"]


async def test_an_engine_of_replaced_settings_is_closed_when_its_last_request_has_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A program that reloads its settings every hour keeps one engine, and no request loses the one it speaks with."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Slow(ScriptedEngine):
        async def synthesize(self, utterance: Utterance) -> SpeechAudio:
            begun.set()
            await go_on.wait()
            assert not self.closed
            return await super().synthesize(utterance)

    engines: list[ScriptedEngine] = []

    def make(_: AudioConfig) -> ScriptedEngine:
        engines.append(ScriptedEngine() if engines else Slow())
        return engines[-1]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config_module, "_current", None)
    async with TTSService(engine_factory=make, clock=CLOCK) as service:
        running = asyncio.create_task(service.generate_audio(AudioRequest(text=TEXT, output_filename="a")))
        await begun.wait()
        for name in "bcd":
            reload_config()
            assert (await service.generate_audio(AudioRequest(text=TEXT, output_filename=name))).success
        assert [engine.closed for engine in engines] == [False, True, True, False]
        go_on.set()
        assert (await running).success
        assert [engine.closed for engine in engines] == [True, True, True, False]
    assert all(engine.closed for engine in engines)


async def test_closing_ends_the_engine_under_a_running_request_once(config: AudioConfig) -> None:
    """The request fails or succeeds as its engine lets it; nothing is closed a second time when it ends."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    closed = []

    class Slow(ScriptedEngine):
        async def synthesize(self, utterance: Utterance) -> SpeechAudio:
            begun.set()
            await go_on.wait()
            return await super().synthesize(utterance)

        async def close(self) -> None:
            closed.append(self)

    service = TTSService(config, engine_factory=lambda _: Slow())
    running = asyncio.create_task(service.generate_audio(AudioRequest(text=TEXT)))
    await begun.wait()
    await service.close()
    go_on.set()
    assert (await running).success
    await service.close()
    assert len(closed) == 1


async def test_the_text_is_never_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Events carry the text's length and a short hash, never its words."""
    caplog.set_level("DEBUG")
    await serve(DOWN, silent).generate_audio(AudioRequest(text=TEXT))
    assert caplog.records
    assert all("fox" not in str(record.__dict__) for record in caplog.records)
    assert any(record.__dict__.get("text_length") == len(TEXT) for record in caplog.records)


# --- the one-liner -------------------------------------------------------------------------------------------------


def test_say_writes_where_it_is_told(tmp_path: Path) -> None:
    """``say`` is one line from text to file, here with offline speech."""
    offline = AudioConfig(tts_engine="offline", _env_file=None)
    response = say("Hello from one line.", tmp_path / "hello.wav", voice="Puck", config=offline)
    assert response.file_path == str(tmp_path.resolve() / "hello.wav")
    assert read_wav(response.file_path)
    with pytest.raises(TTSOutputError):
        say("Hello again.", tmp_path / "hello.wav", config=offline)


async def test_say_wants_a_file_where_a_folder_is(config: AudioConfig, tmp_path: Path) -> None:
    """A folder given for a file is an error before any call, rather than a file of its name beside it."""
    (tmp_path / "speech").mkdir()
    with pytest.raises(TTSOutputError, match="speech' is a folder: name a file in it"):
        await asay("Hello.", tmp_path / "speech", config=config)
    assert [path.name for path in tmp_path.iterdir()] == ["speech"]


async def test_say_works_inside_a_running_loop(tmp_path: Path) -> None:
    """``say`` may be called where a loop is running, as in a notebook; ``asay`` is the better choice there."""
    offline = AudioConfig(tts_engine="offline", output_dir=tmp_path, _env_file=None)
    assert read_wav(say("Hello from a loop.", config=offline).file_path)
    assert read_wav((await asay("Hello, awaited.", config=offline, style="calm", language="en-GB")).file_path)


async def test_say_raises_what_went_wrong(config: AudioConfig) -> None:
    """The one-liner raises instead of answering with a failure."""
    with pytest.raises(ConfigurationError, match="GEMINI_API_KEY"):
        await asay("Hello.", config=config)
    with pytest.raises(ValueError, match="unknown voice"):
        await asay("Hello.", voice="nobody", config=config)


def test_say_knows_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``~`` means what it means in OUTPUT_DIR, rather than a folder of that name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    response = say("Hello at home.", "~/hello.wav", config=AudioConfig(tts_engine="offline", _env_file=None))
    assert response.file_path == str(tmp_path.resolve() / "me" / "hello.wav")
    assert not (tmp_path / "~").exists()


def test_an_error_of_say_comes_alone(config: AudioConfig) -> None:
    """Its traceback begins with what went wrong, not with how ``say`` found out that no loop is running."""
    with pytest.raises(ConfigurationError) as caught:
        say("Hello.", config=config)
    assert caught.value.__context__ is None


if __name__ == "__main__":
    sys.exit(subprocess.call([sys.executable, "-m", "pytest", __file__, *sys.argv[1:]]))
