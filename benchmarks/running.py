"""A whole camserve as a user starts it: `camserve serve`, with a private server and its workers."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from benchmarks.networks import Network

__all__ = ["MODEL", "PACKAGES", "ROOT", "Running", "await_answer", "free_port", "running", "saved"]

ROOT = Path(__file__).parent.parent
PACKAGES = ROOT / ".camserve" / "benchmarks"  # compiled networks are kept for the next run
MODEL = "network"
START_S = 400.0  # with a compilation
STOP_S = 60.0
# ImageNet's preprocessing, as the files of a ResNet on the Hugging Face hub have it
PROCESSOR = {
    "image_processor_type": "ConvNextImageProcessor",
    "crop_pct": 0.875, "resample": 3, "do_resize": True, "do_rescale": True,
    "rescale_factor": 1 / 255, "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
}  # fmt: skip


@dataclass(frozen=True)
class Running:
    """port: where it listens. process: of the command that started all the others."""

    port: int
    process: psutil.Process

    def await_rest(self) -> None:
        """Return once no worker computes: each looks for its own fastest way after a load."""
        workers = self.parts()["worker"]
        while True:
            for worker in workers:
                worker.cpu_percent()
            time.sleep(1)
            if all(worker.cpu_percent() < 20 for worker in workers):
                return

    def parts(self) -> dict[str, list[psutil.Process]]:
        """The processes by what they are: api, worker, and redis, the private server."""
        found: dict[str, list[psutil.Process]] = {"api": [], "worker": [], "redis": []}
        for process in self.process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                line = process.cmdline()
                if "app" in line:
                    found["api"].append(process)
                elif any(word.startswith("workers") for word in line):
                    found["worker"].append(process)
                elif line and ("valkey" in line[0] or "redis" in line[0]):
                    found["redis"].append(process)
        return found


def saved(network: Network, folder: Path) -> Path:
    """The network as files of transformers, which camserve and its rivals load."""
    model = network.build()
    model.save_pretrained(folder)  # type: ignore[operator]
    side = network.shape[-1]
    (folder / "preprocessor_config.json").write_text(
        json.dumps(PROCESSOR | {"size": {"shortest_edge": side}})
    )
    return folder


@contextlib.contextmanager
def running(model: Path, **settings: str | int) -> Iterator[Running]:
    """The service with one model, `network`, from its files: ready, made as fast as it becomes, and
    stopped at the end.

    settings: those of camserve, in lower case and without the prefix.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        card = folder / "models" / MODEL / "card.toml"
        card.parent.mkdir(parents=True)
        card.write_text('source = "transformers:files"\n')
        (card.parent / "files").symlink_to(model.resolve())
        state = folder / "state"
        state.mkdir(mode=0o700)
        PACKAGES.mkdir(parents=True, exist_ok=True)
        (state / "compiled").symlink_to(PACKAGES)
        port = free_port()
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith("CAMSERVE_")}  # fmt: skip
        known = {"port": port, "models_dir": card.parent.parent, "state_dir": state}
        for setting, value in (known | settings).items():
            environment[f"CAMSERVE_{setting.upper()}"] = str(value)
        log = folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "camserve", "serve"], cwd=ROOT, env=environment,
                stdout=output, stderr=output,
            )  # fmt: skip
        try:
            await_answer(port, "/readyz", process, log)
            if settings.get("optimization") != "none":
                workers = str(settings.get("devices", "")).count(",") + 1
                suits = partial(is_optimised, log=log, workers=workers)
                await_answer(port, f"/v1/models/{MODEL}", process, log, suits)
            found = Running(port, psutil.Process(process.pid))
            found.await_rest()
            yield found
        finally:
            stop(process)


def await_answer(
    port: int,
    path: str,
    process: subprocess.Popen[bytes],
    log: Path,
    suits: Callable[[bytes], bool] = lambda _: True,
) -> None:
    """Returns once a GET is answered with 200 and a body that suits; raises RuntimeError with the
    log if it never is."""
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with (
            contextlib.closing(connection),
            contextlib.suppress(OSError, http.client.HTTPException),
        ):
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status == 200 and suits(answer.read()):
                return
        time.sleep(0.1)
    raise RuntimeError(f"the service did not start:\n{log.read_text(errors='replace')[-3000:]}")


def is_optimised(card: bytes, log: Path, workers: int) -> bool:
    """Whether so many workers have found how they run the network, or that it is run as it is."""
    known = json.loads(card)
    found = log.read_text(errors="replace").count(f"model {MODEL} runs ")
    return bool(known["undivided"] or (known["optimizations"] and found >= workers))


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL to whatever of it has not ended in time."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended by itself
        family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for one in psutil.wait_procs(family, timeout=5)[1]:
        one.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
