"""Settings: from arguments, the environment and ``.env``, in this order; nothing is read on import."""

from __future__ import annotations

import json
import re
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import SplitResult, parse_qs, urlsplit

from pydantic import (
    Field,
    NonNegativeFloat,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from audio_api.env_file import EnvFiles, read_env_files
from audio_api.errors import ConfigurationError
from audio_api.models.audio_request import ID_PATTERN, AudioFormat, Markup
from audio_api.models.speech_models import DEFAULT_MODEL, ModelId
from audio_api.models.store_url import parse_store_url

GEMINI_URL = "https://generativelanguage.googleapis.com"

NO_KEY = (
    "no Gemini API key: set GEMINI_API_KEY in the environment or in .env (keys are made in Google AI Studio), "
    "or set TTS_ENGINE=offline for robotic speech without a key"
)


# Strict, so that no other parser can read another host out of an accepted URL: no user, query, fragment, white space,
# backslash or percent sign.
_BASE_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(?:/[a-z0-9._~-]*)*)",
    re.IGNORECASE | re.ASCII,
)
# Names that logging itself takes, too.
_SAME_LEVEL = {"WARN": "WARNING", "FATAL": "CRITICAL"}
# What people copy along: the version, the list of models, a model, a method, or OpenAI's protocol.
_BEHIND_BASE = re.compile(r"/(?:v\d+(?:(?:alpha|beta)\d*)?(?:/openai)?|models(?:/[^/]*)?)/*$", re.IGNORECASE)
_FALSE = {"0", "f", "false", "n", "no"}


def is_loopback(host: str) -> bool:
    """Whether what is sent to this host stays on this machine."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_googles(url: str) -> bool:
    parts = urlsplit(url.strip())
    return parts.scheme == "https" and (parts.hostname or "").endswith(".googleapis.com")


# Domains that no public name server knows.
_PRIVATE_DOMAINS = (
    ".local",
    ".localdomain",
    ".internal",
    ".intranet",
    ".private",
    ".corp",
    ".home",
    ".lan",
    ".home.arpa",
)


def _is_private(host: str) -> bool:
    """Whether this host is in a network of one's own: by its address, or by a name that only such a network knows."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        # What begins with a digit may be another spelling of any address.
        return not host[0].isdigit() and ("." not in host or host.endswith(_PRIVATE_DOMAINS))
    return address.is_private and not address.is_unspecified


def _check_base_url(value: str, *, any_host: bool) -> str:
    """Return the URL without a slash at its end, or refuse it because it would receive the API key."""
    url = _BASE_URL.fullmatch(value.strip())
    if not url or not 0 < int(url["port"] or 443) < 65_536:
        raise ValueError("must be http(s)://host, with a port and a path at most: no user, query or fragment")
    scheme, host = url["scheme"].lower(), url["host"].lower()
    if not (_is_googles(value) or is_loopback(host) or (any_host and (scheme == "https" or _is_private(host)))):
        raise ValueError(
            f"{scheme}://{host} would receive the API key; it must be https on googleapis.com, or on this machine. "
            "ALLOW_CUSTOM_BASE_URL=true allows another https host, and http in a private network"
        )
    if found := _BEHIND_BASE.search(url["path"]):
        raise ValueError(f"must end before {found[0]}: the library itself calls /v1beta/models behind it")
    return url[0].rstrip("/")


_REDIS_OPTION = re.compile(
    r"ssl_\w+|socket_(timeout|connect_timeout|keepalive)|db|timeout|client_name|lib_(name|version)|retry_on_timeout"
    r"|health_check_interval"
)


def _check_redis_details(url: SplitResult, query: Mapping[str, Sequence[str]]) -> None:
    """Refuse a database that is no number, and options that the queue sets itself."""
    path = url.path.partition("/")[2]
    if url.scheme.endswith("+sentinel"):
        path = path.partition("/")[2]
    databases = [*query.get("db", ()), *([] if url.scheme == "unix" else [path.rstrip("/") or "0"])]
    if not all(re.fullmatch("[0-9]+", database) for database in databases):
        raise ValueError("must name its database by a number, such as redis://host:6379/0")
    if "max_connections" in query:
        raise ValueError("cannot say how many connections there are: leave max_connections out and set REDIS_POOL_SIZE")
    if unknown := sorted(name for name in query if not _REDIS_OPTION.fullmatch(name)):
        raise ValueError(f"holds an option that the queue sets itself or does not know: leave {unknown[0][:40]!r} out")


