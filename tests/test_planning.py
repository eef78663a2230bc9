"""Long utterances become calls: nothing lost or reordered, nothing above what one call can speak."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_api.engines.base import Turn, Utterance
from audio_api.engines.gemini import GeminiEngine
from audio_api.errors import TTSValidationError
from audio_api.models.audio_request import VoiceConfig
from audio_api.models.speech_models import VoiceModel, model_spec
from audio_api.models.voices import VoiceName
from audio_api.speech.planning import PlannedPiece, halve, plan_pieces
from audio_api.text.pace import alphabet_pace, spoken_s

KORE = VoiceConfig(voice_name=VoiceName.KORE)
CUSTOM = VoiceConfig(voice_name="voice_abc")
NEW, LEGACY = "gemini-3.8-flash-tts", "gemini-2.5-pro-preview-tts"
SENTENCE = "The river was high and the bridge was gone, so we walked on. "
PARAGRAPH = SENTENCE * 5 + "\n\n"


def single(text: str, model: str = NEW, voice: VoiceConfig = KORE) -> Utterance:
    """One voice, whispering."""
    return Utterance((Turn(text, voice, style="whispering"),), model, "en-US")


def dialogue(*turns: tuple[str, str], model: str = NEW, voice: VoiceConfig = KORE) -> Utterance:
    """Turns of speakers and words; all of them whisper."""
    return Utterance(tuple(Turn(text, voice, speaker, "whispering") for speaker, text in turns), model, "en-US")


def texts(pieces: list[PlannedPiece]) -> list[str]:
    """What each piece speaks."""
    return [piece.utterance.text for piece in pieces]


def speakers(pieces: list[PlannedPiece]) -> list[str]:
    """Who speaks in each piece, one letter for each turn."""
    return ["".join(turn.speaker or "-" for turn in piece.utterance.turns) for piece in pieces]


def words(*utterances: Utterance) -> list[tuple[object, ...]]:
    """Every letter and digit with everything that decides how it sounds."""
    return [
        (utterance.model, utterance.language, turn.speaker, turn.style, turn.voice, char)
        for utterance in utterances
        for turn in utterance.turns
        for char in turn.text
        if char.isalnum()
    ]


@pytest.mark.parametrize("model", [NEW, LEGACY])
@pytest.mark.parametrize("first_chars", [None, 120])
def test_what_fits_into_a_call_comes_back_as_it_is(model: str, first_chars: int | None) -> None:
    """With all its white space, so that a short request sounds and is billed as it always was."""
    for utterance in (single(" Hello!\n", model), dialogue(("A", "Hello!"), ("B", "Hi!"), ("A", "Bye!"), model=model)):
        assert list(plan_pieces(utterance, 800, first_chars)) == [PlannedPiece(utterance, "end")]


def test_a_text_is_cut_where_a_reader_would_pause() -> None:
    """Voice and style stay on every piece; the white space between them goes."""
    whole = single(PARAGRAPH * 20)
    pieces = list(plan_pieces(whole, 800))
    assert texts(pieces) == [(PARAGRAPH * 2).strip()] * 10
    assert [piece.break_after for piece in pieces] == ["paragraph"] * 9 + ["end"]
    assert {piece.utterance.turns[0].style for piece in pieces} == {"whispering"}
    assert words(*(piece.utterance for piece in pieces)) == words(whole)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("漢字を読むのは大変です。", "ja"),
        ("Düşünüyorum, öyleyse varım. ", "tr-TR"),
        ("Je pense, donc je suis. ", "fr"),
        ("สวัสดีครับ ", "th"),
    ],
    ids=ascii,
)
def test_no_piece_takes_more_than_two_minutes(text: str, language: str) -> None:
    """Whatever the script: two thousand characters of Japanese are six minutes."""
    pieces = list(plan_pieces(replace(single(text * 600), language=language), 2_000))
    seconds = [spoken_s(piece.utterance.text) / min(1.0, alphabet_pace(language)) for piece in pieces]
    assert 60 < max(seconds) <= 120


@pytest.mark.parametrize(("speed", "longest_s"), [(None, 120), (1, 120), (3, 120), (0.75, 90), (0.1, 60)])
def test_slow_voices_get_less(speed: float | None, longest_s: float) -> None:
    """A speed below 1 is expected to make speech longer, twice as long at most; a higher one promises nothing."""
    whole = single(SENTENCE * 200, voice=VoiceConfig(speed=speed))
    seconds = [spoken_s(piece.utterance.text) for piece in plan_pieces(whole, 5_000)]
    assert longest_s * 0.8 < max(seconds) <= longest_s


def test_pieces_without_a_word_are_left_out() -> None:
    """There is nothing to speak in them, and the API would bill the attempt."""
    stars = "* " * 300
    pieces = list(plan_pieces(single(f"{stars}\n\nOne.\n\n{stars}\n\nTwo.\n\n{stars}"), 200))
    assert [text.replace("*", "").strip() for text in texts(pieces)] == ["One.", "Two."]
    assert pieces[-1].break_after == "end"


def test_a_dialogue_is_cut_between_turns() -> None:
    """After 12 turns, or as many characters as one call is given; the pause between turns is that of a sentence."""
    turns = [("AB"[number % 2], f"{SENTENCE}{number}.") for number in range(30)]
    pieces = list(plan_pieces(dialogue(*turns), 2_000))
    assert speakers(pieces) == ["AB" * 6, "AB" * 6, "AB" * 3]
    assert [piece.break_after for piece in pieces] == ["sentence", "sentence", "end"]
    assert [turn.text for piece in pieces for turn in piece.utterance.turns] == [text for _, text in turns]
    pieces = list(plan_pieces(dialogue(*turns), 400))
    assert speakers(pieces) == ["ABABAB"] * 5
    assert max(map(len, texts(pieces))) <= 400


def test_a_turn_longer_than_a_call_is_cut_like_a_text() -> None:
    """Its pieces keep their speaker; what is left of it may go with the next turn."""
    pieces = list(plan_pieces(dialogue(("A", PARAGRAPH * 5), ("B", "What a day that must have been!")), 800))
    assert speakers(pieces) == ["A", "A", "AB"]
    assert [piece.break_after for piece in pieces] == ["paragraph", "paragraph", "end"]


def test_a_piece_has_two_voices_at_most() -> None:
    """A third speaker begins a new one."""
    turns = [(speaker, SENTENCE * 2) for speaker in "ABABCACBDD"]
    assert speakers(list(plan_pieces(dialogue(*turns), 2_000))) == ["ABAB", "CAC", "BDD"]


def test_custom_voices_speak_alone() -> None:
    """The API takes them for one speaker only: one turn, one call, whatever their length."""
    whole = dialogue(("A", "One."), ("A", "Two."), ("B", "Three."), ("B", "Four."), ("A", "Five."))
    turns = tuple(replace(turn, voice=CUSTOM) if turn.speaker == "B" else turn for turn in whole.turns)
    assert speakers(list(plan_pieces(replace(whole, turns=turns), 2_000))) == ["AA", "B", "B", "A"]


def test_a_prompted_model_gets_one_style_for_each_speaker() -> None:
    """The prompt of 2.5 and 3.1 names a style for a speaker; 3.8 takes one for every turn."""
    plain = [(speaker, SENTENCE * 2) for speaker in "ABABAB"]
    for model, expected in ((NEW, ["ABABAB"]), (LEGACY, ["ABA", "BAB"])):
        whole = dialogue(*plain, model=model)
        turns = [replace(turn, style="shouting") if number == 3 else turn for number, turn in enumerate(whole.turns)]
        turns[5] = replace(turns[5], style="shouting")
        assert speakers(list(plan_pieces(replace(whole, turns=tuple(turns)), 2_000))) == expected


def test_a_short_piece_takes_turns_from_the_one_before() -> None:
    """Short texts come back without audio more often; but a call still has two voices at most."""
    turns = [("AB"[number % 2], SENTENCE) for number in range(12)]
    assert speakers(list(plan_pieces(dialogue(*turns, ("A", "Yes.")), 2_000))) == ["ABABAB", "ABABABA"]
    assert speakers(list(plan_pieces(dialogue(*turns, ("C", "Yes.")), 2_000))) == ["AB" * 5 + "A", "BC"]
    assert speakers(list(plan_pieces(dialogue(*turns[:11], ("A", "No."), ("C", "Yes.")), 2_000))) == [
        "ABABABABAB",
        "AAC",
    ]


def test_a_stream_begins_with_its_first_sentence() -> None:
    """Then its pieces grow, up to 40 seconds."""
    sizes = [len(text) for text in texts(list(plan_pieces(single(SENTENCE * 100), 2_000, first_chars=100)))]
    assert sizes[0] == len(SENTENCE.strip())
    assert all(size <= 100 * 2**number for number, size in enumerate(sizes))
    assert all(one < other for one, other in pairwise(sizes[:4]))
    assert 400 < max(sizes) < 40 * 19


@pytest.mark.parametrize(
    ("text", "first", "break_after"),
    [
        (f"Yes. No. {SENTENCE * 9}", f"Yes. No. {SENTENCE}".strip(), "sentence"),
        (f"{SENTENCE}\n\n{SENTENCE * 9}", SENTENCE.strip(), "paragraph"),
        (f"{SENTENCE}\n{SENTENCE * 9}", SENTENCE.strip(), "sentence"),
        ("so we walked on, " * 40, "so we walked on, " * 4, "clause"),
        ("word " * 100, "word " * 16, "word"),
        (SENTENCE, SENTENCE, "end"),
    ],
)
def test_the_first_piece_of_a_stream_is_short_but_not_too_short(text: str, first: str, break_after: str) -> None:
    """At least 60 characters where there are as many; a longer first sentence is cut within."""
    piece = next(plan_pieces(single(text), 2_000, first_chars=80))
    assert (piece.utterance.text.strip(), piece.break_after) == (first.strip(), break_after)


def test_a_streamed_dialogue_begins_early_too() -> None:
    """With the first sentence of a long first turn, or with the first turns."""
    long = dialogue(("A", SENTENCE * 10), *[("B", SENTENCE), ("A", SENTENCE)] * 10)
    pieces = list(plan_pieces(long, 2_000, first_chars=100))
    assert texts(pieces)[0] == SENTENCE.strip()
    assert max(spoken_s(text) for text in texts(pieces)) <= 40
    short = dialogue(*[("A", "Good morning, how are you?"), ("B", "Very well, thanks!")] * 10)
    assert speakers(list(plan_pieces(short, 2_000, first_chars=100)))[:2] == ["ABAB", "ABABABAB"]


def test_a_stream_is_short_even_if_its_first_piece_may_be_long() -> None:
    """40 seconds hold for the first piece too."""
    pieces = list(plan_pieces(single(SENTENCE * 15), 2_000, first_chars=1_000))
    assert max(spoken_s(text) for text in texts(pieces)) <= 40


def test_first_chars_above_the_limit_mean_the_limit() -> None:
    """A legacy model's pieces stay as short when they are streamed."""
    assert max(map(len, texts(list(plan_pieces(single(SENTENCE * 30), 300, first_chars=1_000))))) <= 300


