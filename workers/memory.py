"""The memory of a worker's process: given back, bounded, and given up first."""

from __future__ import annotations

import contextlib
import gc
import re
from pathlib import Path
from typing import Final

import torch

from camserve.engine.exclusion import computing

__all__ = ["bound_memory", "free_memory", "offer_to_the_kernel"]

_OWN: Final = Path("/proc/self")
_FIRST_TO_GO: Final = 500  # thousandths of all memory that the kernel is to think it takes besides


def free_memory(device: str) -> None:
    """Collect what refers to itself, as a network with hooks does, and return to the device what
    torch keeps for later. In a side thread: it takes a moment."""
    gc.collect()
    if device.startswith("cuda"):
        with computing():  # not while launches are captured, in which torch cannot free memory
            torch.cuda.empty_cache()


def bound_memory(megabytes: int) -> None:
    """Have the kernel refuse this process more memory, so that torch raises, where else the kernel
    would end the process. Linux counts what may be written to, and no address space (as
    RLIMIT_AS would) that is only reserved.

    Raises ValueError if the process takes more already.
    """
    import resource  # noqa: PLC0415 - there is none on Windows

    taken = re.search(r"VmData:\s+(\d+) kB", (_OWN / "status").read_text())
    taken_mb = int(taken[1]) * 1024 // 1_000_000 if taken else 0
    if megabytes <= taken_mb:
        raise ValueError(
            f"CAMSERVE_CPU_MEMORY_MB: a worker takes {taken_mb} MB before it has loaded a model, "
            f"and {megabytes} are granted"
        )
    resource.setrlimit(resource.RLIMIT_DATA, (megabytes * 1_000_000,) * 2)


def offer_to_the_kernel() -> None:
    """If the machine's memory is used up, end this process and no other: its jobs are done again,
    while the queue or the front end would take all jobs along. Linux only."""
    with contextlib.suppress(OSError, ValueError):
        score = _OWN / "oom_score_adj"
        score.write_text(str(max(int(score.read_text()), _FIRST_TO_GO)))
