"""The application: Gemini's paths, and two of its own to ask for faults and to see the calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict
from inspect import isawaitable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from audio_api.emulator import replies, wire
from audio_api.emulator.control import Call, Control, Synthesize, as_faults
from audio_api.emulator.damage import BILLED_IN_FULL, DOCUMENT, FINISH, SOUND, WRAPPING
from audio_api.emulator.errors import REFUSALS, RefusalError, bad_key, no_key, unknown_model
from audio_api.emulator.faults import Fault
from audio_api.emulator.fields import COUNT_TOKENS, GENERATE, GENERATE_V1, read_json
from audio_api.emulator.protocol import (
    FAMILIES,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    Asked,
    count_tokens,
    understand,
)
from audio_api.emulator.replies import Answer
from audio_api.emulator.speech import SAMPLE_RATE

_METHODS = ["generateContent", "countTokens"]
_BYTES_PER_S = 2 * SAMPLE_RATE
# Odd, so that samples are cut in two.
_ODD_CHUNK_BYTES = 12_001

_PAGES = {
    Fault.TIMEOUT_408: (408, b"<html><title>Error 408 (Request Timeout)!!1</title></html>"),
    Fault.BAD_GATEWAY_502: (502, b"<html><title>Error 502 (Server Error)!!1</title></html>"),
    Fault.HTML_200: (200, b"<!DOCTYPE html><html><title>Sign in to the network</title></html>"),
    Fault.EMPTY_BODY: (200, b""),
}


def create_app(
    synthesize: Synthesize | None = None,
    api_key: str | None = None,
    latency_s: float = 0.0,
    tokens_per_s: float = 25.0,
) -> Starlette:
    """The emulator as an ASGI application. Its ``state.control`` is the ``Control`` that steers it.

    Faults of the connection itself (resets, closes) need the server of ``Emulator`` or ``python -m
    audio_api.emulator``.

    Args:
        synthesize: What is heard, a function of text, voice and language that returns 24,000 Hz, 16-bit, mono PCM, or
            an awaitable of it; a plain function runs in a thread. ``None``: a computed sound with the measures of
            speech.
        api_key: The one key that is accepted; ``None``: any key, but not none.
        latency_s: Seconds between a valid call and the first byte of its answer.
        tokens_per_s: Audio tokens billed per second of sound.
    """
    return build_app(Control(synthesize, api_key, latency_s, tokens_per_s))


def build_app(control: Control) -> Starlette:
    """The application that a control steers."""
    gemini = _Gemini(control)
    steering = _Steering(control)
    routes = [
        Route("/emulator/faults", steering.add_faults, methods=["POST"]),
        Route("/emulator/calls", steering.list_calls, methods=["GET"]),
        Route("/{version}/models", gemini),
        Route("/{version}/models/{name}", gemini),
    ]
    app = Starlette(routes=routes)
    app.state.control = control
    return app


class _Steering:
    """Control from outside the process."""

    def __init__(self, control: Control) -> None:
        self._control = control

    async def add_faults(self, request: Request) -> Response:
        try:
            faults = as_faults((await request.json())["faults"])
        except (ValueError, KeyError, TypeError) as error:
            hint = 'send {"faults": ["unavailable-503", …]}'
            return JSONResponse({"error": f"{hint}: {error}"}, 400)
        self._control.fail_next(*faults)
        return JSONResponse({"coming": self._control.coming_faults})

    async def list_calls(self, request: Request) -> Response:
        return JSONResponse({"calls": [asdict(call) for call in self._control.calls]})


class _Gemini:
    """Gemini's own paths, as an ASGI application."""

    def __init__(self, control: Control) -> None:
        self._control = control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        call = self._record(request, body)
        peer = wire.Peer(scope, receive, send, call)
        try:
            answer = await self._answer(request, body, call, peer)
        except RefusalError as refusal:
            answer = Answer(refusal.code, replies.JSON, [refusal.body()])
        await wire.SENDERS.get(call.fault, wire.send)(peer, answer)

    def _record(self, request: Request, body: bytes) -> Call:
        model, _, action = request.path_params.get("name", "").partition(":")
        try:
            document = json.loads(body)
        except ValueError:
            document = None
        return self._control.record(
            method=request.method,
            path=request.url.path,
            headers=dict(request.headers),
            body=document,
            model=model,
            action=action,
        )

    async def _answer(self, request: Request, body: bytes, call: Call, peer: wire.Peer) -> Answer:
        self._check_key(request)
        version = request.path_params["version"]
        method = call.action or "generateContent"
        _check_target(call, version, method)
        if call.method == "GET":
            await self._outcome(call, peer)
            return Answer.of_json(_describe(call.model) if call.model else {"models": list(map(_describe, FAMILIES))})
        if method == "countTokens":
            asked = read_json(body, COUNT_TOKENS)
            await self._outcome(call, peer)
            return Answer.of_json({"totalTokens": count_tokens(asked.get("generateContentRequest", asked))})
        return await self._generate(request, body, call, peer)

    def _check_key(self, request: Request) -> None:
        key = request.headers.get("x-goog-api-key") or request.query_params.get("key")
        if not key:
            raise no_key()
        if self._control.api_key is not None and key != self._control.api_key:
            raise bad_key()

    async def _outcome(self, call: Call, peer: wire.Peer) -> Answer | None:
        """Decide how a valid call ends, and wait; the answer when it is a page instead of a reply."""
        self._control.decide(call)
        if self._control.latency_s:
            await peer.gone(self._control.latency_s)
        if call.fault in REFUSALS:
            raise REFUSALS[call.fault](call.model)
        if call.fault in _PAGES:
            status, page = _PAGES[call.fault]
            return Answer(status, "text/html; charset=UTF-8", [page])
        return None

    async def _generate(self, request: Request, body: bytes, call: Call, peer: wire.Peer) -> Answer:
        stream = call.action == "streamGenerateContent"
        if stream and request.query_params.get("alt") != "sse":
            raise RefusalError("The emulator streams server-sent events only: add ?alt=sse.")
        shape = GENERATE_V1 if request.path_params["version"] == "v1" else GENERATE
        asked = understand(call.model, read_json(body, shape))
        self._control.count_attempt(call, asked.text)
        self._control.charge(call)
        if page := await self._outcome(call, peer):
            return page
        sound = b"".join([await self._speak(*turn, asked.language) for turn in asked.turns])
        documents = list(_reply(call, asked, sound, self._control.tokens_per_s, stream=stream))
        return Answer.of_events(documents) if stream else Answer.of_json(documents[0])

    async def _speak(self, text: str, voice: str, language: str) -> bytes:
        sound = await asyncio.to_thread(self._control.synthesize, text, voice, language)
        return await sound if isawaitable(sound) else sound


