"""What the library knows of each model: protocol, limits, dated prices, end and successor."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from audio_api.models.speech_models import (
    DEFAULT_MODEL,
    MODEL_SPECS,
    ModelId,
    ModelSpec,
    Price,
    VoiceModel,
    model_spec,
    parse_model,
)

PROMOTION = date(2026, 12, 31)
AFTER = date(2027, 1, 1)


def test_the_models_keep_their_ids() -> None:
    """Programs written for the 2.5 previews go on; the default is the generation that is not shut down."""
    assert {name: member.value for name, member in VoiceModel.__members__.items()} == {
        "GEMINI_3_8_FLASH_TTS": "gemini-3.8-flash-tts",
        "GEMINI_3_8_FLASH_LITE_TTS": "gemini-3.8-flash-lite-tts",
        "GEMINI_3_1_FLASH_TTS": "gemini-3.1-flash-tts-preview",
        "GEMINI_TTS_PRO": "gemini-2.5-pro-preview-tts",
        "GEMINI_TTS_FLASH": "gemini-2.5-flash-preview-tts",
        "GEMINI_TTS": "gemini-2.5-pro-preview-tts",
    }
    assert DEFAULT_MODEL == "gemini-3.8-flash-tts"
    assert MODEL_SPECS[DEFAULT_MODEL].shutdown is None


@pytest.mark.parametrize("model", VoiceModel)
def test_every_model_has_a_spec(model: VoiceModel) -> None:
    """Found by member and by plain id, with the documented limits and prices in order of their day."""
    spec = model_spec(model)
    assert spec is MODEL_SPECS[model] is model_spec(str(model.value))
    assert (spec.input_tokens, spec.output_tokens) == (8_192, 16_384)
    assert spec.prices
    assert all(earlier.since < later.since for earlier, later in pairwise(spec.prices))


@pytest.mark.parametrize(
    ("model", "chars"), [("gemini-3.8-flash-tts", 2_000), ("gemini-2.5-new", 800), ("gemini-9", 2_000)]
)
def test_a_call_is_given_what_its_generation_speaks_completely(model: str, chars: int) -> None:
    """2.5 and 3.1 are known to cut longer texts short; an unknown id counts as its generation."""
    assert model_spec(model).piece_chars == chars


@pytest.mark.parametrize("model", VoiceModel)
def test_a_model_that_ends_has_a_successor_that_lasts(model: VoiceModel) -> None:
    """Following successors always arrives, in one step, at a model without an announced end."""
    spec = MODEL_SPECS[model]
    assert (spec.shutdown is None) == (spec.successor is None)
    if spec.successor:
        assert MODEL_SPECS[spec.successor].shutdown is None


def test_the_successors_are_the_documented_ones() -> None:
    """As Google's table of deprecations names them; the 3.8 models have none."""
    assert {str(model): spec.successor for model, spec in MODEL_SPECS.items() if spec.successor} == {
        "gemini-3.1-flash-tts-preview": VoiceModel.GEMINI_3_8_FLASH_LITE_TTS,
        "gemini-2.5-pro-preview-tts": VoiceModel.GEMINI_3_8_FLASH_TTS,
        "gemini-2.5-flash-preview-tts": VoiceModel.GEMINI_3_8_FLASH_TTS,
    }


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gemini-2.5-pro-preview-tts", "legacy"),
        ("gemini-2.5-flash-preview-tts", "legacy"),
        ("gemini-3.1-flash-tts-preview", "legacy"),
        ("gemini-2.5-flash-lite-preview-tts", "legacy"),
        ("gemini-2.5_tuned", "legacy"),
        ("gemini-3.8-flash-tts", "verbatim"),
        ("gemini-3.8-flash-lite-tts", "verbatim"),
        ("gemini-3.10-flash-tts", "verbatim"),
        ("gemini-4-tts", "verbatim"),
        ("my-gemini-2.5", "verbatim"),
    ],
)
def test_the_protocol_follows_from_the_id(model: str, family: str) -> None:
    """2.5 and 3.1 are prompted in words; 3.8 and whatever comes after it speaks its text verbatim."""
    assert model_spec(model).family == family


