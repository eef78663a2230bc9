"""The docs say what is true: their code runs, and they name every setting, code, voice, language, model and fault."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from audio_api import config as config_module
from audio_api.cli import main
from audio_api.config import AudioConfig
from audio_api.emulator import Emulator, Fault
from audio_api.errors import AudioAPIError, ErrorCode
from audio_api.models.languages import Language
from audio_api.models.sound_formats import format_of
from audio_api.models.speech_models import DEFAULT_MODEL, MODEL_SPECS, VoiceModel, model_spec
from audio_api.models.voices import VoiceName
from audio_api.queues.redis_connection import ACCESS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL), 1)
]


def page(name: str) -> str:
    """The text of a page below ``docs/``."""
    return (ROOT / "docs" / f"{name}.md").read_text()


@pytest.mark.parametrize("block", BLOCKS)
def test_every_python_block_runs(
    block: str, gemini_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each example runs as it stands, against the emulator; a test function in it is called with its fixtures."""
    monkeypatch.setenv("GEMINI_API_KEY", "any")
    monkeypatch.setenv("GEMINI_BASE_URL", gemini_emulator.url)
    monkeypatch.setattr(config_module, "_current", None)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    if coroutine := eval(compile(block, "docs", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), namespace):
        asyncio.run(coroutine)  # a notebook's cell
    fixtures = {"gemini_emulator": gemini_emulator, "tmp_path": tmp_path}
    for name, value in namespace.items():
        if name.startswith("test_"):
            asyncio.run(value(**{wanted: fixtures[wanted] for wanted in inspect.signature(value).parameters}))


def test_there_are_five_short_examples_in_the_readme() -> None:
    """The README shows five examples and a queue, none longer than a screen."""
    blocks = [param.values[0] for param in BLOCKS if str(param.id).startswith("README")]
    assert len(blocks) == 5 + 1
    assert all(len(str(block).splitlines()) <= 30 for block in blocks)


def test_every_setting_is_documented_with_its_default() -> None:
    """Each setting has a row with its variable, its default and the description the code carries."""
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*) \|$", page("settings"), re.MULTILINE))
    assert set(rows) == {name.upper() for name in AudioConfig.model_fields}
    for name, field in AudioConfig.model_fields.items():
        default, _, meaning = rows[name.upper()].partition(" | ")
        assert meaning == field.description
        assert default == f"`{shown(field.get_default(call_default_factory=True))}`".replace("`none`", "none")


def shown(value: object) -> str:
    """A default as one writes it into ``.env``."""
    if hasattr(value, "get_secret_value"):
        return str(value.get_secret_value())
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def test_every_setting_stands_in_the_env_example() -> None:
    """``.env.example`` names every setting, so that a user finds all of them there."""
    names = re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert sorted(names) == sorted(name.upper() for name in AudioConfig.model_fields)


def test_every_error_and_code_is_documented() -> None:
    """Each code has one row with its class, and each class stands in the tree."""
    text = page("errors")
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| `(\w+)` \|", text, re.MULTILINE))
    from audio_api.errors import error_class

    assert rows == {code.value: error_class(code).__name__ for code in ErrorCode}
    assert not {cls.__name__ for cls in family(AudioAPIError)} - set(re.findall(r"\w+Error", text))


def family(cls: type) -> list[type]:
    """A class and all that derive from it in the package."""
    children = [child for child in cls.__subclasses__() if child.__module__.startswith("audio_api")]
    return [cls, *(grandchild for child in children for grandchild in family(child))]


def test_every_voice_language_and_model_is_documented() -> None:
    """Voices with their character, languages with their code and aliases, models with all that is known of them."""
    text = page("voices-and-languages")
    for voice in VoiceName:
        assert f"`{voice.value}` | {voice.character}" in text
    for name, language in Language.__members__.items():
        assert f"`{name}` | `{language.value}`" in text or f"`{name}` (`{language.value}`)" in text
    for model in VoiceModel:
        spec = MODEL_SPECS[model]
        prices = "; ".join(f"{price.input_usd:.2f} / {price.audio_usd:g} from {price.since}" for price in spec.prices)
        successor = f"`{spec.successor}`" if spec.successor else ""
        facts = f"{spec.family} | {prices} | {spec.shutdown or 'not announced'} | {successor} |"
        assert f"| `{model.name}` | `{model.value}` | {facts}" in text


def test_the_documented_size_of_pieces_is_that_of_the_models() -> None:
    """The page on long texts names the most characters of a call, of either protocol."""
    older, newer = (model_spec(model).piece_chars for model in (VoiceModel.GEMINI_TTS_PRO, DEFAULT_MODEL))
    assert f"at most {older:,} characters for the older models, {newer:,} for 3.8" in page("long-texts")


def test_every_fault_of_the_emulator_is_documented() -> None:
    """The page for testers names every fault."""
    missing = [fault.name for fault in Fault if f"`{fault.name}`" not in page("testing").replace("`Fault.", "`")]
    assert missing == []


def test_the_documented_rights_are_those_the_tests_have() -> None:
    """The page on queues shows what a Redis user must be allowed; every test on Redis runs with just that."""
    assert f"ACL SETUSER audio on >password {ACCESS}\n" in page("queue")


def test_every_relative_link_leads_somewhere() -> None:
    """No page links to a file that is not there."""
    for path in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


COMMANDS = re.findall(r"`python -m audio_api (say[^`]+)`", "\n".join(path.read_text() for path in PAGES))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_docs_work(
    command: str, gemini_emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A command line that the docs show does what it says."""
    monkeypatch.setenv("GEMINI_API_KEY", "any")
    monkeypatch.setenv("GEMINI_BASE_URL", gemini_emulator.url)
    monkeypatch.setattr(config_module, "_current", None)
    assert main(shlex.split(command)) == 0
    assert [path for path in tmp_path.iterdir() if format_of(path.name)]