def _check_target(call: Call, version: str, method: str) -> None:
    known = {"GET": [""], "POST": [*_METHODS, "streamGenerateContent"]}.get(call.method, [])
    missing = call.model and call.model not in FAMILIES
    if version not in {"v1", "v1beta"} or call.action not in known or missing:
        raise unknown_model(call.model, version, method)


def _describe(model: str) -> dict[str, Any]:
    return {
        "name": f"models/{model}",
        "version": FAMILIES[model],
        "displayName": model.replace("-", " ").title(),
        "inputTokenLimit": INPUT_TOKENS,
        "outputTokenLimit": OUTPUT_TOKENS,
        "supportedGenerationMethods": _METHODS,
    }


def _reply(call: Call, asked: Asked, sound: bytes, tokens_per_s: float, *, stream: bool) -> Iterator[dict[str, Any]]:
    """The documents of a reply, damaged as the call's fault wants: one, or the events of a stream."""
    family, fault = FAMILIES[call.model], call.fault
    limit = int(asked.max_tokens / tokens_per_s * SAMPLE_RATE) * 2
    finish = FINISH.get(fault, "STOP" if len(sound) <= limit else "MAX_TOKENS")
    sound = sound[:limit]
    heard = SOUND[fault](sound) if fault in SOUND else sound
    tokens = round(len(sound if fault in BILLED_IN_FULL else heard) / _BYTES_PER_S * tokens_per_s)
    billed = replies.usage(asked.prompt_tokens, tokens)
    if stream and family != "2.5" and fault not in WRAPPING and fault not in DOCUMENT:
        yield from _events(call, asked, heard, finish, billed)
        return
    if fault in WRAPPING:
        parts = WRAPPING[fault](heard, family)
    else:
        parts = [
            replies.audio_part(replies.STREAM_MIME[family], heard) if stream else replies.unary_part(family, heard)
        ]
    document = replies.document(parts, finish, billed, call.model)
    if fault in DOCUMENT:
        DOCUMENT[fault](document)
    yield document


def _events(
    call: Call, asked: Asked, sound: bytes, finish: str | None, billed: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The sound in pieces, each with the usage so far; the reason for stopping comes last, with no content."""
    size = _ODD_CHUNK_BYTES if call.fault is Fault.STREAM_ODD_CHUNKS else replies.STREAM_CHUNK_BYTES
    mime = replies.STREAM_MIME[FAMILIES[call.model]]
    tokens = billed["candidatesTokenCount"]
    response_id = None
    for start in range(0, len(sound), size):
        piece = sound[start : start + size]
        so_far = replies.usage(asked.prompt_tokens, tokens * (start + len(piece)) // len(sound))
        document = replies.document([replies.audio_part(mime, piece)], None, so_far, call.model)
        response_id = document["responseId"] = response_id or document["responseId"]
        yield document
    yield replies.document([], finish, billed, call.model) | {"responseId": response_id}
