"""The exit codes of every command."""

from __future__ import annotations

DONE = 0
"""Done."""
FAILED = 1
"""Failed."""
WRONG = 2
"""The command, a setting or the text is wrong."""
TRY_LATER = 3
"""Failed, but trying again later may help."""
INTERRUPTED = 130
"""Ctrl-C ended it."""
