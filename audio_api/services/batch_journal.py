"""What must survive of a batch: its requests, its jobs, and the responses so far, in a folder of its own. Blocking."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from audio_api.audio.durable import DurableFile, explained, folder_at, real_folder
from audio_api.engines.gemini_batches import RemoteState
from audio_api.errors import TTSOutputError, TTSValidationError
from audio_api.models.audio_request import ID_PATTERN, AudioRequest, AudioResponse

_FOLDER = ".batches"
_RECORD, _REQUESTS, _RESPONSES = "batch.json", "requests.jsonl", "responses.jsonl"
_KEY = re.compile(rb'"key"\s*:\s*"([0-9a-f]{64})"')


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
        parts: Its jobs.
    """

    model_config = ConfigDict(extra="forbid")

    v: Literal[1] = 1
    digest: str
    total: int
    created_at: float
    cancelled: bool = False
    parts: list[BatchPart]


@dataclass(slots=True)
class BatchEntry:
    """A request of a batch.

    Attributes:
        request: What to speak.
        keys: The content keys of the pieces that are made for it; pieces that others have made are not among them.
        after: The numbers of the requests for which the others are made.
        note: What tells its file from any other, as the draft said just before it was published; ``None``: it was not.
        response: What became of it; ``None``: nothing yet.
    """

    request: AudioRequest
    keys: list[str]
    after: list[int]
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

    @classmethod
    def load(cls, output_dir: Path, name: str) -> Journal | None:
        """Read a journal; ``None``: there is none of this name.

        Raises:
            TTSValidationError: It is damaged, or of a later version.
        """
        folder = folder_of(output_dir, name)
        try:
            record = Record.model_validate_json((folder / _RECORD).read_bytes())
            entries = [
                BatchEntry(AudioRequest.model_validate(told["request"]), told["keys"], told["after"])
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
                    "keys": entry.keys,
                    "after": entry.after,
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

        Raises:
            TTSOutputError: The folder takes no files.
        """
        with explained(self.folder):
            with (self.folder / part.input).open("rb") as file:
                lines = file.readlines()
            halves = [
                BatchPart(
                    display_name=f"{part.display_name}{end}", model=part.model, input=f"{part.input[:-6]}{end}.jsonl"
                )
                for end in "ab"
            ]
            self._write(halves[0].input, lines[: len(lines) // 2])
            self._write(halves[1].input, lines[len(lines) // 2 :])
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

    def takes(self) -> dict[str, tuple[Path, int, int]]:
        """Where the results are, by content key: file, offset and size."""
        found = {}
        for part in self.record.parts:
            if part.results:
                offset = 0
                with (self.folder / part.results).open("rb") as file:
                    for line in file:
                        if key := _KEY.search(line):
                            found[key[1].decode()] = (self.folder / part.results, offset, len(line))
                        offset += len(line)
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
