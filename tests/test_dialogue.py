"""A dialogue's text becomes turns: only configured names count, and no word is lost."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Literal

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from audio_api.engines.base import SpeechAudio, Turn, Utterance
from audio_api.errors import TTSValidationError
from audio_api.models.audio_request import (
    AudioRequest,
    MultiSpeakerConfig,
    SpeakerConfig,
    SpeakerMode,
    VoiceConfig,
)
from audio_api.text.dialogue import SpokenTurn, split_turns

ALICE_AND_BOB = ["Alice", "Bob"]
GREETING = [("Alice", "Hello!"), ("Bob", "Hi there!")]


def spoken(text: str, names: list[str]) -> list[tuple[str, str]]:
    """Who says what, whatever the style."""
    return [(speaker, said) for speaker, said, _ in split_turns(text, names)]


@pytest.mark.parametrize(
    "text",
    [
        "Alice: Hello! Bob: Hi there!",
        "Alice: Hello!\nBob: Hi there!",
        "Alice: Hello!\r\nBob: Hi there!\r\n",
        "Alice: Hello!\rBob: Hi there!",
        "Alice: Hello!\u2028Bob: Hi there!",
        "\n\n  Alice:\nHello!\n\n\n\tBob:\n  Hi there!  \n",
        "ALICE: Hello! bob: Hi there!",
        "Alice : Hello! Bob\u202f:\u00a0Hi there!",
        "Alice：Hello！Bob：Hi there!".replace("！", "!"),
        "Alice:Hello!Bob:Hi there!",
        "\ufeffAlice: Hello!\n\u200fBob: Hi there!",
        "... Alice: Hello! Bob: Hi there!",
    ],
    ids=ascii,
)
def test_names_and_colons_separate_the_turns(text: str) -> None:
    """On one line or many, whatever the line ends, the case, the blanks and the kind of colon."""
    assert spoken(text, ALICE_AND_BOB) == GREETING


@pytest.mark.parametrize(
    "said",
    [
        "The score is Bob: 3",
        "I asked Bob: are you here",
        "Bobby: what a name",
        "Jim-Bob: he is my cousin",
        "I like Bob",
        "http://www.bob:8080 is down",
        "it was 10:30",
        'he said "Bob: come here" and left',
        "he met Dr. Bob: he was late",
        "he met Prof. Bob: he was late",
        "he met\tMrs.  Bob: she was late",
        "Carol: she is nobody here",
        "A.Bob: what a file name",
    ],
)
def test_a_colon_in_a_sentence_is_no_speaker(said: str) -> None:
    """A name counts only where a turn can begin; inside words, titles, quotes and addresses it is text."""
    assert spoken(f"Alice: {said}. Bob: True.", ALICE_AND_BOB) == [("Alice", f"{said}."), ("Bob", "True.")]


@pytest.mark.parametrize(
    "end",
    ["Yes.", "Yes!", "Yes?", "Yes…", "Yes?!", 'He said "yes."', "He said “yes”", "«Yes»", "(laughs)", "[sighs]",
     "<laugh>", "'Yes'", "I saw the drs.", "はい。", "はい！", "「はい」", "जी।", "نعم؟", "جی۔",
     "สวัสดีครับ", "ใช่ครับ ไปกันเถอะ", "ສະບາຍດີ"],
)  # fmt: skip
def test_a_name_counts_behind_the_end_of_a_sentence(end: str) -> None:
    """Of every script that marks it, quotes, brackets and stage directions included."""
    assert spoken(f"Alice: {end} Bob: Ok.", ALICE_AND_BOB) == [("Alice", end), ("Bob", "Ok.")]


def test_east_asian_sentences_need_no_white_space() -> None:
    """Names stand directly behind the full stop, colons are wide."""
    assert spoken("太郎：はい。花子：「いいえ」太郎：本当？", ["太郎", "花子"]) == [
        ("太郎", "はい。"),
        ("花子", "「いいえ」"),
        ("太郎", "本当？"),
    ]


def test_quoted_lines_are_turns() -> None:
    """The quote before a name is dropped; the words are not touched."""
    assert spoken('"Alice: Hello!"\n“Bob: Hi!”', ALICE_AND_BOB) == [("Alice", 'Hello!"'), ("Bob", "Hi!”")]


@pytest.mark.parametrize(
    "names",
    [
        ["A.B", "C++"],
        ["(x)", "[y]*"],
        ["Dr. Bob", "Bob"],
        ["Bob", "Dr. Bob"],
        ["Bob", "Bobby"],
        ["Bobby", "Bob"],
        ["Mary Ann", "Mary"],
        ["Ann", "Mary Ann"],
        ["1", "12"],
        ["José", "Zoë"],
        ["Strauß", "İpek"],
        ["प्रिया", "ชาย"],
        ["O'Neil", "Jean-Luc"],
    ],
    ids=ascii,
)
@pytest.mark.parametrize("spelling", ["NFC", "NFD"])
@pytest.mark.parametrize("case", [str, str.upper, str.lower, str.casefold], ids=lambda case: case.__name__)
def test_names_are_taken_literally(
    names: list[str], spelling: Literal["NFC", "NFD"], case: Callable[[str], str]
) -> None:
    """Whatever a pattern would read into them, in any case (``STRAUSS``), composed or not, prefixes of each other."""
    written = [unicodedata.normalize(spelling, case(name)) for name in names]
    text = f"{written[0]}: One. {written[1]}: Two! {written[0]}: Three.\n{written[1]}: Four."
    expected = list(zip(names * 2, ["One.", "Two!", "Three.", "Four."], strict=True))
    assert spoken(text, names) == expected
    assert spoken(text, [unicodedata.normalize("NFD", name) for name in names]) == [
        (unicodedata.normalize("NFD", name), said) for name, said in expected
    ]


@pytest.mark.parametrize("written", ["Iris", "IRIS", "İris", "ıris", "IRİS", "ırıs"])
def test_letters_that_fold_oddly_find_their_speaker(written: str) -> None:
    """Python's patterns equate the Turkish i's, folding does not: no spelling may end in a lookup error."""
    assert spoken(f"{written}: Hi! Bob: Hi!", ["Iris", "Bob"])[0] == ("Iris", "Hi!")


def test_a_name_may_be_spaced_otherwise_in_the_text() -> None:
    """Blanks within a name are any blanks."""
    assert spoken("Mary \u00a0Ann: Hi! Bob: Hi!", ["Mary Ann", "Bob"])[0] == ("Mary Ann", "Hi!")


def test_one_speaker_may_have_several_turns_in_a_row() -> None:
    """Turns are kept as they are written."""
    assert spoken("Alice: One. Alice: Two.\nBob: Three.", ALICE_AND_BOB) == [
        ("Alice", "One."),
        ("Alice", "Two."),
        ("Bob", "Three."),
    ]


def test_turns_without_words_are_left_out() -> None:
    """There is nothing to speak in ``"…"``."""
    assert spoken("Alice: … Bob: Well. Alice: ?! Alice: Hm.", ALICE_AND_BOB) == [
        ("Bob", "Well."),
        ("Alice", "Hm."),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Hello!",
        "Once upon a time. Alice: Hello! Bob: Hi!",
        "dr. Bob: Hi! Alice: Hi!",
        "Alice",
        "Alice says: Hi!",
        "[calm] Alice: Hi!\nBob: Hi!",
    ],
)
def test_words_before_the_first_name_are_refused(text: str) -> None:
    """No speaker would speak them. The error says how a dialogue begins and does not repeat the text."""
    with pytest.raises(ValueError, match=r"must begin with a speaker's name and a colon: Alice: or Bob:") as caught:
        spoken(text, ALICE_AND_BOB)
    assert "upon" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "silent"),
    [
        ("Alice: Hello! Carol: Hi!", "Bob never speaks"),
        ("Alice: Hello Bob: Hi", "Bob never speaks"),
        ("Alice: Hello! Bob: …", "Bob never speaks"),
        ("", "Alice and Bob never speak"),
    ],
)
def test_a_speaker_who_never_speaks_is_an_error(text: str, silent: str) -> None:
    """The text says who, and where a name would have counted."""
    with pytest.raises(ValueError, match=rf"{silent}: .* at the start of a line or behind the end of a sentence"):
        spoken(text, ALICE_AND_BOB)


def test_thirty_speakers_are_no_harder_than_two() -> None:
    """Casts larger than a model's two speakers are split the same way."""
    names = [f"Speaker {number}" for number in range(1, 31)]
    assert spoken(" ".join(f"{name}: I am here." for name in names), names) == [(name, "I am here.") for name in names]


