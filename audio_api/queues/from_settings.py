"""The place for jobs that the settings name."""

from __future__ import annotations

from audio_api.config import AudioConfig
from audio_api.errors import ConfigurationError
from audio_api.queues.base import QueueBackend
from audio_api.queues.memory import MemoryBackend


def make_backend(config: AudioConfig, *, use_redis: bool) -> QueueBackend:
    """Make the place where jobs wait; the caller closes it.

    Args:
        config: The settings.
        use_redis: Whether that is Redis, rather than this process.

    Raises:
        ConfigurationError: Redis is asked for without its extra, or its URL is wrong.
    """
    max_size, ttl_s = config.queue_max_size, config.result_ttl
    if not use_redis:
        return MemoryBackend(config.queue_name, max_size=max_size, result_ttl_s=ttl_s)
    from audio_api.queues.redis_queue import RedisBackend  # an optional extra

    try:
        return RedisBackend(
            config.redis_url.get_secret_value(),
            config.queue_name,
            pool_size=config.redis_pool_size,
            max_size=max_size,
            result_ttl_s=ttl_s,
        )
    except ConfigurationError as error:
        problem = str(error)
    # Without the frames of the original, whose variables hold the password.
    raise ConfigurationError(problem)
