"""What the Gemini engine must make of every fault of the emulator; run as a script, it prints what it does make.

``python gemini_faults.py`` lets the engine meet the faults of a fresh emulator once, with logging at DEBUG, and prints
a JSON object.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import pickle
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from own_time import PATIENCE_S, pass_time

from audio_api.emulator import Emulator, Fault
from audio_api.emulator.control import ReceivedCall
from audio_api.engines.base import SpeechAudio, Turn, Utterance
from audio_api.engines.gemini import GeminiEngine
from audio_api.engines.gemini_backend import DEVELOPER, Backend
from audio_api.errors import (
    AudioAPIError,
    ConfigurationError,
    ErrorCode,
    TTSAPIError,
    TTSAudioError,
    TTSAuthenticationError,
    TTSContentBlockedError,
    TTSModelNotFoundError,
    TTSQuotaError,
    TTSRateLimitError,
    TTSUnavailableError,
)
from audio_api.models.audio_request import VoiceConfig

KEY = "canary-5f1c0ffee-key"
TEXT = "The quick brown fox jumps over the lazy dog."
MODEL = "gemini-3.8-flash-tts"
PROJECT = "project-of-the-tests"
# Both APIs, and both ways to call the second one.
BACKENDS = {"developer": DEVELOPER, "vertex": Backend.vertex(PROJECT), "express": Backend.vertex()}
UTTERANCE = Utterance((Turn(TEXT, VoiceConfig()),), MODEL, "en-US")
# A day's delay ends at the latest with the day of the API: at noon there, the longest of the emulator fits into it.
NOW = datetime(2026, 11, 22, 20, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Heard:
    """A call that brought sound.

    Attributes:
        finish_reason: What the engine reports.
        whole: Whether every sample the emulator made arrived; ``None``: its sound is damaged on purpose.
        warnings: How many.
    """

    finish_reason: str | None = "STOP"
    whole: bool | None = True
    warnings: int = 0


@dataclass(frozen=True)
class Failed:
    """A call that brought an error: class, code, whether to retry, the server's delay, whether it was billed."""

    kind: type[AudioAPIError]
    code: ErrorCode
    retryable: bool
    retry_after_s: float | None = None
    billed: bool = False


def _unavailable(code: ErrorCode) -> Failed:
    return Failed(TTSUnavailableError, code, retryable=True)


_NO_AUDIO = Failed(TTSAudioError, ErrorCode.NO_AUDIO, retryable=True, billed=True)
_BLOCKED = Failed(TTSContentBlockedError, ErrorCode.CONTENT_BLOCKED, retryable=False, billed=True)
_FORMAT = Failed(TTSAudioError, ErrorCode.AUDIO_FORMAT, retryable=False, billed=True)
_TOO_LARGE = Failed(TTSAudioError, ErrorCode.AUDIO_TOO_LARGE, retryable=False)
_KEY_REFUSED = Failed(TTSAuthenticationError, ErrorCode.AUTHENTICATION, retryable=False)
_REFUSED = Failed(TTSAPIError, ErrorCode.API_ERROR, retryable=False)
_NO_MODEL = Failed(TTSModelNotFoundError, ErrorCode.MODEL_NOT_FOUND, retryable=False)
_DAMAGED = Heard(whole=None)

