"""The life of a batch's jobs: written down before every step that costs, never created twice, downloaded once."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from audio_api.audio.file_threads import in_file_thread
from audio_api.engines.gemini_batches import BatchCalls, RemoteJob, RemoteState
from audio_api.errors import (
    AudioAPIError,
    ConfigurationError,
    ErrorCode,
    TTSAuthenticationError,
    TTSModelNotFoundError,
    TTSQuotaError,
    TTSRateLimitError,
)
from audio_api.retry import call_with_retry
from audio_api.services.batch_journal import BatchPart, Journal
from audio_api.services.batch_means import Means
from audio_api.speech.attempts import policy_of

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

# A job whose creation was not answered may show in the list a while later.
_SETTLE_S = 60.0
# A process that stood still for longer creates no job: another one may have taken over, and looks after _SETTLE_S.
_SEND_S = 10.0
# Google erases uploaded files after 48 hours.
_FILE_S = 47 * 3_600.0
# How long a job that was to end may go on before it is given up.
_CANCEL_S = 600.0
# Google takes no larger input.
_MOST_INPUT_BYTES = 2 * 10**9
# Surely not more than the least that an account may have waiting: 25,000 input tokens.
_LEAST_SPLIT_BYTES = 65_536
# After these a job may have been created.
_PERHAPS_CREATED = {
    ErrorCode.TIMEOUT,
    ErrorCode.CONNECTION_BROKEN,
    ErrorCode.UNREADABLE_REPLY,
    ErrorCode.UNAVAILABLE,
}
# A person must act, whatever other jobs do.
_REFUSED = {ErrorCode.CREDIT_EXHAUSTED, ErrorCode.QUOTA_NOT_GRANTED}


class BatchJobs:
    """Takes the jobs of a journal from step to step; a process that is killed is followed by another one.

    Args:
        journal: What is known of them, and claimed by this process.
        calls: Asks the API.
        means: The settings, time and chance.
    """

    def __init__(self, journal: Journal, calls: BatchCalls, means: Means) -> None:
        self._journal = journal
        self._calls = calls
        self._config = means.config
        self._clock = means.clock

    async def advance_all(self) -> bool:
        """Take the next step of every job; whether all have ended."""
        for part in list(self._journal.record.parts):
            if part.state is None:
                await self.advance(part)
        return self._journal.has_ended

    async def create_all(self) -> None:
        """Create the jobs that are not there yet, and may be."""
        for part in list(self._journal.record.parts):
            if not part.job and part.state is None and await self.is_due(part):
                await self.create(part, self._clock.now().timestamp())

    async def advance(self, part: BatchPart) -> None:
        """Take a job's next step; what passes is tried again at the next look."""
        now_s = self._clock.now().timestamp()
        try:
            if not part.job and await self.is_due(part):
                await self.create(part, self._clock.now().timestamp())
            if part.job:
                await self._look(part, now_s)
        except TTSModelNotFoundError:
            await self._end(part, RemoteState.FAILED, "the job is gone")
        except AudioAPIError as error:
            if not error.retryable:
                raise
            logger.warning("a batch's job cannot be asked for now", extra={"job": part.job, "error": str(error)})
            part.problem = str(error)
            if now_s - (part.created_at or self._journal.record.created_at) > self._config.batch_deadline + _CANCEL_S:
                await self._end(part, RemoteState.EXPIRED, str(error))

    async def _look(self, part: BatchPart, now_s: float) -> None:
        """Ask how far a job is; end one that is late; bring the results of one that has ended here."""
        job = await self._again(lambda: self._calls.get(part.job))
        is_late = now_s - part.created_at > self._config.batch_deadline
        if not job.state.final and (is_late or self._journal.record.cancelled):
            if not part.cancelled_at:
                part.cancelled_at = now_s
                await in_file_thread(self._journal.save)
            await self._again(lambda: self._calls.cancel(part.job))
            job = await self._again(lambda: self._calls.get(part.job))
            if not job.state.final and now_s - part.cancelled_at > _CANCEL_S:
                await self._end(part, RemoteState.EXPIRED, "the job went on beyond BATCH_DEADLINE")
        if job.state.final:
            if job.results:
                target = Path(part.input).with_suffix(".results")
                await self._again(lambda: self._calls.download(job.results, self._journal.folder / target))
                part.results = target.name
            await self._end(part, job.state, job.problem)

    async def is_due(self, part: BatchPart) -> bool:
        """Whether a job is surely not there, and may be created now; if it is there, the journal knows it then."""
        now_s, record = self._clock.now().timestamp(), self._journal.record
        path = self._journal.folder / part.input
        if part.asked_at:
            # The first one with a letter more is a half of it: another machine had to split it.
            found = await self._again(lambda: self._calls.find(re.compile(re.escape(part.display_name) + "[ab]*")))
            if found and found.display_name != part.display_name:
                await in_file_thread(self._journal.split, part)
                return False
            if found:
                await self._found(part, found)
                return False
            if now_s - part.asked_at < _SETTLE_S:
                return False
        if record.cancelled:
            await self._end(part, RemoteState.CANCELLED, "the batch was cancelled")
        elif now_s - record.created_at > self._config.batch_deadline:
            await self._end(part, RemoteState.EXPIRED, f"it was not created within BATCH_DEADLINE: {part.problem}")
        elif path.stat().st_size > _MOST_INPUT_BYTES:
            await in_file_thread(self._journal.split, part)
        else:
            if not part.file or now_s - part.uploaded_at > _FILE_S:
                part.file = await self._again(lambda: self._calls.upload(path, part.display_name))
                part.uploaded_at = now_s
                await in_file_thread(self._journal.save)
            return True
        return False

    async def create(self, part: BatchPart, asked_at: float) -> None:
        """Create a job that is due. It is asked for once, and never blindly again.

        Args:
            part: The job.
            asked_at: When others were told that it is asked for, in Unix seconds. A process that was stopped, or a
                machine that slept, since then leaves the job to the next look.
        """
        part.asked_at = asked_at
        await in_file_thread(self._journal.save)
        late_s = self._clock.now().timestamp() - asked_at
        if late_s > _SEND_S:
            logger.warning("this process stood still, and creates no job", extra={"seconds": round(late_s)})
            return
        try:
            named = part.model, part.display_name, part.file
            await self._found(part, await self._calls.create(*named, self._config.batch_webhook))
        except AudioAPIError as error:
            if error.code not in _PERHAPS_CREATED:
                part.asked_at = 0.0
            is_full = isinstance(error, TTSRateLimitError)
            part.problem = f"Google takes no further job now, and is asked again: {error}" if is_full else str(error)
            await in_file_thread(self._journal.save)
            await self._not_created(part, error)

    async def _not_created(self, part: BatchPart, error: AudioAPIError) -> None:
        """Wait, make smaller jobs, give the job up, or let a person act."""
        if isinstance(error, ConfigurationError | TTSAuthenticationError) or error.code in _REFUSED:
            raise error
        if error.code is ErrorCode.RATE_LIMITED:
            # Another job must end first; if there is none, this one has more tokens than may wait at once.
            is_large = (self._journal.folder / part.input).stat().st_size > _LEAST_SPLIT_BYTES
            if is_large and not [job async for job in self._calls.jobs() if not job.state.final]:
                await in_file_thread(self._journal.split, part)
        elif not (error.code in _PERHAPS_CREATED or error.retryable or isinstance(error, TTSQuotaError)):
            await self._end(part, RemoteState.FAILED, str(error))

    async def _found(self, part: BatchPart, job: RemoteJob) -> None:
        part.job, part.created_at, part.problem = job.name, self._clock.now().timestamp(), ""
        await in_file_thread(self._journal.save)
        logger.info("a batch's job was created", extra={"batch": self._journal.name, "job": job.name})

    async def _end(self, part: BatchPart, state: RemoteState, problem: str) -> None:
        part.state, part.problem = state, problem
        await in_file_thread(self._journal.save)

    async def _again(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Make a call that may be repeated."""

        async def once() -> _T:
            return await attempt()

        return await call_with_retry(once, policy_of(self._config), self._clock)
