"""Settings: every variable, what is refused and with which words, and that no secret ever shows."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_api import config as config_module
from audio_api.config import AudioConfig, get_config, reload_config
from audio_api.errors import ConfigurationError
from audio_api.models.speech_models import VoiceModel

KEY = "AIzaCANARY_0123456789-abcdefghijklmnop"
PASSWORD = "CANARYpassword"

# Variable, default, a value as it stands in the environment, and what that value means.
SETTINGS: list[tuple[str, object, str, object]] = [
    ("GEMINI_SAFETY_THRESHOLD", None, "BLOCK_NONE", "block_none"),
    ("GEMINI_BACKEND", "developer", "Vertex", "vertex"),
    ("GOOGLE_CLOUD_PROJECT", None, "my-project", "my-project"),
    ("GOOGLE_CLOUD_LOCATION", "global", "eu", "eu"),
    ("TTS_ENGINE", "gemini", "Offline", "offline"),
    ("DEFAULT_TTS_MODEL", "gemini-3.8-flash-tts", "models/gemini-9-tts", "gemini-9-tts"),
    ("GEMINI_BASE_URL", "https://generativelanguage.googleapis.com", "http://127.0.0.1:80/", "http://127.0.0.1:80"),
    ("ALLOW_CUSTOM_BASE_URL", False, "true", True),
    ("GEMINI_STORE", False, "true", True),
    ("OUTPUT_DIR", Path("output"), "/srv/audio", Path("/srv/audio")),
    ("OUTPUT_FORMAT", "wav", "MP3", "mp3"),
    ("MAX_TEXT_LENGTH", 100_000, "5", 5),
    ("MARKUP", "plain", "Markdown", "markdown"),
    ("MAX_CONTEXT_TOKENS", 8_192, "1000", 1_000),
    ("RETRY_ATTEMPTS", 6, "1", 1),
    ("RETRY_MIN_WAIT", 1.0, "0.5", 0.5),
    ("RETRY_MAX_WAIT", 30.0, "2", 2.0),
    ("RETRY_DEADLINE", 600.0, "1e3", 1_000.0),
    ("RATE_LIMIT_RETRY_ATTEMPTS", 5, " 7 ", 7),
    ("RATE_LIMIT_RETRY_MIN_WAIT", 10.0, "0", 0.0),
    ("RATE_LIMIT_RETRY_MAX_WAIT", 60.0, "90", 90.0),
    ("REQUEST_TIMEOUT", 180.0, "30", 30.0),
    ("SERVICE_TIER", "standard", "FLEX", "flex"),
    ("FLEX_TIMEOUT", 900.0, "60", 60.0),
    ("FLEX_FALLBACK", False, "on", True),
    ("BATCH_DEADLINE", 86_400.0, "60", 60.0),
    ("BATCH_FALLBACK", True, "off", False),
    ("BATCH_WEBHOOK", None, "https://example.com/gemini", "https://example.com/gemini"),
    ("STREAM_STALL_TIMEOUT", 30.0, "5", 5.0),
    ("MAX_CONCURRENCY", 10, "200", 200),
    ("PIECE_CONCURRENCY", 4, "8", 8),
    ("CACHE_DIR", None, "pieces", Path("pieces")),
    ("CACHE_MAX_BYTES", 2**30, "0", 0),
    ("OUTPUT_URL", None, "s3://sounds/speech/", "s3://sounds/speech"),
    ("CACHE_URL", None, " gs://pieces ", "gs://pieces"),
    ("STORE_TIMEOUT", 30.0, "5", 5.0),
    ("USE_REDIS", False, "1", True),
    ("REDIS_POOL_SIZE", 10, "3", 3),
    ("NUM_WORKERS", 3, "8", 8),
    ("QUEUE_NAME", "audio", "night-shift", "night-shift"),
    ("QUEUE_MAX_SIZE", None, "10000", 10_000),
    ("RESULT_TTL", 86_400.0, "60", 60.0),
    ("LEASE_TIME", 30.0, "2.5", 2.5),
    ("WORKER_CONCURRENCY", 3, "20", 20),
    ("WORKER_GRACE", 25.0, "0", 0.0),
    ("TASK_TIMEOUT", 300.0, "60", 60.0),
    ("TASK_MAX_AGE", 21_600.0, "3600", 3_600.0),
    ("RATE_LIMIT_RPM", None, "10", 10),
    ("RATE_LIMIT_RPD", None, "100", 100),
    ("SERVER_CORS_ORIGINS", None, "https://chat.example.com", "https://chat.example.com"),
    ("SERVER_MODEL_ALIASES", {}, '{"fast": "gemini-9-tts"}', {"fast": "gemini-9-tts"}),
    ("SERVER_VOICE_ALIASES", {}, '{"narrator": "kore"}', {"narrator": "kore"}),
    ("SERVER_LANGUAGE", "en-US", "de-de", "de-DE"),
    ("SERVER_MAX_REQUESTS", 256, "8", 8),
    ("LOG_LEVEL", "INFO", "debug", "DEBUG"),
    ("ENABLE_STRUCTURED_LOGGING", False, "yes", True),
    ("MIN_AUDIO_SIZE", 1_000, "0", 0),
    ("AUDIO_CHECKS", "standard", "STRICT", "strict"),
    ("LISTEN", "off", "Always", "always"),
    ("LISTEN_MODEL", "tiny.en", "base", "base"),
    ("MODEL_FALLBACK", True, "off", False),
    ("MODEL_PRICES", {}, '{"gemini-9-tts": [1, 20.5]}', {"gemini-9-tts": (1.0, 20.5)}),
]
SECRETS = {"GEMINI_API_KEY", "REDIS_URL", "SERVER_API_KEYS"}


@pytest.fixture(autouse=True)
def _nothing_read_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test starts as a fresh process does."""
    monkeypatch.setattr(config_module, "_current", None)


