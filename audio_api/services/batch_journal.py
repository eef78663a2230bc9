"""What must survive of a batch: its requests, its jobs, and the responses so far, in a folder of its own. Blocking."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from audio_api.audio.durable import DurableFile, explained, folder_at, real_folder
from audio_api.engines.gemini_batches import RemoteState
from audio_api.errors import TTSOutputError, TTSValidationError
from audio_api.models.audio_request import ID_PATTERN, AudioRequest, AudioResponse

_FOLDER = ".batches"
_RECORD, _REQUESTS, _RESPONSES = "batch.json", "requests.jsonl", "responses.jsonl"
_KEY = re.compile(rb'"key"\s*:\s*"([0-9a-f]{64})-(\d{1,9})"')


@dataclass(frozen=True, slots=True)
class Brought:
    """Where the result of an item is.

    Attributes:
        path: The file of results.
        offset: Of its line, in bytes.
        size: Of its line, in bytes.
        owner: The number of the request that is charged for it; others may use it, too.
    """

    path: Path
    offset: int
    size: int
    owner: int


def item_key(content_key: str, owner: int) -> str:
    """The key of an item: what is said, and the number of the request that is charged for it."""
    return f"{content_key}-{owner}"


class BatchPart(BaseModel):
    """One job of a batch, which has one for each model.

    Attributes:
        display_name: Our name for the job; no other job has it.
        model: The model's id.
        input: The name of its input in the folder.
        file: The API's name of the uploaded input; empty: it is not uploaded.
        uploaded_at: When it was uploaded, in Unix seconds.
        asked_at: When its creation was last asked for; 0: never, or the API refused. It is written before the call.
        job: The API's name of the job; empty: it is not known.
        created_at: When the job was found to be there.
        cancelled_at: When its end was asked for; 0: it was not.
        state: How the job ended, once its results are here; ``None``: it has not.
        results: The name of the file of results in the folder; empty: there are none.
        problem: Why there are none, or why the job could not be created yet.
    """

    model_config = ConfigDict(extra="forbid")

    display_name: str
    model: str
    input: str
    file: str = ""
    uploaded_at: float = 0.0
    asked_at: float = 0.0
    job: str = ""
    created_at: float = 0.0
    cancelled_at: float = 0.0
    state: RemoteState | None = None
    results: str = ""
    problem: str = ""


class Record(BaseModel):
    """The journal itself.

    Attributes:
        v: Its version.
        digest: Over the requests.
        total: How many there are.
        created_at: When the batch began, in Unix seconds.
        cancelled: Whether the user cancelled it.
        looked_at: When a worker last asked for the jobs, in Unix seconds.
        parts: Its jobs.
    """

    model_config = ConfigDict(extra="forbid")

    v: Literal[1] = 1
    digest: str
    total: int
    created_at: float
    cancelled: bool = False
    looked_at: float = 0.0
    parts: list[BatchPart]


@dataclass(slots=True)
class BatchEntry:
    """A request of a batch.

    Attributes:
        request: What to speak.
        after: The numbers of the requests for which pieces are made that this one needs, too.
        note: What tells its file from any other, as the draft said just before it was published; ``None``: it was not.
        response: What became of it; ``None``: nothing yet.
    """

    request: AudioRequest
    after: Sequence[int]
    note: dict[str, Any] | None = None
    response: AudioResponse | None = None


@dataclass(slots=True)
class Journal:
    """The folder of a batch.

    Attributes:
        folder: Where it is; made with mode 0700, since it holds the texts.
        record: What is known of the jobs.
        entries: The requests, in order.
    """

    folder: Path
    record: Record
    entries: list[BatchEntry] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the batch."""
        return self.folder.name

    @property
    def is_finished(self) -> bool:
        """Whether every request has its response."""
        return all(entry.response is not None for entry in self.entries)

    @property
    def is_created(self) -> bool:
        """Whether no further job is to be created."""
        return all(part.job or part.state for part in self.record.parts)

    @property
    def has_ended(self) -> bool:
        """Whether all jobs have ended, and what they brought is here."""
        return all(part.state for part in self.record.parts)

    @classmethod
    def load(cls, folder: Path) -> Journal | None:
        """Read the journal in a folder; ``None``: there is none.

        Raises:
            TTSValidationError: It is damaged, or of a later version.
        """
        try:
            record = Record.model_validate_json((folder / _RECORD).read_bytes())
            entries = [
                BatchEntry(AudioRequest.model_validate(told["request"]), told["after"])
                for told in _lines(folder / _REQUESTS)
            ]
            for told in _whole_lines(folder / _RESPONSES):
                entry = entries[told["index"]]
                entry.note = told.get("note", entry.note)
                if "response" in told:
                    entry.response = AudioResponse.model_validate(told["response"])
        except FileNotFoundError:
            return None
        except (ValueError, LookupError, TypeError, ValidationError) as error:
            problem = f"the journal in {str(folder)!r} cannot be read ({type(error).__name__})"
            raise TTSValidationError(problem) from None
        return cls(folder, record, entries)

    def begin(self, inputs: Mapping[str, Iterable[bytes]]) -> None:
        """Write all of it to disk, the record last: what was there before it is no batch.

        Args:
            inputs: The lines of each part's input, by its name in the folder.

        Raises:
            TTSOutputError: The folder takes no files.
        """
        requests = (
            json.dumps(
                {
                    "request": entry.request.model_dump(mode="json", exclude_defaults=True),
                    "after": list(entry.after),
                }
            ).encode()
            + b"\n"
            for entry in self.entries
        )
        with explained(self.folder):
            (self.folder / _RESPONSES).unlink(missing_ok=True)
            self._write(_REQUESTS, requests)
            for name, lines in inputs.items():
                self._write(name, lines)
            self.save()

    def save(self) -> None:
        """Write the record to disk.

        Raises:
            TTSOutputError: The folder takes no files.
        """
        with explained(self.folder):
            self._write(_RECORD, [self.record.model_dump_json().encode()])

    def split(self, part: BatchPart) -> None:
        """Make two jobs of one that is too large, and save that.

        What is in which half follows from the content: another machine that has to split it makes the same halves.

        Raises:
            TTSOutputError: The folder takes no files.
        """
        # Each earlier split has left a letter at the end.
        stem = part.input.removesuffix(".jsonl")
        depth = len(stem) - len(stem.rstrip("ab"))
        halves = []
        with explained(self.folder):
            for bit, end in enumerate("ab"):
                name = f"{stem}{end}.jsonl"
                self._write(name, _half(self.folder / part.input, depth, bit))
                # It may be there: another machine may have split it, too.
                half = BatchPart(display_name=part.display_name + end, model=part.model, input=name, asked_at=1.0)
                halves += [half] if (self.folder / name).stat().st_size else []
            at = self.record.parts.index(part)
            self.record.parts[at : at + 1] = halves
            self.save()

    def tell(self, index: int, news: dict[str, Any]) -> None:
        """Append news of a request, on disk when this returns.

        Args:
            index: Its number, from 0.
            news: Its ``note`` or its ``response``.

        Raises:
            TTSOutputError: The folder takes no files.
        """
        # An earlier process may have been killed within a line.
        line = b"\n" + json.dumps({"index": index, **news}).encode() + b"\n"
        with explained(self.folder), (self.folder / _RESPONSES).open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def takes(self) -> dict[str, Brought]:
        """Where the results are, by content key."""
        found: dict[str, Brought] = {}
        for part in self.record.parts:
            if part.results:
                path = self.folder / part.results
                found |= _takes_in(path, path.stat().st_mtime_ns)
        return found

    def _write(self, name: str, lines: Iterable[bytes]) -> None:
        path = self.folder / name
        with (
            folder_at(real_folder(self.folder)) as folder_fd,
            DurableFile(folder_fd, path, overwrite=True) as file,
        ):
            os.fchmod(file.fileno(), 0o600)
            for line in lines:
                file.write(line)
            os.fsync(file.fileno())
            file.publish()


