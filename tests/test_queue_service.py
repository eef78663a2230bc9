"""What a program that hands requests over can rely on, whatever the queue is made of."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_time import PATIENCE_S, own_time, until
from redis_server import free_port

from audio_api.config import AudioConfig
from audio_api.errors import (
    AudioAPIError,
    ErrorCode,
    QueueClosedError,
    QueueFullError,
    QueueServiceError,
    QueueUnavailableError,
    TaskNotFoundError,
)
from audio_api.models.audio_request import (
    AudioRequest,
    AudioResponse,
    BatchAudioRequest,
    SpeakerConfig,
    SpeakerMode,
    VoiceConfig,
)
from audio_api.models.voices import VoiceName
from audio_api.queues.jobs import Job, JobState, Lease
from audio_api.queues.memory import MemoryBackend
from audio_api.services.job_codec import decode_request, id_in_batch
from audio_api.services.queue_service import QueueService
from audio_api.services.recovery import History

HELLO = AudioRequest(text="Hello there, my friend.", priority=3, style="calm")
DONE = AudioResponse(success=True, message="1.00 s of speech", file_path="/srv/a.wav", duration=1.0, cost_usd=0.01)
FAILED = AudioResponse(success=False, message="no", error="no", error_code=ErrorCode.CONTENT_BLOCKED)


@pytest.fixture(params=["memory", "redis"])
def config(request: pytest.FixtureRequest) -> AudioConfig:
    """Settings for a queue of its own, in memory or in a real Redis."""
    name = f"test-{secrets.token_hex(6)}"
    if request.param == "memory":
        return AudioConfig(queue_name=name)
    return AudioConfig(queue_name=name, use_redis=True, redis_url=request.getfixturevalue("redis_url"))


async def finish_next(queue: QueueService, response: AudioResponse = DONE) -> str:
    """Do one task as a worker does."""
    task = await queue.dequeue_task()
    assert task
    assert await queue.update_task_result(task.task_id, response)
    return task.task_id


async def test_a_request_arrives_as_it_was_sent(queue: QueueService) -> None:
    """Every field survives the queue, and the task knows its id and how often it was handed out."""
    task_id = await queue.enqueue_single_task(HELLO)
    task = await queue.dequeue_task()
    assert task
    assert (task.task_id, task.request, task.batch_id, task.deliveries) == (task_id, HELLO, None, 1)
    assert await queue.dequeue_task() is None


async def test_a_result_is_visible_once_it_is_there(queue: QueueService) -> None:
    """Until then the task says where it is; afterwards the response is complete, and stays as it was first told."""
    task_id = await queue.enqueue_single_task(HELLO)
    waiting = await queue.get_task_result(task_id)
    assert waiting
    assert (waiting.state, waiting.done, waiting.success) == (JobState.QUEUED, False, False)
    assert (waiting.error_code, waiting.retryable) == (ErrorCode.TASK_PENDING, True)
    await queue.dequeue_task()
    working = await queue.get_task_result(task_id)
    assert working
    assert working.state is JobState.LEASED
    assert await queue.update_task_result(task_id, DONE)
    assert not await queue.update_task_result(task_id, FAILED)
    result = await queue.get_task_result(task_id)
    assert result
    assert result.done
    assert AudioResponse.model_validate(result.model_dump(include=set(AudioResponse.model_fields))) == DONE
    assert result.raise_for_error() is result
    assert (result.task_id, result.priority, result.deliveries) == (task_id, 3, 1)
    assert result.enqueued_at <= (result.started_at or 0) <= (result.finished_at or 0)


async def test_only_an_unknown_id_is_none(queue: QueueService) -> None:
    """Neither a pending task nor a cancelled one is ``None``; an id that cannot be one is an error."""
    assert await queue.get_task_result("nobody") is None
    assert await queue.get_batch_status("nobody") is None
    with pytest.raises(QueueServiceError, match="1 to 64 letters"):
        await queue.get_task_result("no/body")


async def test_a_down_redis_is_an_error_and_not_none() -> None:
    """Asking and enqueueing fail within a second with a class that says that trying again helps."""
    config = AudioConfig(use_redis=True, redis_url=f"redis://127.0.0.1:{free_port()}/0")
    async with QueueService(config=config) as queue:
        async with own_time() as elapsed_s:
            with pytest.raises(QueueUnavailableError) as caught:
                await queue.get_task_result("any")
            assert caught.value.retryable
            with pytest.raises(QueueUnavailableError):
                await queue.enqueue_single_task(HELLO)
            assert elapsed_s() < 2
        health = await queue.health_check()
        assert not health
        assert health.error_code is ErrorCode.QUEUE_UNAVAILABLE


async def test_the_same_id_with_the_same_request_is_done_once(queue: QueueService) -> None:
    """Another request under a known id is an error, as is an id that is empty, and changes nothing."""
    for _ in range(2):
        assert await queue.enqueue_single_task(HELLO, task_id="order-1") == "order-1"
    with pytest.raises(QueueServiceError) as caught:
        await queue.enqueue_single_task(AudioRequest(text="Something else."), task_id="order-1")
    assert caught.value.code is ErrorCode.TASK_CONFLICT
    with pytest.raises(QueueServiceError, match="the id '' must be"):
        await queue.enqueue_single_task(HELLO, task_id="")
    assert await finish_next(queue) == "order-1"
    assert await queue.dequeue_task() is None


async def test_what_is_no_request_is_refused(queue: QueueService) -> None:
    """A caller that passes the text itself, or a list for a batch, is told what is wanted, and without the text."""
    slips: list[tuple[Any, Any, str]] = [
        (queue.enqueue_single_task, HELLO.text, r"AudioRequest\(text=…\), not a str"),
        (queue.enqueue_many, HELLO.text, r"AudioRequest\(text=…\), not a str"),
        (queue.enqueue_many, [HELLO, {"text": HELLO.text}], r"AudioRequest\(text=…\), not a dict"),
        (queue.enqueue_batch_tasks, [HELLO], r"BatchAudioRequest\(requests=\[…\]\), not a list"),
    ]
    for enqueue, slip, wanted in slips:
        with pytest.raises(TypeError, match=rf"{wanted}$"):
            await enqueue(slip)
    assert (await queue.get_queue_stats()).waiting == {}


async def test_a_task_waits_for_its_time(queue: QueueService) -> None:
    """``not_before`` keeps it from everybody, and the statistics say so."""
    task_id = await queue.enqueue_single_task(HELLO, not_before=time.time() + 3600)
    assert await queue.dequeue_task() is None
    assert (await queue.get_queue_stats()).delayed == 1
    result = await queue.get_task_result(task_id)
    assert result
    assert result.state is JobState.DELAYED
    assert "waits for its time" in result.message


async def test_many_are_accepted_together_or_not_at_all(config: AudioConfig) -> None:
    """A queue with room for three refuses four, and accepts none of them."""
    small = config.model_copy(update={"queue_max_size": 3})
    async with QueueService(config=small) as queue:
        with pytest.raises(QueueFullError, match="QUEUE_MAX_SIZE=3"):
            await queue.enqueue_many([HELLO] * 4)
        assert (await queue.get_queue_stats()).waiting == {}
        ids = await queue.enqueue_many([HELLO] * 3)
        assert len(set(ids)) == 3
        assert (await queue.get_queue_stats()).waiting == {3: 3}


async def test_a_batch_counts_and_keeps_its_order(queue: QueueService) -> None:
    """Finished in any order, the results are in the order of the requests, and the counters exact at every step."""
    batch = BatchAudioRequest(requests=[AudioRequest(text=f"Number {n}.", priority=n) for n in range(3)], batch_id="b1")
    assert await queue.enqueue_batch_tasks(batch) == await queue.enqueue_batch_tasks(batch) == "b1"
    seen = [await queue.get_batch_status("b1")]
    for response in (DONE, FAILED, DONE):
        task_id = await finish_next(queue, response)
        await queue.update_batch_progress("b1", task_id, response.success)
        seen.append(await queue.get_batch_status("b1"))
    shown = [(s.status, s.completed, s.failed, len(s.results)) for s in seen if s]
    assert shown == [("pending", 0, 0, 0), ("processing", 1, 0, 1), ("processing", 1, 1, 2), ("completed", 2, 1, 3)]
    last = seen[-1]
    assert last
    assert [result.success for result in last.results] == [True, False, True]
    assert [getattr(result, "task_id", "") for result in last.results] == ["b1-0", "b1-1", "b1-2"]


async def test_a_batch_without_any_success_failed(queue: QueueService) -> None:
    """Cancelled and dead tasks count as failed, and say what happened to them."""
    batch = BatchAudioRequest(requests=[HELLO, HELLO], batch_id="x" * 64)
    batch_id = await queue.enqueue_batch_tasks(batch)
    task = await queue.dequeue_task()
    assert task
    assert await queue.update_task_result(task.task_id, FAILED)
    (other,) = [task_id for task_id in _ids_of(batch_id) if task_id != task.task_id]
    assert await queue.cancel_task(other)
    assert not await queue.cancel_task(other)
    status = await queue.wait_for_batch(batch_id, timeout=PATIENCE_S)
    assert (status.status, status.completed, status.failed) == ("failed", 0, 2)
    assert {result.error_code for result in status.results} == {ErrorCode.CONTENT_BLOCKED, ErrorCode.TASK_CANCELLED}


def _ids_of(batch_id: str) -> list[str]:
    return [id_in_batch(batch_id, index) for index in range(2)]


async def test_waiting_is_woken(queue: QueueService, config: AudioConfig) -> None:
    """Another service of the same queue finishes the task, and who waits has its result at once."""
    task_id = await queue.enqueue_single_task(HELLO)
    async with QueueService(config=config) as worker:
        waiting = asyncio.create_task(queue.wait_for_result(task_id, timeout=PATIENCE_S))
        await finish_next(worker)
        assert (await waiting).success


async def test_waiting_ends_with_timeout_error(queue: QueueService) -> None:
    """The error says where the task or the batch is; unknown ones are an error of their own."""
    batch_id = await queue.enqueue_batch_tasks(BatchAudioRequest(requests=[HELLO]))
    with pytest.raises(TimeoutError, match="still queued"):
        await queue.wait_for_result(f"{batch_id}-0", timeout=0)
    with pytest.raises(TimeoutError, match="0 of 1 tasks"):
        await queue.wait_for_batch(batch_id, timeout=0.01)
    with pytest.raises(TaskNotFoundError):
        await queue.wait_for_result("nobody", timeout=1)
    with pytest.raises(TaskNotFoundError):
        await queue.wait_for_batch("nobody", timeout=1)


async def test_progress_of_a_batch_is_told(queue: QueueService) -> None:
    """The callback, plain or not, hears growing numbers up to the last; none is told twice."""
    batch_id = await queue.enqueue_batch_tasks(BatchAudioRequest(requests=[HELLO] * 5))
    plain: list[tuple[int, int]] = []
    coroutine: list[int] = []

    async def tell(done: int, total: int) -> None:
        coroutine.append(done * total)

    waiting = asyncio.gather(
        queue.wait_for_batch(batch_id, PATIENCE_S, lambda done, total: plain.append((done, total))),
        queue.wait_for_batch(batch_id, PATIENCE_S, tell),
    )
    for _ in range(5):
        await finish_next(queue)
    await waiting
    assert plain[-1] == (5, 5)
    assert plain == sorted(set(plain))
    assert coroutine[-1] == 25


BAD_PAYLOADS: list[Any] = [
    b"",
    b"null",
    b"[]",
    b"\xff\xfe",
    b"{",
    b"{}",
    {"v": 2, "request": {"text": "SECRET text"}},
    {"v": None, "request": {"text": "SECRET text"}},
    {"request": {"text": "SECRET text"}},
    {"v": 1},
    {"v": 1, "request": None},
    {"v": 1, "request": {"text": ""}},
    {"v": 1, "request": {"text": "SECRET text", "output_filename": "../escape"}},
    {"v": 1, "request": {"text": "SECRET text", "SECRET field": 1}},
    {"v": 1, "request": {"text": "SECRET text"}, "__class__": "os.system"},
    {"v": 1, "request": {"text": "SECRET text", "priority": 1e9}},
]


async def test_what_cannot_be_read_is_buried_with_its_reason(queue: QueueService) -> None:
    """Sixteen payloads as a stranger may write them: each is a dead letter, the good one behind them is served."""
    payloads = [bad if isinstance(bad, bytes) else json.dumps(bad).encode() for bad in BAD_PAYLOADS]
    jobs = [Job(f"bad-{number}", payload) for number, payload in enumerate(payloads)]
    await queue.backend.enqueue(jobs)
    good = await queue.enqueue_single_task(AudioRequest(text="A good one."))
    task = await queue.dequeue_task()
    assert task
    assert task.task_id == good
    letters = await queue.list_dead_letters()
    assert {letter.job_id for letter in letters} == {job.id for job in jobs}
    assert all(letter.reason.startswith("the payload is not valid: ") for letter in letters)
    assert not [letter for letter in letters if "SECRET" in letter.reason]
    result = await queue.get_task_result("bad-0")
    assert result
    assert result.error_code is ErrorCode.TASK_DEAD
    assert "the payload is not valid" in (result.error or "")


CAST = (
    SpeakerConfig(speaker_name="Alice", voice_name=VoiceName.KORE, speed=1.5),
    SpeakerConfig(speaker_name="Bob", voice_name=VoiceName.PUCK, style="calm"),
)


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (AudioRequest(text="Hello."), {"text"}),
        (
            AudioRequest(text="Hallo.", voice_config=VoiceConfig(pitch=1.2), priority=3),
            {"text", "voice_config", "priority"},
        ),
        (
            AudioRequest(text="Alice: Hi.\nBob: Ho.", speaker_mode=SpeakerMode.MULTIPLE, cast=CAST),
            {"text", "speaker_mode", "cast"},
        ),
    ],
    ids=["plain", "voice", "cast"],
)
async def test_a_payload_holds_what_differs_from_the_defaults(
    request_: AudioRequest, fields: set[str], queue: QueueService
) -> None:
    """A worker of an earlier version can read it unless it uses something new; the request is the same afterwards."""
    await queue.enqueue_single_task(request_)
    (lease,) = await queue.backend.lease(1, 30)
    document = json.loads(lease.payload)
    assert (document["v"], set(document["request"])) == (1, fields)
    assert decode_request(lease.payload) == request_


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_an_error(payload: bytes) -> None:
    """No payload makes anything but a request or the one error that says why not."""
    with suppress(QueueServiceError):
        assert isinstance(decode_request(payload), AudioRequest)


async def test_a_result_of_a_stranger_is_an_error(queue: QueueService) -> None:
    """What is no response of this version is not passed off as one."""
    task_id = await queue.enqueue_single_task(HELLO)
    (lease,) = await queue.backend.lease(1, 30)
    await queue.backend.finish(lease, b'{"v":9}', success=True)
    with pytest.raises(QueueServiceError, match=f"the result of task {task_id} is not valid"):
        await queue.get_task_result(task_id)


async def test_dead_letters_can_be_retried_and_discarded(queue: QueueService) -> None:
    """A retried one is served again, a cancelled one is gone."""
    for name in ("one", "two"):
        await queue.enqueue_single_task(HELLO, task_id=name)
        (lease,) = await queue.backend.lease(1, 30)
        await queue.backend.bury(lease, "for this test")
    assert [letter.job_id for letter in await queue.list_dead_letters(limit=1)] == ["two"]
    assert await queue.retry_dead_letter("one")
    assert not await queue.retry_dead_letter("one")
    assert await queue.cancel_task("two")
    assert await finish_next(queue) == "one"
    assert await queue.list_dead_letters() == []


@pytest.mark.parametrize("all_of_them", [False, True])
async def test_a_retry_by_hand_forgets_the_failures_before(all_of_them: bool, queue: QueueService) -> None:
    """``TASK_MAX_AGE`` begins again; a sound that its last worker published is still known for the task's own."""
    await queue.enqueue_single_task(HELLO, task_id="old")
    (lease,) = await queue.backend.lease(1, 30)
    note = {"tries": 9, "failing_since": time.time() - 7 * 3600, "billed_calls": 3, "file": "a.wav", "st_size": 7}
    await queue.backend.progress(lease, note)
    await queue.backend.bury(lease, "for this test")
    assert await (queue.retry_all_dead_letters() if all_of_them else queue.retry_dead_letter("old"))
    (lease,) = await queue.backend.lease(1, 30)
    assert (lease.deliveries, lease.progress) == (1, {"file": "a.wav", "st_size": 7})
    assert History.from_note(lease.progress or {}) == History()


