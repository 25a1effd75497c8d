"""Matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from workers.sources.onnx.operators.node import Compute, Maker, Node, always

__all__ = ["OPERATORS"]


def _gemm(node: Node) -> Compute:
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    left, right = bool(node.get("transA", 0)), bool(node.get("transB", 0))

    def gemm(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = a.T if left else a, b.T if right else b
        if c is None:
            return a @ b if alpha == 1 else alpha * (a @ b)
        return torch.addmm(c, a, b, beta=beta, alpha=alpha)

    return gemm


def _einsum(node: Node) -> Compute:
    equation = node.get("equation")
    return lambda *operands: torch.einsum(equation, *operands)


OPERATORS: dict[str, Maker] = {
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": always(torch.matmul),
}
