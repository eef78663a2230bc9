"""What the API bills."""

from __future__ import annotations

from audio_api.models.frozen import FrozenModel


class TokenUsage(FrozenModel):
    """Tokens the API billed.

    Attributes:
        input_tokens: Of the text, style included.
        output_tokens: Of everything generated.
        audio_tokens: The part of the output that is audio; 0 when the API did not say.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    audio_tokens: int = 0

    def __add__(self, other: TokenUsage) -> TokenUsage:
        """The sum of two calls."""
        return TokenUsage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            audio_tokens=self.audio_tokens + other.audio_tokens,
        )
