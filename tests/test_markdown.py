"""Markdown is read as a person would read it aloud: every word in its place, no mark, and nothing lost in silence."""

from __future__ import annotations

import html
from itertools import chain
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scripted import ScriptedEngine
from scripts import any_text

from audio_api.config import AudioConfig
from audio_api.errors import ErrorCode, TTSValidationError
from audio_api.models.audio_request import AudioRequest, AudioResponse, SpeakerConfig
from audio_api.services.queue_service import QueueService
from audio_api.services.tts_service import TTSService
from audio_api.text.markdown import unmarked


@pytest.mark.parametrize(
    ("markdown", "text"),
    [
        ("**Pros:**\n* Fast\n* Cheap\n\n**Cons:**\n* Loud", "Pros:\n\nFast\n\nCheap\n\nCons:\n\nLoud"),
        ("# One\nTwo\n\nThree\n=====\nFour\n----\n##### Five #####", "One\n\nTwo\n\nThree\n\nFour\n\nFive"),
        ("It is **really _very_** good, ~~not~~ `ok`, __so__.", "It is really very good, not ok, so."),
        ("See [the *page*](https://a.b \"t\"), [it][r] and [r].\n\n[r]: https://c.d", "See the page, it and r."),
        ("Go to <https://a.b/c_d_e> or https://f.g/h_i_j.", "Go to https://a.b/c_d_e or https://f.g/h_i_j."),
        ("![A **red** door](door.png) and more", "A red door and more"),
        ("1. One\n2. Two\n   1. Deep\n3. Three", "One\n\nTwo\n\nDeep\n\nThree"),
        ("1. One\n1. Two\n\n0) Zero\n1) One", "One\n\nTwo\n\nZero\n\nOne"),
        ("1984. A great year.\n1985. Another.", "1984. A great year.\n\n1985. Another."),
        ("1. First\n2. Second\n\n1984. A great year.", "First\n\nSecond\n\n1984. A great year."),
        ("- [ ] Milk\n- [x] Eggs\n+ Bread", "Milk\n\nEggs\n\nBread"),
        ("> She said:\n> > Go!\n\nHe went.", "She said:\n\nGo!\n\nHe went."),
        ("One\\\ntwo  \nthree\nfour", "One\ntwo\nthree\nfour"),
        ("One\n\n---\n\nTwo\n\n* * *\n___", "One\n\nTwo"),
        ("---\n\nAn answer.\n\n---\n\nMore.", "An answer.\n\nMore."),
        ("2 * 3 * 4, snake_case_name, \\*so\\*, R&amp;D <3", "2 * 3 * 4, snake_case_name, *so*, R&D <3"),
        ("<p align=\"center\">Hello <b>you</b><!-- not\nthis -->,<br>and me</p>", "Hello you,\nand me"),
        ("A <b>bold</b> word<br/>here <!-- no --> H<sub>2</sub>O", "A bold word\nhere  H2O"),
        ("<style>p {}</style>\n\n<script>\nx()\n</script>\n\nHello", "Hello"),
        ("<laugh>\n\nWell <short pause> then [sighs] |mhm|", "<laugh>\n\nWell <short pause> then [sighs] |mhm|"),
        ("**Alice:** Hi.\n**Bob [calm]:** Yes.\n- Alice: So?", "Alice: Hi.\nBob [calm]: Yes.\n\nAlice: So?"),
        ("**太字**です。\n- 一つ\n- 二つ", "太字です。\n\n一つ\n\n二つ"),
        ("Line one\r\nline two\r\n\r\n* Item\r\n", "Line one\nline two\n\nItem"),
        ("No marks at all, just words.", "No marks at all, just words."),
    ],
)  # fmt: skip
def test_marks_vanish_and_words_stay(markdown: str, text: str) -> None:
    """Blocks are paragraphs, which a pause follows; what looks like a mark and is none stays."""
    assert unmarked(markdown) == (text, ())


