"""Facts about the Gemini API that this library relies on and could not verify, asked of the API itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from audio_api.audio.wav import riff_chunks
from audio_api.config import AudioConfig
from audio_api.doctor.checks import NotObservableError, one_line
from audio_api.doctor.live_batch import one_item_batch
from audio_api.doctor.live_calls import CALLS, LONG_PAUSES_S, Session, api_client
from audio_api.models.speech_models import model_spec
from audio_api.retry import Clock

Truth = Literal["holds", "differs", "not observable"]

BATCH = "one-item batch"
"""What the batch is called where calls are told."""
_CUT_S = 62.0
# Measured in the 3.8 replies that others recorded.
_WAV_EXTRA_BYTES = 6_114
# 25 and 32 were measured; the rest is rounding in short clips.
_TOKENS_PER_S = (24.0, 34.0)


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one fact.

    Attributes:
        number: Its number, from 1.
        title: What it is about.
        assumed: What this library relies on.
        observed: What the API did, on one line.
        verdict: Whether that is the same.
    """

    number: int
    title: str
    assumed: str
    observed: str
    verdict: Truth


@dataclass(frozen=True, slots=True)
class LiveReport:
    """All findings, and what they cost at list prices, from the tokens that the API said it billed."""

    findings: tuple[Finding, ...]
    calls: int
    cost_usd: float


Judgement = tuple[bool, str]


def _versions(session: Session) -> Judgement:
    v1, v1beta = session.answers("v1", "v1beta")
    return v1beta.spoke, f"/v1beta: {v1beta}; /v1: {v1}"


def _voices(session: Session) -> Judgement:
    unknown, lower = session.answers("unknown voice", "lower-case voice")
    return unknown.status in {400, 404} and lower.spoke, f"Unheard: {unknown}; kore: {lower}"


def _temperature(session: Session) -> Judgement:
    (reply,) = session.answers("temperature")
    return reply.status == 400, f"0.7: {reply}"


def _speakers(session: Session) -> Judgement:
    one, three = session.answers("one speaker", "three speakers")
    return one.status == three.status == 400, f"one: {one}; three: {three}"


def _stream(session: Session) -> Judgement:
    (reply,) = session.answers("long stream")
    last = reply.chunks[-1]
    whole = reply.seconds > _CUT_S and reply.finish_reason == "STOP"
    layout = f"the last of {len(reply.chunks)} chunks: {'sound' if last.blobs else 'no sound'}, {last.finish_reason}"
    return whole and not last.blobs and last.finish_reason == "STOP", f"{reply}; {layout}"


def _older_models(session: Session) -> Judgement:
    replies = session.answers("2.5 flash", "3.1 flash")
    expected = all(reply.spoke != model_spec(reply.call.model).is_shut_down(session.day) for reply in replies)
    return expected, "; ".join(f"{reply.call.model}: {reply}" for reply in replies)


def _limits(session: Session) -> Judgement:
    if not session.limits:
        raise NotObservableError("no reply named a limit; asking for one would mean using it up")
    return True, ", ".join(dict.fromkeys(session.limits))


def _tokens_per_second(session: Session) -> Judgement:
    unary, stream = session.answers("v1beta", "long stream")
    if not (unary.spoke and stream.spoke):
        raise NotObservableError(f"no sound to measure: {unary}; {stream}")
    rates = [reply.usage.candidates_token_count / reply.seconds for reply in (unary, stream)]
    low, high = _TOKENS_PER_S
    return all(low <= rate <= high for rate in rates), f"unary {rates[0]:.1f}, stream {rates[1]:.1f}"


def _finish_reasons(session: Session) -> Judgement:
    seen = Counter(reply.finish_reason for reply in session.replies.values() if reply.finish_reason)
    if not seen:
        raise NotObservableError("no reply had a finish reason")
    return "CONTINUATION" not in seen, ", ".join(f"{reason} x{count}" for reason, count in seen.most_common())


def _languages(session: Session) -> Judgement:
    german, klingon = session.answers("de-DE", "klingon")
    return german.spoke and klingon.status in {200, 400}, f"de-DE: {german}; klingon: {klingon}"


def _wav_chunks(session: Session) -> Judgement:
    (reply,) = session.answers("v1beta")
    blobs = reply.chunks[0].blobs
    if not blobs:
        raise NotObservableError(f"no sound: {reply}")
    data = blobs[0].data
    chunks = [
        (ascii(chunk.name.decode("latin-1").strip())[1:-1], data[chunk.start : chunk.start + chunk.size])
        for chunk in riff_chunks(data)
        if data.startswith(b"RIFF")
    ]
    if not chunks:
        return False, f"no WAV but {blobs[0].mime_type}"
    extra = len(data) - sum(len(body) for name, body in chunks if name == "data")
    begins = {name: f" (begins {body[:16].hex()})" for name, body in chunks if name not in {"fmt", "data"}}
    layout = ", ".join(f"{name} {len(body)}{begins.get(name, '')}" for name, body in chunks)
    return extra == _WAV_EXTRA_BYTES, f"{extra:,} bytes beside the sound; {layout}"


