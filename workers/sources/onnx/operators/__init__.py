"""ONNX's operators as functions of torch tensors: any opset, differentiable, any batch size.

One entry an operator: a function from the node, with its attributes, to the computation. Those
that are missing here and are made of others (`Attention`, `RMSNormalization`) come as what they
are made of: see `workers.sources.onnx.document`.
"""

from __future__ import annotations

from workers.sources.onnx.operators import (
    arrangement,
    convolution,
    creation,
    elementwise,
    indexing,
    matrices,
    normalization,
    pooling,
    recurrence,
    reduction,
    resizing,
)
from workers.sources.onnx.operators.node import SIZES, Compute, Maker, Node, NotTranslated

__all__ = ["OPERATORS", "SIZES", "Compute", "Maker", "Node", "NotTranslated"]

OPERATORS: dict[str, Maker] = {
    **arrangement.OPERATORS,
    **convolution.OPERATORS,
    **creation.OPERATORS,
    **elementwise.OPERATORS,
    **indexing.OPERATORS,
    **matrices.OPERATORS,
    **normalization.OPERATORS,
    **pooling.OPERATORS,
    **recurrence.OPERATORS,
    **reduction.OPERATORS,
    **resizing.OPERATORS,
}
