"""What one request used: every call is a record, and the records add up to usage, price and warnings.

The records ride on a result, and on an error as its ``calls``. ``TTSService`` adds them up once.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import Enum, auto

from audio_api.errors import AudioAPIError, ErrorCode, TTSAudioError
from audio_api.models.service_tiers import PRICE_FACTORS, ServedTier
from audio_api.models.speech_models import Price, model_spec
from audio_api.models.usage import TokenUsage

# After these the server may have finished, and billed, the call.
_PERHAPS_BILLED = {
    ErrorCode.TIMEOUT,
    ErrorCode.CONNECTION_BROKEN,
    ErrorCode.UNREADABLE_REPLY,
    ErrorCode.TASK_TIMEOUT,
}
_NOTHING = TokenUsage()


class Outcome(Enum):
    """What became of a call, or what stands in its place."""

    BEGUN = auto()
    """The call was ended here before its reply came."""
    SPOKEN = auto()
    UNPRICED = auto()
    """The reply held sound, and did not say what it billed."""
    FAILED = auto()
    UNSURE = auto()
    """The call failed, and did not say what it billed."""
    KEPT = auto()
    """No call was needed: the piece was finished before."""
    NOTED = auto()
    """No call: there is only something to be known."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call to an engine, or what stands in its place.

    Attributes:
        model: The id of the model that was called.
        outcome: What became of it.
        usage: Tokens billed.
        warnings: What a careful listener should know of its sound.
        doubtful: Why its sound may not be the whole text.
        tier: What served it, or was asked to; ``None``: nothing that is billed.
        heard: The share of its words that a recogniser heard; ``None``: none listened.
        code: Of the error that it ended with; ``None``: it did not fail.
    """

    model: str
    outcome: Outcome = Outcome.BEGUN
    usage: TokenUsage = _NOTHING
    warnings: tuple[str, ...] = ()
    doubtful: tuple[ErrorCode, ...] = ()
    tier: ServedTier | None = None
    heard: float | None = None
    code: ErrorCode | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What all calls of a request come to; the fields are those of ``AudioResponse``."""

    attempts: int = 0
    cached_pieces: int = 0
    usage: TokenUsage = _NOTHING
    service_tier: ServedTier | None = None
    cost_usd: float | None = 0.0
    warnings: tuple[str, ...] = ()
    doubtful: tuple[ErrorCode, ...] = ()
    heard: float | None = None
    attempt_codes: tuple[str, ...] = ()


def note(*warnings: str, doubtful: tuple[ErrorCode, ...] = (), heard: float | None = None) -> Call:
    """A record of something to be known that belongs to no call."""
    return Call("", Outcome.NOTED, warnings=warnings, doubtful=doubtful, heard=heard)


def failed_call(model: str, error: AudioAPIError, tier: ServedTier | None = None) -> Call:
    """The record of a call that raised this; the tier is the one asked for."""
    is_unsaid = isinstance(error, TTSAudioError) and error.usage is None
    unsure = is_unsaid or error.code in _PERHAPS_BILLED
    outcome = Outcome.UNSURE if unsure else Outcome.FAILED
    return Call(model, outcome, error.usage or _NOTHING, tier=error.tier or tier, code=error.code)


def as_kept(calls: Iterable[Call], *, finished: bool) -> tuple[Call, ...]:
    """The records of a request that waited for another request's calls: it hears the same, and pays nothing.

    Args:
        calls: The other request's.
        finished: Whether they made the piece.
    """
    calls = tuple(calls)
    warnings = tuple(warning for call in calls for warning in call.warnings)
    doubtful = tuple(code for call in calls for code in call.doubtful)
    outcome = Outcome.KEPT if finished else Outcome.NOTED
    return (Call("", outcome, warnings=warnings, doubtful=doubtful, heard=_least_heard(calls)),)


def _least_heard(calls: Iterable[Call]) -> float | None:
    return min((call.heard for call in calls if call.heard is not None), default=None)


def calls_of(error: BaseException) -> tuple[Call, ...]:
    """The records that ride on an error, or on a cancellation."""
    ridden: Sequence[object] = ()
    if isinstance(error, AudioAPIError):
        ridden = error.calls
    elif isinstance(error, CancelledError):
        ridden = error.args
    return tuple(call for call in ridden if isinstance(call, Call))


def price_of(model: str, own_prices: Mapping[str, tuple[float, float]], day: date) -> Price | None:
    """The price in force on a day; ``None``: unknown.

    Args:
        model: Its id.
        own_prices: US dollars for a million input and output tokens, by model; they win over those known here.
        day: The day.
    """
    own = own_prices.get(model)
    return Price(day, *own) if own else model_spec(model).price(day)


def add_up(calls: Sequence[Call], own_prices: Mapping[str, tuple[float, float]], today: date) -> Cost:
    """Add up what a request used.

    Args:
        calls: All records, in the order in which their pieces are heard.
        own_prices: As ``price_of`` takes them.
        today: The day whose prices hold.

    Returns:
        Its ``cost_usd`` is ``None`` when a price is not known, or a sound was billed without a word on how much.
    """
    made = [call for call in calls if call.outcome not in (Outcome.KEPT, Outcome.NOTED)]
    usage, cost_usd = _NOTHING, 0.0
    is_known = not any(call.outcome is Outcome.UNPRICED for call in made)
    for call in made:
        if call.usage == _NOTHING:
            continue
        usage = call.usage if usage == _NOTHING else usage + call.usage
        price = price_of(call.model, own_prices, today)
        is_known &= price is not None
        listed_usd = price.cost_usd(call.usage.input_tokens, call.usage.output_tokens) if price else 0.0
        cost_usd += listed_usd * PRICE_FACTORS[call.tier or "standard"]
    spoken = {Outcome.SPOKEN, Outcome.UNPRICED}
    served: list[ServedTier] = [call.tier for call in made if call.tier and call.outcome in spoken]
    served.sort(key=PRICE_FACTORS.__getitem__)
    warnings = [warning for call in calls for warning in call.warnings]
    if unsure := sum(call.outcome is Outcome.UNSURE for call in made):
        warnings.append(f"{unsure} failed call(s) may have been billed beyond this cost")
    return Cost(
        attempts=len(made),
        cached_pieces=sum(call.outcome is Outcome.KEPT for call in calls),
        usage=usage,
        service_tier=served[-1] if served else None,
        cost_usd=cost_usd if is_known else None,
        warnings=tuple(dict.fromkeys(warnings)),
        doubtful=tuple(dict.fromkeys(code for call in calls for code in call.doubtful)),
        heard=_least_heard(calls),
        attempt_codes=tuple(
            call.code or ("ok" if call.outcome in spoken else "ended" if call.outcome is Outcome.BEGUN else "failed")
            for call in made
        ),
    )
