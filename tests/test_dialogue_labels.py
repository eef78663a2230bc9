"""A known name and a colon begin that speaker's turn, however they are decorated, or the line is an error."""

from __future__ import annotations

import random
import re
import time
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from books import LEGACY, MODEL, settings

from audio_api.emulator import Emulator
from audio_api.models.audio_request import AudioRequest, MultiSpeakerConfig, SpeakerConfig, SpeakerMode
from audio_api.services.tts_service import TTSService
from audio_api.text.dialogue import SpokenTurn, split_turns
from audio_api.text.folding import FoldedText, fold

NAMES = ["Alice", "Bob"]


def script(line: str, end: str = "\n") -> str:
    """A dialogue whose second line is this one."""
    return end.join(["Alice: Hi there.", line, "Alice: How are you?", "Bob: Fine."])


def second_turn(line: str, end: str = "\n") -> SpokenTurn:
    """What the line becomes, all others being turns of their own, untouched."""
    first, second, *others = split_turns(script(line, end), NAMES)
    assert [first, *others] == [("Alice", "Hi there.", None), ("Alice", "How are you?", None), ("Bob", "Fine.", None)]
    return second


DECORATED = [
    "**Bob:** Hello.", "**Bob**: Hello.", "**Bob :** Hello.", "**Bob: ** Hello.", "***Bob:*** Hello.", "*Bob:* Hello.",
    "__Bob__: Hello.", "_Bob:_ Hello.", "**_Bob:_** Hello.", "`Bob`: Hello.", "~~Bob~~: Hello.", "**Bob: Hello.**",
    "*Bob: Hello.*",
    "- Bob: Hello.", "* Bob: Hello.", "+ Bob: Hello.", "• Bob: Hello.", "— Bob: Hello.", "- **Bob:** Hello.",
    "- [ ] Bob: Hello.", "- [x] Bob: Hello.", "1. Bob: Hello.", "1) Bob: Hello.", "12. **Bob**: Hello.",
    "**1.** Bob: Hello.", "a) Bob: Hello.", "(a) Bob: Hello.", "iv) Bob: Hello.", "① Bob: Hello.", "1️⃣ Bob: Hello.",
    "> Bob: Hello.", "> **Bob:** Hello.", "### Bob: Hello.", "### **Bob:** Hello.", "=== Bob ===: Hello.",
    "[Bob]: Hello.", "(Bob): Hello.", "{Bob}: Hello.", "<Bob>: Hello.", "[Bob:] Hello.", "[Bob: Hello.]",
    "(Bob: Hello.)", "【Bob】：Hello.", "「Bob」：Hello.", "《Bob》: Hello.", "（Bob）：Hello.",
    '"Bob": Hello.', '"Bob:" Hello.', "“Bob:” Hello.", "«Bob»: Hello.", "'Bob': Hello.",
    "<b>Bob:</b> Hello.", "<b>Bob</b>: Hello.", "<b>Bob: Hello.</b>", "<p><b>Bob:</b> Hello.</p>",
    '<span class="who">Bob:</span> Hello.', "&nbsp;Bob: Hello.",
    "| 00:01 | Bob: | Hello. |", "|1|**Bob**:|Hello.|", "[Bob](https://example.org/bob): Hello.",
    "12.30 Uhr Bob: Hello.", "Bob 12:30 PM: Hello.", "Bob (12:30 PM): Hello.", "Bob [00:01 - 00:05]: Hello.",
    "Bob (2024-01-05, 12:30): Hello.",
    "| Bob: | Hello. |", "|Bob:|Hello.|", "| **Bob:** | Hello. |", "| Bob: Hello. |",
    "Bob 🎙️: Hello.", "🎙️ Bob: Hello.", "🎙️Bob🎙️:Hello.", "👩🏽‍🚀 Bob ✨ : Hello.", "♪ Bob: Hello.",
    ":microphone: Bob: Hello.",
    "@Bob: Hello.", "Bob™: Hello.", "Bob -: Hello.",
    "[00:01] Bob: Hello.", "00:01:02 Bob: Hello.", "(12:30) Bob: Hello.", "<00:01> Bob: Hello.", "00:01 - Bob: Hello.",
    "00:01: Bob: Hello.", "00:00:01,500 Bob: Hello.", "[00:01 --> 00:04] Bob: Hello.", "12:30 PM - Bob: Hello.",
    "12/05/2024, 12:30 p.m. - Bob: Hello.", "[05.01.24, 12:30:15] Bob: Hello.", "2024-01-05T12:30:00Z Bob: Hello.",
    "[1m30s] Bob: Hello.", "**[00:01] Bob:** Hello.", "Bob (00:01): Hello.", "Bob [00:01]: Hello.",
    "Bob 00:01: Hello.",
    "BOB: Hello.", "bob: Hello.", "Bob:Hello.", "Bob:\tHello.", "Bob\u00a0: Hello.", "\u00a0Bob :\u00a0Hello.",
    "Ｂｏｂ： Hello.", "𝐁𝐨𝐛: Hello.", "Bób: Hello.", "Bob\ufe55 Hello.", "Bob\u2236 Hello.",
    "\ufeffBob: Hello.", "\u200bB\u200bo\u2060b\u200b:\u200b Hello.", "Bo\u00adb: Hello.",
    "\u200eBob\u200e:\u200e Hello.", "\u202bBob:\u202c Hello.", "\u2067Bob\u2069: Hello.",
]  # fmt: skip


