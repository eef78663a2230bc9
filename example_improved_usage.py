"""Every feature, one function each, ending with what this run measured. ``python example_improved_usage.py``.

Gemini speaks when ``GEMINI_API_KEY`` is set; otherwise the offline engine does, and says so. The part about faults
needs no key in either case: a local emulator of the API gets things wrong on purpose. Files go to ``output/``, the
log to standard error.
"""

import asyncio
import os
import sys
import time
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from audio_api import (
    AudioConfig,
    AudioRequest,
    AudioResponse,
    ConfigurationError,
    MultiSpeakerConfig,
    SpeakerConfig,
    SpeakerMode,
    TTSService,
    TTSValidationError,
    VoiceConfig,
    VoiceModel,
    asay,
    get_config,
    get_logger,
    reload_config,
    setup_logging,
)
from audio_api.emulator import Emulator, Fault

console = Console()
logger = get_logger("example")
made: list[AudioResponse] = []


async def main() -> int:
    """Run every part; return 0 when each did what it was meant to."""
    begin = time.perf_counter()
    config = settings()
    setup_logging(config.model_copy(update={"log_level": "WARNING"}))
    logger.warning("an event is one line, its fields behind it", extra={"output_dir": config.output_dir})
    async with TTSService(config) as tts:
        health = await tts.health_check()
        console.print(f"Health of {health.engine}: {health.error or 'well'}")
        await styles_and_voices(tts)
        await languages(tts)
        await dialogue(tts)
        await cast_of_three(tts)
        await long_text_with_subtitles(tts)
        await stream(tts)
        await batch_with_progress(tts)
        await errors(tts)
    await one_line(config)
    await changed_settings(config)
    await faults_and_retries()
    report(time.perf_counter() - begin)
    return 0 if all(response.success for response in made) else 1


def settings() -> AudioConfig:
    """The settings of the environment and ``.env``; the offline engine's when there is no key."""
    config = AudioConfig()
    if config.tts_engine == "gemini" and config.gemini_api_key is None:
        console.print("[bold]No GEMINI_API_KEY is set: the OFFLINE engine speaks, in a robotic voice.[/bold]")
        os.environ["TTS_ENGINE"] = "offline"  # so that reload_config(), below, decides the same
        config = AudioConfig()
    return config


async def speak(tts: TTSService, text: str, name: str, **fields: object) -> AudioResponse:
    """Speak one request into ``output/<name>.wav``, show what became of it, and note it for the report."""
    request = AudioRequest.model_validate({"text": text, "output_filename": name, "overwrite": True, **fields})
    response = await tts.generate_audio(request)
    console.print(f"  {response.message}")
    made.append(response)
    return response


async def styles_and_voices(tts: TTSService) -> None:
    """A style says how to speak and is never spoken; speed and pitch reach Gemini as style words."""
    console.rule("Styles and voices")
    await speak(tts, "Have you heard the news? We won!", "excited", style="excited, joyful")
    await speak(tts, "It is late. The house is asleep.", "whispered", style="whispering")
    await speak(tts, "This voice takes its time.", "slow", voice_config=VoiceConfig(voice_name="Sulafat", speed=0.7))
    await speak(tts, "This voice is in a hurry.", "fast", voice_config=VoiceConfig(voice_name="puck", speed=1.6))
    await speak(tts, "This voice is deep.", "deep", voice_config=VoiceConfig(voice_name="CHARON", pitch=0.6))


async def languages(tts: TTSService) -> None:
    """A language is one of ``Language``, or any other BCP-47 code as a plain string."""
    console.rule("Languages")
    await speak(tts, "God morgon! Idag skiner solen.", "swedish", language="sv-SE")
    await speak(tts, "Dobré ráno! Dnes svítí slunce.", "czech", language="cs-cz")
    await speak(tts, "Bom dia! Hoje faz sol.", "portuguese", language="pt-PT")