@pytest.mark.parametrize("model", VoiceModel)
def test_the_engine_takes_every_piece_of_what_it_refuses_whole(model: VoiceModel) -> None:
    """A long text of any script, a cast of 30, and custom voices in a dialogue where the model has them."""
    engine = GeminiEngine("key", timeout_s=1, max_connections=1)
    cast = [(f"Speaker {number}", SENTENCE) for number in range(30)] * 2
    wholes = [single("漢字を読むのは大変です。" * 3_000, model), dialogue(*cast, model=model)]
    if model_spec(model).family == "verbatim":
        wholes.append(dialogue(("A", SENTENCE), ("B", SENTENCE), voice=CUSTOM, model=model))
    for whole in wholes:
        with pytest.raises(TTSValidationError):
            engine.preflight(whole)
        for piece in plan_pieces(whole, model_spec(model).piece_chars):
            engine.preflight(piece.utterance)


SIZES = st.integers(1, 200)
TEXTS = st.text(min_size=1, max_size=300).filter(lambda text: any(map(str.isalnum, text))) | st.integers(1, 12).map(
    lambda count: SENTENCE * count
)
VOICES = st.builds(
    VoiceConfig, voice_name=st.sampled_from([VoiceName.KORE, "voice_abc"]), speed=st.sampled_from([None, 0.5])
)
MODELS = st.sampled_from([NEW, LEGACY])
SINGLES = st.builds(
    lambda text, voice, model: Utterance((Turn(text, voice, style="calm"),), model, "en"), TEXTS, VOICES, MODELS
)
DIALOGUES = st.builds(
    lambda turns, model: Utterance(tuple(turns), model, "de"),
    st.lists(
        st.builds(Turn, TEXTS, VOICES, st.sampled_from("ABCD"), st.sampled_from([None, "sad"])), min_size=1, max_size=16
    ),
    MODELS,
)


