"""The doctor on stores: which of writing, keeping, reading back and deleting works, and which does not."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from store_servers import BUCKET, SECRET_KEY, Loss, StoreServer, enter, lossy_proxy

from audio_api.doctor.checks import Check
from audio_api.doctor.installation import check_installation
from audio_api.doctor.storage import check_store


@pytest.fixture
def url() -> str:
    """An empty place in the bucket."""
    return f"s3://{BUCKET}/{os.urandom(6).hex()}"


@pytest.mark.parametrize("kind", ["ministack", "azurite"])
async def test_a_good_store_passes_and_keeps_nothing(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All four steps work; only the hidden marker of the condition's probe stays."""
    server: StoreServer = request.getfixturevalue(kind)
    enter(server, monkeypatch)
    prefix = os.urandom(6).hex()
    url = f"{server.scheme}://{BUCKET}/{prefix}"
    check = await check_store("OUTPUT_URL", url, 5)
    assert check == ("ok", "OUTPUT_URL", f"{url} writes, refuses to replace, reads back and deletes")
    assert list(server.objects(prefix)) == [f"{prefix}/.audio-api-marker"]


async def test_a_store_that_ignores_conditions_is_worth_knowing(
    nanio: StoreServer, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """It works, and the check says what it does not do."""
    enter(nanio, monkeypatch)
    check = await check_store("OUTPUT_URL", url, 5)
    assert check.level == "warn"
    assert "ignores If-None-Match" in check.text


@pytest.mark.parametrize(
    ("method", "part", "level", "step"),
    [
        ("PUT", "doctor", "fail", "cannot write"),
        ("GET", "doctor", "fail", "cannot read back"),
        ("POST", "delete", "warn", "cannot delete"),
    ],
)
async def test_the_step_that_fails_is_named(
    ministack: StoreServer, monkeypatch: pytest.MonkeyPatch, url: str, method: str, part: str, level: str, step: str
) -> None:
    """A right that is missing is told by the step that needs it."""
    with lossy_proxy(ministack.port) as proxy:
        enter(ministack, monkeypatch, proxy.port)
        proxy.plan = lambda each, path: Loss.FORBIDDEN if each == method and part in path else None
        check = await check_store("OUTPUT_URL", url, 5)
    assert check.level == level
    assert step in check.text
    assert "403 AccessDenied" in check.text


async def test_a_store_that_replaces_what_it_has_is_named(
    nanio: StoreServer, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """A store that neither knows conditions nor tells what it has fails in the second step."""
    with lossy_proxy(nanio.port) as proxy:
        enter(nanio, monkeypatch, proxy.port)
        proxy.plan = lambda method, _: Loss.NOT_FOUND if method == "HEAD" else None
        check = await check_store("OUTPUT_URL", url, 5)
    assert (check.level, "cannot refuse to replace" in check.text) == ("fail", True)


async def test_the_doctor_looks_at_both_stores(
    nanio: StoreServer, monkeypatch: pytest.MonkeyPatch, url: str, tmp_path: Path
) -> None:
    """Each store that is set has its line, without any secret; one that is not set has none."""
    enter(nanio, monkeypatch)
    monkeypatch.setenv("OUTPUT_URL", url)
    monkeypatch.setenv("CACHE_URL", (tmp_path / "pieces").as_uri())
    found: dict[str, Check] = {check.title: check async for check in check_installation()}
    assert found["OUTPUT_URL"].level == "warn"
    assert found["CACHE_URL"].level == "ok"
    assert SECRET_KEY not in str(found)
    monkeypatch.delenv("CACHE_URL")
    assert "CACHE_URL" not in {check.title async for check in check_installation()}


async def test_a_store_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """The check names the extra."""
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    check = await check_store("OUTPUT_URL", url, 5)
    assert check.level == "fail"
    assert "pip install 'audio-api[store]'" in check.text
