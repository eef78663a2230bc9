"""Behind a proxy: a failed handshake costs the call that met it and no other, and reasons are told by name."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from gemini_faults import KEY, engine_for, outcome
from own_time import PATIENCE_S, pass_time, until
from proxies import HOST, Authority, Proxy, Way, proxy, tls_front
from raw_server import answering, raw_server

from audio_api import AudioConfig, AudioRequest, ErrorCode, TTSService
from audio_api.doctor.installation import check_installation
from audio_api.emulator import Emulator
from audio_api.engines import gemini_transport
from audio_api.engines.base import SpeechAudio
from audio_api.errors import ConfigurationError, TTSUnavailableError

URL = f"https://{HOST}"
SOON_S = 30.0
"""Long before a call takes too long."""
CONNECTING_S = 2 * gemini_transport._CONNECT_TIMEOUT_S
"""What the two steps to a connection may take."""
# The proxies of the tests leave a connection that their end cuts before its handler has begun to asyncio, which warns.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed <StreamWriter:ResourceWarning",
    "ignore:Exception ignored in. <function StreamWriter:pytest.PytestUnraisableExceptionWarning",
)


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without proxies and certificates."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    gemini_transport._announce.cache_clear()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority that this machine does not know."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """The API."""
    with Emulator() as server:
        yield server


@asynccontextmanager
async def the_way(
    emulator: Emulator, authority: Authority, ways: dict[int, Way] | None = None, credentials: str | None = None
) -> AsyncIterator[Proxy]:
    """A proxy in front of the API at ``URL``, whose certificate the authority has signed."""
    async with tls_front(emulator.url, authority.context()) as port, proxy(port, ways, credentials) as server:
        yield server


@pytest.mark.parametrize("most", [1, 4])
@pytest.mark.parametrize("at", [1, 2, 5])
@pytest.mark.parametrize("way", [Way.SILENT, Way.CLOSES, Way.RESETS, Way.STALLS])
async def test_a_failed_handshake_costs_no_later_call(
    way: Way, at: int, most: int, emulator: Emulator, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of six calls, each over a connection of its own, the one that met it fails soon, and all others are answered."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    monkeypatch.setattr(gemini_transport, "_KEEP_ALIVE_S", 0)
    async with the_way(emulator, authority, {at: way}) as server:
        monkeypatch.setenv("HTTPS_PROXY", server.url)
        engine = engine_for(URL, max_connections=most, timeout_s=PATIENCE_S)
        for call in range(1, 7):
            begun_s = time.monotonic()
            result_of = asyncio.create_task(outcome(engine))
            if call == at and way in {Way.SILENT, Way.STALLS}:
                await until(lambda: server.waits)
                pass_time(CONNECTING_S)
            result = await result_of
            assert time.monotonic() - begun_s < SOON_S
            if call == at:
                assert isinstance(result, TTSUnavailableError)
                assert result.code is ErrorCode.CONNECTION_FAILED
            else:
                assert isinstance(result, SpeechAudio)
        await engine.close()
        assert server.connections == 6


async def test_an_answer_that_takes_its_time_is_waited_for(
    emulator: Emulator, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time for connecting ends when the way is open: a model may speak for longer, through a proxy, too."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    async with the_way(emulator, authority) as server:
        monkeypatch.setenv("HTTPS_PROXY", server.url)
        engine = engine_for(URL, timeout_s=PATIENCE_S)
        monkeypatch.setattr(emulator, "latency_s", 1.0)
        for _ in range(2):
            earlier = len(emulator.calls)
            speaking = asyncio.create_task(outcome(engine))
            await until(lambda earlier=earlier: len(emulator.calls) > earlier)
            pass_time(CONNECTING_S + 1)
            assert isinstance(await speaking, SpeechAudio)
        await engine.close()
        assert server.connections == 1


async def test_a_certificate_that_is_not_trusted_is_told_at_once(
    emulator: Emulator, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all default settings a request ends after one handshake, and its error names the reason and the remedy."""
    async with the_way(emulator, authority) as server:
        monkeypatch.setenv("HTTPS_PROXY", server.url)
        config = AudioConfig(gemini_api_key=KEY, gemini_base_url=URL, allow_custom_base_url=True, output_dir=tmp_path)
        async with TTSService(config) as service:
            begun_s = time.monotonic()
            response = await service.generate_audio(AudioRequest(text="Good morning."))
            assert time.monotonic() - begun_s < SOON_S
            assert response.error_code is ErrorCode.CONFIGURATION
            assert "SSL_CERT_FILE" in str(response.error)
            assert "issuer certificate" in str(response.error)
            assert server.connections == 1
            # What a user does then.
            monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        async with TTSService(config) as service:
            assert (await service.generate_audio(AudioRequest(text="Good morning."))).success


