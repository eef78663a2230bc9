"""A chapter becomes a script: passages to speak, each one request, with exact silence between them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from audio_api.books.book import Block, Book, Chapter
from audio_api.books.lexicon import Lexicon
from audio_api.books.narrator import LONGEST_PAUSE_S, Narrator
from audio_api.errors import TTSValidationError
from audio_api.models.audio_request import AudioRequest, SpeakerMode
from audio_api.models.languages import Language
from audio_api.models.user_text import has_words, uniform
from audio_api.text.chunking import split_text
from audio_api.text.dialogue import split_turns
from audio_api.text.folding import FoldedText
from audio_api.text.labels import LabelFinder

# Six minutes. So much of a chapter is in memory at a time; so much is spoken again, from kept pieces, after a kill.
_PASSAGE_CHARS = 6_000
_PARAGRAPH_S = 0.6
_TITLE_LOOKED_FOR_IN = 3
_PAUSE = re.compile(r"\[\s*pause\s+(\d{1,4}(?:\.\d{1,3})?)\s*(s|sec|seconds?|ms)?\s*\]", re.IGNORECASE)
# Characters that no engine takes and no reader sees.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f]")


@dataclass(frozen=True, slots=True)
class Passage:
    """What is spoken in one go.

    Attributes:
        request: Its words and voices.
        silence_s: Exact silence behind it, in seconds.
    """

    request: AudioRequest
    silence_s: float


@dataclass(frozen=True, slots=True)
class ChapterScript:
    """What is heard of one chapter.

    Attributes:
        number: The chapter's place in the book, from 1 on.
        title: The chapter's title.
        silence_s: Before the first passage.
        passages: In order, at least one.
        replaced: How often each word of the lexicon was.
    """

    number: int
    title: str
    silence_s: float
    passages: tuple[Passage, ...]
    replaced: Mapping[str, int]

    @property
    def characters(self) -> int:
        """Of everything spoken."""
        return sum(len(passage.request.text) for passage in self.passages)


def write_scripts(book: Book, narrator: Narrator, numbers: Sequence[int]) -> list[ChapterScript]:
    """Make the scripts of some chapters. Nothing is spoken yet, and all that can be wrong is found.

    Args:
        book: The book.
        narrator: How it is read.
        numbers: Of the chapters, from 1 on.

    Raises:
        TTSValidationError: There is no such chapter, a pause is too long, or a dialogue cannot be told apart.
    """
    scripts = []
    for number in numbers:
        if not 1 <= number <= len(book.chapters):
            raise TTSValidationError(f"there is no chapter {number}: the book has {len(book.chapters)}")
        chapter = book.chapters[number - 1]
        try:
            writer = _Writer(narrator, narrator.language or book.language or Language.ENGLISH.value)
            for block in _with_title(chapter, titles=narrator.titles):
                writer.add(block)
            if script := writer.script(number, chapter.title):
                scripts.append(script)
        except ValidationError as error:
            problems = "; ".join(each["msg"].removeprefix("Value error, ") for each in error.errors(include_url=False))
            raise _in_chapter(number, chapter, problems) from None
        except ValueError as error:
            raise _in_chapter(number, chapter, str(error)) from None
    if not scripts:
        raise TTSValidationError("the chapters that were chosen hold nothing to speak")
    return scripts


def _in_chapter(number: int, chapter: Chapter, problem: str) -> TTSValidationError:
    return TTSValidationError(f"chapter {number} ({chapter.title[:60]}): {problem}")


def _with_title(chapter: Chapter, *, titles: bool) -> Sequence[Block]:
    """The blocks of a chapter, with its title at their beginning, or without any."""
    blocks = list(chapter.blocks)
    if not titles:
        while blocks and blocks[0].kind != "paragraph":
            blocks.pop(0)
        return blocks
    beginning = blocks[:_TITLE_LOOKED_FOR_IN]
    title = " ".join(chapter.title.removesuffix("…").split())
    is_there = any(block.kind == "heading" or title in " ".join(block.text.split()) for block in beginning)
    return blocks if is_there or not has_words(title) else [Block("heading", title, 1), *blocks]


@dataclass(slots=True)
class _ScriptLine:
    """A paragraph, or the part of one that one mode of speaking takes."""

    text: str
    speaker: str | None
    is_dialogue: bool


class _Writer:
    """Writes one script, block by block."""

    def __init__(self, narrator: Narrator, language: str) -> None:
        self._narrator = narrator
        self._lexicon = Lexicon(narrator.lexicon)
        self._language = language
        names = [speaker.speaker_name for speaker in narrator.cast]
        self._finder = LabelFinder(names) if names else None
        self._speaker: str | None = None
        self._lines: list[_ScriptLine] = []
        self._passages: list[Passage] = []
        self._first_silence_s = 0.0
        self._rule_s = 0.0
        self._asked_s: float | None = None
        self._last = "paragraph"

    def add(self, block: Block) -> None:
        """Append a block."""
        if block.kind != "paragraph":
            self._speaker = None
        if block.kind == "scene":
            self._pause_by_rule(self._narrator.pauses.scene)
        elif block.kind != self._last and self._last == "heading":
            self._pause_by_rule(self._narrator.pauses.heading)
        elif block.kind == "heading" and self._last == "paragraph":
            self._pause_by_rule(_PARAGRAPH_S)
        self._last = block.kind
        text, at = uniform(_CONTROLS.sub(" ", block.text)), 0
        for pause in _PAUSE.finditer(text):
            self._say(text[at : pause.start()])
            at = pause.end()
            seconds = float(pause[1]) / (1_000 if (pause[2] or "").lower() == "ms" else 1)
            if seconds > LONGEST_PAUSE_S:
                raise ValueError(f"{pause[0]!r} is longer than {LONGEST_PAUSE_S:.0f} seconds")
            self._end_passage()
            self._asked_s = (self._asked_s or 0.0) + seconds
        self._say(text[at:])

    def script(self, number: int, title: str) -> ChapterScript | None:
        """What was written; ``None``: nothing to speak."""
        self._end_passage()
        if not self._passages:
            return None
        last = self._passages[-1]
        self._passages[-1] = Passage(last.request, self._asked_s or 0.0)
        return ChapterScript(number, title, self._first_silence_s, tuple(self._passages), dict(self._lexicon.replaced))

    def _pause_by_rule(self, seconds: float) -> None:
        self._end_passage()
        self._rule_s = max(self._rule_s, seconds)

    def _say(self, text: str) -> None:
        if not has_words(text):
            return
        if not self._lines:
            self._settle_silence()
        for line in self._spoken(text.strip()):
            chars = sum(len(each.text) + 2 for each in self._lines) + len(line.text)
            if self._lines and (chars > _PASSAGE_CHARS or line.is_dialogue != self._lines[-1].is_dialogue):
                self._end_passage()
                self._settle_silence(_PARAGRAPH_S)
            self._lines.append(line)

    def _settle_silence(self, least_s: float = 0.0) -> None:
        """Put the silence that was asked for, else that of the rules, behind what was said last."""
        if self._passages:
            silence_s = self._asked_s if self._asked_s is not None else max(self._rule_s, least_s)
            self._passages[-1] = Passage(self._passages[-1].request, silence_s)
        else:
            self._first_silence_s = self._asked_s or 0.0
        self._rule_s, self._asked_s = 0.0, None

    def _spoken(self, text: str) -> Iterator[_ScriptLine]:
        """A paragraph in the voices that speak it, cut where it is longer than a passage."""
        labels = list(self._finder.labels(FoldedText(text))) if self._finder else []
        while labels and not (self._speaker or labels[0].begins_a_line):
            # A name and a colon inside what the narrator says.
            labels.pop(0)
        starts = [*(label.start for label in labels), len(text)]
        if has_words(text[: starts[0]]):
            name = f"{self._speaker}: " if self._speaker else ""
            for piece in split_text(self._lexicon.apply(text[: starts[0]].strip()), _PASSAGE_CHARS):
                if has_words(piece.text):
                    yield _ScriptLine(name + piece.spoken, self._speaker, is_dialogue=self._speaker is not None)
        for label, end in zip(labels, starts[1:], strict=True):
            self._speaker = label.speaker
            words = text[label.start : label.end] + self._lexicon.apply(text[label.end : end])
            yield _ScriptLine(words.strip(), label.speaker, is_dialogue=True)

    def _end_passage(self) -> None:
        lines, self._lines = self._lines, []
        if not lines:
            return
        narrator = self._narrator
        text = "\n\n".join(line.text for line in lines)
        speaking = Counter(line.speaker for line in lines)
        cast = tuple(speaker for speaker in narrator.cast if speaker.speaker_name in speaking)
        if lines[0].is_dialogue:
            split_turns(text, [speaker.speaker_name for speaker in cast])
        request = AudioRequest.model_validate(
            {
                "text": text,
                "model": narrator.model,
                "language": self._language,
                "style": narrator.style,
                "cache": narrator.cache,
                "overwrite": True,
                **(
                    {"speaker_mode": SpeakerMode.MULTIPLE, "cast": cast}
                    if lines[0].is_dialogue
                    else {"voice_config": narrator.voice_config}
                ),
            }
        )
        self._passages.append(Passage(request, _PARAGRAPH_S))
