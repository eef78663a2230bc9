"""What this machine and its settings allow, one check after the other; nothing is billed."""

from __future__ import annotations

import asyncio
import platform
import shutil
import stat
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from audio_api.config import AudioConfig
from audio_api.doctor.checks import Check as Check  # programs import it from here
from audio_api.doctor.checks import one_line
from audio_api.doctor.live_calls import api_client, error_text
from audio_api.doctor.storage import check_store
from audio_api.doctor.voices import check_voices
from audio_api.engines.base import Turn, Utterance
from audio_api.engines.from_settings import make_engine
from audio_api.engines.gemini_backend import api_url
from audio_api.engines.gemini_errors import classify
from audio_api.errors import AudioAPIError, ConfigurationError
from audio_api.models.audio_request import VoiceConfig
from audio_api.queues.redis_connection import ping

PACKAGES = ("audio-api", "google-genai")
EXTRAS = {
    "offline": ("espeakng_loader",),
    "emulator": ("starlette", "uvicorn"),
    "redis": ("redis",),
    "store": ("obstore",),
}
"""The optional parts of the package, and the modules that each needs."""

# About half an hour of speech.
_LITTLE_SPACE_BYTES = 100 * 2**20
_API_LIMIT_S = 10.0


async def check_installation() -> AsyncIterator[Check]:
    """Look at everything, and tell it as it is known. Settings come from the environment and ``.env``."""
    yield Check("ok", "Python", f"{platform.python_version()} in {sys.prefix}")
    for package in PACKAGES:
        try:
            yield Check("ok", package, version(package))
        except PackageNotFoundError:
            yield Check("fail", package, f"not installed: pip install {package}")
    for extra, modules in EXTRAS.items():
        missing = " and ".join(module for module in modules if find_spec(module) is None)
        text = f"{missing} missing: pip install 'audio-api[{extra}]'" if missing else "installed"
        yield Check("warn" if missing else "ok", f"extra {extra}", text)
    yield _check_env_file(Path(".env"))
    try:
        config = AudioConfig.load_config()
    except ConfigurationError as error:
        yield Check("fail", "settings", str(error))
        return
    yield Check("ok", "settings", f"engine {config.tts_engine}, model {config.default_tts_model}")
    yield _check_key(config)
    yield _check_output(config)
    for name in ("output_url", "cache_url"):
        if url := getattr(config, name):
            yield await check_store(name.upper(), url, config.store_timeout)
    yield await _check_offline_speech(config)
    yield await _check_redis(config)
    yield (asked := await _check_api(config))
    if asked.level == "ok" and (config.gemini_api_key or config.uses_credentials):
        yield await check_voices(config)


def _check_env_file(path: Path) -> Check:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return Check("ok", ".env", f"none in {_working_folder()} ({error.strerror}); the environment alone counts")
    if stat.S_ISREG(mode) and mode & 0o077:
        return Check("warn", ".env", f"others on this machine can open it (mode {mode & 0o777:03o}): chmod 600 {path}")
    return Check("ok", ".env", "found, for its owner only")


def _working_folder() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return "the working folder, which was deleted"


def _check_key(config: AudioConfig) -> Check:
    if config.uses_credentials:
        project = f"{config.google_cloud_project} in {config.google_cloud_location}"
        return Check("ok", "API key", f"not needed: Google's credentials call Vertex AI for {project}")
    try:
        config.require_api_key()
    except ConfigurationError as error:
        if config.tts_engine == "offline":
            return Check("ok", "API key", "not set, and not needed offline")
        return Check("fail", "API key", str(error))
    return Check("ok", "API key", "set")


def _check_output(config: AudioConfig) -> Check:
    try:
        # Offline needs no key, so that only the folder is left to validate.
        config.model_copy(update={"tts_engine": "offline"}).validate_config()
        free_bytes = shutil.disk_usage(config.output_dir).free
    except ConfigurationError as error:
        return Check("fail", "output folder", str(error))
    text = f"{config.output_dir.absolute()} takes files, {free_bytes / 1e9:,.1f} GB free"
    if free_bytes < _LITTLE_SPACE_BYTES:
        return Check("warn", "output folder", f"{text}: make room, a minute of speech takes 2.9 MB")
    return Check("ok", "output folder", text)


async def _check_offline_speech(config: AudioConfig) -> Check:
    from audio_api.engines.offline import OfflineEngine

    title = "offline speech"
    engine = OfflineEngine()
    try:
        audio = await engine.synthesize(Utterance((Turn("Hello.", VoiceConfig()),), engine.name, "en-US"))
    except AudioAPIError as error:
        return Check("fail" if config.tts_engine == "offline" else "warn", title, str(error))
    finally:
        await engine.close()
    return Check("ok", title, f"spoke {audio.duration_s:.1f} s")


async def _check_redis(config: AudioConfig) -> Check:
    if not config.use_redis:
        return Check("ok", "Redis", "not used")
    try:
        return Check("ok", "Redis", f"{await ping(config.redis_url.get_secret_value())} answers")
    except ConfigurationError as error:
        return Check("fail", "Redis", str(error))


async def _check_api(config: AudioConfig) -> Check:
    import httpx2

    from audio_api.engines.gemini_transport import proxy_for

    if config.gemini_api_key is None and not config.uses_credentials:
        return Check("ok", "Gemini API", "not asked without a key")
    model = config.default_tts_model
    if config.gemini_backend == "vertex":
        engine = make_engine(config.model_copy(update={"tts_engine": "gemini"}))
        try:
            await engine.health_check(str(model))
        except AudioAPIError as error:
            return Check("fail", "Gemini API", f"Vertex AI at {api_url(config)}: {error}")
        finally:
            await engine.close()
        return Check("ok", "Gemini API", f"Vertex AI at {api_url(config)} knows {model}")
    try:
        async with asyncio.timeout(_API_LIMIT_S), api_client(config) as client:
            response = await client.get(f"/v1beta/models/{model}")
    except (httpx2.HTTPError, TimeoutError, AudioAPIError) as error:
        reason = classify(error, now=datetime.now(UTC), key=config.require_api_key())
        # Without its password.
        proxy = (proxy_for(config.gemini_base_url) or "").rpartition("@")[2].rpartition("//")[2]
        detour = f" through the proxy {proxy} of the environment" if proxy else ""
        return Check("fail", "Gemini API", f"no answer from {config.gemini_base_url}{detour}: {reason}")
    if response.is_success:
        return Check("ok", "Gemini API", f"knows {model}")
    return Check("fail", "Gemini API", f"asked for {model}: {one_line(error_text(response))}")
