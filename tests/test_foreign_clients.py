"""Other people's clients get sound from the emulator, with each prompt protocol and in an environment of their own.

With ``AUDIO_API_TEST_CLIENTS=all`` every client runs; without it those whose environments are light. What an
environment holds is pinned: no test changes with the newest packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from emulator_calls import TEXT, V25, V31, V38
from environments import environment, node
from project import variables_without

from audio_api.emulator import Emulator
from audio_api.emulator.speech import synthesize

FOREIGN = Path(__file__).parent / "foreign"
ALL = os.environ.get("AUDIO_API_TEST_CLIENTS") == "all"
# No client may reach the real API, whatever it makes of the address it is given.
NO_WAY_OUT = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")


@dataclass(frozen=True)
class Client:
    """A client, with the environment that holds it.

    Attributes:
        script: Below ``foreign/``; speaks a text with each model, into a file named after the model.
        environment: The name of its lock; ``None``: Node's, with the packages of ``foreign/package-lock.json``.
        light: Whether the environment is small enough to be made in every run.
        style: How its style is sent to 3.8; ``None``: it sends none.
    """

    script: str
    environment: str | None = None
    light: bool = False
    style: str | None = None


CLIENTS = {
    "livekit-plugins-google": Client("livekit_client.py", "foreign/livekit"),
    "pipecat-ai": Client("pipecat_client.py", "foreign/pipecat", style="calm"),
    "litellm": Client("litellm_client.py", "server-clients"),
    "langchain-google-genai": Client("langchain_client.py", "foreign/langchain", light=True),
    "@ai-sdk/google": Client("ai_sdk_client.mjs", light=True, style="Say calmly"),
    "@google/genai": Client("genai_client.mjs", light=True, style="calm"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(not (client.light or ALL), reason="heavy: AUDIO_API_TEST_CLIENTS=all runs it"),
        )
        for name, client in CLIENTS.items()
    ],
)
def test_a_foreign_client_speaks_on_both_protocols(name: str, gemini_emulator: Emulator, tmp_path: Path) -> None:
    """It hears the whole text from 3.8, 3.1 and 2.5 at its first call, and its style is not spoken."""
    client, models = CLIENTS[name], (V38, V31, V25)
    script = shutil.copy(FOREIGN / client.script, tmp_path)
    try:
        interpreter = environment(client.environment) / "python" if client.environment else node(tmp_path)
    except subprocess.CalledProcessError as error:
        if ALL:
            raise
        pytest.skip(f"what it needs cannot be installed here: {error}")
    said = subprocess.run(
        [interpreter, script, gemini_emulator.url, tmp_path, TEXT, *models],
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
