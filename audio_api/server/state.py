"""What the routes of a server share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from audio_api.config import AudioConfig
from audio_api.models.audio_request import AudioRequest, AudioResponse
from audio_api.models.sound_formats import StreamFormat
from audio_api.server.access import Key
from audio_api.server.catalogue import Catalogue
from audio_api.server.ledger import Ledger
from audio_api.server.problems import AnswerError
from audio_api.server.shared_speech import SharedSpeech
from audio_api.services.pacing import Pacer
from audio_api.services.queue_service import QueueService
from audio_api.services.tts_service import TTSService
from audio_api.services.worker_service import WorkerService

# By then one of those before may be over.
_BUSY_RETRY_S = 2.0


@dataclass
class ServerState:
    """The parts of a running server.

    Attributes:
        config: The settings.
        catalogue: What models and voices are called.
        service: Makes speech.
        speeches: Those that are being made.
        queue: Where jobs wait.
        ledger: Characters of each key by the day, and what the page asked for.
        pacer: Lets calls through.
        formats: Those whose packages are installed.
        worker: Works on the jobs in memory; ``None``: workers of their own do, on Redis.
        stopping: Set when the server ends: who only listens for news is to leave.
        in_progress: Requests for speech that are being answered, or wait for their turn.
    """

    config: AudioConfig
    catalogue: Catalogue
    service: TTSService
    speeches: SharedSpeech
    queue: QueueService
    ledger: Ledger
    pacer: Pacer
    formats: frozenset[StreamFormat] = frozenset()
    worker: WorkerService | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    in_progress: int = 0

    async def speak(
        self, request: AudioRequest, key: Key | None, *, verified: bool
    ) -> AsyncGenerator[bytes | AudioResponse, None]:
        """Speak, if the server is not too busy and the key's limit allows it.

        Args:
            request: What is spoken.
            key: Whose limit counts; ``None``: none does.
            verified: As ``SharedSpeech.listen``.

        Yields:
            As ``SharedSpeech.listen``.

        Raises:
            AnswerError: The server is too busy, or the key's characters of the day are used up.
            AudioAPIError: As ``SharedSpeech.listen``.
        """
        if self.in_progress >= self.config.server_max_requests:
            raise AnswerError(
                429,
                f"the server answers {self.in_progress} requests at once and no more (SERVER_MAX_REQUESTS)",
                code="server_busy",
                retry_after_s=_BUSY_RETRY_S,
            )
        self.in_progress += 1
        try:
            await self.charge(key, len(request.text))
            async with aclosing(self.speeches.listen(request, verified=verified)) as parts:
                async for part in parts:
                    yield part
        finally:
            self.in_progress -= 1

    async def charge(self, key: Key | None, characters: int) -> None:
        """Count characters against a key's limit of the day.

        Raises:
            AnswerError: The limit would be exceeded; nothing was counted.
        """
        most = key.most_characters if key else None
        if key and most is not None and not await self.ledger.add(f"characters:{key.name}", characters, most):
            used = await self.ledger.today(f"characters:{key.name}")
            raise AnswerError(
                429,
                f"this key may have {most:,} characters a day (UTC); {used:,.0f} are used, {characters:,} asked for",
                "input",
                "insufficient_quota",
                should_retry=False,
            )


# A function that is no coroutine would get a thread for each request.
async def _state(request: Request) -> ServerState:
    state: ServerState = request.state.server
    return state


State = Annotated[ServerState, Depends(_state)]
"""What the routes share."""
