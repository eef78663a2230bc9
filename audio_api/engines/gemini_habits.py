"""What one engine has learned of the way in which the API wants its calls put."""

from __future__ import annotations

import logging

from audio_api.engines.base import Utterance
from audio_api.engines.gemini_errors import Objection
from audio_api.engines.gemini_request import Manner
from audio_api.models.speech_models import Family, SafetyThreshold, model_spec
from audio_api.models.voices import VoiceName

logger = logging.getLogger(__name__)

_FAMILY_WANTED: dict[Objection, Family] = {Objection.METADATA: "legacy", Objection.NO_METADATA: "verbatim"}


class Habits:
    """Puts calls as documented, until the API objects to a part of that by name.

    An objection comes before anything is spoken or billed, so the same call may be put otherwise at once.

    Args:
        store: Whether Google may keep requests; ``None``: not said.
        flex_timeout_s: Seconds that a call of the tier flex may take; ``None``: as many as any other.
        safety: From which probability of harm on a text is refused; ``None``: the API's own threshold.
    """

    def __init__(
        self, store: bool | None, flex_timeout_s: float | None = None, safety: SafetyThreshold | None = None
    ) -> None:
        self._store = store
        self._flex_timeout_s = flex_timeout_s
        self._safety = safety
        self._families: dict[str, Family] = {}
        self._unnamed: set[tuple[str, str]] = set()

    def family(self, model: str) -> Family:
        """The prompt protocol of a model."""
        return self._families.get(model) or model_spec(model).family

    def manner(self, utterance: Utterance) -> Manner:
        """How to put the call for an utterance."""
        is_prebuilt = all(isinstance(turn.voice.voice_name, VoiceName) for turn in utterance.turns)
        names_language = is_prebuilt and (utterance.model, utterance.language) not in self._unnamed
        timeout_s = self._flex_timeout_s if utterance.tier == "flex" else None
        return Manner(self.family(utterance.model), names_language, self._store, timeout_s, self._safety)

    def learn(self, objection: Objection | None, utterance: Utterance, manner: Manner) -> bool:
        """Take note of what the API objected to.

        Args:
            objection: ``None``: it failed for another reason.
            utterance: What the call was about.
            manner: How it was put.

        Returns:
            Whether the call can be put otherwise now.
        """
        match objection:
            case Objection.STORE if manner.store is not None:
                if self._store is not None:
                    self._store = None
                    logger.warning("the API refuses to be told whether it may store requests; it is not told any more")
                return True
            case Objection.LANGUAGE if manner.names_language:
                self._unnamed.add((utterance.model, utterance.language))
                return True
            case Objection.METADATA | Objection.NO_METADATA:
                # Whatever it wanted first holds: a model that objects to both is not asked a third time.
                known = self._families.setdefault(utterance.model, _FAMILY_WANTED[objection])
                return known != manner.family
        return False
