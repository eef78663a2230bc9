"""The wheel holds the library and nothing else, installs by itself, and the lock pins what it needs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from importlib.metadata import distributions, packages_distributions
from pathlib import Path

import pytest
from environments import install, make_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from project import LOCK, PROJECT, ROOT, lock_blocks, needed, part_of_lock, pin, variables_without

import audio_api


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bare_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the wheel and its pinned runtime dependencies, and no extra."""
    folder = tmp_path_factory.mktemp("bare")
    lock = folder / "runtime.lock"
    lock.write_text(part_of_lock(*PROJECT["project"]["dependencies"]), "utf-8")
    python = make_environment(folder / "venv")
    install(python, "--require-hashes", "--only-binary", ":all:", "-r", lock)
    install(python, wheel)
    return python


def run(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run another environment's Python away from the checkout, with warnings as errors. It has no coverage."""
    command = [str(python), "-W", "error", *arguments]
    return subprocess.run(command, cwd=folder, env=variables_without("COVERAGE_"), capture_output=True, text=True)


def direct_dependencies() -> list[Requirement]:
    """Everything ``pyproject.toml`` asks for, extras and groups included."""
    optional = [*PROJECT["project"]["optional-dependencies"].values(), *PROJECT["dependency-groups"].values()]
    items = [item for items in (PROJECT["project"]["dependencies"], *optional) for item in items]
    asked = [Requirement(item) for item in items if isinstance(item, str)]
    return list(dict.fromkeys(requirement for requirement in asked if requirement.name != "audio-api"))


def test_the_lock_names_no_host() -> None:
    """No index, address or path stands in the lock: it works with any mirror."""
    assert "://" not in LOCK
    assert not re.search(r"^-|^\s+--(?!hash=sha256:[0-9a-f]{64})|@|file:", LOCK, re.MULTILINE)


def test_every_pin_is_exact_and_hashed() -> None:
    """Each package of the lock has one exact version, and at least one hash."""
    for block in lock_blocks():
        assert re.fullmatch(r"==[\w.]+", str(pin(block).specifier))
        assert "--hash=sha256:" in block


@pytest.mark.parametrize("requirement", direct_dependencies(), ids=str)
def test_the_lock_covers(requirement: Requirement) -> None:
    """What ``pyproject.toml`` asks for is pinned, at versions that it allows."""
    other = (ROOT / "tests" / "listening.lock").read_text() if requirement.name == "faster-whisper" else ""
    pins = [pinned for pinned in map(pin, lock_blocks(LOCK + other)) if pinned.name == requirement.name]
    assert pins
    assert all(Version(str(pinned.specifier).removeprefix("==")) in requirement.specifier for pinned in pins)


def imported_distributions() -> dict[str, set[str]]:
    """The packages that the library imports, each with the modules that do so."""
    found: dict[str, set[str]] = {}
    # It is too large for the environment of the tests; those that need it make one of their own.
    owners = {"faster_whisper": ["faster-whisper"], **packages_distributions()}
    for path in (ROOT / "audio_api").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                # ``google`` and ``opentelemetry`` are folders that several packages share.
                names = [f"google.{alias.name}" for alias in node.names] if node.module == "google" else [node.module]
            for name in names:
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names | {"audio_api"}:
                    shared = {"google": "google-genai", "opentelemetry": "opentelemetry-api"}
                    package = shared.get(top, owners[top][0]) if len(owners[top]) > 1 else owners[top][0]
                    found.setdefault(canonicalize_name(package), set()).add(path.relative_to(ROOT).as_posix())
    return found


def declared(requirements: list[str]) -> set[str]:
    """The names of the packages that a list of requirements asks for."""
    return {canonicalize_name(Requirement(item).name) for item in requirements}


def test_what_is_imported_is_declared() -> None:
    """Every package that the library imports is asked for, by the library itself or by one of its extras."""
    optional = PROJECT["project"]["optional-dependencies"].values()
    asked = declared(PROJECT["project"]["dependencies"]).union(*map(declared, optional))
    # The plugin is loaded by pytest alone.
    undeclared = {name: files for name, files in imported_distributions().items() if name not in asked | {"pytest"}}
    assert not undeclared


def test_what_is_declared_is_imported() -> None:
    """The library asks for nothing that it does not use itself, and for no tool of the developers."""
    assert declared(PROJECT["project"]["dependencies"]) <= set(imported_distributions())


def test_the_wheel_holds_the_package_and_its_types(wheel: Path) -> None:
    """Every module, ``py.typed`` and the licence are inside; tests, programs and settings are not."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    inside = {name for name in names if ".dist-info/" not in name}
    files = (path for path in (ROOT / "audio_api").rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert inside == {path.relative_to(ROOT).as_posix() for path in files}
    assert "audio_api/py.typed" in inside
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_wheel_imports_without_extras(bare_python: Path, tmp_path: Path) -> None:
    """In an environment with the runtime dependencies only, all public names load, from that environment."""
    code = "import audio_api; from audio_api import *; print(audio_api.__file__, audio_api.__version__)"
    done = run(bare_python, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    file, version = done.stdout.split()
    assert Path(file).is_relative_to(bare_python.parents[1])
    assert version == audio_api.__version__


def test_the_installed_packages_agree(bare_python: Path) -> None:
    """Everything that the package needs, directly or not, is there in a version that fits; and nothing else is."""
    (site_packages,) = bare_python.parents[1].glob("lib/python*/site-packages")
    there = {canonicalize_name(found.name): found for found in distributions(path=[str(site_packages)])}
    wanted = needed(("audio-api",), there)
    for name, requirements in wanted.items():
        assert all(there[name].version in requirement.specifier for requirement in requirements), name
    assert set(there) == set(wanted)


def test_offline_speech_without_its_extra_says_what_to_install(bare_python: Path, tmp_path: Path) -> None:
    """The error names the extra, and no file appears."""
    code = (
        "from audio_api import *\n"
        "try: say('Hello', 'hello.wav', config=AudioConfig(tts_engine='offline'))\n"
        "except ConfigurationError as error: print(error)"
    )
    done = run(bare_python, tmp_path, "-c", code)
    assert "pip install 'audio-api[offline]'" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_emulator_without_its_extra_says_what_to_install(bare_python: Path, tmp_path: Path) -> None:
    """The program ends with a sentence that names the extra, not with a traceback."""
    done = run(bare_python, tmp_path, "-m", "audio_api.emulator")
    assert done.returncode != 0
    assert "audio-api[emulator]" in done.stderr
    assert "Traceback" not in done.stderr