@pytest.mark.parametrize("line", DECORATED, ids=ascii)
def test_decoration_around_a_label_goes(line: str) -> None:
    """The turn is Bob's, and its words are his words."""
    assert second_turn(line) == ("Bob", "Hello.", None)


@pytest.mark.parametrize("line", DECORATED, ids=ascii)
def test_a_whole_script_of_one_decoration_works(line: str) -> None:
    """Also where it begins the text, and when every line has it."""
    text = "\r\n".join([line, "Alice: Hi.", line])
    assert split_turns(text, NAMES) == [("Bob", "Hello.", None), ("Alice", "Hi.", None), ("Bob", "Hello.", None)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028",
"\u2029"],
                         ids=ascii)  # fmt: skip
def test_every_line_end_begins_a_line(end: str) -> None:
    """Those of every system and of Unicode."""
    assert second_turn("- **Bob:** Hello.", end) == ("Bob", "Hello.", None)


@pytest.mark.parametrize(
    ("label", "style"),
    [
        ("Bob (laughing):", "laughing"),
        ("Bob [laughs] [softly]:", "laughs, softly"),
        ("Bob (laughs) [softly] (slow,  calm):", "laughs, softly, slow, calm"),
        ("Bob（笑）：", "笑"),
        ("Bob 【怒】：", "怒"),
        ("**Bob** (laughing):", "laughing"),
        ("**Bob (laughing):**", "laughing"),
        ("**Bob** *(laughing)*:", "laughing"),
        ("- [Bob] [laughing]:", "laughing"),
        ("[00:01] Bob 🎙️ (laughing) [00:02]:", "laughing"),
        ("Bob [] (calm):", "calm"),
        ("Bob [scene ⑼ ½]:", "scene ⑼ ½"),
    ],
    ids=ascii,
)
def test_directions_in_brackets_are_the_style(label: str, style: str) -> None:
    """Round or square, one or several; a time stamp is none."""
    assert second_turn(f"{label} Hello.") == ("Bob", "Hello.", style)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("Bob, laughing: Hello.", "'Bob [laughing]:'"),
        ("Bob,laughing out loud: Hello.", "'Bob [laughing out loud]:'"),
        ("Bob - laughing: Hello.", "'Bob [laughing]:'"),
        ("Bob — laughing softly: Hello.", "'Bob [laughing softly]:'"),
        ("Bob *laughing*: Hello.", "'Bob [laughing]:'"),
        ("Bob _laughing_: Hello.", "'Bob [laughing]:'"),
        ("**Bob**, laughing: Hello.", "'Bob [laughing]:'"),
        ("Bob [laughs] softly: Hello.", "'Bob [softly]:'"),
        ("Bob [laughing: Hello.", "'Bob [laughing]:'"),
        ("Bob (laughing: Hello.)", "'Bob [laughing]:'"),
        ("Bob laughing: Hello.", "'Bob [laughing]:'"),
        ("Bob very softly: Hello.", "'Bob [very softly]:'"),
        ("[00:01] Bob, laughing: Hello.", "'Bob [laughing]:'"),
        ("Bob and Carol: Hello.", "'Bob and Carol:'"),
        ("Carol and Bob: Hello.", "'Carol and Bob:'"),
        ("Bob #1: Hello.", "'Bob #1:'"),
        ("[laughs] Bob: Hello.", "'[laughs] Bob:'"),
        ("(Scene 1) **Bob:** Hello.", "'(Scene 1) **Bob:'"),
        ("*laughs* Bob: Hello.", "'*laughs* Bob:'"),
        ("<laugh> Bob: Hello.", "'<laugh> Bob:'"),
        ("dr. Bob: Hello.", "'dr. Bob:'"),
        ("Scene 1 - Bob: Hello.", "'Scene 1 - Bob:'"),
        ("speaker: Bob: Hello.", "'speaker: Bob:'"),
        ("Jan 5, 12:30 Bob: Hello.", "'Jan 5, 12:30 Bob:'"),
        ("bob alice: Hello.", "names Bob and Alice: a turn has one speaker"),
        ("Bob and Alice: Hello.", "names Bob and Alice: a turn has one speaker"),
        ("ALICE & BOB: Hello.", "names Alice and Bob: a turn has one speaker"),
        ("**Bob/Alice:** Hello.", "names Bob and Alice: a turn has one speaker"),
        ("Bob, Alice: Hello.", "names Bob and Alice: a turn has one speaker"),
        ("Bob to Alice: Hello.", "names Bob and Alice: a turn has one speaker"),
    ],
    ids=ascii,
)
def test_what_reads_like_a_label_and_is_none_is_an_error(line: str, shown: str) -> None:
    """The error names the line, shows its beginning as it is, and a right one; never the words of the turn."""
    with pytest.raises(ValueError, match="line 2 begins with ") as caught:
        second_turn(line)
    assert shown in str(caught.value)
    assert repr(line.partition(" Hello")[0].rstrip("*")) in str(caught.value)
    assert "must begin with a speaker's name and a colon: Alice: or Bob:" in str(caught.value)
    assert "Hello" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "Bob said: hello.", "Bob whispers: hello.", "Bob is right about one thing: it is late.",
        "Bob's idea: go home.",
        "Bob, if you want to come tomorrow: bring wine.", "Bob, 12:30 is fine.", "Bob — Hello.", "Bob - Hello.",
        "Wait, Bob: no.", "He met Dr. Bob: he was late.", "I asked Bob: are you here?",
        "The winner is 🏆 Bob: 3 points.",
        "Bob :) Hello.", "Bob :D", "Bobby: in small letters".lower(), "jim-bob: he is my cousin.", "user_bob: x",
        "12:30 is late.", "1. First things first: wait.", "- A list: of things.", "**Important**: wait.",
        "¿Bob: me oyes?",
        "I came (Bob: my brother) late.", "I came. (Bob: my brother) was late.", "http://bob:80/ is down.",
    ],
    ids=ascii,
)  # fmt: skip
def test_a_sentence_with_a_name_stays_text(line: str) -> None:
    """Words before the name, a verb or a clause behind it, an address or an emoticon make no label."""
    assert split_turns(f"Alice: Hi there.\n{line}\nBob: Fine.", NAMES) == [
        ("Alice", f"Hi there.\n{line}", None),
        ("Bob", "Fine.", None),
    ]


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        ("**Alice:** Hi. **Bob:** Hello.", [("Alice", "Hi.", None), ("Bob", "Hello.", None)]),
        ("Alice: **Hi.** Bob: Hello.", [("Alice", "**Hi.**", None), ("Bob", "Hello.", None)]),
        ("Alice: Hi. [Bob]: Hello.", [("Alice", "Hi.", None), ("Bob", "Hello.", None)]),
        ("Alice: Hi. [00:05] Bob: Hello.", [("Alice", "Hi.", None), ("Bob", "Hello.", None)]),
        ("🎙️ Alice: Hi! 🎙️ Bob: Hello.", [("Alice", "Hi!", None), ("Bob", "Hello.", None)]),
        ("Alice: Hi. Bob (calm) [slow]: Hello.", [("Alice", "Hi.", None), ("Bob", "Hello.", "calm, slow")]),
        ("Alice: Hi. *Bob: Hello *you*.*", [("Alice", "Hi.", None), ("Bob", "Hello *you*.", None)]),
    ],
    ids=ascii,
)
def test_decorated_labels_count_behind_a_sentence_too(text: str, turns: list[SpokenTurn]) -> None:
    """A script may stand on one line."""
    assert split_turns(text, NAMES) == turns


