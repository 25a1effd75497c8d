"""What a compiled backbone depends on, in one digest."""

from __future__ import annotations

import ctypes
import hashlib
import platform
from pathlib import Path

import torch
from torch import Tensor, fx

from camserve.vocabulary import Precision

__all__ = ["identity_of"]


def identity_of(backbone: fx.GraphModule, precision: Precision) -> str:
    """Of its operations, the very values of its weights, torch, and the processor it is run on.

    Of the weights, because they are compiled in: a hub may send others under the same name.
    """
    weights = [*backbone.named_parameters(), *backbone.named_buffers()]
    device = next((weight.device for _, weight in weights), torch.device("cpu"))
    known = hashlib.sha256()
    for part in (backbone.code, precision, torch.__version__, platform.machine(), _kind(device)):
        known.update(f"{part}\n".encode())
    for name, weight in weights:
        known.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        known.update(_bytes_of(weight.detach().cpu().contiguous()))
    return known.hexdigest()[:24]


def _kind(device: torch.device) -> str:
    """Of a CPU with the number of threads, which the kernels have built in, and with all that it
    can do: the compiler uses it, and another CPU that shares the folder would end of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()} {_abilities()}"


def _abilities() -> str:
    """Linux tells; elsewhere the name of the processor must do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _bytes_of(tensor: Tensor) -> ctypes.Array[ctypes.c_char]:
    """A view of its memory. torch offers one through numpy only, which is not always there."""
    return (ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())
