"""The speech models: how each is spoken to, what it takes, what it costs, and what follows it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BeforeValidator


class VoiceModel(StrEnum):
    """The Gemini models that speak. Any other id may be passed as a plain string."""

    GEMINI_3_8_FLASH_TTS = "gemini-3.8-flash-tts"
    GEMINI_3_8_FLASH_LITE_TTS = "gemini-3.8-flash-lite-tts"
    GEMINI_3_1_FLASH_TTS = "gemini-3.1-flash-tts-preview"
    GEMINI_TTS_PRO = "gemini-2.5-pro-preview-tts"
    GEMINI_TTS_FLASH = "gemini-2.5-flash-preview-tts"
    GEMINI_TTS = "gemini-2.5-pro-preview-tts"


DEFAULT_MODEL = VoiceModel.GEMINI_3_8_FLASH_TTS

SafetyThreshold = Literal["off", "block_none", "block_only_high", "block_medium_and_above", "block_low_and_above"]
"""From which probability of harm on the API refuses to speak a text; ``off`` and ``block_none`` refuse the least."""

Family = Literal["legacy", "verbatim"]
"""``legacy`` (2.5, 3.1) is prompted in words; ``verbatim`` (3.8) speaks its text and nothing else."""


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens from a day on, standard tier."""

    since: date
    input_usd: float
    audio_usd: float

    def cost_usd(self, input_tokens: int, output_tokens: int) -> float:
        """What one call costs. Output that is not audio has no published price and counts as audio, the upper bound."""
        return (input_tokens * self.input_usd + output_tokens * self.audio_usd) / 1e6


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What the library knows of one model.

    Attributes:
        family: The prompt protocol.
        input_tokens: The largest input one call takes.
        output_tokens: The most audio tokens one call returns.
        prices: In order of their day; empty when unknown.
        shutdown: The announced last day; ``None`` when none is announced.
        successor: The model that takes over; ``None`` when no model does.
    """

    family: Family
    input_tokens: int = 8_192
    output_tokens: int = 16_384
    prices: tuple[Price, ...] = ()
    shutdown: date | None = None
    successor: VoiceModel | None = None

    @property
    def piece_chars(self) -> int:
        """Characters of a long text that one call is given.

        Users of 2.5 and 3.1 report texts cut short from about 1,400 characters on, and none below 800. 3.8 speaks up
        to 6,000 bytes completely; 2,000 characters are two minutes, after which a voice may drift.
        """
        return 800 if self.family == "legacy" else 2_000

    def is_shut_down(self, today: date) -> bool:
        """Whether the announced last day is over."""
        return self.shutdown is not None and today > self.shutdown

    def price(self, day: date) -> Price | None:
        """The price in force on a day; ``None`` when unknown."""
        return next((price for price in reversed(self.prices) if price.since <= day), None)


# Announced dates differ between sources (2026-10-16, 2026-11-17, 2026-12-18) and are "the earliest possible"; this is
# the newest one. An earlier end shows itself as a 404, which leads to the successor just the same.
_PREVIEWS_END = date(2026, 12, 18)
_PROMOTION_ENDS = date(2027, 1, 1)

MODEL_SPECS: Mapping[str, ModelSpec] = {
    VoiceModel.GEMINI_3_8_FLASH_TTS: ModelSpec(
        "verbatim", prices=(Price(date(2026, 9, 22), 0.50, 9.0), Price(_PROMOTION_ENDS, 1.00, 18.0))
    ),
    VoiceModel.GEMINI_3_8_FLASH_LITE_TTS: ModelSpec(
        "verbatim", prices=(Price(date(2026, 9, 22), 0.50, 6.0), Price(_PROMOTION_ENDS, 1.00, 12.0))
    ),
    VoiceModel.GEMINI_3_1_FLASH_TTS: ModelSpec(
        "legacy",
        prices=(Price(date(2026, 4, 15), 1.00, 20.0),),
        shutdown=_PREVIEWS_END,
        successor=VoiceModel.GEMINI_3_8_FLASH_LITE_TTS,
    ),
    VoiceModel.GEMINI_TTS_PRO: ModelSpec(
        "legacy",
        prices=(Price(date(2025, 5, 20), 1.00, 20.0),),
        shutdown=_PREVIEWS_END,
        successor=VoiceModel.GEMINI_3_8_FLASH_TTS,
    ),
    VoiceModel.GEMINI_TTS_FLASH: ModelSpec(
        "legacy",
        prices=(Price(date(2025, 5, 20), 0.50, 10.0),),
        shutdown=_PREVIEWS_END,
        successor=VoiceModel.GEMINI_3_8_FLASH_TTS,
    ),
}

# Of the generation 3.1, but not of a later 3.10.
_LEGACY_ID = re.compile(r"gemini-(2\.5|3\.1)(?!\d)")


def model_spec(model: str) -> ModelSpec:
    """What is known of a model; an unknown id gets the protocol of its generation, and no price."""
    return MODEL_SPECS.get(model) or ModelSpec("legacy" if _LEGACY_ID.match(model) else "verbatim")


_MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def parse_model(value: object) -> VoiceModel | str:
    """Turn a model id, with or without the API's prefix ``models/``, into a ``VoiceModel`` or the plain id.

    Raises:
        ValueError: The value cannot be a model id.
    """
    plain = value.strip().removeprefix("models/") if isinstance(value, str) else ""
    if not _MODEL_ID.fullmatch(plain):
        raise ValueError(f"{str(value)[:80]!r} is not a model id such as {DEFAULT_MODEL.value!r}")
    try:
        return VoiceModel(plain)
    except ValueError:
        return plain


ModelId = Annotated[VoiceModel | str, BeforeValidator(parse_model)]
"""One of ``VoiceModel``, or any other model id, in pydantic models."""
