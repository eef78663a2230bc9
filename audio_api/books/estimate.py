"""What a book will take: characters, minutes and dollars, before anything is paid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from audio_api.books.script import ChapterScript
from audio_api.config import AudioConfig
from audio_api.models.speech_models import Price, model_spec

# Calls are billed 25 or 32 tokens of sound a second; the estimate is the upper one.
_TOKENS_PER_S = 32
_LEAST_CHARS_PER_TOKEN = 3


@dataclass(frozen=True, slots=True)
class ChapterEstimate:
    """What one chapter will take.

    Attributes:
        number: Its place in the book, from 1 on.
        title: Its title.
        characters: Of everything spoken.
        seconds: About how long it takes to hear.
        cost_usd: At most about so many US dollars at the day's list price, if no call has to be repeated; ``None``:
            the model's price is unknown.
        is_made: Whether an earlier run made it, so that it costs nothing.
    """

    number: int
    title: str
    characters: int
    seconds: float
    cost_usd: float | None
    is_made: bool


def estimate(
    scripts: Iterable[ChapterScript], config: AudioConfig, day: date, made: Iterable[int] = ()
) -> list[ChapterEstimate]:
    """Estimate each chapter.

    Args:
        scripts: Of the chapters.
        config: The settings: the engine, the model of requests that name none, and prices of one's own.
        day: The day whose prices count.
        made: Numbers of chapters that an earlier run made.
    """
    numbers = frozenset(made)
    return [
        ChapterEstimate(
            script.number,
            script.title,
            script.characters,
            script.seconds,
            0.0 if script.number in numbers else _cost_usd(script, config, day),
            script.number in numbers,
        )
        for script in scripts
    ]


def _cost_usd(script: ChapterScript, config: AudioConfig, day: date) -> float | None:
    if config.tts_engine == "offline":
        return 0.0
    model = str(script.passages[0].request.model or config.default_tts_model)
    own = config.model_prices.get(model)
    price = Price(day, *own) if own else model_spec(model).price(day)
    if price is None:
        return None
    return price.cost_usd(script.characters // _LEAST_CHARS_PER_TOKEN, round(script.seconds * _TOKENS_PER_S))
