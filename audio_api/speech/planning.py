"""An utterance too long for one call becomes pieces that are one call each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from audio_api.audio.wav import MAX_DATA_BYTES, SAMPLE_RATE
from audio_api.audio.wav_file import SavedWav
from audio_api.config import AudioConfig
from audio_api.engines.base import SpeechAudio, Turn, Utterance
from audio_api.errors import ErrorCode, TTSValidationError
from audio_api.models.speech_models import model_spec
from audio_api.models.voices import is_custom
from audio_api.speech.cost import Call
from audio_api.text.chunking import Break, Piece, split_sentences, split_text
from audio_api.text.pace import alphabet_pace, spoken_s

# Beyond two minutes voices drift, and those of a dialogue are swapped; so they are after a dozen lines of one.
_LONGEST_S = 120.0
_MOST_TURNS = 12
_LONGEST_FILE_S = MAX_DATA_BYTES / 2 / SAMPLE_RATE
# No piece is planned to last more than two minutes.
_SURELY_FIT = _LONGEST_FILE_S // _LONGEST_S
# Streams are known to end after a minute without saying so, of 3.1 at least; speech may be half slower than expected.
_LONGEST_STREAM_S = 40.0
# One call speaks with two voices at most.
_MOST_SPEAKERS = 2
# Shorter texts come back without audio more often than not.
_SHORT_CHARS = 60
# How much slower "very slow" is; a speed is no promise, so a tenth does not mean ten times as long.
_LEAST_SPEED = 0.5
# What separates two turns sounds like the end of a sentence.
_BETWEEN_TURNS: Break = "sentence"
# Outside of English, where it is four.
_CHARS_PER_TOKEN = 2
# However small a context is allowed, a text does not become hundreds of calls for a few words each.
LEAST_PIECE_CHARS = 200
# How far the next piece of a stream is looked for, in its own lengths: the first sound must not wait for a whole book.
_WINDOW = 4


@dataclass(frozen=True, slots=True)
class PlannedPiece:
    """What one call speaks of a longer utterance.

    Attributes:
        utterance: Its words, with the model, language, voices and styles of the whole.
        break_after: What ends behind it: ``"sentence"`` also stands for a turn, ``"end"`` for the whole utterance.
        key: Equal for pieces that sound the same; empty before the speaker gave it.
    """

    utterance: Utterance
    break_after: Break
    key: str = field(default="", compare=False)

    @property
    def seconds(self) -> float:
        """About how long it takes to hear."""
        pace = alphabet_pace(self.utterance.language)
        return sum(spoken_s(turn.text) / _speed(turn) for turn in self.utterance.turns) / pace


@dataclass(frozen=True, slots=True)
class SpokenPiece:
    """A piece that was spoken.

    Attributes:
        piece: The piece.
        audio: Its verified sound.
        calls: The calls that it took, and what is to be known of it.
        file: Where the sound was just kept; ``None``: it was not, or it was kept before.
    """

    piece: PlannedPiece
    audio: SpeechAudio
    calls: tuple[Call, ...] = ()
    file: SavedWav | None = None


def most_chars(model: str, config: AudioConfig) -> int:
    """The most characters that one call is given, by its model and the settings."""
    return min(model_spec(model).piece_chars, max(_CHARS_PER_TOKEN * config.max_context_tokens, LEAST_PIECE_CHARS))


def plan_pieces(utterance: Utterance, max_chars: int, first_chars: int | None = None) -> Iterator[PlannedPiece]:
    """Cut an utterance of any length and cast into calls, in order; one that fits into a call comes back as it is.

    A piece takes 120 seconds at most. A text is cut where ``split_text`` cuts it, a dialogue between turns: a piece of
    it holds up to 12 turns of up to two speakers, and a turn of a custom voice alone. For a 2.5 or 3.1 model each
    speaker of a piece has one style, since their prompt names one. Every word is in exactly one piece; white space
    around pieces, and pieces without a letter or digit, are left out.

    Args:
        utterance: What is to be spoken.
        max_chars: The most characters of a piece, such as ``most_chars`` gives.
        first_chars: The most characters of the first piece of a stream, which then is the first sentence, or the
            first few up to 60 characters. Each further piece may be twice as long, up to ``max_chars`` and 40 seconds.
            ``None``: it is no stream.

    Returns:
        At least one piece, each made when it is asked for; the last one's ``break_after`` is ``"end"``.
    """
    longest_s = _LONGEST_S if first_chars is None else _LONGEST_STREAM_S
    longest_s *= min(1.0, alphabet_pace(utterance.language))
    call = _Limits(max_chars, longest_s, one_style=model_spec(utterance.model).family == "legacy")
    first = call if first_chars is None else replace(call, chars=min(first_chars, max_chars))
    parts = _parts(utterance.turns, first, call)
    runs: Iterator[_Run] = ([part] for part in parts)
    if utterance.turns[0].speaker:
        runs = _without_short_ones(_runs(parts, _growing(first, call)), call)
    run = next(runs)
    for following in runs:
        yield _piece(utterance, run, run[-1].break_after)
        run = following
    yield _piece(utterance, run, "end")


def check_length(pieces: Sequence[PlannedPiece]) -> None:
    """Refuse before any call what no WAV file could hold in the end.

    Raises:
        TTSValidationError: The text takes too long to speak.
    """
    if len(pieces) <= _SURELY_FIT:
        return
    hours, most_hours = sum(spoken_s(piece.utterance.text) for piece in pieces) / 3_600, _LONGEST_FILE_S / 3_600
    if hours > most_hours:
        raise TTSValidationError(
            f"the text takes about {hours:.1f} hours to speak, and a WAV file holds {most_hours:.1f}; make several "
            "requests of it",
            code=ErrorCode.TEXT_TOO_LONG,
        )


def halve(piece: PlannedPiece) -> tuple[PlannedPiece, PlannedPiece] | None:
    """Cut a piece in two about equal ones, at the best place near its middle: between turns if it has several.

    Returns:
        Both halves; ``None`` for a piece of 60 characters or fewer, or of one word.
    """
    utterance = piece.utterance
    if len(utterance.text) <= _SHORT_CHARS:
        return None
    parts = [_whole(turn) for turn in utterance.turns]
    halves = _evenest(_splits(parts)) if len(parts) > 1 else _halves_of(parts[0].turn)
    if halves is None:
        return None
    first, second = halves
    return _piece(utterance, first, first[-1].break_after), _piece(utterance, second, piece.break_after)


@dataclass(frozen=True, slots=True)
class _Part:
    """A turn, or as much of a longer one as a call can speak."""

    turn: Turn
    break_after: Break
    seconds: float


# What one call speaks.
_Run = Sequence[_Part]


@dataclass(frozen=True, slots=True)
class _Limits:
    """What one call can speak."""

    chars: int
    seconds: float
    one_style: bool

    def holds(self, parts: _Run) -> bool:
        """Whether these parts, each of which it can speak alone, fit into it together."""
        if len(parts) == 1:
            return True
        turns = [part.turn for part in parts]
        speakers = {turn.speaker for turn in turns}
        return (
            len(turns) <= _MOST_TURNS
            and len(speakers) <= _MOST_SPEAKERS
            and _chars(parts) <= self.chars
            and sum(part.seconds for part in parts) <= self.seconds
            and not any(is_custom(turn.voice.voice_name) for turn in turns)
            and not (self.one_style and len({(turn.speaker, turn.style) for turn in turns}) > len(speakers))
        )


def _piece(whole: Utterance, parts: _Run, break_after: Break) -> PlannedPiece:
    return PlannedPiece(replace(whole, turns=tuple(part.turn for part in parts)), break_after)


def _chars(parts: _Run) -> int:
    """As many as the text of their utterance has, with its line breaks."""
    return sum(len(part.turn.text) + 1 for part in parts) - 1


def _speed(turn: Turn) -> float:
    return min(1.0, max(_LEAST_SPEED, turn.voice.speed or 1.0))


def _parts(turns: Sequence[Turn], first: _Limits, call: _Limits) -> Iterator[_Part]:
    for number, turn in enumerate(turns):
        max_s = call.seconds * _speed(turn)
        if number == 0 and first.chars < call.chars:
            pieces = _first_sentence_first(turn.text, first.chars, call.chars, max_s)
        else:
            pieces = split_text(turn.text, call.chars, max_s=max_s)
        yield from (_part_of(turn, piece) for piece in pieces if _has_words(piece.text))


def _part_of(turn: Turn, piece: Piece) -> _Part:
    if piece.text == turn.text:
        return _whole(turn)
    break_after = _BETWEEN_TURNS if piece.break_after == "end" else piece.break_after
    return replace(_whole(replace(turn, text=piece.spoken)), break_after=break_after)


def _whole(turn: Turn) -> _Part:
    return _Part(turn, _BETWEEN_TURNS, spoken_s(turn.text) / _speed(turn))


def _has_words(text: str) -> bool:
    return any(map(str.isalnum, text))


def _first_sentence_first(text: str, first_chars: int, max_chars: int, max_s: float) -> Iterator[Piece]:
    if len(text) <= first_chars:
        yield from split_text(text, first_chars, max_s=max_s)
        return
    # The first sentence, and so many more that it is not a short text.
    opening_chars = 0
    for sentence in split_sentences(text[: _WINDOW * first_chars]):
        opening_chars += len(sentence)
        if opening_chars > _SHORT_CHARS:
            break
    piece = next(split_text(text[:opening_chars], first_chars, max_s=max_s))
    at, size = len(piece.text), 2 * first_chars
    blank = piece.text[len(piece.text.rstrip()) :]
    end: Break = "paragraph" if blank.count("\n") > 1 else "sentence"
    yield Piece(piece.text, end) if piece.break_after == "end" else piece
    while at < len(text) and size < max_chars:
        piece = next(split_text(text[at : at + _WINDOW * size], size, max_s=max_s))
        yield piece
        at, size = at + len(piece.text), 2 * size
    yield from split_text(text[at:], max_chars, max_s=max_s)


def _growing(first: _Limits, call: _Limits) -> Iterator[_Limits]:
    while True:
        yield first
        first = replace(first, chars=min(2 * first.chars, call.chars))


def _runs(parts: Iterable[_Part], calls: Iterator[_Limits]) -> Iterator[_Run]:
    """As many parts in a row as each call can hold."""
    run: list[_Part] = []
    call = next(calls)
    for part in parts:
        if run and not call.holds([*run, part]):
            yield run
            run, call = [], next(calls)
        run.append(part)
    yield run


def _without_short_ones(runs: Iterator[_Run], call: _Limits) -> Iterator[_Run]:
    """The same runs, but that a short one takes parts from the one before it where a call can hold them."""
    held = next(runs)
    for run in runs:
        halves = (held, run)
        if _chars(run) <= _SHORT_CHARS:
            halves = _evenest(halves for halves in _splits([*held, *run]) if all(map(call.holds, halves)))
        yield halves[0]
        held = halves[1]
    yield held


def _splits(parts: _Run) -> Iterator[tuple[_Run, _Run]]:
    return ((parts[:count], parts[count:]) for count in range(1, len(parts)))


def _evenest(splits: Iterable[tuple[_Run, _Run]]) -> tuple[_Run, _Run]:
    return min(splits, key=lambda halves: abs(_chars(halves[0]) - _chars(halves[1])))


def _halves_of(turn: Turn) -> tuple[_Run, _Run] | None:
    # With this limit the two halves are as even as the text allows.
    first = next(split_text(turn.text, -(-len(turn.text) * 3 // 4)))
    rest = Piece(turn.text[len(first.text) :], "end")
    if first.break_after == "grapheme" or not (_has_words(first.text) and _has_words(rest.text)):
        return None
    return [_part_of(turn, first)], [_part_of(turn, rest)]
