"""Real worker processes for a test, started as an operator starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.service import ROOT
from tests.workers.cards import FACTORIES

__all__ = ["Workers", "environment", "run_module"]


def environment(redis_url: str | None, models: Path, **settings: object) -> dict[str, str]:
    """The environment of a worker, without what the test run itself was started with."""
    inherited = {name: v for name, v in os.environ.items() if not name.startswith("CAMSERVE_")}
    given = {
        "models_dir": models,
        "factories": ",".join(FACTORIES),
        "devices": "cpu",
        "threads": 1,
        **({"redis_url": redis_url} if redis_url else {}),
        **settings,
    }
    return inherited | {f"CAMSERVE_{name.upper()}": str(value) for name, value in given.items()}


def run_module(module: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `python -m module` to its end, which must come within 100 s."""
    return subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


class Workers:
    """`python -m workers`, with its log in a file."""

    def __init__(self, redis_url: str, models: Path, folder: Path, **settings: object) -> None:
        given = {"state_dir": folder / "state"} | settings
        self.environment = environment(redis_url, models, **given)
        self._log = folder / "workers.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workers"],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def children(self) -> list[psutil.Process]:
        """The child processes that live, one a device."""
        assert self.process is not None
        found = psutil.Process(self.process.pid).children()
        return [child for child in found if child.status() != psutil.STATUS_ZOMBIE]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the supervisor; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)
