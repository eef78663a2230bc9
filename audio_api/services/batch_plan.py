"""What a batch asks for: one job for each model, and each piece once."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from audio_api.engines.gemini_batches import BatchCalls
from audio_api.models.audio_request import AudioRequest
from audio_api.retry import Clock
from audio_api.services.batch_journal import BatchEntry, BatchPart, Journal, Record, item_key
from audio_api.speech.planning import PlannedPiece


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be spoken.

    Attributes:
        items: The pieces of each model, each once, by their keys in its job.
        after: Of each request the numbers of those that are charged for pieces that it needs.
    """

    items: Mapping[str, Mapping[str, PlannedPiece]]
    after: Sequence[Sequence[int]]

    @classmethod
    def of(cls, pieces: Sequence[Sequence[PlannedPiece]]) -> Plan:
        """A plan in which each piece is made for the first request that needs it.

        Args:
            pieces: Of each request those that are not kept.
        """
        owners: dict[str, int] = {}
        items: dict[str, dict[str, PlannedPiece]] = {}
        for index, own in enumerate(pieces):
            for piece in own:
                owner = owners.setdefault(piece.key, index)
                items.setdefault(piece.utterance.model, {}).setdefault(item_key(piece.key, owner), piece)
        return cls(items, [sorted({owners[piece.key] for piece in own} - {at}) for at, own in enumerate(pieces)])

    def parts(self, name: str, asked_at: float = 0.0) -> list[BatchPart]:
        """Its jobs.

        Args:
            name: The beginning of our names for them.
            asked_at: When another process may have asked for their creation, in Unix seconds; 0: none did.
        """
        return [
            BatchPart(display_name=f"{name}-{model}", model=model, input=f"part-{number}.jsonl", asked_at=asked_at)
            for number, model in enumerate(self.items)
        ]

    def inputs(self, calls: BatchCalls) -> dict[str, Iterator[bytes]]:
        """The lines of each part's input."""
        return {
            f"part-{number}.jsonl": (calls.line(key, piece.utterance) for key, piece in items.items())
            for number, items in enumerate(self.items.values())
        }


def name_for(digest: str) -> str:
    """The name of a batch that was given none."""
    return f"batch-{digest[:16]}"


def planned(
    requests: Sequence[AudioRequest], plan: Plan, folder: Path, digest: str, clock: Clock, *, is_named: bool
) -> Journal:
    """The journal of a batch."""
    # By the name that a caller gave, a job is found that another machine created for the same requests.
    token = digest[:8] if is_named else secrets.token_hex(4)
    parts = plan.parts(f"audio-api-{folder.name}-{token}", 1.0 if is_named else 0.0)
    record = Record(digest=digest, total=len(requests), created_at=clock.now().timestamp(), parts=parts)
    return Journal(folder, record, [BatchEntry(*each) for each in zip(requests, plan.after, strict=True)])