def refusal(**values: Any) -> str:
    """The text with which these values are refused."""
    with pytest.raises(ConfigurationError) as caught:
        AudioConfig(**values)
    return str(caught.value)


def test_every_setting_is_tested() -> None:
    """The table above is complete, and every setting says what it is for."""
    assert {name.upper() for name in AudioConfig.model_fields} == {name for name, *_ in SETTINGS} | SECRETS
    assert [name for name, field in AudioConfig.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(("name", "default", "text", "value"), SETTINGS, ids=[name for name, *_ in SETTINGS])
def test_a_setting_comes_from_argument_environment_file_or_default(
    name: str, default: object, text: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this order; an empty variable counts as unset."""
    field = name.lower()
    assert getattr(AudioConfig(), field) == default
    Path(".env").write_text(f"{name}='{text}'\nSOMEBODY_ELSES_SETTING=1\n")
    assert getattr(AudioConfig(), field) == value
    Path(".env").write_text(f"{name}=\n")
    assert getattr(AudioConfig(), field) == default
    Path(".env").write_text(f"{name}='nonsense, never read'\n")
    monkeypatch.setenv(name, text)
    assert getattr(AudioConfig(), field) == value
    monkeypatch.setenv(name, "")
    Path(".env").unlink()
    assert getattr(AudioConfig(), field) == default
    monkeypatch.setenv(name, "nonsense, never read")
    assert getattr(AudioConfig(**{field: value}), field) == value


def test_secrets_come_from_the_same_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blanks around them are dropped, as they come along when copying."""
    assert AudioConfig().gemini_api_key is None
    assert AudioConfig().redis_url.get_secret_value() == "redis://127.0.0.1:6379/0"
    Path(".env").touch(mode=0o600)
    Path(".env").write_text(f"GEMINI_API_KEY={KEY}\nREDIS_URL=redis://:{PASSWORD}@h\n")
    assert AudioConfig().require_api_key() == KEY
    assert AudioConfig().redis_url.get_secret_value() == f"redis://:{PASSWORD}@h"
    monkeypatch.setenv("GEMINI_API_KEY", " from-environment\n")
    assert AudioConfig().require_api_key() == "from-environment"
    assert AudioConfig(gemini_api_key="given").require_api_key() == "given"
    assert AudioConfig(gemini_api_key=None).gemini_api_key is None


def test_a_file_from_a_windows_editor_is_read() -> None:
    """A byte order mark does not become part of the first name, nor a carriage return part of a value."""
    Path(".env").write_bytes(b"\xef\xbb\xbfNUM_WORKERS=7\r\nLOG_LEVEL=ERROR\r\n")
    assert (AudioConfig().num_workers, AudioConfig().log_level) == (7, "ERROR")


def test_another_file_can_be_named() -> None:
    """Or none; both only for this configuration."""
    Path(".env").write_text("NUM_WORKERS=7\n")
    Path("other").write_text("NUM_WORKERS=9\n")
    assert AudioConfig(_env_file="other").num_workers == 9
    assert AudioConfig(_env_file=(".env", "other", "missing")).num_workers == 9
    assert AudioConfig(_env_file=None).num_workers == 3


def test_an_unreadable_file_is_a_configuration_error() -> None:
    """Its content, which may hold the key, is neither in the text nor attached."""
    Path(".env").touch(mode=0o600)
    Path(".env").write_bytes(f"GEMINI_API_KEY={KEY}\xff".encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"^\.env cannot be read: it is not UTF-8$") as caught:
        AudioConfig()
    assert caught.value.__context__ is None


@pytest.mark.skipif(not Path("/proc/self/mem").is_file(), reason="needs Linux's file that exists and fails when read")
def test_a_file_on_a_failing_disk_is_a_configuration_error() -> None:
    """The reason is the operating system's."""
    assert refusal(_env_file="/proc/self/mem") == "/proc/self/mem cannot be read: Input/output error"


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("TTS_ENGINE", "espeak", "'gemini' or 'offline'"),
        ("DEFAULT_TTS_MODEL", "a b", "a model id such as"),
        ("ALLOW_CUSTOM_BASE_URL", "perhaps", "true or false"),
        ("MAX_TEXT_LENGTH", "0", "greater than or equal to 1"),
        ("MAX_TEXT_LENGTH", "1e5", "valid integer"),
        ("MAX_CONTEXT_TOKENS", "-1", "greater than or equal to 1"),
        ("RETRY_ATTEMPTS", "101", "less than or equal to 100"),
        ("RETRY_MIN_WAIT", "-1", "greater than or equal to 0"),
        ("RETRY_MIN_WAIT", "soon", "valid number"),
        ("RETRY_MAX_WAIT", "inf", "finite number"),
        ("RETRY_DEADLINE", "0", "greater than 0"),
        ("RATE_LIMIT_RETRY_ATTEMPTS", "1.5", "valid integer"),
        ("REQUEST_TIMEOUT", "nan", "finite number"),
        ("TASK_TIMEOUT", "-inf", "finite number"),
        ("TASK_MAX_AGE", "0", "greater than 0"),
        ("MAX_CONCURRENCY", "0", "greater than or equal to 1"),
        ("PIECE_CONCURRENCY", "0", "greater than or equal to 1"),
        ("CACHE_MAX_BYTES", "-1", "greater than or equal to 0"),
        ("USE_REDIS", "2", "true or false"),
        ("REDIS_POOL_SIZE", "0", "greater than or equal to 1"),
        ("NUM_WORKERS", "0", "greater than or equal to 1"),
        ("LOG_LEVEL", "LOUD", "'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'"),
        ("ENABLE_STRUCTURED_LOGGING", "json", "true or false"),
        ("MIN_AUDIO_SIZE", "-1", "greater than or equal to 0"),
        ("AUDIO_CHECKS", "none", "'strict', 'standard' or 'off'"),
        ("MODEL_FALLBACK", "maybe", "true or false"),
        ("MODEL_PRICES", "[1, 2]", "valid dictionary"),
        ("MODEL_PRICES", "{gemini", "is not JSON"),
        ("OUTPUT_DIR", "~nobody-of-this-name/x", "no home folder"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    name: str, text: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variable, value, rule and purpose, whether it stands in the environment or in the file; NaN is no number."""
    purpose = AudioConfig.model_fields[name.lower()].description
    monkeypatch.setenv(name, text)
    said = refusal()
    assert f"{name}={text!r}: " in said
    assert allowed in said
    assert purpose is not None
    assert said.endswith(purpose)
    monkeypatch.delenv(name)
    Path(".env").write_text(f"{name}='{text}'\n")
    assert refusal() == said


@pytest.mark.parametrize("price", ["[1]", "[1, 2, 3]", "[-1, 2]", "[NaN, 2]", "[1, Infinity]", '"free"', "[null, 1]"])
def test_a_price_is_two_numbers(price: str) -> None:
    """Dollars per million input and audio tokens; neither negative nor infinite."""
    said = refusal(model_prices=f'{{"m": {price}}}')
    assert said.startswith("MODEL_PRICES=")
    assert 'as JSON: {"model": [0.5, 9]}' in said


@pytest.mark.parametrize("name", ["log_level", "tts_engine", "audio_checks", "markup"])
def test_a_choice_is_a_word(name: str) -> None:
    """A number, such as ``logging.DEBUG``, is refused with the words to choose from."""
    assert refusal(**{name: 10}).startswith(f"{name.upper()}='10': Input should be '")


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look at the error is enough to mend everything."""
    monkeypatch.setenv("NUM_WORKERS", "0")
    monkeypatch.setenv("AUDIO_CHECKS", "none")
    said = refusal(retry_attempts=0, gemini_api_key=KEY)
    assert [name for name in ("NUM_WORKERS='0'", "AUDIO_CHECKS='none'", "RETRY_ATTEMPTS='0'") if name not in said] == []


def test_waits_must_be_in_order() -> None:
    """The shortest does not exceed the longest; equal is fine."""
    assert refusal(retry_min_wait=5, retry_max_wait=2) == "RETRY_MIN_WAIT=5.0 must not exceed RETRY_MAX_WAIT=2.0"
    assert "RATE_LIMIT_RETRY_MAX_WAIT=1.0" in refusal(rate_limit_retry_max_wait=1)
    assert AudioConfig(retry_min_wait=2, retry_max_wait=2).retry_max_wait == 2


def test_a_misspelt_setting_is_refused() -> None:
    """Arguments are ours alone, so an unknown one is a mistake; its value is not repeated."""
    assert refusal(gemini_api_kye=KEY, workers=1) == "no such setting: gemini_api_kye, workers"


def test_a_configuration_does_not_change() -> None:
    """Services may hold on to it; a change is a new configuration."""
    with pytest.raises(ValueError, match="frozen"):
        AudioConfig().num_workers = 5


def test_a_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A ``~`` in ``.env`` means what it means in a shell; a path with NUL is refused."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OUTPUT_DIR", "~/audio")
    assert AudioConfig().output_dir == tmp_path / "audio"
    assert "OUTPUT_DIR='a\\x00b': a path holds no NUL" in refusal(output_dir="a\0b")


def test_a_key_is_not_needed_until_it_is() -> None:
    """The error then says how to set it and what works without."""
    with pytest.raises(
        ConfigurationError, match=r"set GEMINI_API_KEY in the environment or in \.env.*TTS_ENGINE=offline"
    ):
        AudioConfig().require_api_key()


@pytest.mark.parametrize("key", ["", " ", "\n\t"])
def test_an_empty_key_as_an_argument_is_refused(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is passed is the one that is used: nothing else is picked up in its place."""
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    assert "GEMINI_API_KEY: an empty key is no key" in refusal(gemini_api_key=key)


def test_an_empty_key_in_the_environment_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """``GEMINI_API_KEY=`` is how ``.env.example`` leaves it."""
    Path(".env").write_text("GEMINI_API_KEY=\n")
    monkeypatch.setenv("GEMINI_API_KEY", "")
    assert AudioConfig().gemini_api_key is None


def test_the_key_of_another_product_is_never_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK would prefer ``GOOGLE_API_KEY``; here it does not exist, neither in the environment nor in the file."""
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)
    Path(".env").write_text(f"GOOGLE_API_KEY={KEY}\n")
    assert AudioConfig().gemini_api_key is None


@pytest.mark.parametrize("key", [f"{KEY} {KEY}", f"{KEY}é", f"{KEY}\n{KEY}", f"{KEY}\x7f"], ids=ascii)
def test_what_cannot_stand_in_a_header_is_no_key(key: str) -> None:
    """The error says what a key is and shows nothing of it."""
    said = refusal(gemini_api_key=key)
    assert "GEMINI_API_KEY: a key is printable ASCII without spaces" in said
    assert "CANARY" not in said


def test_secrets_never_show() -> None:
    """Neither in a representation nor in JSON, a dump, a pickle or a copy's representation."""
    config = AudioConfig(gemini_api_key=KEY, redis_url=f"redis://:{PASSWORD}@127.0.0.1/0")
    shown = [
        repr(config),
        str(config),
        config.model_dump_json(),
        repr(config.model_dump()),
        repr(copy.deepcopy(config)),
        repr(copy.copy(config)),
        *(repr(pickle.dumps(config, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)),
    ]
    assert [text for text in shown if "CANARY" in text] == []
    assert copy.deepcopy(config) == copy.copy(config) == config


def test_a_pickled_configuration_finds_the_secrets_where_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else travels; the key is read from the environment of the process that loads it."""
    pickled = pickle.dumps(AudioConfig(gemini_api_key=KEY, num_workers=7, model_prices={"m": (1, 2)}))
    assert pickle.loads(pickled) == AudioConfig(num_workers=7, model_prices={"m": (1, 2)})
    monkeypatch.setenv("GEMINI_API_KEY", "there")
    assert pickle.loads(pickled).require_api_key() == "there"


@pytest.mark.parametrize(
    "values",
    [
        {"gemini_api_key": f"{KEY} x"},
        {"gemini_api_key": [KEY, KEY]},
        {"gemini_api_kye": KEY, "num_workers": 0},
        {"gemini_api_key": KEY, "num_workers": 0},
        {"gemini_api_key": KEY, "retry_min_wait": 99},
        {"gemini_api_key": KEY, "model_prices": "{"},
        {"redis_url": f"http://:{PASSWORD}@h"},
        {"redis_url": f"redis://:{PASSWORD}\u2100@h"},
        {"redis_url": f"redis://:a#{PASSWORD}@h"},
        {"redis_url": f"redis://h:{PASSWORD}"},
        {"redis_url": f"redis://[{PASSWORD}"},
        {"redis_url": f"rediss://:{PASSWORD}@h?ssl_cert_reqs=none"},
        {"gemini_base_url": f"https://u:{PASSWORD}@generativelanguage.googleapis.com"},
        {"gemini_base_url": f"https://generativelanguage.googleapis.com?key={KEY}"},
        {"gemini_base_url": f"https://generativelanguage.googleapis.com#{KEY}"},
        {"batch_webhook": f"http://example.com/hook?token={KEY}"},
    ],
    ids=str,
)
@pytest.mark.parametrize("source", ["argument", "environment"])
def test_no_secret_is_in_an_error(values: dict[str, Any], source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in its text, its traceback with local variables, its pickle, nor in any exception chained to it."""
    if source == "environment":
        for name, value in values.items():
            monkeypatch.setenv(name.upper(), str(value))
    with pytest.raises(ConfigurationError) as info:
        AudioConfig(**(values if source == "argument" else {}))
    caught = info.value
    assert (caught.__cause__, caught.__context__) == (None, None)
    # This test's own variables hold the secret.
    report = traceback.TracebackException.from_exception(caught, capture_locals=True)
    frames = [frame for frame in report.stack if frame.filename != __file__]
    shown = f"{caught} {caught!r} {pickle.dumps(caught)!r} {[frame.locals for frame in frames]}"
    assert frames
    assert "CANARY" not in shown


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://generativelanguage.googleapis.com", "https://generativelanguage.googleapis.com"),
        (" https://generativelanguage.googleapis.com/ ", "https://generativelanguage.googleapis.com"),
        ("https://eu-generativelanguage.googleapis.com:443/", "https://eu-generativelanguage.googleapis.com:443"),
        ("HTTPS://AIPlatform.GoogleAPIs.com", "HTTPS://AIPlatform.GoogleAPIs.com"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("http://127.8.9.10", "http://127.8.9.10"),
        ("http://[::1]:8080/emulator/", "http://[::1]:8080/emulator"),
        ("https://localhost", "https://localhost"),
    ],
)
def test_trusted_addresses_of_the_api(url: str, kept: str) -> None:
    """On googleapis.com by https, and anything on this machine; a slash at the end is dropped."""
    assert AudioConfig(gemini_base_url=url).gemini_base_url == kept


@pytest.mark.parametrize(
    "url",
    ["http://10.0.0.1:8080", "http://192.168.1.5/gemini", "http://[fd00::1]:80", "http://gateway:4000", "http://g.lan"],
)
def test_http_is_allowed_in_a_private_network(url: str) -> None:
    """An address or a name of one's own network needs the switch, and no certificate."""
    assert "would receive the API key" in refusal(gemini_base_url=url)
    assert AudioConfig(gemini_base_url=url, allow_custom_base_url=True).gemini_base_url == url


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/v1", "/v1"),
        ("/v1beta/", "/v1beta"),
        ("/gemini/v1beta1", "/v1beta1"),
        ("/v1beta/models", "/models"),
        ("/models/gemini-3.8-flash-tts", "/models/gemini-3.8-flash-tts"),
        ("/v1beta/openai", "/v1beta/openai"),
    ],
)
def test_an_address_that_holds_what_the_library_adds_is_refused(path: str, found: str) -> None:
    """The refusal names the part to leave out; a path of another kind is a gateway's own."""
    said = refusal(gemini_base_url=f"https://gw.example.com{path}", allow_custom_base_url=True)
    assert f"must end before {found}" in said
    kept = "https://gw.example.com/v1/gemini"
    assert AudioConfig(gemini_base_url=kept, allow_custom_base_url=True).gemini_base_url == kept


