"""Queued tasks of the tier batch: those of one queued batch share their jobs at Google's, and no worker waits for them.

The first task that is not over creates the jobs, under its lease. Just before each creation it notes the time in the
queue, and afterwards how many jobs there are; the others wait for that. Any machine finds the jobs again by their
names, which are made of the queue and the batch, and brings the results into a folder of its own. From there each task
makes its own sound, as it would by an ordinary call.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from audio_api.audio.file_threads import in_file_thread
from audio_api.engines.base import SpeechEngine
from audio_api.engines.gemini_batches import BatchCalls, RemoteJob
from audio_api.errors import AudioAPIError, ErrorCode, QueueServiceError, WorkerServiceError
from audio_api.models.audio_request import AudioRequest
from audio_api.queues.base import QueueBackend
from audio_api.queues.jobs import JobStatus, Lease
from audio_api.services.batch_jobs import BatchJobs
from audio_api.services.batch_journal import BatchPart, Journal, Record, claimed
from audio_api.services.batch_means import Means
from audio_api.services.batch_plan import Plan
from audio_api.services.batch_results import BatchResults
from audio_api.services.drafts import Drafting
from audio_api.services.job_codec import decode_request

_FOLDER = Path(".batches", ".tasks")
# Until a task's next look at its jobs: a quarter of their age, within these.
_LEAST_WAIT_S, _MOST_WAIT_S = 5.0, 60.0
# What the tasks of a batch note in the queue: when the first of them began, when a creation was last asked for, and how
# many jobs there are.
_SINCE, _ASKED, _JOBS = "batch_since", "batch_asked_at", "batch_jobs"
NOTES = frozenset({_SINCE, _ASKED, _JOBS})
"""The names in a job's note that tell of its batch."""
# What has long been collected is removed; a later task would bring it again.
_KEPT_S = 3 * 86_400.0
# Beyond ``BATCH_DEADLINE`` no job is created; so much later no creation is in progress.
_GRACE_S = 600.0


