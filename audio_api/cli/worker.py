"""``audio-api worker``: the workers of a queue, until a signal ends them."""

from __future__ import annotations

import logging
import signal

from audio_api.cli.exit_codes import DONE
from audio_api.errors import ConfigurationError

logger = logging.getLogger(__name__)


def worker() -> int:
    """Work on the tasks of the queue in Redis until SIGTERM.

    A second signal hands the tasks at hand back; SIGHUP reads the settings again.
    """
    import asyncio

    from audio_api.config import get_config
    from audio_api.logging_config import setup_logging

    config = get_config()
    setup_logging(config)
    config.validate_config()
    if not config.use_redis:
        raise ConfigurationError(
            "a queue in memory is seen by its own process only: set USE_REDIS=true and REDIS_URL, or use a "
            "WorkerManager inside your program"
        )
    asyncio.run(_run_workers())
    return DONE


async def _run_workers() -> None:
    import asyncio

    from audio_api.services.worker_service import WorkerManager

    manager = WorkerManager()
    stop = asyncio.Event()
    stopping: list[asyncio.Task[None]] = []

    def end() -> None:
        logger.info("handing the tasks at hand back" if stop.is_set() else "finishing the tasks at hand")
        stopping.append(asyncio.create_task(manager.stop_workers(grace_s=0 if stop.is_set() else None)))
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, _reload)
    await manager.start_workers()
    await stop.wait()
    await stopping[0]
    await manager.stop_workers()


def _reload() -> None:
    from audio_api.config import reload_config
    from audio_api.logging_config import setup_logging

    try:
        setup_logging(reload_config())
    except ConfigurationError as error:
        logger.error("the old settings stay: %s", error)  # noqa: TRY400 - the text says all
    else:
        logger.info("settings reloaded")
