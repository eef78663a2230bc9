"""Is this speech, and all of it?

A reply can be silent, noise, cut short or ten times too long and still say "200 OK, STOP". ``judge`` measures the sound
and holds it against the text. It only judges; whether a take is asked for again is decided by the service.

Sources of the limits: 589 sentences in 24 languages and 378 single words, spoken by eSpeak NG at 175 words per minute;
reports of real Gemini replies; and, for the length, the texts of ``tests/corpus.py``, whole, cut and repeated, whose
table ``benchmarks/checks.py`` prints. Each hard limit keeps a wide margin: no whole text fails one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from audio_api.audio.large_sounds import in_sound_thread
from audio_api.audio.levels import NOISE_WINDOW_S, VOICED_DBFS, SoundMeasures, measure
from audio_api.errors import ErrorCode
from audio_api.text.pace import SpokenLength, spoken_length

_THREAD_ABOVE_S = 60.0
_LOWEST_RATE_HZ = 8_000  # telephone; what is measured below means nothing for less
_SHORTEST_S = 0.15
_LONGEST_S = 660.0  # 16,384 audio tokens, the most one call returns, are 655 s at 25 a second
_TOKENS_PER_S = 32  # seen: 25 and 32; the larger one never calls complete audio incomplete
_TOKEN_TOLERANCE = 0.97

# The comments give the worst value that good speech measured.
_SILENT_RMS_DBFS = -60.0  # -33.3
_SILENT_PEAK_DBFS = -50.0  # -5.1
_LEAST_VOICED_SHARE = 0.20  # 0.63; single words 0.17, so that it is asked only above a second
# 0.909; the hoarsest eSpeak voice 0.68, and 0.32 in a short text of hissing sounds; noise and swapped bytes 0.1.
_LEAST_CORRELATION = 0.25
# Static in the midst of good speech. Two seconds of hissing sounds and little else reached 0.49.
_LEAST_WINDOW_CORRELATION = 0.25
_LEAST_DYNAMICS_DB = 6.0  # 15.9; the flattest eSpeak voice 10.9
_MOST_CLIPPED_SHARE = 0.02  # 0
_MOST_OFFSET = 0.1  # 0.002 of full scale
_LONGEST_TRAILING_S = 1.5  # 0.38
_LONGEST_LEADING_S = 2.0  # 0.12
_LONGEST_GAP_S = 5.0  # 0.32
_SILENT_END_SHARE = 0.25
_SHARES_FROM_S = 1.0
# eSpeak ends with 120 ms of quiet, Gemini with 250 ms. A last frame this loud also means no trailing silence at all.
_ABRUPT_DBFS = -35.0

_RATED_FROM_S = 1.5  # 20 letters of English; shorter texts vary too much for a rate
# Times the short, or the long, reading of the text, by an unknown voice: below, words are probably missing; above,
# something was said twice or added. Of whole texts spoken by the offline voice 0.1 % are outside, of those cut at 70 %
# nine tenths.
_UNKNOWN_SHORT, _UNKNOWN_SHORT_ONCE, _UNKNOWN_LONG = 0.86, 0.84, 1.6
# The same for a voice whose own pace is known, times that pace. If another take can follow, a wrong doubt costs a call.
# If none can, a wrong doubt marks right sound.
_KNOWN_SHORT, _KNOWN_LONG = 0.925, 1.5
_KNOWN_SHORT_ONCE, _KNOWN_LONG_ONCE = 0.875, 1.6
# Short texts vary more than long ones, by a word or a breath. A voice whose takes are all the same varies less.
_UNSURE_S, _UNSURE_ONCE_S = 0.3, 0.15
# Takes after which half of the judgement comes from the voice's own pace.
_HALF_KNOWN_TAKES = 1.5
# Times the limits above: a suspect take within them is believed when another one is about as long. Of texts cut at
# 60 %, 19 of 20 are outside.
_PLAUSIBLY_SHORT, _PLAUSIBLY_LONG = 0.87, 1.1
# Times the least length below which no voice speaks: the quickest known take of the quickest voice is at 0.62.
_IMPOSSIBLY_SHORT = 0.45
_FAST_FACTOR = 0.78
_FAST_FROM = 1.1
_LONG_FACTOR, _LONG_EXTRA_S = 2.5, 3.0
_SLOW_FACTOR, _SLOW_EXTRA_S = 5.0, 10.0

_PAUSE = re.compile(r"[<\[][^<>\[\]]{0,40}\b(?:pause|break|silence)\b[^<>\[\]]{0,40}[>\]]|\.{3,}|…", re.IGNORECASE)
_FAST_STYLE = re.compile(
    r"\b(?:fast|quick|rapid|hurr|brisk|rush|speed|hast|breathless|urgen|excite|energetic|frantic)", re.IGNORECASE
)
_PAUSING_STYLE = re.compile(r"\b(?:paus|silence|meditat|hesita|dramatic)", re.IGNORECASE)
_SLOW_STYLE = re.compile(r"\b(?:slow|drawl|drawn|leisure|unhurried|drows|sleepy|solemn|sing|chant)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checks found.

    Attributes:
        outcome: ``accept``; ``suspect``: probably not the whole text, worth another take; ``reject``: no success.
        code: The reason; ``None`` when accepted.
        detail: One sentence with the measured value and its limit, never the text; empty when accepted.
        speech_s: Seconds from the first audible frame to the last; 0 when the sound was not looked at.
        pace: ``speech_s`` over the usual length of the text; 0 when the text cannot tell.
        plausible: Whether a voice may speak the text in this time, so that a second take of about the same length makes
            a suspect one believable.
    """

    outcome: Literal["accept", "suspect", "reject"]
    code: ErrorCode | None = None
    detail: str = ""
    speech_s: float = 0.0
    pace: float = 0.0
    plausible: bool = False