def _library_voices(session: Session) -> Judgement:
    plain, foreign = session.answers("library voice", "library voice in en-US")
    return plain.spoke and foreign.status in {200, 400}, f"without a language: {plain}; in en-US: {foreign}"


def _library_dialogue(session: Session) -> Judgement:
    (reply,) = session.answers("library voice in a dialogue")
    return reply.spoke, str(reply)


def _foreign_voice(session: Session) -> Judgement:
    (reply,) = session.answers("foreign voice")
    is_told = reply.error is not None and "voice was not found" in reply.error.message
    return reply.status == 404 and is_told, f"voice_x: {reply}"


def _store(session: Session) -> Judgement:
    (reply,) = session.answers("store")
    return reply.spoke, str(reply)


def _flex(session: Session) -> Judgement:
    (reply,) = session.answers("flex")
    return reply.spoke and reply.tier == "flex", f"{reply}; header: {one_line(reply.tier)[:40] or 'none'}"


def _batch(session: Session) -> Judgement:
    (reply,) = session.answers(BATCH)
    mime = reply.chunks[0].blobs[0].mime_type if reply.spoke else "no sound"
    usage = reply.usage
    billed = f"{usage.prompt_token_count} + {usage.candidates_token_count} tokens"
    return mime == "audio/wav" and usage.candidates_token_count > 0, f"{reply}; {one_line(mime)[:60]}, {billed}"


def _token_count(session: Session) -> Judgement:
    (reply,) = session.answers("count")
    return reply.chunks[0].total_tokens > 0, str(reply)


def _long_pauses(session: Session) -> Judgement:
    (reply,) = session.answers("long pauses")
    whole = reply.seconds >= LONG_PAUSES_S and reply.finish_reason == "STOP"
    return whole, f"{reply}; the words alone take about {LONG_PAUSES_S:.0f} s"


def _never(reason: str, _: Session) -> Judgement:
    raise NotObservableError(reason)


FACTS: Sequence[tuple[str, str, Callable[[Session], Judgement]]] = (
    ("API version", "/v1beta takes speech; /v1 is never used", _versions),
    ("voice names", "an unknown voice is a 400 or 404, and case does not matter", _voices),
    ("temperature", "3.8 refuses it, so it is never sent", _temperature),
    ("speakers", "a dialogue of one or three is a 400", _speakers),
    ("long stream", "more than 60 s arrive whole, and the last chunk holds STOP and no sound", _stream),
    ("older models", "they answer until their announced shutdown", _older_models),
    ("limits", "none is built in; a 429 names the quota", _limits),
    ("tokens per second", "25 to 32 of them are a second of sound", _tokens_per_second),
    ("prices on Vertex", "unknown", partial(_never, "not with this key")),
    ("finish reasons", "one call is one reply: never CONTINUATION", _finish_reasons),
    ("billing of failures", "5xx and timeouts may be billed", partial(_never, "only the console's bill shows it")),
    ("language codes", "any code is passed on; the API is the judge", _languages),
    ("WAV of a reply", f"{_WAV_EXTRA_BYTES:,} bytes are not sound, so chunks are walked", _wav_chunks),
    ("voices of the library", "they speak when no language is named", _library_voices),
    ("library voices in dialogues", "they may take part", _library_dialogue),
    ("voices of other accounts", "404, told by its sentence from an unknown model", _foreign_voice),
    ("store", "speech is made when storage is refused", _store),
    ("flex tier", "speech takes it, and a header names the tier", _flex),
    ("batches", "an item is a whole WAV within minutes, and says what it billed, at half the price", _batch),
    ("countTokens", "it tells the size of an input, free of charge", _token_count),
    ("long pauses", "three of them do not end the speech early", _long_pauses),
)


async def check_live(
    config: AudioConfig, clock: Clock | None = None, on_call: Callable[[str], None] | None = None
) -> LiveReport:
    """Make the calls, one after the other, and judge the facts. A call that fails stops no other.

    Args:
        config: The key, the address and the timeout.
        clock: Time and chance; ``None``: the real ones.
        on_call: Told the name of each call before it is made; ``None``: it is not told.

    Raises:
        ConfigurationError: There is no key.
    """
    async with api_client(config) as client:
        session = Session(client, config.request_timeout, clock or Clock())
        for name in CALLS:
            if on_call:
                on_call(name)
            await session.ask(name)
        if on_call:
            on_call(BATCH)
        session.calls += 1
        await session.keep(BATCH, one_item_batch(client, clock or Clock()))
    findings = []
    for number, (title, assumed, judge) in enumerate(FACTS, 1):
        verdict: Truth
        try:
            holds, observed = judge(session)
            verdict = "holds" if holds else "differs"
        except NotObservableError as reason:
            verdict, observed = "not observable", str(reason)
        findings.append(Finding(number, title, assumed, one_line(observed), verdict))
    return LiveReport(
        tuple(findings), session.calls, sum(reply.cost_usd(session.day) for reply in session.replies.values())
    )
