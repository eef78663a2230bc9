"""Requests and responses: what goes in, what comes out, and which combinations make sense."""

from __future__ import annotations

import unicodedata
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from audio_api.errors import ErrorCode, TTSOutputError, TTSQuotaError, error_class
from audio_api.models.filenames import safe_filename
from audio_api.models.frozen import FrozenModel
from audio_api.models.languages import Language, LanguageCode
from audio_api.models.service_tiers import ServedTier
from audio_api.models.sound_formats import OutputFormat, SubtitleKind, format_of
from audio_api.models.speech_models import ModelId
from audio_api.models.speech_models import VoiceModel as VoiceModel  # programs for the original import it from here
from audio_api.models.usage import TokenUsage
from audio_api.models.user_text import has_words, refuse_unspeakable, uniform
from audio_api.models.voices import Voice, VoiceName

ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
"""What the id of a batch or a job looks like; ids become parts of key names."""


MOST_STYLE_CHARS = 500
"""The longest style: the API takes a few adjectives, and everything longer drifts into the speech."""


Markup = Literal["plain", "markdown"]
"""What the marks in a text mean."""


class SpeakerMode(StrEnum):
    """One voice, or a dialogue."""

    SINGLE = "single"
    MULTIPLE = "multiple"


class AudioFormat(FrozenModel):
    """The one format Gemini speaks: 24,000 Hz, 16 bits, one channel."""

    sample_rate: int = 24_000
    bit_depth: int = 16
    channels: int = 1

    @model_validator(mode="after")
    def _only_what_gemini_speaks(self) -> Self:
        if (self.sample_rate, self.bit_depth, self.channels) != (24_000, 16, 1):
            raise ValueError(
                f"Gemini speaks 24,000 Hz, 16 bits, 1 channel, and nothing else; {self.sample_rate:,} Hz, "
                f"{self.bit_depth} bits, {self.channels} channel(s) would need a conversion that adds no quality"
            )
        return self


class VoiceConfig(FrozenModel):
    """How a voice sounds.

    Attributes:
        voice_name: One of ``VoiceName`` in any case, an id of the voice library such as
            ``ar-eg-advisor-11``, or a ``voice_…``/``voicekey_…`` id of a custom voice.
        speed: 0.1 (slowest) to 3.0 (fastest), 1.0 being natural; ``None``: not mentioned.
        pitch: 0.1 (lowest) to 2.0 (highest), 1.0 being natural; ``None``: not mentioned.

    Gemini has no numeric knobs: speed and pitch reach it as style words, never as a promise.
    """

    voice_name: Voice = VoiceName.KORE
    speed: float | None = Field(default=None, ge=0.1, le=3.0)
    pitch: float | None = Field(default=None, ge=0.1, le=2.0)


def _clean_style(style: str) -> str:
    style = uniform(style)
    refuse_unspeakable(style, "style")
    if not has_words(style):
        raise ValueError("style must hold at least one word, such as 'calm, whispering'; leave it out for no style")
    return " ".join(style.split())


# The joiners (U+200C, U+200D) are part of how Persian, Sinhala and Malayalam names are written.
_IN_NAMES = frozenset(" ._'’-\u200c\u200d")


Style = Annotated[str, Field(max_length=MOST_STYLE_CHARS), AfterValidator(_clean_style)]


