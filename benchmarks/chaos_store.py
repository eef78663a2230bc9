"""Workers that share nothing but Redis and a store: what they lose, and what they buy twice, when they are killed."""

from __future__ import annotations

import io
import json
import os
import signal
import wave
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from chaos_stage import HERE, SLOTS, Figure, Stage, new_folder, sound_of
from store_servers import BUCKET, StoreServer, running

from audio_api.config import AudioConfig
from audio_api.models.audio_request import AudioRequest
from audio_api.services.queue_service import QueueService

EVERY_S = 1.5
PROCESSES = 3
SOUNDS, PIECES = "speech", "pieces"
# Of paragraphs that fill a piece each, of 300 characters at most.
PARAGRAPHS, TOKENS = 40, 150
FILLING = "that the river was high and the bridge was gone. " * 5
PIECES_AT_ONCE = int(AudioConfig.model_fields["piece_concurrency"].default)


class Disks(Stage):
    """A stage whose worker processes have a disk each, and a bucket in common."""

    def start(self, count: int = 1) -> None:
        """Start worker processes."""
        for _ in range(count):
            number = str(len(self.site.processes))
            self.site.start(1, [str(HERE / "chaos_store_worker.py"), number])

    async def results(self) -> dict[str, dict[str, Any]]:
        """The response of every job that Redis knows as succeeded."""
        found = {}
        for job_id in self.texts:
            if await self.field(job_id, "state") == b"succeeded":
                found[job_id] = json.loads(await self.field(job_id, "result"))["response"]
        return found


@contextmanager
def _disks(stage: Stage, server: StoreServer, **settings: object) -> Iterator[Disks]:
    """Another stage with the same Redis and the same API."""
    folder = new_folder(stage.site.folder, "disks")
    stores = {"output_url": f"s3://{BUCKET}/{SOUNDS}", "cache_url": f"s3://{BUCKET}/{PIECES}"}
    cache = {"cache_max_bytes": 2**30}
    with patch.dict(os.environ, server.variables()):
        yield Disks(folder, stage.server, stage.emulator, stage.chance, stage.limits, **stores, **cache, **settings)


def _pcm(content: bytes) -> bytes | None:
    """The sound of a WAV; ``None``: it is none, or not whole."""
    try:
        with wave.open(io.BytesIO(content)) as file:
            frames = file.readframes(file.getnframes())
            return frames if len(frames) == 2 * file.getnframes() else None
    except (wave.Error, EOFError):
        return None


async def store(stage: Stage) -> list[Figure]:
    """``kill -9`` every 1.5 s of a worker with a disk of its own; all put their sounds into one bucket."""
    folder = new_folder(stage.site.folder, "bucket")
    with running(StoreServer(folder, "ministack")) as server:
        return [*await _kills(stage, server), *await _moves(stage, server)]


async def _kills(stage: Stage, server: StoreServer) -> list[Figure]:
    stage.emulator.latency_s = 0.1
    with _disks(stage, server) as disks:
        try:
            await disks.enqueue(stage.limits.jobs(500))
            async with disks.witness() as witness:
                disks.start(PROCESSES)
                kills = await disks.strike(signal.SIGKILL, EVERY_S, PROCESSES)
            counts = await disks.counts()
            results = await disks.results()
            objects = server.objects(SOUNDS)
            bad = 0
            keys: Counter[str] = Counter()
            for job_id, response in results.items():
                key = response["url"].removeprefix(f"s3://{BUCKET}/")
                keys[key] += 1
                bad += _pcm(objects.get(key, b"")) != sound_of(disks.texts[job_id], "", "")
            strays = {key for key in objects if not Path(key).name.startswith(".")} - keys.keys()
            left = list(disks.site.folder.glob("disk-*/out/[!.]*"))
            twice = sum(counts.get(state, 0) for state in ("succeeded", "failed", "dead")) - len(disks.texts)
            return [
                Figure("jobs", len(disks.texts)),
                Figure("kills", kills),
                Figure("not done in the end", len(disks.texts) - len(results), 0),
                Figure("recorded as failed", counts.get("failed", 0), 0),
                Figure("results that became visible twice", abs(twice), 0),
                Figure("announced more than once", sum(count > 1 for count in witness.announced.values()), 0),
                Figure("objects that are missing, torn, wrong or shared", bad + sum(keys.values()) - len(keys), 0),
                Figure("objects under final keys without a job", len(strays), 0),
                Figure("finished files that stayed on a disk", len(left), 0),
                Figure("calls again (kills × slots are allowed)", disks.calls_again(), kills * SLOTS),
            ]
        finally:
            await disks.close()


async def _moves(stage: Stage, server: StoreServer) -> list[Figure]:
    """A long text on one disk, killed at half of its pieces, and gone on with on another disk."""
    paragraphs = stage.limits.jobs(PARAGRAPHS)
    text = "\n\n".join(f"Paragraph number {number} says {FILLING}" for number in range(paragraphs))
    known, called = len(server.keys(PIECES)), len(stage.calls())

    def finished() -> int:
        return len(server.keys(PIECES)) - known

    with _disks(stage, server, max_context_tokens=TOKENS) as disks:
        try:
            async with QueueService(config=disks.site.config) as queue:
                task_id = await queue.enqueue_single_task(AudioRequest(text=text, output_filename="long"))
            disks.texts[task_id] = text
            disks.start()
            await disks.until(lambda: finished() >= paragraphs // 2)
            disks.site.stop(signal.SIGKILL)
            kept = {_pcm(content) for content in server.objects(PIECES).values()}
            at_the_kill = finished()
            disks.start()
            await disks.all_ended()
            results = await disks.results()
        finally:
            await disks.close()
    calls = Counter(call.text for call in stage.calls()[called:])
    again = [each for each, count in calls.items() if count > 1]
    return [
        Figure("long text: not done in the end", 1 - len(results), 0),
        Figure("long text: pieces", len(calls)),
        Figure("long text: pieces in the store when its worker was killed", at_the_kill),
        Figure("long text: of these, bought twice", sum(sound_of(each, "", "") in kept for each in again), 0),
        Figure("long text: pieces in hand then, made again", len(again), PIECES_AT_ONCE),
    ]
