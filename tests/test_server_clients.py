"""Programs of other people speak through the server: each hears the whole text, to its end."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from environments import environment, node
from served import Served
from test_server_speech import assert_spoken, settings

from audio_api.emulator import Emulator

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(_gemini_emulator_server: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all clients."""
    with Served(settings(_gemini_emulator_server, tmp_path_factory.mktemp("clients"))) as server:
        yield server


def run(command: list[str | Path], folder: Path) -> None:
    """Run a client; without the variables of this process, which would lead it to a real API."""
    variables = {"PATH": os.environ["PATH"], "HOME": str(folder), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("gemini_emulator")
@pytest.mark.parametrize(("client", "sound_format"), [("litellm", "mp3"), ("pipecat", "pcm"), ("livekit", "pcm")])
def test_a_python_client_hears_the_whole_text(client: str, sound_format: str, served: Served, tmp_path: Path) -> None:
    """LiteLLM, pipecat and LiveKit, which decodes mp3 itself, are sent to the server, and need nothing else."""
    text = f"The client called {client} hears this sentence from its beginning to its end, {uuid4().hex[:4]}."
    python, heard = environment("server-clients") / "python", tmp_path / "heard"
    run([python, HERE / "server_clients.py", client, f"{served.url}/v1", text, heard], tmp_path)
    assert_spoken(heard.read_bytes(), sound_format, text, "leda")


@pytest.mark.usefixtures("gemini_emulator")
def test_the_ai_sdk_hears_the_whole_text(served: Served, tmp_path: Path) -> None:
    """Vercel's AI SDK is sent to the server, and needs nothing else."""
    shutil.copy(HERE / "server_client.mjs", tmp_path)
    text = "The client of JavaScript hears this sentence from its beginning to its end."
    run([node(tmp_path), "server_client.mjs", f"{served.url}/v1", text, "heard"], tmp_path)
    assert_spoken((tmp_path / "heard").read_bytes(), "mp3", text, "leda")
