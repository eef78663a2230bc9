"""Requests and responses: what is accepted, what is refused and why, and that JSON loses nothing."""

from __future__ import annotations

import copy
import math
import pickle
import unicodedata
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from audio_api.errors import AudioAPIError, ErrorCode, TTSAPIError, TTSOutputError, TTSQuotaError, error_class
from audio_api.models.audio_request import (
    AudioFormat,
    AudioRequest,
    AudioResponse,
    BatchAudioRequest,
    BatchAudioResponse,
    MultiSpeakerConfig,
    SpeakerConfig,
    SpeakerMode,
    TokenUsage,
    VoiceConfig,
)
from audio_api.models.languages import Language
from audio_api.models.speech_models import VoiceModel
from audio_api.models.user_text import uniform
from audio_api.models.voices import VoiceName

ALICE = SpeakerConfig(speaker_name="Alice", voice_name="kore")
BOB = SpeakerConfig(speaker_name="Bob", voice_name="puck")


def refusal(model: type[BaseModel], /, **values: Any) -> str:
    """The text with which a model refuses these values."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(values)
    return str(caught.value)


def test_a_request_needs_nothing_but_its_text() -> None:
    """The defaults: the configuration's model, one voice, Kore, American English, no style, a made-up file name."""
    assert AudioRequest(text="Hello").model_dump() == {
        "text": "Hello",
        "model": None,
        "speaker_mode": SpeakerMode.SINGLE,
        "language": Language.ENGLISH_US,
        "voice_config": {"voice_name": VoiceName.KORE, "speed": None, "pitch": None},
        "multi_speaker_config": None,
        "cast": None,
        "markup": "plain",
        "markup_keep": (),
        "audio_format": {"sample_rate": 24_000, "bit_depth": 16, "channels": 1},
        "output_format": None,
        "output_filename": None,
        "overwrite": False,
        "style": None,
        "subtitles": (),
        "cache": True,
        "priority": 0,
        "service_tier": None,
    }


def test_a_dialogue_is_written_as_it_always_was() -> None:
    """Speakers by keyword, in a list, with voices in any case and by member."""
    request = AudioRequest(
        text="Alice: Hello! Bob: Hi there!",
        speaker_mode=SpeakerMode.MULTIPLE,
        multi_speaker_config=MultiSpeakerConfig(
            speakers=[
                SpeakerConfig(speaker_name="Alice", voice_name="Kore"),
                SpeakerConfig(speaker_name="Bob", voice_name=VoiceName.PUCK),
            ]
        ),
    )
    assert request.multi_speaker_config is not None
    assert [speaker.voice_name for speaker in request.multi_speaker_config.speakers] == [VoiceName.KORE, VoiceName.PUCK]


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (AudioFormat, {}),
        (VoiceConfig, {}),
        (SpeakerConfig, {"speaker_name": "Alice", "voice_name": "kore"}),
        (MultiSpeakerConfig, {"speakers": [ALICE, BOB]}),
        (AudioRequest, {"text": "Hello"}),
        (BatchAudioRequest, {"requests": [AudioRequest(text="Hello")]}),
        (TokenUsage, {}),
        (AudioResponse, {"success": True, "message": "ok"}),
        (
            BatchAudioResponse,
            {"batch_id": "b", "total_requests": 0, "completed": 0, "failed": 0, "results": [], "status": "pending"},
        ),
    ],
)
def test_models_are_closed_and_frozen(model: type[BaseModel], values: dict[str, Any]) -> None:
    """A misspelt field is an error rather than ignored, and nothing changes under a service's hands."""
    fine = model.model_validate(values)
    assert "Extra inputs are not permitted" in refusal(model, **values, no_such_field=1)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(fine, next(iter(model.model_fields)), None)


