"""The supervisor: one child process per device, restarted when it dies. Never touches CUDA."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys

from camserve.broker import QueueOptions, WorkerQueue, connect
from camserve.errors import QueueUnavailable
from camserve.lifeline import Lifeline
from camserve.settings import Settings

__all__ = ["Supervisor"]

logger = logging.getLogger(__name__)

FIRST_BACK_OFF_S = 0.25
LAST_BACK_OFF_S = 30.0
HEALTHY_AFTER_S = 60.0  # a child that lived this long is restarted without a wait


class Supervisor:
    """Keeps one child a device alive until told to stop."""

    def __init__(
        self, settings: Settings, redis_url: str, options: QueueOptions, models: tuple[str, ...]
    ) -> None:
        self._settings = settings
        self._redis = connect(redis_url)
        self._options = options
        self._models = models
        self._stopping = asyncio.Event()
        self._children: dict[str, asyncio.subprocess.Process] = {}

    def stop(self) -> None:
        self._stopping.set()

    async def run(self, devices: list[str]) -> None:
        """Returns when all children have drained, or were killed after `drain_s`."""
        with Lifeline() as lifeline:
            keepers = [asyncio.create_task(self._keep(device, lifeline)) for device in devices]
            await self._stopping.wait()
            for child in self._children.values():
                _signal(child, signal.SIGTERM)
            _, late = await asyncio.wait(keepers, timeout=self._settings.drain_s + 5)
            for child in self._children.values() if late else ():
                logger.error("worker %d did not drain in time and is killed", child.pid)
                _signal(child, signal.SIGKILL)
            await asyncio.gather(*keepers)
        await self._redis.aclose()

    async def _keep(self, device: str, lifeline: Lifeline) -> None:
        """Start a child, wait for its end, hand its jobs on; again, with back-off."""
        clock = asyncio.get_running_loop()
        back_off_s = FIRST_BACK_OFF_S
        while not self._stopping.is_set():
            worker = f"{socket.gethostname()}-{device}-{secrets.token_hex(4)}"
            started_s = clock.time()
            code = await self._run_child(worker, device, lifeline)
            await self._hand_on(worker)
            if self._stopping.is_set():
                return
            if clock.time() - started_s > HEALTHY_AFTER_S:
                back_off_s = FIRST_BACK_OFF_S
            logger.error(
                "the worker on %s ended with %s; a new one starts in %.2g s",
                device, _how(code), back_off_s,
            )  # fmt: skip
            await self._pause(back_off_s)
            back_off_s = min(back_off_s * 2, LAST_BACK_OFF_S)

    async def _run_child(self, worker: str, device: str, lifeline: Lifeline) -> int:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "workers.child", "--device", device, "--worker", worker,
            pass_fds=lifeline.fds,
            env=os.environ | lifeline.environment,
        )  # fmt: skip
        self._children[device] = child
        if self._stopping.is_set():  # told to stop while the child was being born
            _signal(child, signal.SIGTERM)
        try:
            return await child.wait()
        finally:
            del self._children[device]

    async def _hand_on(self, worker: str) -> None:
        """What the dead child had claimed goes to others now, not after its lease."""
        try:
            await WorkerQueue.release_consumer(self._redis, self._options, worker, self._models)
        except QueueUnavailable:
            logger.warning("Redis is away: the jobs of %s are handed on after their lease", worker)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass


def _signal(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(number)


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
