"""A ZIP file from a stranger: opened only when its size, its paths and its claims are those of a book."""

from __future__ import annotations

import os
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import BinaryIO, NoReturn
from urllib.parse import unquote

from audio_api.errors import TTSValidationError

# The largest EPUBs, comics and textbooks, have some thousand files and some hundred megabytes.
_MOST_ENTRIES = 10_000
_MOST_DIRECTORY_BYTES = 2_097_152
_MOST_UNPACKED_BYTES = 1_000_000_000
# Text shrinks to a third, a table of zeros to a thousandth.
_MOST_RATIO = 200
_SURELY_HARMLESS_BYTES = 16_777_216
_COMPRESSIONS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}

_END = b"PK\x05\x06"
_END_BYTES = 22
_LONGEST_COMMENT = 65_535
_END64 = b"PK\x06\x06"
_END64_BYTES, _LOCATOR_BYTES = 56, 20


class Archive:
    """The files in a ZIP, found however a careless maker wrote their paths.

    Args:
        file: The archive; stays open while this is in use.
        name: What errors call it.

    Raises:
        TTSValidationError: It is no ZIP, is damaged, or claims what no book has.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._name = name
        self._check_directory(file)
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError) as error:
            self.refuse(f"is damaged: {error}")
        entries = self._zip.infolist()
        if len(entries) > _MOST_ENTRIES:
            self.refuse(f"holds more than {_MOST_ENTRIES:,} files; no book does")
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > _MOST_UNPACKED_BYTES - 1:
            self.refuse(f"would take {unpacked / 1e9:,.1f} GB unpacked; at most 1 GB is read")
        for entry in entries:
            for problem, is_so in _PROBLEMS:
                if is_so(entry):
                    self.refuse(f"{problem}: {entry.filename[:80]!r}")
        self._entries = {entry.filename: entry for entry in entries if not entry.is_dir()}
        self._by_loose_name = {_loose(name): name for name in reversed(self._entries)}

    def __contains__(self, path: str) -> bool:
        return self.find(path) is not None

    @property
    def paths(self) -> list[str]:
        """Of every file, in the archive's order."""
        return list(self._entries)

    def refuse(self, why: str) -> NoReturn:
        """Raise the error that says what is wrong with this file.

        Raises:
            TTSValidationError: Always.
        """
        raise TTSValidationError(f"{self._name} {why}")

    def resolve(self, href: str, base: str = "") -> str:
        """The path that a reference means, from the archive's root on.

        Args:
            href: As it stands in a file of the book, without its fragment.
            base: The path of that file; ``""``: the root.

        Raises:
            TTSValidationError: It leads out of the book.
        """
        path = os.path.normpath(PurePosixPath(base).parent / unquote(href).replace("\\", "/"))
        if path.startswith(("/", "..")):
            self.refuse(f"names a file outside of itself: {href[:80]!r}")
        return path

    def find(self, path: str) -> str | None:
        """The name of a file as the archive spells it: in another case, composed otherwise, or percent-encoded."""
        return path if path in self._entries else self._by_loose_name.get(_loose(path))

    def size(self, path: str) -> int:
        """Bytes of a file, as the archive claims."""
        return self._entries[self.find(path) or path].file_size

    def read(self, path: str, most_bytes: int) -> bytes:
        """Unpack one file.

        Raises:
            TTSValidationError: It is not there, is damaged, or is larger than that.
        """
        name = self.find(path)
        if name is None:
            self.refuse(f"names a file that it does not hold: {path[:80]!r}")
        if self._entries[name].file_size > most_bytes:
            self.refuse(
                f"holds {name[:80]!r} of {self._entries[name].file_size:,} bytes; at most {most_bytes:,} are read"
            )
        try:
            # The claim bounds what is unpacked, too.
            return self._zip.read(self._entries[name])
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
            self.refuse(f"is damaged: {name[:80]!r} cannot be unpacked ({error})")

    def _check_directory(self, file: BinaryIO) -> None:
        """Refuse a long table of contents before Python reads it, which takes a second for 100,000 entries."""
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LONGEST_COMMENT - _END_BYTES - _END64_BYTES - _LOCATOR_BYTES))
        tail = file.read()
        at = tail.rfind(_END)
        if at < 0 or len(tail) - at < _END_BYTES:
            self.refuse("is no EPUB: it is not a ZIP file, or it is cut off")
        counts = [struct.unpack("<HL", tail[at + 10 : at + 16])]
        record = tail[max(0, at - _LOCATOR_BYTES - _END64_BYTES) : at]
        if record.startswith(_END64):
            counts.append(struct.unpack("<QQ", record[32:48]))
        entries, directory_bytes = max(count for count, _ in counts), max(length for _, length in counts)
        if entries > _MOST_ENTRIES or directory_bytes > _MOST_DIRECTORY_BYTES:
            self.refuse(f"holds more than {_MOST_ENTRIES:,} files; no book does")


def _leads_out(entry: zipfile.ZipInfo) -> bool:
    name = entry.filename.replace("\\", "/")
    return name.startswith("/") or ".." in name.split("/") or name[1:3] == ":/"


def _is_a_bomb(entry: zipfile.ZipInfo) -> bool:
    is_large = entry.file_size > _SURELY_HARMLESS_BYTES
    return is_large and entry.file_size > _MOST_RATIO * max(entry.compress_size, 1)


_PROBLEMS: tuple[tuple[str, Callable[[zipfile.ZipInfo], bool]], ...] = (
    ("holds a path that leads out of it", _leads_out),
    ("holds a file that grows beyond all measure when it is unpacked", _is_a_bomb),
    ("is encrypted with a password", lambda entry: bool(entry.flag_bits & 1)),
    ("is packed in a way that EPUB does not know", lambda entry: entry.compress_type not in _COMPRESSIONS),
)


def _loose(path: str) -> str:
    return unicodedata.normalize("NFC", unquote(path)).replace("\\", "/").casefold()
