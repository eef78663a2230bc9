"""This library's queue under measurement, layer by layer, and the bare loop over a stream that it is compared with."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from math import inf
from typing import Any

from queue_arm import CONCURRENCY, Arm, Note, main
from redis.asyncio import Redis

from audio_api import AudioConfig, AudioRequest, AudioResponse, QueueService, TTSService, WorkerService
from audio_api.queues.base import QueueBackend
from audio_api.queues.jobs import Job, Lease
from audio_api.queues.memory import MemoryBackend
from audio_api.queues.redis_queue import RedisBackend
from audio_api.services.tts_service import SpeechCallback, SpeechDraft

LEASE_S = 30.0
STREAM, GROUP = "jobs", "workers"
BULK = 1_000


class Bare(Arm):
    """The least that loses nothing: every job is read, answered and acknowledged, one command after the other."""

    loops = 1

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._redis: Any = Redis.from_url(url)

    async def enqueue(self, stamp: str) -> None:
        await self._redis.xadd(STREAM, {"stamp": stamp})

    async def enqueue_bulk(self, stamps: Sequence[str]) -> None:
        for start in range(0, len(stamps), BULK):
            pipe = self._redis.pipeline(transaction=False)
            for stamp in stamps[start : start + BULK]:
                pipe.xadd(STREAM, {"stamp": stamp})
            await pipe.execute()

    async def work(self, note: Note) -> None:
        await self._redis.xgroup_create(STREAM, GROUP, "0", mkstream=True)
        await asyncio.gather(*(self._loop(note) for _ in range(self.loops)))

    async def _loop(self, note: Note) -> None:
        while True:
            read = await self._redis.xreadgroup(GROUP, "me", {STREAM: ">"}, count=1, block=1_000)
            for _, entries in read:
                for entry, fields in entries:
                    note(fields[b"stamp"].decode())
                    await self._redis.set(b"result:" + entry, b"done", ex=86_400)
                    await self._redis.xack(STREAM, GROUP, entry)


class BareLoops(Bare):
    """As many of them side by side as others have slots."""

    loops = CONCURRENCY


async def _each_in_a_task(backend: QueueBackend, do: Callable[[Lease], Coroutine[Any, Any, None]]) -> None:
    """Lease as many jobs as there are free slots, for ever."""
    running: set[asyncio.Task[None]] = set()
    while True:
        if len(running) == CONCURRENCY:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for lease in await backend.lease(CONCURRENCY - len(running), LEASE_S, 30.0):
            task = asyncio.create_task(do(lease))
            running.add(task)
            task.add_done_callback(running.discard)


class Backend(Arm):
    """``RedisBackend`` alone: leases that are fenced, with payloads and results as bytes."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._backend = self._make_backend()

    def _make_backend(self) -> QueueBackend:
        return RedisBackend(self.url)

    async def enqueue(self, stamp: str) -> None:
        await self._backend.enqueue([Job(secrets.token_hex(16), stamp.encode())])

    async def enqueue_bulk(self, stamps: Sequence[str]) -> None:
        for start in range(0, len(stamps), BULK):
            some = stamps[start : start + BULK]
            await self._backend.enqueue([Job(secrets.token_hex(16), stamp.encode()) for stamp in some])

    async def work(self, note: Note) -> None:
        async def do(lease: Lease) -> None:
            note(lease.payload.decode())
            await self._backend.finish(lease, b"done", success=True)

        await _each_in_a_task(self._backend, do)


class MemoryAlone(Backend):
    """``MemoryBackend`` alone."""

    def _make_backend(self) -> QueueBackend:
        return MemoryBackend()


class NothingSpoken(SpeechDraft):
    """A success without a file."""

    def __init__(self) -> None:
        """Nothing was used."""

    unsure_calls = 0

    @property
    def note(self) -> None:
        """There is no file."""

    async def publish(self, before: float = inf) -> AudioResponse:
        """Say that all is well."""
        return AudioResponse(success=True, message="nothing was spoken")


class NoSpeech(TTSService):
    """Notes the text of every request instead of speaking it.

    Args:
        config: The settings.
        note: Is told every text.
        wait: Never answer.
    """

    def __init__(self, config: AudioConfig, note: Note, *, wait: bool = False) -> None:
        super().__init__(config)
        self._note = note
        self._wait = wait

    @asynccontextmanager
    async def prepare(
        self,
        request: AudioRequest,
        on_progress: SpeechCallback | None = None,
        *,
        unsaved: AudioResponse | None = None,
        attempt_limit_s: float | None = None,
        task: str = "",
    ) -> AsyncIterator[SpeechDraft]:
        """Note the text."""
        self._note(request.text)
        if self._wait:
            await asyncio.Event().wait()
        yield NothingSpoken()

    async def warm_up(self) -> None:
        """Load no SDK that would never be called."""


class Service(Arm):
    """``QueueService`` and ``WorkerService``, as users run them; only the speech is missing."""

    use_redis = True

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._config = AudioConfig(
            gemini_api_key="any", redis_url=url, use_redis=self.use_redis, worker_concurrency=CONCURRENCY
        )
        self._queue = QueueService(config=self._config)

    async def enqueue(self, stamp: str) -> None:
        await self._queue.enqueue_single_task(AudioRequest(text=stamp))

    async def enqueue_bulk(self, stamps: Sequence[str]) -> None:
        for start in range(0, len(stamps), BULK):
            await self._queue.enqueue_many([AudioRequest(text=stamp) for stamp in stamps[start : start + BULK]])

    async def work(self, note: Note) -> None:
        await self._run(NoSpeech(self._config, note))

    async def hold(self, note: Note) -> None:
        await self._run(NoSpeech(self._config, note, wait=True))

    async def _run(self, speech: TTSService) -> None:
        worker = WorkerService(self._config, self._queue, speech)
        await worker.start_worker()
        await asyncio.Event().wait()


class MemoryService(Service):
    """The same with the queue in memory."""

    use_redis = False


ARMS: dict[str, type[Arm]] = {
    "bare loop": Bare,
    "bare loops": BareLoops,
    "backend": Backend,
    "service": Service,
    "memory backend": MemoryAlone,
    "memory service": MemoryService,
}

if __name__ == "__main__":
    main(ARMS)
