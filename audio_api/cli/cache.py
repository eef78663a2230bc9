"""``audio-api cache``: the finished pieces that are kept, so that nothing is paid for twice."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from audio_api.cli.exit_codes import DONE, FAILED
from audio_api.cli.options import AsJson, settings_of

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from audio_api.config import AudioConfig

cache = typer.Typer(help="Show or remove the finished pieces that are kept.", rich_markup_mode=None)


@cache.command()
def size(as_json: AsJson = False) -> int:
    """Tell how many pieces are kept, where, and how large they are."""
    import json

    config = settings_of(offline=False)
    folder, pieces = _kept(config)
    size_bytes = sum(status.st_size for _, status in pieces)
    if as_json:
        told = {"folder": str(folder), "pieces": len(pieces), "bytes": size_bytes, "max_bytes": config.cache_max_bytes}
        print(json.dumps(told))
    else:
        print(f"{_told(pieces)} of {config.cache_max_bytes / 1e6:,.1f} MB at most, in {folder}")
    return DONE


@cache.command()
def clear(yes: Annotated[bool, typer.Option("--yes", help="do not ask before removing them")] = False) -> int:
    """Remove the pieces that are kept on this machine; the next request pays for them again."""
    from audio_api.speech.piece_cache import remove_piece

    _, pieces = _kept(settings_of(offline=False))
    if pieces and not yes and sys.stdin and sys.stdin.isatty():
        answer = input(f"Remove {_told(pieces)}, which would be paid for again? [y/N] ")
        if answer.strip().lower() not in {"y", "yes"}:
            return FAILED
    removed = [piece for piece in pieces if remove_piece(*piece)]
    print(f"removed {_told(removed)}")
    return DONE if len(removed) == len(pieces) else FAILED


def _kept(config: AudioConfig) -> tuple[Path, list[tuple[Path, os.stat_result]]]:
    from audio_api.errors import TTSOutputError
    from audio_api.speech.piece_cache import pieces_in

    folder = config.cache_dir or config.output_dir / ".cache"
    try:
        return folder, pieces_in(folder)
    except FileNotFoundError:
        return folder, []
    except OSError as error:
        raise TTSOutputError(f"cannot list {str(folder)!r}: {error.strerror}") from None


def _told(pieces: list[tuple[Path, os.stat_result]]) -> str:
    return f"{len(pieces):,} pieces, {sum(status.st_size for _, status in pieces) / 1e6:,.1f} MB"
