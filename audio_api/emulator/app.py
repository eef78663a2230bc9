"""The application: Gemini's paths, and two of its own to ask for faults and to see the calls."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from inspect import isawaitable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from audio_api.emulator import replies, vertex, voices, wire
from audio_api.emulator.control import Control, ReceivedCall, Synthesize, as_faults
from audio_api.emulator.damage import BILLED_IN_FULL, DOCUMENT, FINISH, SOUND, TEXT, WRAPPING
from audio_api.emulator.errors import ENQUEUED, REFUSALS, RefusalError, bad_key, no_key, quota_exceeded, unknown_model
from audio_api.emulator.faults import Fault
from audio_api.emulator.fields import COUNT_TOKENS, GENERATE, GENERATE_WITHOUT_SPEECH, parse_json, read_json
from audio_api.emulator.protocol import (
    FAMILIES,
    GENERATIONS,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    Asked,
    count_tokens,
    understand,
)
from audio_api.emulator.replies import Answer, Sound
from audio_api.emulator.speech import BYTES_PER_S, SAMPLE_RATE

_METHODS = ["generateContent", "countTokens", "batchGenerateContent"]
_VOICES = re.compile(r"/voices(?:/|$)")
_COLLECTION = re.compile(r"/(files|batches)(?:/|$)")
_HTML = "text/html; charset=UTF-8"
_NO_SUCH_PAGE = Answer(404, _HTML, [b"<!DOCTYPE html><html><title>Error 404 (Not Found)!!1</title></html>"])

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
    *,
    custom_voices: Iterable[str] = (),
    v1beta_only: bool = False,
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
        custom_voices: The ids of the account's own voices; all others are not found.
        v1beta_only: Whether ``/v1`` knows no speech, so that a client must ask ``/v1beta``.
    """
    return build_app(
        Control(synthesize, api_key, latency_s, tokens_per_s, custom_voices=custom_voices, v1beta_only=v1beta_only)
    )


def build_app(control: Control) -> Starlette:
    """The application that a control steers."""
    gemini = _Gemini(control)
    steering = _Steering(control)
    routes = [
        Route("/emulator", steering.describe, methods=["GET"]),
        Route("/emulator/faults", steering.add_faults, methods=["POST"]),
        Route("/emulator/calls", steering.list_calls, methods=["GET"]),
        Route("/token", steering.give_token, methods=["POST"]),
        Route("/{version}/models", gemini),
        Route("/{version}/models/{name}", gemini),
        Route("/{version}/voices", gemini),
        Route("/{version}/voices/{name}", gemini),
        Route("/{version}/projects/{project}/locations/global/voices", gemini),
        Route("/{version}/projects/{project}/locations/global/voices/{name}", gemini),
        Route("/{version}/publishers/google/models/{name}", gemini),
        Route("/{version}/projects/{project}/locations/{location}/publishers/google/models/{name}", gemini),
        Route("/upload/{version}/files", gemini, methods=["POST"]),
        Route("/download/{version}/files/{name}", gemini),
        Route("/{version}/files/{name}", gemini),
        Route("/{version}/batches", gemini),
        Route("/{version}/batches/{name}", gemini),
        Route("/{unknown:path}", gemini),
    ]
    app = Starlette(routes=routes)
    app.state.control = control
    return app


