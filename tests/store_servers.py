"""Real servers that speak S3 or Azure, each a program of its own on loopback, and a proxy that loses what it carries.

Those of S3 live in an environment of their own, ``.venv/store-servers``, made once from ``store-servers.lock``: they
bring packages, such as uvloop, that would change what the other tests test. That of Azure, Azurite, is 186 MB of
packages of Node; ``CONTRIBUTING.md`` says how to let the tests meet it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from email.utils import formatdate
from enum import Enum
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Event, Lock, Thread
from typing import Any

import pytest
from environments import environment
from redis_server import free_port

ACCESS_KEY, SECRET_KEY = "CANARYSTOREACCESS", "CANARY-store-secret"
BUCKET = "sounds"
_AZURE_KEY = base64.b64encode(b"CANARY-azure-secret").decode()
_START_S = 120.0
_HEAD_END = b"\r\n\r\n"


class StoreServer:
    """A server with one bucket.

    Args:
        folder: Where its data and its log go.
        kind: ``ministack``, which knows conditions and checks presigned links, or ``nanio``, which ignores
            ``If-None-Match`` and checks every signature.
    """

    scheme = "s3"

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind = kind
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def variables(self, port: int | None = None) -> dict[str, str]:
        """What the environment of a client must hold.

        Args:
            port: That of a proxy; ``None``: the server's own.
        """
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_ALLOW_HTTP": "true",
        }

    def start(self) -> None:
        """Start it, and wait until it takes requests; it begins without any object."""
        paths = {"PATH": os.environ["PATH"], "HOME": str(self._folder), "TMPDIR": str(self._folder)}
        command, settings = self._program()
        with (self._folder / f"{self.kind}.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=paths | settings, cwd=self._folder, stdout=log, stderr=log)
        self._await()
        try:
            urllib.request.urlopen(self._creation(), timeout=10).close()
        except urllib.error.HTTPError as error:
            # It is there when the server kept its data.
            if error.code != 409:
                raise

    def _program(self) -> tuple[list[str | Path], dict[str, str]]:
        programs = environment("store-servers")
        if self.kind == "ministack":
            settings = {
                "AUTH": "true",
                "BIND_HOST": "127.0.0.1",
                "GATEWAY_PORT": str(self.port),
                "SERVICES": "s3,iam,sts",
                "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            }
            return [programs / "ministack"], settings
        data = self._folder / "data"
        data.mkdir(exist_ok=True)
        place = ["--host", "127.0.0.1", "--port", str(self.port), "--data-dir", str(data)]
        return [programs / "nanio", "serve", *place], {"NANIO_ACCESS_KEY": ACCESS_KEY, "NANIO_SECRET_KEY": SECRET_KEY}

    def _creation(self) -> urllib.request.Request:
        """The request that makes the bucket."""
        import obstore

        return urllib.request.Request(obstore.sign(self.client(), "PUT", "", timedelta(minutes=1)), method="PUT")

    def _await(self) -> None:
        assert self._process
        give_up = time.monotonic() + _START_S
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self._process.poll() is None, (self._folder / f"{self.kind}.log").read_text()
            assert time.monotonic() < give_up, f"{self.kind} did not start"
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it and wait for that."""
        if self._process:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def send_signal(self, how: signal.Signals) -> None:
        """Freeze it, or let it go on."""
        assert self._process
        self._process.send_signal(how)

    def client(self) -> Any:
        """A client that asks the server itself, past the library."""
        from obstore.store import S3Store

        config: Any = {
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "endpoint": f"http://127.0.0.1:{self.port}",
            "region": "us-east-1",
        }
        return S3Store(BUCKET, config=config, client_options={"allow_http": True})

    def keys(self, prefix: str = "") -> list[str]:
        """The keys of everything below a prefix."""
        import obstore

        return [each["path"] for page in obstore.list(self.client(), prefix=prefix) for each in page]

    def content(self, key: str) -> bytes:
        """An object, read again."""
        import obstore

        return bytes(obstore.get(self.client(), key).bytes())

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Everything below a prefix, read again."""
        return {key: self.content(key) for key in self.keys(prefix)}

    def labels(self, key: str) -> dict[str, str]:
        """The metadata of an object."""
        import obstore

        return dict(obstore.get(self.client(), key, options={"head": True}).attributes)


class AzuriteServer(StoreServer):
    """Microsoft's own emulator of Azure Blob Storage, with one container; it checks every signature.

    Args:
        folder: Where its log goes.
        program: Where ``azurite-blob`` is.
    """

    scheme = "az"

    def __init__(self, folder: Path, program: str) -> None:
        super().__init__(folder, "azurite")
        self._path = program

    def variables(self, port: int | None = None) -> dict[str, str]:  # noqa: D102 - as above
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCESS_KEY.lower(),
            "AZURE_STORAGE_ACCOUNT_KEY": _AZURE_KEY,
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port or self.port}/{ACCESS_KEY.lower()}",
            "AZURE_ALLOW_HTTP": "true",
        }

    def _program(self) -> tuple[list[str | Path], dict[str, str]]:
        place = ["--blobHost", "127.0.0.1", "--blobPort", str(self.port)]
        options = ["--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck"]
        return [self._path, *place, *options], {"AZURITE_ACCOUNTS": f"{ACCESS_KEY.lower()}:{_AZURE_KEY}"}

    def client(self) -> Any:  # noqa: D102 - as above
        from obstore.store import AzureStore

        config: Any = {
            "account_name": ACCESS_KEY.lower(),
            "account_key": _AZURE_KEY,
            "endpoint": self.variables()["AZURE_STORAGE_ENDPOINT"],
        }
        return AzureStore(BUCKET, config=config, client_options={"allow_http": True})

    def _creation(self) -> urllib.request.Request:
        # https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key (2026-11)
        account, date, version = ACCESS_KEY.lower(), formatdate(usegmt=True), "2023-11-03"
        told = f"x-ms-date:{date}\nx-ms-version:{version}\n/{account}/{account}/{BUCKET}\nrestype:container"
        digest = hmac.digest(base64.b64decode(_AZURE_KEY), f"PUT{12 * chr(10)}{told}".encode(), hashlib.sha256)
        headers = {
            "x-ms-date": date,
            "x-ms-version": version,
            "Authorization": f"SharedKey {account}:{base64.b64encode(digest).decode()}",
        }
        url = f"{self.variables()['AZURE_STORAGE_ENDPOINT']}/{BUCKET}?restype=container"
        return urllib.request.Request(url, headers=headers, method="PUT")


def enter(server: StoreServer, monkeypatch: pytest.MonkeyPatch, port: int | None = None) -> None:
    """Let the environment lead to a server, or to a proxy before it."""
    for name, value in server.variables(port).items():
        monkeypatch.setenv(name, value)


@contextmanager
def running(server: StoreServer) -> Iterator[StoreServer]:
    """A server that runs, and ends with the context."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


