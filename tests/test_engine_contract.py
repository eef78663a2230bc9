"""What every engine promises, asked of every engine: eSpeak NG, Gemini in each protocol, and the tests' own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass

import pytest
from blockbuster import blockbuster_ctx
from gemini_faults import engine_for
from scripted import ScriptedEngine

from audio_api.audio.checks import Take, judge
from audio_api.emulator import Emulator, Fault
from audio_api.engines import offline as offline_module
from audio_api.engines.base import SpeechAudio, SpeechEngine, Turn, Utterance
from audio_api.engines.offline import OfflineEngine
from audio_api.errors import TTSError, TTSModelNotFoundError, TTSUnavailableError, TTSValidationError
from audio_api.models.audio_request import VoiceConfig
from audio_api.models.usage import TokenUsage
from audio_api.models.voices import VoiceName

TEXT = "The quick brown fox jumps over the lazy dog, and then it rests in the shade of an old tree."
GERMAN = "Der schnelle braune Fuchs springt über den faulen Hund und ruht sich dann im Schatten aus."
KORE, PUCK = VoiceConfig(), VoiceConfig(voice_name=VoiceName.PUCK)


@dataclass
class Subject:
    """An engine under test.

    Attributes:
        engine: It.
        model: The model it is asked for.
        spoken_by: The model its replies name.
        is_billed: Whether its speech costs tokens.
        break_next: Makes its next attempt fail in a way that another attempt may repair.
        attempts: How many attempts reached whatever makes the speech.
    """

    engine: SpeechEngine
    model: str
    spoken_by: str
    is_billed: bool
    break_next: Callable[[], None]
    attempts: Callable[[], int]

    def utterance(self, text: str = TEXT, language: str = "en-US", voice: VoiceConfig = KORE) -> Utterance:
        """A single voice."""
        return Utterance((Turn(text, voice),), self.model, language)

    def dialogue(self, second: VoiceConfig = PUCK) -> Utterance:
        """Two turns of two speakers."""
        turns = (Turn("Good morning, how are you today?", KORE, "Ann"), Turn("Very well, thank you.", second, "Bob"))
        return Utterance(turns, self.model, "en-US")


def gemini(emulator: Emulator, model: str) -> Subject:
    """The Gemini engine at the emulator."""
    return Subject(
        engine_for(emulator, timeout_s=60),
        *(model, model),
        is_billed=True,
        break_next=lambda: emulator.fail_next(Fault.UNAVAILABLE_503),
        attempts=lambda: sum(call.method == "POST" for call in emulator.calls),
    )


def offline(monkeypatch: pytest.MonkeyPatch) -> Subject:
    """The offline engine; the processes it starts are its attempts."""
    started: list[object] = []
    start = offline_module._Child

    def count_and_start() -> object:
        started.append(None)
        return start()

    monkeypatch.setattr(offline_module, "_Child", count_and_start)
    return Subject(
        OfflineEngine(),
        *("any", "espeak-ng"),
        is_billed=False,
        break_next=lambda: monkeypatch.setattr(sys, "executable", "/nonexistent/python"),
        attempts=lambda: len(started),
    )


def scripted() -> Subject:
    """The engine of other tests, which must not promise less than a real one."""
    engine = ScriptedEngine()
    engine.is_billed = False
    return Subject(
        engine,
        *("m", "m"),
        is_billed=False,
        break_next=lambda: engine._outcomes.append(TTSUnavailableError("told to")),
        attempts=lambda: len(engine.asked),
    )


MODELS = [
    "gemini-3.8-flash-tts",
    "gemini-3.8-flash-lite-tts",
    "gemini-3.1-flash-tts-preview",
    "gemini-2.5-flash-preview-tts",
]
REAL = ["offline", *MODELS]
real_engines = pytest.mark.parametrize("subject", REAL, indirect=True)


@pytest.fixture(params=[*REAL, "scripted"])
async def subject(
    request: pytest.FixtureRequest, gemini_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Subject]:
    """Each engine in turn, closed in the end."""
    if request.param == "offline":
        made = offline(monkeypatch)
    elif request.param == "scripted":
        made = scripted()
    else:
        made = gemini(gemini_emulator, request.param)
    yield made
    await made.engine.close()


async def blocks_of(subject: Subject, utterance: Utterance) -> list[SpeechAudio]:
    """All that a stream yields."""
    return [block async for block in subject.engine.stream(utterance)]


def assert_is_speech(audio: SpeechAudio, utterance: Utterance) -> None:
    """Assert that the checks of the service would take it."""
    verdict = judge(Take(audio.pcm, audio.sample_rate, utterance.text, utterance.language))
    assert verdict.outcome == "accept", verdict


async def test_synthesize(subject: Subject) -> None:
    """Speech of the whole text, in whole samples, by a model that is named, with what it cost."""
    utterance = subject.utterance()
    audio = await subject.engine.synthesize(utterance)
    assert (audio.sample_rate, audio.model, audio.finish_reason) == (24_000, subject.spoken_by, "STOP")
    assert len(audio.pcm) % 2 == 0
    assert audio.duration_s == len(audio.pcm) / 48_000
    assert (audio.usage.audio_tokens > 0, audio.usage != TokenUsage()) == (subject.is_billed,) * 2
    assert subject.engine.is_billed is subject.is_billed
    assert_is_speech(audio, utterance)


async def test_stream(subject: Subject) -> None:
    """The same sound in blocks of whole samples; only the last says why it ended, what it cost and what was odd."""
    utterance = subject.utterance(TEXT * 4)
    whole = await subject.engine.synthesize(utterance)
    *blocks, last = await blocks_of(subject, utterance)
    assert all(block.pcm and len(block.pcm) % 2 == 0 for block in blocks)
    assert {(block.finish_reason, block.usage, block.warnings) for block in blocks} <= {(None, TokenUsage(), ())}
    assert {(block.sample_rate, block.model) for block in [*blocks, last]} == {(24_000, subject.spoken_by)}
    assert (last.finish_reason, last.usage, last.warnings) == ("STOP", whole.usage, whole.warnings)
    streamed = b"".join(block.pcm for block in [*blocks, last])
    # A voice of eSpeak NG is not the same to the sample twice.
    assert len(streamed) == pytest.approx(len(whole.pcm), rel=0.01)
    assert_is_speech(SpeechAudio(streamed, 24_000, last.model), utterance)


async def test_a_dialogue(subject: Subject) -> None:
    """Two speakers, spoken at once and as a stream."""
    utterance = subject.dialogue()
    audio = await subject.engine.synthesize(utterance)
    assert_is_speech(audio, utterance)
    streamed = b"".join(block.pcm for block in await blocks_of(subject, utterance))
    assert len(streamed) == pytest.approx(len(audio.pcm), rel=0.02)


async def test_another_language(subject: Subject) -> None:
    """The utterance's language is spoken."""
    utterance = subject.utterance(GERMAN, "de-DE")
    assert_is_speech(await subject.engine.synthesize(utterance), utterance)