@pytest.mark.parametrize("text", ["a", "7", "½", "²", "语", "อ", "जी", "ا", "👍 ok", "  x  ", "a\tb\r\nc", "…1…", "é"])
def test_text_with_a_letter_or_digit_is_kept_word_for_word(text: str) -> None:
    """Of any script; nothing is trimmed or rewritten."""
    assert AudioRequest(text=text).text == text


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("\ufeffHello", "Hello"),
        ("\ufeff\ufeff Hello", " Hello"),
        ("One.\n\ufeffTwo.", "One.\nTwo."),
        ("Cafe\u0301 Ame\u0301lie", "Café Amélie"),
        ("\u1112\u1161\u11ab\u1100\u116e\u11a8", "한국"),
        ("\u212b \u2126", "Å Ω"),
        ("ﬁne ½ m² Ⅷ 𝓗 …", "ﬁne ½ m² Ⅷ 𝓗 …"),
        ("e\u0301" + "\u0302" * 29, "é" + "\u0302" * 29),
        ("e\u0301" + "\u0302" * 30 + "e\u0301", "e\u0301" + "\u0302" * 30 + "é"),
    ],
)
def test_equal_texts_are_equal_strings(given: str, kept: str) -> None:
    """Byte order marks go and letters are composed (NFC); compatible forms stay, and so does an absurd run of marks."""
    assert AudioRequest(text=given).text == kept
    assert AudioRequest(text="Hello", style=f"calm, {given}").style == " ".join(f"calm, {kept}".split())


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_a_text_of_any_language_is_composed(text: str) -> None:
    """Where no letter has 30 marks, the text is that of Unicode's own form, and stays so when it is read again."""
    expected = unicodedata.normalize("NFC", text.replace("\ufeff", ""))
    assert uniform(text) == expected
    assert uniform(expected) == expected


def test_a_name_is_composed_and_has_no_mark() -> None:
    """The name of a speaker is found in the text, however either was typed."""
    assert SpeakerConfig(speaker_name="\ufeffAme\u0301lie", voice_name="kore").speaker_name == "Amélie"


