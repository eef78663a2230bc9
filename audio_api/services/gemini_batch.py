"""Speech at half the price by Gemini's Batch API.

A batch is one job for each model. ``BatchResults`` speaks what it brings, as an engine of the same pipeline that serves
all requests: it is checked, kept, written and reported like every other sound.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audio_api.audio.file_threads import in_file_thread
from audio_api.config import AudioConfig, get_config
from audio_api.engines.base import SpeechEngine
from audio_api.engines.gemini_batches import BatchCalls
from audio_api.errors import AudioAPIError, TTSValidationError
from audio_api.models.audio_request import AudioRequest, AudioResponse, BatchAudioResponse
from audio_api.retry import Clock
from audio_api.services.batch_jobs import BatchJobs
from audio_api.services.batch_journal import (
    BatchEntry,
    Journal,
    claimed,
    digest_of,
    folder_of,
    known_batches,
)
from audio_api.services.batch_means import Means
from audio_api.services.batch_plan import Plan, name_for, planned
from audio_api.services.batch_results import BatchResults
from audio_api.services.drafts import Drafting, is_noted
from audio_api.services.report import finished_batch
from audio_api.speech.assembly import tell
from audio_api.speech.listening import Recogniser
from audio_api.speech.planning import PlannedPiece
from audio_api.speech.speaker import SpeakOptions

logger = logging.getLogger(__name__)

# Jobs of 3.8 were seen to take 2 to 5 minutes.
_FIRST_POLL_S, _LONGEST_POLL_S, _POLL_GROWTH = 2.0, 60.0, 1.5


@dataclass(frozen=True, slots=True)
class GeminiBatchStatus:
    """How far a batch is.

    Attributes:
        name: The batch.
        state: ``"waiting"`` until every job is created, ``"running"``, ``"ended"`` when the results can be collected,
            ``"collected"``.
        requests: How many there are.
        collected: How many have their response.
        jobs: The state of each job, by its name at Google's, or by ours before it has one.
        problem: Why a job is not created yet, or failed; empty: no problem.
    """

    name: str
    state: str
    requests: int
    collected: int
    jobs: dict[str, str]
    problem: str = ""


StatusCallback = Callable[[GeminiBatchStatus], Awaitable[None] | None]
"""Called at every look at the jobs, and after each response."""


class GeminiBatch:
    """A batch, whose state is in a folder below ``OUTPUT_DIR``: any later process goes on where one was killed.

    Args:
        journal: Its folder.
        means: What it is made with.
    """

    def __init__(self, journal: Journal, means: Means) -> None:
        self._journal = journal
        self._means = means

    @property
    def name(self) -> str:
        """Its name, for ``load``."""
        return self._journal.name

    @property
    def created_at(self) -> float:
        """When it began, in Unix seconds."""
        return self._journal.record.created_at

    @classmethod
    def load(
        cls,
        name: str,
        config: AudioConfig | None = None,
        *,
        recogniser: Recogniser | None = None,
        clock: Clock | None = None,
    ) -> GeminiBatch:
        """A batch that was submitted before, by whatever process.

        Args:
            name: Its name.
            config: The settings, with the same ``output_dir``; ``None``: ``get_config()``.
            recogniser: As ``TTSService`` takes it.
            clock: Time and chance; ``None``: the real ones.

        Raises:
            TTSValidationError: There is none of this name, or its journal is damaged.
        """
        config = config or get_config()
        journal = Journal.load(folder_of(config.output_dir, name))
        if journal is None:
            known = ", ".join(known_batches(config.output_dir)) or "none"
            raise TTSValidationError(f"there is no batch {name!r} in {str(config.output_dir)!r}; there are: {known}")
        return cls(journal, Means(config, clock or Clock(), recogniser=recogniser))

    @classmethod
    def resumed(cls, requests: Sequence[AudioRequest], name: str | None, means: Means) -> GeminiBatch | None:
        """The batch of that name, or the one of these requests that is not collected; ``None``: there is none.

        Args:
            requests: What to speak.
            name: As ``submit_batch`` takes it.
            means: What it is made with.

        Raises:
            TTSValidationError: The name belongs to other requests, or is none.
        """
        digest = digest_of(requests)
        journal = Journal.load(folder_of(means.config.output_dir, name or name_for(digest)))
        if journal and name and journal.record.digest != digest:
            raise TTSValidationError(f"the batch {name} exists with other requests: choose another name")
        is_over = journal is None or (journal.is_finished and not name)
        return None if journal is None or is_over else cls(journal, means)

    @classmethod
    async def begin(
        cls,
        requests: Sequence[AudioRequest],
        missing: Sequence[Sequence[PlannedPiece] | AudioAPIError],
        name: str | None,
        means: Means,
    ) -> GeminiBatch:
        """Write the journal of a batch that is not there yet.

        Args:
            requests: As ``resumed``.
            missing: Of each request the pieces that are not kept, or why it cannot be fulfilled.
            name: As ``resumed``.
            means: As ``resumed``.

        Raises:
            AudioAPIError: A request cannot be fulfilled, which the text names.
        """
        pieces: list[Sequence[PlannedPiece]] = []
        for found in missing:
            if isinstance(found, AudioAPIError):
                raise type(found)(f"request {len(pieces) + 1}: {found}", code=found.code)
            pieces.append(found)
        digest = digest_of(requests)
        folder = folder_of(means.config.output_dir, name or name_for(digest))
        with claimed(folder):
            if batch := await in_file_thread(cls.resumed, requests, name, means):
                return batch
            plan = Plan.of(pieces)
            journal = planned(requests, plan, folder, digest, means.clock, is_named=name is not None)
            async with means.calls() as (_, calls):
                await in_file_thread(journal.begin, plan.inputs(calls))
        return cls(journal, means)

    async def create(self) -> None:
        """Create the jobs that are not there yet; ``TTSService.submit_batch`` calls this.

        Raises:
            TTSOutputError, ConfigurationError, TTSAuthenticationError, TTSQuotaError: As from ``collect``.
        """
        with claimed(self._journal.folder):
            self._reload()
            async with self._means.calls() as (_, calls):
                await BatchJobs(self._journal, calls, self._means).create_all()

    async def refresh(self) -> GeminiBatchStatus:
        """Ask the API once how far the jobs are, and bring the results of those that have ended.

        Raises:
            TTSOutputError, ConfigurationError, TTSAuthenticationError, TTSQuotaError: As from ``collect``.
        """
        with claimed(self._journal.folder):
            self._reload()
            async with self._means.calls() as (_, calls):
                await BatchJobs(self._journal, calls, self._means).advance_all()
        return self.status()

    def status(self) -> GeminiBatchStatus:
        """What the journal knew when it was last looked at; ``refresh`` and ``collect`` ask the API."""
        record, entries = self._journal.record, self._journal.entries
        collected = sum(entry.response is not None for entry in entries)
        jobs = {
            part.job or part.display_name: part.state or ("running" if part.job else "waiting") for part in record.parts
        }
        state = "running"
        if collected == len(entries):
            state = "collected"
        elif all(part.state for part in record.parts):
            state = "ended"
        elif not all(part.job or part.state for part in record.parts):
            state = "waiting"
        problem = next((part.problem for part in record.parts if part.problem), "")
        return GeminiBatchStatus(self.name, state, len(entries), collected, jobs, problem)

    async def cancel(self) -> None:
        """End the jobs; what they had finished by then is billed, and collected if Google gives it out.

        Raises:
            AudioAPIError: Google does not answer; ``collect`` asks again.
        """
        with claimed(self._journal.folder):
            self._reload()
            self._journal.record.cancelled = True
            await in_file_thread(self._journal.save)
            async with self._means.calls() as (_, calls):
                await BatchJobs(self._journal, calls, self._means).advance_all()

    async def collect(self, on_progress: StatusCallback | None = None) -> BatchAudioResponse:
        """Wait for the jobs, and make the file of every request from their results.

        A process that was killed meanwhile is followed by another call of this, which does not create, download, or
        charge again what was. Failed and doubtful results, and those of jobs that take longer than ``BATCH_DEADLINE``,
        are asked for by ordinary calls if ``BATCH_FALLBACK`` says so.

        Args:
            on_progress: Told how far it is; a coroutine function is awaited. ``None``: no listener is told.

        Returns:
            The responses in the order of the requests.

        Raises:
            TTSOutputError: Another process collects it, or the folder takes no files.
            ConfigurationError, TTSAuthenticationError, TTSQuotaError: A person must act; then call it again.
        """
        with claimed(self._journal.folder):
            self._reload()
            async with self._means.calls() as (engine, calls):
                jobs = BatchJobs(self._journal, calls, self._means)
                poll_s = _FIRST_POLL_S
                while not await jobs.advance_all():
                    await tell(on_progress, self.status())
                    await self._means.clock.sleep(poll_s)
                    poll_s = min(poll_s * _POLL_GROWTH, _LONGEST_POLL_S)
                await self._speak(engine, calls, on_progress)
        return finished_batch(self.name, [entry.response for entry in self._journal.entries if entry.response])

    def _reload(self) -> None:
        """Learn what another process did meanwhile."""
        self._journal = Journal.load(self._journal.folder) or self._journal

    async def _speak(self, engine: SpeechEngine, calls: BatchCalls, on_progress: StatusCallback | None) -> None:
        """Make every response that is missing."""
        journal, config = self._journal, self._means.config
        results = await in_file_thread(BatchResults.of, journal, engine, calls, config)
        finished = [asyncio.Event() for _ in journal.entries]
        waiting = iter(enumerate(journal.entries))

        async def work() -> None:
            for index, entry in waiting:
                # Their pieces are kept by then.
                for other in entry.after:
                    await finished[other].wait()
                if entry.response is None:
                    entry.response = await self._respond(drafting, results, index, entry)
                    told = entry.response.model_dump(mode="json", exclude_defaults=True)
                    await in_file_thread(journal.tell, index, {"response": told})
                    await tell(on_progress, self.status())
                finished[index].set()

        drafting = Drafting(lambda: config, self._means.make, results, self._means.clock, self._means.recogniser)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(config.max_concurrency):
                    group.create_task(work())
        finally:
            await drafting.close()

    async def _respond(self, drafting: Drafting, results: BatchResults, index: int, entry: BatchEntry) -> AudioResponse:
        """Make the file of a request; an earlier process may have written it, and been killed before it could tell."""
        request = entry.request
        ours: bool = await in_file_thread(_is_ours, self._means.config.output_dir, entry.note or {})
        if ours:
            request = request.model_copy(update={"overwrite": True})
        task = f"{self.name[:50]}-{index}"
        async with drafting.draft(request, SpeakOptions(request.cache), None, task=task) as draft:
            if draft.note is not None:
                await in_file_thread(self._journal.tell, index, {"note": draft.note})
            response = await draft.publish()
        return await results.charged(response, index, self._means.config, self._means.clock.now().date())


def _is_ours(output_dir: Path, note: dict[str, Any]) -> bool:
    """Whether the file of a note is the one that was about to get its name."""
    with suppress(OSError):
        return is_noted((output_dir / Path(str(note.get("file"))).name).lstat(), note)
    return False