@dataclass(frozen=True, slots=True)
class OwnPace:
    """How a voice has spoken so far.

    Attributes:
        ratio: Seconds of its speech over the usual length of its texts; above 1 it speaks slowly.
        takes: The weight of this ratio, in takes; 0: nothing is known.
    """

    ratio: float = 1.0
    takes: float = 0.0

    @property
    def trust(self) -> float:
        """How far the ratio decides: from 0 to 1."""
        return self.takes / (self.takes + _HALF_KNOWN_TAKES)


@dataclass(frozen=True, slots=True)
class Take:
    """One attempt's sound, what the reply said about it, and what should be heard.

    Attributes:
        pcm: Signed 16-bit little-endian samples of one channel; half a sample at the end is ignored.
        sample_rate: Samples per second.
        text: What should have been spoken, without speakers' names.
        language: A BCP-47 code; ``""`` when unknown. It refines the speaking rate, no more.
        style: How it should have been spoken; ``""``: plain. Words such as "fast" or "slow" widen the limits.
        speed: 0.1 to 3.0, as asked for; 1.0: natural.
        finish_reason: The API's reason for stopping; anything but ``"STOP"``, ``None`` included, is incomplete.
        audio_tokens: Audio tokens billed; 0 when unknown.
        own_pace: That of this voice in this language and style.
        repeatable: Whether another take can be asked for, and settle a doubt.
    """

    pcm: bytes
    sample_rate: int
    text: str
    language: str = ""
    style: str = ""
    speed: float = 1.0
    finish_reason: str | None = "STOP"
    audio_tokens: int = 0
    own_pace: OwnPace = OwnPace()
    repeatable: bool = True


async def check_speech(take: Take, *, min_bytes: int = 1_000, signal: bool = True) -> Verdict:
    """Do what ``judge`` does without holding up the event loop: more than a minute of audio is judged in a thread."""
    work = partial(judge, take, min_bytes=min_bytes, signal=signal)
    if signal and len(take.pcm) / 2 > _THREAD_ABOVE_S * take.sample_rate:
        return await in_sound_thread(work)
    return work()


