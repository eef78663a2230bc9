"""``"Alice: Hello! Bob [whispering]: Hi there!"`` into turns."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from audio_api.models.audio_request import MOST_STYLE_CHARS

# Python's own line ends (str.splitlines), so that text from any system works.
_BREAK = r"\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
_SPACE = rf"[^\S{_BREAK}]"
# Before the first name of a line: blanks, quotes, and the invisible marks of editors and of right-to-left text.
_LINE_START = rf"(?<![^{_BREAK}])(?:{_SPACE}|[\"'“”„«»‘’\ufeff\u200b\u200e\u200f])*"
# Behind these a sentence is over, white space or not: Chinese and Japanese have none.
_SENTENCE_END = rf"(?<=[!?…。！？｡．।॥؟۔」』）】]){_SPACE}*"
_TITLES = ("dr", "mr", "mrs", "ms", "prof")
# Behind these only with white space: they also stand inside "www.bob:80", or open what they seem to close. Thai and Lao
# sentences end with nothing else, and their words have none between them.
_BEHIND_A_TITLE = "".join(rf"(?<!\b{title}\.)" for title in _TITLES)
_SPACED_END = rf"(?<=[.\"'”’“»«)\]>\u0e00-\u0eff]){_BEHIND_A_TITLE}{_SPACE}+"
_STYLE = rf"(?:{_SPACE}*\[([^\[\]{_BREAK}]*)\])?"
_WORD = re.compile(r"[^\W_]")

# One to three words that might be a name: initials, titles, numbers as in "Speaker 3"; then perhaps a stage direction,
# and a colon that is part of no address, time or emoticon. The bounds keep the time linear.
_PART = rf"(?:(?:[^\W\d_]\.){{1,4}}|(?i:{'|'.join(_TITLES)})\.|[^\W_][\w'’\-\u0300-\u036f]{{0,39}})"
_DIRECTION = rf"(?:{_SPACE}*(?:\[[^\[\]{_BREAK}]*\]|\([^(){_BREAK}]*\)))?"
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


def _spellings(name: str) -> str:
    """A pattern for a name in every case (``Strauß``, ``STRAUSS``), composed or decomposed, however spaced."""
    cases = (name, name.upper(), name.lower(), name.casefold())
    forms = {unicodedata.normalize(form, case) for form in ("NFC", "NFD") for case in cases}
    return "|".join(rf"{_SPACE}+".join(map(re.escape, form.split())) for form in sorted(forms))


def _label_of(speakers: Sequence[str]) -> re.Pattern[str]:
    """A pattern for a speaker's label, with one group for each speaker and a last one for the style."""
    names = "|".join(f"({_spellings(name)})" for name in speakers)
    start = rf"(?:{_LINE_START}|{_SENTENCE_END}|{_SPACED_END})"
    return re.compile(rf"{start}(?:{names}){_STYLE}{_SPACE}*[:：]", re.IGNORECASE)


def split_turns(text: str, speakers: Sequence[str]) -> list[SpokenTurn]:
    """Split a dialogue at its speakers' names; only the given names count, so a colon elsewhere is just a colon.

    A name counts at the start of the text, of a line, or behind the end of a sentence, in any case, with an ASCII or a
    full-width colon behind it. A sentence ends with its punctuation, or with a quote or bracket and white space; in
    Thai and Lao, with white space alone. The full stop of a title ends none: in ``"He met Dr. Bob: he was late"`` Bob
    is not speaking, whereas a speaker named ``"Dr. Bob"`` would be. Square brackets between name and colon hold the
    turn's style and are never spoken. Turns without a letter or digit are left out.

    A line that begins like the turn of somebody else is an error, since the previous speaker would read that name
    aloud. Such a line begins with one to three words, each with a capital letter (numbers may follow: ``Speaker 3``),
    perhaps words in brackets, and a colon. ``Note:``, ``PS:`` and their like in 14 languages are no names, nor is
    ``12:30`` or ``https:``; scripts without capital letters have no such lines.

    Args:
        text: The whole dialogue, on one line or many.
        speakers: The names to look for: at least one, distinct whatever their case.

    Raises:
        ValueError: Text stands before the first name, a line begins with an unknown name, a speaker never says
            anything, or a style has more than 500 characters.
    """
    labels = list(_label_of(speakers).finditer(text))
    _refuse_strangers(text, speakers, {label.end() for label in labels})
    starts = [label.start() for label in labels] + [len(text)]
    if _WORD.search(text, 0, starts[0]):
        expected = " or ".join(f"{name}:" for name in speakers)
        raise ValueError(f"the dialogue must begin with a speaker's name and a colon: {expected}")
    turns = [
        _turn(label, text[label.end() : end].strip(), speakers)
        for label, end in zip(labels, starts[1:], strict=True)
        if _WORD.search(text, label.end(), end)
    ]
    spoken = {turn.speaker for turn in turns}
    if silent := [name for name in speakers if name not in spoken]:
        raise ValueError(
            f"{' and '.join(silent)} never speak{'s' * (len(silent) == 1)}: the text holds no '{silent[0]}:' followed "
            "by words at the start of a line or behind the end of a sentence"
        )
    return turns


def _turn(label: re.Match[str], text: str, speakers: Sequence[str]) -> SpokenTurn:
    *names, style = label.groups()
    speaker = next(speaker for speaker, name in zip(speakers, names, strict=True) if name)
    style = " ".join((style or "").split())
    if len(style) > MOST_STYLE_CHARS:
        raise ValueError(f"a style of {speaker} has {len(style):,} characters; {MOST_STYLE_CHARS} are allowed")
    return SpokenTurn(speaker, text, style if _WORD.search(style) else None)


def _refuse_strangers(text: str, speakers: Sequence[str], known_ends: set[int]) -> None:
    for stranger in _strangers(text):
        if stranger.end() not in known_ends:
            line = len(text[: stranger.end()].splitlines())
            raise ValueError(
                f"line {line} begins like a turn of {stranger[1]!r}, but the speakers are {', '.join(speakers)}: add "
                "that speaker, or join the line to the one before; a turn's style is written in square brackets, as in "
                f"'{speakers[0]} [calm]:'"
            )


def _strangers(text: str) -> Iterator[re.Match[str]]:
    """Every line's beginning that looks like the name of a speaker, known or not."""
    for label in _NAME_LIKE.finditer(text):
        words = label[1].split()
        capital = not words[0][0].isdecimal() and all(_begins_a_name(word) for word in words)
        if capital and not any(word.replace(".", "").casefold() in _NO_NAME for word in words):
            yield label


def _begins_a_name(word: str) -> bool:
    return word[0].istitle() or word[0].isdecimal()