@pytest.mark.parametrize(
    "url",
    [
        "http://generativelanguage.googleapis.com",
        "https://evilgoogleapis.com",
        "https://googleapis.com.evil.com",
        "https://generativelanguage.googleapis.com.evil.com",
        "https://evil.com/.googleapis.com",
        "https://evil.com",
        "http://127.0.0.1.evil.com",
        "http://localhost.evil.com",
        "http://0.0.0.0",
        "http://8.8.8.8",
        "http://0x0a000001",
        "http://evil.com",
        "http://[::2]",
        "http://127.1",
        "http://2130706433",
    ],
)
def test_other_addresses_would_receive_the_key(url: str) -> None:
    """The error names them and the one switch that allows another https host; http reaches no public one."""
    said = refusal(gemini_base_url=url)
    assert f"GEMINI_BASE_URL={url!r}: " in said
    assert "would receive the API key; it must be https on googleapis.com, or on this machine" in said
    if url.startswith("https"):
        assert AudioConfig(gemini_base_url=url, allow_custom_base_url=True).gemini_base_url == url
    else:
        assert "would receive the API key" in refusal(gemini_base_url=url, allow_custom_base_url=True)


@pytest.mark.parametrize(
    "url",
    [
        "generativelanguage.googleapis.com",
        "ftp://generativelanguage.googleapis.com",
        "file:///etc/passwd",
        "https://",
        "https:///x",
        "https://user@generativelanguage.googleapis.com",
        "https://@generativelanguage.googleapis.com",
        "https://evil.com\\@generativelanguage.googleapis.com",
        "https://evil.com\\.googleapis.com",
        "https://evil.com%2f.googleapis.com",
        "https://evil.com?.googleapis.com",
        "https://evil.com#.googleapis.com",
        "https://evil.com\n.googleapis.com",
        "https://evil.com\t.googleapis.com",
        "https://evil.com .googleapis.com",
        "https://evil\u3002com.googleapis.com\u2100",
        "https://\u212aevil.googleapis.com",
        "https://.googleapis.com",
        "https://generativelanguage.googleapis.com?",
        "https://generativelanguage.googleapis.com:0",
        "https://generativelanguage.googleapis.com:65536",
        "https://generativelanguage.googleapis.com:port",
        "http://[::1",
        "http://[::1%25eth0]",
        "http://::1",
    ],
    ids=ascii,
)
def test_an_address_has_one_reading(url: str) -> None:
    """What another parser could take for another host is refused, even where any https host is allowed."""
    said = refusal(gemini_base_url=url, allow_custom_base_url=True)
    assert "must be http(s)://host, with a port and a path at most: no user, query or fragment" in said


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_address_is_accepted_that_is_not_googles_or_local(before: str, after: str) -> None:
    """Whatever surrounds a trusted name, the host of an accepted address is trusted."""
    from urllib.parse import urlsplit  # the oracle: another parser

    for url in (f"https://{before}googleapis.com{after}", f"http://{before}127.0.0.1{after}", f"{before}://{after}"):
        try:
            accepted = AudioConfig(gemini_base_url=url, _env_file=None).gemini_base_url
        except ConfigurationError:
            continue
        host = urlsplit(accepted).hostname or ""
        assert host.endswith(".googleapis.com") or host == "localhost" or host.startswith("127.") or host == "::1"


