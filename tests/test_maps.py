"""The two pages for newcomers name what exists: files, folders, classes, functions, settings, commands."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from audio_api.config import AudioConfig

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "audio_api"
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"]
FILE = re.compile(r"(?<![\w/.-])[\w/.-]*\w\.(?:py|md|toml|lock|lua)\b")
FOLDER = re.compile(r"(?<![\w/.<-])(?:\w+/)+(?![\w*.>])")
CODE = re.compile(r"`([^`\n]+)`")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CALL = re.compile(r"\b([A-Za-z]\w*\.)?([a-z_]\w*)\(")
CLASS = re.compile(r"[A-Z]\w*[a-z]\w*")

LIBRARIES = {"SecretStr", "TypeError", "None"}


def blocks(page: str, language: str) -> str:
    """The code of every block in a language."""
    return "\n".join(code for named, code in BLOCK.findall(page) if named == language)


class Defined(NamedTuple):
    """What the package defines, by name."""

    classes: dict[str, ast.ClassDef]
    functions: set[str]
    constants: set[str]

    def methods(self, name: str) -> set[str]:
        """What a class of the package defines, and what its bases of the package do."""
        found = self.classes[name]
        own = {node.name for node in found.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        bases = [base.id for base in found.bases if isinstance(base, ast.Name) and base.id in self.classes]
        return own.union(*map(self.methods, bases))


@cache
def defined() -> Defined:
    """Read the package, on first use: each process of the tests imports this file, but one runs it."""
    trees = [ast.parse(file.read_text("utf-8")) for file in sorted(PACKAGE.rglob("*.py"))]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    constants = {
        target.id
        for tree in trees
        for node in tree.body
        for target in (node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)])
        if isinstance(target, ast.Name)
    }
    return Defined(
        {node.name: node for node in nodes if isinstance(node, ast.ClassDef)},
        {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)},
        constants,
    )


def missing_names(page: str) -> list[str]:
    """Classes, methods, functions, constants and settings that a page names and the package does not have."""
    package = defined()
    prose = BLOCK.sub("", page)
    drawn = blocks(page, "mermaid")
    missing = [
        f"{owner}{name}()"
        for owner, name in CALL.findall("\n".join([*CODE.findall(prose), drawn]))
        if name not in (package.methods(owner[:-1]) if owner[:-1] in package.classes else package.functions)
    ]
    for code in [*CODE.findall(prose), *re.findall(r"participant (\w{2,})$", drawn, re.MULTILINE)]:
        owner, _, member = code.partition(".")
        if re.fullmatch(r"[A-Z]\w+\.[a-z_]\w*", code) and not (ROOT / code).exists():
            known = owner in package.classes and member in package.methods(owner)
        elif re.fullmatch(r"[A-Z][A-Z_]+", code):
            known = code.lower() in AudioConfig.model_fields or code in package.constants
        elif CLASS.fullmatch(code) and not (ROOT / code).exists():
            known = code in package.classes or code in LIBRARIES
        else:
            continue
        missing += [] if known else [code]
    return missing


def missing_files(page: str) -> list[str]:
    """Files and folders that a page names, and that stand neither below the root or ``docs/`` nor in the package."""
    named = {path.strip("/") for path in (*FILE.findall(page), *FOLDER.findall(page))} - {".venv"}
    at_a_path = {path for path in named if (ROOT / path).exists() or (ROOT / "docs" / path).exists()}
    return sorted(path for path in named - at_a_path if not any(PACKAGE.rglob(path)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_exists(page: Path) -> None:
    """Each file, folder, class, function, constant and setting is there."""
    text = re.sub(r"\(?https?://\S+", "", page.read_text("utf-8"))
    assert missing_files(text) == []
    assert missing_names(text) == []


def test_the_commands_run_what_exists() -> None:
    """Each command of ``CONTRIBUTING.md`` runs a program of the repository, an installed tool, npm, or tests."""
    lines = list(filter(None, blocks(PAGES[0].read_text("utf-8"), "bash").splitlines()))
    assert len(lines) > 5
    for line in lines:
        program, *arguments = itertools.dropwhile(lambda word: "=" in word, line.split())
        if program == "python3":
            assert (ROOT / arguments[0]).is_file(), line
        else:
            tool = arguments[1] if arguments[:1] == ["-m"] else Path(program).name
            assert tool == "npm" or importlib.util.find_spec(tool), line
        for test in re.findall(r"tests/\S+\.py(?:::\w+)?", line):
            file, _, name = test.partition("::")
            assert f"def {name}" in (ROOT / file).read_text("utf-8"), line


def test_the_tree_shows_every_room() -> None:
    """No module beside the rooms, and no room, is left out of the tree."""
    tree = blocks(PAGES[1].read_text("utf-8"), "").partition("\n\n")[0]
    listed = subprocess.run(["git", "ls-files", "audio_api"], cwd=ROOT, capture_output=True, text=True, check=True)
    rooms = {path.split("/")[1].removesuffix(".py") for path in listed.stdout.split()} - {
        "__init__",
        "__main__",
        "py.typed",
    }
    assert rooms
    assert {room for room in rooms if not re.search(rf"^  {room}\b", tree, re.MULTILINE)} == set()


def test_a_name_that_is_gone_is_found() -> None:
    """The search sees a method, a function, a class, a constant, a file and a participant that are not there."""
    page = "`TTSService.sing` `sing()` `Singer` `SONGS` `sing.py` `songs/`\n"
    page += "```mermaid\nparticipant Choir\nA->>B: hum()\n```\n"
    assert missing_names(page) == ["sing()", "hum()", "TTSService.sing", "Singer", "SONGS", "Choir"]
    assert missing_files(page) == ["sing.py", "songs"]
    fine = "`TTSService.prepare` `make_engine()` `TTSService` `RULES` `TTS_ENGINE` `speech.py` `speech/`"
    assert (missing_names(fine), missing_files(fine)) == ([], [])
