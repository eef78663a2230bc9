"""What the Dockerfile, the compose file and the systemd unit run is what the package has, and works; without Docker."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from project import PROJECT, ROOT, variables_without
from redis_server import free_port
from test_server_access import program

from audio_api.config import AudioConfig
from audio_api.emulator import Emulator

COMPOSE = (ROOT / "examples" / "compose.yaml").read_text("utf-8")
UNIT = (ROOT / "examples" / "audio-api.service").read_text("utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
SERVE = "serve --host 0.0.0.0"


def test_the_extras_exist() -> None:
    """Every extra that is installed is one of the package."""
    wanted = re.findall(r"(?:audio-api|\.)\[([\w,]+)\]", COMPOSE + DOCKERFILE)
    assert len(wanted) >= 4
    for extras in wanted:
        assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def test_the_variables_are_settings() -> None:
    """What looks like a setting of ours is one."""
    settings = {name.upper() for name in AudioConfig.model_fields}
    block = COMPOSE[COMPOSE.index("x-settings") : COMPOSE.index("services:")]
    names = set(re.findall(r"^  ([A-Z_]+):", block, re.MULTILINE))
    names |= set(re.findall(r"(OUTPUT_DIR|ENABLE_STRUCTURED_LOGGING)=", DOCKERFILE + UNIT)) | {"SERVER_API_KEYS"}
    assert {name for name in names if not name.startswith("AWS_")} <= settings


def test_the_files_that_the_image_is_built_of_are_there() -> None:
    """Each source of a COPY is in the checkout."""
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        assert all((ROOT / source).exists() for source in sources.split())


def test_the_server_serves_other_machines_only_with_a_key(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """The command of the image and of the compose file ends with 2 without a key, and is healthy with one."""
    assert json.dumps(["audio-api", *SERVE.split()]) in DOCKERFILE
    assert f"exec audio-api {SERVE}" in COMPOSE
    environment = variables_without("COVERAGE_") | {"GEMINI_API_KEY": "any", "GEMINI_BASE_URL": gemini_emulator.url}
    command = [sys.executable, "-m", "audio_api", *SERVE.split(), "--port", str(free_port())]
    assert subprocess.run(command, env=environment, capture_output=True, check=False, timeout=600).returncode == 2
    variables = {"GEMINI_API_KEY": "any", "GEMINI_BASE_URL": gemini_emulator.url, "SERVER_API_KEYS": "key-of-ours"}
    health = re.search(r"^HEALTHCHECK CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert health
    with program("--host", "0.0.0.0", **variables) as (_, port):
        _, *arguments = json.loads(health[1].replace("8880", str(port)))
        assert subprocess.run([sys.executable, *arguments], check=False, timeout=600).returncode == 0


@pytest.mark.parametrize("words", ["serve --host 127.0.0.1 --port 8880", "worker"])
def test_the_commands_are_known(words: str) -> None:
    """What the unit and the workers run are commands of the program."""
    assert f"audio-api {words}" in UNIT + COMPOSE
    command = [sys.executable, "-m", "audio_api", *shlex.split(words), "--help"]
    assert subprocess.run(command, capture_output=True, check=False, timeout=600).returncode == 0