def test_a_broken_switch_allows_nothing() -> None:
    """An unreadable ``ALLOW_CUSTOM_BASE_URL`` is not read as yes."""
    said = refusal(gemini_base_url="https://evil.com", allow_custom_base_url="perhaps")
    assert "ALLOW_CUSTOM_BASE_URL='perhaps'" in said
    assert "would receive the API key" in said


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6379/0",
        " rediss://user:p%40ss@redis.example.org:6380/1 ",
        "unix:///run/redis.sock?db=2",
        "rediss://h?ssl_cert_reqs=required&ssl_check_hostname=true&ssl_ca_certs=/etc/ca.pem",
        "redis://[::1]:6379",
        "redis://:p%40ss@h1:7000,h2:7001/0",
        "redis+sentinel://user:pass@h1,h2:26380/service/1",
        "rediss+sentinel://h1/service",
    ],
)
def test_addresses_of_redis(url: str) -> None:
    """All three schemes of redis-py, options included; several nodes; sentinels."""
    assert AudioConfig(redis_url=url).redis_url.get_secret_value() == url.strip()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("127.0.0.1:6379", "must begin with redis://, rediss://, unix:// or redis+sentinel://"),
        ("REDIS://h", "must begin with redis://"),
        ("http://h", "must begin with redis://"),
        ("redis://:pa#ss@h", "must be percent-encoded"),
        ("redis+sentinel://h1,h2:26380", "must name the service"),
        ("rediss+sentinel://h/", "must name the service"),
        ("redis://h:port", "must be percent-encoded"),
        ("redis://h1:1,h2:port", "must be percent-encoded"),
        ("redis://[::1", "must be percent-encoded"),
        ("redis://:p\u2100@h", "must be percent-encoded"),
        ("rediss://h?ssl_cert_reqs=none", "must not switch the check of the server's certificate off"),
        ("rediss://h?ssl_cert_reqs=NONE", "must not switch the check of the server's certificate off"),
        ("rediss://h?ssl_cert_reqs=n%6Fne", "must not switch the check of the server's certificate off"),
        ("rediss://h?ssl_cert_reqs=required&ssl_cert_reqs=none", "must not switch"),
        ("rediss://h?ssl_cert_reqs=optional", "must not switch"),
        ("rediss://h?db=1&ssl_check_hostname=false", "must not switch"),
        ("rediss://h?ssl_check_hostname=0", "must not switch"),
        ("redis://host/cache", "must name its database by a number, such as redis://host:6379/0"),
        ("redis://host/0/cache", "must name its database by a number"),
        ("redis://host?db=cache", "must name its database by a number"),
        ("redis://host?db=", "must name its database by a number"),
        ("redis+sentinel://h/service/cache", "must name its database by a number"),
        ("redis://host:70000", "names a port outside 1 to 65535"),
        ("redis://:password@host:0/1", "names a port outside 1 to 65535"),
        ("redis://h1:7000,h2:" + "9" * 5000, "names a port outside 1 to 65535"),
        ("redis://user:70000/x@host", "must be percent-encoded"),
        ("redis://:pass@word@host:1/x@y", "must be percent-encoded"),
        ("redis://h?max_connections=5", "set REDIS_POOL_SIZE"),
        ("redis://h/0?decode_responses=true", "leave 'decode_responses' out"),
        ("redis://h?encoding=latin-1", "leave 'encoding' out"),
        ("redis://h?parser_class=x", "leave 'parser_class' out"),
        ("redis://h?host=elsewhere", "leave 'host' out"),
    ],
    ids=ascii,
)
def test_an_unsafe_address_of_redis_is_refused(url: str, said: str) -> None:
    """redis-py would drop the check of the certificate without a word; the URL is not shown, it may hold a password."""
    text = refusal(redis_url=url)
    assert text.startswith("REDIS_URL: ")
    assert said in text


