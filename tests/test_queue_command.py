"""``audio-api queue``: what it counts, lists, retries and cancels in a real Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest

from audio_api.cli import main
from audio_api.config import AudioConfig
from audio_api.models.audio_request import AudioRequest, AudioResponse
from audio_api.services.queue_service import QueueService

Captured = pytest.CaptureFixture[str]
DONE = AudioResponse(success=True, message="1.00 s of speech", file_path="/srv/a.wav", duration=1.0)


InQueue = Callable[[Callable[[QueueService], Awaitable[None]]], None]


@pytest.fixture
def in_queue(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[QueueService], Awaitable[None]]], None]:
    """Does something with a queue of its own name, which the settings name, too."""
    for name, value in {"USE_REDIS": "true", "REDIS_URL": redis_url, "QUEUE_NAME": uuid4().hex}.items():
        monkeypatch.setenv(name, value)

    def do(work: Callable[[QueueService], Awaitable[None]]) -> None:
        async def opened() -> None:
            async with QueueService(config=AudioConfig()) as queue:
                await work(queue)

        asyncio.run(opened())

    return do


async def three_tasks(queue: QueueService) -> None:
    """One that is done, one that was given up, one that waits."""
    for name in ("done", "dead"):
        await queue.enqueue_single_task(AudioRequest(text=f"Hello {name}."), task_id=name)
    assert await queue.dequeue_task()
    assert await queue.update_task_result("done", DONE)
    (dead,) = await queue.backend.lease(1, 30)
    await queue.backend.bury(dead, "its worker died three times")
    await queue.enqueue_single_task(AudioRequest(text="Hello you.", priority=5), task_id="waiting")


def run(capfd: Captured, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command of ``queue``."""
    return main(["queue", *arguments]), *capfd.readouterr()


def test_tasks_are_counted(in_queue: InQueue, capfd: Captured) -> None:
    """By state, and those that wait by priority; as JSON, too."""
    in_queue(three_tasks)
    code, out, err = run(capfd, "stats")
    rows = {line.split()[0]: line.split()[1] for line in out.splitlines()}
    assert (code, err) == (0, "")
    assert rows == {
        "waiting": "1", "delayed": "0", "leased": "0", "dead": "1", "succeeded": "1", "failed": "0", "cancelled": "0",
    }  # fmt: skip
    assert "1 of priority 5, the oldest for 0:00:0" in out
    assert json.loads(run(capfd, "stats", "--json")[1])["waiting"] == {"5": 1}


def test_tasks_are_listed(in_queue: InQueue, capfd: Captured) -> None:
    """By default those that are not finished, or were given up; of any state on request."""
    in_queue(three_tasks)
    assert [line.split()[:2] for line in run(capfd, "list")[1].splitlines()] == [
        ["waiting", "queued"],
        ["dead", "dead"],
    ]
    assert "its worker died three times" in run(capfd, "list", "--state", "dead")[1]
    assert run(capfd, "list", "--state", "succeeded")[1].rstrip().endswith("/srv/a.wav")
    (told,) = json.loads(run(capfd, "list", "--state", "queued", "--json")[1])
    assert (told["task_id"], told["priority"]) == ("waiting", 5)


def test_tasks_that_were_given_up_wait_again(in_queue: InQueue, capfd: Captured) -> None:
    """By id, or all of them; one that was not given up is told, with exit code 1."""
    in_queue(three_tasks)
    assert run(capfd, "retry", "dead") == (0, "dead  waits again\n", "")
    code, out, err = run(capfd, "retry", "dead")
    assert (code, out) == (1, "")
    assert err == "audio-api: dead was not given up: queue list --state dead shows those that were\n"
    assert run(capfd, "retry", "--all") == (0, "0 tasks wait again\n", "")
    assert json.loads(run(capfd, "stats", "--json")[1])["waiting"] == {"0": 1, "5": 1}


def test_tasks_are_cancelled(in_queue: InQueue, capfd: Captured) -> None:
    """Each that can be; the others are told."""
    in_queue(three_tasks)
    code, out, err = run(capfd, "cancel", "waiting", "unknown")
    assert (code, out) == (1, "waiting  cancelled\n")
    assert err == "audio-api: unknown is unknown, finished or cancelled already\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stats"], "set USE_REDIS=true and REDIS_URL"),
        (["retry"], "give the ids of tasks"),
        (["retry", "a", "--all"], "give the ids of tasks"),
        (["cancel"], "ID is missing; see audio-api queue cancel --help"),
        (["list", "--state", "lost"], "--state: 'lost' is not one of"),
        (["list", "--limit", "0"], "--limit: must be greater than or equal to 1"),
        (["cancl"], "did you mean 'cancel'? See audio-api queue --help"),
        ([], "name a command, such as stats; see audio-api queue --help"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], words: str, capfd: Captured) -> None:
    """Exit code 2."""
    code, out, err = run(capfd, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_a_queue_that_does_not_answer_may_do_so_later(capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 3."""
    monkeypatch.setenv("USE_REDIS", "true")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    code, out, err = run(capfd, "stats")
    assert (code, out, err.count("\n")) == (3, "", 1)
