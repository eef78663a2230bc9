"""EPUBs become books: every maker's chapters, order and words; and nothing that a hostile one wants."""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
import time
import zipfile
from contextlib import suppress
from html import escape
from pathlib import Path

import epubs
import pytest
from epubs import MAKERS, container, entry, navigation, packed, page
from hypothesis import given
from hypothesis import strategies as st

from audio_api.books import Block, Book, read_book
from audio_api.errors import TTSValidationError


def shown(block: Block) -> str:
    """A block as ``epubs`` writes it."""
    return {"scene": "***", "heading": f"# {block.text}", "paragraph": block.text}[block.kind]


def contents(book: Book) -> list[tuple[str, list[str]]]:
    """Titles and blocks."""
    return [(chapter.title, [shown(block) for block in chapter.blocks]) for chapter in book.chapters]


def read(files: epubs.Files | bytes) -> Book:
    """The book in these files."""
    return read_book(io.BytesIO(files if isinstance(files, bytes) else packed(files)))


@pytest.mark.parametrize("maker", MAKERS)
def test_the_books_of_ten_makers(maker: str, tmp_path: Path) -> None:
    """Chapters, titles, order and every paragraph are there; notes, their marks and page numbers are not."""
    made = MAKERS[maker]()
    path = tmp_path / "a book – 本.epub"
    path.write_bytes(packed(made.files))
    book = read_book(path)
    assert contents(book) == made.chapters
    assert (book.title, book.authors, book.language) == (made.title, made.authors, made.language)
    assert (book.cover and book.cover.media_type) == made.cover
    assert made.metadata.items() <= book.metadata.items()
    counted = [warning for warning in book.warnings if warning.startswith("left out of the book")]
    assert counted == ([f"left out of the book: {made.left_out}"] if made.left_out else [])


def test_a_broken_book_says_what_had_to_be_guessed() -> None:
    """Its missing contents, its language and the page that is not well-formed, each in a sentence."""
    warnings = read(MAKERS["broken"]().files).warnings
    assert any("no table of contents" in warning for warning in warnings)
    assert any("not well-formed: Mein Buch/Kapitel 1" in warning for warning in warnings)


@pytest.mark.skipif(not shutil.which("pandoc"), reason="pandoc is not installed")
@pytest.mark.parametrize("kind", ["epub2", "epub3"])
def test_what_pandoc_makes_today(kind: str, tmp_path: Path) -> None:
    """The real program's book of two chapters, where it is installed."""
    source = tmp_path / "book.md"
    source.write_text(
        "---\ntitle: The River\nauthor: Ann\nlang: en-GB\n---\n\n# One\n\nHe.[^1]\n\n[^1]: Note.\n\n# Two\n\nShe.\n"
    )
    subprocess.run(["pandoc", str(source), "-t", kind, "-o", str(tmp_path / "book.epub")], check=True)
    book = read_book(tmp_path / "book.epub")
    rule = ["***"] if kind == "epub2" else []
    assert contents(book)[1:] == [("One", ["# One", "He.", *rule]), ("Two", ["# Two", "She."])]
    assert (book.title, book.authors, book.language) == ("The River", ("Ann",), "en-GB")


@pytest.mark.skipif(not shutil.which("ebook-convert"), reason="calibre is not installed")
def test_what_calibre_makes_today(tmp_path: Path) -> None:
    """The real program's book of two chapters, where it is installed; the contents also lists the mark of a note."""
    source = tmp_path / "book.html"
    source.write_text(
        "<title>The River</title><h1>Chapter 1</h1><p>He.</p><h1>Chapter 2</h1><p>She."
        "<sup><a id='r1' href='#n1'>[1]</a></sup></p><p id='n1'><a href='#r1'>[1]</a> Or so they say.</p>"
    )
    command = ["ebook-convert", source, tmp_path / "book.epub", "--authors=Ann", "--language=en", "--epub-version=3"]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"QT_QPA_PLATFORM": "offscreen"})
    book = read_book(tmp_path / "book.epub")
    assert contents(book) == [("Chapter 1", ["# Chapter 1", "He."]), ("Chapter 2", ["# Chapter 2", "She."])]
    assert (book.title, book.authors, book.language) == ("The River", ("Ann",), "en")
    assert "left out of the book: 1 footnote" in book.warnings