def judge(take: Take, *, min_bytes: int = 1_000, signal: bool = True) -> Verdict:
    """Judge one take; a pure function of its arguments.

    Args:
        take: Whatever bytes it holds.
        min_bytes: Bytes of sound below which an answer is no audio.
        signal: ``False`` looks at ``finish_reason`` and ``min_bytes`` only.
    """
    accepted = Verdict("accept")
    n_bytes, rate, tokens, least_bytes = len(take.pcm), take.sample_rate, take.audio_tokens, max(min_bytes, 2)
    if take.finish_reason != "STOP":
        return _reject(ErrorCode.AUDIO_INCOMPLETE, f"generation ended with {take.finish_reason!r:.40}, not 'STOP'")
    if n_bytes < least_bytes:
        return _reject(ErrorCode.NO_AUDIO, f"{n_bytes:,} bytes of sound; at least {least_bytes:,} are expected")
    if not signal:
        return accepted
    if rate < _LOWEST_RATE_HZ:
        return _reject(ErrorCode.AUDIO_FORMAT, f"{rate:,} samples per second; speech needs {_LOWEST_RATE_HZ:,}")
    duration_s, billed_s = n_bytes // 2 / rate, tokens / _TOKENS_PER_S
    if duration_s < _SHORTEST_S:
        detail = f"{duration_s:.3f} s of sound; no word is shorter than {_SHORTEST_S} s"
        return _reject(ErrorCode.AUDIO_TOO_SHORT, detail)
    if duration_s > _LONGEST_S:
        detail = f"{duration_s:.0f} s of sound; one call returns {_LONGEST_S:.0f} s at most"
        return _reject(ErrorCode.AUDIO_TOO_LONG, detail)
    if duration_s < billed_s * _TOKEN_TOLERANCE:
        detail = f"{duration_s:.2f} s of sound, but {tokens:,} billed audio tokens are at least {billed_s:.2f} s"
        return _reject(ErrorCode.AUDIO_INCOMPLETE, detail)
    sound, script = measure(take.pcm, take.sample_rate), _read(take)
    for faults in (_signal_faults, _silence_faults, _pace_faults):
        if fault := next(faults(sound, script), None):
            return replace(fault, speech_s=sound.speech_s, pace=script.pace_of(sound))
    return replace(accepted, speech_s=sound.speech_s, pace=script.pace_of(sound))


@dataclass(frozen=True, slots=True)
class _Expected:
    """What a text lets expect of its sound.

    Attributes:
        length: How long it takes.
        impossible_s: Seconds of speech below which words are certainly missing.
        short_s: Seconds of speech below which words are probably missing.
        long_s: Seconds of speech above which something else was probably spoken too.
        longest_s: Seconds of sound above which something else was certainly spoken too.
        pauses: Whether silence was asked for, anywhere.
        pause_first: Whether the text begins with a pause.
        pause_last: Whether the text ends with a pause.
    """

    length: SpokenLength
    impossible_s: float
    short_s: float
    long_s: float
    longest_s: float
    pauses: bool
    pause_first: bool
    pause_last: bool

    @property
    def is_rated(self) -> bool:
        """Whether the text is long enough for a pace."""
        return self.length.usual_s >= _RATED_FROM_S

    def pace_of(self, sound: SoundMeasures) -> float:
        """Seconds of speech over the usual length of the text; 0 where voices differ in how they read it."""
        return sound.speech_s / self.length.usual_s if self.is_rated and self.length.is_sure else 0.0


