"""What an account may spend in ten minutes: when that is used up every model pauses, together and longer each time."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from gemini_faults import KEY, TEXT, engine_for, outcome
from raw_server import answering, raw_server
from scripted import ScriptedEngine
from test_pacing import FREE, MODEL, MOMENT_S, Shared, Time, limits, shared, time_  # noqa: F401 - fixtures

from audio_api import AudioConfig, AudioRequest, AudioResponse, ErrorCode, TTSRateLimitError, TTSService
from audio_api.emulator.speech import synthesize
from audio_api.engines.base import Turn, Utterance
from audio_api.errors import AudioAPIError, TTSAudioError
from audio_api.models.audio_request import VoiceConfig
from audio_api.models.speech_models import VoiceModel, model_spec
from audio_api.models.usage import TokenUsage
from audio_api.queues.limits import Admission, MemoryLimits
from audio_api.retry import Clock
from audio_api.services.pacing import PacedEngine, Pacer

LITE = "gemini-3.8-flash-lite-tts"
WORDS = "You exceeded your spend-based rate limit. For more information see the documentation."


def refusal(*details: dict[str, object]) -> bytes:
    """The API's answer."""
    error = {"code": 429, "message": WORDS, "status": "RESOURCE_EXHAUSTED", "details": list(details)}
    return json.dumps({"error": error}).encode()


def retry_in(delay: str) -> dict[str, object]:
    """How long the server wants to be left alone."""
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


NO_QUOTA = {"@type": "type.googleapis.com/google.rpc.QuotaFailure"}


@pytest.mark.parametrize(
    ("details", "wait_s"),
    [((), 60), ((NO_QUOTA, retry_in("38s")), 60), ((retry_in("75.5s"),), 75.5), ((NO_QUOTA,), 60)],
)
async def test_the_refusal_says_what_it_is_and_how_long(details: tuple[dict[str, object], ...], wait_s: float) -> None:
    """A rate limit of its own code, a minute at least, not billed; its details may be anything."""
    async with raw_server(answering(refusal(*details), "429 Too Many Requests")) as server:
        engine = engine_for(server.url)
        error = await outcome(engine)
        await engine.close()
    assert isinstance(error, TTSRateLimitError)
    assert (error.code, error.retryable, error.retry_after_s) == (ErrorCode.SPEND_LIMITED, True, wait_s)
    assert error.usage is None
    assert len(server.requests) == 1


