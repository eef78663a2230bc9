"""A plain text as blocks: its headings are known by their words, or by how they stand."""

from __future__ import annotations

import re

from audio_api.books.book import Block
from audio_api.models.user_text import has_words

_BLANK_LINES = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")
_MOST_HEADING_CHARS = 80
_MOST_HEADING_LINES = 3
_NUMBER = r"(?:\d{1,4}|[IVXLCDM]{1,8}|[ivxlcdm]{1,8})"
_COUNTED = """
one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred the
"""
_COUNT = rf"(?:{_NUMBER}|(?:{'|'.join(_COUNTED.split())})(?:[- ](?:{'|'.join(_COUNTED.split())}))*)"
_PARTS = "part|book|volume|teil|buch|band|partie|livre|parte|libro|deel|część|tom|часть|книга|частина"
_CHAPTERS = (
    "chapter|letter|act|scene|canto|stave|kapitel|akt|szene|chapitre|acte|scène|capítulo|capitulo|capitolo|atto|scena"
    "|hoofdstuk|bedrijf|rozdział|глава|розділ|bölüm|capitolul|bab"
)
_ALONE = (
    "prologue|epilogue|preface|foreword|introduction|afterword|prolog|epilog|vorwort|nachwort|einleitung|préface"
    "|avant-propos|épilogue|prólogo|epílogo|prefacio|prologo|epilogo|prefazione|introduzione|voorwoord|пролог|эпилог"
)
_PART = re.compile(rf"(?:{_PARTS})\s+{_COUNT}\b(?![^\W\d_]*\s+[a-zà-ÿ])", re.IGNORECASE)
_CHAPTER = re.compile(rf"(?:{_CHAPTERS})\s+{_COUNT}\b", re.IGNORECASE)
_NAMED = re.compile(rf"(?:{_ALONE})[.:]?", re.IGNORECASE)
_EAST_ASIAN = re.compile(
    r"第\s*[0-9０-９一二三四五六七八九十百千零〇两]+\s*[章回話话節节部卷編篇]|제\s*\d+\s*[장부권화]|[序终終]章"
)
_ONLY_A_NUMBER = re.compile(r"(?:\d{1,3}|[IVXLC]{1,7})\.?")
_UNDERLINE = re.compile(r"(=|-)\1{2,}")
_SENTENCE_ENDS = tuple('!?,;"”»')


def blocks_of_text(text: str) -> list[Block]:
    """Divide a text into headings, paragraphs and scene breaks.

    A paragraph ends at a blank line. A heading stands alone between blank lines, has 80 characters at most, and is
    underlined, counts a chapter or a part in one of 15 languages, is a number, or is written in capitals.
    """
    blocks: list[Block] = []
    for paragraph in _BLANK_LINES.split(text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")):
        lines = [line.rstrip() for line in paragraph.split("\n") if line.strip()]
        if len(lines) >= 2 and (underline := _UNDERLINE.fullmatch(lines[1].strip())) and has_words(lines[0]):
            blocks.append(Block("heading", lines[0].strip(), 1 if underline[1] == "=" else 2))
            lines = lines[2:]
        words = "\n".join(lines).strip()
        if not words:
            continue
        level = _heading_level(words, len(lines))
        if not has_words(words):
            blocks.append(Block("scene"))
        else:
            blocks.append(Block("heading", words, level) if level else Block("paragraph", words))
    return blocks


def _heading_level(text: str, lines: int) -> int:
    if lines > _MOST_HEADING_LINES or len(text) > _MOST_HEADING_CHARS or text.endswith(_SENTENCE_ENDS):
        return 0
    if _PART.match(text):
        return 1
    if _CHAPTER.match(text) or _NAMED.fullmatch(text) or _EAST_ASIAN.match(text) or _ONLY_A_NUMBER.fullmatch(text):
        return 2
    letters = [char for char in text if char.isalpha()]
    is_in_capitals = len(letters) >= 4 and all(char.isupper() for char in letters)
    return 2 if is_in_capitals and lines == 1 else 0