@pytest.mark.parametrize("marks", ["\u0301\u0323", "\u0345\u0334\u0301\u0323", "\u0300"], ids=ascii)
def test_three_hundred_thousand_marks_take_no_time(marks: str) -> None:
    """Composing such a run takes minutes, so it stays as it is."""
    run = "a" + marks * (300_000 // len(marks))
    assert uniform(f"e\u0301 {run}") == f"é {run}"


@pytest.mark.parametrize(
    "text", ["", " ", "\n\n", "\u200b" * 5, "\u0301\u0327", "...!?", "—", "_", "👍", "\u00a0\ufeff"], ids=ascii
)
def test_text_without_a_letter_or_digit_is_refused(text: str) -> None:
    """There is nothing to speak, and the API would bill the attempt."""
    assert "text must hold at least one letter or digit; there is nothing to speak" in refusal(AudioRequest, text=text)


@pytest.mark.parametrize(
    ("text", "named"),
    [("a\0", "U+0000 at position 1"), ("\x1b[1mbold", "U+001B at position 0"), ("ab\x7f", "U+007F"),
     ("a\x9f", "U+009F"), ("ab\ud800", "U+D800 at position 2"), ("\udfffx", "U+DFFF at position 0")],
    ids=ascii,
)  # fmt: skip
def test_unspeakable_characters_are_named(text: str, named: str) -> None:
    """Control characters and halves of surrogate pairs are given by number and place."""
    assert f"text holds the unspeakable character {named}" in refusal(AudioRequest, text=text)
    assert refusal(AudioRequest, text="Hello", style=text)


@pytest.mark.parametrize(
    "values",
    [
        {"text": "CANARY \0"},
        {"text": "CANARY \ud800"},
        {"text": "CANARY", "no_such_field": 1},
        {"text": "CANARY", "speaker_mode": "multiple"},
        {"text": "CANARY", "voice_config": {"speed": 99}},
        {"text": ["CANARY"]},
        {"text": "Hello", "style": "CANARY" * 100},
        {"text": "Hello", "style": "CANARY\0"},
    ],
    ids=ascii,
)
def test_the_text_never_appears_in_an_error(values: dict[str, Any]) -> None:
    """Neither as text nor as representation: errors are logged, texts are private."""
    with pytest.raises(ValidationError) as caught:
        AudioRequest.model_validate(values)
    assert "CANARY" not in f"{caught.value} {caught.value!r}"


@pytest.mark.parametrize("unit", [" ", "\u200b", "\u0301\u0327", ".", "\0", "\ud800", "\n", "_"], ids=ascii)
@pytest.mark.parametrize("field", ["text", "style", "language", "model", "output_filename", "voice_config"])
def test_a_million_hostile_characters_are_refused_at_once(field: str, unit: str) -> None:
    """In every field that takes a string; a check that is not linear would run for minutes."""
    hostile = unit * (1_000_000 // len(unit))
    values = {"text": "Hello", field: {"voice_name": hostile} if field == "voice_config" else hostile}
    assert len(refusal(AudioRequest, **values)) < 1_000
    refusal(SpeakerConfig, speaker_name=hostile, voice_name="kore")
    refusal(BatchAudioRequest, requests=[AudioRequest(text="Hello")], batch_id=hostile)


def test_a_million_letters_are_a_text() -> None:
    """How long a text may be is a setting, not a property of the model."""
    assert AudioRequest(text="a\u0301" * 500_000).text == "á" * 500_000


@pytest.mark.parametrize("values", [{"sample_rate": 44_100}, {"bit_depth": 24}, {"channels": 2}])
def test_another_format_is_refused_with_the_reason(values: dict[str, int]) -> None:
    """The sentence says what Gemini speaks, what was asked for, and why there is no conversion."""
    said = refusal(AudioFormat, **values)
    assert "Gemini speaks 24,000 Hz, 16 bits, 1 channel, and nothing else; " in said
    assert "would need a conversion that adds no quality" in said
    assert f"{next(iter(values.values())):,} " in said


@pytest.mark.parametrize(("field", "lowest", "highest", "step"), [("speed", 0.1, 3.0, 0.01), ("pitch", 0.1, 2.0, 0.01)])
def test_speed_and_pitch_have_ranges(field: str, lowest: float, highest: float, step: float) -> None:
    """Both ends are included; NaN and infinity are no numbers."""
    for value in (lowest, 1, highest):
        assert getattr(VoiceConfig.model_validate({field: value}), field) == value
    assert f"greater than or equal to {lowest}" in refusal(VoiceConfig, **{field: lowest - step})
    assert f"less than or equal to {highest:g}" in refusal(VoiceConfig, **{field: highest + step})
    for value in (math.nan, math.inf, "fast"):
        assert field in refusal(VoiceConfig, **{field: value})


def test_a_wrong_voice_is_refused_with_a_hint() -> None:
    """The models use the rules of the voices."""
    assert "unknown voice 'Callirhoe': did you mean 'callirrhoe'?" in refusal(VoiceConfig, voice_name="Callirhoe")
    assert VoiceConfig(voice_name="voice_abc").voice_name == "voice_abc"


@pytest.mark.parametrize(
    ("given_style", "style"), [("calm,  whispering\n", "calm, whispering"), ("très lent", "très lent"), ("1", "1")]
)
def test_a_style_is_one_line(given_style: str, style: str) -> None:
    """Blanks and line breaks become single blanks, so that a style cannot look like a part of the text."""
    assert AudioRequest(text="Hello", style=given_style).style == style
    assert SpeakerConfig(speaker_name="A", voice_name="kore", style=given_style).style == style


@pytest.mark.parametrize("style", ["", " ", "...", "a" * 501])
def test_a_style_without_words_or_end_is_refused(style: str) -> None:
    """Up to 500 characters with at least one letter or digit; no style is ``None``."""
    assert "style" in refusal(AudioRequest, text="Hello", style=style)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("Alice", "Alice"),
        ("  Mary \n Ann ", "Mary Ann"),
        ("O’Neil-Smith Jr.", "O’Neil-Smith Jr."),
        ("Jose\u0301", "José"),
        ("Speaker_1", "Speaker_1"),
        ("x" * 40, "x" * 40),
        *((name, name) for name in ("1", "花子", "김민지", "प्रिया", "ชาย", "மாலா", "শ্রী", "مُحَمَّد", "شاه\u200cرخ")),
    ],
    ids=ascii,
)
def test_speakers_have_names_of_any_script(name: str, kept: str) -> None:
    """Combining marks and joiners are part of names; the name is kept composed and with single blanks."""
    assert SpeakerConfig(speaker_name=name, voice_name="kore").speaker_name == kept


