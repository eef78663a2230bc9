"""Speech without key or network: eSpeak NG in a child process. Real and complete, but robotic."""

from __future__ import annotations

import asyncio
import json
import math
import re
import subprocess
import sys
import threading
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from audio_api.engines.base import SpeechAudio, SpeechEngine, Turn, Utterance
from audio_api.errors import ConfigurationError, ErrorCode, TTSUnavailableError, TTSValidationError
from audio_api.models.audio_request import VoiceConfig
from audio_api.models.voices import VoiceName

MODEL = "espeak-ng"
ROBOTIC = "spoken offline by eSpeak NG: a robotic voice, not Gemini"
_SAMPLE_RATE = 24_000

# Variants of eSpeak NG that differ most in pitch and spectrum, given to the names by the pitch and character of the
# Gemini voice. The default, Kore, has the variant that a speech recogniser understood best.
_FEMALE: dict[str, str] = {
    VoiceName.ACHERNAR: "Annie",
    VoiceName.AOEDE: "f1",
    VoiceName.AUTONOE: "Alicia",
    VoiceName.CALLIRRHOE: "f2",
    VoiceName.DESPINA: "linda",
    VoiceName.ERINOME: "f3",
    VoiceName.GACRUX: "grandma",
    VoiceName.KORE: "f5",
    VoiceName.LAOMEDEIA: "steph3",
    VoiceName.LEDA: "anika",
    VoiceName.PULCHERRIMA: "aunty",
    VoiceName.SULAFAT: "belinda",
    VoiceName.VINDEMIATRIX: "shelby",
    VoiceName.ZEPHYR: "Andrea",
}
_MALE: dict[str, str] = {
    VoiceName.ACHIRD: "travis",
    VoiceName.ALGENIB: "announcer",
    VoiceName.ALGIEBA: "miguel",
    VoiceName.ALNILAM: "norbert",
    VoiceName.CHARON: "robosoft3",
    VoiceName.ENCELADUS: "Hugo",
    VoiceName.FENRIR: "pablo",
    VoiceName.IAPETUS: "Michael",
    VoiceName.ORUS: "ed",
    VoiceName.PUCK: "Gene2",
    VoiceName.RASALGETHI: "robosoft6",
    VoiceName.SADACHBIA: "klatt",
    VoiceName.SADALTAGER: "quincy",
    VoiceName.SCHEDAR: "robosoft5",
    VoiceName.UMBRIEL: "iven2",
    VoiceName.ZUBENELGENUBI: "Andy",
}
_VARIANT = _FEMALE | _MALE

# Where a BCP-47 code and eSpeak NG's own name differ. Its "zh", "en-gb", "fr-fr" and "de-de" do not load.
_ESPEAK_LANGUAGE = {
    "en-ca": "en-us",
    "es-ar": "es-419",
    "es-cl": "es-419",
    "es-co": "es-419",
    "es-mx": "es-419",
    "es-pe": "es-419",
    "es-us": "es-419",
    "iw": "he",
    "nn": "nb",
    "no": "nb",
    "zh": "cmn",
    "zh-hk": "yue",
    "zh-mo": "yue",
}
# Thai comes out as noise; the others' dictionaries are missing from the wheel (espeakng-loader 0.2.4).
_UNUSABLE = {"th", "fo", "kaa", "xex"}
_READS_HAN = {"cmn", "yue", "hak"}
_HAN = re.compile(r"[\u3005-\u3007\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")

_RATE_WPM = 145  # understood best at 140 to 150 words a minute
_SLOWEST_WPM, _FASTEST_WPM = 80, 450  # eSpeak NG's own limits
_OWN_PITCH = _OWN_RANGE = 50
_HIGHEST = 99

# Ten times what a loaded two-core machine takes; synthesis needs about 0.1 ms a character, starting about 0.3 s.
_START_LIMIT_S = 30.0
_LIMIT_S_PER_CHARACTER = 0.005
_END_LIMIT_S = 2.0


@dataclass(frozen=True, slots=True)
class _Manner:
    """What a style word does: factor of the rate, steps of pitch and its range (of 99), decibels, whispering."""

    rate: float = 1.0
    pitch: int = 0
    range: int = 0
    loudness_db: float = 0.0
    whisper: bool = False


_MANNERS = {
    ("whisper",): _Manner(rate=0.95, loudness_db=-6, whisper=True),
    ("slow",): _Manner(rate=0.75),
    ("calm", "relax", "gentle", "gently", "sooth", "sleep", "tired", "sad"): _Manner(rate=0.85),
    ("fast", "quick", "rapid", "hurr", "rush"): _Manner(rate=1.35),
    ("excit", "happy", "happi", "cheer", "energ", "enthus", "joy"): _Manner(rate=1.15, pitch=12, range=20),
    ("loud", "shout"): _Manner(loudness_db=4),
    ("quiet", "soft"): _Manner(loudness_db=-6),
    ("deep", "low"): _Manner(pitch=-15),
    ("high",): _Manner(pitch=15),
    ("monoton", "robot"): _Manner(range=-50),
}


