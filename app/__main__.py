"""`python -m app`: the HTTP front end."""

from __future__ import annotations

import os
import resource
import signal
import sys
from typing import Final

from app.main import create_app
from app.server import server_of
from camserve.lifeline import watch
from camserve.logs import configure_logs
from camserve.settings import Settings
from camserve.telemetry import start_telemetry

STARTUP_FAILURE: Final = 3  # uvicorn's own code for it; it has logged why
OTHER_FILES: Final = 500  # besides connections of clients: those to Redis and to other hosts


def main() -> int:
    try:
        settings = Settings.from_environment()
        app = create_app(settings)
    except ValueError as error:
        print(f"camserve: {error}", file=sys.stderr)  # noqa: T201 - before logging is set up
        return 2
    configure_logs(settings.log_level, settings.log_format, process="api")
    _allow_open_files(settings.max_connections + OTHER_FILES)
    # it drains on SIGTERM; a parent that died cannot send it any more
    watch(lambda: os.kill(os.getpid(), signal.SIGTERM))
    server = server_of(settings, app)
    stop_telemetry = start_telemetry("api")
    server.run()
    stop_telemetry()
    return 0 if server.started else STARTUP_FAILURE


def _allow_open_files(wanted: int) -> None:
    """Raise the soft limit, which is 1024 mostly, as far as the hard one lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


if __name__ == "__main__":
    sys.exit(main())