@pytest.mark.parametrize(
    "said",
    ["*sighs* Hello.", "**Hello**, you.", "[sighs] Hello.", "(Hello) you.", "I said *no*", "Hello | you",
    "- one\n- two",
     "# Hello", "“Hello.”", "<laugh> Hello", "1. Hello", "🎙️ Hello", "__init__ is it"],
)  # fmt: skip
@pytest.mark.parametrize(
    "label", ["Bob:", "**Bob:**", "*Bob*:", "- Bob:", "[Bob]:", "[00:01] Bob (calm):", "<b>Bob:</b>"]
)
def test_decoration_of_the_words_stays(label: str, said: str) -> None:
    """Only what belongs to the label goes."""
    assert second_turn(f"{label} {said}")[:2] == ("Bob", said)


@pytest.mark.parametrize(
    ("names", "line", "speaker"),
    [
        (["Bob", "Bob Smith"], "**Bob Smith:**", "Bob Smith"),
        (["Bob Smith", "Bob"], "- Bob (calm):", "Bob"),
        (["Bob", "Dr. Bob"], "* Dr. Bob:", "Dr. Bob"),
        (["Bob", "Dr. Bob"], "* Bob:", "Bob"),
        (["Speaker 1", "Speaker 2"], "1. Speaker 2:", "Speaker 2"),
        (["1", "2"], "**2:**", "2"),
        (["50 Cent", "A"], "[00:01] 50 Cent:", "50 Cent"),
        (["A", "B"], "<b>B</b>:", "B"),
        (["A", "B"], "<B>:", "B"),
        (["José", "Jose"], "**Jose:**", "Jose"),
        (["Jose", "José"], "**JOSÉ:**", "José"),
        (["Jose", "José"], "**Jose\u0301:**", "José"),
        (["José", "Ann"], "**Jose:**", "José"),
        (["Việt", "Ann"], "- Viê\u0323t:", "Việt"),
        (["O'Neil", "Ann"], "**O’Neil**:", "O'Neil"),
        (["Jean-Luc", "Ann"], "Jean\u2011Luc:", "Jean-Luc"),
        (["太郎", "花子"], "**太郎：**", "太郎"),
        (["太郎", "花子"], "- 花子（笑）：", "花子"),
        (["がく", "かく"], "・か\u3099く：", "がく"),
        (["أحمد", "سارة"], "\u200f- أحمد\u200f:", "أحمد"),
        (["أحمد", "سارة"], "أَحْمَد:", "أحمد"),
        (["दिया", "दिय"], "**दिया:**", "दिया"),
        (["สมชาย", "มานี"], "> สมชาย:", "สมชาย"),
        (["민수", "지수"], "* 지수 (웃음):", "지수"),
        (["דוד", "שרה"], "1. שרה:", "שרה"),
    ],
    ids=ascii,
)
def test_names_of_every_script_are_found(names: list[str], line: str, speaker: str) -> None:
    """Longest first; accents decide where two names differ by nothing else."""
    other = next(name for name in names if name != speaker)
    text = f"{other}: one.\n{line} two.\n{other}: three."
    assert [turn[:2] for turn in split_turns(text, names)] == [(other, "one."), (speaker, "two."), (other, "three.")]


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["Bob", "Ann"], "bobby:"),
        (["太郎", "花子"], "山田太郎："),
        (["प्रिय", "राम"], "प्रिया:"),
        (["가", "나"], "각:"),
        (["か", "な"], "が："),
    ],
    ids=ascii,
)
def test_a_longer_name_is_another_one(names: list[str], line: str) -> None:
    """Also where it goes on with a vowel sign or a final consonant."""
    text = f"{names[0]}: one.\n{line} two.\n{names[1]}: three."
    assert [turn.text for turn in split_turns(text, names)] == [f"one.\n{line} two.", "three."]


