"""Which devices to start a worker for, found out without touching CUDA in this process."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

__all__ = ["choose_devices"]

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 120
_COUNT = "import torch; print(torch.cuda.device_count())"


def choose_devices(asked: Sequence[str]) -> list[str]:
    """`auto` becomes all visible GPUs, or the CPU if there is none; anything else is kept.

    A supervisor that initialised CUDA would hold a context on every GPU, so a short-lived process
    does the counting, and only where the driver is installed.
    """
    if asked and tuple(asked) != ("auto",):
        return list(asked)
    if not (shutil.which("nvidia-smi") or os.path.exists("/dev/nvidiactl")):  # noqa: PTH110
        return ["cpu"]
    try:
        counted = subprocess.run(  # noqa: S603 - our own interpreter and a constant
            [sys.executable, "-c", _COUNT],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=True,
        )
        count = int(counted.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        logger.warning(
            "an NVIDIA driver is installed, but torch could not count the GPUs (%s): "
            "working on the CPU",
            error,
        )
        count = 0
    return [f"cuda:{index}" for index in range(count)] or ["cpu"]