async def test_a_certificate_for_another_host_is_told(
    emulator: Emulator, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A known authority does not help a server that is another one, and the error says which name was wrong."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    async with tls_front(emulator.url, authority.context("other.invalid")) as port, proxy(port) as server:
        monkeypatch.setenv("HTTPS_PROXY", server.url)
        engine = engine_for(URL)
        error = await outcome(engine)
        await engine.close()
    assert isinstance(error, ConfigurationError)
    assert HOST in str(error)


async def test_ssl_cert_dir_and_no_other_variable_names_authorities(
    emulator: Emulator, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of hashed certificates works; REQUESTS_CA_BUNDLE, which is another library's, has no effect."""
    authority.put_into(tmp_path)
    async with the_way(emulator, authority) as server:
        monkeypatch.setenv("ALL_PROXY", server.url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.file))
        engines = [engine_for(URL), engine_for(URL)]
        without = await outcome(engines[0])
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
        assert isinstance(await outcome(engines[1]), SpeechAudio)
        for engine in engines:
            await engine.close()
    assert isinstance(without, ConfigurationError)


@pytest.mark.parametrize(
    ("name", "content"),
    [("SSL_CERT_FILE", None), ("SSL_CERT_FILE", ""), ("SSL_CERT_FILE", "no certificate"), ("SSL_CERT_DIR", None)],
)
async def test_certificates_that_cannot_be_read_are_a_wrong_setting(
    name: str, content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that leads nowhere, or to something else, is named with its variable, before any call."""
    path = tmp_path / "certificates.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv(name, str(path))
    engine = engine_for(URL)
    error = await outcome(engine)
    assert isinstance(error, ConfigurationError)
    assert f"{name}={str(path)!r}" in str(error)
    assert error.__context__ is None


# The HTTP library forgets the socket of a SOCKS proxy that refuses the user, and leaves it to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("scheme", ["http", "socks5", "socks5h"])
async def test_user_and_password_reach_the_proxy(
    scheme: str, emulator: Emulator, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right ones open the tunnel, and the proxy looks the host's name up; wrong ones fail soon, and are not shown."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    async with the_way(emulator, authority, credentials="ann:secret-1") as server:
        address = server.url.removeprefix("http://")
        monkeypatch.setenv("HTTPS_PROXY", f"{scheme}://ann:secret-1@{address}")
        right = engine_for(URL)
        assert isinstance(await outcome(right), SpeechAudio)
        monkeypatch.setenv("HTTPS_PROXY", f"{scheme}://ann:secret-2@{address}")
        wrong = engine_for(URL, timeout_s=PATIENCE_S)
        begun_s = time.monotonic()
        error = await outcome(wrong)
        assert time.monotonic() - begun_s < SOON_S
        await right.close()
        await wrong.close()
        gc.collect()
    assert server.targets[0] == f"{HOST}:443"
    assert isinstance(error, ConfigurationError if scheme == "http" else TTSUnavailableError)
    assert "secret" not in str(error)


async def test_socks_without_its_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package that HTTP libraries leave out is named with the command that installs it."""
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    error = await outcome(engine_for(URL))
    assert isinstance(error, ConfigurationError)
    assert "pip install socksio" in str(error)


async def test_a_host_of_no_proxy_is_called_directly(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy hears nothing of it."""
    async with raw_server(answering(b"")) as server, proxy(0) as unwanted:
        monkeypatch.setenv("HTTPS_PROXY", unwanted.url)
        monkeypatch.setenv("NO_PROXY", f"example.org,{HOST}")
        engine = engine_for(URL)
        error = await outcome(engine)
        await engine.close()
    assert isinstance(error, TTSUnavailableError)
    assert unwanted.connections == 0
    assert server.connections == 0


@pytest.mark.parametrize("credentials", ["", "ann:secret-3@"])
async def test_doctor_names_the_proxy_and_the_reason(
    credentials: str, emulator: Emulator, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy whose certificate is not trusted is named by its address, without a password, with what to do."""
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("GEMINI_BASE_URL", URL)
    monkeypatch.setenv("ALLOW_CUSTOM_BASE_URL", "true")
    async with the_way(emulator, authority) as server:
        address = server.url.removeprefix("http://")
        monkeypatch.setenv("HTTPS_PROXY", f"http://{credentials}{address}")
        found = {check.title: check async for check in check_installation()}
    assert found["Gemini API"].level == "fail"
    assert f"proxy {address} " in found["Gemini API"].text
    assert "SSL_CERT_FILE" in found["Gemini API"].text
    assert "secret" not in str(found)
