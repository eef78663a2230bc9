"""The arguments of ``audio-api book``. Importing this loads nothing else."""

from __future__ import annotations

from argparse import ArgumentParser

_FORMATS = ["m4b", "m4a", "mp3", "opus", "flac", "wav"]


def add_options(parser: ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add = parser.add_argument
    add("file", metavar="FILE", help="an EPUB, Markdown or text; - reads standard input")
    add("--list", action="store_true", help="only list the chapters, with minutes and cost; nothing is paid")
    add("--chapters", metavar="N", help="only these, such as 3-5 or 1,4,7-")
    add("--sample", action="store_true", help="only one chapter, to hear how it sounds")
    add("-o", "--output", metavar="PATH", help="the m4b, or the folder of the chapters (default: in OUTPUT_DIR)")
    add("--format", choices=_FORMATS, help="m4b: one file; others: a file for each chapter (default: m4b)")
    add("--rss", metavar="URL", help="also write podcast.xml, for files published there; implies mp3")
    add("--voice", default="kore", help="see the command voices (default: %(default)s)")
    add("--cast", nargs="+", action="extend", default=[], metavar="NAME=VOICE", help="voices of a dialogue")
    add("--language", help="a BCP-47 code (default: what the book states)")
    add("--style", help="how to speak, in a few adjectives")
    add("--speed", type=float, help="0.1 to 3.0; 1.0 is natural")
    add("--pitch", type=float, help="0.1 to 2.0; 1.0 is natural")
    add("--model", help="see the command models (default: DEFAULT_TTS_MODEL)")
    add("--lexicon", metavar="FILE", help="words to replace before speaking: 'word = what is spoken' in each line")
    rules = "default: heading=1.2 scene=1.5 chapter=2.5"
    add("--pause", nargs="+", action="extend", default=[], metavar="RULE=S", help=f"seconds of silence ({rules})")
    add("--no-titles", action="store_true", help="do not speak the titles of chapters")
    add("--markup", choices=["plain", "markdown"], help="what a text is (default: markdown for *.md)")
    add("--keep", action="append", default=[], choices=["code", "tables"], help="speak these, too")
    add("--queue", action="store_true", help="let the workers of the queue speak")
    add("--overwrite", action="store_true", help="replace existing files")
    add("--json", action="store_true", help="print the list or the result as JSON")
    add("--offline", action="store_true", help="a robotic voice, without key or network")
