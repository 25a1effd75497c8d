"""What holds for all parts of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    """threads: the budget of CPU threads, which is the same for all that is compared. quick: fewer
    rounds and shapes, for a look rather than a record. tiny: networks and loads so small that a
    test of the benchmark itself may run them."""

    quick: bool = False
    tiny: bool = False
    threads: int = os.cpu_count() or 1
    device: str = "cpu"

    @classmethod
    def here(cls, *, quick: bool, threads: int | None, device: str | None) -> Options:
        """By default all cores, and the GPU if there is one."""
        found = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(quick=quick, threads=threads or torch.get_num_threads(), device=found)

    @property
    def settings(self) -> dict[str, str | int]:
        """Of a camserve that does as the options say."""
        return {
            "threads": self.threads,
            "devices": "cuda:0" if self.device == "cuda" else self.device,
            "optimization": "fold" if self.tiny else "compile",
        }

    @property
    def several_workers(self) -> tuple[int, int]:
        """How many workers on the CPU, and of how many threads each, as docs/operating.md advises
        where clients keep all cores busy."""
        workers = min(self.threads, 4)
        return workers, self.threads // workers

    def lasting(self, seconds: float) -> float:
        """How long to measure what takes `seconds` in a whole run."""
        return 0.3 if self.tiny else seconds / 4 if self.quick else seconds
