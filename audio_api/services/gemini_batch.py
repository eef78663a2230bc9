"""Speech at half the price by Gemini's Batch API.

A batch is one job for each model. ``BatchResults`` speaks what it brings, as an engine of the same pipeline that serves
all requests: it is checked, kept, written and reported like every other sound.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audio_api.audio.file_threads import in_file_thread
from audio_api.config import AudioConfig, get_config
from audio_api.engines.base import SpeechEngine
from audio_api.engines.from_settings import make_engine
from audio_api.engines.gemini import GeminiEngine
from audio_api.engines.gemini_batches import BatchCalls
from audio_api.errors import (
    AudioAPIError,
    ConfigurationError,
    TTSValidationError,
)
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
from audio_api.services.batch_plan import inputs, name_for, planned
from audio_api.services.batch_results import BatchResults
from audio_api.services.drafts import Drafting, identity_of
from audio_api.speech.assembly import tell
from audio_api.speech.cost import Call, Outcome, add_up
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


MakeEngine = Callable[[AudioConfig], SpeechEngine]

StatusCallback = Callable[[GeminiBatchStatus], Awaitable[None] | None]
"""Called at every look at the jobs, and after each response."""


class GeminiBatch:
    """A batch, whose state is in a folder below ``OUTPUT_DIR``: any later process goes on where one was killed.

    Args:
        journal: Its folder.
        config: The settings.
        clock: Time and chance.
        make: Makes the source of ordinary calls, whose connections the batch uses, too; it is closed here.
    """

    def __init__(self, journal: Journal, config: AudioConfig, clock: Clock, make: MakeEngine) -> None:
        self._journal = journal
        self._config = config
        self._clock = clock
        self._make = make

    @property
    def name(self) -> str:
        """Its name, for ``load``."""
        return self._journal.name

    @property
    def created_at(self) -> float:
        """When it began, in Unix seconds."""
        return self._journal.record.created_at

    @classmethod
    def load(cls, name: str, config: AudioConfig | None = None, *, clock: Clock | None = None) -> GeminiBatch:
        """A batch that was submitted before, by whatever process.

        Args:
            name: Its name.
            config: The settings, with the same ``output_dir``; ``None``: ``get_config()``.
            clock: Time and chance; ``None``: the real ones.

        Raises:
            TTSValidationError: There is none of this name, or its journal is damaged.
        """
        config = config or get_config()
        journal = Journal.load(config.output_dir, name)
        if journal is None:
            known = ", ".join(known_batches(config.output_dir)) or "none"
            raise TTSValidationError(f"there is no batch {name!r} in {str(config.output_dir)!r}; there are: {known}")
        return cls(journal, config, clock or Clock(), make_engine)

    @classmethod
    def resumed(
        cls, requests: Sequence[AudioRequest], name: str | None, config: AudioConfig, clock: Clock, make: MakeEngine
    ) -> GeminiBatch | None:
        """The batch of that name, or the one of these requests that is not collected; ``None``: there is none.

        Args:
            requests: What to speak.
            name: As ``submit_batch`` takes it.
            config: The settings.
            clock: Time and chance.
            make: Makes the source of ordinary calls.

        Raises:
            TTSValidationError: The name belongs to other requests, or is none.
        """
        digest = digest_of(requests)
        journal = Journal.load(config.output_dir, name or name_for(digest))
        if journal and name and journal.record.digest != digest:
            raise TTSValidationError(f"the batch {name} exists with other requests: choose another name")
        is_over = journal is None or (journal.is_finished and not name)
        return None if journal is None or is_over else cls(journal, config, clock, make)

    @classmethod
    async def begin(
        cls,
        requests: Sequence[AudioRequest],
        pieces: Sequence[Sequence[PlannedPiece]],
        name: str | None,
        config: AudioConfig,
        clock: Clock,
        make: MakeEngine,
    ) -> GeminiBatch:
        """Write the journal of a batch that is not there yet.

        Args:
            requests: As ``resumed``.
            pieces: Of each request those that are not kept.
            name: As ``resumed``.
            config: As ``resumed``.
            clock: As ``resumed``.
            make: As ``resumed``.
        """
        digest = digest_of(requests)
        folder = folder_of(config.output_dir, name or name_for(digest))
        with claimed(folder):
            if batch := await in_file_thread(cls.resumed, requests, name, config, clock, make):
                return batch
            journal = planned(requests, pieces, folder, digest, clock, is_named=name is not None)
            async with _calls(config, make) as (_, calls):
                await in_file_thread(journal.begin, inputs(journal, pieces, calls))
        return cls(journal, config, clock, make)

    async def create(self) -> None:
        """Create the jobs that are not there yet; ``TTSService.submit_batch`` calls this.

        Raises:
            TTSOutputError, ConfigurationError, TTSAuthenticationError, TTSQuotaError: As from ``collect``.
        """
        with claimed(self._journal.folder):
            self._reload()
            async with _calls(self._config, self._make) as (_, calls):
                jobs = BatchJobs(self._journal, calls, self._config, self._clock)
                for part in list(self._journal.record.parts):
                    if not part.job and part.state is None:
                        await jobs.create(part)

    async def refresh(self) -> GeminiBatchStatus:
        """Ask the API once how far the jobs are, and bring the results of those that have ended.

        Raises:
            TTSOutputError, ConfigurationError, TTSAuthenticationError, TTSQuotaError: As from ``collect``.
        """
        with claimed(self._journal.folder):
            self._reload()
            async with _calls(self._config, self._make) as (_, calls):
                await BatchJobs(self._journal, calls, self._config, self._clock).advance_all()
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
            async with _calls(self._config, self._make) as (_, calls):
                await BatchJobs(self._journal, calls, self._config, self._clock).advance_all()

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
            async with _calls(self._config, self._make) as (engine, calls):
                jobs = BatchJobs(self._journal, calls, self._config, self._clock)
                poll_s = _FIRST_POLL_S
                while not await jobs.advance_all():
                    await tell(on_progress, self.status())
                    await self._clock.sleep(poll_s)
                    poll_s = min(poll_s * _POLL_GROWTH, _LONGEST_POLL_S)
                await self._speak(engine, calls, on_progress)
        return self._response()

    def _reload(self) -> None:
        """Learn what another process did meanwhile."""
        self._journal = Journal.load(self._config.output_dir, self.name) or self._journal

    async def _speak(self, engine: SpeechEngine, calls: BatchCalls, on_progress: StatusCallback | None) -> None:
        """Make every response that is missing."""
        journal, config = self._journal, self._config
        problems = [f"the job {part.state}: {part.problem}" for part in journal.record.parts if not part.results]
        results = BatchResults(
            engine,
            calls,
            await in_file_thread(journal.takes),
            has_fallback=config.batch_fallback and not journal.record.cancelled,
            problem=next(iter(problems), "the batch brought no sound for this piece, or none that is whole"),
        )
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

        drafting = Drafting(lambda: config, self._make, results, self._clock)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(config.max_concurrency):
                    group.create_task(work())
        finally:
            await drafting.close()

    async def _respond(self, drafting: Drafting, results: BatchResults, index: int, entry: BatchEntry) -> AudioResponse:
        """Make the file of a request; an earlier process may have written it, and been killed before it could tell."""
        request = entry.request
        ours: bool = await in_file_thread(_is_ours, self._config.output_dir, entry.note or {})
        if ours:
            request = request.model_copy(update={"overwrite": True})
        task = f"{self.name[:50]}-{index}"
        async with drafting.draft(request, SpeakOptions(request.cache), None, task=task) as draft:
            if draft.note is not None:
                await in_file_thread(self._journal.tell, index, {"note": draft.note})
            response = await draft.publish()
        return await self._charged(response, results, [key for key in entry.keys if key not in results.billed])

    async def _charged(self, response: AudioResponse, results: BatchResults, keys: Sequence[str]) -> AudioResponse:
        """Add what was billed for sounds that were kept already: an earlier process kept them, and was killed."""
        model = response.model or str(self._config.default_tts_model)
        calls = []
        for key in keys:
            if key in results.takes:
                with suppress(AudioAPIError):
                    await results.take(key, model)
                calls.append(Call(model, Outcome.SPOKEN, results.billed[key], tier="batch"))
        if not calls:
            return response
        cost = add_up(calls, self._config.model_prices, self._clock.now().date())
        known = cost.cost_usd is not None and response.cost_usd is not None
        return response.model_copy(
            update={
                "attempts": response.attempts + cost.attempts,
                "usage": response.usage + cost.usage,
                "cost_usd": (response.cost_usd or 0.0) + (cost.cost_usd or 0.0) if known else None,
                "service_tier": response.service_tier or cost.service_tier,
            }
        )

    def _response(self) -> BatchAudioResponse:
        results = [entry.response for entry in self._journal.entries if entry.response]
        completed = sum(response.success for response in results)
        return BatchAudioResponse(
            batch_id=self.name,
            total_requests=len(results),
            completed=completed,
            failed=len(results) - completed,
            results=tuple(results),
            status="completed" if completed else "failed",
        )


@asynccontextmanager
async def _calls(config: AudioConfig, make: MakeEngine) -> AsyncIterator[tuple[SpeechEngine, BatchCalls]]:
    """The engine of the settings, and its calls of the Batch API.

    Raises:
        ConfigurationError: It makes no batches.
    """
    engine = make(config)
    try:
        # Of a paced engine the one that calls.
        gemini = getattr(engine, "engine", engine)
        if not isinstance(gemini, GeminiEngine):
            raise ConfigurationError(f"the engine {gemini.name} makes no batches: set TTS_ENGINE=gemini")
        yield engine, gemini.batches()
    finally:
        await engine.close()


def _is_ours(output_dir: Path, note: dict[str, Any]) -> bool:
    """Whether the file of a note is the one that was about to get its name."""
    with suppress(OSError):
        found = identity_of((output_dir / Path(str(note.get("file"))).name).lstat())
        return all(note.get(name) == value for name, value in found.items())
    return False