def test_validate_config_makes_the_output_folder(tmp_path: Path) -> None:
    """For its owner alone, parents included, and leaves nothing in it."""
    config = AudioConfig(tts_engine="offline", output_dir=tmp_path / "a" / "b")
    config.validate_config()
    config.validate_config()
    assert config.output_dir.stat().st_mode & 0o777 == 0o700
    assert list(config.output_dir.iterdir()) == []


def test_validate_config_wants_a_key_for_gemini(tmp_path: Path) -> None:
    """And no folder appears before it is there."""
    with pytest.raises(ConfigurationError, match="no Gemini API key"):
        AudioConfig(output_dir=tmp_path / "a").validate_config()
    assert not (tmp_path / "a").exists()
    AudioConfig(gemini_api_key=KEY, output_dir=tmp_path / "a").validate_config()


@pytest.mark.parametrize("folder", ["file", "file/below", "x" * 300, "/proc/none"])
def test_validate_config_names_a_folder_that_takes_no_files(folder: str) -> None:
    """With the reason of the operating system."""
    Path("file").touch()
    with pytest.raises(
        ConfigurationError, match=rf"^OUTPUT_DIR='{folder}' takes no files: \w.*; it must be a writable"
    ):
        AudioConfig(tts_engine="offline", output_dir=folder).validate_config()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the module logged."""
    return [record.getMessage() for record in caplog.records if record.name == "audio_api.env_file"]


@pytest.mark.parametrize(
    "line", [f"GEMINI_API_KEY={KEY}", f"export gemini_api_key = '{KEY}'", f'\n\nGEMINI_API_KEY="{KEY}"']
)
def test_a_key_that_everybody_can_read_is_reported_once(line: str, caplog: pytest.LogCaptureFixture) -> None:
    """When the file is read, with its name and what to do, without the key; not again on the next reading."""
    Path(".env").write_text(f"LOG_LEVEL=INFO\n{line}\n")
    Path(".env").chmod(0o644)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            AudioConfig()
    assert warnings_of(caplog) == [
        f"every user of this machine can read the API key in {Path.cwd() / '.env'}: run chmod 600 on it"
    ]


@pytest.mark.parametrize(
    ("content", "mode"),
    [(f"GEMINI_API_KEY={KEY}", 0o600), (f"GEMINI_API_KEY={KEY}", 0o640), ("GEMINI_API_KEY=", 0o644),
     ("GEMINI_API_KEY=''", 0o644), ("GEMINI_API_KEY= # none yet", 0o644), (f"# GEMINI_API_KEY={KEY}", 0o644),
     ("LOG_LEVEL=INFO", 0o644)],
)  # fmt: skip
def test_files_without_an_exposed_key_are_not_reported(
    content: str, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing to hide, or hidden."""
    Path(".env").write_text(content + "\n")
    Path(".env").chmod(mode)
    AudioConfig()
    AudioConfig(_env_file=(".env", "missing"))
    assert warnings_of(caplog) == []


