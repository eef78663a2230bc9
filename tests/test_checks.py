"""Is this speech, and all of it? Real speech of the offline engine is accepted, and every known defect of it is not."""

from __future__ import annotations

import asyncio
import base64
import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import product

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st
from sentences import SENTENCES

from audio_api.audio.checks import Take, Verdict, check_speech, judge
from audio_api.engines.base import SpeechAudio, Turn, Utterance
from audio_api.engines.offline import OfflineEngine
from audio_api.errors import ErrorCode, TTSAudioError, error_class
from audio_api.models.audio_request import VoiceConfig
from audio_api.models.voices import VoiceName

RATE = 24_000
NOISE = np.random.default_rng(20_261_122)


def record(utterances: Iterable[Utterance]) -> list[SpeechAudio]:
    """What the offline engine says."""

    async def speak() -> list[SpeechAudio]:
        engine = OfflineEngine()
        try:
            return [await engine.synthesize(utterance) for utterance in utterances]
        finally:
            await engine.close()

    return asyncio.run(speak())


def said(text: str, language: str = "en-US", style: str | None = None, **voice: object) -> Utterance:
    """One turn of a single voice."""
    return Utterance((Turn(text, VoiceConfig.model_validate(voice), style=style),), "espeak-ng", language)


class Spoken:
    """A text and the sound of it."""

    def __init__(self, text: str, language: str, pcm: bytes) -> None:
        """Keep what ``judge`` needs."""
        self.text, self.language, self.pcm = text, language, pcm

    def judge(self, pcm: bytes) -> Verdict:
        """Hold another sound against the text."""
        return judge(Take(pcm, RATE, text=self.text, language=self.language))


@pytest.fixture(scope="module")
def takes() -> list[Spoken]:
    """Every sentence of every language, at natural speed."""
    texts = [(text, language) for language, texts in SENTENCES.items() for text in texts]
    audio = record(said(*text) for text in texts)
    return [Spoken(*text, spoken.pcm) for text, spoken in zip(texts, audio, strict=True)]


@pytest.fixture(scope="module")
def take(takes: list[Spoken]) -> Spoken:
    """The first English sentence, about 4 s long."""
    return next(take for take in takes if take.language == "en-US")


@pytest.fixture(scope="module")
def speech(takes: list[Spoken]) -> bytes:
    """More than a minute of speech without long pauses; the first seconds of it serve as speech of any length."""
    return b"".join(take.pcm for take in takes)


def samples(pcm: bytes) -> np.ndarray:
    """The samples as numbers."""
    return np.frombuffer(pcm, "<i2").astype(float)


def pcm(samples: np.ndarray) -> bytes:
    """The samples as bytes, what is too loud cut off."""
    return np.clip(np.rint(samples), -32_768, 32_767).astype("<i2").tobytes()


def quiet(seconds: float) -> bytes:
    """Digital silence."""
    return bytes(2 * round(seconds * RATE))


def tone(seconds: float) -> bytes:
    """1 kHz at -12 dBFS."""
    return pcm(8_000 * np.sin(2 * np.pi * 1_000 * np.arange(round(seconds * RATE)) / RATE))


def part(sound: bytes, share: float) -> bytes:
    """The first part of a sound, in whole samples."""
    return sound[: int(len(sound) / 2 * share) * 2]


def test_no_natural_sentence_is_a_false_alarm(takes: list[Spoken]) -> None:
    """Five sentences in each language the offline engine speaks are accepted; with the language unsaid none is refused.

    French and Vietnamese are quicker than the alphabets that an unknown language counts as.
    """
    assert len(SENTENCES) >= 22
    assert min(map(len, SENTENCES.values())) >= 5
    for take in takes:
        verdict = take.judge(take.pcm)
        assert (verdict.outcome, verdict.code, verdict.detail) == ("accept", None, ""), (take.text, verdict)
        unsaid = judge(Take(take.pcm, RATE, text=take.text))
        assert unsaid.outcome != "reject", (take.text, unsaid)