class _Steering:
    """Control from outside the process."""

    def __init__(self, control: Control) -> None:
        self._control = control

    async def describe(self, request: Request) -> Response:
        return JSONResponse({"faults": list(Fault), "coming": self._control.coming_faults})

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

    async def give_token(self, request: Request) -> Response:
        """Google's token server, for credentials whose token_uri or token_url is here."""
        if self._control.token_refusal:
            status, text = self._control.token_refusal
            return Response(text, status, media_type="application/json")
        token = f"ya29.{secrets.token_urlsafe(32)}"
        self._control.access_tokens.add(token)
        given = {"access_token": token, "expires_in": 3599, "token_type": "Bearer"}
        return JSONResponse({**given, "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"})


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
        model, _, action = request.path_params.get("name", "").partition(":")
        document = None
        with suppress(ValueError):
            document = parse_json(body)
        call = self._control.record(
            method=request.method,
            path=request.url.path,
            query=dict(request.query_params),
            headers=dict(request.headers),
            body=document,
            model=model,
            action=action,
        )
        peer = wire.Peer(scope, receive, send, call)
        try:
            answer = await self._answer(request, body, call, peer)
        except RefusalError as refusal:
            refusal.in_list |= _streams_list(call)
            answer = Answer(refusal.code, replies.JSON, [refusal.body()])
        await wire.SENDERS.get(call.fault, wire.send)(peer, answer)

    async def _answer(self, request: Request, body: bytes, call: ReceivedCall, peer: wire.Peer) -> Answer:
        if "version" not in request.path_params:
            return _NO_SUCH_PAGE
        if _is_vertex(request):
            vertex.check_caller(request, self._control)
        # The address of an upload that was begun is a secret itself.
        elif "upload_id" not in request.query_params:
            key = request.headers.get("x-goog-api-key") or request.query_params.get("key")
            if not key:
                raise no_key()
            if self._control.api_key is not None and key != self._control.api_key:
                raise bad_key()
        if _VOICES.search(request.url.path):
            page = await self._outcome(call, peer)
            return page or voices.answer(request, body, call, self._control)
        if _is_vertex(request):
            vertex.check_target(call, request.path_params)
            return await self._generate(request, body, call, peer)
        return await self._answer_developer(request, body, call, peer)

    async def _answer_developer(self, request: Request, body: bytes, call: ReceivedCall, peer: wire.Peer) -> Answer:
        version = request.path_params["version"]
        if collection := _COLLECTION.search(request.url.path):
            await self._outcome(call, peer)
            return self._stored(request, body, call, f"{collection[1]}/{call.model}")
        method = call.action or "generateContent"
        known = {"GET": [""], "POST": [*_METHODS, "streamGenerateContent"]}.get(call.method, [])
        missing = call.model and call.model not in FAMILIES
        if version not in {"v1", "v1beta"} or call.action not in known or missing:
            raise unknown_model(call.model, version, method)
        if call.method == "GET":
            if page := await self._outcome(call, peer):
                return page
            return Answer.of_json(_describe(call.model) if call.model else {"models": list(map(_describe, FAMILIES))})
        if method == "countTokens":
            asked = read_json(body, COUNT_TOKENS)
            if page := await self._outcome(call, peer):
                return page
            return Answer.of_json({"totalTokens": count_tokens(asked.get("generateContentRequest", asked))})
        if method == "batchGenerateContent":
            await self._outcome(call, peer)
            full = quota_exceeded(call.model, 30, ENQUEUED)
            return await self._control.batches.create(call.model, body, self._control.batch, self._item, full)
        return await self._generate(request, body, call, peer)

    async def _outcome(self, call: ReceivedCall, peer: wire.Peer) -> Answer | None:
        """Decide how a valid call ends, and wait; the answer when it is a page instead of a reply."""
        self._control.decide(call)
        if self._control.latency_s:
            await peer.gone(self._control.latency_s)
        if call.fault in REFUSALS and (call.fault is not Fault.STORE_UNKNOWN or "store" in (call.body or {})):
            raise REFUSALS[call.fault](call.model)
        if call.fault in _PAGES:
            status, page = _PAGES[call.fault]
            return Answer(status, _HTML, [page])
        return None

    async def _generate(self, request: Request, body: bytes, call: ReceivedCall, peer: wire.Peer) -> Answer:
        is_speechless = request.path_params["version"] == "v1" and self._control.v1beta_only
        shape = GENERATE_WITHOUT_SPEECH if is_speechless else GENERATE
        if is_vertex := _is_vertex(request):
            shape = vertex.GENERATE_ON_VERTEX
        asked = understand(call.model, read_json(body, shape), self._control.custom_voices)
        self._control.count_attempt(call, asked.text)
        self._control.charge(call)
        if page := await self._outcome(call, peer):
            return page
        sound = b"".join([await self._speak(*turn, asked.language) for turn in asked.turns])
        documents = list(_reply(call, asked, sound, self._control.tokens_per_s))
        served = "standard" if call.fault is Fault.TIER_DOWNGRADED else asked.tier
        same = {"responseId": secrets.token_urlsafe(16)}
        for document in documents:
            document.update(same)
            document["usageMetadata"]["serviceTier"] = served
            if is_vertex:
                vertex.as_on_vertex(document)
        self._control.bill(documents[-1]["usageMetadata"]["totalTokenCount"])
        tier = {} if is_vertex else {"X-Gemini-Service-Tier": served}
        if _streams_list(call):
            return Answer.of_list(documents, tier)
        return Answer.of_events(documents, tier) if _streams(call) else Answer.of_json(documents[0], tier)

    def _stored(self, request: Request, body: bytes, call: ReceivedCall, name: str) -> Answer:
        """What is asked of a file or a job."""
        batches = self._control.batches
        match name.partition("/")[0], call.method, call.action:
            case "files", "POST", "":
                return batches.upload(request, body)
            case "files", "GET", "download":
                return batches.download(name)
            case "files", "GET", "":
                return batches.file(name)
            case "batches", "GET", "" if call.model:
                return Answer.of_json(batches.job(name).document())
            case "batches", "GET", "":
                return batches.list_jobs(int(call.query.get("pageSize", 50)), call.query.get("pageToken", ""))
            case "batches", "POST", "cancel":
                job = batches.job(name)
                job.cancelled |= job.is_active
                return Answer.of_json({})
            case "batches", "DELETE", "":
                batches.jobs.remove(batches.job(name))
                return Answer.of_json({})
        return _NO_SUCH_PAGE

    async def _item(self, model: str, body: dict[str, Any], fault: Fault) -> dict[str, Any]:
        """The reply to an item of a batch."""
        asked = understand(model, read_json(json.dumps(body).encode(), GENERATE), self._control.custom_voices)
        if fault in REFUSALS:
            raise REFUSALS[fault](model)
        sound = b"".join([await self._speak(*turn, asked.language) for turn in asked.turns])
        call = ReceivedCall(0, "POST", "", {}, {}, body, model, "generateContent", fault=fault)
        document = next(_reply(call, asked, sound, self._control.tokens_per_s))
        self._control.bill(document["usageMetadata"]["totalTokenCount"])
        return document | {"responseId": secrets.token_urlsafe(16)}

    async def _speak(self, text: str, voice: str, language: str) -> bytes:
        sound = await asyncio.to_thread(self._control.synthesize, text, voice, language)
        return await sound if isawaitable(sound) else sound


