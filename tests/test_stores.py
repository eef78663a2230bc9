"""One contract for every store, and every way in which a store, or the way to it, fails."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import pickle
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from functools import partial
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit import read
from own_time import PATIENCE_S
from store_servers import (
    BUCKET,
    Loss,
    LossyProxy,
    StoreServer,
    enter,
    lossy_proxy,
    once,
)

from audio_api.errors import ConfigurationError, ErrorCode, StoreError, TooLateError, TTSOutputError
from audio_api.models.filenames import safe_filename
from audio_api.models.store_url import StoreURL, parse_store_url
from audio_api.retry import Clock
from audio_api.stores import object_store
from audio_api.stores.base import BLOCK_BYTES, MOST_LINK_S, SoundLabel, Store, checked_key
from audio_api.stores.by_url import store_at
from audio_api.stores.object_store import ObjectStore

SERVERS = ("ministack", "nanio")
# Those that know conditions, one of each protocol.
CONDITIONAL = ("ministack", "azurite")
CONTENT = os.urandom(3 * BLOCK_BYTES + 17)


@pytest.fixture
def servers(ministack: StoreServer, nanio: StoreServer) -> dict[str, StoreServer]:
    """Both servers."""
    return {"ministack": ministack, "nanio": nanio}


@pytest.fixture(params=["folder", *SERVERS, "azurite"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which store a test of the contract is about."""
    return str(request.param)