async def test_all_dead_letters_are_retried_once(queue: QueueService) -> None:
    """Each goes back among those that wait, also beyond a page of the list; then none is left."""
    ids = [await queue.enqueue_single_task(AudioRequest(text=f"Number {number}.")) for number in range(120)]
    for lease in await queue.backend.lease(120, 60):
        await queue.backend.bury(lease, "bad")
    assert len(await queue.list_tasks(JobState.DEAD, 200)) == 120
    assert await queue.retry_all_dead_letters() == 120
    assert sorted(task.task_id for task in await queue.list_tasks(JobState.QUEUED, 200)) == sorted(ids)
    assert await queue.retry_all_dead_letters() == 0


async def test_a_taken_task_is_kept_while_its_taker_lives(config: AudioConfig) -> None:
    """The lease is renewed in the background; when the taker has closed, another one gets the task."""
    short = config.model_copy(update={"lease_time": 2.0})
    renewed_at: list[float] = []
    async with QueueService(config=short) as other:
        async with QueueService(config=short) as taker:
            renew = taker.backend.renew

            async def renew_and_note(leases: Sequence[Lease]) -> list[Lease]:
                kept = await renew(leases)
                renewed_at.append(time.monotonic())
                return kept

            taker.backend.renew = renew_and_note  # type: ignore[method-assign]
            task_id = await taker.enqueue_single_task(HELLO)
            taken_at = time.monotonic()
            assert await taker.dequeue_task()
            # No other worker asks before the lease would have run out, and was just renewed.
            await until(lambda: renewed_at and renewed_at[-1] > taken_at + short.lease_time)
            assert await other.backend.lease(1, 1.0) == []
        (lease,) = await other.backend.lease(1, 1.0, wait_s=PATIENCE_S)
        assert (lease.job_id, lease.deliveries) == (task_id, 2)


