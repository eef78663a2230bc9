"""``"Alice: Hello! Bob [whispering]: Hi there!"`` into turns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from audio_api.models.audio_request import MOST_STYLE_CHARS
from audio_api.text.folding import FoldedText
from audio_api.text.labels import BREAK, TITLES, Label, LabelFinder

_SPACE = rf"[^\S{BREAK}]"
# Before the first name of a line: blanks, quotes, and the invisible marks of editors and of right-to-left text.
_LINE_START = rf"(?<![^{BREAK}])(?:{_SPACE}|[\"'“”„«»‘’\ufeff\u200b\u200e\u200f])*"

_WORD = re.compile(r"[^\W_]")

# One to three words that might be a name: initials, titles, numbers as in "Speaker 3"; then perhaps a stage direction,
# and a colon that is part of no address, time or emoticon. The bounds keep the time linear.
_PART = rf"(?:(?:[^\W\d_]\.){{1,4}}|(?i:{'|'.join(TITLES)})\.|[^\W_][\w'’\-\u0300-\u036f]{{0,39}})"
_DIRECTION = rf"(?:{_SPACE}*(?:\[[^\[\]{BREAK}]*\]|\([^(){BREAK}]*\)))?"
_COLON = rf"(?:{_SPACE}*[:：](?=\s|$)|[:：](?=[^\W\d_]))"
_NAME_LIKE = re.compile(rf"{_LINE_START}({_PART}(?:{_SPACE}+{_PART}){{0,2}}){_DIRECTION}{_COLON}")
# Words that stand before a colon without being a name, and the articles that make German nouns look like one.
_NO_NAMES = """
note notes nb ps pps re fyi faq todo warning caution attention important reminder remember hint tip tips example
question answer result conclusion summary chapter part section step scene act title subject date time place today
tomorrow first second third finally source fact problem solution listen look wait
achtung hinweis wichtig warnung merke tipp beispiel frage antwort ergebnis fazit zusammenfassung kapitel teil
abschnitt schritt titel thema betreff datum lösung anmerkung der die das ein eine mein meine unser unsere
remarque rappel conseil exemple réponse résultat résumé chapitre partie étape titre objet
nota atención importante aviso recuerda consejo ejemplo pregunta respuesta resultado conclusión resumen capítulo
parte paso título asunto posdata
attenzione avviso ricorda consiglio esempio domanda risposta risultato conclusione riassunto capitolo passo titolo
atenção lembrete dica exemplo pergunta resposta conclusão resumo capítulo assunto
opgelet opmerking belangrijk waarschuwing voorbeeld vraag antwoord resultaat conclusie samenvatting hoofdstuk deel
stap onderwerp
uwaga ważne notatka wskazówka przykład pytanie odpowiedź wynik wniosek podsumowanie rozdział część krok tytuł
notă atenție sfat exemplu întrebare răspuns rezultat concluzie capitol partea pasul titlu
catatan perhatian penting peringatan contoh pertanyaan jawaban hasil kesimpulan bab bagian langkah judul
not dikkat önemli uyarı ipucu örnek soru cevap sonuç özet bölüm adım başlık
примечание внимание важно предупреждение совет пример вопрос ответ результат итог вывод глава часть шаг тема
примітка увага важливо попередження порада приклад питання запитання відповідь підсумок висновок розділ частина
крок
"""
_NO_NAME = frozenset(_NO_NAMES.split())


class SpokenTurn(NamedTuple):
    """What one speaker says in one go, and how: ``None`` when the turn itself does not say."""

    speaker: str
    text: str
    style: str | None = None


_INVISIBLE = "\u200b\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
_BEFORE_WORDS = re.compile(rf"\A[\s{_INVISIBLE}]*")
# Google's own samples put this sentence before a dialogue. It addresses the model; no speaker says it.
_PREAMBLE = re.compile(
    rf"[\s{_INVISIBLE}]*(?P<sentence>(?:TTS|read(?: aloud)?) the following (?:conversation|dialogue)"
    rf"(?: between (?P<names>[^:：{BREAK}]{{1,2000}}))?(?: aloud)?{_SPACE}*[:：])",
    re.IGNORECASE,
)
_BETWEEN_NAMES = re.compile(r"\s*,\s*(?:and\s+)?|\s+and\s+|\s*&\s*", re.IGNORECASE)
_QUOTES = '"“”„«»‹›'
# The longest beginning of a line that an error repeats.
_MOST_SHOWN_CHARS = 80


def split_turns(text: str, speakers: Sequence[str]) -> list[SpokenTurn]:
    """Split a dialogue at its speakers' names; only the given names count, so a colon elsewhere is just a colon.

    A name counts at the start of the text, of a line, or behind the end of a sentence, with an ASCII, a full-width or
    another colon behind it, and whatever its case, accents, width and invisible marks: ``JOSE:`` is José. A sentence
    ends with its punctuation, or with a quote or bracket and white space; in Thai and Lao, with white space alone. The
    full stop of a title ends none: in ``"He met Dr. Bob: he was late"`` Bob is not speaking, whereas a speaker named
    ``"Dr. Bob"`` would be. Turns without a letter or digit are left out.

    Brackets between name and colon, square or round, hold the turn's style and are never spoken; several are joined
    with commas. Decoration around the label goes too: Markdown, list marks, HTML tags, table cells, symbols and emoji,
    quotes, and time stamps. The words of a turn are not touched. A line that reads like the label of a known speaker
    and is not one is an error: ``Bob, laughing:``, ``Bob - laughing:``, ``Bob and Alice:``, ``[laughs] Bob:``.

    A line that begins like the turn of another speaker is an error, since the previous speaker would read that name
    aloud. Such a line begins with one to three words, each with a capital letter (numbers may follow: ``Speaker 3``),
    perhaps words in brackets, and a colon. ``Note:``, ``PS:`` and their like in 14 languages are no names, nor is
    ``12:30`` or ``https:``; scripts without capital letters have no such lines.

    The sentence ``TTS the following conversation between Alice and Bob:`` before the first turn is left out, if the
    names in it are speakers.

    Args:
        text: The whole dialogue, on one line or many.
        speakers: The names to look for: at least one, distinct whatever their case.

    Raises:
        ValueError: Text stands before the first name, a line begins with an unknown name or reads like a label and is
            none, a speaker never says anything, or a style has more than 500 characters.
    """
    finder = LabelFinder(speakers)
    if preamble := _PREAMBLE.match(text):
        names = _BETWEEN_NAMES.split(preamble["names"]) if preamble["names"] else []
        if all(finder.is_known(name.strip(" \"'“”‘’`*")) for name in names):
            # The lines keep their numbers.
            text = text[: preamble.start("sentence")] + text[preamble.end() :]
    folded = FoldedText(text)
    labels = list(finder.labels(folded))
    _refuse_lookalikes(folded, finder, labels, speakers)
    starts = [label.start for label in labels] + [len(text)]
    if _WORD.search(text, 0, starts[0]):
        raise ValueError(f"the dialogue {_must_begin(speakers)}")
    turns = []
    for label, end in zip(labels, starts[1:], strict=True):
        said = text[label.end : end]
        if not _WORD.search(said):
            continue
        style = ", ".join(" ".join(words.split()) for words in label.directions if words)
        if len(style) > MOST_STYLE_CHARS:
            raise ValueError(
                f"a style of {label.speaker} has {len(style):,} characters; {MOST_STYLE_CHARS} are allowed"
            )
        for opening, closing in reversed(label.left_open):
            said = _without_closing(said, opening, closing)
        said = _BEFORE_WORDS.sub("", said).rstrip()
        turns.append(SpokenTurn(label.speaker, said, style if _WORD.search(style) else None))
    spoken = {turn.speaker for turn in turns}
    if silent := [name for name in speakers if name not in spoken]:
        raise ValueError(
            f"{' and '.join(silent)} never speak{'s' * (len(silent) == 1)}: the text holds no '{silent[0]}:' followed "
            "by words at the start of a line or behind the end of a sentence"
        )
    return turns


def _must_begin(speakers: Sequence[str]) -> str:
    return f"must begin with a speaker's name and a colon: {' or '.join(f'{name}:' for name in speakers)}"


def _without_closing(said: str, opening: str, closing: str) -> str:
    """Drop the mark that closes a label's decoration: right behind the colon, or where it ends the line."""
    line = said.splitlines()[0] if said else ""
    rest = said[len(line) :]
    if closing == "|":
        return line.strip().removeprefix("|").removesuffix("|") + rest
    if said.startswith(closing):
        return said.removeprefix(closing)
    # Quotes belong to the words that are said in them.
    unpaired = line.count(closing) % 2 if opening == closing else line.count(closing) > line.count(opening)
    if closing in _QUOTES or not unpaired:
        return said
    if line.rstrip().endswith(closing):
        return line.rstrip().removesuffix(closing) + rest
    return line.lstrip().removeprefix(closing) + rest


