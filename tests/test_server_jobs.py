"""Jobs over HTTP, and what the page asks the server for; in memory and on Redis."""

from __future__ import annotations

import asyncio
import io
import json
import os
import threading
import urllib.request
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from decoded import assert_whole, decoded, pcm_samples
from served import Served
from store_servers import BUCKET, StoreServer, enter
from test_server_access import FIRST, bearer
from test_server_speech import assert_spoken, new_text, settings

from audio_api import WorkerManager
from audio_api.emulator import Emulator, Fault, ReceivedCall
from audio_api.emulator.speech import synthesize

JOBS = "/v1/audio/jobs"


@pytest.fixture(scope="module")
def served(_gemini_emulator_server: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that does its jobs itself, since they are in memory."""
    config = settings(
        _gemini_emulator_server,
        tmp_path_factory.mktemp("jobs"),
        worker_concurrency=2,
        lease_time=6.0,
    )
    with Served(config) as server:
        yield server


def ask(served: Served, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """The status and the JSON of an answer."""
    answer, content = served.ask(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
    return answer.status, json.loads(content)


def finished(served: Served, job_id: str) -> dict[str, Any]:
    """The job, when it is finished."""
    found: dict[str, Any] = {}

    def is_finished() -> bool:
        found.update(ask(served, "GET", f"{JOBS}/{job_id}")[1])
        return found["finished_at"] is not None

    served.until(is_finished, 60)
    return found


def test_a_job_is_queued_watched_and_fetched(served: Served, gemini_emulator: Emulator) -> None:
    """The answer names the job; its end has the duration, the cost and addresses of the sound and the subtitles."""
    text = new_text()
    status, job = ask(served, "POST", JOBS, {"input": text, "voice": "nova", "subtitles": ["srt"]})
    assert status == 202
    assert job["object"] == "audio.job"
    assert job["audio"] is None or job["status"] == "succeeded"
    job = finished(served, job["id"])
    assert job["status"] == "succeeded"
    assert job["cost_usd"] > 0
    assert job["error"] is None
    spoken = pcm_samples(synthesize(text, "leda", "en-US"))
    answer, content = served.ask("GET", job["audio"])
    assert answer.headers["content-type"] == "audio/wav"
    with wave.open(io.BytesIO(content)) as file:
        assert_whole(pcm_samples(file.readframes(file.getnframes())), spoken)
    (address,) = job["subtitles"]
    assert b"-->" in served.ask("GET", address)[1]
    assert served.ask("GET", address.replace("srt", "vtt"))[0].status == 404
    answer, part = served.ask("GET", job["audio"], headers={"Range": "bytes=44-99"})
    assert answer.status == 206
    assert part == content[44:100]
    for sound_format in ("mp3", "opus", "flac"):
        _, other = served.ask("GET", f"{job['audio']}?response_format={sound_format}")
        assert_whole(decoded(other, sound_format), spoken)


@pytest.mark.parametrize("sound_format", ["mp3", "opus", "flac"])
def test_a_job_is_kept_in_the_format_asked_for(sound_format: str, served: Served, gemini_emulator: Emulator) -> None:
    """Its file is of that format and type, ranges included; no other format is sent under its name."""
    text = new_text()
    job = finished(served, ask(served, "POST", JOBS, {"input": text, "response_format": sound_format})[1]["id"])
    assert (job["status"], job["response_format"]) == ("succeeded", sound_format)
    answer, content = served.ask("GET", job["audio"])
    types = {"mp3": "audio/mpeg", "opus": "audio/ogg", "flac": "audio/flac"}
    assert answer.headers["content-type"] == types[sound_format]
    assert_whole(decoded(content, sound_format), pcm_samples(synthesize(text, "kore", "en-US")))
    answer, part = served.ask("GET", f"{job['audio']}?response_format={sound_format}", headers={"Range": "bytes=0-9"})
    assert (answer.status, part) == (206, content[:10])
    status, error = ask(served, "GET", f"{job['audio']}?response_format=wav")
    assert (status, error["error"]["param"]) == (400, "response_format")
    assert sound_format in error["error"]["message"]


def test_an_idempotency_key_queues_once(served: Served, gemini_emulator: Emulator) -> None:
    """The same key with the same body is the same job; with another body it is a conflict."""
    body = {"input": new_text()}
    first = ask(served, "POST", JOBS, body, idempotency_key="order 17")[1]
    again = ask(served, "POST", JOBS, body, idempotency_key="order 17")[1]
    assert first["id"] == again["id"]
    status, error = ask(served, "POST", JOBS, {"input": new_text()}, idempotency_key="order 17")
    assert status == 409
    assert error["error"]["code"] == "task_conflict"
    finished(served, first["id"])
    assert len(gemini_emulator.calls) == 1


def test_a_batch_is_counted_together(served: Served, gemini_emulator: Emulator) -> None:
    """A batch has its jobs and counters; one that is wrong is refused whole, naming the field."""
    status, batch = ask(served, "POST", JOBS, {"requests": [{"input": new_text()}, {"input": new_text()}]})
    assert status == 202
    assert batch["object"] == "audio.batch"
    assert batch["total"] == len(batch["jobs"]) == 2
    for job_id in batch["jobs"]:
        assert finished(served, job_id)["batch_id"] == batch["id"]
    done = ask(served, "GET", f"/v1/audio/batches/{batch['id']}")[1]
    assert (done["status"], done["completed"], done["failed"]) == ("completed", 2, 0)
    status, error = ask(served, "POST", JOBS, {"requests": [{"input": "Good."}, {"input": " "}]})
    assert status == 400
    assert error["error"]["param"] == "input"
    assert ask(served, "POST", JOBS, {"requests": []})[0] == 400


def test_a_failed_job_says_why(served: Served, gemini_emulator: Emulator) -> None:
    """Its state has the error, and its sound is that error."""
    gemini_emulator.faults = lambda _: Fault.SAFETY
    job = finished(served, ask(served, "POST", JOBS, {"input": new_text()})[1]["id"])
    assert job["status"] == "failed"
    assert job["error"]["code"] == "content_blocked"
    status, error = ask(served, "GET", f"{JOBS}/{job['id']}/audio")
    assert status == 400
    assert error["error"]["code"] == "content_blocked"
    listed = ask(served, "GET", f"{JOBS}?state=failed")[1]
    assert job["id"] in [each["id"] for each in listed["data"]]


def test_jobs_are_listed_by_state_and_taken_out(served: Served, gemini_emulator: Emulator) -> None:
    """While a call lasts, its job is leased and the others wait, page by page; a job that is taken out is not made."""
    gemini_emulator.latency_s = 600.0
    ids = [ask(served, "POST", JOBS, {"input": new_text(), "priority": -1})[1]["id"] for _ in range(6)]
    served.until(lambda: len(gemini_emulator.calls) == 2)

    def leased() -> set[str]:
        return {job["id"] for job in ask(served, "GET", f"{JOBS}?state=leased")[1]["data"]}

    # A job of an earlier test is leased until its worker has noted that it is done.
    served.until(lambda: leased() == set(ids[:2]))
    first = ask(served, "GET", f"{JOBS}?state=queued&limit=3")[1]
    assert [job["id"] for job in first["data"]] == ids[2:5]
    assert first["has_more"]
    rest = ask(served, "GET", f"{JOBS}?state=queued&limit=3&offset=3")[1]
    assert [job["id"] for job in rest["data"]] == ids[5:]
    assert not rest["has_more"]
    assert ask(served, "GET", "/v1/audio/queue")[1]["waiting"] == {"-1": 4}
    for job_id in ids:
        assert ask(served, "DELETE", f"{JOBS}/{job_id}")[1]["deleted"]
    assert ask(served, "DELETE", f"{JOBS}/{ids[0]}")[0] == 409
    assert ask(served, "DELETE", f"{JOBS}/unknown")[0] == 404
    served.until(lambda: all(call.disconnected for call in gemini_emulator.calls))
    assert len(gemini_emulator.calls) == 2
    assert [job["id"] for job in ask(served, "GET", f"{JOBS}?state=cancelled&limit=6")[1]["data"]] == ids[::-1]


async def test_events_tell_how_far_a_job_is(served: Served, gemini_emulator: Emulator) -> None:
    """The stream has the states of the job in order, and ends with the last one; the queue's goes on."""
    body = {"input": " ".join(new_text() for _ in range(40))}
    async with aiohttp.ClientSession(served.url) as client:
        async with client.post(JOBS, json=body) as answer:
            job = await answer.json()
        async with client.get(f"{JOBS}/{job['id']}/events") as answer:
            assert answer.content_type == "text/event-stream"
            lines = (await answer.text()).split("\n\n")
        states = [json.loads(line.removeprefix("data: ")) for line in lines if line]
        assert states[-1]["status"] == "succeeded"
        assert {state["status"] for state in states} <= {"queued", "leased", "succeeded"}
        async with client.get("/v1/audio/queue/events") as answer:
            first = json.loads((await answer.content.readline()).removeprefix(b"data: "))
    assert first["object"] == "audio.queue"
    assert first["succeeded"] >= 1


def test_a_sound_in_a_store_is_fetched_there(
    gemini_emulator: Emulator, ministack: StoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server answers with signed links of a few minutes: the store gives the sound, ranges of it, and subtitles."""
    enter(ministack, monkeypatch)
    text = new_text()
    config = settings(gemini_emulator, tmp_path, output_url=f"s3://{BUCKET}/{os.urandom(6).hex()}")
    with Served(config) as served:
        body = {"input": text, "response_format": "mp3", "subtitles": ["srt"]}
        job = finished(served, ask(served, "POST", JOBS, body)[1]["id"])
        answer, _ = served.ask("GET", job["audio"])
        subtitles, _ = served.ask("GET", job["subtitles"][0])
    assert (answer.status, subtitles.status) == (302, 302)
    with urllib.request.urlopen(subtitles.headers["location"]) as there:
        assert b"-->" in there.read()
    link = answer.headers["location"]
    assert link.startswith(f"http://127.0.0.1:{ministack.port}/{BUCKET}/")
    with urllib.request.urlopen(link) as whole:
        assert whole.headers["content-type"] == "audio/mpeg"
        content = whole.read()
    assert_spoken(content, "mp3", text)
    with urllib.request.urlopen(urllib.request.Request(link, headers={"range": "bytes=0-99"})) as part:
        assert part.read() == content[:100]


def test_a_sound_in_a_folder_that_is_a_store_is_sent(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """No HTTP client follows a link into a file system: the server sends the file, ranges of it, and the subtitles."""
    text, folder = new_text(), tmp_path / "shared disk"
    with Served(settings(gemini_emulator, tmp_path, output_url=folder.as_uri())) as served:
        job = finished(served, ask(served, "POST", JOBS, {"input": text, "subtitles": ["vtt"]})[1]["id"])
        answer, content = served.ask("GET", job["audio"])
        _, part = served.ask("GET", job["audio"], headers={"Range": "bytes=44-99"})
        _, subtitles = served.ask("GET", job["subtitles"][0])
        (next(folder.glob("*.wav"))).unlink()
        status, error = ask(served, "GET", job["audio"])
    assert answer.status == 200
    assert_spoken(content, "wav", text)
    assert part == content[44:100]
    assert subtitles.startswith(b"WEBVTT")
    assert (status, "is not in OUTPUT_URL" in error["error"]["message"]) == (404, True)


def test_jobs_on_redis_are_done_by_workers(gemini_emulator: Emulator, redis_url: str, tmp_path: Path) -> None:
    """With Redis the server only queues; a worker elsewhere makes the sound, and the server hands it out."""
    config = settings(
        gemini_emulator, tmp_path, use_redis=True, redis_url=redis_url, queue_name=f"http-{os.getpid()}", num_workers=1
    )
    with Served(config) as served:
        ids = [ask(served, "POST", JOBS, {"input": new_text()})[1]["id"] for _ in range(3)]
        listed = ask(served, "GET", f"{JOBS}?state=queued")[1]["data"]
        assert [job["id"] for job in listed] == ids
        assert gemini_emulator.calls == []

        async def work() -> None:
            async with WorkerManager(config):
                await asyncio.to_thread(lambda: [finished(served, job_id) for job_id in ids])

        asyncio.run(work())
        assert {job["id"] for job in ask(served, "GET", f"{JOBS}?state=succeeded")[1]["data"]} == set(ids)
        answer, content = served.ask("GET", f"{JOBS}/{ids[0]}/audio")
        assert content[:4] == b"RIFF"
        assert answer.headers["accept-ranges"] == "bytes"


def test_workers_elsewhere_are_seen_and_counted(gemini_emulator: Emulator, redis_url: str, tmp_path: Path) -> None:
    """Who works on what since when, what all of them spent today, and what became of their tasks; two servers agree."""
    config = settings(gemini_emulator, tmp_path, use_redis=True, redis_url=redis_url, num_workers=2)
    with Served(config) as served, Served(config) as other:
        assert ask(served, "GET", "/page/overview")[1]["workers"] == []
        failures, is_seen = iter([Fault.UNAVAILABLE_503]), threading.Event()

        def fault(call: ReceivedCall) -> Fault | None:
            if call.action != "generateContent":
                return None
            assert is_seen.wait(60)
            return next(failures, None)

        gemini_emulator.faults = fault
        first = ask(served, "POST", JOBS, {"input": new_text()})[1]["id"]

        def watch() -> None:
            found: dict[str, Any] = {}

            def is_at_it() -> bool:
                workers = ask(other, "GET", "/page/overview")[1]["workers"]
                found.update({each["name"]: each["tasks"] for each in workers})
                return any(found.values())

            other.until(is_at_it)
            assert {name.rpartition("/")[2] for name in found} == {"worker-1", "worker-2"}
            (task,) = (task for tasks in found.values() for task in tasks)
            assert task["id"] == first
            job = ask(other, "GET", f"{JOBS}/{first}")[1]
            assert job["worker"] in found
            assert task["since"] == job["started_at"]
            is_seen.set()
            finished(served, first)
            served.speak(new_text(), response_format="pcm")

        async def work() -> None:
            async with WorkerManager(config):
                await asyncio.to_thread(watch)

        asyncio.run(work())

        def figures(server: Served) -> dict[str, float]:
            lines = server.ask("GET", "/metrics")[1].decode().splitlines()
            return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}

        served.until(lambda: figures(other).get('audio_api_speeches_total{outcome="succeeded"}') == 1)
        told = figures(other)
        model = "gemini-3.8-flash-tts"
        assert told == figures(served)
        assert told['audio_api_tasks_total{outcome="succeeded"}'] == 1
        assert told['audio_api_tasks_total{outcome="deferred"}'] == told['audio_api_tasks_total{outcome="dead"}'] == 0
        assert told['audio_api_deliveries_total{redelivered="false"}'] == 1
        assert told["audio_api_task_wait_seconds_count"] == told['audio_api_task_wait_seconds_bucket{le="+Inf"}'] == 1
        assert told['audio_api_task_duration_seconds_count{outcome="succeeded"}'] == 1
        assert told['audio_api_task_duration_seconds_sum{outcome="succeeded"}'] > 0
        assert told[f'audio_api_attempts_total{{code="unavailable",model="{model}"}}'] == 1
        assert told[f'audio_api_attempts_total{{code="ok",model="{model}"}}'] == 2
        costs = [ask(each, "GET", "/v1/audio/queue")[1]["cost_today_usd"] for each in (served, other)]
        assert costs[0] == costs[1] == pytest.approx(told[f'audio_api_cost_usd_total{{model="{model}"}}'])
        assert ask(served, "GET", "/page/overview")[1]["workers"] == []


def test_the_page_has_its_routes(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """A session in a cookie opens what a key opens; speech is prepared once, then played and downloaded."""
    config = settings(gemini_emulator, tmp_path, server_api_keys=FIRST)
    with Served(config) as served:
        assert ask(served, "GET", "/page/session")[1] == {"needs_key": True, "has_key": False}
        assert ask(served, "POST", "/page/session", {"key": "wrong"})[0] == 401
        answer, _ = served.ask("POST", "/page/session", {"key": FIRST})
        cookie = answer.headers["set-cookie"]
        assert FIRST not in cookie
        assert "httponly" in cookie.lower()
        assert "samesite=strict" in cookie.lower()
        session = {"cookie": cookie.partition(";")[0]}
        assert ask(served, "GET", "/page/session", **session)[1] == {"needs_key": True, "has_key": True}
        text = new_text()
        assert ask(served, "POST", "/page/speech", {"input": text})[0] == 401
        status, prepared = ask(served, "POST", "/page/speech", {"input": text}, **session)
        assert status == 201
        assert gemini_emulator.calls == []
        assert served.ask("GET", prepared["url"])[0].status == 401
        for sound_format in ("mp3", "wav"):
            path = f"{prepared['url']}?response_format={sound_format}&download=true"
            answer, content = served.ask("GET", path, headers=session)
            assert answer.headers["content-disposition"] == f'attachment; filename="speech.{sound_format}"'
            assert_whole(decoded(content, sound_format), pcm_samples(synthesize(text, "kore", "en-US")))
        assert len(gemini_emulator.calls) == 1
        assert served.ask("GET", "/page/speech/unknown", headers=session)[0].status == 404
        numbers = ask(served, "GET", "/v1/audio/queue", authorization=bearer(FIRST)["Authorization"])[1]
        assert numbers["cost_today_usd"] > 0
