"""What requests, responses and their parts have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class FrozenModel(BaseModel):
    """Data that is checked once and never changes."""

    # Inputs stay out of error texts: a request's text is private. JSON has no NaN and no infinity.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)
