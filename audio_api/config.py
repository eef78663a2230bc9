"""Settings: from arguments, the environment and ``.env``, in this order; nothing is read on import."""

from __future__ import annotations

import json
import re
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydantic import SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import EnvSettingsSource

from audio_api.env_file import EnvFiles, read_env_files
from audio_api.errors import ConfigurationError
from audio_api.models.audio_request import AudioFormat
from audio_api.models.store_url import parse_store_url
from audio_api.settings import Settings
from audio_api.urls import check_base_url, check_redis_url, is_googles

NO_KEY = (
    "no Gemini API key: set GEMINI_API_KEY in the environment or in .env (keys are made in Google AI Studio), "
    "or set TTS_ENGINE=offline for robotic speech without a key"
)
NO_PROJECT = (
    "GEMINI_BACKEND=vertex needs GOOGLE_CLOUD_PROJECT, for which Google's credentials make the calls, or "
    "GEMINI_API_KEY, a key of express mode"
)
# Names that logging itself takes, too.
_SAME_LEVEL = {"WARN": "WARNING", "FATAL": "CRITICAL"}


class AudioConfig(Settings):
    """Every setting. A field's environment variable is its name in capitals, such as ``GEMINI_API_KEY``.

    Secrets are masked in ``repr`` and JSON. A pickle leaves them out: the process that loads it reads its own.

    Raises:
        ConfigurationError: A value is wrong; the text names the variable, the value and what is allowed.
    """

    def __init__(self, *, _env_file: EnvFiles = ".env", **values: Any) -> None:
        """Take settings by field name; what is not given comes from the environment, ``.env`` or the default."""
        if problem := self._fill(_env_file, values):
            # Nothing secret stays within reach of the error: not in the original as its context, whose inputs hold the
            # key, nor in this frame, whose variables a traceback may show.
            values.clear()
            raise ConfigurationError(problem)

    def _fill(self, env_file: EnvFiles, values: dict[str, Any]) -> str | None:
        """Read every setting; return what is wrong with them."""
        if unknown := [name for name in values if name not in type(self).model_fields]:
            return f"no such setting: {', '.join(unknown)}"
        try:
            in_file = read_env_files(env_file, type(self).model_fields)
            outside = EnvSettingsSource(type(self))() | values
            super().__init__(_env_file=None, **{**in_file, **outside})
        except ValidationError as error:
            return _explain(error, type(self))
        except ConfigurationError as error:
            return str(error)
        # The file is whatever lies in the working folder, perhaps a stranger's.
        if "gemini_base_url" not in in_file.keys() - outside.keys() or is_googles(self.gemini_base_url):
            return None
        if self.uses_credentials:
            return (
                f"GEMINI_BASE_URL={self.gemini_base_url!r} in {env_file} would receive Google's credentials, which are "
                "not from there: set it in the environment"
            )
        if "gemini_api_key" in outside and self.gemini_api_key:
            return (
                f"GEMINI_BASE_URL={self.gemini_base_url!r} in {env_file} would receive an API key that is not from "
                "there: set both in the environment, or both in the file"
            )
        return None

    def __reduce__(self) -> tuple[partial[Self], tuple[()]]:
        """Pickle without the secrets; the process that loads the pickle reads them from its own environment."""
        return partial(type(self), **{name: value for name, value in self if name not in _SECRETS}), ()

    @field_validator(
        "log_level",
        "gemini_backend",
        "gemini_safety_threshold",
        "tts_engine",
        "audio_checks",
        "listen",
        "markup",
        "output_format",
        "service_tier",
        mode="before",
    )
    @classmethod
    def _any_case(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str):
            return value
        if info.field_name == "log_level":
            return _SAME_LEVEL.get(value.strip().upper(), value.strip().upper())
        return value.strip().lower()

    @field_validator("model_prices", "server_model_aliases", "server_voice_aliases", mode="before")
    @classmethod
    def _decoded(cls, value: object) -> object:
        try:
            return json.loads(value) if isinstance(value, str) else value
        except ValueError:
            raise ValueError("is not JSON") from None

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

    @field_validator("gemini_base_url")
    @classmethod
    def _trusted_url(cls, url: str, info: ValidationInfo) -> str:
        return check_base_url(url, any_host=info.data.get("allow_custom_base_url", False))

    @field_validator("redis_url")
    @classmethod
    def _usable_redis_url(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        plain = url.get_secret_value()
        # Without Redis the URL has no use, and programs leave it empty.
        if not plain.strip() and not info.data.get("use_redis"):
            return SecretStr("")
        return SecretStr(check_redis_url(plain))

    @field_validator("output_url", "cache_url")
    @classmethod
    def _usable_store_url(cls, url: str | None) -> str | None:
        return None if url is None else str(parse_store_url(url))

    @field_validator("output_dir", "cache_dir")
    @classmethod
    def _home_expanded(cls, folder: Path | None) -> Path | None:
        if "\0" in str(folder):
            raise ValueError("a path holds no NUL character")
        try:
            return folder and folder.expanduser()
        except RuntimeError:
            raise ValueError("this user has no home folder") from None

    @model_validator(mode="after")
    def _waits_in_order(self) -> Self:
        for kind in ("retry", "rate_limit_retry"):
            shortest, longest = getattr(self, f"{kind}_min_wait"), getattr(self, f"{kind}_max_wait")
            if shortest > longest:
                name = kind.upper()
                raise ValueError(f"{name}_MIN_WAIT={shortest} must not exceed {name}_MAX_WAIT={longest}")
        return self

    @property
    def default_model(self) -> str:
        """The id of ``default_tts_model``."""
        return str(self.default_tts_model)

    @property
    def default_sample_rate(self) -> int:
        """Samples a second of every file."""
        return AudioFormat().sample_rate

    @property
    def default_bit_depth(self) -> int:
        """Bits of a sample of every file."""
        return AudioFormat().bit_depth

    @property
    def default_channels(self) -> int:
        """Channels of every file."""
        return AudioFormat().channels

    @classmethod
    def load_config(cls) -> Self:
        """Read the environment and ``.env`` again."""
        return cls()

    @property
    def uses_credentials(self) -> bool:
        """Whether Google's credentials make the calls, for ``google_cloud_project``, and no API key."""
        return self.gemini_backend == "vertex" and self.google_cloud_project is not None

    def require_api_key(self) -> str:
        """The API key in plain text.

        Raises:
            ConfigurationError: No key is set; the text says how to set one.
        """
        if self.gemini_api_key is None:
            raise ConfigurationError(NO_KEY if self.gemini_backend == "developer" else NO_PROJECT)
        return self.gemini_api_key.get_secret_value()

    def validate_config(self) -> None:
        """Check what a value's type cannot tell: that the engine has its key and the output folder takes files.

        On Vertex AI a project stands in for the key.

        Raises:
            ConfigurationError: The first thing that is missing.
        """
        if self.tts_engine == "gemini" and not self.uses_credentials:
            self.require_api_key()
        try:
            for folder in (*reversed(self.output_dir.parents), self.output_dir):
                folder.mkdir(mode=0o700, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.output_dir):
                pass
        except OSError as error:
            raise ConfigurationError(
                f"OUTPUT_DIR={str(self.output_dir)!r} takes no files: {error.strerror}; it must be a writable folder"
            ) from None


_URLS = {"gemini_base_url", "output_url", "cache_url", "batch_webhook"}
_SECRETS = {name for name, field in AudioConfig.model_fields.items() if "SecretStr" in str(field.annotation)}


def _explain(error: ValidationError, model: type[AudioConfig]) -> str:
    """Name every wrong variable, its value unless it is a secret, and what is allowed."""
    lines = []
    for problem in error.errors(include_url=False, include_context=False):
        name = str(problem["loc"][0]) if problem["loc"] else ""
        is_flag = problem["type"].startswith("bool")
        text = "must be true or false" if is_flag else problem["msg"].removeprefix("Value error, ")
        if name not in model.model_fields:
            lines.append(text)
            continue
        value = str(problem["input"])
        # A refused URL may hold a password, or a key in its query.
        shown = "" if name in _SECRETS or (name in _URLS and re.search("[@?#]", value)) else f"={value[:80]!r}"
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
    """Read the environment and ``.env`` again. Services without a config of their own use the result from then on.

    Raises:
        ConfigurationError: A value is wrong; the old configuration stays in force.
    """
    global _current
    with _lock:
        _current = AudioConfig.load_config()
        return _current