def _is_vertex(request: Request) -> bool:
    return "project" in request.path_params or "/publishers/" in request.url.path


def _streams(call: ReceivedCall) -> bool:
    return call.action == "streamGenerateContent"


def _streams_list(call: ReceivedCall) -> bool:
    """Whether the client reads a stream as one JSON list, which is what it gets unless it asks for events."""
    return _streams(call) and "sse" not in (call.query.get("alt"), call.query.get("$alt"))


def _describe(model: str) -> dict[str, Any]:
    return {
        "name": f"models/{model}",
        "version": FAMILIES[model],
        "displayName": model.replace("-", " ").title(),
        "inputTokenLimit": INPUT_TOKENS,
        "outputTokenLimit": OUTPUT_TOKENS,
        "supportedGenerationMethods": _METHODS,
    }


def _reply(call: ReceivedCall, asked: Asked, sound: bytes, tokens_per_s: float) -> Iterator[dict[str, Any]]:
    """The documents of a reply, damaged as the call's fault wants: one, or those of a stream."""
    family, fault, stream = GENERATIONS[call.model], call.fault, _streams(call)
    limit = int(asked.max_tokens / tokens_per_s * SAMPLE_RATE) * 2
    finish = FINISH.get(fault, "STOP" if len(sound) <= limit else "MAX_TOKENS")
    sound = sound[:limit]
    heard = SOUND[fault](sound) if fault in SOUND else sound
    tokens = round(len(sound if fault in BILLED_IN_FULL else heard) / BYTES_PER_S * tokens_per_s)
    billed = replies.usage(asked.prompt_tokens, tokens)
    wrapped = Sound.of(heard, family, asked.audio_format, stream=stream)
    if stream and fault is Fault.STREAM_TEXT_FIRST:
        yield replies.document([TEXT], None, replies.usage(asked.prompt_tokens, 0), call.model)
    if stream and family != "2.5" and fault not in WRAPPING and fault not in DOCUMENT:
        yield from _pieces(call, wrapped, finish, billed)
        return
    parts = WRAPPING[fault](heard, wrapped.part()) if fault in WRAPPING else [wrapped.part()]
    document = replies.document(parts, finish, billed, call.model)
    if fault in DOCUMENT:
        DOCUMENT[fault](document)
    yield document


def _pieces(call: ReceivedCall, sound: Sound, finish: str | None, billed: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The sound in pieces, each with the usage so far; the reason for stopping comes last, with no content."""
    # One byte more cuts a sample in two.
    size = sound.piece_bytes + (call.fault is Fault.STREAM_ODD_CHUNKS)
    prompt, tokens = billed["promptTokenCount"], billed["candidatesTokenCount"]
    for start in range(0, len(sound.data), size):
        piece = sound.data[start : start + size]
        so_far = replies.usage(prompt, tokens * (start + len(piece)) // len(sound.data))
        yield replies.document([replies.audio_part(sound.mime, piece)], None, so_far, call.model)
    yield replies.document([], finish, billed, call.model)
