"""What hangs on a model: nothing may, once the engine is done."""

from __future__ import annotations

from torch import nn

__all__ = ["hooks"]


def hooks(model: nn.Module) -> int:
    """How many of them, in all modules together."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
