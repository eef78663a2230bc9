"""The page in a real browser: it speaks, plays and saves; it makes no error and asks no other host."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from served import Served

from audio_api.config import AudioConfig
from audio_api.emulator import Emulator, Fault
from audio_api.models.audio_request import AudioRequest

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
PICTURES = os.environ.get("AUDIO_API_PICTURES")
"""A folder for pictures of the page; those of ``docs/img/`` were made with it."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, which may play sound without a click."""
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Emulator]]:
    """A server whose Gemini is the emulator."""
    with Emulator() as emulator:
        config = AudioConfig(
            gemini_api_key="any",
            gemini_base_url=emulator.url,
            tts_engine="gemini",
            output_dir=tmp_path_factory.mktemp("output"),
            queue_name=f"page-{uuid.uuid4().hex}",
            retry_min_wait=0,
            retry_max_wait=0,
        )
        with Served(config) as server:
            yield server, emulator


@pytest.fixture
def page(browser: Any, served: tuple[Served, Emulator]) -> Iterator[Any]:
    """The page as it opens. It logged no error and asked no other host by the end."""
    yield from opened(browser, served[0])


def opened(browser: Any, server: Served, **context: Any) -> Iterator[Any]:
    """A page in a context of its own."""
    with browser.new_context(**context) as made:
        made.set_default_timeout(120_000)
        page = made.new_page()
        errors: list[str] = []
        hosts: set[str] = set()
        page.on("console", lambda message: errors.append(message.text) if is_mistake(message) else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.goto(server.url)
        page.wait_for_selector("#voice option", state="attached")
        yield page
        assert errors == []
        assert hosts == {f"127.0.0.1:{server.port}"}


def is_mistake(message: Any) -> bool:
    """Whether the console shows a mistake; a browser tells there, too, that a speech was refused or cut."""
    is_speech = "/page/speech/" in message.location.get("url", "")
    is_told = "status of 4" in message.text or "ERR_INCOMPLETE_CHUNKED_ENCODING" in message.text
    return message.type == "error" and not (is_speech and is_told)


def picture(page: Any, name: str) -> None:
    """Keep a picture, when pictures are asked for."""
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{name}.png", full_page=True)


def heard(page: Any) -> float:
    """The seconds of a sound that the browser has played to its end."""
    page.wait_for_function("() => document.querySelector('#player').ended", timeout=120_000)
    return float(page.evaluate("document.querySelector('#player').currentTime"))


def test_what_is_typed_is_heard_to_its_end_and_its_cost_is_shown(page: Any) -> None:
    """Typing a sentence and pressing the button plays the whole sentence; duration and cost stand below."""
    page.fill("#text", "The quick brown fox jumps over the lazy dog, and the dog does not mind.")
    page.click("#speak")
    assert heard(page) > 3
    page.wait_for_function("() => /seconds for [0-9.]+ USD/.test(document.querySelector('#status').textContent)")
    picture(page, "page-studio")


@pytest.mark.parametrize("sound_format", ["mp3", "wav", "flac", "opus"])
def test_a_speech_can_be_downloaded_in_each_format(page: Any, sound_format: str, tmp_path: Path) -> None:
    """Each link saves a complete file of that format."""
    page.fill("#text", "One sentence to take home.")
    page.click("#speak")
    with page.expect_download() as download:
        page.click(f"#downloads a:text-is('{sound_format}')")
    path = tmp_path / "speech"
    download.value.save_as(path)
    start = {"mp3": (b"\xff\xfb", b"\xff\xf3", b"ID3"), "wav": (b"RIFF",), "flac": (b"fLaC",), "opus": (b"OggS",)}
    assert path.read_bytes().startswith(start[sound_format])
    assert path.stat().st_size > 3_000


def test_a_script_is_spoken_by_its_cast_and_comes_with_subtitles(page: Any, served: tuple[Served, Emulator]) -> None:
    """The speakers are taken from the script; both voices are asked for; the subtitles hold the words."""
    page.fill("#text", "Alice: Did you bring the map?\nBob: I thought you had it!")
    page.check("input[value=script]")
    assert [page.input_value(f"#speaker-{number}") for number in (1, 2)] == ["Alice", "Bob"]
    page.select_option("#speaker-voice-1", "leda")
    page.select_option("#speaker-voice-2", "puck")
    page.check("#subtitles")
    page.click("#speak")
    assert heard(page) > 2
    picture(page, "page-dialogue")
    with page.expect_download() as download:
        page.click("#downloads a:text-is('srt')")
    assert "Did you bring the map?" in Path(download.value.path()).read_text("utf-8")
    body = str(served[1].calls[-1].body).lower()
    assert "leda" in body
    assert "puck" in body


def test_wrong_input_is_told_beside_the_text(page: Any) -> None:
    """No text, and a text that Gemini refuses, are said in a sentence; the focus goes back to the text."""
    page.click("#speak")
    assert page.text_content("#text-error") == "There is no text to speak yet."
    assert page.evaluate("document.activeElement.id") == "text"
    picture(page, "page-wrong")


def test_a_failure_of_the_api_is_told(page: Any, served: tuple[Served, Emulator]) -> None:
    """When the API refuses a text, its reason stands below the text, and no player is left behind."""
    served[1].fail_next(Fault.PROHIBITED_CONTENT)
    page.fill("#text", "Something that is refused.")
    with page.expect_response("**/report"):
        page.click("#speak")
    page.wait_for_function("() => document.querySelector('#text-error').textContent !== ''")
    assert not page.is_visible("#result")


def test_a_speech_that_breaks_off_is_told(page: Any, served: tuple[Served, Emulator]) -> None:
    """When the API dies after the first sound, the browser sees a broken body, and the page says so below the text."""
    served[1].fail_next(Fault.STREAM_CUT)
    page.fill("#text", "The quick brown fox jumps over the lazy dog, and then the line to the API is cut. " * 3)
    with page.expect_event("requestfailed", lambda request: "/page/speech/" in request.url) as failed:
        page.click("#speak")
    assert failed.value.failure == "net::ERR_INCOMPLETE_CHUNKED_ENCODING"
    page.wait_for_function("() => document.querySelector('#text-error').textContent !== ''")
    assert not page.is_visible("#result")
    assert page.get_attribute("#player", "src") is None


def test_the_keyboard_reaches_everything_in_order(page: Any) -> None:
    """Tab goes from the link that skips to the button that speaks, and a text is spoken without a mouse."""
    order = []
    page.evaluate("document.activeElement.blur()")
    while "speak" not in order and len(order) < 40:
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert order[0] == "skip"
    assert [name for name in order if name in {"text", "voice", "style", "speak"}] == [
        "text",
        "voice",
        "style",
        "speak",
    ]
    page.focus("#text")
    page.keyboard.type("By keyboard alone.")
    page.focus("#speak")
    page.keyboard.press("Enter")
    assert heard(page) > 0.5


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("phone", {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2}),
        ("dark", {"color_scheme": "dark"}),
    ],
)
def test_the_page_fits(browser: Any, served: tuple[Served, Emulator], name: str, context: Any) -> None:
    """On a phone nothing is wider than the screen; in the dark the ground is dark."""
    for page in opened(browser, served[0], **context):
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) == 0
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (name != "dark")
        picture(page, f"page-{name}")


