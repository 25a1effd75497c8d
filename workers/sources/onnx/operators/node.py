"""What an operator is given: a node of the graph, as plain Python values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["SIZES", "Compute", "Maker", "Node", "NotTranslated", "always", "integers"]

Compute = Callable[..., Any]
"""Of the inputs' tensors (None for one that is left out); gives a tensor, or one per output."""


class NotTranslated(ValueError):
    """A use of an operator that camserve cannot compute; the text says which."""


@dataclass(frozen=True)
class Node:
    """One operator of the graph. `opset`: the version of ONNX's operators that it follows."""

    op: str
    opset: int
    name: str
    attributes: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def get(self, attribute: str, default: Any = None) -> Any:
        return self.attributes.get(attribute, default)


Maker = Callable[[Node], Compute]

SIZES = frozenset(
    {
        "ConstantOfShape", "CumSum", "Expand", "OneHot", "Pad", "Range", "ReduceL1", "ReduceL2",
        "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
        "ReduceSum", "ReduceSumSquare", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Tile",
        "TopK", "Trilu", "Unsqueeze", "Upsample",
    }
)  # fmt: skip
"""Operators whose inputs after the first say sizes and axes. They stay on the CPU, where they are
read without waiting for the device."""


def always(compute: Compute) -> Maker:
    """An operator without attributes."""
    return lambda _node: compute


def integers(value: Tensor | list[int] | None) -> list[int] | None:
    """An attribute (a list) or an input (a tensor) of whole numbers."""
    if isinstance(value, Tensor):
        return [int(number) for number in value.reshape(-1).tolist()]
    return value
