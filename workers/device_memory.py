"""How much memory a device has, and how much of it a worker takes."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from camserve.contracts.cards import DeviceMemory

__all__ = ["device_memory"]


def device_memory(device: str) -> DeviceMemory | None:
    """Of a CPU: of the process and its machine. None where nobody can tell. Some microseconds; of a
    GPU only in a thread that may wait for it."""
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(device)
        used = torch.cuda.memory_allocated(device)
        reserved = torch.cuda.memory_reserved(device)
        return DeviceMemory(used=used, reserved=reserved, free=free, total=total)
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        resident = int(Path("/proc/self/statm").read_text("ascii").split()[1]) * page
        free, total = (os.sysconf(name) * page for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"))
    except (OSError, ValueError):  # not Linux
        return None
    return DeviceMemory(used=resident, reserved=resident, free=free, total=total)
