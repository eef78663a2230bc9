"""Service tiers: what is asked for, how long it may take, what is tried again, and what it costs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import kit
import pytest
from own_time import PATIENCE_S, pass_time, until
from pydantic import ValidationError

from audio_api import AudioConfig, AudioRequest, AudioResponse, ErrorCode, TTSService
from audio_api.emulator import Emulator, Fault
from audio_api.emulator.control import ReceivedCall
from audio_api.emulator.speech import synthesize
from audio_api.engines.base import Utterance
from audio_api.errors import ConfigurationError
from audio_api.models.service_tiers import PRICE_FACTORS, ServiceTier, served_tier
from audio_api.models.speech_models import MODEL_SPECS
from audio_api.services.pacing import lane, lane_of
from audio_api.speech.speaker import content_key

TEXT = "The quick brown fox jumps over the lazy dog, and then it sleeps."
MODEL = "gemini-3.8-flash-tts"
TODAY = datetime(2026, 11, 29, 12, tzinfo=UTC)
TIERS: tuple[ServiceTier, ...] = ("standard", "flex", "priority")


CLOCK = replace(kit.CLOCK, now=lambda: TODAY)

Open = Callable[..., TTSService]


@pytest.fixture
async def service(gemini_emulator: Emulator, tmp_path: Path) -> AsyncIterator[Open]:
    """Makes services that speak with the emulator; settings by name."""
    opened: list[TTSService] = []

    def make(**changes: object) -> TTSService:
        config = kit.settings(gemini_emulator, tmp_path / "out", **changes)
        opened.append(TTSService(config, clock=CLOCK))
        return opened[-1]

    yield make
    for each in opened:
        await each.close()


def listed_usd(response: AudioResponse) -> float:
    """What the tokens of a response cost by the tier standard."""
    price = MODEL_SPECS[MODEL].price(TODAY.date())
    assert price
    return price.cost_usd(response.usage.input_tokens, response.usage.output_tokens)


def asked_tiers(emulator: Emulator) -> list[str | None]:
    """The tier that each call of the emulator asked for."""
    return [call.body.get("serviceTier") for call in emulator.calls]


@pytest.mark.parametrize("tier", TIERS)
async def test_a_tier_is_asked_for_and_priced(service: Open, gemini_emulator: Emulator, tier: ServiceTier) -> None:
    """The request names it, the response says what served, and the price is its part; standard goes unsaid."""
    response = await service().generate_audio(AudioRequest(text=TEXT, service_tier=tier))
    assert response.raise_for_error().service_tier == tier
    assert asked_tiers(gemini_emulator) == [None if tier == "standard" else tier]
    assert response.cost_usd == pytest.approx(PRICE_FACTORS[tier] * listed_usd(response))
    assert response.warnings == ()


async def test_a_stream_knows_its_tier(service: Open, gemini_emulator: Emulator) -> None:
    """A stream asks for it, and its report says what served and what that costs."""
    heard: list[AudioResponse] = []
    request = AudioRequest(text=TEXT, service_tier="flex")
    async for _ in service().stream_audio(request, on_done=heard.append):
        pass
    assert asked_tiers(gemini_emulator) == ["flex"]
    assert heard[0].service_tier == "flex"
    assert heard[0].cost_usd == pytest.approx(0.5 * listed_usd(heard[0]))


async def test_the_price_follows_the_header(service: Open, gemini_emulator: Emulator) -> None:
    """Priority that was silently served as standard costs what standard costs, and the response says so."""
    gemini_emulator.fail_next(Fault.TIER_DOWNGRADED)
    response = await service().generate_audio(AudioRequest(text=TEXT, service_tier="priority"))
    assert response.raise_for_error().service_tier == "standard"
    assert response.cost_usd == pytest.approx(listed_usd(response))
    assert response.warnings == ("priority was asked for, and the tier standard served",)


async def test_own_prices_are_those_of_standard(service: Open) -> None:
    """``MODEL_PRICES`` is multiplied by the tier's factor, too."""
    tts = service(model_prices={MODEL: (2.0, 4.0)})
    response = await tts.generate_audio(AudioRequest(text=TEXT, service_tier="flex"))
    used = response.usage
    assert response.cost_usd == pytest.approx((2.0 * used.input_tokens + 4.0 * used.output_tokens) / 2e6)


