"""The library installs beside other packages that use Google's SDK.

What those ask for is written down here as it was read from their metadata on 2026-11-29, so that no test changes with
the newest packages. docs/testing.md shows the command that asks the index.
"""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from project import PROJECT

# What each package, or a package that it needs, asks for of what the library asks for as well; behind it the version
# that was installed for both.
NEIGHBOURS = {
    "google-adk 2.13.0": {
        "google-genai>=2.30,<3": "2.34.0",
        "pydantic>=2.12.5,<3": "2.14.4",
        "python-dotenv>=1,<2": "1.2.4",
        "starlette>=1.3.1,<2": "1.10.0",
        "tenacity>=9,<9.2": "9.1.4",
        "uvicorn>=0.34,<1": "0.54.0",
    },
    "pipecat-ai[google] 1.14.0": {
        "aiofiles>=24.1.0,<27": "25.1.0",
        "google-genai>=2.25.0,<3": "2.34.0",
        "httpx2>=2.12.0,<3": "2.16.2",
        "numpy>=1.26.4,<3": "2.4.6",
        "pydantic>=2.12.5,<3": "2.14.4",
        "python-dotenv>=1.0.0,<2": "1.2.4",
        "tenacity>=8.2.3,<9.2": "9.1.4",
    },
    "pydantic-ai-slim[google] 2.68.0": {
        "google-genai>=2.30.0,<3": "2.34.0",
        "httpx2>=2.7": "2.16.2",
        "pydantic>=2.12.5,<3": "2.14.4",
        "tenacity>=8.2.3,<9.2": "9.1.4",
    },
    "llama-index-llms-google-genai 0.11.3": {
        "google-genai>=1.52.0,<3": "2.34.0",
        "pydantic>=2.12.5,<3": "2.14.4",
        "tenacity>=8.2.3,!=8.4.0,<9.2": "9.1.4",
    },
}

OURS = {
    requirement.name: requirement
    for requirements in (PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values())
    for requirement in map(Requirement, requirements)
}


@pytest.mark.parametrize("neighbour", NEIGHBOURS)
def test_a_version_fits_the_library_and_its_neighbour(neighbour: str) -> None:
    """Of each package that both ask for, the recorded version lies within both ranges."""
    for asked, version in NEIGHBOURS[neighbour].items():
        theirs = Requirement(asked)
        assert Version(version) in theirs.specifier
        assert Version(version) in OURS[theirs.name].specifier, f"{OURS[theirs.name]} beside {neighbour}: {theirs}"


def test_both_majors_of_the_sdk_fit() -> None:
    """The oldest that the neighbours take and the newest that there was are both allowed."""
    assert all(Version(version) in OURS["google-genai"].specifier for version in ("2.30.0", "2.34.0", "3.6.1"))
