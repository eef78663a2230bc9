"""OpenAI's speech API: ``POST /v1/audio/speech`` and the lists that clients read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from audio_api.audio.encoding import require_encoder
from audio_api.errors import ConfigurationError
from audio_api.models.audio_request import AudioRequest, Markup
from audio_api.models.sound_formats import StreamFormat, SubtitleKind
from audio_api.server.access import ShownKey
from audio_api.server.problems import AnswerError
from audio_api.server.sound import SoundResponse
from audio_api.server.state import ServerState, State

# OpenAI's range is 0.25 to 4.
_SLOWEST, _FASTEST = 0.1, 3.0

lists = APIRouter(tags=["lists"])
router = APIRouter(tags=["speech"])


class VoiceId(BaseModel):
    """A voice of an account's own, as OpenAI's clients send it."""

    id: str


class CastMember(BaseModel):
    """The voice of one speaker."""

    voice: str
    style: str | None = None
    speed: float | None = None


def _none_if_blank(text: str | None) -> str | None:
    return text if text and text.strip() else None


class SpeechBody(BaseModel):
    """What to speak, as OpenAI's clients send it; unknown fields are ignored.

    Attributes:
        input: The text; with a cast, a script of lines such as ``Alice: Hello!``.
        model: A model of Gemini, or one of OpenAI's names for them; ``None``: the default model.
        voice: A voice of Gemini, or one of OpenAI's names for them; ``None``: Kore.
        instructions: How to speak, in a few adjectives.
        speed: 1 is natural. Gemini gets it as a word of style.
        response_format: What is sent; ``None``: mp3.
        stream_format: ``sse`` sends events with base64 inside. ``audio`` sends WAV as it is made, of unknown length.
        language: A BCP-47 code; ``None``: SERVER_LANGUAGE.
        cast: The voice of each speaker of a script, by name: ``{"Alice": "kore", "Bob": {"voice": "puck"}}``.
        markup: What the marks in the text mean; ``None``: MARKUP.
        subtitles: Files to make beside the sound of a job; an answer that is sound has no place for them.
    """

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    input: str
    model: str | None = None
    voice: str | VoiceId | None = None
    instructions: Annotated[str | None, AfterValidator(_none_if_blank)] = None
    speed: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    response_format: StreamFormat | None = None
    stream_format: Literal["audio", "sse"] | None = None
    language: Annotated[str | None, AfterValidator(_none_if_blank)] = None
    cast: dict[str, str | CastMember] | None = None
    markup: Markup | None = None
    subtitles: tuple[SubtitleKind, ...] = ()

    def request(self, server: ServerState, **fields: Any) -> AudioRequest:
        """What is spoken.

        Args:
            server: Knows the names of models and voices, and the defaults.
            fields: Further fields of the request.

        Raises:
            AnswerError: A model or a voice is unknown.
            ValidationError: Another field is wrong.
        """
        names = server.catalogue
        if self.cast:
            members = {name: CastMember(voice=one) if isinstance(one, str) else one for name, one in self.cast.items()}
            fields["speaker_mode"] = "multiple"
            fields["cast"] = [
                {
                    "speaker_name": name,
                    "voice_name": names.voice(one.voice),
                    "style": _none_if_blank(one.style),
                    "speed": _clamped(one.speed),
                }
                for name, one in members.items()
            ]
        else:
            voice = self.voice.id if isinstance(self.voice, VoiceId) else self.voice
            fields["voice_config"] = {"voice_name": names.voice(voice), "speed": _clamped(self.speed)}
        return AudioRequest.model_validate(
            {
                "text": self.input,
                "model": names.model(self.model),
                "style": self.instructions,
                "language": self.language or server.config.server_language,
                "markup": self.markup or server.config.markup,
                **fields,
            }
        )


def _clamped(speed: float | None) -> float | None:
    """The speed that is mentioned to the model; natural speed is not."""
    return None if speed in (None, 1.0) else min(max(speed or 1.0, _SLOWEST), _FASTEST)


def refuse_unknown_format(sound_format: StreamFormat) -> None:
    """Make sure that a format can be made here.

    Raises:
        AnswerError: Its extra is not installed; the text names it.
    """
    try:
        require_encoder(sound_format)
    except ConfigurationError as error:
        raise AnswerError(400, str(error), "response_format", "unsupported_format") from None


def check_length(server: ServerState, request: AudioRequest) -> None:
    """Refuse a text that is longer than MAX_TEXT_LENGTH.

    Raises:
        AnswerError: It is.
    """
    if len(request.text) > server.config.max_text_length:
        raise AnswerError(
            400,
            f"input has {len(request.text):,} characters; {server.config.max_text_length:,} are allowed",
            "input",
            "text_too_long",
        )


def sound_response(
    server: ServerState,
    body: SpeechBody,
    key: ShownKey,
    headers: Mapping[str, str] | None = None,
    report: str | None = None,
) -> Response:
    """The answer that speaks a body.

    Args:
        server: What the routes share.
        body: What to speak.
        key: Whose limit counts.
        headers: Further headers.
        report: The ledger's name for what became of it, which is kept for an hour; ``None``: it is not kept.

    Raises:
        AnswerError: A field is wrong.
        ValidationError: A field is wrong.
    """
    if body.subtitles:
        raise AnswerError(
            400,
            "an answer of this route is sound alone; POST the body to /v1/audio/jobs, whose job names its subtitles",
            "subtitles",
            "unsupported_field",
        )
    request = body.request(server)
    check_length(server, request)
    sound_format = body.response_format or "mp3"
    refuse_unknown_format(sound_format)
    whole = sound_format == "flac" or (sound_format == "wav" and body.stream_format != "audio")
    speech = server.speak(request, key, verified=whole)
    return SoundResponse(
        server.ledger.reported(speech, report) if report else speech,
        sound_format,
        whole=whole,
        events=body.stream_format == "sse",
        headers=headers,
    )


@router.post("/audio/speech", response_class=Response)
async def speak(body: SpeechBody, server: State, key: ShownKey) -> Response:
    """Speak a text. The answer is sound; it ends cleanly only if it is the whole speech."""
    return sound_response(server, body, key)


@lists.api_route("/models", methods=["GET", "HEAD"])
async def list_models(server: State) -> dict[str, Any]:
    """The models, and the names that stand for them."""
    return {"object": "list", "data": server.catalogue.models()}


@lists.api_route("/models/{name}", methods=["GET", "HEAD"])
async def show_model(name: str, server: State) -> dict[str, Any]:
    """One of them."""
    for model in server.catalogue.models():
        if model["id"] == name.removeprefix("models/"):
            return model
    raise AnswerError(404, f"the model {name[:80]!r} does not exist", "model", "model_not_found")


@lists.api_route("/audio/models", methods=["GET", "HEAD"])
async def list_speech_models(server: State) -> dict[str, Any]:
    """The same, as Open WebUI reads it."""
    models = server.catalogue.models()
    return {"object": "list", "models": models, "data": models}


@lists.api_route("/audio/voices", methods=["GET", "HEAD"])
async def list_voices(server: State) -> dict[str, Any]:
    """The voices, and the names that stand for them."""
    voices = server.catalogue.voices()
    return {"object": "list", "voices": voices, "data": voices}