class TaskBatch:
    """The jobs of a queued batch, or of a single task, as the worker of one task sees them.

    Args:
        queue: The queue.
        queue_name: Its name.
        lease: The task.
        means: What a batch is made with.
        engine: Makes ordinary calls.
        calls: Those of the Batch API.

    Attributes:
        notes: What the queue was told of the batch.
        index: The task's number in the batch, once ``look`` has returned.
    """

    def __init__(
        self,
        queue: QueueBackend,
        queue_name: str,
        lease: Lease,
        means: Means,
        engine: SpeechEngine,
        calls: BatchCalls,
    ) -> None:
        self.notes: dict[str, Any] = {}
        self.index = 0
        self._queue = queue
        self._queue_name = queue_name
        self._lease = lease
        self._means = means
        self._engine = engine
        self._calls = calls

    async def look(self) -> BatchResults | float:
        """Take the next step of the jobs.

        Returns:
            What they have brought; or the seconds until the next look.

        Raises:
            AudioAPIError: A person must act.
            WorkerServiceError: The task belongs to another worker.
        """
        lease, config = self._lease, self._means.config
        alone = [] if lease.batch_id else [await self._queue.status(lease.job_id)]
        members = [task for task in alone if task] or await self._queue.batch_jobs(lease.batch_id or "")
        self.index = next((at for at, task in enumerate(members) if task.job_id == lease.job_id), -1)
        if self.index < 0:
            raise WorkerServiceError(f"task {lease.job_id} is gone", code=ErrorCode.LEASE_LOST)
        # A batch of the same name may have been there before.
        whole = f"{self._queue_name}/{lease.batch_id or lease.job_id}/{members[0].enqueued_at!r}"
        name = hashlib.sha256(whole.encode()).hexdigest()[:32]
        folder = config.output_dir.absolute() / _FOLDER / name
        journal = await in_file_thread(Journal.load, folder)
        now_s = self._means.clock.now().timestamp()
        if journal is None or not journal.has_ended:
            if journal and journal.record.looked_at > now_s - _LEAST_WAIT_S:
                return _LEAST_WAIT_S
            with claimed(folder):
                journal = await self._advanced(folder, members, now_s)
            if journal is None:
                return _LEAST_WAIT_S
            if not journal.has_ended:
                return min(max(_LEAST_WAIT_S, (now_s - journal.record.created_at) / 4), _MOST_WAIT_S)
        return await in_file_thread(BatchResults.of, journal, self._engine, self._calls, config, self.index)

    async def _advanced(self, folder: Path, members: Sequence[JobStatus], now_s: float) -> Journal | None:
        """The journal of this machine, a step further; ``None``: the jobs are not all created yet."""
        notes = [task.progress or {} for task in members]
        since_s = min((float(note[_SINCE]) for note in notes if _SINCE in note), default=now_s)
        is_late = now_s - since_s > self._means.config.batch_deadline + _GRACE_S
        count = next((int(note[_JOBS]) for note in notes if _JOBS in note), None)
        journal = await in_file_thread(Journal.load, folder)
        if count is not None and not (journal and journal.is_created):
            journal = await self._found(folder, count, since_s)
        elif count is None and not is_late and await self._leads(members):
            asked_at = max((float(note[_ASKED]) for note in notes if _ASKED in note), default=0.0)
            journal = await self._created(folder, members, journal, since_s, asked_at)
        elif count is None:
            journal = None
        if journal is None:
            return _journal(folder, [], since_s) if is_late else None
        journal.record.looked_at = now_s
        await in_file_thread(journal.save)
        for part in journal.record.parts:
            if part.job and part.state is None:
                await BatchJobs(journal, self._calls, self._means).advance(part)
        return journal

    async def _leads(self, members: Sequence[JobStatus]) -> bool:
        """Whether this task is the first that is not over and wants a batch."""
        for task in members[: self.index]:
            if not task.state.final and _request_of(await self._queue.payload(task.job_id)):
                return False
        return True

    async def _created(
        self, folder: Path, members: Sequence[JobStatus], journal: Journal | None, since_s: float, asked_at: float
    ) -> Journal:
        """Plan the jobs, and create those that may be; tells the queue before and after."""
        await self._note({_SINCE: since_s})
        if journal is None:
            config, means = self._means.config, self._means
            requests = [_request_of(await self._queue.payload(task.job_id)) for task in members]
            drafting = Drafting(lambda: config, means.make, self._engine, means.clock)
            missing = iter(await drafting.missing([request for request in requests if request], config))
            # What cannot be fulfilled will say so itself.
            found = [next(missing) if request else [] for request in requests]
            plan = Plan.of([[] if isinstance(pieces, AudioAPIError) else pieces for pieces in found])
            journal = _journal(folder, plan.parts(_stem(folder)), since_s)
            await in_file_thread(_sweep, folder)
            await in_file_thread(journal.begin, plan.inputs(self._calls))
        jobs = BatchJobs(journal, self._calls, self._means)
        for part in list(journal.record.parts):
            # Another machine may have asked meanwhile.
            part.asked_at = max(part.asked_at, asked_at)
            if not part.job and part.state is None and await jobs.is_due(part):
                now_s = self._means.clock.now().timestamp()
                await self._note({_ASKED: now_s})
                await jobs.create(part, now_s)
                # After a refusal there is nothing to be looked for.
                unsure = [each.asked_at for each in journal.record.parts if not each.job]
                await self._note({_ASKED: max(unsure, default=0.0)})
        if journal.is_created:
            await self._note({_JOBS: sum(bool(part.job) for part in journal.record.parts)})
        return journal

    async def _found(self, folder: Path, count: int, since_s: float) -> Journal | None:
        """The journal of jobs that another machine created; ``None``: the API does not list them all yet."""
        found: dict[str, RemoteJob] = {}
        async with aclosing(self._calls.jobs()) as jobs:
            async for job in jobs:
                if len(found) == count:
                    break
                if job.display_name.startswith(f"{_stem(folder)}-"):
                    found.setdefault(job.display_name, job)
        if len(found) < count:
            return None
        now_s = self._means.clock.now().timestamp()
        parts = [
            BatchPart(display_name=name, model="", input=f"found-{number}.jsonl", job=job.name, created_at=now_s)
            for number, (name, job) in enumerate(found.items())
        ]
        journal = _journal(folder, parts, since_s)
        await in_file_thread(_sweep, folder)
        await in_file_thread(journal.begin, {})
        return journal

    async def _note(self, news: Mapping[str, float]) -> None:
        """Tell the queue, on behalf of all tasks of the batch.

        Raises:
            WorkerServiceError: The task belongs to another worker.
        """
        self.notes |= news
        if not await self._queue.progress(self._lease, {**(self._lease.progress or {}), **self.notes}):
            raise WorkerServiceError(f"task {self._lease.job_id} belongs to another worker", code=ErrorCode.LEASE_LOST)


def _journal(folder: Path, parts: list[BatchPart], since_s: float) -> Journal:
    return Journal(folder, Record(digest="", total=0, created_at=since_s, parts=parts))


def _stem(folder: Path) -> str:
    return f"audio-api-{folder.name}"


def _request_of(payload: bytes | None) -> AudioRequest | None:
    """What is to be spoken; ``None``: nothing any more, or by no batch."""
    try:
        request = decode_request(payload or b"")
    except QueueServiceError:
        return None
    return request.model_copy(update={"service_tier": None}) if request.service_tier == "batch" else None


def _sweep(folder: Path) -> None:
    """Remove what earlier batches have left, and no task has looked at for days."""
    for path in folder.parent.glob("*/batch.json"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - _KEPT_S:
                shutil.rmtree(path.parent)
