"""Gemini's models at one of Google's two doors, and all that differs between these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from audio_api.config import AudioConfig
from audio_api.models.service_tiers import ServiceTier
from audio_api.settings import GEMINI_URL

# Where Vertex AI serves the 3.8 models; any other region answers 404 for them (its overview, October 2026).
SPEECH_LOCATIONS = ("global", "us", "eu")

VoiceFilter = Literal["language", "gender", "search"]


@dataclass(frozen=True, slots=True)
class Backend:
    """A door: the path of its calls, who makes them, and what it lacks.

    Attributes:
        version: Of the API, as it stands in paths.
        project: The Google Cloud project whose credentials make the calls; empty: an API key makes them.
        location: Where Vertex AI makes the speech; empty on the Developer API.
        is_vertex: Whether it is that of Vertex AI.
        takes_store: Whether a call says if Google may keep it.
        counts_tokens: Whether it counts the tokens of speech models.
        describes_models: Whether it tells what it knows of a model.
        tiers: At which it serves speech.
        voice_filters: By what it filters voices; the rest is left to the client.
    """

    version: str = "v1beta"
    project: str = ""
    location: str = ""
    is_vertex: bool = False
    takes_store: bool = True
    counts_tokens: bool = True
    describes_models: bool = True
    tiers: tuple[ServiceTier, ...] = ("standard", "flex", "priority")
    voice_filters: tuple[VoiceFilter, ...] = ("language", "gender", "search")

    @classmethod
    def vertex(cls, project: str = "", location: str = "global") -> Backend:
        """The door of Vertex AI.

        Args:
            project: Calls are made for this project by Google's credentials; empty: by the key of express mode.
            location: Where speech is made; of no meaning in express mode.
        """
        return cls(
            version="v1beta1",
            project=project,
            location=location if project else "",
            is_vertex=True,
            takes_store=False,
            counts_tokens=False,
            describes_models=False,
            tiers=("standard",),
            voice_filters=("search",),
        )

    @classmethod
    def of(cls, config: AudioConfig) -> Backend:
        """The door that the settings name."""
        if config.gemini_backend == "developer":
            return DEVELOPER
        return cls.vertex(config.google_cloud_project or "", config.google_cloud_location)

    @property
    def parent(self) -> str:
        """What stands between the version and the rest of a path: the project and the location, if any."""
        return f"projects/{self.project}/locations/{self.location}/" if self.project else ""


DEVELOPER = Backend()


def api_url(config: AudioConfig) -> str:
    """Where calls go: to ``GEMINI_BASE_URL``, or to the address of Vertex AI in its location."""
    if config.gemini_backend == "developer" or config.gemini_base_url != GEMINI_URL:
        return config.gemini_base_url
    location = config.google_cloud_location
    if location == "global" or not config.google_cloud_project:
        return "https://aiplatform.googleapis.com"
    if location in SPEECH_LOCATIONS:
        return f"https://aiplatform.{location}.rep.googleapis.com"
    return f"https://{location}-aiplatform.googleapis.com"
