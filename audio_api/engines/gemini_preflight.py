"""What can be said of a Gemini call before it is made: whether the model has the voices, and takes the text."""

from __future__ import annotations

from unicodedata import east_asian_width

from audio_api.engines.base import Utterance
from audio_api.engines.gemini_request import speakers_of
from audio_api.errors import ErrorCode, TTSValidationError
from audio_api.models.speech_models import Family, model_spec
from audio_api.models.voices import VoiceName, is_custom

# A character is half a token or three of sound at most: most texts are short enough at a glance.
_MOST_TOKENS_PER_CHAR = 3


def voice_ids(utterance: Utterance) -> list[str]:
    """The voices that Gemini knows by an id, each once."""
    voices = dict.fromkeys(turn.voice.voice_name for turn in utterance.turns)
    return [voice for voice in voices if not isinstance(voice, VoiceName)]


def check_voices(utterance: Utterance, family: Family) -> None:
    """Refuse what no call can speak.

    Raises:
        TTSValidationError: More than two speakers, a custom voice in a dialogue, or a voice that the model has not.
    """
    speakers = speakers_of(utterance)
    if len(speakers) > 2:
        raise TTSValidationError(f"Gemini speaks dialogues of two; this one has {len(speakers)}: {', '.join(speakers)}")
    ids = voice_ids(utterance)
    custom = list(filter(is_custom, ids))
    if len(speakers) == 2 and custom:
        raise TTSValidationError(
            f"the custom voice {custom[0]} cannot take part in a dialogue: use VoiceName, or a request per turn"
        )
    if ids and family == "legacy":
        raise TTSValidationError(
            f"the {'custom ' if custom else ''}voice {ids[0]} needs a 3.8 model; {utterance.model} takes VoiceName only"
        )


def check_length(utterance: Utterance, max_input_tokens: int | None) -> None:
    """Refuse a text that one call certainly cannot take or speak.

    Raises:
        TTSValidationError: With the code ``TEXT_TOO_LONG``.
    """
    spec = model_spec(utterance.model)
    limit = min(spec.input_tokens, max_input_tokens or spec.input_tokens)
    text, style = utterance.text, "".join(turn.style or "" for turn in utterance.turns)
    if _MOST_TOKENS_PER_CHAR * (len(text) + len(style)) <= min(limit, spec.output_tokens):
        return
    # Estimates: four characters a token in English, two in other alphabets. The API has the last word.
    plain = len((text + style).encode("ascii", "ignore"))
    tokens = plain // 4 + (len(text + style) - plain) // 2
    # At 25 tokens a second; no voice speaks more than 25 letters, or 8 East Asian characters, a second.
    audio_tokens = sum(3 if east_asian_width(char) in "WF" else 1 for char in text if char.isalnum())
    if tokens <= limit and audio_tokens <= spec.output_tokens:
        return
    size = f"about {tokens:,} tokens" if tokens > limit else f"more than {audio_tokens // 25:,} seconds of speech"
    most = f"{limit:,} tokens" if tokens > limit else f"{spec.output_tokens // 25:,} seconds"
    raise TTSValidationError(
        f"the text is {size}, and one call takes {most}: split it at ends of sentences into shorter requests",
        code=ErrorCode.TEXT_TOO_LONG,
    )
