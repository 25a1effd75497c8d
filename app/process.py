"""One process of the front end, from its settings to its end."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Final

from app.main import create_app
from app.server import server_of
from app.supervisor import CONFIGURATION_ERROR, STARTUP_FAILURE
from camserve.lifeline import watch
from camserve.logs import configure_logs
from camserve.settings import Settings
from camserve.telemetry import start_telemetry

__all__ = ["run"]

OTHER_FILES: Final = 500  # besides connections of clients: those to Redis and to other hosts


def run(settings: Settings, sockets: Sequence[socket.socket] = ()) -> int:
    """Serve until told to stop; returns the exit code.

    sockets: which listen, and which other processes accept from, too; none: at the address of the
    settings.
    """
    try:
        app = create_app(settings)
    except ValueError as error:
        print(f"camserve: {error}", file=sys.stderr)  # noqa: T201 - before logging is set up
        return CONFIGURATION_ERROR
    configure_logs(settings.log_level, settings.log_format, process="api")
    _allow_open_files(settings.max_connections + OTHER_FILES)
    # it drains on SIGTERM; a parent that died cannot send it any more
    watch(lambda: os.kill(os.getpid(), signal.SIGTERM))
    server = server_of(settings, app, shared=bool(sockets))
    stop_telemetry = start_telemetry("api")
    server.run(list(sockets) or None)
    stop_telemetry()
    return 0 if server.started else STARTUP_FAILURE


def _allow_open_files(wanted: int) -> None:
    """Raise the soft limit, which is 1024 mostly, as far as the hard one lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
