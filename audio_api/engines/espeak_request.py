"""An utterance in the words of eSpeak NG: its variants, its languages, its numbers. Pure functions."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TypedDict

from audio_api.engines.base import Turn, Utterance
from audio_api.engines.espeak_words import readable
from audio_api.errors import TTSValidationError
from audio_api.models.voices import VoiceName

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
# What espeakng-loader 0.2.4 carries, without the invented and the dead, and without Thai, which comes out as noise, and
# fo and kaa, whose dictionaries are missing there. A table, because looking into the folder would block the event loop.
_LANGUAGE_NAMES = """
    af am an ar as az ba be bg bn bpy bs ca ca-ba ca-nw ca-va chr cmn cs cv cy da de el en en-029 en-gb-scotland
    en-us eo es es-419 et eu fa fa-latn fi fr fr-be fr-ch ga gd gn gu hak haw he hi hr ht hu hy hyw id is it ja
    ka kk kl kn ko kok ku ky la lb lt ltg lv mi mk ml mr ms mt mto my nb ne nl nog om or pa pap pl pt pt-br qu
    quc ro ru ru-lv sd shn si sk sl smj sq sr sv sw ta te ti tk tn tr tt ug uk ur uz vi yue
"""
_LANGUAGES = frozenset(_LANGUAGE_NAMES.split())
_READS_HAN = {"cmn", "yue", "hak"}
_THAI = re.compile(r"[\u0e01-\u0e5b]")
_HAN = re.compile(r"[\u3005-\u3007\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")

_RATE_WPM = 145  # understood best at 140 to 150 words a minute
# These variants speak at another pace than the others, measured on 8,000 texts in 24 languages: seconds over theirs.
_OWN_PACE: dict[str, float] = {
    VoiceName.AUTONOE: 1.13,
    VoiceName.CHARON: 0.84,
    VoiceName.LEDA: 0.82,
    VoiceName.SCHEDAR: 0.84,
    VoiceName.SULAFAT: 0.96,
    VoiceName.ZEPHYR: 0.84,
    VoiceName.ZUBENELGENUBI: 1.05,
}
_SLOWEST_WPM, _FASTEST_WPM = 80, 450  # eSpeak NG's own limits
_OWN_PITCH = _OWN_RANGE = 50
_HIGHEST = 99


class EspeakTurn(TypedDict):
    """One turn, in eSpeak NG's units.

    Attributes:
        text: What is spoken.
        voice: A language and a variant, such as ``en-us+f5``.
        rate_wpm: 80 to 450 words a minute.
        pitch: 0 to 99, 50 being the voice's own.
        range: How lively the pitch is: 0 to 99, 50 being the voice's own.
        loudness_db: Decibels above the usual loudness.
    """

    text: str
    voice: str
    rate_wpm: int
    pitch: int
    range: int
    loudness_db: float


@dataclass(frozen=True, slots=True)
class _StyleWord:
    """What a style word does: factor of the rate, steps of pitch and its range (of 99), decibels, whispering."""

    rate: float = 1.0
    pitch: int = 0
    range: int = 0
    loudness_db: float = 0.0
    whisper: bool = False


_MANNERS = {
    ("whisper",): _StyleWord(rate=0.95, loudness_db=-6, whisper=True),
    ("slow",): _StyleWord(rate=0.75),
    ("calm", "relax", "gentle", "gently", "sooth", "sleep", "tired", "sad"): _StyleWord(rate=0.85),
    ("fast", "quick", "rapid", "hurr", "rush"): _StyleWord(rate=1.35),
    ("excit", "happy", "happi", "cheer", "energ", "enthus", "joy"): _StyleWord(rate=1.15, pitch=12, range=20),
    ("loud", "shout"): _StyleWord(loudness_db=4),
    ("quiet", "soft"): _StyleWord(loudness_db=-6),
    ("deep", "low"): _StyleWord(pitch=-15),
    ("high",): _StyleWord(pitch=15),
    ("monoton", "robot"): _StyleWord(range=-50),
}


def _step(value: float) -> int:
    return round(min(max(value, 0), _HIGHEST))


def _espeak_turn(turn: Turn, code: str, language: str) -> EspeakTurn:
    text = readable(turn.text)
    if _THAI.search(text):
        raise TTSValidationError(
            "the text is Thai, which the offline engine cannot speak: use Gemini (TTS_ENGINE=gemini)"
        )
    if language not in _READS_HAN and _HAN.search(text):
        advice = "write it in kana" if language == "ja" else "set the language to 'zh' if the text is Chinese"
        raise TTSValidationError(
            f"the text holds Chinese characters (kanji), which the offline engine cannot read in {code!r}: "
            f"use Gemini (TTS_ENGINE=gemini), or {advice}"
        )
    words = re.findall(r"[a-z]+", (turn.style or "").lower())
    manners = [manner for stems, manner in _MANNERS.items() if any(word.startswith(stems) for word in words)]
    voice = turn.voice
    variant, own_pace = _VARIANT.get(voice.voice_name), _OWN_PACE.get(voice.voice_name, 1.0)
    if variant is None:
        raise TTSValidationError(
            f"the offline engine has no custom voice {voice.voice_name!r}: use Gemini (TTS_ENGINE=gemini), "
            "or one of the voices of VoiceName"
        )
    if any(manner.whisper for manner in manners):
        variant, own_pace = "whisperf" if voice.voice_name in _FEMALE else "whisper", 1.0
    rate = _RATE_WPM * own_pace * (1.0 if voice.speed is None else voice.speed)
    rate *= math.prod(manner.rate for manner in manners)
    # A request's pitch is 0.1 to 2.0, 1.0 being the voice's own.
    higher = 0.0 if voice.pitch is None else voice.pitch - 1.0
    steps = higher * (_OWN_PITCH / 0.9 if higher < 0 else _HIGHEST - _OWN_PITCH)
    return {
        "text": text,
        "voice": f"{language}+{variant}",
        "rate_wpm": round(min(max(rate, _SLOWEST_WPM), _FASTEST_WPM)),
        "pitch": _step(_OWN_PITCH + steps + sum(manner.pitch for manner in manners)),
        "range": _step(_OWN_RANGE + sum(manner.range for manner in manners)),
        "loudness_db": sum(manner.loudness_db for manner in manners),
    }


def espeak_turns(utterance: Utterance) -> list[EspeakTurn]:
    """The utterance as the child process takes it.

    Raises:
        TTSValidationError: Thai or an unknown language, Chinese characters outside Chinese, or a custom voice.
    """
    code = utterance.language
    parts = code.lower().split("-")
    # The most specific name that eSpeak NG has for the code.
    names = (_ESPEAK_LANGUAGE.get(each, each) for each in (code.lower(), f"{parts[0]}-{parts[-1]}", parts[0]))
    language = next((name for name in names if name in _LANGUAGES), None)
    if language is None:
        raise TTSValidationError(
            f"the offline engine cannot speak the language {code!r}: use Gemini (TTS_ENGINE=gemini), or another "
            "language"
        )
    return [_espeak_turn(turn, code, language) for turn in utterance.turns]