@pytest.mark.parametrize(
    "name",
    ["", " ", "A:B", "A：B", "[A]", "<A>", "A\0", "A\u202eB", "-A", ".", "_", "\u0301", "x" * 41, "A/B",
     "A,B", "A\ud800"],
    ids=ascii,
)  # fmt: skip
def test_names_that_could_be_read_as_something_else_are_refused(name: str) -> None:
    """No colon, bracket or invisible character: the name stands before a colon in the text."""
    assert "speaker_name" in refusal(SpeakerConfig, speaker_name=name, voice_name="kore")


@pytest.mark.parametrize(
    ("speakers", "said"),
    [
        ([], "exactly two speakers; 0 given"),
        ([ALICE], "exactly two speakers; 1 given"),
        ([ALICE, BOB, ALICE], "exactly two speakers; 3 given"),
        ([ALICE, ALICE], "distinct names; both are 'Alice'"),
        ([ALICE, {"speaker_name": " aLICE", "voice_name": "puck"}], "distinct names; both are 'Alice'"),
        (
            [{"speaker_name": "Strauß", "voice_name": "kore"}, {"speaker_name": "STRAUSS", "voice_name": "puck"}],
            "distinct names; both are 'Strauß'",
        ),
    ],
)
def test_a_dialogue_has_two_distinct_speakers(speakers: list[Any], said: str) -> None:
    """Names that differ in case only are the same name."""
    assert said in refusal(MultiSpeakerConfig, speakers=speakers)


def test_a_speaker_has_a_voice() -> None:
    """In a dialogue the voice has no default: two speakers of one voice are hard to tell apart."""
    assert "voice_name\n  Field required" in refusal(SpeakerConfig, speaker_name="Alice")


def test_mode_and_speakers_must_agree() -> None:
    """Multiple mode without speakers and speakers in single mode are refused, each with what would be right."""
    speakers = MultiSpeakerConfig(speakers=(ALICE, BOB))
    assert "MULTIPLE needs a multi_speaker_config" in refusal(AudioRequest, text="A: B", speaker_mode="multiple")
    assert "single mode uses voice_config" in refusal(AudioRequest, text="Hello", multi_speaker_config=speakers)


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        ("models/gemini-3.8-flash-tts", VoiceModel.GEMINI_3_8_FLASH_TTS),
        ("gemini-2.5-pro-preview-tts", VoiceModel.GEMINI_TTS),
        ("gemini-9-tts", "gemini-9-tts"),
    ],
)
def test_a_model_is_a_member_or_any_other_id(model: str, kept: str) -> None:
    """Known ids become members."""
    request = AudioRequest(text="Hello", model=model)
    assert (request.model, type(request.model)) == (kept, type(kept))


@pytest.mark.parametrize(
    "values",
    [
        {"model": "a b"},
        {"model": 5},
        {"language": "German"},
        {"priority": 101},
        {"priority": -101},
        {"output_filename": "../x"},
    ],
)
def test_other_wrong_fields_are_refused_by_name(values: dict[str, Any]) -> None:
    """The error leads with the field."""
    assert f"\n{next(iter(values))}\n" in refusal(AudioRequest, text="Hello", **values)


def test_a_file_name_gets_its_ending() -> None:
    """The rule for names is that of ``models.filenames``."""
    assert AudioRequest(text="Hello", output_filename="chapter 1").output_filename == "chapter 1"
    assert AudioRequest(text="Hello", output_filename="a", output_format="mp3").output_filename == "a.mp3"
    with pytest.raises(ValidationError, match=r"must end with \.mp3"):
        AudioRequest(text="Hello", output_filename="a.wav", output_format="mp3")


def test_one_kind_of_subtitles_is_a_tuple_too() -> None:
    """The error shows how it is written."""
    assert '("srt",)' in refusal(AudioRequest, text="Hello", subtitles="srt")
    assert AudioRequest(text="Hello", subtitles=["srt"]).subtitles == ("srt",)


@pytest.mark.parametrize("count", [0, 101])
def test_a_batch_has_up_to_a_hundred_requests(count: int) -> None:
    """None is no batch; more than a hundred are several."""
    assert "requests" in refusal(BatchAudioRequest, requests=[AudioRequest(text="Hello")] * count)
    assert len(BatchAudioRequest(requests=[AudioRequest(text="Hello")] * 100).requests) == 100