@pytest.mark.parametrize(
    ("names", "line"),
    [(["太郎", "花子"], "太郎と花子："), (["أحمد", "سارة"], "أحمد وسارة:"), (["민수", "지수"], "민수와 지수:"),
     (["Иван", "Анна"], "Иван и Анна:"), (["राम", "सीता"], "राम और सीता:"), (["José", "Ana"], "José y Ana:")],
    ids=ascii,
)  # fmt: skip
def test_two_speakers_of_one_turn_are_an_error_in_every_script(names: list[str], line: str) -> None:
    """Whatever "and" is called."""
    with pytest.raises(ValueError, match=f"line 2 .* names {names[0]} and {names[1]}: a turn has one speaker"):
        split_turns(f"{names[0]}: one.\n{line} two.\n{names[1]}: three.", names)


CASTS = [
    ["Alice", "Bob"], ["Bob", "Bob Smith"], ["Dr. Bob", "Bob", "Mary Ann"], ["José", "Jose", "Zoë"], ["太郎", "花子"],
    ["أحمد", "سارة"], ["प्रिया", "राम"], ["สมชาย", "มานี"], ["Speaker 1", "Speaker 2", "Speaker 12"], ["Иван", "Анна"],
    ["O'Neil", "Jean-Luc"], ["민수", "지수"],
]  # fmt: skip
BEFORE = [
    "", "", "- ", "* ", "> ", "### ", "1. ", "2) ", "[00:01] ", "00:01:02 ", "(12:30) ", "🎙️ ", "\u200f", "\ufeff",
    "• ", "\t", "12:30 PM - ", "| ", "- [x] ", "&nbsp;", "\u00a0", "— ", "> - ", "1. [00:01] ", "♪ ", "\u2067",
]  # fmt: skip
AROUND = [
    ("", ":", ""), ("**", ":**", ""), ("**", "**:", ""), ("*", ":*", ""), ("__", "__:", ""), ("`", "`:", ""),
    ("[", "]:", ""), ("(", "):", ""), ("<b>", ":</b>", ""), ("<i>", "</i>:", ""), ("", " 🎙️:", ""), ("", "：", ""),
    ("", "\u00a0:", ""), ("【", "】：", ""), ("**", ":", "**"), ("\u200b", "\u200b:", ""), ("“", "”:", ""),
    ('"', '":', ""),
    ("***", "***:", ""), ("~~", "~~:", ""), ("", " :", ""), ("<b>", ":", "</b>"), ("", " (00:12):", ""),
]  # fmt: skip
STYLES = ["", "", "", " [laughing]", " (softly)", " [laughs] [softly]", "（calm）"]
WORDS = [
    "Hello there.", "I came at 12:30!", "Well, *really*?", "Note: it is late.", "See https://example.org now.",
    "はい。",
    "«No», she said.", "(laughs) Yes.", "One, two: three.", "- and more", "Fine 🎙️", "نعم؟", "5 apples", "I like it.",
]  # fmt: skip
SPELLINGS: list[Callable[[str], str]] = [
    str, str, str.upper, str.lower, lambda name: unicodedata.normalize("NFD", name), lambda name: name.replace(" ",
    "\u00a0 "),
]  # fmt: skip
ODD = [
    "{0}, laughing:", "{0} - laughing:", "{0} *softly*:", "{0} and {1}:", "{0}/{1}:", "[calm] {0}:",
    "{0} [softly] slow:",
    "**{0}**, laughing:", "{0} — very slow:", "{0} & {1}:",
]  # fmt: skip
ENDS = ["\n", "\r\n", "\r", "\n\n", "\u2028", "\x85", " \n", "\r\n\r\n"]