def test_the_dashboard_shows_the_queue_and_retries_what_is_dead(page: Any, served: tuple[Served, Emulator]) -> None:
    """Numbers, finished jobs and models are shown; a dead letter is retried by its button and ends well."""
    server, _ = served
    _, body = server.ask("POST", "/v1/audio/jobs", {"input": "A job that works."})
    task = json.loads(body)["id"]
    page.goto(f"{server.url}/#dashboard")
    page.wait_for_function(f"() => document.querySelector('#finished').textContent.includes('{task}')", timeout=120_000)
    assert "closed" in page.text_content("#models")
    assert "server" in page.text_content("#workers")
    backend = server.state.queue.backend

    async def bury() -> str:
        await server.state.worker.stop_worker()
        task = await server.state.queue.enqueue_single_task(AudioRequest(text="A job that was buried."))
        (lease,) = await backend.lease(1, 60)
        await backend.bury(lease, "two workers died with it")
        await server.state.worker.start_worker("server")
        return task

    dead = asyncio.run_coroutine_threadsafe(bury(), server.loop).result(30)
    page.wait_for_selector(f"#dead button[aria-label='Retry {dead}']")
    assert "two workers died with it" in page.text_content("#dead")
    picture(page, "page-dashboard")
    page.click(f"#dead button[aria-label='Retry {dead}']")
    page.wait_for_function(f"() => document.querySelector('#finished').textContent.includes('{dead}')", timeout=120_000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Any, served: tuple[Served, Emulator], scheme: str) -> None:
    """A studio with a speech and an error, and the dashboard, have names, contrast and landmarks that axe asks for."""
    server, _ = served
    for page in opened(browser, server, color_scheme=scheme):
        page.fill("#text", "A speech to look at.")
        page.click("#speak")
        heard(page)
        found = Axe().run(page).response["violations"]
        page.fill("#text", "")
        page.click("#speak")
        found += Axe().run(page).response["violations"]
        page.goto(f"{server.url}/#dashboard")
        page.wait_for_function("() => document.querySelector('#models').textContent !== ''")
        found += Axe().run(page).response["violations"]
        serious = [one for one in found if one["impact"] in {"serious", "critical"}]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in serious] == []


def test_nothing_foreign_may_run_in_the_page(served: tuple[Served, Emulator]) -> None:
    """The page allows its own files only, and no frame; a foreign origin may not ask."""
    answer, _ = served[0].ask("GET", "/")
    assert answer.headers["content-security-policy"].startswith("default-src 'self'; frame-ancestors 'none'")
    answer, _ = served[0].ask("POST", "/page/speech", {"input": "x"}, {"origin": "https://elsewhere.example"})
    assert answer.status == 403


def test_a_key_is_asked_for_once(browser: Any, served: tuple[Served, Emulator], tmp_path: Path) -> None:
    """With keys the page asks for one; a wrong one is refused, a right one opens the studio, and sound plays."""
    config = served[0].config.model_copy(
        update={"server_api_keys": "a-long-secret", "output_dir": tmp_path, "queue_name": "page-with-key"}
    )
    with Served(AudioConfig(**config.model_dump())) as server, browser.new_context() as context:
        page = context.new_page()
        page.goto(server.url)
        page.wait_for_selector("#sign-in:not([hidden])")
        page.fill("#key", "another-secret")
        page.click("#key-form button")
        page.wait_for_function("() => document.querySelector('#key-error').textContent !== ''")
        page.fill("#key", "a-long-secret")
        page.click("#key-form button")
        page.wait_for_selector("#studio:not([hidden])")
        page.fill("#text", "Behind a key.")
        page.click("#speak")
        assert heard(page) > 0.5
        assert "a-long-secret" not in str(context.cookies())