async def dialogue(tts: TTSService) -> None:
    """Two speakers, each with a voice and a style of their own."""
    console.rule("Dialogue")
    speakers = (
        SpeakerConfig(speaker_name="Ann", voice_name="leda", style="curious"),
        SpeakerConfig(speaker_name="Joe", voice_name="orus", style="tired"),
    )
    await speak(
        tts,
        "Ann: Is it far? Joe: Another hour, I think. Ann: Then let us take a rest!",
        "dialogue",
        speaker_mode=SpeakerMode.MULTIPLE,
        multi_speaker_config=MultiSpeakerConfig(speakers=speakers),
    )


async def cast_of_three(tts: TTSService) -> None:
    """A cast of up to thirty, though a call to Gemini speaks with two voices at most; a turn may have its own style."""
    console.rule("Cast of three")
    names = {"Narrator": "sulafat", "Ann": "leda", "Joe": "orus"}
    await speak(
        tts,
        "Narrator: They came to a door. Ann [whispering]: Do we knock? Joe: Let us. Narrator: No answer came.",
        "cast",
        speaker_mode=SpeakerMode.MULTIPLE,
        cast=[SpeakerConfig(speaker_name=name, voice_name=voice) for name, voice in names.items()],
    )


async def long_text_with_subtitles(tts: TTSService) -> None:
    """A long text is made piece by piece; finished pieces are kept, so that a second run pays only for what failed."""
    console.rule("Long text")
    days = " ".join(f"Day {day}: we sailed on, saw no land, and told each other stories." for day in range(1, 36))
    request = AudioRequest(text=days, output_filename="voyage", overwrite=True, subtitles=("srt", "vtt"))
    with Progress(console=console) as progress:
        bar = progress.add_task("Speaking", total=None)
        response = await tts.generate_audio(
            request, on_progress=lambda now: progress.update(bar, completed=now.pieces_done, total=now.pieces_total)
        )
    console.print(f"  {response.message} beside {' and '.join(Path(path).name for path in response.subtitle_paths)}")
    made.append(response)


async def stream(tts: TTSService) -> None:
    """Sound can be heard while it is made: as blocks, or as a file that grows."""
    console.rule("Stream")
    text = "You hear this sentence first. Meanwhile the next ones are made, so that you never have to wait for them."
    begin = time.perf_counter()
    blocks: list[bytes] = []
    async for pcm in tts.stream_audio(AudioRequest(text=text), on_done=lambda done: console.print(f"  {done.message}")):
        if not blocks:
            console.print(f"  the first sound came after {time.perf_counter() - begin:.3f} s")
        blocks.append(pcm)
    console.print(f"  in {len(blocks)} blocks")
    response = await tts.stream_to_file(AudioRequest(text=text, output_filename="streamed", overwrite=True))
    console.print(f"  {response.message}")
    made.append(response)


async def batch_with_progress(tts: TTSService) -> None:
    """Many requests, a few at a time; one failure does not stop the others."""
    console.rule("Batch")
    requests = [
        AudioRequest(text=f"This is sentence number {number}.", output_filename=f"batch-{number}", overwrite=True)
        for number in range(1, 13)
    ]
    with Progress(console=console) as progress:
        bar = progress.add_task("Speaking", total=len(requests))
        batch = await tts.generate_batch(
            requests, max_concurrency=4, on_progress=lambda done, total, response: progress.update(bar, completed=done)
        )
    console.print(f"  {batch.completed} of {batch.total_requests} completed, {batch.failed} failed")
    made.extend(batch.results)


