"""The client of a bucket, made from the environment, and what its errors mean."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from audio_api.errors import ConfigurationError, ErrorCode, StoreError
from audio_api.models.store_url import StoreURL

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

NO_EXTRA = "OUTPUT_URL and CACHE_URL need the extra 'store': pip install 'audio-api[store]'"

_CONNECT_S = 5
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
# Answered with 4xx, but they pass: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html (2026-11).
_PASSING_CODES = {
    "ConditionalRequestConflict",
    # The answer to the end of an upload in parts was lost, and the end came twice.
    "NoSuchUpload",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
}
_PASSING_STATUSES = {408, 409, 429}
# Where machines of a cloud ask for their credentials.
_METADATA_SERVERS = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")
_ENVIRONMENT = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_SERVICE_ACCOUNT",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}


def make_client(url: StoreURL, timeout_s: float, retries: int) -> Client:
    """The client of a bucket; credentials come from the environment.

    Args:
        url: The bucket.
        timeout_s: The most that one request may take.
        retries: How often it repeats a request by itself.

    Raises:
        ConfigurationError: The extra is not installed, or the environment lacks what the store needs.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import AzureStore, GCSStore, S3Store
    except ImportError:
        raise ConfigurationError(NO_EXTRA) from None

    # With the prefix, without which a pickle of the client panics.
    of = {"s3": "aws_", "gs": "google_", "az": "azure_"}[url.scheme]
    config: Any = {f"{of}timeout": f"{round(timeout_s * 1000)}ms", f"{of}connect_timeout": f"{_CONNECT_S}s"}
    retry: Any = {"max_retries": retries, "retry_timeout": timedelta(seconds=timeout_s)}
    common: Any = {"prefix": url.prefix or None, "config": config, "retry_config": retry}
    try:
        match url.scheme:
            case "s3":
                return S3Store(url.bucket, **common)
            case "gs":
                return GCSStore(url.bucket, **common)
            case _:
                # Given here, too, because the repr of a store that found its account in the environment panics.
                if account := os.environ.get("AZURE_STORAGE_ACCOUNT_NAME"):
                    config["azure_storage_account_name"] = account
                return AzureStore(url.bucket, **common)
    except BaseError as error:
        problem = str(error).partition("\n")[0]
    raise ConfigurationError(
        f"{url} cannot be reached: {problem}; the store's own environment variables, such as "
        f"{_ENVIRONMENT[url.scheme]}, tell how"
    )


def explained(error: Exception, could_not: str, scheme: str, timeout_s: float) -> StoreError:
    """Turn what obstore raised into an error that tells what to do, by the answer's status and code.

    Args:
        error: What it raised.
        could_not: What could not be done, for the text.
        scheme: The scheme of the store's URL.
        timeout_s: The most that a request may take.
    """
    text = str(error)
    found = _STATUS.search(text)
    code = _CODE.search(text)
    if any(server in text for server in _METADATA_SERVERS):
        return StoreError(
            f"{could_not}: there are no credentials; set {_ENVIRONMENT[scheme]}, or give this machine a role",
            code=ErrorCode.STORE_REFUSED,
            retryable=False,
        )
    if found is None and "builder error" in text:
        return StoreError(
            f"{could_not}: its endpoint is not https; AWS_ALLOW_HTTP=true (AZURE_…, GOOGLE_…) allows that",
            code=ErrorCode.STORE_REFUSED,
            retryable=False,
        )
    if found is None:
        late = f"no answer within STORE_TIMEOUT={timeout_s:g} s"
        return StoreError(f"{could_not}: {late if 'TimedOut' in text else 'no connection, or it was cut'}")
    answer = f"the answer was {found[1]}{f' {code[1]}' if code else ''}"
    status = int(found[1])
    if status >= 500 or status in _PASSING_STATUSES or (code and code[1] in _PASSING_CODES):
        return StoreError(f"{could_not}: {answer}")
    advice = "check the bucket, the region, the credentials and their rights"
    return StoreError(f"{could_not}: {answer}; {advice}", code=ErrorCode.STORE_REFUSED, retryable=False)
