"""The page on what of Google's speech API is covered tells the truth: its names, its tests and its count."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import audio_api
from audio_api.config import AudioConfig

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "coverage.md").read_text("utf-8")
ROWS = re.findall(r"^\| (.+?) \| (yes|no) \| (.*?) \| (.*?) ?\|$", PAGE, re.MULTILINE)
# What the page must speak of, by the words of its rows.
TOPICS = (
    "One voice", "Two speakers", "Style", "<laugh>", "Back-channels", "streamGenerateContent", "flex", "priority",
    "thirty prebuilt", "library", "Designed voices", "Replicated voices", "language", "gemini-3.8-flash-tts",
    "Batches", "countTokens", "safetySettings", "store: false", "project", "Express mode", "AUDIO_WAV", "AUDIO_MULAW",
    "cachedContent", "Interactions",
)  # fmt: skip
LEAST_SHARE = 0.95


@cache
def cases_of(module: str) -> set[str]:
    """The names of a module's tests."""
    tree = ast.parse((TESTS / f"{module}.py").read_text("utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, functions) and node.name.startswith("test_")}


def exists(name: str) -> bool:
    """Whether a setting, or a public name of the package and its attribute, is there."""
    if name.isupper():
        return name.lower() in AudioConfig.model_fields
    head, _, attribute = name.partition(".")
    thing: Any = getattr(audio_api, head)
    return not attribute or attribute in getattr(thing, "model_fields", {}) or hasattr(thing, attribute)


def test_every_line_of_the_tables_is_read() -> None:
    """No row escapes the other tests by its form, and no feature stands there twice."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| Google's feature")]
    assert len(lines) == len(ROWS)
    assert len({feature for feature, *_ in ROWS}) > 0.97 * len(ROWS)


@pytest.mark.parametrize(("feature", "covered", "ours", "test"), ROWS, ids=[row[0] for row in ROWS])
def test_a_row_is_true(feature: str, covered: str, ours: str, test: str) -> None:
    """What is covered has a name of ours and a test that are there; what is not has a reason instead."""
    if covered == "no":
        assert len(ours) > 40
        assert not test
        return
    name, place = re.fullmatch(r"`([\w.]+)`", ours), re.fullmatch(r"`(\w+)\.(\w+)`", test)
    assert name, ours
    assert place, test
    assert exists(name[1]), name[1]
    assert place[2] in cases_of(place[1]), test


def test_the_share_is_counted_and_large() -> None:
    """The page's count is that of its rows, and at least 95 of 100 are covered."""
    covered = sum(row[1] == "yes" for row in ROWS)
    assert f"**{covered} of {len(ROWS)} are covered, {covered / len(ROWS):.1%}**" in PAGE
    assert covered / len(ROWS) >= LEAST_SHARE


@pytest.mark.parametrize("topic", TOPICS)
def test_no_topic_is_passed_over(topic: str) -> None:
    """Each topic of Google's documents has a row."""
    assert any(topic.lower() in feature.lower() for feature, *_ in ROWS)


def test_a_wrong_row_would_be_noticed() -> None:
    """Names and tests that do not exist are told from those that do."""
    assert exists("AudioRequest.style")
    assert exists("GEMINI_STORE")
    assert exists("TTSService.estimate")
    assert not exists("AudioRequest.stile")
    assert not exists("GEMINI_SHOP")
    assert "test_the_share_is_counted_and_large" in cases_of("test_coverage")
    assert "test_that_is_not_here" not in cases_of("test_coverage")