async def test_preflight_takes_what_can_be_spoken(subject: Subject) -> None:
    """It needs no event loop's time and calls no server."""
    subject.engine.preflight(subject.utterance())
    subject.engine.preflight(subject.dialogue())
    assert subject.attempts() == 0


@real_engines
async def test_the_impossible_is_refused_before_any_call(subject: Subject) -> None:
    """Preflight, an attempt and a stream refuse it alike, and nothing is sent."""
    impossible = subject.dialogue(VoiceConfig(voice_name="voice_my-own"))
    with pytest.raises(TTSValidationError):
        subject.engine.preflight(impossible)
    with pytest.raises(TTSValidationError):
        await subject.engine.synthesize(impossible)
    with pytest.raises(TTSValidationError):
        await blocks_of(subject, impossible)
    assert subject.attempts() == 0


@pytest.mark.parametrize("streaming", [False, True], ids=["synthesize", "stream"])
async def test_a_failure_is_named_and_not_repeated(subject: Subject, streaming: bool) -> None:
    """One call is one attempt; its error is one of ours, says whether to try again, and does not quote the text."""
    subject.break_next()
    with pytest.raises(TTSError) as caught:
        await (blocks_of if streaming else synthesize)(subject, subject.utterance())
    assert caught.value.retryable
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert TEXT not in str(caught.value)
    assert subject.attempts() == 1


async def synthesize(subject: Subject, utterance: Utterance) -> SpeechAudio:
    """One attempt."""
    return await subject.engine.synthesize(utterance)


