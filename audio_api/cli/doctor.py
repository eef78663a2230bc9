"""``audio-api doctor``: what is set up, what is missing, and what holds of the API."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from audio_api.cli.exit_codes import DONE, FAILED
from audio_api.cli.options import settings_of
from audio_api.cli.terminal import run


def doctor(
    live: Annotated[bool, typer.Option("--live", help="check what is believed of the API; costs a few cents")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask before spending them")] = False,
) -> int:
    """Check the installation, the settings and the connections."""
    return _check_live(ask=not yes) if live else run(_check_installation())


async def _check_installation() -> int:
    from audio_api.doctor.installation import check_installation

    levels = set()
    async for check in check_installation():
        levels.add(check.level)
        print(f"{check.level:<5} {check.title}: {check.text}", flush=True)
    return FAILED if "fail" in levels else DONE


def _check_live(*, ask: bool) -> int:
    from datetime import UTC, datetime

    from audio_api.doctor.live_calls import CALLS, estimated_cost_usd
    from audio_api.doctor.live_facts import check_live

    config = settings_of(offline=False)
    config.require_api_key()
    most_usd = estimated_cost_usd(datetime.now(UTC).date())
    print(f"{len(CALLS)} short calls and a batch, which takes minutes: at most ${most_usd:.3f} at list prices")
    if ask and sys.stdin.isatty() and input("Go on? [y/N] ").strip().lower() not in {"y", "yes"}:
        return FAILED
    report = run(check_live(config, on_call=lambda name: print(f"asking: {name}", file=sys.stderr)))
    for finding in report.findings:
        print(
            f"{finding.number:>2} {finding.verdict:<14} {finding.title}: "
            f"assumed {finding.assumed}; observed {finding.observed}"
        )
    print(f"{report.calls} calls, ${report.cost_usd:.4f} by the tokens they were billed")
    verdicts = {finding.verdict for finding in report.findings}
    return DONE if "holds" in verdicts and "differs" not in verdicts else FAILED
