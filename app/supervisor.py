"""Several processes of the front end at one address: started, replaced when they die, ended.

They accept from one socket, which the supervisor holds: whoever waits in its line is served by
another process when one dies, and nobody is refused while a new one starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from typing import Final

from app.several_processes import DIRECTORY
from app.stopping import ANSWER_S, LIFESPAN_S
from camserve.lifeline import Lifeline, watch
from camserve.logs import configure_logs
from camserve.settings import Settings

__all__ = ["BACKLOG", "CONFIGURATION_ERROR", "STARTUP_FAILURE", "supervise"]

logger = logging.getLogger(__name__)

CONFIGURATION_ERROR: Final = 2  # of settings that mean nothing: to start again is of no use
STARTUP_FAILURE: Final = 3  # uvicorn's own code for it; it has logged why
BACKLOG: Final = 2048  # connections that the kernel keeps in the line of a socket

FIRST_BACK_OFF_S: Final = 0.25
LAST_BACK_OFF_S: Final = 30.0
HEALTHY_AFTER_S: Final = 60.0  # a child that lived this long is replaced without a long wait
KILL_AFTER_S: Final = 1.0  # beyond the time in which a child ends by itself
FLUSH_S: Final = 2.0  # for the last spans of a child


async def supervise(settings: Settings) -> int:
    """Run `settings.api_processes` processes until SIGINT or SIGTERM; returns the exit code."""
    configure_logs(settings.log_level, settings.log_format, process="api-supervisor")
    try:
        listening = _listening(settings)
    except OSError as error:
        logger.error(  # noqa: TRY400 - a sentence, no traceback
            "cannot listen on %s:%d (%s): set CAMSERVE_PORT to another port",
            *(settings.host, settings.port, error.strerror),
        )
        return STARTUP_FAILURE
    with contextlib.ExitStack() as stack:
        environment = {}
        if not os.environ.get(DIRECTORY):
            folder = tempfile.mkdtemp(prefix="camserve-metrics-")
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            environment[DIRECTORY] = folder
        return await Supervisor(settings, listening, environment).run()


def _listening(settings: Settings) -> list[socket.socket]:
    """One socket for each address of the host. Raises OSError."""
    found = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(address, family=family, backlog=BACKLOG))
            for family, address in addresses
        ]
        stack.pop_all()
    for one in sockets:
        logger.info("listening on %s, port %d", *one.getsockname()[:2])
    return sockets


class Supervisor:
    """Keeps so many children until it is told to stop."""

    def __init__(
        self, settings: Settings, listening: list[socket.socket], environment: dict[str, str]
    ) -> None:
        self._settings = settings
        self._listening = listening
        self._environment = environment
        self._stopping = asyncio.Event()
        self._hurried = asyncio.Event()
        self._useless = False
        self._children: set[asyncio.subprocess.Process] = set()

    async def run(self) -> int:
        """Returns when all children have ended, or were killed for being late."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        watch(lambda: os.kill(os.getpid(), signal.SIGTERM))
        with Lifeline() as lifeline:
            count = self._settings.api_processes
            keepers = [asyncio.create_task(self._keep(lifeline)) for _ in range(count)]
            stop = asyncio.create_task(self._stopping.wait())
            # a keeper ends before the stop only by an error of ours: then nothing is kept
            await asyncio.wait([stop, *keepers], return_when=asyncio.FIRST_COMPLETED)
            self._stopping.set()
            for one in self._listening:
                one.close()  # the last child that closes its own refuses whoever comes then
            self._signal_all(signal.SIGTERM)
            await self._drained(keepers)
            if self._children:
                logger.error("%d processes have not ended and are killed", len(self._children))
                self._signal_all(signal.SIGKILL)
            await asyncio.gather(stop, *keepers)
        return CONFIGURATION_ERROR if self._useless else 0

    def _interrupt(self) -> None:
        """Ctrl-C: the first is as SIGTERM, at the second nothing is waited for."""
        if self._stopping.is_set():
            self._hurried.set()
        self._stopping.set()

    async def _drained(self, keepers: list[asyncio.Task[None]]) -> None:
        """Returns when all children have ended, or when there is no more time for it."""
        most_s = self._settings.shutdown_delay_s + self._settings.drain_s
        most_s += ANSWER_S + LIFESPAN_S + FLUSH_S + KILL_AFTER_S
        hurried = asyncio.create_task(self._hurried.wait())
        ended = asyncio.create_task(_all_of(keepers))
        await asyncio.wait([hurried, ended], timeout=most_s, return_when=asyncio.FIRST_COMPLETED)
        if hurried.done():
            self._signal_all(signal.SIGINT)  # after SIGTERM: at once
            await asyncio.wait([ended], timeout=ANSWER_S)
        hurried.cancel()
        ended.cancel()

    async def _keep(self, lifeline: Lifeline) -> None:
        """Start a child and wait for its end; again, with back-off."""
        clock = asyncio.get_running_loop()
        back_off_s = FIRST_BACK_OFF_S
        while not self._stopping.is_set():
            started_s = clock.time()
            try:
                code = await self._run_child(lifeline)
            except OSError as error:  # no memory or no process left on this machine
                logger.error("no process can be started: %s", error.strerror)  # noqa: TRY400
                code = STARTUP_FAILURE
            if self._stopping.is_set():
                return
            if code == CONFIGURATION_ERROR:  # it has said why
                self._useless = True
                return
            if clock.time() - started_s > HEALTHY_AFTER_S:
                back_off_s = FIRST_BACK_OFF_S
            logger.error(
                "a process of the API ended (%s); a new one starts in %.2g s",
                *(_how(code), back_off_s),
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(back_off_s):
                    await self._stopping.wait()
            back_off_s = min(back_off_s * 2, LAST_BACK_OFF_S)

    async def _run_child(self, lifeline: Lifeline) -> int:
        """One life of a child; returns how it ended."""
        numbers = [one.fileno() for one in self._listening]
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app.child"),
            *("--sockets", ",".join(map(str, numbers))),
            pass_fds=(*lifeline.fds, *numbers),
            env=os.environ | self._environment | lifeline.environment,
        )
        self._children.add(child)
        try:
            if self._stopping.is_set():  # it was started just before, and missed it
                child.send_signal(signal.SIGTERM)
            return await child.wait()
        finally:
            self._children.discard(child)

    def _signal_all(self, number: signal.Signals) -> None:
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(number)


async def _all_of(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.wait(tasks)


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
