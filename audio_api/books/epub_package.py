"""The package of an EPUB: what the book is called, which documents it has in which order, and its cover."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import Literal
from xml.etree.ElementTree import Element, TreeBuilder

from audio_api.books.archive import Archive
from audio_api.books.book import Cover
from audio_api.books.language import book_language
from audio_api.books.xml_events import parse

MOST_DOCUMENT_BYTES = 16_000_000
"""The largest document that is read; a whole novel in one takes 2 MB."""

_MOST_PACKAGE_BYTES = 4_000_000
_MOST_COVER_BYTES = 32_000_000
_MOST_COVERS = 4
_MOST_VALUES = 20
_MOST_VALUE_CHARS = 4_000
_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
# Fonts that are only made unusable elsewhere; text is never treated so.
_OBFUSCATIONS = {"http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC"}
_TEXT_TYPES = {"application/xhtml+xml", "text/html", "application/x-dtbook+xml", "text/x-oeb1-document"}
_TEXT_NAME = re.compile(r"\.x?html?$", re.IGNORECASE)
_MAGIC: dict[bytes, Literal["image/jpeg", "image/png"]] = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n": "image/png"}
_MARKUP = re.compile(r"<[^<>]*>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """What the package document says.

    Attributes:
        title: The book's title; ``""``: none.
        authors: As the book names them.
        language: A BCP-47 code; ``None``: none that can be understood.
        metadata: What else it says, each name once.
        spine: Paths of the documents, in reading order.
        navigation: Paths of what may be the table of contents of EPUB 3.
        ncx: Paths of what may be that of EPUB 2.
        covers: Paths of what may be the cover, the likeliest first.
        warnings: What had to be guessed.
    """

    title: str
    authors: tuple[str, ...]
    language: str | None
    metadata: Mapping[str, str]
    spine: tuple[str, ...]
    navigation: tuple[str, ...]
    ncx: tuple[str, ...]
    covers: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Item:
    """A file that the package names."""

    path: str
    media_type: str
    properties: tuple[str, ...]

    @property
    def is_text(self) -> bool:
        return self.media_type in _TEXT_TYPES or bool(_TEXT_NAME.search(self.path))

    @property
    def is_ncx(self) -> bool:
        return "ncx" in self.media_type or self.path.lower().endswith(".ncx")

    @property
    def is_image(self) -> bool:
        return self.media_type.startswith("image/") or bool(re.search(r"\.(jpe?g|png)$", self.path, re.IGNORECASE))


def read_package(archive: Archive) -> Package:
    """Find and read the package document.

    Raises:
        TTSValidationError: There is none, or the book is protected against being read.
    """
    rootfiles = _tree(archive, _CONTAINER).iter("rootfile") if _CONTAINER in archive else ()
    stated_paths = (archive.resolve(rootfile.get("full-path", "")) for rootfile in rootfiles)
    likely_paths = (path for path in archive.paths if path.lower().endswith(".opf"))
    path = next((path for path in chain(stated_paths, likely_paths) if path in archive), None)
    if path is None:
        archive.refuse("is no EPUB: it holds no package document (.opf)")
    root = _tree(archive, path)
    items = {}
    for item in root.iter("item"):
        href, media_type = item.get("href", ""), item.get("media-type", "").lower()
        if href and "://" not in href:
            properties = tuple(item.get("properties", "").split())
            items[item.get("id", "")] = _Item(archive.resolve(href.partition("#")[0], path), media_type, properties)
    warnings: list[str] = []
    spine = [
        items[idref].path
        for itemref in root.iter("itemref")
        if itemref.get("linear", "yes").lower() != "no" and (idref := itemref.get("idref", "")) in items
    ]
    if not spine:
        spine = [each.path for each in items.values() if each.is_text and "nav" not in each.properties]
        warnings.append("the book does not say in which order it is read; the order of its files is taken")
    _refuse_protected(archive, spine)
    stated = _stated(root)
    language, language_warnings = book_language(stated.pop("language", [""])[0])
    return Package(
        title=stated.pop("title", [""])[0],
        authors=tuple(stated.pop("creator", [])),
        language=language,
        metadata=MappingProxyType({name: values[0] for name, values in stated.items()}),
        spine=tuple(spine),
        navigation=tuple(each.path for each in items.values() if "nav" in each.properties),
        ncx=tuple(each.path for each in items.values() if each.is_ncx),
        covers=tuple(_covers(archive, path, root, items)),
        warnings=(*warnings, *language_warnings),
    )


def _tree(archive: Archive, path: str) -> Element:
    content = archive.read(path, _MOST_PACKAGE_BYTES)
    builder, is_well_formed = parse(content, _Tree, f"{path!r} in the book")
    if not is_well_formed:
        builder.end_all()
    return builder.close()


class _Tree:
    """A tree of elements; ends that are missing or too many do not matter."""

    def __init__(self) -> None:
        self._builder = TreeBuilder()
        self._builder.start("root", {})
        self._open: list[str] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._builder.start(tag, attributes)
        self._open.append(tag)

    def end(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._builder.end(self._open.pop())

    def data(self, text: str) -> None:
        self._builder.data(text)

    def end_all(self) -> None:
        """End what is still open."""
        while self._open:
            self._builder.end(self._open.pop())

    def close(self) -> Element:
        """The root, above the document's own."""
        self._builder.end("root")
        return self._builder.close()


