"""What became of a book: its files, and an account of every chapter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from audio_api.errors import AudioAPIError, ErrorCode, error_class
from audio_api.models.sound_formats import OutputFormat

BookFormat = OutputFormat | Literal["m4b"]
"""``"m4b"`` is one file with chapters; with any other format each chapter is a file."""

Stage = Literal["speaking", "writing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BookProgress:
    """How far a book is.

    Attributes:
        stage: Whether chapters are spoken, or the files are written.
        characters_done: Characters spoken, those of earlier runs included; of the files, characters written.
        characters_total: Characters in all.
        chapters_done: Chapters spoken, or written.
        chapters_total: Chapters in all.
        seconds: Seconds of sound so far.
        cost_usd: US dollars that this run cost so far; ``None``: not known.
    """

    stage: Stage
    characters_done: int
    characters_total: int
    chapters_done: int
    chapters_total: int
    seconds: float
    cost_usd: float | None


BookProgressCallback = Callable[[BookProgress], Awaitable[None] | None]
"""Called after each piece of a chapter, and after each chapter that is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NarratedChapter:
    """What became of one chapter.

    Attributes:
        number: Its place in the book, from 1 on.
        title: Its title.
        success: Whether its whole text was spoken.
        file_path: Its own file; ``None``: it failed, or is in one file with the others.
        start_s: Where its first word begins in its file, in seconds; ``None``: it failed, or its file was not written.
        duration_s: Seconds of sound; ``None``: it failed.
        error: What happened; ``None`` on success.
        error_code: Its stable name; ``None`` on success.
        retryable: Whether the same command may succeed later.
        attempts: API calls of this run.
        cached_pieces: Pieces that were kept from an earlier run, and cost nothing.
        is_kept: Whether an earlier run had finished it.
        cost_usd: What this run paid for it, in US dollars; ``None``: not known.
        doubtful: As ``AudioResponse.doubtful``.
        warnings: As ``AudioResponse.warnings``.
    """

    number: int
    title: str
    success: bool
    file_path: str | None = None
    start_s: float | None = None
    duration_s: float | None = None
    error: str | None = None
    error_code: ErrorCode | None = None
    retryable: bool = False
    attempts: int = 0
    cached_pieces: int = 0
    is_kept: bool = False
    cost_usd: float | None = 0.0
    doubtful: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Audiobook:
    """What became of a book.

    Attributes:
        success: Whether every chapter was spoken and every file is written.
        message: One sentence for people; of a failure it names the chapters that are missing.
        title: The book's title.
        file_path: The one file of all chapters, or the folder of theirs; ``None``: the one file was not written, since
            a chapter is missing.
        feed_path: The feed for podcast programs; ``None``: none was asked for.
        chapters: Every chapter that was wanted, in order.
        duration_s: Seconds of all files together.
        cost_usd: What this run cost in US dollars; ``None``: not known.
        replaced: How often each word of the lexicon was replaced.
        warnings: What a careful listener should know.
    """

    success: bool
    message: str
    title: str
    file_path: str | None
    feed_path: str | None
    chapters: tuple[NarratedChapter, ...]
    duration_s: float
    cost_usd: float | None
    replaced: Mapping[str, int]
    warnings: tuple[str, ...]

    @property
    def failed(self) -> tuple[NarratedChapter, ...]:
        """The chapters that are missing."""
        return tuple(chapter for chapter in self.chapters if not chapter.success)

    def raise_for_error(self) -> Audiobook:
        """Return this audiobook if it is whole.

        Raises:
            AudioAPIError: The class that belongs to the first missing chapter's ``error_code``.
        """
        if self.success:
            return self
        first = self.failed[0]
        code = first.error_code or ErrorCode.API_ERROR
        error: AudioAPIError = error_class(code)(self.message, code=code, retryable=first.retryable)
        raise error


def sum_usd(costs: list[float | None]) -> float | None:
    """The sum; ``None`` when any of them is not known."""
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None
