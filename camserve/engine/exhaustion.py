"""Which errors say that memory is used up: the device's, or the host's."""

from __future__ import annotations

from typing import Final

import torch

__all__ = ["is_out_of_memory"]

_SIGNS: Final = (
    "DefaultCPUAllocator: ",  # "can't allocate memory" or "not enough memory", by the platform
    "out of memory. Tried to allocate",  # of a GPU, from within what was compiled ahead of time
    "CUDA error: out of memory",  # of the driver, when not even a kernel finds room
    "_ALLOC_FAILED",  # of cuBLAS, cuSOLVER, cuFFT, cuSPARSE, cuDNN 8
    "_ALLOCATION_FAILED",  # of cuDNN 9
    "unable to find an engine to execute this computation",  # of cuDNN: none found room
    "MPS backend out of memory",
    "std::bad_alloc",
)
"""Of a plain RuntimeError: only torch's own allocators of GPUs raise torch.OutOfMemoryError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error, or what it was raised for, is that memory could not be had.

    A model that wraps what goes wrong inside it is seen through.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(seen, RuntimeError) and any(sign in str(seen) for sign in _SIGNS):
            return True
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return False
