"""Is it the whole text? Takes that are doubtful, what settles the doubt, and who is told when nothing does."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from books import MODEL, book, settings
from corpus import samples
from hypothesis import given
from hypothesis import strategies as st
from kit import CLOCK
from scripted import USAGE, ScriptedEngine, speech
from sound import read_wav

from audio_api.audio.checks import OwnPace, Take, judge
from audio_api.config import AudioConfig
from audio_api.engines.base import SpeechAudio, Turn, Utterance
from audio_api.engines.offline import OfflineEngine
from audio_api.errors import ErrorCode
from audio_api.models.audio_request import AudioRequest, AudioResponse, VoiceConfig
from audio_api.models.voices import VoiceName
from audio_api.services.job_codec import encode_result
from audio_api.services.tts_service import TTSService
from audio_api.speech.voice_paces import VoicePaces, outliers, voice_key

RATE = 24_000
TEXT = "All human beings are born free and equal in dignity and rights, and they are endowed with reason."
NAMED = AudioRequest(text=TEXT, output_filename="speech")


class Unbilled(ScriptedEngine):
    """Costs nothing, as the offline engine."""

    is_billed = False


def cut(share: float) -> Callable[[Utterance], SpeechAudio]:
    """A take that is this part of the whole, and then fades."""

    def take(utterance: Utterance) -> SpeechAudio:
        audio = speech(utterance, usage=USAGE)
        end = int(len(audio.pcm) / 2 * share) * 2
        return replace(audio, pcm=audio.pcm[:end] + bytes(RATE // 2))

    return take


def torn(share: float) -> Callable[[Utterance], SpeechAudio]:
    """A take that stops in the middle of a sound, near this part of the whole."""

    def take(utterance: Utterance) -> SpeechAudio:
        pcm = np.frombuffer(speech(utterance).pcm, "<i2")
        start = int(pcm.size * share)
        end = start + int(np.abs(pcm[start : start + RATE // 3]).argmax()) + RATE // 100
        return speech(utterance, pcm=pcm[:end].tobytes(), usage=USAGE)

    return take


def slowed(factor: float, share: float = 1.0) -> Callable[[Utterance], SpeechAudio]:
    """A take of a voice that speaks this much more slowly; perhaps only the first part of it."""

    def take(utterance: Utterance) -> SpeechAudio:
        samples = np.frombuffer(cut(share)(utterance).pcm, "<i2").astype(float)
        at = np.arange(int(samples.size * factor)) / factor
        pcm = np.interp(at, np.arange(samples.size), samples).astype("<i2").tobytes()
        return speech(utterance, pcm=pcm, usage=USAGE)

    return take


def silent(utterance: Utterance) -> SpeechAudio:
    """A take without a sound."""
    return speech(utterance, pcm=bytes(200_000), usage=USAGE)


def config(folder: Path, **changes: object) -> AudioConfig:
    """The default settings and model, in a folder."""
    return settings("http://127.0.0.1:1", folder, **{"default_tts_model": MODEL, **changes})


async def spoken(engine: ScriptedEngine, folder: Path, **changes: object) -> AudioResponse:
    """What becomes of one request."""
    async with TTSService(config(folder, **changes), engine=engine, clock=CLOCK) as tts:
        return await tts.generate_audio(NAMED)


async def test_two_takes_that_agree_are_believed(tmp_path: Path) -> None:
    """A voice that speaks faster than others is asked twice, and nothing is said about it."""
    response = await spoken(ScriptedEngine([cut(0.76), cut(0.78)]), tmp_path)
    assert (response.success, response.attempts, response.doubtful, response.warnings) == (True, 2, (), ())


async def test_takes_that_disagree_leave_the_longest_marked(tmp_path: Path) -> None:
    """The response says so in a field, and in a sentence."""
    response = await spoken(ScriptedEngine(map(cut, (0.55, 0.68, 0.60))), tmp_path)
    assert (response.success, response.attempts) == (True, 3)
    assert response.doubtful == (ErrorCode.AUDIO_TOO_SHORT,)
    assert "3 doubtful takes" in response.warnings[0]
    whole = Utterance((Turn(TEXT, VoiceConfig()),), MODEL, "en-US")
    assert read_wav(response.file_path).size == len(cut(0.68)(whole).pcm) // 2


async def test_the_same_take_twice_confirms_nothing(tmp_path: Path) -> None:
    """An engine that says the same again has nothing better: it is not asked a third time, and the doubt stays."""
    response = await spoken(ScriptedEngine([cut(0.76)] * 9), tmp_path)
    assert (response.success, response.attempts) == (True, 2)
    assert response.doubtful == (ErrorCode.AUDIO_TOO_SHORT,)


async def test_takes_of_half_the_text_are_not_believed_because_they_agree(tmp_path: Path) -> None:
    """A model that stops at the same place every time is faster than any voice."""
    response = await spoken(ScriptedEngine(map(cut, (0.52, 0.53, 0.54))), tmp_path)
    assert response.doubtful == (ErrorCode.AUDIO_TOO_SHORT,)


async def test_an_abrupt_end_is_not_confirmed_by_another(tmp_path: Path) -> None:
    """Twice cut in the middle of a sound is not twice whole."""
    response = await spoken(ScriptedEngine(map(torn, (0.86, 0.88, 0.9))), tmp_path)
    assert response.doubtful == (ErrorCode.AUDIO_CUT_OFF,)


def test_a_sound_that_is_both_short_and_torn_off_is_refused() -> None:
    """Each alone leaves a doubt; together they do not."""
    whole = Utterance((Turn(TEXT, VoiceConfig()),), MODEL, "en-US")
    verdicts = [judge(Take(take(whole).pcm, RATE, TEXT, "en-US")) for take in (cut(0.55), torn(0.88), torn(0.5))]
    assert [verdict.outcome for verdict in verdicts] == ["suspect", "suspect", "reject"]
    assert [verdict.code for verdict in verdicts[1:]] == [ErrorCode.AUDIO_CUT_OFF] * 2


async def test_a_text_said_twice_is_doubtful(tmp_path: Path) -> None:
    """The take nearest to the usual length is kept."""
    twice = [lambda u, n=n: speech(u, pcm=speech(u).pcm * n, usage=USAGE) for n in (2, 3, 2)]
    response = await spoken(ScriptedEngine(twice), tmp_path)
    assert (response.success, response.doubtful) == (True, (ErrorCode.AUDIO_TOO_LONG,))


async def test_what_costs_nothing_is_asked_once(tmp_path: Path) -> None:
    """An unbilled engine says the same each time: doubt is marked, and a refusal is final."""
    doubtful = await spoken(Unbilled([cut(0.6)]), tmp_path)
    assert (doubtful.success, doubtful.attempts, doubtful.doubtful) == (True, 1, (ErrorCode.AUDIO_TOO_SHORT,))
    refused = await spoken(Unbilled([silent]), tmp_path / "other")
    assert (refused.error_code, refused.attempts, refused.retryable) == (ErrorCode.AUDIO_SILENT, 1, False)


@pytest.mark.parametrize(("takes", "success"), [((0.76, 0.78), True), ((0.48, 0.52, 0.56, 0.6, 0.5, 0.54) * 20, False)])
async def test_strict_checks_turn_doubt_into_an_error(takes: tuple[float, ...], success: bool, tmp_path: Path) -> None:
    """What agrees is certain; what does not leaves no file."""
    response = await spoken(ScriptedEngine(map(cut, takes)), tmp_path, audio_checks="strict")
    assert response.success is success
    assert (response.error_code is None) is success
    assert (tmp_path / "speech.wav").exists() is success


async def test_a_doubtful_take_is_in_the_log_and_in_the_result_of_a_job(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a program looks: a warning with the codes, and the stored result."""
    with caplog.at_level(logging.INFO, "audio_api"):
        response = await spoken(Unbilled([cut(0.6)]), tmp_path)
    (record,) = [record for record in caplog.records if record.getMessage() == "speech made"]
    assert (record.levelno, vars(record)["doubtful"]) == (logging.WARNING, ["audio_too_short"])
    assert json.loads(encode_result(response))["response"]["doubtful"] == ["audio_too_short"]


