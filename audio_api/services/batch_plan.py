"""What a batch asks for: one job for each model, and each piece once."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from audio_api.engines.gemini_batches import BatchCalls
from audio_api.models.audio_request import AudioRequest
from audio_api.retry import Clock
from audio_api.services.batch_journal import BatchEntry, BatchPart, Journal, Record
from audio_api.speech.planning import PlannedPiece


def name_for(digest: str) -> str:
    """The name of a batch that was given none."""
    return f"batch-{digest[:16]}"


def planned(
    requests: Sequence[AudioRequest],
    pieces: Sequence[Sequence[PlannedPiece]],
    folder: Path,
    digest: str,
    clock: Clock,
    *,
    is_named: bool,
) -> Journal:
    """The journal of a batch: each piece is made once, for the first request that needs it."""
    owners: dict[str, int] = {}
    models: dict[str, None] = {}
    entries = []
    for index, (request, own) in enumerate(zip(requests, pieces, strict=True)):
        for piece in own:
            owners.setdefault(piece.key, index)
            models[piece.utterance.model] = None
        keys = [key for key in dict.fromkeys(piece.key for piece in own) if owners[key] == index]
        entries.append(BatchEntry(request, keys, sorted({owners[piece.key] for piece in own} - {index})))
    # By the name that a caller gave, a job is found that another machine created for the same requests.
    token = digest[:8] if is_named else secrets.token_hex(4)
    parts = [
        BatchPart(
            display_name=f"audio-api-{folder.name}-{token}-{number}",
            model=model,
            input=f"part-{number}.jsonl",
            asked_at=1.0 if is_named else 0.0,
        )
        for number, model in enumerate(models)
    ]
    record = Record(digest=digest, total=len(requests), created_at=clock.now().timestamp(), parts=parts)
    return Journal(folder, record, entries)


def inputs(journal: Journal, pieces: Sequence[Sequence[PlannedPiece]], calls: BatchCalls) -> dict[str, Iterator[bytes]]:
    """The lines of each part's input."""
    by_model: dict[str, dict[str, PlannedPiece]] = {part.model: {} for part in journal.record.parts}
    for own in pieces:
        for piece in own:
            by_model[piece.utterance.model].setdefault(piece.key, piece)
    return {
        part.input: (calls.line(key, piece.utterance) for key, piece in by_model[part.model].items())
        for part in journal.record.parts
    }
