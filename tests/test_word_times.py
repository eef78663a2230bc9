"""The offline engine says when each word is heard, and it is heard then."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from decoded import pcm_samples
from hypothesis import given
from hypothesis import strategies as st
from scripts import any_text
from sentences import SENTENCES
from sound import RATE, Samples, read_wav

from audio_api.engines.base import Turn, Utterance, WordTime
from audio_api.engines.espeak_words import WordSpan, readable, word_times
from audio_api.engines.offline import OfflineEngine
from audio_api.models.audio_request import AudioRequest, SpeakerConfig, VoiceConfig
from audio_api.services.tts_service import TTSService

LEAD_S, TURN_PAUSE_S, TAIL_S = 0.15, 0.25, 0.25
FRAME_S = 0.005
# Speech fades in and out: it is there for sure above -40 dBFS, and for sure not below -60 dBFS.
CLEAR, FAINT = 0.01, 0.001


def utterance(*texts: str, language: str = "en-US") -> Utterance:
    """One turn, or a dialogue of two voices."""
    if len(texts) == 1:
        return Utterance((Turn(texts[0], VoiceConfig()),), "any", language)
    voices = ("kore", "charon")
    turns = [Turn(text, VoiceConfig(voice_name=voices[n % 2]), "AB"[n % 2]) for n, text in enumerate(texts)]
    return Utterance(tuple(turns), "any", language)


def sounds(heard: Samples, level: float) -> list[tuple[float, float]]:
    """Start and end, in seconds, of all sound between two pauses of 200 ms, by the peaks of every 5 ms."""
    size = round(RATE * FRAME_S)
    frames = heard[: len(heard) // size * size].reshape(-1, size)
    loud = np.flatnonzero(np.abs(frames).max(axis=1) > level)
    cuts = np.flatnonzero(np.diff(loud) * FRAME_S > 0.2)
    starts, ends = [loud[0], *loud[cuts + 1]], [*loud[cuts], loud[-1]]
    return [(start * FRAME_S, (end + 1) * FRAME_S) for start, end in zip(starts, ends, strict=True)]


def assert_with_the_sound(times_s: Sequence[tuple[float, float]], heard: Samples, quiet_s: float = 0.0) -> None:
    """Assert that times begin and end as the sounds between pauses do, or end up to ``quiet_s`` later.

    The sound may go on after the last one.
    """
    clear, faint = sounds(heard, CLEAR), sounds(heard, FAINT)
    assert len(clear) == len(faint)
    for (start_s, end_s), sure, most in zip(times_s, clear, faint, strict=False):
        assert most[0] - 2 * FRAME_S <= start_s <= sure[0] + 2 * FRAME_S
        assert sure[1] - 2 * FRAME_S <= end_s <= most[1] + 2 * FRAME_S + quiet_s


def assert_in_order(words: Sequence[WordTime]) -> None:
    """Assert that words follow each other without overlap, each with some time of its own."""
    assert all(word.start_s < word.end_s for word in words)
    assert all(word.end_s <= following.start_s for word, following in pairwise(words))


@pytest.mark.parametrize("language", [*SENTENCES, "zh"])
async def test_words_are_in_order_and_complete(language: str, offline_engine: OfflineEngine) -> None:
    """The words are the text, in order, from the first sound to the last; pauses of sentences belong to none."""
    text = "\n\n".join(SENTENCES.get(language, ("人人生而自由，在尊严和权利上一律平等。", "我们明天再见面吧。")))
    audio = await offline_engine.synthesize(utterance(text, language=language))
    assert "".join("".join(word.text for word in audio.words).split()) == "".join(text.split())
    assert_in_order(audio.words)
    assert audio.words[0].start_s == pytest.approx(LEAD_S, abs=0.001)
    assert audio.words[-1].end_s == pytest.approx(audio.duration_s - TAIL_S, abs=0.002)
    pauses = [after.start_s - before.end_s for before, after in pairwise(audio.words)]
    assert sum(pause_s > 0.2 for pause_s in pauses) >= text.count("\n\n")


@pytest.mark.parametrize("language", ["en-US", "de-DE", "fr-FR", "ru-RU", "hi-IN", "ar-EG", "pl-PL"])
async def test_each_word_is_heard_when_its_time_says(language: str, offline_engine: OfflineEngine) -> None:
    """Of words between pauses, the time of each is that of its sound, as its energy shows."""
    words = [word.strip(".,;:?!।؟") for sentence in SENTENCES[language] for word in sentence.split()]
    spaced = [word for word in words if (len(word) > 2 and word.isalpha()) or language == "hi-IN"][:12]
    audio = await offline_engine.synthesize(utterance("\n\n".join(spaced), language=language))
    assert [word.text for word in audio.words] == spaced
    assert len(sounds(pcm_samples(audio.pcm), CLEAR)) == len(spaced)
    assert_with_the_sound([(word.start_s, word.end_s) for word in audio.words], pcm_samples(audio.pcm))


async def test_times_do_not_drift(offline_engine: OfflineEngine) -> None:
    """After ten minutes, in hundreds of blocks at another sample rate, words are where they are heard."""
    text = "Alpha bravo charlie delta.\n\n" * 300
    audio = await offline_engine.synthesize(utterance(text))
    assert audio.duration_s > 600
    sentences = [(audio.words[at].start_s, audio.words[at + 3].end_s) for at in range(0, 1_200, 4)]
    assert len(sounds(pcm_samples(audio.pcm), CLEAR)) == len(sentences)
    assert_with_the_sound(sentences, pcm_samples(audio.pcm))


async def test_words_of_a_dialogue_know_their_turn(offline_engine: OfflineEngine) -> None:
    """Each turn has its own words, and a pause before them."""
    texts = ["Good morning, Bob.", "Hello! What can I do for you?", "Nothing, thank you."]
    audio = await offline_engine.synthesize(utterance(*texts))
    turns = [[word for word in audio.words if word.turn == number] for number in range(3)]
    assert [" ".join(word.text for word in words) for words in turns] == texts
    assert_in_order(audio.words)
    for before, after in pairwise(turns):
        assert after[0].start_s - before[-1].end_s == pytest.approx(TURN_PAUSE_S, abs=0.005)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It costs 1,234.56 dollars", ["It", "costs", "1,234.56", "dollars"]),
        ("Call 2024 https://a.b/c now", ["Call", "2024", "https://a.b/c", "now"]),
        ("— “Well-known”  😀\n\t<laugh> words…", ["— “Well-known”", "😀", "<laugh>", "words…"]),
        ("a\x00b \ud83d c", ["a\x00b \ud83d", "c"]),
    ],
)
async def test_what_is_read_as_several_words_is_one(text: str, words: list[str], offline_engine: OfflineEngine) -> None:
    """Numbers, addresses and signs keep their place and take the time of all that is read for them."""
    audio = await offline_engine.synthesize(utterance(text))
    assert [word.text for word in audio.words] == words
    assert_in_order(audio.words)


@pytest.mark.parametrize(
    ("text", "like", "language"),
    [
        ("𝓗𝓮𝓵𝓵𝓸 𝔀𝓸𝓻𝓵𝓭", "Hello world", "en-US"),
        ("Ｈｅｌｌｏ Ⓦⓞⓡⓛⓓ １２３", "Hello World 123", "en-US"),
        ("Louis ⅩⅣ and ﬁne ﬂowers ① ℃", "Louis XIV and fine flowers 1 °C", "en-US"),
        ("ᴴᵉˡˡᵒ 🄷🄸 ℎ", "Hello HI h", "en-US"),
        ("ﻣﺮﺣﺒﺎ ﻻ", "مرحبا لا", "ar-EG"),
        ("ﾊﾟﾝ １２３", "パン 123", "ja-JP"),
    ],
)
async def test_letters_of_every_shape_are_read(
    text: str, like: str, language: str, offline_engine: OfflineEngine
) -> None:
    """They sound as everyday letters do, and the words keep the shape that the user gave them."""
    shaped = await offline_engine.synthesize(utterance(text, language=language))
    plain = await offline_engine.synthesize(utterance(like, language=language))
    assert shaped.duration_s == pytest.approx(plain.duration_s, abs=0.05)
    assert "".join("".join(word.text for word in shaped.words).split()) == "".join(text.split())
    assert [word.start_s for word in shaped.words] == pytest.approx([word.start_s for word in plain.words], abs=0.05)


@pytest.mark.parametrize("text", ["½", "m²", "№ 5", "Wait… So", "x³ ™ ª", "10 % – “so”", "你好，世界！", "H₂O"])
def test_what_has_a_name_of_its_own_stays(text: str) -> None:
    """It says "a half" for ½, and "one two" for its everyday digits; punctuation keeps its pauses."""
    assert readable(text) == text


@given(any_text(40).filter(str.strip))
def test_places_in_readable_text_are_places_in_the_text(text: str) -> None:
    """A word is found wherever it begins, however many letters stand before it for one."""
    whole = f"𝓗𝓮 ﷺ ﬁ {text}"
    words = list(re.finditer(r"\S+", whole))
    readings = [WordSpan(len(readable(whole[: word.start()])), n, n + 1) for n, word in enumerate(words)]
    found = word_times(utterance(whole), [readings], 1)
    assert "".join("".join(word.text for word in found).split()) == "".join(whole.split())
    assert [word.text for word in found[:3]] == ["𝓗𝓮", "ﷺ", "ﬁ"]


async def test_a_stream_ends_with_the_words(offline_engine: OfflineEngine) -> None:
    """The last block has the words of the whole, the others have none."""
    said = utterance(" ".join(SENTENCES["en-US"]))
    blocks = [block async for block in offline_engine.stream(said)]
    assert len(blocks) > 2
    assert not any(block.words for block in blocks[:-1])
    whole = await offline_engine.synthesize(said)
    assert [word.text for word in blocks[-1].words] == [word.text for word in whole.words]


READINGS = st.lists(st.tuples(st.integers(-5, 60), st.integers(0, 999)), min_size=1, max_size=30)


@given(any_text(40).filter(str.strip), READINGS)
def test_wherever_the_readings_are_no_word_is_lost(text: str, places: list[tuple[int, int]]) -> None:
    """Whatever eSpeak NG says about its place in the text, the words are the text, and their times rise."""
    edges = np.cumsum([0, *(length for _, length in places)]).tolist()
    readings = [WordSpan(at, *edge) for (at, _), edge in zip(places, pairwise(edges), strict=True)]
    words = word_times(utterance(text), [readings], 1_000)
    assert "".join("".join(word.text for word in words).split()) == "".join(text.split())
    assert (words[0].start_s, words[-1].end_s) == (0, edges[-1] / 1_000)
    assert all(before.end_s <= after.start_s for before, after in pairwise(words))


def test_white_space_that_is_named_is_no_word() -> None:
    """The Arabic voice of eSpeak NG reads a line's end aloud: no word of the text is heard then."""
    assert word_times(utterance("\r"), [[WordSpan(0, 10, 20), WordSpan(1, 30, 40)]], 1_000) == ()


