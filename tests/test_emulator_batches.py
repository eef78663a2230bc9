"""The emulator's Batch API, in plain JSON: what the facts say of Google's, whatever our client makes of it."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx2
import pytest
from emulator_calls import KEY, TEXT, V38, body, error_of, pcm_of, post
from google import genai
from google.genai import types

from audio_api.emulator import Emulator, Fault
from audio_api.emulator.batches import BatchRules
from audio_api.emulator.speech import synthesize

HEADERS = {"x-goog-api-key": KEY}


def upload(emulator: Emulator, content: bytes, *, steps: int = 1) -> str:
    """Upload a file in steps; its name."""
    start = {**HEADERS, "X-Goog-Upload-Protocol": "resumable", "X-Goog-Upload-Command": "start"}
    begun = httpx2.post(f"{emulator.url}/upload/v1beta/files", headers=start, json={"file": {"displayName": "d"}})
    url, size = begun.headers["x-goog-upload-url"], -(-len(content) // steps)
    for offset in range(0, len(content), size):
        last = offset + size >= len(content)
        step = {"X-Goog-Upload-Command": "upload, finalize" if last else "upload", "X-Goog-Upload-Offset": str(offset)}
        done = httpx2.post(url, headers=step, content=content[offset : offset + size])
    name: str = done.json()["file"]["name"]
    return name


def lines(*texts: str) -> bytes:
    """The input of a job."""
    return b"\n".join(json.dumps({"key": f"k{n}", "request": body(text)}).encode() for n, text in enumerate(texts))


def create(emulator: Emulator, file: str, display: str = "mine") -> httpx2.Response:
    """Begin a job."""
    job = {"batch": {"display_name": display, "input_config": {"file_name": file}}}
    answer: httpx2.Response = post(emulator, job, action="batchGenerateContent")
    return answer


def get(emulator: Emulator, name: str, **query: Any) -> Any:
    """Ask for a job, or for a page of them."""
    return httpx2.get(f"{emulator.url}/v1beta/{name}", headers=HEADERS, params=query).json()


def ended(emulator: Emulator, name: str) -> Any:
    """The job, once it is done."""
    end_s = time.monotonic() + 120
    while not (job := get(emulator, name)).get("done"):
        assert time.monotonic() < end_s
        time.sleep(0.01)
    return job


def results(emulator: Emulator, job: Any) -> dict[str, Any]:
    """The lines of the results by their key."""
    file = job["response"]["responsesFile"]
    answer = httpx2.get(f"{emulator.url}/download/v1beta/{file}:download?alt=media", headers=HEADERS)
    return {each["key"]: each for each in map(json.loads, answer.text.splitlines())}


@pytest.mark.parametrize("steps", [1, 3])
def test_a_job_from_its_upload_to_its_results(gemini_emulator: Emulator, steps: int) -> None:
    """Files in steps; states of the wire; counts as strings; the results' file twice; each line a whole WAV."""
    job = ended(
        gemini_emulator,
        create(gemini_emulator, upload(gemini_emulator, lines(TEXT, "Two."), steps=steps)).json()["name"],
    )
    told = job["metadata"]
    assert (told["state"], told["displayName"], told["model"]) == ("BATCH_STATE_SUCCEEDED", "mine", f"models/{V38}")
    assert told["batchStats"] == {"requestCount": "2", "successfulRequestCount": "2", "failedRequestCount": "0"}
    assert told["output"]["responsesFile"] == job["response"]["responsesFile"]
    found = results(gemini_emulator, job)
    part = found["k0"]["response"]["candidates"][0]["content"]["parts"][0]
    assert part["inlineData"]["mimeType"] == "audio/wav"
    assert pcm_of(part) == synthesize(TEXT, "kore", "en-US")
    [known] = gemini_emulator.batches.jobs
    assert [(item.key, item.text) for item in known.items] == [("k0", TEXT), ("k1", "Two.")]
    assert known.items[0].tokens == found["k0"]["response"]["usageMetadata"]["totalTokenCount"]


def test_the_same_create_twice_makes_two_jobs(gemini_emulator: Emulator) -> None:
    """It is not idempotent, and the list shows both, newest first, without results, in pages."""
    file = upload(gemini_emulator, lines(TEXT))
    names = [create(gemini_emulator, file).json()["name"] for _ in range(2)]
    first = get(gemini_emulator, "batches", pageSize=1)
    second = get(gemini_emulator, "batches", pageSize=1, pageToken=first["nextPageToken"])
    assert [page["operations"][0]["name"] for page in (first, second)] == names[::-1]
    assert "nextPageToken" not in second
    assert "response" not in first["operations"][0]


