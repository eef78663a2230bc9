"""Which format a sound gets, and what its file is called and says about itself."""

from __future__ import annotations

from collections.abc import Sequence

from audio_api.audio.encoding import require_encoder
from audio_api.engines.base import Utterance
from audio_api.errors import TTSValidationError
from audio_api.models.audio_request import AudioRequest
from audio_api.models.sound_formats import OutputFormat, StreamFormat


def require_format(sound_format: OutputFormat | StreamFormat, possible: Sequence[str]) -> None:
    """Refuse, before a call, a format that does not exist, or has no encoder here. Importing one takes 0.1 s.

    Raises:
        TTSValidationError: It is not among the possible ones.
        ConfigurationError: As ``require_encoder``.
    """
    if sound_format not in possible:
        raise TTSValidationError(f"format must be one of {', '.join(possible)}, not {str(sound_format)[:40]!r}")
    if sound_format not in ("wav", "pcm"):
        require_encoder(sound_format)


def filename_of(request: AudioRequest, output_format: OutputFormat) -> str | None:
    """The name of a request's file with its ending; ``None``: it is made from the content.

    Raises:
        TTSValidationError: With its ending, it is too long.
    """
    try:
        return request.filename_or(output_format)
    except ValueError as error:
        raise TTSValidationError(str(error)) from None


def artist_of(utterance: Utterance) -> str:
    """The voices that are heard, in the order in which they begin."""
    return ", ".join(dict.fromkeys(str(turn.voice.voice_name) for turn in utterance.turns))