async def test_a_billed_failure_is_priced_by_its_tier(service: Open, gemini_emulator: Emulator) -> None:
    """A call of flex that was billed and brought no audio costs half, like the one that spoke."""
    gemini_emulator.fail_next(Fault.CONTENT_EMPTY)
    response = await service().generate_audio(AudioRequest(text=TEXT, service_tier="flex"))
    assert response.raise_for_error().attempts == 2
    assert response.cost_usd == pytest.approx(0.5 * listed_usd(response))


async def test_the_setting_is_what_requests_ask_for_that_name_none(service: Open, gemini_emulator: Emulator) -> None:
    """``SERVICE_TIER`` in any case; a request's own tier wins."""
    tts = service(service_tier="FLEX")
    await tts.generate_audio(AudioRequest(text=TEXT))
    await tts.generate_audio(AudioRequest(text=f"{TEXT} Again.", service_tier="standard"))
    assert asked_tiers(gemini_emulator) == ["flex", None]


def _shed(call: ReceivedCall) -> Fault | None:
    return Fault.UNAVAILABLE_503 if call.body.get("serviceTier") == "flex" else None


async def test_what_flex_refuses_is_tried_again_as_flex(service: Open, gemini_emulator: Emulator) -> None:
    """A call that is shed is repeated in the same tier, and never moves to a dearer one by itself."""
    gemini_emulator.fail_next(Fault.UNAVAILABLE_503, Fault.RATE_LIMIT_BARE)
    response = await service().generate_audio(AudioRequest(text=TEXT, service_tier="flex"))
    assert response.raise_for_error().service_tier == "flex"
    assert asked_tiers(gemini_emulator) == ["flex"] * 3
    gemini_emulator.faults = _shed
    failed = await service().generate_audio(AudioRequest(text=f"{TEXT} Again.", service_tier="flex"))
    assert failed.error_code is ErrorCode.UNAVAILABLE
    assert set(asked_tiers(gemini_emulator)) == {"flex"}


@pytest.mark.parametrize("streamed", [False, True])
async def test_standard_serves_what_flex_refuses_if_asked(
    service: Open, gemini_emulator: Emulator, streamed: bool
) -> None:
    """With ``FLEX_FALLBACK`` the last attempts of flex are followed by one of standard, at its price, and told."""
    gemini_emulator.faults = _shed
    tts = service(flex_fallback=True, retry_attempts=2)
    request = AudioRequest(text=TEXT, service_tier="flex")
    if streamed:
        heard: list[AudioResponse] = []
        async for _ in tts.stream_audio(request, on_done=heard.append):
            pass
        response = heard[0]
    else:
        response = await tts.generate_audio(request)
    assert response.raise_for_error().service_tier == "standard"
    assert response.cost_usd == pytest.approx(listed_usd(response))
    assert response.warnings == ("the tier flex had no room; the tier standard served, at its price",)
    assert asked_tiers(gemini_emulator) == ["flex", "flex", None]


async def test_a_fallback_is_for_a_lack_of_room_only(service: Open, gemini_emulator: Emulator) -> None:
    """What another tier would refuse alike is not paid for there."""
    gemini_emulator.faults = lambda _: Fault.SAFETY
    response = await service(flex_fallback=True).generate_audio(AudioRequest(text=TEXT, service_tier="flex"))
    assert response.error_code is ErrorCode.CONTENT_BLOCKED
    assert asked_tiers(gemini_emulator) == ["flex"]