def _refuse_protected(archive: Archive, spine: list[str]) -> None:
    if _ENCRYPTION not in archive:
        return
    texts = {archive.find(path) for path in spine}
    for data in _tree(archive, _ENCRYPTION).iter("encrypteddata"):
        method, reference = data.find(".//encryptionmethod"), data.find(".//cipherreference")
        algorithm = method.get("algorithm", "") if method is not None else ""
        target = reference.get("uri", "") if reference is not None else ""
        if algorithm not in _OBFUSCATIONS and archive.find(archive.resolve(target)) in texts:
            archive.refuse("is protected against copying (DRM), and cannot be read")


def _stated(root: Element) -> dict[str, list[str]]:
    """What the package says of the book, without markup, each value once."""
    stated: dict[str, list[str]] = {}
    metadata = root.find(".//metadata")
    # Old makers put the elements one level deeper, into ``dc-metadata``.
    inner = metadata.find("dc-metadata") if metadata is not None else None
    for element in (*(metadata if metadata is not None else ()), *(inner if inner is not None else ())):
        role = element.get("opf:role") or element.get("role") or "aut"
        if element.tag in _STATED and (element.tag != "creator" or role == "aut"):
            words = " ".join(_MARKUP.sub(" ", "".join(element.itertext())).split())
            values = stated.setdefault(element.tag, [])
            words = words[:_MOST_VALUE_CHARS]
            values += [words] if words and words not in values and len(values) < _MOST_VALUES else []
    return {tag: values for tag, values in stated.items() if values}


_STATED_NAMES = "title creator language publisher date description rights identifier subject source contributor"
_STATED = frozenset(_STATED_NAMES.split())


def _covers(archive: Archive, base: str, root: Element, items: dict[str, _Item]) -> list[str]:
    """By the properties of EPUB 3, by the metadata of EPUB 2, by the page of the guide, and by name."""
    found = [item.path for item in items.values() if "cover-image" in item.properties]
    named = next(
        (items.get(meta.get("content", "")) for meta in root.iter("meta") if meta.get("name") == "cover"), None
    )
    if named:
        found += [named.path] if named.is_image else _images_of(archive, named.path)
    page = next((each.get("href", "") for each in root.iter("reference") if each.get("type") == "cover"), "")
    if page.partition("#")[0]:
        found += _images_of(archive, archive.resolve(page.partition("#")[0], base))
    found += [item.path for name, item in items.items() if item.is_image and "cover" in f"{name} {item.path}".lower()]
    return found


class _ImageReader:
    """The images that a page shows."""

    def __init__(self) -> None:
        self.sources: list[str] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag in {"img", "image"}:
            self.sources.append(attributes.get("src") or attributes.get("xlink:href") or attributes.get("href") or "")

    def end(self, tag: str) -> None:
        pass

    def data(self, text: str) -> None:
        pass


def _images_of(archive: Archive, path: str) -> list[str]:
    if path not in archive:
        return []
    if re.search(r"\.(jpe?g|png|gif|webp|svg)$", path, re.IGNORECASE):
        return [path]
    reader, _ = parse(archive.read(path, MOST_DOCUMENT_BYTES), _ImageReader, f"{path!r} in the book")
    return [archive.resolve(source, path) for source in reader.sources if source and "://" not in source]


def read_cover(archive: Archive, package: Package) -> tuple[Cover | None, list[str]]:
    """The first picture that an audiobook can hold, by what the file is and not by what it is called."""
    named = list(dict.fromkeys(path for path in package.covers if path in archive))
    for path in named[:_MOST_COVERS]:
        if archive.size(path) > _MOST_COVER_BYTES:
            continue
        data = archive.read(path, _MOST_COVER_BYTES)
        for magic, media_type in _MAGIC.items():
            if data.startswith(magic):
                return Cover(data, media_type), []
    return None, [f"the cover is left out: {named[0]!r} is no JPEG or PNG"] if named else []
