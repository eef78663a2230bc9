"""What is counted for the day: characters of each key, and cost; shared by the processes of a server."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from audio_api.errors import AudioAPIError, TTSOutputError
from audio_api.models.audio_request import AudioResponse
from audio_api.server.problems import AnswerError

SPEECH_KEPT_S = 3_600.0
"""How long a speech of the page, and what became of it, is kept: to listen, to listen again, and to download."""
_TABLES = """
CREATE TABLE IF NOT EXISTS counts (day TEXT, name TEXT, amount REAL, PRIMARY KEY (day, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bodies (id TEXT PRIMARY KEY, body TEXT, until REAL) WITHOUT ROWID;
"""
# Another process holds the file for a millisecond.
_PATIENCE_S = 5.0
_KEPT_DAYS = 31
_REPORTED = {"success", "duration", "cost_usd", "warnings", "doubtful", "error"}

Result = TypeVar("Result")


class Ledger:
    """Counters by day (UTC) and short-lived request bodies, in one small file.

    Args:
        path: The file; made when missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_prepared = False

    async def add(self, name: str, amount: float, most: float | None = None) -> bool:
        """Add to today's counter, unless it would exceed its limit.

        Args:
            name: The counter.
            amount: How much.
            most: Its limit; ``None``: there is none.

        Returns:
            Whether it was added.
        """
        day = datetime.now(UTC).date().isoformat()

        def change(database: sqlite3.Connection) -> bool:
            row = database.execute("SELECT amount FROM counts WHERE day = ? AND name = ?", (day, name)).fetchone()
            total = amount + (row[0] if row else 0)
            if most is not None and total > most:
                return False
            database.execute("INSERT OR REPLACE INTO counts VALUES (?, ?, ?)", (day, name, total))
            database.execute("DELETE FROM counts WHERE day < date(?, ?)", (day, f"-{_KEPT_DAYS} days"))
            return True

        return await self._do(change)

    async def today(self, name: str) -> float:
        """Today's counter."""
        day = datetime.now(UTC).date().isoformat()

        def look(database: sqlite3.Connection) -> float:
            row = database.execute("SELECT amount FROM counts WHERE day = ? AND name = ?", (day, name)).fetchone()
            return float(row[0]) if row else 0.0

        return await self._do(look)

    async def keep(self, name: str, body: str, seconds: float) -> None:
        """Keep a body for a time."""
        now = time.time()

        def change(database: sqlite3.Connection) -> None:
            database.execute("DELETE FROM bodies WHERE until < ?", (now,))
            database.execute("INSERT OR REPLACE INTO bodies VALUES (?, ?, ?)", (name, body, now + seconds))

        await self._do(change)

    async def find(self, name: str) -> str | None:
        """The body; ``None``: there is none, or its time is over."""
        now = time.time()

        def look(database: sqlite3.Connection) -> str | None:
            row = database.execute("SELECT body FROM bodies WHERE id = ? AND until >= ?", (name, now)).fetchone()
            return row[0] if row else None

        return await self._do(look)

    async def reported(
        self, speech: AsyncGenerator[bytes | AudioResponse, None], name: str
    ) -> AsyncGenerator[bytes | AudioResponse, None]:
        """Hand a speech over, and keep what became of it for an hour.

        Args:
            speech: Sound, and at last what it cost.
            name: Of what is kept: the fields of a response, as JSON.
        """
        told: dict[str, object] | None = None
        try:
            async with aclosing(speech):
                async for part in speech:
                    if isinstance(part, AudioResponse):
                        told = part.model_dump(mode="json", include=_REPORTED)
                    yield part
        except (AudioAPIError, AnswerError) as error:
            told = {"success": False, "error": str(error)}
            raise
        finally:
            if told:
                await self.keep(name, json.dumps(told), SPEECH_KEPT_S)

    async def _do(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        return await asyncio.to_thread(self._in_transaction, work)

    def _in_transaction(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        try:
            is_prepared = self._is_prepared and self._path.exists()
            if not is_prepared:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=_PATIENCE_S, isolation_level=None)) as database:
                # A power failure may cost the counts of a moment, and a commit is not to delay the end of a speech.
                database.execute("PRAGMA synchronous = OFF")
                if not is_prepared:
                    self._path.chmod(0o600)
                    database.executescript(_TABLES)
                    self._is_prepared = True
                database.execute("BEGIN IMMEDIATE")
                result = work(database)
                database.execute("COMMIT")
                return result
        except (OSError, sqlite3.Error) as error:
            raise TTSOutputError(f"{self._path.name} of the server cannot be used: {error}") from None
