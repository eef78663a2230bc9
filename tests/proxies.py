"""Real proxies on this machine, with every fault that a network between us and the API has, and certificates."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "gemini.invalid"
"""Has no address: only a proxy reaches it."""


class Way(StrEnum):
    """What a proxy does with a connection."""

    THROUGH = "through"
    SILENT = "accepts the connection, and never says a word"
    CLOSES = "opens the tunnel, and closes it in the handshake"
    RESETS = "opens the tunnel, and resets it in the handshake"
    STALLS = "opens the tunnel, and stands still in the handshake"


class Authority:
    """A certificate authority of one's own, as companies put it into their proxies.

    Args:
        folder: Where its files are kept.

    Attributes:
        file: Its certificate, as ``SSL_CERT_FILE`` names it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a company's own authority")])
        extension = x509.BasicConstraints(ca=True, path_length=0)
        self.file = folder / "authority.pem"
        self.file.write_bytes(self._signed(self._name, self._key, extension).public_bytes(serialization.Encoding.PEM))

    def context(self, host: str = HOST) -> ssl.SSLContext:
        """What a server needs that calls itself by this name."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        certificate = self._signed(name, key, x509.SubjectAlternativeName([x509.DNSName(host)]))
        file = self._folder / f"{host}.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def put_into(self, folder: Path) -> None:
        """Make a folder that ``SSL_CERT_DIR`` can name: OpenSSL finds certificates there by their hash."""
        command = ["openssl", "x509", "-noout", "-hash", "-in", str(self.file)]
        name = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        (folder / f"{name}.0").write_bytes(self.file.read_bytes())

    def _signed(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .sign(self._key, hashes.SHA256())
        )


class Proxy:
    """Takes CONNECT, or SOCKS5, and leads every tunnel to one server.

    Args:
        port: Of that server, on this machine.
        ways: What happens to each connection, by its number from 1; others go through.
        credentials: ``user:password`` that a client must name; ``None``: none are asked for.

    Attributes:
        url: Its address, without credentials.
        connections: How many there were.
        targets: Where each tunnel was asked to lead.
        waits: Whether a client waits for it in vain.
    """

    def __init__(self, port: int, ways: Mapping[int, Way], credentials: str | None) -> None:
        self.url = ""
        self.connections = 0
        self.targets: list[str] = []
        self.waits = False
        self._port = port
        self._ways = ways
        self._credentials = credentials
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        way = self._ways.get(self.connections, Way.THROUGH)
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            if way is Way.SILENT:
                self.waits = True
                await reader.read()
            first = await reader.readexactly(1)
            is_open = await (self._socks(reader, writer) if first == b"\5" else self._connect(reader, writer))
            if is_open:
                await self._carry(way, reader, writer)
        writer.close()
        self._tasks.discard(task)

    async def end(self) -> None:
        """Cut every tunnel."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.targets.append(head.split(" ")[1])
        wanted = self._credentials and base64.b64encode(self._credentials.encode()).decode()
        if wanted and f"proxy-authorization: basic {wanted}".lower() not in head.lower():
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return False
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await writer.drain()
        return True

    async def _socks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """RFC 1928 and 1929, for names only."""
        methods = await reader.readexactly((await reader.readexactly(1))[0])
        method = 2 if self._credentials else 0
        writer.write(bytes([5, method if method in methods else 255]))
        if self._credentials:
            _, length = await reader.readexactly(2)
            user = await reader.readexactly(length)
            password = await reader.readexactly((await reader.readexactly(1))[0])
            is_right = f"{user.decode()}:{password.decode()}" == self._credentials
            writer.write(bytes([1, not is_right]))
            if not is_right:
                await writer.drain()
                return False
        kind = (await reader.readexactly(4))[3]
        assert kind == 3, "the proxy, not the client, looks the name up"
        name = await reader.readexactly((await reader.readexactly(1))[0])
        self.targets.append(f"{name.decode()}:{struct.unpack('>H', await reader.readexactly(2))[0]}")
        writer.write(bytes([5, 0, 0, 1, 0, 0, 0, 0, 0, 0]))
        await writer.drain()
        return True

    async def _carry(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if way is not Way.THROUGH:
            await reader.read(1)  # the handshake has begun
        if way is Way.STALLS:
            self.waits = True
            await reader.read()
        if way is Way.RESETS:
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if way is Way.THROUGH:
            await join(reader, writer, self._port)


async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Pass everything on, both ways, until one side has said all."""
    there, here = await asyncio.open_connection("127.0.0.1", port)
    ways = [asyncio.create_task(_pass_on(reader, here)), asyncio.create_task(_pass_on(there, writer))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        here.close()


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(65_536):
        target.write(data)
        await target.drain()


@asynccontextmanager
async def proxy(
    port: int, ways: Mapping[int, Way] | None = None, credentials: str | None = None
) -> AsyncIterator[Proxy]:
    """Run one on a free loopback port."""
    server = Proxy(port, ways or {}, credentials)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        await server.end()


@asynccontextmanager
async def tls_front(url: str, context: ssl.SSLContext) -> AsyncIterator[int]:
    """Put a server that speaks plain HTTP behind TLS; yields the port."""
    port = urlsplit(url).port
    assert port is not None
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
            await join(reader, writer, port)
        writer.close()
        tasks.discard(task)

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)
