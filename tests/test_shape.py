"""How the code is cut: modules and functions that a reader takes in at once, and few helpers on the way."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

import audio_api

PACKAGE = Path(audio_api.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

MOST_LINES = 400
MOST_COMPLEX_SHARE = 0.02
# Of all functions. httpx, uvicorn and Starlette have 2 to 5 %.
MOST_SINGLE_USE_SHARE = 0.10
MOST_PARTIALS = 4
MOST_CONTEXT_VARIABLES = 1


@cache
def trees() -> dict[Path, ast.Module]:
    """The package, read on first use: each process of the tests imports this file, but one runs it."""
    return {file: ast.parse(file.read_text("utf-8")) for file in FILES}


def functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a module, inner ones included."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def name_of(node: ast.expr) -> str:
    """The name that a call goes to, without what stands before its last dot."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def calls_to(name: str, *parts: str) -> list[str]:
    """Where a name is called in these parts of the package; without parts, anywhere."""
    return [
        f"{file.relative_to(PACKAGE)}:{node.lineno}"
        for file, tree in trees().items()
        if not parts or file.relative_to(PACKAGE).parts[0] in parts
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and name_of(node.func) == name
    ]


def single_use(tree: ast.Module) -> list[str]:
    """Private functions and methods that their module calls at one place, and mentions nowhere else.

    A reader must look for them, and back, without reading less. Those that a decorator or a table takes are called by
    others.
    """
    nodes = list(ast.walk(tree))
    mentioned = Counter(name_of(node) for node in nodes if isinstance(node, ast.Name | ast.Attribute))
    called = Counter(name_of(node.func) for node in nodes if isinstance(node, ast.Call))
    return [
        function.name
        for function in functions(tree)
        if function.name.startswith("_") and not function.name.endswith("__") and not function.decorator_list
        if mentioned[function.name] == called[function.name] == 1
    ]  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_module_is_short(file: Path) -> None:
    """A module has at most 400 lines, docstrings included."""
    assert len(file.read_text("utf-8").splitlines()) <= MOST_LINES


def test_few_functions_are_complex() -> None:
    """Fewer than one function in fifty has a complexity above 10, those with an exception for it included."""
    check = ["ruff", "check", "--select", "C901", "--ignore-noqa", "--output-format", "json", str(PACKAGE)]
    done = subprocess.run([sys.executable, "-m", *check], capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stderr
    complex_ones = [f"{one['filename']}: {one['message']}" for one in json.loads(done.stdout)]
    assert len(complex_ones) < MOST_COMPLEX_SHARE * sum(len(functions(tree)) for tree in trees().values()), complex_ones


def test_few_helpers_are_used_once() -> None:
    """Private functions that are called at one place are a small share of all functions."""
    found = {file: single_use(tree) for file, tree in trees().items()}
    share = sum(map(len, found.values())) / sum(len(functions(tree)) for tree in trees().values())
    most = sorted(found.items(), key=lambda item: -len(item[1]))[:10]
    listed = "\n".join(f"{file.relative_to(PACKAGE)}: {', '.join(names)}" for file, names in most)
    assert share <= MOST_SINGLE_USE_SHARE, f"{share:.1%}\n{listed}"


def test_a_reader_can_go_to_the_definition() -> None:
    """Rooms are joined by calls, not by partial functions and variables of the context."""
    assert len(found := calls_to("partial", "speech", "services")) <= MOST_PARTIALS, found
    assert len(found := calls_to("ContextVar")) <= MOST_CONTEXT_VARIABLES, found


def test_a_helper_that_is_used_once_is_counted() -> None:
    """A call counts; a helper that is called twice, is in a table, or has a decorator does not."""
    tree = ast.parse(
        "def _once(): ...\ndef _twice(): ...\ndef _listed(): ...\n@cache\ndef _kept(): ...\ndef open_one(): ...\n"
        "class Shown:\n    def _part(self): ...\n    def __init__(self): self._part()\n"
        "TABLE = {1: _listed}\n_once()\n_twice()\n_twice()\n_kept()\nopen_one()\n"
    )
    assert single_use(tree) == ["_once", "_part"]
