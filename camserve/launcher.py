"""All of camserve on one machine: a private server, the API and the workers, as one command."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException

from camserve.broker.embedded import EmbeddedServer, EmbeddedServerError
from camserve.environment import PREFIX
from camserve.exposure import check_exposure
from camserve.key_file import KeyFile
from camserve.lifeline import Lifeline
from camserve.settings import Settings

__all__ = ["serve"]

READY_LOOK_S = 0.1
RESTART_S = 1.0
LONGEST_LINE = 1 << 16  # bytes; a longer one is shown in pieces
CONFIGURATION_ERROR = 2  # exit code of a process that a restart cannot help


@dataclass
class _Part:
    """One long-running child process; its output is passed on with its name in front."""

    name: str
    module: str
    lifeline: Lifeline
    environment: dict[str, str]
    process: asyncio.subprocess.Process | None = field(default=None)

    async def run(self, patience_s: float) -> int:
        """Run it once, to its end; returns its exit code.

        Its own children, which end with it, get `patience_s` to finish what they are doing.
        """
        # a pipe of our own: that of asyncio makes wait() wait for every holder of its other end
        reading, writing = os.pipe()
        output = asyncio.create_task(self._pass_on(reading))
        try:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self.module,
                stdout=writing,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=self.lifeline.fds,
                env=os.environ | self.environment | self.lifeline.environment,
                start_new_session=True,  # Ctrl-C reaches only us, and we stop the parts in order
            )
        finally:
            os.close(writing)
        code = await self.process.wait()
        await asyncio.wait([output], timeout=patience_s)
        # a grandchild that hangs would hold the pipe, and the device, for ever
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await output
        return code

    async def _pass_on(self, pipe: int) -> None:
        """Line by line, however long a line is: progress bars and tracebacks of models included."""
        output = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(output), os.fdopen(pipe, "rb")
        )
        rest = b""
        while chunk := await output.read(LONGEST_LINE):
            *lines, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
            if len(rest) >= LONGEST_LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._say(line)
        if rest:
            self._say(rest)

    def _say(self, line: bytes) -> None:
        _say(f"{self.name:<7}| {line.decode(errors='replace').rstrip()}")

    async def stop(self, patience_s: float) -> None:
        if self.process is None or self.process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            async with asyncio.timeout(patience_s):
                await self.process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


async def serve(settings: Settings) -> int:
    """Run everything until SIGINT or SIGTERM; returns the exit code.

    Without CAMSERVE_REDIS_URL a private server is started, or adopted from a killed predecessor.
    """
    try:
        check_exposure(settings)
        if settings.api_keys_file:
            KeyFile(settings.api_keys_file)  # better now than in a child
        _check_port(settings)
    except ValueError as error:
        _say(f"camserve: {error}")
        return CONFIGURATION_ERROR
    except OSError as error:
        _say(f"camserve: cannot listen on {settings.host}:{settings.port} ({error.strerror}): "
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
        _say(f"camserve: {error}")
        return CONFIGURATION_ERROR
    finally:
        await asyncio.to_thread(server.stop)


async def _serve_with(settings: Settings, redis_url: str, server: EmbeddedServer | None) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    environment = {f"{PREFIX}REDIS_URL": redis_url}
    with Lifeline() as lifeline:
        api = _Part("api", "app", lifeline, environment)
        workers = _Part("worker", "workers", lifeline, environment)
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
            _say("camserve is stopping; what is running is finished first")
            # the API first: the requests that it still answers need the workers
            await api.stop(settings.drain_s + 5)
            await workers.stop(settings.drain_s + 10)
            for task in (*tasks, stop):
                task.cancel()
            await asyncio.gather(*tasks, stop, return_exceptions=True)


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


async def _keep(part: _Part, settings: Settings, stopping: asyncio.Event) -> int | None:
    """Run a part again when it dies; its exit code if a restart cannot help."""
    while True:
        code = await part.run(settings.drain_s)
        if stopping.is_set():
            return None
        if code == CONFIGURATION_ERROR:
            return code
        _say(f"camserve: a part ended with code {code} and is started again")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RESTART_S):
                await stopping.wait()
                return None


async def _keep_server(server: EmbeddedServer) -> None:
    """Start the private server again, with its data, when it dies."""
    while True:
        await server.wait()
        _say("camserve: the private server died and is started again")
        await asyncio.to_thread(server.start)


async def _announce(settings: Settings) -> None:
    """Say once that everything is ready, with a command to try."""
    while not await asyncio.to_thread(_is_ready, settings):  # noqa: ASYNC110 - another process
        await asyncio.sleep(READY_LOOK_S)
    url = f"http://{_reachable(settings.host)}:{settings.port}"
    _say(f"\ncamserve is ready on {url} (documentation: {url}/docs)\n")
    names = sorted(path.parent.name for path in settings.models_dir.glob("*/card.toml"))
    if not names:
        _say(f"There is no model in {settings.models_dir}: see docs/models.md\n")
        return
    model = "shapes" if "shapes" in names else names[0]
    sample = settings.models_dir / model / "samples" / "star.png"
    picture = sample if sample.exists() else "PICTURE"
    key = " -H 'X-API-Key: KEY'" if settings.api_keys_file else ""
    _say(
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


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the launcher's user reads a terminal
