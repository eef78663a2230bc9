"""Requests whose sound goes into a store: what is there, what stays here, and what a store in trouble costs."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import urllib.request
import wave
from asyncio import gather, to_thread
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from books import book
from kit import CLOCK
from store_servers import BUCKET, Loss, LossyProxy, StoreServer

from audio_api.config import AudioConfig
from audio_api.emulator import Emulator
from audio_api.errors import ConfigurationError, ErrorCode, StoreError, TTSOutputError
from audio_api.models.audio_request import AudioRequest
from audio_api.services.one_liner import asay
from audio_api.services.tts_service import TTSService
from audio_api.speech.shared_pieces import MOST_PIECE_BYTES
from audio_api.stores.by_url import store_at

HELLO = AudioRequest(text="Hello from a bucket.", output_filename="hello")
BOOK = book(2_500)


Serve = Callable[..., TTSService]


@pytest.fixture
async def serve(gemini_emulator: Emulator, tmp_path: Path, prefix: str, proxy: LossyProxy) -> AsyncIterator[Serve]:
    """Makes services that put into the bucket; each has a disk of its own."""
    async with AsyncExitStack() as opened:

        def make(disk: str = "disk", **changes: Any) -> TTSService:
            values = {
                "gemini_api_key": "any",
                "gemini_base_url": gemini_emulator.url,
                "output_dir": tmp_path / disk,
                "output_url": f"s3://{BUCKET}/{prefix}",
                "store_timeout": 60,
                "max_context_tokens": 150,
                **changes,
            }
            service = TTSService(AudioConfig(**values), clock=CLOCK)
            opened.push_async_callback(service.close)
            return service

        yield make


def on_disk(folder: Path) -> list[str]:
    """The files of an output folder, drafts too; not the cache's."""
    return sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.exists() else []


def calls(emulator: Emulator) -> int:
    """How many calls asked for speech."""
    return sum(bool(call.text) for call in emulator.calls)


def frames(content: bytes) -> int:
    """How many samples a whole WAV holds."""
    with wave.open(io.BytesIO(content)) as file:
        assert len(file.readframes(file.getnframes())) == 2 * file.getnframes()
        return file.getnframes()


async def test_the_sound_is_in_the_bucket_and_nowhere_else(
    serve: Serve, ministack: StoreServer, prefix: str, tmp_path: Path, proxy: LossyProxy
) -> None:
    """One object, whole and labelled; a URL instead of a path; nothing but the cache on the disk."""
    tts = serve()
    response = (await tts.generate_audio(HELLO)).raise_for_error()
    key = f"{prefix}/hello.wav"
    assert (response.url, response.file_path) == (f"s3://{BUCKET}/{key}", None)
    assert response.url in response.message
    content = ministack.content(key)
    assert response.duration == pytest.approx(frames(content) / 24_000)
    label = ministack.labels(key)
    assert label["Content-Type"] == "audio/wav"
    assert label["model"] == response.model
    assert label["sha256"] == hashlib.sha256(content).hexdigest()
    assert float(label["duration"]) == pytest.approx(response.duration)
    assert "task" not in label
    assert on_disk(tmp_path / "disk") == []
    with await to_thread(urllib.request.urlopen, await tts.audio_url(response, 60)) as answer:
        assert answer.read() == content


async def test_a_name_of_the_content_is_one_request(serve: Serve, proxy: LossyProxy) -> None:
    """Without a name of its own a sound costs one PUT: nothing is looked up, nothing probed."""
    response = (await serve().generate_audio(AudioRequest(text="Hello from a bucket."))).raise_for_error()
    assert response.url
    assert [method for method, _ in proxy.seen] == ["PUT"]