def test_an_unknown_model_has_no_price_no_end_and_no_successor() -> None:
    """Nothing is guessed about a model this version does not know."""
    spec = model_spec("gemini-9-tts")
    assert (spec.prices, spec.shutdown, spec.successor) == ((), None, None)
    assert spec.price(AFTER) is None
    assert not spec.is_shut_down(date.max)


@pytest.mark.parametrize(
    ("model", "day", "input_usd", "audio_usd"),
    [
        (VoiceModel.GEMINI_3_8_FLASH_TTS, PROMOTION, 0.5, 9),
        (VoiceModel.GEMINI_3_8_FLASH_TTS, AFTER, 1, 18),
        (VoiceModel.GEMINI_3_8_FLASH_LITE_TTS, PROMOTION, 0.5, 6),
        (VoiceModel.GEMINI_3_8_FLASH_LITE_TTS, AFTER, 1, 12),
        (VoiceModel.GEMINI_3_1_FLASH_TTS, AFTER, 1, 20),
        (VoiceModel.GEMINI_TTS_PRO, AFTER, 1, 20),
        (VoiceModel.GEMINI_TTS_FLASH, AFTER, 0.5, 10),
    ],
)
def test_the_price_is_that_of_the_day(model: VoiceModel, day: date, input_usd: float, audio_usd: float) -> None:
    """The promotion of the 3.8 models holds through 2026-12-31; prices are per million tokens."""
    price = MODEL_SPECS[model].price(day)
    assert price is not None
    assert price.cost_usd(1_000_000, 0) == input_usd
    assert price.cost_usd(0, 1_000_000) == audio_usd
    assert price.cost_usd(2_000, 1_000) == pytest.approx((2_000 * input_usd + 1_000 * audio_usd) / 1e6)


def test_there_is_no_price_before_the_first() -> None:
    """A model did not exist before its release."""
    first = MODEL_SPECS[DEFAULT_MODEL].prices[0].since
    assert MODEL_SPECS[DEFAULT_MODEL].price(first - timedelta(days=1)) is None
    assert MODEL_SPECS[DEFAULT_MODEL].price(first) == Price(date(2026, 9, 22), 0.5, 9.0)


def test_a_model_is_shut_down_the_day_after_its_last() -> None:
    """On the announced day the model still counts as served; without one it never ends."""
    last = date(2026, 12, 18)
    spec = ModelSpec("legacy", shutdown=last)
    assert [spec.is_shut_down(last + timedelta(days=days)) for days in (-1, 0, 1)] == [False, False, True]
    assert not ModelSpec("verbatim").is_shut_down(date.max)


@pytest.mark.parametrize(
    "value", ["gemini-3.8-flash-tts", "models/gemini-3.8-flash-tts", " gemini-3.8-flash-tts\n", DEFAULT_MODEL], ids=repr
)
def test_a_known_id_becomes_a_member(value: str) -> None:
    """With or without the API's prefix."""
    assert parse_model(value) is VoiceModel.GEMINI_3_8_FLASH_TTS


@pytest.mark.parametrize(
    "value", ["", "models/", "models/models/x", "a b", "../x", "-x", "é", "x" * 101, None, 5], ids=ascii
)
def test_what_cannot_be_an_id_is_refused(value: object) -> None:
    """An id becomes part of a URL's path."""
    with pytest.raises(ValueError, match=r"is not a model id such as 'gemini-3.8-flash-tts'"):
        parse_model(value)


@given(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z") | st.sampled_from(VoiceModel))
def test_any_id_survives_json(value: str) -> None:
    """Known ids stay members, others stay strings."""
    adapter: TypeAdapter[VoiceModel | str] = TypeAdapter(ModelId)
    model = adapter.validate_python(value)
    again = adapter.validate_json(adapter.dump_json(model))
    assert (again, type(again)) == (value, type(model))