@pytest.mark.parametrize("batch_id", ["", "a b", "a:b", "a\n", "\na", "é", "x" * 65, "a\0", "*"], ids=ascii)
def test_an_id_fits_into_a_key_name(batch_id: str) -> None:
    """1 to 64 ASCII letters, digits, ``_`` and ``-``; not even a line break behind them."""
    assert "batch_id" in refusal(BatchAudioRequest, requests=[AudioRequest(text="Hello")], batch_id=batch_id)
    assert BatchAudioRequest(requests=[AudioRequest(text="Hello")], batch_id="Az_09-" + "x" * 58).batch_id


@pytest.mark.parametrize("code", ErrorCode)
def test_a_failed_response_raises_what_was_raised(code: ErrorCode) -> None:
    """Class, code and every field come back, also after JSON."""
    usage = TokenUsage(input_tokens=1, output_tokens=2, audio_tokens=2)
    reset_at = datetime(2026, 11, 23, 8, tzinfo=UTC)
    response = AudioResponse(
        success=False,
        message="no speech",
        error="what happened",
        error_code=code,
        retryable=True,
        retry_after_s=1.5,
        reset_at=reset_at,
        attempts=4,
        usage=usage,
    )
    for answer in (response, AudioResponse.model_validate_json(response.model_dump_json())):
        with pytest.raises(AudioAPIError) as caught:
            answer.raise_for_error()
        error = caught.value
        assert type(error) is error_class(code)
        assert (str(error), error.code, error.retryable) == ("what happened", code, True)
        assert (error.retry_after_s, error.attempts, error.usage) == (1.5, 4, usage)
        if isinstance(error, TTSQuotaError):
            assert error.reset_at == reset_at


def test_audio_that_could_not_be_saved_is_not_lost() -> None:
    """It is in the response and in the error, but never in JSON nor in a representation."""
    response = AudioResponse(
        success=False, message="disk full", error_code=ErrorCode.OUTPUT_FAILED, unsaved_audio=b"RIFFdata"
    )
    with pytest.raises(TTSOutputError, match="disk full") as caught:
        response.raise_for_error()
    assert caught.value.audio == b"RIFFdata"
    assert "RIFF" not in response.model_dump_json() + repr(response)


def test_a_response_without_details_still_raises() -> None:
    """``message`` stands in for ``error``, ``api_error`` for the code."""
    with pytest.raises(TTSAPIError, match="no speech") as caught:
        AudioResponse(success=False, message="no speech").raise_for_error()
    assert (caught.value.code, caught.value.retryable) == (ErrorCode.API_ERROR, False)


def test_a_success_returns_itself() -> None:
    """So that a call can go on with the response."""
    response = AudioResponse(success=True, message="ok", file_path="/tmp/a.wav")
    assert response.raise_for_error() is response


def test_usage_adds_up() -> None:
    """Every billed attempt counts."""
    one = TokenUsage(input_tokens=1, output_tokens=20, audio_tokens=10)
    assert one + one == TokenUsage(input_tokens=2, output_tokens=40, audio_tokens=20)
    assert one + TokenUsage() == one


@pytest.mark.parametrize(("total", "completed", "failed"), [(1, 1, 1), (0, 1, 0), (1, -1, 0), (1, 0, -1), (-1, 0, 0)])
def test_counters_that_contradict_each_other_are_refused(total: int, completed: int, failed: int) -> None:
    """No more requests can be finished than there are, and none of the counts is negative."""
    refusal(
        BatchAudioResponse,
        batch_id="b",
        total_requests=total,
        completed=completed,
        failed=failed,
        results=(),
        status="processing",
    )