EXPECTED: dict[Fault, Heard | Failed] = {
    Fault.NONE: Heard(),
    Fault.RATE_LIMIT_MINUTE: Failed(TTSRateLimitError, ErrorCode.RATE_LIMITED, retryable=True, retry_after_s=42),
    Fault.RATE_LIMIT_BARE: Failed(TTSRateLimitError, ErrorCode.RATE_LIMITED, retryable=True),
    Fault.QUOTA_DAY: Failed(TTSQuotaError, ErrorCode.QUOTA_EXHAUSTED, retryable=False),
    Fault.QUOTA_DAY_PAID: Failed(TTSQuotaError, ErrorCode.QUOTA_EXHAUSTED, retryable=False, retry_after_s=6776),
    Fault.QUOTA_ZERO: Failed(TTSQuotaError, ErrorCode.QUOTA_NOT_GRANTED, retryable=False),
    Fault.CREDITS_DEPLETED: Failed(TTSQuotaError, ErrorCode.CREDIT_EXHAUSTED, retryable=False),
    Fault.SPEND_LIMIT: Failed(TTSRateLimitError, ErrorCode.SPEND_LIMITED, retryable=True, retry_after_s=60),
    Fault.SPEND_LIMIT_BARE: Failed(TTSRateLimitError, ErrorCode.SPEND_LIMITED, retryable=True, retry_after_s=60),
    Fault.TIMEOUT_408: _unavailable(ErrorCode.UNAVAILABLE),
    Fault.INTERNAL_500: _unavailable(ErrorCode.UNAVAILABLE),
    Fault.BAD_GATEWAY_502: _unavailable(ErrorCode.UNAVAILABLE),
    Fault.UNAVAILABLE_503: _unavailable(ErrorCode.UNAVAILABLE),
    Fault.DEADLINE_504: _unavailable(ErrorCode.UNAVAILABLE),
    Fault.BAD_ARGUMENT: _REFUSED,
    Fault.LOCATION: _REFUSED,
    Fault.API_KEY_INVALID: _KEY_REFUSED,
    Fault.UNAUTHENTICATED: _KEY_REFUSED,
    Fault.PERMISSION_DENIED: _KEY_REFUSED,
    Fault.KEY_LEAKED: _KEY_REFUSED,
    Fault.MODEL_NOT_FOUND: _NO_MODEL,
    Fault.MODEL_RETIRED: _NO_MODEL,
    Fault.GENERATED_TEXT: _unavailable(ErrorCode.MODEL_CONFUSED),
    Fault.STORE_UNKNOWN: Heard(),
    Fault.REDIRECT: Failed(ConfigurationError, ErrorCode.CONFIGURATION, retryable=False),
    Fault.NEVER_ANSWERS: _unavailable(ErrorCode.TIMEOUT),
    Fault.SLOW_LORIS: _unavailable(ErrorCode.TIMEOUT),
    Fault.RESET_BEFORE_BODY: _unavailable(ErrorCode.CONNECTION_BROKEN),
    Fault.RESET_IN_BODY: _unavailable(ErrorCode.CONNECTION_BROKEN),
    Fault.CLOSE_BEFORE_BODY: _unavailable(ErrorCode.CONNECTION_BROKEN),
    Fault.CLOSE_IN_BODY: _unavailable(ErrorCode.CONNECTION_BROKEN),
    Fault.GZIP_BOMB: _TOO_LARGE,
    Fault.HUGE_BODY: _TOO_LARGE,
    Fault.TRUNCATED_JSON: _unavailable(ErrorCode.UNREADABLE_REPLY),
    Fault.HTML_200: _unavailable(ErrorCode.UNREADABLE_REPLY),
    Fault.EMPTY_BODY: Failed(TTSAudioError, ErrorCode.NO_AUDIO, retryable=True),
    Fault.CANDIDATES_EMPTY: _NO_AUDIO,
    Fault.CANDIDATES_MISSING: _NO_AUDIO,
    Fault.CONTENT_EMPTY: _NO_AUDIO,
    Fault.CONTENT_MISSING: _NO_AUDIO,
    Fault.COPYRIGHT: _BLOCKED,
    Fault.SAFETY: _BLOCKED,
    Fault.PROHIBITED_CONTENT: _BLOCKED,
    Fault.PROMPT_BLOCKED: _BLOCKED,
    Fault.TEXT_ONLY: _NO_AUDIO,
    Fault.INLINE_DATA_EMPTY: _NO_AUDIO,
    Fault.BASE64_INVALID: _unavailable(ErrorCode.UNREADABLE_REPLY),
    Fault.TEXT_THEN_AUDIO: Heard(),
    Fault.AUDIO_SPLIT: Heard(),
    Fault.WAV_CHUNK_AFTER_DATA: Heard(),
    Fault.WAV_SIZE_ZERO: Heard(),
    Fault.WAV_SIZE_UNKNOWN: Heard(),
    Fault.RATE_16000: Heard(whole=None, warnings=1),
    Fault.MP3: _FORMAT,
    Fault.MIME_UNKNOWN: _FORMAT,
    Fault.ODD_BYTES: Heard(whole=None, warnings=1),
    Fault.SILENT: _DAMAGED,
    Fault.NEAR_SILENT: _DAMAGED,
    Fault.DC_OFFSET: _DAMAGED,
    Fault.HALF_SILENT: _DAMAGED,
    Fault.GARBAGE: _DAMAGED,
    Fault.BASE64_TWICE: Failed(TTSAudioError, ErrorCode.AUDIO_FORMAT, retryable=True, billed=True),
    Fault.BYTES_SWAPPED: _DAMAGED,
    Fault.BYTES_SHIFTED: _DAMAGED,
    Fault.MP3_AS_PCM: _DAMAGED,
    Fault.TOO_SHORT: _DAMAGED,
    Fault.TRUNCATED: _DAMAGED,
    Fault.TRUNCATED_BILLED: _DAMAGED,
    Fault.MAX_TOKENS: Heard("MAX_TOKENS", whole=None),
    Fault.RUNAWAY: _DAMAGED,
    Fault.FINISH_MISSING: Heard(None),
    Fault.FINISH_UNKNOWN: Heard("SPEECH_BOREDOM"),
    Fault.FINISH_OTHER: Heard("OTHER", whole=None),
    Fault.OTHER_MODEL: Heard(warnings=1),
    Fault.TIER_DOWNGRADED: Heard(),
    # These concern streams only, which the engine does not use.
    Fault.STREAM_CUT: Heard(),
    Fault.STREAM_STALL: Heard(),
    Fault.STREAM_ERROR: Heard(),
    Fault.STREAM_ODD_CHUNKS: Heard(),
    Fault.STREAM_TEXT_FIRST: Heard(),
}
"""What one attempt ends with; the checks that follow it find what is wrong with damaged sound."""


