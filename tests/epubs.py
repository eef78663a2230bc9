"""EPUBs as ten makers write them: their folders, file names, markup, tables of contents and oddities.

How each was obtained: "pandoc" repeats what pandoc 2.17 wrote for a Markdown file of this content (both of its formats
were unpacked and compared), and "calibre_page" what calibre 6.13 wrote for a web page of this content; the others are
written by hand after the structure that their makers are known for.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

PNG = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0\x90wS\xde\0\0\0\x0cIDATx\x9cc\xf8\xcf\xc0\0\0\x03"
    b"\x01\x01\0\xc9\xfe\x92\xef\0\0\0\0IEND\xaeB`\x82"
)
JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01"

Files = Mapping[str, str | bytes]


@dataclass(frozen=True)
class Made:
    """A book, and what a reader should find in it.

    Attributes:
        chapters: The title of each, and its blocks: headings begin with ``"#"``, a scene break is ``"***"``.
        left_out: What the warning counts.
    """

    files: Files
    chapters: list[tuple[str, list[str]]]
    title: str = "The River"
    authors: tuple[str, ...] = ("Ann Writer",)
    language: str | None = "en-GB"
    cover: str | None = None
    left_out: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


def packed(files: Files) -> bytes:
    """The files as an EPUB, the media type first and not compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        for path, content in files.items():
            archive.writestr(path, content)
    return buffer.getvalue()


def container(path: str) -> str:
    """``META-INF/container.xml``."""
    return (
        '<?xml version="1.0"?>\n<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
        f'<rootfiles><rootfile full-path="{path}" '
        f'media-type="application/oebps-package+xml"/></rootfiles></container>'
    )


def package(
    items: Mapping[str, str],
    spine: str,
    *,
    version: str = "3.0",
    metadata: str = "",
    language: str = "en-GB",
    extra: str = "",
    toc: str = "",
) -> str:
    """A package document.

    Args:
        items: By id: the reference, and perhaps a media type and properties, separated by ``|``.
        spine: Ids.
        version: Of EPUB.
        metadata: Added to title, author and language.
        language: Of the book.
        extra: What follows the spine.
        toc: The id of the NCX.
    """
    manifest = ""
    for name, item in items.items():
        href, media_type, properties = (*item.split("|"), "", "")[:3]
        kind = media_type or ("image/png" if href.endswith("png") else "application/xhtml+xml")
        flags = f' properties="{properties}"' if properties else ""
        manifest += f'<item id="{name}" href="{href}" media-type="{kind}"{flags}/>\n'
    itemrefs = "".join(f'<itemref idref="{name}"/>' for name in spine.split())
    ncx = f' toc="{toc}"' if toc else ""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<package xmlns="http://www.idpf.org/2007/opf" version="{version}" unique-identifier="id">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:opf="http://www.idpf.org/2007/opf">