async def test_a_take_at_seven_tenths_of_its_voices_own_pace_stands_out(tmp_path: Path) -> None:
    """By itself it passes, for the voice is slow; after twenty takes even the next service asks for it again."""
    slow_and_cut = slowed(1.3, 0.7)
    assert (await spoken(ScriptedEngine([slow_and_cut]), tmp_path / "unknown")).attempts == 1
    requests = [AudioRequest(text=f"{TEXT} Number {n}.") for n in range(20)]
    async with TTSService(config(tmp_path), engine=ScriptedEngine([slowed(1.3)] * 20), clock=CLOCK) as tts:
        for request in requests:
            assert (await tts.generate_audio(request)).attempts == 1
    response = await spoken(ScriptedEngine([slow_and_cut, slowed(1.3)]), tmp_path)
    assert (response.attempts, response.doubtful) == (2, ())
    kept = (tmp_path / ".cache" / "paces.json").read_text()
    assert len(kept) < 300
    assert "Number" not in kept


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version":2,"voices":{}}', '{"voices":{"a":{"takes":1e9}}}', "\0" * 99]
)
async def test_a_damaged_file_of_paces_is_replaced(content: str, tmp_path: Path) -> None:
    """Whatever it holds, nothing fails."""
    file = tmp_path / "paces.json"
    file.write_text(content)
    await VoicePaces(file).learn("voice", 1.2)
    again = await VoicePaces(file).of("voice")
    assert (again.takes, again.ratio) == (1, pytest.approx(1.2))