@pytest.mark.parametrize("method", ["generate_audio", "stream_to_file"])
async def test_a_long_text_goes_there_whole(
    serve: Serve, ministack: StoreServer, prefix: str, tmp_path: Path, method: str
) -> None:
    """Many pieces are one object, with their subtitles beside it."""
    request = AudioRequest(text=BOOK, output_filename="book", subtitles=("srt", "vtt"))
    response = (await getattr(serve(), method)(request)).raise_for_error()
    assert response.subtitle_paths == tuple(f"s3://{BUCKET}/{prefix}/book.{kind}" for kind in ("srt", "vtt"))
    objects = ministack.objects(prefix)
    assert frames(objects[f"{prefix}/book.wav"]) / 24_000 == pytest.approx(response.duration)
    assert b"-->" in objects[f"{prefix}/book.srt"]
    assert objects[f"{prefix}/book.vtt"].startswith(b"WEBVTT")
    assert ministack.labels(f"{prefix}/book.vtt")["Content-Type"] == "text/vtt"
    assert on_disk(tmp_path / "disk") == []


@pytest.mark.parametrize("there", ["hello.wav", "hello.srt"])
async def test_a_name_that_is_taken_costs_no_call(
    serve: Serve, gemini_emulator: Emulator, prefix: str, there: str, proxy: LossyProxy
) -> None:
    """It is looked up before anything is paid for; ``overwrite`` replaces it."""
    store = store_at(f"s3://{BUCKET}/{prefix}", 60)
    await store.put(there, b"older", "audio/wav")
    request = HELLO.model_copy(update={"subtitles": ("srt",)})
    response = await serve().generate_audio(request)
    assert response.error_code is ErrorCode.OUTPUT_EXISTS
    assert f"s3://{BUCKET}/{prefix}/{there}" in str(response.error)
    assert calls(gemini_emulator) == 0
    assert await store.get(there, 10) == b"older"
    replaced = await serve().generate_audio(request.model_copy(update={"overwrite": True}))
    assert replaced.success
    assert await store.get(there, 10) is None


async def test_a_file_of_that_name_on_the_disk_does_not_matter(serve: Serve, tmp_path: Path) -> None:
    """The local folder only holds the work in progress; what lies there stays as it is."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "hello.wav").write_bytes(b"older")
    assert (await serve().generate_audio(HELLO)).success
    assert (tmp_path / "disk" / "hello.wav").read_bytes() == b"older"


async def test_two_that_want_one_name_at_once(serve: Serve, ministack: StoreServer, prefix: str) -> None:
    """Of two machines one gets the name, and the other is told so; the object is whole."""
    first, second = serve("a"), serve("b")
    responses = await gather(first.generate_audio(HELLO), second.generate_audio(HELLO))
    assert sorted(str(response.error_code) for response in responses) == ["None", "output_exists"]
    assert frames(ministack.content(f"{prefix}/hello.wav"))


@pytest.mark.parametrize("ending", ["wav", "mp3"])
async def test_a_store_that_is_down_loses_nothing_that_was_paid_for(
    ending: str,
    serve: Serve,
    gemini_emulator: Emulator,
    proxy: LossyProxy,
    ministack: StoreServer,
    prefix: str,
    tmp_path: Path,
) -> None:
    """The failure says that it may pass, and holds a WAV of the sound; when the store is back, no call is made."""
    tts = serve()
    proxy.plan = lambda method, _: Loss.UNAVAILABLE if method == "PUT" else None
    request = HELLO.model_copy(update={"overwrite": True, "output_filename": f"hello.{ending}"})
    failed = await tts.generate_audio(request)
    assert (failed.success, failed.error_code, failed.retryable) == (False, ErrorCode.STORE_UNAVAILABLE, True)
    assert failed.unsaved_audio
    assert frames(failed.unsaved_audio)
    assert on_disk(tmp_path / "disk") == []
    with pytest.raises(StoreError) as caught:
        failed.raise_for_error()
    assert caught.value.audio == failed.unsaved_audio
    proxy.plan = lambda *_: None
    assert (await tts.generate_audio(request)).success
    assert calls(gemini_emulator) == 1
    assert f"{prefix}/hello.{ending}" in ministack.keys(prefix)


async def test_a_store_that_is_down_is_told_before_a_call(
    serve: Serve, gemini_emulator: Emulator, proxy: LossyProxy
) -> None:
    """When the name cannot be looked up, nothing is paid for."""
    proxy.plan = lambda *_: Loss.CUT
    failed = await serve().generate_audio(HELLO)
    assert (failed.error_code, failed.retryable) == (ErrorCode.STORE_UNAVAILABLE, True)
    assert calls(gemini_emulator) == 0


async def test_a_lost_answer_is_no_failure(
    serve: Serve, gemini_emulator: Emulator, proxy: LossyProxy, ministack: StoreServer, prefix: str
) -> None:
    """The sound is there, and the response says so."""
    struck: list[str] = []

    def lose(method: str, path: str) -> Loss | None:
        if method == "PUT" and "hello" in path and not struck:
            struck.append(path)
            return Loss.LOST_ANSWER
        return None

    proxy.plan = lose
    assert (await serve().generate_audio(HELLO)).success
    assert struck
    assert calls(gemini_emulator) == 1


async def test_a_folder_is_a_store_too(serve: Serve, tmp_path: Path) -> None:
    """With ``file:///`` there are a path and a URL, and the working folder stays empty."""
    folder = tmp_path / "shared disk"
    request = HELLO.model_copy(update={"subtitles": ("srt",)})
    response = (await serve(output_url=folder.as_uri()).generate_audio(request)).raise_for_error()
    assert response.file_path == str(folder / "hello.wav")
    assert response.url == (folder / "hello.wav").as_uri()
    assert response.subtitle_paths == (str(folder / "hello.srt"),)
    assert frames((folder / "hello.wav").read_bytes())
    assert on_disk(tmp_path / "disk") == []
    again = await serve(output_url=folder.as_uri()).generate_audio(request)
    assert again.error_code is ErrorCode.OUTPUT_EXISTS