def test_the_address_of_a_strangers_file_gets_no_key_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the working folder may name where its own key goes, or Google; but not where the user's key goes."""
    Path(".env").write_text("GEMINI_BASE_URL=http://127.0.0.1:9\n")
    assert AudioConfig().gemini_base_url == "http://127.0.0.1:9"
    told = f"GEMINI_BASE_URL='http://127.0.0.1:9' in .env would receive an API key that is not from there: {ADVICE}"
    assert refusal(gemini_api_key=KEY) == told
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    assert refusal() == told
    Path(".env").write_text(f"ALLOW_CUSTOM_BASE_URL=1\ngemini_base_url=https://proxy.test\nGEMINI_API_KEY={KEY}\n")
    Path(".env").chmod(0o600)
    assert "https://proxy.test" in refusal()
    monkeypatch.delenv("GEMINI_API_KEY")
    assert AudioConfig().gemini_base_url == "https://proxy.test"
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("GEMINI_BASE_URL", "http://localhost:1")
    assert AudioConfig().gemini_base_url == "http://localhost:1"
    monkeypatch.delenv("GEMINI_BASE_URL")
    Path(".env").write_text("GEMINI_BASE_URL=https://eu.googleapis.com\n")
    assert AudioConfig().gemini_base_url == "https://eu.googleapis.com"


