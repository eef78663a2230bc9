"""A feed of chapters for podcast programs: RSS 2.0 with the elements that Apple asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from audio_api.books.book import Book
from audio_api.errors import TTSValidationError

FEED_NAME = "podcast.xml"
"""The name of the feed, beside the files of the chapters."""

_ITUNES = "http://www.itunes.com/dtds/podcast-1.0.dtd"
_ATOM = "http://www.w3.org/2005/Atom"


@dataclass(frozen=True, slots=True)
class Episode:
    """One chapter.

    Attributes:
        number: Its place in the book.
        title: Its title.
        file_name: Its file.
        size_bytes: Of that file.
        media_type: Of that file.
        seconds: How long it is.
        guid: What stays the same when the feed is made again.
    """

    number: int
    title: str
    file_name: str
    size_bytes: int
    media_type: str
    seconds: float
    guid: str


def check_base_url(url: str) -> str:
    """The address without a slash at its end.

    Raises:
        TTSValidationError: It is no address of the web.
    """
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise TTSValidationError(f"{url[:80]!r} must be where the files will be, such as https://example.org/my-book")
    return url.strip().rstrip("/")


def feed(
    book: Book, base_url: str, episodes: Sequence[Episode], published: datetime, cover_name: str | None = None
) -> bytes:
    """Make the feed.

    Args:
        book: The book.
        base_url: Where the files will be.
        episodes: In order. Each counts as published a minute after the one before, so that programs keep the order.
        published: When the first one counts as published.
        cover_name: The file of the cover beside the chapters; ``None``: there is none.
    """
    ElementTree.register_namespace("itunes", _ITUNES)
    ElementTree.register_namespace("atom", _ATOM)
    root = Element("rss", {"version": "2.0"})
    channel = SubElement(root, "channel")
    authors = ", ".join(book.authors)
    description = book.metadata.get("description") or f"{book.title}{f' by {authors}' if authors else ''}"
    texts = {
        "title": book.title,
        "link": f"{base_url}/",
        "description": description,
        "language": book.language or "en",
        "copyright": book.metadata.get("rights", ""),
        f"{{{_ITUNES}}}author": authors,
        f"{{{_ITUNES}}}type": "serial",
        f"{{{_ITUNES}}}explicit": "false",
    }
    _add(channel, texts)
    SubElement(channel, f"{{{_ITUNES}}}category", {"text": "Arts"})
    SubElement(
        channel,
        f"{{{_ATOM}}}link",
        {"href": f"{base_url}/{FEED_NAME}", "rel": "self", "type": "application/rss+xml"},
    )
    if cover_name:
        SubElement(channel, f"{{{_ITUNES}}}image", {"href": f"{base_url}/{quote(cover_name)}"})
    for place, episode in enumerate(episodes):
        item = SubElement(channel, "item")
        about = {
            "title": episode.title,
            "pubDate": format_datetime(published + timedelta(minutes=place)),
            f"{{{_ITUNES}}}episode": str(episode.number),
            f"{{{_ITUNES}}}duration": str(round(episode.seconds)),
            f"{{{_ITUNES}}}explicit": "false",
        }
        _add(item, about)
        SubElement(item, "guid", {"isPermaLink": "false"}).text = episode.guid
        url, size = f"{base_url}/{quote(episode.file_name)}", str(episode.size_bytes)
        SubElement(item, "enclosure", {"url": url, "length": size, "type": episode.media_type})
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, "utf-8", xml_declaration=True)) + b"\n"


def _add(parent: Element, texts: dict[str, str]) -> None:
    for tag, text in texts.items():
        if text:
            SubElement(parent, tag).text = text
