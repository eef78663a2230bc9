"""Everything that goes wrong, as OpenAI's clients read it: ``{"error": {message, type, param, code}}``."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from audio_api.errors import (
    AudioAPIError,
    ErrorCode,
    QueueFullError,
    QueueServiceError,
    QueueUnavailableError,
    TaskNotFoundError,
    TTSAPIError,
    TTSAudioError,
    TTSContentBlockedError,
    TTSModelNotFoundError,
    TTSQuotaError,
    TTSRateLimitError,
    TTSUnavailableError,
    TTSValidationError,
    TTSVoiceNotFoundError,
)

# The first class that fits. The server's own key being refused is a 502: a 401 would send users to look at theirs.
_STATUS: Mapping[type[AudioAPIError], int] = {
    TTSValidationError: 400,
    TTSContentBlockedError: 400,
    TTSModelNotFoundError: 400,
    TTSVoiceNotFoundError: 400,
    TTSRateLimitError: 429,
    TTSQuotaError: 429,
    TTSUnavailableError: 503,
    TTSAudioError: 502,
    TTSAPIError: 502,
    TaskNotFoundError: 404,
    QueueFullError: 429,
    QueueUnavailableError: 503,
    QueueServiceError: 400,
}
_TYPE_OF_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
# What clients call the fields of an AudioRequest.
_FIELDS = {
    "text": "input",
    "voice_config": "voice",
    "multi_speaker_config": "cast",
    "style": "instructions",
    "output_filename": "response_format",
}


# Parts of places that the client did not write: where a field is, and which kinds of value it may have.
_NO_FIELDS = {"body", "query", "header", "path", "job", "batch", "str", "VoiceId", "CastMember"}


class AnswerError(Exception):
    """An answer that is no success.

    Args:
        status: Of HTTP.
        message: What happened, to which value, and what would be right.
        param: The field that is wrong; ``None``: none is.
        code: A stable name of the reason; ``None``: the status says all.
        retry_after_s: Seconds after which the same request may succeed; ``None``: not known.
        should_retry: Whether a client may repeat the request by itself; ``None``: as it does for this status.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        *,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.error = {
            "message": message,
            "type": _TYPE_OF_STATUS.get(status, kind),
            "param": param,
            "code": code,
        }
        self.headers: dict[str, str] = {}
        if retry_after_s is not None:
            self.headers["retry-after"] = str(math.ceil(retry_after_s))
        if should_retry is not None:
            self.headers["x-should-retry"] = str(should_retry).lower()
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"

    def response(self) -> JSONResponse:
        """What the client gets."""
        return JSONResponse({"error": self.error}, self.status, self.headers)


def problem_of(error: AudioAPIError) -> AnswerError:
    """What the client gets in the place of an error of the library.

    A client that repeats a request by itself, as OpenAI's does, must not do so when the library's attempts are used up.
    """
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
    if error.code is ErrorCode.TASK_CONFLICT:
        status = 409
    code = "insufficient_quota" if isinstance(error, TTSQuotaError) else error.code.value
    may_repeat = isinstance(error, QueueServiceError) and error.retryable
    return AnswerError(status, str(error), code=code, retry_after_s=error.retry_after_s, should_retry=may_repeat)


def problem_of_request(error: ValidationError | RequestValidationError) -> AnswerError:
    """What the client gets for fields that are wrong, in its own names for them. Values are not repeated."""
    problems = [_wrong_field(each["loc"], each["type"], each["msg"]) for each in error.errors()]
    param, _ = problems[0]
    text = "; ".join(message for _, message in problems)
    return AnswerError(400, text, param, ErrorCode.INVALID_REQUEST.value)


def _wrong_field(place: tuple[int | str, ...], kind: str, message: str) -> tuple[str | None, str]:
    names = [str(part) for part in place if part not in _NO_FIELDS]
    if kind == "json_invalid" or not names:
        return None, "the body must be a JSON object, sent with Content-Type: application/json"
    names[0] = _FIELDS.get(names[0], names[0])
    return names[0], f"{'.'.join(names)}: {message.removeprefix('Value error, ')}"


def answer_problems(app: FastAPI) -> None:
    """Have every failure of the app answered in OpenAI's form."""

    async def problem(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, AnswerError)  # noqa: S101 - for the type checker
        return error.response()

    async def of_library(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, AudioAPIError)  # noqa: S101 - for the type checker
        return problem_of(error).response()

    async def of_request(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ValidationError | RequestValidationError)  # noqa: S101 - for the type checker
        return problem_of_request(error).response()

    async def of_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker
        problem = AnswerError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
        # Of a method that is not allowed: those that are.
        problem.headers |= error.headers or {}
        return problem.response()

    async def of_bug(_: Request, error: Exception) -> JSONResponse:
        return AnswerError(500, f"the server failed ({type(error).__name__}); its log says more").response()

    app.add_exception_handler(AnswerError, problem)
    app.add_exception_handler(AudioAPIError, of_library)
    app.add_exception_handler(RequestValidationError, of_request)
    app.add_exception_handler(ValidationError, of_request)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(Exception, of_bug)