async def test_a_task_that_was_cancelled_cannot_be_finished(config: AudioConfig) -> None:
    """Neither by who has it, nor by who never had it."""
    async with QueueService(config=config.model_copy(update={"lease_time": 0.3})) as queue:
        task_id = await queue.enqueue_single_task(HELLO)
        assert not await queue.update_task_result(task_id, DONE)
        await queue.dequeue_task()
        assert await queue.cancel_task(task_id)
        assert not await queue.update_task_result(task_id, DONE)
        result = await queue.get_task_result(task_id)
        assert result
        assert result.state is JobState.CANCELLED


async def test_results_expire_after_completion(config: AudioConfig) -> None:
    """Their time begins when the task is finished; the queue in memory forgets when it is told to."""
    async with QueueService(config=config.model_copy(update={"result_ttl": 0.05})) as queue:
        task_id = await queue.enqueue_single_task(HELLO)
        await finish_next(queue)
        async with asyncio.timeout(PATIENCE_S):
            while await queue.get_task_result(task_id):  # noqa: ASYNC110 -- nothing tells of an expiry
                await asyncio.sleep(0.01)
        assert await queue.cleanup_expired_tasks() == 0


async def test_health_names_who_answers(queue: QueueService) -> None:
    """A healthy queue is true and says what it is."""
    health = await queue.health_check()
    assert health
    assert health.backend


