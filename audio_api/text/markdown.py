"""Markdown as it is read aloud: its words in their order, without its marks.

The dialect is CommonMark with tables, strikethrough, task lists, footnotes and front matter, as language models and
static sites write it. ``markdown-it-py`` reads it, the parser that Jupyter and Sphinx use.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Collection, Iterator
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

# The parser leaves out what is nested deeper, without saying so.
_MOST_NESTED = 100
# A rule at the start of a text opens front matter only if a key follows: language models begin answers with rules.
_FRONT_MATTER = re.compile(r"-{3,}[^\S\n]*\n(?:#[^\n]*\n)*[\"']?\w[\w .-]*[\"']?:(?:\s|$)")
_TASK_BOX = re.compile(r"\A\[[ xX]\]\s+")
_INLINE_NAMES = """
    a abbr acronym audio b bdi bdo big button cite code data del dfn em embed font i iframe img input ins kbd label map
    mark meter noscript object output picture progress q rp rt ruby s samp small source span strike strong sub sup svg
    time track tt u var video wbr
"""
_BLOCK_NAMES = """
    address article aside blockquote body br caption center col colgroup dd details dialog dir div dl dt fieldset
    figcaption figure footer form frame frameset h1 h2 h3 h4 h5 h6 head header hr html legend li link main menu menuitem
    meta nav noframes ol optgroup option p param pre search section select summary table tbody td textarea tfoot th
    thead title tr ul
