"""A local server that speaks Gemini's protocol, faults included, for tests without a key, a network or a bill.

It is a second, independent reading of the API's description: it shares nothing with the engines it judges. It needs the
extra: ``pip install 'audio-api[emulator]'``. Names load on first use, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audio_api.emulator.app import create_app
    from audio_api.emulator.control import ReceivedCall
    from audio_api.emulator.faults import Fault
    from audio_api.emulator.server import Emulator

__all__ = ["Emulator", "Fault", "ReceivedCall", "create_app"]

_HOME = {"ReceivedCall": "control", "Emulator": "server", "Fault": "faults", "create_app": "app"}


def __getattr__(name: str) -> Any:
    """Load a public name's module on first use (PEP 562).

    Raises:
        ImportError: The extra is not installed; the text says how to install it.
    """
    if name not in _HOME:
        raise AttributeError(f"module 'audio_api.emulator' has no attribute {name!r}")
    try:
        return getattr(import_module(f"audio_api.emulator.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in {"starlette", "uvicorn"}:
            raise
        raise ImportError(
            f"the emulator needs {missing}, which is not installed: pip install 'audio-api[emulator]'"
        ) from error
