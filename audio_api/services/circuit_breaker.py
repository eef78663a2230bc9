"""The circuit breaker of each model: when calls fail one after the other, no worker of the queue calls any more.

Closed: calls pass. Open: no call is made. Half open: one call, the probe, finds out whether the API is back.
"""

from __future__ import annotations

import logging

from audio_api.queues.limits import CallLimits

logger = logging.getLogger(__name__)

FAILURES_TO_OPEN = 10
"""At 40 % failures, the rate that users report, ten in a row come once in ten thousand calls."""
FIRST_PROBE_S, PROBE_S = 1.0, 5.0
"""The first probe leaves a second after the circuit opened, then one every five seconds: none waits longer for it."""


class CircuitBreaker:
    """Counts failures in a row, of all workers together, in the place that holds the queue.

    ``CallLimits.take`` holds back the calls of an open circuit, and lets the probes through. Every call raises
    ``QueueUnavailableError`` when that place does not answer.

    Args:
        limits: What the workers of the queue share.
    """

    def __init__(self, limits: CallLimits) -> None:
        self._limits = limits

    async def note_failure(self, model: str, *, answered: bool) -> bool:
        """Count a call that was not answered; whether the circuit is open now.

        Args:
            model: The model's id.
            answered: As ``CallLimits.take``: whether failures before this one are not in a row with it.
        """
        failures = await self._limits.count_failure(model, FAILURES_TO_OPEN, FIRST_PROBE_S, PROBE_S, answered=answered)
        if failures == FAILURES_TO_OPEN:
            logger.warning(
                "circuit opens: a call every few seconds looks whether the API is back", extra={"model": model}
            )
        return failures >= FAILURES_TO_OPEN

    async def close(self, model: str) -> None:
        """Let every worker call again: the probe was served."""
        logger.info("circuit closes: the API serves again", extra={"model": model})
        await self._limits.open_gate(model)

    async def is_open(self, model: str) -> bool:
        """Whether no call of the model is made but a probe."""
        return await self._limits.is_circuit_open(model)