def engine_for(server: Emulator | str, *, timeout_s: float = PATIENCE_S, **options: Any) -> GeminiEngine:
    """An engine that talks to a server on this machine."""
    url = server if isinstance(server, str) else server.url
    defaults = {"base_url": url, "timeout_s": timeout_s, "max_connections": 4, "now": lambda: NOW}
    return GeminiEngine(KEY, **{**defaults, **options})


async def outcome(engine: GeminiEngine, utterance: Utterance = UTTERANCE) -> SpeechAudio | AudioAPIError:
    """What one attempt ends with, as a value."""
    try:
        return await engine.synthesize(utterance)
    except AudioAPIError as error:
        return error


def summary(result: SpeechAudio | AudioAPIError) -> list[Any]:
    """All that a caller can see of an outcome, but for the sound itself."""
    if isinstance(result, SpeechAudio):
        return ["heard", result.finish_reason, result.sample_rate, len(result.pcm), result.model, *result.warnings]
    usage = result.usage and result.usage.model_dump()
    return [type(result).__name__, result.code.value, result.retryable, result.retry_after_s, usage, str(result)]


def every_trace(error: BaseException) -> str:
    """Everything that a log, a debugger or a queue could make of an error, its local variables included."""
    with_locals = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    pickled = pickle.dumps(error)
    again = pickle.loads(pickled)
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
    chain = [error.__cause__, error.__context__, *vars(error).values()]
    return "\n".join([repr(error), str(error), repr(vars(error)), with_locals, repr(pickled), *map(repr, chain)])


# Bodies of hundreds of megabytes say nothing about what else is installed.
_LARGE = {Fault.GZIP_BOMB, Fault.HUGE_BODY}
HANGING = {Fault.NEVER_ANSWERS, Fault.SLOW_LORIS}


@asynccontextmanager
async def impatience(server: Emulator) -> AsyncIterator[None]:
    """Within, ``PATIENCE_S`` pass for the caller of each call that hangs, once the server has it."""

    async def pass_it() -> None:
        met: list[ReceivedCall] = []
        while True:
            await asyncio.sleep(0.001)
            latest = server.calls[-1:]
            if latest and latest != met and latest[0].fault in HANGING:
                met = latest
                pass_time(PATIENCE_S)

    passing = asyncio.create_task(pass_it())
    try:
        yield
    finally:
        passing.cancel()


async def _meet_every_fault(server: Emulator) -> dict[str, list[Any]]:
    engine = engine_for(server)
    found: dict[str, list[Any]] = {}
    async with impatience(server):
        for fault in sorted(set(Fault) - _LARGE):
            server.fail_next(fault)
            found[fault] = [summary(await outcome(engine)), len(server.calls)]
    await engine.close()
    return found


def main() -> None:
    """Print the outcome of every fault, and whether the key was logged, as JSON."""
    log = io.StringIO()
    logging.basicConfig(stream=log, level=logging.DEBUG)
    with Emulator() as server:
        found = asyncio.run(_meet_every_fault(server))
    print(json.dumps({"found": found, "logged": KEY in log.getvalue(), "aiohttp": "aiohttp" in sys.modules}))


if __name__ == "__main__":
    main()
