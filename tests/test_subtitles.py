"""Subtitles follow the measured times, hold every word, and read well."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scripts import any_text
from sentences import SENTENCES

from audio_api.text.sizes import COLUMNS
from audio_api.text.subtitles import Cue, Spoken, SpokenWord, make_cues, to_srt, to_vtt

ROUNDING_S = 0.0011


def spans_of(
    texts: Sequence[str], speakers: Sequence[str | None], times_s: Sequence[tuple[float, float]]
) -> list[Spoken]:
    """Spans one after another, each after a pause."""
    spans, now_s = [], 0.0
    for text, speaker, (pause_s, length_s) in zip(texts, speakers, times_s, strict=False):
        spans.append(Spoken(text, now_s + pause_s, now_s + pause_s + length_s, speaker))
        now_s += pause_s + length_s
    return spans


@st.composite
def spoken(draw: st.DrawFn, text: st.SearchStrategy[str], seconds_per_char: tuple[float, float]) -> list[Spoken]:
    """Spans of drawn texts, with lengths between two paces, pauses and speakers."""
    texts = draw(st.lists(text, min_size=1, max_size=6))
    speakers = draw(st.lists(st.sampled_from([None, "Bob", "Dr. <Ann> & 王"]), min_size=6, max_size=6))
    pauses = st.sampled_from([0.0, 0.3, 5.0])
    paces = st.floats(*seconds_per_char)
    times = [(draw(pauses), draw(paces) * (len(text) + 1)) for text in texts]
    return spans_of(texts, speakers, times)


def letters(text: str) -> str:
    """The letters and digits of a text."""
    return "".join(filter(str.isalnum, text))


def words_of(cues: Sequence[Cue]) -> str:
    """What the cues show, letters only."""
    return letters("".join(line for cue in cues for line in cue.lines))


ANY_SPEED = spoken(any_text(12), (0.001, 3.0))


@given(ANY_SPEED)
@example([Spoken("a", 0, 30)])
@example([Spoken("a", 0, 0.001), Spoken("b", 0.001, 0.002, "Bob")])
@example([Spoken("\u0301", 0, 1), Spoken("x", 1, 2)])
def test_cues_are_in_order_and_lose_nothing(spans: list[Spoken]) -> None:
    """Whatever the text and the times, cues never overlap, last 7 s at most and show every letter once, in order."""
    cues = make_cues(spans)
    shown = [re.sub(r"</?[^\W\d][^<>\n]{0,60}>", "", span.text) for span in spans]
    assert words_of(cues) == letters("".join(shown))
    assert all(cue.start_s <= cue.end_s <= cue.start_s + 7 + ROUNDING_S for cue in cues)
    assert all(before.end_s <= after.start_s for before, after in pairwise(cues))


@given(ANY_SPEED)
def test_lines_fit(spans: list[Spoken]) -> None:
    """A cue has one or two lines of at most 42 columns, the name of its speaker included, and none is blank."""
    for cue in make_cues(spans):
        lines = to_srt([cue]).split("\n")[2:-2]
        assert 1 <= len(cue.lines) == len(lines) <= 2
        assert all(COLUMNS.total(line) <= 42 for line in lines)
        assert all(line.strip() == line and line for line in cue.lines)


PARAGRAPHS = st.sampled_from(list(SENTENCES.values())).flatmap(
    lambda sentences: st.lists(st.sampled_from(sentences), min_size=1, max_size=8).map(" ".join)
)


@given(spoken(PARAGRAPHS, (0.05, 0.12)))
def test_everyday_speech_reads_well(spans: list[Spoken]) -> None:
    """At the pace of speech every cue lasts 1 to 7 s, and the last one ends within a millisecond of the speech."""
    cues = make_cues(spans)
    assert cues[-1].end_s == pytest.approx(spans[-1].end_s, abs=ROUNDING_S)
    assert all(cue.end_s - cue.start_s >= 1 - ROUNDING_S for cue in cues)


@given(ANY_SPEED)
def test_the_last_cue_ends_with_the_speech(spans: list[Spoken]) -> None:
    """The last cue ends within 50 ms of the last span that shows something, unless one character takes over 7 s."""
    shown = [span for span in spans if letters(re.sub(r"</?[^\W\d][^<>\n]{0,60}>", "", span.text))]
    cues = make_cues(shown)
    if cues and cues[-1].end_s - cues[-1].start_s < 7 - ROUNDING_S:
        assert cues[-1].end_s == pytest.approx(shown[-1].end_s, abs=0.05)


def test_a_sentence_is_one_cue_with_balanced_lines() -> None:
    """A sentence of up to two lines stays together, and its line breaks at a clause near the middle."""
    (cue,) = make_cues([Spoken("It was a bright cold day in April, and the clocks were striking thirteen.", 1, 6)])
    assert cue == Cue(1, 6, ("It was a bright cold day in April,", "and the clocks were striking thirteen."))


def test_each_sentence_has_its_own_cue() -> None:
    """Sentences share the time of a span by their letters; the cues between measured times are marked as estimated."""
    cues = make_cues(
        [Spoken("The first sentence is here. The second sentence is there. ", 0, 6), Spoken("The end now.", 6, 7.5)]
    )
    assert [cue.lines for cue in cues] == [
        ("The first sentence is here.",),
        ("The second sentence is there.",),
        ("The end now.",),
    ]
    assert [cue.estimated for cue in cues] == [True, True, False]
    assert cues[0].end_s == pytest.approx(cues[1].start_s, abs=0.01) == pytest.approx(2.9, abs=0.1)


def test_short_sentences_go_together() -> None:
    """Sentences under a second share a cue, within a span and across them; a short last one joins the cue before."""
    spans = [
        Spoken("No. Never! Well, perhaps I will.", 0, 3),
        Spoken("I do not know.", 3.2, 4.6),
        Spoken("Yes.", 4.7, 5.1),
    ]
    cues = make_cues(spans)
    assert [" ".join(cue.lines) for cue in cues] == ["No. Never!", "Well, perhaps I will.", "I do not know. Yes."]
    assert cues[-1].end_s == 5.1


def test_short_turns_share_a_cue_a_line_each() -> None:
    """A turn under a second joins its neighbour's, in either order; one that has time for itself does not."""
    spans = [
        Spoken("Are you sure?", 0, 1.2, "Ann"),
        Spoken("Yes.", 1.3, 1.7, "Bob"),
        Spoken("No.", 1.7, 2.1, "Ann"),
        Spoken("Well, then we must ask somebody.", 2.2, 4, "Bob"),
        Spoken("We must.", 4.2, 5.3, "Ann"),
    ]
    cues = make_cues(spans)
    assert [(cue.start_s, cue.end_s, cue.lines, cue.speaker, cue.answerer) for cue in cues] == [
        (0, 1.7, ("Are you sure?", "Yes."), "Ann", "Bob"),
        (1.7, 4, ("No.", "Well, then we must ask somebody."), "Ann", "Bob"),
        (4.2, 5.3, ("We must.",), "Ann", None),
    ]


