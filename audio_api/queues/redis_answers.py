"""What the answers of the steps mean; an answer that no step gives raises ValueError, TypeError or LookupError."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from audio_api.queues.base import SuspectFirstError
from audio_api.queues.jobs import BatchStatus, DeadLetter, JobState, JobStatus, Lease, QueueStats


def as_text(value: bytes) -> str:
    """What the server sent, also when it is not UTF-8."""
    return value.decode(errors="replace")


def workers(answer: Any) -> dict[str, float]:
    """The workers, and how many seconds ago each was here."""
    return {as_text(name): age_ms / 1000 for name, age_ms in answer}


def counts(answer: Any) -> dict[str, int]:
    """What was counted."""
    return {as_text(name): _whole(amount) for name, amount in zip(answer[::2], answer[1::2], strict=True)}


def taken(lease_s: float, answer: Any) -> tuple[list[Lease], float | None, bool]:
    """The leases, the seconds until a job may appear by itself, and whether the keys fit together.

    The seconds are ``None`` when leases have run out and must be reclaimed first.

    Raises:
        SuspectFirstError: As ``QueueBackend.lease``.
    """
    if answer[0] == b"suspect":
        raise SuspectFirstError
    if answer[0] == b"expired":
        return [], None, True
    _, found, due_ms, fits = answer
    leases = []
    for job_id, payload, priority, batch_id, token, deliveries, progress, trace, waited_ms in found:
        who = (as_text(job_id), bytes(payload), int(priority), _text(batch_id))
        told = (_note(progress), _text(trace), max(0, waited_ms) / 1000)
        leases.append(Lease(*who, int(token), int(deliveries), lease_s, *told))
    return leases, inf if due_ms < 0 else due_ms / 1000, bool(fits)


def verdict(answer: Any) -> tuple[str, Sequence[Any]]:
    """What became of a call to enqueue, and its details."""
    word, *details = answer
    return {b"ok": "ok", b"full": "full", b"batch": "batch", b"job": "job", b"gone": "gone"}[word], details


def admission(answer: Any) -> tuple[bytes, float, bytes]:
    """What became of a call that asked for its turn."""
    word, value, why = answer
    return bytes(word), float(value), bytes(why)


def _whole(value: bytes | None) -> int:
    """A count or a moment; 0 for one that is missing, or that another program has overwritten."""
    return int(value) if value and re.fullmatch(rb"-?\d{1,16}", value) else 0


def _seconds(value: bytes | None) -> float | None:
    return None if value is None else _whole(value) / 1000


def _text(value: bytes | None) -> str | None:
    return as_text(value) if value else None


def _note(value: bytes | None) -> Mapping[str, Any] | None:
    try:
        note = json.loads(value) if value else None
    except ValueError:
        return None
    return note if isinstance(note, dict) else None


def statuses(answer: Any) -> list[JobStatus]:
    """The jobs that are known."""
    found = []
    for job_id, values in answer:
        state, priority, batch_id, deliveries, enqueued, started, finished, result, progress, reason, worker = values
        who = (as_text(job_id), JobState(as_text(state)), _whole(priority), _text(batch_id), _whole(deliveries))
        times = (_whole(enqueued) / 1000, _seconds(started), _seconds(finished))
        found.append(JobStatus(*who, *times, result, _note(progress), _text(reason), _text(worker)))
    return found


def batch_status(batch_id: str, answer: Any) -> BatchStatus | None:
    """The counters of a batch; ``None``: it is unknown."""
    total, started, *ended = answer
    if total is None:
        return None
    succeeded, failed, cancelled, dead = map(_whole, ended)
    return BatchStatus(batch_id, int(total), succeeded, failed, cancelled, dead, bool(started))


def stats(answer: Any) -> QueueStats:
    """The snapshot."""
    waiting, delayed, leased, dead, (succeeded, failed, cancelled, buried), oldest_ms = answer
    return QueueStats(
        waiting={int(priority): int(count) for priority, count in waiting},
        delayed=int(delayed),
        leased=int(leased),
        dead=int(dead),
        succeeded=_whole(succeeded),
        failed=_whole(failed),
        cancelled=_whole(cancelled),
        buried=_whole(buried),
        oldest_age_s=None if oldest_ms < 0 else oldest_ms / 1000,
    )


def dead_letters(answer: Any) -> list[DeadLetter]:
    """A page of dead letters."""
    letters = []
    for job_id, (payload, reason, deliveries, batch_id, buried) in answer:
        why = _text(reason) or "it is not known why"
        who = (as_text(job_id), payload or b"", why)
        letters.append(DeadLetter(*who, _whole(deliveries), _text(batch_id), _whole(buried) / 1000))
    return letters