"""
_BLOCK_HTML = frozenset(_BLOCK_NAMES.split())
_UNSPOKEN_HTML = frozenset({"script", "style", "template", "canvas", "math"})
_HTML = _BLOCK_HTML | _UNSPOKEN_HTML | frozenset(_INLINE_NAMES.split())
_KEEPABLE_HTML = {"pre": "code", "table": "tables"}
_ALT = re.compile(r"""\balt\s*=\s*(["'])(.*?)\1""", re.IGNORECASE | re.DOTALL)
_TAG_NAME = re.compile(r"</?([A-Za-z][A-Za-z0-9-]*)")

_NAMES = {
    "code": ("code block", "code blocks"),
    "tables": ("table", "tables"),
    "images": ("image without a description", "images without a description"),
    "footnotes": ("footnote", "footnotes"),
    "front matter": ("front matter", "front matter"),
}


class Unmarked(NamedTuple):
    """Markdown without its marks.

    Attributes:
        text: Its words in their order, a blank line between its blocks.
        warnings: One sentence that counts what was left out; none when nothing was.
    """

    text: str
    warnings: tuple[str, ...]


class MarkedBlock(NamedTuple):
    """A block of Markdown without its marks.

    Attributes:
        text: Its words; empty for a rule.
        heading: The level of a heading, 1 to 6; 0: the block is no heading.
        is_rule: Whether it is a rule between two sections.
    """

    text: str
    heading: int = 0
    is_rule: bool = False


def unmarked(text: str, keep: Collection[str] = ()) -> Unmarked:
    """Take the marks out of Markdown, and change no word.

    Headings, paragraphs, items of lists and quotes become paragraphs, so that a pause follows each. Line ends inside
    them stay. Links keep their words, images their description, code inside a sentence stays; tags of HTML vanish, but
    not those that are no HTML, such as ``<laugh>``. Lists lose their bullets, and the numbers that count their items
    from 0 or 1; another number stays, as in ``1984. A year.`` Code blocks, tables, footnotes, front matter and images
    without a description are left out and counted.

    Args:
        text: Markdown of any length. Reading it takes about 3 s a megabyte.
        keep: ``"code"`` keeps code blocks as they are; ``"tables"`` keeps tables, a line for each cell.

    Raises:
        ValueError: Its quotes and lists are nested more than 98 levels deep.
    """
    blocks, warnings = marked_blocks(text, keep)
    return Unmarked("\n\n".join(block.text for block in blocks if block.text), warnings)


def marked_blocks(text: str, keep: Collection[str] = ()) -> tuple[list[MarkedBlock], tuple[str, ...]]:
    """What ``unmarked`` makes of Markdown, block by block; and its warnings.

    Args:
        text: As ``unmarked``.
        keep: As ``unmarked``.

    Raises:
        ValueError: As ``unmarked``.
    """
    reader = _Reader(_parser(has_front_matter=_FRONT_MATTER.match(text) is not None), frozenset(keep))
    stripped = (block._replace(text=block.text.strip("\n")) for block in reader.blocks(text))
    blocks = [block for block in stripped if block.text or block.is_rule]
    counts = [f"{count} {_NAMES[kind][count > 1]}" for kind, count in sorted(reader.left_out.items())]
    warnings = (f"left out of the Markdown: {', '.join(counts)}",) if counts else ()
    return blocks, warnings


@cache
def _parser(*, has_front_matter: bool) -> MarkdownIt:
    from markdown_it import MarkdownIt
    from mdit_py_plugins.footnote import footnote_plugin
    from mdit_py_plugins.front_matter import front_matter_plugin

    parser = MarkdownIt("commonmark", {"maxNesting": _MOST_NESTED}).enable(["table", "strikethrough"])
    parser.use(footnote_plugin, inline=False, move_to_end=False)
    if has_front_matter:
        parser.use(front_matter_plugin)
    # What is inside blocks is parsed one block at a time: it takes ten times the memory of the text.
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


class _Reader:
    """Reads one text.

    Attributes:
        left_out: How many things of each kind were left out.
    """

    def __init__(self, parser: MarkdownIt, keep: frozenset[str]) -> None:
        self._parser = parser
        self._keep = keep
        self._env: dict[str, object] = {}
        self._counted: list[int] = []  # the number of the last item, for each list around the token
        self._item_number: str | None = None  # of the item that has no words yet
        self.left_out: Counter[str] = Counter()

    def blocks(self, text: str) -> Iterator[MarkedBlock]:
        """Each block that is spoken, perhaps without words, and each rule."""
        heading = 0
        tokens = iter(self._parser.parse(text, self._env))
        for token in tokens:
            if token.type == "heading_open":
                heading = int(token.tag[1])
            elif token.type == "heading_close":
                heading = 0
            elif token.type == "hr":
                yield MarkedBlock("", is_rule=True)
            else:
                for words in self._spoken(token, tokens):
                    yield MarkedBlock(words, heading)

    def _spoken(self, token: Token, tokens: Iterator[Token]) -> Iterator[str]:
        """The words that a token and those that belong to it stand for."""
        if token.nesting == 1 and token.level >= _MOST_NESTED - 1:
            raise ValueError(f"the Markdown is nested more than {_MOST_NESTED - 2} levels deep")
        self._count_items(token)
        match token.type:
            case "inline":
                number, self._item_number = self._item_number, None
                content = token.content if number is None else _TASK_BOX.sub("", token.content)
                yield (number or "") + self._inline(content)
            case "table_open":
                yield from self._table(tokens)
            case "footnote_reference_open":
                self.left_out["footnotes"] += 1
                _skip(tokens, "footnote_reference_close")
            case "fence" | "code_block" if "code" in self._keep:
                yield token.content
            case "fence" | "code_block":
                self.left_out["code"] += 1
            case "html_block":
                # The parser reads its tags faster than the standard library's quadratic one.
                lines = (" ".join(line.split()) for line in self._inline(token.content).split("\n"))
                yield "\n".join(filter(None, lines))
            case "front_matter":
                self.left_out["front matter"] = 1

    def _count_items(self, token: Token) -> None:
        match token.type:
            case "bullet_list_open" | "ordered_list_open":
                self._counted.append(0)
            case "bullet_list_close" | "ordered_list_close":
                self._counted.pop()
            case "list_item_open":
                last, number = self._counted[-1], int(token.info or 0)
                # A number that counts the items is not spoken; some lists repeat theirs, or follow another: "1. 1.".
                if number in {0, 1, last, last + 1}:
                    self._counted[-1] = number
                    self._item_number = ""
                else:
                    self._item_number = f"{token.info}{token.markup} "

    def _table(self, tokens: Iterator[Token]) -> Iterator[str]:
        """A paragraph for each row, with a line for each cell."""
        cells: list[str] = []
        if "tables" not in self._keep:
            self.left_out["tables"] += 1
            _skip(tokens, "table_close")
            return
        for token in tokens:
            if token.type == "inline":
                cells.append(self._inline(token.content))
            elif token.type == "tr_close":
                yield "\n".join(filter(None, cells))
                cells.clear()
            elif token.type == "table_close":
                return

    def _inline(self, content: str) -> str:
        children: list[Token] = []
        self._parser.inline.parse(content, self._parser, self._env, children)
        return "".join(self._words(iter(children))).strip()

    def _words(self, tokens: Iterator[Token]) -> Iterator[str]:
        for token in tokens:
            match token.type:
                case "text" | "text_special" | "code_inline":
                    yield token.content
                case "softbreak" | "hardbreak":
                    yield "\n"
                case "html_inline":
                    yield self._tag(token.content, tokens)
                case "image":
                    yield self._described("".join(self._words(iter(token.children or ()))))

    def _described(self, description: str) -> str:
        self.left_out.update(() if description.strip() else ("images",))
        return description

    def _tag(self, tag: str, following: Iterator[Token]) -> str:
        """What remains of one tag of HTML: a line end, nothing, or all of a sound's, such as ``<laugh>``."""
        match = _TAG_NAME.match(tag)
        name = match[1].lower() if match else "a"
        if name not in _HTML:
            return tag
        kind = _KEEPABLE_HTML.get(name)
        if not tag.startswith("</") and (name in _UNSPOKEN_HTML or (kind and kind not in self._keep)):
            self.left_out.update([kind] if kind else ())
            _skip(following, "html_inline", f"</{name}")
            return "\n"
        if name == "img":
            description = _ALT.search(tag)
            return self._described(html.unescape(description[2]) if description else "")
        return "\n" if name in _BLOCK_HTML else ""


def _skip(tokens: Iterator[Token], last: str, content: str = "") -> None:
    for token in tokens:
        if token.type == last and token.content.lower().startswith(content):
            return