def test_no_turn_of_a_known_speaker_is_ever_read_by_another() -> None:
    """10,000 scripts: a line is its speaker's turn with exactly its words and style, or the error names that line."""
    chance = random.Random(8)
    for number in range(10_000):
        names = chance.choice(CASTS)
        odd_at = chance.randrange(2, 9) if number % 5 == 0 else None
        end = chance.choice(ENDS)
        lines: list[str] = []
        expected: list[SpokenTurn] = []
        speaking = [*names, *chance.choices(names, k=chance.randrange(5))]
        for index, name in enumerate(speaking, 1):
            before, (opening, colon, closing), words = (
                chance.choice(BEFORE),
                chance.choice(AROUND),
                chance.choice(WORDS),
            )
            style, written = chance.choice(STYLES), chance.choice(SPELLINGS)(name)
            if index == odd_at:
                other = next(other for other in names if other != name)
                lines.append(f"{chance.choice(ODD).format(written, other)} {words}")
                continue
            lines.append(f"{before}{opening}{written}{style}{colon} {words}{closing}")
            directions = re.findall(r"[\[(（](.*?)[\])）]", style)
            # A table's cell ends with the line.
            expected.append(SpokenTurn(name, words, ", ".join(directions) or None))
        text = end.join(lines)
        if odd_at is not None and odd_at <= len(speaking):
            line = len(end.join([*lines[: odd_at - 1], "x"]).splitlines())
            with pytest.raises(ValueError, match=rf"^line {line} begins "):
                split_turns(text, names)
        else:
            assert split_turns(text, names) == expected, ascii(text)


