"""A whole camserve for a test: a real server, a real API process, a real worker supervisor."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

__all__ = ["ROOT", "Service", "free_port", "make_repository"]

ROOT = Path(__file__).parent.parent
START_S = 150.0


def free_port() -> int:
    """A port of loopback on which nobody listens, and which nobody else is given meanwhile.

    It stays bound as long as this process runs. A server that sets SO_REUSEADDR, as all do here,
    may listen there, since this socket does not; Linux gives it to no other that asks for any.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    port = int(reserved.getsockname()[1])
    reserved.detach()
    return port


def make_repository(folder: Path, *models: Path, cards: Mapping[str, str] | None = None) -> Path:
    """A model repository of links to `models`, and of folders with only a card."""
    folder.mkdir(parents=True, exist_ok=True)
    for model in models:
        (folder / model.name).symlink_to(model)
    for name, card in (cards or {}).items():
        (folder / name).mkdir()
        (folder / name / "card.toml").write_text(card)
    return folder


class Service:
    """API and workers as their own processes on a server that is there already."""

    def __init__(
        self,
        redis_url: str,
        models: Path,
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        **settings: str | float,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "service.log"
        self._environment = os.environ | {
            "CAMSERVE_REDIS_URL": redis_url,
            "CAMSERVE_MODELS_DIR": str(models),
            "CAMSERVE_PORT": str(self.port),
            "CAMSERVE_STATE_DIR": str(folder / "state"),
            "CAMSERVE_DEVICES": "cpu",
            "CAMSERVE_THREADS": "1",
            # the same inputs are sent again and again, to be computed
            "CAMSERVE_RESULT_CACHE_MB": "0",
            **(environment or {}),
            **{f"CAMSERVE_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def setting(self, name: str) -> str:
        """The value of a setting that the processes were started with."""
        return self._environment[f"CAMSERVE_{name.upper()}"]

    def start(self, *parts: str) -> Self:
        """Start `app` and `workers`, or the parts that are named, and wait until they are ready."""
        for part in parts or ("app", "workers"):
            self.start_part(part)
        self.wait_ready()
        return self

    def start_part(self, part: str, **environment: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", part],
                cwd=ROOT,
                env=self._environment | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes[part] = process
        return process

    def wait_ready(self) -> None:
        self.wait_for(lambda client: client.get("/readyz").status_code == 200)

    def wait_for(self, condition: Any, patience_s: float = START_S) -> None:
        """Ask until `condition(client)` holds; a process that ended is an error."""
        end_s = time.monotonic() + patience_s
        with self.client() as client:
            while True:
                try:
                    if condition(client):
                        return
                except httpx.TransportError:
                    pass
                for part, process in self.processes.items():
                    assert process.poll() is None, f"{part} ended:\n{self.log.read_text()}"
                assert time.monotonic() < end_s, f"not in time:\n{self.log.read_text()}"
                time.sleep(0.05)

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **options)

    def stop(self) -> None:
        """SIGTERM in the order of the launcher; whatever does not end is killed, and an error."""
        late = []
        for part in ("app", "workers"):
            process = self.processes.pop(part, None)
            if process is None or process.poll() is not None:
                continue
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(100)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                late.append(part)
        assert not late, f"{late} did not stop:\n{self.log.read_text()}"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