@pytest.mark.parametrize(
    "second",
    [
        Spoken("No.", 0.5, 0.9),
        Spoken("No.", 1.6, 2.0, "Bob"),
        Spoken("Nobody has ever been here before you came.", 0.5, 3.0, "Bob"),
        Spoken("Nooooo.", 0.5, 7.2, "Bob"),
    ],
    ids=["a narrator", "a long pause", "no room", "too long"],
)
def test_a_short_turn_stands_alone_where_it_cannot_share(second: Spoken) -> None:
    """Without a name for either line, over a pause, without room for a line, or for longer than 7 s."""
    cues = make_cues([Spoken("Yes.", 0, 0.4, "Ann"), second])
    assert cues[0].lines == ("Yes.",)
    assert all(cue.answerer is None for cue in cues)


TURNS = st.lists(st.sampled_from(["Yes.", "No!", "Why not?", "Oh, really?"]), min_size=2, max_size=9)


@given(TURNS, st.floats(0.08, 0.12))
def test_a_quick_dialogue_reads_well(texts: list[str], seconds_per_char: float) -> None:
    """Of turns of half a second each, two at a time stay for a second, but for an odd one at the end."""
    times = [(0.1, max(0.5, seconds_per_char * len(text))) for text in texts]
    cues = make_cues(spans_of(texts, ["Ann", "Bob"] * 5, times))
    assert words_of(cues) == letters("".join(texts))
    assert all(cue.end_s - cue.start_s >= 1 - ROUNDING_S for cue in cues[:-1])


def test_a_short_cue_stays_where_there_is_room() -> None:
    """A short turn stays up to a second, but not over the next one's start, nor over the end of the audio."""
    turns = [("Hi!", 0, 0.4, "Bob"), ("Ho!", 3, 3.4, "Ann"), ("Oh!", 3.7, 4.1, None)]
    cues = make_cues([Spoken(*turn) for turn in turns])
    assert [(cue.start_s, cue.end_s) for cue in cues] == [(0, 1), (3, 3.7), (3.7, 4.1)]


