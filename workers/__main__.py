"""`python -m workers`: explain jobs from the queue, on every device of this machine."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from camserve.queueing import queue_options

from camserve.lifeline import watch
from camserve.logs import configure_logs
from camserve.settings import Settings
from workers.devices import choose_devices
from workers.repository import scan
from workers.supervisor import Supervisor

logger = logging.getLogger("workers")


async def supervise(settings: Settings, redis_url: str) -> None:
    """Run the supervisor until SIGTERM, SIGINT or the end of the parent process."""
    repository = scan(settings.models_dir)
    models = (*repository.names, *repository.invalid)
    supervisor = Supervisor(settings, redis_url, queue_options(settings), repository.names)
    events = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        events.add_signal_handler(number, supervisor.stop)
    watch(lambda: events.call_soon_threadsafe(supervisor.stop))
    devices = await asyncio.to_thread(choose_devices, settings.devices)
    logger.info("%d models in %s; devices: %s", len(models), settings.models_dir, " ".join(devices))
    await supervisor.run(devices)


def main() -> int:
    try:
        settings = Settings.from_environment()
    except ValueError as error:
        print(f"camserve: {error}", file=sys.stderr)  # noqa: T201 - before logging is set up
        return 2
    configure_logs(settings.log_level)
    if settings.redis_url is None:
        logger.error(
            "CAMSERVE_REDIS_URL is not set: name a Redis or Valkey server, or start everything "
            "with a private one by `python -m camserve serve`"
        )
        return 2
    asyncio.run(supervise(settings, settings.redis_url))
    return 0


if __name__ == "__main__":
    sys.exit(main())
