"""What the page at ``/`` needs beside the routes for programs: its files, a session, and speech by a plain address.

The files lie in ``page/``. ``index.html`` is served at ``/``, the others beside it.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel, SecretStr
from starlette.datastructures import Headers
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from audio_api.models.languages import Language
from audio_api.models.sound_formats import StreamFormat
from audio_api.models.speech_models import MODEL_SPECS
from audio_api.queues.jobs import JobState
from audio_api.server.access import COOKIE, Doorkeeper, ShownKey
from audio_api.server.ledger import SPEECH_KEPT_S
from audio_api.server.problems import AnswerError
from audio_api.server.speech import SpeechBody, check_length, sound_response
from audio_api.server.state import State

_PAGE = Path(__file__).parent / "page"
_MOST_LEASED = 100
_HEADERS = {
    b"content-security-policy": b"default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-cache",
}

router = APIRouter(prefix="/page", include_in_schema=False)


class SessionBody(BaseModel):
    """The key that a person types in."""

    key: SecretStr


@router.post("/session", status_code=204)
async def begin_session(body: SessionBody, request: Request, response: Response) -> None:
    """Keep the key's session in a cookie, as a player or a stream of events can send no header."""
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    shown = Headers({"authorization": f"Bearer {body.key.get_secret_value()}"})
    if key := doorkeeper.key_of(shown, None):
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, key.session, httponly=True, samesite="strict", secure=secure)


@router.delete("/session", status_code=204)
async def end_session(response: Response) -> None:
    """Forget it."""
    response.delete_cookie(COOKIE)


@router.get("/session")
async def show_session(request: Request) -> dict[str, bool]:
    """Whether a key is needed, and whether this browser has shown one."""
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    try:
        doorkeeper.key_of(request.headers, request.cookies.get(COOKIE))
    except AnswerError:
        return {"needs_key": True, "has_key": False}
    return {"needs_key": bool(doorkeeper.keys), "has_key": bool(doorkeeper.keys)}


@router.get("/catalogue")
async def catalogue(server: State, _: ShownKey) -> dict[str, Any]:
    """What the page lets people choose from."""
    names = {language.value: name.replace("_", " ").title() for name, language in Language.__members__.items()}
    return {
        "voices": [voice for voice in server.catalogue.voices() if "alias_of" not in voice],
        "voice": server.catalogue.voice(None),
        "languages": {code: f"{name} ({code})" for code, name in names.items()},
        "models": [str(model) for model in MODEL_SPECS],
        "formats": [each for each in ("mp3", "wav", "flac", "opus") if each in server.formats],
    }


@router.get("/overview")
async def overview(server: State, _: ShownKey) -> dict[str, Any]:
    """The workers of the queue, wherever they run, and whether the calls of each model are held back."""
    queue, quota = server.queue.backend, server.config.rate_limit_rpm
    workers: dict[str, list[dict[str, Any]]] = {name: [] for name in await queue.workers()}
    for job in await queue.list_jobs(JobState.LEASED, _MOST_LEASED):
        # One that is busy for long has no time to say that it is there.
        workers.setdefault(job.worker or "", []).append({"id": job.job_id, "since": job.started_at})
    problem = server.worker.get_status().problem if server.worker else None
    return {
        "models": [
            {
                "model": str(model),
                "circuit": "open" if await queue.limits.is_circuit_open(model) else "closed",
                "quota": quota,
            }
            for model in MODEL_SPECS
        ],
        "workers": [{"name": name, "tasks": tasks} for name, tasks in sorted(workers.items())],
        "problem": problem,
    }


@router.post("/speech", status_code=201)
async def prepare_speech(body: SpeechBody, server: State, _: ShownKey) -> dict[str, str]:
    """Keep what to speak for an hour, and give it an address that a player can be given. Nothing is spoken yet."""
    check_length(server, body.request(server))
    name = secrets.token_urlsafe(18)
    await server.ledger.keep(name, body.model_dump_json(), SPEECH_KEPT_S)
    return {"url": f"/page/speech/{name}"}


@router.get("/speech/{name}/report")
async def report(name: str, server: State, _: ShownKey) -> dict[str, Any]:
    """What became of a speech; ``done`` is false until its first listener has heard all of it."""
    told = await server.ledger.find(f"{name}:report")
    return {"done": True, **json.loads(told)} if told else {"done": False}


@router.get("/speech/{name}", response_class=Response)
async def play_speech(
    name: str, server: State, key: ShownKey, response_format: StreamFormat = "mp3", download: bool = False
) -> Response:
    """Speak it, as often as that is asked for; the pieces come from the cache the second time."""
    kept = await server.ledger.find(name)
    if kept is None:
        raise AnswerError(404, "there is no such speech, or its hour is over", code="not_found")
    body = SpeechBody.model_validate_json(kept).model_copy(
        update={"response_format": response_format, "stream_format": None}
    )
    headers = {"content-disposition": f'attachment; filename="speech.{response_format}"'} if download else None
    return sound_response(server, body, key, headers, f"{name}:report")


def add_page(app: FastAPI) -> None:
    """Serve the page, whose files lie at the root: whatever is no route is looked for among them."""
    app.include_router(router)
    # A mount at the root would take requests that have a route for another method.
    app.router.default = _Files(directory=_PAGE, html=True)


class _Files(StaticFiles):
    """The files of the page; a browser runs nothing with them that is not among them."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS.items()]
            await send(message)

        await super().__call__(scope, receive, send_with_headers)