def test_no_voice_style_or_speed_is_a_false_alarm() -> None:
    """All thirty voices, whispered, soft, fast and slow styles, and speeds from 0.1 to 3.0 are accepted."""
    asked = [{"voice_name": voice} for voice in VoiceName]
    asked += [{"style": style} for style in ("calm, whispering", "quiet", "excited, fast", "in a hurry", "slow, sad")]
    asked += [{"speed": speed} for speed in (0.1, 0.5, 0.9, 1.1, 1.2, 1.5, 2.0, 3.0)]
    texts = [SENTENCES[language][0] for language in ("en-US", "fr-FR", "hi-IN")]
    utterances = [
        said(text, language, **manner)
        for (text, language), manner in product(zip(texts, ("en-US", "fr-FR", "hi-IN"), strict=True), asked)
    ]
    for utterance, audio in zip(utterances, record(utterances), strict=True):
        turn = utterance.turns[0]
        verdict = judge(
            Take(
                audio.pcm,
                audio.sample_rate,
                text=turn.text,
                language=utterance.language,
                style=turn.style or "",
                speed=turn.voice.speed or 1.0,
            )
        )
        assert verdict.outcome == "accept", (turn, verdict)


def test_no_odd_text_is_a_false_alarm() -> None:
    """Single words, numbers, amounts, addresses, abbreviations and drawn-out words are accepted."""
    texts = (
        "No.",
        "Hello!",
        "A",
        "7",
        "12345678901234567890",
        "€1,299.99",
        "1984",
        "https://www.example.com/a/very/long/path?with=parameters&and=more",
        "someone.else@mail.example.org",
        "HTTP, TCP, UDP, DNS and SSH.",
        "Nooooooooooooooooooooooooooooooooooo!",
        "+ = % & $ 5",
        "A\N{COMBINING ACUTE ACCENT}" * 12,
        "On 14/03/2026 at 09:30, call +49 30 1234567 or 0800 7654321.",
        "½ of 100 km² is 50 km².",
    )
    for text, audio in zip(texts, record(map(said, texts)), strict=True):
        verdict = judge(Take(audio.pcm, audio.sample_rate, text=text, language="en-US"))
        assert verdict.outcome == "accept", (text, audio.duration_s, verdict)


# The same 0.4 s of speech as an MP3 of 8 kbit/s; joined copies of an MP3 are an MP3.
MP3 = base64.b64decode(
    "//MUxAACcALYAUAAAPLg+D4f/4gB8H1q//MUxAECsAL4AYMQAKIwZWBu3ij1nqWW//MUxAECqDbsAYMAABZBGcWDE9P9USLs//MUxAEC"
    "eDMAAYIQALIEQXC5/7lOKddc//MUxAIC6D78AcIAALUVUe+XnxH//LrZ//MUxAECcGL4AUIAAemaoiDFb1oNqocs//MUxAICyCMAAYMY"
    "AbQYAFOejC0Jy1WF//MUxAECkDL0AYMAAM4HASQE4Ew4ilU0//MUxAECuC7MAYYAAYtBQ8F+QNNvwzjH//MUxAECKCbEAccAAJmBCKCS"
    "v/xtwvEI//MUxAMBqCLIABGKAMJDHVrKCaCRIUOC//MUxAcCcCLYAAiGAA//prngmT/+qz+h//MUxAgCGDb0AABEIHXc5uSCaN/+8PEl"
    "//MUxAoCYEL8AAiARNdp9H/9JP+l4lFQ//MUxAsB8AcEAUAAAG1Ff/kH3RX5vSq3//MUxA4DGAcIAYAAAJwvjud/8CPu8CX8//MUxAwC"
    "qDb8AYIAAEsGvPf/+s6JVUxB//MUxAwCUAI4AcAAAE1FMy4xMDBVVVVV"
)

