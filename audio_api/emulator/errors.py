"""The API's refusals: their status, their words and their structured details, as recorded from the real one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from audio_api.emulator.faults import Fault

STATUS_CODES = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
INVALID = "Request contains an invalid argument."
_TYPE = "type.googleapis.com/google.rpc."
_METRIC = "generativelanguage.googleapis.com/"


@dataclass
class RefusalError(Exception):
    """An answer that is an error.

    Attributes:
        message: What the API says.
        status: Its canonical name, such as ``"INVALID_ARGUMENT"``; it gives the HTTP status.
        details: The structured part.
        in_list: Whether the error stands in a list of one, as the oldest front ends have it.
    """

    message: str = INVALID
    status: str = "INVALID_ARGUMENT"
    details: list[dict[str, Any]] = field(default_factory=list)
    in_list: bool = False

    @property
    def code(self) -> int:
        """The HTTP status."""
        return STATUS_CODES[self.status]

    def document(self) -> dict[str, Any]:
        """The error as the API's JSON says it."""
        error: dict[str, Any] = {"code": self.code, "message": self.message, "status": self.status}
        if self.details:
            error["details"] = self.details
        return {"error": error}

    def body(self) -> bytes:
        """The document, as sent."""
        return json.dumps([self.document()] if self.in_list else self.document(), indent=2).encode()


def bad_key() -> RefusalError:
    """The key is not the one the server knows."""
    info = {
        "@type": f"{_TYPE}ErrorInfo",
        "reason": "API_KEY_INVALID",
        "domain": "googleapis.com",
        "metadata": {"service": "generativelanguage.googleapis.com"},
    }
    return RefusalError("API key not valid. Please pass a valid API key.", details=[info])


def no_key() -> RefusalError:
    """The call carries no key."""
    return RefusalError(
        "Method doesn't allow unregistered callers (callers without established identity). "
        "Please use API Key or other form of API consumer identity to call this API.",
        "PERMISSION_DENIED",
    )


def unknown_model(model: str, version: str = "v1beta", method: str = "generateContent") -> RefusalError:
    """The model does not exist, or does not take this method."""
    return RefusalError(
        f"models/{model} is not found for API version {version}, or is not supported for {method}. "
        "Call ListModels to see the list of available models and their supported methods.",
        "NOT_FOUND",
    )


@dataclass(frozen=True)
class Violation:
    """One quota that a call exceeded. ``limit=0`` leaves ``quotaValue`` out, as proto3 JSON does with a zero."""

    quota_id: str
    metric: str
    limit: int


def per_minute(limit: int) -> Violation:
    """Too many requests in a minute, on the free tier."""
    return Violation(
        "GenerateRequestsPerMinutePerProjectPerModel-FreeTier", "generate_content_free_tier_requests", limit
    )


def per_day(limit: int) -> Violation:
    """Too many requests in a day, on the free tier."""
    return Violation("GenerateRequestsPerDayPerProjectPerModel-FreeTier", "generate_content_free_tier_requests", limit)


ENQUEUED = Violation("BatchEnqueuedTokensPerProjectPerModel", "batch_enqueued_tokens_per_model", 100_000)
"""Too many input tokens in jobs that wait or run. The name of this quota has not been recorded."""


def quota_exceeded(model: str, retry_s: float, *violations: Violation) -> RefusalError:
    """A 429 with everything the real one carries.

    Args:
        model: The model asked for; the details name it without ``-preview``.
        retry_s: The delay the server asks for, in seconds.
        violations: The quotas exceeded, at least one.
    """
    lines = [
        "You exceeded your current quota, please check your plan and billing details. For more information on this "
        "error, head to: https://ai.google.dev/gemini-api/docs/rate-limits."
    ]
    lines += [f"* Quota exceeded for metric: {_METRIC}{v.metric}, limit: {v.limit}, model: {model}" for v in violations]
    told = [
        {
            "quotaMetric": _METRIC + violation.metric,
            "quotaId": violation.quota_id,
            "quotaDimensions": {"location": "global", "model": model.removesuffix("-preview")},
            **({"quotaValue": str(violation.limit)} if violation.limit else {}),
        }
        for violation in violations
    ]
    details: list[dict[str, Any]] = [
        {
            "@type": f"{_TYPE}Help",
            "links": [
                {
                    "description": "Learn more about Gemini API quotas",
                    "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
                }
            ],
        },
        {"@type": f"{_TYPE}QuotaFailure", "violations": told},
        {"@type": f"{_TYPE}RetryInfo", "retryDelay": f"{retry_s:.9g}s"},
    ]
    return RefusalError("\n".join([*lines, f"Please retry in {retry_s:.9g}s."]), "RESOURCE_EXHAUSTED", details)