ADVICE = "set both in the environment, or both in the file"


def test_nothing_is_replaced_within_a_file() -> None:
    """Nested variables of 400 bytes, which mean 10 GB, are refused; those of other programs do not matter."""
    nested = "".join(f"V{n}={f'${{V{n - 1}}}' * 10}\n" for n in range(1, 10))
    Path(".env").write_text(f"V0=0123456789\n{nested}OUTPUT_DIR=x\n")
    assert AudioConfig().output_dir == Path("x")
    Path(".env").write_text(f"V0=0123456789\n{nested}OUTPUT_DIR=${{V9}}\n")
    assert refusal() == "OUTPUT_DIR in .env: ${...} is not replaced there; write the value itself"


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: os.mkfifo(path), "is a pipe or a device: it must be a file"),
        (lambda path: path.symlink_to("/dev/zero"), "is a pipe or a device: it must be a file"),
        (lambda path: path.mkdir(), "is a folder, as a container makes one"),
        (lambda path: path.write_text("A=1\n" * 20_000), "holds more than 65,536 bytes"),
        (lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links"),
    ],
    ids=["pipe", "device", "folder", "large", "loop"],
)
def test_what_is_no_file_of_settings_is_refused_at_once(make: Callable[[Path], object], problem: str) -> None:
    """A pipe does not hang, a device does not fill the memory, and a folder is named."""
    make(Path(".env").absolute())
    assert refusal().startswith(f".env {problem}")