class SpeakerConfig(VoiceConfig):
    """One speaker of a dialogue.

    Attributes:
        speaker_name: The name that stands before the colon in the text, such as ``"Alice"``.
        style: How this speaker talks, in a few adjectives; ``None``: as the request says.
    """

    speaker_name: str = Field(max_length=120)
    voice_name: Voice
    style: Style | None = None

    @field_validator("speaker_name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        name = " ".join(uniform(name).split())
        fits = [char.isalnum() or char in _IN_NAMES or unicodedata.category(char).startswith("M") for char in name]
        if not (1 <= len(name) <= 40 and name[0].isalnum() and all(fits)):
            raise ValueError(
                f"speaker name {name!r} must be 1 to 40 letters, digits, spaces, dots, hyphens, apostrophes or "
                "underscores, the first a letter or digit"
            )
        return name


def _namesake(speakers: tuple[SpeakerConfig, ...]) -> str | None:
    """A name that a later speaker has too, whatever its case."""
    names = [speaker.speaker_name.casefold() for speaker in speakers]
    return next(
        (speaker.speaker_name for speaker in speakers if names.count(speaker.speaker_name.casefold()) > 1), None
    )


class MultiSpeakerConfig(FrozenModel):
    """The two speakers of a dialogue; one call to Gemini takes exactly two. More make a ``cast``."""

    speakers: tuple[SpeakerConfig, ...]

    @field_validator("speakers")
    @classmethod
    def _two_with_distinct_names(cls, speakers: tuple[SpeakerConfig, ...]) -> tuple[SpeakerConfig, ...]:
        if len(speakers) != 2:
            raise ValueError(
                f"a multi_speaker_config has exactly two speakers; {len(speakers)} given: any other number is a cast"
            )
        if name := _namesake(speakers):
            raise ValueError(f"the two speakers must have distinct names; both are {name!r}")
        return speakers


def _voice_or_kore(voice: object) -> object:
    return VoiceConfig() if voice is None else voice


# As many as there are voices.
_MOST_SPEAKERS = 30


class AudioRequest(FrozenModel):
    """One text to speak.

    Attributes:
        text: What is spoken, word for word; it is kept in composed form (NFC), without byte order marks. In multiple
            mode each turn begins with a speaker's name and a colon, with the turn's own style in brackets between them
            if it has one: ``"Alice [whispering]: Hush!"``.
        model: A ``VoiceModel`` or any other id; ``None``: the configuration's ``default_tts_model``.
        speaker_mode: ``SINGLE`` uses ``voice_config``, ``MULTIPLE`` uses ``multi_speaker_config`` or ``cast``.
        language: A ``Language`` or any well-formed BCP-47 code.
        voice_config: The voice of single mode; ``None``: Kore.
        multi_speaker_config: The two speakers of multiple mode; ``None`` in single mode and with a ``cast``.
        cast: 1 to 30 speakers with distinct names, instead of ``multi_speaker_config``; ``None`` in single mode and
            with that. Each must speak. Custom voices may take part.
        markup: ``"plain"`` speaks the text as it is. ``"markdown"`` leaves the marks of Markdown unspoken, and has
            headings and items of lists followed by a pause; a warning counts what is left out.
        markup_keep: What of Markdown is spoken that otherwise is left out: ``"code"`` for code blocks, ``"tables"``.
        audio_format: 24,000 Hz, 16 bits, one channel: of every format.
        output_format: What the file is. ``None``: what the ending of ``output_filename`` says, or else the setting
            ``output_format``, which is WAV by default.
        output_filename: A plain file name inside the output folder; the ending of its format is added when missing.
            ``None``: a name made from everything audible, so that equal requests share a file.
        overwrite: Whether an existing file named ``output_filename`` may be replaced, once the new one is complete.
        style: How to speak, in a few adjectives such as ``"calm, whispering"``; never spoken. ``None``: plain.
        subtitles: ``"srt"``, ``"vtt"`` or both: files beside the sound with its name. Times inside a piece are measured
            by the offline engine, and estimates with Gemini.
        cache: Whether finished pieces of the same content will do, which cost nothing; ``False`` makes new ones.
        priority: Order in a queue: higher first, 0 normal.
        service_tier: As the setting of that name, which ``None`` stands for; ``"batch"`` in queues. No sound changes.
    """

    text: str
    model: ModelId | None = None
    speaker_mode: SpeakerMode = SpeakerMode.SINGLE
    language: LanguageCode = Language.ENGLISH
    voice_config: Annotated[VoiceConfig, BeforeValidator(_voice_or_kore)] = VoiceConfig()
    multi_speaker_config: MultiSpeakerConfig | None = None
    cast: tuple[SpeakerConfig, ...] | None = None
    markup: Markup = "plain"
    markup_keep: tuple[Literal["code", "tables"], ...] = ()
    audio_format: AudioFormat = AudioFormat()
    # Before output_filename, whose ending must fit.
    output_format: OutputFormat | None = None
    # Checking a name is quadratic in combining marks; no name of this length has fewer than 255 bytes.
    output_filename: str | None = Field(default=None, max_length=1_000)
    overwrite: bool = False
    style: Style | None = None
    subtitles: tuple[SubtitleKind, ...] = ()
    cache: bool = True
    priority: int = Field(default=0, ge=-100, le=100)
    service_tier: ServedTier | None = None

    @field_validator("text")
    @classmethod
    def _speakable(cls, text: str) -> str:
        refuse_unspeakable(text, "text")
        text = uniform(text)
        if not has_words(text):
            raise ValueError("text must hold at least one letter or digit; there is nothing to speak")
        return text

    @field_validator("cast")
    @classmethod
    def _up_to_thirty_with_distinct_names(
        cls, cast: tuple[SpeakerConfig, ...] | None
    ) -> tuple[SpeakerConfig, ...] | None:
        if cast is None:
            return None
        if not 1 <= len(cast) <= _MOST_SPEAKERS:
            raise ValueError(f"a cast has 1 to {_MOST_SPEAKERS} speakers; {len(cast)} given")
        if name := _namesake(cast):
            raise ValueError(f"the speakers of a cast must have distinct names; two are {name!r}")
        return cast

    @field_validator("subtitles", mode="before")
    @classmethod
    def _more_than_a_string(cls, subtitles: object) -> object:
        if subtitles in ("srt", "vtt"):
            raise ValueError('subtitles are a tuple, such as ("srt",) or ("srt", "vtt"), not a single string')
        return subtitles

    @model_validator(mode="after")
    def _markup_to_keep(self) -> Self:
        if self.markup_keep and self.markup == "plain":
            raise ValueError("markup_keep goes with the markup markdown; of a plain text everything is spoken")
        return self

    @field_validator("output_filename")
    @classmethod
    def _one_safe_component(cls, name: str | None, info: ValidationInfo) -> str | None:
        return None if name is None else safe_filename(name, info.data.get("output_format"))

    @model_validator(mode="after")
    def _mode_and_speakers_agree(self) -> Self:
        given = [name for name in ("multi_speaker_config", "cast") if getattr(self, name) is not None]
        if self.speaker_mode is SpeakerMode.SINGLE and given:
            raise ValueError(f"{given[0]} goes with speaker_mode MULTIPLE; single mode uses voice_config")
        if self.speaker_mode is SpeakerMode.MULTIPLE and not given:
            raise ValueError(
                "speaker_mode MULTIPLE needs a multi_speaker_config with two speakers, or a cast of 1 to "
                f"{_MOST_SPEAKERS}"
            )
        if len(given) == 2:
            raise ValueError("multi_speaker_config and cast exclude each other: put every speaker into the cast")
        return self

    def format_or(self, default: OutputFormat) -> OutputFormat:
        """What the file is: as asked for, as its name ends, or else the default."""
        return self.output_format or format_of(self.output_filename or "") or default

    def filename_or(self, default: OutputFormat) -> str | None:
        """The file's name with the ending of that format, or ``ValueError`` if it is too long; ``None``: made here."""
        return self.output_filename and safe_filename(self.output_filename, self.format_or(default))

    @property
    def speakers(self) -> tuple[SpeakerConfig, ...]:
        """The speakers of multiple mode, from wherever they are given; none in single mode."""
        if self.multi_speaker_config is not None:
            return self.multi_speaker_config.speakers
        return self.cast or ()


class BatchAudioRequest(FrozenModel):
    """Between 1 and 100 requests that belong together.

    Attributes:
        requests: The requests, in the order of the results.
        batch_id: 1 to 64 letters, digits, ``_`` or ``-``; ``None``: one is made.
    """

    requests: tuple[AudioRequest, ...] = Field(min_length=1, max_length=100)
    batch_id: str | None = Field(default=None, pattern=ID_PATTERN)


class SpeechProgress(FrozenModel):
    """How far one request is.

    Attributes:
        pieces_done: Pieces of the text that are in the file.
        pieces_total: Pieces in all.
        seconds: Seconds of sound in the file.
    """

    pieces_done: int
    pieces_total: int
    seconds: float


class AudioResponse(FrozenModel):
    """What became of one request.

    Attributes:
        success: Whether ``file_path`` is a complete, playable file of the whole text; of ``stream_audio``, which writes
            none, whether all of it was handed over.
        message: One sentence for people.
        file_path: The absolute path of the file; ``None`` on failure, of ``stream_audio``, and when it is in a bucket.
        url: Where the sound is when ``OUTPUT_URL`` is set, such as ``s3://bucket/prefix/name.wav``; else ``None``.
        output_format: What the file is; ``None`` when there is none.
        duration: Seconds of audio; ``None`` on failure.
        subtitle_paths: The absolute paths of the subtitles asked for.
        error: What happened; ``None`` on success.
        error_code: Its stable name; ``None`` on success, and when the listener of ``stream_audio`` left.
        retryable: Whether the same request may succeed later.
        retry_after_s: Seconds to wait before that; ``None`` when unknown.
        reset_at: When the used-up quota comes back; ``None`` for every other failure, and when waiting does not help.
        processing_time: Seconds from the call to this answer, waits included.
        model: The model that spoke, which may be the successor of the one asked for; ``None`` when none did.
        attempts, attempt_codes: API calls made, and how each ended: ``ok``, ``ended`` here, or a code. Not serialised.
        cached_pieces: Pieces of the text that had been made before, and cost nothing.
        usage: Tokens billed, summed over every attempt.
        service_tier: What served the sound; of several, the dearest; ``None``: no call was billed.
        cost_usd: Their price in US dollars; ``None`` when the model's price, or what was billed for sound, is unknown.
        warnings: What a careful listener should know, though it is no error.
        doubtful: Why the sound may not be the whole text, though the checks could not tell; empty: certain.
        heard: The share of the words that a recogniser heard, 0 to 1; of pieces the least; ``None``: none listened.
        unsaved_audio: The complete verified WAV when only writing the file failed. Never serialised.
    """

    success: bool
    message: str
    file_path: str | None = None
    url: str | None = None
    output_format: OutputFormat | None = None
    duration: float | None = None
    subtitle_paths: tuple[str, ...] = ()
    error: str | None = None
    error_code: ErrorCode | None = None
    retryable: bool = False
    retry_after_s: float | None = None
    reset_at: datetime | None = None
    processing_time: float | None = None
    model: str | None = None
    attempts: int = 0
    cached_pieces: int = 0
    usage: TokenUsage = TokenUsage()
    service_tier: ServedTier | None = None
    cost_usd: float | None = None
    warnings: tuple[str, ...] = ()
    doubtful: tuple[ErrorCode, ...] = ()
    heard: float | None = None
    unsaved_audio: bytes | None = Field(default=None, exclude=True, repr=False)
    attempt_codes: tuple[str, ...] = Field(default=(), exclude=True, repr=False)

    def raise_for_error(self) -> Self:
        """Return this response if it is a success.

        Raises:
            AudioAPIError: The class that belongs to ``error_code``, as the engine or the service raised it.
        """
        if self.success:
            return self
        code = self.error_code or ErrorCode.API_ERROR
        error = error_class(code)(
            self.error or self.message,
            code=code,
            retryable=self.retryable,
            retry_after_s=self.retry_after_s,
            attempts=self.attempts,
            usage=self.usage,
        )
        if isinstance(error, TTSOutputError):
            error.audio = self.unsaved_audio
        if isinstance(error, TTSQuotaError):
            error.reset_at = self.reset_at
        raise error


class BatchAudioResponse(FrozenModel):
    """What became of a batch.

    Attributes:
        batch_id: The batch's id.
        total_requests: Requests in the batch.
        completed, failed: Requests that succeeded, and those that failed.
        results: One response for each finished request, in the order of the requests.
        status: ``pending`` until a request is taken up, ``processing`` until every request is finished; then
            ``completed`` when at least one succeeded (see ``failed`` for the others), ``failed`` when none did.
    """

    batch_id: str
    total_requests: int = Field(ge=0)
    completed: int = Field(ge=0)
    failed: int = Field(ge=0)
    results: tuple[AudioResponse, ...]
    status: Literal["pending", "processing", "completed", "failed"]

    @model_validator(mode="after")
    def _counters_agree(self) -> Self:
        if self.completed + self.failed > self.total_requests:
            raise ValueError(f"{self.completed} completed + {self.failed} failed of {self.total_requests} requests")
        return self
