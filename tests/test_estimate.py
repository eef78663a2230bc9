"""What a request will take is told before anything is paid: pieces, seconds, tokens, and dollars by tier."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit import CLOCK, settings
from own_time import PATIENCE_S

from audio_api import AudioConfig, AudioRequest, Estimate, TTSService, TTSValidationError, VoiceConfig
from audio_api.emulator import Emulator, Fault
from audio_api.emulator.protocol import count_tokens
from audio_api.engines.base import Turn, Utterance
from audio_api.errors import TTSModelNotFoundError
from audio_api.retry import Clock
from audio_api.speech.estimate import estimate_pieces
from audio_api.speech.planning import most_chars, plan_pieces

LONG = " ".join(
    f"The {colour} {animal} walked slowly down to the {place}, drank some water, and went home again."
    for colour in ("brown", "white", "little", "hungry", "sleepy")
    for animal in ("horse", "donkey", "fox", "rabbit")
    for place in ("river", "lake", "pond")
)
MODEL = "gemini-3.8-flash-tts"


@pytest.fixture
async def tts(gemini_emulator: Emulator, tmp_path: Path) -> AsyncIterator[TTSService]:
    """A service that talks to the emulator, on a fixed day."""
    async with TTSService(settings(gemini_emulator, tmp_path), clock=CLOCK) as service:
        yield service


def counted(server: Emulator) -> list[int]:
    """What the server answered to each call of countTokens; any other call is a failure."""
    assert {call.action for call in server.calls} <= {"countTokens"}
    return [count_tokens(call.body) for call in server.calls]


async def test_the_api_counts_the_tokens_of_every_piece(tts: TTSService, gemini_emulator: Emulator) -> None:
    """The input is the sum of what countTokens says of each call that would be made; nothing is generated."""
    estimate = await tts.estimate(AudioRequest(text=LONG, style="calm"))
    assert estimate.pieces == len(gemini_emulator.calls) > 1
    assert (estimate.input_tokens, estimate.tokens_counted) == (sum(counted(gemini_emulator)), True)
    assert estimate.warnings == ()


async def test_the_estimate_bounds_what_the_speech_costs(tts: TTSService, gemini_emulator: Emulator) -> None:
    """The same request then takes as many calls and input tokens, and no more sound and money than was said."""
    request = AudioRequest(text=LONG)
    estimate = await tts.estimate(request)
    response = await tts.generate_audio(request)
    assert response.attempts == estimate.pieces
    assert response.usage.input_tokens == estimate.input_tokens
    assert response.usage.output_tokens <= estimate.output_tokens
    assert response.cost_usd is not None
    assert estimate.cost_usd is not None
    assert 0.5 * estimate.cost_usd < response.cost_usd <= estimate.cost_usd
    assert estimate.seconds == pytest.approx(response.duration, rel=0.25)


async def test_kept_pieces_cost_nothing(tts: TTSService, gemini_emulator: Emulator) -> None:
    """What was made before is not counted, unless the request wants it made again."""
    request = AudioRequest(text=LONG)
    await tts.generate_audio(request)
    gemini_emulator.reset()
    again = await tts.estimate(request)
    assert (again.cached_pieces, again.input_tokens, again.output_tokens, again.cost_usd) == (again.pieces, 0, 0, 0.0)
    assert again.seconds > 60
    assert gemini_emulator.calls == []
    afresh = await tts.estimate(AudioRequest(text=LONG, cache=False))
    assert afresh.cached_pieces == 0
    assert afresh.cost_usd


async def test_every_tier_has_its_price(tts: TTSService) -> None:
    """Flex and batches are half as dear as standard, priority is 1.8 times as dear."""
    estimate = await tts.estimate(AudioRequest(text="Hello there, my friend."))
    assert estimate.cost_usd is not None
    assert {tier: cost / estimate.cost_usd for tier, cost in estimate.costs_usd.items()} == pytest.approx(
        {"standard": 1.0, "flex": 0.5, "batch": 0.5, "priority": 1.8}
    )
    flex = await tts.estimate(AudioRequest(text="Hello there, my friend.", service_tier="flex"))
    assert flex.cost_usd == estimate.costs_usd["flex"]
    expected = (0.50 * estimate.input_tokens + 9.0 * estimate.output_tokens) / 1e6
    assert estimate.cost_usd == pytest.approx(expected)


async def test_prices_of_ones_own_and_unknown_ones(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """``MODEL_PRICES`` wins; without a price there is no cost."""
    config = settings(gemini_emulator, tmp_path, model_prices={MODEL: (0.0, 32.0)})
    async with TTSService(config, clock=CLOCK) as service:
        own = await service.estimate(AudioRequest(text="Hello there, my friend."))
        unknown = await service.estimate(AudioRequest(text="Hello there, my friend.", model="gemini-9-tts"))
    assert own.cost_usd == pytest.approx(32e-6 * own.output_tokens)
    assert (unknown.cost_usd, unknown.costs_usd) == (None, {})


async def test_no_key_is_needed(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """Without a key the count is an upper estimate, and a warning says why."""
    config = settings(gemini_emulator, tmp_path, gemini_api_key=None)
    async with TTSService(config, clock=CLOCK) as service:
        estimate = await service.estimate(AudioRequest(text=LONG))
    assert (estimate.tokens_counted, gemini_emulator.calls) == (False, [])
    assert "GEMINI_API_KEY" in estimate.warnings[0]
    assert len(LONG) / 4 < estimate.input_tokens <= len(LONG) / 2


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE_503, Fault.API_KEY_INVALID, Fault.HTML_200, Fault.EMPTY_BODY])
async def test_an_api_that_does_not_count_is_no_failure(
    tts: TTSService, gemini_emulator: Emulator, fault: Fault
) -> None:
    """The estimate goes on without it, and the other pieces are not asked about for ever."""
    gemini_emulator.faults = lambda _: fault
    estimate = await tts.estimate(AudioRequest(text=LONG))
    assert not estimate.tokens_counted
    assert estimate.input_tokens > len(LONG) / 4
    assert len(gemini_emulator.calls) <= estimate.pieces


async def test_what_no_call_could_speak_has_no_estimate(tts: TTSService, gemini_emulator: Emulator) -> None:
    """A voice that the model has not is refused as it would be when it is spoken."""
    voice = VoiceConfig(voice_name="voice_abc")
    with pytest.raises(TTSValidationError, match=r"needs a 3\.8 model"):
        await tts.estimate(AudioRequest(text="Hello.", voice_config=voice, model="gemini-2.5-pro-preview-tts"))
    with pytest.raises(TypeError):
        await tts.estimate("Hello.")  # type: ignore[arg-type]
    assert gemini_emulator.calls == []


async def test_a_successor_is_named(gemini_emulator: Emulator, tmp_path: Path) -> None:
    """Of a model that is gone the estimate is that of its successor; without one that may speak there is none."""
    later = Clock(now=lambda: datetime(2027, 3, 1, tzinfo=UTC))
    old = AudioRequest(text="Hello there.", model="gemini-2.5-flash-preview-tts")
    async with TTSService(settings(gemini_emulator, tmp_path), clock=later) as service:
        estimate = await service.estimate(old)
    assert estimate.model == MODEL
    assert "successor" in estimate.warnings[0]
    strict = settings(gemini_emulator, tmp_path, model_fallback=False)
    async with TTSService(strict, clock=later) as service:
        with pytest.raises(TTSModelNotFoundError):
            await service.estimate(old)


async def test_offline_speech_is_free(tmp_path: Path) -> None:
    """The offline engine counts no tokens and costs nothing at any tier."""
    config = AudioConfig(tts_engine="offline", output_dir=tmp_path, _env_file=None)
    async with TTSService(config) as service:
        estimate = await service.estimate(AudioRequest(text="Hello there, my friend."))
    assert set(estimate.costs_usd.values()) == {0.0}
    assert not estimate.tokens_counted


async def test_leaving_ends_the_counting(tts: TTSService, gemini_emulator: Emulator) -> None:
    """Cancelling an estimate ends its calls."""
    gemini_emulator.latency_s = 60
    asking = asyncio.create_task(tts.estimate(AudioRequest(text=LONG)))
    async with asyncio.timeout(PATIENCE_S):
        while not gemini_emulator.calls:  # noqa: ASYNC110 - another thread's doing
            await asyncio.sleep(0.005)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert len(asyncio.all_tasks()) == 1


@given(st.text(min_size=1).filter(lambda text: any(map(str.isalnum, text))), st.floats(0.1, 3.0))
def test_any_text_has_an_estimate(text: str, speed: float) -> None:
    """Characters, seconds and tokens are numbers that fit together, whatever the text and the speed."""
    config = AudioConfig(_env_file=None)
    utterance = Utterance((Turn(text, VoiceConfig(speed=speed)),), MODEL, "en-US")
    pieces = list(plan_pieces(utterance, most_chars(MODEL, config)))
    estimate = estimate_pieces(pieces, config, datetime(2026, 11, 22, tzinfo=UTC).date())
    assert estimate.characters <= len(text)
    assert estimate.pieces >= 1
    assert 0 < estimate.seconds <= estimate.output_tokens / 32
    assert 0 < estimate.input_tokens <= len(text)
    assert Estimate.model_validate_json(estimate.model_dump_json()) == estimate