def _read(take: Take) -> _Expected:
    length = spoken_length(take.text, take.language)
    pieces = _PAUSE.split(take.text)
    pauses = len(pieces) > 1 or bool(_PAUSING_STYLE.search(take.style))
    # A voice may draw a single syllable out; a short text must only not become a paragraph.
    unhurried = pauses or take.speed < 1 or bool(_SLOW_STYLE.search(take.style)) or length.usual_s < _RATED_FROM_S
    hurried = take.speed > _FAST_FROM or bool(_FAST_STYLE.search(take.style))
    fast = min(_FAST_FACTOR, 1 / take.speed) if hurried else 1.0
    slow = max(_SLOW_FACTOR / _LONG_FACTOR, 1 / take.speed) if unhurried else 1.0
    own, trust = take.own_pace.ratio, take.own_pace.trust
    known_short = _KNOWN_SHORT if take.repeatable else _KNOWN_SHORT_ONCE
    known_long = _KNOWN_LONG if take.repeatable else _KNOWN_LONG_ONCE
    unknown_short = _UNKNOWN_SHORT if take.repeatable else _UNKNOWN_SHORT_ONCE
    unsure_s = _UNSURE_S if take.repeatable else _UNSURE_ONCE_S
    longest_s = length.most_s * _LONG_FACTOR * slow + (_SLOW_EXTRA_S if unhurried else _LONG_EXTRA_S)
    # If the request asks for slow speech or silence, only the voice's own pace can tell what is too long.
    unknown_long_s = longest_s if unhurried else length.long_s * _UNKNOWN_LONG
    return _Expected(
        length=length,
        impossible_s=length.least_s * fast * _IMPOSSIBLY_SHORT,
        short_s=length.short_s * (trust * own * known_short + (1 - trust) * fast * unknown_short) - unsure_s,
        long_s=trust * length.long_s * own * known_long + (1 - trust) * unknown_long_s + unsure_s,
        longest_s=longest_s,
        pauses=pauses,
        pause_first=len(pieces) > 1 and not _has_words(pieces[0]),
        pause_last=len(pieces) > 1 and not _has_words(pieces[-1]),
    )


def _has_words(text: str) -> bool:
    return any(char.isalnum() for char in text)


def _reject(code: ErrorCode, detail: str) -> Verdict:
    return Verdict("reject", code, detail)


def _signal_faults(sound: SoundMeasures, script: _Expected) -> Iterator[Verdict]:
    audible = sound.peak_dbfs >= _SILENT_PEAK_DBFS and sound.rms_dbfs >= _SILENT_RMS_DBFS
    long = sound.duration_s > _SHARES_FROM_S
    least_share = _LEAST_VOICED_SHARE if long and not script.pauses else 0.0
    dynamics_db = sound.dynamics_db if long else _LEAST_DYNAMICS_DB
    # Noise comes before the offset, because text and compressed bytes, read as samples, have an offset too. The offset
    # comes before silence.
    gates: tuple[tuple[bool, ErrorCode, Callable[[], str]], ...] = (
        (
            audible and sound.correlation < _LEAST_CORRELATION,
            ErrorCode.AUDIO_NOISE,
            lambda: f"neighbouring samples correlate by {sound.correlation:.2f}; speech is above {_LEAST_CORRELATION}",
        ),
        (
            audible and sound.worst_correlation < _LEAST_WINDOW_CORRELATION,
            ErrorCode.AUDIO_NOISE,
            lambda: (
                f"neighbouring samples correlate by {sound.worst_correlation:.2f} for {NOISE_WINDOW_S:.0f} s; "
                f"speech is above {_LEAST_WINDOW_CORRELATION}"
            ),
        ),
        (
            sound.offset > _MOST_OFFSET,
            ErrorCode.AUDIO_OFFSET,
            lambda: f"the mean is {sound.offset:.0%} of full scale; speech is below {_MOST_OFFSET:.0%}",
        ),
        (
            not audible,
            ErrorCode.AUDIO_SILENT,
            lambda: (
                f"peak {sound.peak_dbfs:.0f} dBFS, RMS {sound.rms_dbfs:.0f} dBFS; "
                f"speech is above {_SILENT_PEAK_DBFS:.0f} and {_SILENT_RMS_DBFS:.0f}"
            ),
        ),
        (
            not sound.voiced.size or sound.voiced_share < least_share,
            ErrorCode.AUDIO_SILENT,
            lambda: (
                f"{sound.voiced_share:.0%} of the clip is above {VOICED_DBFS:.0f} dBFS; of speech "
                f"{_LEAST_VOICED_SHARE:.0%} or more is"
            ),
        ),
        (
            sound.clipped_share > _MOST_CLIPPED_SHARE,
            ErrorCode.AUDIO_CLIPPED,
            lambda: (
                f"{sound.clipped_share:.0%} of the samples are at full scale; the limit is {_MOST_CLIPPED_SHARE:.0%}"
            ),
        ),
        (
            dynamics_db < _LEAST_DYNAMICS_DB,
            ErrorCode.AUDIO_FLAT,
            lambda: f"the level varies by {dynamics_db:.1f} dB; that of speech by {_LEAST_DYNAMICS_DB:.0f} dB or more",
        ),
    )
    return (_reject(code, describe()) for failed, code, describe in gates if failed)


