"""Names of output files: one safe path component, whatever comes in."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from audio_api.models.audio_request import AudioRequest
from audio_api.models.filenames import MAX_NAME_BYTES, safe_filename
from audio_api.models.sound_formats import OutputFormat

HOSTILE = [
    "../escape.wav",
    "../../../../tmp/escape.wav",
    "a/../../escape.wav",
    "sub/a.wav",
    "/etc/cron.d/a.wav",
    "..\\..\\w.wav",
    "C:\\windows\\a.wav",
    "\\\\server\\share\\a.wav",
    "..",
    ".",
    "...",
    "",
    " ",
    "\u3000",
    "\u3164",
    "a\x00.wav",
    "a\nb.wav",
    "a\r.wav",
    "a\tb.wav",
    "a\x1b[31m.wav",
    "a\x7f.wav",
    "a\u0085b.wav",
    "a\u2028b.wav",
    "abc\u202evaw.exe",
    "a\u200bb.wav",
    "a\u2066b.wav",
    "\ufeffa.wav",
    "a\u00a0b.wav",
    "\ud800.wav",
    "CON",
    "con.wav",
    "aux.wav",
    "AUX .wav",
    "NUL.tar.wav",
    "COM1",
    "com\u00b9.wav",
    "lpt9.wav",
    "CONIN$",
    "a:b",
    "a.wav:stream",
    "a*.wav",
    "a?.wav",
    'a".wav',
    "<a>.wav",
    "a|b.wav",
    "a.",
    "a.wav.",
    "a.wav ",
    " a.wav",
    ".wav",
    ".hidden.wav",
    "~root.wav",
    "-rf.wav",
    "a" * 252 + ".wav",
    "ä" * 126 + ".wav",
    "a" * 252,
    "e" + "\u0301" * 300,
    "a.wma",
    "song.AAC",
]
GOOD = {
    "a": "a.wav",
    "a.wav": "a.wav",
    "Chapter 1.WAV": "Chapter 1.WAV",
    "v1.2": "v1.2.wav",
    "wav": "wav.wav",
    "connect": "connect.wav",
    "com10": "com10.wav",
    "e\u0301.wav": "\u00e9.wav",
    "第一章：开始？": "第一章：开始？.wav",
    "नमस्ते": "नमस्ते.wav",
    "I ❤️ you!": "I ❤️ you!.wav",
    "$(reboot)": "$(reboot).wav",
    "a" * 251: "a" * 251 + ".wav",
    "ä" * 125 + ".wav": "ä" * 125 + ".wav",
}


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_hostile_name_is_refused(name: str) -> None:
    """Whatever leads elsewhere, hides something, or cannot be a file on some system is refused on one clean line."""
    with pytest.raises(ValueError, match=r"^(a )?file name") as caught:
        safe_filename(name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_the_request_refuses_it_too(name: str) -> None:
    """A request with such a name cannot be made."""
    with pytest.raises(ValidationError, match="output_filename"):
        AudioRequest(text="Hello", output_filename=name)


@pytest.mark.parametrize(("name", "expected"), GOOD.items(), ids=ascii)
def test_an_ordinary_name_gets_its_ending(name: str, expected: str) -> None:
    """Every language's letters, spaces and dots are welcome; ``.wav`` is added once, and NFC is the one spelling."""
    assert safe_filename(name, "wav") == expected
    assert safe_filename(name) in {expected, expected.removesuffix(".wav")}


@pytest.mark.parametrize(
    ("name", "output_format", "expected"),
    [
        ("a", "mp3", "a.mp3"),
        ("a.mp3", "mp3", "a.mp3"),
        ("a.MP3", "mp3", "a.MP3"),
        ("v1.2", "opus", "v1.2.opus"),
        ("a.ogg", "opus", "a.ogg"),
        ("a.m4b", "m4a", "a.m4b"),
        ("a", "m4a", "a.m4a"),
        ("a.flac", None, "a.flac"),
        ("a", None, "a"),
        ("v1.2", None, "v1.2"),
    ],
)
def test_a_name_ends_as_its_format_does(name: str, output_format: OutputFormat | None, expected: str) -> None:
    """The usual ending is added when there is none; a format may have a second one, and an unknown format adds none."""
    assert safe_filename(name, output_format) == expected


@pytest.mark.parametrize(
    ("name", "output_format", "fitting"),
    [
        ("a.wav", "mp3", r"must end with \.mp3, because its format is mp3"),
        ("a.mp3", "wav", r"must end with \.wav, because its format is wav"),
        ("a.mp3", "opus", r"must end with \.opus or \.ogg, because its format is opus"),
        ("a.aac", None, r"must end with \.wav, \.mp3, \.opus, \.ogg, \.flac, \.m4a or \.m4b: nothing else can be made"),
        ("a" * 251, "flac", "has 256 bytes"),
    ],
)
def test_a_name_never_says_another_format(name: str, output_format: OutputFormat | None, fitting: str) -> None:
    """The refusal tells the endings that would do."""
    with pytest.raises(ValueError, match=fitting):
        safe_filename(name, output_format)


@given(st.text(st.characters(codec=None), max_size=300) | st.text("./\\~- a\u0301\x00:.wav", max_size=12))
def test_any_text_is_refused_or_stays_in_the_folder(name: str) -> None:
    """An accepted name is one visible component in NFC that resolves inside its folder, and is accepted again."""
    try:
        safe = safe_filename(name, "wav")
    except ValueError:
        return
    folder = Path("/nowhere/output")
    final = folder / safe
    assert final.resolve().is_relative_to(folder.resolve())
    assert final.parent == folder
    assert final.name == safe
    assert safe.lower().endswith(".wav")
    assert not safe.startswith(".")
    assert safe.isprintable()
    assert len(safe.encode()) <= MAX_NAME_BYTES
    assert unicodedata.is_normalized("NFC", safe)
    assert safe_filename(safe) == safe_filename(safe, "wav") == safe


def test_a_million_combining_marks_are_refused_by_their_number() -> None:
    """A name made to keep the Unicode tables busy (sorting the marks is quadratic) never reaches them."""
    with pytest.raises(ValueError, match="1,000,001 characters"):
        safe_filename("a" + "\u0301\u0323" * 500_000)
