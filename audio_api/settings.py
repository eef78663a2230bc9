"""The settings that there are: their types, defaults, bounds and meaning. ``config.py`` reads and checks them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from audio_api.models.audio_request import ID_PATTERN, Markup
from audio_api.models.languages import Language, LanguageCode
from audio_api.models.service_tiers import ServiceTier
from audio_api.models.sound_formats import OutputFormat
from audio_api.models.speech_models import DEFAULT_MODEL, ModelId, SafetyThreshold

GEMINI_URL = "https://generativelanguage.googleapis.com"


class Settings(BaseSettings):
    """Every setting, as ``AudioConfig`` has it."""

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
    gemini_backend: Literal["developer", "vertex"] = Field(
        default="developer",
        description="Whose API Gemini is called by: developer (ai.google.dev), or vertex (Vertex AI of Google Cloud).",
    )
    google_cloud_project: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9.:-]{0,99}$",
        description="The project whose credentials call Vertex AI; none: GEMINI_API_KEY does, a key of express mode.",
    )
    google_cloud_location: str = Field(
        default="global",
        pattern=r"^[a-z][a-z0-9-]{0,39}$",
        description="Where Vertex AI makes the speech: global, us or eu; regions serve older models only.",
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
    gemini_safety_threshold: SafetyThreshold | None = Field(
        default=None,
        description="From which probability of harm on Gemini refuses a text: off, block_none, block_only_high, "
        "block_medium_and_above or block_low_and_above; none: its own threshold.",
    )
    output_dir: Path = Field(default=Path("output"), description="Folder of the audio files; made when missing.")
    output_format: OutputFormat = Field(
        default="wav",
        description="What a file is when neither its name nor its request says it: wav, mp3, opus, flac or m4a.",
    )
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
    service_tier: ServiceTier = Field(
        default="standard",
        description="Tier of requests that name none: standard; flex, at half the price, which takes up to 15 minutes "
        "and is refused first when the API is busy; priority, at 1.8 times the price.",
    )
    flex_timeout: float = Field(
        default=900.0, gt=0, description="Seconds one API call of the tier flex may take; REQUEST_TIMEOUT is of others."
    )
    flex_fallback: bool = Field(
        default=False,
        description="Let the tier standard serve, at its price, what flex refused or left unanswered at every attempt.",
    )
    batch_deadline: float = Field(
        default=86_400.0,
        gt=0,
        description="Seconds that a job of Gemini's Batch API may take; then it is cancelled, and its rest is missing.",
    )
    batch_fallback: bool = Field(
        default=True,
        description="Ask for what a batch did not bring, or brought doubtful, by ordinary calls at their price.",
    )
    batch_webhook: str | None = Field(
        default=None,
        pattern=r"^https://\S+$",
        description="An https URL at which Google tells when a job of its Batch API has ended; then collect it.",
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
        description="Seconds one attempt of a queued job may work between two signs of progress; waiting for a quota, "
        "a slot, the next attempt or Redis is no work.",
    )
    task_max_age: float = Field(
        default=21_600.0,
        gt=0,
        description="Seconds for which a failing job is tried again, from its first failure on; then it fails.",
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
    server_api_keys: SecretStr | None = Field(
        default=None,
        description="Keys that clients of `audio-api serve` must show, separated by commas; key=100000 allows one that "
        "many characters a day (UTC). None: no key is asked for, and only this machine is served.",
    )
    server_cors_origins: str | None = Field(
        default=None,
        description="Origins whose pages may call the server, such as https://chat.example.com, separated by commas; "
        "* is any.",
    )
    server_model_aliases: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict,
        description='Further names of models for clients of the server, as JSON: {"tts-1-hd": "gemini-3.8-flash-tts"}.',
    )
    server_voice_aliases: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict,
        description='Further names of voices for clients of the server, as JSON: {"alloy": "kore"}.',
    )
    server_language: LanguageCode = Field(
        default=Language.ENGLISH, description="Language of requests to the server that name none."
    )
    server_max_requests: int = Field(
        default=256,
        ge=1,
        description="Requests for speech that a server process takes at once, those that wait for their turn included; "
        "MAX_CONCURRENCY bounds the calls.",
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
    listen: Literal["off", "doubtful", "always"] = Field(
        default="off",
        description="off: takes are not listened to. doubtful: a speech recogniser decides those that the other checks "
        "cannot. always: it checks every take.",
    )
    listen_model: str = Field(
        default="tiny.en",
        min_length=1,
        description="Model of the recogniser (extra `listen`): tiny.en, base, small or any other of faster-whisper, "
        "downloaded at first, or a folder.",
    )
    model_fallback: bool = Field(
        default=True,
        description="Let a model's successor speak when the model is shut down or unknown to the API.",
    )
    model_prices: Annotated[dict[str, tuple[NonNegativeFloat, NonNegativeFloat]], NoDecode] = Field(
        default_factory=dict,
        description='US dollars per million input and audio tokens, by model, as JSON: {"model": [0.5, 9]}.',
    )
