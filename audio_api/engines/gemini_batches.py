"""Gemini's Batch API in plain JSON: the SDK drops a job's error, and holds a whole file of results in memory."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from audio_api.audio.file_threads import in_file_thread
from audio_api.engines.base import SpeechAudio, Utterance
from audio_api.engines.gemini_answers import ErrorAnswer
from audio_api.engines.gemini_body import unpacked
from audio_api.engines.gemini_errors import error_of, unreadable
from audio_api.engines.gemini_habits import Habits
from audio_api.engines.gemini_json import reduce_reply
from audio_api.engines.gemini_reply import Wire, read_reply
from audio_api.engines.gemini_request import build_request
from audio_api.engines.gemini_rest import RestCalls, understood
from audio_api.errors import AudioAPIError, ConfigurationError, TTSUnavailableError

# The size of a step of an upload; those of Google's SDK are as large.
_STEP_BYTES = 8 * 2**20
_PAGE = 100
# A job is among the newest ones: 100 may be active at once.
_MOST_PAGES = 20
_PREFIXES = re.compile(r"^(?:BATCH|JOB)_STATE_")
_NAME = re.compile(r"(batches|files)/[A-Za-z0-9._-]{1,200}")
_CAPITAL = re.compile(r"(?<=[a-z])([A-Z])")
# Items carry the codes of google.rpc or those of HTTP.
_HTTP_CODES = {1: 499, 3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 9: 400, 13: 500, 14: 503, 16: 401}


class RemoteState(StrEnum):
    """Where a job is. A state that is not known here counts as running."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to it."""
        return self not in {RemoteState.PENDING, RemoteState.RUNNING}


@dataclass(frozen=True, slots=True)
class RemoteJob:
    """A job as the API tells it.

    Attributes:
        name: Such as ``"batches/abc"``.
        display_name: Our name for it.
        state: Where it is.
        results: The name of the file of its results; empty: there is none.
        problem: Why it ended without any; empty: not said.
    """

    name: str
    display_name: str
    state: RemoteState
    results: str = ""
    problem: str = ""

    @classmethod
    def from_json(cls, told: Any) -> RemoteJob:
        """Read an operation.

        Raises:
            ValueError: It is none.
        """
        if not (isinstance(told, dict) and _NAME.fullmatch(str(told.get("name")))):
            raise ValueError("no operation with a name")
        metadata = told.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        results = ""
        for place in (told.get("response"), metadata.get("output")):
            named = str(place.get("responsesFile")) if isinstance(place, dict) else ""
            results = results or (named if _NAME.fullmatch(named) else "")
        error = told.get("error")
        problem = str(error.get("message", ""))[:200] if isinstance(error, dict) else ""
        name = _PREFIXES.sub("", str(metadata.get("state", ""))).lower()
        if name == "partially_succeeded":
            name = "succeeded"
        known = {state.value for state in RemoteState}
        unknown = "running"
        if told.get("done") is True:
            unknown = "succeeded" if results else "failed"
        state = RemoteState(name if name in known else unknown)
        return cls(told["name"], str(metadata.get("displayName", "")), state, results, problem)