def simple(*bodies: str, **attributes: str) -> epubs.Files:
    """A book of these pages, each with an entry in the contents."""
    items = {f"c{number}": f"c{number}.xhtml" for number in range(len(bodies))}
    return {
        "META-INF/container.xml": container("content.opf"),
        "content.opf": epubs.package({"nav": "nav.xhtml||nav", **items}, " ".join(items), **attributes),
        "nav.xhtml": navigation("".join(entry(name, href) for name, href in items.items())),
        **{f"c{number}.xhtml": page(body) for number, body in enumerate(bodies)},
    }


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=12)
PARAGRAPHS = st.lists(WORDS, min_size=1, max_size=8).map(" ".join).filter(lambda text: any(map(str.isalnum, text)))
KINDS = st.sampled_from(["<p>{}</p>", "<h2>{}</h2>", "<li>{}</li>", "<div><p><i>{}</i></p></div>", "<div>{}</div>"])


@given(st.lists(st.lists(st.tuples(KINDS, PARAGRAPHS), min_size=1, max_size=6), min_size=2, max_size=5))
def test_no_paragraph_is_lost_or_changed(chapters: list[list[tuple[str, str]]]) -> None:
    """Whatever the words: each paragraph of a book is in the chapter it stands in, once, in its order."""
    bodies = ["".join(kind.format(escape(text)) for kind, text in chapter) for chapter in chapters]
    book = read(simple(*bodies))
    found = [[" ".join(block.text.split()) for block in chapter.blocks] for chapter in book.chapters]
    assert found == [[text.replace("\u00ad", "") for _, text in chapter] for chapter in chapters]


@given(
    st.text(st.sampled_from("<>/!-?&;\"'=a p[]{}# \n"), max_size=200), st.sampled_from(["{}", "<p>{}</p>", "<div {}>"])
)
def test_no_page_is_too_broken_to_be_read(rubbish: str, around: str) -> None:
    """Marks at random neither raise anything of Python's own nor take the words before them away."""
    book = read(simple(f"<p>Before it.</p>{around.format(rubbish)}"))
    assert book.chapters[0].text.startswith("Before it.")


@pytest.mark.parametrize(
    ("body", "spoken"),
    [
        ("<p>See <a href='c0.xhtml#x'>2</a>.</p>", ["See 2."]),
        ("<p>In 1984<sup>th</sup> x<sup>2</sup>.</p>", ["In 1984th x2."]),
        ("<p>A<a href='#n'><sup>*</sup></a>.</p><p id='n'>* The note.</p><p>B.</p>", ["A.", "B."]),
        ("<p>A<sup><a href='#s'>2</a></sup>.</p><h2 id='s'>Two</h2><p>B.</p>", ["A.", "# Two", "B."]),
        ("<p>A<sup><a href='#v'>2</a></sup>.</p><p id='v'>Then it was.</p>", ["A.", "Then it was."]),
        ("<p>A.<a epub:type='noteref' href='#f'>1</a></p><aside epub:type='footnote' id='f'><p>N.</p></aside>", ["A."]),
        ("<h2 class='page-break-before'>IV</h2><p>A.</p>", ["# IV", "A."]),
        ("<p><span role='doc-pagebreak' aria-label='7'>7</span>A.</p><p class='pagenum'>xii</p>", ["A."]),
        ("<p class='pagenum'>Not a number</p>", ["Not a number"]),
        (
            "<h1><img alt='Chapter One' src='x.png'/></h1><p><img alt='W' src='w.png'/>hen.</p>",
            ["# Chapter One", "When."],
        ),
        ("<p>A <img alt='a photograph' src='x.png'/> B.</p>", ["A B."]),
        ("<pre class='poem'>One\n  two</pre><pre>x = 1</pre>", ["One\n  two"]),
        ("<p>So <math alttext='a squared'><mi>a</mi></math> it is.</p>", ["So a squared it is."]),
        ("<table><tr><td><h2>In</h2></td><td><p>Text.</p></td></tr></table>", ["# In", "Text."]),
        ("<p hidden='hidden'>No.</p><p style='display: none'>No.</p><p>Yes.</p>", ["Yes."]),
        ("<p>한국어\n단어</p><p>中文\n字</p>", ["한국어 단어", "中文字"]),
        ("Loose text<p>A.</p>and more", ["Loose text", "A.", "and more"]),
    ],
)
def test_what_is_read_and_what_is_not(body: str, spoken: list[str]) -> None:
    """By rule, and only where it is certain: a number with a link is a note only if it looks like one."""
    chapter = read(simple(body, "<p>End.</p>")).chapters[0]
    assert [shown(block) for block in chapter.blocks] == spoken