<dc:title>The River</dc:title><dc:creator>Ann Writer</dc:creator><dc:language>{language}</dc:language>{metadata}
</metadata><manifest>
{manifest}</manifest><spine{ncx}>{itemrefs}</spine>{extra}</package>"""


def page(body: str, head: str = "", attributes: str = "", language: str = "en") -> str:
    """A document of EPUB 3."""
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE html>\n<html xmlns="http://www.w3.org/1999/xhtml" '
        f'xmlns:epub="http://www.idpf.org/2007/ops" '
        f'xml:lang="{language}"><head><title>Untitled</title>{head}</head>\n'
        f"<body{attributes}>{body}</body></html>"
    )


def old_page(body: str) -> str:
    """A document of EPUB 2, with its document type and the entities that it allows."""
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.1//EN" '
        '"http://www.w3.org/TR/xhtml11/DTD/xhtml11.dtd">\n<html xmlns="http://www.w3.org/1999/xhtml"><head>'
        f"<title>The River</title></head><body>{body}</body></html>"
    )


def navigation(entries: str, **attributes: str) -> str:
    """The navigation document of EPUB 3; ``entries`` are items of its list."""
    return page(f'<nav epub:type="toc" id="toc"><h1>Contents</h1><ol>{entries}</ol></nav>', **attributes)


def entry(title: str, href: str, below: str = "") -> str:
    """One of its entries."""
    return f'<li><a href="{href}">{title}</a>{f"<ol>{below}</ol>" if below else ""}</li>'


def ncx(points: str) -> str:
    """The table of contents of EPUB 2."""
    return (
        '<?xml version="1.0"?>\n<!DOCTYPE ncx PUBLIC "-//NISO//DTD ncx 2005-1//EN" '
        '"http://www.daisy.org/z3986/2005/ncx-2005-1.dtd">\n<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/" '
        f'version="2005-1"><docTitle><text>The River</text></docTitle><navMap>{points}</navMap></ncx>'
    )


def point(title: str, href: str, below: str = "") -> str:
    """One of its points."""
    return f'<navPoint id="n"><navLabel><text>{title}</text></navLabel><content src="{href}"/>{below}</navPoint>'


NCX_TYPE = "application/x-dtbncx+xml"
LONG = (
    "The water went on under the bridge as it had done all summer, and no one spoke of what had been seen there. " * 3
)


def standard_ebooks() -> Made:
    """Semantic types everywhere, parts around chapters, endnotes in a document of their own, the contents outside."""
    chapter = (
        '<section id="chapter-{n}" epub:type="chapter" role="doc-chapter"><hgroup><h3 epub:type="ordinal '
        'z3998:roman">{roman}</h3><p epub:type="title">{name}</p></hgroup>{text}</section>'
    )
    part = (
        '<section id="part-1" epub:type="part"><hgroup><h2><span epub:type="label">Part</span> <span '
        'epub:type="ordinal z3998:roman">I</span></h2><p epub:type="title">Spring</p></hgroup></section>'
    )
    note = '<a href="endnotes.xhtml#note-1" id="noteref-1" epub:type="noteref" role="doc-noteref">1</a>'
    files = {
        "META-INF/container.xml": container("epub/content.opf"),
        "epub/content.opf": package(
            {
                "toc.xhtml": "toc.xhtml||nav",
                "cover": "images/cover.png|image/png|cover-image",
                "titlepage": "text/titlepage.xhtml",
                "part-1": "text/part-1.xhtml",
                "chapter-1": "text/chapter-1.xhtml",
                "chapter-2": "text/chapter-2.xhtml",
                "endnotes": "text/endnotes.xhtml",
            },
            "titlepage part-1 chapter-1 chapter-2 endnotes",
            metadata='<dc:publisher>Standard Books</dc:publisher><dc:creator opf:role="trl">T. Lator</dc:creator>'
            "<dc:description>A &lt;b&gt;fine&lt;/b&gt; book.</dc:description>",
        ),
        "epub/toc.xhtml": navigation(
            entry("Titlepage", "text/titlepage.xhtml")
            + entry(
                "Part I: Spring",
                "text/part-1.xhtml",
                entry("I: Rain", "text/chapter-1.xhtml") + entry("II: Sun", "text/chapter-2.xhtml"),
            )
            + entry("Endnotes", "text/endnotes.xhtml")
        ),
        "epub/images/cover.png": PNG,
        "epub/text/titlepage.xhtml": page(
            '<section epub:type="titlepage"><h1 epub:type="title">The River</h1><p>By Ann Writer.</p>'
            '<img alt="" src="../images/titlepage.svg"/></section>',
            attributes=' epub:type="frontmatter"',
        ),
        "epub/text/part-1.xhtml": page(part),
        "epub/text/chapter-1.xhtml": page(
            chapter.format(n=1, roman="I", name="Rain", text=f"<p>It rained.{note}</p><hr/><p>It stopped.</p>")
        ),
        "epub/text/chapter-2.xhtml": page(
            chapter.format(n=2, roman="II", name="Sun", text="<p>“Come,” said <abbr>Mr.</abbr>&#160;Gray.</p>")
        ),
        "epub/text/endnotes.xhtml": page(
            '<section epub:type="endnotes" role="doc-endnotes"><h2>Endnotes</h2><ol><li id="note-1" '
            'epub:type="endnote" '
            'role="doc-endnote"><p>Of course. <a href="chapter-1.xhtml#noteref-1" role="doc-backlink">↩</a></p></li>'
            "</ol></section>"
        ),
    }
    return Made(
        files,
        [
            ("Titlepage", ["# The River", "By Ann Writer."]),
            ("Part I: Spring", ["# Part I", "Spring"]),
            ("I: Rain", ["# I", "Rain", "It rained.", "***", "It stopped."]),
            ("II: Sun", ["# II", "Sun", "“Come,” said Mr.\u00a0Gray."]),
        ],
        cover="image/png",
        left_out="1 footnote",
        metadata={"publisher": "Standard Books", "description": "A fine book."},
    )


def calibre_page() -> Made:
    """A page cut before each heading, items in reverse order, and a contents that lists the mark of a note."""
    files = {
        "META-INF/container.xml": container("content.opf"),
        "content.opf": package(
            {
                "cover": "cover_image.jpg|image/jpeg",
                "titlepage": "titlepage.xhtml",
                "html3": "book_split_000.html",
                "html2": "book_split_001.html",
                "html1": "book_split_002.html",
                "ncx": f"toc.ncx|{NCX_TYPE}",
            },
            "titlepage html3 html2 html1",
            version="2.0",
            language="en",
            metadata='<meta name="cover" content="cover"/>',
            extra='<guide><reference type="cover" href="titlepage.xhtml" title="Title page"/></guide>',
            toc="ncx",
        ),
        "titlepage.xhtml": page(
            '<div><svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" version="1.1" '
            'width="100%" height="100%" viewBox="0 0 1200 1600" preserveAspectRatio="none"><image width="1200" '
            'height="1600" xlink:href="cover_image.jpg"/></svg></div>'
        ),
        "cover_image.jpg": JPEG,
        "book_split_000.html": page(
            f'<h1 id="calibre_toc_2" class="calibre1">Chapter 1</h1><p class="calibre2">{LONG}</p>'
        ),
        "book_split_001.html": page(
            '<h2 class="calibre3" id="calibre_pb_1">A part</h2><p class="calibre2">Some <i class="calibre4">words</i>.'
            '</p><hr class="calibre5"/><p class="calibre2">After the break.</p><div class="calibre6" '
            'id="calibre_pb_2"></div>'
        ),
        "book_split_002.html": page(
            '<h1 id="calibre_toc_3" class="calibre1">Chapter 2</h1><p class="calibre2">It ended.<sup class="calibre7">'
            '<a id="r1" href="#n1">[1]</a></sup></p><p id="n1" class="calibre2"><a href="#r1">[1]</a> Or so they say.'
            "</p>"
        ),
        "toc.ncx": ncx(
            point("Chapter 1", "book_split_000.html")
            + point("Chapter 2", "book_split_002.html")
            + point("[1]", "book_split_002.html#n1")
        ),
    }
    first = ["# Chapter 1", LONG.strip(), "# A part", "Some words.", "***", "After the break."]
    return Made(
        files,
        [("Chapter 1", first), ("Chapter 2", ["# Chapter 2", "It ended."])],
        language="en",
        cover="image/jpeg",
        left_out="1 footnote",
    )


def calibre() -> Made:
    """Classes called calibre, documents split in the middle of chapters, and ``titlepage.xhtml`` with a picture."""
    files = {
        "META-INF/container.xml": container("content.opf"),
        "content.opf": package(
            {
                "titlepage": "titlepage.xhtml",
                "html1": "text/part0000_split_000.html",
                "html2": "text/part0000_split_001.html",
                "html3": "text/part0001.html",
                "cover": "cover.jpeg|image/jpeg",
                "ncx": f"toc.ncx|{NCX_TYPE}",
            },
            "titlepage html1 html2 html3",
            version="2.0",
            language="eng",
            metadata='<meta name="cover" content="cover"/><meta name="calibre:series" content="Rivers"/>',
            extra='<guide><reference href="titlepage.xhtml" title="Cover" type="cover"/></guide>',
            toc="ncx",
        ),
        "titlepage.xhtml": page(
            '<div><svg xmlns="http://www.w3.org/2000/svg"><image xmlns:xlink="http://www.w3.org/1999/xlink" '
            'xlink:href="cover.jpeg"/></svg></div>'
        ),
        "cover.jpeg": JPEG,
        "text/part0000_split_000.html": page(
            '<p id="filepos12" class="calibre_1"><span class="calibre2"><b class="calibre3">Chapter 1</b></span></p>'
            f'<p class="calibre1">{LONG}</p><div class="calibre4"> </div><p class="calibre1">\u00a0</p>'
        ),
        "text/part0000_split_001.html": page('<p class="calibre1">The rest of it.</p>'),
        "text/part0001.html": page(
            '<h2 class="calibre_pb" id="calibre_pb_0">Chapter 2</h2><p class="calibre1">It '
            'ended.<sup class="calibre5">'
            '<a id="r1" href="part0001.html#n1">[1]</a></sup></p><p id="n1" class="calibre1"><a '
            'href="part0001.html#r1">'
            "[1]</a> Or so they say.</p>"
        ),
        "toc.ncx": ncx(
            point("Chapter 1", "text/part0000_split_000.html#filepos12") + point("Chapter 2", "text/part0001.html")
        ),
    }
    return Made(
        files,
        [
            ("Chapter 1", ["Chapter 1", LONG.strip(), "The rest of it."]),
            ("Chapter 2", ["# Chapter 2", "It ended."]),
        ],
        language="en",
        cover="image/jpeg",
        left_out="1 footnote",
    )


def pandoc() -> Made:
    """Sections around headings, untyped marks of notes in EPUB 2, code in spans, tables of the real kind."""
    chapter = (
        '<section id="chapter-one" class="level1" data-number="1">\n<h1 data-number="1">Chapter '
        "One</h1>\n<p>It was a "
        'dark night.<a href="#fn1" class="footnote-ref" id="fnref1">1</a> The rain fell &amp; fell.</p>\n<hr />\n'
        f'<p>{LONG}</p>\n<table>\n<thead><tr class="header"><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td>'
        '<td>2</td></tr></tbody></table>\n<div class="sourceCode" id="cb1"><pre class="sourceCode python"><code>'
        '<span id="cb1-1"><a href="#cb1-1" aria-hidden="true"></a><span '
        'class="bu">print</span>(1)</span></code></pre>'
        '</div>\n<section id="a-section" class="level2"><h2>A section</h2><p>Some <code>code</code> '
        "words.</p></section>"
        '\n</section>\n<div class="footnotes footnotes-end-of-document">\n<hr />\n<ol>\n<li id="fn1"><p>A note about '
        'the night.<a href="#fnref1" class="footnote-back">↩︎</a></p></li>\n</ol>\n</div>'
    )
    files = {
        "META-INF/container.xml": container("EPUB/content.opf"),
        "META-INF/com.apple.ibooks.display-options.xml": "<display_options/>",
        "EPUB/content.opf": package(
            {
                "ncx": f"toc.ncx|{NCX_TYPE}",
                "nav": "nav.xhtml||nav",
                "title_page_xhtml": "text/title_page.xhtml",
                "ch001_xhtml": "text/ch001.xhtml",
                "ch002_xhtml": "text/ch002.xhtml",
            },
            "title_page_xhtml nav ch001_xhtml ch002_xhtml",
            toc="ncx",
        ),
        "EPUB/nav.xhtml": navigation(
            entry("Chapter One", "text/ch001.xhtml#chapter-one", entry("A section", "text/ch001.xhtml#a-section"))
            + entry("Chapter Two", "text/ch002.xhtml#chapter-two")
        ),
        "EPUB/toc.ncx": ncx(point("Wrong", "text/ch002.xhtml")),
        "EPUB/text/title_page.xhtml": page(
            '<section epub:type="titlepage" class="titlepage"><h1 class="title">The River</h1><p class="author">Ann '
            "Writer</p></section>"
        ),
        "EPUB/text/ch001.xhtml": page(chapter),
        "EPUB/text/ch002.xhtml": page(
            '<section id="chapter-two" class="level1"><h1>Chapter Two</h1><p>Last text.</p></section>'
        ),
    }
    first = ["# Chapter One", "It was a dark night. The rain fell & fell.", "***", LONG.strip()]
    return Made(
        files,
        [
            ("The River", ["# The River", "Ann Writer"]),
            ("Chapter One", [*first, "# A section", "Some code words.", "***"]),
            ("Chapter Two", ["# Chapter Two", "Last text."]),
        ],
        left_out="1 code block, 1 footnote, 1 table",
    )


def sigil() -> Made:
    """``OEBPS/Text``, several chapters in one document, their anchors on the headings, marks of pages in spans."""
    body = (
        '<h2 id="sigil_toc_id_1">Chapter I</h2><p>One<span class="pagenum" id="p4">[4]</span> '
        'line.</p><p class="break">'
        '⁂</p><p>Another.</p><h2 id="sigil_toc_id_2">Chapter II</h2><p>Two<a class="page" id="page_5">5</a>.</p>'
        '<blockquote class="poem"><p>A verse,<br/>and a second.</p></blockquote>'
    )
    files = {
        "META-INF/container.xml": container("OEBPS/content.opf"),
        "OEBPS/content.opf": package(
            {"ncx": f"toc.ncx|{NCX_TYPE}", "s1": "Text/Section0001.xhtml", "img": "Images/cover.png"},
            "s1",
            version="2.0",
            extra='<guide><reference type="cover" title="Cover" href="Text/Section0001.xhtml"/></guide>',
            toc="ncx",
        ),
        "OEBPS/toc.ncx": ncx(
            point("Chapter I", "Text/Section0001.xhtml#sigil_toc_id_1")
            + point("Chapter II", "Text/Section0001.xhtml#sigil_toc_id_2")
        ),
        "OEBPS/Text/Section0001.xhtml": old_page(body),
        "OEBPS/Images/cover.png": PNG,
    }
    return Made(
        files,
        [
            ("Chapter I", ["# Chapter I", "One line.", "***", "Another."]),
            ("Chapter II", ["# Chapter II", "Two.", "A verse,\nand a second."]),
        ],
        cover="image/png",
    )


def indesign() -> Made:
    """Paragraphs for everything, headings among them; footnotes by class; a contents page that leads nowhere."""
    link = (
        '<span id="footnote-001-backlink"><span class="_idFootnoteLink _idGenColorInherit"><a '
        'class="_idFootnoteLink" '
        'href="River.xhtml#footnote-001">1</a></span></span>'
    )
    body = (
        f'<div id="_idContainer000" class="Basic-Text-Frame"><p class="Chapter-Title">The Ford</p><p class="Body">'
        f'<span class="CharOverride-1">T</span>hey crossed it.{link} Twice.</p><p class="Body">All of them.</p>'
        '<p class="Chapter-Title">The Hill</p><p class="Body">They climbed it.</p></div><div '
        'class="_idFootnotes"><div '
        'class="_idFootnote" epub:type="footnote"><p class="Note"><a class="_idFootnoteAnchor" '
        'href="River.xhtml#footnote-001-backlink">1</a>\tBy boat.</p></div></div>'
    )
    files = {
        "META-INF/container.xml": container("OEBPS/content.opf"),
        "META-INF/encryption.xml": "<encryption "
        'xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><EncryptedData '
        'xmlns="http://www.w3.org/2001/04/xmlenc#"><EncryptionMethod Algorithm="http://www.idpf.org/2008/embedding"/>'
        '<CipherData><CipherReference URI="OEBPS/font/Minion.otf"/></CipherData></EncryptedData></encryption>',
        "OEBPS/content.opf": package({"River": "River.xhtml", "toc": "toc.xhtml||nav"}, "River"),
        "OEBPS/toc.xhtml": navigation(entry("River", "River.xhtml")),
        "OEBPS/River.xhtml": page(body, attributes=' id="River" lang="en-GB"'),
        "OEBPS/font/Minion.otf": b"OTTO",
    }
    return Made(
        files,
        [
            ("The Ford", ["# The Ford", "They crossed it. Twice.", "All of them."]),
            ("The Hill", ["# The Hill", "They climbed it."]),
        ],
        left_out="1 footnote",
    )


def word() -> Made:
    """Styles called Mso, empty paragraphs for room, spans in spans, a table that only puts text in its place."""
    note = '<a style="mso-footnote-id:ftn1" href="#_ftn1" name="_ftnref1" id="_ftnref1"><span><sup>[1]</sup></span></a>'
    body = (
        '<div class="WordSection1"><h1><a name="_Toc1" id="_Toc1">First steps</a></h1><p class="MsoNormal">&nbsp;</p>'
        f'<p class="MsoNormal"><span lang="EN-GB"><span>Well&mdash;we</span></span> began{note}, '
        f"softly\u00ad spoken.</p>"
        '<table class="MsoTableGrid"><tr><td><p class="MsoNormal">In a frame.</p></td></tr></table>'
        '<p class="MsoListParagraph">·  An item</p><h1><a name="_Toc2" id="_Toc2">Second steps</a></h1>'
        '<p class="MsoNormal">We went on.</p></div><div style="mso-element:footnote-list"><div id="ftn1"><p '
        'class="MsoFootnoteText"><a href="#_ftnref1" name="_ftn1" id="_ftn1"><sup>[1]</sup></a> In a '
        "way.</p></div></div>"
    )
    files = {
        "META-INF/container.xml": container("OPS/package.opf"),
        "OPS/package.opf": package(
            {"ncx": f"toc.ncx|{NCX_TYPE}", "c": "content.html"}, "c", version="2.0", language="en_GB", toc="ncx"
        ),
        "OPS/toc.ncx": ncx(point("First steps", "content.html#_Toc1") + point("Second steps", "content.html#_Toc2")),
        "OPS/content.html": old_page(body),
    }
    return Made(
        files,
        [
            ("First steps", ["# First steps", "Well—we began, softly spoken.", "In a frame.", "· An item"]),
            ("Second steps", ["# Second steps", "We went on."]),
        ],
        left_out="1 footnote",
    )


def only_ncx() -> Made:
    """EPUB 2 in the root folder, parts and chapters nested in each other in one document, Latin-1."""
    body = (
        f'<h1 id="p1">Part One</h1><h2 id="c1">Caf\u00e9</h2><p>{LONG}</p><h3 id="s1">A section</h3><p>Of it.</p>'
        '<h2 id="c2">Street</h2><p>Down.</p>'
    )
    latin = old_page(body).replace("utf-8", "iso-8859-1").encode("latin-1")
    files: dict[str, str | bytes] = {
        "META-INF/container.xml": container("book.opf"),
        "book.opf": package({"ncx": f"book.ncx|{NCX_TYPE}", "b": "b.htm|text/html"}, "b", version="2.0", toc="ncx"),
        "book.ncx": ncx(
            point(
                "Part One",
                "b.htm#p1",
                point("Caf\u00e9", "b.htm#c1", point("A section", "b.htm#s1")) + point("Street", "b.htm#c2"),
            )
        ),
        "b.htm": latin,
    }
    return Made(
        files,
        [
            ("Part One", ["# Part One"]),
            ("Caf\u00e9", ["# Caf\u00e9", LONG.strip(), "# A section", "Of it."]),
            ("Street", ["# Street", "Down."]),
        ],
    )


def right_to_left() -> Made:
    """Arabic, read from right to left: the order of the spine stays that of reading."""
    files = {
        "META-INF/container.xml": container("EPUB/package.opf"),
        "EPUB/package.opf": package(
            {"nav": "nav.xhtml||nav", "a": "a.xhtml", "b": "b.xhtml"}, "a b", language="ar"
        ).replace("<spine>", '<spine page-progression-direction="rtl">'),
        "EPUB/nav.xhtml": navigation(entry("الفصل الأول", "a.xhtml") + entry("الفصل الثاني", "b.xhtml")),
        "EPUB/a.xhtml": page(
            '<section dir="rtl"><h1>الفصل الأول</h1><p>كان النهر <span dir="ltr">BBC 2</span> هادئًا.</p></section>'
        ),
        "EPUB/b.xhtml": page("<h1>الفصل الثاني</h1><p>ثم جاء المطر.\u200f</p>", attributes=' dir="rtl"'),
    }
    return Made(
        files,
        [
            ("الفصل الأول", ["# الفصل الأول", "كان النهر BBC 2 هادئًا."]),
            ("الفصل الثاني", ["# الفصل الثاني", "ثم جاء المطر.\u200f"]),
        ],
        language="ar",
    )


def vertical() -> Made:
    """Japanese in columns: readings beside the words, upright numbers, lines broken where no space is."""
    body = (
        '<div class="main"><h3 class="oo-midashi" id="toc-001"><span '
        'class="font-1em50">一章　川</span></h3><p>　<ruby>彼'
        "<rp>（</rp><rt>かれ</rt><rp>）</rp></ruby>は<span "
        'class="tcy">12</span>年\n　　川を見て\nいた。</p><p><br/></p>'
        "<p>「行くの？」</p></div>"
    )
    files = {
        "META-INF/container.xml": container("item/standard.opf"),
        "item/standard.opf": package(
            {"nav": "navigation-documents.xhtml||nav", "p-001": "xhtml/p-001.xhtml", "p-002": "xhtml/p-002.xhtml"},
            "p-001 p-002",
            language="ja",
        ),
        "item/navigation-documents.xhtml": navigation(
            entry("一章　川", "xhtml/p-001.xhtml#toc-001") + entry("二章　雨", "xhtml/p-002.xhtml")
        ),
        "item/xhtml/p-001.xhtml": page(body, language="ja", attributes=' class="p-text vrtl"'),
        "item/xhtml/p-002.xhtml": page('<h3>二章　雨</h3><p>雨が<em class="sesame">降</em>った。</p>', language="ja"),
    }
    return Made(
        files,
        [
            ("一章 川", ["# 一章　川", "彼は12年　　川を見ていた。", "「行くの？」"]),
            ("二章 雨", ["# 二章　雨", "雨が降った。"]),
        ],
        language="ja",
    )


def broken() -> Made:
    """No navigation, wrong media types, spaces and Unicode in paths, tags that are not closed, a missing file."""
    files: dict[str, str | bytes] = {
        "META-INF/container.xml": container("Mein Buch/inhalt übersicht.opf"),
        "Mein Buch/inhalt übersicht.opf": package(
            {
                "x1": "Kapitel%201%20%E2%80%93%20Anfang.XHTML|text/plain",
                "x2": "Kapitel 2 – Ende.xhtml|application/octet-stream",
                "x3": "fehlt.xhtml",
                "pic": "umschlag.bin|application/octet-stream|cover-image",
            },
            "x1 x2 x3 x4",
            language="Deutsch",
            metadata="<dc:rights>&copy; Ann &nbsp; Writer</dc:rights>",
        ),
        "Mein Buch/Kapitel 1 – Anfang.xhtml": "<html><body><h1>Anfang<p>Erster Satz &ndash; "
        "gut.<p>Zweiter <b>Satz<br>"
        "Zeile & mehr < 3</p><ul><li>Eins<li>Zwei</ul><script>if (a < b) { }</script>",
        "Mein Buch/Kapitel 2 – Ende.xhtml": page("<h1>Ende</h1><p>Schluss.</p>"),
        "Mein Buch/umschlag.bin": JPEG,
    }
    return Made(
        files,
        [
            ("Anfang", ["# Anfang", "Erster Satz – gut.", "Zweiter Satz\nZeile & mehr < 3", "Eins", "Zwei"]),
            ("Ende", ["# Ende", "Schluss."]),
        ],
        language=None,
        cover="image/jpeg",
        metadata={"rights": "© Ann Writer"},
    )


MAKERS: Mapping[str, Callable[[], Made]] = {
    make.__name__: make
    for make in (
        standard_ebooks,
        calibre,
        calibre_page,
        pandoc,
        sigil,
        indesign,
        word,
        only_ncx,
        right_to_left,
        vertical,
        broken,
    )
}
