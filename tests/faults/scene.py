"""A whole service under test: Redis, two front ends and two workers, each with its own network."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import redis

from tests.faults.checker import Checker
from tests.faults.hosts import FrontEnd, Host, Worker
from tests.faults.journal import Journal
from tests.faults.proxy import Network
from tests.faults.receiver import Receiver
from tests.faults.record import Record
from tests.faults.server import RedisServer
from tests.faults.small_disk import SmallDisk
from tests.faults.snapshot import MODEL, Snapshot
from tests.faults.view import Limits
from tests.service import free_port

__all__ = ["HOUR_S", "MODEL", "Scene"]

PATIENCE_S = 90.0
HOUR_S = 3600
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
DEFAULTS: Mapping[str, object] = {
    "lease_s": 2,
    "max_attempts": 2,
    "queue_depth": 64,
    "bulk_queue_depth": 64,
    "deadline_s": 120,
    "sync_wait_s": 30,
    "job_time_limit_s": 8,
    "job_ttl_s": 600,
    "result_cache_mb": 1,  # inputs are numbered, and so each is computed all the same
    "drain_s": 5,
    "max_batch": 4,
    "devices": "cpu",
    "threads": 1,
    "factories": "tests.faults.network:numbered",
    "webhook_secret": SECRET,
    "webhook_retry_s": 0.5,
}


class Scene:
    """The clocks of one front end and of one worker are hours off, all the time.

    room: how many inputs fit on a worker's device at once; 0: any number. small_disk: whether
    that of Redis can be filled; it holds some thousand jobs.
    """

    def __init__(
        self,
        folder: Path,
        binary: str | Path,
        *,
        room: int = 0,
        small_disk: bool = True,
        **settings: object,
    ) -> None:
        self.record = Record()
        self.receiver = Receiver(self.record)
        self.settings = {**DEFAULTS, "webhook_hosts": self.receiver.origin, **settings}
        self.journal = Journal(folder / "journal")
        self.limits = Limits(
            lease_s=float(str(self.settings["lease_s"])),
            max_attempts=int(str(self.settings["max_attempts"])),
            depth_cap=sum(
                int(str(self.settings[name])) for name in ("queue_depth", "bulk_queue_depth")
            ),
            job_ttl_s=float(str(self.settings["job_ttl_s"])),
        )
        self.checker = Checker(self.record, self.journal, self.limits)
        self.folder = folder
        self.disk = SmallDisk(folder / "redis", wanted=small_disk)
        write_model(folder / "models" / MODEL, self.journal.path, room)
        self.server = self.make_server(binary)
        self.network = Network()
        self.fronts: dict[str, FrontEnd] = {}
        self.workers: dict[str, Worker] = {}

    def make_server(self, binary: str | Path) -> RedisServer:
        return RedisServer(self.folder / "redis", binary)

    def add_hosts(self) -> None:
        shifts = {"a": 0, "b": 7 * HOUR_S, "w1": 0, "w2": -5 * HOUR_S}
        for name in ("a", "b"):
            proxy, port = self.network.proxy(self.server.port), free_port()
            environment = self.environment(f"redis://127.0.0.1:{proxy.port}", port=port)
            self.fronts[name] = FrontEnd(
                *(name, self.folder, environment, f"http://127.0.0.1:{port}"),
                proxy=proxy,
                clock_shift_s=shifts[name],
            )
        for name in ("w1", "w2"):
            proxy = self.network.proxy(self.server.port)
            environment = self.environment(f"redis://127.0.0.1:{proxy.port}")
            self.workers[name] = Worker(
                *(name, self.folder, environment), proxy=proxy, clock_shift_s=shifts[name]
            )

    def environment(self, redis_url: str, **more: object) -> dict[str, str]:
        inherited = {name: v for name, v in os.environ.items() if not name.startswith("CAMSERVE_")}
        given = {
            **self.settings,
            "redis_url": redis_url,
            "models_dir": self.folder / "models",
            **more,
        }
        return inherited | {f"CAMSERVE_{name.upper()}": str(v) for name, v in given.items()}

    @property
    def webhook_url(self) -> str:
        return f"{self.receiver.origin}/"

    @property
    def store(self) -> redis.Redis:
        """Straight to the server, past all networks."""
        return self.server.store

    @property
    def hosts(self) -> list[Host]:
        return [*self.fronts.values(), *self.workers.values()]

    def __enter__(self) -> Self:
        self.network.__enter__()
        self.receiver.start()
        try:
            self.disk.mount()
            self.server.start()
            self.add_hosts()
            self.heal()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for host in self.hosts:
            host.end()
        self.network.__exit__(None, None, None)
        self.receiver.stop()
        self.server.stop()
        self.disk.unmount()

    def heal(self, workers: int = 1) -> None:
        """Start what does not run; wait until both front ends and so many workers are ready."""
        self.wait_for(lambda: self._is_ready() and len(self.warm()) >= workers)

    def _is_ready(self) -> bool:
        for host in self.hosts:
            host.start()
        ready = (
            httpx.get(f"{front.url}/readyz", timeout=20, verify=False)
            for front in self.fronts.values()
        )
        return all(answer.status_code == 200 for answer in ready)

    def warm(self) -> list[Worker]:
        """The workers whose child is there and has run its warm-up explanation."""
        pids = {status["pid"] for status in self.statuses() if status["warm"]}
        found = ((worker, worker.child()) for worker in self.workers.values())
        return [worker for worker, child in found if child is not None and child.pid in pids]

    def statuses(self) -> list[dict[str, Any]]:
        """What the workers tell of themselves."""
        records = self.store.hvals("cam:workers")
        return [json.loads(record.rpartition(b"\n")[2]) for record in records]

    def wait_for(self, condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
        """What `condition` returns, once that is something."""
        end_s = time.monotonic() + patience_s
        while True:
            try:
                if found := condition():
                    return found
            except (httpx.TransportError, redis.RedisError, OSError):
                pass
            assert time.monotonic() < end_s, f"it never came about\n{self.logs()}"
            time.sleep(0.02)

    def open_gate(self, number: int) -> None:
        """Let those go on whose deed is to wait for it."""
        (self.folder / f"gate-{number}").touch()

    def running(self, number: int) -> Worker:
        """The worker that computes a job, once one does."""

        def found() -> Worker | None:
            pids = {one.pid for one in self.journal.of(number)}
            for worker in self.workers.values():
                child = worker.child()
                if child is not None and child.pid in pids:
                    return worker
            return None

        worker: Worker = self.wait_for(found)
        return worker

    def logs(self, lines: int = 30) -> str:
        """The last words of every process."""
        return "\n".join(
            f"--- {host.name}\n" + "\n".join(host.log.read_text().splitlines()[-lines:])
            for host in self.hosts
            if host.log.exists()
        )

    def is_at_rest(self) -> bool:
        return not any(job.is_open for job in Snapshot.of(self.store).jobs.values())

    def check(self, *, at_rest: bool = True) -> None:
        """Asserts all eleven invariants; at rest, once no job is open."""
        if at_rest:
            self.wait_for(self.is_at_rest)
        report = self.checker.look(Snapshot.of(self.store), at_rest=at_rest)
        assert not report.violations, f"{report}\n{self.logs()}"


def write_model(folder: Path, journal: Path, room: int) -> None:
    folder.mkdir(parents=True)
    (folder / "card.toml").write_text(
        'source = "factory:tests.faults.network:numbered"\nfeature_layer = "features"\n'
        f'[arguments]\njournal = "{journal}"\nroom = {room}\n'
        '[input]\nheight = 8\nwidth = 8\ncolors = "L"\n'
    )