# Many tasks of a queue look into the same results.
@lru_cache(maxsize=8)
def _takes_in(path: Path, _: int) -> dict[str, Brought]:
    found, offset = {}, 0
    with path.open("rb") as file:
        for line in file:
            if key := _KEY.search(line):
                found[key[1].decode()] = Brought(path, offset, len(line), int(key[2]))
            offset += len(line)
    return found


def _half(path: Path, depth: int, bit: int) -> Iterator[bytes]:
    """The lines of an input whose content keys have that bit."""
    with path.open("rb") as file:
        for line in file:
            key = _KEY.search(line)
            if key and int(key[1], 16) >> depth & 1 == bit:
                yield line


def folder_of(output_dir: Path, name: str) -> Path:
    """The folder of a batch.

    Raises:
        TTSValidationError: It cannot be a name.
    """
    if not re.fullmatch(ID_PATTERN, name):
        raise TTSValidationError(f"{name[:80]!r} is no name of a batch: 1 to 64 letters, digits, _ or -")
    return output_dir.absolute() / _FOLDER / name


def known_batches(output_dir: Path) -> list[str]:
    """The names of the batches whose journals are in an output folder."""
    return sorted(path.parent.name for path in (output_dir / _FOLDER).glob(f"*/{_RECORD}"))


def digest_of(requests: Iterable[AudioRequest]) -> str:
    """64 hexadecimal digits over requests."""
    digest = hashlib.sha256()
    for request in requests:
        digest.update(request.model_dump_json().encode() + b"\n")
    return digest.hexdigest()


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep other processes from working on the same batch; makes the folder.

    Raises:
        TTSOutputError: Another process works on it, or the folder cannot be made.
    """
    with explained(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise TTSOutputError(f"another process works on the batch {folder.name}: wait for it", retryable=True) from None
    try:
        yield
    finally:
        os.close(descriptor)


def _lines(path: Path) -> Iterator[Any]:
    """The documents in a file."""
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)


def _whole_lines(path: Path) -> Iterator[Any]:
    """The documents in a file to which processes append that may be killed; it may be missing."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            try:
                told = json.loads(line)
            except ValueError:
                continue
            yield told