async def test_after_close_every_call_says_so(config: AudioConfig) -> None:
    """Used before or not, and closed as often as one likes; who waits is told, too."""
    for used in (True, False):
        queue = QueueService(config=config)
        if used:
            task_id = await queue.enqueue_single_task(HELLO)
            waiting = asyncio.create_task(queue.wait_for_result(task_id))
            await asyncio.sleep(0)
        await queue.close()
        await queue.close()
        with pytest.raises(QueueClosedError):
            await queue.enqueue_single_task(HELLO)
        if used:
            with pytest.raises(QueueClosedError):
                await waiting


async def test_the_argument_wins_over_the_settings(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    """``use_redis`` decides when it is given; without a config the environment is read at the first call."""
    monkeypatch.setenv("QUEUE_NAME", f"test-{secrets.token_hex(6)}")
    monkeypatch.setenv("REDIS_URL", redis_url)
    async with QueueService(use_redis=True) as there, QueueService() as here:
        assert there.backend.durable
        assert isinstance(here.backend, MemoryBackend)


async def test_no_trace_of_a_text_or_password(
    config: AudioConfig, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Nothing that the queue logs, raises or shows holds the text to speak or the password of Redis."""
    caplog.set_level(0)
    async with QueueService(config=config) as queue:
        task_id = await queue.enqueue_single_task(AudioRequest(text="A very SECRET sentence."))
        (lease,) = await queue.backend.lease(1, 30)
        shown = f"{lease!r} {queue!r} {await queue.get_task_result(task_id)!r} {caplog.text}"
    assert "SECRET" not in shown
    assert "CANARY" not in shown


LONGEST = {"Hindi": "नमस्ते दुनिया। ", "Chinese": "你好，世界。", "emoji and quotes": '🙂 "yes" \\ '}


@pytest.mark.parametrize("language", LONGEST)
async def test_a_text_of_the_greatest_length_is_a_task_in_every_script(language: str, queue: QueueService) -> None:
    """MAX_TEXT_LENGTH counts characters, however many bytes each of them has."""
    pattern = LONGEST[language]
    request = AudioRequest(text=(pattern * 100_000)[:100_000].rstrip())
    task_id = await queue.enqueue_single_task(request)
    task = await queue.dequeue_task()
    assert task
    assert (task.task_id, task.request) == (task_id, request)


async def test_a_hundred_long_dead_letters_are_listed_at_once(queue: QueueService) -> None:
    """With their texts, the latest first, in seconds; the bound and the offset hold."""
    count = 100
    for number in range(count):
        text = json.dumps({"v": 0, "text": "a" * 300_000})
        await queue.backend.enqueue([Job(f"long-{number}", text.encode())])
        (lease,) = await queue.backend.lease(1, 30)
        await queue.backend.bury(lease, "too long to tell")
    started = time.monotonic()
    letters = await queue.list_dead_letters()
    assert time.monotonic() - started < 20
    assert {len(letter.payload) for letter in letters} == {300_020}
    expected = [f"long-{number}" for number in reversed(range(count))]
    assert sorted(letter.job_id for letter in letters) == sorted(expected)
    some = await queue.list_dead_letters(limit=30, offset=20)
    assert [letter.job_id for letter in some] == [letter.job_id for letter in letters[20:50]]
    assert await queue.list_dead_letters(limit=3, offset=98) == letters[98:]


async def test_a_redis_password_is_in_no_frame_and_no_context_of_an_error(redis_url: str) -> None:
    """Error reporters send the variables of every frame, those of chained errors included."""
    canary = "CANARY-wrong-password"
    here = redis_url.rpartition("@")[2]
    urls = [f"redis://:{canary}@{here}", f"redis://:{canary}@127.0.0.1:1/0", f"redis://:{canary}@h?ssl_ca_certs=/none"]
    for url in urls:
        queue = QueueService(use_redis=True, config=AudioConfig(redis_url=url, _env_file=None))
        with pytest.raises(AudioAPIError) as caught:
            await queue.enqueue_single_task(AudioRequest(text="Hello."))
        await queue.close()
        error: BaseException | None = caught.value
        while error:
            report = traceback.TracebackException.from_exception(error, capture_locals=True)
            shown = [frame.locals for frame in report.stack if frame.filename != __file__]
            assert canary not in f"{error} {shown}"
            error = error.__cause__ or error.__context__