def test_the_states_of_a_batch_are_explained() -> None:
    """Each state is named in the docstring."""
    states = BatchAudioResponse.model_json_schema()["properties"]["status"]["enum"]
    assert BatchAudioResponse.__doc__
    assert [state for state in states if f"``{state}``" not in BatchAudioResponse.__doc__] == []


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=30).map("a{}".format)
VOICES = st.sampled_from(VoiceName) | st.from_regex(r"\Avoice(key)?_[A-Za-z0-9_-]{1,40}\Z")
KNOBS = {
    "speed": st.none() | st.floats(0.1, 3.0),
    "pitch": st.none() | st.floats(0.1, 2.0),
}
STYLES = st.none() | WORDS
CONFIGS = st.builds(VoiceConfig, voice_name=VOICES, **KNOBS)
NAMES = st.text(st.characters(categories=["L", "M", "Nd"]), max_size=10)
DIALOGUES = st.builds(
    lambda first, second: MultiSpeakerConfig(speakers=(first, second)),
    st.builds(SpeakerConfig, speaker_name=NAMES.map("A{}".format), voice_name=VOICES, style=STYLES, **KNOBS),
    st.builds(SpeakerConfig, speaker_name=NAMES.map("B{}".format), voice_name=VOICES, style=STYLES, **KNOBS),
)
COMMON = {
    "text": WORDS,
    "model": st.none() | st.sampled_from(VoiceModel) | st.from_regex(r"\A[a-z0-9][A-Za-z0-9._-]{0,40}\Z"),
    "language": st.sampled_from(Language) | st.from_regex(r"\A[a-zA-Z]{2,3}(-[a-zA-Z]{4})?(-[a-zA-Z]{2})?\Z"),
    "output_filename": st.none() | st.from_regex(r"\A[a-z0-9]{1,20}\Z").map("f{}".format),
    "overwrite": st.booleans(),
    "style": STYLES,
    "priority": st.integers(-100, 100),
}
REQUESTS = (
    st.builds(AudioRequest, voice_config=CONFIGS, **COMMON)
    | st.builds(AudioRequest, speaker_mode=st.just(SpeakerMode.MULTIPLE), multi_speaker_config=DIALOGUES, **COMMON)
    | st.builds(
        AudioRequest,
        speaker_mode=st.just(SpeakerMode.MULTIPLE),
        cast=DIALOGUES.map(lambda dialogue: dialogue.speakers),
        **COMMON,
    )
)
COUNTS = st.integers(0, 10**12)
FINITE = st.none() | st.floats(0, allow_nan=False, allow_infinity=False)
RESPONSES = st.builds(
    AudioResponse,
    success=st.booleans(),
    message=WORDS,
    file_path=st.none() | WORDS,
    duration=FINITE,
    error=st.none() | WORDS,
    error_code=st.none() | st.sampled_from(ErrorCode),
    retryable=st.booleans(),
    retry_after_s=FINITE,
    reset_at=st.none() | st.datetimes().map(lambda moment: moment.replace(fold=0, tzinfo=UTC)),
    processing_time=FINITE,
    model=st.none() | WORDS,
    attempts=COUNTS,
    usage=st.builds(TokenUsage, input_tokens=COUNTS, output_tokens=COUNTS, audio_tokens=COUNTS),
    cost_usd=FINITE,
    warnings=st.lists(WORDS, max_size=3),
)
BATCH_RESPONSES = st.builds(
    lambda results, more, status: BatchAudioResponse(
        batch_id="b",
        total_requests=len(results) + more,
        completed=sum(result.success for result in results),
        failed=sum(not result.success for result in results),
        results=tuple(results),
        status=status,
    ),
    st.lists(RESPONSES, max_size=3),
    st.integers(0, 5),
    st.sampled_from(["pending", "processing", "completed", "failed"]),
)


@given(
    REQUESTS
    | st.builds(
        BatchAudioRequest, requests=st.lists(REQUESTS, min_size=1, max_size=3), batch_id=st.none() | st.just("b")
    )
    | RESPONSES
    | BATCH_RESPONSES
)
def test_nothing_is_lost_on_the_way_through_json(model: BaseModel) -> None:
    """Every model comes back equal, with members as members; through a pickle and a copy as well."""
    again = type(model).model_validate_json(model.model_dump_json())
    assert again == model
    assert repr(again).replace("TzInfo(0)", repr(UTC)) == repr(model)
    assert type(model).model_validate(model.model_dump()) == model
    assert pickle.loads(pickle.dumps(model)) == copy.deepcopy(model) == model


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_are_refused(value: float) -> None:
    """They would come back as ``None``."""
    assert "finite number" in refusal(AudioResponse, success=True, message="ok", duration=value)