ADVERSARIES = [
    "- ", "\n- ", "\n**", "\n1. ", "12:", "00:01 ", "\n[00:01", "🎙️ ", "\nBob, a ", "\nBob (", "\nBob [",
    "\nBob and ", "<b>",
    "\n<b ", "|", "\n|Bob", "一", "ก ", "م ", "&a;", ":a", "\n*a", "\n<a", "\n(a) ", "Bob [a] ", "[[", "** ",
    "\u200b", "é",
    "\nBob" + "[" * 30, "\nBob:", "\n**Bob:", "\n| ", "\na 1 ", "\na 12:30 ", "\n[a](",
]  # fmt: skip


@pytest.mark.parametrize("unit", ADVERSARIES, ids=ascii)
def test_long_decoration_is_split_in_linear_time(unit: str) -> None:
    """Time grows with the length and not with its square, which would take many minutes here."""
    started = time.process_time()
    text = f"Mary Ann: Hi. Bob: x{unit * (200_000 // len(unit))}"
    assert split_turns(text, ["Mary Ann", "Bob"])[0] == ("Mary Ann", "Hi.", None)
    with suppress(ValueError):
        split_turns(f"{unit * (200_000 // len(unit))}**Bob:** x", ["Bob"])
    assert time.process_time() - started < 4


def test_an_error_repeats_a_part_of_a_line_at_most() -> None:
    """However much decoration stands before the name."""
    with pytest.raises(ValueError, match=r"line 2 begins with '…=+Bob, sad:'") as caught:
        second_turn(f"{'=' * 10_000}Bob, sad: Hello.")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "preamble",
    [
        "TTS the following conversation between Alice and Bob:\n",
        "TTS the following conversation between Bob and Alice:\r\n\r\n",
        "\n  tts the following conversation between ALICE and bob: ",
        "TTS the following conversation between 'Alice' and 'Bob':\n",
        "TTS the following conversation:\n",
        "Read aloud the following conversation between Alice and Bob:\n",
        "\ufeffTTS the following dialogue between Alice and Bob：\n",
    ],
    ids=ascii,
)
def test_googles_own_preamble_is_left_out(preamble: str) -> None:
    """It stands in Google's samples, addresses the model, and is spoken by neither; lines keep their numbers."""
    assert split_turns(f"{preamble}Alice: Hi.\nBob: Hello.", NAMES) == [("Alice", "Hi.", None), ("Bob", "Hello.", None)]
    with pytest.raises(ValueError, match=f"^line {len((preamble + 'x').splitlines()) + 1} begins with 'Bob, sad:'"):
        split_turns(f"{preamble}Alice: Hi.\nBob, sad: Hello.", NAMES)