NAMES = st.lists(
    st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=12),
    min_size=2,
    max_size=4,
    unique_by=lambda name: (
        unicodedata.normalize("NFKD", name.upper()).casefold().replace("ı", "i").replace("\u0307", "")
    ),
)
STYLES = st.none() | st.from_regex(r"\A[\w,]+( [\w,]+){0,3}\Z").filter(lambda style: any(map(str.isalnum, style)))
# Without colons no turn can hold a label of its own; the number of an item before a label belongs to that.
WORDS = (
    st.text(st.characters(codec="utf-8", exclude_characters=":："), min_size=1)
    .map(lambda said: f"a{said}.")
    .filter(lambda said: not re.fullmatch(r"\W*\d+\.", said.splitlines()[-1]))
)


@given(st.data())
def test_turns_survive_being_written_and_read(data: st.DataObject) -> None:
    """Any turns of any names and styles, written on one line each or all on one line, are read back unchanged."""
    names = [unicodedata.normalize("NFC", name) for name in data.draw(NAMES)]
    order = [*names, *data.draw(st.lists(st.sampled_from(names), max_size=6))]
    turns = [SpokenTurn(name, data.draw(WORDS), data.draw(STYLES)) for name in order]
    for separator in ("\n", " ", "\r\n\r\n"):
        for colon in (":", "：", " : "):
            lines = [f"{name}{f' [{style}]' if style else ''}{colon}{said}" for name, said, style in turns]
            assert split_turns(separator.join(lines), names) == turns


