"""All of camserve on one machine: a private server, the API and the workers, as one command."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from http.client import HTTPConnection, HTTPException

from camserve.broker.embedded import EmbeddedServer, EmbeddedServerError
from camserve.environment import PREFIX
from camserve.exposure import check_exposure
from camserve.key_file import KeyFile
from camserve.lifeline import Lifeline
from camserve.part import Part, say
from camserve.settings import Settings

__all__ = ["serve"]

READY_LOOK_S = 0.1
RESTART_S = 1.0
END_S = 12.0  # what a part takes at most beyond the time that it has to finish its work
CONFIGURATION_ERROR = 2  # exit code of a process that a restart cannot help


async def serve(settings: Settings) -> int:
    """Run everything until SIGINT or SIGTERM; returns the exit code.

    A second SIGINT waits for nothing.
    Without CAMSERVE_REDIS_URL a private server is started, or adopted from a killed predecessor.
    """
    try:
        check_exposure(settings)
        if settings.api_keys_file:
            KeyFile(settings.api_keys_file)  # better now than in a child
        _check_port(settings)
    except ValueError as error:
        say(f"camserve: {error}")
        return CONFIGURATION_ERROR
    except OSError as error:
        say(f"camserve: cannot listen on {settings.host}:{settings.port} ({error.strerror}): "
             f"set {PREFIX}PORT to another port")  # fmt: skip
        return CONFIGURATION_ERROR
    if settings.redis_url is not None:
        return await _serve_with(settings, settings.redis_url, None)
    server = EmbeddedServer(settings.state_dir)
    try:
        # not in a thread that Ctrl-C could outrun: what was started must be stopped
        server.start()
        return await _serve_with(settings, server.url, server)
    except EmbeddedServerError as error:
        say(f"camserve: {error}")
        return CONFIGURATION_ERROR
    finally:
        await asyncio.to_thread(server.stop)


async def _serve_with(settings: Settings, redis_url: str, server: EmbeddedServer | None) -> int:
    stopping, hurried = asyncio.Event(), asyncio.Event()

    def interrupt() -> None:
        if stopping.is_set():
            hurried.set()
        stopping.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupt)
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    environment = {f"{PREFIX}REDIS_URL": redis_url}
    if sys.stdout.isatty():  # the parts write to a pipe, and we to a terminal
        environment["FORCE_COLOR"] = "1"
    with Lifeline() as lifeline:
        api = Part(_label("api", settings), "app", lifeline, environment)
        workers = Part(_label("worker", settings), "workers", lifeline, environment)
        tasks: list[asyncio.Task[int | None]] = [
            asyncio.create_task(_keep(api, settings, stopping)),
            asyncio.create_task(_keep(workers, settings, stopping)),
            asyncio.create_task(_announce(settings)),
        ]
        if server is not None:
            tasks.append(asyncio.create_task(_keep_server(server)))
        stop = asyncio.create_task(stopping.wait())
        try:
            return await _first_verdict(tasks, stop)
        finally:
            stopping.set()
            say("camserve is stopping; what is running is finished first (Ctrl-C again: at once)")
            # the API first: the requests that it still answers need the workers
            await api.stop(settings.shutdown_delay_s + settings.drain_s + END_S, hurried)
            await workers.stop(settings.drain_s + END_S, hurried)
            for task in (*tasks, stop):
                task.cancel()
            await asyncio.gather(*tasks, stop, return_exceptions=True)


def _label(name: str, settings: Settings) -> str:
    """JSON says itself which process it is of."""
    return "" if settings.log_format == "json" else f"{name:<7}| "


async def _first_verdict(tasks: list[asyncio.Task[int | None]], stop: asyncio.Task[bool]) -> int:
    """0 when told to stop; the exit code of a part that cannot go on."""
    pending: set[asyncio.Task[int | None]] = set(tasks)
    while pending and not stop.done():
        done, _ = await asyncio.wait([*pending, stop], return_when=asyncio.FIRST_COMPLETED)
        for task in done & pending:
            code = task.result()
            if code is not None:
                return code
        pending -= done
    return 0


async def _keep(part: Part, settings: Settings, stopping: asyncio.Event) -> int | None:
    """Run a part again when it dies; its exit code if a restart cannot help."""
    while True:
        code = await part.run(settings.drain_s)
        if stopping.is_set():
            return None
        if code == CONFIGURATION_ERROR:
            return code
        say(f"camserve: a part ended with code {code} and is started again")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RESTART_S):
                await stopping.wait()
                return None


async def _keep_server(server: EmbeddedServer) -> None:
    """Start the private server again, with its data, when it dies."""
    while True:
        await server.wait()
        say("camserve: the private server died and is started again")
        await asyncio.to_thread(server.start)


async def _announce(settings: Settings) -> None:
    """Say once that everything is ready, with a command to try."""
    while not await asyncio.to_thread(_is_ready, settings):  # noqa: ASYNC110 - another process
        await asyncio.sleep(READY_LOOK_S)
    url = f"http://{_reachable(settings.host)}:{settings.port}"
    say(f"\ncamserve is ready on {url} (documentation: {url}/docs)\n")
    names = sorted(path.parent.name for path in settings.models_dir.glob("*/card.toml"))
    if not names:
        say(f"There is no model in {settings.models_dir}: see docs/models.md\n")
        return
    model = "shapes" if "shapes" in names else names[0]
    sample = settings.models_dir / model / "samples" / "star.png"
    picture = sample if sample.exists() else "PICTURE"
    key = " -H 'X-API-Key: KEY'" if settings.api_keys_file else ""
    say(
        f"Try:\n\n  curl -F model={model} -F input=@{picture} -H 'Accept: image/png'{key} \\\n"
        f"       {url}/v1/explanations -o overlay.png\n"
    )


def _is_ready(settings: Settings) -> bool:
    connection = HTTPConnection(_reachable(settings.host), settings.port, timeout=2)
    with contextlib.closing(connection), contextlib.suppress(OSError, HTTPException):
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    return False


def _check_port(settings: Settings) -> None:
    """Raises OSError if somebody else listens there: better now than in a restarting child."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((settings.host, settings.port))


def _reachable(host: str) -> str:
    """An address that a client on this machine can use."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not binding
