"""``audio-api estimate``: what a text will take, before anything is paid."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from audio_api.cli.exit_codes import DONE
from audio_api.cli.options import (
    AsJson,
    Keep,
    LanguageOfText,
    MarkupOfText,
    Model,
    Offline,
    Speakers,
    Speed,
    TextFile,
    TextWords,
    Voice,
    settings_of,
)

if TYPE_CHECKING:
    from audio_api.models.estimate import Estimate


def estimate(
    text: TextWords = None,
    file: TextFile = None,
    voice: Voice = "kore",
    speaker: Speakers = None,
    language: LanguageOfText = "en-US",
    speed: Speed = None,
    model: Model = None,
    markup: MarkupOfText = None,
    keep: Keep = None,
    as_json: AsJson = False,
    offline: Offline = False,
) -> int:
    """Tell the characters, minutes, calls and cost of a text.

    TEXT is what would be spoken; - reads it from standard input. Nothing is paid. Of a book: book --list.
    """
    arguments = locals()
    from audio_api.cli.saying import SayOrder, request_of
    from audio_api.cli.terminal import complain, run
    from audio_api.cli.wording import dollars, hours, in_words
    from audio_api.services.tts_service import TTSService

    config = settings_of(offline=offline)
    request = request_of(SayOrder(**arguments), config)

    async def ask() -> Estimate:
        async with TTSService(config) as service:
            return await service.estimate(request)

    found = run(ask())
    calls = found.pieces - found.cached_pieces
    rates = {"RATE_LIMIT_RPM": (config.rate_limit_rpm, 60), "RATE_LIMIT_RPD": (config.rate_limit_rpd, 86_400)}
    # As many calls as the quota allows leave at once, and the next ones a minute or a day later.
    waits_s = {
        f"{name}={most}": max(0, calls - 1) // most * window_s for name, (most, window_s) in rates.items() if most
    }
    wait_s = max(waits_s.values(), default=None)
    if as_json:
        print(json.dumps({**found.model_dump(mode="json"), "calls": calls, "quota_wait_s": wait_s}))
        return DONE
    tiers = ", ".join(f"{tier} {dollars(cost)}" for tier, cost in found.costs_usd.items() if tier != "standard")
    kept = (
        f" ({found.cached_pieces} of {found.pieces} pieces are kept, and cost nothing)" if found.cached_pieces else ""
    )
    quota = "unknown: set RATE_LIMIT_RPM and RATE_LIMIT_RPD to those of your account"
    if wait_s is not None:
        quota = f"{hours(wait_s)} ({', '.join(waits_s)})" if wait_s else f"none ({', '.join(waits_s)})"
    print(f"model           {found.model}")
    print(f"characters      {found.characters:,}")
    print(f"time to hear    {hours(found.seconds)}")
    print(f"calls           {calls:,}{kept}")
    print(f"cost at most    {dollars(found.cost_usd)}{f' ({tiers})' if tiers and found.cost_usd else ''}")
    print(f"waits at quota  {quota}")
    for warning in found.warnings:
        complain(f"warning: {in_words(warning)}")
    return DONE
