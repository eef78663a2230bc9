"""What every test gets: a folder of its own, and none of the developer's settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from audio_api.config import AudioConfig


@pytest.fixture(autouse=True)
def _no_settings_of_the_developer(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work in an empty folder (no ``.env``, no ``output/``) without variables of ours; ``live`` tests keep theirs."""
    if request.node.get_closest_marker("live"):
        return
    monkeypatch.chdir(tmp_path)
    for name in AudioConfig.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