async def test_processes_share_their_paces(tmp_path: Path) -> None:
    """What two services learn of one voice, a third one knows; the newest thousand voices are kept."""
    file = tmp_path / "paces.json"
    one, other = VoicePaces(file), VoicePaces(file)
    await one.learn("voice", 1.1)
    await other.learn("voice", 1.3)
    assert (await VoicePaces(file).of("voice")).takes == 2
    assert 1.1 < (await VoicePaces(file).of("voice")).ratio < 1.3
    assert await VoicePaces(file).of("unknown") == OwnPace()


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=120))
async def test_a_pace_lies_between_those_it_was_learned_from(ratios: list[float]) -> None:
    """It is bounded, and never weighs more than fifty takes."""
    paces = VoicePaces(None)
    for ratio in ratios:
        await paces.learn("voice", ratio)
    known = await paces.of("voice")
    inside = [min(max(ratio, 1 / 3), 3) for ratio in ratios]
    assert min(inside) - 1e-6 <= known.ratio <= max(inside) + 1e-6
    assert known.takes == min(len(ratios), 50)


def test_a_voice_is_its_engine_model_language_speed_and_style() -> None:
    """The text does not matter."""

    def key(engine: str = "gemini", text: str = "a", style: str | None = None, **voice: object) -> str:
        return voice_key(Utterance((Turn(text, VoiceConfig(**voice), style=style),), MODEL, "en-US"), engine)  # type: ignore[arg-type]

    others = [key("offline"), key(style="slow"), key(speed=2.0), key(voice_name="puck")]
    assert key() == key(text="b")
    assert len({key(), *others}) == 5


async def test_a_piece_far_shorter_than_the_others_is_marked_and_asked_for_again(tmp_path: Path) -> None:
    """Each passes by itself, for the voice is slow and unknown; the next request pays for that piece alone."""
    request = AudioRequest(text=book(4_500), output_filename="book", overwrite=True)
    takes = {0: slowed(1.35, 0.68)}
    engine = ScriptedEngine([takes.get(n, slowed(1.35)) for n in range(30)])
    slow_model = config(tmp_path, default_tts_model="gemini-2.5-flash-preview-tts", piece_concurrency=1)
    async with TTSService(slow_model, engine=engine, clock=CLOCK) as tts:
        first = (await tts.generate_audio(request)).raise_for_error()
        second = (await tts.generate_audio(request)).raise_for_error()
    assert first.doubtful == (ErrorCode.AUDIO_TOO_SHORT,)
    assert "piece 1 of" in first.warnings[0]
    assert (second.attempts, second.doubtful) == (1, ())


def test_pieces_of_different_voices_are_not_compared() -> None:
    """A slow voice beside a quick one is no outlier."""

    def pieces(voice: str, seconds: float) -> list[tuple[Utterance, float]]:
        turn = Turn(book(300), VoiceConfig(voice_name=voice))  # type: ignore[arg-type]
        return [(Utterance((turn,), MODEL, "en-US"), seconds)] * 5

    assert outliers(pieces("kore", 30) + pieces("puck", 15)) == []
    assert [index for index, _ in outliers([*pieces("kore", 30), *pieces("kore", 15)[:1]])] == [5]


REFUSED_BEFORE = {
    "countdown": "One. Two. Three. Four. Five. Six. Seven. Eight. Nine. Ten.",
    "lines": "Line one.\nLine two.\n\nLine three.\n" * 40,
    "lines of Windows": "Line one.\r\nLine two.\r\n\r\nLine three.\r\n" * 40,
    "marks": "**Pros:**\n* Fast\n* Cheap\n* Easy\n\n**Cons:**\n* Loud\n* Hot",
    "letters of another kind": "𝓗𝓮𝓵𝓵𝓸 𝔀𝓸𝓻𝓵𝓭",
}


@pytest.mark.parametrize("kind", REFUSED_BEFORE)
async def test_right_sound_is_taken_at_once(kind: str, tmp_path: Path) -> None:
    """Short sentences, lists and lines need no second take, and nothing is said about them."""
    async with TTSService(AudioConfig(tts_engine="offline", output_dir=tmp_path)) as tts:
        response = (await tts.generate_audio(AudioRequest(text=REFUSED_BEFORE[kind]))).raise_for_error()
    assert (response.attempts, response.doubtful) == (1, ())


@pytest.mark.slow
async def test_whole_texts_pass_and_cut_ones_do_not() -> None:
    """The table of ``benchmarks/checks.py`` in small: texts that the pace was not fitted on, in 24 languages."""
    engine, marked, whole, passed, long = OfflineEngine(), 0, 0, dict.fromkeys((0.5, 0.6, 0.7), 0), 0
    for number, sample in enumerate(samples(seed=7, each=1)):
        voice = VoiceConfig(voice_name=list(VoiceName)[number % 30])
        audio = await engine.synthesize(Utterance((Turn(sample.text, voice),), "any", sample.language))
        verdict = judge(Take(audio.pcm, RATE, sample.text, sample.language))
        assert verdict.outcome != "reject", (sample, verdict)
        whole += 1
        marked += verdict.outcome == "suspect"
        if len(sample.text) >= 60:
            long += 1
            for share in passed:
                end = int(len(audio.pcm) / 2 * share) * 2
                cut_short = Take(audio.pcm[:end] + bytes(RATE // 2), RATE, sample.text, sample.language)
                passed[share] += judge(cut_short).outcome == "accept"
    await engine.close()
    assert whole >= 400
    assert marked <= 0.01 * whole
    assert passed[0.5] <= 0.01 * long
    assert passed[0.6] <= 0.05 * long
    assert passed[0.7] <= 0.20 * long
