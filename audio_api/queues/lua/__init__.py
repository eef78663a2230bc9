"""The steps of a queue in Redis, each one script and therefore atomic; ``queue.lua`` says which keys they use."""

from __future__ import annotations

import pkgutil
import re
from dataclasses import dataclass
from hashlib import sha1
from typing import Self

from audio_api.queues.base import FAIR_TURN, MAX_DELIVERIES, MOST_RECENT, NEVER_FINISHED

CLOCK = "local time = redis.call('TIME')\nlocal now = time[1] * 1000 + math.floor(time[2] / 1000)"
_NUMBERS = (
    "local MAX_DELIVERIES, FAIR_TURN, MOST_RECENT, NEVER_FINISHED = "
    f"{MAX_DELIVERIES}, {FAIR_TURN}, {MOST_RECENT}, '{NEVER_FINISHED}'"
)
_FILES = ("enqueue.lua", "lease.lua", "finish.lua", "look.lua", "limits.lua")
TEXTS = {name: (pkgutil.get_data(__name__, name) or b"").decode() for name in ("queue.lua", *_FILES)}
"""The text of each file; read once, at the import."""
# A function of Lua takes some thousand arguments at most; steps with more read them themselves.
_MOST_UNPACKED = 20


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, and the digest by which a server knows it that has run it before."""

    text: str
    sha: str

    @classmethod
    def of(cls, text: str) -> Self:
        """The script with this text."""
        return cls(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


def scripts(queue: str) -> dict[str, Script]:
    """The script of each step.

    It names its queue: a server that has restarted knows no scripts any more, and every queue's workers must notice.
    """
    head = f"-- {queue}\n{CLOCK}\n{_NUMBERS}\n{TEXTS['queue.lua']}"
    tail = f"(unpack(ARGV, 1, math.min(#ARGV, {_MOST_UNPACKED})))"
    return {
        step: Script.of(f"{head}\n{TEXTS[file]}\nreturn steps.{step}{tail}")
        for file in _FILES
        for step in re.findall(r"^function steps\.(\w+)", TEXTS[file], re.MULTILINE)
    }