@pytest.fixture
def url(kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place of this kind."""
    if kind == "folder":
        return (tmp_path / "store").as_uri()
    server: StoreServer = request.getfixturevalue(kind)
    enter(server, monkeypatch)
    return f"{server.scheme}://{BUCKET}/{os.urandom(6).hex()}/deep"


@pytest.fixture
def store(url: str) -> Store:
    """A store with nothing in it."""
    return store_at(url, 10)


@pytest.fixture
def proxied(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[ObjectStore, LossyProxy]]]:
    """Makes an empty bucket's store behind a proxy that loses what it is told to lose; its waits take no time."""
    with ExitStack() as opened:

        def make(kind: str = "ministack", timeout_s: float = 10) -> tuple[ObjectStore, LossyProxy]:
            server: StoreServer = request.getfixturevalue(kind)
            proxy = opened.enter_context(lossy_proxy(server.port))
            enter(server, monkeypatch, proxy.port)

            async def sleep(_: float) -> None:
                await asyncio.sleep(0)

            place = StoreURL(server.scheme, BUCKET, os.urandom(6).hex())
            return ObjectStore(place, timeout_s, Clock(sleep=sleep)), proxy

        yield make


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A finished file."""
    path = tmp_path / "sound"
    path.write_bytes(CONTENT)
    return path


def label(file: Path, **changes: Any) -> SoundLabel:
    """A label that is true of a file."""
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    made = SoundLabel("audio/wav", "task-1", "c" * 64, 1.25, "gemini-3.8-flash-tts", sha256)
    return replace(made, **changes)


def other(path: Path) -> Path:
    """Another sound."""
    file = path.with_name("other")
    file.write_bytes(b"another sound")
    return file


# The contract


async def test_a_sound_is_there_whole(store: Store, sound: Path) -> None:
    """What was put comes back byte for byte, in blocks that fit into memory, and can be recognised."""
    written = await store.put_sound("hello.wav", sound, label(sound), overwrite=False)
    assert written == label(sound, deposit=written.deposit)
    blocks = [block async for block in store.open("hello.wav")]
    assert b"".join(blocks) == CONTENT
    assert max(map(len, blocks)) <= BLOCK_BYTES
    found = await store.find("hello.wav")
    assert found
    assert (found.size_bytes, found.sha256) == (len(CONTENT), written.sha256)
    assert found.label in {written, None}


async def test_nothing_is_found_where_nothing_is(store: Store) -> None:
    """A missing object is found by no call, deleted without a word, and reading it says that it is not there."""
    assert await store.find("none.wav") is None
    assert await store.get("none", 10) is None
    await store.delete("none.wav")
    with pytest.raises(StoreError) as caught:
        await read(store.open("none.wav"))
    assert (caught.value.code, caught.value.retryable) == (ErrorCode.STORE_OBJECT_MISSING, False)
    assert store.url.of("none.wav") in str(caught.value)


async def test_a_name_that_is_taken_stays_as_it_is(store: Store, sound: Path) -> None:
    """Without ``overwrite`` the first sound stays; the second one is told so, whatever the server knows."""
    await store.put_sound("a.wav", sound, label(sound), overwrite=False)
    with pytest.raises(TTSOutputError) as caught:
        await store.put_sound("a.wav", other(sound), label(other(sound), task="task-2"), overwrite=False)
    assert caught.value.code is ErrorCode.OUTPUT_EXISTS
    assert not isinstance(caught.value, StoreError)
    assert str(store.url).removeprefix("file://") in str(caught.value)
    assert await read(store.open("a.wav")) == CONTENT


async def test_overwriting_replaces(store: Store, sound: Path) -> None:
    """With ``overwrite`` the second sound is there."""
    await store.put_sound("a.wav", sound, label(sound), overwrite=False)
    await store.put_sound("a.wav", other(sound), label(other(sound), task="task-2"), overwrite=True)
    assert await read(store.open("a.wav")) == b"another sound"


async def test_nothing_is_put_when_it_is_too_late(store: Store, sound: Path) -> None:
    """From the moment on that the lease may be lost, nothing appears."""
    with pytest.raises(TooLateError):
        await store.put_sound("a.wav", sound, label(sound), overwrite=True, before=time.monotonic())
    assert await store.find("a.wav") is None
    await store.put_sound("a.wav", sound, label(sound), overwrite=True, before=time.monotonic() + 60)


async def test_small_objects_come_back_within_their_bound(store: Store) -> None:
    """A piece is replaced and read back; a larger one than allowed is not read."""
    await store.put("piece.wav", b"first", "audio/wav")
    await store.put("piece.wav", b"second", "audio/wav")
    assert await store.get("piece.wav", 6) == b"second"
    assert await store.get("piece.wav", 5) is None
    await store.delete("piece.wav")
    assert await store.get("piece.wav", 6) is None


async def test_an_empty_object_is_read(store: Store) -> None:
    """No range of it exists; it is read all the same."""
    await store.put("empty", b"", "text/plain")
    assert await read(store.open("empty")) == b""
    assert await store.get("empty", 0) == b""


NAMES = ["50% off #1 [x].wav", "ü ö.wav", "a+b & c's.wav", "日本.wav", "a%2fb.wav", f"{'n' * 251}.wav"]


@pytest.mark.parametrize("name", NAMES)
async def test_every_name_of_a_file_is_a_key(store: Store, sound: Path, name: str, kind: str) -> None:
    """What ``output_filename`` takes, the store takes, and its URL leads back to it."""
    assert safe_filename(name) == name
    if kind == "nanio" and ("%2f" in name or len(name) == 255):
        pytest.skip("it decodes names twice, and keeps a longer name beside each")
    await store.put_sound(name, sound, label(sound), overwrite=False)
    assert await read(store.open(name)) == CONTENT
    assert store.url.key_of(store.url.of(name)) == name


@pytest.mark.parametrize("key", ["../a", "a/../b", "a//b", "/a", "a/", ".", "", "a\nb", "a\0b", "n" * 1025])
async def test_a_key_that_leads_elsewhere_is_refused(store: Store, sound: Path, key: str) -> None:
    """Nothing is sent for it, by no call."""
    refused: list[Callable[[], Any]] = [
        partial(store.put_sound, key, sound, label(sound), overwrite=True),
        partial(store.put, key, b"", "audio/wav"),
        partial(store.get, key, 10),
        partial(store.find, key),
        partial(store.delete, key),
        partial(store.link, key, 60),
        lambda: read(store.open(key)),
    ]
    for call in refused:
        with pytest.raises(ValueError, match="the key"):
            await call()


async def test_a_link_reads_the_sound_without_credentials(store: Store, sound: Path, kind: str) -> None:
    """With the link alone one gets the sound with its media type; of a folder, it is the file's own URL."""
    # obstore signs no more for Azure, as another test shows.
    name = "a&b+c's.wav" if kind == "azurite" else "a b ü.wav"
    await store.put_sound(name, sound, label(sound), overwrite=False)
    link = await store.link(name, 60)
    with await asyncio.to_thread(urllib.request.urlopen, link) as answer:
        assert answer.read() == CONTENT
        if kind != "folder":
            assert answer.headers["Content-Type"] == "audio/wav"


@pytest.mark.parametrize("expires_s", [0, -1, MOST_LINK_S + 1, float("nan"), inf])
async def test_a_link_lives_a_week_at_most(store: Store, expires_s: float) -> None:
    """Times that no store signs are refused here, in words."""
    with pytest.raises(ValueError, match="seconds"):
        await store.link("a.wav", expires_s)


async def test_a_check_writes_and_hides_its_marker(store: Store) -> None:
    """The check passes again and again, and its marker is no sound."""
    await store.check()
    await store.check()


async def test_many_that_race_for_a_name(store: Store, sound: Path, kind: str) -> None:
    """Of sixteen different tasks one wins, on every store that knows conditions; each is told the truth."""
    if kind == "nanio":
        pytest.skip("it ignores conditions, as another test shows")
    results = await asyncio.gather(
        *(
            store.put_sound("a.wav", sound, label(sound, task=f"task-{number}"), overwrite=False)
            for number in range(16)
        ),
        return_exceptions=True,
    )
    refused = [result for result in results if isinstance(result, TTSOutputError)]
    assert len(refused) == 15
    assert {error.code for error in refused} == {ErrorCode.OUTPUT_EXISTS}


# What object stores do


@pytest.fixture(params=CONDITIONAL)
def server(request: pytest.FixtureRequest) -> StoreServer:
    """A server that knows conditions."""
    found: StoreServer = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def bucket(server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """An empty place on it."""
    enter(server, monkeypatch)
    return ObjectStore(StoreURL(server.scheme, BUCKET, os.urandom(6).hex()), 10)


async def test_the_label_stands_on_the_object(bucket: ObjectStore, server: StoreServer, sound: Path) -> None:
    """Media type, task, content key, duration and model are there for every tool to read."""
    await bucket.put_sound("a.wav", sound, label(sound, model="tuned/é"), overwrite=False)
    found = server.labels(f"{bucket.url.prefix}/a.wav")
    assert found["Content-Type"] == "audio/wav"
    wanted = {"task": "task-1", "key": "c" * 64, "duration": "1.250000", "model": "tuned/%C3%A9"}
    assert found.items() >= wanted.items()
    stored = await bucket.find("a.wav")
    assert stored
    assert stored.label
    assert stored.label.model == "tuned/é"


async def test_what_others_put_there_has_no_label(bucket: ObjectStore, server: StoreServer) -> None:
    """An object without our metadata is found, and is no sound of ours."""
    import obstore

    obstore.put(server.client(), f"{bucket.url.prefix}/a.wav", b"foreign")
    found = await bucket.find("a.wav")
    assert found
    assert (found.size_bytes, found.sha256, found.label) == (7, None, None)


async def test_the_next_worker_takes_over_what_its_task_has(bucket: ObjectStore, sound: Path) -> None:
    """A second take for the same task and words gives way to the first one, and is told what that is."""
    first = await bucket.put_sound("a.wav", sound, label(sound), overwrite=False)
    second = label(other(sound), duration_s=9.0)
    assert await bucket.put_sound("a.wav", other(sound), second, overwrite=False) == first
    assert await read(bucket.open("a.wav")) == CONTENT
    for changes in ({"key": "d" * 64}, {"task": "task-2"}, {"task": ""}):
        with pytest.raises(TTSOutputError):
            await bucket.put_sound("a.wav", other(sound), label(other(sound), **changes), overwrite=False)


# Azure's keys are base64.
WRONG = "Q0FOQVJZLXdyb25n"
PARTS_BYTES = 3 * 2**20


@pytest.fixture
def _in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a sound of 16 MB go up in parts as one of 64 MiB does; S3 takes no parts below 5 MiB."""
    monkeypatch.setattr(object_store, "MOST_AT_ONCE_BYTES", PARTS_BYTES)
    monkeypatch.setattr(object_store, "_PART_BYTES", 5 * 2**20)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A sound of four parts."""
    path = tmp_path / "large"
    path.write_bytes(os.urandom(16_000_000))
    return path


@pytest.mark.usefixtures("_in_parts")
async def test_a_large_sound_goes_up_in_parts(bucket: ObjectStore, large: Path) -> None:
    """It comes back whole, with its label; its name is refused to others, and taken over by its own task."""
    first = await bucket.put_sound("a.wav", large, label(large), overwrite=False)
    assert hashlib.sha256(await read(bucket.open("a.wav"))).hexdigest() == first.sha256
    found = await bucket.find("a.wav")
    assert found
    assert found.label == first
    assert await bucket.put_sound("a.wav", large, label(large), overwrite=False) == first
    with pytest.raises(TTSOutputError) as caught:
        await bucket.put_sound("a.wav", large, label(large, task="task-2"), overwrite=False)
    assert caught.value.code is ErrorCode.OUTPUT_EXISTS


@pytest.mark.usefixtures("_in_parts")
async def test_a_large_sound_looks_for_its_name_before_its_last_part(
    proxied: Callable[..., tuple[ObjectStore, LossyProxy]], large: Path, sound: Path, servers: dict[str, StoreServer]
) -> None:
    """A name that is taken while the parts go up stays with who took it; nothing of the large sound is seen."""
    import obstore

    store, proxy = proxied()
    client = servers["ministack"].client()

    def take(method: str, path: str) -> Loss | None:
        if "partNumber=1" in path:
            obstore.put(client, f"{store.url.prefix}/a.wav", b"quicker")
        return None

    proxy.plan = take
    with pytest.raises(TTSOutputError) as caught:
        await store.put_sound("a.wav", large, label(large), overwrite=False)
    assert caught.value.code is ErrorCode.OUTPUT_EXISTS
    assert await read(store.open("a.wav")) == b"quicker"


@pytest.mark.usefixtures("_in_parts")
async def test_a_large_sound_does_not_appear_too_late(
    proxied: Callable[..., tuple[ObjectStore, LossyProxy]], large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment is looked at before the last part, not before the first one."""
    store, proxy = proxied()
    clock = SimpleNamespace(monotonic=lambda: float(proxy.methods("PUT", "partNumber") > 0))
    monkeypatch.setattr(object_store, "time", clock)
    with pytest.raises(TooLateError):
        await store.put_sound("a.wav", large, label(large), overwrite=True, before=1.0)
    assert proxy.methods("PUT", "partNumber") > 0
    assert await store.find("a.wav") is None


async def test_a_store_that_ignores_conditions_is_found_out(
    servers: dict[str, StoreServer], sound: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One probe, one warning; from then on the name is looked up first."""
    enter(servers["nanio"], monkeypatch)
    store = ObjectStore(StoreURL("s3", BUCKET, os.urandom(6).hex()), 10)
    puts = [partial(store.put_sound, name, sound, label(sound), overwrite=False) for name in ("a.wav", "b.wav")]
    await asyncio.gather(*(put() for put in puts))
    for name in ("a.wav", "b.wav"):
        with pytest.raises(TTSOutputError):
            await store.put_sound(name, other(sound), label(other(sound), task="task-2"), overwrite=False)
    assert caplog.text.count("ignores If-None-Match") == 1


async def test_a_store_that_knows_conditions_is_probed_once(
    proxied: Callable[..., tuple[ObjectStore, LossyProxy]], sound: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After one marker put twice, each sound is one request, and no warning is logged."""
    store, proxy = proxied()
    for number in range(3):
        await store.put_sound(f"{number}.wav", sound, label(sound), overwrite=False)
    assert proxy.methods("PUT", "marker") == 2
    assert [method for method, path in proxy.seen if "marker" not in path] == ["PUT"] * 3
    assert "If-None-Match" not in caplog.text


# What happens on the way


@pytest.mark.parametrize("kind", [*SERVERS, "azurite"])
@pytest.mark.parametrize("overwrite", [False, True])
async def test_a_lost_answer_is_a_success(
    kind: str, overwrite: bool, proxied: Callable[..., tuple[ObjectStore, LossyProxy]], sound: Path
) -> None:
    """The sound is there, and the next attempt meets it: that is this very act's, not another's."""
    store, proxy = proxied(kind)
    proxy.plan = once(Loss.LOST_ANSWER, "PUT", "a.wav")
    written = await store.put_sound("a.wav", sound, label(sound, task=""), overwrite=overwrite)
    assert proxy.methods("PUT", "a.wav") == 2
    found = await store.find("a.wav")
    assert found
    assert found.label == written
    assert await read(store.open("a.wav")) == CONTENT


async def test_a_lost_answer_does_not_hide_who_was_first(
    proxied: Callable[..., tuple[ObjectStore, LossyProxy]], sound: Path
) -> None:
    """A request that is refused, and whose refusal is lost, is still told that another sound is there."""
    store, proxy = proxied()
    await store.put_sound("a.wav", sound, label(sound, task=""), overwrite=False)
    proxy.plan = once(Loss.LOST_ANSWER, "PUT", "a.wav")
    with pytest.raises(TTSOutputError) as caught:
        await store.put_sound("a.wav", sound, label(sound, task=""), overwrite=False)
    assert caught.value.code is ErrorCode.OUTPUT_EXISTS


@pytest.mark.parametrize("loss", [Loss.CUT, Loss.LOST_ANSWER, Loss.UNAVAILABLE])
async def test_one_failure_on_the_way_fails_no_call(
    loss: Loss, proxied: Callable[..., tuple[ObjectStore, LossyProxy]], sound: Path
) -> None:
    """Every call is made again after a cut, a lost answer and a 503."""
    store, proxy = proxied()
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("PUT", partial(store.put_sound, "a.wav", sound, label(sound), overwrite=True)),
        ("HEAD", partial(store.find, "a.wav")),
        ("GET", lambda: read(store.open("a.wav"))),
        ("PUT", partial(store.put, "b", b"b", "audio/wav")),
        ("GET", partial(store.get, "b", 10)),
        ("POST", partial(store.delete, "b")),
        ("PUT", store.check),
    ]
    for method, call in calls:
        proxy.seen.clear()
        proxy.plan = once(loss, method)
        await call()
        assert proxy.methods(method) >= 2, method
    assert await read(store.open("a.wav")) == CONTENT


async def test_a_torn_answer_is_read_again(proxied: Callable[..., tuple[ObjectStore, LossyProxy]], sound: Path) -> None:
    """Half of a block never passes for a whole one."""
    store, proxy = proxied()
    await store.put_sound("a.wav", sound, label(sound), overwrite=True)
    await store.put("b", CONTENT, "audio/wav")
    proxy.plan = once(Loss.TORN, "GET", "a.wav")
    assert await read(store.open("a.wav")) == CONTENT
    proxy.plan = once(Loss.TORN, "GET", "/b")
    assert await store.get("b", len(CONTENT)) == CONTENT


@pytest.mark.usefixtures("_in_parts")
@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_a_large_sound_survives_a_cut(
    method: str, proxied: Callable[..., tuple[ObjectStore, LossyProxy]], large: Path
) -> None:
    """A part that is lost, or the beginning or the end of the upload, begins the upload again."""
    store, proxy = proxied()
    proxy.plan = once(Loss.CUT, method, "a.wav")
    written = await store.put_sound("a.wav", large, label(large), overwrite=False)
    assert hashlib.sha256(await read(store.open("a.wav"))).hexdigest() == written.sha256


async def test_a_store_that_stays_down_is_told_soon(
    proxied: Callable[..., tuple[ObjectStore, LossyProxy]], sound: Path
) -> None:
    """After four attempts there is an error that says so, and that it may pass; nothing is there."""
    store, proxy = proxied()
    proxy.plan = lambda method, _: Loss.UNAVAILABLE if method == "PUT" else None
    with pytest.raises(StoreError) as caught:
        await store.put_sound("a.wav", sound, label(sound), overwrite=True)
    assert (caught.value.code, caught.value.retryable) == (ErrorCode.STORE_UNAVAILABLE, True)
    assert "503" in str(caught.value)
    assert str(store.url) in str(caught.value)
    assert proxy.methods("PUT") == 4
    assert await store.find("a.wav") is None


async def test_a_store_far_away_takes_its_time(
    proxied: Callable[..., tuple[ObjectStore, LossyProxy]], sound: Path
) -> None:
    """Within the limit a slow answer is an answer; beyond it the error names the setting."""
    store, proxy = proxied(timeout_s=PATIENCE_S)
    proxy.latency_s = 1
    await store.put_sound("a.wav", sound, label(sound), overwrite=True)
    store, proxy = proxied(timeout_s=0.2)
    proxy.latency_s = 1
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"STORE_TIMEOUT=0\.2 s") as caught:
        await store.put_sound("a.wav", sound, label(sound), overwrite=True)
    assert caught.value.retryable
    assert time.monotonic() - started < PATIENCE_S


async def test_nothing_listens(servers: dict[str, StoreServer], monkeypatch: pytest.MonkeyPatch, sound: Path) -> None:
    """A server that is not there is a store that is down."""
    from redis_server import free_port

    enter(servers["ministack"], monkeypatch, free_port())
    store = ObjectStore(StoreURL("s3", BUCKET, ""), 5, Clock(sleep=lambda _: asyncio.sleep(0)))
    with pytest.raises(StoreError, match="no connection") as caught:
        await store.put_sound("a.wav", sound, label(sound), overwrite=True)
    assert caught.value.retryable


async def test_an_object_that_is_replaced_is_not_read_in_halves(
    proxied: Callable[..., tuple[ObjectStore, LossyProxy]], sound: Path, servers: dict[str, StoreServer]
) -> None:
    """A reader gets one sound, or an error; never the beginning of one and the end of another. On any server."""
    import obstore

    for kind in SERVERS:
        store, _ = proxied(kind)
        await store.put_sound("a.wav", sound, label(sound), overwrite=True)
        blocks = store.open("a.wav")
        assert await anext(blocks) == CONTENT[:BLOCK_BYTES]
        obstore.put(servers[kind].client(), f"{store.url.prefix}/a.wav", CONTENT[::-1])
        with pytest.raises(StoreError, match="replaced or deleted"):
            await anext(blocks)


async def test_a_slow_reader_is_waited_for(proxied: Callable[..., tuple[ObjectStore, LossyProxy]], sound: Path) -> None:
    """The limit of a request's time does not count what the reader does between two blocks."""
    store, _ = proxied(timeout_s=2.0)
    await ObjectStore(store.url, PATIENCE_S).put_sound("a.wav", sound, label(sound), overwrite=True)
    blocks = []
    async for block in store.open("a.wav"):
        blocks.append(block)
        if len(blocks) == 1:
            await asyncio.sleep(2.1)
    assert b"".join(blocks) == CONTENT


async def test_a_size_that_is_not_true_fills_no_memory(proxied: Callable[..., tuple[ObjectStore, LossyProxy]]) -> None:
    """An object above the bound is refused by its size, before it is read."""
    store, proxy = proxied()
    await store.put("b", CONTENT, "audio/wav")
    proxy.seen.clear()
    assert await store.get("b", len(CONTENT) - 1) is None
    assert len(proxy.seen) == 1


# Who may come in


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("nanio", "AWS_SECRET_ACCESS_KEY"),
        ("nanio", "AWS_ACCESS_KEY_ID"),
        ("azurite", "AZURE_STORAGE_ACCOUNT_KEY"),
    ],
)
async def test_wrong_credentials_are_refused_at_once(
    kind: str, wrong: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, sound: Path
) -> None:
    """One request, and an error that says what to check and that waiting does not help."""
    # It refuses what is small only when it has read it.
    sound.write_bytes(b"small")
    server: StoreServer = request.getfixturevalue(kind)
    with lossy_proxy(server.port) as proxy:
        enter(server, monkeypatch, proxy.port)
        monkeypatch.setenv(wrong, WRONG)
        store = ObjectStore(StoreURL(server.scheme, BUCKET, "x"), 5)
        with pytest.raises(StoreError, match="credentials") as caught:
            await store.put_sound("a.wav", sound, label(sound), overwrite=True)
        assert (caught.value.code, caught.value.retryable) == (ErrorCode.STORE_REFUSED, False)
        assert "403" in str(caught.value)
        assert WRONG not in str(caught.value)
        assert len(proxy.seen) == 1


async def test_a_link_signed_with_a_wrong_secret_opens_nothing(
    bucket: ObjectStore, sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the store's own secret signs."""
    await bucket.put_sound("a.wav", sound, label(sound), overwrite=False)
    for name in ("AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY"):
        monkeypatch.setenv(name, WRONG)
    link = await ObjectStore(bucket.url, 5).link("a.wav", 60)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        await asyncio.to_thread(urllib.request.urlopen, link)


async def test_a_bucket_that_is_not_there(server: StoreServer, monkeypatch: pytest.MonkeyPatch, sound: Path) -> None:
    """The error names the bucket, and that it is to be checked."""
    enter(server, monkeypatch)
    store = ObjectStore(StoreURL(server.scheme, "nowhere", ""), 5)
    code = {"s3": "NoSuchBucket", "az": "ContainerNotFound"}[server.scheme]
    with pytest.raises(StoreError, match=f"{server.scheme}://nowhere: the answer was 404 {code}") as caught:
        await store.put_sound("a.wav", sound, label(sound), overwrite=True)
    assert caught.value.code is ErrorCode.STORE_REFUSED


async def test_no_credentials_at_all(monkeypatch: pytest.MonkeyPatch, sound: Path) -> None:
    """On a machine without a role the error names the variables."""
    from redis_server import free_port

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    # Where EC2 would answer; the real address is another machine's.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{free_port()}/169.254.169.254")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    store = ObjectStore(StoreURL("s3", BUCKET, ""), 2)
    with pytest.raises(StoreError, match="AWS_ACCESS_KEY_ID") as caught:
        await store.put_sound("a.wav", sound, label(sound), overwrite=True)
    assert (caught.value.code, caught.value.retryable) == (ErrorCode.STORE_REFUSED, False)


async def test_plain_http_must_be_allowed(
    bucket: ObjectStore, server: StoreServer, monkeypatch: pytest.MonkeyPatch, sound: Path
) -> None:
    """An endpoint without TLS gets nothing until the environment allows it, and the error says how."""
    (variable,) = (name for name in server.variables() if name.endswith("ALLOW_HTTP"))
    monkeypatch.delenv(variable)
    with pytest.raises(StoreError, match="AWS_ALLOW_HTTP=true") as caught:
        await ObjectStore(bucket.url, 5).put_sound("a.wav", sound, label(sound), overwrite=True)
    assert caught.value.code is ErrorCode.STORE_REFUSED


async def test_azure_without_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment lacks is told before the first request."""
    for name in list(os.environ):
        if name.startswith("AZURE_"):
            monkeypatch.delenv(name)
    with pytest.raises(ConfigurationError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        store_at("az://container/prefix", 5)


async def test_azure_and_google_sign_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the environment's account, a link of Azure is made without a request; a repr of either shows no secret."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "Q0FOQVJZ")
    azure, google = store_at("az://container/prefix", 5), store_at("gs://bucket/prefix", 5)
    link = await azure.link("a.wav", 60)
    assert link.startswith("https://account.blob.core.windows.net/container/prefix/a.wav?")
    assert "Q0FOQVJZ" not in link
    for store in (azure, google):
        # A viewer of tracebacks shows what is inside, too; the client of a found account would panic there.
        assert "Q0FOQVJZ" not in f"{store!r} {vars(store)!r}"


@pytest.mark.parametrize("name", ["a b.wav", "ü.wav", "50%.wav", "#1.wav", "a?.wav", 'a".wav', "`a`.wav", "{a}.wav"])
async def test_azure_signs_no_link_that_would_not_open(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A name with characters that a URL encodes gets an error that says so, not a link that Azure refuses."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "Q0FOQVJZ")
    with pytest.raises(StoreError, match="ASCII") as caught:
        await store_at("az://container/prefix", 5).link(name, 60)
    assert (caught.value.code, caught.value.retryable) == (ErrorCode.STORE_REFUSED, False)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["a b.wav", "50% #1.wav"])
async def test_azure_still_refuses_what_obstore_signs_for_such_a_name(azurite: StoreServer, name: str) -> None:
    """When this fails, obstore has learnt it, and the error above may go."""
    import obstore

    client = azurite.client()
    obstore.put(client, name, b"sound")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        await asyncio.to_thread(urllib.request.urlopen, obstore.sign(client, "GET", name, timedelta(minutes=1)))


async def test_credentials_are_nowhere(
    servers: dict[str, StoreServer], monkeypatch: pytest.MonkeyPatch, sound: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in a repr, nor in the log, nor in an error, its causes and its frames' variables, nor in a pickle."""
    caplog.set_level(logging.DEBUG)
    enter(servers["nanio"], monkeypatch)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "CANARY-unknown-key")
    store = ObjectStore(StoreURL("s3", BUCKET, ""), 5)
    with pytest.raises(StoreError) as caught:
        await store.put_sound("a.wav", sound, label(sound), overwrite=True)
    # The frames of this test hold the variables themselves.
    frames = [caught.value.__traceback__]
    while frames[-1] and frames[-1].tb_next:
        frames.append(frames[-1].tb_next)
    shown = "".join(f"{each.tb_frame.f_locals!r}" for each in frames[1:] if each)
    shown += "".join(traceback.format_exception(caught.value))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert repr(pickle.loads(pickle.dumps(store))) == repr(store)
    for text in (
        shown,
        repr(pickle.dumps(store)),
        caplog.text,
        repr(store),
        repr(vars(store)),
        repr(pickle.dumps(caught.value)),
    ):
        assert "CANARY" not in text


def test_a_process_that_ends_after_a_call_ends_well(servers: dict[str, StoreServer], sound: Path) -> None:
    """No process is aborted because it ended right after the store's answer; obstore's async calls did that."""
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from audio_api.stores.by_url import store_at\n"
        "async def main():\n"
        f"    store = store_at('s3://{BUCKET}/ends', 10)\n"
        "    await store.check()\n"
        "    return [block async for block in store.open('.audio-api-marker')]\n"
        "asyncio.run(main())\n"
    )
    variables = {**os.environ, **servers["ministack"].variables()}
    codes = [subprocess.run([sys.executable, "-c", code], env=variables).returncode for _ in range(8)]
    assert codes == [0] * 8


def test_a_forked_process_is_told_that_it_cannot_go_on(
    servers: dict[str, StoreServer], monkeypatch: pytest.MonkeyPatch, sound: Path
) -> None:
    """After a store was used, a child's own store says so at once; its connections would hang for ever."""
    enter(servers["ministack"], monkeypatch)
    code = (
        "import asyncio, os, sys\n"
        "from audio_api.stores.by_url import store_at\n"
        f"store = store_at('s3://{BUCKET}/forks', 10)\n"
        "asyncio.run(store.check())\n"
        "if not (child := os.fork()):\n"
        f"    try: asyncio.run(store_at('s3://{BUCKET}/forks', 10).check())\n"
        "    except Exception as error: os._exit(7 if 'after the fork' in str(error) else 8)\n"
        "    os._exit(9)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=600).returncode == 7


# Folders


async def test_a_folder_that_cannot_be_written_is_a_store_that_refuses(tmp_path: Path, sound: Path) -> None:
    """A file in the folder's place is to be put right; the error names folder and reason."""
    (tmp_path / "file").write_text("")
    store = store_at((tmp_path / "file" / "store").as_uri(), 5)
    for call in (store.check, partial(store.put_sound, "a.wav", sound, label(sound), overwrite=True)):
        with pytest.raises(StoreError, match="ENOTDIR") as caught:
            await call()
        assert caught.value.code is ErrorCode.STORE_REFUSED


async def test_a_full_folder_may_pass(mount: Callable[..., Path], sound: Path) -> None:
    """A disk without room leaves nothing behind, and the sound can be put later."""
    folder = mount("size=64k")
    store = store_at(folder.as_uri(), 5)
    with pytest.raises(StoreError, match="ENOSPC") as caught:
        await store.put_sound("a.wav", sound, label(sound), overwrite=True)
    assert caught.value.retryable
    assert list(folder.iterdir()) == []


async def test_a_folder_reads_no_link(tmp_path: Path, store_folder: Store) -> None:
    """A link that was put into the folder leads nowhere."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.wav").symlink_to(tmp_path / "secret")
    for call in (partial(store_folder.get, "a.wav", 10), partial(store_folder.find, "a.wav")):
        with pytest.raises(StoreError, match="ELOOP"):
            await call()


@pytest.fixture
def store_folder(tmp_path: Path) -> Store:
    """An empty folder."""
    return store_at((tmp_path / "store").as_uri(), 5)


async def test_what_a_killed_process_left_in_a_folder_goes(tmp_path: Path, store_folder: Store, sound: Path) -> None:
    """Drafts older than an hour are removed; younger ones may be another machine's work."""
    folder = tmp_path / "store"
    folder.mkdir()
    old, young = folder / ".a.wav.12.0123456789abcdef.tmp", folder / ".b.wav.12.0123456789abcdef.tmp"
    for draft in (old, young):
        draft.write_bytes(b"half")
    os.utime(old, (1, 1))
    await store_folder.put_sound("a.wav", sound, label(sound), overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == [young.name, "a.wav"]


# URLs


@pytest.mark.parametrize(
    ("given", "scheme", "bucket", "prefix", "shown"),
    [
        ("s3://bucket", "s3", "bucket", "", "s3://bucket"),
        ("s3://bucket/", "s3", "bucket", "", "s3://bucket"),
        (" s3://my.bucket_1/a/b/ ", "s3", "my.bucket_1", "a/b", "s3://my.bucket_1/a/b"),
        ("gs://bucket/ünï code", "gs", "bucket", "ünï code", "gs://bucket/ünï code"),
        ("az://container/p", "az", "container", "p", "az://container/p"),
        ("file:///srv/a%20b", "file", "", "/srv/a b", "file:///srv/a%20b"),
        ("file://localhost/srv/", "file", "", "/srv", "file:///srv"),
        ("file:///", "file", "", "/", "file:///"),
    ],
)
def test_a_store_url_is_read(given: str, scheme: str, bucket: str, prefix: str, shown: str) -> None:
    """Scheme, bucket and prefix; it is shown in one way."""
    url = parse_store_url(given)
    assert (url.scheme, url.bucket, url.prefix, str(url)) == (scheme, bucket, prefix, shown)
    assert parse_store_url(shown) == url


@pytest.mark.parametrize(
    "given",
    [
        "",
        "bucket",
        "s3:/bucket",
        "s3://",
        "s3:///prefix",
        "s3://b",
        "http://host/bucket",
        "S3://bucket",
        "s3://key:CANARY@bucket/p",
        "s3://key@bucket/p",
        "s3://bucket:9000/p",
        "s3://bucket/a/../b",
        "s3://bucket/a//b",
        "s3://bucket/./b",
        "s3://bucket/a?endpoint=CANARY",
        "s3://bucket/a#b",
        "s3://bucket/a\nb",
        "s3://bucket/*",
        "s3://bucket/" + "p" * 513,
        "file://host/srv",
        "file:///srv/../etc",
        "file:///srv/%2e%2e/etc",
        "file:///a%00b",
        "file://relative",
    ],
)
def test_what_is_no_store_url_is_refused_without_repeating_it(given: str) -> None:
    """The text says what is right, and never shows what may be a password."""
    with pytest.raises(ValueError, match=r"must|has") as caught:
        parse_store_url(given)
    assert "CANARY" not in str(caught.value)


@given(st.text(min_size=1, max_size=300))
def test_a_key_and_its_url_lead_to_each_other(name: str) -> None:
    """Whatever the store takes as a key, its URL leads back to that key and to no other store."""
    try:
        key = checked_key(name)
    except ValueError:
        return
    for place in ("s3://bucket/a", "file:///srv/a"):
        url = parse_store_url(place)
        assert url.key_of(url.of(key)) == key
        assert parse_store_url(f"{place}b").key_of(url.of(key)) is None


@given(st.dictionaries(st.sampled_from(["task", "key", "duration", "model", "sha256", "deposit", "x"]), st.text()))
def test_foreign_metadata_makes_a_label_or_none(metadata: dict[str, str]) -> None:
    """Whatever others wrote as metadata is a label with a finite duration, or none."""
    found = SoundLabel.from_metadata("audio/wav", metadata)
    assert found is None or 0 <= found.duration_s < inf


@given(st.text(), st.floats(0, 1e6), st.text(max_size=40))
def test_a_label_survives_as_metadata(task: str, duration_s: float, model: str) -> None:
    """Every label comes back from its metadata, which is ASCII but for the task's own id."""
    given_label = SoundLabel("audio/wav", task, "k", round(duration_s, 6), model or "m", "s")
    assert SoundLabel.from_metadata("audio/wav", given_label.metadata()) == given_label
