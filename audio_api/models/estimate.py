"""What a request will take, before anything is paid."""

from __future__ import annotations

from collections.abc import Mapping

from audio_api.models.frozen import FrozenModel
from audio_api.models.service_tiers import ServedTier, ServiceTier


class Estimate(FrozenModel):
    """What a request will take, if no call has to be repeated.

    Attributes:
        model: The id of the model that will speak.
        characters: Of everything spoken; styles do not count.
        pieces: The calls that the text needs.
        cached_pieces: Those that were made before, and cost nothing.
        seconds: About how long it takes to hear.
        input_tokens: Of the pieces that are to be made.
        tokens_counted: Whether the API counted them; if not, they are an upper estimate.
        output_tokens: At most so many tokens of sound, as the API has been seen to bill 25 to 32 of them a second.
        service_tier: The tier that was asked for.
        costs_usd: At most about so many US dollars at the day's list price, by service tier; empty: the model's price
            is unknown.
        warnings: What a careful user should know, such as a successor that will speak.
    """

    model: str
    characters: int
    pieces: int
    cached_pieces: int = 0
    seconds: float
    input_tokens: int
    tokens_counted: bool = False
    output_tokens: int
    service_tier: ServiceTier = "standard"
    costs_usd: Mapping[ServedTier, float] = {}
    warnings: tuple[str, ...] = ()

    @property
    def cost_usd(self) -> float | None:
        """At most about so many US dollars at the tier that was asked for; ``None``: the model's price is unknown."""
        return self.costs_usd.get(self.service_tier)
