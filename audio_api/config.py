"""Settings: from arguments, the environment and ``.env``, in this order; nothing is read on import."""

from __future__ import annotations

import os
import tempfile
import threading
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from audio_api.errors import ConfigurationError
from audio_api.models.speech_models import DEFAULT_MODEL

GEMINI_URL = "https://generativelanguage.googleapis.com"

NO_KEY = (
    "no Gemini API key: set GEMINI_API_KEY in the environment or in .env (keys are made in Google AI Studio), "
    "or set TTS_ENGINE=offline for robotic speech without a key"
)


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


class AudioConfig(BaseSettings):
    """Every setting. A field's environment variable is its name in capitals, such as ``GEMINI_API_KEY``.

    Raises:
        ConfigurationError: A value is wrong; the text names the variable, the value and what is allowed.
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    gemini_api_key: SecretStr | None = Field(
        default=None,
        description="The Gemini API key. Needed as soon as Gemini speaks; never shown or logged.",
    )
    tts_engine: Literal["gemini", "offline"] = Field(
        default="gemini", description="Who speaks: gemini, or offline (robotic, without key or network)."
    )
    default_tts_model: str = Field(
        default=DEFAULT_MODEL.value,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="The model of requests that name none.",
    )
    gemini_base_url: str = Field(
        default=GEMINI_URL,
        description="Where the API is. https on googleapis.com, or any scheme on this machine (an emulator).",
    )
    allow_custom_base_url: bool = Field(
        default=False,
        description="Allow GEMINI_BASE_URL to name another https host. It will receive the API key.",
    )
    output_dir: Path = Field(default=Path("output"), description="Folder of the audio files; made when missing.")
    max_text_length: int = Field(default=100_000, ge=1, description="Longest text of a request, in characters.")
    max_context_tokens: int = Field(
        default=8_192,
        ge=1,
        description="Largest input of one API call, in tokens; a model's own limit still holds.",
    )
    retry_attempts: int = Field(default=6, ge=1, le=100, description="API calls per request, the first included.")
    retry_min_wait: float = Field(default=1.0, ge=0, description="Upper end of the first random wait, in seconds.")
    retry_max_wait: float = Field(default=30.0, ge=0, description="Longest random wait between attempts, in seconds.")
    retry_deadline: float = Field(
        default=600.0, gt=0, description="Seconds after which no further attempt begins, all waits included."
    )
    rate_limit_retry_attempts: int = Field(
        default=5,
        ge=1,
        le=100,
        description="Answers 429 (per minute) that one request waits out before giving up.",
    )
    rate_limit_retry_min_wait: float = Field(
        default=10.0, ge=0, description="Shortest wait after a 429, in seconds; the server's own delay wins."
    )
    rate_limit_retry_max_wait: float = Field(
        default=60.0,
        ge=0,
        description="Longest wait after a 429, in seconds; a longer delay asked for ends the request.",
    )
    request_timeout: float = Field(default=180.0, gt=0, description="Seconds one API call may take in total.")
    max_concurrency: int = Field(default=10, ge=1, le=10_000, description="Requests a service works on at once.")
    use_redis: bool = Field(default=False, description="Keep queued jobs in Redis rather than in this process.")
    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="The Redis server: redis://, rediss:// or unix://.",
    )
    redis_pool_size: int = Field(default=10, ge=1, le=10_000, description="Connections to Redis per process.")
    num_workers: int = Field(default=3, ge=1, le=1_000, description="Workers that a WorkerManager starts.")
    task_timeout: float = Field(default=300.0, gt=0, description="Seconds one queued job may run.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        default="INFO", description="Least severe events that are logged."
    )
    enable_structured_logging: bool = Field(
        default=False, description="Log one JSON object a line rather than text for people."
    )
    min_audio_size: int = Field(default=1_000, ge=0, description="Bytes of sound below which an answer is no audio.")
    audio_checks: Literal["strict", "standard", "off"] = Field(
        default="standard",
        description="strict: doubtful audio fails. standard: it is asked for again, then accepted with a warning. "
        "off: only completeness is checked.",
    )
    model_fallback: bool = Field(
        default=True,
        description="Let a model's successor speak when the model is shut down or unknown to the API.",
    )
    model_prices: dict[str, tuple[float, float]] = Field(
        default_factory=dict,
        description='US dollars per million input and audio tokens, by model, as JSON: {"model": [0.5, 9]}.',
    )

    def __init__(self, **values: Any) -> None:
        """Take settings by field name; what is not given comes from the environment, ``.env`` or the default."""
        if unknown := [name for name in values if name not in type(self).model_fields and name != "_env_file"]:
            raise ConfigurationError(f"no such setting: {', '.join(unknown)}")
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigurationError(_explain(error, type(self))) from None

    @field_validator("log_level", "tts_engine", "audio_checks", mode="before")
    @classmethod
    def _any_case(cls, value: object, info: Any) -> object:
        if not isinstance(value, str):
            return value
        return value.strip().upper() if info.field_name == "log_level" else value.strip().lower()

    @field_validator("gemini_api_key", mode="after")
    @classmethod
    def _usable_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is None:
            return None
        plain = key.get_secret_value().strip()
        if not plain:
            raise ValueError("an empty key is no key: pass a real one, or leave it out")
        if not plain.isascii() or not plain.isprintable() or " " in plain:
            raise ValueError("a key is printable ASCII without spaces")
        return SecretStr(plain)

    @field_validator("redis_url")
    @classmethod
    def _redis_scheme(cls, url: SecretStr) -> SecretStr:
        if urlsplit(url.get_secret_value()).scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("must begin with redis://, rediss:// or unix://")
        return url

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        url = urlsplit(self.gemini_base_url)
        host = url.hostname or ""
        local = _is_loopback(host)
        google = host == "googleapis.com" or host.endswith(".googleapis.com")
        if url.username or url.password or url.query or url.fragment:
            raise ValueError("gemini_base_url must be scheme, host and port, without user, query or fragment")
        if not (url.scheme in {"http", "https"} and local) and not (
            url.scheme == "https" and host and (google or self.allow_custom_base_url)
        ):
            raise ValueError(
                f"gemini_base_url {self.gemini_base_url[:200]!r} would receive the API key: it must be https on "
                "googleapis.com, or on this machine; ALLOW_CUSTOM_BASE_URL=true allows another https host"
            )
        for low, high in (
            ("retry_min_wait", "retry_max_wait"),
            ("rate_limit_retry_min_wait", "rate_limit_retry_max_wait"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} ({getattr(self, low)}) must not exceed {high} ({getattr(self, high)})")
        return self

    @classmethod
    def load_config(cls) -> Self:
        """Read the environment and ``.env`` anew."""
        return cls()

    def require_api_key(self) -> str:
        """The API key in plain text.

        Raises:
            ConfigurationError: There is none; the text says how to set it.
        """
        if self.gemini_api_key is None:
            raise ConfigurationError(NO_KEY)
        return self.gemini_api_key.get_secret_value()

    def validate_config(self) -> None:
        """Check what a value's type cannot tell: that the engine has its key and the output folder takes files.

        Raises:
            ConfigurationError: The first thing that is missing.
        """
        if self.tts_engine == "gemini":
            self.require_api_key()
        try:
            self.output_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.output_dir):
                pass
        except OSError as error:
            raise ConfigurationError(
                f"OUTPUT_DIR {str(self.output_dir)!r} takes no files: {os.strerror(error.errno or 0)}"
            ) from None


def _explain(error: ValidationError, model: type[AudioConfig]) -> str:
    """Name every wrong variable, its value unless it is a secret, and what is allowed."""
    lines = []
    for problem in error.errors(include_url=False, include_context=False):
        name = str(problem["loc"][0]) if problem["loc"] else ""
        text = problem["msg"].removeprefix("Value error, ")
        if name not in model.model_fields:
            lines.append(text)
            continue
        secret = "SecretStr" in str(model.model_fields[name].annotation)
        shown = "" if secret else f"={str(problem['input'])[:80]!r}"
        lines.append(f"{name.upper()}{shown}: {text}. {model.model_fields[name].description}")
    return "; ".join(lines)


_lock = threading.Lock()
_current: AudioConfig | None = None


def get_config() -> AudioConfig:
    """The process's configuration, read on the first call.

    Raises:
        ConfigurationError: The environment or ``.env`` holds a wrong value.
    """
    global _current
    with _lock:
        if _current is None:
            _current = AudioConfig.load_config()
        return _current


def reload_config() -> AudioConfig:
    """Read the environment and ``.env`` anew, and swap. Services without a config of their own use it from then on.

    Raises:
        ConfigurationError: A value is wrong; the old configuration stays in force.
    """
    global _current
    fresh = AudioConfig.load_config()
    with _lock:
        _current = fresh
    return fresh