def test_code_and_tables_are_read_when_asked_for() -> None:
    """Each on its own."""
    files = packed(simple("<p>A.</p><pre>x = 1</pre><table><tr><td>c</td><td>d</td></tr></table>"))
    assert read_book(io.BytesIO(files), keep=["code"]).chapters[0].text == "A.\n\nx = 1"
    assert read_book(io.BytesIO(files), keep=["tables"]).chapters[0].text == "A.\n\nc\n\nd"


def test_documents_outside_the_reading_order_are_not_read() -> None:
    """Those the spine calls auxiliary, and a navigation document among the pages."""
    files = dict(simple("<p>A.</p>", "<p>B.</p>"))
    files["content.opf"] = str(files["content.opf"]).replace('idref="c1"', 'idref="c1" linear="no"')
    assert [chapter.text for chapter in read(files).chapters] == ["A."]


def test_a_book_without_container_or_spine_is_read_in_the_order_of_its_files() -> None:
    """And says so."""
    files = dict(simple("<p>A.</p>", "<p>B.</p>"))
    del files["META-INF/container.xml"]
    files["content.opf"] = str(files["content.opf"]).replace("itemref", "forgotten")
    book = read(files)
    assert [chapter.text for chapter in book.chapters] == ["A.", "B."]
    assert any("order of its files" in warning for warning in book.warnings)


# --- hostile ones --------------------------------------------------------------------------------------------------

LAUGHS = '<!DOCTYPE html [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><html><body><p>&b;</p></body></html>'
OUTSIDE = '<!DOCTYPE html [<!ENTITY x SYSTEM "file:///etc/passwd">]><html><body><p>&x;</p></body></html>'


def with_page(content: str) -> bytes:
    """A book with this page."""
    return packed({**simple("<p>A.</p>"), "c0.xhtml": content})


