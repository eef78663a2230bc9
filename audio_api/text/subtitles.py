"""Subtitles from spoken text and its measured times: SRT and WebVTT."""

from __future__ import annotations

import html
import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Literal

from audio_api.text.boundaries import TAG, Boundaries
from audio_api.text.chunking import Limit, cuts, split_sentences
from audio_api.text.line_ends import own_lines
from audio_api.text.pace import SECONDS
from audio_api.text.sizes import COLUMNS

# The usual rules for subtitles, as the BBC and Netflix publish them for their makers.
LINE_COLUMNS = 42
SHORTEST_S, LONGEST_S = 1.0, 7.0

_LONGEST_PAUSE_S = 1.0  # no cue stays over a longer one
_LEAST_S = 0.001  # so that every character takes some of its span's time
_LEAST_SHARE = 2 / 3  # of an even cue, else a clause at the start of a sentence is gone before it is read
_TOLERANCE_S = 1e-6
_LABEL_COLUMNS = 20
_TAG = re.compile(TAG)
# Players of SRT take these for the start of a tag, or for the line of times.
_MARKUP = re.compile(r"<(?=[/!\w])|\{(?=\\)|--(?=>)")
_WORD_JOINER = "\u2060"


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """One word as it stands in the text, and when it is heard, in seconds from the start of the audio."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Spoken:
    """Some text, and when it is heard.

    Attributes:
        text: A sentence or more; audio tags such as ``<laugh>`` are not shown.
        start_s: Seconds from the start of the audio.
        end_s: Seconds from the start of the audio, after ``start_s``.
        speaker: Who says it; ``None`` when there is only one voice.
        words: Measured words of the text, in order; those left out are placed between the others. Empty when only the
            whole was measured.
        measured: Whether its own times were measured; ``False`` for a turn of a piece that was measured as a whole.
        ends_line: Whether a line or a paragraph ends with it.
    """

    text: str
    start_s: float
    end_s: float
    speaker: str | None = None
    words: tuple[SpokenWord, ...] = ()
    measured: bool = True
    ends_line: bool = False


@dataclass(frozen=True, slots=True)
class Cue:
    """What is shown together.

    Attributes:
        start_s: Seconds from the start of the audio, to the millisecond.
        end_s: The same, never after the start of the next cue.
        lines: One or two.
        speaker: Who says it; ``None`` when there is only one voice.
        answerer: Who says the second line; ``None`` when that is the same voice.
        estimated: Whether it begins or ends inside a measured span, where times are shared out by the letters.
    """

    start_s: float
    end_s: float
    lines: tuple[str, ...]
    speaker: str | None = None
    answerer: str | None = None
    estimated: bool = False


def make_cues(spans: Iterable[Spoken]) -> list[Cue]:
    """Lay spoken text out as subtitles that read well.

    A cue has at most two lines of 42 columns, less the name of its speaker on the first (a Chinese, Japanese or Korean
    character takes two), and lasts 7 s at most. It holds one sentence, or a part that ends where a reader would pause.
    A paragraph and a line of a list or a poem end one, too, but not a line of wrapped prose (``line_ends.own_lines``).
    Sentences under a second that stand on one line go together, and so do those of two speakers, a line each. A cue
    that is shorter still stays up to a second while nothing else is said. No word is left out, and the last cue ends
    when the last span does.

    Args:
        spans: What is said, in order, without overlap. Those that show nothing are left out.

    Raises:
        ValueError: A span does not end after it starts, or starts before the one before it ends.
    """
    cues = [cue for run in _runs(spans) for cue in _Run(run).cues()]
    short = [cue.end_s - cue.start_s < SHORTEST_S for cue in _long_enough(cues)]
    together: list[Cue] = []
    for number, cue in enumerate(cues):
        # What either of two speakers says would be gone before it is read.
        if together and (short[number - 1] or short[number]):
            first, lines = together[-1], together[-1].lines + cue.lines
            said = [(first.speaker, first.lines[0]), (cue.speaker, cue.lines[0])]
            fits = len(lines) == 2 and all(COLUMNS.total(_label(by) + line) <= LINE_COLUMNS for by, line in said)
            near = cue.start_s - first.end_s <= _LONGEST_PAUSE_S and cue.end_s - first.start_s <= LONGEST_S
            if fits and near and first.speaker and cue.speaker not in {None, first.speaker}:
                estimated = first.estimated or cue.estimated
                cue = replace(first, end_s=cue.end_s, lines=lines, answerer=cue.speaker, estimated=estimated)
                together.pop()
        together.append(cue)
    return _long_enough(together)


def to_srt(cues: Iterable[Cue]) -> str:
    """Cues as a SubRip file; a speaker's name stands before the first line. Nothing marks what is estimated."""
    blocks = []
    for number, cue in enumerate(cues, 1):
        lines = (_label(speaker) + line for speaker, line in zip((cue.speaker, cue.answerer), cue.lines, strict=False))
        # SubRip has no escapes; an invisible character keeps players from seeing markup.
        text = _MARKUP.sub(rf"\g<0>{_WORD_JOINER}", "\n".join(lines))
        blocks.append(f"{number}\n{_times(cue, ',')}\n{text}\n\n")
    return "".join(blocks)


