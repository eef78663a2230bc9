"""Words that are replaced before they are spoken: names, abbreviations, what a voice gets wrong."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from audio_api.errors import TTSValidationError
from audio_api.models.user_text import has_words, uniform

_MOST_BYTES = 4_000_000
_SEPARATOR = re.compile(r"\s*(?:\t|=|→)\s*")
# Scripts that are written without spaces: where their words begin and end cannot be seen.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_POSSESSIVE = re.compile(r"['’]s(?![^\W_])", re.IGNORECASE)


def read_lexicon(path: str | Path) -> dict[str, str]:
    """Read a file of words: ``word = what is spoken`` in each line, or with a tab or an arrow between them.

    A line that begins with ``#`` is a comment.

    Raises:
        TTSValidationError: It cannot be read, or a line is none of these.
    """
    try:
        content = Path(path).expanduser().read_bytes()[: _MOST_BYTES + 1].decode("utf-8-sig")
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise TTSValidationError(f"cannot read the lexicon {str(path)[:200]!r}: {reason}") from None
    if len(content) > _MOST_BYTES:
        raise TTSValidationError(f"the lexicon {str(path)[:200]!r} has more than {_MOST_BYTES:,} bytes")
    words: dict[str, str] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        word, *spoken = _SEPARATOR.split(line.strip(), maxsplit=1)
        if not spoken or not has_words(word):
            raise TTSValidationError(
                f"line {number} of the lexicon is {line.strip()[:60]!r}; it must be 'word = what is spoken'"
            )
        words[uniform(word)] = uniform(spoken[0])
    return words


class Lexicon:
    """Replaces words in texts, and counts them. Whole words only: ``"cat"`` is not in ``"catch"`` nor in ``"cat’ll"``.

    An entry in small letters means the word in any case, another one only as it is written. What was put in is not
    replaced again; of two entries that fit, the longer one counts. In scripts without spaces every place counts.

    Args:
        words: What is spoken, by word or by several words.

    Raises:
        TTSValidationError: An entry holds no letter or digit.

    Attributes:
        replaced: How often each entry was, for those that were.
    """

    def __init__(self, words: Mapping[str, str]) -> None:
        entries = {uniform(word.strip()): uniform(spoken.strip()) for word, spoken in words.items()}
        if empty := [word for word in entries if not has_words(word)]:
            raise TTSValidationError(f"a lexicon replaces words, and {empty[0]!r} is none")
        self.replaced: Counter[str] = Counter()
        self._entries = entries
        self._any_case = {word.casefold(): word for word in entries if word == word.lower()}
        longest_first = sorted(entries, key=len, reverse=True)
        patterns = [rf"(?i:{re.escape(word)})" if word == word.lower() else re.escape(word) for word in longest_first]
        self._pattern = re.compile("|".join(patterns)) if patterns else None

    def apply(self, text: str) -> str:
        """The text as it is spoken."""
        if self._pattern is None:
            return text
        parts, at, kept = [], 0, 0
        while found := self._pattern.search(text, at):
            start, at = found.span()
            begins = _ends_at(text[start], text[max(0, start - 2) : start][::-1])
            ends = _ends_at(text[at - 1], text[at : at + 2]) or _POSSESSIVE.match(text, at)
            if not (begins and ends):
                at = start + 1
                continue
            word = found[0] if found[0] in self._entries else self._any_case[found[0].casefold()]
            self.replaced[word] += 1
            parts += [text[kept:start], self._entries[word]]
            kept = at
        return "".join([*parts, text[kept:]])


def _ends_at(edge: str, beyond: str) -> bool:
    """Whether a word ends with this character, or begins, when these are the two beside it."""
    if not beyond or _UNSPACED.match(edge) or not _is_letter(edge):
        return True
    if beyond[0] in "'’":
        return not _is_letter(beyond[1:])
    return not _is_letter(beyond[0])


def _is_letter(char: str) -> bool:
    # Vowel signs and accents that stand alone are part of a word.
    return bool(char) and (char.isalnum() or unicodedata.category(char).startswith("M"))
