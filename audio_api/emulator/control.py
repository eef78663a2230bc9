"""What the server has been told to do, and what it has seen."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from audio_api.emulator.batches import Batches, BatchRules
from audio_api.emulator.faults import Fault
from audio_api.emulator.quota import Quota, SpendLimit
from audio_api.emulator.speech import synthesize as computed_speech

Synthesize = Callable[[str, str, str], bytes | Awaitable[bytes]]
"""Speech of a text in a voice and a language: 24,000 Hz, 16-bit, mono PCM. A plain function runs in a thread."""


@dataclass
class ReceivedCall:
    """One call the server received.

    Attributes:
        number: Its place in the order of arrival, from 1.
        method: The HTTP method.
        path: The path, without the query.
        query: The query's fields.
        headers: By lower-case name, the key included.
        body: The JSON that came; ``None`` when there was none, or none that could be read.
        model: The model, file or job named in the path; empty when the path names none, or is not of the API.
        action: Such as ``"generateContent"`` or ``"streamGenerateContent"``; empty for a GET.
        time_s: When it arrived, in monotonic seconds.
        text: What it asks to be spoken; empty when it was refused before that was clear.
        attempt: How often that text has been asked for, this call included; 0 when refused before.
        fault: What was served.
        status: The HTTP status answered; ``None`` when none was.
        disconnected: Whether the client went away while the server was still to answer.
    """

    number: int
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any
    model: str
    action: str
    time_s: float = field(default_factory=time.monotonic)
    text: str = ""
    attempt: int = 0
    fault: Fault = Fault.NONE
    status: int | None = None
    disconnected: bool = False


class Control:
    """The behaviour of one emulator: its quotas, the outcomes of coming calls, and the calls so far.

    All of it may be used from another thread than the server's.

    Args:
        synthesize: What is heard; ``None``: a computed sound with the measures of speech.
        api_key: The one key that is accepted; ``None``: any key, but not none.
        latency_s: Seconds between a valid call and the first byte of its answer.
        tokens_per_s: Audio tokens billed per second of sound; the real API has been seen to bill 25 and 32.
        custom_voices: The ids of the account's own voices, such as ``"voice_abc"``; all others are not found.
        v1beta_only: Whether ``/v1`` knows no speech, as in the middle of 2026, so that a client must ask ``/v1beta``.
    """

    def __init__(
        self,
        synthesize: Synthesize | None = None,
        api_key: str | None = None,
        latency_s: float = 0.0,
        tokens_per_s: float = 25.0,
        *,
        custom_voices: Iterable[str] = (),
        v1beta_only: bool = False,
    ) -> None:
        self._initial = (synthesize or computed_speech, api_key, latency_s, tokens_per_s)
        self._initial_voices = frozenset(custom_voices)
        self._initial_v1beta_only = v1beta_only
        # The tokens for Vertex AI. A reset keeps them, because their clients live on.
        self.access_tokens: set[str] = set()
        self.reset()

    def reset(self) -> None:
        """Forget all calls, coming faults and quotas, and take back the settings given at the start."""
        self.synthesize: Synthesize
        self.api_key: str | None
        self.latency_s: float
        self.tokens_per_s: float
        self.synthesize, self.api_key, self.latency_s, self.tokens_per_s = self._initial
        self.custom_voices = set(self._initial_voices)
        # What the voices endpoint tells of those that it made, the newest last.
        self.made_voices: dict[str, dict[str, Any]] = {}
        self.batch = BatchRules()
        self.batches = Batches()
        self.v1beta_only = self._initial_v1beta_only
        # The status and the text with which the token server refuses; ``None``: it gives access tokens out.
        self.token_refusal: tuple[int, str] | None = None
        self.faults: Callable[[ReceivedCall], Fault | None] | None = None
        self.calls: list[ReceivedCall] = []
        self._coming: deque[Fault] = deque()
        self._attempts: Counter[str] = Counter()
        self._quotas: dict[str, Quota] = {}
        self._default_quota: Callable[[], Quota] | None = None
        self._spend_limit: SpendLimit | None = None

    def fail_next(self, *faults: Fault) -> None:
        """Queue the outcomes of the next valid calls, one each, behind those already queued.

        Calls that the API refuses by its own rules or by a quota use up none. When the queue is empty, ``self.faults``
        decides, a function of the call; when it is ``None`` or returns ``None``, the answer is good.
        """
        self._coming.extend(map(Fault, faults))

    @property
    def coming_faults(self) -> tuple[Fault, ...]:
        """The queued outcomes not yet served."""
        return tuple(self._coming)

    def set_quota(
        self,
        model: str | None = None,
        *,
        per_minute: int | None = None,
        per_day: int | None = None,
        window_s: float = 60.0,
    ) -> None:
        """Limit a model's calls from now on; earlier ones do not count.

        Args:
            model: Its id; ``None``: every model, each counted by itself; it replaces the
                quotas set before.
            per_minute: Most calls admitted within any ``window_s``; ``None``: no limit.
            per_day: Most calls admitted per day, Pacific time; ``None``: no limit.
            window_s: How long a "minute" is, in seconds.
        """
        fresh = partial(Quota, per_minute, per_day, window_s)
        if model is None:
            self._default_quota = fresh
            self._quotas.clear()
        else:
            self._quotas[model] = fresh()

    def set_spend_limit(self, tokens: int | None, *, window_s: float = 600.0, retry_info: bool = True) -> None:
        """Limit what the account may be billed from now on, all models together.

        Args:
            tokens: Most tokens, of prompts and of answers, within any ``window_s``: the call that goes beyond is the
                last one that is answered. ``0`` refuses every call; ``None``: no limit.
            window_s: In seconds; the API's own is ten minutes.
            retry_info: Whether a refusal asks for a delay, as most do, or has no details.
        """
        self._spend_limit = None if tokens is None else SpendLimit(tokens, window_s, retry_info)

    def charge(self, call: ReceivedCall) -> None:
        """Count a call that generates against the account's limit and its model's quota.

        Raises:
            RefusalError: One of them is used up.
        """
        if self._spend_limit is not None:
            self._spend_limit.admit()
        if call.model not in self._quotas and self._default_quota is not None:
            self._quotas[call.model] = self._default_quota()
        if quota := self._quotas.get(call.model):
            quota.admit(call.model)

    def bill(self, tokens: int) -> None:
        """Count what an answer is billed against the account's limit."""
        if self._spend_limit is not None:
            self._spend_limit.bill(tokens)

    def decide(self, call: ReceivedCall) -> None:
        """Choose the outcome of a valid call."""
        if self._coming:
            call.fault = self._coming.popleft()
        elif self.faults is not None:
            call.fault = self.faults(call) or Fault.NONE

    def count_attempt(self, call: ReceivedCall, text: str) -> None:
        """Note what a call asks to be spoken, and how often that was asked."""
        self._attempts[text] += 1
        call.text, call.attempt = text, self._attempts[text]

    def record(self, **fields: Any) -> ReceivedCall:
        """Note a call that arrived."""
        call = ReceivedCall(number=len(self.calls) + 1, **fields)
        self.calls.append(call)
        return call


def as_faults(names: Iterable[str]) -> list[Fault]:
    """Faults from their names.

    Raises:
        ValueError: A name is unknown; the text lists the known ones.
    """
    names = list(names)
    if unknown := sorted(set(names) - set(Fault)):
        raise ValueError(f"unknown faults {unknown}; the faults are {', '.join(Fault)}")
    return [Fault(name) for name in names]