def to_vtt(cues: Sequence[Cue]) -> str:
    """Cues as a WebVTT file; speakers are voices (``<v Name>``), and an estimated cue says so in its id."""
    note = "NOTE Cues called estimated begin or end inside a measured piece of audio.\n\n"
    blocks = ["WEBVTT\n\n", note * any(cue.estimated for cue in cues)]
    for number, cue in enumerate(cues, 1):
        voices = (f"<v {_escaped(_one_line(speaker))}>" if speaker else "" for speaker in (cue.speaker, cue.answerer))
        end = "</v>" if cue.answerer else ""
        text = "\n".join(voice + _escaped(line) + end for voice, line in zip(voices, cue.lines, strict=False))
        blocks.append(f"{number}{' estimated' * cue.estimated}\n{_times(cue, '.')}\n{text}\n\n")
    return "".join(blocks)


def _times(cue: Cue, point: str) -> str:
    return f"{_clock(cue.start_s, point)} --> {_clock(cue.end_s, point)}"


def _clock(seconds: float, point: str) -> str:
    whole, ms = divmod(round(seconds * 1_000), 1_000)
    return f"{whole // 3_600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{ms:03}"


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)


def _label(speaker: str | None) -> str:
    """A speaker's name as it stands before a line, cut short when the line would have no room."""
    if not speaker:
        return ""
    name = _one_line(speaker)
    return f"{name[: _fitting(name, _LABEL_COLUMNS)].rstrip()}: "


def _fitting(text: str, columns: float) -> int:
    """How many characters of a text fit into that many columns."""
    return bisect_right(list(accumulate(map(COLUMNS.__getitem__, text))), columns)


