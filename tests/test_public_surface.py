"""The public surface is one sorted list, and changing it is a decision."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import Any

import pytest

import audio_api

PUBLIC = [
    "AudioAPIError",
    "AudioConfig",
    "AudioFormat",
    "AudioRequest",
    "AudioResponse",
    "BatchAudioRequest",
    "BatchAudioResponse",
    "ConfigurationError",
    "ErrorCode",
    "Estimate",
    "GeminiBatch",
    "GeminiBatchStatus",
    "Language",
    "MultiSpeakerConfig",
    "QueueClosedError",
    "QueueFullError",
    "QueueService",
    "QueueServiceError",
    "QueueUnavailableError",
    "SpeakerConfig",
    "SpeakerMode",
    "SpeechProgress",
    "StructuredFormatter",
    "TTSAPIError",
    "TTSAudioError",
    "TTSAuthenticationError",
    "TTSContentBlockedError",
    "TTSError",
    "TTSModelNotFoundError",
    "TTSOutputError",
    "TTSQuotaError",
    "TTSRateLimitError",
    "TTSService",
    "TTSUnavailableError",
    "TTSValidationError",
    "TTSVoiceNotFoundError",
    "TaskNotFoundError",
    "TaskResult",
    "TokenUsage",
    "VoiceConfig",
    "VoiceInfo",
    "VoiceModel",
    "VoiceName",
    "WorkerManager",
    "WorkerService",
    "WorkerServiceError",
    "WorkerStatus",
    "asay",
    "get_config",
    "get_logger",
    "reload_config",
    "say",
    "setup_logging",
]


def test_the_list_is_exact_and_sorted() -> None:
    """``__all__`` holds these names and no others, in order; ``dir`` shows them and the version."""
    assert audio_api.__all__ == PUBLIC == sorted(PUBLIC)
    assert dir(audio_api) == sorted([*PUBLIC, "__version__"])


@pytest.mark.parametrize("name", PUBLIC)
def test_every_name_loads_and_says_what_it_is(name: str) -> None:
    """Each public name can be imported, belongs to this package and has a docstring."""
    value = getattr(audio_api, name)
    assert value.__module__.startswith("audio_api.")
    assert inspect.getdoc(value)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A wrong name fails as on any module."""
    with pytest.raises(AttributeError, match="no attribute 'TTSServize'"):
        _ = audio_api.TTSServize


def test_the_version_has_one_source() -> None:
    """The package says the version it was installed as."""
    assert audio_api.__version__ == version("audio-api")


def parameters(function: Any) -> list[str]:
    """Names of a function's parameters, with ``=None`` behind those whose default is None."""
    return [
        name + ("=None" if parameter.default is None else "")
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "self"
    ]


def test_calls_that_users_wrote_down() -> None:
    """The promised calls take the promised arguments, in this order."""
    service = audio_api.TTSService
    assert parameters(service)[:3] == ["config=None", "gemini_client=None", "engine=None"]
    assert parameters(service.generate_audio) == ["request", "on_progress=None"]
    assert parameters(service.estimate) == ["request"]
    assert parameters(service.stream_to_file) == ["request", "on_progress=None"]
    assert parameters(service.stream_audio) == ["request", "on_done=None", "verified", "format"]
    assert parameters(service.generate_batch) == ["requests", "max_concurrency=None", "on_progress=None"]
    assert parameters(audio_api.say)[:2] == parameters(audio_api.asay)[:2] == ["text", "path=None"]
    assert parameters(audio_api.setup_logging) == ["config=None"]
    assert parameters(audio_api.get_config) == parameters(audio_api.reload_config) == []
    for call in (service.generate_audio, service.generate_batch, service.health_check, service.close, audio_api.asay):
        assert inspect.iscoroutinefunction(call)
    assert not inspect.iscoroutinefunction(audio_api.say)
    assert hasattr(service, "__aenter__")
    assert callable(audio_api.AudioConfig.load_config)
    assert callable(audio_api.AudioConfig.validate_config)


REQUEST_FIELDS = [
    "text",
    "model",
    "speaker_mode",
    "language",
    "voice_config",
    "multi_speaker_config",
    "cast",
    "markup",
    "markup_keep",
    "audio_format",
    "output_format",
    "output_filename",
    "overwrite",
    "style",
    "subtitles",
    "cache",
    "priority",
    "service_tier",
]


def test_fields_of_requests_and_responses() -> None:
    """A field of the data that users build or read is neither lost nor renamed."""
    assert list(audio_api.AudioRequest.model_fields) == REQUEST_FIELDS
    assert {"success", "message", "file_path", "duration", "error", "processing_time"} <= set(
        audio_api.AudioResponse.model_fields
    )
    assert {"error_code", "model", "attempts", "usage", "service_tier", "cost_usd", "warnings"} <= set(
        audio_api.AudioResponse.model_fields
    )
    assert list(audio_api.BatchAudioRequest.model_fields) == ["requests", "batch_id"]
    assert list(audio_api.BatchAudioResponse.model_fields) == [
        "batch_id",
        "total_requests",
        "completed",
        "failed",
        "results",
        "status",
    ]


def test_model_ids_stay_what_they_are() -> None:
    """The names of the models keep their ids, the alias included."""
    assert {name: model.value for name, model in audio_api.VoiceModel.__members__.items()} == {
        "GEMINI_3_8_FLASH_TTS": "gemini-3.8-flash-tts",
        "GEMINI_3_8_FLASH_LITE_TTS": "gemini-3.8-flash-lite-tts",
        "GEMINI_3_1_FLASH_TTS": "gemini-3.1-flash-tts-preview",
        "GEMINI_TTS_PRO": "gemini-2.5-pro-preview-tts",
        "GEMINI_TTS_FLASH": "gemini-2.5-flash-preview-tts",
        "GEMINI_TTS": "gemini-2.5-pro-preview-tts",
    }