def spend_limited(retry_s: float | None) -> RefusalError:
    """The account has spent what its tier may within ten minutes, over all models.

    Args:
        retry_s: The delay that the server asks for, in seconds; ``None``: the refusal has no details at all, as some
            have been seen.
    """
    refusal = RefusalError(
        "You exceeded your spend-based rate limit. For more information on this error, head to: "
        "https://ai.google.dev/gemini-api/docs/rate-limits.",
        "RESOURCE_EXHAUSTED",
    )
    if retry_s is not None:
        refusal.details = [
            {"@type": f"{_TYPE}QuotaFailure"},
            {"@type": f"{_TYPE}RetryInfo", "retryDelay": f"{retry_s:.9g}s"},
        ]
    return refusal


def unknown_store() -> RefusalError:
    """A front end that does not know ``store`` yet."""
    text = 'Invalid JSON payload received. Unknown name "store": Cannot find field.'
    detail = {"@type": f"{_TYPE}BadRequest", "fieldViolations": [{"description": text}]}
    return RefusalError(text, details=[detail])


def _zero_quota(model: str) -> RefusalError:
    tokens = Violation(
        "GenerateContentInputTokensPerModelPerMinute-FreeTier", "generate_content_free_tier_input_token_count", 0
    )
    return quota_exceeded(model, 23, per_day(0), per_minute(0), tokens)


def _paid_day(model: str) -> RefusalError:
    violation = Violation("GenerateRequestsPerDayPerProjectPerModel", "generate_requests_per_model_per_day", 100)
    refusal = quota_exceeded(model, 6776, violation)
    refusal.message = refusal.message.replace("retry in 6776s", "retry in 1h52m56.4s")
    return refusal


REFUSALS: dict[Fault, Callable[[str], RefusalError]] = {
    Fault.RATE_LIMIT_MINUTE: lambda model: quota_exceeded(model, 42, per_minute(5)),
    Fault.RATE_LIMIT_BARE: lambda _: RefusalError("Resource exhausted. Please try again later.", "RESOURCE_EXHAUSTED"),
    Fault.QUOTA_DAY: lambda model: quota_exceeded(model, 27, per_day(20)),
    Fault.QUOTA_DAY_PAID: _paid_day,
    Fault.QUOTA_ZERO: _zero_quota,
    Fault.CREDITS_DEPLETED: lambda _: RefusalError(
        "Your prepayment credits are depleted. Please go to AI Studio at https://ai.studio/projects to manage your "
        "project and billing.",
        "RESOURCE_EXHAUSTED",
    ),
    Fault.SPEND_LIMIT: lambda _: spend_limited(38),
    Fault.SPEND_LIMIT_BARE: lambda _: spend_limited(None),
    Fault.STORE_UNKNOWN: lambda _: unknown_store(),
    Fault.INTERNAL_500: lambda _: RefusalError(
        "An internal error has occurred. Please retry or report in "
        "https://developers.generativeai.google/guide/troubleshooting",
        "INTERNAL",
    ),
    Fault.UNAVAILABLE_503: lambda _: RefusalError("The model is overloaded. Please try again later.", "UNAVAILABLE"),
    Fault.DEADLINE_504: lambda _: RefusalError(
        "Deadline expired before operation could complete.", "DEADLINE_EXCEEDED"
    ),
    Fault.BAD_ARGUMENT: lambda _: RefusalError(),
    Fault.LOCATION: lambda _: RefusalError(
        "User location is not supported for the API use.", "FAILED_PRECONDITION", in_list=True
    ),
    Fault.API_KEY_INVALID: lambda _: bad_key(),
    Fault.UNAUTHENTICATED: lambda _: RefusalError(
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
        "authentication credential.",
        "UNAUTHENTICATED",
    ),
    Fault.PERMISSION_DENIED: lambda _: RefusalError("The caller does not have permission", "PERMISSION_DENIED"),
    Fault.KEY_LEAKED: lambda _: RefusalError(
        "Your API key was reported as leaked. Please use another API key.", "PERMISSION_DENIED"
    ),
    Fault.MODEL_NOT_FOUND: unknown_model,
    Fault.MODEL_RETIRED: lambda model: RefusalError(
        f"This model models/{model} is no longer available to new users.", "NOT_FOUND"
    ),
    Fault.GENERATED_TEXT: lambda _: RefusalError(
        "Model tried to generate text, but it should only be used for TTS. Make sure your instructions are clear to "
        "only generate audio from a given text transcript."
    ),
}