@given(SINGLES | DIALOGUES, SIZES, st.none() | SIZES)
def test_every_word_is_spoken_once_and_no_call_gets_too_much(
    whole: Utterance, max_chars: int, first_chars: int | None
) -> None:
    """For any text, cast, model and limit; the same letters in the same order, voice and style."""
    pieces = list(plan_pieces(whole, max_chars, first_chars))
    assert words(*(piece.utterance for piece in pieces)) == words(whole)
    assert [number for number, piece in enumerate(pieces) if piece.break_after == "end"] == [len(pieces) - 1]
    for number, piece in enumerate(pieces):
        turns = piece.utterance.turns
        assert len(piece.utterance.text) <= max_chars
        assert first_chars is None or len(turns) == 1 or len(piece.utterance.text) <= first_chars * 2**number
        assert len(turns) <= 12
        assert len({turn.speaker for turn in turns}) <= 2
        assert len(turns) == 1 or all(turn.voice.voice_name == "kore" for turn in turns)
        assert all(any(map(str.isalnum, turn.text)) for turn in turns)
        longest_s = 120 if first_chars is None else 40
        assert sum(spoken_s(turn.text) / (turn.voice.speed or 1) for turn in turns) <= longest_s
        if whole.model == LEGACY:
            assert len({(turn.speaker, turn.style) for turn in turns}) == len({turn.speaker for turn in turns})


