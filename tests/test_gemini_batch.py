"""Batches at half the price: results like any others, and nothing lost or paid twice when things go wrong."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sound import assert_audible
from test_tiers import MODEL, TODAY

from audio_api import (
    AudioConfig,
    AudioRequest,
    AudioResponse,
    BatchAudioRequest,
    ErrorCode,
    QueueService,
    QueueServiceError,
    TTSService,
)
from audio_api.emulator import Emulator, Fault
from audio_api.emulator.batches import BatchRules
from audio_api.emulator.control import ReceivedCall
from audio_api.errors import ConfigurationError, TTSAuthenticationError, TTSOutputError, TTSValidationError
from audio_api.models.speech_models import MODEL_SPECS
from audio_api.retry import Clock
from audio_api.services.gemini_batch import GeminiBatch

TEXTS = [f"This is sentence number {n} of a batch, and it is long enough to be judged." for n in range(5)]


class Setting:
    """A folder, an emulator, and services that use both."""

    def __init__(self, emulator: Emulator, folder: Path) -> None:
        self.emulator = emulator
        self.folder = folder
        self.now_s = TODAY.timestamp()
        self.clock = Clock(sleep=self._sleep, now=lambda: TODAY.fromtimestamp(self.now_s, TODAY.tzinfo))

    async def _sleep(self, seconds: float) -> None:
        """Time passes as fast as the emulator needs."""
        self.now_s += seconds
        await asyncio.sleep(0.01)

    def config(self, **changes: object) -> AudioConfig:
        """The settings."""
        defaults = {"gemini_api_key": "any", "gemini_base_url": self.emulator.url, "output_dir": self.folder / "out"}
        return AudioConfig(**{**defaults, **changes})

    async def submit(self, requests: list[AudioRequest], name: str | None = None, **changes: object) -> GeminiBatch:
        """Submit a batch."""
        async with TTSService(self.config(**changes), clock=self.clock) as tts:
            return await tts.submit_batch(requests, name=name)

    def load(self, name: str, **changes: object) -> GeminiBatch:
        """The batch as another process finds it."""
        return GeminiBatch.load(name, self.config(**changes), clock=self.clock)

    @property
    def spoken(self) -> list[str]:
        """What ordinary calls asked for."""
        return [call.text for call in self.emulator.calls if call.action == "generateContent"]

    @property
    def creates(self) -> int:
        """How often a job was asked for."""
        return sum(call.action == "batchGenerateContent" for call in self.emulator.calls)

    @property
    def billed(self) -> int:
        """All tokens of all items of all jobs."""
        return sum(item.tokens for job in self.emulator.batches.jobs for item in job.items)


@pytest.fixture
def setting(gemini_emulator: Emulator, tmp_path: Path) -> Setting:
    """A setting."""
    return Setting(gemini_emulator, tmp_path)


def requests_of(texts: list[str], **fields: Any) -> list[AudioRequest]:
    """A request for each text, with a name of its own."""
    return [AudioRequest(text=text, output_filename=f"n{n}", **fields) for n, text in enumerate(texts)]


def tokens(responses: tuple[AudioResponse, ...]) -> int:
    """All tokens that responses say were billed."""
    return sum(each.usage.input_tokens + each.usage.output_tokens for each in responses)


async def test_a_batch_makes_the_files_at_half_the_price(setting: Setting) -> None:
    """One job, no ordinary call, a checked file for each request, and the price of the tier batch."""
    batch = await setting.submit(requests_of(TEXTS))
    assert batch.status().state == "running"
    done = await setting.load(batch.name).collect()
    assert (done.status, done.completed, done.failed) == ("completed", 5, 0)
    assert (setting.creates, setting.spoken) == (1, [])
    price = MODEL_SPECS[MODEL].price(TODAY.date())
    assert price
    for n, response in enumerate(done.results):
        assert Path(response.file_path or "").name == f"n{n}.wav"
        assert_audible(response.file_path)
        assert response.service_tier == "batch"
        used = response.usage
        assert response.cost_usd == pytest.approx(price.cost_usd(used.input_tokens, used.output_tokens) / 2)
        assert response.warnings == ()
    assert tokens(done.results) == setting.billed
    assert setting.load(batch.name).status().state == "collected"


async def test_the_request_of_an_item_is_that_of_an_ordinary_call(setting: Setting) -> None:
    """The same words, voice, style and privacy; the key is that of the content."""
    request = AudioRequest(text=TEXTS[0], style="calm", voice_config={"voice_name": "puck"})  # type: ignore[arg-type]
    batch = await setting.submit([request])
    [line] = (setting.folder / "out" / ".batches" / batch.name / "part-0.jsonl").read_text().splitlines()
    async with TTSService(setting.config(cache_dir=setting.folder / "other"), clock=setting.clock) as tts:
        await tts.generate_audio(request)
    sent = setting.emulator.calls[-1].body
    item = json.loads(line)["request"]
    assert item["contents"][0]["parts"][0]["text"] == sent["contents"][0]["parts"][0]["text"] == TEXTS[0]
    assert item["generationConfig"]["responseModalities"] == ["AUDIO"]
    assert item["generationConfig"]["speechConfig"] == sent["generationConfig"]["speechConfig"]
    assert item["store"] is sent["store"] is False


async def test_long_texts_become_their_pieces_and_shared_ones_are_made_once(setting: Setting) -> None:
    """A text of many pieces is one file; equal pieces of two requests are one item, charged once."""
    long = " ".join(f"In line {n} of a long text there are a few words to be said." for n in range(80))
    requests = requests_of([long, long, TEXTS[0]])
    done = await (await setting.submit(requests)).collect()
    assert done.completed == 3
    [job] = setting.emulator.batches.jobs
    texts = [item.text for item in job.items]
    assert len(texts) == len(set(texts)) >= 3
    assert " ".join(texts[:-1]) == long
    assert tokens(done.results) == setting.billed
    assert done.results[1].cost_usd == 0.0
    assert done.results[0].duration == done.results[1].duration


async def test_finished_pieces_are_not_asked_for(setting: Setting) -> None:
    """What the cache holds is no item; a batch that lacks nothing makes no job."""
    async with TTSService(setting.config(), clock=setting.clock) as tts:
        await tts.generate_audio(AudioRequest(text=TEXTS[0]))
    done = await (await setting.submit(requests_of(TEXTS[:2]))).collect()
    assert [item.text for item in setting.emulator.batches.jobs[0].items] == [TEXTS[1]]
    assert (done.completed, done.results[0].cached_pieces, done.results[0].cost_usd) == (2, 1, 0.0)
    again = await (await setting.submit(requests_of(TEXTS[:2], overwrite=True))).collect()
    assert (again.completed, setting.creates) == (2, 1)


async def test_each_model_is_a_job(setting: Setting) -> None:
    """Requests of two models make two jobs, and one batch."""
    requests = [AudioRequest(text=TEXTS[0]), AudioRequest(text=TEXTS[0], model="gemini-3.8-flash-lite-tts")]
    done = await (await setting.submit(requests)).collect()
    assert [response.model for response in done.results] == [MODEL, "gemini-3.8-flash-lite-tts"]
    assert len(setting.emulator.batches.jobs) == 2


BAD = {
    "refused": Fault.BAD_ARGUMENT,
    "busy": Fault.UNAVAILABLE_503,
    "empty": Fault.CONTENT_EMPTY,
    "silent": Fault.SILENT,
    "cut": Fault.TRUNCATED,
    "unfinished": Fault.FINISH_OTHER,
}


@pytest.mark.parametrize("fault", BAD.values(), ids=BAD)
async def test_a_bad_item_goes_to_an_ordinary_call(setting: Setting, fault: Fault) -> None:
    """The others are served by the batch; what the item cost is counted with what the call cost."""
    setting.emulator.batch = BatchRules(faults=lambda _, text: fault if text == TEXTS[1] else None)
    done = await (await setting.submit(requests_of(TEXTS))).collect()
    assert done.completed == 5
    assert set(setting.spoken) == {TEXTS[1]}
    assert_audible(done.results[1].file_path)
    assert done.results[1].service_tier == "standard"
    calls = sum(call.text == TEXTS[1] for call in setting.emulator.calls if call.action == "generateContent")
    assert done.results[1].attempts == 1 + calls
    others = [response for n, response in enumerate(done.results) if n != 1]
    assert {response.service_tier for response in others} == {"batch"}


async def test_without_fallback_a_bad_item_fails_alone(setting: Setting) -> None:
    """No ordinary call; the response says why; a later batch of the same requests asks for the missing one only."""
    setting.emulator.batch = BatchRules(faults=lambda _, text: Fault.BAD_ARGUMENT if text == TEXTS[1] else None)
    done = await (await setting.submit(requests_of(TEXTS), batch_fallback=False)).collect()
    assert [response.success for response in done.results] == [True, False, True, True, True]
    assert done.results[1].error_code is ErrorCode.API_ERROR
    assert not done.results[1].retryable
    assert setting.spoken == []
    setting.emulator.batch = BatchRules()
    again = await (await setting.submit(requests_of(TEXTS, overwrite=True), batch_fallback=False)).collect()
    assert again.completed == 5
    assert [len(job.items) for job in setting.emulator.batches.jobs] == [5, 1]


async def test_a_doubtful_take_is_kept_as_such_without_fallback(setting: Setting) -> None:
    """What the checks cannot decide is a success that says so."""
    setting.emulator.batch = BatchRules(faults=lambda *_: Fault.TRUNCATED)
    done = await (await setting.submit(requests_of(TEXTS[:1]), batch_fallback=False)).collect()
    [response] = done.results
    assert setting.spoken == []
    assert response.success == bool(response.doubtful)


@pytest.mark.parametrize("end", ["FAILED", "EXPIRED"])
@pytest.mark.parametrize("fallback", [True, False])
async def test_a_job_that_fails_leaves_all_to_ordinary_calls(setting: Setting, end: Any, fallback: bool) -> None:
    """If they are allowed; else every response says what became of the job."""
    setting.emulator.batch = BatchRules(end=end)
    done = (
        await (await setting.submit(requests_of(TEXTS[:2]), batch_fallback=fallback)).collect()
        if fallback
        else (await setting.load((await setting.submit(requests_of(TEXTS[:2]))).name, batch_fallback=False).collect())
    )
    assert done.completed == (2 if fallback else 0)
    assert sorted(setting.spoken) == (TEXTS[:2] if fallback else [])
    if not fallback:
        assert f"the job {end.lower()}" in (done.results[0].error or "")


async def test_a_job_that_hangs_is_cancelled_at_the_deadline(setting: Setting) -> None:
    """In a state that no client knows; the rest is made by ordinary calls."""
    setting.emulator.batch = BatchRules(end="STUCK", prefix="JOB_STATE_", running_name="THINKING")
    done = await (await setting.submit(requests_of(TEXTS[:2]), batch_deadline=600.0)).collect()
    assert done.completed == 2
    assert setting.emulator.batches.jobs[0].cancelled
    assert sorted(setting.spoken) == TEXTS[:2]
    assert setting.now_s - TODAY.timestamp() >= 600


@pytest.mark.parametrize("rules", [BatchRules(prefix="JOB_STATE_"), BatchRules(end="PARTIALLY_SUCCEEDED")])
async def test_every_spelling_of_success_is_one(setting: Setting, rules: BatchRules) -> None:
    """Both prefixes, and jobs that succeeded in part."""
    setting.emulator.batch = rules
    done = await (await setting.submit(requests_of(TEXTS[:2]))).collect()
    assert (done.completed, setting.spoken) == (2, [])


def _lost(call: ReceivedCall) -> Fault | None:
    return Fault.RESET_BEFORE_BODY if call.action == "batchGenerateContent" else None


async def test_a_create_without_an_answer_is_found_by_its_name(setting: Setting) -> None:
    """It is never asked for twice: the job that began all the same is found in the list."""
    setting.emulator.faults = _lost
    batch = await setting.submit(requests_of(TEXTS))
    assert batch.status().state == "waiting"
    setting.emulator.faults = None
    done = await batch.collect()
    assert (done.completed, setting.creates, len(setting.emulator.batches.jobs)) == (5, 1, 1)


async def test_a_create_that_never_arrived_is_made_again_after_a_while(setting: Setting) -> None:
    """Only when the list has not shown it for a minute."""
    setting.emulator.faults = lambda call: Fault.UNAVAILABLE_503 if call.action == "batchGenerateContent" else None
    batch = await setting.submit(requests_of(TEXTS))
    setting.emulator.faults = None
    began_s = setting.now_s
    done = await batch.collect()
    assert (done.completed, setting.creates, len(setting.emulator.batches.jobs)) == (5, 2, 1)
    assert setting.now_s - began_s >= 60


async def test_faults_of_every_other_call_pass(setting: Setting) -> None:
    """Uploads, looks and downloads are repeated: connections break, pages of proxies come, servers fail."""
    troubles = iter([Fault.UNAVAILABLE_503, Fault.RESET_BEFORE_BODY, Fault.CLOSE_IN_BODY, Fault.HTML_200] * 10)
    number = iter(range(10_000))

    def trouble(call: ReceivedCall) -> Fault | None:
        return next(troubles, None) if call.action != "batchGenerateContent" and next(number) % 2 == 0 else None

    setting.emulator.faults = trouble
    done = await (await setting.submit(requests_of(TEXTS))).collect()
    assert (done.completed, len(setting.emulator.batches.jobs), setting.spoken) == (5, 1, [])


async def test_limits_are_waited_for(setting: Setting) -> None:
    """A refused create is asked for again when another job has ended."""
    setting.emulator.batch = BatchRules(most_jobs=1, end="STUCK")
    first = await setting.submit(requests_of(TEXTS[:1]), "first")
    setting.emulator.batch = BatchRules(most_jobs=1)
    second = await setting.submit(requests_of(TEXTS[1:3]), "second")
    assert (second.status().state, "no further job" in second.status().problem) == ("waiting", True)
    collecting = asyncio.create_task(second.collect())
    await first.cancel()
    assert (await collecting).completed == 2
    assert setting.spoken == []


@pytest.mark.slow
async def test_a_job_that_is_too_large_is_split(setting: Setting) -> None:
    """When no other job waits and the tokens are too many, the halves follow each other."""
    texts = [f"{n}. {TEXTS[0]}" for n in range(300)]
    setting.emulator.batch = BatchRules(most_tokens=4_000)
    done = await (await setting.submit(requests_of(texts))).collect()
    assert done.completed == 300
    assert len(setting.emulator.batches.jobs) == 2
    assert sum(len(job.items) for job in setting.emulator.batches.jobs) == 300
    assert setting.spoken == []


async def test_the_same_requests_are_the_same_batch(setting: Setting) -> None:
    """Until it is collected, submitting again creates nothing; another set of requests needs another name."""
    setting.emulator.batch = BatchRules(pending_s=0.2)
    first = await setting.submit(requests_of(TEXTS))
    second = await setting.submit(requests_of(TEXTS))
    assert (first.name, setting.creates) == (second.name, 1)
    await setting.submit(requests_of(TEXTS), "named")
    with pytest.raises(TTSValidationError, match="named exists with other requests"):
        await setting.submit(requests_of(TEXTS[:1]), "named")


async def test_a_cancelled_batch_makes_no_ordinary_calls(setting: Setting) -> None:
    """Its requests fail, saying so."""
    setting.emulator.batch = BatchRules(end="STUCK")
    batch = await setting.submit(requests_of(TEXTS[:2]))
    await batch.cancel()
    done = await batch.collect()
    assert (done.completed, setting.spoken) == (0, [])
    assert "cancelled" in (done.results[0].error or "")


async def test_what_a_person_must_mend_is_raised_and_nothing_is_lost(setting: Setting) -> None:
    """A refused key; with the right one the same batch goes on."""
    setting.emulator.api_key = "right"
    requests = requests_of(TEXTS[:2])
    with pytest.raises(TTSAuthenticationError):
        await setting.submit(requests, "mine", gemini_api_key="wrong")
    batch = await setting.submit(requests, "mine", gemini_api_key="right")
    assert (await batch.collect()).completed == 2
    assert setting.creates == 1


async def test_wrong_requests_are_refused_before_anything_is_sent(setting: Setting) -> None:
    """The text names the request; so do existing files, engines and backends without batches, and unknown names."""
    (setting.folder / "out").mkdir()
    (setting.folder / "out" / "n1.wav").touch()
    with pytest.raises(TTSOutputError, match=r"request 2: .*n1\.wav"):
        await setting.submit(requests_of(TEXTS))
    with pytest.raises(TTSValidationError, match="request 1: the text has"):
        await setting.submit(requests_of(TEXTS), max_text_length=10)
    with pytest.raises(TTSValidationError, match="at least one request"):
        await setting.submit([])
    with pytest.raises(TTSValidationError, match="no name of a batch"):
        await setting.submit([AudioRequest(text=TEXTS[0])], "../up")
    with pytest.raises(ConfigurationError, match="CACHE_MAX_BYTES"):
        await setting.submit([AudioRequest(text=TEXTS[0])], cache_max_bytes=0)
    with pytest.raises(ConfigurationError, match="TTS_ENGINE"):
        await setting.submit([AudioRequest(text=TEXTS[0])], tts_engine="offline")
    with pytest.raises(TTSValidationError, match="no batch 'x'"):
        setting.load("x")
    assert setting.emulator.calls == []


async def test_the_key_is_sent_nowhere_else(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address for the upload on another host is refused."""
    from audio_api.emulator import batches

    real = batches.Batches.upload

    def elsewhere(self: batches.Batches, request: Any, body: bytes) -> Any:
        answer = real(self, request, body)
        if "X-Goog-Upload-URL" in answer.headers:
            answer.headers["X-Goog-Upload-URL"] = "https://attacker.example/upload?upload_id=1"
        return answer

    monkeypatch.setattr(batches.Batches, "upload", elsewhere)
    with pytest.raises(ConfigurationError, match="key is not sent there"):
        await setting.submit(requests_of(TEXTS))