@pytest.mark.parametrize(
    ("markdown", "text", "left_out"),
    [
        ("Run:\n```sh\nls **a**\n```\nDone.", "Run:\n\nDone.", "1 code block"),
        ("Run:\n\n    ls\n\nDone.\n\n~~~\nx\n~~~", "Run:\n\nDone.", "2 code blocks"),
        ("Look:\n\n| a | b |\n|---|:-:|\n| c | d |\n\nDone.", "Look:\n\nDone.", "1 table"),
        ("Look:\n<table><tr><td>a</td></tr></table>\n\n<pre>x</pre>", "Look:", "1 code block, 1 table"),
        ("![](a.png) So.\n\n<img src='b.png'> <img alt='Two &amp; me'>", "So.\n\nTwo & me",
         "2 images without a description"),
        ("Died.[^1] Then[^n] she left.\n\n[^1]: In Rome.\n[^n]: Soon,\n    they say.", "Died. Then she left.",
         "2 footnotes"),
        ("---\ntitle: A book\ntags:\n  - one\n---\n\nText.", "Text.", "1 front matter"),
    ],
)  # fmt: skip
def test_what_is_left_out_is_counted(markdown: str, text: str, left_out: str) -> None:
    """Nothing with words in it is left out without a warning."""
    found = unmarked(markdown)
    assert (found.text.strip(), found.warnings) == (text, (f"left out of the Markdown: {left_out}",))


def test_code_and_tables_are_kept_when_asked_for() -> None:
    """Code stays as it is; a table has a paragraph for each row, with a line for each cell."""
    markdown = "```\nx = *y*\n\n  z\n```\n| a | *b* |\n|--|--|\n| c | |\n\n<pre>old\n  way</pre>"
    assert unmarked(markdown, ["code", "tables"]) == ("x = *y*\n\n  z\n\na\nb\n\nc\n\nold\nway", ())
    assert unmarked(markdown, ["tables"]).warnings == ("left out of the Markdown: 2 code blocks",)


WORDS = st.lists(
    st.sampled_from(["alpha", "beta", "été", "Straße", "слово", "शब्द", "42", "3.14", "o'clock", "well-known"]),
    min_size=1,
)
MARKS = (
    "{}",
    "**{}**",
    "*{}*",
    "_{}_",
    "~~{}~~",
    "`{}`",
    "[{}](https://a.b/c_d)",
    "![{}](x.png)",
    "<b>{}</b>",
    "***{}***",
)
Block = tuple[str, list[str]]


@st.composite
def inlines(draw: st.DrawFn) -> Block:
    """A line of words, some of them marked, and the words."""
    runs = draw(st.lists(WORDS, min_size=1, max_size=4))
    marked = [draw(st.sampled_from(MARKS)).format(" ".join(run)) for run in runs]
    # A word first, or the line might be a list or a block of HTML.
    return " ".join(["start", *marked]), ["start", *chain(*runs)]


def items(bullets: tuple[str, ...], blocks: list[Block]) -> Block:
    """A list of blocks."""
    lines = [
        bullet + text.replace("\n", "\n" + " " * len(bullet))
        for bullet, (text, _) in zip(bullets, blocks, strict=False)
    ]
    return "\n".join(lines), [word for _, words in blocks for word in words]


