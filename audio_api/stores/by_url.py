"""The store that a URL names."""

from __future__ import annotations

from audio_api.models.store_url import parse_store_url
from audio_api.stores.base import Store


def store_at(url: str, timeout_s: float) -> Store:
    """Make the store of a URL; nothing is sent.

    Args:
        url: As ``parse_store_url`` takes it.
        timeout_s: The most that one request to a bucket may take, in seconds.

    Raises:
        ConfigurationError: The extra ``store`` is missing, or the environment lacks what the store needs.
        ValueError: The URL is none.
    """
    place = parse_store_url(url)
    if place.scheme == "file":
        from audio_api.stores.folder import FolderStore

        return FolderStore(place)
    from audio_api.stores.object_store import ObjectStore

    return ObjectStore(place, timeout_s)
