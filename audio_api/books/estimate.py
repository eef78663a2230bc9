"""What a book will take: characters, calls, minutes and dollars, before anything is paid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from audio_api.books.script import ChapterScript
from audio_api.config import AudioConfig
from audio_api.engines.base import Utterance
from audio_api.speech.estimate import estimate_pieces
from audio_api.speech.planning import most_chars, plan_pieces


@dataclass(frozen=True, slots=True)
class ChapterEstimate:
    """What one chapter will take.

    Attributes:
        number: Its place in the book, from 1 on.
        title: Its title.
        characters: Of everything spoken.
        pieces: The calls that it needs.
        seconds: About how long it takes to hear, pauses included.
        cost_usd: At most about so many US dollars at the day's list price and the tier of the settings, if no call has
            to be repeated; ``None``: the model's price is unknown.
        is_made: Whether an earlier run made it, so that it costs nothing.
    """

    number: int
    title: str
    characters: int
    pieces: int
    seconds: float
    cost_usd: float | None
    is_made: bool


def estimate(
    scripts: Iterable[ChapterScript], config: AudioConfig, day: date, made: Iterable[int] = ()
) -> list[ChapterEstimate]:
    """Estimate each chapter, without asking the API.

    Args:
        scripts: Of the chapters.
        config: The settings: the engine, the model of requests that name none, and prices of one's own.
        day: The day whose prices count.
        made: Numbers of chapters that an earlier run made.

    Raises:
        TTSValidationError: A dialogue cannot be told apart.
    """
    numbers = frozenset(made)
    estimates = []
    for script in scripts:
        model = str(script.passages[0].request.model or config.default_tts_model)
        requests = [passage.request for passage in script.passages]
        utterances = [Utterance.from_request(request, model, config.service_tier) for request in requests]
        pieces = [piece for each in utterances for piece in plan_pieces(each, most_chars(model, config))]
        is_made = script.number in numbers
        spoken = estimate_pieces(pieces, config, day, is_billed=config.tts_engine != "offline" and not is_made)
        pauses_s = script.silence_s + sum(passage.silence_s for passage in script.passages)
        estimates.append(
            ChapterEstimate(
                script.number,
                script.title,
                script.characters,
                spoken.pieces,
                spoken.seconds + pauses_s,
                spoken.cost_usd,
                is_made,
            )
        )
    return estimates