def _refuse_lookalikes(text: FoldedText, finder: LabelFinder, labels: Sequence[Label], speakers: Sequence[str]) -> None:
    """Raise ValueError for a line that reads like a turn of another speaker, or like a label and is none."""
    known_ends = {label.end for label in labels}
    for found in _NAME_LIKE.finditer(text.original):
        words = found[1].split()
        are_capitals = not words[0][0].isdecimal() and all(word[0].istitle() or word[0].isdecimal() for word in words)
        is_name = are_capitals and not any(word.replace(".", "").casefold() in _NO_NAME for word in words)
        if is_name and found.end() not in known_ends:
            raise ValueError(
                f"line {_line_of(text.original, found.end())} begins like a turn of {found[1]!r}, but the speakers are "
                f"{', '.join(speakers)}: add that speaker, or join the line to the one before; a turn's style is "
                f"written in square brackets, as in '{speakers[0]} [calm]:'"
            )
    fine = {label.start for label in labels if label.begins_a_line}
    for oddity in finder.oddities(text):
        if oddity.start in fine:
            continue
        shown = text.original[oddity.start : oddity.end].strip()
        if len(shown) > _MOST_SHOWN_CHARS:
            shown = f"…{shown[-_MOST_SHOWN_CHARS:]}"
        what = f"line {_line_of(text.original, oddity.end)} begins with {shown!r}"
        if len(oddity.speakers) > 1:
            names = " and ".join(oddity.speakers)
            raise ValueError(f"{what}, which names {names}: a turn has one speaker, and {_must_begin(speakers)}")
        name, style = oddity.speakers[0], " ".join((oddity.manner or "calm").split())
        raise ValueError(
            f"{what}, which reads like a turn of {name}: a turn {_must_begin(speakers)}, with its style in square "
            f"brackets between them, as in '{name} [{style}]:'; if it is not one, join the line to the one before"
        )


def _line_of(text: str, end: int) -> int:
    return len(text[:end].splitlines())
