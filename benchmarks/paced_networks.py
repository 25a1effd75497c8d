"""Networks that take a given time, for `factory:` cards of benchmarks."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor, nn

__all__ = ["GATE", "computing", "sleeping"]

GATE = 1000.0
"""The first number of an input that holds the device until there is a file `go`."""


class _Paced(nn.Module):
    """3 x 224 x 224 in, 10 classes out; `rounds` of convolutions, and `seconds` besides in which
    the CPU is free, as it is while a GPU computes."""

    def __init__(self, folder: str, rounds: int, seconds: float) -> None:
        super().__init__()
        self.folder, self.rounds, self.seconds = Path(folder), rounds, seconds
        self.stem = nn.Conv2d(3, 32, 16, stride=32)
        self.middle = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        if x[0, 0, 0, 0] == GATE:
            (self.folder / "entered").touch()
            while not (self.folder / "go").exists():
                time.sleep(0.002)
        features = self.stem(x)
        for _ in range(self.rounds):
            features = self.middle(features).relu()
        time.sleep(self.seconds)
        scores: Tensor = self.head(features.mean((2, 3)))
        return scores


def _built(folder: str, rounds: int, seconds: float) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _Paced(folder, rounds, seconds)


def computing(folder: str, rounds: int) -> nn.Module:
    return _built(folder, rounds, 0.0)


def sleeping(folder: str, seconds: float) -> nn.Module:
    return _built(folder, 0, seconds)
