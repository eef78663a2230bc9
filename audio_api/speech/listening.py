"""Listens to a take with a speech recogniser, and holds the words against the text.

No check of length and level sees that ten words in the midst are missing, garbled or said twice. The rule is the
longest run of words that do not match: a share of wrong words grows with every slip of the recogniser, a run does not.
The limits are those of ``benchmarks/listening.py``, which prints what they find and what they flag of clean sound.
"""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from audio_api.audio.conversion import resampled
from audio_api.config import AudioConfig
from audio_api.engines.base import SpeechAudio, Utterance
from audio_api.errors import ErrorCode
from audio_api.text.heard_words import Comparison, Heard, compare, spoken_words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audio_api.audio.checks import Verdict

logger = logging.getLogger(__name__)

# Words in a row that do not match. From how many on a take is doubtful, the comparison says.
_WRONG_RUN = 8
# Two witnesses, the length and the ear, are enough: so many words that are missing, or too many.
_MISSING_RUN = 3
# A take that the other checks doubt is believed when it is understood but for so many in a row.
_SURE_RUN = 2
# Of fewer words a slip of the recogniser is too large a part: they confirm a take when all are heard, and nothing else.
_LEAST_WORDS = 8
# Written without spaces between words, so that there are no words to count.
_UNSPACED = {"ja", "zh", "cmn", "yue", "th", "lo", "km", "my"}
_WHISPER_RATE = 16_000
# Text that repeats itself is compressed to less than a part of this; speech is not.
_LOOP_RATIO = 2.4
# The shortest sound, in samples, that is listened to on its own.
_LEAST_PART = 4 * _WHISPER_RATE
# So long, in samples, and of so large a share of the power of all, is speech after the last word that was heard.
_LEAST_REST, _SPEECH_POWER = 2 * _WHISPER_RATE, 0.1


class Recogniser(Protocol):
    """Understands speech. An object of your own goes into ``TTSService(recogniser=…)``."""

    def listen(self, pcm: bytes, language: str) -> Heard | None:
        """Write down what is said. It is called in a thread of its own, for one sound at a time, and may block.

        Args:
            pcm: Signed 16-bit little-endian samples of one channel, 24,000 a second.
            language: A BCP-47 code, such as ``en-US``.

        Returns:
            The words, in any spelling: one text; or every word with the space before it, and how sure the recogniser is
            of it, from 0 to 1. ``None``: the language is not known. Whatever it raises becomes one warning in the log,
            and the take is judged without it.
        """


class Whisper:
    """The recogniser of the extra ``listen``: a Whisper model, by faster-whisper, on the CPU.

    Args:
        model: Its name, such as ``tiny.en`` or ``small``, which is downloaded at first; or the folder of one that was
            converted for CTranslate2.

    Raises:
        ImportError: The extra is not installed.
        Exception: Whatever its loader finds wrong with the model, or with the way to it.
    """

    def __init__(self, model: str) -> None:
        from faster_whisper import WhisperModel  # an optional extra

        self._model: Any = WhisperModel(model, device="cpu", compute_type="int8")

    def listen(self, pcm: bytes, language: str) -> Heard | None:
        """As ``Recogniser.listen``."""
        spoken = language.partition("-")[0]
        if spoken not in self._model.supported_languages:
            return None
        return self._words(resampled(pcm, _WHISPER_RATE), spoken)

    def _words(self, sound: NDArray[np.float32], language: str) -> list[tuple[str, float]]:
        """What is said, word by word."""
        segments, _ = self._model.transcribe(
            sound,
            language=language,
            beam_size=1,
            # One pass: what it does not understand at once it would guess at up to five times.
            temperature=0.0,
            condition_on_previous_text=False,
            word_timestamps=True,
        )
        told = list(segments)
        if len(sound) >= 2 * _LEAST_PART and any(segment.compression_ratio > _LOOP_RATIO for segment in told):
            # After a sound without words it may write one word for ever, and hears nothing of what follows.
            middle = len(sound) // 2
            return self._words(sound[:middle], language) + self._words(sound[middle:], language)
        words = [word for segment in told for word in segment.words or ()]
        heard = [(word.word, word.probability) for word in words]
        end = round(words[-1].end * _WHISPER_RATE) if words else 0
        rest = sound[end:]
        is_loud = len(rest) >= _LEAST_REST and (rest**2).mean() > _SPEECH_POWER * (sound**2).mean()
        # It may end in the midst of a sound, and hears nothing of what follows either.
        return heard + self._words(rest, language) if end >= _WHISPER_RATE and is_loud else heard


# A model takes up to gigabytes: services with the same settings share it. Loaded in the listening thread alone.
@lru_cache(maxsize=2)
def _whisper(model: str) -> Whisper:
    return Whisper(model)


def _renew() -> None:
    global _executor
    _executor = ThreadPoolExecutor(1, "audio-api-listening")
    _whisper.cache_clear()


# One thread: a recogniser takes all the cores that it wants, and none needs to be safe for several threads.
_executor = ThreadPoolExecutor(1, "audio-api-listening")
# Neither the thread nor those of a model live on in a child process.
os.register_at_fork(after_in_child=_renew)