DEFECTS: dict[str, tuple[Callable[[bytes], bytes], ErrorCode]] = {
    "zeros": (lambda sound: bytes(len(sound)), ErrorCode.AUDIO_SILENT),
    "±3 LSB": (lambda sound: pcm(NOISE.integers(-3, 4, len(sound) // 2)), ErrorCode.AUDIO_SILENT),
    "one click": (lambda sound: quiet(2) + pcm(np.array([9_000.0])) + quiet(2), ErrorCode.AUDIO_SILENT),
    "-40 dB": (lambda sound: pcm(samples(sound) * 0.01), ErrorCode.AUDIO_SILENT),
    "silence on DC": (lambda sound: pcm(np.full(len(sound) // 2, 8_000)), ErrorCode.AUDIO_OFFSET),
    "±3 LSB on DC": (lambda sound: pcm(-8_000 + NOISE.integers(-3, 4, len(sound) // 2)), ErrorCode.AUDIO_OFFSET),
    "speech on DC": (lambda sound: pcm(samples(sound) / 2 + 8_000), ErrorCode.AUDIO_OFFSET),
    "random bytes": (lambda sound: NOISE.bytes(len(sound)), ErrorCode.AUDIO_NOISE),
    "base64": (base64.b64encode, ErrorCode.AUDIO_NOISE),
    "base64 twice": (lambda sound: base64.b64encode(base64.b64encode(sound)), ErrorCode.AUDIO_NOISE),
    "one byte late": (lambda sound: sound[1:] + b"\0", ErrorCode.AUDIO_NOISE),
    "big-endian": (lambda sound: np.frombuffer(sound, "<i2").byteswap().tobytes(), ErrorCode.AUDIO_NOISE),
    "deflated": (zlib.compress, ErrorCode.AUDIO_NOISE),
    "MP3": (lambda sound: MP3 * (len(sound) // len(MP3)), ErrorCode.AUDIO_NOISE),
    "noise from the middle on": (
        lambda sound: part(sound, 0.5) + NOISE.bytes(len(sound) // 4 * 2),
        ErrorCode.AUDIO_NOISE,
    ),
    "1 kHz": (lambda sound: tone(len(sound) / 2 / RATE), ErrorCode.AUDIO_FLAT),
    "1 kHz, then silence": (lambda sound: tone(len(sound) / 4 / RATE) + quiet(1), ErrorCode.AUDIO_FLAT),
    "×8": (lambda sound: pcm(samples(sound) * 8), ErrorCode.AUDIO_CLIPPED),
    "silent second half": (lambda sound: part(sound, 0.5) + bytes(len(sound) // 2), ErrorCode.AUDIO_GAP),
    "×6": (lambda sound: sound * 6, ErrorCode.AUDIO_TOO_LONG),
    "0.1 s": (lambda sound: sound[4_800:9_600], ErrorCode.AUDIO_TOO_SHORT),
    "a WAV header alone": (lambda sound: sound[:44], ErrorCode.NO_AUDIO),
    "nothing": (lambda sound: b"", ErrorCode.NO_AUDIO),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_rejected_in_every_language(name: str, takes: list[Spoken]) -> None:
    """Each defect, made from each sentence, is rejected with its own code; the detail measures, and quotes no text."""
    spoil, code = DEFECTS[name]
    for take in takes:
        verdict = take.judge(spoil(take.pcm))
        assert (verdict.outcome, verdict.code) == ("reject", code), (take.text, verdict)
        assert any(char.isdigit() for char in verdict.detail)
        assert take.text not in verdict.detail
        assert error_class(code) is TTSAudioError


def test_half_of_the_text_is_noticed(takes: list[Spoken]) -> None:
    """Of sentences cut at half, 95 % are at least suspect; at 30 %, all are, and 90 % are rejected."""
    half = Counter(take.judge(part(take.pcm, 0.5)).outcome for take in takes)
    third = Counter(take.judge(part(take.pcm, 0.3)).outcome for take in takes)
    assert half["accept"] <= 0.05 * len(takes), half
    assert third["accept"] == 0
    assert third["reject"] >= 0.9 * len(takes), third


def test_a_silent_first_half_is_not_accepted(takes: list[Spoken]) -> None:
    """Words lost at the beginning show as silence or, where the rest is short, as a pace that no voice speaks at."""
    for take in takes:
        verdict = take.judge(bytes(len(take.pcm) // 4 * 2) + take.pcm[len(take.pcm) // 4 * 2 :])
        assert verdict.outcome != "accept", take.text
        assert verdict.code in (ErrorCode.AUDIO_GAP, ErrorCode.AUDIO_TOO_SHORT)


def test_a_sound_that_stops_loud_is_suspect(take: Spoken) -> None:
    """Speech that ends in the middle of a vowel was cut; the same speech fading within 20 ms was not."""
    loud = samples(part(take.pcm, 0.9))
    end = int(np.argmax(np.abs(loud[-RATE:]))) + loud.size - RATE
    assert take.judge(pcm(loud[:end])).code is ErrorCode.AUDIO_CUT_OFF
    assert take.judge(pcm(loud[:end])).outcome == "suspect"
    assert take.judge(pcm(loud[:end]) + quiet(0.02)).outcome == "accept"


def test_a_short_text_may_stop_loud() -> None:
    """Below twenty letters only loudness and length count: a shouted word may end abruptly."""
    (audio,) = record([said("Stop right there!")])
    loud = samples(audio.pcm)[: int(np.argmax(np.abs(samples(audio.pcm)))) + 480]
    assert judge(Take(pcm(loud), RATE, text="Stop!")).outcome == "accept"


@pytest.mark.parametrize("gain", [0.25, 0.5, 1.0])
def test_the_verdict_does_not_hang_on_the_volume(gain: float, takes: list[Spoken]) -> None:
    """Speech at a quarter of its loudness is accepted, and the same copies cut at 30 % are not."""
    for take in takes:
        assert take.judge(pcm(samples(take.pcm) * gain)).outcome == "accept", take.text
        assert take.judge(pcm(samples(part(take.pcm, 0.3)) * gain)).code is ErrorCode.AUDIO_TOO_SHORT


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_another_sample_rate_changes_nothing(rate: int, takes: list[Spoken]) -> None:
    """The measures are in seconds and decibels: speech resampled to what the reply names is accepted, noise is not."""
    for take in takes[::5]:
        sound = pcm(soxr.resample(samples(take.pcm), RATE, rate))
        assert judge(Take(sound, rate, text=take.text, language=take.language)).outcome == "accept", take.text
        assert judge(Take(sound[1:], rate, text=take.text)).code is ErrorCode.AUDIO_NOISE


@pytest.mark.parametrize("rate", [0, 1, 7_999])
def test_an_impossible_sample_rate_is_rejected(rate: int, take: Spoken) -> None:
    """Below telephone quality nothing can be measured."""
    assert judge(Take(take.pcm, rate, text=take.text)).code is ErrorCode.AUDIO_FORMAT


@pytest.mark.parametrize("reason", ["MAX_TOKENS", "OTHER", "SAFETY", "", None])
@pytest.mark.parametrize("signal", [True, False])
def test_any_end_but_stop_is_incomplete(reason: str | None, signal: bool, take: Spoken) -> None:
    """Good sound does not excuse the finish reason, a missing one included, and neither does AUDIO_CHECKS=off."""
    verdict = judge(Take(take.pcm, RATE, text=take.text, finish_reason=reason), signal=signal)
    assert (verdict.outcome, verdict.code) == ("reject", ErrorCode.AUDIO_INCOMPLETE)


def test_without_signal_checks_only_bytes_count(take: Spoken) -> None:
    """AUDIO_CHECKS=off takes silence of any length, but not fewer bytes than asked for."""
    assert judge(Take(quiet(1), 0, text=take.text), signal=False) == Verdict("accept")
    assert judge(Take(bytes(999), RATE, text=take.text), signal=False).code is ErrorCode.NO_AUDIO
    assert judge(Take(bytes(999), RATE, text=take.text), signal=False, min_bytes=999).outcome == "accept"
    assert judge(Take(b"\0", RATE, text=take.text), signal=False, min_bytes=0).code is ErrorCode.NO_AUDIO


def test_half_a_sample_at_the_end_is_ignored(takes: list[Spoken]) -> None:
    """An odd number of bytes gets the verdict of the whole samples."""
    for take in takes[::5]:
        assert take.judge(take.pcm + b"\x7f") == take.judge(take.pcm)


@pytest.mark.parametrize("tokens_per_s", [25, 32])
def test_billed_tokens_must_have_been_delivered(tokens_per_s: int, take: Spoken) -> None:
    """Complete audio is complete at either ratio; what lacks more than 3 % of 32 tokens a second is not."""
    duration_s = len(take.pcm) / 2 / RATE
    billed = round(duration_s * tokens_per_s)
    assert judge(Take(take.pcm, RATE, text=take.text, audio_tokens=billed)).outcome == "accept"
    cut = judge(Take(part(take.pcm, 0.95 * tokens_per_s / 32), RATE, text=take.text, audio_tokens=billed))
    assert (cut.outcome, cut.code) == ("reject", ErrorCode.AUDIO_INCOMPLETE)


def test_static_in_a_long_recording_is_noise(speech: bytes, takes: list[Spoken]) -> None:
    """Three seconds of static in four minutes of good speech are rejected, although the whole is hardly noisier."""
    text = " ".join(take.text for take in takes)
    assert judge(Take(speech, RATE, text=text)).outcome == "accept"
    static = pcm(NOISE.normal(0, 3_000, 3 * RATE))
    middle = len(speech) // 4 * 2
    verdict = judge(Take(speech[:middle] + static + speech[middle:], RATE, text=text))
    assert (verdict.outcome, verdict.code) == ("reject", ErrorCode.AUDIO_NOISE)


def test_a_hiss_before_a_pause_is_speech(take: Spoken) -> None:
    """The hiss of an "s" and three seconds of silence behind it are not two seconds of noise."""
    sound = take.pcm + pcm(NOISE.normal(0, 2_000, RATE // 4)) + quiet(3) + take.pcm
    assert judge(Take(sound, RATE, text=f"{take.text} {take.text}")).outcome == "accept"


def test_silence_is_accepted_only_where_it_was_asked_for(take: Spoken) -> None:
    """Tags, dots and styles that ask for pauses allow them: anywhere inside, and at the ends where the tag stands."""
    text, sound = take.text, take.pcm
    inside, first, last = sound + quiet(6) + sound, quiet(4) + sound, sound + quiet(4)

    def code(pcm: bytes, text: str, style: str = "") -> ErrorCode | None:
        return judge(Take(pcm, RATE, text=text, language="en-US", style=style)).code

    for silent, plain in ((inside, f"{text} {text}"), (first, text), (last, text)):
        assert code(silent, plain) is ErrorCode.AUDIO_GAP
    for pause in ("<long pause>", "...", "…", "[pause]", '<break time="6s"/>'):
        assert code(inside, f"{text} {pause} {text}") is None
        assert code(first, f"{pause} {text}") is None
        assert code(last, f"{text} {pause}") is None
        assert code(first, f"{text} {pause}") is ErrorCode.AUDIO_GAP
        assert code(last, f"{pause} {text}") is ErrorCode.AUDIO_GAP
    assert code(inside, f"{text} {text}", "with dramatic pauses") is None
    assert code(last, text, "with dramatic pauses") is ErrorCode.AUDIO_GAP


def test_a_long_pause_between_short_words_is_not_silence() -> None:
    """Two words around an asked-for pause are mostly silence, and right; without the tag they are rejected."""
    (audio,) = record([said("Ready?")])
    sound = audio.pcm + quiet(8) + audio.pcm
    assert judge(Take(sound, RATE, text="Ready? <long pause> Ready?")).outcome == "accept"
    assert judge(Take(sound, RATE, text="Ready? Ready?")).code is ErrorCode.AUDIO_SILENT


def test_a_word_must_not_become_a_paragraph(speech: bytes) -> None:
    """Below twenty letters the length is free within reason: half a minute for two letters is something else."""
    assert judge(Take(speech[: 8 * 2 * RATE], RATE, text="Ay")).outcome == "accept"
    assert judge(Take(speech[: 28 * 2 * RATE], RATE, text="Ay")).code is ErrorCode.AUDIO_TOO_LONG


def test_slow_speech_may_last_longer(speech: bytes, take: Spoken) -> None:
    """A slow style, a pause or a speed below 1.0 widens the limit, in proportion to a very low speed; never beyond."""

    def code(seconds: int, style: str = "", speed: float = 1.0) -> ErrorCode | None:
        sound = speech[: seconds * 2 * RATE] + quiet(0.25)
        return judge(Take(sound, RATE, text=take.text, language="en-US", style=style, speed=speed)).code

    for slow in ({"style": "very slow"}, {"style": "with long pauses"}, {"speed": 0.9}):
        assert code(20) is code(40, **slow) is ErrorCode.AUDIO_TOO_LONG
        assert code(20, **slow) is None
    assert code(40, speed=0.2) is None
    assert code(120, speed=0.2) is ErrorCode.AUDIO_TOO_LONG


def test_fast_speech_may_be_shorter(speech: bytes, take: Spoken) -> None:
    """A fast style or a speed above 1.1 widens the lower limits, in proportion to a very high speed."""
    usual_s = len(take.pcm) / 2 / RATE

    def outcome(share: float, style: str = "", speed: float = 1.0) -> str:
        sound = speech[7_200 : 7_200 + round(usual_s * share * RATE) * 2] + quiet(0.25)
        return judge(Take(sound, RATE, text=take.text, language="en-US", style=style, speed=speed)).outcome

    assert [outcome(share) for share in (0.9, 0.6, 0.3)] == ["accept", "suspect", "reject"]
    for fast in ({"style": "fast"}, {"speed": 1.2}):
        assert [outcome(share, **fast) for share in (0.7, 0.45, 0.24)] == ["accept", "suspect", "reject"]
    assert [outcome(share, speed=2.0) for share in (0.45, 0.28, 0.14)] == ["accept", "suspect", "reject"]


def test_silence_around_speech_counts_for_nothing(take: Spoken) -> None:
    """``speech_s`` counts from the first to the last audible frame, so silence does not make a take look longer."""
    whole, cut = take.judge(take.pcm + quiet(1)), take.judge(part(take.pcm, 0.45) + quiet(1))
    assert cut.outcome == "suspect"
    assert cut.speech_s < 0.6 * whole.speech_s
    assert whole.speech_s == pytest.approx(take.judge(take.pcm).speech_s, abs=0.001)
    assert whole.speech_s < len(take.pcm) / 2 / RATE


# Letters per second: table 3c of the measurements behind the limits, natural rates for Chinese characters.
SCRIPTS = {
    "Latin": ("abcd", 15.7, "en-US"),
    "Latin, French": ("abcd", 18.3, "fr-FR"),
    "Cyrillic": ("абвг", 16.0, "ru-RU"),
    "Arabic": ("ابتث", 9.4, "ar-EG"),
    "Hebrew": ("אבגד", 9.4, "he-IL"),
    "Devanagari": ("कािमी", 13.4, "hi-IN"),
    "Bengali": ("কািমী", 11.8, "bn-BD"),
    "Gujarati": ("કાિમી", 12.9, "gu-IN"),
    "Tamil": ("காிமீ", 14.9, "ta-IN"),
    "Telugu": ("కాిమీ", 11.7, "te-IN"),
    "Kannada": ("ಕಾಿಮೀ", 12.9, "kn-IN"),
    "Thai": ("กาขี", 9.1, "th-TH"),
    "Hangul": ("가나다라", 5.3, "ko-KR"),
    "kana": ("かなタナ", 8.1, "ja-JP"),
    "kanji": ("漢字仮名", 4.5, "ja-JP"),
    "Chinese": ("你好世界", 4.5, "zh"),
    "rare Chinese": ("𠀀𠀁𠀂𠀃", 4.5, ""),
    "full-width Latin": ("ａｂｃｄ", 15.7, ""),
}


# The rates were measured at 175 words a minute; the offline voice speaks 145.
PACE_OF_TABLE = 145 / 175


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_has_a_rate_of_its_own(script: str, speech: bytes) -> None:
    """Letters for eight seconds at the script's rate may take 0.9 to 1.25 times as long, not 0.55, 0.2 or 4 times."""
    letters, per_s, language = SCRIPTS[script]
    text = f"{letters} " * round(8 * per_s * PACE_OF_TABLE / len(letters))

    def verdict(share: float) -> Verdict:
        sound = speech[7_200 : 7_200 + round(8 * share * RATE) * 2] + quiet(0.25)
        return judge(Take(sound, RATE, text=text, language=language))

    assert [verdict(share).outcome for share in (0.9, 1.0, 1.25)] == ["accept"] * 3
    assert verdict(0.55).outcome == "suspect"
    assert verdict(0.2).outcome == "reject"
    assert verdict(0.55).code is verdict(0.2).code is ErrorCode.AUDIO_TOO_SHORT
    assert verdict(4).code is ErrorCode.AUDIO_TOO_LONG


def test_tags_and_accents_are_not_counted(speech: bytes) -> None:
    """What is played rather than read, and marks that only colour a letter, do not make speech look too short."""
    words = "All human beings are born free and equal."
    sound = speech[7_200 : 7_200 + 3 * 2 * RATE] + quiet(0.25)
    for text in (
        words,
        f"<laugh> {words} <sharp intake of breath> <cough> <sigh> <short silence>",
        f"[whispering, in a very low voice] {words} [laughing out loud] |uh-huh| |mhm|",
        "".join(char + "\N{COMBINING DIAERESIS}\N{COMBINING TILDE}" * 5 for char in words),
    ):
        assert judge(Take(sound, RATE, text=text, language="en-US")).outcome == "accept", text


async def test_a_minute_is_judged_in_a_thread(speech: bytes, takes: list[Spoken]) -> None:
    """The event loop goes on during ten minutes of audio; the verdict is that of ``judge``, as for short audio."""
    long = (speech * 3)[: 600 * 2 * RATE]
    judging = asyncio.create_task(check_speech(Take(long, RATE, text=takes[0].text)))
    rounds = 0
    while not judging.done():
        rounds += 1
        await asyncio.sleep(0)
    assert rounds > 2
    assert judging.result() == judge(Take(long, RATE, text=takes[0].text))
    assert await check_speech(Take(takes[0].pcm, RATE, text=takes[0].text)) == takes[0].judge(takes[0].pcm)


def test_eleven_minutes_are_too_long() -> None:
    """No call returns more than 655 s; more is not even looked at."""
    verdict = judge(Take(bytes(2 * RATE * 661), RATE, text="word " * 10_000))
    assert (verdict.outcome, verdict.code, verdict.speech_s) == ("reject", ErrorCode.AUDIO_TOO_LONG, 0.0)


@given(
    sound=st.one_of(
        st.binary(max_size=200), st.integers(0, 2**32).map(lambda seed: random.Random(seed).randbytes(9_999))
    ),
    repeat=st.integers(1, 20),
    rate=st.integers(-1, 192_000),
    text=st.text(),
    language=st.sampled_from(["", "en-US", "ja", "x-klingon"]) | st.text(max_size=9),
    style=st.text(max_size=50) | st.sampled_from(["slow", "fast", "with pauses"]),
    speed=st.floats(0.1, 3.0),
    tokens=st.integers(0, 20_000),
    min_bytes=st.integers(0, 1_000),
)
def test_any_bytes_get_a_verdict(
    sound: bytes,
    repeat: int,
    rate: int,
    text: str,
    language: str,
    style: str,
    speed: float,
    tokens: int,
    min_bytes: int,
) -> None:
    """Whatever the bytes, the text and the rest are: a verdict whose parts fit together, and the same one twice."""

    def verdict() -> Verdict:
        return judge(
            Take(sound * repeat, rate, text=text, language=language, style=style, speed=speed, audio_tokens=tokens),
            min_bytes=min_bytes,
        )

    first = verdict()
    assert first == verdict()
    assert (first.outcome == "accept") == (first.code is None) == (not first.detail)
    assert first.speech_s >= 0
    assert "\n" not in first.detail