class Account:
    """The API for one account, by a clock that goes on only while all requests sleep.

    Attributes:
        calls: Of each call when it came, in seconds of that clock, which model was asked, and whether it spoke.
        called: Set by the first call.
        refuses: Whether the account has spent too much.
        now_s: Seconds of that clock.
        running: The requests that have not ended.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[float, str, bool]] = []
        self.called = asyncio.Event()
        self.refuses: Callable[[float], bool] = lambda _: False
        self.url = ""
        self.now_s = 0.0
        self.running: set[asyncio.Task[AudioResponse]] = set()
        self._sleep_until: list[float] = []

    def ask(self, service: TTSService, request: AudioRequest) -> asyncio.Task[AudioResponse]:
        """Begin a request."""
        task = asyncio.create_task(service.generate_audio(request))
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        return task

    def clock(self) -> Clock:
        """The clock, as the library takes it."""

        async def sleep(seconds: float) -> None:
            end_s = self.now_s + seconds
            self._sleep_until.append(end_s)
            while self.now_s < end_s:
                await asyncio.sleep(0.001)
                if len(self._sleep_until) == len(self.running):
                    self.now_s = max(self.now_s, min(self._sleep_until))
            self._sleep_until.remove(end_s)

        return Clock(lambda: self.now_s, sleep, lambda: 0.0)


@asynccontextmanager
async def an_account() -> AsyncIterator[Account]:
    """Run one."""
    account = Account()
    sound = base64.b64encode(synthesize(TEXT, "kore", "en-US")).decode()
    part = {"inlineData": {"mimeType": "audio/L16;rate=24000", "data": sound}}
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 100}
    spoken = {"candidates": [{"content": {"parts": [part]}, "finishReason": "STOP"}], "usageMetadata": usage}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        model = server.requests[-1].split(b"models/", 1)[1].partition(b":")[0].decode()
        refused = account.refuses(account.now_s)
        account.calls.append((account.now_s, model, not refused))
        account.called.set()
        # Speaking takes a while; refusing does not.
        await asyncio.sleep(0 if refused else 0.05)
        reply = (
            answering(refusal(NO_QUOTA, retry_in("31s")), "429 x")
            if refused
            else answering(json.dumps(spoken).encode())
        )
        await reply(reader, writer)

    async with raw_server(answer) as server:
        account.url = server.url
        yield account


def requests(count: int) -> list[AudioRequest]:
    """For two models in turns; none is the same as another."""
    models = (MODEL, LITE)
    return [AudioRequest(text=TEXT, model=models[i % 2], cache=False) for i in range(count)]


async def test_two_models_of_an_account_pause_together_and_go_on(tmp_path: Path) -> None:
    """Whatever is in progress or begins meanwhile waits; then one call looks, and when it is served all go on.

    No call is made in between, none goes to another model, and none fails.
    """
    async with an_account() as account:
        account.refuses = lambda now_s: now_s < 59
        config = AudioConfig(gemini_api_key=KEY, gemini_base_url=account.url, output_dir=tmp_path)
        async with TTSService(config, clock=account.clock()) as service:
            first = account.ask(service, requests(1)[0])
            await account.called.wait()
            responses = await asyncio.gather(first, *(account.ask(service, each) for each in requests(6)))
    assert all(response.success for response in responses)
    # Those that were on their way when the first refusal came.
    early = [call for call in account.calls if call[0] < 59]
    late = account.calls[len(early) :]
    assert {model for _, model, _ in account.calls} == {MODEL, LITE}
    assert not any(spoke for *_, spoke in early)
    assert all(at == 0 for at, *_ in early)
    assert all(spoke for *_, spoke in late)
    assert len(late) == 7
    assert {response.cost_usd for response in responses} == {
        price.cost_usd(10, 100)
        for model in (MODEL, LITE)
        if (price := model_spec(model).price(datetime.now(UTC).date()))
    }


async def test_a_pause_that_does_not_help_grows_until_it_is_told(tmp_path: Path) -> None:
    """Each is twice as long; one beyond what a request waits for a 429 ends it, with the time to come back."""
    async with an_account() as account:
        account.refuses = lambda _: True
        config = AudioConfig(gemini_api_key=KEY, gemini_base_url=account.url, output_dir=tmp_path)
        async with TTSService(config, clock=account.clock()) as service:
            response = await account.ask(service, requests(1)[0])
            gaps = [
                later - earlier for (earlier, *_), (later, *_) in zip(account.calls, account.calls[1:], strict=False)
            ]
            made = len(account.calls)
            other = await account.ask(service, requests(2)[1])
            assert len(account.calls) == made
    assert [response.error_code, other.error_code] == [ErrorCode.SPEND_LIMITED] * 2
    assert response.retry_after_s is not None
    assert response.retry_after_s > 60
    assert len(gaps) == 2
    assert gaps[0] >= 60
    assert gaps[1] >= 120
    assert response.cost_usd == 0


async def test_an_account_is_paused_for_every_process(shared: Shared, time_: Time) -> None:  # noqa: F811
    """One is told, all wait, for each model; the pause doubles when it did not help, up to its limit."""
    one, other = shared
    await one.pause_all(20, 30, 300)
    for model in (MODEL, LITE):
        assert (await other.take(model, FREE)).wait_s == 20
    await time_.go_on((await other.take(MODEL, FREE)).wait_s + MOMENT_S)
    assert await other.take(MODEL, FREE) == Admission(of_account=True)
    assert (await one.take(LITE, FREE)).wait_s == 300
    await other.pause_all(20, 30, 300)
    await other.pause_all(10, 30, 300)  # another call that was under way
    await one.resume_all()
    assert await one.take(LITE, FREE) == await other.take(MODEL, FREE) == Admission()


async def test_doubling_goes_up_to_the_limit_and_starts_again_after_it_helped(time_: Time) -> None:  # noqa: F811
    """60, 120, 240, 480, 600, 600 seconds; after a call was served, 60 again; a server that asks for more gets it."""
    limits_ = MemoryLimits(lambda: time_.now_s)
    pauses = []
    for least_s in (60, 60, 60, 60, 60, 60, 700):
        await limits_.pause_all(least_s, 600, 5)
        pauses.append((await limits_.take(MODEL, FREE)).wait_s)
        time_.now_s += pauses[-1]
    assert pauses == [60, 120, 240, 480, 600, 600, 700]
    await limits_.resume_all()
    await limits_.pause_all(60, 600, 5)
    assert (await limits_.take(MODEL, FREE)).wait_s == 60


def _utterance(model: str) -> Utterance:
    return Utterance((Turn(TEXT, VoiceConfig()),), model, "en-US")


@pytest.mark.parametrize(
    ("outcome_", "goes_on"),
    [(None, True), (TTSAudioError("silence"), True), (AudioAPIError("400"), False)],
)
async def test_one_call_finds_out_whether_workers_may_go_on(
    outcome_: AudioAPIError | None,
    goes_on: bool,
    time_: Time,  # noqa: F811 - a fixture
) -> None:
    """Speech, even bad one, shows that the account may spend; a refusal for another reason shows nothing."""
    limits_ = MemoryLimits(lambda: time_.now_s)
    spent = TTSRateLimitError("spent", code=ErrorCode.SPEND_LIMITED, retry_after_s=60)
    engine = ScriptedEngine([spent, outcome_] if outcome_ else [spent])
    paced = PacedEngine(engine, Pacer(limits_, AudioConfig, clock=time_.clock()))
    with pytest.raises(TTSRateLimitError):
        await paced.synthesize(_utterance(MODEL))
    if outcome_:
        with pytest.raises(type(outcome_)):
            await paced.synthesize(_utterance(LITE))
    else:
        await paced.synthesize(_utterance(LITE))
    assert time_.slept == [60]
    assert (await limits_.take(MODEL, FREE) == Admission()) is goes_on


@pytest.mark.parametrize(
    ("moment", "usd"),
    [
        (datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC), (0.50, 9.0)),
        (datetime(2027, 1, 1, tzinfo=UTC), (1.00, 18.0)),
        (datetime(2031, 1, 1, tzinfo=UTC), (1.00, 18.0)),
    ],
)
async def test_prices_change_with_the_year_by_themselves(
    moment: datetime, usd: tuple[float, float], tmp_path: Path
) -> None:
    """The same call costs twice as much from 2027 on, without a new release; the clock of the service decides."""
    async with an_account() as account:
        config = AudioConfig(gemini_api_key=KEY, gemini_base_url=account.url, output_dir=tmp_path)
        async with TTSService(config, clock=Clock(now=lambda: moment)) as service:
            response: AudioResponse = await service.generate_audio(AudioRequest(text=TEXT))
    assert response.usage == TokenUsage(input_tokens=10, output_tokens=100)
    assert response.cost_usd == pytest.approx((10 * usd[0] + 100 * usd[1]) / 1e6)


def test_every_price_of_a_promotion_has_its_end() -> None:
    """Both 3.8 models double in 2027, as announced."""
    for model in (VoiceModel.GEMINI_3_8_FLASH_TTS, VoiceModel.GEMINI_3_8_FLASH_LITE_TTS):
        before, after = (model_spec(model).price(day) for day in (date(2026, 12, 31), date(2027, 1, 1)))
        assert before
        assert after
        assert (after.input_usd, after.audio_usd) == (2 * before.input_usd, 2 * before.audio_usd)
