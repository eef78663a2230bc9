"""What tests know of this checkout: its metadata, its lock and its programs."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path
from types import ModuleType

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCK = (ROOT / "requirements.lock").read_text("utf-8")


def program(name: str) -> ModuleType:
    """A program of the top folder as a module; ``setup`` may already be the name of another one."""
    spec = importlib.util.spec_from_file_location(f"program_{name}", ROOT / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def lock_blocks(lock: str = LOCK) -> list[str]:
    """A lock, one string for each pin with its hashes."""
    return re.split(r"^(?=[^\s#])", lock, flags=re.MULTILINE)[1:]


def pin(block: str) -> Requirement:
    """The exact version that a block of the lock pins."""
    return Requirement(block.partition("\\")[0])


def part_of_lock(*requirements: str) -> str:
    """The part of the lock that these requirements need, followed through the packages installed here."""
    here = {canonicalize_name(distribution.name): distribution for distribution in distributions()}
    names = needed(requirements, here)
    return "".join(block for block in lock_blocks() if pin(block).name in names)


def needed(
    requirements: tuple[str, ...], packages: Mapping[NormalizedName, Distribution]
) -> dict[NormalizedName, list[Requirement]]:
    """Every requirement that holds here, by name, followed from package to package and from extra to extra."""
    found: dict[NormalizedName, list[Requirement]] = {}
    waiting = [(Requirement(item), "") for item in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        known = found.setdefault(canonicalize_name(requirement.name), [])
        if (requirement.marker and not requirement.marker.evaluate({"extra": extra})) or requirement in known:
            continue
        known.append(requirement)
        below = packages[canonicalize_name(requirement.name)].requires or []
        waiting += [(Requirement(item), asked) for item in below for asked in ("", *requirement.extras)]
    return {name: known for name, known in found.items() if known}


def variables_without(*prefixes: str) -> dict[str, str]:
    """The environment variables of this process, less those that begin so."""
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