async def test_a_journal_is_private(setting: Setting) -> None:
    """It holds the texts: only its owner reads it."""
    batch = await setting.submit(requests_of(TEXTS))
    folder = setting.folder / "out" / ".batches" / batch.name
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


@pytest.mark.parametrize("url", [None, "https://example.com/gemini"])
async def test_google_is_told_where_to_tell_of_the_end(setting: Setting, url: str | None) -> None:
    """With the creation of each job; without the setting, those hear of it that are registered for the project."""
    await setting.submit(requests_of(TEXTS[:1]), batch_webhook=url)
    [create] = [call for call in setting.emulator.calls if call.action == "batchGenerateContent"]
    assert create.body["batch"].get("webhookConfig") == ({"uris": [url]} if url else None)


class Witness:
    """A recogniser that hears one text in everything, and remembers how often it listened."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.heard = 0

    def listen(self, pcm: bytes, language: str) -> str | None:
        """As ``Recogniser.listen``."""
        self.heard += 1
        return self.text


async def test_a_recogniser_of_ones_own_listens_to_what_a_batch_brought(setting: Setting) -> None:
    """Whether the batch comes from ``submit_batch`` or from ``load``."""
    first, later = Witness(TEXTS[0]), Witness(TEXTS[1])
    config = setting.config(listen="always")
    async with TTSService(config, recogniser=first, clock=setting.clock) as tts:
        done = await (await tts.submit_batch(requests_of(TEXTS[:1]), name="first")).collect()
        await tts.submit_batch([AudioRequest(text=TEXTS[1])], name="later")
    assert (done.results[0].heard, first.heard) == (1.0, 1)
    loaded = await GeminiBatch.load("later", config, recogniser=later, clock=setting.clock).collect()
    assert (loaded.results[0].heard, later.heard, first.heard) == (1.0, 1, 1)


@pytest.mark.parametrize("threshold", [None, "block_only_high"])
async def test_the_safety_of_an_item_is_what_the_setting_says(setting: Setting, threshold: Any) -> None:
    """Each item carries it, as an ordinary call does; without the setting Google's own holds."""
    await setting.submit(requests_of(TEXTS[:2]), "named", gemini_safety_threshold=threshold)
    lines = (setting.folder / "out" / ".batches" / "named" / "part-0.jsonl").read_text().splitlines()
    for line in lines:
        told = json.loads(line)["request"].get("safetySettings", [])
        assert {each["threshold"].lower() for each in told} == ({threshold} if threshold else set())
        assert bool(told) == bool(threshold)
    assert len(lines) == 2


async def test_the_tier_batch_is_for_its_doors(setting: Setting) -> None:
    """An ordinary call refuses it, and so does a queue one that it does not know."""
    async with TTSService(setting.config(), clock=setting.clock) as tts:
        response = await tts.generate_audio(AudioRequest(text=TEXTS[0], service_tier="batch"))
    assert response.error_code is ErrorCode.INVALID_REQUEST
    assert "submit_batch" in (response.error or "")
    async with QueueService(config=setting.config(queue_name=f"test-{uuid4().hex}")) as queue:
        with pytest.raises(QueueServiceError, match="'cheap' is none of standard, flex, priority, batch"):
            await queue.enqueue_batch_tasks(
                BatchAudioRequest(requests=(AudioRequest(text=TEXTS[0]),)),
                tier="cheap",  # type: ignore[arg-type]
            )
