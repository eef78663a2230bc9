"""``audio-api serve``: the server as a program."""

from __future__ import annotations

import logging
import signal
import socket

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.supervisors import Multiprocess

from audio_api.config import get_config
from audio_api.errors import ConfigurationError
from audio_api.logging_config import setup_logging
from audio_api.server.access import Doorkeeper, check_bind
from audio_api.server.app import build_app
from audio_api.server.catalogue import Catalogue
from audio_api.server.sound import BrokenBodyError

_BACKLOG = 2048
# Longer than clients and proxies keep a connection (aiohttp 15 s, nginx 60 s): none sends a request into one that is
# just being closed, which no client may repeat.
_KEEP_ALIVE_S = 75


class _ServedConnection(H11Protocol):
    """HTTP that tells the application when the server is to end, so that who only listens for news leaves."""

    def shutdown(self) -> None:
        """Begin to end."""
        self.app_state["server"].stopping.set()
        super().shutdown()


def serve(host: str, port: int, workers: int) -> None:
    """Serve until SIGTERM or SIGINT, and finish what speaks.

    Args:
        host: An address of this machine, or its name.
        port: 0 takes a free one.
        workers: Processes.

    Raises:
        ConfigurationError: A setting is wrong, other machines would be served without a key, or the port is taken.
    """
    config = get_config()
    setup_logging(config)
    config.validate_config()
    Catalogue(config)
    check_bind(host, Doorkeeper(config).keys)
    if workers > 1 and not config.use_redis:
        raise ConfigurationError("--workers above 1 needs USE_REDIS=true: a job in memory is seen by one process only")
    listener = _listen(host, port)
    server = uvicorn.Server(options(f"{__name__}:app", workers))
    address = listener.getsockname()
    logging.getLogger("audio_api.server").info(
        "serving", extra={"host": address[0], "port": address[1], "processes": workers}
    )
    with listener:
        if workers == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                # Before it begins to listen for them itself, and when it raises them once more at its end.
                signal.signal(number, server.handle_exit)
            server.run([listener])
        else:
            Multiprocess(server.config, [listener]).run()


def options(app: ASGIApp | str, workers: int = 1) -> uvicorn.Config:
    """How an application is served.

    Args:
        app: The application, or the name of what makes it in each process.
        workers: Processes.
    """
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        workers=workers,
        http=_ServedConnection,
        loop="asyncio",
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        server_header=False,
    )


def app() -> ASGIApp:
    """The application, in the process that serves it."""
    config = get_config()
    setup_logging(config)
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    return build_app(config)


def _is_news(record: logging.LogRecord) -> bool:
    # What broke an answer off is logged where it happened.
    return not (record.exc_info and isinstance(record.exc_info[1], BrokenBodyError))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With its protocol named, asyncio sends small parts at once; else they would wait for 40 ms.
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    listener.set_inheritable(True)
    return listener
