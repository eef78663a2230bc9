"""The runtimes of one service, from the settings that it began with to those that are in force now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from audio_api.config import AudioConfig
from audio_api.engines.base import SpeechEngine
from audio_api.retry import Clock
from audio_api.services.runtime import Runtime


class Runtimes:
    """Makes a runtime for settings when they are first used, and ends it when others are and its last user has left.

    Args:
        engine: The source of speech of all of them, never closed here; ``None``: each has its own.
        make_engine: Makes a runtime's own engine, which is closed with it.
        clock: Time and chance.
    """

    def __init__(
        self, engine: SpeechEngine | None, make_engine: Callable[[AudioConfig], SpeechEngine], clock: Clock
    ) -> None:
        self._engine = engine
        self._make_engine = make_engine
        self._clock = clock
        self._users: dict[Runtime, int] = {}
        self._closed = False

    @asynccontextmanager
    async def use(self, config: AudioConfig) -> AsyncIterator[Runtime]:
        """The runtime of these settings, which are in force from now on.

        Raises:
            RuntimeError: All was closed, or another event loop that still runs uses it.
            AudioAPIError: The engine cannot be made.
        """
        runtime = self._of(config)
        self._users[runtime] += 1
        try:
            yield runtime
        finally:
            # Nobody's any more, when all was closed meanwhile.
            if runtime in self._users:
                self._users[runtime] -= 1
                await self._end_replaced()

    async def close(self) -> None:
        """End all engines that were made here, used or not. May be called twice."""
        self._closed = True
        while self._users:
            await self._end(next(iter(self._users)))

    def _of(self, config: AudioConfig) -> Runtime:
        if self._closed:
            raise RuntimeError("this TTSService is closed")
        current = next(reversed(self._users), None)
        if current is None or current.config is not config:
            current = Runtime(config, self._engine or self._make_engine(config), self._clock)
            self._users[current] = 0
        current.enter_loop()
        return current

    async def _end_replaced(self) -> None:
        *replaced, _ = self._users.items()
        for runtime, users in replaced:
            if not users:
                await self._end(runtime)

    async def _end(self, runtime: Runtime) -> None:
        del self._users[runtime]
        runtime.end()
        if self._engine is None:
            await runtime.engine.close()
