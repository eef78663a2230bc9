"""The examples for machines that share nothing are settings that exist, and say what the page on storage says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import ROOT
from store_servers import StoreServer

from audio_api.config import AudioConfig
from audio_api.models.store_url import parse_store_url
from audio_api.stores.object_store import MOST_AT_ONCE_BYTES

PAGE = (ROOT / "docs" / "storage.md").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "compose.yaml").read_text())
SETTINGS = {name.upper() for name in AudioConfig.model_fields}


def block(language: str, number: int = 0) -> str:
    """A block of code of the page."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[number]


def deployment() -> dict[str, Any]:
    """The specification of the pods."""
    spec: dict[str, Any] = yaml.safe_load(block("yaml"))["spec"]["template"]["spec"]
    return spec


def environment(name: str) -> dict[str, str]:
    """The variables of a worker in an example."""
    if name == "compose":
        return dict(COMPOSE["services"]["worker"]["environment"])
    return {each["name"]: each["value"] for each in deployment()["containers"][0]["env"]}


def settings(name: str) -> AudioConfig:
    """The settings that an example makes."""
    values = {key.lower(): value for key, value in environment(name).items() if key in SETTINGS}
    values |= {key: "example" for key, value in values.items() if value.startswith("${")}
    return AudioConfig(**values)


@pytest.mark.parametrize("name", ["compose", "kubernetes"])
def test_every_variable_of_an_example_is_documented(name: str) -> None:
    """Each is a setting of ours, or one of the store's own that the page names."""
    for variable in environment(name):
        assert variable in SETTINGS or f"`{variable}`" in PAGE, variable


@pytest.mark.parametrize("name", ["compose", "kubernetes"])
def test_an_example_makes_workers_that_share_nothing(name: str) -> None:
    """They are at least two, on Redis, with a store for sounds and pieces, and time to end their tasks."""
    config = settings(name)
    assert config.use_redis
    assert {config.output_url, config.cache_url} == {"s3://sounds/speech", "s3://sounds/pieces"}
    if name == "compose":
        worker = COMPOSE["services"]["worker"]
        assert worker["deploy"]["replicas"] >= 2
        assert "volumes" not in worker
        grace_s = int(worker["stop_grace_period"].removesuffix("s"))
    else:
        assert yaml.safe_load(block("yaml"))["spec"]["replicas"] >= 2
        assert [list(volume) for volume in deployment()["volumes"]] == [["name", "emptyDir"]]
        grace_s = deployment()["terminationGracePeriodSeconds"]
    assert grace_s > config.worker_grace


def test_both_examples_agree_with_the_rights() -> None:
    """The policy names the bucket and the prefixes of the examples, and what the library asks of a store."""
    policy = json.loads(block("json"))["Statement"]
    rights: dict[str, set[str]] = {}
    for statement in policy:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        for resource in resources:
            rights.setdefault(resource, set()).update(actions)
    for name in ("compose", "kubernetes"):
        config = settings(name)
        for url, needed in ((config.output_url, set()), (config.cache_url, {"s3:DeleteObject"})):
            assert url
            place = parse_store_url(url)
            needed |= {"s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"}
            assert rights[f"arn:aws:s3:::{place.bucket}/{place.prefix}/*"] == needed
            assert "s3:ListBucket" in rights[f"arn:aws:s3:::{place.bucket}"]


def test_the_life_cycle_ends_uploads_and_pieces() -> None:
    """One rule for parts that were never finished, one for the prefix of the pieces, none for the sounds."""
    uploads, pieces = json.loads(block("json", 1))["Rules"]
    assert uploads["AbortIncompleteMultipartUpload"]
    cache = parse_store_url(settings("compose").cache_url or "")
    assert pieces["Filter"]["Prefix"] == f"{cache.prefix}/"
    assert pieces["Expiration"]


def test_the_page_names_the_bounds_of_the_code() -> None:
    """How much goes up at once, how long a request may take, and how often it is made."""
    assert f"up to {MOST_AT_ONCE_BYTES // 2**20} MiB (23 minutes as WAV) in one conditional" in PAGE
    timeout_s = AudioConfig.model_fields["store_timeout"].default
    megabits = MOST_AT_ONCE_BYTES * 8 / timeout_s / 1e6
    assert f"64 MiB in {timeout_s:g} seconds are\n{megabits:.0f} Mbit/s" in PAGE


def test_the_bucket_of_the_example_is_made(ministack: StoreServer, tmp_path: Path) -> None:
    """The one program in the example makes the bucket, and finds it there the next time."""
    script = COMPOSE["services"]["bucket"]["command"][2]
    program = re.search(r"<<'END'\n(.*?)^END", script, re.MULTILINE | re.DOTALL)
    assert program
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program[1]], env=ministack.variables(), cwd=tmp_path, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()
    config = settings("compose")
    assert parse_store_url(config.output_url or "").bucket in program[1]
