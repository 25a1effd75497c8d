"""Whether an input's output depends on what else is in the batch."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from camserve.engine.exhaustion import is_out_of_memory
from camserve.engine.nested import output_tensor
from camserve.engine.recording import SEED, noise_like
from camserve.errors import one_line

__all__ = ["rows_are_independent"]

_log = logging.getLogger(__name__)

LARGEST_DIFFERENCE = 1e-3
"""Of the largest output. Kernels for other batch sizes round otherwise, by 1e-5 or so."""


def rows_are_independent(model: nn.Module, example: Tensor, labels: str) -> bool | None:
    """None if the model takes one input only (a program that was exported for a batch of 1).

    Not so where a layer normalises over the batch (a BatchNorm without running statistics): then
    strangers in a batch would change each other's maps.
    """
    batch = labels.index("B")
    generator = torch.Generator().manual_seed(SEED)
    mine, other = noise_like(example, generator), 3 * noise_like(example, generator) + 1
    devices = [example.device] if example.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        alone = output_tensor(model(mine.clone()))
        try:
            together = output_tensor(model(torch.cat([mine, other], batch)))
        except Exception as error:  # a program may object to another size in any way
            if is_out_of_memory(error):
                raise
            _log.info(
                "the model takes one input at a time: %s: %s", type(error).__name__, one_line(error)
            )
            return None
    if together.numel() != 2 * alone.numel():
        return None
    axis = next(
        (a for a, (n, m) in enumerate(zip(alone.shape, together.shape, strict=False)) if n != m), 0
    )
    difference = (together.narrow(axis, 0, alone.shape[axis]) - alone).abs().max()
    return bool(difference <= LARGEST_DIFFERENCE * alone.abs().max())