def _check_redis_url(value: str) -> str:
    """Return the URL, or refuse one that redis-py cannot read or that switches the check of the certificate off."""
    value = value.strip()
    if not re.match(r"(rediss?(\+sentinel)?|unix)://", value):
        raise ValueError("must begin with redis://, rediss://, unix:// or redis+sentinel://")
    try:
        url = urlsplit(value)
        hosts = url.netloc.rpartition("@")[2].split(",")
        numbers = [number for host in hosts if (number := urlsplit(f"//{host}").netloc.rpartition(":")[2]).isdecimal()]
        ambiguous = "@" in url.path + url.query + url.fragment
        beyond = any(len(number) > 5 or not 0 < int(number) < 65_536 for number in numbers)
        _ = [urlsplit(f"//{host}").port for host in hosts if not beyond]
    except ValueError:
        # The original names the part it stumbled over, which may be the password.
        ambiguous = True
    if ambiguous:
        raise ValueError("is not a URL; special characters of a password must be percent-encoded")
    if beyond:
        raise ValueError("names a port that is none: ports are 1 to 65535")
    if url.scheme.endswith("+sentinel") and not url.path.strip("/"):
        raise ValueError("must name the service that the sentinels watch: redis+sentinel://host:26379/service")
    query = parse_qs(url.query, keep_blank_values=True)
    _check_redis_details(url, query)
    if any(mode.lower() != "required" for mode in query.get("ssl_cert_reqs", [])) or any(
        check.lower() in _FALSE for check in query.get("ssl_check_hostname", [])
    ):
        raise ValueError(
            "must not switch the check of the server's certificate off; ssl_ca_certs names a CA of one's own"
        )
    return value