async def errors(tts: TTSService) -> None:
    """A failure is a response with a stable code; ``raise_for_error`` turns it into its exception."""
    console.rule("Errors")
    response = await tts.generate_audio(AudioRequest(text="Once more.", output_filename="excited"))
    console.print(f"  {response.error_code}: {response.error} (worth another try: {response.retryable})")
    try:
        AudioRequest(text="Hello", voice_config=VoiceConfig(voice_name="sulafit"))
    except ValidationError as error:
        console.print(f"  {error.errors()[0]['msg']}", markup=False)
    silent = SpeakerConfig(speaker_name="Joe", voice_name="orus")
    request = AudioRequest(
        text="Ann: Is no one here?",
        speaker_mode=SpeakerMode.MULTIPLE,
        multi_speaker_config=MultiSpeakerConfig(
            speakers=(SpeakerConfig(speaker_name="Ann", voice_name="leda"), silent)
        ),
    )
    try:
        (await tts.generate_audio(request)).raise_for_error()
    except TTSValidationError as error:
        console.print(f"  {error.code}: {error}")


async def one_line(config: AudioConfig) -> None:
    """``asay`` needs no service; outside of coroutines it is ``say``."""
    console.rule("One line")
    made.append(await asay("One line is enough.", config.output_dir / "one-line.wav", config=config, overwrite=True))
    console.print(f"  {made[-1].message}")


async def changed_settings(config: AudioConfig) -> None:
    """A service without a configuration of its own follows ``reload_config``; a wrong value changes nothing."""
    console.rule("Settings changed at run time")
    get_config()
    async with TTSService() as tts:
        os.environ["OUTPUT_DIR"] = str(config.output_dir / "reloaded")
        reload_config()
        await speak(tts, "The new settings are in force.", "reloaded")
        os.environ["OUTPUT_DIR"] = str(config.output_dir)
        os.environ["RETRY_ATTEMPTS"] = "none"
        try:
            reload_config()
        except ConfigurationError as error:
            console.print(f"  refused: {error}", markup=False)
        del os.environ["RETRY_ATTEMPTS"]
        reload_config()


async def faults_and_retries() -> None:
    """What happens when the API fails, shown with an emulator of it: no key, no bill, a computed sound, a JSON log."""
    console.rule("Faults and retries, against the emulator")
    with Emulator() as gemini:
        config = AudioConfig(
            tts_engine="gemini",
            gemini_api_key="any-key-will-do-here",
            gemini_base_url=gemini.url,
            retry_min_wait=0.01,
            retry_max_wait=0.1,
            log_level="INFO",
            enable_structured_logging=True,
        )
        setup_logging(config)
        async with TTSService(config) as tts:
            gemini.fail_next(Fault.UNAVAILABLE_503, Fault.SILENT, Fault.TRUNCATED_JSON, Fault.TEXT_ONLY)
            response = await speak(tts, "The fifth attempt is the good one.", "emulator-retried")
            console.print(f"  {response.attempts} attempts, {response.usage.audio_tokens} audio tokens billed")
            gemini.fail_next(Fault.MODEL_RETIRED)
            old = VoiceModel.GEMINI_TTS_FLASH
            response = await speak(tts, "A successor takes over.", "emulator-successor", model=old)
            console.print(f"  {response.warnings[0]}")
            gemini.fail_next(Fault.QUOTA_DAY)
            refused = await tts.generate_audio(AudioRequest(text="Not today."))
            console.print(f"  {refused.error_code} after {refused.attempts} attempt: {refused.error}")


def report(elapsed_s: float) -> None:
    """Show what this run made and how long it took."""
    console.rule("Measured in this run")
    good = [response for response in made if response.success]
    audio_s = sum(response.duration or 0 for response in good)
    waits_s = sorted(response.processing_time or 0 for response in good)
    table = Table("figure", "value")
    table.add_row("requests that succeeded", f"{len(good)} of {len(made)}")
    table.add_row("API calls or syntheses", str(sum(response.attempts for response in made)))
    table.add_row("seconds of audio", f"{audio_s:.1f}")
    table.add_row("seconds per request, median, longest", f"{waits_s[len(waits_s) // 2]:.3f}, {waits_s[-1]:.3f}")
    table.add_row("seconds in all", f"{elapsed_s:.1f}")
    console.print(table)


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except ConfigurationError as error:
        sys.exit(f"A setting in the environment or in .env is wrong. {error}")