def test_a_virtual_environment_may_be_called_so() -> None:
    """``python -m venv .env`` is common; it holds no settings."""
    Path(".env").mkdir()
    Path(".env/pyvenv.cfg").touch()
    assert AudioConfig().num_workers == 3


@pytest.mark.parametrize(("name", "level"), [("warn", "WARNING"), ("WARN", "WARNING"), ("Fatal", "CRITICAL")])
def test_levels_have_the_names_of_logging(name: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``logging`` knows WARN and FATAL, too."""
    monkeypatch.setenv("LOG_LEVEL", name)
    assert AudioConfig().log_level == level


def test_the_configuration_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """``get_config`` keeps what it read; ``reload_config`` reads again; ``load_config`` keeps nothing."""
    monkeypatch.setenv("NUM_WORKERS", "5")
    first = get_config()
    monkeypatch.setenv("NUM_WORKERS", "6")
    assert get_config() is first
    assert AudioConfig.load_config().num_workers == 6
    assert get_config() is first
    second = reload_config()
    assert get_config() is second
    assert (first.num_workers, second.num_workers) == (5, 6)


def test_a_bad_reload_keeps_the_old_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A running service does not fall over a typing error in ``.env``."""
    old = get_config()
    Path(".env").write_text("NUM_WORKERS=many\n")
    with pytest.raises(ConfigurationError, match="NUM_WORKERS='many'"):
        reload_config()
    assert get_config() is old
    Path(".env").write_text("NUM_WORKERS=4\n")
    assert reload_config().num_workers == get_config().num_workers == 4


def test_a_first_reading_that_fails_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing half-read is kept."""
    monkeypatch.setenv("NUM_WORKERS", "many")
    with pytest.raises(ConfigurationError):
        get_config()
    monkeypatch.delenv("NUM_WORKERS")
    assert get_config().num_workers == 3


def test_threads_get_one_configuration() -> None:
    """The first caller reads; all others get the same object."""
    start = threading.Barrier(8)
    seen: list[AudioConfig] = []

    def read() -> None:
        start.wait()
        seen.append(get_config())

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert len(set(map(id, seen))) == 1


def test_importing_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong variable hurts only when settings are read, and reading changes no environment."""
    monkeypatch.setenv("NUM_WORKERS", "many")
    before = dict(os.environ)
    Path(".env").write_text("LOG_LEVEL=ERROR\n")
    assert json.loads(AudioConfig(num_workers=1).model_dump_json())["log_level"] == "ERROR"
    assert dict(os.environ) == before


def test_known_models_are_members() -> None:
    """``DEFAULT_TTS_MODEL`` follows the rule of requests."""
    assert AudioConfig(default_tts_model="gemini-2.5-pro-preview-tts").default_tts_model is VoiceModel.GEMINI_TTS_PRO


@pytest.mark.parametrize("name", ["output_url", "cache_url"])
def test_the_url_of_a_store_holds_no_password(name: str) -> None:
    """A URL with a user is refused, not shown, and the text says where credentials come from."""
    text = refusal(**{name: f"s3://key:{PASSWORD}@bucket/prefix"})
    assert text.startswith(f"{name.upper()}: must hold no user")
    assert "AWS_ACCESS_KEY_ID" in text
    assert PASSWORD not in text
    assert refusal(**{name: "ftp://host/x"}).startswith(f"{name.upper()}='ftp://host/x': must be s3://bucket/prefix")
