"""What a check of an installation found."""

from __future__ import annotations

from typing import Literal, NamedTuple

Level = Literal["ok", "warn", "fail"]


class Check(NamedTuple):
    """One thing looked at: fine, worth knowing, or broken; the text says what to do."""

    level: Level
    title: str
    text: str


class NotObservableError(Exception):
    """A fact's calls were not answered; the text says why."""


def one_line(text: str) -> str:
    """Without the line breaks and control characters that a server may have sent."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
