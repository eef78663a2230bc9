"""``audio-api voices``, ``languages`` and ``models``: what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from audio_api.cli.exit_codes import DONE
from audio_api.cli.options import settings_of
from audio_api.cli.terminal import run

if TYPE_CHECKING:
    from audio_api.models.voice_library import VoiceInfo


def voices(
    search: Annotated[
        str | None, typer.Option("--search", metavar="WORDS", help="ask the API for voices with this in their name")
    ] = None,
    language: Annotated[
        str | None, typer.Option("--language", metavar="CODE", help="ask it for those of a language, such as ar")
    ] = None,
    gender: Annotated[
        str | None, typer.Option("--gender", metavar="WORD", help="ask it for female, male or neutral ones")
    ] = None,
) -> int:
    """List the thirty voices that every account has, or search Google's library and your own, free of charge."""
    if search or language or gender:
        from audio_api.services.tts_service import TTSService

        async def ask() -> list[VoiceInfo]:
            async with TTSService(settings_of(offline=False)) as tts:
                return await tts.list_voices(search=search, language=language, gender=gender)

        found = run(ask())
        width = max((len(voice.id) for voice in found), default=0)
        for voice in found:
            told = (voice.language, voice.gender, voice.name, voice.description)
            life = f"expires {voice.expires_at:%Y-%m-%d}" if voice.expires_at else ""
            print(f"{voice.id:<{width}} {'; '.join(filter(None, (*told, life)))}")
        return DONE
    from audio_api.models.voices import VoiceName

    for name in VoiceName:
        print(f"{name:<15} {name.character}")
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
