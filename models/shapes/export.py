"""Write the trained network as a `torch.export` program: data, not code.

The file names layers and operators and nothing of the machine that made it. Stack traces, which
hold the paths of source files, and the example input, a pickle, are left out. Module names stay,
so that hooks fire on `stem` ... `head` after `torch.export.unflatten`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from models.shapes.scenes import SIZE

LARGEST_BATCH: Final = 1024

_METADATA_TO_KEEP: Final = {"val", "nn_module_stack", "torch_fn"}
"""What a program needs to load and unflatten; the rest tells how it was traced."""


def program(network: nn.Module) -> ExportedProgram:
    """(B, 3, 128, 128) float32 to (B, classes) logits, for B in 1..1024, without gradients."""
    network = network.eval().requires_grad_(requires_grad=False)
    batch = Dim("batch", min=1, max=LARGEST_BATCH)
    # Batch 2: a traced size of 1 would be taken for a constant.
    exported = torch.export.export(
        network, (torch.zeros(2, 3, SIZE, SIZE),), dynamic_shapes=({0: batch},), strict=False
    )
    for module in exported.graph_module.modules():
        if isinstance(module, GraphModule):
            for node in module.graph.nodes:
                node.meta = {k: v for k, v in node.meta.items() if k in _METADATA_TO_KEEP}
    exported.example_inputs = None
    return exported


def save(network: nn.Module, path: Path) -> None:
    """Write the network to `path`, which ends in `.pt2`."""
    torch.export.save(program(network), path)
