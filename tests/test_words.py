"""Plain words: a sentence of the code, the docs and the tests names who acts."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# They hide the actor, or belong to another century.
WORDS = re.compile(
    r"\b(?:nobody|somebody|anybody|whoever|anew|shall|hand(?:s|ed|ing)?(?: \w+){0,2}[ _]on)\b", re.IGNORECASE
)
FOLDERS = ("audio_api", "tests", "benchmarks", "examples")
PAGES = [
    *sorted(ROOT.glob("docs/**/*.md")),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks/README.md",
]
SOURCES = sorted(
    path for path in (*ROOT.glob("*.py"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")))
    if path != Path(__file__)
)  # fmt: skip
SCRIPTS = sorted((ROOT / "audio_api").rglob("*.lua"))


def texts(source: str, *, literals: bool) -> Iterator[tuple[int, str]]:
    """Comments, docstrings and names of a program, and its other literals if asked for; each with its line."""
    docstrings = {
        (node.body[0].lineno, node.body[0].col_offset)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node, clean=False) is not None
    }
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        is_prose = token.type in {tokenize.COMMENT, tokenize.NAME} or token.start in docstrings
        if is_prose or (literals and token.type not in {tokenize.OP, tokenize.NUMBER}):
            # A word of a name ends at an underscore, too.
            yield token.start[0], token.string.replace("_", " ") if token.type == tokenize.NAME else token.string


def found(path: Path) -> list[str]:
    """Every line of a file that has one of the words, with its number."""
    source = path.read_text("utf-8")
    if path.suffix == ".py":
        # What tests and benchmarks have spoken, and the names of users that do not exist, is not the project's prose.
        lines = texts(source, literals=(ROOT / "audio_api") in path.parents)
    else:
        lines = enumerate(source.splitlines(), 1)
    return [f"{number}: {text.strip()}" for number, text in lines if WORDS.search(text)]


@pytest.mark.parametrize("path", [*PAGES, *SOURCES, *SCRIPTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_sentence_names_who_acts(path: Path) -> None:
    """None of the words that hide the actor stands in prose: docs, docstrings, comments, names and messages."""
    assert found(path) == []


def test_the_search_finds_each_kind_of_place() -> None:
    """A comment, a docstring, a name and a message are looked at; in a test, what is spoken is not."""
    source = '"""Nobody."""\nwho_hands_on = "Shall we?"  # anew\n'
    assert [text for _, text in texts(source, literals=False) if WORDS.search(text)] == [
        '"""Nobody."""', "who hands on", "# anew",
    ]  # fmt: skip
    assert [number for number, text in texts(source, literals=True) if WORDS.search(text)] == [1, 2, 2, 2]
