"""What the SDK is given of a reply: only what is read of it, well-formed and small, whatever the server sent.

The SDK makes objects of a whole reply, on the event loop: a million empty candidates would hold it up for a minute, and
one count that is not a number would lose the sound beside it.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from audio_api.errors import ErrorCode, TTSAudioError

# Beside their sound, the 8,200 parts of the longest speech in blocks of 80 ms have 700 kB and 16,400 objects. Reading
# more would stop an event loop, although it is done in a thread: the parser does not let other threads run.
MOST_JSON_BYTES = 3 * 2**18
_MOST_OBJECTS = 20_000
_MOST_LISTS = 150_000
# Those of Google have some dozens.
_MOST_ERROR_OBJECTS = 2_000
# Google's have some kilobytes, the pages of gateways not much more.
MOST_ERROR_BYTES = 2**16
# Ten times the largest context; a larger count is a mistake of the server.
_MOST_TOKENS = 10_000_000
_NO_COUNT = -1
_MOST_DETAILS = 100
# Names that the API has for reasons and models are shorter.
_MOST_NAME_CHARS = 1_000
# Reads base64 of both alphabets, with or without padding, five times as fast as the standard library.
_BASE64 = TypeAdapter(bytes, config=ConfigDict(val_json_bytes="base64"))
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True, slots=True)
class Reduced:
    """A reply, or an event of a stream, as the SDK gets it.

    Attributes:
        json: In the place of each sound there is the mark that stands for it, in base64.
        sounds: The sounds by their marks.
        finish_message: The API's words on why it ended, which the SDK drops.
    """

    json: bytes
    sounds: dict[bytes, bytes] = field(default_factory=dict)
    finish_message: str = ""


def reduce_reply(body: bytes, large: dict[bytes, bytes], first_mark: int = 0) -> Reduced:
    """Reduce a reply to its first candidate, sounds of one type that follow each other joined.

    Args:
        body: JSON, or nothing.
        large: Sounds that were in the body, by the marks that stand for them now; each is taken out.
        first_mark: The number of the first mark that may be given.

    Raises:
        TTSAudioError: There are far more objects in it than in any speech.
        ValueError: It is no JSON object, or a sound is no base64.
        RecursionError: It is nested deeper than any reply.
    """
    if body.count(b"{") > _MOST_OBJECTS or body.count(b"[") > _MOST_LISTS:
        raise too_much()
    if not body.strip():
        return Reduced(b"")
    document = _loaded(body)
    if not isinstance(document, dict):
        raise ValueError("the reply is no JSON object")  # noqa: TRY004 - the server's mistake, not a caller's
    if "error" in document and "candidates" not in document:
        error = document["error"]
        if isinstance(error, dict) and len(json.dumps(error)) > MOST_ERROR_BYTES:
            error = {"code": error.get("code"), "message": _word(error, "message"), "status": _word(error, "status")}
            error = _known(error)
        return Reduced(json.dumps({"error": error}).encode())
    candidates = document.get("candidates") or [None]
    if not isinstance(candidates, list) or not isinstance(candidates[0], dict | None):
        raise ValueError("the candidates are no JSON objects")  # noqa: TRY004 - the server's mistake, not a caller's
    candidate: dict[str, Any] | None = candidates[0]
    runs = dict(enumerate(_runs(candidate, large), first_mark))
    if not runs and _is_odd(document, candidate or {}):
        raise ValueError("the reply has another shape than replies have")
    reply = _reply(document, candidate, {_mark(number): mime for number, (mime, _) in runs.items()})
    sounds = {_mark(number): b"".join(sound) for number, (_, sound) in runs.items()}
    return Reduced(json.dumps(reply).encode(), sounds, _word(candidate, "finishMessage") or "")


def reduce_error(body: bytes, reason: str) -> bytes:
    """Reduce an answer that is an error: as it is when it is small and well-formed, else its beginning as its message.

    Args:
        body: JSON, or anything else.
        reason: The words beside the status.
    """
    if len(body) <= MOST_ERROR_BYTES and body.count(b"{") <= _MOST_ERROR_OBJECTS:
        try:
            return json.dumps(_loaded(body)).encode()
        except (ValueError, RecursionError):
            pass
    return json.dumps({"message": body[:MOST_ERROR_BYTES].decode("utf-8", "replace"), "status": reason}).encode()


def sound_of(literal: bytes | bytearray) -> bytes:
    """What is in base64 in a string of JSON, which has its quotation marks.

    Raises:
        ValueError: It is no base64.
    """
    try:
        return _BASE64.validate_json(literal)
    except ValidationError:
        # The standard library takes both alphabets in one text, and a last letter with bits to spare.
        encoded = literal[1:-1].translate(_URL_SAFE)
        return binascii.a2b_base64(encoded + b"=" * (-len(encoded) % 4), strict_mode=True)


def too_much() -> TTSAudioError:
    """The error of a reply in which there is far more than sound."""
    return TTSAudioError(
        f"the reply holds far more beside its sound than any speech: over {MOST_JSON_BYTES:,} bytes, or many thousand "
        "objects, events or lines",
        code=ErrorCode.AUDIO_TOO_LARGE,
        retryable=False,
    )


def _mark(number: int) -> bytes:
    return b"sound %d" % number


def _loaded(body: bytes | bytearray) -> Any:
    # Python refuses integers of more than 4,300 digits, and floats of the SDK's integers are errors.
    return json.loads(body, parse_int=_int, parse_float=lambda _: _NO_COUNT, parse_constant=lambda _: _NO_COUNT)


def _int(digits: str) -> int:
    return int(digits) if len(digits) < 16 else _NO_COUNT


def _parts(candidate: dict[str, Any] | None) -> list[dict[str, Any]]:
    content = candidate.get("content") if candidate else None
    parts = content.get("parts") if isinstance(content, dict) else None
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def _runs(candidate: dict[str, Any] | None, large: dict[bytes, bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """Sounds of one type that follow each other, in their parts: a WAV begins with a header of its own."""
    kind, run = "", list[bytes]()
    for part in _parts(candidate):
        blob = part.get("inlineData")
        data = blob.get("data") if isinstance(blob, dict) else None
        if not (isinstance(blob, dict) and isinstance(data, str) and data):
            continue
        sound = sound_of(b'"%b"' % data.encode())
        # A server that sends a mark gets its sound once.
        sound = large.pop(sound, sound)
        mime = _word(blob, "mimeType") or ""
        if run and (mime != kind or sound.startswith(b"RIFF")):
            yield kind, run
            run = []
        kind = mime
        run.append(sound)
    if run:
        yield kind, run


def _is_odd(document: dict[str, Any], candidate: dict[str, Any]) -> bool:
    """Whether something is no object, list or text that should be one."""
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, dict) else None
    objects = [document.get("usageMetadata"), document.get("promptFeedback"), content]
    objects += parts if isinstance(parts, list) else []
    return (
        any(value is not None and not isinstance(value, dict) for value in objects)
        or not isinstance(parts, list | None)
        or not isinstance(candidate.get("finishReason"), str | None)
        or any(part is None for part in (parts or ()))
    )


def _reply(document: dict[str, Any], candidate: dict[str, Any] | None, sounds: dict[bytes, str]) -> dict[str, Any]:
    reply: dict[str, Any] = {}
    if candidate is not None:
        parts: list[dict[str, Any]] = [
            {"inlineData": {"mimeType": mime, "data": binascii.b2a_base64(mark, newline=False).decode()}}
            for mark, mime in sounds.items()
        ]
        if any(_word(part, "text") for part in _parts(candidate)):
            parts.append({"text": "…"})
        reply["candidates"] = [_known({"content": {"parts": parts}, "finishReason": _word(candidate, "finishReason")})]
    feedback = document.get("promptFeedback")
    if isinstance(feedback, dict) and (reason := _word(feedback, "blockReason")):
        reply["promptFeedback"] = {"blockReason": reason}
    reply["modelVersion"] = _word(document, "modelVersion")
    reply["usageMetadata"] = _usage(document.get("usageMetadata"))
    return _known(reply)


def _usage(usage: Any) -> dict[str, Any] | None:
    """The counts that are read; one that is no count of tokens becomes one below zero."""
    if usage is None:
        return None
    if not isinstance(usage, dict):
        return {"promptTokenCount": _NO_COUNT}
    counts = {name: _count(usage.get(name)) for name in ("promptTokenCount", "candidatesTokenCount")}
    details = usage.get("candidatesTokensDetails") or []
    if not isinstance(details, list) or len(details) > _MOST_DETAILS:
        return {"promptTokenCount": _NO_COUNT}
    known = [
        _known({"modality": _word(detail, "modality"), "tokenCount": _count(detail.get("tokenCount"))})
        for detail in details
        if isinstance(detail, dict)
    ]
    return _known({**counts, "candidatesTokensDetails": known})


def _count(value: Any) -> int | None:
    if value is None:
        return None
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else _NO_COUNT


def _word(holder: Mapping[str, Any] | None, name: str) -> str | None:
    """A text of the reply, cut short, without halves of characters; ``None``: it holds none by this name."""
    value = holder.get(name) if holder else None
    return value[:_MOST_NAME_CHARS].encode("utf-8", "replace").decode() if isinstance(value, str) else None


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


class Events:
    """The events of a stream, cut out of its bytes as they come (server-sent events)."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._event = bytearray()
        self._left_lines = _MOST_LINES

    def feed(self, part: bytes) -> Iterator[bytearray]:
        """The events that this part completes.

        Raises:
            TTSAudioError: There were more lines than any speech has.
        """
        *ends, rest = part.split(b"\n")
        self._left_lines -= len(ends)
        if self._left_lines < 0:
            raise too_much()
        for end in ends:
            self._line += end
            if event := self._end_line():
                yield event
        self._line += rest

    def end(self) -> bytearray:
        """What remains at the end: an event without the empty line behind it, an error without an event, or nothing."""
        return self._end_line() or self._end_event()

    def _end_line(self) -> bytearray:
        line, self._line = self._line, bytearray()
        # Without a copy: a line may hold ten minutes of sound.
        if line.endswith(b"\r"):
            del line[-1:]
        if not line:
            return self._end_event()
        if line.startswith(_DATA):
            del line[: len(_DATA)]
        elif line.startswith(_OTHER_FIELDS):
            return bytearray()
        # An error may come as bare JSON, in lines.
        if self._event:
            self._event += b"\n"
            self._event += line
        else:
            self._event = line
        return bytearray()

    def _end_event(self) -> bytearray:
        event, self._event = self._event, bytearray()
        return event


_DATA = b"data:"
# A comment has no name.
_OTHER_FIELDS = (b":", b"event:", b"id:", b"retry:")
# The longest speech in blocks of 80 ms has 16,400, unless its JSON is printed in lines.
_MOST_LINES = 1_000_000