def bomb() -> bytes:
    """A page of a gigabyte of zeros, which is a megabyte as it is packed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in simple("<p>A.</p>").items():
            if path != "c0.xhtml":
                archive.writestr(path, content)
        with archive.open("c0.xhtml", "w") as file:
            for _ in range(64):
                file.write(bytes(1_000_000))
    return buffer.getvalue()


def many_entries() -> bytes:
    """100,000 empty files, as a table of contents of the archive alone: the files themselves do not matter."""
    record = b"PK\1\2" + struct.pack("<4B4HL2L5H2L", 20, 3, 20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    directory = record * 100_000
    end64 = b"PK\6\6" + struct.pack("<Q2H2L4Q", 44, 45, 45, 0, 0, 100_000, 100_000, len(directory), 4)
    locator = b"PK\6\7" + struct.pack("<LQL", 0, 4 + len(directory), 1)
    end = b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 65_535, 65_535, len(directory), 4, 0)
    return b"PK\3\4" + directory + end64 + locator + end


def claims(size: int) -> bytes:
    """A page that claims so many bytes."""
    data = bytearray(packed(simple("<p>A.</p>")))
    at = data.rfind(b"PK\1\2")
    data[at + 24 : at + 28] = size.to_bytes(4, "little")
    return bytes(data)


def named(path: str) -> bytes:
    """A book with a file of this name."""
    return packed({**simple("<p>A.</p>"), path: "x"})


def referring(href: str) -> bytes:
    """A book whose package names this file."""
    files = dict(simple("<p>A.</p>"))
    files["content.opf"] = str(files["content.opf"]).replace("c0.xhtml", href)
    return packed(files)


def protected() -> bytes:
    """A book whose page is encrypted."""
    made = dict(MAKERS["indesign"]().files)
    made["META-INF/encryption.xml"] = (
        str(made["META-INF/encryption.xml"])
        .replace("http://www.idpf.org/2008/embedding", "http://www.w3.org/2001/04/xmlenc#aes128-cbc")
        .replace("OEBPS/font/Minion.otf", "OEBPS/River.xhtml")
    )
    return packed(made)


def empty() -> bytes:
    """A book of pictures."""
    return packed(simple("<p><img src='x.png'/></p>"))


def test_a_package_takes_time_linear_in_its_size() -> None:
    """However deep its metadata, however often its contents lead to one place."""
    files = dict(simple("<p>A.</p>"))
    deep = "<dc:title>" * 60_000 + "x" + "</dc:title>" * 60_000
    many = "<dc:subject>y</dc:subject>" * 20_000
    files["content.opf"] = str(files["content.opf"]).replace("</metadata>", f"{deep}{many}</metadata>")
    files["nav.xhtml"] = navigation("".join(entry(f"Entry {n}", "c0.xhtml") for n in range(60_000)))
    started_s = time.process_time()
    book = read(files)
    assert book.title == "The River"
    assert book.chapters[0].title.startswith("Entry 0: Entry 1")
    assert len(book.chapters[0].title) <= 400
    assert time.process_time() - started_s < 5


HOSTILE = {
    "laughs": (lambda: with_page(LAUGHS), "declares entities of its own"),
    "file": (lambda: with_page(OUTSIDE), "declares entities of its own"),
    "broken laughs": (lambda: with_page(LAUGHS.replace("</p>", "")), "declares entities of its own"),
    "bomb": (bomb, "grows beyond all measure"),
    "entries": (many_entries, "more than 10,000 files"),
    "1 GB": (lambda: claims(1_000_000_000), "at most"),
    "4 GB": (lambda: claims(4_000_000_000), "would take 4.0 GB unpacked"),
    "path": (lambda: named("../evil.xhtml"), "a path that leads out of it"),
    "root": (lambda: named("/etc/cron.d/x"), "a path that leads out of it"),
    "reference": (lambda: referring("../../etc/passwd"), "names a file outside of itself"),
    "encoded": (lambda: referring("%2e%2e/%2e%2e/etc/passwd"), "names a file outside of itself"),
    "DRM": (protected, "protected against copying (DRM)"),
    "pictures": (empty, "no text that can be read aloud"),
    "no package": (lambda: packed({"readme.txt": "x"}), "no package document"),
    "cut off": (lambda: packed(simple("<p>A.</p>"))[:-40], "cut off"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_book_is_refused_in_words(name: str) -> None:
    """Within a second, by an error that says what is wrong with it."""
    make, words = HOSTILE[name]
    content = make()
    started_s = time.process_time()
    with pytest.raises(TTSValidationError) as refused:
        read(content)
    assert time.process_time() - started_s < 1
    assert words in str(refused.value)
    assert "root:" not in str(refused.value)


@pytest.mark.parametrize("offset", range(0, 1200, 7))
def test_damage_anywhere_is_an_error_in_words_or_harmless(offset: int) -> None:
    """A byte that is not what it was is never an error of Python's own."""
    data = bytearray(packed(simple("<p>Some words that are packed.</p>")))
    data[offset % len(data)] ^= 0x5A
    with suppress(TTSValidationError):
        assert read(bytes(data)).chapters


LONG_PAGES = (
    "<b>" * 100_000,
    "<div>" * 50_000 + "x",
    "<table><tr><td>" * 20_000 + "x",
    "<p id='a'>" * 50_000,
    "<!--" * 100_000,
    "<a href='#x'>1" * 30_000,
    "&lt;" * 150_000,
    "<" * 200_000,
    "<x y='" * 50_000,
    "</p>" * 100_000,
    "<div id='all'>" + "<p>x<sup><a href='#all'>1</a></sup></p>" * 10_000,
    f"<p>x<a href='#{'note' * 50_000}'>1</a></p>",
    f"<p class='{'page ' * 50_000}'>1</p>" * 2,
)


@pytest.mark.parametrize("body", LONG_PAGES, ids=lambda body: body[:12])
def test_a_page_takes_time_linear_in_its_size(body: str) -> None:
    """However its tags are nested or left open: a quarter of a megabyte takes a second, not minutes."""
    started_s = time.process_time()
    book = read(simple(f"<p>Before.</p>{body}"))
    assert book.chapters[0].text.startswith("Before.")
    assert time.process_time() - started_s < 5