async def test_health_is_checked_without_billing(subject: Subject) -> None:
    """A model that is there is fine, and nothing is generated."""
    await subject.engine.health_check(subject.model)
    assert not subject.is_billed or subject.attempts() == 0


async def test_health_of_an_unknown_model(subject: Subject) -> None:
    """An engine with models knows which it has; others ignore the name."""
    if subject.is_billed:
        with pytest.raises(TTSModelNotFoundError):
            await subject.engine.health_check("gemini-9-tts")
    else:
        await subject.engine.health_check("gemini-9-tts")


async def test_warming_up_costs_nothing_and_changes_nothing(subject: Subject) -> None:
    """As often as one likes, and without an attempt."""
    for _ in range(2):
        await subject.engine.warm_up(subject.model)
    assert subject.attempts() == 0
    assert (await synthesize(subject, subject.utterance())).duration_s > 1


async def test_closing_twice(subject: Subject) -> None:
    """Before the first call and after the last one, as often as one likes."""
    await subject.engine.close()
    await subject.engine.synthesize(subject.utterance("Yes, of course."))
    await subject.engine.close()
    await subject.engine.close()


@real_engines
@pytest.mark.parametrize("streaming", [False, True], ids=["synthesize", "stream"])
async def test_cancelling(subject: Subject, streaming: bool) -> None:
    """A cancelled call ends as such, wherever it is, and the next one works."""
    for turns_of_the_loop in (0, 1, 2, 5, 20, 50):
        call = asyncio.create_task((blocks_of if streaming else synthesize)(subject, subject.utterance(TEXT * 20)))
        for _ in range(turns_of_the_loop):
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert (await subject.engine.synthesize(subject.utterance())).duration_s > 3


async def test_leaving_a_stream_early(subject: Subject) -> None:
    """Closed after its first block, before it, or just forgotten: the next call works."""
    async with aclosing(subject.engine.stream(subject.utterance(TEXT * 20))) as blocks:
        async for block in blocks:
            assert block.pcm
            break
    await subject.engine.stream(subject.utterance()).aclose()
    async for _ in subject.engine.stream(subject.utterance(TEXT * 20)):
        break
    assert (await subject.engine.synthesize(subject.utterance())).duration_s > 3


@real_engines
async def test_calls_at_once_do_not_mix(subject: Subject) -> None:
    """Each gets its own words, and streams drawn from by turns in one task do, too."""
    texts = ["One.", TEXT, TEXT * 3]
    alone = [(await subject.engine.synthesize(subject.utterance(text))).duration_s for text in texts]
    together = await asyncio.gather(*(subject.engine.synthesize(subject.utterance(text)) for text in texts))
    assert [audio.duration_s for audio in together] == pytest.approx(alone, rel=0.03)
    streams = [subject.engine.stream(subject.utterance(text)) for text in texts]
    heard_s = [0.0] * len(texts)
    remaining = dict(enumerate(streams))
    while remaining:
        for number, stream in list(remaining.items()):
            block = await anext(stream, None)
            if block is None:
                del remaining[number]
            else:
                heard_s[number] += block.duration_s
    assert heard_s == pytest.approx(alone, rel=0.03)


@real_engines
async def test_the_event_loop_is_never_blocked(subject: Subject) -> None:
    """No method makes a blocking call in the event loop; connecting and starting happen elsewhere."""
    with blockbuster_ctx():
        subject.engine.preflight(subject.utterance())
        await blocks_of(subject, subject.utterance())
        await subject.engine.synthesize(subject.utterance())
        await subject.engine.health_check(subject.model)
        await subject.engine.close()


@pytest.mark.parametrize("name", REAL)
def test_one_event_loop_after_the_other(name: str, gemini_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine outlives the loop it was first used in, even one that it was closed in with a stream left open."""
    subject = offline(monkeypatch) if name == "offline" else gemini(gemini_emulator, name)

    async def begin() -> None:
        stream = subject.engine.stream(subject.utterance(TEXT * 20))
        assert (await anext(stream)).pcm
        await subject.engine.close()

    async def speak_and_close() -> float:
        audio = await subject.engine.synthesize(subject.utterance())
        await subject.engine.close()
        return audio.duration_s

    asyncio.run(begin())
    assert asyncio.run(speak_and_close()) > 3