async def test_a_missing_extra_costs_no_call(
    serve: Serve, gemini_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The response names the extra."""
    import sys

    monkeypatch.setitem(sys.modules, "obstore.store", None)
    response = await serve().generate_audio(HELLO)
    assert response.error_code is ErrorCode.CONFIGURATION
    assert "pip install 'audio-api[store]'" in str(response.error)
    assert calls(gemini_emulator) == 0


async def test_a_link_needs_a_sound_in_the_store(serve: Serve, tmp_path: Path) -> None:
    """A file on a disk, a sound of another store and a failure have no link."""
    tts = serve()
    local = await serve(output_url=None).generate_audio(HELLO)
    elsewhere = local.model_copy(update={"url": "s3://elsewhere/hello.wav"})
    for response in (local, elsewhere):
        with pytest.raises(ConfigurationError, match="OUTPUT_URL"):
            await tts.audio_url(response)
    with pytest.raises(TTSOutputError):
        await tts.audio_url(await serve(output_url=None).generate_audio(HELLO))


async def test_a_path_on_the_disk_is_where_a_line_of_code_wants_it(
    serve: Serve, tmp_path: Path, ministack: StoreServer, prefix: str
) -> None:
    """``asay`` with a path writes there, whatever the settings; without one it puts into the store."""
    config = serve().config
    here = await asay("Hello.", tmp_path / "here.wav", config=config)
    assert (here.file_path, here.url) == (str(tmp_path / "here.wav"), None)
    there = await asay("Hello.", config=config)
    assert there.file_path is None
    assert there.url
    assert ministack.content(there.url.removeprefix(f"s3://{BUCKET}/"))


# Pieces for other machines


@pytest.fixture
def pieces(prefix: str) -> dict[str, str | None]:
    """Settings of machines that share pieces, and put sounds on their own disks."""
    return {"cache_url": f"s3://{BUCKET}/{prefix}-pieces", "output_url": None}


def keys_of_pieces(server: StoreServer, prefix: str) -> list[str]:
    """The pieces in the bucket."""
    return server.keys(f"{prefix}-pieces")


async def test_another_machine_pays_for_no_piece_again(
    serve: Serve, gemini_emulator: Emulator, ministack: StoreServer, prefix: str, pieces: dict[str, Any], tmp_path: Path
) -> None:
    """It takes them from the store, and has them on its own disk from then on."""
    request = AudioRequest(text=BOOK, output_filename="book")
    first = (await serve("a", **pieces).generate_audio(request)).raise_for_error()
    made = calls(gemini_emulator)
    assert made > 2
    assert len(keys_of_pieces(ministack, prefix)) == made
    second = (await serve("b", **pieces).generate_audio(request)).raise_for_error()
    assert calls(gemini_emulator) == made
    assert second.cached_pieces == made
    assert Path(str(first.file_path)).read_bytes() == Path(str(second.file_path)).read_bytes()
    assert len(list((tmp_path / "b" / ".cache").glob("*.piece.wav"))) == made


async def test_the_local_pieces_are_asked_first(serve: Serve, proxy: LossyProxy, pieces: dict[str, Any]) -> None:
    """What is on the disk costs the store no request."""
    tts = serve(**pieces)
    await tts.generate_audio(AudioRequest(text="Hello."))
    proxy.seen.clear()
    assert (await tts.generate_audio(AudioRequest(text="Hello."))).cached_pieces == 1
    assert proxy.seen == []


@pytest.mark.parametrize("damage", ["a byte", "another key", "no piece", "too large", "nothing"])
async def test_what_is_no_piece_is_made_again(
    serve: Serve,
    gemini_emulator: Emulator,
    ministack: StoreServer,
    prefix: str,
    pieces: dict[str, Any],
    damage: str,
    proxy: LossyProxy,
) -> None:
    """An intruder in the bucket can make no machine speak anything else; a good piece takes the place of a bad one."""
    import obstore

    await serve("a", **pieces).generate_audio(AudioRequest(text="Hello."))
    (hello,) = keys_of_pieces(ministack, prefix)
    await serve("a", **pieces).generate_audio(AudioRequest(text="Goodbye."))
    (goodbye,) = set(keys_of_pieces(ministack, prefix)) - {hello}
    content = ministack.content(hello)
    wrong = {
        "a byte": content[:500] + bytes([content[500] ^ 1]) + content[501:],
        "another key": ministack.content(goodbye),
        "no piece": b"RIFF" + os.urandom(500),
        "too large": content + bytes(MOST_PIECE_BYTES),
        "nothing": b"",
    }[damage]
    obstore.put(ministack.client(), hello, wrong, use_multipart=False)
    made = calls(gemini_emulator)
    response = await serve("b", **pieces).generate_audio(AudioRequest(text="Hello."))
    assert (response.success, response.cached_pieces) == (True, 0)
    assert calls(gemini_emulator) == made + 1
    assert frames(ministack.content(hello)) == frames(content)
    assert (await serve("c", **pieces).generate_audio(AudioRequest(text="Hello."))).cached_pieces == 1


async def test_a_store_of_pieces_that_is_down_fails_no_request(
    serve: Serve, proxy: LossyProxy, pieces: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It is asked once, rests, and one warning says so."""
    proxy.plan = lambda *_: Loss.UNAVAILABLE
    tts = serve(**pieces)
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            assert (await tts.generate_audio(AudioRequest(text=f"Number {number}."))).success
    assert caplog.text.count("pieces are not shared") == 1
    assert len(proxy.seen) == 4


async def test_the_text_is_in_no_object(
    serve: Serve, ministack: StoreServer, prefix: str, pieces: dict[str, Any]
) -> None:
    """Neither a label nor a piece's notes hold what was spoken."""
    secret = "Xylophonic marmalade"
    tts = serve(cache_url=pieces["cache_url"])
    await tts.generate_audio(AudioRequest(text=f"{secret} is private."))
    for key, content in ministack.objects(prefix).items():
        assert secret.encode() not in content
        assert secret not in json.dumps(ministack.labels(key))
