"""XML of books as events: strictly where it is well-formed, else as forgivingly as a browser reads it.

Nothing is ever loaded from elsewhere, and a document that declares entities of its own is refused.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from html.entities import html5
from typing import Protocol, TypeVar
from xml.parsers import expat

from audio_api.errors import TTSValidationError

_ENCODING = re.compile(rb"<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})[\"']")
# Others are no encodings of text, or take time that is quadratic.
_ENCODINGS = re.compile(
    r"utf-?(8|16|32)(le|be)?|us-ascii|iso-8859-\d{1,2}|windows-\d{3,4}|cp\d{3,4}|latin-?1|shift[_-]?jis|euc-(jp|kr)"
    r"|iso-2022-jp|gbk?|gb2312|gb18030|big5|koi8-[ru]|macintosh|tis-620",
    re.IGNORECASE,
)
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_DECLARATION = re.compile(r"\A\s*<\?xml[^>]*\?>")
_NO_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_ENTITY = re.compile(r"&([A-Za-z][A-Za-z0-9]{1,31});")
_XML_ENTITIES = frozenset({"amp", "lt", "gt", "quot", "apos"})
_SUBSET = re.compile(r"<!DOCTYPE[^>\[]{0,2000}\[|<!ENTITY", re.IGNORECASE)

_TAG = re.compile(r"<(/?)([A-Za-z][\w:.-]*+)((?:[^<>\"']|\"[^\"<]*\"|'[^'<]*')*+)>")
_ATTRIBUTE = re.compile(r"([^\s=/\"'<>]++)(?:\s*+=\s*+(\"[^\"]*\"|'[^']*'|[^\s\"'<>]++))?")
_SKIPPED = (("<!--", "-->"), ("<?", ">"), ("<!", ">"))
_VOID_NAMES = "area base br col embed hr img input link meta param source track wbr"
_VOID = frozenset(_VOID_NAMES.split())
_RAW = frozenset({"script", "style"})


class EventListener(Protocol):
    """What listens to the events of a document."""

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An element begins; names as they are written, but in lower case and without the prefix of the element's."""

    def end(self, tag: str) -> None:
        """An element ends."""

    def data(self, text: str) -> None:
        """Text, in any number of parts."""


_T = TypeVar("_T", bound=EventListener)


def parse(content: bytes, new_target: Callable[[], _T], name: str) -> tuple[_T, bool]:
    """Read a document from beginning to end.

    Args:
        content: The file.
        new_target: Makes what listens; made once more when the document turns out not to be well-formed.
        name: What errors call the document.

    Returns:
        What listened, and whether the document is well-formed.

    Raises:
        TTSValidationError: The document declares entities of its own.
    """
    text = _DECLARATION.sub("", _NO_CHARACTERS.sub("", decoded(content)))
    # HTML's entities become characters: their definitions lie on a server that is never asked.
    text = _ENTITY.sub(_character, text)
    target = new_target()

    def doctype(_name: str, _system: str | None, _public: str | None, has_subset: bool) -> None:
        if has_subset:
            raise _refuse_declarations(name)

    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = doctype
    parser.StartElementHandler = lambda tag, attributes: target.start(
        local_name(tag), {key.lower(): value for key, value in attributes.items()}
    )
    parser.EndElementHandler = lambda tag: target.end(local_name(tag))
    parser.CharacterDataHandler = target.data
    try:
        parser.Parse(text.encode("utf-8", "replace"), True)
    except expat.ExpatError:
        target = new_target()
        _parse_loosely(text, target, name)
        return target, False
    return target, True


def decoded(content: bytes) -> str:
    """A document's text: by its byte order mark, by its declaration, as UTF-8, else as Windows-1252."""
    for mark, encoding in _BOMS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, "replace")
    declared = _ENCODING.match(content[:400])
    encodings = [declared[1].decode()] if declared and _ENCODINGS.fullmatch(declared[1].decode()) else []
    for encoding in (*encodings, "utf-8"):
        try:
            return content.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return content.decode("cp1252", "replace")


def _character(entity: re.Match[str]) -> str:
    name = entity[1]
    return entity[0] if name in _XML_ENTITIES else html5.get(f"{name};", f"&amp;{name};")


def _refuse_declarations(name: str) -> TTSValidationError:
    return TTSValidationError(f"{name} declares entities of its own (a DTD inside the document), which no book needs")


def local_name(tag: str) -> str:
    """``"title"`` for ``"dc:title"``: makers forget to declare prefixes, or choose others."""
    return tag.rpartition(":")[2].lower()


def _parse_loosely(text: str, target: EventListener, name: str) -> None:
    """Report events without ever an error: what is no tag is text. Takes time linear in the text."""
    if _SUBSET.search(text):
        raise _refuse_declarations(name)
    at = 0
    unclosed: set[str] = set()
    while (opening := text.find("<", at)) >= 0:
        target.data(html.unescape(text[at:opening]))
        at = 0
        for begin, end in _SKIPPED:
            if text.startswith(begin, opening) and end not in unclosed:
                found = text.find(end, opening + len(begin))
                if found >= 0:
                    at = found + len(end)
                    break
                unclosed.add(end)
        at = at or _tag(text, opening, target)
        if at <= opening:
            target.data("<")
            at = opening + 1
    target.data(html.unescape(text[at:]))


def _tag(text: str, at: int, target: EventListener) -> int:
    """Report the tag that begins here, and return where it ends; 0: it is none."""
    found = _TAG.match(text, at)
    if found is None:
        return 0
    closing, tag, rest = found[1], local_name(found[2]), found[3]
    if closing:
        target.end(tag)
        return found.end()
    attributes = {
        key.lower(): html.unescape(value[1:-1] if value[:1] in {'"', "'"} else value)
        for key, value in _ATTRIBUTE.findall(rest)
    }
    target.start(tag, attributes)
    if tag in _VOID or rest.endswith("/"):
        target.end(tag)
    elif tag in _RAW:
        end = re.compile(rf"</{tag}", re.IGNORECASE).search(text, found.end())
        return end.start() if end else len(text)
    return found.end()
