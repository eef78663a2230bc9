"""``audio-api queue``: what waits in the queue in Redis, and what became of it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from audio_api.cli.exit_codes import DONE, FAILED
from audio_api.cli.options import AsJson, settings_of
from audio_api.cli.terminal import complain, run
from audio_api.cli.wording import hours
from audio_api.errors import ConfigurationError, TTSValidationError

if TYPE_CHECKING:
    from audio_api.services.queue_service import QueueService

queue = typer.Typer(help="Show, retry and cancel the tasks of the queue in Redis.", rich_markup_mode=None)

_States = Literal["queued", "delayed", "leased", "succeeded", "failed", "cancelled", "dead"]
_UNFINISHED: tuple[_States, ...] = ("queued", "delayed", "leased", "dead")
_Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", hidden=True)]


@queue.command()
def stats(as_json: AsJson = False) -> int:
    """Count the tasks of the queue."""
    return run(_stats(as_json=as_json))


@queue.command("list")
def list_tasks(
    state: Annotated[
        _States | None,
        typer.Option(metavar="STATE", help="queued, delayed, leased, succeeded, failed, cancelled or dead"),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="the most of each state", min=1)] = 100,
    as_json: AsJson = False,
) -> int:
    """List tasks: by default those that wait, are worked on, or were given up."""
    return run(_list((state,) if state else _UNFINISHED, limit, as_json=as_json))


@queue.command()
def retry(
    ids: _Ids = None,
    every: Annotated[bool, typer.Option("--all", help="every task that was given up")] = False,
) -> int:
    """Queue tasks again that were given up.

    ID is a task's id; the command queue list shows them.
    """
    if bool(ids) == every:
        raise TTSValidationError("give the ids of tasks, which queue list --state dead shows, or --all")
    return run(_retry(ids))


@queue.command()
def cancel(ids: Annotated[list[str], typer.Argument(metavar="ID", hidden=True)]) -> int:
    """Take tasks out, wherever they are; a worker that is at one stops, and writes nothing.

    ID is a task's id; the command queue list shows them.
    """
    return run(_cancel(ids))


@asynccontextmanager
async def _opened() -> AsyncIterator[QueueService]:
    from audio_api.services.queue_service import QueueService

    config = settings_of(offline=False)
    if not config.use_redis:
        raise ConfigurationError(
            "a queue in memory is seen by its own process only: set USE_REDIS=true and REDIS_URL to see one in Redis"
        )
    async with QueueService(config=config) as service:
        yield service


async def _stats(*, as_json: bool) -> int:
    async with _opened() as service:
        found = await service.get_queue_stats()
    if as_json:
        print(json.dumps(asdict(found)))
        return DONE
    priorities = ", ".join(f"{count:,} of priority {priority}" for priority, count in sorted(found.waiting.items()))
    oldest = "" if found.oldest_age_s is None else f", the oldest for {hours(found.oldest_age_s)}"
    print(f"waiting    {sum(found.waiting.values()):,}{f' ({priorities}{oldest})' if priorities else ''}")
    for name in ("delayed", "leased", "dead", "succeeded", "failed", "cancelled"):
        print(f"{name:<10} {getattr(found, name):,}")
    return DONE


async def _list(states: tuple[_States, ...], limit: int, *, as_json: bool) -> int:
    from audio_api.queues.jobs import JobState

    async with _opened() as service:
        tasks = [task for state in states for task in await service.list_tasks(JobState(state), limit)]
    if as_json:
        print(json.dumps([task.model_dump(mode="json") for task in tasks], ensure_ascii=False))
        return DONE
    for task in tasks:
        age = hours(max(0.0, (task.finished_at or time.time()) - task.enqueued_at))
        note = task.file_path or task.url or ""
        if task.progress:
            note = f"{task.progress.pieces_done} of {task.progress.pieces_total} pieces"
        elif task.state.final and task.error:
            note = " ".join(task.error.split())
        print(f"{task.task_id:<34} {task.state:<9} {age:>9}  {note}".rstrip())
    return DONE


async def _retry(ids: list[str] | None) -> int:
    async with _opened() as service:
        if ids is None:
            print(f"{await service.retry_all_dead_letters():,} tasks wait again")
            return DONE
        done = [await service.retry_dead_letter(each) for each in ids]
    return _told(ids, done, "waits again", "was not given up: queue list --state dead shows those that were")


async def _cancel(ids: list[str]) -> int:
    async with _opened() as service:
        done = [await service.cancel_task(each) for each in ids]
    return _told(ids, done, "cancelled", "is unknown, finished or cancelled already")


def _told(ids: list[str], done: list[bool], success: str, failure: str) -> int:
    for task_id, is_done in zip(ids, done, strict=True):
        if is_done:
            print(f"{task_id}  {success}")
        else:
            complain(f"{task_id} {failure}")
    return DONE if all(done) else FAILED