@pytest.mark.parametrize(
    "preamble",
    [
        "TTS the following conversation between Joe and Jane:\n",
        "TTS the following conversation between Alice, Bob and Jane:\n",
        "Make Alice sound tired and bored, and Bob sound excited and happy:\n",
        "TTS the following conversation between Alice and Bob. Be calm:\n",
    ],
)
def test_any_other_text_before_the_first_name_is_refused(preamble: str) -> None:
    """No speaker would say it: other names, and styles that belong into ``style``."""
    with pytest.raises(ValueError, match=r"the dialogue must begin with a speaker's name and a colon: Alice: or Bob:"):
        split_turns(f"{preamble}Alice: Hi.\nBob: Hello.", NAMES)


def test_the_preamble_of_a_cast_names_its_members() -> None:
    """Any number of them."""
    text = "TTS the following conversation between Ann, Bob, and Mary Ann:\nAnn: 1.\nBob: 2.\nMary Ann: 3."
    assert [turn.speaker for turn in split_turns(text, ["Ann", "Bob", "Mary Ann"])] == ["Ann", "Bob", "Mary Ann"]


@pytest.mark.parametrize("model", [MODEL, LEGACY])
async def test_a_decorated_dialogue_reaches_the_api_plain(
    model: str, gemini_emulator: Emulator, tmp_path: Path
) -> None:
    """A 3.8 model gets the words alone; the prompt of an older one begins with the preamble, once."""
    text = "**Alice:** Where did you go this long afternoon?\n- Bob (calm): I walked along the river with the dog."
    preamble = "TTS the following conversation between Alice and Bob:\n"
    speakers = tuple(SpeakerConfig(speaker_name=name, voice_name="kore") for name in NAMES)
    async with TTSService(config=settings(gemini_emulator, tmp_path, default_tts_model=model)) as tts:
        for number, written in enumerate([text, preamble + text]):
            request = AudioRequest(
                text=written,
                speaker_mode=SpeakerMode.MULTIPLE,
                multi_speaker_config=MultiSpeakerConfig(speakers=speakers),
                output_filename=f"talk-{number}",
                cache=False,
            )
            (await tts.generate_audio(request)).raise_for_error()
    bare, preambled = (call.body["contents"][0]["parts"] for call in gemini_emulator.calls if call.body)
    assert bare == preambled
    said = [part["text"] for part in preambled]
    words = ["Where did you go this long afternoon?", "I walked along the river with the dog."]
    if model == MODEL:
        assert said == words
    else:
        (prompt,) = said
        assert prompt.startswith("TTS the following conversation between Alice and Bob")
        assert prompt.count("TTS the following conversation") == 1
        assert prompt.endswith(f"\nAlice: {words[0]}\nBob: {words[1]}")


def test_folded_text_leads_back_to_the_original() -> None:
    """Through letters that become two, accents and marks that vanish, and at both ends."""
    text = FoldedText("\u200bẞé\u200b: ﬁ\u0301")
    assert text.folded == "sse: fi"
    at = text.folded.index(":")
    assert text.original[text.behind(at) :] == "\u200b: ﬁ\u0301"
    assert text.original[text.before(at) :] == ": ﬁ\u0301"
    assert (text.behind(0), text.before(0)) == (0, 1)
    assert (text.behind(7), text.before(7)) == (7, 8)
    assert fold("Ω∶ Ａ") == fold("ω: a")
