"""Callbacks that users pass: plain functions or coroutine functions, or none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable


async def tell(listener: Callable[..., Awaitable[None] | None] | None, *news: object) -> None:
    """Call a listener, if there is one, and await what it returns when that can be awaited.

    Args:
        listener: Takes the news; ``None``: no listener is told.
        *news: Its arguments.
    """
    if listener is not None and isawaitable(told := listener(*news)):
        await told
