"""What the front end costs a request: `python -m benchmarks.front_end [TREE ...]`.

A model whose network is nearly nothing, so that what is measured is HTTP, decoding, the queue and
the presentation; no cache answers, unless `--another-class` has each request ask the same picture
for another class. Each picture, form of answer and number of clients is asked for on keep-alive
connections; printed are the latency, what of it `Server-Timing` names, and the processor time that
each process (front end, worker, server of the queue) took for a request, as the kernel counts it.

TREE: checkouts of camserve (default: this one), each as a service of its own; `.@2` has two
processes of the API. They take turns, a few requests at a time, so that whatever else the machine
does slows all of them alike; the ratios are those of the last tree to the first.
"""

from __future__ import annotations

import argparse
import http.client
import io
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from PIL import Image

from camserve.broker.embedded import EmbeddedServer
from tests.service import ROOT, free_port

TURN: Final = 6  # requests of a client before the other tree has its turn
TICKS: Final = os.sysconf("SC_CLK_TCK")
CLASSES: Final = 1000
FORMS: Final = ("json", "npy", "png")
STAGE: Final = re.compile(r"(\w+);dur=([\d.]+)")
CARD: Final = """
source = "factory:benchmarks.front_end:network"
feature_layer = "features"
[input]
height = 224
width = 224
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
"""


def network() -> Any:
    """7x7 features and a thousand classes, as ResNet-50 has them, for some microseconds."""
    import torch  # noqa: PLC0415 - of the worker alone
    from torch import nn  # noqa: PLC0415

    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 32, 32, 32), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES))
    network = nn.Sequential()
    network.add_module("features", features)
    network.add_module("head", head)
    return network.eval()


