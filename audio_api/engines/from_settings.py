"""The source of speech that the settings name."""

from __future__ import annotations

import logging

from audio_api.config import AudioConfig
from audio_api.engines.base import SpeechEngine

# The event is one of the service, wherever its engine is made.
logger = logging.getLogger("audio_api.services.tts_service")


def make_engine(config: AudioConfig, gemini_client: object | None = None) -> SpeechEngine:
    """Make the source of speech that the settings name; the caller closes it.

    Args:
        config: The settings.
        gemini_client: As ``TTSService``; makes it Gemini, whatever the settings say.
    """
    if config.tts_engine == "offline" and gemini_client is None:
        from audio_api.engines.offline import OfflineEngine  # an optional extra

        logger.warning("speech is made offline: a robotic voice, not Gemini", extra={"engine": "offline"})
        return OfflineEngine()
    from audio_api.engines.gemini import GeminiEngine  # its SDK takes 0.8 s to import
    from audio_api.engines.gemini_backend import Backend, api_url

    return GeminiEngine(
        config.gemini_api_key.get_secret_value() if config.gemini_api_key else None,
        base_url=api_url(config),
        backend=Backend.of(config),
        timeout_s=config.request_timeout,
        flex_timeout_s=config.flex_timeout,
        stall_timeout_s=config.stream_stall_timeout,
        max_connections=config.max_concurrency,
        max_input_tokens=config.max_context_tokens,
        store=config.gemini_store,
        safety=config.gemini_safety_threshold,
        client=gemini_client,
    )