def _silence_faults(sound: SoundMeasures, script: _Expected) -> Iterator[Verdict]:
    end_s = sound.duration_s * _SILENT_END_SHARE
    gaps = (
        ("the clip ends with", sound.trailing_s, max(_LONGEST_TRAILING_S, end_s), script.pause_last),
        ("the clip begins with", sound.leading_s, max(_LONGEST_LEADING_S, end_s), script.pause_first),
        ("the speech is broken by", sound.gap_s, _LONGEST_GAP_S, script.pauses),
    )
    for where, silence_s, limit_s, asked_for in gaps:
        if silence_s > limit_s and not asked_for:
            detail = f"{where} {silence_s:.1f} s of silence; {limit_s:.1f} s is the limit"
            yield _reject(ErrorCode.AUDIO_GAP, detail)


def _pace_faults(sound: SoundMeasures, script: _Expected) -> Iterator[Verdict]:
    if sound.duration_s > script.longest_s:
        detail = f"{sound.duration_s:.1f} s of sound; the text takes {script.longest_s:.1f} s at most"
        yield _reject(ErrorCode.AUDIO_TOO_LONG, detail)
    if not script.is_rated:
        return
    found = f"{sound.speech_s:.1f} s of speech for a text of about {script.length.usual_s:.1f} s"
    if sound.speech_s < script.impossible_s:
        yield _reject(ErrorCode.AUDIO_TOO_SHORT, f"{found}; no voice is below {script.impossible_s:.1f} s")
    if sound.last_frame_dbfs > _ABRUPT_DBFS:
        # A take that is too short and also torn off is certainly not whole.
        is_torn = sound.speech_s < script.short_s * _PLAUSIBLY_SHORT
        yield Verdict(
            "reject" if is_torn else "suspect",
            ErrorCode.AUDIO_CUT_OFF,
            f"the last 20 ms are at {sound.last_frame_dbfs:.0f} dBFS; speech fades below {_ABRUPT_DBFS:.0f}",
        )
    if sound.speech_s < script.short_s:
        detail = f"{found}; {script.short_s:.1f} s or more are expected"
        plausible = sound.speech_s >= script.short_s * _PLAUSIBLY_SHORT
        yield Verdict("suspect", ErrorCode.AUDIO_TOO_SHORT, detail, plausible=plausible)
    if sound.speech_s > script.long_s:
        detail = f"{found}; {script.long_s:.1f} s or less are expected"
        plausible = sound.speech_s <= script.long_s * _PLAUSIBLY_LONG
        yield Verdict("suspect", ErrorCode.AUDIO_TOO_LONG, detail, plausible=plausible)