@pytest.mark.parametrize(
    ("text", "first"),
    [
        (SENTENCE * 4, SENTENCE * 2),
        ("so we walked on, " * 6, "so we walked on, " * 3),
        ("word " * 20, "word " * 10),
        ("漢字を読むのは大変です。" * 10, "漢字を読むのは大変です。" * 5),
    ],
    ids=ascii,
)
def test_a_text_is_halved_at_the_best_place_near_its_middle(text: str, first: str) -> None:
    """The halves keep voice and style; the second one ends as the whole did."""
    whole = single(text)
    halves = halve(PlannedPiece(whole, "paragraph"))
    assert halves is not None
    assert [half.utterance.text for half in halves] == [first.strip(), text.removeprefix(first).strip()]
    assert words(*(half.utterance for half in halves)) == words(whole)
    assert halves[0].break_after in ("sentence", "clause", "word")
    assert halves[1].break_after == "paragraph"


def test_a_dialogue_is_halved_between_turns() -> None:
    """Where both halves are about as long."""
    whole = dialogue(("A", SENTENCE), ("B", SENTENCE * 3), ("A", SENTENCE * 3), ("B", SENTENCE))
    halves = halve(PlannedPiece(whole, "end"))
    assert halves is not None
    assert speakers(list(halves)) == ["AB", "AB"]
    assert [half.break_after for half in halves] == ["sentence", "end"]


@pytest.mark.parametrize(
    "whole",
    [
        single("Too short to be cut in two, although it has some sixty lette"),
        dialogue(("A", "Yes."), ("B", "No.")),
        single("x" * 100),
        single(f"https://example.org/{'x' * 100}"),
        single("Yes " + "." * 99),
        single("." * 99 + " Yes"),
    ],
)
def test_what_cannot_be_halved(whole: Utterance) -> None:
    """Sixty characters or fewer, one word, or a half without a word."""
    assert halve(PlannedPiece(whole, "end")) is None


@given(SINGLES | DIALOGUES)
def test_halves_are_the_whole(whole: Utterance) -> None:
    """However often a piece is halved, every word is spoken once, and it ends."""
    waiting, done = list(plan_pieces(whole, 200)), []
    while waiting:
        piece = waiting.pop(0)
        if halves := halve(piece):
            waiting[:0] = halves
        else:
            done.append(piece)
    assert words(*(piece.utterance for piece in done)) == words(whole)
    assert done[-1].break_after == "end"