@pytest.mark.parametrize(
    ("label", "style"),
    [
        ("Alice [whispering]:", "whispering"),
        ("Alice[whispering]:", "whispering"),
        ("Alice [ very \t slow,  calm ] :", "very slow, calm"),
        ("ALICE [flüsternd]：", "flüsternd"),
        ('"Alice [calm]:', "calm"),
        ("Alice [x]:", "x"),
        ("Alice []:", None),
        ("Alice [ … ]:", None),
        (f"Alice [{'a' * 500}]:", "a" * 500),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_brackets_before_the_colon_are_the_style_of_the_turn(label: str, style: str | None) -> None:
    """One line of adjectives, for this turn only and never spoken; brackets without a word say nothing."""
    assert split_turns(f"{label} Hush! Bob: Why? Alice: Because.", ALICE_AND_BOB) == [
        ("Alice", "Hush!", style),
        ("Bob", "Why?", None),
        ("Alice", "Because.", None),
    ]


def test_brackets_elsewhere_are_words() -> None:
    """Only between a name and its colon are they a style; a line break ends them."""
    text = "Alice: [laughs] He knows Bob [my brother]: good. Bob [calm]: Yes [sighs]. Alice: Bob [a\nb]: no."
    assert split_turns(text, ALICE_AND_BOB) == [
        ("Alice", "[laughs] He knows Bob [my brother]: good.", None),
        ("Bob", "Yes [sighs].", "calm"),
        ("Alice", "Bob [a\nb]: no.", None),
    ]


def test_a_style_has_a_limit() -> None:
    """That of every other style; the error says how long it is and does not repeat it."""
    with pytest.raises(ValueError, match="a style of Alice has 501 characters; 500 are allowed"):
        split_turns(f"Alice [{'a' * 501}]: Hi! Bob: Hi!", ALICE_AND_BOB)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("Carol: Hi!", "Carol"),
        ("Carol : Hi!", "Carol"),
        ("Carol：Hi!", "Carol"),
        ("Carol:Hi!", "Carol"),
        ("CAROL:", "CAROL"),
        ('  "Carol: Hi!"', "Carol"),
        ("Carol [calm]: Hi!", "Carol"),
        ("Carol (calm): Hi!", "Carol"),
        ("Mary Ann: Hi!", "Mary Ann"),
        ("Mary Ann Smith: Hi!", "Mary Ann Smith"),
        ("Dr. Bob: Hi!", "Dr. Bob"),
        ("Mrs. Jean-Luc O'Neil: Hi!", "Mrs. Jean-Luc O'Neil"),
        ("J. R. Smith: Hi!", "J. R. Smith"),
        ("Speaker 3: Hi!", "Speaker 3"),
        ("José: Hi!", "José"),
        ("Jose\u0301: Hi!", "Jose\u0301"),
        ("Иван: Привет!", "Иван"),
        ("The Doctor: Hi!", "The Doctor"),
        ("ǅ: Hi!", "ǅ"),
    ],
    ids=ascii,
)
def test_a_line_that_begins_with_an_unknown_name_is_an_error(line: str, named: str) -> None:
    """The previous speaker would read it aloud. The error names the line, the label and the speakers."""
    with pytest.raises(ValueError, match="line 3 begins like a turn of") as caught:
        split_turns(f"Alice: Hello!\n\n{line}\nBob: Secret.", ALICE_AND_BOB)
    assert f"{named!r}, but the speakers are Alice, Bob" in str(caught.value)
    assert "'Alice [calm]:'" in str(caught.value)
    assert "Secret" not in str(caught.value)
    with pytest.raises(ValueError, match="line 1 begins like a turn of"):
        split_turns(f"{line}\nAlice: Hello!\nBob: Hi!", ALICE_AND_BOB)


