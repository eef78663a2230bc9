"""What a request used: the records of its calls, and what they add up to."""

from __future__ import annotations

import asyncio
import copy
import pickle
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_api.errors import AudioAPIError, ErrorCode, TTSAudioError, TTSContentBlockedError, TTSUnavailableError
from audio_api.models.speech_models import VoiceModel, model_spec
from audio_api.models.usage import TokenUsage
from audio_api.speech.cost import Call, Cost, Outcome, add_up, as_kept, calls_of, failed_call, note

DAY = date(2026, 11, 22)
MODEL = str(VoiceModel.GEMINI_3_8_FLASH_TTS)
USAGE = TokenUsage(input_tokens=10, output_tokens=100, audio_tokens=100)
SPOKEN = Call(MODEL, Outcome.SPOKEN, USAGE)
OUTCOMES = st.sampled_from(Outcome)
CALLS = st.builds(Call, st.just(MODEL), OUTCOMES, st.sampled_from([TokenUsage(), USAGE]))


def test_nothing_costs_nothing() -> None:
    """A request that made no call."""
    assert add_up([], {}, DAY) == Cost()
    assert Cost().cost_usd == 0.0


def test_every_billed_call_counts_whatever_became_of_it() -> None:
    """Tokens and price of a good take, of a refused one, and of one that failed."""
    cost = add_up([SPOKEN, Call(MODEL, Outcome.FAILED, USAGE), SPOKEN], {}, DAY)
    price = model_spec(MODEL).price(DAY)
    assert price
    assert (cost.attempts, cost.usage) == (3, USAGE + USAGE + USAGE)
    assert cost.cost_usd == pytest.approx(3 * price.cost_usd(10, 100))


def test_a_price_of_ones_own_wins_and_a_missing_one_makes_the_sum_unknown() -> None:
    """MODEL_PRICES; a model without any price that billed nothing leaves the sum known."""
    assert add_up([SPOKEN], {MODEL: (2.0, 4.0)}, DAY).cost_usd == pytest.approx((10 * 2.0 + 100 * 4.0) / 1e6)
    assert add_up([SPOKEN, Call("unheard-of", Outcome.SPOKEN, USAGE)], {}, DAY).cost_usd is None
    assert add_up([Call("unheard-of", Outcome.FAILED)], {}, DAY).cost_usd == 0.0


def test_sound_without_a_word_on_its_cost_makes_the_sum_unknown() -> None:
    """Its tokens are counted as far as they are known."""
    cost = add_up([SPOKEN, Call(MODEL, Outcome.UNPRICED, TokenUsage(input_tokens=5))], {}, DAY)
    assert (cost.cost_usd, cost.usage.input_tokens, cost.attempts) == (None, 15, 2)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (TTSUnavailableError("slow", code=ErrorCode.TIMEOUT), Outcome.UNSURE),
        (TTSUnavailableError("cut", code=ErrorCode.CONNECTION_BROKEN), Outcome.UNSURE),
        (TTSUnavailableError("503"), Outcome.FAILED),
        (TTSAudioError("nothing"), Outcome.UNSURE),
        (TTSAudioError("billed", usage=USAGE), Outcome.FAILED),
        (TTSContentBlockedError("no"), Outcome.FAILED),
    ],
    ids=str,
)
def test_a_failed_call_says_what_it_billed_or_that_nothing_is_known(error: AudioAPIError, outcome: Outcome) -> None:
    """Some errors leave it open; the warning counts those."""
    call = failed_call(MODEL, error)
    assert (call.outcome, call.usage) == (outcome, error.usage or TokenUsage())
    warnings = ("2 failed call(s) may have been billed beyond this cost",) if outcome is Outcome.UNSURE else ()
    assert add_up([call, SPOKEN, call], {}, DAY).warnings == warnings


def test_a_request_that_waited_for_another_hears_the_same_and_pays_nothing() -> None:
    """Its piece counts as a cached one, unless the other request failed."""
    calls = [SPOKEN, note("a model is gone"), note("half a sample", doubtful=(ErrorCode.AUDIO_TOO_SHORT,))]
    for finished in (True, False):
        cost = add_up(as_kept(calls, finished=finished), {}, DAY)
        assert (cost.attempts, cost.cached_pieces, cost.cost_usd) == (0, int(finished), 0.0)
        assert cost.warnings == ("a model is gone", "half a sample")
        assert cost.doubtful == (ErrorCode.AUDIO_TOO_SHORT,)


def test_warnings_and_doubts_are_said_once_in_the_order_of_the_pieces() -> None:
    """However many pieces have them."""
    notes = [note("b"), note("a", "b", doubtful=(ErrorCode.AUDIO_TOO_LONG,)), note("a")]
    cost = add_up([*notes, *notes], {}, DAY)
    assert (cost.warnings, cost.doubtful, cost.attempts) == (("b", "a"), (ErrorCode.AUDIO_TOO_LONG,), 0)


def test_records_ride_on_errors_and_on_cancellations() -> None:
    """They survive a copy and a pickle, and are no part of the error's text."""
    error = TTSAudioError("silence")
    error.calls = (SPOKEN,)
    for same in (error, copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert calls_of(same) == (SPOKEN,)
        assert str(same) == "silence"
    assert calls_of(asyncio.CancelledError(SPOKEN)) == (SPOKEN,)
    assert calls_of(asyncio.CancelledError("a message")) == calls_of(ValueError(SPOKEN)) == ()


@given(st.lists(CALLS, max_size=20), st.lists(CALLS, max_size=20))
def test_the_cost_of_two_lists_is_the_sum_of_their_costs(first: list[Call], second: list[Call]) -> None:
    """Nothing is counted twice or lost, however the calls are grouped."""
    whole, one, other = (add_up(calls, {}, DAY) for calls in (first + second, first, second))
    assert whole.attempts == one.attempts + other.attempts
    assert whole.cached_pieces == one.cached_pieces + other.cached_pieces
    assert whole.usage == one.usage + other.usage
    if one.cost_usd is None or other.cost_usd is None:
        assert whole.cost_usd is None
    else:
        assert whole.cost_usd == pytest.approx(one.cost_usd + other.cost_usd)