def _one_line(text: str) -> str:
    """A text without what would break a file: line ends, control characters and lone surrogates."""
    shown = ("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return " ".join("".join(" " if unicodedata.category(char) == "Cc" else char for char in shown).split())


def _is_unspaced(char: str) -> bool:
    """Whether sentences follow each other without a space in this character's script: Han and kana, not Hangul."""
    return COLUMNS[char] == 2 and not unicodedata.name(char, "").startswith("HANGUL")


def _runs(spans: Iterable[Spoken]) -> Iterator[list[Spoken]]:
    """What is shown of the spans that one speaker says without a long pause or the end of a line between them."""
    run: list[Spoken] = []
    last_s = 0.0
    for span in spans:
        if not last_s - _TOLERANCE_S <= span.start_s < span.end_s < math.inf:
            raise ValueError(
                f"a span from {span.start_s} s to {span.end_s} s cannot follow one that ends at {last_s} s: spans come "
                "in order, without overlap, and end after they start"
            )
        last_s = span.end_s
        lines = (_one_line(line) for line in own_lines(_TAG.sub(" ", span.text)))
        text = "\n".join(line for line in lines if COLUMNS.total(line.replace(" ", "")))
        if not text:
            continue
        pause_s = span.start_s - run[-1].end_s if run else 0.0
        if run and (run[-1].ends_line or span.speaker != run[-1].speaker or pause_s > _LONGEST_PAUSE_S):
            yield run
            run = []
        run.append(replace(span, text=text))
    if run:
        yield run


class _Run:
    """What one speaker says without a long pause, and when each character of it is heard."""

    def __init__(self, spans: Sequence[Spoken]) -> None:
        self._speaker = spans[0].speaker
        self._first_columns = LINE_COLUMNS - COLUMNS.total(_label(self._speaker))
        self._starts_s: list[float] = []
        self._ends_s: list[float] = []
        self._measured_starts: set[int] = set()
        self._measured_ends: set[int] = set()
        self._text = ""
        for span in spans:
            if self._text and not (_is_unspaced(self._text[-1]) and _is_unspaced(span.text[0])):
                self._starts_s.append(self._ends_s[-1])
                self._ends_s.append(span.start_s)
                self._text += " "
            offset = len(self._text)
            self._text += span.text
            # Indices with their measured times, both rising: of the start, of each word, of the end.
            anchors = [(0, span.start_s)]
            for word in span.words:
                at = span.text.find(word.text, anchors[-1][0])
                if at >= 0 and word.text and anchors[-1][1] <= word.start_s <= word.end_s <= span.end_s:
                    anchors += [(at, word.start_s), (at + len(word.text), word.end_s)]
            anchors.append((len(span.text), span.end_s))
            for (start, start_s), (end, end_s) in pairwise(anchors):
                # Each character gets its share of the time, by what it takes to say.
                sums = list(accumulate((SECONDS[char] + _LEAST_S for char in span.text[start:end]), initial=0.0))
                times_s = [start_s + (end_s - start_s) * done / sums[-1] for done in sums[:-1]] + [end_s]
                self._starts_s += times_s[:-1]
                self._ends_s += times_s[1:]
            if span.measured:
                starts, ends = (anchors[0], *anchors[1:-1:2]), (*anchors[2:-1:2], anchors[-1])
                self._measured_starts.update(offset + near for at, _ in starts for near in _beside(span.text, at, -1))
                self._measured_ends.update(offset + near for at, _ in ends for near in _beside(span.text, at, 1))

    def cues(self) -> Iterator[Cue]:
        """All cues, in order; they end with sentences and lines, the very short sentences of a line together."""
        ends: list[int] = []
        for line in self._text.splitlines(keepends=True):
            start = line_start = ends[-1] if ends else 0
            for end in accumulate(map(len, split_sentences(line)), initial=line_start):
                if end > start and self._ends_s[end - 1] - self._starts_s[start] >= SHORTEST_S:
                    ends.append(end)
                    start = end
            # A short rest joins the group before it.
            if ends and ends[-1] > line_start:
                ends.pop()
            ends.append(line_start + len(line))
        for start, end in pairwise([0, *ends]):
            yield from self._fitted(start, end)

    def _fitted(self, start: int, end: int) -> Iterator[Cue]:
        """One cue, or as many as the text needs."""
        text = self._text[start:end]
        first, last = start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())
        cue = Cue(
            round(self._starts_s[first], 3),
            round(self._ends_s[last - 1], 3),
            self._lines(text.strip()),
            self._speaker,
            estimated=first not in self._measured_starts or last not in self._measured_ends,
        )
        rooms = (self._first_columns, LINE_COLUMNS)
        fits = all(COLUMNS.total(line) <= room for line, room in zip(cue.lines, rooms, strict=False))
        if fits and cue.end_s - cue.start_s <= LONGEST_S + _TOLERANCE_S:
            yield cue
            return
        both_lines = self._first_columns + LINE_COLUMNS
        columns = min(both_lines, max(self._first_columns, COLUMNS.total(text) * 3 / 4))
        # Each character lasts up to the start of the next.
        times_s = [*self._starts_s[start : end + 1], self._ends_s[-1]][: len(text) + 1]
        lasting_s = [after_s - before_s for before_s, after_s in pairwise(times_s)]
        limits = (
            Limit(columns, lambda low, high: map(COLUMNS.__getitem__, text[low:high])),
            Limit(LONGEST_S, lambda low, high: lasting_s[low:high]),
        )
        pieces = [cut.at for cut in cuts(text, len(text), limits, _LEAST_SHARE)]
        if len(pieces) < 2:
            yield cue
            return
        for first, last in pairwise([0, *pieces]):
            if text[first:last].strip():
                yield from self._fitted(start + first, start + last)

    def _lines(self, text: str) -> tuple[str, ...]:
        """A text on one line, or on two of about the same length."""
        if COLUMNS.total(text) <= self._first_columns:
            return (text,)
        size, middle = len(text), len(text) // 2
        low, high = size - _fitting(text[::-1], LINE_COLUMNS), _fitting(text, self._first_columns)
        boundaries = Boundaries(text)
        cut = boundaries.nearest(
            max(low, size // 3, 1), middle, min(high, size - size // 3), ("sentence", "clause")
        ) or boundaries.nearest(max(low, 1), middle, high, ("word",))
        return (text[: cut.at].strip(), text[cut.at :].strip()) if cut else (text,)


def _beside(text: str, at: int, step: Literal[-1, 1]) -> Iterator[int]:
    """An index, and those before or behind it up to a letter: a comma behind a measured word is as good as its end."""
    yield at
    while 0 <= (near := at - (step < 0)) < len(text) and not text[near].isalnum():
        at += step
        yield at


def _long_enough(cues: Sequence[Cue]) -> list[Cue]:
    """Cues that stay for a second where the next one leaves room, and for 7 s at most."""
    nexts_s = [cue.start_s for cue in cues[1:]] + [cue.end_s for cue in cues[-1:]]
    ends_s = (max(cue.end_s, min(cue.start_s + SHORTEST_S, next_s)) for cue, next_s in zip(cues, nexts_s, strict=True))
    return [
        replace(cue, end_s=round(min(end_s, cue.start_s + LONGEST_S), 3))
        for cue, end_s in zip(cues, ends_s, strict=True)
    ]
