"""What ``audio-api say`` does: a text becomes a file, sound on standard output, or is heard."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from audio_api.cli.exit_codes import DONE
from audio_api.cli.options import language_code, pairs
from audio_api.cli.players import Player, find_player
from audio_api.cli.terminal import Progress, complain, ended_tidily, progress_bar
from audio_api.cli.texts import read_text
from audio_api.cli.wording import hours, in_words
from audio_api.config import AudioConfig
from audio_api.errors import TTSValidationError
from audio_api.models.audio_request import AudioRequest, AudioResponse, Markup, SpeechProgress
from audio_api.models.filenames import safe_filename
from audio_api.models.service_tiers import ServiceTier
from audio_api.models.sound_formats import OutputFormat
from audio_api.services.one_liner import aimed_at
from audio_api.services.tts_service import TTSService

# Of a name that is made from the text.
_NAME_CHARS, _KEY_DIGITS = 40, 8


_NOT_HEARD = {"output_filename", "overwrite", "cache", "priority", "service_tier", "subtitles"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SayOrder:
    """What the command was given, as ``audio_api.cli.say`` declares it; ``None``: it was left out."""

    text: Sequence[str] | None = None
    file: str | None = None
    output: str | None = None
    sound_format: OutputFormat | None = None
    subtitles: Sequence[str] | None = None
    voice: str = "kore"
    speaker: Sequence[str] | None = None
    language: str = "en-US"
    style: str | None = None
    speed: float | None = None
    pitch: float | None = None
    model: str | None = None
    tier: ServiceTier | None = None
    markup: Markup | None = None
    keep: Sequence[str] | None = None
    overwrite: bool = False
    play: bool = False
    stream: bool = False
    as_json: bool = False
    offline: bool = False


def run(order: SayOrder, config: AudioConfig) -> int:
    """Do what the command was given.

    Raises:
        AudioAPIError: No speech was made, or it could not be played.
        ValueError: An option is wrong.
        KeyboardInterrupt: The user ended it; what is kept was told.
    """
    _refuse_contradictions(order)
    request = request_of(order, config)
    with ExitStack() as opened:
        cache_dir = config.cache_dir or config.output_dir / ".cache"
        if order.output == "-":
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="audio-api-")))
            config = config.model_copy(update={"output_dir": folder, "output_url": None, "cache_dir": cache_dir})
        elif order.output:
            config, name = aimed_at(order.output, config)
            # Checked again, because the format must fit.
            request = AudioRequest.model_validate(
                {**dict(request), "output_filename": name, "overwrite": order.overwrite}
            )
        else:
            named = {"output_filename": readable_name(request, config), "overwrite": True}
            request = request.model_copy(update=named)
        player = None
        if order.play:
            sound_format = "wav" if order.stream else request.format_or(config.output_format)
            player = find_player(sound_format, stream=order.stream)
        response = _spoken(order, request, config, player)
        _tell(order, response)
        if order.output == "-" and response.file_path:
            with open(response.file_path, "rb") as sound:  # noqa: PTH123 - beside the copy, which takes a file, too
                shutil.copyfileobj(sound, sys.stdout.buffer)
        elif player and response.file_path:
            player.play(response.file_path)
    return DONE


def _refuse_contradictions(order: SayOrder) -> None:
    if order.output == "-":
        if others := [
            name
            for name, given in {"--json": order.as_json, "--play": order.play, "--subtitles": order.subtitles}.items()
            if given
        ]:
            raise TTSValidationError(f"-o - gives out sound alone: leave out {' and '.join(others)}, or name a file")
        if sys.stdout is None or sys.stdout.isatty():
            raise TTSValidationError(
                "-o -: sound is nothing for a terminal: redirect standard output into a file or a program, as in "
                "| ffplay -i -"
            )
    if order.play and order.stream and (order.output or order.subtitles):
        raise TTSValidationError("--play with --stream keeps no file: leave out --stream to have one that is played")


def request_of(order: SayOrder, config: AudioConfig) -> AudioRequest:
    """What the options ask for; the text is read, and the name of the file not known yet."""
    is_markdown = order.file and Path(order.file).suffix.lower() in {".md", ".markdown"}
    cast = [
        {"speaker_name": name, "voice_name": voice, "speed": order.speed, "pitch": order.pitch}
        for name, voice in pairs("--speaker", order.speaker or (), "Alice=leda")
    ]
    return AudioRequest.model_validate(
        {
            "text": read_text(order.text or (), order.file),
            "voice_config": {"voice_name": order.voice, "speed": order.speed, "pitch": order.pitch},
            "speaker_mode": "multiple" if cast else "single",
            "cast": cast or None,
            "language": language_code(order.language),
            "style": order.style,
            "model": order.model,
            "markup": order.markup or ("markdown" if is_markdown else config.markup),
            "markup_keep": order.keep or (),
            "subtitles": tuple(dict.fromkeys(order.subtitles or ())),
            "output_format": order.sound_format,
            "service_tier": order.tier,
        }
    )


def readable_name(request: AudioRequest, config: AudioConfig) -> str:
    """A name from the first words and a key of all that is heard, so that the same request finds its file again."""
    heard = request.model_dump_json(exclude=_NOT_HEARD)
    key = hashlib.sha256(f"{config.tts_engine} {config.default_tts_model} {heard}".encode()).hexdigest()[:_KEY_DIGITS]
    start = unicodedata.normalize("NFC", request.text[: 4 * _NAME_CHARS])
    words = "".join(char if char.isalnum() or unicodedata.category(char)[0] == "M" else " " for char in start).split()
    while len(words) > 1 and len("-".join(words)) > _NAME_CHARS:
        words.pop()
    sound_format = request.format_or(config.output_format)
    try:
        return safe_filename(f"{'-'.join(words)[:_NAME_CHARS]}-{key}", sound_format)
    except ValueError:
        return f"speech-{key}.{sound_format}"


def _spoken(order: SayOrder, request: AudioRequest, config: AudioConfig, player: Player | None) -> AudioResponse:
    told: list[SpeechProgress] = []
    with ended_tidily() as signals:
        try:
            with ExitStack() as opened:
                sink: IO[bytes] | None = None
                if order.stream and player:
                    sink = opened.enter_context(player.playing())
                elif order.stream and order.output == "-":
                    sink = sys.stdout.buffer
                show = opened.enter_context(progress_bar())
                return asyncio.run(_speak(order, request, config, sink, show, told))
        except KeyboardInterrupt:
            if not signals:
                pieces = f"{told[-1].pieces_done} of {told[-1].pieces_total}" if told else "finished"
                kept = f"{pieces} pieces are kept: the same command goes on from there"
                if config.tts_engine == "offline" or not config.cache_max_bytes:
                    kept = "no file was written, and nothing is kept"
                complain(f"interrupted; {kept}")
            raise


async def _speak(
    order: SayOrder,
    request: AudioRequest,
    config: AudioConfig,
    sink: IO[bytes] | None,
    show: Progress,
    told: list[SpeechProgress],
) -> AudioResponse:
    show("speaking", 0, None, f"{len(request.text):,} characters")

    def on_progress(progress: SpeechProgress) -> None:
        told.append(progress)
        done, total = progress.pieces_done, progress.pieces_total
        show("speaking", done, total, f"{done} of {total} pieces, {hours(progress.seconds)}")

    async with TTSService(config) as service:
        if sink is None:
            make = service.stream_to_file if order.stream else service.generate_audio
            return await make(request, on_progress)
        ended: list[AudioResponse] = []
        sound_format = "wav" if order.play else order.sound_format or config.output_format
        if sound_format == "m4a":
            raise TTSValidationError(
                "--stream cannot give out m4a, which begins with an index of all of it: try --format mp3"
            )
        async with aclosing(service.stream_audio(request, ended.append, format=sound_format)) as blocks:
            async for block in blocks:
                await asyncio.to_thread(_write, sink, block)
        return ended[-1]


def _write(sink: IO[bytes], block: bytes) -> None:
    sink.write(block)
    sink.flush()


def _tell(order: SayOrder, response: AudioResponse) -> None:
    """Print what became of it, or raise that it failed."""
    if order.as_json:
        print(response.model_dump_json(), flush=True)
    response.raise_for_error()
    if not (order.as_json or order.output == "-"):
        cost = "cost unknown" if response.cost_usd is None else f"${response.cost_usd:.4f}"
        place = response.file_path or response.url
        print(*filter(None, [place, f"{response.duration:.2f} s", cost]), sep="  ")
        print(*response.subtitle_paths, sep="\n", end="\n" if response.subtitle_paths else "", flush=True)
    for warning in response.warnings:
        complain(f"warning: {in_words(warning)}")
