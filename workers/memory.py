"""Memory that nobody uses any more, given back. Runs in a side thread: it takes a moment."""

from __future__ import annotations

import gc

import torch

__all__ = ["free_memory"]


def free_memory(device: str) -> None:
    """Collect what refers to itself, as a network with hooks does, and return to the device what
    torch keeps for later."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
