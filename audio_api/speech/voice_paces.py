"""How each voice has spoken so far, so that a take at 0.7 of its own pace stands out."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from audio_api.audio.file_threads import in_file_thread
from audio_api.config import AudioConfig
from audio_api.engines.base import SpeechAudio, Utterance
from audio_api.text.pace import spoken_length

if TYPE_CHECKING:
    from audio_api.audio.checks import OwnPace, Verdict

# An older take counts less and less: the pace is that of about the last fifty.
_MOST_TAKES = 50.0
# Of each voice, style and language that one folder of output is used with; the one learned longest ago goes first.
_MOST_VOICES = 1_000
# No voice is slower or quicker than this, and a file that says so is wrong.
_MOST_LOG_RATIO = math.log(3)
# Shorter pieces vary too much, and of fewer the median says too little.
_COMPARED_FROM_S = 5.0
_COMPARED_PIECES = 4
# Times the median: whole pieces of one voice differ from it by 7 %.
_OUTLIER = 0.75
# A write after each of the first takes of a voice, then after every eighth part more.
_WRITTEN_EVERY = 1 / 8


class _Known(BaseModel):
    """The pace of one voice: the mean logarithm of its ratios, and the weight of that mean in takes."""

    model_config = ConfigDict(extra="forbid")

    takes: Annotated[float, Field(gt=0, le=_MOST_TAKES, allow_inf_nan=False)]
    log_ratio: Annotated[float, Field(ge=-_MOST_LOG_RATIO, le=_MOST_LOG_RATIO, allow_inf_nan=False)]

    def with_takes(self, takes: float, log_ratio: float) -> _Known:
        """This pace and that of further takes."""
        weight = min(self.takes, _MOST_TAKES - min(takes, _MOST_TAKES))
        mean = (weight * self.log_ratio + takes * log_ratio) / (weight + takes)
        return _Known(takes=min(self.takes + takes, _MOST_TAKES), log_ratio=mean)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Annotated[int, Field(ge=1, le=1)] = 1
    voices: Annotated[dict[Annotated[str, Field(max_length=32)], _Known], Field(max_length=_MOST_VOICES)] = {}


class VoicePaces:
    """The paces of all voices, shared with other processes by a file. It never fails a request.

    Two processes that write at the same moment keep the takes of one of them, which costs nothing but those takes.

    Args:
        file: Where the paces are kept, once its folder exists; ``None``: in memory only.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._known: dict[str, _Known] = {}
        self._new: dict[str, _Known] = {}
        self._is_read = file is None

    async def of(self, key: str) -> OwnPace:
        """The pace of a voice as far as it is known.

        Args:
            key: From ``voice_key``.
        """
        from audio_api.audio.checks import OwnPace  # numpy takes 0.1 s to import

        if not self._is_read and self._file:
            self._is_read = True
            kept = await in_file_thread(_read, self._file)
            self._known = kept | self._known
        known = self._known.get(key)
        return OwnPace(math.exp(known.log_ratio), known.takes) if known else OwnPace()

    async def learn(self, key: str, ratio: float) -> None:
        """Add a take that was believed, and write the file now and then.

        Args:
            key: From ``voice_key``.
            ratio: Seconds of its speech over the usual length of its text; 0 when the text cannot tell.
        """
        if ratio <= 0:
            return
        log_ratio = min(max(math.log(ratio), -_MOST_LOG_RATIO), _MOST_LOG_RATIO)
        for paces in (self._known, self._new):
            known = paces.pop(key, None)
            paces[key] = known.with_takes(1, log_ratio) if known else _Known(takes=1, log_ratio=log_ratio)
        if self._file and self._new[key].takes >= self._known[key].takes * _WRITTEN_EVERY:
            new, self._new = self._new, {}
            self._known |= await in_file_thread(_merge, self._file, new)


async def judge_audio(
    utterance: Utterance, audio: SpeechAudio, config: AudioConfig, own_pace: OwnPace, *, repeatable: bool
) -> Verdict:
    """Whether this is speech, and all of it, by a voice of this pace; a doubt costs a call where it is repeatable."""
    from audio_api.audio.checks import Take, check_speech  # numpy takes 0.1 s to import

    speeds = [turn.voice.speed or 1.0 for turn in utterance.turns]
    take = Take(
        audio.pcm,
        audio.sample_rate,
        utterance.text,
        utterance.language,
        style=", ".join(dict.fromkeys(turn.style for turn in utterance.turns if turn.style)),
        speed=sum(speeds) / len(speeds),
        finish_reason=audio.finish_reason,
        audio_tokens=audio.usage.audio_tokens,
        own_pace=own_pace,
        repeatable=repeatable,
    )
    return await check_speech(take, min_bytes=config.min_audio_size, signal=config.audio_checks != "off")


def outliers(spoken: Sequence[tuple[Utterance, float]]) -> list[tuple[int, float]]:
    """Which pieces of one text are far shorter than the others of the same voice lead to expect.

    Args:
        spoken: Each piece, and how many seconds its sound has.

    Returns:
        The index of each such piece, and its pace as a part of the median of the others.
    """
    paces: dict[str, list[tuple[int, float]]] = {}
    for index, (utterance, seconds) in enumerate(spoken):
        length = spoken_length(utterance.text, utterance.language)
        if length.usual_s >= _COMPARED_FROM_S and length.is_sure:
            paces.setdefault(voice_key(utterance, ""), []).append((index, seconds / length.usual_s))
    return [
        (index, pace / middle)
        for of_voice in paces.values()
        if len(of_voice) >= _COMPARED_PIECES
        for middle in [median(pace for _, pace in of_voice)]
        for index, pace in of_voice
        if pace < middle * _OUTLIER
    ]


def voice_key(utterance: Utterance, engine_name: str) -> str:
    """32 hexadecimal digits for everything that decides a pace: engine, model, language, voices, speeds and styles."""
    voices = {(str(turn.voice.voice_name), turn.voice.speed or 1.0, turn.style or "") for turn in utterance.turns}
    told = [engine_name, utterance.model, utterance.language, sorted(voices)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]


def _read(file: Path) -> dict[str, _Known]:
    """The paces in a file; none when it is missing, damaged, or no file of this library."""
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as opened:
            return _File.model_validate_json(opened.read(1 << 20)).voices
    except (OSError, ValidationError):
        return {}


def _merge(file: Path, new: dict[str, _Known]) -> dict[str, _Known]:
    """Add what is new to a file, and return the paces that it changed. Where there is no cache, no file is made."""
    voices = _read(file)
    changed: dict[str, _Known] = {}
    for key, pace in new.items():
        kept = voices.pop(key, None)
        voices[key] = changed[key] = kept.with_takes(pace.takes, pace.log_ratio) if kept else pace
    newest = dict(list(voices.items())[-_MOST_VOICES:])
    with suppress(OSError):
        descriptor, draft = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(descriptor, "w") as opened:
                opened.write(_File(voices=newest).model_dump_json())
            Path(draft).replace(file)
        finally:
            Path(draft).unlink(missing_ok=True)
    return changed
