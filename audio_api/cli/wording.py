"""Errors in the words of the command line: its options, and never a name of Python."""

from __future__ import annotations

import re

import typer

# What the library says to programs, and how that is done here.
_IN_WORDS = (
    (r"set overwrite=True", "use --overwrite"),
    (r"markup_keep goes with the markup markdown", "--keep goes with --markup markdown"),
    (r"make it with generate_audio, or stream to a file", "leave out --stream, or name a file"),
    (r"(one of the voices of |takes |use )VoiceName( only)?", r"\1those of the command voices\2"),
    (r"make several requests of it", "speak it in parts, or make a book of it: audio-api book --help"),
    (r"(MAX_TEXT_LENGTH allows [\d,]+)", r"\1: raise that setting, or make a book of it: audio-api book --help"),
)
# The fields of a request, by the options that set them.
_OPTIONS = {"voice_name": "--voice", "output_filename": "-o", "output_format": "--format", "speaker_name": "--speaker"}


def in_words(text: str) -> str:
    """What an error says, in the words of the command line."""
    for pattern, words in _IN_WORDS:
        text = re.sub(pattern, words, text)
    return text


def problems_in_words(error: ValueError) -> str:
    """Every problem that a model found; its own sentences do not say which option they are about, ours do.

    Raises:
        ValueError: It is another error.
    """
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        raise error
    told = []
    for problem in error.errors(include_url=False):
        # What is wrong with several fields together has no place.
        name = next((str(part) for part in reversed(problem["loc"]) if isinstance(part, str)), "")
        option = _OPTIONS.get(name, f"--{name}" if name != "text" else "TEXT")
        own = problem["type"] == "value_error"
        told.append(problem["msg"].removeprefix("Value error, ") if own else f"{option}: {problem['msg']}")
    return in_words("; ".join(told))


def misuse_in_words(error: typer.TyperException) -> str:
    """What is wrong with the arguments, and the command that tells what would be right."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "audio-api"
    text = error.format_message().rstrip(".")
    text = re.sub(r"^Invalid value for '(?:-\w' / ')?(.+?)': (?:Value error, )?", r"\1: ", text)
    text = text.replace("Input should be", "must be").replace(", unable to parse string as a number", "")
    text = re.sub(r"^No such option: (\S+)(?: \(Possible options: (.+)\))?$", _no_such_option, text)
    text = re.sub(r"^No such command ('.*?')(?:\. Did you mean (.+)\?)?$", _no_such_command, text)
    text = re.sub(r"^Missing (?:argument|option) '(.+)'$", r"\1 is missing", text)
    example = {"audio-api queue": "stats", "audio-api cache": "size"}.get(command, "say")
    text = re.sub(r"^Missing command$", f"name a command, such as {example}", text)
    text = re.sub(r"^Option '(.+)' requires an argument$", r"\1 needs a value", text)
    text = re.sub(r"^Got unexpected extra argument\(s\) \((.+)\)$", r"\1: unexpected", text)
    if text[1:2].islower():
        text = text[0].lower() + text[1:]
    return f"{text}{' See' if text.endswith('?') else '; see'} {command} --help"


def _no_such_option(found: re.Match[str]) -> str:
    given, meant = found.groups()
    if meant:
        return f"no such option {given}: did you mean {meant.replace(', ', ' or ')}?"
    if given.startswith("--"):
        return f"no such option {given}"
    return f"no such option {given}: a text that begins with - stands behind --"


def _no_such_command(found: re.Match[str]) -> str:
    given, meant = found.groups()
    if meant:
        return f"no such command {given}: did you mean {meant.replace(', ', ' or ')}?"
    return f"no such command {given}: to speak a text, audio-api say TEXT"


def hours(seconds: float) -> str:
    """A time such as ``0:02:05``."""
    minutes, rest = divmod(round(seconds), 60)
    whole, minutes = divmod(minutes, 60)
    return f"{whole}:{minutes:02}:{rest:02}"


def dollars(cost_usd: float | None) -> str:
    """A price; ``None``: unknown."""
    return "unknown" if cost_usd is None else f"${cost_usd:.4f}" if cost_usd < 1 else f"${cost_usd:.2f}"
