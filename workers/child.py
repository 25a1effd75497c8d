"""`python -m workers.child`: one worker process on one device. Started by the supervisor."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal

import torch

from camserve.broker import CommandReader, Registry, Totals, WorkerQueue, connect
from camserve.lifeline import watch
from camserve.logs import configure_logs, flush_logs
from camserve.queueing import queue_options
from camserve.settings import Settings
from camserve.telemetry import start_telemetry
from workers.loop import WorkerLoop
from workers.memory import bound_memory, offer_to_the_kernel
from workers.metrics import WorkerMetrics
from workers.pacing import end
from workers.pulse import beat
from workers.quarantine import Quarantine, loads_dir
from workers.repository import scan

__all__ = ["main"]

logger = logging.getLogger(__name__)


async def work(settings: Settings, redis_url: str, worker: str, device: str, pulse_fd: int) -> None:
    """Run one worker until SIGTERM, SIGINT or the end of its parent."""
    pulse = asyncio.create_task(beat(pulse_fd))
    # in a thread: it reads all files, which may take longer than a process may be silent
    repository = await asyncio.to_thread(scan, settings.models_dir)
    redis = connect(redis_url)
    options = queue_options(settings)
    for error in repository.invalid.values():
        logger.warning("a model is left out: %s", error)
    quarantine = Quarantine(loads_dir(settings), settings.models_dir, worker=worker, device=device)
    loop = WorkerLoop(
        queue=WorkerQueue(redis, options, worker, device),
        registry=Registry(redis, options),
        commands=CommandReader(redis, options, worker),
        repository=repository,
        quarantine=quarantine,
        settings=settings,
        metrics=WorkerMetrics(Totals(redis), device),
        worker=worker,
        device=device,
    )
    events = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        events.add_signal_handler(number, loop.stop)

    def parent_is_gone() -> None:
        events.call_soon_threadsafe(loop.stop)

    watch(parent_is_gone)
    try:
        await loop.run()
    finally:
        quarantine.close()
        await redis.aclose()
        await end(pulse)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m workers.child", description=__doc__)
    parser.add_argument("--device", required=True, help="cpu, cuda:0, ...")
    parser.add_argument("--worker", required=True, help="unique name of this process")
    parser.add_argument(
        "--pulse", type=int, required=True, help="file descriptor that it shows to be alive on"
    )
    arguments = parser.parse_args()
    settings = Settings.from_environment()
    configure_logs(
        settings.log_level, settings.log_format, process="worker", worker=arguments.worker
    )
    if settings.redis_url is None:
        parser.error("CAMSERVE_REDIS_URL is not set")
    stop_telemetry = start_telemetry("worker", **{"service.instance.id": arguments.worker})
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.backends.cudnn.allow_tf32 = False  # it rounds float32 to ten bits, and maps with it
    gc.freeze()  # what is imported stays: no collection needs to look at it, an urgent one least
    offer_to_the_kernel()
    code = 0
    try:
        if settings.cpu_memory_mb and arguments.device == "cpu":
            bound_memory(settings.cpu_memory_mb)
        asyncio.run(
            work(settings, settings.redis_url, arguments.worker, arguments.device, arguments.pulse)
        )
    except Exception:
        logger.exception("worker %s failed", arguments.worker)
        code = 1
    # a side thread may still hang in a download: nothing is in our hands any more, so leave
    stop_telemetry()
    flush_logs()
    os._exit(code)


if __name__ == "__main__":
    main()
