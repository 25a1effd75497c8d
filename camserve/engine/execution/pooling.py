"""Heads that begin with a mean over all positions, as those of most convolutional networks do.

The gradient in such features is the same at every position: that in their mean, divided by their
number. So it need not be computed, nor held, for each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["Pooling", "pooling_of"]

_ATEN = torch.ops.aten
_POOLS = (
    _ATEN.adaptive_avg_pool1d.default,
    _ATEN.adaptive_avg_pool2d.default,
    _ATEN.adaptive_avg_pool3d.default,
)


@dataclass(frozen=True)
class Pooling:
    """mean: features (N, C, *S) to their mean over S, by the head's own operation; behind: the rest
    of the head, as a function of that mean and of what else the head gets."""

    mean: Callable[[Tensor], Tensor]
    behind: fx.GraphModule


def pooling_of(head: fx.GraphModule) -> Pooling | None:
    """None if the head does anything else with its features, the first of its inputs."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(head.graph, {}))
    features = next(node for node in graph.nodes if node.op == "placeholder")
    pools = [node for node in features.users if not _asks_for_batch(node)]
    if len(pools) != 1 or not _is_mean(pools[0], features.meta["val"].ndim):
        return None
    (pool,) = pools
    target, arguments, named = pool.target, pool.args[1:], pool.kwargs
    pool.replace_all_uses_with(features)
    graph.erase_node(pool)
    graph.lint()

    def mean(tensor: Tensor) -> Tensor:
        found: Tensor = target(tensor, *arguments, **named)
        return found

    return Pooling(mean, fx.GraphModule(head, graph, "BehindPooling"))


def _asks_for_batch(node: fx.Node) -> bool:
    return bool(node.target is _ATEN.sym_size.int and node.args[1] == 0)


def _is_mean(node: fx.Node, dimensions: int) -> bool:
    """Over all dimensions but the first two."""
    argument: Any = node.args[1] if len(node.args) > 1 else None
    if node.target in _POOLS:
        return all(size == 1 for size in argument)
    if node.target is not _ATEN.mean.dim or not isinstance(argument, list | tuple):
        return False
    return {n % dimensions for n in argument} == set(range(2, dimensions))
