"""What a text will take: pieces, seconds, tokens and dollars."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from math import ceil

from audio_api.config import AudioConfig
from audio_api.errors import AudioAPIError, ConfigurationError
from audio_api.models.audio_request import AudioRequest
from audio_api.models.estimate import Estimate
from audio_api.models.service_tiers import PRICE_FACTORS, ServedTier
from audio_api.models.speech_models import Price
from audio_api.speech.cost import price_of
from audio_api.speech.planning import PlannedPiece
from audio_api.speech.speaker import PieceSpeaker

# Calls are billed 25 or 32 tokens of sound a second; the estimate is the upper one.
_TOKENS_PER_S = 32
# Of English, where it is four; a character of another alphabet is a token at most.
_LEAST_CHARS_PER_TOKEN = 3


def estimate_pieces(
    pieces: Sequence[PlannedPiece],
    config: AudioConfig,
    day: date,
    *,
    made: Sequence[PlannedPiece] = (),
    counted_tokens: int | None = None,
    is_billed: bool = True,
) -> Estimate:
    """Add up what pieces of one model will take.

    Args:
        pieces: All of them, at least one.
        config: The settings, for prices of one's own.
        day: The day whose prices count.
        made: Those that need no call, because they are kept.
        counted_tokens: The input of the others, as the API counted it; ``None``: it was not asked.
        is_billed: Whether calls cost money.
    """
    due = [piece for piece in pieces if piece not in made] if made else pieces
    input_tokens = sum(_most_tokens(piece) for piece in due) if counted_tokens is None else counted_tokens
    output_tokens = ceil(sum(piece.seconds for piece in due) * _TOKENS_PER_S)
    model = pieces[0].utterance.model
    price = price_of(model, config.model_prices, day) if is_billed else Price(day, 0.0, 0.0)
    costs_usd: dict[ServedTier, float] = {}
    if price:
        cost_usd = price.cost_usd(input_tokens, output_tokens)
        costs_usd = {tier: factor * cost_usd for tier, factor in PRICE_FACTORS.items()}
    return Estimate(
        model=model,
        characters=sum(len(turn.text) for piece in pieces for turn in piece.utterance.turns),
        pieces=len(pieces),
        cached_pieces=len(pieces) - len(due),
        seconds=sum(piece.seconds for piece in pieces),
        input_tokens=input_tokens,
        tokens_counted=counted_tokens is not None,
        output_tokens=output_tokens,
        service_tier=pieces[0].utterance.tier,
        costs_usd=costs_usd,
    )


def _most_tokens(piece: PlannedPiece) -> int:
    words = "".join(turn.text + (turn.style or "") for turn in piece.utterance.turns)
    plain = len(words.encode("ascii", "ignore"))
    return ceil(plain / _LEAST_CHARS_PER_TOKEN) + len(words) - plain


async def estimate_request(request: AudioRequest, speaker: PieceSpeaker, day: date) -> Estimate:
    """Tell what a request will take, by the pieces that would be spoken and those that are kept.

    Args:
        request: What is to be spoken.
        speaker: Would speak it.
        day: The day whose prices count.

    Raises:
        AudioAPIError: It could not be spoken; a missing key alone is no reason.
    """
    utterance, read_notes = await speaker.read(request)
    pieces, plan_notes = await speaker.plan(utterance)
    with suppress(ConfigurationError):
        speaker.check(pieces)
    made = [piece for piece in pieces if await speaker.recall(piece)] if request.cache else []
    warnings = [warning for said in (*read_notes, *plan_notes) for warning in said.warnings]
    counted_tokens = None
    try:
        counted_tokens = await _count([piece for piece in pieces if piece not in made], speaker)
    except AudioAPIError as error:
        warnings.append(f"the API did not count the input tokens: {error}")
    estimate = estimate_pieces(
        pieces, speaker.config, day, made=made, counted_tokens=counted_tokens, is_billed=speaker.engine.is_billed
    )
    return estimate.model_copy(update={"warnings": tuple(warnings)})


async def _count(pieces: Sequence[PlannedPiece], speaker: PieceSpeaker) -> int | None:
    """The input tokens of pieces, a few of which are counted at a time; ``None``: the engine does not count."""
    counts: list[int] = []
    waiting = iter(pieces)

    async def count() -> None:
        for piece in waiting:
            tokens = await speaker.engine.count_tokens(piece.utterance)
            if tokens is None:
                return
            counts.append(tokens)

    counting = [asyncio.create_task(count()) for _ in range(min(len(pieces), speaker.config.piece_concurrency))]
    try:
        await asyncio.gather(*counting)
    finally:
        for task in counting:
            task.cancel()
    return sum(counts) if len(counts) == len(pieces) else None
