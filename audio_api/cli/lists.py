"""``audio-api voices``, ``languages`` and ``models``: what there is."""

from __future__ import annotations

from audio_api.cli.exit_codes import DONE


def voices() -> int:
    """List the voices."""
    from audio_api.models.voices import VoiceName

    for voice in VoiceName:
        print(f"{voice:<15} {voice.character}")
    return DONE


def languages() -> int:
    """List the languages."""
    from audio_api.models.languages import Language

    for language in Language:
        print(f"{language:<7} {language.display_name}")
    return DONE


def models() -> int:
    """List the models, with prices."""
    from datetime import UTC, datetime

    from audio_api.models.speech_models import DEFAULT_MODEL, VoiceModel, model_spec

    today = datetime.now(UTC).date()
    print(f"{'model':<29} {'US$ per million tokens, input / audio'}")
    for model in VoiceModel:
        spec = model_spec(model)
        price = spec.price(today)
        notes = [f"{price.input_usd:.2f} / {price.audio_usd:.2f}" if price else "price unknown"]
        if model is DEFAULT_MODEL:
            notes.append("default")
        if spec.shutdown:
            notes.append(f"shut down after {spec.shutdown}, then {spec.successor}")
        print(f"{model:<29} {'; '.join(notes)}")
    return DONE