def test_a_long_pause_ends_a_cue() -> None:
    """Nothing stays on the screen over a pause of more than a second."""
    cues = make_cues([Spoken("Yes.", 0, 0.5), Spoken("No.", 9, 9.5)])
    assert [(cue.start_s, cue.end_s, cue.lines) for cue in cues] == [(0, 1, ("Yes.",)), (9, 9.5, ("No.",))]


def test_chinese_takes_two_columns_a_character_and_no_spaces() -> None:
    """Chinese spans are joined as they are written, and cut at their punctuation."""
    cues = make_cues([Spoken("我们明天再见面吧，", 0, 2), Spoken("好的，价格是一千元，对吗？我们明天再见面吧。", 2, 8)])
    assert [cue.lines for cue in cues] == [
        ("我们明天再见面吧，好的，", "价格是一千元，对吗？"),
        ("我们明天再见面吧。",),
    ]


def test_an_overlong_word_is_cut() -> None:
    """What has no place to break is cut between characters rather than run off the screen."""
    cues = make_cues([Spoken("https://example.com/" + "a" * 90, 0, 6, "Bob")])
    assert all(COLUMNS.total(line) <= 42 for cue in cues for line in cue.lines)


def test_measured_words_place_cues() -> None:
    """With measured words, cues begin and end with theirs and are not estimated; a word left out is placed between."""
    words = tuple(
        SpokenWord(word, start_s, start_s + 0.4)
        for word, start_s in [("One", 0.1), ("two", 1.0), ("three", 5.0), ("nowhere", 5.4), ("five", 6.0)]
    )
    first, second = make_cues([Spoken("“One two!” Three, three, four five.", 0, 7, words=words)])
    assert (first.lines, second.lines) == (("“One two!”",), ("Three, three, four five.",))
    assert (first.start_s, first.estimated, second.estimated) == (0, False, True)
    assert 1.4 <= first.end_s <= second.start_s < 5
    assert second.end_s == 7


def test_a_span_that_was_not_measured_is_estimated() -> None:
    """A span whose own times are an estimate makes estimated cues, also where they begin and end with it."""
    (cue,) = make_cues([Spoken("Hello there.", 0, 1.5, measured=False)])
    assert cue == Cue(0, 1.5, ("Hello there.",), estimated=True)


def test_tags_and_control_characters_are_not_shown() -> None:
    """Audio tags are played rather than read; control characters, surrogates and line ends would break the file."""
    cues = make_cues([Spoken("<laugh> Well,\r\n\r\n\x00yes\ud83d\t[sighs] <short pause>", 0, 2)])
    assert [cue.lines for cue in cues] == [("Well,",), ("yes\ufffd [sighs]",)]
    assert make_cues([Spoken("<laugh>", 0, 1), Spoken(" \u200b\n", 1, 2)]) == []


@pytest.mark.parametrize(
    "times_s",
    [(1, 1, 2, 3), (2, 1, 2, 3), (0, 2, 1, 3), (-1, 1, 2, 3), (0, float("nan"), 2, 3), (0, 1, 2, float("inf"))],
)
def test_spans_out_of_order_are_refused(times_s: tuple[float, float, float, float]) -> None:
    """Spans that overlap, end before they start or have no time are an error of the caller."""
    start_s, end_s, next_s, last_s = times_s
    with pytest.raises(ValueError, match="spans come in order"):
        make_cues([Spoken("one", start_s, end_s), Spoken("two", next_s, last_s)])


CUES = [
    Cue(0, 1.5, ("Hello <b>there</b>,", "{\\an8} R&D --> here")),
    Cue(3_661.007, 3_662.999, ("Yes.",), "Dr. <Ann> & Co\n.", estimated=True),
    Cue(3_663, 3_664.5, ("<i>No.", "Yes!"), "Ann", "Bob & Co"),
]


def test_srt() -> None:
    """SubRip numbers its cues, has a comma in its times, and says the speaker's name; nothing in it reads as markup."""
    assert to_srt(CUES) == (
        "1\n00:00:00,000 --> 00:00:01,500\n"
        "Hello <\u2060b>there<\u2060/b>,\n{\u2060\\an8} R&D --\u2060> here\n\n"
        "2\n01:01:01,007 --> 01:01:02,999\nDr. <\u2060Ann> & Co .: Yes.\n\n"
        "3\n01:01:03,000 --> 01:01:04,500\nAnn: <\u2060i>No.\nBob & Co: Yes!\n\n"
    )


