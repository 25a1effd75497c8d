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
from collections.abc import Iterable, Mapping, Sequence

from redis.asyncio import Redis

from camserve.broker import QueueOptions, Registry, Totals, WorkerQueue
from camserve.contracts.cards import WorkerStatus
from camserve.errors import QueueUnavailable
from camserve.lifeline import Lifeline
from camserve.measures import WORKER_RESTARTS
from camserve.settings import Settings
from workers.pulse import Pulse
from workers.quarantine import judge, loads_dir
from workers.repository import model_names

__all__ = ["Supervisor"]

logger = logging.getLogger(__name__)

FIRST_BACK_OFF_S = 0.25
LAST_BACK_OFF_S = 30.0
HEALTHY_AFTER_S = 60.0  # a child that lived this long is restarted without a long wait
KILL_AFTER_S = 5.0  # beyond the time that a child has to drain
HAND_ON_S = 5.0  # a Redis that hangs must not keep a successor, or the end, waiting


class Supervisor:
    """Keeps one child a device alive until told to stop. Closes the connection at its end."""

    def __init__(self, settings: Settings, redis: Redis, options: QueueOptions) -> None:
        self._settings = settings
        self._redis = redis
        self._options = options
        self._stopping = asyncio.Event()
        self._hurried = asyncio.Event()
        self._children: dict[str, asyncio.subprocess.Process] = {}

    def stop(self) -> None:
        """Start nothing more, and have the children finish what runs."""
        self._stopping.set()

    def interrupt(self) -> None:
        """Ctrl-C: the first is as `stop`, at the second what still runs is handed on at once."""
        if self._stopping.is_set():
            self._hurried.set()
        self.stop()

    async def run(self, devices: Sequence[str]) -> None:
        """Returns when all children have drained, or were killed after `drain_s`."""
        await self._judge({})  # what a supervisor before this one left behind
        with Lifeline() as lifeline:
            environment = _waiting(devices) | os.environ | lifeline.environment
            keepers = [
                asyncio.create_task(self._keep(device, environment, lifeline.fds))
                for device in devices
            ]
            stop = asyncio.create_task(self._stopping.wait())
            # a keeper ends before the stop only by an error of ours: then nothing is kept
            await asyncio.wait([stop, *keepers], return_when=asyncio.FIRST_COMPLETED)
            self.stop()
            self._signal_all(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.drain_s + KILL_AFTER_S):
                    await self._drained(keepers)
            for worker in self._children:
                logger.error("worker %s has not drained and is killed", worker)
            self._signal_all(signal.SIGKILL)
            await asyncio.gather(stop, *keepers)
        await self._redis.aclose()

    async def _drained(self, keepers: Iterable[asyncio.Task[None]]) -> None:
        """Returns when all children have ended, or when there is no time for it."""
        hurried = asyncio.create_task(self._hurried.wait())
        try:
            ended = asyncio.ensure_future(asyncio.wait(keepers))
            await asyncio.wait([hurried, ended], return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurried.cancel()
            ended.cancel()

    async def _keep(self, device: str, environment: Mapping[str, str], fds: Iterable[int]) -> None:
        """Start a child, wait for its end, hand its jobs on; again, with back-off."""
        clock = asyncio.get_running_loop()
        back_off_s = FIRST_BACK_OFF_S
        while not self._stopping.is_set():
            worker = f"{socket.gethostname()}-{device}-{secrets.token_hex(4)}"
            started_s = clock.time()
            try:
                how = await self._run_child(worker, device, environment, fds)
            except OSError as error:  # no memory or no process left on this machine
                how = f"{error.strerror}"
            await self._judge({worker: None if self._stopping.is_set() else how})
            await self._hand_on(worker, device, how)
            if self._stopping.is_set():
                return
            if clock.time() - started_s > HEALTHY_AFTER_S:
                back_off_s = FIRST_BACK_OFF_S
            logger.error(
                "worker %s ended (%s); a new one starts in %.2g s", worker, how, back_off_s
            )
            await self._pause(back_off_s)
            back_off_s = min(back_off_s * 2, LAST_BACK_OFF_S)

    async def _run_child(
        self, worker: str, device: str, environment: Mapping[str, str], fds: Iterable[int]
    ) -> str:
        """One life of a child; returns how it ended."""
        limits = self._settings
        with Pulse(start_s=limits.load_time_limit_s, silence_s=limits.lease_s) as pulse:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "workers.child"),
                *("--device", device, "--worker", worker, "--pulse", f"{pulse.fd}"),
                pass_fds=(*fds, pulse.fd),
                env=environment,
            )
            pulse.child_has_it()
            self._children[worker] = child
            if self._stopping.is_set():  # told to stop while the child was being born
                _signal(child, signal.SIGTERM)
            watch = asyncio.create_task(_kill_when_frozen(worker, child, pulse))
            try:
                how = _how(await child.wait())
            finally:
                del self._children[worker]
                watch.cancel()
            return f"frozen, {how}" if pulse.is_frozen else how

    async def _judge(self, ended: Mapping[str, str | None]) -> None:
        """Models that a dead child was loading are to blame, so that its successor is careful."""
        try:
            for one in await asyncio.to_thread(judge, loads_dir(self._settings), ended):
                logger.warning(
                    "model %s, version %s, was being loaded when a worker ended: %s",
                    *(one.model, one.version),
                    f"it is quarantined: {one.reason}"
                    if one.quarantined
                    else "it is loaded while nothing else is",
                )
        except OSError as error:
            logger.warning("what the worker was loading cannot be read: %s", error)

    async def _hand_on(self, worker: str, device: str, how: str) -> None:
        """What the dead child had claimed goes to others now, not after its lease."""
        try:
            async with asyncio.timeout(HAND_ON_S):
                record = (await Registry(self._redis, self._options).worker_records()).get(worker)
                last = WorkerStatus.model_validate_json(record.status) if record else None
                models = {*model_names(self._settings.models_dir)}
                if last is not None:  # also of folders that are gone since
                    models.update(last.models, last.unavailable)
                await WorkerQueue.release_consumer(
                    self._redis, self._options, worker, sorted(models)
                )
                await self._strike_out(worker, last)
                if not self._stopping.is_set():
                    restart = WORKER_RESTARTS.field(socket.gethostname(), device, how)
                    await Totals(self._redis).add({None: {restart: 1}}, worker)
        except (QueueUnavailable, TimeoutError):
            logger.warning("Redis is away: the jobs of %s are handed on after their lease", worker)
        except Exception:
            logger.exception("the jobs of %s are handed on after their lease", worker)

    async def _strike_out(self, worker: str, last: WorkerStatus | None) -> None:
        """Nobody counts on the dead child any more; but what it served is served again in a moment,
        and until then requests wait in the queue. Without a successor its entry goes stale."""
        registry = Registry(self._redis, self._options)
        if last is None or self._stopping.is_set():
            await registry.remove_worker(worker)
            return
        status = last.model_copy(
            update={
                "restarting": True,
                "warm": False,
                "proof_age_s": None,
                "resident": (),
                "p50_ms": {},
                "memory": None,
            }
        )
        await registry.heartbeat(worker, status.model_dump_json().encode())

    def _signal_all(self, number: signal.Signals) -> None:
        for child in self._children.values():
            _signal(child, number)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


def _waiting(devices: Iterable[str]) -> dict[str, str]:
    """How the threads that compute wait for each other, unless whoever started us says it.

    By default they spin, which is soonest where each has a core. Those of several workers on the
    CPU share the cores: one that spins keeps another from what all of its team wait for.
    """
    share_cores = sum(device == "cpu" for device in devices) > 1
    return {"OMP_WAIT_POLICY": "PASSIVE"} if share_cores else {}


async def _kill_when_frozen(worker: str, child: asyncio.subprocess.Process, pulse: Pulse) -> None:
    """Its jobs have outlived their leases by then, and it may never let go of the device.

    SIGKILL ends a stopped process, too; if it was about to go on, its token fences its results.
    """
    silent_s = await pulse.stops()
    logger.error(
        "worker %s has been frozen for %.3g s (stopped, or in a call that lets no other thread of "
        "it run) and is killed; CAMSERVE_LEASE_S is how long it may be",
        *(worker, silent_s),
    )
    _signal(child, signal.SIGKILL)


def _signal(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(number)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal has no name
        return f"signal {-code}"