UNSPOKEN = st.sampled_from(
    ["---", "```\ncode\n```", "| a | b |\n|---|---|\n| c | d |", "<!-- comment -->", "![](x.png)"]
)
LEAVES = st.one_of(
    inlines(),
    inlines().map(lambda block: (f"## {block[0]} ##", block[1])),
    inlines().map(lambda block: (f"{block[0]}\n===", block[1])),
    st.lists(inlines(), min_size=2, max_size=3).map(lambda lines: items(("", "", ""), lines)),
    UNSPOKEN.map(lambda text: (text, [])),
)
DOCUMENTS = st.recursive(
    LEAVES,
    lambda blocks: st.one_of(
        st.lists(blocks, min_size=1, max_size=4).map(
            lambda found: ("\n\n".join(text for text, _ in found), [word for _, words in found for word in words])
        ),
        st.lists(blocks, min_size=1, max_size=4).map(lambda found: items(("* ",) * 4, found)),
        st.lists(blocks, min_size=1, max_size=4).map(lambda found: items(("1. ", "2. ", "3. ", "4. "), found)),
        blocks.map(lambda block: ("> " + block[0].replace("\n", "\n> "), block[1])),
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(DOCUMENTS)
def test_words_in_are_words_out(document: Block) -> None:
    """In any nesting of headings, lists, quotes, links and emphasis, every word comes out once and in order."""
    markdown, words = document
    assert unmarked(f"first\n\n{markdown}").text.split() == ["first", *words]


@settings(deadline=None)
@given(any_text())
def test_nothing_is_invented_in_any_text(text: str) -> None:
    """Whatever the text, what comes out are letters of it, in their order."""
    waiting = filter(str.isalnum, html.unescape(text))
    assert all(letter in waiting for letter in filter(str.isalnum, unmarked(text).text))


@settings(deadline=None)
@given(st.lists(st.sampled_from(["Alice: Hi there.", "One two.", "Why not?", "他走了。", "Это всё!"]), min_size=1))
def test_plain_prose_stays_as_it_is(lines: list[str]) -> None:
    """Lines and paragraphs without marks come out unchanged."""
    for separator in ("\n", "\n\n"):
        text = separator.join(lines)
        assert unmarked(text) == (text, ())


@pytest.mark.parametrize(
    "nested", [">" * 150 + " lost", "".join("  " * n + "- a\n" for n in range(60)) + "  " * 60 + "- lost"]
)
def test_words_too_deep_for_the_parser_are_no_silent_loss(nested: str) -> None:
    """The parser gives up at a hundred levels; the request fails instead."""
    with pytest.raises(ValueError, match="nested more than 98 levels deep"):
        unmarked(nested)
    assert unmarked(">" * 90 + " kept").text == "kept"


@pytest.mark.parametrize(
    "unit", ["**Some** words and [more](x). ", "# A\n\n- b\n\n", "[", "*a ", "~~a ", "<!-- ", "<div "]
)
def test_the_time_is_linear(unit: str) -> None:
    """8 times the text takes about 8 times as long, whatever its marks; a quadratic parser would take 64 times."""

    def seconds(size: int) -> float:
        start = process_time()
        unmarked(unit * (size // len(unit)))
        return process_time() - start

    small_s = min(seconds(2_000) for _ in range(5))
    assert min(seconds(16_000) for _ in range(2)) < 32 * small_s + 0.1


ANSWER = "## Pros\n* **Fast**\n* Cheap\n\n```\nsecret()\n```\n"
LEFT_OUT = "left out of the Markdown: 1 code block"


@pytest.fixture
def engine() -> ScriptedEngine:
    """An engine that speaks whatever it is given."""
    return ScriptedEngine()


@pytest.fixture
def config(tmp_path: Path) -> AudioConfig:
    """Settings of a folder of its own."""
    return AudioConfig(output_dir=tmp_path / "out", use_redis=False)


def texts(engine: ScriptedEngine) -> list[str]:
    """What the engine was asked to speak."""
    return [utterance.text for utterance in engine.asked]


async def test_a_request_says_that_it_is_markdown(engine: ScriptedEngine, config: AudioConfig) -> None:
    """Only then marks vanish; what is left out is among the warnings, and may be asked for."""
    async with TTSService(config, engine=engine) as tts:
        marked = await tts.generate_audio(AudioRequest(text=ANSWER, markup="markdown"))
        kept = await tts.generate_audio(AudioRequest(text=ANSWER, markup="markdown", markup_keep=("code",)))
        plain = await tts.generate_audio(AudioRequest(text=ANSWER))
    assert texts(engine) == ["Pros\n\nFast\n\nCheap", "Pros\n\nFast\n\nCheap\n\nsecret()", ANSWER]
    assert [LEFT_OUT in response.warnings for response in (marked, kept, plain)] == [True, False, False]


async def test_the_content_is_that_of_the_words(engine: ScriptedEngine, config: AudioConfig) -> None:
    """The same words as plain text are the same content: one file, and one call."""
    async with TTSService(config, engine=engine) as tts:
        first = await tts.generate_audio(AudioRequest(text="Hello **there**, you.", markup="markdown"))
        second = await tts.generate_audio(AudioRequest(text="Hello there, you."))
    assert first.file_path == second.file_path
    assert (second.cached_pieces, len(engine.asked)) == (1, 1)


@pytest.mark.parametrize("method", ["stream_audio", "stream_to_file"])
async def test_streams_read_markdown(method: str, engine: ScriptedEngine, config: AudioConfig) -> None:
    """With the same words and the same warning."""
    request = AudioRequest(text=ANSWER, markup="markdown")
    responses: list[AudioResponse] = []
    async with TTSService(config, engine=engine) as tts:
        if method == "stream_to_file":
            responses.append(await tts.stream_to_file(request))
        else:
            _ = [block async for block in tts.stream_audio(request, on_done=responses.append)]
    assert (texts(engine), responses[0].success) == (["Pros\n\nFast\n\nCheap"], True)
    assert LEFT_OUT in responses[0].warnings


async def test_a_job_reads_markdown(engine: ScriptedEngine, config: AudioConfig) -> None:
    """The worker finds the markup in the job; the result has the warning."""
    request = AudioRequest(text=ANSWER, markup="markdown", markup_keep=("tables",))
    async with QueueService(config=config) as queue:
        task_id = await queue.enqueue_single_task(request)
        task = await queue.dequeue_task()
        assert task is not None
        assert task.request == request
        async with TTSService(config, engine=engine) as tts:
            await queue.update_task_result(task_id, await tts.generate_audio(task.request))
        result = await queue.get_task_result(task_id)
    assert result is not None
    assert result.success
    assert LEFT_OUT in result.warnings


async def test_a_dialogue_loses_its_marks_before_its_names_are_read(
    engine: ScriptedEngine, config: AudioConfig
) -> None:
    """Names in bold, in lists and as headings are names."""
    cast = tuple(
        SpeakerConfig(speaker_name=name, voice_name=voice) for name, voice in (("Ann", "kore"), ("Bob", "puck"))
    )
    text = "**Ann:** Hi *there*.\n**Bob [calm]:** Hello.\n\n- Ann: How are you?\n### Bob: Fine."
    request = AudioRequest(text=text, markup="markdown", speaker_mode="multiple", cast=cast)
    async with TTSService(config, engine=engine) as tts:
        (await tts.generate_audio(request)).raise_for_error()
    turns = [(turn.speaker, turn.style, turn.text) for turn in engine.asked[0].turns]
    assert turns == [
        ("Ann", None, "Hi there."),
        ("Bob", "calm", "Hello."),
        ("Ann", None, "How are you?"),
        ("Bob", None, "Fine."),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```\nx\n```", "the Markdown holds no words to speak; left out of the Markdown: 1 code block"),
        ("<!-- x -->", "the Markdown holds no words to speak"),
        (">" * 150 + "x", "the Markdown is nested more than 98 levels deep"),
    ],
)
async def test_nothing_to_speak_is_an_error_before_any_call(
    text: str, said: str, engine: ScriptedEngine, config: AudioConfig
) -> None:
    """It says what was left out."""
    async with TTSService(config, engine=engine) as tts:
        response = await tts.generate_audio(AudioRequest(text=text, markup="markdown"))
    assert (response.error_code, response.error, engine.asked) == (ErrorCode.INVALID_REQUEST, said, [])
    with pytest.raises(TTSValidationError):
        response.raise_for_error()


def test_entities_are_text_like_any_other() -> None:
    """Whatever stands for a letter is composed as one that was typed."""
    assert unmarked("caf&#101;&#769;").text == "cafe\u0301"


def test_what_is_kept_needs_markdown() -> None:
    """Of a plain text everything is spoken, so there is nothing to ask for."""
    with pytest.raises(ValidationError, match="markup_keep goes with the markup markdown"):
        AudioRequest(text="Hello", markup_keep=("code",))
    with pytest.raises(ValidationError):
        AudioRequest.model_validate({"text": "Hello", "markup": "html"})