def _require_extra() -> None:
    if missing := [name for name in ("espeakng_loader", "soxr", "numpy") if find_spec(name) is None]:
        raise ConfigurationError(
            f"offline speech needs {' and '.join(missing)}, not installed here: pip install 'audio-api[offline]'"
        )


@cache
def _espeak_languages() -> frozenset[str]:
    import espeakng_loader

    files = Path(espeakng_loader.get_data_path(), "lang").rglob("*")
    return frozenset(file.name.lower() for file in files if file.is_file())


def _espeak_language(code: str) -> str:
    """The name that eSpeak NG has for a BCP-47 code, the most specific one.

    Raises:
        TTSValidationError: It cannot speak the language.
    """
    parts = code.lower().split("-")
    for candidate in (code.lower(), f"{parts[0]}-{parts[-1]}", parts[0]):
        language = _ESPEAK_LANGUAGE.get(candidate, candidate)
        if language in _espeak_languages() and parts[0] not in _UNUSABLE:
            return language
    raise TTSValidationError(
        f"the offline engine cannot speak the language {code!r}: use Gemini (TTS_ENGINE=gemini), or another language"
    )


def _check_script(text: str, code: str, language: str) -> None:
    if language in _READS_HAN or not _HAN.search(text):
        return
    advice = "write it in kana" if language == "ja" else "set the language to 'zh' if the text is Chinese"
    raise TTSValidationError(
        f"the text holds Chinese characters (kanji), which the offline engine cannot read in {code!r}: "
        f"use Gemini (TTS_ENGINE=gemini), or {advice}"
    )


def _manners(style: str | None) -> list[_Manner]:
    words = re.findall(r"[a-z]+", (style or "").lower())
    return [manner for stems, manner in _MANNERS.items() if any(word.startswith(stems) for word in words)]


def _variant(voice: VoiceConfig, manners: list[_Manner]) -> str:
    variant = _VARIANT.get(voice.voice_name)
    if variant is None:
        raise TTSValidationError(
            f"the offline engine has no custom voice {voice.voice_name!r}: use Gemini (TTS_ENGINE=gemini), "
            "or one of the voices of VoiceName"
        )
    if any(manner.whisper for manner in manners):
        return "whisperf" if voice.voice_name in _FEMALE else "whisper"
    return variant


def _rate_wpm(speed: float | None, manners: list[_Manner]) -> int:
    rate = _RATE_WPM * (1.0 if speed is None else speed) * math.prod(manner.rate for manner in manners)
    return round(min(max(rate, _SLOWEST_WPM), _FASTEST_WPM))


def _pitch(pitch: float | None, manners: list[_Manner]) -> int:
    """0 to 99 for a pitch of 0.1 to 2.0, 1.0 being the voice's own."""
    steps = 0.0
    if pitch is not None:
        steps = (pitch - 1.0) * (_OWN_PITCH / 0.9 if pitch < 1.0 else _HIGHEST - _OWN_PITCH)
    return _step(_OWN_PITCH + steps + sum(manner.pitch for manner in manners))


def _step(value: float) -> int:
    return round(min(max(value, 0), _HIGHEST))


def _espeak_turn(turn: Turn, code: str, language: str) -> dict[str, Any]:
    """The turn as the child takes it.

    Raises:
        TTSValidationError: eSpeak NG cannot speak it.
    """
    _check_script(turn.text, code, language)
    manners = _manners(turn.style)
    return {
        "text": turn.text,
        "voice": f"{language}+{_variant(turn.voice, manners)}",
        "rate_wpm": _rate_wpm(turn.voice.speed, manners),
        "pitch": _pitch(turn.voice.pitch, manners),
        "range": _step(_OWN_RANGE + sum(manner.range for manner in manners)),
        "loudness_db": sum(manner.loudness_db for manner in manners),
    }


def _request(utterance: Utterance) -> bytes:
    """The utterance as the child takes it.

    Raises:
        TTSValidationError: eSpeak NG cannot speak it.
        ConfigurationError: The extra is not installed.
    """
    _require_extra()
    language = _espeak_language(utterance.language)
    return json.dumps([_espeak_turn(turn, utterance.language, language) for turn in utterance.turns]).encode()