def test_an_answer_may_be_lost_after_the_job_began(gemini_emulator: Emulator) -> None:
    """The connection breaks, and the job is there."""
    file = upload(gemini_emulator, lines(TEXT))
    gemini_emulator.fail_next(Fault.RESET_BEFORE_BODY)
    with pytest.raises(httpx2.TransportError):
        create(gemini_emulator, file)
    assert [job.display_name for job in gemini_emulator.batches.jobs] == ["mine"]


def test_a_job_may_hang_until_it_is_cancelled(gemini_emulator: Emulator) -> None:
    """States by the guides' names and unknown ones, too; a cancelled job ends with an error and without results."""
    gemini_emulator.batch = BatchRules(end="STUCK", prefix="JOB_STATE_", running_name="THINKING")
    name = create(gemini_emulator, upload(gemini_emulator, lines(TEXT))).json()["name"]
    assert get(gemini_emulator, name)["metadata"]["state"] == "JOB_STATE_THINKING"
    httpx2.post(f"{gemini_emulator.url}/v1beta/{name}:cancel", headers=HEADERS, json={})
    job = get(gemini_emulator, name)
    assert (job["metadata"]["state"], job["error"]["code"]) == ("JOB_STATE_CANCELLED", 1)
    assert "response" not in job


@pytest.mark.parametrize("end", ["FAILED", "EXPIRED"])
def test_a_job_may_fail(gemini_emulator: Emulator, end: Any) -> None:
    """Without results, and unbilled."""
    gemini_emulator.batch = BatchRules(end=end)
    job = ended(gemini_emulator, create(gemini_emulator, upload(gemini_emulator, lines(TEXT))).json()["name"])
    assert job["metadata"]["state"] == f"BATCH_STATE_{end}"
    assert "error" in job
    assert gemini_emulator.batches.jobs[0].items[0].tokens == 0


def test_items_of_a_job_fail_alone(gemini_emulator: Emulator) -> None:
    """A refusal is the item's error, a damaged sound the item's response; the job succeeds."""
    outcomes = {"k0": Fault.BAD_ARGUMENT, "k1": Fault.CONTENT_EMPTY}
    gemini_emulator.batch = BatchRules(faults=lambda key, _: outcomes.get(key))
    file = upload(gemini_emulator, lines(TEXT, "Two.", "Three."))
    job = ended(gemini_emulator, create(gemini_emulator, file).json()["name"])
    found = results(gemini_emulator, job)
    assert found["k0"]["error"] == {"code": 400, "message": "Request contains an invalid argument."}
    assert found["k1"]["response"]["candidates"][0]["content"] == {}
    assert "response" in found["k2"]
    assert job["metadata"]["batchStats"]["failedRequestCount"] == "1"


@pytest.mark.parametrize("rules", [BatchRules(most_jobs=1, end="STUCK"), BatchRules(most_tokens=20, end="STUCK")])
def test_jobs_and_tokens_are_limited_at_once(gemini_emulator: Emulator, rules: BatchRules) -> None:
    """Beyond the limit a create is refused with 429, until a job ends."""
    gemini_emulator.batch = rules
    file = upload(gemini_emulator, lines(TEXT))
    name = create(gemini_emulator, file).json()["name"]
    assert error_of(create(gemini_emulator, file))[:2] == (429, "RESOURCE_EXHAUSTED")
    httpx2.post(f"{gemini_emulator.url}/v1beta/{name}:cancel", headers=HEADERS, json={})
    assert create(gemini_emulator, file).status_code == 200


def test_requests_that_came_inline_are_answered_inline(gemini_emulator: Emulator) -> None:
    """Google's client reads them by their order; the wire has them twice, each with its key."""
    options = types.HttpOptions(base_url=gemini_emulator.url, api_version="v1beta")
    config = types.GenerateContentConfig(response_modalities=["AUDIO"], speech_config="Kore")
    with genai.Client(api_key="k", http_options=options) as client:
        source = [types.InlinedRequest(contents=text, config=config, metadata={"key": text}) for text in (TEXT, "Two.")]
        made = client.batches.create(model=V38, src=source)
        assert made.name
        job = ended(gemini_emulator, made.name)
        read = client.batches.get(name=made.name)
    assert read.dest
    assert read.dest.inlined_responses
    assert [each.response is not None for each in read.dest.inlined_responses] == [True, True]
    inlined = job["response"]["inlinedResponses"]["inlinedResponses"]
    assert inlined == job["metadata"]["output"]["inlinedResponses"]["inlinedResponses"]
    assert [each["metadata"]["key"] for each in inlined] == [TEXT, "Two."]
    part = inlined[0]["response"]["candidates"][0]["content"]["parts"][0]
    assert pcm_of(part) == synthesize(TEXT, "kore", "en-US")
