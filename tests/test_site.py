"""What people meet first: examples that run, a site whose links hold, workflows that name what exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import audio_api
from audio_api.emulator import Emulator

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# What the site shows of these is their page of settings, errors or voices, or their docstring beside a page of prose.
REFERENCE = "".join(page.read_text("utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_every_example_runs(example: Path, gemini_emulator: Emulator, tmp_path: Path) -> None:
    """Each example ends well in a folder of its own, speaks at least once, and prints no failure."""
    environment = os.environ | {
        "GEMINI_API_KEY": "any",
        "GEMINI_BASE_URL": gemini_emulator.url,
        "TTS_ENGINE": "gemini",
        "OUTPUT_DIR": str(tmp_path / "output"),
    }
    done = subprocess.run([sys.executable, example], cwd=tmp_path, env=environment, capture_output=True, timeout=600)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    assert done.stdout
    assert any(call.status == 200 for call in gemini_emulator.calls)


def test_the_page_of_examples_names_each() -> None:
    """``examples/README.md`` has one row for each program, and none for one that is gone."""
    named = set(re.findall(r"\]\((\w+\.py)\)", (ROOT / "examples" / "README.md").read_text("utf-8")))
    assert named == {example.name for example in EXAMPLES}


def test_every_public_name_stands_in_the_reference() -> None:
    """Each name of ``__all__`` has its docstring on a page; the errors are on that of their module."""
    shown = set(re.findall(r"^::: audio_api\.(\w+)$", REFERENCE, re.MULTILINE))
    errors = {name for name in audio_api.__all__ if getattr(audio_api, name).__module__ == "audio_api.errors"}
    assert set(audio_api.__all__) - shown == errors
    assert "::: audio_api.errors" in REFERENCE


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """``mkdocs build --strict`` finds every page, link and docstring, and leaves pictures of journeys to Mermaid."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "reference" / "speech" / "index.html").read_text("utf-8")
    assert "generate_audio" in page
    assert "Cancelling ends the calls in progress" in page
    architecture = (tmp_path / "architecture" / "index.html").read_text("utf-8")
    assert architecture.count('<pre class="mermaid"><code>sequenceDiagram') == 4


def test_the_workflows_name_what_exists() -> None:
    """Each workflow is valid YAML, runs scripts that are there, and covers every Python that the classifiers name."""
    text = "".join(path.read_text("utf-8") for path in (ROOT / ".github" / "workflows").glob("*.yml"))
    for path in (ROOT / ".github").rglob("*.yml"):
        assert yaml.safe_load(path.read_text("utf-8")), path
    for script in re.findall(r"(?:python |run: )(\S+\.py|\.ci/run|tests/\S+\.py)", text):
        assert (ROOT / script).exists(), script
    matrix = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text("utf-8"))["jobs"]["suite"]["strategy"]
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["classifiers"]
    named = {each.rpartition(" ")[2] for each in classifiers if re.search(r"Python :: 3\.\d+$", each)}
    assert named <= set(matrix["matrix"]["python"])
