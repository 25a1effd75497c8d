"""The processes of a scene: front ends and workers, each on a host with a clock and a network."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from tests.faults.proxy import Proxy
from tests.service import ROOT

__all__ = ["FrontEnd", "Host", "Worker"]

SHIFTED_CLOCK = Path(__file__).parent / "shifted_clock"
DRAIN_S = 30.0


class Host:
    """One `python -m MODULE`. wrap: what runs the command, such as `ip netns exec NAME`."""

    module = ""

    def __init__(
        self,
        name: str,
        folder: Path,
        environment: Mapping[str, str],
        *,
        proxy: Proxy | None = None,
        clock_shift_s: int = 0,
        wrap: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._proxy = proxy
        self._wrap = wrap
        self._environment = dict(environment)
        if clock_shift_s:
            self._environment |= {
                "PYTHONPATH": str(SHIFTED_CLOCK),
                "TEST_CLOCK_SHIFT_S": str(clock_shift_s),
            }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def network(self) -> Proxy:
        assert self._proxy is not None
        return self._proxy

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it unless it runs."""
        if self.is_running:
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._wrap, sys.executable, "-m", self.module],
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL of the one process; its children find out by themselves."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def terminate(self) -> int:
        """SIGTERM, and wait for the end; its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(DRAIN_S)

    def end(self) -> None:
        """Nothing of it is left, whatever state it is in."""
        family = self.family()
        if self.is_running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.terminate()
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        if self._process is not None:
            self._process.wait()

    def family(self) -> list[psutil.Process]:
        """The process and its children, as far as they live."""
        try:
            parent = psutil.Process(self.pid)
            family = [parent, *parent.children(recursive=True)]
            return [one for one in family if one.status() != psutil.STATUS_ZOMBIE]
        except (psutil.NoSuchProcess, AssertionError):
            return []

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """All its processes stand still, as on a virtual machine that is paused."""
        family = self.family()
        for one in family:
            one.suspend()
        try:
            yield
        finally:
            for one in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.resume()


class FrontEnd(Host):
    """`python -m app`."""

    module = "app"

    def __init__(
        self, name: str, folder: Path, environment: Mapping[str, str], url: str, **about: object
    ) -> None:
        super().__init__(name, folder, environment, **about)  # type: ignore[arg-type]
        self.url = url

    def listens(self) -> bool:
        return httpx.get(f"{self.url}/livez", timeout=5, verify=False).status_code == 200


class Worker(Host):
    """`python -m workers`: a supervisor with a child."""

    module = "workers"

    def child(self) -> psutil.Process | None:
        """The process that computes, unless it is being replaced."""
        for one in self.family()[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                if "workers.child" in one.cmdline():
                    return one
        return None

    def kill_child(self) -> None:
        if child := self.child():
            os.kill(child.pid, signal.SIGKILL)
