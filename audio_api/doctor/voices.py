"""Whether the voices that the settings name exist, and whether voices of the account are about to expire."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from audio_api.config import AudioConfig
from audio_api.doctor.checks import Check
from audio_api.engines.from_settings import make_engine
from audio_api.errors import AudioAPIError, ConfigurationError
from audio_api.models.voice_library import VoiceQuery
from audio_api.models.voices import VoiceName, parse_voice

_TITLE = "voices"
# A month of it is left when it was not used for eleven.
_SOON = timedelta(days=30)
# A library of some dozen pages.
_LIMIT_S = 30.0


async def check_voices(config: AudioConfig) -> Check:
    """Ask for all voices, free of charge.

    Args:
        config: Its ``server_voice_aliases`` may name voices by their ids.
    """
    engine = make_engine(config.model_copy(update={"tts_engine": "gemini"}))
    try:
        async with asyncio.timeout(_LIMIT_S):
            voices = await engine.voices().find(VoiceQuery())
    except ConfigurationError as error:
        return Check("ok", _TITLE, f"not asked: {error}")
    except TimeoutError:
        return Check("warn", _TITLE, f"not all listed within {_LIMIT_S:g} s")
    except AudioAPIError as error:
        return Check("warn", _TITLE, f"not listed: {error}")
    finally:
        await engine.close()
    own = [voice for voice in voices if voice.kind != "prebuilt"]
    known = {voice.id for voice in voices}
    named = {str(parse_voice(name)) for name in config.server_voice_aliases.values()} - set(VoiceName)
    if missing := sorted(named - known):
        return Check("fail", _TITLE, f"SERVER_VOICE_ALIASES names what the account has not: {', '.join(missing)}")
    soon = datetime.now(UTC) + _SOON
    ends = {voice.id: voice.expires_at for voice in own if voice.expires_at and voice.expires_at < soon}
    if ends:
        ending = [f"{voice} on {end:%Y-%m-%d}" for voice, end in ends.items()]
        return Check("warn", _TITLE, f"unless they are used before, these expire: {', '.join(ending)}")
    return Check("ok", _TITLE, f"{len(voices):,}, of which the account made {len(own)}")
