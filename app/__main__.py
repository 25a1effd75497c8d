"""`python -m app`: the HTTP front end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.main import create_app
from camserve.lifeline import watch
from camserve.logs import configure_logs
from camserve.settings import Settings
from camserve.telemetry import start_telemetry

PORTION = 8192  # bytes
STARTUP_FAILURE = 3  # uvicorn's own code for it; it has logged why


class _Protocol(H11Protocol):
    """Takes what comes in small portions: all of one is parsed at once, 20 µs a header or chunk, of
    which asyncio's 256 KB hold forty thousand. Who sends nothing else needs no key for it, and
    would keep all others waiting for seconds."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.max_size = PORTION  # type: ignore[attr-defined]
        super().connection_made(transport)


class _Server(uvicorn.Server):
    """Tells the application of the end, for which event streams would keep it waiting."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        stopping: asyncio.Event = self.config.app.state.stopping  # type: ignore[union-attr]
        stopping.set()
        await super().shutdown(sockets)


def main() -> int:
    try:
        settings = Settings.from_environment()
        app = create_app(settings)
    except ValueError as error:
        print(f"camserve: {error}", file=sys.stderr)  # noqa: T201 - before logging is set up
        return 2
    configure_logs(settings.log_level, settings.log_format, process="api")
    # uvicorn drains on SIGTERM; a parent that died cannot send it any more
    watch(lambda: os.kill(os.getpid(), signal.SIGTERM))
    server = _Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            http=_Protocol,  # httptools, where it is installed, bounds no head
            loop="asyncio",  # whose portions they are
            log_config=None,
            access_log=False,  # with queries, which may hold signatures: see app.request_log
            timeout_graceful_shutdown=round(settings.drain_s),
            server_header=False,
        )
    )
    stop_telemetry = start_telemetry("api")
    server.run()
    stop_telemetry()
    return 0 if server.started else STARTUP_FAILURE


if __name__ == "__main__":
    sys.exit(main())