class AudioConfig(BaseSettings):
    """Every setting. A field's environment variable is its name in capitals, such as ``GEMINI_API_KEY``.

    Secrets are masked in ``repr`` and JSON. A pickle leaves them out: the process that loads it reads its own.

    Raises:
        ConfigurationError: A value is wrong; the text names the variable, the value and what is allowed.
    """

    model_config = SettingsConfigDict(
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    gemini_api_key: SecretStr | None = Field(
        default=None,
        description="The Gemini API key. Needed as soon as Gemini speaks; never shown or logged.",
    )
    tts_engine: Literal["gemini", "offline"] = Field(
        default="gemini", description="Who speaks: gemini, or offline (robotic, without key or network)."
    )
    default_tts_model: ModelId = Field(default=DEFAULT_MODEL, description="The model of requests that name none.")
    # Before gemini_base_url, whose check reads it.
    allow_custom_base_url: bool = Field(
        default=False,
        description="Allow GEMINI_BASE_URL to name another https host, or an http one in a private network. It will "
        "receive the API key.",
    )
    gemini_base_url: str = Field(
        default=GEMINI_URL,
        description="Where the API is, without /v1beta. https on googleapis.com, or any scheme on this machine (an "
        "emulator).",
    )
    gemini_store: bool = Field(
        default=False,
        description="Whether Google may keep requests and replies, as it does by default with new paid projects.",
    )
    output_dir: Path = Field(default=Path("output"), description="Folder of the audio files; made when missing.")
    max_text_length: int = Field(default=100_000, ge=1, description="Longest text of a request, in characters.")
    markup: Markup = Field(
        default="plain",
        description="What a text on the command line is: plain or markdown; files called .md and .markdown are "
        "Markdown.",
    )
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
        description="Answers 429 (per minute) after which a request gives up; it waits between them.",
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
    stream_stall_timeout: float = Field(
        default=30.0, gt=0, description="Seconds a stream may pause once it sounds; a longer pause ends it."
    )
    max_concurrency: int = Field(default=10, ge=1, le=10_000, description="Requests a service works on at once.")
    piece_concurrency: int = Field(
        default=4, ge=1, le=100, description="Pieces of one long text called for at once, within MAX_CONCURRENCY."
    )
    cache_dir: Path | None = Field(
        default=None, description="Folder of finished pieces, which need not be paid again; none: .cache in OUTPUT_DIR."
    )
    cache_max_bytes: int = Field(
        default=1_073_741_824, ge=0, description="Size of that folder, the least recently used go first; 0: no cache."
    )
    output_url: str | None = Field(
        default=None,
        description="Where finished sound is put: s3://bucket/prefix, gs://, az:// or file:///folder; none: it stays "
        "in OUTPUT_DIR.",
    )
    cache_url: str | None = Field(
        default=None,
        description="Where finished pieces are kept for other machines, too, as OUTPUT_URL; none: in CACHE_DIR alone.",
    )
    store_timeout: float = Field(
        default=30.0, gt=0, le=3_600, description="Seconds one request to those two may take; it is made again thrice."
    )
    use_redis: bool = Field(default=False, description="Keep queued jobs in Redis rather than in this process.")
    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="The Redis server: redis://, rediss:// (certificate checked), unix:// or redis+sentinel://; "
        "several nodes of a cluster, or several sentinels, are separated by commas.",
    )
    redis_pool_size: int = Field(default=10, ge=1, le=10_000, description="Connections to Redis per process.")
    queue_name: str = Field(
        default="audio",
        pattern=ID_PATTERN,
        description="The queue's name: 1 to 64 letters, digits, _ or -. Queues of other names do not meet.",
    )
    queue_max_size: int | None = Field(
        default=None, ge=1, description="Most jobs that may wait in the queue; none: any number."
    )
    result_ttl: float = Field(
        default=86_400.0, gt=0, description="Seconds a result is kept, counted from the end of its job or batch."
    )
    lease_time: float = Field(
        default=30.0,
        gt=0,
        le=3_600,
        description="Seconds after which the job of a worker that has died is given to another.",
    )
    num_workers: int = Field(default=3, ge=1, le=1_000, description="Workers that a WorkerManager starts.")
    worker_concurrency: int = Field(
        default=3,
        ge=1,
        le=1_000,
        description="Jobs a worker has in progress at once; MAX_CONCURRENCY bounds those of a whole process.",
    )
    worker_grace: float = Field(
        default=25.0,
        ge=0,
        description="Seconds a stopping worker may finish its jobs; the rest is handed back.",
    )
    task_timeout: float = Field(
        default=300.0,
        gt=0,
        description="Seconds one queued job may run; waiting for its turn at the API is left out, and each piece of a "
        "long text counts anew.",
    )
    rate_limit_rpm: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Most API calls per minute and model, by all workers of the queue together; none: no limit.",
    )
    rate_limit_rpd: int | None = Field(
        default=None,
        ge=1,
        description="Most API calls per day (Pacific time) and model, by all workers together; none: no limit.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        default="INFO", description="Least severe events that are logged."
    )
    enable_structured_logging: bool = Field(
        default=False, description="Log one JSON object a line rather than text for people."
    )
    min_audio_size: int = Field(default=1_000, ge=0, description="Bytes of sound below which an answer is no audio.")
    audio_checks: Literal["strict", "standard", "off"] = Field(
        default="standard",
        description="strict: doubtful audio fails. standard: it is asked for again, then marked in `doubtful`. "
        "off: only completeness is checked.",
    )
    model_fallback: bool = Field(
        default=True,
        description="Let a model's successor speak when the model is shut down or unknown to the API.",
    )
    model_prices: Annotated[dict[str, tuple[NonNegativeFloat, NonNegativeFloat]], NoDecode] = Field(
        default_factory=dict,
        description='US dollars per million input and audio tokens, by model, as JSON: {"model": [0.5, 9]}.',
    )

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
        if self.gemini_api_key and "gemini_api_key" in outside and "gemini_base_url" in in_file.keys() - outside.keys():
            url = self.gemini_base_url
            if not _is_googles(url):
                return (
                    f"GEMINI_BASE_URL={url!r} in {env_file} would receive an API key that is not from there: set both "
                    "in the environment, or both in the file"
                )
        return None

    def __reduce__(self) -> tuple[partial[Self], tuple[()]]:
        """Pickle without the secrets; the process that loads the pickle reads them from its own environment."""
        return partial(type(self), **{name: value for name, value in self if name not in _SECRETS}), ()

    @field_validator("log_level", "tts_engine", "audio_checks", "markup", mode="before")
    @classmethod
    def _any_case(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str):
            return value
        if info.field_name == "log_level":
            return _SAME_LEVEL.get(value.strip().upper(), value.strip().upper())
        return value.strip().lower()

    @field_validator("model_prices", mode="before")
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
        return _check_base_url(url, any_host=info.data.get("allow_custom_base_url", False))

    @field_validator("redis_url")
    @classmethod
    def _usable_redis_url(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        plain = url.get_secret_value()
        # Without Redis the URL has no use, and programs leave it empty.
        if not plain.strip() and not info.data.get("use_redis"):
            return SecretStr("")
        return SecretStr(_check_redis_url(plain))

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
            for folder in (*reversed(self.output_dir.parents), self.output_dir):
                folder.mkdir(mode=0o700, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.output_dir):
                pass
        except OSError as error:
            raise ConfigurationError(
                f"OUTPUT_DIR={str(self.output_dir)!r} takes no files: {error.strerror}; it must be a writable folder"
            ) from None


_URLS = {"gemini_base_url", "output_url", "cache_url"}
_SECRETS = {name for name, field in AudioConfig.model_fields.items() if "SecretStr" in str(field.annotation)}


def _shown(name: str, value: object) -> str:
    # A refused URL may hold a password, or a key in its query.
    if name in _SECRETS or (name in _URLS and re.search("[@?#]", str(value))):
        return ""
    return f"={str(value)[:80]!r}"


def _explain(error: ValidationError, model: type[AudioConfig]) -> str:
    """Name every wrong variable, its value unless it is a secret, and what is allowed."""
    lines = []
    for problem in error.errors(include_url=False, include_context=False):
        name = str(problem["loc"][0]) if problem["loc"] else ""
        text = "must be true or false" if problem["type"].startswith("bool") else problem["msg"]
        text = text.removeprefix("Value error, ")
        if name not in model.model_fields:
            lines.append(text)
            continue
        shown = _shown(name, problem["input"])
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
    with _lock:
        _current = AudioConfig.load_config()
        return _current