async def test_flex_has_a_time_limit_of_its_own(service: Open, gemini_emulator: Emulator) -> None:
    """A call of flex may take longer than any other, and tells the server so; a job's limit for attempts is not its."""
    brief_s, long_s, go_on = PATIENCE_S, 10 * PATIENCE_S, threading.Event()

    def speak_later(*spoken: str) -> bytes:
        go_on.wait(PATIENCE_S)
        return synthesize(*spoken)

    async def publish(tts: TTSService) -> AudioResponse:
        request = AudioRequest(text=TEXT, service_tier="flex")
        async with tts.prepare(request, attempt_limit_s=brief_s) as draft:
            return await draft.publish()

    async def after(seconds: float, call: Coroutine[object, object, AudioResponse]) -> AudioResponse:
        """What becomes of a call for which so many seconds pass once the server has it."""
        calls, answering = len(gemini_emulator.calls), asyncio.create_task(call)
        await until(lambda: len(gemini_emulator.calls) > calls)
        pass_time(seconds)
        await asyncio.sleep(0)
        go_on.set()
        return await answering

    gemini_emulator.fail_next(Fault.NEVER_ANSWERS)
    tts = service(request_timeout=brief_s, flex_timeout=long_s, retry_attempts=1)
    assert (await after(brief_s, tts.generate_audio(AudioRequest(text=TEXT)))).error_code is ErrorCode.TIMEOUT
    go_on.clear()
    gemini_emulator.synthesize = speak_later
    (await after(2 * brief_s, publish(tts))).raise_for_error()
    assert gemini_emulator.calls[-1].body["serviceTier"] == "flex"
    assert gemini_emulator.calls[-1].headers["x-server-timeout"] == f"{long_s:g}"
    gemini_emulator.fail_next(Fault.NEVER_ANSWERS)
    hasty = service(request_timeout=long_s, flex_timeout=brief_s, retry_attempts=1)
    request = AudioRequest(text=f"{TEXT} Again.", service_tier="flex")
    assert (await after(brief_s, hasty.generate_audio(request))).error_code is ErrorCode.TIMEOUT


async def test_a_tier_changes_no_sound(service: Open, gemini_emulator: Emulator) -> None:
    """The content key is the same, so what one tier made is found by another, and costs nothing."""
    keys = {content_key(Utterance.from_request(AudioRequest(text=TEXT), MODEL, tier), "gemini") for tier in TIERS}
    assert len(keys) == 1
    tts = service()
    first = await tts.generate_audio(AudioRequest(text=TEXT, service_tier="flex"))
    again = await tts.generate_audio(AudioRequest(text=TEXT, service_tier="priority"))
    assert (again.cached_pieces, again.cost_usd, again.service_tier) == (1, 0.0, None)
    assert again.file_path == first.file_path
    assert len(gemini_emulator.calls) == 1


async def test_who_pays_for_speed_does_not_wait_for_flex(service: Open, gemini_emulator: Emulator) -> None:
    """The same text in two tiers at once makes a call in each."""
    tts = service()
    both = [
        tts.generate_audio(AudioRequest(text=TEXT, service_tier=tier, output_filename=tier))
        for tier in ("flex", "priority")
    ]
    for response in await asyncio.gather(*both):
        response.raise_for_error()
    assert sorted(map(str, asked_tiers(gemini_emulator))) == ["flex", "priority"]


async def test_a_voice_that_costs_nothing_has_no_tier(tmp_path: Path) -> None:
    """The offline engine speaks at once, whatever tier is set, and the response names none."""
    async with TTSService(AudioConfig(tts_engine="offline", service_tier="flex", output_dir=tmp_path)) as tts:
        response = await tts.generate_audio(AudioRequest(text="Hello."))
    assert (response.raise_for_error().service_tier, response.cost_usd) == (None, 0.0)


def test_each_tier_keeps_a_pace_and_a_circuit_of_its_own() -> None:
    """Calls of flex that are refused hold up no call of standard, whose lane is named by its model alone."""
    assert [lane(MODEL, tier) for tier in TIERS] == [MODEL, f"{MODEL}.flex", f"{MODEL}.priority"]
    settings = AudioConfig(service_tier="flex")
    assert lane_of(AudioRequest(text=TEXT), settings) == f"{MODEL}.flex"
    assert lane_of(AudioRequest(text=TEXT, service_tier="standard"), settings) == MODEL


@pytest.mark.parametrize(
    ("named", "tier"),
    [("flex", "flex"), (" Priority ", "priority"), ("on_demand", None), ("", None), (None, None), (7, None)],
)
def test_a_tier_that_is_not_known_is_none(named: object, tier: str | None) -> None:
    """What a header names is one of ours, or nothing."""
    assert served_tier(named) == tier


def test_an_unknown_tier_is_an_error_in_the_words_of_its_door() -> None:
    """Python and the environment name the place, and what is possible."""
    with pytest.raises(ValidationError, match=r"service_tier\n.*'standard', 'flex', 'priority' or 'batch'"):
        AudioRequest(text=TEXT, service_tier="cheap")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"SERVICE_TIER='cheap'.*'standard', 'flex' or 'priority'"):
        AudioConfig(service_tier="cheap")  # type: ignore[arg-type]
