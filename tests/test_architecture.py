"""Imports point one way, heavy packages load only where they are needed, and importing changes nothing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import audio_api

PACKAGE = Path(audio_api.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# What each part may import of ours, most specific name first; a part may always import itself.
# Leaves: errors and the plain models. No module imports the package root, but for the version.
_PLAIN = {"errors", "models"}
_SPEECH = _PLAIN | {"audio", "text"}
MAY_IMPORT = {
    "errors": set(),
    "models": {"errors"},
    "audio": _PLAIN | {"text"},
    "text": _PLAIN,
    "urls": set(),
    "clock": set(),
    "env_file": {"errors"},
    "settings": _PLAIN,
    "config": _PLAIN | {"env_file", "settings", "urls"},
    "logging_config": _PLAIN | {"config"},
    "telemetry": _PLAIN,
    "retry": {"errors"},
    "engines": _SPEECH | {"clock", "config", "settings", "urls"},
    "queues": _PLAIN | {"config", "urls"},
    "stores": _PLAIN | {"audio", "retry"},
    "speech": _SPEECH | {"config", "engines", "retry", "stores", "telemetry"},
    "services": _SPEECH | {"books", "clock", "config", "engines", "queues", "retry", "speech", "stores", "telemetry"},
    "books": _SPEECH | {"config", "engines", "speech"},
    "doctor": _SPEECH | {"config", "engines", "queues", "retry", "stores"},
    "server": _SPEECH | {"config", "queues", "services", "stores", "urls"},
    "emulator": {"models"},
}
# The programs put the parts together, and so does every command of ``cli``.
PROGRAMS = {
    "__main__",
    "emulator.__main__",
    "emulator.pytest_plugin",
    "server.app",
    "server.program",
}

# Vendors' packages, and the only modules that import them.
ONLY_IN: dict[str, str | tuple[str, ...]] = {
    "google": "engines.gemini",
    "httpx2": ("engines.gemini", "doctor"),
    "rich": "cli",
    "sounddevice": "cli.sounddevice_player",
    "typer": "cli",
    "soxr": ("audio.conversion", "engines.espeak_process"),
    "espeakng_loader": ("engines.espeak_process", "engines.offline"),
    "redis": "queues.",
    "fastapi": "server",
    "opentelemetry": "telemetry",
    "prometheus_client": "server.metrics",
    "starlette": ("emulator", "server"),
    "uvicorn": ("emulator", "server.program"),
    "tenacity": "retry",
    "dotenv": "env_file",
    "av": "audio.aac",
    "faster_whisper": "speech.listening",
    "soundfile": "audio.soundfile_encoder",
    "aiofiles": ("speech.piece_cache", "services.sound_access", "stores.folder"),
    "obstore": ("stores.object_store", "stores.object_client"),
    "markdown_it": "text.markdown",
    "mdit_py_plugins": "text.markdown",
    "numpy": (
        "books.kept_chapters",
        "audio.conversion",
        "audio.joining",
        "audio.levels",
        "engines.espeak_process",
        "emulator",
    ),
}


def module_name(file: Path) -> str:
    """``engines.gemini`` for ``audio_api/engines/gemini.py``, and ``engines`` for its ``__init__.py``."""
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def is_program(name: str) -> bool:
    """Whether a module runs by itself, or is a part of the command line."""
    return name in PROGRAMS or name.partition(".")[0] == "cli"


def imports(file: Path, *, run_time_only: bool = True) -> Iterator[str]:
    """Every module a file imports, anywhere in it; imports for type checkers only do not count."""
    tree = ast.parse(file.read_text("utf-8"))
    nodes = list(ast.walk(tree))
    for branch in nodes:
        if run_time_only and isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING":
            branch.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}:{node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(file: Path, *, run_time_only: bool = True) -> Iterator[str]:
    """Every module of ours that a file imports, by its dotted name below the package."""
    names = {module_name(other) for other in FILES}
    for imported in imports(file, run_time_only=run_time_only):
        head, _, rest = imported.partition(".")
        if head == "audio_api":
            yield rest if rest in names else rest.rpartition(".")[0]


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_point_one_way(file: Path) -> None:
    """A module imports only parts below its own, never the package root; only programs join the parts."""
    name = module_name(file)
    imported = set(ours(file))
    if is_program(name):
        return
    assert "" not in imported, "imports the package root"
    part = name.partition(".")[0]
    if part:
        assert {other.partition(".")[0] for other in imported} <= MAY_IMPORT[part] | {part}


def test_no_import_cycle() -> None:
    """The modules have an order in which each imports only earlier ones, for type checkers too.

    The package root is left out: it names every public class for type checkers, and the version is imported from it.
    """
    graph = {
        module_name(file): set(ours(file, run_time_only=False)) - {module_name(file), ""}
        for file in FILES
        if module_name(file)
    }
    TopologicalSorter(graph).prepare()


def test_a_class_name_has_one_meaning() -> None:
    """No two classes of the package have the same name, whether or not it begins with an underscore."""
    homes: dict[str, list[str]] = {}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name.lstrip("_"), []).append(module_name(file))
    assert {name: modules for name, modules in homes.items() if len(modules) > 1} == {}


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_a_vendor_is_imported_in_one_place(file: Path) -> None:
    """Only the adapter of a vendor's package imports it."""
    for imported in imports(file):
        if home := ONLY_IN.get(imported.partition(".")[0]):
            assert module_name(file).startswith(home), imported


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_nothing_runs_or_unpacks_foreign_code(file: Path) -> None:
    """No pickle, marshal, shelve or yaml, and no eval, exec or print, but for programs, which print."""
    assert not {name.partition(".")[0] for name in imports(file)} & {"pickle", "marshal", "shelve", "yaml", "dill"}
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"eval", "exec", "compile"}
    assert is_program(module_name(file)) or "print" not in calls


_IMPORT_AND_COMPARE = """
import json, logging, os, sys, warnings
def state():
    return dict(os.environ), logging.root.handlers[:], logging.root.level, warnings.filters[:], os.getcwd()
before, modules, loggers = state(), set(sys.modules), set(logging.root.manager.loggerDict)
import audio_api
print(json.dumps({
    "same": state() == before,
    "loggers": sorted(set(logging.root.manager.loggerDict) - loggers),
    "modules": sorted({name.partition(".")[0] for name in set(sys.modules) - modules}),
    "google": "google.genai" in sys.modules,
}))
"""


def test_importing_the_package_does_nothing_else() -> None:
    """``import audio_api`` loads no third party, and touches no logger, no warning filter and no environment."""
    done = subprocess.run([sys.executable, "-c", _IMPORT_AND_COMPARE], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["same"]
    assert found["loggers"] == []
    assert set(found["modules"]) - set(sys.stdlib_module_names) == {"audio_api"}


def test_a_public_service_class_loads_no_engine() -> None:
    """Naming ``TTSService`` loads neither an SDK nor numpy; only making speech does."""
    code = "import sys; from audio_api import *; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"google.genai", "numpy", "redis", "starlette", "soxr", "markdown_it", "obstore"} & set(
        done.stdout.split()
    )
