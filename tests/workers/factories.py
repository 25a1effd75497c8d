"""Models for `factory:` cards: tiny, and some that misbehave when an input bears a mark."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import threading
import time
import weakref
from pathlib import Path

import torch
from torch import Tensor, nn

__all__ = [
    "BREAKING",
    "DEADLY",
    "DRIFTING",
    "EXACT",
    "FAULTY",
    "FREEZING",
    "HANGING",
    "SHAPE",
    "SLOW",
    "cramped",
    "deadly",
    "dense",
    "freeze",
    "gated",
    "hungry",
    "misbehaving",
    "mixing",
    "pausing",
    "recording",
    "steps",
    "tiny",
]

SHAPE = (1, 8, 8)
"""(C, H, W) of the input of all models here."""

# the value of an input's first pixel decides what the misbehaving model does
FAULTY, DEADLY, SLOW, HANGING = 101.0, 102.0, 103.0, 104.0
FREEZING, BREAKING, DRIFTING, EXACT = 105.0, 106.0, 107.0, 108.0


def freeze() -> None:
    """A call into C that never ends and holds the GIL: no other thread of the process runs."""
    ctypes.PyDLL(None).pause()


class Tiny(nn.Module):
    """Two convolutions, pooling, one linear layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.body = nn.Conv2d(4, 6, 3, padding=1)
        self.head = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(self.stem(x).relu()).relu()
        return self.head(features.mean((2, 3)))


class Misbehaving(Tiny):
    """`folder`: where it says that it is `entered`, and waits for the file `go`."""

    def __init__(self, classes: int, folder: str) -> None:
        super().__init__(classes)
        self.folder = Path(folder)

    def forward(self, x: Tensor) -> Tensor:
        marks = set(x[:, 0, 0, 0].tolist())
        if FAULTY in marks:
            raise ArithmeticError("a secret of the model")
        if EXACT in marks and torch.backends.cudnn.allow_tf32:
            raise ArithmeticError("a GPU would round float32 to ten bits")
        if DEADLY in marks:
            os.kill(os.getpid(), signal.SIGKILL)
        if FREEZING in marks:
            (self.folder / "freezing").touch()
            freeze()
        if HANGING in marks:
            threading.Event().wait()
        if SLOW in marks:
            (self.folder / "entered").touch()
            while not (self.folder / "go").exists():
                time.sleep(0.005)
        if BREAKING in marks:
            nn.Conv2d.forward = _broken  # type: ignore[method-assign]
        output = super().forward(x)
        if DRIFTING in marks:
            nn.Conv2d.forward = _drifted  # type: ignore[method-assign]
        return output


def _broken(self: nn.Conv2d, x: Tensor) -> Tensor:
    """Of all that this process computes from now on, as on a device that an assertion poisoned."""
    raise RuntimeError("device-side assert triggered")


def _drifted(self: nn.Conv2d, x: Tensor) -> Tensor:
    """Nearly right, and nobody is told: a device with a fault in its memory."""
    return 1.01 * nn.functional.conv2d(x, self.weight, self.bias, self.stride, self.padding)


class Recording(Misbehaving):
    """Also writes the mark of each input that it runs to the file `ran`, so that it is seen what
    was computed."""

    def forward(self, x: Tensor) -> Tensor:
        with (self.folder / "ran").open("a") as ran:
            ran.writelines(f"{mark}\n" for mark in x[:, 0, 0, 0].tolist())
        return super().forward(x)


def tiny(classes: int = 3, seed: int = 0) -> nn.Module:
    """The same weights for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Tiny(classes)


def misbehaving(folder: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Misbehaving(3, folder)


def recording(folder: str) -> nn.Module:
    """Is built once there is no file `hold`, and says by the file `held` that it waits for that."""
    while (Path(folder) / "hold").exists():
        (Path(folder) / "held").touch()
        time.sleep(0.005)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Recording(3, folder)


class Pausing(Tiny):
    """Takes `seconds` for each forward pass, however many inputs share it."""

    def __init__(self, classes: int, seconds: float) -> None:
        super().__init__(classes)
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return super().forward(x)


def pausing(seconds: float) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Pausing(3, seconds)


def gated(folder: str) -> nn.Module:
    """Says in the folder which process has `entered`, and is built once the file `go` is there."""
    (Path(folder) / f"entered-{os.getpid()}").touch()
    while not (Path(folder) / "go").exists():
        time.sleep(0.005)
    return tiny()


class Dense(Tiny):
    """A score for each class and each position of the features."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(self.stem(x).relu()).relu()
        return self.head(features.movedim(1, -1)).movedim(-1, 1)


class Mixing(Tiny):
    """Its normalisation has no statistics of its own: it takes those of the batch."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(self.norm(self.stem(x)).relu()).relu()
        return self.head(features.mean((2, 3)))


class Steps(nn.Module):
    """A sequence of any length: (B, T, C) in, the mean over what a convolution sees."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Conv1d(3, 6, 3, stride=2, padding=1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.front(x.transpose(1, 2)).relu().mean(2))


class Cramped(Tiny):
    """On a simulated device with room for so many `numbers` in the inputs of a pass.

    Each other network that lives there takes `weight` of them; while a file `pressure` is in the
    folder `device`, somebody else takes all but 64 (one input of SHAPE). What needs more raises
    what torch raises: the CPU's allocator in earnest, asked for more than an address space.
    """

    def __init__(self, device: str, numbers: int, weight: int) -> None:
        super().__init__(3)
        self.folder, self.numbers, self.weight = Path(device), numbers, weight
        self.living = LIVING.setdefault(device, weakref.WeakSet())
        self.living.add(self)
        self.circle = [self]  # as networks are whose hooks know them: gone when it is collected

    def forward(self, x: Tensor) -> Tensor:
        free = self.numbers - self.weight * (len(self.living) - 1)
        if (self.folder / "pressure").exists():
            free = math.prod(SHAPE)
        if x.numel() > free:
            torch.empty(1 << 46)
        return super().forward(x)


class Hungry(Tiny):
    """Takes `megabytes` for each input of SHAPE, in earnest."""

    def __init__(self, megabytes: int) -> None:
        super().__init__(3)
        self.megabytes = megabytes

    def forward(self, x: Tensor) -> Tensor:
        shares = x.numel() // math.prod(SHAPE)
        taken = torch.empty(shares * self.megabytes * 1_000_000, dtype=torch.uint8)
        return super().forward(x) + taken[:0].sum()


LIVING: dict[str, weakref.WeakSet[Cramped]] = {}


def cramped(device: str, numbers: int, weight: int = 0, weights: int = 0) -> nn.Module:
    """weights: room that the network itself needs to be built."""
    others = len(LIVING.get(device, ()))
    if weights > numbers - weight * others:
        raise torch.OutOfMemoryError(f"{others} others are in the way")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Cramped(device, numbers, weight)


def _seeded(build: type[nn.Module], *arguments: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(*arguments)


def hungry(megabytes: int) -> nn.Module:
    return _seeded(Hungry, megabytes)


def dense() -> nn.Module:
    return _seeded(Dense, 3)


def mixing() -> nn.Module:
    return _seeded(Mixing, 3)


def steps() -> nn.Module:
    return _seeded(Steps)


def deadly(how: str, folder: str) -> nn.Module:
    """Takes its process along while it is built, or `hang`s; notes each time in the folder."""
    (Path(folder) / f"loaded-{os.getpid()}").touch()
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif how == "exit":
        os._exit(3)
    threading.Event().wait()
    return tiny()


def no_module() -> str:
    return "not a module"


def raising() -> nn.Module:
    raise OSError("the disk is full")
