"""Google's SDK from 2.30 on: packages beside ours may need an older one than we would choose."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from environments import install
from packaging.requirements import Requirement
from project import PROJECT, ROOT, variables_without

# Of 2.30 also the HTTP library that it needs, with its parts; everything else is installed here.
OLDEST = ("google-genai==2.30.0", "httpx==0.28.1", "httpcore==1.0.9", "distro==1.9.0", "sniffio==1.3.1")
NEWEST = ("google-genai==3.6.1",)
# An express key takes the SDK's way to Vertex AI; with the version that is pinned, the whole suite tests it as well.
TESTS = ["-k", "not express", *(f"tests/test_{name}.py" for name in ("gemini", "gemini_errors", "gemini_habits"))]


def test_the_oldest_version_that_is_tested_is_the_declared_floor() -> None:
    """What ``pyproject.toml`` allows begins where these tests begin, and ends before the next major version."""
    (declared,) = [item for item in map(Requirement, PROJECT["project"]["dependencies"]) if item.name == "google-genai"]
    versions = {str(next(iter(Requirement(pins[0]).specifier)).version) for pins in (OLDEST, NEWEST)}
    assert {str(part) for part in declared.specifier} == {">=2.30", "<4"}
    assert versions == set(declared.specifier.filter(versions))
    assert "2.30.0" in versions


@pytest.mark.slow
@pytest.mark.parametrize("pins", [OLDEST, NEWEST], ids=["2.30.0", "3.6.1"])
def test_the_engine_works_with_either_end_of_the_range(pins: tuple[str, ...], tmp_path: Path) -> None:
    """The engine's own tests pass with that version, over real sockets, everything else as it is installed here."""
    install(Path(sys.executable), "--target", tmp_path / "sdk", *pins)
    paths = [str(tmp_path / "sdk"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = variables_without("COVERAGE_", "PYTEST_") | {"PYTHONPATH": os.pathsep.join(paths)}
    version = "import google.genai.version as v; print(v.__version__)"
    asked = subprocess.run([sys.executable, "-c", version], env=environment, capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == pins[0].partition("==")[2]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3_000:]
