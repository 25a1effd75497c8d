"""Libraries that explain in their own environment when it is their turn."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.rivals.environments import python_of
from benchmarks.running import ROOT

__all__ = ["ENVIRONMENTS", "Child", "child", "environment"]

# which of the environments has the library
ENVIRONMENTS = {"pytorch-grad-cam": "fastapi", "Captum": "kserve", "torch-cam": "torchcam"}


def environment(**more: str) -> dict[str, str]:
    """For a process in a rival's environment: it finds `benchmarks`, and is told nothing else."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CAMSERVE_")}
    return kept | {"PYTHONPATH": str(ROOT)} | more


class Child:
    """One library, in a process that waits for its turns."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log
        self._heard()

    def seconds(self, inputs: Path, classes: Sequence[Sequence[int]]) -> float:
        """Of one explanation."""
        return float(self._told(inputs, classes, None)["seconds"])

    def maps(self, inputs: Path, classes: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """(N, classes, *S)."""
        path = self._log.with_suffix(".npy")
        self._told(inputs, classes, path)
        found: NDArray[np.float32] = np.load(path)
        return found

    def _told(self, inputs: Path, classes: Sequence[Sequence[int]], maps: Path | None) -> Any:
        asked = {"inputs": str(inputs), "classes": classes, "maps": maps and str(maps)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._heard()

    def _heard(self) -> Any:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return json.loads(line)
        raise RuntimeError(f"it ended: {self._log.read_text(errors='replace')[-1000:]}")


@contextlib.contextmanager
def child(library: str, model: Path, threads: int, folder: Path) -> Iterator[Child]:
    """Raises Unavailable if it cannot be installed, RuntimeError if it does not run."""
    python = python_of(ENVIRONMENTS[library])
    log = folder / f"{library}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [python, "-m", "benchmarks.rivals.inside.turns", library, str(model), str(threads)],
            cwd=folder, env=environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
    with process:
        try:
            yield Child(process, log)
        finally:
            process.kill()
