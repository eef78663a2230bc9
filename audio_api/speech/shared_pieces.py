"""Finished pieces that other machines find, too: a store behind the local cache.

A job that moves to another machine goes on from them. The same digest judges what comes from the store as what comes
from the disk, so that it does not matter who can write there. The store's own life-cycle bounds its size.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from typing import TypeVar

from audio_api.audio.file_threads import in_file_thread
from audio_api.audio.large_sounds import Permit
from audio_api.audio.wav_file import SavedWav
from audio_api.errors import StoreError
from audio_api.retry import Clock
from audio_api.speech.piece_cache import CachedPiece, PieceCache, decode_piece, encode_piece
from audio_api.stores.base import Store

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

# The API sends 64 MiB at most; the rest is for the notes behind the sound.
MOST_PIECE_BYTES = 65 * 2**20
# A store that is down is left alone for so long: each of its failures takes longer than a call for a piece.
_REST_S = 30.0


class SharedPieces:
    """A cache in two places: the local folder first, then the store.

    Like ``PieceCache``, it never fails a request: the first reason why the store gives or takes nothing is logged as a
    warning, and for half a minute the store is not asked.

    Args:
        local: The folder.
        store: The store.
        limit_s: The most seconds that one question to the store may take, all attempts included.
        clock: Tells when the store has rested.
    """

    def __init__(self, local: PieceCache, store: Store, limit_s: float, clock: Clock) -> None:
        self._local = local
        self._store = store
        self._limit_s = limit_s
        self._clock = clock
        self._rests_until = -inf
        self._complained = False

    async def get(self, key: str, permit: Permit | None = None) -> CachedPiece | None:
        """Find a piece, as ``PieceCache.get``; one that only the store has is kept in the folder from then on."""
        if piece := await self._local.get(key, permit):
            return piece
        if permit:
            await permit.take()
        content = await self._asked(partial(self._store.get, _name(key), MOST_PIECE_BYTES))
        piece = await in_file_thread(decode_piece, key, content) if content else None
        if piece:
            await self._local.put(key, piece)
        return piece

    async def put(self, key: str, piece: CachedPiece) -> SavedWav | None:
        """Keep a piece in both places, as ``PieceCache.put``. Returns its local file."""
        saved = await self._local.put(key, piece)
        content = await in_file_thread(encode_piece, key, piece)
        await self._asked(partial(self._store.put, _name(key), content, "audio/wav"))
        return saved

    async def forget(self, key: str) -> None:
        """Remove a piece from both places, so that it is made again the next time."""
        await self._local.forget(key)
        await self._asked(partial(self._store.delete, _name(key)))

    async def _asked(self, question: Callable[[], Awaitable[_T]]) -> _T | None:
        """The store's answer; ``None``: it rests, or does not answer."""
        if self._clock.monotonic() < self._rests_until:
            return None
        try:
            async with asyncio.timeout(self._limit_s):
                return await question()
        except (StoreError, TimeoutError) as error:
            self._rests_until = self._clock.monotonic() + _REST_S
            if not self._complained:
                self._complained = True
                reason = str(error) or f"no answer within {self._limit_s:g} s"
                logger.warning("pieces are not shared with other machines", extra={"reason": reason})
            return None


def _name(key: str) -> str:
    return f"{key}.piece.wav"
