"""Google's credentials, which make the calls of a project: where they are found, and what goes wrong with them."""

from __future__ import annotations

import re
from typing import Any

from audio_api.engines.gemini_answers import ancestry
from audio_api.errors import (
    AudioAPIError,
    ConfigurationError,
    ErrorCode,
    TTSAuthenticationError,
    TTSUnavailableError,
)

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_HOW = (
    "run `gcloud auth application-default login`, or let GOOGLE_APPLICATION_CREDENTIALS name a file of credentials, or "
    "leave GOOGLE_CLOUD_PROJECT out and set GEMINI_API_KEY to a key of express mode"
)
# OAuth's name for a refusal (RFC 6749, section 5.2), which stands before its words; those may repeat what was sent.
_REFUSAL = re.compile(r"[a-z]+(?:_[a-z]+)+")
# No token was fetched, so that nothing was sent to the API.
_UNREACHED = {"google.TransportError", "google.TimeoutError", "google.ResponseError"}
_MISSING = {"google.DefaultCredentialsError", "google.MutualTLSChannelError", "google.ClientCertError"}


def find_credentials() -> Any:
    """The application default credentials; it may take seconds to find that there are none.

    Raises:
        ConfigurationError: There are none, or none that can be read.
    """
    import google.auth

    try:
        return google.auth.default(scopes=[_SCOPE])[0]
    except Exception as error:
        failure = credentials_failure(error)
        if failure is None:
            raise
    # Outside the handler: the original may hold a part of the file.
    raise failure


def access_headers(credentials: Any) -> dict[str, str]:
    """What shows who calls; a new access token is fetched when there is none, or when it has expired.

    Raises:
        google.auth.exceptions.GoogleAuthError: Google refused the credentials, or gave no answer.
    """
    if credentials.expired or not credentials.token:
        from google.auth.transport.requests import Request

        credentials.refresh(Request())
    headers = {"Authorization": f"Bearer {credentials.token}"}
    payer = getattr(credentials, "quota_project_id", None)
    return headers | ({"x-goog-user-project": payer} if payer else {})


def credentials_failure(error: Exception) -> AudioAPIError | None:
    """The error of ours that says what an exception of ``google.auth`` means; ``None``: it is none.

    Its words stay out of the text, but for OAuth's name of the refusal: they may quote a file or an answer.
    """
    names = set(ancestry(type(error)))
    kind = type(error).__name__
    if names & _MISSING:
        return ConfigurationError(f"there are no usable Google Cloud credentials ({kind}): {_HOW}")
    if "google.GoogleAuthError" not in names:
        return None
    if names & _UNREACHED:
        return TTSUnavailableError(
            f"Google's server for access tokens could not be reached ({kind})", code=ErrorCode.CONNECTION_FAILED
        )
    if getattr(error, "retryable", False) is True:
        return TTSUnavailableError(f"Google's server for access tokens failed ({kind})")
    found = _REFUSAL.match(str(error.args[0])) if error.args else None
    return TTSAuthenticationError(f"Google refused the credentials ({found[0] if found else kind}): {_HOW}")
