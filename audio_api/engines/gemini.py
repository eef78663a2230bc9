"""Speech by Google's Gemini models, one call at a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pydantic import SecretStr

from audio_api.audio.large_sounds import Permit, in_sound_thread
from audio_api.config import NO_KEY, NO_PROJECT
from audio_api.engines.base import Bounds, SpeechAudio, SpeechEngine, Turn, Utterance
from audio_api.engines.gemini_backend import DEVELOPER, SPEECH_LOCATIONS, Backend
from audio_api.engines.gemini_batches import BatchCalls
from audio_api.engines.gemini_connections import Connections
from audio_api.engines.gemini_errors import classify, objection_to, unreadable
from audio_api.engines.gemini_habits import Habits
from audio_api.engines.gemini_preflight import check_length, check_voices, voice_ids
from audio_api.engines.gemini_reply import IncomingReply, Wire, current_wire, read_reply
from audio_api.engines.gemini_request import Manner, build_request
from audio_api.engines.gemini_rest import RestCalls
from audio_api.engines.gemini_voices import VoiceCalls
from audio_api.errors import (
    AudioAPIError,
    ConfigurationError,
    TTSAPIError,
    TTSModelNotFoundError,
    TTSUnavailableError,
    TTSValidationError,
    TTSVoiceNotFoundError,
)
from audio_api.models.audio_request import VoiceConfig
from audio_api.models.speech_models import SafetyThreshold
from audio_api.settings import GEMINI_URL

# A health check must answer sooner than a call for speech.
_HEALTH_TIMEOUT_S = 10.0
# What gateways answer that pass on speech and no descriptions, and what an API answers that is asked to say nothing.
_NO_DESCRIPTIONS = {404, 405, 501}
_REFUSALS_OF_NOTHING = {400, 422, 429}

_CoroutineFunction = Callable[..., Awaitable[Any]]


class GeminiEngine(SpeechEngine):
    """Makes one API call per utterance; may be used from several event loops, each of which gets its own connections.

    Args:
        api_key: The Gemini API key; ``None`` is enough for an injected client, and for a project of Vertex AI.
        base_url: Where the API is; variables such as ``GOOGLE_GEMINI_BASE_URL`` have no effect.
        backend: Whose API that is, and what it lacks.
        timeout_s: Seconds one call may take in total.
        flex_timeout_s: The same of the tier flex; ``None``: as long as any other.
        stall_timeout_s: Seconds a stream may pause once it has begun; ``None``: as long as the call may take.
        max_connections: Calls that may be in progress at once in one event loop.
        max_input_tokens: The largest input of one call; ``None``: the model's own limit, which holds in any case.
        store: Whether Google may keep requests and replies; not said on a backend that has no such field.
        safety: From which probability of harm on a text is refused; ``None``: the API's own threshold.
        client: Anything shaped like ``google.genai.Client``, used instead of one made here and never closed here. Its
            ``aio.models.generate_content`` is called when that is a coroutine function, else its
            ``models.generate_content`` in a thread, which cannot be interrupted.
        now: The time in UTC, which decides when a daily quota resets.
    """

    name = "gemini"

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str = GEMINI_URL,
        backend: Backend = DEVELOPER,
        timeout_s: float,
        flex_timeout_s: float | None = None,
        stall_timeout_s: float | None = None,
        max_connections: int,
        max_input_tokens: int | None = None,
        store: bool = False,
        safety: SafetyThreshold | None = None,
        client: object | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api_key = SecretStr((api_key or "").strip())
        self._timeout_s = timeout_s
        self._stall_timeout_s = timeout_s if stall_timeout_s is None else stall_timeout_s
        self._max_input_tokens = max_input_tokens
        self._injected = client
        self._backend = Backend.vertex() if getattr(client, "vertexai", False) is True else backend
        self._habits = Habits(store if self._backend.takes_store else None, flex_timeout_s, safety)
        self._now = now
        self._connections = Connections(self._api_key, base_url, backend, timeout_s, max_connections)
        self._rest = RestCalls(self._connections, key=self._api_key, base_url=base_url, timeout_s=timeout_s, now=now)
        self._rehearsed = False

    def preflight(self, utterance: Utterance) -> None:
        """Check the key, the voices and the length.

        Raises:
            ConfigurationError: There is no API key, or none that could be sent.
            TTSValidationError: More than two speakers, a custom voice in a dialogue, a tier that the API has not, or a
                text that no call can speak.
        """
        self._check_key()
        if utterance.tier not in self._backend.tiers:
            raise TTSValidationError(
                f"Vertex AI serves speech at the tier standard only, not {utterance.tier}: leave service_tier and "
                "SERVICE_TIER out, or call the Developer API"
            )
        check_voices(utterance, self._habits.family(utterance.model))
        check_length(utterance, self._max_input_tokens)

    async def synthesize(self, utterance: Utterance) -> SpeechAudio:
        """Make one call and unwrap its sound.

        Raises:
            TTSError: Of the class that says whether another attempt makes sense.
            ConfigurationError: The key, the base URL or the proxy is wrong.
        """
        return await self._synthesize(utterance, None)

    async def synthesize_within(self, utterance: Utterance, bounds: Bounds) -> SpeechAudio:
        """Make one call; a large reply waits on disk until there may be one more sound in memory.

        Raises:
            TTSError, ConfigurationError, WorkerServiceError: As from ``SpeechEngine``.
        """
        async with bounds.in_time():
            return await self._synthesize(utterance, bounds.permit)

    async def _synthesize(self, utterance: Utterance, permit: Permit | None) -> SpeechAudio:
        while True:
            self.preflight(utterance)
            wire, manner = Wire(permit=permit), self._habits.manner(utterance)
            try:
                timeout_s = manner.timeout_s or self._timeout_s
                reply = await self._call("generate_content", _speech_call(utterance, manner), timeout_s, wire)
            except TTSAPIError as error:
                if not self._habits.learn(wire.objection, utterance, manner):
                    raise self._explained(error, utterance) from None
            else:
                read = partial(read_reply, reply, asked_model=utterance.model, wire=wire)
                return await in_sound_thread(read) if wire.holds_much else read()

    async def stream(self, utterance: Utterance) -> AsyncGenerator[SpeechAudio, None]:
        """Make one call and unwrap its sound as it arrives; the 2.5 models send all of it in one block.

        A slow listener does not hold the call up: it goes on, and the blocks wait in memory. An injected client
        without a coroutine function ``aio.models.generate_content_stream`` speaks in one block.

        Raises:
            TTSError, ConfigurationError: As from ``synthesize``, at any time; an error carries the usage so far. With
                the code ``TIMEOUT`` also when nothing more arrived for the stall timeout.
        """
        self.preflight(utterance)
        open_stream = _coroutine_function(await self._client(), "generate_content_stream")
        if open_stream is None:
            yield await self.synthesize(utterance)
            return
        blocks: asyncio.Queue[SpeechAudio | None] = asyncio.Queue()
        # In a task of its own, so that ending early is a cancellation: it reaches the connection through the SDK's
        # generators, whereas closing the outermost of them leaves the others to the garbage collector.
        call = asyncio.create_task(self._listen(utterance, open_stream, blocks.put_nowait))
        call.add_done_callback(lambda _: blocks.put_nowait(None))
        try:
            while block := await blocks.get():
                yield block
        finally:
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        call.result()

    async def _listen(
        self, utterance: Utterance, open_stream: _CoroutineFunction, on_sound: Callable[[SpeechAudio], None]
    ) -> None:
        end_s = time.monotonic() + (self._habits.manner(utterance).timeout_s or self._timeout_s)
        while True:
            self.preflight(utterance)
            wire, manner = Wire(), self._habits.manner(utterance)
            incoming = IncomingReply(utterance.model, wire)
            current_wire.set(wire)
            try:
                async with wire.call:
                    with incoming.billing():
                        await self._read(open_stream(**_speech_call(utterance, manner)), incoming, on_sound, end_s)
                        on_sound(incoming.end())
            except TTSAPIError as error:
                if not self._habits.learn(wire.objection, utterance, manner):
                    raise self._explained(error, utterance) from None
            else:
                return

    async def _read(
        self, opening: Awaitable[Any], incoming: IncomingReply, on_sound: Callable[[SpeechAudio], None], end_s: float
    ) -> None:
        events = aiter(await self._named(opening, end_s - time.monotonic()))
        try:
            # What a model speaks before it sends anything is not bounded by the pauses between pieces. The SDK makes
            # the call here, so this is where the API objects.
            event = await self._named(anext(events, None), end_s - time.monotonic(), incoming.wire)
            while event is not None:
                much = incoming.wire.holds_much
                if block := await in_sound_thread(incoming.take, event) if much else incoming.take(event):
                    on_sound(block)
                timeout_s = min(self._stall_timeout_s, end_s - time.monotonic())
                event = await self._named(anext(events, None), timeout_s)
        except TTSUnavailableError:
            # After the last word it does not matter how the connection ends.
            if incoming.finish_reason is None:
                raise
        finally:
            await _cut_off(events)

    async def count_tokens(self, utterance: Utterance) -> int | None:
        """Ask the API, which counts free of charge; Vertex AI does not, nor an injected client without the method.

        Raises:
            AudioAPIError: The key is wrong, or the API gave no answer within ten seconds.
        """
        self._check_key()
        if not self._backend.counts_tokens or _coroutine_function(await self._client(), "count_tokens") is None:
            return None
        contents, _ = build_request(utterance, self._habits.manner(utterance))
        timeout_s = min(self._timeout_s, _HEALTH_TIMEOUT_S)
        asked = {"model": utterance.model, "contents": contents}
        total = getattr(await self._call("count_tokens", asked, timeout_s, Wire()), "total_tokens", None)
        return total if type(total) is int else None

    def voices(self) -> VoiceCalls:
        """The voices of the account and of Google's library.

        Raises:
            ConfigurationError: There is no key, the client was injected, or the backend tells no voices.
        """
        self._check_key()
        if self._injected is not None:
            raise ConfigurationError("an injected client lists no voices: leave gemini_client out")
        return VoiceCalls(self._rest, self._backend)

    def batches(self) -> BatchCalls:
        """The calls of Gemini's Batch API, through the same connections.

        Raises:
            ConfigurationError: There is no API key, the client was injected, or Vertex AI would be called.
        """
        self._check_key()
        if self._injected is not None or self._backend.is_vertex:
            raise ConfigurationError("batches need the Developer API: GEMINI_BACKEND=developer, and no client of yours")
        return BatchCalls(self._rest, self._habits)

    async def health_check(self, model: str) -> None:
        """Ask for the model's description; where there is none, for speech of nothing. Both are free.

        Raises:
            TTSModelNotFoundError: The API does not know the model.
            AudioAPIError: The key is wrong, or the API cannot be reached within ten seconds.
        """
        self._check_key()
        timeout_s = min(self._timeout_s, _HEALTH_TIMEOUT_S)
        if not self._backend.describes_models:
            await self._knock(model, timeout_s)
            return
        wire = Wire()
        try:
            await self._call("get", {"model": model}, timeout_s, wire)
        except AudioAPIError as error:
            if isinstance(error, TTSModelNotFoundError) or wire.status not in _NO_DESCRIPTIONS:
                raise
            await self._knock(model, timeout_s)

    async def _knock(self, model: str, timeout_s: float) -> None:
        """Make a call that the API refuses unbilled: that it does so shows that it is there."""
        wire = Wire()
        nothing = {"model": model, "contents": {"role": "user", "parts": []}}
        try:
            await self._call("generate_content", nothing, timeout_s, wire)
        except AudioAPIError:
            if wire.status not in _REFUSALS_OF_NOTHING:
                raise

    async def warm_up(self, model: str) -> None:
        """Rehearse a call whose reply comes from here: the SDK is imported, and builds its classes, at their first use.

        Raises:
            AudioAPIError: The key, the proxy or the environment is wrong.
        """
        self._check_key()
        if self._injected is None and not self._rehearsed:
            await asyncio.to_thread(lambda: asyncio.run(self._rehearse(model)))
            self._rehearsed = True

    async def _rehearse(self, model: str) -> None:
        import httpx2

        reply = {"candidates": [{"content": {"parts": [{"inlineData": {"mimeType": "audio/l16", "data": ""}}]}}]}
        here = httpx2.MockTransport(lambda _: httpx2.Response(200, json=reply))
        async with httpx2.AsyncClient(transport=here) as http:
            utterance = Utterance((Turn("Hello.", VoiceConfig()),), model, "en-US")
            call = _speech_call(utterance, self._habits.manner(utterance))
            sdk = self._connections.open(http).sdk
            # The first access token of a project is fetched here, and used by the calls that follow.
            await self._named(sdk.aio.models.generate_content(**call), self._timeout_s)

    async def close(self) -> None:
        """Close the connections of every event loop that still runs in this process."""
        await self._connections.close()

    def _check_key(self) -> None:
        key = self._api_key.get_secret_value()
        if self._injected is None and not key and not self._backend.project:
            raise ConfigurationError(NO_PROJECT if self._backend.is_vertex else NO_KEY)
        if not key.isascii() or not key.isprintable():
            raise ConfigurationError("GEMINI_API_KEY holds characters that no key has: copy it again")

    def _explained(self, error: TTSAPIError, utterance: Utterance) -> TTSAPIError:
        """Name the voice that may be what the API does not know: its 404 names a model."""
        voices = ", ".join(voice_ids(utterance))
        if not voices or not isinstance(error, TTSModelNotFoundError | TTSVoiceNotFoundError):
            return error
        if isinstance(error, TTSVoiceNotFoundError):
            return error if voices in str(error) else TTSVoiceNotFoundError(f"{error}: {voices}")
        if utterance.model in str(error):
            return error
        return TTSAPIError(f"the API does not know the voice {voices} or the model {utterance.model}: {error}")

    async def _client(self) -> Any:
        return await self._connections.sdk() if self._injected is None else self._injected

    async def _call(self, method: str, arguments: dict[str, Any], timeout_s: float, wire: Wire) -> Any:
        client = await self._client()
        current_wire.set(wire)
        return await self._named(_invoke(client, method, arguments), timeout_s, wire)

    async def _named(self, step: Awaitable[Any], timeout_s: float, wire: Wire | None = None) -> Any:
        """Await a step of a call, and give its failure a name of ours; the wire learns what the API objects to."""
        try:
            async with asyncio.timeout(timeout_s):
                return await step
        # A vendor's border: whatever comes across is named in one place, and bugs go on as they are.
        except Exception as error:
            failure = classify(error, now=self._now(), key=self._api_key.get_secret_value())
            is_odd = self._injected is None and isinstance(error, (TypeError, AttributeError, LookupError))
            if failure is None and is_odd:
                # What we give the SDK is plain data that tests pin, so it stumbled over the shape of a reply.
                failure = unreadable(error)
            if failure is None:
                raise
            location = self._backend.location
            if isinstance(failure, TTSModelNotFoundError) and location and location not in SPEECH_LOCATIONS:
                failure = ConfigurationError(
                    f"GOOGLE_CLOUD_LOCATION={location!r} does not know the model: those of 3.8 are served in "
                    f"{', '.join(SPEECH_LOCATIONS)} ({failure})"
                )
            if wire:
                wire.objection = objection_to(error)
        # Raised outside the handler, where the SDK's exception would become its context, and without the trace of a
        # failure below the SDK: the frames and headers of both hold the key.
        raise failure.with_traceback(None)


def _speech_call(utterance: Utterance, manner: Manner) -> dict[str, Any]:
    contents, config = build_request(utterance, manner)
    return {"model": utterance.model, "contents": contents, "config": config}


def _coroutine_function(client: Any, name: str) -> _CoroutineFunction | None:
    method = getattr(getattr(getattr(client, "aio", None), "models", None), name, None)
    return method if inspect.iscoroutinefunction(method) else None


async def _invoke(client: Any, name: str, arguments: dict[str, Any]) -> Any:
    if method := _coroutine_function(client, name):
        return await method(**arguments)
    return await asyncio.to_thread(getattr(client.models, name), **arguments)


async def _cut_off(events: AsyncIterator[Any]) -> None:
    """Close a stream that may not have ended.

    A read that is cancelled ends all of the SDK's generators. Its own error is dropped: the listener has left.
    """
    with suppress(Exception):
        async with asyncio.timeout(0):
            async for _ in events:
                pass