class BatchCalls:
    """Calls of the Batch API. Each is one attempt; all but ``create`` may be repeated.

    Every call raises ``AudioAPIError`` of the class that says whether another attempt makes sense.

    Args:
        rest: Makes them; of a download, its time limit bounds the seconds without a byte.
        habits: How requests are put.
    """

    def __init__(self, rest: RestCalls, habits: Habits) -> None:
        self._rest = rest
        self._habits = habits

    def line(self, key: str, utterance: Utterance) -> bytes:
        """A line of a job's input.

        Args:
            key: Our name for the item.
            utterance: What is spoken.
        """
        contents, config = build_request(utterance, replace(self._habits.manner(utterance), timeout_s=None))
        generation = {"responseModalities": config["response_modalities"], "speechConfig": config["speech_config"]}
        extra = config.get("http_options", {}).get("extra_body", {})
        request = {"contents": [contents], "generationConfig": generation, **extra}
        request.pop("serviceTier", None)
        return json.dumps({"key": key, "request": request}, ensure_ascii=False).encode() + b"\n"

    async def upload(self, path: Path, display_name: str) -> str:
        """Upload an input in steps; returns the file's name.

        A step whose answer was lost is not sent again if the API has it.
        """
        size = (await in_file_thread(path.stat)).st_size
        start = {
            "X-Goog-Upload-Protocol": "resumable",
            "X-Goog-Upload-Command": "start",
            "X-Goog-Upload-Header-Content-Length": str(size),
            "X-Goog-Upload-Header-Content-Type": "application/jsonl",
        }
        begun = await self._rest.call(
            "POST", "upload/v1beta/files", {"file": {"displayName": display_name}}, headers=start
        )
        url = begun.headers.get("X-Goog-Upload-URL", "")
        if urlsplit(url)[:2] != urlsplit(self._rest.base_url)[:2]:
            raise ConfigurationError(
                "the API wants the upload elsewhere; the key is not sent there: see GEMINI_BASE_URL"
            )
        offset, failures = 0, 0
        while True:
            step = await in_file_thread(_read_at, path, offset, _STEP_BYTES)
            is_last = offset + len(step) >= size
            command = "upload, finalize" if is_last else "upload"
            headers = {"X-Goog-Upload-Command": command, "X-Goog-Upload-Offset": str(offset)}
            try:
                done = await self._rest.call("POST", url, step, headers=headers)
            except TTSUnavailableError:
                failures += 1
                if is_last or failures > 3:
                    raise
                asked = await self._rest.call("POST", url, b"", headers={"X-Goog-Upload-Command": "query"})
                offset = int(asked.headers.get("X-Goog-Upload-Size-Received", offset))
                continue
            offset += len(step)
            if is_last:
                return understood(done.json, _file_name)

    async def create(self, model: str, display_name: str, file: str, webhook: str | None = None) -> RemoteJob:
        """Begin a job. Never repeat it before ``find`` has looked for the name: twice is two jobs and two bills.

        Args:
            model: The model's id.
            display_name: Our name for it.
            file: The name of its input.
            webhook: The URL at which the API tells of its end; ``None``: those that are registered for the project.
        """
        batch: dict[str, Any] = {"displayName": display_name, "inputConfig": {"fileName": file}}
        if webhook:
            batch["webhookConfig"] = {"uris": [webhook]}
        answer = await self._rest.call("POST", f"v1beta/models/{model}:batchGenerateContent", {"batch": batch})
        return understood(answer.json, RemoteJob.from_json)

    async def jobs(self) -> AsyncGenerator[RemoteJob, None]:
        """The account's jobs, the newest first."""
        token = ""
        for _ in range(_MOST_PAGES):
            page = await self._rest.call("GET", f"v1beta/batches?pageSize={_PAGE}&pageToken={token}")
            told: dict[str, Any] = understood(page.json, dict)
            for operation in told.get("operations") or ():
                yield understood(lambda: operation, RemoteJob.from_json)  # noqa: B023 - called at once
            token = str(told.get("nextPageToken") or "")
            if not token:
                return

    async def find(self, display_name: re.Pattern[str]) -> RemoteJob | None:
        """The newest job with such a name of ours; ``None``: there is none."""
        async with aclosing(self.jobs()) as jobs:
            async for job in jobs:
                if display_name.fullmatch(job.display_name):
                    return job
        return None

    async def get(self, name: str) -> RemoteJob:
        """A job by the API's name."""
        answer = await self._rest.call("GET", f"v1beta/{name}")
        return understood(answer.json, RemoteJob.from_json)

    async def cancel(self, name: str) -> None:
        """Ask for the end of a job; only ``get`` tells whether that has come."""
        await self._rest.call("POST", f"v1beta/{name}:cancel", {})

    async def download(self, file: str, target: Path) -> None:
        """Write a file of results to disk as it comes in, and sync it. The target appears when it is whole."""
        wire = Wire()
        draft = target.with_suffix(".part")
        async with wire.call:
            answer = await self._rest.call("GET", f"download/v1beta/{file}:download?alt=media", wire=wire)
            with draft.open("wb") as out:
                chunks = answer.aiter_bytes()
                while chunk := await self._rest.in_time(anext(chunks, b"")):
                    await in_file_thread(out.write, chunk)
                await in_file_thread(out.flush)
                await in_file_thread(os.fsync, out.fileno())
        await in_file_thread(draft.replace, target)

    def read(self, line: bytes, model: str) -> SpeechAudio:
        """The sound in a line of results; blocking.

        Args:
            line: ``{"key": …, "response": …}``, or ``"error"``.
            model: The id of the model that was asked.

        Raises:
            AudioAPIError: The item failed; what was billed for it rides on the error.
        """
        try:
            return self._sound(line, model)
        except AudioAPIError as error:
            error.tier = "batch"
            raise
        except (ValueError, RecursionError, TypeError, AttributeError, LookupError) as error:
            failure = unreadable(error)
        failure.tier = "batch"
        raise failure

    def _sound(self, line: bytes, model: str) -> SpeechAudio:
        body = unpacked(line)
        told = json.loads(body.json)
        if not isinstance(told.get("response"), dict):
            error: dict[str, Any] = told.get("error") if isinstance(told.get("error"), dict) else {}
            code: int = error["code"] if isinstance(error.get("code"), int) else 13
            answer = ErrorAnswer(
                _HTTP_CODES.get(code, code), "", str(error.get("message")), [], True, {}, self._rest.key
            )
            raise error_of(answer, self._rest.now())
        reduced = reduce_reply(json.dumps(told["response"]).encode(), body.sounds)
        wire = Wire(sounds=dict(reduced.sounds), finish_message=reduced.finish_message)
        reply = json.loads(reduced.json or b"{}", object_hook=_as_object)
        return replace(read_reply(reply, asked_model=model, wire=wire), tier="batch")


def _file_name(told: Any) -> str:
    name = told["file"]["name"]
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise ValueError("no name of a file")
    return name


def _read_at(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _as_object(fields: dict[str, Any]) -> SimpleNamespace:
    """A reply's JSON in the shape of the SDK's objects; a sound's mark is bytes there."""
    named = {_CAPITAL.sub(r"_\1", name).lower(): value for name, value in fields.items()}
    if isinstance(named.get("data"), str):
        named["data"] = base64.b64decode(named["data"])
    return SimpleNamespace(**named)
