"""Texts as people send them, in 24 languages: the same ones from every run with the same seed.

The words are those of Django's translations and of Python's own pages: real sentences and phrases by many writers. This
module arranges them as dialogue lines, lists, lyrics, flash cards, countdowns, headings, poems, code and numbers.
"""

from __future__ import annotations

import gettext
import inspect
import random
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

LANGUAGES = {
    "ar-EG": "ar", "bn-BD": "bn", "de-DE": "de", "en-IN": "en", "en-US": "en", "es-US": "es", "fr-FR": "fr",
    "hi-IN": "hi", "id-ID": "id", "it-IT": "it", "ja-JP": "ja", "ko-KR": "ko", "mr-IN": "mr", "nl-NL": "nl",
    "pl-PL": "pl", "pt-BR": "pt_BR", "ro-RO": "ro", "ru-RU": "ru", "ta-IN": "ta", "te-IN": "te", "tr-TR": "tr",
    "uk-UA": "uk", "vi-VN": "vi", "cs-CZ": "cs",
}  # fmt: skip
"""The folder of Django's translations for each language. Thai is absent, because eSpeak NG cannot speak it."""

_PLACEHOLDER = re.compile(r"%(?:\(\w+\))?[sdi]|\{\w*\}")
_MARKUP = re.compile(r"<[^>]+>|&\w+;|`+|\*\*")
# eSpeak NG spells kanji, so only lines of kana are used.
_KANJI = re.compile(r"[\u3005-\u3007\u3400-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True, slots=True)
class Sample:
    """A text, and what it is like.

    Attributes:
        kind: Such as ``list`` or ``lyrics``.
        language: A BCP-47 code.
        text: What is spoken.
    """

    kind: str
    language: str
    text: str


def samples(seed: int, *, each: int, languages: tuple[str, ...] = tuple(LANGUAGES)) -> Iterator[Sample]:
    """As many texts of each kind in each language as asked for; other seeds give other texts.

    Args:
        seed: Decides which words are used. Even and odd seeds use different halves of all sentences and phrases, so
            that what is fitted on one half can be tried on the other.
        each: Texts of each kind in each language.
        languages: Their codes.
    """
    for language in languages:
        rng = random.Random(f"{seed} {language}")
        words = _Words(language, seed % 2, rng)
        for kind, make in _KINDS.items():
            for _ in range(each):
                yield Sample(kind, language, make(words))
    rng = random.Random(f"{seed} code")
    for _ in range(each * 4):
        yield Sample("code", "en-US", _code(seed % 2, rng))


@cache
def _strings(language: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All sentences and all phrases of a language."""
    spec = find_spec("django")
    assert spec is not None
    assert spec.origin is not None
    code = LANGUAGES[language]
    found: set[str] = set()
    for path in Path(spec.origin).parent.rglob(f"locale/{'de' if code == 'en' else code}/LC_MESSAGES/*.mo"):
        with path.open("rb") as file:
            catalog: dict[object, str] = vars(gettext.GNUTranslations(file))["_catalog"]
        found.update(
            key if code == "en" else text for key, text in catalog.items() if isinstance(key, str) and key and text
        )
    clean = {" ".join(_MARKUP.sub(" ", text).split()) for text in found if not _PLACEHOLDER.search(text)}
    usable = sorted(text for text in clean if sum(map(str.isalpha, text)) >= 3 and not _KANJI.search(text))
    return tuple(text for text in usable if _is_sentence(text)), tuple(t for t in usable if not _is_sentence(t))


def _is_sentence(text: str) -> bool:
    return len(text) >= 20 and text[-1] in ".!?।。؟"


class _Words:
    """Draws sentences, phrases and numbers of one language."""

    def __init__(self, language: str, half: int, rng: random.Random) -> None:
        sentences, phrases = _strings(language)
        self.rng = rng
        self.stop = {"hi-IN": "।", "bn-BD": "।", "ja-JP": "。"}.get(language, ".")
        self._phrases = phrases[half::2]
        # Of some languages few sentences are translated.
        self._sentences = sentences[half::2] or tuple(phrase + self.stop for phrase in self._phrases)

    def sentence(self) -> str:
        """A whole sentence with its full stop."""
        return self.rng.choice(self._sentences)

    def phrase(self, most_chars: int = 40) -> str:
        """A word or a few, without a full stop."""
        while True:
            phrase = self.rng.choice(self._phrases).strip(" .:!?")
            if len(phrase) <= most_chars and any(map(str.isalpha, phrase)):
                return phrase

    def number(self) -> str:
        """A year, a price, a time, a date, or a share."""
        rng = self.rng
        return rng.choice(
            [
                str(rng.randint(1_000, 2_030)),
                f"{rng.randint(1, 999)},{rng.randint(10, 99)}",
                f"{rng.randint(0, 23)}:{rng.randint(10, 59)}",
                f"{rng.randint(1, 28)}.{rng.randint(1, 12)}.{rng.randint(1_990, 2_030)}",
                f"{rng.randint(1, 100)} %",
                f"${rng.randint(1, 99)}",
                f"{rng.randint(1, 9)} {rng.randint(100, 999)} {rng.randint(100, 999)}",
            ]
        )

    def several(self, low: int, high: int, make: Callable[[], str]) -> list[str]:
        """Between two numbers of them."""
        return [make() for _ in range(self.rng.randint(low, high))]


def _list(words: _Words, mark: Callable[[int], str]) -> str:
    head = words.phrase()
    items = words.several(3, 9, words.phrase)
    return "\n".join([f"{head}:", *(f"{mark(number)}{item}" for number, item in enumerate(items, 1))])


def _lines(words: _Words, make: Callable[[], str], comma: str = "") -> str:
    stanzas = words.several(1, 4, lambda: f"{comma}\n".join(words.several(2, 5, make)))
    return "\n\n".join(stanzas)


def _countdown(words: _Words) -> str:
    numbers = map(str, range(words.rng.choice([5, 10, 12]), 0, -1))
    return words.rng.choice([". ", "\n", ", ", "… "]).join(numbers) + words.stop + " " + words.phrase() + "!"


_KINDS: dict[str, Callable[[_Words], str]] = {
    "phrase": lambda words: words.phrase(),
    "sentence": lambda words: words.sentence(),
    "paragraph": lambda words: " ".join(words.several(2, 6, words.sentence)),
    "story": lambda words: "\n\n".join(words.several(2, 4, lambda: " ".join(words.several(2, 5, words.sentence)))),
    "dialogue line": lambda words: words.phrase(25) + words.rng.choice(["?", "!", "…", "."]) + " " + words.sentence(),
    "bullets": lambda words: _list(words, lambda _: "- "),
    "plain list": lambda words: _list(words, lambda _: ""),
    "numbered list": lambda words: _list(words, lambda number: f"{number}. "),
    "commas": lambda words: ", ".join(words.several(4, 10, lambda: words.phrase(20))) + words.stop,
    "lyrics": lambda words: _lines(words, words.phrase),
    "poem": lambda words: _lines(words, words.phrase, ","),
    "flash cards": lambda words: f"{words.stop} ".join(words.several(4, 12, lambda: words.phrase(15))) + words.stop,
    "countdown": _countdown,
    "heading": lambda words: f"{words.phrase()}\n\n{words.sentence()} {words.sentence()}",
    "numbers": lambda words: f"{words.phrase()} {words.number()}, {words.phrase()} {words.number()}{words.stop}",
    "capitals": lambda words: words.phrase().upper() + "! " + words.phrase(),
    "crlf": lambda words: "\r\n".join(words.several(3, 12, words.phrase)),
}


@cache
def _code_blocks() -> list[str]:
    blocks = [inspect.getsource(member) for _, member in inspect.getmembers(textwrap, inspect.isroutine)]
    blocks += [inspect.getsource(member) for _, member in inspect.getmembers(gettext, inspect.isfunction)]
    return [part for block in blocks for part in block.split("\n\n") if 40 <= len(part) <= 600]


def _code(half: int, rng: random.Random) -> str:
    return rng.choice(_code_blocks()[half::2]).strip()
