"""The server as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, get_args

from fastapi import APIRouter, FastAPI
from starlette.middleware.cors import CORSMiddleware

from audio_api import __version__
from audio_api.audio.encoding import require_encoder
from audio_api.config import AudioConfig
from audio_api.errors import ConfigurationError, QueueServiceError
from audio_api.models.audio_request import AudioRequest, AudioResponse
from audio_api.models.sound_formats import StreamFormat
from audio_api.server import jobs, metrics, page_routes, speech
from audio_api.server.access import MOST_BODY_BYTES, Doorkeeper, Entrance
from audio_api.server.catalogue import Catalogue
from audio_api.server.ledger import Ledger
from audio_api.server.problems import answer_problems
from audio_api.server.shared_speech import SharedSpeech
from audio_api.server.state import ServerState
from audio_api.services.pacing import Pacer, paced_tts
from audio_api.services.queue_service import QueueService
from audio_api.services.tally import of_speech
from audio_api.services.worker_service import WorkerService

health = APIRouter(tags=["operation"])


def build_app(config: AudioConfig) -> Entrance:
    """The server.

    Args:
        config: The settings.

    Raises:
        ConfigurationError: A setting of the server is wrong.
    """
    doorkeeper, catalogue = Doorkeeper(config), Catalogue(config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        async with AsyncExitStack() as parts:
            queue = await parts.enter_async_context(QueueService(config=config))
            pacer = Pacer(queue.backend.limits, lambda: config)
            service = await parts.enter_async_context(paced_tts(config, pacer))

            async def record(request: AudioRequest, response: AudioResponse) -> None:
                with suppress(QueueServiceError):
                    await queue.backend.count(of_speech(request, response))

            state = ServerState(
                config=config,
                catalogue=catalogue,
                service=service,
                speeches=SharedSpeech(service, record),
                queue=queue,
                ledger=Ledger(config.output_dir / ".server.sqlite3"),
                pacer=pacer,
            )
            if not queue.use_redis:
                # No other process sees these jobs.
                state.worker = WorkerService(config, queue, service)
                await state.worker.start_worker("server")
                parts.push_async_callback(state.worker.stop_worker)
            state.formats = await asyncio.to_thread(_installed_formats)
            yield {"server": state}

    app = FastAPI(
        title="audio_api",
        version=__version__,
        lifespan=lifespan,
        strict_content_type=False,
        max_body_size=MOST_BODY_BYTES,
    )
    app.state.doorkeeper = doorkeeper
    for prefix in ("/v1", ""):
        # Some clients add /v1 to the address they are given, others do not.
        for router in (speech.lists, speech.router, jobs.router):
            app.include_router(router, prefix=prefix, include_in_schema=bool(prefix))
    app.include_router(metrics.router)
    app.include_router(health)
    page_routes.add_page(app)
    answer_problems(app)
    if doorkeeper.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=doorkeeper.origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-request-id"],
        )
    return Entrance(app, doorkeeper)


def _installed_formats() -> frozenset[StreamFormat]:
    """The formats whose packages are there. They are imported now, which would make the first answers late."""
    installed: set[StreamFormat] = set()
    for sound_format in get_args(StreamFormat):
        with suppress(ConfigurationError):
            require_encoder(sound_format)
            installed.add(sound_format)
    return frozenset(installed)


@health.api_route("/health", methods=["GET", "HEAD"])
async def is_alive() -> dict[str, str]:
    """Whether the process serves. It asks neither the API nor the queue."""
    return {"status": "ok", "version": __version__}