def photo(width: int, height: int, kind: str) -> bytes:
    """Compresses as a photograph does."""
    dice = np.random.default_rng(0)
    coarse = dice.integers(0, 256, (max(height // 8, 2), max(width // 8, 2), 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return file.getvalue()


PICTURES: Final = {
    "png224": ("PNG", 224, 224),
    "jpeg640": ("JPEG", 640, 480),
    "jpeg12mp": ("JPEG", 4000, 3000),
}


@dataclass
class Cost:
    """Of one picture, form and number of clients, on one tree."""

    took_ms: list[float] = field(default_factory=list)
    stages_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu_ms: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    wall_s: float = 0

    def line(self) -> str:
        asked = len(self.took_ms)
        stages = " ".join(
            f"{name} {statistics.median(self.stages_ms[name]):.1f}"
            for name in ("prepare", "queue", "compute", "present")
            if self.stages_ms.get(name)
        )
        cpu = " ".join(f"{name} {ms / asked:.2f}" for name, ms in self.cpu_ms.items())
        p50 = statistics.median(self.took_ms)
        return f"p50 {p50:6.2f} ms ({stages})  {asked / self.wall_s:5.0f}/s  CPU ms: {cpu}"


@dataclass(frozen=True)
class Question:
    """file: the part of the body that holds the picture."""

    file: bytes
    form: str
    other_classes: Iterator[int] | None = None

    @property
    def body(self) -> bytes:
        number = 3 if self.other_classes is None else next(self.other_classes) % CLASSES
        return _fields(model="nothing", class_index=str(number)) + self.file

    @property
    def headers(self) -> dict[str, str]:
        # the same pictures again and again, to be computed
        caching = {} if self.other_classes else {"Cache-Control": "no-cache"}
        return {"Content-Type": "multipart/form-data; boundary=cut"} | caching


class Tree:
    """A service from one checkout."""

    def __init__(self, tree: Path, folder: Path) -> None:
        path, _, processes = str(tree).partition("@")
        self.tree = Path(path).resolve()
        self.name = self.tree.name + (f"@{processes}" if processes else "")
        self._api_processes = processes
        self.port = free_port()
        models = folder / "models" / "nothing"
        models.mkdir(parents=True)
        (models / "card.toml").write_text(CARD)
        (folder / "benchmarks").mkdir()
        (folder / "benchmarks" / "__init__.py").touch()
        (folder / "benchmarks" / "front_end.py").write_bytes(Path(__file__).read_bytes())
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._server = EmbeddedServer(folder / "state")
        self._connections: dict[int, http.client.HTTPConnection] = {}

    def __enter__(self) -> Self:
        self._server.start()
        environment = os.environ | {
            "CAMSERVE_REDIS_URL": self._server.url,
            "CAMSERVE_MODELS_DIR": str(self._folder / "models"),
            "CAMSERVE_STATE_DIR": str(self._folder / "workers"),
            "CAMSERVE_FACTORIES": "benchmarks.front_end:network",
            "CAMSERVE_PORT": str(self.port),
            "CAMSERVE_DEVICES": "cpu",
            "CAMSERVE_THREADS": "1",
            "CAMSERVE_OPTIMIZATION": "none",  # which would take the processor beside the requests
            **({"CAMSERVE_API_PROCESSES": number} if (number := self._api_processes) else {}),
            # the tree's own packages, and of benchmarks this very module
            "PYTHONPATH": str(self.tree),
        }
        for part in ("app", "workers"):
            self._processes[part] = subprocess.Popen(
                [sys.executable, "-m", part],
                cwd=self._folder,
                env=environment,
                stdout=(self._folder / f"{part}.log").open("wb"),
                stderr=subprocess.STDOUT,
            )
        self._wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.wait(60)
        self._server.stop()

    @property
    def api(self) -> int:
        return self._processes["app"].pid

    def _wait_ready(self) -> None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        end_s = time.monotonic() + 120
        while time.monotonic() < end_s:
            try:
                with opener.open(f"http://127.0.0.1:{self.port}/readyz", timeout=2):
                    return
            except OSError:
                time.sleep(0.1)
        logs = [(self._folder / f"{part}.log").read_text() for part in self._processes]
        raise TimeoutError("\n".join(logs))

    def cpu_ms(self) -> dict[str, float]:
        """So far, by process."""
        found = {
            "api": _family_ms(self._processes["app"].pid),
            "worker": _family_ms(self._processes["workers"].pid),
        }
        if self._server.pid:
            found["redis"] = _family_ms(self._server.pid)
        return found

    def ask(self, ask: Question, client: int) -> tuple[float, str]:
        connection = self._connections.get(client)
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port)
            self._connections[client] = connection
        start_s = time.perf_counter()
        connection.request(
            "POST",
            f"/v1/explanations?as={ask.form}",
            ask.body,
            ask.headers,
        )
        answer = connection.getresponse()
        content = answer.read()
        took_ms = (time.perf_counter() - start_s) * 1000
        assert answer.status == 200, content
        return took_ms, answer.headers.get("Server-Timing", "")

    def turn(self, cost: Cost, ask: Question, clients: int, times: int) -> None:
        """Some requests of each of so many clients."""
        before, start_s = self.cpu_ms(), time.perf_counter()

        def ask_all(client: int) -> None:
            for _ in range(times):
                took_ms, timing = self.ask(ask, client)
                cost.took_ms.append(took_ms)
                for name, ms in STAGE.findall(timing):
                    cost.stages_ms[name].append(float(ms))

        threads = [threading.Thread(target=ask_all, args=(one,)) for one in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        cost.wall_s += time.perf_counter() - start_s
        for name, ms in self.cpu_ms().items():
            cost.cpu_ms[name] += ms - before[name]


def _fields(**fields: str) -> bytes:
    parts = [
        f'--cut\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    return b"".join(parts)


def _file(kind: str, picture: bytes) -> bytes:
    head = (
        '--cut\r\nContent-Disposition: form-data; name="input"; filename="picture"\r\n'
        f"Content-Type: image/{kind.lower()}\r\n\r\n"
    )
    return head.encode() + picture + b"\r\n--cut--\r\n"


def _family_ms(pid: int) -> float:
    """Processor time of a process, its threads that have ended included, and of all below it."""
    total, line = 0.0, [pid]
    while line:
        one = line.pop()
        try:
            stat = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, stat[11:13])) * 1000 / TICKS
            for task in Path(f"/proc/{one}/task").iterdir():
                line += map(int, (task / "children").read_text().split())
        except FileNotFoundError:
            continue
    return total


def measure(trees: Sequence[Tree], options: argparse.Namespace) -> None:
    for name, (kind, width, height) in PICTURES.items():
        file = _file(kind, photo(width, height, kind))
        for form in FORMS:
            for several in options.clients:
                label = f"{name} {form} x{several}"
                if not re.search(options.only, label):
                    continue
                other_classes = count() if options.another_class else None
                ask = Question(file, form, other_classes)
                costs = [Cost() for _ in trees]
                for tree in trees:
                    tree.turn(Cost(), ask, several, 2)
                end_s = time.monotonic() + options.seconds * len(trees)
                while time.monotonic() < end_s:
                    for tree, cost in zip(trees, costs, strict=True):
                        tree.turn(cost, ask, several, TURN)
                for tree, cost in zip(trees, costs, strict=True):
                    print(f"{label:<18} {tree.name:<8} {cost.line()}", flush=True)
                if len(costs) > 1:
                    print(f"{'':<18} ratio    {_ratios(costs[0], costs[-1])}", flush=True)


def _ratios(first: Cost, last: Cost) -> str:
    p50 = statistics.median(last.took_ms) / statistics.median(first.took_ms)
    rate = len(last.took_ms) / last.wall_s / (len(first.took_ms) / first.wall_s)
    cpu = {
        name: (last.cpu_ms[name] / len(last.took_ms)) / (ms / len(first.took_ms))
        for name, ms in first.cpu_ms.items()
        if ms > 0  # of few requests, less than the kernel's tick
    }
    told = " ".join(f"{name} {ratio:.2f}" for name, ratio in cpu.items())
    return f"p50 {p50:.2f}  rate {rate:.2f}  CPU {told}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trees", nargs="*", type=Path, default=[ROOT])
    parser.add_argument("--seconds", type=float, default=4, help="of each case and tree")
    parser.add_argument("--only", default="", help="regular expression: 'png224 .* x1'")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--another-class", action="store_true", help="in each request")
    options = parser.parse_args()
    with ExitStack() as stack:
        trees = []
        for tree in options.trees:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            trees.append(stack.enter_context(Tree(tree, folder)))
        measure(trees, options)


if __name__ == "__main__":
    main()
