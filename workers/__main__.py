"""`python -m workers`: explain jobs from the queue, on every device of this machine."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from importlib.util import find_spec

from redis.asyncio import Redis

from camserve.broker import connect
from camserve.lifeline import watch
from camserve.logs import configure_logs
from camserve.queueing import queue_options
from camserve.settings import Settings
from workers.devices import choose_devices
from workers.repository import model_names
from workers.supervisor import Supervisor

logger = logging.getLogger("workers")

CONFIGURATION_ERROR = 2  # the launcher does not restart a process that ends with it


async def supervise(settings: Settings, redis: Redis) -> None:
    """Run the supervisor until SIGTERM, SIGINT or the end of the parent process.

    SIGTERM may come twice (to a process group and from a parent) and means the same; a second
    SIGINT is a person who will not wait.
    """
    supervisor = Supervisor(settings, redis, queue_options(settings))
    events = asyncio.get_running_loop()
    events.add_signal_handler(signal.SIGTERM, supervisor.stop)
    events.add_signal_handler(signal.SIGINT, supervisor.interrupt)

    def parent_is_gone() -> None:
        events.call_soon_threadsafe(supervisor.stop)

    watch(parent_is_gone)
    models = model_names(settings.models_dir)
    if not models:
        logger.warning(
            "there is no model in %s: each model is a folder with a card.toml, and "
            "CAMSERVE_MODELS_DIR names the folder that holds them",
            settings.models_dir.absolute(),
        )
    devices = await asyncio.to_thread(choose_devices, settings.devices)
    logger.info("%d models in %s; devices: %s", len(models), settings.models_dir, " ".join(devices))
    await supervisor.run(devices)


def main() -> int:
    try:
        settings = Settings.from_environment()
    except ValueError as error:
        print(f"camserve: {error}", file=sys.stderr)  # noqa: T201 - before logging is set up
        return CONFIGURATION_ERROR
    configure_logs(settings.log_level, settings.log_format, process="supervisor")
    if settings.redis_url is None:
        logger.error(
            "CAMSERVE_REDIS_URL is not set: name a Redis or Valkey server, or start everything "
            "with a private one by `python -m camserve serve`"
        )
        return CONFIGURATION_ERROR
    if find_spec("torch") is None:  # in the children it would be a traceback, again and again
        logger.error("workers need torch: pip install 'camserve[worker]'")
        return CONFIGURATION_ERROR
    try:
        redis = connect(settings.redis_url)
    except ValueError as error:
        logger.error("CAMSERVE_REDIS_URL: %s", error)  # noqa: TRY400 - a sentence, no traceback
        return CONFIGURATION_ERROR
    asyncio.run(supervise(settings, redis))
    return 0


if __name__ == "__main__":
    sys.exit(main())