class Listener:
    """Listens for one service.

    Args:
        model: The Whisper model, as the setting ``listen_model``.
        recogniser: Used in its place; ``None``: the model is loaded with the first take.
        all_takes: Whether every take is listened to; else those that the other checks doubt.
    """

    def __init__(self, model: str, recogniser: Recogniser | None, *, all_takes: bool) -> None:
        self.all_takes = all_takes
        self._model = model
        self._recogniser = recogniser
        self._is_broken = False
        self._complaints: set[str] = set()

    @classmethod
    def of(cls, config: AudioConfig, recogniser: Recogniser | None) -> Listener | None:
        """The listener that the settings want; ``None``: none.

        Args:
            config: The settings.
            recogniser: As above.
        """
        is_wanted = config.listen != "off"
        return cls(config.listen_model, recogniser, all_takes=config.listen == "always") if is_wanted else None

    async def hear(self, pcm: bytes, language: str) -> Heard | None:
        """What is said, as a recogniser understands it; ``None``: none can tell. Never raises, never blocks the loop.

        Args:
            pcm: As ``Recogniser.listen``.
            language: As ``Recogniser.listen``.
        """
        if self._is_broken or language.partition("-")[0] in _UNSPACED:
            return None
        return await asyncio.get_running_loop().run_in_executor(_executor, self._hear, pcm, language)

    def _hear(self, pcm: bytes, language: str) -> Heard | None:
        try:
            recogniser = self._recogniser or _whisper(self._model)
        except Exception as error:  # loaders raise what they like
            self._is_broken = True
            advice = "; pip install 'audio-api[listen]'" if isinstance(error, ImportError) else ""
            self._complain(f"LISTEN_MODEL={self._model!r} cannot be loaded: {error}{advice}")
            return None
        try:
            heard = recogniser.listen(pcm, language)
        except Exception as error:  # a user's own may raise anything
            self._complain(f"the recogniser failed: {error!r}")
            return None
        if heard is None:
            self._complain(f"the recogniser does not know the language {language}")
        return heard

    def _complain(self, reason: str) -> None:
        if reason not in self._complaints:
            self._complaints.add(reason)
            logger.warning("speech is not listened to", extra={"reason": reason})


class Ear:
    """Listens to the takes of one utterance, and remembers what they lack.

    Args:
        listener: What it listens with.
        utterance: What should be heard.
        repeatable: Whether another take can be asked for; if not, none is rejected.
    """

    def __init__(self, listener: Listener, utterance: Utterance, *, repeatable: bool) -> None:
        self._listener = listener
        self._utterance = utterance
        self._repeatable = repeatable
        self._missed: list[range] = []
        self._words: list[str] = []

    async def judge(self, audio: SpeechAudio, verdict: Verdict) -> tuple[SpeechAudio, Verdict]:
        """Listen to a take, and confirm or correct what the other checks say of it.

        Args:
            audio: The take, 24,000 samples a second.
            verdict: That of the other checks.

        Returns:
            The take with its score, and the verdict of all; both unchanged when there was no listening, or the voice is
            not understood.
        """
        is_asked = verdict.outcome == "suspect" or (verdict.outcome == "accept" and self._listener.all_takes)
        if not is_asked:
            return audio, verdict
        # A piece has hundreds of words: to hold 4,000 characters against each other took 0.2 s.
        self._words = self._words or await asyncio.to_thread(spoken_words, self._utterance.text)
        is_short = len(self._words) < _LEAST_WORDS
        if not self._words or (is_short and verdict.outcome == "accept"):
            return audio, verdict
        heard = await self._listener.hear(audio.pcm, self._utterance.language)
        if heard is None:
            return audio, verdict
        comparison = await asyncio.to_thread(compare, self._words, heard, self._utterance.language)
        is_matched = comparison.longest.length < comparison.telling_run
        if not (is_matched or comparison.is_understood) or (is_short and comparison.runs):
            return audio, verdict
        return replace(audio, heard=comparison.score), self._corrected(verdict, comparison)

    def _corrected(self, verdict: Verdict, comparison: Comparison) -> Verdict:
        run, is_doubted = comparison.longest, verdict.outcome == "suspect"
        if run.length < comparison.telling_run:
            # A sound that is torn off at its end lacks what comes last.
            is_heard = run.length <= _SURE_RUN and not comparison.ends_early
            return replace(verdict, outcome="accept", code=None, detail="") if is_doubted and is_heard else verdict
        place = range(run.place.start, max(run.place.stop, run.place.start + 1))
        is_known = any(place.start < other.stop and other.start < place.stop for other in self._missed)
        self._missed.append(place)
        detail = f"about {run.said:.0f} words in a row were not heard; {run.heard:.0f} others were in their place"
        if is_doubted:
            detail = f"{verdict.detail}; {detail}"
        # By ear alone more must be wrong, and not in every take at the same place: there the voice reads otherwise than
        # the text is written, such as a formula.
        is_wrong = abs(run.missing) >= (_MISSING_RUN if is_doubted else _WRONG_RUN)
        is_certain = is_wrong and (is_doubted or not is_known)
        return replace(
            verdict,
            outcome="reject" if is_certain and self._repeatable else "suspect",
            code=ErrorCode.WORDS_MISSING,
            detail=detail,
            plausible=False,
        )