def test_vtt() -> None:
    """WebVTT has voices, escapes and a note on what is estimated."""
    assert to_vtt(CUES) == (
        "WEBVTT\n\nNOTE Cues called estimated begin or end inside a measured piece of audio.\n\n"
        "1\n00:00:00.000 --> 00:00:01.500\n"
        "Hello &lt;b&gt;there&lt;/b&gt;,\n{\\an8} R&amp;D --&gt; here\n\n"
        "2 estimated\n01:01:01.007 --> 01:01:02.999\n<v Dr. &lt;Ann&gt; &amp; Co .>Yes.\n\n"
        "3\n01:01:03.000 --> 01:01:04.500\n<v Ann>&lt;i&gt;No.</v>\n<v Bob &amp; Co>Yes!</v>\n\n"
    )
    assert "NOTE" not in to_vtt(CUES[:1])


def test_a_long_name_leaves_room_for_words() -> None:
    """A speaker's name takes half a line at most."""
    (cue,) = make_cues([Spoken("Hello there, all of you.", 0, 2, "The Right Honourable Lady Bracknell")])
    assert to_srt([cue]).splitlines()[2:4] == ["The Right Honourable: Hello there,", "all of you."]


SRT_BLOCK = re.compile(r"(\d+)\n(\d\d:\d\d:\d\d,\d{3}) --> (\d\d:\d\d:\d\d,\d{3})\n(.+?)\n\n", re.DOTALL)


@given(ANY_SPEED)
def test_files_read_back(spans: list[Spoken]) -> None:
    """Both files encode as UTF-8 and hold exactly the cues, whatever was said: no text is taken for structure."""
    cues = make_cues(spans)
    srt, vtt = to_srt(cues), to_vtt(cues)
    blocks = SRT_BLOCK.findall(srt)
    assert "".join(f"{n}\n{start} --> {end}\n{text}\n\n" for n, start, end, text in blocks) == srt
    assert [int(block[0]) for block in blocks] == list(range(1, len(cues) + 1))
    assert srt.count("-->") == vtt.count("-->") == len(cues)
    bodies = [block.split("\n", 2)[2] for block in vtt.rstrip("\n").split("\n\n") if "-->" in block]
    shown = [html.unescape(re.sub("^<v [^>]*>|</v>$", "", body, flags=re.MULTILINE)) for body in bodies]
    assert shown == ["\n".join(cue.lines) for cue in cues]
    assert (srt + vtt).encode().decode() == srt + vtt


@pytest.mark.parametrize(
    ("first", "second", "shown"),
    [("안녕하세요", "반갑습니다", "안녕하세요 반갑습니다"), ("你好", "再见", "你好再见"), ("Yes", "No", "Yes No")],
)
def test_sentences_shown_together_are_spaced_as_their_script_does(first: str, second: str, shown: str) -> None:
    """Korean is written with spaces, Chinese is not."""
    cues = make_cues([Spoken(first, 0.0, 0.5), Spoken(second, 0.5, 1.0)])
    assert [" ".join(cue.lines) for cue in cues] == [shown]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "Chapter One\n\nIt was a dark night. The rain fell on the roofs.",
            ["Chapter One", "It was a dark night.", "The rain fell on the roofs."],
        ),
        ("- Milk\n- Eggs\n- Tea", ["- Milk", "- Eggs", "- Tea"]),
        (
            "Roses are red,\nViolets are blue,\n\nSugar is sweet.",
            ["Roses are red,", "Violets are blue,", "Sugar is sweet."],
        ),
        ("One.\nTwo. Three.\nFour.", ["One.", "Two. Three.", "Four."]),
    ],
)
def test_a_line_of_its_own_ends_a_cue(text: str, shown: list[str]) -> None:
    """A heading, an item and a line of verse are shown alone, however short they are."""
    cues = make_cues([Spoken(text, 0, 0.06 * len(text))])
    assert [" ".join(cue.lines) for cue in cues] == shown


def test_wrapped_prose_makes_the_cues_of_its_sentences() -> None:
    """The line ends of an editor do not show."""
    text = " ".join(SENTENCES["en-US"])
    as_typed, wrapped = ([Spoken(form, 0, 20)] for form in (text, textwrap.fill(text, 70)))
    assert make_cues(wrapped) == make_cues(as_typed)


def test_a_span_that_ends_a_line_ends_a_cue() -> None:
    """A piece of a long text that ends with a paragraph is not joined to the next one."""
    spans = [Spoken("Chapter One", 0, 0.7, ends_line=True), Spoken("It rained.", 0.9, 2)]
    assert [cue.lines for cue in make_cues(spans)] == [("Chapter One",), ("It rained.",)]
