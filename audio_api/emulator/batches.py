"""Gemini's Batch API: files that are uploaded in steps, jobs that take their time, and files of results."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import tempfile
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Any, Literal, overload

from starlette.requests import Request

from audio_api.emulator.errors import RefusalError
from audio_api.emulator.faults import Fault
from audio_api.emulator.fields import ANY, read_json
from audio_api.emulator.protocol import count_tokens
from audio_api.emulator.replies import JSON, Answer

_CHUNK_BYTES = 2**20
_TYPE = "type.googleapis.com/google.ai.generativelanguage.v1main."
CREATE = {
    "batch": {
        "displayName": str,
        "model": str,
        "inputConfig": {"fileName": str, "requests": {"requests": [{"request": ANY, "metadata": ANY}]}},
        "priority": ANY,
        "webhookConfig": ANY,
    }
}
"""The body of batchGenerateContent."""

End = Literal["SUCCEEDED", "FAILED", "EXPIRED", "CANCELLED", "PARTIALLY_SUCCEEDED", "STUCK"]
Speak = Callable[[str, dict[str, Any], Fault], Awaitable[dict[str, Any]]]
"""The reply to a request of a model, with a fault; raises ``RefusalError``."""


@dataclass
class BatchRules:
    """How jobs go from now on.

    Attributes:
        pending_s: Seconds for which a job waits.
        running_s: Seconds for which it runs, besides the time that its sounds take to make.
        end: How it ends; ``"STUCK"`` runs until it is cancelled.
        prefix: What stands before the name of a state: guides write ``"JOB_STATE_"``.
        running_name: What a running job is called; a name that no client knows is possible.
        faults: The outcome of an item, by its key and its text; ``None``: all are good. Refusals are its error.
        most_jobs: Jobs that may wait or run at once.
        most_tokens: Input tokens of a model that may wait or run at once; ``None``: any number.
    """

    pending_s: float = 0.0
    running_s: float = 0.0
    end: End = "SUCCEEDED"
    prefix: str = "BATCH_STATE_"
    running_name: str = "RUNNING"
    faults: Callable[[str, str], Fault | None] | None = None
    most_jobs: int = 100
    most_tokens: int | None = None


@dataclass
class BatchItem:
    """One request of a job.

    Attributes:
        key: The client's name for it.
        text: All the text in it.
        tokens: What it was billed, both ways; 0 when it was refused.
    """

    key: str
    text: str
    tokens: int = 0


@dataclass
class BatchJob:
    """A job.

    Attributes:
        name: Such as ``"batches/abc"``.
        model: The model's id.
        display_name: The client's name for it.
        tokens: Input tokens that it holds while it waits or runs.
        items: In the order of the input; complete when it has ended.
        cancelled: Whether the client asked for that.
    """

    name: str
    model: str
    display_name: str
    tokens: int
    rules: BatchRules
    input_file: str
    items: list[BatchItem] = field(default_factory=list)
    cancelled: bool = False
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    started_s: float = field(default_factory=time.monotonic)
    results: str = ""
    inlined: list[dict[str, Any]] = field(default_factory=list)
    failed: int = 0

    @property
    def state(self) -> str:
        """The name of its state, without a prefix."""
        if self.cancelled:
            return "CANCELLED"
        age_s = time.monotonic() - self.started_s
        if age_s < self.rules.pending_s:
            return "PENDING"
        made = self.results or self.rules.end in {"FAILED", "EXPIRED"}
        if self.rules.end == "STUCK" or not made or age_s < self.rules.pending_s + self.rules.running_s:
            return self.rules.running_name
        return self.rules.end

    @property
    def is_active(self) -> bool:
        """Whether it counts towards the limits."""
        return self.state in {"PENDING", self.rules.running_name}

    def document(self) -> dict[str, Any]:
        """The operation, as the API says it; counts are strings."""
        state, total = self.state, len(self.items)
        stats = {"requestCount": str(total)}
        metadata = {
            "@type": f"{_TYPE}GenerateContentBatch",
            "model": f"models/{self.model}",
            "displayName": self.display_name,
            "createTime": self.created.isoformat(),
            "inputConfig": {"fileName": self.input_file},
            "state": self.rules.prefix + state,
            "name": self.name,
            "batchStats": stats,
        }
        document: dict[str, Any] = {"name": self.name, "metadata": metadata}
        if self.is_active:
            stats["pendingRequestCount"] = str(total)
            return document
        document["done"] = True
        if state in {"FAILED", "EXPIRED", "CANCELLED"}:
            codes = {"CANCELLED": (1, "The operation was cancelled."), "EXPIRED": (4, "The batch has expired.")}
            code, message = codes.get(state, (13, "The batch has failed."))
            return document | {"error": {"code": code, "message": message}}
        stats |= {"successfulRequestCount": str(total - self.failed), "failedRequestCount": str(self.failed)}
        # Requests that came inline are answered so; the API says either twice.
        inlined = {"inlinedResponses": {"inlinedResponses": self.inlined}}
        output: dict[str, Any] = {"responsesFile": self.results} if self.input_file else inlined
        metadata["output"] = output
        return document | {"response": {"@type": f"{_TYPE}GenerateContentBatchOutput", **output}}


class _Chunks(Sequence[bytes]):
    """The content of a file, read when it is sent."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def __len__(self) -> int:
        return max(1, -(-self._size // _CHUNK_BYTES))

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        return os.pread(self._file.fileno(), _CHUNK_BYTES, at * _CHUNK_BYTES)


class Batches:
    """The files and the jobs of one emulator.

    Attributes:
        jobs: In the order in which they were created.
    """

    def __init__(self) -> None:
        self.jobs: list[BatchJob] = []
        self._files: dict[str, IO[bytes]] = {}
        self._uploads: dict[str, IO[bytes]] = {}
        self._work: set[asyncio.Task[None]] = set()

    def upload(self, request: Request, body: bytes) -> Answer:
        """A step of a resumable upload.

        Raises:
            RefusalError: There is no such upload, or the step does not fit.
        """
        command = request.headers.get("x-goog-upload-command", "")
        name = request.query_params.get("upload_id", "")
        if command == "start":
            name = secrets.token_urlsafe(12)
            self._uploads[name] = self._new_file()
            url = str(request.url.replace(query=f"upload_id={name}&upload_protocol=resumable"))
            return Answer.of_json({}, {"X-Goog-Upload-URL": url, "X-Goog-Upload-Status": "active"})
        if (file := self._uploads.get(name)) is None:
            raise RefusalError("Upload has already been terminated.", "NOT_FOUND")
        size = file.seek(0, os.SEEK_END)
        if command == "query":
            status = {"X-Goog-Upload-Status": "active", "X-Goog-Upload-Size-Received": str(size)}
            return Answer(200, JSON, [b""], status)
        if "upload" in command and request.headers.get("x-goog-upload-offset") != str(size):
            raise RefusalError(f"Offset is not {size}.")
        file.write(body)
        file.flush()
        if "finalize" not in command:
            return Answer(200, JSON, [b""], {"X-Goog-Upload-Status": "active"})
        del self._uploads[name]
        described = {"file": self._describe(self._keep(file))}
        return Answer.of_json(described, {"X-Goog-Upload-Status": "final"})

    def file(self, name: str) -> Answer:
        """The description of a file.

        Raises:
            RefusalError: There is none.
        """
        self._open(name)
        return Answer.of_json(self._describe(name))

    def download(self, name: str) -> Answer:
        """The content of a file.

        Raises:
            RefusalError: There is none.
        """
        return Answer(200, "application/octet-stream", _Chunks(self._open(name)))

    async def create(
        self, model: str, body: bytes, rules: BatchRules, speak: Speak, refuse_tokens: RefusalError
    ) -> Answer:
        """Begin a job; the same call twice makes two.

        Raises:
            RefusalError: It is not well-formed, or there are too many jobs or tokens.
        """
        batch = read_json(body, CREATE).get("batch", {})
        source = batch.get("inputConfig", {})
        if "fileName" in source:
            file = self._open(source["fileName"])
            file.seek(0)
            lines = [json.loads(line) for line in file.read().splitlines() if line.strip()]
        else:
            inline = source.get("requests", {}).get("requests", [])
            lines = [{"key": each.get("metadata", {}).get("key", ""), "request": each["request"]} for each in inline]
        tokens = sum(count_tokens(line["request"]) for line in lines)
        active = [job for job in self.jobs if job.is_active]
        queued = tokens + sum(job.tokens for job in active if job.model == model)
        if len(active) >= rules.most_jobs or (rules.most_tokens is not None and queued > rules.most_tokens):
            raise refuse_tokens
        name = f"batches/{secrets.token_hex(8)}"
        job = BatchJob(name, model, batch.get("displayName", ""), tokens, rules, source.get("fileName", ""))
        for line in lines:
            parts = [part for content in line["request"].get("contents", ()) for part in content["parts"]]
            text = "\n".join(part.get("text", "") for part in parts)
            job.items.append(BatchItem(str(line.get("key", "")), text))
        self.jobs.append(job)
        task = asyncio.create_task(self._run(job, lines, speak))
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return Answer.of_json(job.document())

    def job(self, name: str) -> BatchJob:
        """A job.

        Raises:
            RefusalError: There is none.
        """
        for job in self.jobs:
            if job.name == name:
                return job
        raise RefusalError("Requested entity was not found.", "NOT_FOUND")

    def list_jobs(self, page_size: int, token: str) -> Answer:
        """The newest jobs first, a page at a time."""
        start = int(token or 0)
        page = [job.document() for job in self.jobs[::-1][start : start + page_size]]
        for each in page:
            each.pop("response", None)
        more = {"nextPageToken": str(start + page_size)} if start + page_size < len(self.jobs) else {}
        return Answer.of_json({"operations": page, **more})

    async def _run(self, job: BatchJob, lines: list[dict[str, Any]], speak: Speak) -> None:
        if job.rules.end in {"FAILED", "EXPIRED", "STUCK"}:
            return
        file = self._new_file()
        for item, line in zip(job.items, lines, strict=True):
            fault = (job.rules.faults and job.rules.faults(item.key, item.text)) or Fault.NONE
            try:
                reply = await speak(job.model, line["request"], fault)
            except RefusalError as refusal:
                job.failed += 1
                result = {"error": {"code": refusal.code, "message": refusal.message}}
            else:
                item.tokens = reply["usageMetadata"]["totalTokenCount"]
                result = {"response": reply}
            if not job.input_file:
                job.inlined.append({"metadata": {"key": item.key}, **result})
            file.write(json.dumps({"key": item.key, **result}).encode() + b"\n")
        file.flush()
        job.results = self._keep(file)

    def _new_file(self) -> IO[bytes]:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object
        weakref.finalize(self, file.close)
        return file

    def _keep(self, file: IO[bytes]) -> str:
        name = f"files/{secrets.token_hex(8)}"
        self._files[name] = file
        return name

    def _open(self, name: str) -> IO[bytes]:
        if name not in self._files:
            raise RefusalError(
                "You do not have permission to access the File or it may not exist.", "PERMISSION_DENIED"
            )
        return self._files[name]

    def _describe(self, name: str) -> dict[str, Any]:
        size = os.fstat(self._files[name].fileno()).st_size
        return {"name": name, "mimeType": "application/jsonl", "sizeBytes": str(size), "state": "ACTIVE"}
