"""How urgent the calls of a request are, and what that does to their price."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

ServiceTier = Literal["standard", "flex", "priority"]
"""What a call may ask for: ``flex`` is half as dear, takes up to 15 minutes and is the first to be refused; of
``priority`` the opposite holds."""

ServedTier = Literal["standard", "flex", "priority", "batch"]
"""What a sound was served by: ``batch`` is Gemini's Batch API."""

# Of the standard price (ai.google.dev/gemini-api/docs/pricing, September 2026).
PRICE_FACTORS: Mapping[ServedTier, float] = {"batch": 0.5, "flex": 0.5, "standard": 1.0, "priority": 1.8}


def served_tier(name: object) -> ServedTier | None:
    """The tier that a reply names; ``None``: it names none that is known here."""
    plain = name.strip().lower() if isinstance(name, str) else ""
    return next((tier for tier in get_args(ServedTier) if tier == plain), None)