def test_what_makes_no_sound_has_no_words() -> None:
    """A turn of which eSpeak NG read nothing has no words; those of the other keep their turn."""
    words = word_times(utterance("...", "Yes."), [[], [WordSpan(0, 100, 200)]], 1_000)
    assert words == (WordTime("Yes.", 0.1, 0.2, turn=1),)


TIMES = re.compile(r"(\d\d):(\d\d):(\d\d\.\d{3}) --> (\d\d):(\d\d):(\d\d\.\d{3})")


def cue_times(vtt: str) -> list[tuple[float, float]]:
    """Start and end of each cue of a WebVTT file, in seconds."""
    numbers = [[float(number) for number in match] for match in TIMES.findall(vtt)]
    return [(h * 3_600 + m * 60 + s, h2 * 3_600 + m2 * 60 + s2) for h, m, s, h2, m2, s2 in numbers]


NUMBERS = "One two three four. Five six seven eight. Nine ten eleven twelve. "


@pytest.mark.parametrize("how", ["generate_audio", "stream_to_file"])
async def test_subtitles_of_a_long_text_are_measured(how: str, offline_engine: OfflineEngine) -> None:
    """Over many joined pieces every cue begins and ends with its words in the file, and none is estimated."""
    request = AudioRequest(text=NUMBERS * 100, output_filename="long.wav", subtitles=("vtt",))
    async with TTSService(engine=offline_engine) as tts:
        response = (await getattr(tts, how)(request)).raise_for_error()
    vtt = Path(response.subtitle_paths[0]).read_text()
    assert "estimated" not in vtt
    heard = read_wav(response.file_path)
    cues = cue_times(vtt)
    assert len(cues) == 300
    # The last cue of a piece stays over the quiet that a join keeps: two frames of 20 ms, and what fades in a third.
    assert_with_the_sound(cues[:-1], heard, quiet_s=0.06)
    assert cues[-1][1] == pytest.approx(len(heard) / RATE, abs=0.05)


async def test_turns_of_a_dialogue_are_measured(offline_engine: OfflineEngine) -> None:
    """Turns of unequal pace have their own times, where an estimate would share out the time by the letters."""
    cast = (
        SpeakerConfig(speaker_name="Ann", voice_name="kore", speed=0.6),
        SpeakerConfig(speaker_name="Bob", voice_name="charon", speed=2.0),
    )
    text = "Ann: I speak very slowly. Bob: I am always in a hurry, so I speak fast. Ann: There is time enough."
    request = AudioRequest(text=text, speaker_mode="multiple", cast=cast, output_filename="two.wav", subtitles=("vtt",))
    async with TTSService(engine=offline_engine) as tts:
        response = (await tts.generate_audio(request)).raise_for_error()
    vtt = Path(response.subtitle_paths[0]).read_text()
    assert "estimated" not in vtt
    assert re.findall("<v (.*?)>", vtt) == ["Ann", "Bob", "Ann"]
    heard = read_wav(response.file_path)
    cues = cue_times(vtt)
    assert_with_the_sound(cues[:-1], heard)
    assert cues[-1][1] == pytest.approx(len(heard) / RATE, abs=0.05)