@pytest.mark.parametrize(
    "line",
    [
        "Note: it is late.", "NOTE: it is late.", "Please Note: it is late.", "PS: it is late.", "P.S.: it is late.",
        "N.B. : it is late.", "Chapter 3: The river.", "Step 2: wait.", "Achtung: es ist spät.",
        "Das Problem: es ist spät.", "Remarque : il est tard.", "Внимание: поздно.",
        "12:30 is late.", "Noon 12:30 is late.", "Matthew 5:3 says so.", "7: a number.", "3 Men: a film.",
        "https://example.org is down.", "Https://example.org is down.", "C:\\temp is full.", "Std::vector is a type.",
        "Great :) I like it.", "Great :D",
        "carol: in small letters.", "The problem: it is late.", "He said: it is late.",
        "One Two Three Four: too many.", "X" * 41 + ": too long.", "- Carol: a list.",
        "次郎：はい。", "彼は言った：はい。", "قال: نعم", "उसने कहा: हाँ", "그가 말했다: 네",
        "Yes. Bob: Well", "Wait, Carol: no.", "Yes. Carol: no.",
    ],
    ids=ascii,
)  # fmt: skip
def test_a_line_of_text_with_a_colon_is_no_error(line: str) -> None:
    """Notes, numbers, times, addresses, emoticons, sentences, and scripts without capital letters are spoken."""
    assert line.replace("Bob: ", "") in " ".join(
        said for _, said in spoken(f"Alice: Hello!\n{line}\nBob: Hi!", ALICE_AND_BOB)
    )


def test_every_speaker_of_a_cast_must_speak() -> None:
    """Three or more are no exception; one alone is a cast too."""
    with pytest.raises(ValueError, match="Bob and Dave never speak: "):
        split_turns("Alice: One. Carol: Two.", ["Alice", "Bob", "Carol", "Dave"])
    assert split_turns("Alice: One.", ["Alice"]) == [("Alice", "One.", None)]


@given(st.text(), st.text())
def test_no_word_is_lost(before: str, after: str) -> None:
    """Whatever stands in a dialogue is spoken: only names, colons, blanks and wordless turns disappear."""
    try:
        turns = split_turns(f"Alice: x{before}\nBob: y{after}", ALICE_AND_BOB)
    except ValueError:
        # A line happens to begin like a turn of another speaker.
        reject()
    said = "".join(turn.text for turn in turns)

    def words(text: str) -> str:
        return "".join(char for char in text if char.isalnum()).lower().replace("alice", "").replace("bob", "")

    assert words(said) == words(f"x{before}y{after}")