class Loss(Enum):
    """What a proxy does with a request."""

    CUT = "cut"
    """Takes all of it, passes nothing on, and cuts the connection."""
    LOST_ANSWER = "lost answer"
    """Passes it on, swallows the answer, and cuts the connection."""
    HELD_ANSWER = "held answer"
    """Passes it on, and keeps the answer until ``held`` is set."""
    UNAVAILABLE = "503 Service Unavailable"
    """Answers 503 itself."""
    FORBIDDEN = "403 Forbidden"
    """Answers as S3 does when a right is missing."""
    NOT_FOUND = "404 Not Found"
    """Answers as if nothing were there."""
    TORN = "torn"
    """Passes half of the answer on, and cuts the connection."""


Plan = Callable[[str, str], Loss | None]
"""Tells, from a request's method and path, what happens to it; ``None``: nothing."""


class LossyProxy(ThreadingTCPServer):
    """Stands before a server of HTTP.

    Attributes:
        plan: What happens to the next requests.
        latency_s: How long each request is under way, in seconds.
        seen: Method and path of every request.
        answered: Those that the server has answered.
        held: Cleared, it holds every request back before it passes it on.
        waiting: Set when a request or an answer is held.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Carrier)
        self.target = port
        self.port = int(self.server_address[1])
        self.plan: Plan = lambda _method, _path: None
        self.latency_s = 0.0
        self.seen: list[tuple[str, str]] = []
        self.answered: list[tuple[str, str]] = []
        self.held = Event()
        self.held.set()
        self.waiting = Event()
        self.lock = Lock()

    def methods(self, method: str, path: str = "") -> int:
        """How many requests of a method there were whose path holds this."""
        return sum(each == method and path in where for each, where in self.seen)

    def handle_error(self, *_: Any) -> None:
        """Say nothing of clients that hang up."""


class _Carrier(BaseRequestHandler):
    server: LossyProxy

    def handle(self) -> None:
        with suppress(ConnectionError):
            while self._carry():
                pass

    def _carry(self) -> bool:
        request = self._message(self.request)
        if request is None:
            return False
        method, path = request.split(b" ", 2)[:2]
        with self.server.lock:
            self.server.seen.append((method.decode(), path.decode()))
            loss = self.server.plan(method.decode(), path.decode())
        self._hold()
        time.sleep(self.server.latency_s)
        if loss is Loss.CUT:
            return False
        if loss in {Loss.UNAVAILABLE, Loss.FORBIDDEN, Loss.NOT_FOUND}:
            body = b"<Error><Code>AccessDenied</Code></Error>" if loss is Loss.FORBIDDEN else b""
            head = f"HTTP/1.1 {loss.value}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            self.request.sendall(head + (b"" if method == b"HEAD" else body))
            return True
        answer = self._passed_on(request)
        self.server.answered.append((method.decode(), path.decode()))
        if loss is Loss.HELD_ANSWER:
            self.server.held.clear()
            self._hold()
        if loss is Loss.LOST_ANSWER:
            return False
        if loss is Loss.TORN:
            self.request.sendall(answer[: len(answer) // 2])
            return False
        self.request.sendall(answer)
        return False

    def _hold(self) -> None:
        if not self.server.held.is_set():
            self.server.waiting.set()
            self.server.held.wait()

    def _passed_on(self, request: bytes) -> bytes:
        head, _, body = request.partition(_HEAD_END)
        with socket.create_connection(("127.0.0.1", self.server.target), 10) as there:
            # Each answer ends with its connection.
            there.sendall(head + b"\r\nConnection: close" + _HEAD_END + body)
            answer = bytearray()
            while block := there.recv(65_536):
                answer += block
        return bytes(answer)

    @staticmethod
    def _message(connection: socket.socket) -> bytes | None:
        """A request with its body; ``None``: the client has gone."""
        message = bytearray()
        while _HEAD_END not in message:
            block = connection.recv(65_536)
            if not block:
                return None
            message += block
        head = message.index(_HEAD_END) + len(_HEAD_END)
        length = re.search(rb"content-length: *(\d+)", bytes(message[:head]), re.IGNORECASE)
        while len(message) < head + (int(length[1]) if length else 0):
            block = connection.recv(1 << 20)
            if not block:
                return None
            message += block
        return bytes(message)


@contextmanager
def lossy_proxy(port: int) -> Iterator[LossyProxy]:
    """A proxy before a port of loopback; it ends with the context."""
    proxy = LossyProxy(port)
    thread = Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.held.set()
        proxy.shutdown()
        proxy.server_close()
        thread.join()


def once(loss: Loss, method: str, path: str = "") -> Plan:
    """A plan that strikes the first request of a method whose path holds this, and no other."""
    struck = Event()

    def plan(each: str, where: str) -> Loss | None:
        if each == method and path in where and not struck.is_set():
            struck.set()
            return loss
        return None

    return plan
