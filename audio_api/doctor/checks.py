"""What a check of an installation found."""

from __future__ import annotations

from typing import Literal, NamedTuple

Level = Literal["ok", "warn", "fail"]


class Check(NamedTuple):
    """One thing looked at: fine, worth knowing, or broken; the text says what to do."""

    level: Level
    title: str
    text: str
