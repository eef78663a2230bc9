"""Tests that run side by side start their servers on different ports."""

from __future__ import annotations

import pytest
from redis_server import free_port


def test_processes_have_ports_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """No two processes of pytest-xdist choose from the same ports, and each port leaves room for a cluster's second."""
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "3")
    chosen: list[set[int]] = []
    for number in range(3):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", f"gw{number}")
        chosen.append({free_port() for _ in range(1_000)})
    assert all(10_000 <= port < 20_000 for ports in chosen for port in ports)
    assert sum(map(len, chosen)) == len(set.union(*chosen))
    assert min(map(len, chosen)) > 500