class _Child:
    """The process in which eSpeak NG speaks; ends with this object, and by itself when this process ends."""

    def __init__(self) -> None:
        # By its path, and without the working folder on the import path (-P): wherever this package was found.
        program = [sys.executable, "-P", str(Path(__file__).with_name("espeak_process.py"))]
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                program, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        self.end = weakref.finalize(self, _end, self._process, self._connection)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    def exchange(self, request: bytes) -> bytes:
        """Send a request and wait for the sound.

        Raises:
            OSError, EOFError: The process died.
            ConfigurationError: The library cannot be used on this machine.
            TTSUnavailableError: The library refused.
        """
        self._connection.send_bytes(request)
        pcm = b"".join(iter(self._connection.recv_bytes, b""))
        outcome = json.loads(self._connection.recv_bytes())
        if not outcome:
            return pcm
        if outcome["broken"]:
            raise ConfigurationError(f"eSpeak NG cannot be used on this machine: {outcome['error']}")
        raise TTSUnavailableError(f"eSpeak NG failed: {outcome['error']}", retryable=False)


def _end(process: subprocess.Popen[bytes], connection: Connection) -> None:
    connection.close()
    try:
        process.wait(_END_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _Call:
    """One exchange with the child, which another thread may abort for as long as it lasts, and no longer."""

    def __init__(self, request: bytes, limit_s: float) -> None:
        self._request = request
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._aborted = False

    def abort(self) -> None:
        """Kill the child if it works on this call."""
        with self._lock:
            self._aborted = True
            if self._child:
                self._child.kill()

    def run(self, child: _Child) -> bytes:
        """Let the child speak.

        Raises:
            TTSUnavailableError: It died, or was killed after the time limit.
            ConfigurationError: The library cannot be used on this machine.
        """
        timer = threading.Timer(self._limit_s, self.abort)
        with self._lock:
            if self._aborted:
                raise CancelledError
            self._child = child
        timer.start()
        try:
            return child.exchange(self._request)
        except (OSError, EOFError):
            if self._aborted:
                raise TTSUnavailableError(
                    f"eSpeak NG did not finish within {self._limit_s:.0f} s and was ended", code=ErrorCode.TIMEOUT
                ) from None
            raise TTSUnavailableError("the process of eSpeak NG died; the next call starts a new one") from None
        finally:
            timer.cancel()
            with self._lock:
                self._child = None


class OfflineEngine(SpeechEngine):
    """Speaks with eSpeak NG, on this machine, without a key: for development, tests and demonstrations.

    Every ``VoiceName`` has a voice of its own, and ``speed`` (about 0.55 to 3.0 take effect) and ``pitch`` are real
    numbers here. Of ``style``, these words have an effect, others are ignored: whisper; slow; calm, relaxed, gentle,
    soothing, sleepy, tired, sad (slower); fast, quick, rapid, hurried, rushed; excited, happy, cheerful, energetic,
    enthusiastic, joyful (faster, higher, livelier); loud, shouting; quiet, soft; deep, low; high; monotone, robotic.

    One child process, started on first use, speaks one utterance after the other; a call may come from any event loop.
    Cancelling a call that speaks ends the process, and the next call starts a new one.
    """

    name = "offline"

    def __init__(self) -> None:
        # A single thread: it does the waiting, and makes concurrent calls wait for each other.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="espeak")
        self._child: _Child | None = None

    def preflight(self, utterance: Utterance) -> None:
        """Find what eSpeak NG cannot speak.

        Raises:
            TTSValidationError: Thai or an unknown language, Chinese characters in a language other than Chinese, or a
                custom voice.
            ConfigurationError: The extra ``[offline]`` is not installed.
        """
        _request(utterance)

    async def synthesize(self, utterance: Utterance) -> SpeechAudio:
        """Speak at 24,000 Hz, about -20 dBFS loud, with 250 ms between turns; a warning says who spoke.

        Raises:
            TTSValidationError, ConfigurationError: As from ``preflight``; also when the library does not load.
            TTSUnavailableError: The child process died, or took far longer than the text's length explains.
        """
        call = _Call(_request(utterance), _START_LIMIT_S + len(utterance.text) * _LIMIT_S_PER_CHARACTER)
        future = self._thread.submit(self._speak, call)
        try:
            pcm = await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.cancel()
            call.abort()
            raise
        return SpeechAudio(pcm, _SAMPLE_RATE, MODEL, warnings=(ROBOTIC,))

    def _speak(self, call: _Call) -> bytes:
        if not (self._child and self._child.alive):
            self._end_child()
            self._child = _Child()
        try:
            return call.run(self._child)
        except TTSUnavailableError:
            self._end_child()
            raise

    def _end_child(self) -> None:
        if self._child:
            self._child.end()
            self._child = None

    async def health_check(self) -> None:
        """Speak a word.

        Raises:
            ConfigurationError: The extra is not installed, or the library does not load.
            TTSUnavailableError: The child process died.
        """
        await self.synthesize(Utterance((Turn("ready", VoiceConfig()),), MODEL, "en-US"))

    async def close(self) -> None:
        """End the child process, after the calls that still run. A later call starts a new one."""
        await asyncio.wrap_future(self._thread.submit(self._end_child))