@pytest.mark.parametrize(
    "unit", ["\nA b", "\nA [", "\nA (", "! Bob [", "\nA.", "\nA ", "Abc ", "A.", "[", "(", "]",
             "\n", " ", ".", '"', ":", "Bob", "Bob ", "\nBob ", ". ", '\n"', "! Bob", "\u0301\u0327", "\0", "Mary "],
    ids=ascii,
)  # fmt: skip
def test_long_lines_of_anything_are_split_in_linear_time(unit: str) -> None:
    """Time grows with the length and not with its square, which would take many minutes here."""
    text = f"Mary Ann: Hi. Bob: x{unit * (200_000 // len(unit))}"
    assert spoken(text, ["Mary Ann", "Bob"])[0] == ("Mary Ann", "Hi.")


def request_of(text: str, **values: object) -> AudioRequest:
    """A request for a dialogue between Alice, who whispers, and Bob."""
    speakers = [
        SpeakerConfig(speaker_name="Alice", voice_name="kore", style="whispering"),
        SpeakerConfig(speaker_name="Bob", voice_name="puck", speed=1.5),
    ]
    config = {} if "cast" in values else {"multi_speaker_config": MultiSpeakerConfig(speakers=tuple(speakers))}
    return AudioRequest.model_validate({"text": text, "speaker_mode": SpeakerMode.MULTIPLE, **config, **values})


def test_a_single_voice_is_one_turn() -> None:
    """The text stays word for word, colons included."""
    request = AudioRequest(text="Alice: Hello! ", style="calm", language="de-DE", voice_config=VoiceConfig(speed=2))
    utterance = Utterance.from_request(request, "m")
    assert utterance == Utterance((Turn("Alice: Hello! ", request.voice_config, None, "calm"),), "m", "de-DE")
    assert utterance.text == "Alice: Hello! "
    assert type(utterance.language) is str


def test_a_dialogue_is_turns_with_voices_and_styles() -> None:
    """A speaker's own style wins over the request's; what is spoken holds neither names nor styles."""
    utterance = Utterance.from_request(request_of("Alice: Hello! Bob: Hi there!", style="calm"), "m")
    assert [(turn.speaker, turn.text, turn.style, turn.voice.voice_name) for turn in utterance.turns] == [
        ("Alice", "Hello!", "whispering", "kore"),
        ("Bob", "Hi there!", "calm", "puck"),
    ]
    assert utterance.turns[1].voice.speed == 1.5
    assert utterance.text == "Hello!\nHi there!"


def test_the_style_of_a_turn_wins_over_all_others() -> None:
    """The turn's own, else its speaker's, else the request's."""
    text = "Alice [shouting]: Hello! Bob [calm]: Hi! Alice: Well? Bob: Well."
    styles = [turn.style for turn in Utterance.from_request(request_of(text, style="sad"), "m").turns]
    assert styles == ["shouting", "calm", "whispering", "sad"]
    assert "[" not in Utterance.from_request(request_of(text), "m").text


def test_a_cast_speaks_like_two() -> None:
    """Every member has its own voice and style."""
    names = ["Alice", "Bob", "Carol"]
    cast = [{"speaker_name": name, "voice_name": "kore", "style": f"{name} style"} for name in names]
    utterance = Utterance.from_request(request_of("Alice: One. Bob [sad]: Two. Carol: Three.", cast=cast), "m")
    assert [(turn.speaker, turn.text, turn.style) for turn in utterance.turns] == [
        ("Alice", "One.", "Alice style"),
        ("Bob", "Two.", "sad"),
        ("Carol", "Three.", "Carol style"),
    ]


def test_a_dialogue_that_cannot_be_read_is_a_wrong_request() -> None:
    """The error is one of this library's, and nothing of the parser's is chained to it."""
    with pytest.raises(TTSValidationError, match="Bob never speaks") as caught:
        Utterance.from_request(request_of("Alice: Hello!"), "m")
    assert caught.value.__suppress_context__


def test_audio_knows_its_length() -> None:
    """Two bytes are a sample."""
    assert SpeechAudio(bytes(48_000), 24_000, "m").duration_s == 1.0
