"""Everything the API is known to get wrong, by name.

A fault is asked for by its name. What it does on the wire stands in the module of its kind: ``errors`` (another
status), ``damage`` (200, but the reply or its sound is not right) and ``wire`` (the connection itself).
"""

from __future__ import annotations

from enum import StrEnum


class Fault(StrEnum):
    """The outcome of one call. ``NONE`` is a good answer."""

    NONE = "none"

    # 429. The daily ones carry a short RetryInfo, as the real ones do: only quotaId tells them apart.
    RATE_LIMIT_MINUTE = "rate-limit-minute"
    RATE_LIMIT_BARE = "rate-limit-bare"
    QUOTA_DAY = "quota-day"
    QUOTA_DAY_PAID = "quota-day-paid"
    QUOTA_ZERO = "quota-zero"
    CREDITS_DEPLETED = "credits-depleted"
    # Of the whole account, with a RetryInfo and without any details.
    SPEND_LIMIT = "spend-limit"
    SPEND_LIMIT_BARE = "spend-limit-bare"

    # Other statuses.
    TIMEOUT_408 = "timeout-408"
    INTERNAL_500 = "internal-500"
    BAD_GATEWAY_502 = "bad-gateway-502"
    UNAVAILABLE_503 = "unavailable-503"
    DEADLINE_504 = "deadline-504"
    BAD_ARGUMENT = "bad-argument"
    LOCATION = "location"
    API_KEY_INVALID = "api-key-invalid"
    UNAUTHENTICATED = "unauthenticated"
    PERMISSION_DENIED = "permission-denied"
    KEY_LEAKED = "key-leaked"
    MODEL_NOT_FOUND = "model-not-found"
    MODEL_RETIRED = "model-retired"
    GENERATED_TEXT = "generated-text"
    # Only for calls that carry ``store``; others get a good answer.
    STORE_UNKNOWN = "store-unknown"
    REDIRECT = "redirect"

    # The connection.
    NEVER_ANSWERS = "never-answers"
    SLOW_LORIS = "slow-loris"
    RESET_BEFORE_BODY = "reset-before-body"
    RESET_IN_BODY = "reset-in-body"
    CLOSE_BEFORE_BODY = "close-before-body"
    CLOSE_IN_BODY = "close-in-body"
    GZIP_BOMB = "gzip-bomb"
    HUGE_BODY = "huge-body"

    # 200, and the body is no reply.
    TRUNCATED_JSON = "truncated-json"
    HTML_200 = "html-200"
    EMPTY_BODY = "empty-body"

    # 200 without audio.
    CANDIDATES_EMPTY = "candidates-empty"
    CANDIDATES_MISSING = "candidates-missing"
    CONTENT_EMPTY = "content-empty"
    CONTENT_MISSING = "content-missing"
    COPYRIGHT = "copyright"
    SAFETY = "safety"
    PROHIBITED_CONTENT = "prohibited-content"
    PROMPT_BLOCKED = "prompt-blocked"
    TEXT_ONLY = "text-only"
    INLINE_DATA_EMPTY = "inline-data-empty"
    BASE64_INVALID = "base64-invalid"

    # 200 with audio in another wrapping; the sound is whole except for MP3, MIME_UNKNOWN and ODD_BYTES.
    TEXT_THEN_AUDIO = "text-then-audio"
    AUDIO_SPLIT = "audio-split"
    WAV_CHUNK_AFTER_DATA = "wav-chunk-after-data"
    WAV_SIZE_ZERO = "wav-size-zero"
    WAV_SIZE_UNKNOWN = "wav-size-unknown"
    RATE_16000 = "rate-16000"
    MP3 = "mp3"
    MIME_UNKNOWN = "mime-unknown"
    ODD_BYTES = "odd-bytes"

    # 200 with sound that is not speech.
    SILENT = "silent"
    NEAR_SILENT = "near-silent"
    DC_OFFSET = "dc-offset"
    HALF_SILENT = "half-silent"
    GARBAGE = "garbage"
    BASE64_TWICE = "base64-twice"
    BYTES_SWAPPED = "bytes-swapped"
    BYTES_SHIFTED = "bytes-shifted"
    MP3_AS_PCM = "mp3-as-pcm"

    # 200 with speech that is not the text, or not all of it.
    TOO_SHORT = "too-short"
    TRUNCATED = "truncated"
    TRUNCATED_BILLED = "truncated-billed"
    MAX_TOKENS = "max-tokens"
    RUNAWAY = "runaway"
    FINISH_MISSING = "finish-missing"
    FINISH_UNKNOWN = "finish-unknown"
    FINISH_OTHER = "finish-other"
    OTHER_MODEL = "other-model"
    # A good answer by the tier standard, whatever was asked for.
    TIER_DOWNGRADED = "tier-downgraded"

    # Streams only; other calls get a good answer.
    STREAM_CUT = "stream-cut"
    STREAM_STALL = "stream-stall"
    STREAM_ERROR = "stream-error"
    STREAM_ODD_CHUNKS = "stream-odd-chunks"
    STREAM_TEXT_FIRST = "stream-text-first"
